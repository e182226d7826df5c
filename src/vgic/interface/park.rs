//! A vCPU that does not run: what becomes of what its list registers hold.
//!
//! A vCPU is unloaded far more often than anybody asks for the state of its interrupts. So it is *parked*: the state of each
//! list register that the guest has not emptied is kept as it is, and written again when the vCPU is loaded. An interrupt
//! that comes meanwhile goes into a list register as it will be, past the queues, on the conditions of
//! [`at_once`](crate::vgic). News for an interrupt that is held waits in the queues for the next flush, as it does while the
//! vCPU runs. Whoever asks for the state of such an interrupt, or changes what decides where it goes, has it
//! [fetched](Vgic::fetch): then the vCPU is unloaded in earnest, with everything in the queues.
//!
//! What must be known of an interrupt while its vCPU is away is not left in a list register: one with a physical interrupt
//! that the guest has ended is taken back, and where a maintenance interrupt was asked for, all are.

use super::{Known, MAX_LIST_REGISTERS, VcpuInterface, at, bits};
use crate::ids::{IntId, VcpuSet};
use crate::trace::Kind;
use crate::vgic::Vgic;
use crate::vgic::irq::{Place, Slot};
use crate::vgic::list_register::{Backing, ListRegister, LrState, PriorityMask, VirtualInterface};

/// The list registers of a parked vCPU, for [`Vgic::read_back`].
struct Parked<'a, V> {
    contents: [ListRegister; MAX_LIST_REGISTERS],
    free: u16,
    /// Physical PPIs of the vCPU's own pCPU that are to be deactivated, a bit each.
    private: u32,
    interface: &'a mut V,
}

impl<V: VirtualInterface> VirtualInterface for Parked<'_, V> {
    fn list_registers(&self) -> usize {
        MAX_LIST_REGISTERS
    }
    fn read(&self, index: usize) -> Option<ListRegister> {
        self.contents.get(index).copied()
    }
    // They are forgotten afterwards.
    fn write(&mut self, _: usize, _: Option<ListRegister>) {}
    fn free(&self) -> u16 {
        self.free
    }
    // None is asked for while a vCPU is parked.
    fn set_no_pending(&mut self, _: bool) {}
    fn mask(&self) -> PriorityMask {
        PriorityMask::default()
    }
    fn deactivate(&mut self, physical: IntId) {
        if physical.is_private() {
            self.private |= 1 << (physical.0 % 32);
        } else {
            self.interface.deactivate(physical);
        }
    }
    // Events are the loaded vCPU's.
    fn trace(&mut self, _: Kind, _: IntId) {}
}

impl VcpuInterface {
    /// Keeps what the list registers hold and frees them.
    #[inline(always)]
    fn put_registers_by<V: VirtualInterface>(&mut self, interface: &mut V) {
        if self.used == 0 {
            return;
        }
        let free = interface.free();
        self.ended = self.used & free;
        let held = self.used & !free;
        if held != 0 {
            self.take_registers(held, interface);
        }
    }

    #[inline(never)]
    fn take_registers<V: VirtualInterface>(&mut self, held: u16, interface: &mut V) {
        for index in bits(held) {
            self.contents[at(index)].state = interface.state(at(index));
            interface.write(at(index), None);
        }
    }

    /// Fills list registers, a bit each, with what was kept.
    #[inline(never)]
    fn fill_registers<V: VirtualInterface>(&mut self, held: u16, interface: &mut V) {
        for index in bits(held) {
            let register = self.contents[at(index)];
            interface.write(at(index), Some(register));
            if self.untold & 1 << index != 0 {
                interface.trace(Kind::Injected, register.interrupt);
            }
        }
        self.untold = 0;
    }
}

