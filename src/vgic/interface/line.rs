//! The line of a device of the hypervisor that a guest itself lowers, while it handles the interrupt.
//!
//! That happens with each interrupt of such a device, in the time of the vCPU whose list register holds it. So that one is
//! changed in place: a pending state goes, and the maintenance interrupt that a high line asks for at the guest's EOI is no
//! longer asked for. Everything else goes through the queues.

use super::at;
use crate::ids::{IntId, VcpuSet};
use crate::vgic::irq::{Place, Slot};
use crate::vgic::list_register::{Backing, LrState, VirtualInterface};
use crate::vgic::{Vgic, VgicError};

impl Vgic {
    /// Takes an SPI for a device of the hypervisor, from [`Self::set_irq_level`] too: its line is low, and what was pending of
    /// it is not any more.
    ///
    /// # Errors
    /// [`VgicError::NotSpi`]; [`VgicError::Reserved`]: another device has it.
    pub fn connect_line(&mut self, interrupt: IntId) -> Result<VcpuSet, VgicError> {
        let slot = self.spi(interrupt)?;
        if self.is_reserved(interrupt) {
            return Err(VgicError::Reserved(interrupt));
        }
        self.reserve(interrupt)?;
        self.clear_latch(slot, u8::MAX);
        let irq = &mut self.irqs[slot];
        irq.line = false;
        irq.has_level = false;
        irq.word = 0;
        irq.known = 0;
        self.update(slot);
        Ok(self.take_kick())
    }

    /// Gives back what [`Self::connect_line`] took, with the line low.
    ///
    /// # Errors
    /// [`VgicError::NotSpi`].
    pub fn disconnect_line(&mut self, interrupt: IntId) -> Result<VcpuSet, VgicError> {
        let slot = self.spi(interrupt)?;
        let kick = self.lower_spi(interrupt)?;
        let irq = &mut self.irqs[slot];
        irq.word = 0;
        irq.known = 0;
        self.unreserve(interrupt);
        Ok(kick)
    }

    /// The line of a device is low: nothing is pending of it, edge-triggered neither.
    ///
    /// # Errors
    /// [`VgicError::NotSpi`].
    pub fn lower_spi(&mut self, interrupt: IntId) -> Result<VcpuSet, VgicError> {
        let slot = self.spi(interrupt)?;
        if self.drop_line(slot) {
            self.update(slot);
        }
        Ok(self.take_kick())
    }

    /// As [`Self::lower_spi`], by `vcpu`, which is loaded with its list registers in use. If it is in the returned set, it
    /// must flush before it runs on.
    ///
    /// # Errors
    /// [`VgicError::NotSpi`].
    pub fn lower_own_spi<V: VirtualInterface>(
        &mut self,
        vcpu: u8,
        interrupt: IntId,
        interface: &mut V,
    ) -> Result<VcpuSet, VgicError> {
        if self.lower_in_place(vcpu, interrupt, interface) {
            return Ok(VcpuSet::EMPTY);
        }
        self.lower_spi(interrupt)
    }

    /// Whether that changed anything.
    fn drop_line(&mut self, slot: Slot) -> bool {
        let irq = &mut self.irqs[slot];
        let was_high = core::mem::take(&mut irq.line);
        if irq.edge {
            self.clear_latch(slot, 1);
            return true;
        }
        was_high
    }

    /// As [`Self::lower_spi`], by `vcpu`, which is loaded with its list registers in use, if one of them holds the interrupt and
    /// nothing else is to be done than to change that one. `false`: nothing was done.
    pub fn lower_in_place<V: VirtualInterface>(&mut self, vcpu: u8, interrupt: IntId, interface: &mut V) -> bool {
        let Some(slot) = self.spi_slot(interrupt.0) else {
            return false;
        };
        let Some(cpu) = self.cpus.get_mut(usize::from(vcpu)) else {
            return false;
        };
        let own = &mut cpu.interface;
        let irq = &mut self.irqs[slot];
        if !matches!(irq.place, Place::Resident { cpu } if cpu == vcpu) {
            return false;
        }
        // The line's own pulse; one that is not is none of the line's.
        let pulse = u8::from(irq.edge);
        let others = (irq.latch | irq.latch_in_lr & !irq.drop_latch) & !pulse;
        if others != 0 || irq.physical.is_some() || irq.set_active.is_some() {
            return false;
        }
        if !cpu.active.is_empty() || !own.runs_ahead() || own.overflow || own.reorder {
            return false;
        }
        irq.usual = irq.conditions();
        irq.line = false;
        irq.latch = 0;
        irq.latch_in_lr = 0;
        irq.drop_latch = 0;
        let index = at(irq.lr.into());
        own.news &= !(1 << index);
        let content = &mut own.contents[index];
        // Of one that is not acknowledged yet, or has ended, nothing is left.
        if interface.lower(index) == LrState::Active {
            content.state = LrState::Active;
            if let Backing::Software { maintenance, .. } = &mut content.backing {
                *maintenance = false;
            }
        } else {
            self.end_lowered(vcpu, slot);
        }
        true
    }

    /// Nothing is left of a line that was lowered in its list register.
    pub(super) fn end_lowered(&mut self, vcpu: u8, slot: Slot) {
        let Some(cpu) = self.cpus.get_mut(usize::from(vcpu)) else {
            return;
        };
        let (own, irq) = (&mut cpu.interface, &mut self.irqs[slot]);
        let index = at(irq.lr.into());
        own.used &= !(1 << index);
        irq.end(own.contents[index].backing);
        irq.place = Place::Idle;
    }
}
