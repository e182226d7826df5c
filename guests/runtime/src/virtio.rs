//! What the `virtio-drivers` crate asks of its host.

use core::ops::Range;
use core::ptr::NonNull;

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use dtoolkit::fdt::FdtNode;
use virtio_drivers::{BufferDirection, PAGE_SIZE, PhysAddr};

pub use virtio_drivers::Hal;

use crate::device_tree::{self, Interrupt};

/// Memory for devices in a guest whose virtual addresses are what its devices use: the heap, and buffers as they are.
///
/// Right for an emulated device (guest-physical addresses) and for a passed-through one in a direct-mapped domain.
#[derive(Debug)]
pub struct IdentityHal;

fn layout(pages: usize) -> Layout {
    Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE).expect("a queue is not that large")
}

// SAFETY: pages come zeroed and aligned from the global allocator; virtual, guest-physical and device addresses are equal.
unsafe impl Hal for IdentityHal {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // SAFETY: no queue has zero pages.
        let memory = unsafe { alloc_zeroed(layout(pages)) };
        let memory = NonNull::new(memory).expect("no memory for a queue");
        (memory.as_ptr() as PhysAddr, memory)
    }
    unsafe fn dma_dealloc(_: PhysAddr, memory: NonNull<u8>, pages: usize) -> i32 {
        // SAFETY: the caller got it from `dma_alloc` with this number of pages.
        unsafe { dealloc(memory.as_ptr(), layout(pages)) };
        0
    }
    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(address as *mut u8).expect("no registers at address 0")
    }
    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.as_ptr().cast::<u8>() as PhysAddr
    }
    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// Calls `visit` with registers and interrupt of every virtio-mmio node of the device tree.
pub fn each_mmio(mut visit: impl FnMut(Range<u64>, Interrupt)) {
    each_mmio_node(|registers, interrupt, _| visit(registers, interrupt));
}

/// As [`each_mmio`], and with the node.
pub fn each_mmio_node(mut visit: impl FnMut(Range<u64>, Interrupt, FdtNode<'static>)) {
    device_tree::each_compatible("virtio,mmio", |node| {
        if let (Some(registers), Some(interrupt)) = (device_tree::reg(node, 0), device_tree::interrupt(node, 0)) {
            visit(registers, interrupt, node);
        }
    });
}
