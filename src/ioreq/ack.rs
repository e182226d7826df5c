//! Acknowledgement registers: a write clears bits of a word of a shadow page, and the word is an interrupt's line.
//!
//! The word's true value is kept where no server can write: in the interrupt controller, beside the line
//! ([`crate::vgic::Vgic::change_word`]). The page only shows it: whoever changes the word stores it there, waits until the
//! store is complete, and then does what [`Line`] says, all under the lock of the interrupt controller.

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

impl Line {
    /// `word` has some bits cleared, and then some set: its new value, and what becomes of its line.
    pub const fn change(word: u32, clear: u32, set: u32) -> (u32, Self) {
        let after = word & !clear | set;
        let line = if set != 0 {
            Self::Raised
        } else if word != 0 && after == 0 {
            Self::Low
        } else {
            Self::Unchanged
        };
        (after, line)
    }
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
}

impl Ack {
    /// Bytes of the register and of the word.
    pub const BYTES: u64 = size_of::<u32>() as u64;

    /// A register.
    pub const fn new(register: Ipa, offset: u32, interrupt: IntId) -> Self {
        Self {
            register,
            offset,
            interrupt,
        }
    }
}
