//! Acknowledgement registers: a write clears bits of a word of a shadow page, and the word is an interrupt's line.
//!
//! The word's true value is kept where no server can write: in the interrupt controller, beside the line
//! ([`crate::vgic::Vgic::change_word`]). The page only shows it: whoever changes the word stores it there, waits until the
//! store is complete, and then does what [`crate::vgic::Line`] says, all under the lock of the interrupt controller.

use crate::ids::{IntId, Ipa};

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
