//! The driver's side: guest memory that refuses what is not there, rings written by hand, registers driven as a driver
//! drives them.

use std::cell::{Cell, RefCell};

use portunus_virtio::block::BlockDevice;
use portunus_virtio::chain::Chain;
use portunus_virtio::disk::{Completion, Disk, DiskError, Gather, RamDisk, StartError, Tag, disk_id};
use portunus_virtio::feature::RingFeature;
use portunus_virtio::memory::{GuestAddress, GuestMemory, MemoryError};
use portunus_virtio::mmio::{MmioDevice, register as r, status};

/// The guest's RAM starts here: address 0 is none.
pub(crate) const RAM: u64 = 0x4000_0000;
pub(crate) const RAM_SIZE: usize = 8 << 20;

/// RAM of a guest. Counts how often it was asked for what is not RAM.
pub(crate) struct Ram {
    bytes: RefCell<Vec<u8>>,
    pub(crate) refused: Cell<usize>,
}

impl Ram {
    pub(crate) fn new() -> Self {
        Self {
            bytes: RefCell::new(vec![0; RAM_SIZE]),
            refused: Cell::new(0),
        }
    }
    fn range(&self, at: GuestAddress, length: usize) -> Result<std::ops::Range<usize>, MemoryError> {
        let start =
            at.0.checked_sub(RAM)
                .filter(|start| start + length as u64 <= RAM_SIZE as u64);
        start
            .map(|start| start as usize..start as usize + length)
            .ok_or_else(|| {
                self.refused.set(self.refused.get() + 1);
                MemoryError(at)
            })
    }
    pub(crate) fn put(&self, at: u64, bytes: &[u8]) {
        self.write(GuestAddress(at), bytes).expect("the test writes RAM");
    }
    pub(crate) fn get(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.read(GuestAddress(at), &mut bytes).expect("the test reads RAM");
        bytes
    }
    pub(crate) fn u16(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.get(at, 2).try_into().unwrap())
    }
    pub(crate) fn put_u16(&self, at: u64, value: u16) {
        self.put(at, &value.to_le_bytes());
    }
}

impl GuestMemory for Ram {
    fn read(&self, at: GuestAddress, into: &mut [u8]) -> Result<(), MemoryError> {
        let range = self.range(at, into.len())?;
        into.copy_from_slice(&self.bytes.borrow()[range]);
        Ok(())
    }
    fn write(&self, at: GuestAddress, from: &[u8]) -> Result<(), MemoryError> {
        let range = self.range(at, from.len())?;
        self.bytes.borrow_mut()[range].copy_from_slice(from);
        Ok(())
    }
    fn load_acquire_u16(&self, at: GuestAddress) -> Result<u16, MemoryError> {
        assert_eq!(at.0 % 2, 0, "words are aligned");
        let mut bytes = [0; 2];
        self.read(at, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }
    fn store_release_u16(&self, at: GuestAddress, value: u16) -> Result<(), MemoryError> {
        assert_eq!(at.0 % 2, 0, "words are aligned");
        self.write(at, &value.to_le_bytes())
    }
}

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// A descriptor as the driver writes it.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Desc {
    pub(crate) address: u64,
    pub(crate) length: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

impl Desc {
    pub(crate) fn bytes(self) -> [u8; 16] {
        let raw = u128::from(self.address)
            | u128::from(self.length) << 64
            | u128::from(self.flags) << 96
            | u128::from(self.next) << 112;
        raw.to_le_bytes()
    }
}

/// Addresses of one queue's rings.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Rings {
    pub(crate) descriptors: u64,
    pub(crate) driver: u64,
    pub(crate) device: u64,
    pub(crate) size: u16,
}

