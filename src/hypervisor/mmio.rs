//! A guest's access to an address without memory behind it: from the abort to the register that it loads.
//!
//! The plan of an access stays in the vCPU's state until every transfer is answered; only then do registers and PC
//! change. An access is asked of the hypervisor's own devices first, then of the IOREQ servers, then it is nobody's.

mod plain;

use crate::access::{AccessWidth, Direction, MmioAccess};
use crate::counters::Exit;
use crate::cpu::{Access, Cpu};
use crate::domain::Domain;
use crate::domain::devices::Device;
use crate::domain::vcpu::{Attention, Vcpu};
use crate::hypervisor::clock::CoreClock;
use crate::hypervisor::shadow::Met;
use crate::hypervisor::{Hypervisor, VcpuState};
use crate::ids::{Ipa, PAGE_SIZE};
use crate::ioreq::{Answer, Begun, Effects, Surroundings};
use crate::machine::Machine;
use crate::sched::Wait;
use crate::trace::Kind;
use crate::trap::exception::GuestException;
use crate::trap::instruction::{PlanError, ReportedAccess, plan_from_instruction};
use crate::trap::plan::{AccessPlan, DataAbortPlan, PendingPlan, Transfer, plan_from_syndrome};
use crate::trap::registers::InstructionLength;
use crate::trap::syndrome::{DataAbort, FaultAddress, FaultStatus, InstructionAbort};

pub(crate) use plain::{AwaitedAccess, PlainAccess};

/// An access on its way.
#[derive(Copy, Clone, Debug)]
pub(crate) struct PendingAccess {
    plan: PendingPlan,
    virtual_address: u64,
    write: bool,
}

impl PendingAccess {
    /// What a vCPU waits for that has announced something: a store without effect.
    pub(crate) const ANNOUNCEMENT: Self = Self {
        plan: PendingPlan::new(AccessPlan {
            first: Transfer::Store {
                ipa: Ipa(u64::MAX),
                width: AccessWidth::Word,
                value: 0,
            },
            second: None,
            writeback: None,
            length: InstructionLength::Word,
        }),
        virtual_address: 0,
        write: true,
    };
}

/// Where one transfer went.
enum Routed {
    /// It is answered.
    Done(u64),
    /// A server has it, or will.
    Waits,
    /// The state that it asks for is on another pCPU: try again.
    Again,
    /// Nobody has that address.
    Unclaimed,
}

impl<M: Machine> Hypervisor<M> {
    #[inline(never)]
    pub(crate) fn on_data_abort<C: Cpu>(
        &self,
        cpu: &mut C,
        domain: &Domain,
        vcpu: &Vcpu,
        state: &mut VcpuState,
        abort: &DataAbort,
    ) {
        let access = if abort.write { Access::Write } else { Access::Read };
        let is_permission = matches!(abort.status, FaultStatus::Permission { .. });
        let (virtual_address, ipa) = match abort.address {
            FaultAddress::Both { virtual_address, ipa } => (virtual_address, ipa),
            FaultAddress::Walk { table, .. } => {
                state.count(Exit::Memory);
                if !self.is_transient(domain, table, abort.write || is_permission) {
                    self.refuse(cpu, state, abort);
                }
                return;
            }
            FaultAddress::VirtualOnly { virtual_address } => {
                // As a read: a page that its guest's tables call writable, but not yet written, is no reason to fail.
                match cpu.translate(virtual_address, Access::Read) {
                    Ok(ipa) => (virtual_address, ipa),
                    // The guest changed its own tables meanwhile: the access faults there, or does not fault at all.
                    Err(_) => return,
                }
            }
            FaultAddress::Unknown => {
                state.count(Exit::Memory);
                return self.refuse(cpu, state, abort);
            }
        };
        let plan = match plan_from_syndrome(abort, ipa, &state.frame, |page| cpu.translate(page, access).ok()) {
            DataAbortPlan::Access(plan) => plan,
            DataAbortPlan::Skip(length) => {
                state.count(Exit::Memory);
                if !self.is_transient(domain, ipa, is_permission) {
                    state.frame.advance(length);
                }
                return;
            }
            DataAbortPlan::Refuse(_) => {
                state.count(Exit::Memory);
                if !self.is_transient(domain, ipa, abort.write) {
                    self.refuse(cpu, state, abort);
                }
                return;
            }
            DataAbortPlan::Decode => {
                if self.is_transient(domain, ipa, abort.write) {
                    return;
                }
                let Some(instruction) = self.fetch(cpu, domain, state.frame.pc) else {
                    return;
                };
                let reported = ReportedAccess {
                    virtual_address,
                    ipa,
                    write: abort.write,
                };
                let stack_pointer = cpu.read_el1(state.frame.stack_pointer());
                let next_page = |page| cpu.translate(page, access).ok();
                match plan_from_instruction(instruction, &state.frame, stack_pointer, &reported, next_page) {
                    Ok(plan) => plan,
                    Err(PlanError::Reenter) => return,
                    Err(PlanError::Refused(_)) => return self.refuse(cpu, state, abort),
                }
            }
        };
        if is_permission && domain.shadows.find(ipa).is_none() {
            // Memory that this domain may only read. What stage 1 says now may be another page than it was.
            state.count(Exit::Memory);
            if self.is_mapped(domain, ipa) && !self.is_transient(domain, ipa, abort.write) {
                self.refuse(cpu, state, abort);
            }
            return;
        }
        state.access = Some(PendingAccess {
            plan: PendingPlan::new(plan),
            virtual_address,
            write: abort.write,
        });
        self.continue_access(cpu, domain, vcpu, state);
    }

