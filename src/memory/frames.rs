//! The machine's free RAM, while domains are built: who gets which frames.
//!
//! Guarantees: no frame is handed out twice, and what firmware, the image or a boot module occupies is never handed
//! out. Used at boot only, so it may allocate.

use alloc::vec::Vec;

use crate::ids::{PAGE_SIZE, Pa};
use crate::range::PaRange;

/// Sizes that a stage-2 descriptor can map at once, the biggest first; memory is handed out at the greatest of these
/// alignments that the request is big enough for (Arm ARM, 4 KiB granule).
const ALIGNMENTS: [u64; 3] = [1 << 30, 1 << 21, PAGE_SIZE];
/// What devices with 32 address bits reach ends here.
const LOW_END: u64 = 1 << 32;

/// Which RAM is taken, as long as there is any of it; then the other.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Zone {
    /// Below 4 GiB, for those who own devices that reach memory by themselves.
    Low,
    /// From 4 GiB on: the other is scarce on machines that have both.
    High,
}

impl Zone {
    const fn other(self) -> Self {
        match self {
            Self::Low => Self::High,
            Self::High => Self::Low,
        }
    }

    /// The part of `range` that is in the zone; may be empty.
    const fn part(self, range: PaRange) -> PaRange {
        let (start, end) = (range.start.0, range.end());
        let (start, end) = match self {
            Self::Low if end > LOW_END => (start, LOW_END),
            Self::High if start < LOW_END => (LOW_END, end),
            Self::Low | Self::High => (start, end),
        };
        PaRange::new(start, end.saturating_sub(start))
    }
}

/// Why no frames were handed out.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FrameError {
    /// Not that much free memory in one piece (or at all, where pieces are allowed).
    #[error("no {0:#x} bytes of RAM are free")]
    Exhausted(u64),
    /// Some of the range asked for is no RAM, or is in use.
    #[error("RAM {0} is not free")]
    NotFree(PaRange),
    /// Addresses and sizes are multiples of a page.
    #[error("{0} is not made of whole pages")]
    Misaligned(PaRange),
    /// Nothing was asked for.
    #[error("an empty range")]
    Empty,
}

/// Free RAM in whole pages, lowest first, no two ranges touching.
#[derive(Clone, Debug, Default)]
pub struct FrameAllocator {
    free: Vec<PaRange>,
}

impl FrameAllocator {
    /// All of `ram`, as far as it is made of whole pages, but what `reserved` touches.
    pub fn new(ram: &[PaRange], reserved: &[PaRange]) -> Self {
        let mut allocator = Self::default();
        for bank in ram {
            allocator.add(*bank);
        }
        for range in reserved {
            allocator.reserve(*range);
        }
        allocator
    }

    /// Bytes that are free.
    pub fn free_bytes(&self) -> u64 {
        self.free.iter().map(|range| range.size).sum()
    }

    /// The free ranges, lowest first.
    pub fn free_ranges(&self) -> &[PaRange] {
        &self.free
    }

    /// Adds free RAM: a bank, or what was in use and no longer is. Partial pages at its ends stay out.
    pub fn add(&mut self, range: PaRange) {
        let Some(start) = range.start.0.checked_next_multiple_of(PAGE_SIZE) else {
            return;
        };
        let end = range.end() / PAGE_SIZE * PAGE_SIZE;
        if start >= end {
            return;
        }
        let (mut start, mut end) = (start, end);
        self.free.retain(|other| {
            let touches = other.start.0 <= end && start <= other.end();
            if touches {
                start = start.min(other.start.0);
                end = end.max(other.end());
            }
            !touches
        });
        let index = self.free.partition_point(|other| other.start.0 < start);
        self.free.insert(index, PaRange::new(start, end - start));
    }

    /// Takes every page that `range` touches out of the free memory, free or not.
    pub fn reserve(&mut self, range: PaRange) {
        if range.is_empty() {
            return;
        }
        let taken = range.pages();
        let mut rest = Vec::with_capacity(self.free.len() + 1);
        for free in &self.free {
            if !free.overlaps(taken) {
                rest.push(*free);
                continue;
            }
            let (start, end) = (free.start.0, free.end());
            let before = PaRange::new(start, taken.start.0.saturating_sub(start));
            let after_start = taken.end().max(start);
            let after = PaRange::new(after_start, end.saturating_sub(after_start));
            rest.extend([before, after].into_iter().filter(|range| !range.is_empty()));
        }
        self.free = rest;
    }

    /// Takes exactly `range` (`xen,static-mem`).
    ///
    /// # Errors
    /// [`FrameError::Misaligned`] or [`FrameError::Empty`] for a range that can't be a domain's memory,
    /// [`FrameError::NotFree`] when any of it is not free.
    pub fn carve(&mut self, range: PaRange) -> Result<(), FrameError> {
        if range.is_empty() {
            return Err(FrameError::Empty);
        }
        if !range.is_aligned(PAGE_SIZE) || !range.fits() {
            return Err(FrameError::Misaligned(range));
        }
        if !self.free.iter().any(|free| free.contains(range)) {
            return Err(FrameError::NotFree(range));
        }
        self.reserve(range);
        Ok(())
    }

