//! Guest-physical addresses of this domain that are kept free for memory of others: the extended regions of
//! `/hypervisor`, mapped at EL1 as Normal memory once, filled by hypercalls.

use alloc::vec::Vec;
use core::ops::Range;

use guest_runtime::device_tree::{self, device_tree};
use guest_runtime::mmu::{self, Attribute};

/// Room is given out in this size, so that stage 2 can use blocks.
pub(crate) const CHUNK: u64 = 2 << 20;

/// The room that is left.
#[derive(Debug)]
pub(crate) struct Window {
    free: Vec<Range<u64>>,
}

impl Window {
    /// All extended regions; `None` if there is none.
    pub(crate) fn from_device_tree() -> Option<Self> {
        let node = device_tree().find_node("/hypervisor")?;
        // Entry 0 is the grant-table window.
        let regions = (1..).map_while(|index| device_tree::reg(node, index));
        let free: Vec<_> = regions.collect();
        for region in &free {
            // SAFETY: nothing of this domain lies in an extended region; what is mapped there is others' RAM.
            unsafe { mmu::map(region.clone(), Attribute::Normal) };
        }
        (!free.is_empty()).then_some(Self { free })
    }

    /// Takes `size` bytes, rounded up to whole [`CHUNK`]s; `None` if no region has that much left.
    pub(crate) fn take(&mut self, size: u64) -> Option<u64> {
        let size = size.checked_next_multiple_of(CHUNK)?;
        let region = self.free.iter_mut().find(|region| region.end - region.start >= size)?;
        let start = region.start;
        region.start += size;
        Some(start)
    }
}
