//! Acknowledgement registers: a write clears bits of a word of a shadow page, and the word is an interrupt's line.
//!
//! The word's true value is kept here, where no server can write. The page only shows it: whoever changes the word stores
//! it there, waits until the store is complete, and then does what [`Line`] says, all under the lock of the shadow page.

use crate::ids::{IntId, Ipa};

/// What becomes of the interrupt's line, which is high while the word is not zero.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Line {
    /// Nothing: the word is not zero as before, or zero as before.
    Unchanged,
    /// Bits were set: it is high, and pending once more if the guest has it edge-triggered.
    Raised,
    /// The word has become zero.
    Low,
}

/// One register, its word and its interrupt.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Ack {
    /// The register.
    pub register: Ipa,
    /// Where the word is in the page.
    pub offset: u32,
    /// Whose line it is.
    pub interrupt: IntId,
    word: u32,
}

impl Ack {
    /// Bytes of the register and of the word.
    pub const BYTES: u64 = size_of::<u32>() as u64;

    /// A register whose word is zero.
    pub const fn new(register: Ipa, offset: u32, interrupt: IntId) -> Self {
        Self {
            register,
            offset,
            interrupt,
            word: 0,
        }
    }

    /// The true value.
    pub const fn word(&self) -> u32 {
        self.word
    }

    /// Clears bits, then sets bits.
    pub const fn change(&mut self, clear: u32, set: u32) -> Line {
        let before = self.word;
        self.word = before & !clear | set;
        if set != 0 {
            Line::Raised
        } else if before != 0 && self.word == 0 {
            Line::Low
        } else {
            Line::Unchanged
        }
    }
}
