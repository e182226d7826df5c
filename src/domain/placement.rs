//! Where in a domain's RAM its ramdisk and device tree go, once its kernel has a place.
//!
//! Guarantee: nothing overlaps. What is placed lies as high as 32-bit habits of guests allow: Linux before 4.2 wants its
//! tree within 512 MiB of the start of its memory, and kernels that do not say how big they are need room behind them.

use alloc::vec::Vec;

use crate::range::IpaRange;
use crate::sorting::sort_by_key;

/// Old kernels look for their device tree only so far from the start of memory (Linux,
/// Documentation/arch/arm64/booting.rst).
const NEAR: u64 = 512 << 20;

/// A domain's banks and what is taken of them.
#[derive(Clone, Debug)]
pub(super) struct Placer {
    /// The bank that the kernel is in comes first.
    banks: Vec<IpaRange>,
    taken: Vec<IpaRange>,
}

impl Placer {
    /// Room around `kernel`.
    pub(super) fn new(mut banks: Vec<IpaRange>, kernel: IpaRange) -> Self {
        sort_by_key(&mut banks, |bank| !bank.contains(kernel));
        Self {
            banks,
            taken: alloc::vec![kernel],
        }
    }

    /// Keeps what is placed out of `range`.
    pub(super) fn keep_out(&mut self, range: IpaRange) {
        self.taken.push(range);
    }

    /// Takes `size` bytes at a multiple of `alignment`, a power of two; `None` when there is no room.
    pub(super) fn place(&mut self, size: u64, alignment: u64) -> Option<IpaRange> {
        let near = self
            .banks
            .first()
            .map(|bank| IpaRange::new(bank.start.0, bank.size.min(NEAR)));
        let found = near
            .iter()
            .chain(&self.banks)
            .find_map(|room| self.highest(*room, size, alignment))?;
        self.taken.push(found);
        Some(found)
    }

    fn highest(&self, room: IpaRange, size: u64, alignment: u64) -> Option<IpaRange> {
        let mut start = room.end().checked_sub(size)? & !(alignment - 1);
        loop {
            let range = IpaRange::new(start, size);
            if !room.contains(range) {
                return None;
            }
            match self.taken.iter().find(|taken| taken.overlaps(range)) {
                // Below what is in the way: the start falls with every turn.
                Some(taken) => start = taken.start.0.checked_sub(size)? & !(alignment - 1),
                None => return Some(range),
            }
        }
    }
}
