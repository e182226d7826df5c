//! Shadow pages in the maps of guests and backends, and the interrupts that their words are.
//!
//! What a page is to be follows from what its server is ([`Hypervisor::settle`]), so whoever changes servers only has to say
//! that there is something to look at ([`crate::ioreq::Effects`]). Locks: the target's servers, the page, then memory or
//! interrupts.

use crate::abi::HypercallError;
use crate::access::{AccessWidth, Direction, MmioAccess};
use crate::cpu::Cpu;
use crate::domain::vcpu::Vcpu;
use crate::domain::{Domain, DomainMemory};
use crate::hypercall::Shadowing;
use crate::hypervisor::Hypervisor;
use crate::hypervisor::calls::{Caller, address, own_error};
use crate::ids::{DomainId, IntId, Ipa, Pa, ServerId, VcpuSet};
use crate::ioreq::shadow::{Begin, FailureMark, LineChange, Shadow, ShadowSlot, State};
use crate::ioreq::{Ack, Range, Servers, Standing};
use crate::machine::Machine;
use crate::stage2::{Mapping, NewPage, PageUse, Stage2Error};
use crate::trace::Kind;
use crate::vgic::{Line, Vgic, VgicError};

/// What a guest's map has of a page that it is shown.
const FOR_GUEST: PageUse = PageUse::Uncached { writable: false };
/// What a server's map has.
const FOR_SERVER: PageUse = PageUse::Uncached { writable: true };

/// Whether a domain that does not run has its map anyway.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Map {
    /// No: it may be taken apart just now.
    WhileRunning,
    /// Yes: it was made anew.
    Anew,
}

/// What an access to a shadow page met.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Met {
    /// A register that acknowledges: the write is done.
    Acknowledged,
    /// A change of the page: the read is to be made again.
    Changing,
}

impl<M: Machine> Hypervisor<M> {
    /// Servers of `domain` came, went or changed: its shadow pages follow.
    pub(crate) fn review_shadows(&self, domain: &Domain) {
        for slot in &domain.shadows {
            let mut servers = domain.servers.lock();
            let mut shadow = slot.shadow.lock();
            self.settle(domain, &mut servers, &mut shadow, Map::WhileRunning);
        }
    }

    /// `domain`'s interrupt controller and map are as at boot, and it is to start: so are its shadow pages, whose servers keep
    /// them.
    pub(crate) fn restart_shadows(&self, domain: &Domain) {
        for slot in &domain.shadows {
            let mut servers = domain.servers.lock();
            let mut shadow = slot.shadow.lock();
            let mut vgic = domain.vgic.lock();
            shadow.restart(&self.machine, &mut vgic);
            if shadow.state() == State::Left {
                shadow.release();
            }
            for ack in shadow.acks() {
                // Nobody else has it: it was taken so before.
                let _ = vgic.connect_line(ack.interrupt);
            }
            drop(vgic);
            self.settle(domain, &mut servers, &mut shadow, Map::Anew);
        }
    }

    /// The page is what its server's standing says.
    fn settle(&self, domain: &Domain, servers: &mut Servers, shadow: &mut Shadow, map: Map) {
        let Some(page) = shadow.range() else { return };
        match shadow.state() {
            State::Idle => {}
            State::Left if servers.is_served(page) => self.withdraw(domain, shadow),
            State::Left => {}
            State::Attached(holder) => match servers.standing(&holder, page) {
                Standing::Serving if !shadow.is_shown() && shadow.begin() == Begin::AtOnce => {
                    // Without room for its tables reads go on as requests.
                    let _ = self.show(domain, shadow, map);
                }
                Standing::Serving => {}
                Standing::Disabled if !shadow.is_shown() => {}
                Standing::Disabled | Standing::Gone => {
                    servers.clear_shadowed(shadow.page().0);
                    self.take_from_server(shadow);
                    self.end_showing(domain, shadow);
                }
                Standing::Failed => {
                    servers.clear_shadowed(shadow.page().0);
                    if shadow.stays() {
                        self.hide_from_server(domain, shadow);
                    }
                    self.end_showing(domain, shadow);
                }
                Standing::Elsewhere => self.detach(domain, servers, shadow),
            },
        }
    }

