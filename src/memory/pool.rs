//! A domain's own frames for what the hypervisor keeps on its behalf: stage-2 tables, shared_info, IOREQ pages.
//!
//! Guarantees: a domain that asks for too much runs out of its own pool and gets an error; a frame is zeroed before it
//! is handed out, handed out once, and not handed out again while another domain still maps it.

use alloc::vec::Vec;

use crate::ids::{PAGE_SHIFT, PAGE_SIZE, Pa};
use crate::memory::PhysicalMemory;
use crate::range::PaRange;

/// Why the pool refuses.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PoolError {
    /// Every frame is in use.
    #[error("the domain's pool is exhausted")]
    Exhausted,
    /// The address is no frame of this pool.
    #[error("{0} is no frame of the pool")]
    NotOurs(Pa),
    /// The frame is free already.
    #[error("{0} is free")]
    AlreadyFree(Pa),
}

/// What became of a frame that its owner gave up.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Retired {
    /// It is free.
    Free,
    /// Another domain still maps it: it becomes free when [`Pool::last_unmapped`] says so.
    StillMapped,
}

/// Frames of one domain. The bit maps are sized once, when the domain is built.
#[derive(Debug)]
pub struct Pool {
    range: PaRange,
    used: Vec<u64>,
    /// Frames in use by nobody but domains that still map them.
    retired: Vec<u64>,
    /// No frame below this word of `used` is free.
    hint: usize,
    free: u64,
}

impl Pool {
    /// A pool of the whole pages of `range`, all free.
    pub fn new(range: PaRange) -> Self {
        let frames = range.size / PAGE_SIZE;
        let words = frames.div_ceil(64) as usize;
        let mut used = alloc::vec![0u64; words];
        if let Some(last) = used.last_mut()
            && !frames.is_multiple_of(64)
        {
            // Bits past the end are never free.
            *last = u64::MAX << (frames % 64);
        }
        Self {
            range,
            used,
            retired: alloc::vec![0; words],
            hint: 0,
            free: frames,
        }
    }

    /// Where its frames are.
    pub fn range(&self) -> PaRange {
        self.range
    }

    /// How many frames there are.
    pub fn frames(&self) -> u64 {
        self.range.size / PAGE_SIZE
    }

    /// How many frames are free.
    pub fn free_frames(&self) -> u64 {
        self.free
    }

    /// A zeroed frame.
    ///
    /// # Errors
    /// [`PoolError::Exhausted`].
    pub fn allocate(&mut self, memory: &impl PhysicalMemory) -> Result<Pa, PoolError> {
        let found = self
            .used
            .iter()
            .enumerate()
            .skip(self.hint)
            .find(|(_, word)| **word != u64::MAX);
        let (index, word) = found.map(|(index, word)| (index, *word)).ok_or(PoolError::Exhausted)?;
        let bit = word.trailing_ones();
        self.hint = index;
        self.mark(index as u64 * 64 + u64::from(bit), true);
        let frame = self.frame(index as u64 * 64 + u64::from(bit));
        memory.zero(frame, PAGE_SIZE);
        Ok(frame)
    }

    /// `count` zeroed frames in a row, the first at a multiple of their size: `count` is a power of two up to 16, as
    /// concatenated stage-2 tables need.
    ///
    /// # Errors
    /// [`PoolError::Exhausted`].
    pub fn allocate_row(&mut self, memory: &impl PhysicalMemory, count: u64) -> Result<Pa, PoolError> {
        let count = count.clamp(1, 16).next_power_of_two();
        let frames = self.range.size / PAGE_SIZE;
        let mut index = 0;
        while index < frames {
            let start = self.frame(index);
            if start.is_aligned(count * PAGE_SIZE)
                && index + count <= frames
                && (index..index + count).all(|frame| !self.is_set(&self.used, frame))
            {
                for frame in index..index + count {
                    self.mark(frame, true);
                }
                memory.zero(start, count * PAGE_SIZE);
                return Ok(start);
            }
            index += 1;
        }
        Err(PoolError::Exhausted)
    }

    /// Whether `frame` is one of this pool's, in use.
    pub fn is_used(&self, frame: Pa) -> bool {
        self.index(frame).is_ok_and(|index| self.is_set(&self.used, index))
    }

    /// Gives a frame back that no other domain can map.
    ///
    /// # Errors
    /// [`PoolError::NotOurs`], [`PoolError::AlreadyFree`]: the caller's bookkeeping is wrong, nothing changed.
    pub fn free(&mut self, frame: Pa) -> Result<(), PoolError> {
        let index = self.index(frame)?;
        if !self.is_set(&self.used, index) {
            return Err(PoolError::AlreadyFree(frame));
        }
        self.mark(index, false);
        Ok(())
    }

    /// Gives up a frame that other domains may map: it is free at once, or when the last of `references` is gone.
    ///
    /// # Errors
    /// As [`Self::free`].
    pub fn retire(&mut self, frame: Pa, references: u32) -> Result<Retired, PoolError> {
        if references == 0 {
            return self.free(frame).map(|()| Retired::Free);
        }
        let index = self.index(frame)?;
        if !self.is_set(&self.used, index) {
            return Err(PoolError::AlreadyFree(frame));
        }
        if let Some(word) = self.retired.get_mut((index / 64) as usize) {
            *word |= 1 << (index % 64);
        }
        Ok(Retired::StillMapped)
    }

    /// The last reference of another domain to `frame` is gone: if its owner had given it up, it is free now. Whether it
    /// became free.
    pub fn last_unmapped(&mut self, frame: Pa) -> bool {
        match self.index(frame) {
            Ok(index) if self.is_set(&self.retired, index) => {
                self.mark(index, false);
                true
            }
            _ => false,
        }
    }

    fn frame(&self, index: u64) -> Pa {
        Pa(self.range.start.0 + (index << PAGE_SHIFT))
    }

    fn index(&self, frame: Pa) -> Result<u64, PoolError> {
        if super::frames::is_frame(frame) && self.range.contains(PaRange::new(frame.0, PAGE_SIZE)) {
            Ok((frame.0 - self.range.start.0) >> PAGE_SHIFT)
        } else {
            Err(PoolError::NotOurs(frame))
        }
    }

    fn is_set(&self, bits: &[u64], index: u64) -> bool {
        bits.get((index / 64) as usize)
            .is_some_and(|word| word >> (index % 64) & 1 != 0)
    }

    fn mark(&mut self, index: u64, used: bool) {
        let (word, bit) = ((index / 64) as usize, 1u64 << (index % 64));
        if let Some(bits) = self.used.get_mut(word) {
            if used {
                *bits |= bit;
                self.free = self.free.saturating_sub(1);
            } else {
                *bits &= !bit;
                self.free = self.free.saturating_add(1);
                self.hint = self.hint.min(word);
            }
        }
        if let Some(bits) = self.retired.get_mut(word) {
            *bits &= !bit;
        }
    }
}
