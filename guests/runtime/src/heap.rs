//! The heap: the largest piece of RAM that nothing else is in. It is not touched before something is allocated.

use core::alloc::{GlobalAlloc, Layout};
use core::ops::Range;

use buddy_system_allocator::LockedHeap;
use spin::Once;

use crate::{device_tree, entry};

struct Heap {
    blocks: LockedHeap<33>,
    filled: Once,
}

#[global_allocator]
static HEAP: Heap = Heap {
    blocks: LockedHeap::empty(),
    filled: Once::new(),
};

// SAFETY: the buddy allocator returns distinct, aligned blocks of the range that `fill` gave it, under its lock.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.filled.call_once(|| fill(&self.blocks));
        // SAFETY: the caller's promise.
        unsafe { self.blocks.alloc(layout) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.blocks.dealloc(block, layout) }
    }
}

/// More exclusions than any tree has that boots this.
const MAX_EXCLUDED: usize = 16;

fn fill(heap: &LockedHeap<33>) {
    let mut excluded: [Range<u64>; MAX_EXCLUDED] = core::array::from_fn(|_| 0..0);
    let mut count = 0;
    let mut exclude = |range: Range<u64>| {
        excluded[count] = range;
        count += 1;
    };
    exclude(entry::image());
    exclude(device_tree::extent());
    let tree = device_tree::device_tree();
    if let Some(chosen) = tree.find_node("/chosen") {
        let start = device_tree::property_u64(chosen, "linux,initrd-start");
        let end = device_tree::property_u64(chosen, "linux,initrd-end");
        if let (Some(start), Some(end)) = (start, end) {
            exclude(start..end);
        }
    }
    if let Some(reserved) = tree.find_node("/reserved-memory") {
        use dtoolkit::Node;
        for node in reserved.children() {
            if let Some(range) = device_tree::reg(node, 0) {
                exclude(range);
            }
        }
    }
    let excluded = &mut excluded[..count];
    excluded.sort_unstable_by_key(|range| range.start);

    let mut largest = 0..0;
    let mut consider = |start: u64, end: u64| {
        let (start, end) = (start.next_multiple_of(4096), end & !4095);
        if start < end && end - start > largest.end - largest.start {
            largest = start..end;
        }
    };
    device_tree::each_memory(|memory| {
        let mut start = memory.start;
        for hole in excluded
            .iter()
            .filter(|hole| hole.start < memory.end && hole.end > memory.start)
        {
            consider(start, hole.start.min(memory.end));
            start = start.max(hole.end);
        }
        consider(start, memory.end);
    });
    if !largest.is_empty() {
        // SAFETY: RAM that holds neither image, stack, device tree, ramdisk nor anything reserved; done once.
        unsafe { heap.lock().add_to_heap(largest.start as usize, largest.end as usize) };
    }
}