impl Rings {
    pub(crate) fn at(base: u64, size: u16) -> Self {
        Self {
            descriptors: base,
            driver: base + 0x2000,
            device: base + 0x3000,
            size,
        }
    }
    pub(crate) fn put(&self, ram: &Ram, index: u16, descriptor: Desc) {
        ram.put(self.descriptors + 16 * u64::from(index), &descriptor.bytes());
    }
    /// Makes `head` available.
    pub(crate) fn offer(&self, ram: &Ram, head: u16) {
        let index = self.available(ram);
        ram.put_u16(self.driver + 4 + 2 * u64::from(index % self.size), head);
        ram.put_u16(self.driver + 2, index.wrapping_add(1));
    }
    pub(crate) fn available(&self, ram: &Ram) -> u16 {
        ram.u16(self.driver + 2)
    }
    pub(crate) fn used(&self, ram: &Ram) -> u16 {
        ram.u16(self.device + 2)
    }
    /// Used element `index`: head and written length.
    pub(crate) fn used_element(&self, ram: &Ram, index: u16) -> (u32, u32) {
        let bytes = ram.get(self.device + 4 + 8 * u64::from(index % self.size), 8);
        (
            u32::from_le_bytes(bytes[..4].try_into().unwrap()),
            u32::from_le_bytes(bytes[4..].try_into().unwrap()),
        )
    }
    pub(crate) fn set_used_event(&self, ram: &Ram, value: u16) {
        ram.put_u16(self.driver + 4 + 2 * u64::from(self.size), value);
    }
    pub(crate) fn avail_event(&self, ram: &Ram) -> u16 {
        ram.u16(self.device + 4 + 8 * u64::from(self.size))
    }
}

pub(crate) type Device<D> = MmioDevice<BlockDevice<D, Chain>>;

pub(crate) fn read32<D: Disk>(device: &mut Device<D>, offset: u64) -> u32 {
    device.read(offset, 4) as u32
}
pub(crate) fn write32<D: Disk>(device: &mut Device<D>, offset: u64, value: u32) {
    device.write(offset, 4, value.into());
}

pub(crate) fn offered<D: Disk>(device: &mut Device<D>) -> u64 {
    write32(device, r::DEVICE_FEATURES_SEL, 0);
    let low = u64::from(read32(device, r::DEVICE_FEATURES));
    write32(device, r::DEVICE_FEATURES_SEL, 1);
    low | u64::from(read32(device, r::DEVICE_FEATURES)) << 32
}

/// Up to FEATURES_OK; returns Status.
pub(crate) fn negotiate<D: Disk>(device: &mut Device<D>, features: u64) -> u32 {
    write32(device, r::STATUS, 0);
    write32(device, r::STATUS, status::ACKNOWLEDGE);
    write32(device, r::STATUS, status::ACKNOWLEDGE | status::DRIVER);
    for half in 0..2 {
        write32(device, r::DRIVER_FEATURES_SEL, half);
        write32(device, r::DRIVER_FEATURES, (features >> (32 * half)) as u32);
    }
    write32(
        device,
        r::STATUS,
        status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK,
    );
    read32(device, r::STATUS)
}

pub(crate) fn set_up_queue<D: Disk>(device: &mut Device<D>, ram: &Ram, queue: u32, rings: Rings) {
    let size = u64::from(rings.size);
    for (at, length) in [
        (rings.descriptors, 16 * size),
        (rings.driver, 6 + 2 * size),
        (rings.device, 6 + 8 * size),
    ] {
        ram.put(at, &vec![0; length as usize]);
    }
    write32(device, r::QUEUE_SEL, queue);
    write32(device, r::QUEUE_NUM, rings.size.into());
    for (low, value) in [
        (r::QUEUE_DESC_LOW, rings.descriptors),
        (r::QUEUE_DRIVER_LOW, rings.driver),
        (r::QUEUE_DEVICE_LOW, rings.device),
    ] {
        write32(device, low, value as u32);
        write32(device, low + 4, (value >> 32) as u32);
    }
    write32(device, r::QUEUE_READY, 1);
}

pub(crate) const ALL_DRIVER_FEATURES: u64 = RingFeature::VERSION_1.bits()
    | RingFeature::INDIRECT_DESC.bits()
    | RingFeature::EVENT_IDX.bits()
    | RingFeature::ACCESS_PLATFORM.bits();

