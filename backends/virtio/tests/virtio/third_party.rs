//! The unmodified `virtio-drivers` crate as the driver, over the same registers and rings.

use std::cell::RefCell;
use std::ptr::NonNull;
use std::rc::Rc;

use portunus_virtio::block::BlockDevice;
use portunus_virtio::chain::Chain;
use portunus_virtio::disk::{RamDisk, disk_id};
use portunus_virtio::memory::{GuestAddress, GuestMemory, MemoryError};
use portunus_virtio::mmio::{MmioDevice, register as r};
use virtio_drivers::device::blk::VirtIOBlk;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// This process's memory is the guest's.
pub(crate) struct OwnMemory;

impl GuestMemory for OwnMemory {
    fn read(&self, at: GuestAddress, into: &mut [u8]) -> Result<(), MemoryError> {
        // SAFETY: the driver gives addresses of live buffers and waits while the device works.
        unsafe { std::ptr::copy_nonoverlapping(at.0 as *const u8, into.as_mut_ptr(), into.len()) };
        Ok(())
    }
    fn write(&self, at: GuestAddress, from: &[u8]) -> Result<(), MemoryError> {
        // SAFETY: as for `read`.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), at.0 as *mut u8, from.len()) };
        Ok(())
    }
    fn load_acquire_u16(&self, at: GuestAddress) -> Result<u16, MemoryError> {
        let mut bytes = [0; 2];
        self.read(at, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }
    fn store_release_u16(&self, at: GuestAddress, value: u16) -> Result<(), MemoryError> {
        self.write(at, &value.to_le_bytes())
    }
}

pub(crate) struct HostHal;

// SAFETY: pages come zeroed and aligned from the allocator; the device uses this process's addresses.
unsafe impl Hal for HostHal {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let layout = std::alloc::Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE).unwrap();
        // SAFETY: no queue has zero pages.
        let memory = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).unwrap();
        (memory.as_ptr() as PhysAddr, memory)
    }
    unsafe fn dma_dealloc(_: PhysAddr, memory: NonNull<u8>, pages: usize) -> i32 {
        let layout = std::alloc::Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE).unwrap();
        // SAFETY: from `dma_alloc` with the same size.
        unsafe { std::alloc::dealloc(memory.as_ptr(), layout) };
        0
    }
    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(address as *mut u8).unwrap()
    }
    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.as_ptr().cast::<u8>() as PhysAddr
    }
    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

type Device = MmioDevice<BlockDevice<RamDisk<Vec<u8>>, Chain>>;

/// A device as its driver reaches it.
pub(crate) trait RegisterAccess {
    fn read(&mut self, offset: u64, size: u8) -> u64;
    fn write(&mut self, offset: u64, value: u32);
    /// Lets it work until it is idle.
    fn run(&mut self);
}

impl RegisterAccess for Device {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        self.read(offset, size)
    }
    fn write(&mut self, offset: u64, value: u32) {
        self.write(offset, 4, value.into());
    }
    fn run(&mut self) {
        while self.has_work() && self.process(&OwnMemory) {}
    }
}

/// Register accesses as virtio-mmio makes them; a notification runs the device.
pub(crate) struct Registers<D>(Rc<RefCell<D>>);

impl<D> Clone for Registers<D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<D: RegisterAccess> Registers<D> {
    pub(crate) fn over(device: D) -> Self {
        Self(Rc::new(RefCell::new(device)))
    }
    fn read(&self, offset: u64) -> u32 {
        self.0.borrow_mut().read(offset, 4) as u32
    }
    fn write(&self, offset: u64, value: u32) {
        self.0.borrow_mut().write(offset, value);
    }
}

