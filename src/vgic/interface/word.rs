//! The word of a line: what a device of a server shows its driver, whose bits the driver clears, and which is a line's level.
//!
//! It is here, beside the line, so that a driver's store that clears it takes one lock. A store that is like one before
//! ([`KnownLine`]) is taken by comparing two words: one says that the word is where it was and has the same value, the other
//! that all that decides about the line is as it was when it fell last in its list register. Who changes where the word is
//! shown, or whether the store reaches it, must say so first ([`Vgic::forget_word`]).

use super::at;
use crate::ids::IntId;
use crate::vgic::Vgic;
use crate::vgic::irq::{Irq, Place, Slot};
use crate::vgic::list_register::{Backing, LrState, VirtualInterface};

/// A line of which all is known that a store to its register looks at, and the value that the store clears.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct KnownLine {
    expected: u64,
    interrupt: IntId,
    slot: Slot,
}

impl KnownLine {
    /// None: no store is like it.
    pub const NONE: Self = Self {
        expected: 0,
        interrupt: IntId(0),
        slot: Slot::NONE,
    };

    /// Its number.
    #[inline(always)]
    pub const fn interrupt(&self) -> IntId {
        self.interrupt
    }
}

/// What [`Vgic::clear_known_word`] did.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[must_use]
pub enum Cleared {
    /// Nothing.
    Not,
    /// All there is to do.
    All,
    /// All but [`Vgic::end_cleared`]: the interrupt was not taken yet, or has ended.
    ButForItsEnd,
}

/// What becomes of a line when its word changes: it is high while the word is not zero.
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

/// The word and since when it is known, as one.
#[inline(always)]
const fn shown(irq: &Irq) -> u64 {
    irq.word as u64 | (irq.known as u64) << 32
}

impl Vgic {
    /// The word of an SPI's line; 0, if it has none.
    pub fn word(&self, interrupt: IntId) -> u32 {
        self.spi_slot(interrupt.0).map_or(0, |slot| self.irqs[slot].word)
    }

    /// Clears bits of it, then sets bits: its value, and what becomes of the line.
    #[inline]
    pub fn change_word(&mut self, interrupt: IntId, clear: u32, set: u32) -> (u32, Line) {
        let Some(slot) = self.spi_slot(interrupt.0) else {
            return (0, Line::Unchanged);
        };
        let irq = &mut self.irqs[slot];
        let (word, line) = Line::change(irq.word, clear, set);
        irq.word = word;
        (word, line)
    }

    /// For stores of `bits` that clear a word which is just that, until it is forgotten. `None`: there is no such word, or all
    /// that can be known was forgotten.
    pub fn know_word(&mut self, interrupt: IntId, bits: u32) -> Option<KnownLine> {
        let slot = self.spi_slot(interrupt.0).filter(|_| bits != 0)?;
        if self.irqs[slot].known == 0 {
            self.knowings = self.knowings.checked_add(1)?;
            self.irqs[slot].known = self.knowings;
        }
        Some(KnownLine {
            expected: u64::from(bits) | u64::from(self.irqs[slot].known) << 32,
            interrupt,
            slot,
        })
    }

    /// What anybody knows of where the word is, and that it is acknowledged there, is no longer so.
    pub fn forget_word(&mut self, interrupt: IntId) {
        if let Some(slot) = self.spi_slot(interrupt.0) {
            self.irqs[slot].known = 0;
        }
    }

    /// `vcpu`, which is loaded with its list registers in use, stores what clears the whole word of `line`, which is known. If it
    /// still is, and nothing else is to be done than to change the list register that holds the interrupt, then `store` is
    /// called, with nothing changed yet.
    #[inline(always)]
    pub fn clear_known_word<V: VirtualInterface>(
        &mut self,
        vcpu: u8,
        line: &KnownLine,
        interface: &mut V,
        store: impl FnOnce(),
    ) -> Cleared {
        let Some(cpu) = self.cpus.get_mut(usize::from(vcpu)) else {
            return Cleared::Not;
        };
        let irq = &mut self.irqs[line.slot];
        if shown(irq) != line.expected || irq.conditions() != irq.usual {
            return Cleared::Not;
        }
        let own = &mut cpu.interface;
        let holds = matches!(irq.place, Place::Resident { cpu } if cpu == vcpu);
        // So nothing that is active is in no list register, and none has news.
        if !holds || !own.shows_everything() {
            return Cleared::Not;
        }
        store();
        irq.word = 0;
        irq.line = false;
        irq.latch = 0;
        irq.latch_in_lr = 0;
        irq.drop_latch = 0;
        let index = at(irq.lr.into());
        if interface.lower(index) == LrState::Active {
            let content = &mut own.contents[index];
            content.state = LrState::Active;
            // An SPI of no physical interrupt: nobody sent it.
            content.backing = Backing::QUIET;
            Cleared::All
        } else {
            Cleared::ButForItsEnd
        }
    }

    /// What [`Cleared::ButForItsEnd`] has left, before anything else.
    pub fn end_cleared(&mut self, vcpu: u8, line: &KnownLine) {
        self.end_lowered(vcpu, line.slot);
    }
}
