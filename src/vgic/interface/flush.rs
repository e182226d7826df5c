//! What the list registers of a loaded vCPU are to hold, and how it gets there.

use super::{Known, MAX_LIST_REGISTERS, at, bits, existing};
use crate::ids::VcpuSet;
use crate::trace::Kind;
use crate::vgic::irq::{Place, Slot};
use crate::vgic::list_register::{Backing, ListRegister, LrState, VirtualInterface};
use crate::vgic::{Cpu, Version, Vgic};

impl Vgic {
    /// Loads the vCPU's most urgent interrupts into list registers: when it is loaded, and whenever
    /// [`Self::needs_flush`] says so before it runs on. Returns other vCPUs that got an interrupt by it.
    pub fn flush<V: VirtualInterface>(&mut self, vcpu: u8, interface: &mut V) -> VcpuSet {
        if vcpu >= self.config.vcpus {
            return VcpuSet::EMPTY;
        }
        if self.cpu(vcpu).is_some_and(|cpu| cpu.interface.is_parked()) && !self.load(vcpu, interface) {
            return VcpuSet::EMPTY;
        }
        if self.top_up(vcpu, interface) {
            return self.take_others(vcpu);
        }
        self.read_back(vcpu, interface);
        let capacity = interface.list_registers().clamp(1, MAX_LIST_REGISTERS);
        let (chosen, active_left) = self.choose(vcpu, capacity);
        let pending_left = self
            .cpu(vcpu)
            .is_some_and(|cpu| cpu.first_pending(self.groups).is_some());
        let some_pending = chosen.iter().any(|slot| !self.irqs[*slot].active);

        // Then the next end must be known, whichever it is.
        let announce = active_left || (pending_left && !some_pending);
        let Some(own) = self.cpus.get(usize::from(vcpu)).map(|cpu| &cpu.interface) else {
            return VcpuSet::EMPTY;
        };
        let before = own.used;
        let mut kept = 0;
        for index in bits(before) {
            let irq = &mut self.irqs[own.slots[at(index)]];
            if irq.place == (Place::Resident { cpu: vcpu }) {
                irq.lr = index as u8;
                kept |= 1 << index;
            }
        }
        let mut free = !kept & (u32::MAX >> (32 - capacity)) as u16;
        for slot in chosen {
            let register = self.compose(vcpu, slot, announce);
            let irq = &mut self.irqs[slot];
            let Some(own) = self.cpus.get_mut(usize::from(vcpu)).map(|cpu| &mut cpu.interface) else {
                break;
            };
            let mut index = u32::from(irq.lr);
            let stays = kept & 1 << (index % 16) != 0 && own.slots[at(index)] == slot;
            // One that was active alone may be pending again, in the same list register.
            let shown = stays && own.contents[at(index)].state.is_pending();
            if !stays {
                index = free.trailing_zeros() % 16;
                free &= !(1 << index);
                irq.lr = index as u8;
            }
            if register.state.is_pending() && !shown {
                own.injected += 1;
                interface.trace(Kind::Injected, register.interrupt);
            }
            let bit = 1 << index;
            if own.used & bit == 0 || own.contents[at(index)] != register {
                interface.write(at(index), Some(register));
            }
            own.keep(at(index), slot, register);
        }
        // What is still free and was in use holds an interrupt that went elsewhere.
        for index in bits(before & free) {
            interface.write(at(index), None);
        }

        let wanted = pending_left && some_pending;
        let kick = self.take_others(vcpu);
        if let Some(cpu) = self.cpu_mut(vcpu) {
            let own = &mut cpu.interface;
            own.used &= !free;
            if own.no_pending != wanted {
                own.no_pending = wanted;
                interface.set_no_pending(wanted);
            }
            own.overflow = pending_left || active_left;
            own.existing = existing(interface);
            own.known = Known::Registers;
            own.dirty = false;
            own.reorder = false;
            own.news = 0;
        }
        kick
    }

