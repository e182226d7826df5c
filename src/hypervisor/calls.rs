//! Hypercalls: what they ask of the domains, answered for real.
//!
//! [`Caller`] is the loaded vCPU that made the call. Its methods take locks one after the other, in the order that
//! `ARCHITECTURE.md` names, and release them before they return.

use core::sync::atomic::Ordering;

use crate::abi::HypercallError;
use crate::cpu::{Access, Cpu};
use crate::domain::life::Phase;
use crate::domain::runstate::RunstateArea;
use crate::domain::vcpu::Vcpu;
use crate::domain::{Domain, DomainMemory};
use crate::hypercall::{Call, DomainInfo, ForeignPage, Host, Outcome, Right, dispatch};
use crate::hypervisor::{Hypervisor, VcpuState};
use crate::ids::{DomainId, DomainSet, EventPort, IntId, Ipa, MAX_DOMAINS, PAGE_SHIFT, PAGE_SIZE, Pa, VcpuId};
use crate::machine::Machine;
use crate::memory::references::ReferenceError;
use crate::policy::Permission;
use crate::range::IpaRange;
use crate::stage2::{BATCH, NewPage, PageUse, Previous, Stage2Error};
use crate::trace::{Denial, Kind};

/// The vCPU that made a hypercall.
pub(crate) struct Caller<'a, M: Machine, C: Cpu> {
    pub(crate) hypervisor: &'a Hypervisor<M>,
    pub(crate) cpu: &'a mut C,
    pub(crate) domain: &'a Domain,
    pub(crate) vcpu: &'a Vcpu,
    /// Who maps RAM that has left its map.
    pub(crate) departed: DomainSet,
}

impl<M: Machine> Hypervisor<M> {
    /// HVC #0xEA1. PC is behind the instruction.
    #[inline(never)]
    pub(crate) fn on_hypercall<C: Cpu>(&self, cpu: &mut C, domain: &Domain, vcpu: &Vcpu, state: &mut VcpuState) {
        let frame = &state.frame;
        let call = Call {
            number: frame.read(16),
            arguments: [
                frame.read(0),
                frame.read(1),
                frame.read(2),
                frame.read(3),
                frame.read(4),
            ],
        };
        let mut caller = Caller {
            hypervisor: self,
            cpu,
            domain,
            vcpu,
            departed: state.departed,
        };
        let outcome = dispatch(&mut caller, &call);
        state.departed = caller.departed;
        match outcome {
            Outcome::Return(value) => {
                state.frame.write(0, value);
                if !state.departed.is_empty() {
                    self.announce_departures(cpu, domain, vcpu, state);
                }
            }
            Outcome::Continue(arguments) => {
                for (register, value) in (0..).zip(arguments) {
                    state.frame.write(register, value);
                }
                state.frame.rewind();
            }
            Outcome::Yield => {
                state.frame.write(0, 0);
                self.yield_now(vcpu);
            }
            Outcome::Block => {
                state.frame.write(0, 0);
                // On Arm the mask of upcalls is that of interrupts, and this call takes it away.
                state.frame.unmask_interrupts();
                if !domain.events.lock().has_upcall(vcpu.id.index, &self.machine) {
                    self.wait_for_event(cpu, domain, vcpu, state, None);
                }
            }
            Outcome::Poll { until } => {
                state.frame.write(0, 0);
                state.flags.polls = true;
                let limit = until.map(|system_time| self.ticks_at(system_time));
                self.wait_for_event(cpu, domain, vcpu, state, limit);
            }
            Outcome::Shutdown(reason) => {
                state.frame.write(0, 0);
                self.shut_down(domain, reason);
            }
        }
    }

