//! The serving loop over a hypervisor that is a list.

use std::collections::VecDeque;

use portunus_virtio::block::BlockDevice;
use portunus_virtio::mmio::{MmioDevice, register as r};
use portunus_virtio::queue::QueueError;
use portunus_virtio::shim::{Access, GuestIndex, Operation, ServedDevice, Shim, serve};

use crate::simulator::{Ram, numbered_disk};

struct ListShim {
    ram: Ram,
    accesses: VecDeque<Access>,
    answers: Vec<u64>,
    interrupts: Vec<(GuestIndex, u32)>,
    faults: Vec<(GuestIndex, u64)>,
}

impl Shim for ListShim {
    type Memory = Ram;
    type Token = ();

    fn memory(&self, _: GuestIndex) -> &Ram {
        &self.ram
    }
    fn next_access(&mut self) -> Option<(Access, ())> {
        self.accesses.pop_front().map(|access| (access, ()))
    }
    fn answer(&mut self, (): (), value: u64) {
        self.answers.push(value);
    }
    fn raise_interrupt(&mut self, guest: GuestIndex, intid: u32) {
        self.interrupts.push((guest, intid));
    }
    fn report_fault(&mut self, guest: GuestIndex, base: u64, _: QueueError) {
        self.faults.push((guest, base));
    }
}

#[test]
fn accesses_go_to_the_device_of_their_guest() {
    let device = |guest, base, intid, sectors| ServedDevice {
        guest: GuestIndex(guest),
        base,
        intid,
        device: MmioDevice::new(BlockDevice::new(numbered_disk(sectors), 1)),
    };
    let mut devices = [
        device(0, 0x200_0000, 33, 10),
        device(0, 0x200_0200, 34, 20),
        device(1, 0x200_0000, 33, 30),
    ];
    let read = |guest, address, size| Access {
        guest: GuestIndex(guest),
        address,
        size,
        operation: Operation::Read,
    };
    let write = |guest, address, value| Access {
        guest: GuestIndex(guest),
        address,
        size: 4,
        operation: Operation::Write(value),
    };
    let mut shim = ListShim {
        ram: Ram::new(),
        accesses: VecDeque::from([
            read(0, 0x200_0100, 4),
            read(0, 0x200_0300, 4),
            read(1, 0x200_0100, 4),
            read(1, 0x200_0300, 4),
            read(0, 0x200_01fe, 4),
            read(0, 0x1ff_ffff, 1),
            write(1, 0x200_0000 + r::STATUS, 1),
            read(1, 0x200_0000 + r::STATUS, 4),
            read(0, 0x200_0000 + r::STATUS, 4),
            // A queue of three entries.
            write(0, 0x200_0200 + r::QUEUE_NUM, 3),
            write(0, 0x200_0200 + r::QUEUE_READY, 1),
        ]),
        answers: Vec::new(),
        interrupts: Vec::new(),
        faults: Vec::new(),
    };
    assert!(serve(&mut shim, &mut devices));
    let ones = u64::MAX;
    assert_eq!(shim.answers, [10, 20, 30, ones, ones, ones, ones, 1, 0, ones, ones]);
    assert_eq!(shim.faults, [(GuestIndex(0), 0x200_0200)]);
    assert_eq!(shim.interrupts, [], "before DRIVER_OK the driver finds out by Status");
    assert!(!serve(&mut shim, &mut devices), "then there is nothing to do");
}