    #[inline(never)]
    pub(crate) fn on_instruction_abort<C: Cpu>(
        &self,
        cpu: &mut C,
        domain: &Domain,
        state: &mut VcpuState,
        abort: &InstructionAbort,
    ) {
        let address = match abort.address {
            FaultAddress::Both { ipa, .. } | FaultAddress::Walk { table: ipa, .. } => Some(ipa),
            FaultAddress::VirtualOnly { virtual_address } => cpu.translate(virtual_address, Access::Read).ok(),
            FaultAddress::Unknown => None,
        };
        let mapped = address.is_some_and(|ipa| {
            let memory = domain.memory.lock();
            memory
                .stage2
                .lookup(&self.machine, ipa)
                .is_some_and(|mapping| mapping.page_use.is_executable())
        });
        if !mapped {
            self.inject(cpu, state, GuestException::of_instruction_abort(abort));
        }
    }

    /// Whether the fault is none any more: a mapping was being changed when the guest came by.
    pub(crate) fn is_transient(&self, domain: &Domain, ipa: Ipa, write: bool) -> bool {
        let memory = domain.memory.lock();
        memory
            .stage2
            .lookup(&self.machine, ipa)
            .is_some_and(|mapping| !write || mapping.page_use.is_writable())
    }

    fn is_mapped(&self, domain: &Domain, ipa: Ipa) -> bool {
        domain.memory.lock().stage2.lookup(&self.machine, ipa).is_some()
    }

    fn refuse<C: Cpu>(&self, cpu: &mut C, state: &mut VcpuState, abort: &DataAbort) {
        self.inject(cpu, state, GuestException::of_data_abort(abort));
    }

    /// Reads the instruction at `pc` as the guest's fetch saw it; `None` when the guest has unmapped it meanwhile.
    fn fetch<C: Cpu>(&self, cpu: &mut C, domain: &Domain, pc: u64) -> Option<u32> {
        let ipa = cpu.translate(pc, Access::Read).ok()?;
        if !pc.is_multiple_of(4) || ipa.page_offset() > PAGE_SIZE - 4 {
            return None;
        }
        let memory = domain.memory.lock();
        let mapping = memory.stage2.lookup(&self.machine, ipa)?;
        mapping.page_use.is_own_ram().then(|| self.machine.load_u32(mapping.pa))
    }

