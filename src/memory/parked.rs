//! RAM that a domain took out of its own map, and may put back.
//!
//! The list runs through the frames themselves, so that it needs no memory of its own however many there are. A frame
//! is only put here while nobody else maps it, and taken out zeroed.

use crate::ids::{PAGE_SIZE, Pa};
use crate::memory::PhysicalMemory;

/// A domain's frames that are mapped nowhere.
#[derive(Debug, Default)]
pub struct ParkedFrames {
    first: Option<Pa>,
    count: u64,
}

impl ParkedFrames {
    /// Parks a frame of the domain's RAM that no map shows any more.
    pub fn push(&mut self, memory: &impl PhysicalMemory, frame: Pa) {
        memory.store_u64(frame, self.first.map_or(0, |next| next.0));
        self.first = Some(frame);
        self.count += 1;
    }

    /// A zeroed frame; `None`: none is parked.
    pub fn pop(&mut self, memory: &impl PhysicalMemory) -> Option<Pa> {
        let frame = self.first?;
        let next = memory.load_u64(frame);
        self.first = (next != 0).then_some(Pa(next));
        self.count = self.count.saturating_sub(1);
        memory.zero(frame, PAGE_SIZE);
        Some(frame)
    }

    /// How many frames are parked.
    pub fn count(&self) -> u64 {
        self.count
    }
}
