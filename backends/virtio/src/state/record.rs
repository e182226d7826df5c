//! Writing a state page: one method for each thing that changes.

use super::layout::{MAGIC, VERSION, offset, queue};
use super::{Heads, StatePage};
use crate::mmio::MAX_QUEUES;

/// A page that is written.
#[derive(Debug)]
pub(crate) struct Record<P>(pub(crate) P);

impl<P: StatePage> Record<P> {
    /// Says whose state it is; from the last store on the page is valid.
    pub(crate) fn header(&self, device_id: u32) {
        self.0.store(offset::DEVICE_ID, device_id);
        self.0.store(offset::VERSION, VERSION);
        self.0.store(offset::MAGIC, MAGIC);
    }
    pub(crate) fn store(&self, offset: usize, word: u32) {
        self.0.store(offset, word);
    }
    /// Stores a word unless it is there already.
    pub(crate) fn store_changed(&self, offset: usize, word: u32) {
        if self.0.load(offset) != word {
            self.0.store(offset, word);
        }
    }
    /// Zeroes every word of the device and its queues but the header and the one at `kept`.
    pub(crate) fn clear_but(&self, kept: usize) {
        let words = (offset::STATUS..offset::QUEUES + MAX_QUEUES * queue::STRIDE).step_by(4);
        for offset in words.filter(|offset| *offset != kept && self.0.load(*offset) != 0) {
            self.0.store(offset, 0);
        }
    }
    /// Stores one half of a register of 64 bits.
    pub(crate) fn store_half(&self, offset: usize, select: u32, half: u32) {
        if select < 2 {
            self.0.store(offset + 4 * select as usize, half);
        }
    }
    /// The words of queue `index`, which is below [`crate::mmio::MAX_QUEUES`].
    pub(crate) fn queue(&self, index: usize) -> QueueRecord<'_, P> {
        QueueRecord {
            page: &self.0,
            base: offset::QUEUES + index * queue::STRIDE,
        }
    }
}

/// The part of a page that is one queue's.
#[derive(Debug)]
pub(crate) struct QueueRecord<'a, P> {
    page: &'a P,
    base: usize,
}

impl<P: StatePage> QueueRecord<'_, P> {
    pub(crate) fn store(&self, offset: usize, word: u32) {
        self.page.store(self.base + offset, word);
    }
    /// Stores one half of an address: 0 the low one.
    pub(crate) fn store_half(&self, offset: usize, select: u32, half: u32) {
        self.store(offset + 4 * (select & 1) as usize, half);
    }
    /// Word `number` of the taken heads; `None`: a head that can't be.
    pub(crate) fn taken(&self, changed: Option<(usize, u32)>) {
        if let Some((number, word)) = changed {
            self.store(queue::TAKEN + 4 * number, word);
        }
    }
    pub(crate) fn next_available(&self, index: u16) {
        self.store(queue::NEXT_AVAILABLE, index.into());
    }
    /// `head` is about to be completed as number `used`.
    pub(crate) fn begin_completion(&self, head: u16, used: u16) {
        let head = u32::from(head) << queue::intent::HEAD_SHIFT;
        self.store(queue::INTENT, queue::intent::VALID | head | u32::from(used));
    }
    pub(crate) fn end_completion(&self) {
        self.store(queue::INTENT, 0);
    }
    /// Nothing was taken.
    pub(crate) fn clear_progress(&self) {
        self.end_completion();
        self.next_available(0);
        for (number, word) in Heads::default().0.into_iter().enumerate() {
            self.taken(Some((number, word)));
        }
    }
    /// All as after a reset; not ready before anything else, so that it is a queue that can be at every moment.
    pub(crate) fn clear(&self) {
        self.store(queue::READY, 0);
        self.store(queue::SIZE, 0);
        for address in [queue::DESCRIPTORS, queue::DRIVER, queue::DEVICE] {
            self.store_half(address, 0, 0);
            self.store_half(address, 1, 0);
        }
        self.clear_progress();
    }
}