    /// Answers transfers until one has to wait or all are done. At most two are due.
    fn continue_access<C: Cpu>(&self, cpu: &mut C, domain: &Domain, vcpu: &Vcpu, state: &mut VcpuState) {
        while let Some(pending) = &state.access {
            let Some(access) = pending.plan.next() else {
                self.finish_access(cpu, state);
                return;
            };
            let (exit, routed) = self.route(cpu, domain, vcpu, !state.flags.flush_due, &access);
            state.count(exit);
            let answer = match routed {
                Routed::Done(value) => Some(Answer::Value(value)),
                Routed::Waits => self.await_answer(domain, vcpu),
                Routed::Again => {
                    state.access = None;
                    return;
                }
                Routed::Unclaimed => return self.unclaimed(cpu, domain, state, &access),
            };
            match answer {
                Some(Answer::Value(value)) => {
                    if let Some(pending) = &mut state.access {
                        pending.plan.complete(value);
                    }
                }
                Some(Answer::Abort) => return self.abort_access(cpu, state),
                None => return,
            }
        }
    }

    /// Every transfer is answered: registers and PC change now.
    fn finish_access<C: Cpu>(&self, cpu: &mut C, state: &mut VcpuState) {
        if let Some(pending) = &state.access
            && let Ok(Some(stack_pointer)) = pending.plan.commit(&mut state.frame)
        {
            cpu.write_el1(stack_pointer.register, stack_pointer.value);
        }
        state.access = None;
    }

    /// Somebody has heard what the loaded vCPU announced: it goes on.
    pub(crate) fn finish_announcement<C: Cpu>(&self, cpu: &mut C, state: &mut VcpuState) {
        if let Some(pending) = &mut state.access {
            pending.plan.complete(0);
        }
        self.finish_access(cpu, state);
    }

    /// The guest takes an external abort at the access.
    fn abort_access<C: Cpu>(&self, cpu: &mut C, state: &mut VcpuState) {
        let Some(pending) = state.access.take() else { return };
        let exception = GuestException::DataAbort {
            virtual_address: Some(pending.virtual_address),
            write: pending.write,
            cache_maintenance: false,
        };
        self.inject(cpu, state, exception);
    }

    /// No device and no server has the address.
    fn unclaimed<C: Cpu>(&self, cpu: &mut C, domain: &Domain, state: &mut VcpuState, access: &MmioAccess) {
        let Some(pending) = &mut state.access else { return };
        let write = matches!(access.direction, Direction::Write(_));
        // The second half of a pair may lie in memory, for good; running the first half again would never end.
        let untouched = pending.plan.answered() == 0;
        if untouched && self.is_transient(domain, access.ipa, write) {
            state.access = None;
            return;
        }
        if domain.abort_unmapped {
            return self.abort_access(cpu, state);
        }
        while pending.plan.next().is_some() {
            pending.plan.complete(u64::MAX);
        }
        self.finish_access(cpu, state);
    }

    fn route<C: Cpu>(
        &self,
        cpu: &mut C,
        domain: &Domain,
        vcpu: &Vcpu,
        live: bool,
        access: &MmioAccess,
    ) -> (Exit, Routed) {
        match domain.devices.find(access) {
            Some((Device::Interrupts(frame), offset)) => {
                let (value, _) = self.access_interrupt_controller(cpu, domain, vcpu, live, (frame, offset), access);
                (Exit::InterruptController, value.map_or(Routed::Again, Routed::Done))
            }
            Some((Device::Console, offset)) => {
                let value = self.access_console(domain, offset, access);
                (Exit::Uart, Routed::Done(value))
            }
            Some((Device::Clock, offset)) => {
                let value = self.access_clock(domain, offset, access);
                (Exit::Device, Routed::Done(value))
            }
            None => match self.without_server(cpu, (domain, vcpu, live), access) {
                Some(routed) => (Exit::Server, routed),
                None => self.request_counted(domain, vcpu, access),
            },
        }
    }

    /// What needs no server, or none now.
    fn without_server<C: Cpu>(
        &self,
        cpu: &mut C,
        (domain, vcpu, live): (&Domain, &Vcpu, bool),
        access: &MmioAccess,
    ) -> Option<Routed> {
        if let Some(slot) = domain.shadows.find(access.ipa) {
            match self.meet_shadow(cpu, (domain, vcpu, live), slot, access) {
                Some(Met::Acknowledged) => return Some(Routed::Done(0)),
                Some(Met::Changing) => return Some(Routed::Again),
                None => {}
            }
        }
        self.ring(domain, vcpu, access).then_some(Routed::Done(0))
    }

