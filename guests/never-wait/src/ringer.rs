//! A guest that rings without end once an event has come, until another one comes.

use guest_runtime::events::Events;
use guest_runtime::gic::Gic;
use guest_runtime::mmio::Registers;
use guest_runtime::{let_others_run, println, virtio, wait_for_interrupt};

use crate::device::{BELL, of_vcpu};

/// Rings between two looks at events.
const ROUND: u32 = 100;

pub(crate) fn run() {
    let gic = Gic::init();
    let events = Events::init().expect("the manifest gives this domain event channels");
    gic.enable(events.upcall, false);
    let mut base = None;
    virtio::each_mmio(|registers, _| base = Some(registers.start));
    // SAFETY: the device tree names device registers there.
    let registers = unsafe { Registers::new(base.expect("the manifest gives this domain a device") as usize) };
    let wait = || {
        while !events.is_pending() {
            wait_for_interrupt();
        }
        events.take(|_| {});
        while let Some(acknowledged) = gic.acknowledge() {
            gic.end(acknowledged);
        }
    };
    println!("ringer: hello");
    // The manifest's channel begins with an event for one of its ends, which may be this one: the writer sends until it
    // sees rings.
    wait();
    let mut rings = 0_u64;
    while !events.is_pending() {
        for _ in 0..ROUND {
            registers.write(of_vcpu(BELL, 0) as usize, 1);
        }
        rings += u64::from(ROUND);
        let_others_run();
    }
    println!("ringer: rang {rings} times");
}