    /// The guest is shown the current frame.
    fn show(&self, domain: &Domain, shadow: &mut Shadow, map: Map) -> Result<(), Stage2Error> {
        let ((frame, _), ipa) = (shadow.current(), shadow.page());
        let mut memory = domain.memory.lock();
        // Under the lock under which the map of a domain that ends is taken apart.
        if map == Map::WhileRunning && !domain.life.is_running() {
            shadow.set_shown(&mut domain.vgic.lock(), false);
            return Ok(());
        }
        let DomainMemory { stage2, pool, .. } = &mut *memory;
        // What the guest has mapped there itself stays.
        let own = stage2.lookup(&self.machine, ipa).map(|mapping| mapping.page_use);
        if own.is_none_or(|own| own == FOR_GUEST) {
            let page_use = FOR_GUEST;
            stage2.replace(&self.machine, pool, NewPage { ipa, frame, page_use })?;
        }
        shadow.set_shown(&mut domain.vgic.lock(), true);
        Ok(())
    }

    /// The guest is shown the page no more, and nobody has it.
    fn withdraw(&self, domain: &Domain, shadow: &mut Shadow) {
        if shadow.is_shown() {
            for frame in shadow.frames() {
                self.take_frame(domain, shadow.page(), frame);
            }
        }
        let mut kick = VcpuSet::EMPTY;
        let mut vgic = domain.vgic.lock();
        for ack in shadow.acks() {
            kick.merge(vgic.disconnect_line(ack.interrupt).unwrap_or_default());
        }
        drop(vgic);
        shadow.release();
        self.interrupt_vcpus(domain, kick);
    }

    /// The server gives the page up: it is taken from it, then from the guest.
    fn detach(&self, domain: &Domain, servers: &mut Servers, shadow: &mut Shadow) {
        servers.clear_shadowed(shadow.page().0);
        self.take_from_server(shadow);
        self.withdraw(domain, shadow);
    }

    /// The server is lost, and what it stores is seen by nobody: the page says so to the guest, or is withdrawn.
    fn end_showing(&self, domain: &Domain, shadow: &mut Shadow) {
        if !shadow.stays() {
            return self.withdraw(domain, shadow);
        }
        let mut vgic = domain.vgic.lock();
        let mut kick = VcpuSet::EMPTY;
        for line in shadow.leave(&self.machine, &mut vgic) {
            kick.merge(move_line(&mut vgic, line));
        }
        drop(vgic);
        self.interrupt_vcpus(domain, kick);
    }

    /// The server, which does not know yet that it has lost the page, gets the frame that the guest is not shown in place of the
    /// one that it is: a store of it that is on its way harms neither.
    fn hide_from_server(&self, domain: &Domain, shadow: &mut Shadow) {
        let (shown, which) = shadow.current();
        let [first, second] = shadow.frames();
        let other = if shown == first { second } else { first };
        shadow.share_words(&self.machine, &domain.vgic.lock());
        let Some((owner, at)) = shadow.mapped(which) else {
            return;
        };
        let referenced = self.references.lock().get(&self.machine, other, domain.id).is_ok();
        let exchanged = self.domain(owner).filter(|_| referenced).is_some_and(|owner| {
            let mut memory = owner.memory.lock();
            let DomainMemory { stage2, pool, .. } = &mut *memory;
            if !is_there(stage2.lookup(&self.machine, at), shown) {
                return false;
            }
            let (ipa, frame, page_use) = (at, other, FOR_SERVER);
            // It is a page already: no frame is needed for a table.
            let previous = stage2.replace(&self.machine, pool, NewPage { ipa, frame, page_use });
            drop(memory);
            if let Ok(Some(previous)) = previous {
                self.release(owner, at, previous);
            }
            previous.is_ok()
        });
        if !exchanged {
            if referenced {
                let _ = self.references.lock().put(&self.machine, other);
            }
            self.take_mapped(shadow, which);
        }
    }

    fn take_from_server(&self, shadow: &mut Shadow) {
        for which in 0..shadow.frames().len() {
            self.take_mapped(shadow, which);
        }
    }