    fn request_counted(&self, domain: &Domain, vcpu: &Vcpu, access: &MmioAccess) -> (Exit, Routed) {
        match self.request(domain, vcpu, access) {
            Routed::Unclaimed => (Exit::Unclaimed, Routed::Unclaimed),
            routed => (Exit::Server, routed),
        }
    }

    /// Asks the domain's servers.
    fn request(&self, domain: &Domain, vcpu: &Vcpu, access: &MmioAccess) -> Routed {
        let clock = CoreClock::new(self);
        let around = Surroundings {
            memory: &self.machine,
            clock: &clock,
        };
        let mut effects = Effects::default();
        let begun = domain
            .servers
            .lock()
            .begin(vcpu.id.index, *access, &around, &mut effects);
        self.perform(domain, &effects);
        match begun {
            Ok(Begun::Unclaimed) => Routed::Unclaimed,
            Ok(Begun::Posted) => Routed::Done(0),
            Ok(Begun::Accepted) => Routed::Waits,
            // A vCPU with a request does not run, so it makes no other.
            Err(_) => Routed::Again,
        }
    }

    /// The loaded vCPU has asked a server: the answer if it is there already; else the vCPU waits.
    pub(crate) fn await_answer(&self, domain: &Domain, vcpu: &Vcpu) -> Option<Answer> {
        let clock = CoreClock::new(self);
        let around = Surroundings {
            memory: &self.machine,
            clock: &clock,
        };
        let mut servers = domain.servers.lock();
        if let Some(answer) = servers.take(vcpu.id.index) {
            return self.taken(vcpu, Some(answer));
        }
        let deadline = servers.deadline(vcpu.id.index, &around);
        let serving = servers.serving(vcpu.id.index);
        drop(servers);
        self.block(vcpu, Wait::Request, deadline);
        if let Some(server) = serving.and_then(|id| self.domain(id)) {
            self.hand_off_to_domain(vcpu, server);
        }
        // An answer, or another limit, that came before the vCPU was marked as waiting woke nobody.
        let answer = domain.servers.lock().take(vcpu.id.index);
        if answer.is_some() || vcpu.has_note(Attention::Request) {
            self.wake(vcpu, Wait::Request);
        }
        self.taken(vcpu, answer)
    }

    /// Traces that the loaded vCPU has an answer, if it has.
    #[inline(always)]
    fn taken(&self, vcpu: &Vcpu, answer: Option<Answer>) -> Option<Answer> {
        if let Some(answer) = answer {
            self.machine
                .trace(Kind::Taken, vcpu.id, u32::from(answer == Answer::Abort));
        }
        answer
    }

    /// A vCPU that waits for a server was scheduled: goes on if it can, applies limits that have passed, and waits again
    /// otherwise. Returns whether it can run.
    pub(crate) fn resume_access<C: Cpu>(
        &self,
        cpu: &mut C,
        domain: &Domain,
        vcpu: &Vcpu,
        state: &mut VcpuState,
    ) -> bool {
        let clock = CoreClock::new(self);
        let around = Surroundings {
            memory: &self.machine,
            clock: &clock,
        };
        let mut servers = domain.servers.lock();
        let mut answer = self.taken(vcpu, servers.take(vcpu.id.index));
        if answer.is_none() {
            let effects = servers.expire(&around);
            drop(servers);
            self.perform(domain, &effects);
            answer = self.await_answer(domain, vcpu);
        } else {
            drop(servers);
        }
        if let Some(plain) = state.plain {
            if let Some(answer) = answer {
                state.plain = None;
                self.finish_plain(cpu, state, &plain, answer);
            }
            return answer.is_some();
        }
        match answer {
            Some(Answer::Value(value)) => {
                if let Some(pending) = &mut state.access {
                    pending.plan.complete(value);
                }
                self.continue_access(cpu, domain, vcpu, state);
            }
            Some(Answer::Abort) => self.abort_access(cpu, state),
            None => {}
        }
        state.access.is_none() && (state.unheard.is_empty() || self.announce_rest(cpu, domain, vcpu, state))
    }
}