    fn info(&self, domain: &Domain) -> DomainInfo {
        let phase = domain.life.phase();
        let geometry = domain.memory.lock().stage2.geometry();
        let vgic = domain.vgic.lock().config();
        let online = domain.vcpus.iter().filter(|vcpu| vcpu.is_on()).count();
        DomainInfo {
            id: domain.id,
            vcpus: domain.vcpus.len() as u8,
            online_vcpus: online as u8,
            ram_pages: domain.ram.iter().map(|bank| bank.size >> PAGE_SHIFT).sum(),
            parked_pages: self.references.lock().parked(domain.id),
            maximum_gfn: Ipa(geometry.ipa_end() - 1).frame(),
            direct_mapped: domain.direct_mapped,
            spis: vgic.spis.into(),
            gic_version: if domain.gic_system_registers { 3 } else { 2 },
            address_bits: geometry.ipa_bits(),
            handle: [0; 16],
            running: phase == Phase::Running,
            paused: domain.paused.load(Ordering::Acquire),
            dying: matches!(phase, Phase::Stopping(_)),
            shutdown: match phase {
                Phase::Stopped(reason) => Some(reason),
                _ => None,
            },
            cpu_time: self.nanoseconds(self.run_time(domain)),
        }
    }

    /// What a page was that left `domain`'s map at `at`: RAM is kept for the domain, a reference is given back. Who maps the
    /// page, if it was RAM, and should hear that it is the domain's no more.
    pub(crate) fn release(&self, domain: &Domain, at: Ipa, previous: Previous) -> DomainSet {
        match previous.page_use {
            PageUse::Ram => {
                // RAM was built with an account, and left the map just now.
                let parked = self.references.lock().park(&self.machine, previous.frame);
                return parked.unwrap_or_default();
            }
            PageUse::Foreign { .. } => {
                let mut references = self.references.lock();
                if references.unmap(&self.machine, previous.frame, domain.id).is_some() {
                    // No pool waits for RAM.
                    return DomainSet::default();
                }
                let owner = references.owner(previous.frame);
                drop(references);
                let Some(owner) = owner.and_then(|owner| self.domain(owner)) else {
                    return DomainSet::default();
                };
                // Under the lock of the pool, so that nobody finds the frame still mapped and gives it up meanwhile.
                let mut memory = owner.memory.lock();
                let left = self.references.lock().put(&self.machine, previous.frame);
                if left == Ok(0) {
                    memory.pool.last_unmapped(previous.frame);
                }
            }
            // It is RAM, which no pool waits for.
            PageUse::Granted { .. } => {
                let _ = self.references.lock().put(&self.machine, previous.frame);
            }
            PageUse::Shared { .. } => {
                let mut memory = domain.memory.lock();
                if memory.shared_info_at == Some(at) {
                    memory.shared_info_at = None;
                }
            }
            // The guest that owns it holds no reference to it.
            PageUse::Uncached { .. } => {
                let mut references = self.references.lock();
                if references.owner(previous.frame) != Some(domain.id) {
                    let _ = references.put(&self.machine, previous.frame);
                }
            }
            // Registers, and memory that is nobody's own, are there again after a restart.
            PageUse::Device | PageUse::Common => {}
        }
        DomainSet::default()
    }
}

/// The error of a caller that names a bad page of its own, or has none left for tables.
pub(crate) fn own_error(error: Stage2Error) -> HypercallError {
    match error {
        Stage2Error::Pool(_) => HypercallError::OutOfMemory,
        Stage2Error::NotMapped(_) => HypercallError::NoEntry,
        Stage2Error::OwnerDown => HypercallError::TryAgain,
        _ => HypercallError::Invalid,
    }
}

/// Where guest frame `gfn` is.
pub(crate) fn address(gfn: u64) -> Result<Ipa, HypercallError> {
    Ipa::from_frame(gfn).ok_or(HypercallError::Invalid)
}

