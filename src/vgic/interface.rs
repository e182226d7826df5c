//! Between the queues and a loaded vCPU's list registers.
//!
//! A flush first reads everything back into the queues, then chooses anew: active interrupts first, innermost first, since
//! the guest can end only what a list register holds; then pending ones by urgency. An interrupt that stays keeps its list
//! register, which is written only if its value differs.

mod line;

use super::irq::{Place, Slot};
use super::list_register::{Backing, ListRegister, LrState, PriorityMask, VirtualInterface};
use super::{Cpu, Version, Vgic};
use crate::ids::{IntId, VcpuSet};
use crate::trace::Kind;

/// List registers that an implementation can have.
const MAX_LIST_REGISTERS: usize = 16;

/// One vCPU's view of its list registers. The first four are looked at together.
#[derive(Debug)]
#[repr(C)]
pub(super) struct VcpuInterface {
    /// The list registers do not show everything.
    pub(super) dirty: bool,
    /// The list registers of some pCPU belong to this vCPU.
    loaded: bool,
    /// They were read back since the last flush: the queues hold everything, the hardware's content is stale.
    synced: bool,
    /// Interrupts that are pending, or active, were left over by the last flush.
    overflow: bool,
    /// More than pending interrupts is to be brought into them: a flush must read back and choose anew. Then `dirty` too.
    pub(super) reorder: bool,
    /// The maintenance interrupt for "no pending" is asked for; then `overflow` too.
    no_pending: bool,
    /// List registers whose interrupt has news, a bit each. If there are any, `dirty` too.
    pub(super) news: u16,
    /// What the guest let through when its list registers were last given up or it waited for an interrupt.
    mask: PriorityMask,
    /// List registers in use, a bit each.
    used: u16,
    /// The interrupt in each list register in use.
    slots: [Slot; MAX_LIST_REGISTERS],
    /// What each list register in use was written with, or contained when it was read back.
    contents: [ListRegister; MAX_LIST_REGISTERS],
    /// PPIs whose physical interrupt this vCPU's pCPU must deactivate.
    deactivate: u32,
    /// Interrupts that were put into list registers to be taken.
    pub(super) injected: u64,
    /// vCPUs that want to read state which this one's list registers hold.
    pub(super) observers: VcpuSet,
    /// vCPUs that have read back since this one asked for it.
    pub(super) observed: VcpuSet,
}

/// A list register's index, in arrays of as many as there can be.
const fn at(index: u32) -> usize {
    index as usize % MAX_LIST_REGISTERS
}

/// The bits of a set, lowest first.
fn bits(mut set: u16) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let index = (set != 0).then(|| set.trailing_zeros())?;
        set &= set - 1;
        Some(index)
    })
}

/// The list registers that there are, a bit each.
#[inline]
fn existing<V: VirtualInterface>(interface: &V) -> u16 {
    (u32::MAX >> (32 - interface.list_registers().clamp(1, MAX_LIST_REGISTERS))) as u16
}

impl VcpuInterface {
    pub(super) const fn new() -> Self {
        Self {
            dirty: true,
            reorder: true,
            news: 0,
            loaded: false,
            synced: false,
            overflow: false,
            no_pending: false,
            mask: PriorityMask {
                threshold: 0,
                group0: false,
                group1: false,
            },
            used: 0,
            slots: [Slot::NONE; MAX_LIST_REGISTERS],
            contents: [ListRegister::FREE; MAX_LIST_REGISTERS],
            deactivate: 0,
            injected: 0,
            observers: VcpuSet::EMPTY,
            observed: VcpuSet::EMPTY,
        }
    }

    /// The list registers are as the last flush left them, and something did not fit.
    pub(super) const fn overflows(&self) -> bool {
        self.loaded && self.overflow && !self.dirty
    }

    /// The list registers are in use as the last flush left them, and nothing waits for one.
    #[inline(always)]
    pub(super) const fn shows_everything(&self) -> bool {
        let flags = [
            self.dirty as u8,
            self.loaded as u8,
            self.synced as u8,
            self.overflow as u8,
        ];
        u32::from_le_bytes(flags) == u32::from_le_bytes([0, 1, 0, 0])
    }

