//! What list registers say of interrupts, brought back into the queues; and who may ask for it.

use super::{Known, at};
use crate::ids::{IntId, VcpuSet};
use crate::trace::Kind;
use crate::vgic::Vgic;
use crate::vgic::irq::{Place, Slot};
use crate::vgic::list_register::{Backing, ListRegister, LrState, VirtualInterface};

impl Vgic {
    /// Brings everything that the list registers hold back into the queues; once between two flushes.
    pub(in crate::vgic) fn read_back<V: VirtualInterface>(&mut self, vcpu: u8, interface: &mut V) {
        let Some(own) = self.cpu_mut(vcpu).map(|cpu| &mut cpu.interface) else {
            return;
        };
        let deactivate = core::mem::take(&mut own.deactivate);
        if deactivate != 0 {
            self.deactivate_own(vcpu, deactivate, interface);
        }
        let Some(own) = self.cpu_mut(vcpu).map(|cpu| &mut cpu.interface) else {
            return;
        };
        if !own.runs_ahead() {
            return;
        }
        own.known = Known::Queues;
        own.dirty = true;
        let observers = core::mem::take(&mut own.observers);
        // In reverse, so that equals stay in order: each goes before those that wait.
        let mut left = own.used;
        let free = if left == 0 { 0 } else { interface.free() };
        own.used &= !free;
        while left != 0 {
            let index = left.ilog2();
            left &= !(1 << index);
            let now = (free & 1 << index == 0).then(|| interface.read(at(index))).flatten();
            let Some(own) = self.cpus.get_mut(usize::from(vcpu)).map(|cpu| &mut cpu.interface) else {
                break;
            };
            let (slot, written) = (own.slots[at(index)], own.contents[at(index)]);
            match now {
                Some(register) => own.contents[at(index)] = register,
                None => {
                    own.used &= !(1 << index);
                    // It asks for maintenance until it is written, and another one may be used next.
                    if written.asks_for_maintenance() {
                        interface.write(at(index), None);
                    }
                    let irq = &mut self.irqs[slot];
                    interface.trace(Kind::Ended, written.interrupt);
                    if !irq.set_active.is_some() {
                        irq.end(written.backing);
                        self.requeue(vcpu, slot, interface);
                        continue;
                    }
                }
            }
            self.retire(vcpu, slot, written, now, interface);
        }
        for observer in observers.iter() {
            if let Some(cpu) = self.cpu_mut(observer) {
                cpu.interface.observed.insert(vcpu);
            }
        }
    }

    /// Deactivates the physical interrupts behind these PPIs, on their own pCPU.
    pub(super) fn deactivate_own<V: VirtualInterface>(&mut self, vcpu: u8, ppis: u32, interface: &mut V) {
        for interrupt in (0..IntId::FIRST_SPI).filter(|interrupt| ppis & 1 << interrupt != 0) {
            if let Some(physical) = self
                .private_slot(vcpu, interrupt)
                .and_then(|slot| self.irqs[slot].physical)
            {
                interface.deactivate(physical);
            }
        }
    }

    /// Takes one interrupt's state out of its list register, with what was asked of it meanwhile.
    fn retire<V: VirtualInterface>(
        &mut self,
        vcpu: u8,
        slot: Slot,
        written: ListRegister,
        now: Option<ListRegister>,
        interface: &mut V,
    ) {
        let state = now.map_or(LrState::Inactive, |register| register.state);
        let irq = &mut self.irqs[slot];
        if now.is_none() {
            irq.end(written.backing);
        }
        irq.physical_again = false;
        let untaken = irq.latch_in_lr & !irq.drop_latch;
        irq.latch_in_lr = 0;
        irq.drop_latch = 0;
        if state.is_pending() {
            irq.latch |= untaken;
        }
        if let Some(register) = now.filter(|register| register.state.is_active()) {
            irq.active_priority = register.priority;
            irq.active_group1 = register.group1;
            irq.active_source = match register.backing {
                Backing::Software { source, .. } => source,
                Backing::Physical(_) => 0,
            };
        }
        irq.active = state.is_active();
        irq.active_on = vcpu;
        if let Some(active) = irq.set_active.take() {
            self.write_active(slot, vcpu, active);
        }
        self.requeue(vcpu, slot, interface);
    }