impl Vgic {
    /// Takes the vCPU off its pCPU and leaves its list registers free, with what they hold kept for [`Self::load`]. Returns
    /// other vCPUs that got an interrupt by it.
    #[inline(always)]
    pub fn park<V: VirtualInterface>(&mut self, vcpu: u8, interface: &mut V) -> VcpuSet {
        if let Some(cpu) = self.cpus.get_mut(usize::from(vcpu)) {
            let own = &mut cpu.interface;
            if own.shows_everything() && own.special & own.used == 0 {
                own.put_registers_by(interface);
                own.known = Known::Parked;
                return VcpuSet::EMPTY;
            }
        }
        self.park_slowly(vcpu, interface)
    }

    /// As [`Self::park`], if [`Self::shows_nothing`] and no physical interrupt is behind what was shown. `false`: nothing was
    /// done.
    #[inline(always)]
    pub fn park_ended(&mut self, vcpu: u8) -> bool {
        let Some(cpu) = self.cpus.get_mut(usize::from(vcpu)) else {
            return false;
        };
        let own = &mut cpu.interface;
        if own.special & own.used != 0 {
            return false;
        }
        own.ended = own.used;
        own.known = Known::Parked;
        true
    }

    #[inline(never)]
    fn park_slowly<V: VirtualInterface>(&mut self, vcpu: u8, interface: &mut V) -> VcpuSet {
        if self.put_by(vcpu, Known::Parked, interface) {
            return self.take_others(vcpu);
        }
        self.unload(vcpu, interface)
    }

    /// The vCPU stays loaded, but does not run before a [`Self::flush`]: nobody has to wait for that to see what its list
    /// registers hold. Returns other vCPUs that got an interrupt by it.
    pub fn rest<V: VirtualInterface>(&mut self, vcpu: u8, interface: &mut V) -> VcpuSet {
        if self.put_by(vcpu, Known::Resting, interface) {
            return self.take_others(vcpu);
        }
        self.sync(vcpu, interface)
    }

    /// Puts what a vCPU was parked with back into list registers, which all are free. Whether it must [`Self::flush`]
    /// besides.
    #[inline(always)]
    pub fn load<V: VirtualInterface>(&mut self, vcpu: u8, interface: &mut V) -> bool {
        let Some(cpu) = self.cpus.get_mut(usize::from(vcpu)) else {
            return true;
        };
        let own = &mut cpu.interface;
        if own.is_parked() {
            own.known = Known::Registers;
            let held = own.used & !own.ended;
            if held != 0 {
                own.fill_registers(held, interface);
            }
        }
        own.dirty
    }

    /// As [`Self::pulse_private`] and then [`Self::load`], of a vCPU that is parked.
    #[inline(always)]
    pub fn load_pulsed<V: VirtualInterface>(&mut self, vcpu: u8, interrupt: IntId, interface: &mut V) -> bool {
        !self.load_repeated(vcpu, interrupt, interface) && self.pulse_loaded(vcpu, interrupt, interface)
    }

    /// [`Self::load_pulsed`], if everything that was held has ended, and the same is written again that a list register held
    /// last (`at_once`). `false`: nothing was done.
    #[inline(always)]
    fn load_repeated<V: VirtualInterface>(&mut self, vcpu: u8, interrupt: IntId, interface: &mut V) -> bool {
        let (Some(private), Some(cpu)) = (self.irqs.private(vcpu), self.cpus.get_mut(usize::from(vcpu))) else {
            return false;
        };
        let irq = &private[(interrupt.0 % IntId::FIRST_SPI) as usize];
        let own = &mut cpu.interface;
        let is_ppi = interrupt.is_private() && !interrupt.is_sgi();
        if !is_ppi || !own.is_parked_quietly() || !irq.is_ready() {
            return false;
        }
        let index = at(irq.lr.into());
        // Nothing but software is behind what is in a list register that is not special; of a PPI, no source besides.
        let may_repeat = own.ended & !own.special;
        if own.used & !own.ended != 0 || may_repeat >> index & 1 == 0 {
            return false;
        }
        if !matches!(irq.place, Place::Resident { cpu } if cpu == vcpu) {
            return false;
        }
        let content = &own.contents[index];
        if content.state != LrState::Pending {
            return false;
        }
        // Piece by piece: what is known of it is put together at once.
        let register = ListRegister {
            interrupt,
            priority: content.priority,
            group1: content.group1,
            state: LrState::Pending,
            backing: Backing::QUIET,
        };
        interface.write(index, Some(register));
        interface.trace(Kind::Injected, interrupt);
        own.known = Known::Registers;
        own.injected += 1;
        true
    }

