//! How a guest's drivers make memory reachable for devices that may not reach all of it: by grants, or in a window.
//!
//! The drivers are those of the crate `virtio-drivers`, which ask their [`Hal`] for every buffer.

use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use dtoolkit::Node;
use dtoolkit::fdt::FdtNode;
use spin::mutex::SpinMutex;
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

use crate::device_tree;
use crate::granting;

const PAGE: u64 = PAGE_SIZE as u64;
/// Marks an address as a grant (Linux, drivers/xen/grant-dma-ops.c).
const GRANTED: u64 = 1 << 63;

/// What a device may reach of this guest's memory, as its node says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reach {
    /// All of it.
    All,
    /// What is granted to this domain.
    Grants(u16),
    /// This part of the RAM.
    Window(Range<u64>),
}

impl Reach {
    /// That of the device of `node`.
    pub fn of(node: FdtNode<'static>) -> Self {
        // One reference: what stands for grants, and the domain.
        if let Some(domain) = device_tree::cell(node, "iommus", 1) {
            return Self::Grants(domain as u16);
        }
        let phandle = device_tree::cell(node, "memory-region", 0);
        let reserved = device_tree::device_tree().find_node("/reserved-memory");
        let window = phandle.zip(reserved).and_then(|(phandle, reserved)| {
            let mut nodes = reserved.children();
            let node = nodes.find(|node| device_tree::property_u32(*node, "phandle") == Some(phandle))?;
            device_tree::reg(node, 0)
        });
        window.map_or(Self::All, Self::Window)
    }
}

/// Pages of a buffer, and the first one's frame.
fn pages(start: u64, length: usize) -> (u64, u32) {
    let end = start + length as u64;
    (start / PAGE, (end.div_ceil(PAGE) - start / PAGE) as u32)
}

fn layout(pages: usize) -> Layout {
    Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE).expect("a queue is not that large")
}

/// Grants each buffer to one domain, as Linux does where a device's node refers to `xen,grant-dma`.
#[derive(Debug)]
pub struct GrantHal;

static BACKEND: AtomicU16 = AtomicU16::new(0);

impl GrantHal {
    /// To whom. All devices that use it have the same backend.
    pub fn use_backend(domain: u16) {
        BACKEND.store(domain, Ordering::Relaxed);
    }
    fn grant(start: u64, length: usize, read_only: bool) -> PhysAddr {
        let (frame, pages) = pages(start, length);
        let first = granting::grant(BACKEND.load(Ordering::Relaxed), frame, pages, read_only);
        GRANTED + u64::from(first) * PAGE + start % PAGE
    }
    fn end(address: PhysAddr, length: usize) {
        let (first, pages) = pages(address & !GRANTED, length);
        assert!(granting::end(first as u32, pages), "a grant is still mapped");
    }
}

// SAFETY: pages come zeroed and aligned from the global allocator; virtual and guest-physical addresses are equal, and
// the device's are the grants of those pages.
unsafe impl Hal for GrantHal {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // SAFETY: no queue has zero pages.
        let memory = unsafe { alloc_zeroed(layout(pages)) };
        let memory = NonNull::new(memory).expect("no memory for a queue");
        (Self::grant(memory.as_ptr() as u64, pages * PAGE_SIZE, false), memory)
    }
    unsafe fn dma_dealloc(address: PhysAddr, memory: NonNull<u8>, pages: usize) -> i32 {
        Self::end(address, pages * PAGE_SIZE);
        // SAFETY: the caller got it from `dma_alloc` with this number of pages.
        unsafe { dealloc(memory.as_ptr(), layout(pages)) };
        0
    }
    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(address as *mut u8).expect("no registers at address 0")
    }
    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        let read_only = direction == BufferDirection::DriverToDevice;
        Self::grant(buffer.as_ptr().cast::<u8>() as u64, buffer.len(), read_only)
    }
    unsafe fn unshare(address: PhysAddr, buffer: NonNull<[u8]>, _: BufferDirection) {
        Self::end(address, buffer.len());
    }
}

/// Copies each buffer through a window, as Linux does where a device's node refers to a `restricted-dma-pool`.
#[derive(Debug)]
pub struct WindowHal;

/// Where the window is, and which of its first pages are taken.
static WINDOW: AtomicU64 = AtomicU64::new(0);
static TAKEN: SpinMutex<u64> = SpinMutex::new(0);

impl WindowHal {
    /// The window. All devices that use it share it; its first 64 pages are used.
    pub fn use_window(window: &Range<u64>) {
        assert!(window.end - window.start >= 64 * PAGE, "a window of less than 64 pages");
        WINDOW.store(window.start, Ordering::Relaxed);
    }
    fn take(length: usize) -> *mut u8 {
        let pages = length.div_ceil(PAGE_SIZE) as u32;
        let mask = (1_u64 << pages) - 1;
        let mut taken = TAKEN.lock();
        let place = (0..=64 - pages).find(|place| *taken & mask << place == 0);
        let place = place.expect("the window is full");
        *taken |= mask << place;
        (WINDOW.load(Ordering::Relaxed) + u64::from(place) * PAGE) as *mut u8
    }
    fn give_back(address: PhysAddr, length: usize) {
        let place = (address - WINDOW.load(Ordering::Relaxed)) / PAGE;
        let mask = (1_u64 << length.div_ceil(PAGE_SIZE)) - 1;
        *TAKEN.lock() &= !(mask << place);
    }
}

// SAFETY: pages of the window are given out once, zeroed and aligned; it is RAM that nothing else uses.
unsafe impl Hal for WindowHal {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let memory = Self::take(pages * PAGE_SIZE);
        // SAFETY: pages of the window that were taken just now.
        unsafe { memory.write_bytes(0, pages * PAGE_SIZE) };
        let memory = NonNull::new(memory).expect("RAM is not at address 0");
        (memory.as_ptr() as PhysAddr, memory)
    }
    unsafe fn dma_dealloc(address: PhysAddr, _: NonNull<u8>, pages: usize) -> i32 {
        Self::give_back(address, pages * PAGE_SIZE);
        0
    }
    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(address as *mut u8).expect("no registers at address 0")
    }
    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        let place = Self::take(buffer.len());
        if direction != BufferDirection::DeviceToDriver {
            // SAFETY: the caller's buffer, and as many pages of the window.
            unsafe { crate::copy::copy(place, buffer.as_ptr().cast(), buffer.len()) };
        }
        place as PhysAddr
    }
    unsafe fn unshare(address: PhysAddr, buffer: NonNull<[u8]>, direction: BufferDirection) {
        if direction != BufferDirection::DriverToDevice {
            // SAFETY: the caller's buffer, and the pages of the window that `share` took for it.
            unsafe { crate::copy::copy(buffer.as_ptr().cast(), address as *const u8, buffer.len()) };
        }
        Self::give_back(address, buffer.len());
    }
}