    /// What list register `index` was written with, if that was a pending interrupt with this behind it, whose end the
    /// guest has come to.
    #[inline(always)]
    pub(super) fn ended_pending<V: VirtualInterface>(
        &self,
        index: u8,
        backing: Backing,
        interface: &V,
    ) -> Option<(usize, ListRegister)> {
        let index = at(index.into());
        let content = self.contents[index];
        let same = content.state == LrState::Pending && content.backing == backing;
        (same && interface.free() >> index & 1 != 0).then_some((index, content))
    }

    /// A list register that was not in use.
    #[inline(always)]
    pub(super) fn unused<V: VirtualInterface>(&self, interface: &V) -> Option<u8> {
        let free = existing(interface) & !self.used;
        (free != 0).then(|| free.trailing_zeros() as u8)
    }

    /// That list register, if the guest has ended what it held and it may be written at once.
    #[inline(always)]
    pub(super) fn ended<V: VirtualInterface>(&self, index: u8, interface: &V) -> Option<u8> {
        let free = interface.free() >> (index % 16) & 1 != 0;
        (free && !self.contents[at(index.into())].asks_for_maintenance()).then_some(index)
    }

    /// Writes a list register that the hardware has free.
    #[inline(always)]
    pub(super) fn hold<V: VirtualInterface>(
        &mut self,
        index: u8,
        slot: Slot,
        register: ListRegister,
        interface: &mut V,
    ) {
        let index = at(index.into());
        interface.write(index, Some(register));
        if register.state.is_pending() {
            interface.trace(Kind::Injected, register.interrupt);
            self.injected += 1;
        }
        self.slots[index] = slot;
        self.contents[index] = register;
        self.used |= 1 << index;
    }

    /// The hardware knows more than the queues.
    #[inline(always)]
    pub(super) const fn runs_ahead(&self) -> bool {
        self.loaded && !self.synced
    }
}

impl Vgic {
    /// Reads the loaded vCPU's list registers back: after an exit that needs their state, or at a maintenance interrupt.
    /// It must [`Self::flush`] before it runs on. Returns other vCPUs that got an interrupt by it.
    pub fn sync<V: VirtualInterface>(&mut self, vcpu: u8, interface: &mut V) -> VcpuSet {
        self.read_back(vcpu, interface);
        self.take_others(vcpu)
    }

