//! Accesses of the usual kind: a load or store of one register that the syndrome describes, from the abort to the answer.

use super::Routed;
use crate::access::{AccessWidth, Direction, MmioAccess};
use crate::counters::Exit;
use crate::cpu::Cpu;
use crate::domain::Domain;
use crate::domain::vcpu::Vcpu;
use crate::hypervisor::handoff::Called;
use crate::hypervisor::{Hypervisor, Quick, VcpuState};
use crate::ioreq::Answer;
use crate::machine::Machine;
use crate::trace::Kind;
use crate::trap::exception::GuestException;
use crate::trap::plan::{Extension, load_value};
use crate::trap::registers::InstructionLength;

/// A load or store of one register, as the syndrome describes it: all that most accesses are.
#[derive(Copy, Clone, Debug)]
pub(crate) struct PlainAccess {
    pub(crate) access: MmioAccess,
    /// Xt.
    pub(crate) register: u8,
    pub(crate) extension: Extension,
    pub(crate) virtual_address: u64,
}

/// What of one that waits for its answer is needed then.
#[derive(Copy, Clone, Debug)]
pub(crate) struct AwaitedAccess {
    virtual_address: u64,
    width: AccessWidth,
    register: u8,
    extension: Extension,
    is_read: bool,
}

impl PlainAccess {
    #[inline(always)]
    fn awaited(&self) -> AwaitedAccess {
        AwaitedAccess {
            virtual_address: self.virtual_address,
            width: self.access.width,
            register: self.register,
            extension: self.extension,
            is_read: self.access.direction == Direction::Read,
        }
    }
}

impl<M: Machine> Hypervisor<M> {
    /// An access to what no device of the hypervisor has: a server's, or nobody's. The vCPU waits for the answer if it is
    /// not there; who runs then, if that is decided already.
    pub(crate) fn begin_plain<C: Cpu>(
        &self,
        cpu: &mut C,
        domain: &Domain,
        vcpu: &Vcpu,
        state: &mut VcpuState,
        plain: &PlainAccess,
    ) -> Quick {
        match self.call_server(domain, vcpu, state, &plain.access) {
            Called::Not => self.request_plain(cpu, domain, vcpu, state, plain),
            called => {
                state.count(Exit::Server);
                state.plain = Some(plain.awaited());
                match called {
                    Called::Over => Quick::Over,
                    Called::Across => Quick::Across,
                    Called::Rests => Quick::Rests,
                    Called::Posted | Called::Not => Quick::Due,
                }
            }
        }
    }

    /// As [`Self::begin_plain`], of an access that no server takes at once.
    #[inline(never)]
    fn request_plain<C: Cpu>(
        &self,
        cpu: &mut C,
        domain: &Domain,
        vcpu: &Vcpu,
        state: &mut VcpuState,
        plain: &PlainAccess,
    ) -> Quick {
        let write = plain.access.direction != Direction::Read;
        match self.request(domain, vcpu, &plain.access) {
            Routed::Unclaimed => {
                state.count(Exit::Unclaimed);
                if !self.is_transient(domain, plain.access.ipa, write) {
                    let answer = if domain.abort_unmapped {
                        Answer::Abort
                    } else {
                        Answer::Value(u64::MAX)
                    };
                    self.finish_plain(cpu, state, &plain.awaited(), answer);
                }
            }
            Routed::Waits => {
                state.count(Exit::Server);
                match self.await_answer(domain, vcpu) {
                    Some(answer) => self.finish_plain(cpu, state, &plain.awaited(), answer),
                    None => state.plain = Some(plain.awaited()),
                }
            }
            Routed::Done(value) => {
                state.count(Exit::Server);
                self.finish_plain(cpu, state, &plain.awaited(), Answer::Value(value));
            }
            Routed::Again => state.count(Exit::Server),
        }
        Quick::Due
    }

    /// The plain access of a vCPU that is being loaded has been answered with `value`.
    #[inline(always)]
    pub(crate) fn end_plain(&self, vcpu: &Vcpu, state: &mut VcpuState, value: u64) {
        let Some(plain) = state.plain.take() else { return };
        self.machine.trace(Kind::Taken, vcpu.id, 0);
        if plain.is_read {
            let value = load_value(plain.width, plain.extension, value);
            state.frame.write(plain.register, value);
        }
        state.frame.advance_a64();
    }

    /// The answer to the access of the loaded vCPU, if it waits for a plain one: it is finished. Whether there is no other.
    #[inline(always)]
    pub(crate) fn take_plain<C: Cpu>(&self, cpu: &mut C, domain: &Domain, vcpu: &Vcpu, state: &mut VcpuState) -> bool {
        let Some(plain) = state.plain else {
            return state.access.is_none();
        };
        let answer = domain.servers.lock().take(vcpu.id.index);
        match self.taken(vcpu, answer) {
            Some(Answer::Value(value)) => {
                state.plain = None;
                if plain.is_read {
                    state
                        .frame
                        .write(plain.register, load_value(plain.width, plain.extension, value));
                }
                state.frame.advance_a64();
                true
            }
            Some(answer) => {
                state.plain = None;
                self.finish_plain(cpu, state, &plain, answer);
                true
            }
            None => false,
        }
    }

    #[inline(never)]
    pub(super) fn finish_plain<C: Cpu>(
        &self,
        cpu: &mut C,
        state: &mut VcpuState,
        plain: &AwaitedAccess,
        answer: Answer,
    ) {
        match answer {
            Answer::Value(value) => {
                if plain.is_read {
                    let value = load_value(plain.width, plain.extension, value);
                    state.frame.write(plain.register, value);
                }
                state.frame.advance(InstructionLength::Word);
            }
            Answer::Abort => {
                let exception = GuestException::DataAbort {
                    virtual_address: Some(plain.virtual_address),
                    write: !plain.is_read,
                    cache_maintenance: false,
                };
                self.inject(cpu, state, exception);
            }
        }
    }
}