/// A driver with one device and rings at the start of RAM.
pub(crate) struct Driver<D> {
    pub(crate) ram: Ram,
    pub(crate) device: Device<D>,
    pub(crate) rings: Vec<Rings>,
}

pub(crate) const QUEUE_SIZE: u16 = 64;
/// Free for requests.
pub(crate) const SCRATCH: u64 = RAM + 0x10_0000;

impl<D: Disk> Driver<D> {
    /// A device over `disk` that is up and running with VERSION_1 and what it has of `features`.
    pub(crate) fn start(disk: D, queues: u16, features: u64) -> Self {
        Self::bring_up(MmioDevice::new(BlockDevice::new(disk, queues)), queues, features)
    }
    /// As [`Self::start`], with a device that exists.
    pub(crate) fn bring_up(mut device: Device<D>, queues: u16, features: u64) -> Self {
        let ram = Ram::new();
        let wanted = features & offered(&mut device) | RingFeature::VERSION_1.bits();
        assert_ne!(
            negotiate(&mut device, wanted) & status::FEATURES_OK,
            0,
            "features {wanted:#x}"
        );
        let rings: Vec<_> = (0..u64::from(queues))
            .map(|n| Rings::at(RAM + n * 0x1_0000, QUEUE_SIZE))
            .collect();
        for (index, rings) in rings.iter().enumerate() {
            set_up_queue(&mut device, &ram, index as u32, *rings);
        }
        let up = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;
        write32(&mut device, r::STATUS, up);
        Self { ram, device, rings }
    }
    pub(crate) fn notify(&mut self, queue: u32) {
        write32(&mut self.device, r::QUEUE_NOTIFY, queue);
    }
    /// Lets the device work until it gets no further.
    pub(crate) fn work(&mut self) {
        for _ in 0..10_000 {
            if !(self.device.has_work() && self.device.process(&self.ram)) {
                return;
            }
        }
        panic!("the device never rests");
    }
    pub(crate) fn status(&mut self) -> u32 {
        read32(&mut self.device, r::STATUS)
    }
    pub(crate) fn needs_reset(&mut self) -> bool {
        self.status() & status::DEVICE_NEEDS_RESET != 0
    }

    /// Writes a chain of buffers from descriptor `first` on, offers it and rings.
    pub(crate) fn submit(&mut self, queue: usize, first: u16, buffers: &[(u64, u32, bool)]) {
        let rings = self.rings[queue];
        for (index, &(address, length, writable)) in buffers.iter().enumerate() {
            let last = index + 1 == buffers.len();
            let flags = if last { 0 } else { NEXT } | if writable { WRITE } else { 0 };
            let number = first + index as u16;
            rings.put(
                &self.ram,
                number,
                Desc {
                    address,
                    length,
                    flags,
                    next: number + 1,
                },
            );
        }
        rings.offer(&self.ram, first);
        self.notify(queue as u32);
    }

    /// One request with its header at SCRATCH and its status at SCRATCH + 16: the status and the used length.
    pub(crate) fn request(&mut self, kind: u32, sector: u64, data: &[(u64, u32, bool)]) -> (u8, u32) {
        let header = u128::from(kind) | u128::from(sector) << 64;
        self.ram.put(SCRATCH, &header.to_le_bytes());
        self.ram.put(SCRATCH + 16, &[0xff]);
        let mut buffers = vec![(SCRATCH, 16, false)];
        buffers.extend_from_slice(data);
        buffers.push((SCRATCH + 16, 1, true));
        let before = self.rings[0].used(&self.ram);
        self.submit(0, 0, &buffers);
        self.work();
        assert_eq!(
            self.rings[0].used(&self.ram),
            before.wrapping_add(1),
            "the request was answered"
        );
        let (head, written) = self.rings[0].used_element(&self.ram, before);
        assert_eq!(head, 0);
        (self.ram.get(SCRATCH + 16, 1)[0], written)
    }
}

