//! Sparse physical memory: a frame exists once it is written, and reads as poison before.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::ids::{PAGE_SIZE, Pa};

/// What unwritten memory reads as, in each byte.
pub const POISON: u8 = 0xaa;

const PAGE: usize = PAGE_SIZE as usize;

/// What a shared access is about to do.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum SharedAccessKind {
    /// A single load.
    Load,
    /// A compare-and-exchange attempt.
    CompareExchange,
}

/// A shared access, as the adversary sees it just before it happens.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct SharedAccess {
    /// Load or compare-and-exchange.
    pub kind: SharedAccessKind,
    /// Where.
    pub at: Pa,
    /// 1, 4 or 8 bytes.
    pub width: u8,
}

/// What the adversary does to the access besides writing memory.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Interference {
    /// Lets it happen.
    None,
    /// Breaks the exclusive: a compare-and-exchange attempt is contended. Loads go on.
    Contend,
}

/// Physical memory in regions; everything else is nobody's.
#[derive(Debug, Default)]
pub struct SparseMemory {
    /// Start and end of each region.
    regions: Vec<(u64, u64)>,
    frames: BTreeMap<u64, Box<[u8; PAGE]>>,
    /// Ranges of frames that were zeroed whole, start to end, none touching another; a frame in `frames` was written since.
    zeroed: BTreeMap<u64, u64>,
}

impl SparseMemory {
    /// Adds a region of memory. Regions are separate even when they touch.
    pub fn add(&mut self, start: Pa, length: u64) {
        let end = start.0.checked_add(length).expect("region ends in the address space");
        let free = self
            .regions
            .iter()
            .all(|(other, other_end)| end <= *other || start.0 >= *other_end);
        assert!(free, "memory at {start} overlaps another region");
        self.regions.push((start.0, end));
    }

    /// Whether all of `length` bytes at `at` are in one region.
    pub fn owns(&self, at: Pa, length: u64) -> bool {
        let Some(end) = at.0.checked_add(length) else {
            return false;
        };
        self.regions
            .iter()
            .any(|(start, region_end)| *start <= at.0 && end <= *region_end)
    }

    /// Panics when the access leaves the region that it starts in.
    pub(super) fn check(&self, at: Pa, length: u64) {
        assert!(self.owns(at, length), "{length} bytes at {at} are in no memory region");
    }

    /// Whether the byte at `at` was ever written or zeroed.
    pub fn is_written(&self, at: Pa) -> bool {
        self.frames.contains_key(&at.page().0) || self.is_zeroed(at.page().0)
    }

    /// Copies bytes out.
    pub fn read(&self, at: Pa, into: &mut [u8]) {
        self.check(at, into.len() as u64);
        let mut address = at.0;
        let mut rest = into;
        while !rest.is_empty() {
            let offset = (address % PAGE_SIZE) as usize;
            let (piece, tail) = rest.split_at_mut(rest.len().min(PAGE - offset));
            match self.frames.get(&(address - offset as u64)) {
                Some(frame) => piece.copy_from_slice(&frame[offset..offset + piece.len()]),
                None if self.is_zeroed(address - offset as u64) => piece.fill(0),
                None => piece.fill(POISON),
            }
            address += piece.len() as u64;
            rest = tail;
        }
    }

    /// Copies bytes in.
    pub fn write(&mut self, at: Pa, from: &[u8]) {
        self.check(at, from.len() as u64);
        let mut address = at.0;
        let mut rest = from;
        while !rest.is_empty() {
            let offset = (address % PAGE_SIZE) as usize;
            let (piece, tail) = rest.split_at(rest.len().min(PAGE - offset));
            self.frame(address - offset as u64)[offset..offset + piece.len()].copy_from_slice(piece);
            address += piece.len() as u64;
            rest = tail;
        }
    }

    /// Sets bytes to zero; whole frames cost nothing.
    pub fn zero(&mut self, at: Pa, length: u64) {
        self.check(at, length);
        let end = at.0 + length;
        let (first, last) = (at.0.next_multiple_of(PAGE_SIZE), end / PAGE_SIZE * PAGE_SIZE);
        if first >= last {
            return self.zero_bytes(at.0, end);
        }
        self.zero_bytes(at.0, first);
        let written: Vec<u64> = self.frames.range(first..last).map(|(frame, _)| *frame).collect();
        for frame in written {
            self.frames.remove(&frame);
        }
        self.add_zeroed(first, last);
        self.zero_bytes(last, end);
    }

    /// Reads a little-endian word of `width` bytes.
    pub fn word(&self, at: Pa, width: u8) -> u64 {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes[..usize::from(width)]);
        u64::from_le_bytes(bytes)
    }

    /// Writes a little-endian word of `width` bytes.
    pub fn set_word(&mut self, at: Pa, width: u8, value: u64) {
        self.write(at, &value.to_le_bytes()[..usize::from(width)]);
    }

    fn zero_bytes(&mut self, start: u64, end: u64) {
        let mut address = start;
        while address < end {
            let offset = (address % PAGE_SIZE) as usize;
            let count = ((end - address) as usize).min(PAGE - offset);
            self.frame(address - offset as u64)[offset..offset + count].fill(0);
            address += count as u64;
        }
    }

    fn is_zeroed(&self, frame: u64) -> bool {
        let before = self.zeroed.range(..=frame).next_back();
        before.is_some_and(|(_, end)| frame < *end)
    }

    /// Ranges that touch become one.
    fn add_zeroed(&mut self, mut first: u64, mut last: u64) {
        while let Some((start, end)) = self
            .zeroed
            .range(..=last)
            .next_back()
            .map(|(start, end)| (*start, *end))
            && end >= first
        {
            self.zeroed.remove(&start);
            first = first.min(start);
            last = last.max(end);
        }
        self.zeroed.insert(first, last);
    }

    fn frame(&mut self, start: u64) -> &mut [u8; PAGE] {
        let fill = if self.is_zeroed(start) { 0 } else { POISON };
        self.frames.entry(start).or_insert_with(|| Box::new([fill; PAGE]))
    }
}