impl<M: Machine, C: Cpu> Caller<'_, M, C> {
    /// Makes one page of the caller's map `frame`.
    pub(crate) fn replace(&mut self, ipa: Ipa, frame: Pa, page_use: PageUse) -> Result<(), HypercallError> {
        let mut memory = self.domain.memory.lock();
        let DomainMemory { stage2, pool, .. } = &mut *memory;
        let page = NewPage { ipa, frame, page_use };
        let previous = stage2
            .replace(&self.hypervisor.machine, pool, page)
            .map_err(own_error)?;
        drop(memory);
        if let Some(previous) = previous {
            self.departed.merge(self.hypervisor.release(self.domain, ipa, previous));
        }
        Ok(())
    }

    /// Takes one page out of the caller's map.
    fn take_out(&mut self, ipa: Ipa) -> Result<(), HypercallError> {
        let mut memory = self.domain.memory.lock();
        let DomainMemory { stage2, pool, .. } = &mut *memory;
        // Only its handle takes a granted page out.
        let may = |page_use| !matches!(page_use, PageUse::Granted { .. });
        let previous = stage2
            .unmap_page_if(&self.hypervisor.machine, pool, ipa, may)
            .map_err(own_error)?;
        drop(memory);
        self.departed.merge(self.hypervisor.release(self.domain, ipa, previous));
        Ok(())
    }

    /// Takes a reference to the frame behind `gfn` of `foreign`, which must be RAM of its own that the caller may map.
    fn reference(&self, foreign: &Domain, gfn: u64) -> Result<Pa, HypercallError> {
        let machine = &self.hypervisor.machine;
        let page = Permission::MapRange(IpaRange::new(address(gfn)?.0, PAGE_SIZE));
        let decision = self.hypervisor.policy.decide(self.domain.id, page, foreign.id);
        decision.map_err(|_| HypercallError::NotPermitted)?;
        let memory = foreign.memory.lock();
        let mapping = memory
            .stage2
            .lookup(machine, address(gfn)?)
            .filter(|mapping| mapping.page_use.is_own_ram());
        let frame = mapping.ok_or(HypercallError::Invalid)?.pa.page();
        let quota = self.hypervisor.policy.map_quota(self.domain.id, foreign.id);
        let mut references = self.hypervisor.references.lock();
        let taken = references.map(machine, frame, foreign.id, self.domain.id, quota);
        taken.map_err(|error| match error {
            ReferenceError::Quota(_) => HypercallError::NoSpace,
            _ => HypercallError::Invalid,
        })?;
        Ok(frame)
    }

    /// Maps up to [`BATCH`] pages of `foreign` with one drop of translations.
    fn map_batch(&mut self, foreign: &Domain, pages: &mut [ForeignPage]) {
        let hypervisor = self.hypervisor;
        let machine = &hypervisor.machine;
        let mut new = heapless::Vec::<NewPage, BATCH>::new();
        let mut which = heapless::Vec::<usize, BATCH>::new();
        for (index, page) in pages.iter_mut().enumerate().take(BATCH) {
            let frame = address(page.destination).and_then(|ipa| Ok((ipa, self.reference(foreign, page.source)?)));
            page.result = frame.map(|(ipa, frame)| {
                // There is room: at most BATCH pages are looked at.
                let _ = new.push(NewPage {
                    ipa,
                    frame,
                    page_use: PageUse::Foreign { writable: true },
                });
                let _ = which.push(index);
            });
        }
        let mut results = [const { Ok(None) }; BATCH];
        let mut memory = self.domain.memory.lock();
        let DomainMemory { stage2, pool, .. } = &mut *memory;
        // Under the lock under which mappings of a domain that ends are taken back.
        if foreign.life.is_running() {
            stage2.replace_batch(machine, pool, &new, &mut results);
        } else {
            results.fill(Err(Stage2Error::OwnerDown));
        }
        drop(memory);
        for ((index, page), result) in which.iter().zip(&new).zip(results) {
            match result {
                Ok(previous) => {
                    if let Some(previous) = previous {
                        self.departed.merge(hypervisor.release(self.domain, page.ipa, previous));
                    }
                }
                Err(error) => {
                    let unused = Previous {
                        frame: page.frame,
                        page_use: page.page_use,
                    };
                    hypervisor.release(self.domain, page.ipa, unused);
                    if let Some(page) = pages.get_mut(*index) {
                        page.result = Err(own_error(error));
                    }
                }
            }
        }
    }
}

