//! Guest-physical addresses of this domain that are kept free for memory of others: the extended regions of
//! `/hypervisor`, mapped at EL1 as Normal memory once, filled by hypercalls.

use alloc::vec::Vec;
use core::ops::Range;

use crate::device_tree::{self, device_tree};
use crate::mmu::{self, Attribute};

/// Room is given out in this size, so that stage 2 can use blocks.
pub const CHUNK: u64 = 2 << 20;

/// Not enough extended region for what is to be mapped.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct NoRoom {
    /// How much.
    pub bytes: u64,
}

impl core::fmt::Display for NoRoom {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "no room left for {} KiB of others' memory", self.bytes / 1024)
    }
}

impl core::error::Error for NoRoom {}

/// The room that is left.
#[derive(Debug)]
pub struct Window {
    free: Vec<Range<u64>>,
}

impl Window {
    /// All extended regions; `None` if there is none. To be called once.
    pub fn from_device_tree() -> Option<Self> {
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

    /// Takes `bytes` bytes, rounded up to whole [`CHUNK`]s.
    ///
    /// # Errors
    /// No region has that much left.
    pub fn take(&mut self, bytes: u64) -> Result<u64, NoRoom> {
        let size = bytes.checked_next_multiple_of(CHUNK).ok_or(NoRoom { bytes })?;
        let region = self.free.iter_mut().find(|region| region.end - region.start >= size);
        let region = region.ok_or(NoRoom { bytes })?;
        let start = region.start;
        region.start += size;
        Ok(start)
    }
}