    /// Takes frame number `which`, or what a server that was lost has in place of it, out of that server's map, if it is where
    /// it was put.
    fn take_mapped(&self, shadow: &mut Shadow, which: usize) {
        if let Some((domain, at)) = shadow.mapped(which)
            && let Some(domain) = self.domain(domain)
        {
            for frame in shadow.frames() {
                self.take_frame(domain, at, frame);
            }
        }
        shadow.set_mapped(which, None);
    }

    /// Takes `frame` out of `domain`'s map, if it is at `at`.
    fn take_frame(&self, domain: &Domain, at: Ipa, frame: Pa) {
        let mut memory = domain.memory.lock();
        let DomainMemory { stage2, pool, .. } = &mut *memory;
        let is_there = is_there(stage2.lookup(&self.machine, at), frame);
        // It is no part of a block: no frame is needed for a table.
        let taken = is_there.then(|| stage2.unmap_page(&self.machine, pool, at));
        drop(memory);
        if let Some(Ok(previous)) = taken {
            self.release(domain, at, previous);
        }
    }

    /// The loaded vCPU writes `bits` to `register` of a shadow page: if it acknowledges, whether others were told.
    #[inline(always)]
    pub(crate) fn acknowledge<C: Cpu>(
        &self,
        cpu: &mut C,
        (domain, vcpu, live): (&Domain, &Vcpu, bool),
        shadow: &Shadow,
        (register, bits): (Ipa, u32),
    ) -> Option<bool> {
        let mut vgic = domain.vgic.lock();
        let (interrupt, line) = shadow.acknowledge(&self.machine, &mut vgic, register, bits)?;
        let lowered =
            line != Line::Low || live && vgic.lower_in_place(vcpu.id.index, interrupt, cpu.virtual_interface());
        drop(vgic);
        // The word stays as it is until then: whoever sets bits needs the page.
        let told = !lowered && self.lower_line(cpu, (domain, vcpu, live), interrupt);
        self.machine.trace(Kind::Acknowledged, vcpu.id, interrupt.0);
        Some(told)
    }

    /// The line of an interrupt that is not simply in one of the loaded vCPU's list registers. Whether others were told.
    #[inline(never)]
    fn lower_line<C: Cpu>(&self, cpu: &mut C, (domain, vcpu, live): (&Domain, &Vcpu, bool), interrupt: IntId) -> bool {
        self.with_own_vgic(cpu, domain, vcpu, live, |vgic, _| {
            vgic.lower_spi(interrupt).unwrap_or_default()
        })
    }

    /// An access of the loaded vCPU to `slot`'s device, if it is the page's business. The guest was left.
    pub(crate) fn meet_shadow<C: Cpu>(
        &self,
        cpu: &mut C,
        here: (&Domain, &Vcpu, bool),
        slot: &ShadowSlot,
        access: &MmioAccess,
    ) -> Option<Met> {
        let (domain, ..) = here;
        // Whoever changes the page holds this lock until it is there again.
        let shadow = slot.shadow.lock();
        match access.direction {
            Direction::Read => {
                let shown = shadow.is_shown();
                drop(shadow);
                (shown && self.is_transient(domain, access.ipa, false)).then_some(Met::Changing)
            }
            Direction::Write(bits) if access.width == AccessWidth::Word => {
                let mut vgic = domain.vgic.lock();
                let (interrupt, line) = shadow.acknowledge(&self.machine, &mut vgic, access.ipa, bits as u32)?;
                drop(vgic);
                if line == Line::Low {
                    self.lower_line(cpu, here, interrupt);
                }
                let (_, vcpu, _) = here;
                self.machine.trace(Kind::Acknowledged, vcpu.id, interrupt.0);
                Some(Met::Acknowledged)
            }
            Direction::Write(_) => None,
        }
    }
}

/// An interrupt's line follows its word; `vgic` has been locked since that changed. Who is to be told.
fn move_line(vgic: &mut Vgic, (interrupt, line): LineChange) -> VcpuSet {
    let kick = match line {
        Line::Unchanged => return VcpuSet::EMPTY,
        Line::Raised => vgic.raise_spi(interrupt),
        Line::Low => vgic.lower_spi(interrupt),
    };
    kick.unwrap_or_default()
}