    /// The flush of a vCPU whose list registers hold everything but some pending interrupts, for which there is room: those
    /// that are in use stay as they are. `false`: it is not as simple as that.
    #[inline]
    fn top_up<V: VirtualInterface>(&mut self, vcpu: u8, interface: &mut V) -> bool {
        let Some(cpu) = self.cpus.get_mut(usize::from(vcpu)) else {
            return false;
        };
        if !cpu.active.is_empty() {
            return false;
        }
        let own = &mut cpu.interface;
        if own.runs_ahead() {
            if own.reorder || own.overflow {
                return false;
            }
            let news = own.news;
            if news != 0 {
                // What is pending again goes behind its end only when the guest has come to that.
                let ended = interface.free();
                if news & !ended != 0 || !bits(news).all(|index| self.renew(vcpu, index, interface)) {
                    return false;
                }
            }
        } else {
            // They were read back, or are another vCPU's no more: all are free.
            if own.used != 0 || own.deactivate != 0 {
                return false;
            }
            if core::mem::take(&mut own.no_pending) {
                interface.set_no_pending(false);
            }
            own.overflow = false;
            own.existing = existing(interface);
            own.known = Known::Registers;
            own.reorder = false;
            own.news = 0;
        }
        while self.cpus.get(usize::from(vcpu)).is_some_and(Cpu::has_pending) {
            if !self.fill_one(vcpu, interface) {
                break;
            }
        }
        let Some(cpu) = self.cpus.get_mut(usize::from(vcpu)) else {
            return false;
        };
        // What is still pending is of a group that is not enabled, or has no room.
        let done = !cpu.has_pending() || cpu.first_pending(self.groups).is_none();
        cpu.interface.dirty = !done;
        done
    }

    /// Moves the first pending interrupt into a free list register. `false`: there is none of either.
    fn fill_one<V: VirtualInterface>(&mut self, vcpu: u8, interface: &mut V) -> bool {
        let groups = self.groups;
        let Some(cpu) = self.cpus.get(usize::from(vcpu)) else {
            return false;
        };
        let Some((_, slot)) = cpu.first_pending(groups) else {
            return false;
        };
        let used = cpu.interface.used;
        let mut room = cpu.interface.existing & !used;
        if room == 0 {
            room = interface.free() & used;
            if room == 0 || !self.take_ended(vcpu, room.trailing_zeros(), interface) {
                return false;
            }
        }
        let index = room.trailing_zeros();
        self.occupy(vcpu, slot);
        self.irqs[slot].lr = index as u8;
        self.put(vcpu, index, slot, interface);
        true
    }

    /// Writes a list register for an interrupt that is chosen for it.
    #[inline]
    fn put<V: VirtualInterface>(&mut self, vcpu: u8, index: u32, slot: Slot, interface: &mut V) {
        let register = self.compose(vcpu, slot, false);
        if let Some(cpu) = self.cpus.get_mut(usize::from(vcpu)) {
            cpu.interface.hold(index as u8, slot, register, interface);
        }
    }

    /// The guest has emptied a list register whose interrupt has news: if that is pending again, it gets the same one.
    /// `false`: it is not as simple as that.
    #[inline]
    fn renew<V: VirtualInterface>(&mut self, vcpu: u8, index: u32, interface: &mut V) -> bool {
        let groups = self.groups;
        let Some(cpu) = self.cpus.get_mut(usize::from(vcpu)) else {
            return false;
        };
        let own = &mut cpu.interface;
        let slot = own.slots[at(index)];
        let irq = &mut self.irqs[slot];
        if own.contents[at(index)].asks_for_maintenance() || irq.set_active.is_some() {
            return false;
        }
        own.news &= !(1 << at(index));
        irq.end(own.contents[at(index)].backing);
        interface.trace(Kind::Ended, own.contents[at(index)].interrupt);
        if irq.deliverable() && irq.target == vcpu && groups.has(irq.group1) {
            self.put(vcpu, index, slot, interface);
        } else {
            own.used &= !(1 << at(index));
            self.requeue(vcpu, slot, interface);
        }
        true
    }

    /// Takes back the interrupt of a list register that the guest has emptied. `false`: it asks for maintenance until it
    /// is written, or its interrupt is active all the same.
    pub(super) fn take_ended<V: VirtualInterface>(&mut self, vcpu: u8, index: u32, interface: &mut V) -> bool {
        let Some(cpu) = self.cpus.get_mut(usize::from(vcpu)) else {
            return false;
        };
        let own = &mut cpu.interface;
        let (slot, written) = (own.slots[at(index)], own.contents[at(index)]);
        if written.asks_for_maintenance() || self.irqs[slot].set_active.is_some() {
            return false;
        }
        own.used &= !(1 << at(index));
        own.news &= !(1 << at(index));
        self.irqs[slot].end(written.backing);
        interface.trace(Kind::Ended, written.interrupt);
        self.requeue(vcpu, slot, interface);
        true
    }