    /// Puts an interrupt that was taken out of its list register where its state wants it.
    #[inline]
    pub(super) fn requeue<V: VirtualInterface>(&mut self, vcpu: u8, slot: Slot, interface: &mut V) {
        let irq = &mut self.irqs[slot];
        irq.place = Place::Idle;
        if !irq.is_idle() {
            self.requeue_busy(vcpu, slot, interface);
        }
    }

    fn requeue_busy<V: VirtualInterface>(&mut self, vcpu: u8, slot: Slot, interface: &mut V) {
        self.settle(slot, vcpu, interface);
        // First of its priority: it was chosen before those that wait.
        match self.irqs[slot].wanted_place() {
            Place::Pending { cpu, group1, level } if cpu == vcpu => {
                self.irqs[slot].place = Place::Pending { cpu, group1, level };
                let Self { irqs, cpus, .. } = self;
                if let Some(cpu) = cpus.get_mut(usize::from(cpu)) {
                    cpu.queue(group1).push_front(irqs, slot, level);
                }
            }
            place => self.link(slot, place),
        }
    }

    /// Makes an interrupt that is in no list register active or inactive.
    pub(in crate::vgic) fn write_active(&mut self, slot: Slot, vcpu: u8, active: bool) {
        let irq = &mut self.irqs[slot];
        if active && !irq.active {
            irq.active_on = vcpu;
            irq.active_priority = irq.priority;
            irq.active_group1 = irq.group1;
            irq.active_source = 0;
        }
        irq.active = active;
    }

    /// Deactivates the physical interrupt if the guest will not do it, because nothing is left of the virtual one.
    pub(in crate::vgic) fn settle<V: VirtualInterface>(&mut self, slot: Slot, vcpu: u8, interface: &mut V) {
        let owner = self.owner(slot);
        let irq = &mut self.irqs[slot];
        if !irq.physical_active || irq.active || irq.latch != 0 || irq.resident_on().is_some() {
            return;
        }
        irq.physical_active = false;
        let Some(physical) = irq.physical else { return };
        match owner {
            Some(owner) if owner != vcpu => {
                // An unloaded vCPU's PPI is not active in hardware.
                let interrupt = self.interrupt(slot);
                if let Some(cpu) = self.cpu_mut(owner).filter(|cpu| cpu.interface.is_loaded()) {
                    cpu.interface.deactivate |= 1 << (interrupt.0 % 32);
                    self.attend(owner);
                }
            }
            _ => interface.deactivate(physical),
        }
    }

    /// vCPUs other than `vcpu` whose list registers know more about this interrupt than the queues.
    pub(in crate::vgic) fn ahead(&self, slot: Slot, vcpu: u8) -> VcpuSet {
        match self.irqs[slot].resident_on() {
            Some(holder) if holder != vcpu && self.cpu(holder).is_some_and(|cpu| cpu.interface.runs_ahead()) => {
                VcpuSet::only(holder)
            }
            _ => VcpuSet::EMPTY,
        }
    }

    /// Whether `vcpu` may read state that the list registers of `holders` held: they have read back since it asked. If not,
    /// they are asked.
    pub(in crate::vgic) fn observe(&mut self, vcpu: u8, holders: VcpuSet) -> bool {
        let Some(cpu) = self.cpu_mut(vcpu) else { return true };
        let missing = VcpuSet(holders.0 & !cpu.interface.observed.0);
        if missing.is_empty() {
            cpu.interface.observed = VcpuSet::EMPTY;
            return true;
        }
        for holder in missing.iter() {
            if let Some(cpu) = self.cpu_mut(holder) {
                cpu.interface.observers.insert(vcpu);
            }
            self.attend(holder);
        }
        false
    }
}
