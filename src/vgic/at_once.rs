//! An interrupt of the running vCPU goes straight into a list register, past the queues.
//!
//! That is so when the vCPU's list registers show everything, nothing waits for one, and this interrupt is in none: it was
//! in no queue either, so it goes first whatever its priority. Then the outcome is that of queueing it and a
//! [flush](Vgic::flush). In any other case nothing is done, and the caller goes that way.
//!
//! Mostly it is still the last one in its list register, and the guest has ended it ([`Vgic::repeat`]): then the same is
//! written again, and nothing else changes. What that relies on: whatever is changed of an interrupt in a list register
//! (its group, priority, latch, whether it is enabled, a request to make it active), and the group enables, make its vCPU's
//! interface dirty, and a flush writes the list register anew or takes the interrupt out of it. So while the interface is
//! clean, what was written last is what would be written now, if that was a pending interrupt of which no end is announced.

use super::distributor_regs::GICD_SGIR;
use super::irq::{Place, Slot};
use super::list_register::{Backing, ListRegister, LrState, VirtualInterface};
use super::{Frame, SgiRegister, Version, Vgic, sgi};
use crate::access::AccessWidth;
use crate::ids::IntId;
use crate::trace::Kind;

/// ICC_SGI1R_EL1.INTID; all else but TargetList is 0 for a vCPU of the first sixteen.
const SGI_INTID: u64 = 0xf << 24;

impl Vgic {
    /// Whether nothing is there for the running vCPU to take, to end or to wait for in the queues: no interrupt but one that
    /// is yet to come ends its WFI.
    #[inline(always)]
    pub fn shows_nothing<V: VirtualInterface>(&self, vcpu: u8, interface: &V) -> bool {
        self.cpus
            .get(usize::from(vcpu))
            .is_some_and(|cpu| cpu.interface.shows_nothing(interface))
    }

    /// [`Self::physical_private_at_once`], if that means to write the same list register again. `false`: nothing was done.
    #[inline(always)]
    pub fn physical_private_again<V: VirtualInterface>(
        &mut self,
        vcpu: u8,
        interrupt: IntId,
        interface: &mut V,
    ) -> bool {
        let slot = self.private_slot(vcpu, interrupt.0);
        // The physical interrupt was active with the last one, and nothing has come since that one's end.
        slot.is_some_and(|slot| match self.irqs[slot].physical {
            Some(physical) => self.repeat(vcpu, slot, Backing::Physical(physical), interface),
            None => false,
        })
    }

    /// [`Self::physical_private`] of the running vCPU, and its flush, at once. `false`: nothing was done.
    pub fn physical_private_at_once<V: VirtualInterface>(
        &mut self,
        vcpu: u8,
        interrupt: IntId,
        interface: &mut V,
    ) -> bool {
        if interrupt.is_sgi() {
            return false;
        }
        let Some(slot) = self.private_slot(vcpu, interrupt.0) else {
            return false;
        };
        let Some(physical) = self.irqs[slot].physical else {
            return false;
        };
        if self.repeat(vcpu, slot, Backing::Physical(physical), interface) {
            return true;
        }
        let done = self.inject(vcpu, (slot, interrupt), Some(physical), 0, interface);
        if done {
            let irq = &mut self.irqs[slot];
            irq.physical_active = true;
            irq.physical_again = false;
        }
        done
    }

    /// [`Self::pulse_private_at_once`], if that means to write the same list register again. `false`: nothing was done.
    #[inline(always)]
    pub fn pulse_private_again<V: VirtualInterface>(&mut self, vcpu: u8, interrupt: IntId, interface: &mut V) -> bool {
        let slot = self.private_slot(vcpu, interrupt.0);
        slot.is_some_and(|slot| self.repeat(vcpu, slot, Backing::QUIET, interface))
    }

    /// [`Self::pulse_private`] for the running vCPU, and its flush, at once. `false`: nothing was done.
    pub fn pulse_private_at_once<V: VirtualInterface>(
        &mut self,
        vcpu: u8,
        interrupt: IntId,
        interface: &mut V,
    ) -> bool {
        match self.private_slot(vcpu, interrupt.0) {
            Some(slot) if !interrupt.is_sgi() => {
                self.repeat(vcpu, slot, Backing::QUIET, interface)
                    || self.inject(vcpu, (slot, interrupt), None, 0, interface)
            }
            _ => false,
        }
    }

    /// [`Self::send_sgi_at_once`], if that means to write the same list register again. `false`: nothing was done.
    #[inline(always)]
    pub fn send_sgi_again<V: VirtualInterface>(
        &mut self,
        vcpu: u8,
        register: SgiRegister,
        value: u64,
        interface: &mut V,
    ) -> bool {
        match self.own_sgi(vcpu, register, value) {
            Some((slot, _)) => self.repeat(vcpu, slot, Backing::QUIET, interface),
            None => false,
        }
    }

