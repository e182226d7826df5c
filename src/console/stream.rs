//! A console without registers: bytes that a guest writes by hypercall, or by the rings of a page that it shares.
//!
//! All of the page ([`crate::abi::console`]) is the guest's to write, so nothing is kept of it: indices are read anew each
//! time, and a ring whose indices are further apart than it is long is left alone until they are not. What that loses is
//! the guest's own. One [`Stream::exchange`] moves at most [`BURST`] bytes each way.

use super::ring::ByteRing;
use crate::abi::console::{IN_SIZE, Interface, OUT_SIZE};
use crate::ids::{DomainId, Pa};
use crate::memory::PhysicalMemory;

/// Bytes that a domain can have sent and nobody taken; what is more waits in the guest's page.
pub const OUTPUT_CAPACITY: usize = 4 * 1024;
/// Bytes that can be typed ahead, those in the guest's page apart.
pub const INPUT_CAPACITY: usize = 1024;
/// Bytes that are moved at once.
pub const BURST: usize = 256;

/// A domain's bytes, both ways.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) domain: DomainId,
    output: ByteRing,
    input: ByteRing,
    /// The guest's page, of a frame that is kept for it.
    page: Option<Pa>,
    /// [`Self::exchange`] may find something to do.
    due: bool,
    /// The last byte that was sent ended no line.
    inside_line: bool,
}

impl Stream {
    /// Nothing sent and nothing typed.
    pub(super) fn new(domain: DomainId, page: Option<Pa>) -> Self {
        Self {
            domain,
            output: ByteRing::new(OUTPUT_CAPACITY),
            input: ByteRing::new(INPUT_CAPACITY),
            page,
            due: false,
            inside_line: false,
        }
    }

    /// The domain starts again: what was typed is forgotten, what was sent is still shown, and its line ends.
    pub(super) fn reset(&mut self) {
        self.input.clear();
        self.due = false;
        if core::mem::take(&mut self.inside_line) {
            self.output.push(b'\n');
        }
    }

    /// How many of `bytes` there was room for.
    pub(super) fn send(&mut self, bytes: &[u8]) -> usize {
        let sent = bytes.iter().take_while(|byte| self.output.push(**byte)).count();
        if let Some(last) = bytes.get(..sent).and_then(|sent| sent.last()) {
            self.inside_line = *last != b'\n';
        }
        sent
    }

    /// The oldest byte that the guest sent.
    pub(super) fn take(&mut self) -> Option<u8> {
        self.output.pop()
    }

    /// A byte was typed; one too many is lost.
    pub(super) fn receive(&mut self, byte: u8) {
        self.input.push(byte);
        self.due = true;
    }

    /// The oldest bytes that were typed, as many as fit; how many.
    pub(super) fn read(&mut self, into: &mut [u8]) -> usize {
        let mut filled = 0;
        for slot in into {
            let Some(byte) = self.input.pop() else { break };
            *slot = byte;
            filled += 1;
        }
        filled
    }

    /// Whether what is typed goes to a page.
    pub(super) fn has_page(&self) -> bool {
        self.page.is_some()
    }

    /// The guest says that it has moved an index.
    pub(super) fn ring(&mut self) {
        self.due = true;
    }

    /// Whether [`Self::exchange`] may find something to do, now that there is room again.
    pub(super) fn is_due(&self) -> bool {
        self.due
    }

    /// Moves bytes between the page and here. Whether the guest must be told.
    pub(super) fn exchange<M: PhysicalMemory + ?Sized>(&mut self, memory: &M) -> bool {
        if !core::mem::take(&mut self.due) {
            return false;
        }
        match self.page {
            Some(page) => {
                let taken = self.take_output(memory, page);
                let given = self.give_input(memory, page);
                taken || given
            }
            // Whoever reads by hypercall is told that there is something.
            None => !self.input.is_empty(),
        }
    }

    fn take_output<M: PhysicalMemory + ?Sized>(&mut self, memory: &M, page: Pa) -> bool {
        let consumed = memory.load_u32(Pa(page.0 + Interface::OUT_CONS_OFFSET));
        let produced = memory.load_u32(Pa(page.0 + Interface::OUT_PROD_OFFSET));
        let waiting = produced.wrapping_sub(consumed);
        if waiting > OUT_SIZE {
            return false;
        }
        let room = self.output.capacity() - self.output.len();
        let count = (waiting as usize).min(BURST).min(room);
        let mut bytes = [0; BURST];
        let Some(bytes) = bytes.get_mut(..count) else {
            return false;
        };
        let at = consumed % OUT_SIZE;
        let (first, second) = split(bytes, OUT_SIZE - at);
        memory.read(Pa(page.0 + Interface::OUT_OFFSET + u64::from(at)), first);
        memory.read(Pa(page.0 + Interface::OUT_OFFSET), second);
        self.send(bytes);
        self.due |= count < waiting as usize;
        if count != 0 {
            let consumed = consumed.wrapping_add(count as u32);
            memory.store_u32(Pa(page.0 + Interface::OUT_CONS_OFFSET), consumed);
        }
        count != 0
    }

    fn give_input<M: PhysicalMemory + ?Sized>(&mut self, memory: &M, page: Pa) -> bool {
        if self.input.is_empty() {
            return false;
        }
        let consumed = memory.load_u32(Pa(page.0 + Interface::IN_CONS_OFFSET));
        let produced = memory.load_u32(Pa(page.0 + Interface::IN_PROD_OFFSET));
        // Where there is no room, the guest says so when it has made some.
        let Some(room) = IN_SIZE.checked_sub(produced.wrapping_sub(consumed)) else {
            return false;
        };
        let mut bytes = [0; BURST];
        let most = (room as usize).min(BURST);
        let count = self.read(bytes.get_mut(..most).unwrap_or_default());
        let Some(bytes) = bytes.get_mut(..count) else {
            return false;
        };
        let at = produced % IN_SIZE;
        let (first, second) = split(bytes, IN_SIZE - at);
        memory.write(Pa(page.0 + Interface::IN_OFFSET + u64::from(at)), first);
        memory.write(Pa(page.0 + Interface::IN_OFFSET), second);
        self.due |= most == BURST && !self.input.is_empty();
        if count != 0 {
            let produced = produced.wrapping_add(count as u32);
            memory.store_u32(Pa(page.0 + Interface::IN_PROD_OFFSET), produced);
        }
        count != 0
    }
}

/// What lies up to the end of the ring, and what at its beginning.
fn split(bytes: &mut [u8], before_end: u32) -> (&mut [u8], &mut [u8]) {
    let at = bytes.len().min(before_end as usize);
    bytes.split_at_mut(at)
}
