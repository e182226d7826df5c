//! vCPU 1, which makes trouble beside vCPU 0.

use core::sync::atomic::{AtomicU8, Ordering};

use guest_runtime::events::Events;
use guest_runtime::{psci, smp};

use crate::devices;
use guest_runtime::random::Random;

/// What it does.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Task {
    /// Uses the devices of the treacherous backend.
    Devices = 0,
    /// Writes the words of the event channels, by exclusives and by plain stores.
    Hammer = 1,
}

static TASK: AtomicU8 = AtomicU8::new(Task::Devices as u8);

/// Gives it something else to do.
pub(crate) fn set(task: Task) {
    TASK.store(task as u8, Ordering::Relaxed);
}

/// Starts it.
pub(crate) fn start(events: &'static Events) {
    let started = smp::start(1, run, &raw const *events as u64);
    started.expect("vCPU 1 starts");
}

extern "C" fn run(events: u64) -> ! {
    // SAFETY: `start` gives the address of a value that stays.
    let events = unsafe { &*(events as *const Events) };
    let mut random = Random::new(1);
    let devices = devices::served();
    if devices.is_empty() {
        psci::cpu_off();
    }
    loop {
        if TASK.load(Ordering::Relaxed) == Task::Hammer as u8 {
            for word in events.words() {
                word.fetch_xor(random.next(), Ordering::SeqCst);
                word.store(0, Ordering::Relaxed);
            }
        } else {
            let device = &devices[random.below(devices.len() as u64) as usize];
            devices::poke(device, 0, &mut random);
        }
    }
}
