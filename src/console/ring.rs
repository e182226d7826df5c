//! A queue of bytes of fixed capacity, allocated once.

use alloc::boxed::Box;
use alloc::vec;

/// First in, first out; never grows.
#[derive(Clone, Debug)]
pub(super) struct ByteRing {
    bytes: Box<[u8]>,
    first: usize,
    length: usize,
}

impl ByteRing {
    /// An empty queue for `capacity` bytes, at least one.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            bytes: vec![0; capacity.max(1)].into_boxed_slice(),
            first: 0,
            length: 0,
        }
    }
    pub(super) fn len(&self) -> usize {
        self.length
    }
    pub(super) fn capacity(&self) -> usize {
        self.bytes.len()
    }
    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }
    pub(super) fn is_full(&self) -> bool {
        self.length == self.bytes.len()
    }
    pub(super) fn clear(&mut self) {
        self.first = 0;
        self.length = 0;
    }
    /// Whether there was room.
    pub(super) fn push(&mut self, byte: u8) -> bool {
        if self.is_full() {
            return false;
        }
        let at = (self.first + self.length) % self.bytes.len();
        if let Some(slot) = self.bytes.get_mut(at) {
            *slot = byte;
            self.length += 1;
        }
        true
    }
    pub(super) fn pop(&mut self) -> Option<u8> {
        if self.is_empty() {
            return None;
        }
        let byte = self.bytes.get(self.first).copied();
        self.first = (self.first + 1) % self.bytes.len();
        self.length -= 1;
        byte
    }
}
