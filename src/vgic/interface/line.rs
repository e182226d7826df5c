//! The line of a device of the hypervisor that a guest itself lowers, while it handles the interrupt.
//!
//! That happens with each interrupt of such a device, in the time of the vCPU whose list register holds it. So that one is
//! changed in place: a pending state goes, and the maintenance interrupt that a high line asks for at the guest's EOI is no
//! longer asked for. Everything else goes through the queues.

use super::{LrState, at};
use crate::ids::{IntId, VcpuSet};
use crate::vgic::irq::{Place, Slot};
use crate::vgic::list_register::{Backing, ListRegister, VirtualInterface};
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
        self.irqs[slot].line = false;
        self.irqs[slot].has_level = false;
        self.update(slot);
        Ok(self.take_kick())
    }

    /// Gives back what [`Self::connect_line`] took, with the line low.
    ///
    /// # Errors
    /// [`VgicError::NotSpi`].
    pub fn disconnect_line(&mut self, interrupt: IntId) -> Result<VcpuSet, VgicError> {
        let kick = self.lower_spi(interrupt)?;
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
    #[inline]
    pub fn lower_own_spi<V: VirtualInterface>(
        &mut self,
        vcpu: u8,
        interrupt: IntId,
        interface: &mut V,
    ) -> Result<VcpuSet, VgicError> {
        let slot = self.spi(interrupt)?;
        if self.drop_line(slot) && !self.lower_in_place(vcpu, slot, interface) {
            self.update(slot);
        }
        Ok(self.take_kick())
    }

    /// Whether that changed anything.
    #[inline]
    fn drop_line(&mut self, slot: Slot) -> bool {
        let irq = &mut self.irqs[slot];
        let was_high = core::mem::take(&mut irq.line);
        if irq.edge {
            self.clear_latch(slot, 1);
            return true;
        }
        was_high
    }

    /// The list register of an interrupt whose line is low now says no more than that. `false`: it is in none of this vCPU's,
    /// or it is not as simple as that, and nothing was done.
    #[inline]
    fn lower_in_place<V: VirtualInterface>(&mut self, vcpu: u8, slot: Slot, interface: &mut V) -> bool {
        let Some(cpu) = self.cpus.get_mut(usize::from(vcpu)) else {
            return false;
        };
        let own = &mut cpu.interface;
        let irq = &mut self.irqs[slot];
        if irq.place != (Place::Resident { cpu: vcpu }) {
            return false;
        }
        let simple = irq.physical.is_none() && irq.set_active.is_none() && irq.latch == 0 && cpu.active.is_empty();
        if !simple || !own.runs_ahead() || own.overflow || own.reorder {
            return false;
        }
        let index = at(irq.lr.into());
        let bit = 1 << index;
        let now = interface.read(index);
        let untaken = irq.latch_in_lr & !irq.drop_latch != 0;
        let state = match now.map(|register| register.state) {
            // A pulse that the guest has not taken is none of the line's.
            Some(LrState::Pending | LrState::PendingAndActive) if untaken => return false,
            Some(LrState::Active | LrState::PendingAndActive) => LrState::Active,
            Some(LrState::Pending | LrState::Inactive) | None => LrState::Inactive,
        };
        own.news &= !bit;
        match now {
            Some(register) if state == LrState::Active => {
                irq.latch_in_lr = 0;
                irq.drop_latch = 0;
                let source = match register.backing {
                    Backing::Software { source, .. } => source,
                    Backing::Physical(_) => 0,
                };
                let wanted = ListRegister {
                    state,
                    backing: Backing::Software {
                        maintenance: false,
                        source,
                    },
                    ..register
                };
                if wanted != register {
                    interface.write(index, Some(wanted));
                }
                own.contents[index] = wanted;
            }
            // Not acknowledged yet, or ended already: that asks for maintenance until it is written.
            _ => {
                interface.write(index, None);
                own.used &= !bit;
                irq.end(own.contents[index].backing);
                irq.place = Place::Idle;
            }
        }
        true
    }
}