    /// [`Self::send_sgi`] of the running vCPU to itself alone, and its flush, at once. `false`: nothing was done.
    pub fn send_sgi_at_once<V: VirtualInterface>(
        &mut self,
        vcpu: u8,
        register: SgiRegister,
        value: u64,
        interface: &mut V,
    ) -> bool {
        match self.own_sgi(vcpu, register, value) {
            Some((slot, interrupt)) => {
                self.repeat(vcpu, slot, Backing::QUIET, interface)
                    || self.inject(vcpu, (slot, interrupt), None, 0, interface)
            }
            None => false,
        }
    }

    /// The SGI that `vcpu` sends to itself alone with this value of an SGI register of a GICv3.
    #[inline(always)]
    fn own_sgi(&self, vcpu: u8, register: SgiRegister, value: u64) -> Option<(Slot, IntId)> {
        let to_itself = value & !SGI_INTID == 1 << (vcpu & 7);
        if !to_itself || register != SgiRegister::Sgi1r || self.config.version != Version::V3 {
            return None;
        }
        let interrupt = IntId((value >> 24 & 0xf) as u32);
        Some((self.private_slot(vcpu, interrupt.0)?, interrupt))
    }

    /// [`Self::mmio`] of a store with which the running vCPU sends an SGI to itself alone (GICD_SGIR of a GICv2), and its
    /// flush, at once. `false`: nothing was done.
    #[inline]
    pub fn store_at_once<V: VirtualInterface>(
        &mut self,
        vcpu: u8,
        (frame, offset): (Frame, u64),
        (width, value): (AccessWidth, u64),
        interface: &mut V,
    ) -> bool {
        let is_sgir = frame == Frame::Distributor && offset == GICD_SGIR && width == AccessWidth::Word;
        if !is_sgir || self.config.version != Version::V2 || !sgi::is_to_itself(vcpu, value as u32) {
            return false;
        }
        let interrupt = IntId((value & 0xf) as u32);
        match self.private_slot(vcpu, interrupt.0) {
            Some(slot) => {
                let source = vcpu & 7;
                let backing = Backing::Software {
                    maintenance: false,
                    source,
                };
                self.repeat(vcpu, slot, backing, interface)
                    || self.inject(vcpu, (slot, interrupt), None, source, interface)
            }
            None => false,
        }
    }

    /// A private interrupt of `vcpu` is pending, which was the last in its list register: see the module.
    #[inline(always)]
    fn repeat<V: VirtualInterface>(&mut self, vcpu: u8, slot: Slot, backing: Backing, interface: &mut V) -> bool {
        let Some(cpu) = self.cpus.get_mut(usize::from(vcpu)) else {
            return false;
        };
        let irq = &self.irqs[slot];
        let own = &mut cpu.interface;
        let holds = matches!(irq.place, Place::Resident { cpu } if cpu == vcpu);
        if !own.shows_everything() || !irq.is_ready() || !holds {
            return false;
        }
        let Some((index, register)) = own.ended_pending(irq.lr, backing, interface) else {
            return false;
        };
        interface.write(index, Some(register));
        interface.trace(Kind::Injected, register.interrupt);
        own.injected += 1;
        true
    }

    /// Puts a private interrupt of `vcpu`, pending from one `source` (0 to 7; an SGI's sender on a GICv2, else 0), into a
    /// list register.
    #[inline(never)]
    fn inject<V: VirtualInterface>(
        &mut self,
        vcpu: u8,
        (slot, interrupt): (Slot, IntId),
        physical: Option<IntId>,
        source: u8,
        interface: &mut V,
    ) -> bool {
        let Some(cpu) = self.cpus.get_mut(usize::from(vcpu)) else {
            return false;
        };
        let irq = &mut self.irqs[slot];
        let is_quiet = irq.is_ready() && !irq.set_active.is_some() && irq.physical == physical;
        if !cpu.interface.shows_everything() || !is_quiet || !self.groups.has(irq.group1) {
            return false;
        }
        let index = match irq.place {
            Place::Idle if !irq.physical_active => cpu.interface.unused(),
            Place::Resident { cpu: holder } if holder == vcpu => cpu.interface.ended(irq.lr, interface),
            _ => None,
        };
        let Some(index) = index else { return false };
        irq.place = Place::Resident { cpu: vcpu };
        irq.lr = index;
        irq.latch_in_lr = 1 << source;
        irq.drop_latch = 0;
        let register = ListRegister {
            interrupt,
            priority: irq.priority,
            group1: irq.group1,
            state: LrState::Pending,
            backing: match physical {
                Some(physical) => Backing::Physical(physical),
                None => Backing::Software {
                    maintenance: false,
                    source,
                },
            },
        };
        cpu.interface.hold(index, slot, register, interface);
        true
    }
}