impl<'a, M: Machine, C: Cpu> Host for Caller<'a, M, C> {
    type Domains = &'a Hypervisor<M>;

    fn caller(&self) -> VcpuId {
        self.vcpu.id
    }

    fn domain(&self, id: DomainId) -> Option<DomainInfo> {
        self.hypervisor.domain(id).map(|domain| self.hypervisor.info(domain))
    }

    fn exists(&self, id: DomainId) -> bool {
        self.hypervisor.domain(id).is_some()
    }

    fn domain_from(&self, id: DomainId) -> Option<DomainInfo> {
        (id.0..=MAX_DOMAINS as u16).find_map(|number| Host::domain(self, DomainId(number)))
    }

    fn permits(&self, right: Right) -> bool {
        let (permission, object) = match right {
            Right::Serve { target } => (Permission::Serve, target),
            Right::ServeRange { target, range } => {
                // A range of all addresses has no size in 64 bits, and is nobody's.
                let Some(size) = (range.end() - range.start()).checked_add(1) else {
                    return false;
                };
                (Permission::ServeRange(IpaRange::new(range.start(), size)), target)
            }
            Right::Interrupt { target, interrupt } => (Permission::RaiseInterrupt(interrupt), target),
            Right::MapMemory { target } => (Permission::MapSome, target),
            Right::MapAllMemory { target } => (Permission::MapMemory, target),
            Right::EventChannel { peer } => (Permission::OpenChannel, peer),
            Right::Control { target } => (Permission::Control, target),
        };
        let decision = self.hypervisor.policy.decide(self.domain.id, permission, object);
        if decision.is_err() {
            let argument = Denial::Policy.argument(Some(object));
            self.hypervisor.machine.trace(Kind::Denied, self.vcpu.id, argument);
        }
        decision.is_ok()
    }

