//! A driver that gives its virtio disks addresses that they must not reach: beside a window, not granted, granted for
//! less or to another, beyond pages and beyond numbers, in every place of a request and of a queue, grants that end while
//! they are used, and pages that were given up after they were. Each must be refused by the backend, touch nothing, and be healed by a reset.
#![no_std]
#![no_main]

extern crate alloc;

mod abuses;
mod device;

use alloc::vec::Vec;

use guest_runtime::dma::Reach;
use guest_runtime::{device_tree, println, psci, virtio};

use device::Device;

guest_runtime::entry!(main);

pub(crate) fn fail(what: core::fmt::Arguments<'_>) -> ! {
    println!("rogue: FAILED: {what}");
    psci::system_off()
}

fn main() -> ! {
    let rounds = device_tree::boot_number("rounds").unwrap_or(1);
    let mut found = Vec::new();
    virtio::each_mmio_node(|registers, _, node| found.push((registers, Reach::of(node))));
    let mut devices: Vec<Device> = found
        .into_iter()
        .map(|(registers, reach)| Device::new(registers, reach))
        .collect();
    for round in 1..=rounds {
        for device in &mut devices {
            let refused = abuses::run(device, round);
            println!("rogue: {}: {refused} abuses refused", device.kind());
        }
    }
    println!("rogue: {} disks are whole", devices.len());
    psci::system_off()
}