impl<D: RegisterAccess> Transport for Registers<D> {
    fn device_type(&self) -> DeviceType {
        DeviceType::try_from(self.read(r::DEVICE_ID)).unwrap()
    }
    fn read_device_features(&mut self) -> u64 {
        self.write(r::DEVICE_FEATURES_SEL, 0);
        let low = u64::from(self.read(r::DEVICE_FEATURES));
        self.write(r::DEVICE_FEATURES_SEL, 1);
        low | u64::from(self.read(r::DEVICE_FEATURES)) << 32
    }
    fn write_driver_features(&mut self, features: u64) {
        for half in 0..2 {
            self.write(r::DRIVER_FEATURES_SEL, half);
            self.write(r::DRIVER_FEATURES, (features >> (32 * half)) as u32);
        }
    }
    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.write(r::QUEUE_SEL, queue.into());
        self.read(r::QUEUE_NUM_MAX)
    }
    fn notify(&mut self, queue: u16) {
        self.write(r::QUEUE_NOTIFY, queue.into());
        self.0.borrow_mut().run();
    }
    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_truncate(self.read(r::STATUS))
    }
    fn set_status(&mut self, status: DeviceStatus) {
        self.write(r::STATUS, status.bits());
    }
    fn set_guest_page_size(&mut self, _: u32) {}
    fn requires_legacy_layout(&self) -> bool {
        false
    }
    fn queue_set(&mut self, queue: u16, size: u32, descriptors: PhysAddr, driver: PhysAddr, device: PhysAddr) {
        self.write(r::QUEUE_SEL, queue.into());
        self.write(r::QUEUE_NUM, size);
        let rings = [
            (r::QUEUE_DESC_LOW, descriptors),
            (r::QUEUE_DRIVER_LOW, driver),
            (r::QUEUE_DEVICE_LOW, device),
        ];
        for (register, address) in rings {
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
        self.write(r::QUEUE_READY, 1);
    }
    fn queue_unset(&mut self, queue: u16) {
        self.write(r::QUEUE_SEL, queue.into());
        self.write(r::QUEUE_READY, 0);
    }
    fn queue_used(&mut self, queue: u16) -> bool {
        self.write(r::QUEUE_SEL, queue.into());
        self.read(r::QUEUE_READY) != 0
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        let status = self.read(r::INTERRUPT_STATUS);
        self.write(r::INTERRUPT_ACK, status);
        InterruptStatus::from_bits_truncate(status)
    }
    fn read_config_generation(&self) -> u32 {
        self.read(r::CONFIG_GENERATION)
    }
    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> virtio_drivers::Result<T> {
        let raw = self
            .0
            .borrow_mut()
            .read(r::CONFIG + offset as u64, size_of::<T>() as u8);
        Ok(T::read_from_bytes(&raw.to_le_bytes()[..size_of::<T>()]).unwrap())
    }
    fn write_config_space<T: IntoBytes + Immutable>(&mut self, _: usize, _: T) -> virtio_drivers::Result<()> {
        Err(virtio_drivers::Error::Unsupported)
    }
}

#[test]
fn virtio_drivers_reads_writes_flushes_and_identifies() {
    let contents: Vec<u8> = (0..64 * 512).map(|offset| (offset / 512) as u8).collect();
    let block = BlockDevice::new(RamDisk::new(contents, disk_id("disk0")), 1);
    let registers = Registers::over(MmioDevice::new(block));
    let mut disk = VirtIOBlk::<HostHal, _>::new(registers.clone()).unwrap();
    assert_eq!(disk.capacity(), 64);
    assert!(!disk.readonly());

    let mut id = [0; 20];
    let length = disk.device_id(&mut id).unwrap();
    assert_eq!(&id[..length], b"disk0");

    let mut buffer = vec![0; 32 * 512];
    disk.read_blocks(16, &mut buffer).unwrap();
    assert!(
        buffer
            .iter()
            .enumerate()
            .all(|(offset, byte)| *byte as usize == 16 + offset / 512)
    );
    for turn in 0..100_u8 {
        let written = vec![turn; 1024];
        disk.write_blocks(usize::from(turn % 60), &written).unwrap();
        let mut read = vec![0; 1024];
        disk.read_blocks(usize::from(turn % 60), &mut read).unwrap();
        assert_eq!(read, written);
    }
    disk.flush().unwrap();
    assert!(disk.read_blocks(64, &mut [0; 512]).is_err(), "past the end");
    assert!(disk.ack_interrupt().contains(InterruptStatus::QUEUE_INTERRUPT));
    drop(disk);
    assert_eq!(registers.read(r::QUEUE_READY), 0);
}