    fn domains(&mut self) -> &mut &'a Hypervisor<M> {
        &mut self.hypervisor
    }

    fn set_interrupt_level(&mut self, target: DomainId, interrupt: IntId, level: bool) -> Result<(), HypercallError> {
        let target = self.hypervisor.domain(target).ok_or(HypercallError::NoDomain)?;
        let kick = target
            .vgic
            .lock()
            .set_irq_level(interrupt, level)
            .map_err(|_| HypercallError::Invalid)?;
        self.hypervisor.interrupt_vcpus(target, kick);
        Ok(())
    }

    fn map_shared_info(&mut self, gfn: u64) -> Result<(), HypercallError> {
        let ipa = address(gfn)?;
        let frame = self.domain.events.lock().shared_info();
        let mut memory = self.domain.memory.lock();
        match memory.shared_info_at {
            Some(at) if at != ipa => return Err(HypercallError::Busy),
            Some(_) => return Ok(()),
            None => memory.shared_info_at = Some(ipa),
        }
        drop(memory);
        let result = self.replace(ipa, frame, PageUse::Shared { writable: true });
        if result.is_err() {
            self.domain.memory.lock().shared_info_at = None;
        }
        result
    }

    fn map_foreign(&mut self, foreign: DomainId, pages: &mut [ForeignPage]) {
        let Some(foreign) = self.hypervisor.domain(foreign) else {
            return;
        };
        for batch in pages.chunks_mut(BATCH) {
            self.map_batch(foreign, batch);
        }
    }

    fn map_foreign_page(&mut self, foreign: DomainId, source: u64, destination: u64) -> Result<(), HypercallError> {
        let hypervisor = self.hypervisor;
        let foreign = hypervisor.domain(foreign).ok_or(HypercallError::NoDomain)?;
        let ipa = address(destination)?;
        let frame = self.reference(foreign, source)?;
        let page_use = PageUse::Foreign { writable: true };
        let mut memory = self.domain.memory.lock();
        let DomainMemory { stage2, pool, .. } = &mut *memory;
        // Under the lock under which mappings of a domain that ends are taken back.
        let replaced = if foreign.life.is_running() {
            stage2.replace(&hypervisor.machine, pool, NewPage { ipa, frame, page_use })
        } else {
            Err(Stage2Error::OwnerDown)
        };
        drop(memory);
        match replaced {
            Ok(None) => Ok(()),
            Ok(Some(previous)) => {
                self.departed.merge(hypervisor.release(self.domain, ipa, previous));
                Ok(())
            }
            Err(error) => {
                hypervisor.release(self.domain, ipa, Previous { frame, page_use });
                Err(own_error(error))
            }
        }
    }

    fn map_resource(&mut self, frame: Pa, gfn: u64) -> Result<(), HypercallError> {
        let page_use = PageUse::Foreign { writable: true };
        let result = address(gfn).and_then(|ipa| self.replace(ipa, frame, page_use));
        if result.is_err() {
            let nowhere = Ipa(0);
            self.hypervisor
                .release(self.domain, nowhere, Previous { frame, page_use });
        }
        result
    }

    fn unmap(&mut self, gfn: u64) -> Result<(), HypercallError> {
        // Where no page can be there is none.
        let none = |error| match error {
            HypercallError::Invalid => HypercallError::NoEntry,
            other => other,
        };
        self.take_out(address(gfn).map_err(none)?).map_err(none)
    }

    fn park_page(&mut self, gfn: u64) -> Result<(), HypercallError> {
        self.pin_frame(gfn)?;
        self.take_out(address(gfn)?)
    }

    fn populate_page(&mut self, gfn: u64) -> Result<(), HypercallError> {
        let ipa = address(gfn)?;
        let machine = &self.hypervisor.machine;
        let frame = self.hypervisor.references.lock().unpark(machine, self.domain.id);
        let frame = frame.ok_or(HypercallError::OutOfMemory)?;
        machine.zero(frame, PAGE_SIZE);
        let page_use = PageUse::Ram;
        let result = self.replace(ipa, frame, page_use);
        if result.is_err() {
            self.hypervisor.release(self.domain, ipa, Previous { frame, page_use });
        }
        result
    }

    fn pin_frame(&mut self, gfn: u64) -> Result<Pa, HypercallError> {
        let memory = self.domain.memory.lock();
        match memory.stage2.lookup(&self.hypervisor.machine, address(gfn)?) {
            // A domain's RAM stays its own for its life: what is pinned is the frame, wherever the guest maps it.
            Some(mapping) if mapping.page_use.is_own_ram() => Ok(mapping.pa.page()),
            _ => Err(HypercallError::Invalid),
        }
    }

    fn pin_address(&mut self, address: u64) -> Result<Pa, HypercallError> {
        self.resolve(address, Access::Write)
    }

    fn set_runstate_area(&mut self, vcpu: u8, area: Option<RunstateArea>) {
        if let Some(vcpu) = self.domain.vcpus.get(usize::from(vcpu)) {
            vcpu.set_runstate_area(area);
        }
    }

    fn set_watchdog(&mut self, id: u32, timeout: u32) -> Result<u32, HypercallError> {
        self.hypervisor.set_watchdog(self.domain, id, timeout)
    }

    fn mark_runstate(&mut self, marked: bool) {
        for vcpu in &self.domain.vcpus {
            vcpu.mark_runstate(marked);
        }
    }

    fn pv_console(&self) -> Option<(u64, EventPort)> {
        self.domain.pv_console.map(|pv| (pv.ipa.frame(), pv.port))
    }

    fn console_write(&mut self, bytes: &[u8]) -> Result<usize, HypercallError> {
        match self.domain.console {
            Some(_) => Ok(self.hypervisor.write_console(self.domain, bytes)),
            None => Err(HypercallError::NotPermitted),
        }
    }

    fn console_read(&mut self, into: &mut [u8]) -> Result<usize, HypercallError> {
        if self.domain.console_io {
            Ok(self.hypervisor.read_console(self.domain, into))
        } else {
            Err(HypercallError::NotPermitted)
        }
    }
}
