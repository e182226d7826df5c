//! A list of frames of a domain's pool that grows: the addresses are in frames of the pool too.

use alloc::vec::Vec;

use crate::ids::{PAGE_SIZE, Pa};
use crate::memory::PhysicalMemory;
use crate::memory::pool::{Pool, PoolError};

/// Words in a frame.
const WORDS: u32 = (PAGE_SIZE / 8) as u32;

/// Numbered words, each the address of a frame, as many as there were allowed when the list was made.
#[derive(Debug)]
pub struct FrameList {
    /// Frames of words. Room for as many as there can be.
    directories: Vec<Pa>,
    limit: u32,
}

impl FrameList {
    /// A list of `limit` words. Allocates: for the time when domains are built.
    pub fn new(limit: u32) -> Self {
        Self {
            directories: Vec::with_capacity(limit.div_ceil(WORDS) as usize),
            limit,
        }
    }

    /// Where the word of number `index` is, if it ever was set.
    #[inline]
    pub fn word(&self, index: u32) -> Option<Pa> {
        let directory = self.directories.get((index / WORDS) as usize)?;
        Some(Pa(directory.0 + u64::from(index % WORDS) * 8))
    }

    /// The word of number `index`, 0 if it never was set.
    #[inline]
    pub fn get(&self, memory: &impl PhysicalMemory, index: u32) -> u64 {
        self.word(index).map_or(0, |at| memory.load_u64(at))
    }

    /// Sets the word of number `index`, which is no more than the number of those that were set before.
    ///
    /// # Errors
    /// [`PoolError::Exhausted`], also for one beyond the limit.
    pub fn set(
        &mut self,
        memory: &impl PhysicalMemory,
        pool: &mut Pool,
        index: u32,
        value: u64,
    ) -> Result<(), PoolError> {
        if index >= self.limit {
            return Err(PoolError::Exhausted);
        }
        if (index / WORDS) as usize >= self.directories.len() {
            self.directories.push(pool.allocate(memory)?);
        }
        let at = self.word(index).ok_or(PoolError::Exhausted)?;
        memory.store_u64(at, value);
        Ok(())
    }

    /// Gives frames of words back that hold none of the first `words`.
    pub fn shrink(&mut self, pool: &mut Pool, words: u32) {
        while self.directories.len() > words.div_ceil(WORDS) as usize {
            if let Some(directory) = self.directories.pop() {
                // It came from this pool.
                let _ = pool.free(directory);
            }
        }
    }
}
