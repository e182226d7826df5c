//! The heap that boot uses: a reserved part of the Image. Nothing allocates once guests run, except a hypercall that
//! maps or grows something.

use crate::layout;
use buddy_system_allocator::Heap;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{NonNull, null_mut};
use portunus::sync::Mutex;

/// log2 of the largest block, and one more.
const ORDERS: usize = 25;

struct BootHeap(Mutex<Heap<ORDERS>>);

#[global_allocator]
static HEAP: BootHeap = BootHeap(Mutex::new(Heap::empty()));

// SAFETY: the buddy allocator returns distinct, aligned blocks of the range that `init` gave it, under its lock.
unsafe impl GlobalAlloc for BootHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().alloc(layout).map_or(null_mut(), NonNull::as_ptr)
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = NonNull::new(block) {
            // SAFETY: the caller got `block` from `alloc` with this layout.
            unsafe { self.0.lock().dealloc(block, layout) }
        }
    }
}

/// Gives the heap its memory. Called once, by the boot pCPU, with stage 1 on.
pub(crate) fn init() {
    let (start, end) = (layout::heap_start(), layout::heap_end());
    // SAFETY: the linker script reserves these bytes for the heap alone.
    unsafe { HEAP.0.lock().init(start, end - start) }
}

/// Bytes in use and in all.
pub(crate) fn usage() -> (usize, usize) {
    let heap = HEAP.0.lock();
    (heap.stats_alloc_actual(), heap.stats_total_bytes())
}
