//! InterruptStatus and the interrupt that follows from it.
//!
//! Without acceleration the device has the word itself. With it the hypervisor has the word, and what the device has is
//! what may be set there: the driver's acknowledgements are seen late or not at all.

use super::{INTERRUPT_CONFIG, MmioDevice};
use crate::chain::Chain;
use crate::device::DeviceModel;
use crate::state::StatePage;
use crate::state::layout::offset as word;

/// How InterruptStatus changes: bits are cleared, then bits are set.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct InterruptChange {
    /// Bits to clear.
    pub clear: u32,
    /// Bits to set.
    pub set: u32,
}

impl InterruptChange {
    /// Nothing is left of what was.
    pub(super) const fn reset() -> Self {
        Self { clear: !0, set: 0 }
    }
    fn clear(&mut self, bits: u32) {
        self.clear |= bits;
        self.set &= !bits;
    }
}

impl<D: DeviceModel<Request = Chain>, P: StatePage> MmioDevice<D, P> {
    /// Whether the interrupt is to be raised now; asking clears it.
    pub fn take_interrupt(&mut self) -> bool {
        core::mem::take(&mut self.interrupt)
    }

    /// How the word that the driver sees is to change, if it is not this device's own.
    pub fn interrupt_change(&self) -> InterruptChange {
        self.change
    }
    /// It has changed so.
    pub fn interrupt_changed(&mut self) {
        self.change = InterruptChange::default();
        self.interrupt = false;
    }
    /// Whether the driver was told of a change of the configuration, and may not have acknowledged that.
    pub fn has_unseen_change(&self) -> bool {
        self.interrupt_status & INTERRUPT_CONFIG != 0
    }
    /// The driver has acknowledged `bits`, as the word says.
    pub fn acknowledged(&mut self, bits: u32) {
        if self.interrupt_status & bits != 0 {
            self.interrupt_status &= !bits;
            self.record.store(word::INTERRUPT_STATUS, self.interrupt_status);
        }
    }
    /// The word is this device's own from now on, and an interrupt may have been lost.
    pub(crate) fn repeat_interrupt(&mut self) {
        self.interrupt = self.interrupt_status != 0;
    }

    /// The word is not this device's own any more, and the new one says nothing yet.
    pub(crate) fn hand_over_interrupt(&mut self) {
        self.inherit_interrupt(self.interrupt_status);
        self.interrupt = false;
    }

    pub(super) fn clear_interrupt(&mut self, bits: u32) {
        self.acknowledged(bits);
        self.change.clear(bits);
    }

    pub(super) fn set_interrupt(&mut self, bits: u32) {
        if self.interrupt_status & bits != bits {
            self.interrupt_status |= bits;
            self.record.store(word::INTERRUPT_STATUS, self.interrupt_status);
        }
        self.interrupt = true;
        self.change.set |= bits;
    }

    /// A predecessor may have set these bits, and there is a new word, which is zero.
    pub(super) fn inherit_interrupt(&mut self, bits: u32) {
        self.interrupt_status = bits;
        self.change = InterruptChange { clear: !0, set: bits };
    }
}