pub(crate) type VecDisk = RamDisk<Vec<u8>>;

/// Sector n is filled with the byte n.
pub(crate) fn numbered_disk(sectors: usize) -> VecDisk {
    let contents = (0..sectors * 512).map(|offset| (offset / 512) as u8).collect();
    RamDisk::new(contents, disk_id("numbered"))
}

/// A disk whose requests end when the test says so, in the order that it says.
pub(crate) struct SlowDisk {
    pub(crate) inner: VecDisk,
    pub(crate) read_only: bool,
    pub(crate) max_transfer: u32,
    pub(crate) at_once: usize,
    pub(crate) log: Vec<String>,
    pub(crate) waiting: Vec<(Tag, Result<Vec<u8>, DiskError>)>,
    pub(crate) ended: Vec<(Tag, Result<Vec<u8>, DiskError>)>,
    pub(crate) fail_next: bool,
}

impl SlowDisk {
    pub(crate) fn new(sectors: usize) -> Self {
        Self {
            inner: numbered_disk(sectors),
            read_only: false,
            max_transfer: 4096,
            at_once: 4,
            log: Vec::new(),
            waiting: Vec::new(),
            ended: Vec::new(),
            fail_next: false,
        }
    }
    fn start(&mut self, tag: Tag, what: String) -> Result<(), StartError> {
        if self.waiting.len() + self.ended.len() >= self.at_once {
            return Err(StartError::Busy);
        }
        self.log.push(what);
        let result = if std::mem::take(&mut self.fail_next) {
            Err(DiskError)
        } else {
            Ok(Vec::new())
        };
        self.waiting.push((tag, result));
        Ok(())
    }
    /// Ends all that waits, last first.
    pub(crate) fn end_all(&mut self) {
        while let Some(one) = self.waiting.pop() {
            self.ended.insert(0, one);
        }
    }
}

/// A [`SlowDisk`] that the test can still reach.
pub(crate) struct Slow<'a> {
    disk: &'a RefCell<SlowDisk>,
    last: Vec<u8>,
}

impl<'a> Slow<'a> {
    pub(crate) fn new(disk: &'a RefCell<SlowDisk>) -> Self {
        Self { disk, last: Vec::new() }
    }
}

impl Disk for Slow<'_> {
    fn sectors(&self) -> u64 {
        self.disk.borrow().inner.sectors()
    }
    fn is_read_only(&self) -> bool {
        self.disk.borrow().read_only
    }
    fn id(&self) -> [u8; 20] {
        disk_id("slow")
    }
    fn max_transfer(&self) -> u32 {
        self.disk.borrow().max_transfer
    }
    fn read(&mut self, tag: Tag, sector: u64, length: u32) -> Result<(), StartError> {
        let mut disk = self.disk.borrow_mut();
        disk.start(tag, format!("read {sector} {length}"))?;
        let bytes = disk.inner.contents()[sector as usize * 512..][..length as usize].to_vec();
        if let Some((_, Ok(data))) = disk.waiting.last_mut() {
            *data = bytes;
        }
        Ok(())
    }
    fn write(&mut self, tag: Tag, sector: u64, length: u32, gather: Gather<'_>) -> Result<(), StartError> {
        let mut disk = self.disk.borrow_mut();
        if disk.waiting.len() + disk.ended.len() >= disk.at_once {
            return Err(StartError::Busy);
        }
        disk.inner.write(tag, sector, length, gather)?;
        while disk.inner.poll().is_some() {}
        disk.start(tag, format!("write {sector} {length}"))
    }
    fn flush(&mut self, tag: Tag) -> Result<(), StartError> {
        self.disk.borrow_mut().start(tag, "flush".into())
    }
    fn poll(&mut self) -> Option<Completion<'_>> {
        let (tag, result) = self.disk.borrow_mut().ended.pop()?;
        let result = result.map(|bytes| {
            self.last = bytes;
            &*self.last
        });
        Some(Completion { tag, result })
    }
}