    /// As [`Self::allocate_in`], from 4 GiB on where there is room.
    ///
    /// # Errors
    /// As [`Self::allocate_in`].
    pub fn allocate(&mut self, size: u64) -> Result<PaRange, FrameError> {
        self.allocate_in(Zone::High, size)
    }

    /// Takes `size` bytes, rounded up to pages, in one piece: in `zone` if there is such a piece, at a multiple of 1 GiB
    /// when it is that big, else of 2 MiB, else of a page; a smaller alignment where the greater is not to be had.
    ///
    /// # Errors
    /// [`FrameError::Exhausted`] when no free range is big enough, [`FrameError::Empty`] for 0 bytes.
    pub fn allocate_in(&mut self, zone: Zone, size: u64) -> Result<PaRange, FrameError> {
        let size = pages(size)?;
        [Some(zone), Some(zone.other()), None]
            .into_iter()
            .find_map(|zone| self.place(zone, size))
            .map(|range| self.take(range))
            .ok_or(FrameError::Exhausted(size))
    }

    /// Takes `size` bytes, rounded up to pages, in one piece at a multiple of `alignment`, a power of two; from 4 GiB on
    /// where there is room.
    ///
    /// # Errors
    /// As [`Self::allocate_in`].
    pub fn allocate_aligned(&mut self, size: u64, alignment: u64) -> Result<PaRange, FrameError> {
        let size = pages(size)?;
        [Some(Zone::High), None]
            .into_iter()
            .find_map(|zone| self.find(zone, size, alignment.max(PAGE_SIZE)))
            .map(|range| self.take(range))
            .ok_or(FrameError::Exhausted(size))
    }

    /// Takes `size` bytes, rounded up to pages, in as few pieces as the free memory from 4 GiB on allows and then in
    /// pieces of what is below: all but the last are multiples of 2 MiB so that blocks can map them.
    ///
    /// # Errors
    /// [`FrameError::Exhausted`] when there are not that many bytes; then nothing is taken.
    pub fn allocate_pieces(&mut self, size: u64) -> Result<Vec<PaRange>, FrameError> {
        let wanted = pages(size)?;
        let mut attempt = self.clone();
        let mut pieces = Vec::new();
        let mut left = wanted;
        while left > 0 {
            let zone = attempt.first_zone();
            let piece = match attempt.place(Some(zone), left) {
                Some(piece) => attempt.take(piece),
                None => attempt.largest(zone).ok_or(FrameError::Exhausted(wanted))?,
            };
            left -= piece.size;
            pieces.push(piece);
        }
        *self = attempt;
        Ok(pieces)
    }

    /// The zone that pieces come from: the upper one while it has free memory.
    fn first_zone(&self) -> Zone {
        let is_high = |free: &PaRange| !Zone::High.part(*free).is_empty();
        if self.free.iter().any(is_high) {
            Zone::High
        } else {
            Zone::Low
        }
    }

    /// Takes the largest run of whole 2 MiB blocks; without any, the largest free range.
    fn largest(&mut self, zone: Zone) -> Option<PaRange> {
        let [_, block, _] = ALIGNMENTS;
        let free = || self.free.iter().map(|free| zone.part(*free));
        let blocks = free().filter_map(|free| {
            let start = free.start.0.checked_next_multiple_of(block)?;
            let end = free.end() / block * block;
            (start < end).then(|| PaRange::new(start, end - start))
        });
        let best = blocks.max_by_key(|range| range.size);
        let best = best.or_else(|| free().filter(|range| !range.is_empty()).max_by_key(|range| range.size));
        best.map(|range| self.take(range))
    }

    /// Where `size` bytes go at the greatest alignment that they are big enough for.
    fn place(&self, zone: Option<Zone>, size: u64) -> Option<PaRange> {
        ALIGNMENTS
            .into_iter()
            .filter(|alignment| *alignment <= size.max(PAGE_SIZE))
            .find_map(|alignment| self.find(zone, size, alignment))
    }

    /// The lowest aligned place in the smallest free range that has one; without a zone, anywhere.
    fn find(&self, zone: Option<Zone>, size: u64, alignment: u64) -> Option<PaRange> {
        let places = self.free.iter().filter_map(|free| {
            let free = zone.map_or(*free, |zone| zone.part(*free));
            let start = free.start.0.checked_next_multiple_of(alignment)?;
            let place = PaRange::new(start, size);
            (place.fits() && free.contains(place)).then_some((free.size, place))
        });
        places
            .min_by_key(|(room, place)| (*room, place.start.0))
            .map(|(_, place)| place)
    }

    fn take(&mut self, range: PaRange) -> PaRange {
        self.reserve(range);
        range
    }
}

/// `size` in whole pages.
fn pages(size: u64) -> Result<u64, FrameError> {
    match size.checked_next_multiple_of(PAGE_SIZE) {
        Some(0) => Err(FrameError::Empty),
        Some(size) => Ok(size),
        None => Err(FrameError::Exhausted(size)),
    }
}

/// Whether a frame at `pa` is the first of a page.
pub(crate) const fn is_frame(pa: Pa) -> bool {
    pa.is_aligned(PAGE_SIZE)
}