    /// Loads the vCPU's most urgent interrupts into list registers: when it is loaded, and whenever
    /// [`Self::needs_flush`] says so before it runs on. Returns other vCPUs that got an interrupt by it.
    pub fn flush<V: VirtualInterface>(&mut self, vcpu: u8, interface: &mut V) -> VcpuSet {
        if vcpu >= self.config.vcpus {
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
            own.slots[at(index)] = slot;
            own.contents[at(index)] = register;
            own.used |= bit;
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
            own.loaded = true;
            own.synced = false;
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
            own.loaded = true;
            own.synced = false;
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
        let mut room = existing(interface) & !used;
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
    fn take_ended<V: VirtualInterface>(&mut self, vcpu: u8, index: u32, interface: &mut V) -> bool {
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

    /// Takes the vCPU off its pCPU: reads its list registers back and leaves them free. Returns other vCPUs that got an
    /// interrupt by it.
    pub fn unload<V: VirtualInterface>(&mut self, vcpu: u8, interface: &mut V) -> VcpuSet {
        self.read_back(vcpu, interface);
        if let Some(cpu) = self.cpu_mut(vcpu) {
            let own = &mut cpu.interface;
            own.mask = interface.mask();
            for index in bits(core::mem::take(&mut own.used)) {
                interface.write(at(index), None);
            }
            if own.no_pending {
                interface.set_no_pending(false);
            }
            own.no_pending = false;
            own.overflow = false;
            own.loaded = false;
            own.dirty = true;
            own.reorder = true;
        }
        self.take_others(vcpu)
    }

    /// The loaded vCPU is powered off: as [`Self::unload`]; and of the physical interrupts behind its PPIs none is active or
    /// pending any more, as after the reset that it begins with when it is powered on.
    pub fn power_off<V: VirtualInterface>(&mut self, vcpu: u8, interface: &mut V) -> VcpuSet {
        let kick = self.unload(vcpu, interface);
        for interrupt in IntId::FIRST_PPI..IntId::FIRST_SPI {
            let Some(slot) = self.private_slot(vcpu, interrupt) else {
                continue;
            };
            let irq = &mut self.irqs[slot];
            let Some(physical) = irq.physical else { continue };
            if irq.physical_active {
                interface.deactivate(physical);
            }
            irq.physical_active = false;
            irq.physical_again = false;
            irq.latch = 0;
            irq.active = false;
            self.update(slot);
        }
        VcpuSet(kick.0 | self.take_others(vcpu).0)
    }

    /// The loaded vCPU wants to wait for an interrupt: reads its list registers back and remembers what the guest lets
    /// through, so that [`Self::has_deliverable`] is exact until it runs on.
    pub fn wait<V: VirtualInterface>(&mut self, vcpu: u8, interface: &mut V) -> VcpuSet {
        self.read_back(vcpu, interface);
        if let Some(cpu) = self.cpu_mut(vcpu) {
            cpu.interface.mask = interface.mask();
        }
        self.take_others(vcpu)
    }

    /// Whether an interrupt would wake a vCPU that waits ([`Self::wait`]) or is unloaded: pending, enabled, its group
    /// enabled in the distributor and by the guest, and more urgent than the guest's mask.
    pub fn has_deliverable(&self, vcpu: u8) -> bool {
        self.cpu(vcpu).is_some_and(|cpu| {
            let [group0_queue, group1_queue] = &cpu.pending;
            [(group0_queue, false), (group1_queue, true)]
                .into_iter()
                .any(|(queue, group1)| {
                    !queue.is_empty()
                        && self.groups.has(group1)
                        && cpu.interface.mask.accepts(queue.best_level().saturating_mul(8), group1)
                })
        })
    }

    /// Whom the operation concerned besides the vCPU whose list registers are at hand.
    fn take_others(&mut self, vcpu: u8) -> VcpuSet {
        VcpuSet(self.take_kick().0 & !VcpuSet::only(vcpu).0)
    }

    /// Brings everything that the list registers hold back into the queues; once between two flushes.
    pub(super) fn read_back<V: VirtualInterface>(&mut self, vcpu: u8, interface: &mut V) {
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
        own.synced = true;
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
                    if irq.set_active.is_none() {
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
    fn deactivate_own<V: VirtualInterface>(&mut self, vcpu: u8, ppis: u32, interface: &mut V) {
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
    fn requeue<V: VirtualInterface>(&mut self, vcpu: u8, slot: Slot, interface: &mut V) {
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
    pub(super) fn write_active(&mut self, slot: Slot, vcpu: u8, active: bool) {
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
    pub(super) fn settle<V: VirtualInterface>(&mut self, slot: Slot, vcpu: u8, interface: &mut V) {
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
                if let Some(cpu) = self.cpu_mut(owner).filter(|cpu| cpu.interface.loaded) {
                    cpu.interface.deactivate |= 1 << (interrupt.0 % 32);
                    self.attend(owner);
                }
            }
            _ => interface.deactivate(physical),
        }
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
            // Level-sensitive, by source, or in hardware: the second one waits for the first one's end.
            let both = deliverable
                && irq.edge
                && irq.target == vcpu
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

    /// vCPUs other than `vcpu` whose list registers know more about this interrupt than the queues.
    pub(super) fn ahead(&self, slot: Slot, vcpu: u8) -> VcpuSet {
        match self.irqs[slot].resident_on() {
            Some(holder) if holder != vcpu && self.cpu(holder).is_some_and(|cpu| cpu.interface.runs_ahead()) => {
                VcpuSet::only(holder)
            }
            _ => VcpuSet::EMPTY,
        }
    }

    /// Whether `vcpu` may read state that the list registers of `holders` held: they have read back since it asked. If not,
    /// they are asked.
    pub(super) fn observe(&mut self, vcpu: u8, holders: VcpuSet) -> bool {
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
