//! The domains that things are done to.

use guest_mortal::{ALIVE, LIFE};
use guest_runtime::gic::Gic;
use guest_runtime::mmio::Registers;
use guest_runtime::{device_tree, hypercall, println, psci, timer};

/// How often the ticker ticks, in microseconds.
pub(crate) const TICK: u64 = 50_000;
/// A pause between ticks that is worth a line.
const AWAY: u64 = 4 * TICK;
/// How often the watcher looks, in microseconds.
pub(crate) const WATCH: u64 = 20_000;
/// How late it may be.
const LATE: u64 = 1_000_000;
/// Its end of the static channel to the ticker.
const PORT: u32 = 1;

fn microseconds_since(began: u64) -> u64 {
    let ticks = timer::now().saturating_sub(began);
    (u128::from(ticks) * 1_000_000 / u128::from(timer::frequency())) as u64
}

pub(crate) fn ticker() -> ! {
    let gic = Gic::init();
    let chosen = device_tree::device_tree().find_node("/chosen");
    let restarts = chosen.and_then(|node| device_tree::property_u32(node, "portunus,restarts"));
    println!("ticker: starts, restart {}", restarts.unwrap_or(0));
    let device = device_tree::find_compatible(&["virtio,mmio"]).and_then(|node| device_tree::reg(node, 0));
    let device = device.expect("the ticker has a device");
    // SAFETY: the device tree names a device there.
    let device = unsafe { Registers::new(device.start as usize) };
    let mut last = timer::now();
    for tick in 1.. {
        timer::sleep(&gic, TICK);
        let read = device.read(LIFE as usize);
        if read != ALIVE {
            println!("ticker: FAILED: its device gave {read:#x}");
        }
        let away = microseconds_since(last);
        last = timer::now();
        if away >= AWAY {
            println!("ticker: was away for {} ms, goes on with tick {tick}", away / 1000);
        }
    }
    psci::system_off()
}

pub(crate) fn watcher() -> ! {
    let gic = Gic::init();
    println!("watcher: hello");
    loop {
        let began = timer::now();
        timer::sleep(&gic, WATCH);
        let took = microseconds_since(began);
        if took > WATCH + LATE {
            println!("watcher: FAILED: woke {} ms late", (took - WATCH) / 1000);
        }
        // Nobody may be there: that is no error.
        if let Err(error) = hypercall::send(PORT) {
            println!("watcher: FAILED: sending: {error}");
        }
    }
}