    /// Takes up to `capacity` interrupts out of the queues, innermost active first. Whether active ones were left over.
    fn choose(&mut self, vcpu: u8, capacity: usize) -> (heapless::Vec<Slot, MAX_LIST_REGISTERS>, bool) {
        let mut chosen = heapless::Vec::<Slot, MAX_LIST_REGISTERS>::new();
        let groups = self.groups;
        while chosen.len() < capacity {
            let Some(cpu) = self.cpu(vcpu) else { break };
            let Some(slot) = cpu
                .active
                .first()
                .or_else(|| cpu.first_pending(groups).map(|(_, slot)| slot))
            else {
                break;
            };
            self.occupy(vcpu, slot);
            let _ = chosen.push(slot);
        }
        // Full of active interrupts: one that would preempt them all takes the place of the outermost. A lone list register
        // keeps the active one, which the guest may end before it takes the other.
        let full =
            capacity > 1 && chosen.len() == capacity && chosen.last().is_some_and(|slot| self.irqs[*slot].active);
        if full
            && let Some((level, slot)) = self.cpu(vcpu).and_then(|cpu| cpu.first_pending(groups))
            && chosen
                .first()
                .is_some_and(|innermost| level < self.irqs[*innermost].active_priority >> 3)
            && let Some(outermost) = chosen.pop()
        {
            let place = self.irqs[outermost].wanted_place();
            self.irqs[outermost].place = place;
            if let Place::Active { level, .. } = place {
                let Self { irqs, cpus, .. } = self;
                if let Some(cpu) = cpus.get_mut(usize::from(vcpu)) {
                    cpu.active.push_front(irqs, outermost, level);
                }
            }
            self.occupy(vcpu, slot);
            let _ = chosen.push(slot);
        }
        let left = self.cpu(vcpu).is_some_and(|cpu| !cpu.active.is_empty());
        (chosen, left)
    }

    fn occupy(&mut self, vcpu: u8, slot: Slot) {
        self.unlink(slot);
        self.irqs[slot].place = Place::Resident { cpu: vcpu };
    }

    /// The list register of a chosen interrupt, into which its latch moves. `announce`: its end must be known.
    fn compose(&mut self, vcpu: u8, slot: Slot, announce: bool) -> ListRegister {
        let interrupt = self.interrupt(slot);
        let by_source = self.config.version == Version::V2 && interrupt.is_sgi();
        let groups = self.groups;
        let irq = &mut self.irqs[slot];
        let (state, taken, comes_again) = if irq.active {
            let deliverable = irq.deliverable() && groups.has(irq.group1);
            // Level-sensitive, by source, in hardware, or with another priority: the second one waits for the first one's end.
            let both = deliverable
                && irq.edge
                && irq.target == vcpu
                && irq.priority == irq.active_priority
                && irq.group1 == irq.active_group1
                && !by_source
                && !irq.physical_active
                && !announce;
            if both {
                (LrState::PendingAndActive, irq.latch, false)
            } else {
                (LrState::Active, 0, deliverable)
            }
        } else {
            let taken = if by_source {
                irq.latch & irq.latch.wrapping_neg()
            } else {
                irq.latch
            };
            let line = irq.line && !irq.edge;
            (LrState::Pending, taken, line || irq.latch != taken)
        };
        irq.latch_in_lr = taken;
        irq.latch &= !taken;
        let maintenance = comes_again || announce;
        let source = match state {
            LrState::Pending if by_source => taken.trailing_zeros() as u8 & 7,
            _ if by_source => irq.active_source,
            _ => 0,
        };
        let (priority, group1) = match irq.active {
            true => (irq.active_priority, irq.active_group1),
            false => (irq.priority, irq.group1),
        };
        ListRegister {
            interrupt,
            priority,
            group1,
            state,
            backing: match irq.physical {
                Some(physical) if irq.physical_active && !maintenance => Backing::Physical(physical),
                _ => Backing::Software { maintenance, source },
            },
        }
    }
}