/// Whether what a map has somewhere is a shadow page's `frame`.
fn is_there(mapping: Option<Mapping>, frame: Pa) -> bool {
    mapping.is_some_and(|there| there.pa == frame && matches!(there.page_use, PageUse::Uncached { .. }))
}

impl<M: Machine, C: Cpu> Caller<'_, M, C> {
    fn target(&self, target: DomainId) -> Result<&Domain, HypercallError> {
        self.hypervisor.domain(target).ok_or(HypercallError::NoDomain)
    }

    /// The page that has `at`, if the caller's `server` has attached it.
    fn held(domain: &Domain, at: Ipa) -> Result<&ShadowSlot, HypercallError> {
        domain.shadows.find(at).ok_or(HypercallError::NoEntry)
    }
}

impl<M: Machine, C: Cpu> Shadowing for Caller<'_, M, C> {
    fn attach_shadow(
        &mut self,
        target: DomainId,
        server: ServerId,
        page: Ipa,
        mark: FailureMark,
        begin: Begin,
        permitted: bool,
    ) -> Result<u64, HypercallError> {
        let hypervisor = self.hypervisor;
        let domain = self.target(target)?;
        let range = Range::from_length(page.0, crate::ids::PAGE_SIZE).ok_or(HypercallError::Invalid)?;
        let slot = domain.shadows.find(page).filter(|slot| slot.device.contains(range));
        let mut servers = domain.servers.lock();
        let holder = servers.may_shadow(self.domain.id, server, range, permitted)?;
        let slot = slot.ok_or(HypercallError::NotPermitted)?;
        let mut shadow = slot.shadow.lock();
        hypervisor.settle(domain, &mut servers, &mut shadow, Map::WhileRunning);
        match shadow.state() {
            State::Attached(_) if shadow.page() == page => return Err(HypercallError::Exists),
            State::Attached(_) => return Err(HypercallError::NoSpace),
            State::Left => hypervisor.withdraw(domain, &mut shadow),
            State::Idle => {}
        }
        // A server that was lost may still have them.
        hypervisor.take_from_server(&mut shadow);
        shadow.attach(&hypervisor.machine, holder, page, mark, begin);
        if servers.standing(&holder, range) == Standing::Serving
            && begin == Begin::AtOnce
            && let Err(error) = hypervisor.show(domain, &mut shadow, Map::WhileRunning)
        {
            shadow.release();
            return Err(own_error(error));
        }
        servers.set_shadowed(page.0, core::iter::empty());
        Ok(slot.frame_number(0))
    }

    fn attach_ack(&mut self, target: DomainId, server: ServerId, ack: Ack) -> Result<(), HypercallError> {
        let hypervisor = self.hypervisor;
        let domain = self.target(target)?;
        let slot = domain.shadows.find(ack.register).ok_or(HypercallError::NoEntry)?;
        let mut servers = domain.servers.lock();
        let mut shadow = slot.shadow.lock();
        hypervisor.settle(domain, &mut servers, &mut shadow, Map::WhileRunning);
        shadow.held_by(self.domain.id, server)?;
        if shadow.page() != ack.register.page() {
            return Err(HypercallError::NoEntry);
        }
        servers.may_acknowledge(ack.register)?;
        shadow.add_ack(&hypervisor.machine, ack)?;
        let connected = domain.vgic.lock().connect_line(ack.interrupt);
        let kick = match connected {
            Ok(kick) => kick,
            Err(error) => {
                let _ = shadow.remove_ack(&mut domain.vgic.lock(), ack.register);
                return Err(match error {
                    VgicError::Reserved(_) => HypercallError::Exists,
                    _ => HypercallError::Invalid,
                });
            }
        };
        hypervisor.interrupt_vcpus(domain, kick);
        servers.set_shadowed(shadow.page().0, shadow.acks().iter().map(|ack| ack.register.0));
        Ok(())
    }

    fn detach_shadow(&mut self, target: DomainId, server: ServerId, page: Ipa) -> Result<(), HypercallError> {
        let domain = self.target(target)?;
        let slot = Self::held(domain, page)?;
        let mut servers = domain.servers.lock();
        let mut shadow = slot.shadow.lock();
        shadow.held_by(self.domain.id, server)?;
        if shadow.page() != page {
            return Err(HypercallError::NoEntry);
        }
        self.hypervisor.detach(domain, &mut servers, &mut shadow);
        Ok(())
    }

    fn detach_ack(&mut self, target: DomainId, server: ServerId, register: Ipa) -> Result<(), HypercallError> {
        let domain = self.target(target)?;
        let slot = Self::held(domain, register)?;
        let mut servers = domain.servers.lock();
        let mut shadow = slot.shadow.lock();
        shadow.held_by(self.domain.id, server)?;
        let mut vgic = domain.vgic.lock();
        let ack = shadow.remove_ack(&mut vgic, register)?;
        let kick = vgic.disconnect_line(ack.interrupt);
        drop(vgic);
        servers.set_shadowed(shadow.page().0, shadow.acks().iter().map(|ack| ack.register.0));
        self.hypervisor.interrupt_vcpus(domain, kick.unwrap_or_default());
        Ok(())
    }

    fn update_shadow(
        &mut self,
        target: DomainId,
        server: ServerId,
        register: Ipa,
        clear: u32,
        set: u32,
    ) -> Result<(), HypercallError> {
        let domain = self.target(target)?;
        let slot = Self::held(domain, register)?;
        let shadow = slot.shadow.lock();
        shadow.held_by(self.domain.id, server)?;
        let mut vgic = domain.vgic.lock();
        let line = shadow.update(&self.hypervisor.machine, &mut vgic, register, (clear, set))?;
        let kick = move_line(&mut vgic, line);
        drop(vgic);
        self.hypervisor.interrupt_vcpus(domain, kick);
        Ok(())
    }

    fn replace_shadow(&mut self, target: DomainId, server: ServerId, page: Ipa) -> Result<u64, HypercallError> {
        let hypervisor = self.hypervisor;
        let domain = self.target(target)?;
        let slot = Self::held(domain, page)?;
        let held = |shadow: &Shadow| match shadow.held_by(self.domain.id, server) {
            Ok(()) if shadow.page() == page => Ok(()),
            _ => Err(HypercallError::NoEntry),
        };
        let begin = slot.shadow.lock().begin();
        if begin == Begin::AfterReplace {
            // Whether it is shown from now on is for the servers to say, whose lock comes first.
            let mut servers = domain.servers.lock();
            let mut shadow = slot.shadow.lock();
            held(&shadow)?;
            shadow.turn(&hypervisor.machine, &mut domain.vgic.lock());
            hypervisor.settle(domain, &mut servers, &mut shadow, Map::WhileRunning);
            held(&shadow)?;
            return Ok(slot.frame_number(shadow.current().1));
        }
        let mut shadow = slot.shadow.lock();
        held(&shadow)?;
        shadow.turn(&hypervisor.machine, &mut domain.vgic.lock());
        if shadow.is_shown() {
            // The page has its tables.
            let shown = hypervisor.show(domain, &mut shadow, Map::WhileRunning);
            shown.map_err(own_error)?;
        }
        let (_, which) = shadow.current();
        Ok(slot.frame_number(which))
    }

    fn map_shadow(&mut self, target: DomainId, server: ServerId, number: u64, gfn: u64) -> Result<(), HypercallError> {
        let hypervisor = self.hypervisor;
        let domain = hypervisor.domain(target).ok_or(HypercallError::NoDomain)?;
        let ipa = address(gfn)?;
        let (slot, which) = domain.shadows.by_frame_number(number).ok_or(HypercallError::Invalid)?;
        let mut shadow = slot.shadow.lock();
        let held = shadow.held_by(self.domain.id, server);
        held.map_err(|_| HypercallError::Invalid)?;
        let frame = shadow.frames().get(which).copied().ok_or(HypercallError::Invalid)?;
        hypervisor.take_mapped(&mut shadow, which);
        let taken = hypervisor.references.lock().get(&hypervisor.machine, frame, domain.id);
        taken.map_err(|_| HypercallError::Invalid)?;
        let mapped = self.replace(ipa, frame, FOR_SERVER);
        match mapped {
            Ok(()) => shadow.set_mapped(which, Some((self.domain.id, ipa))),
            Err(_) => {
                let _ = hypervisor.references.lock().put(&hypervisor.machine, frame);
            }
        }
        mapped
    }
}
