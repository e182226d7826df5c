//! A driver of a block device, all of whose memory is granted.

use std::collections::VecDeque;

use portunus_virtio::accel::{NoAcceleration, View};
use portunus_virtio::block::BlockDevice;
use portunus_virtio::grants::{GrantMemory, PAGE_SIZE};
use portunus_virtio::mmio::{MmioDevice, REGION_SIZE, register as r, status};
use portunus_virtio::queue::QueueError;
use portunus_virtio::shim::{Access, GuestIndex, MemoryIndex, Operation, ServedDevice, Shim, serve};

use super::guest::{Guest, granted, memory};
use crate::simulator::{ALL_DRIVER_FEATURES, Desc, INDIRECT, NEXT, VecDisk, WRITE, negotiate, numbered_disk};

pub(super) const BASE: u64 = 0x200_0000;

/// A hypervisor with one guest that waits for every register access.
pub(super) struct GrantShim<'a> {
    pub(super) memory: GrantMemory<&'a Guest>,
    pub(super) accesses: VecDeque<Access>,
    /// How many rings were held when each was answered.
    pub(super) held: Vec<usize>,
    pub(super) faults: Vec<QueueError>,
}

impl<'a> Shim for GrantShim<'a> {
    type Memory = GrantMemory<&'a Guest>;
    type Token = ();
    type Acceleration = NoAcceleration;

    fn memory(&self, index: MemoryIndex) -> &Self::Memory {
        assert_eq!(index, MemoryIndex(3));
        &self.memory
    }
    fn next_access(&mut self) -> Option<(Access, ())> {
        self.accesses.pop_front().map(|access| (access, ()))
    }
    fn answer(&mut self, (): (), _: u64) {
        self.held.push(self.memory.held());
    }
    fn raise_interrupt(&mut self, _: GuestIndex, _: u32) {}
    fn report_fault(&mut self, _: GuestIndex, _: u64, fault: QueueError) {
        self.faults.push(fault);
    }
}

pub(super) type Device = ServedDevice<BlockDevice<VecDisk, portunus_virtio::chain::Chain>>;

/// A driver whose rings are pages 0 to 2 under references 20 to 22, and whose buffers are at reference 40 and above.
pub(super) struct Driver<'a> {
    pub(super) guest: &'a Guest,
    pub(super) shim: GrantShim<'a>,
    pub(super) devices: [Device; 1],
    pub(super) available: u16,
}

pub(super) const SIZE: u16 = 256;

pub(super) const RINGS: u32 = 20;

pub(super) const BUFFERS: u32 = 40;

impl<'a> Driver<'a> {
    pub(super) fn start(guest: &'a Guest) -> Self {
        let mut device = MmioDevice::new(BlockDevice::new(numbered_disk(2048), 1));
        assert_ne!(negotiate(&mut device, ALL_DRIVER_FEATURES) & status::FEATURES_OK, 0);
        let served = ServedDevice {
            guest: GuestIndex(0),
            memory: MemoryIndex(3),
            registers: BASE..BASE + REGION_SIZE,
            intid: 33,
            device,
            view: View::Asked,
        };
        let mut driver = Self {
            guest,
            shim: GrantShim {
                memory: memory(guest),
                accesses: VecDeque::new(),
                held: Vec::new(),
                faults: Vec::new(),
            },
            devices: [served],
            available: 0,
        };
        driver.set_up_queue();
        for reference in BUFFERS..BUFFERS + 100 {
            guest.grant(reference, reference as usize, false);
        }
        driver
    }
    pub(super) fn set_up_queue(&mut self) {
        for ring in 0..3 {
            self.guest.grant(RINGS + ring, ring as usize, false);
        }
        self.set_up_granted_queue();
    }
    pub(super) fn set_up_granted_queue(&mut self) {
        for ring in 0..3 {
            self.guest.put(ring, 0, &[0; PAGE_SIZE]);
        }
        self.available = 0;
        self.write(r::QUEUE_NUM, SIZE.into());
        for (register, reference) in [r::QUEUE_DESC_LOW, r::QUEUE_DRIVER_LOW, r::QUEUE_DEVICE_LOW]
            .into_iter()
            .zip(RINGS..)
        {
            let address = granted(reference, 0);
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
        self.write(r::QUEUE_READY, 1);
        self.write(r::STATUS, 0xf);
    }
    /// A register write, and all the work that follows.
    pub(super) fn write(&mut self, offset: u64, value: u32) {
        self.shim.accesses.push_back(Access {
            guest: GuestIndex(0),
            address: BASE + offset,
            size: 4,
            operation: Operation::Write(value.into()),
        });
        for _ in 0..10_000 {
            if !serve(&mut self.shim, &mut self.devices) {
                return;
            }
        }
        panic!("the device never rests");
    }
    pub(super) fn status(&self) -> u32 {
        self.devices[0].device.status()
    }
    pub(super) fn used(&self) -> u16 {
        u16::from_le_bytes(self.guest.get(2, 2, 2).try_into().unwrap())
    }
    pub(super) fn put_descriptors(&self, page: usize, descriptors: &[Desc]) {
        for (index, descriptor) in descriptors.iter().enumerate() {
            self.guest.put(page, 16 * index, &descriptor.bytes());
        }
    }
    /// Offers head 0 and rings.
    pub(super) fn offer(&mut self) {
        self.guest.put(1, 4 + 2 * usize::from(self.available % SIZE), &[0, 0]);
        self.available += 1;
        self.guest.put(1, 2, &self.available.to_le_bytes());
        self.write(r::QUEUE_NOTIFY, 0);
    }
    /// A read of `sectors` at sector 1 into the buffers' pages from [`BUFFERS`] + 1 on; header and status are at
    /// [`BUFFERS`]. Whether it was answered, and how.
    pub(super) fn read(&mut self, sectors: u32, indirect: bool) -> Option<u8> {
        let header = 1_u128 << 64;
        self.guest.put(BUFFERS as usize, 0, &header.to_le_bytes());
        self.guest.put(BUFFERS as usize, 16, &[0xff]);
        let desc = |address, length, flags, next| Desc {
            address,
            length,
            flags,
            next,
        };
        let descriptors = [
            desc(granted(BUFFERS, 0), 16, NEXT, 1),
            desc(granted(BUFFERS + 1, 0), sectors * 512, NEXT | WRITE, 2),
            desc(granted(BUFFERS, 16), 1, WRITE, 0),
        ];
        if indirect {
            let table = BUFFERS as usize + 99;
            self.put_descriptors(table, &descriptors);
            self.put_descriptors(0, &[desc(granted(BUFFERS + 99, 0), 48, INDIRECT, 0)]);
        } else {
            self.put_descriptors(0, &descriptors);
        }
        let before = self.used();
        self.offer();
        (self.used() != before).then(|| self.guest.get(BUFFERS as usize, 16, 1)[0])
    }
}