    #[inline(never)]
    fn pulse_loaded<V: VirtualInterface>(&mut self, vcpu: u8, interrupt: IntId, interface: &mut V) -> bool {
        // What the list registers held comes first.
        let dirty = self.load(vcpu, interface);
        if !dirty && self.pulse_private_at_once(vcpu, interrupt, interface) {
            return false;
        }
        // It looks itself.
        let _ = self.pulse_private(vcpu, interrupt);
        true
    }

    /// Keeps what the list registers hold and frees them. `false`: they are for more than that allows.
    fn put_by<V: VirtualInterface>(&mut self, vcpu: u8, how: Known, interface: &mut V) -> bool {
        let Some(cpu) = self.cpus.get_mut(usize::from(vcpu)) else {
            return true;
        };
        let own = &mut cpu.interface;
        match own.known {
            Known::Registers => {
                if own.reorder || own.overflow || own.news != 0 {
                    return false;
                }
                if own.special & own.used != 0 && !self.take_special_ended(vcpu, interface) {
                    return false;
                }
            }
            Known::Queues => {
                if own.used != 0 || own.deactivate != 0 || own.no_pending {
                    return false;
                }
                own.overflow = false;
                own.reorder = false;
                own.news = 0;
                let waits = !cpu.active.is_empty() || cpu.has_pending();
                cpu.interface.dirty = waits;
            }
            Known::Resting if own.deactivate != 0 => return false,
            Known::Parked | Known::Resting => {}
            Known::Nowhere => return true,
        }
        if let Some(cpu) = self.cpus.get_mut(usize::from(vcpu)) {
            let own = &mut cpu.interface;
            if own.known == Known::Registers {
                own.put_registers_by(interface);
            }
            own.known = how;
        }
        true
    }

    /// Takes back the interrupts with physical ones behind them that the guest has ended. `false`: maintenance is asked for.
    #[inline(never)]
    fn take_special_ended<V: VirtualInterface>(&mut self, vcpu: u8, interface: &mut V) -> bool {
        let Some(own) = self.cpu(vcpu).map(|cpu| &cpu.interface) else {
            return false;
        };
        let special = own.special & own.used;
        if bits(special).any(|index| own.contents[at(index)].asks_for_maintenance()) {
            return false;
        }
        bits(special & interface.free()).all(|index| self.take_ended(vcpu, index, interface))
    }

    /// An interrupt without a source is pending, and nothing else has changed: into a list register of the parked vCPU that
    /// it goes to, as a flush would put it there. `false`: it is not as simple as that, and nothing was done.
    #[inline(always)]
    pub(in crate::vgic) fn pulse_parked(&mut self, slot: Slot) -> bool {
        let irq = &self.irqs[slot];
        let target = irq.target;
        let Some(cpu) = self.cpus.get_mut(usize::from(target)) else {
            return false;
        };
        let own = &mut cpu.interface;
        if !own.is_parked() || own.dirty || !irq.is_ready() {
            return false;
        }
        // Mostly its list register held it last, and the same is written again (`at_once`).
        let index = at(irq.lr.into());
        let content = &own.contents[index];
        let again = irq.place == (Place::Resident { cpu: target })
            && own.ended & 1 << index != 0
            && !irq.physical_active
            && content.state == LrState::Pending
            && content.backing == Backing::QUIET;
        if !again && !self.fill_parked(slot, target) {
            return false;
        }
        let Some(cpu) = self.cpus.get_mut(usize::from(target)) else {
            return false;
        };
        let own = &mut cpu.interface;
        let bit = 1 << at(self.irqs[slot].lr.into());
        own.ended &= !bit;
        own.untold |= bit;
        own.injected += 1;
        self.kick.insert(target);
        true
    }

