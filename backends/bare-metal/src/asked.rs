//! What this backend says when somebody types at its console: `c` prints counters, `t` tries what it may not do. After `d` it is
//! deaf to what it is told of its guests' maps, until `h`.

use guest_runtime::hypercall::memory::{map_foreign, remove};
use guest_runtime::{console, println};
use portunus::abi::hypercall::from_register;
use portunus_virtio::grants::AddressCounts;

use crate::Device;
use crate::config::{MemoryAccess, ServedConfig};
use crate::shim::XenShim;

const PAGE: u64 = 4096;
/// Where a guest's RAM begins in its own addresses.
const RAM: u64 = 0x4000_0000;

/// Answers what was typed. `spare` is the address of a page of the window that nothing else uses, if there is room.
pub(crate) fn answer(configs: &[ServedConfig], devices: &[Device], shim: &mut XenShim, spare: Option<u64>) {
    while let Some(byte) = console::read_byte() {
        match byte {
            b'c' => count(configs, devices, shim),
            b'd' => {
                shim.ignore_changes();
                println!("backend: does not hear that pages are gone");
            }
            b'h' => {
                shim.hear_changes();
                println!("backend: hears again");
            }
            b't' => spare
                .iter()
                .for_each(|spare| configs.iter().for_each(|config| try_mapping(config, *spare))),
            _ => {}
        }
    }
}

fn count(configs: &[ServedConfig], devices: &[Device], shim: &XenShim) {
    for (config, served) in configs.iter().zip(devices) {
        let AddressCounts { descriptors, granted } = served.device.addresses();
        let share = match granted {
            0 => "none by grant",
            _ if granted == descriptors => "all by grant",
            _ => "some by grant",
        };
        println!(
            "{} of \"{}\": {descriptors} descriptors, {share}; {}",
            config.name,
            config.guest_name,
            shim.device_memory(served.memory)
        );
    }
    println!("backend: told {} times that pages left a guest's map", shim.changes());
}

/// Maps pages that the manifest does not open: each is to be refused.
fn try_mapping(config: &ServedConfig, spare: u64) {
    let frames = match config.memory_access {
        MemoryAccess::All => return,
        MemoryAccess::Grants => [RAM / PAGE, RAM / PAGE + 1],
        MemoryAccess::Window => {
            let Some(window) = config.guest_memory.first() else {
                return;
            };
            [window.start / PAGE - 1, window.end / PAGE]
        }
    };
    for frame in frames {
        let mut errors = [0];
        // SAFETY: the page is spare.
        let result = unsafe { map_foreign(config.guest, &[frame], &[spare / PAGE], &mut errors) };
        let result = result.and_then(|()| from_register(i64::from(errors[0]) as u64));
        match result {
            Err(error) => println!("{}: frame {frame:#x} is refused: {error}", config.name),
            Ok(_) => {
                println!("{}: FAILED: frame {frame:#x} was mapped", config.name);
                // SAFETY: nothing uses it.
                let _ = unsafe { remove(spare / PAGE) };
            }
        }
    }
}