    /// Chooses a list register of a parked vCPU for an interrupt that is pending, and says what it is to hold.
    #[inline(never)]
    fn fill_parked(&mut self, slot: Slot, target: u8) -> bool {
        let groups = self.groups;
        let interrupt = self.interrupt(slot);
        let irq = &mut self.irqs[slot];
        let Some(cpu) = self.cpus.get_mut(usize::from(target)) else {
            return false;
        };
        if irq.set_active.is_some() || irq.physical_again || !groups.has(irq.group1) {
            return false;
        }
        let own = &mut cpu.interface;
        let index = match irq.place {
            Place::Idle => Some(own.existing & !own.used)
                .filter(|free| *free != 0)
                .map(u16::trailing_zeros),
            Place::Resident { cpu } if cpu == target => {
                Some(irq.lr.into()).filter(|index| own.ended & 1 << at(*index) != 0)
            }
            _ => None,
        };
        let Some(index) = index else { return false };
        irq.place = Place::Resident { cpu: target };
        irq.lr = index as u8;
        irq.latch_in_lr = 1;
        irq.drop_latch = 0;
        let register = ListRegister {
            interrupt,
            priority: irq.priority,
            group1: irq.group1,
            state: LrState::Pending,
            backing: match irq.physical {
                Some(physical) if irq.physical_active => Backing::Physical(physical),
                _ => Backing::QUIET,
            },
        };
        own.keep(at(index), slot, register);
        true
    }

    /// Brings what is known of an interrupt that a parked vCPU holds into the queues, with all else that it holds.
    pub(in crate::vgic) fn fetch<V: VirtualInterface>(&mut self, slot: Slot, interface: &mut V) {
        if let Some(holder) = self.irqs[slot].resident_on()
            && self.cpu(holder).is_some_and(|cpu| cpu.interface.is_parked())
        {
            self.fold(holder, interface);
        }
    }

    /// Brings what a parked vCPU holds into the queues.
    #[inline(never)]
    fn fold<V: VirtualInterface>(&mut self, vcpu: u8, interface: &mut V) {
        let Some(own) = self.cpu_mut(vcpu).map(|cpu| &mut cpu.interface) else {
            return;
        };
        let rests = own.known == Known::Resting;
        let mut parked = Parked {
            contents: own.contents,
            free: own.ended | !own.used,
            private: 0,
            interface,
        };
        own.known = Known::Registers;
        own.untold = 0;
        self.read_back(vcpu, &mut parked);
        let private = parked.private;
        let Some(own) = self.cpu_mut(vcpu).map(|cpu| &mut cpu.interface) else {
            return;
        };
        own.used = 0;
        own.dirty = true;
        own.reorder = true;
        own.known = if rests { Known::Queues } else { Known::Nowhere };
        if rests && private != 0 {
            self.deactivate_later(vcpu, private);
        }
    }

    /// These physical PPIs are to be deactivated on the pCPU of a loaded vCPU, a bit each.
    fn deactivate_later(&mut self, vcpu: u8, physical: u32) {
        for interrupt in IntId::FIRST_PPI..IntId::FIRST_SPI {
            let is_one = |slot: Slot| {
                let behind = self.irqs[slot].physical;
                behind.is_some_and(|behind| behind.is_private() && physical & 1 << (behind.0 % 32) != 0)
            };
            if self.private_slot(vcpu, interrupt).is_some_and(is_one)
                && let Some(cpu) = self.cpu_mut(vcpu)
            {
                cpu.interface.deactivate |= 1 << interrupt;
            }
        }
        self.attend(vcpu);
    }

    /// Takes the vCPU off its pCPU: reads its list registers back and leaves them free. Returns other vCPUs that got an
    /// interrupt by it.
    pub fn unload<V: VirtualInterface>(&mut self, vcpu: u8, interface: &mut V) -> VcpuSet {
        if self.cpu(vcpu).is_some_and(|cpu| cpu.interface.is_parked()) {
            self.fold(vcpu, interface);
        }
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
            own.known = Known::Nowhere;
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
}
