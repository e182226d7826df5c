//! Traps that need one look at a device of the hypervisor: answered without leaving the guest's time.
//!
//! Such a trap changes nothing that [`Hypervisor::enter`] looks at, or says that it did. What others want of the vCPU
//! meanwhile comes with a kick, which is pending when the guest goes on. Only locks below those of event channels are
//! taken, so that a pCPU that waits for this one to leave its guest never holds one of them; others are tried, and where
//! somebody has one, the trap goes the general way.

mod controller;
mod known;
mod nobody;
mod shown;

use crate::abi::HypercallError;
use crate::abi::evtchn::SEND;
use crate::abi::hypercall::{EVENT_CHANNEL_OP, GRANT_TABLE_OP, HVC_IMMEDIATE, MEMORY_OP};
use crate::access::{AccessWidth, Direction, MmioAccess};
use crate::counters::Exit;
use crate::cpu::Cpu;
use crate::domain::Domain;
use crate::domain::devices::Device;
use crate::domain::vcpu::Vcpu;
use crate::hypervisor::mmio::PlainAccess;
use crate::hypervisor::{Hypervisor, Located, VcpuState};
use crate::ids::{EventPort, Ipa, PAGE_SIZE};
use crate::machine::Machine;
use crate::trap::plan::{Extension, load_value};
use crate::trap::registers::{GuestFrame, Saved};
use crate::trap::syndrome::{Hpfar, Syndrome};

use controller::{quick_console_read, quick_setting};
pub(crate) use known::KnownStores;
pub(crate) use nobody::Hole;
use nobody::begins_here;

/// What [`Hypervisor::on_quick_trap`] did.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u64)]
pub enum Quick {
    /// Everything: the vCPU goes on at once.
    Done,
    /// Everything about the trap: what is due before the vCPU goes on is to be looked at.
    Due,
    /// Everything, and who runs now ([`VcpuState::over`]), as [`Hypervisor::schedule`] says it.
    Over,
    /// Everything, and the pCPU is to wait in place: until the time in [`VcpuState::over`], if there is one, or an interrupt,
    /// after which [`Hypervisor::end_rest`] follows. Only an access ends so.
    Rests,
    /// Nothing: it is a trap of another kind.
    No,
    /// Nothing: it needs a register that is not in the frame. With all of them there it will be something else.
    Registers,
    /// Everything, and another vCPU goes on ([`VcpuState::across`]), with what it has heard.
    Across,
}

/// ESR_EL2 of a load or store of one register (EC 0x24, ISV) by a 4-byte instruction (IL) whose own address (no
/// S1PTW) has no translation (DFSC 0b0001xx), and that is no cache maintenance (no CM).
const PLAIN_ACCESS: u64 = 0x24 << 26 | 1 << 25 | 1 << 24 | 0b0001 << 2;
const PLAIN_ACCESS_MASK: u64 = 0x3f << 26 | 1 << 25 | 1 << 24 | 1 << 8 | 1 << 7 | 0b1111 << 2;
/// Set in the DFSC of a fault that a translation was found for, and in none of a translation fault.
const NO_RIGHT: u64 = 1 << 3;
/// SSE and SF.
const SIGNED: u64 = 1 << 21;
const SIXTY_FOUR: u64 = 1 << 15;
/// ESR_EL2 of MSR ICC_SGI1R_EL1 (EC 0x18; S3_0_C12_C11_5), without its register.
const SEND_SGI: u64 = 0x18 << 26 | 1 << 25 | 3 << 20 | 5 << 17 | 12 << 10 | 11 << 1;
const SYSTEM_REGISTER_RT: u64 = 31 << 5;
/// ESR_EL2 of MRS of a register of the ID space (S3_0_C0_Cm_n, m up to 7), without its register, m and n.
const READ_ID: u64 = 0x18 << 26 | 1 << 25 | 3 << 20 | 1;
const ID_MASK: u64 = 0x3f << 26 | 1 << 25 | 3 << 20 | 7 << 14 | 15 << 10 | 1 << 4 | 1;
/// ESR_EL2 of a hypercall.
pub const HYPERCALL: u64 = 0x16 << 26 | 1 << 25 | HVC_IMMEDIATE as u64;
/// ESR_EL2 of WFI (EC 0x01, IL; TI 0b00).
const WAIT_FOR_INTERRUPT: u64 = 0x01 << 26 | 1 << 25;
const WAIT_MASK: u64 = 0x3f << 26 | 1 << 25 | 0b11;
/// WnR.
const WRITE: u64 = 1 << 6;
/// PSTATE of AArch32 (M\[4\]).
const AARCH32: u64 = 1 << 4;

impl<M: Machine> Hypervisor<M> {
    /// A synchronous exception from the loaded vCPU, before anything else is done about it, whatever it is. `saved` says
    /// which of its registers are in its frame; so it does for the functions by kind, which `arch` calls directly.
    pub fn on_quick_trap<C: Cpu>(
        &self,
        at: Located<'_>,
        cpu: &mut C,
        state: &mut VcpuState,
        syndrome: &Syndrome,
        saved: Saved,
    ) -> Quick {
        match syndrome.esr >> 26 & 0x3f {
            0x01 => self.on_quick_wait(at, cpu, state, syndrome.esr),
            0x16 => self.on_quick_call(at, cpu, state, syndrome.esr),
            0x18 => self.on_quick_system_register(at, cpu, state, syndrome.esr, saved),
            0x24 => {
                let registers = (syndrome.esr, syndrome.far, || syndrome.hpfar);
                self.on_quick_access(at, cpu, state, registers, saved)
            }
            _ => Quick::No,
        }
    }

    /// HVC from AArch64, if [`crate::hypervisor::at_vector::answer`] has no answer. `arch` goes straight to what it calls.
    #[inline]
    pub fn on_quick_call<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState, esr: u64) -> Quick {
        if is_send(esr, &state.frame) {
            return self.on_send(at, cpu, state);
        }
        if esr != HYPERCALL {
            return Quick::No;
        }
        match state.frame.read(16) {
            GRANT_TABLE_OP => self.on_grant_call(at, cpu, state),
            MEMORY_OP => self.on_memory_call(at, cpu, state),
            _ => Quick::No,
        }
    }

    /// WFI and the like.
    #[inline]
    pub fn on_quick_wait<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState, esr: u64) -> Quick {
        if !is_wait_for_interrupt(esr, &state.frame) {
            return Quick::No;
        }
        if self.waits_across(at, cpu, state, esr) {
            return Quick::Across;
        }
        let Located { domain, vcpu } = at;
        self.left_guest(vcpu.pcpu);
        state.count(Exit::Wait);
        state.frame.advance_a64();
        self.wait_for_interrupt(cpu, domain, vcpu, state)
    }

    /// A trapped MSR, MRS or system instruction.
    #[inline]
    pub fn on_quick_system_register<C: Cpu>(
        &self,
        at: Located<'_>,
        cpu: &mut C,
        state: &mut VcpuState,
        esr: u64,
        saved: Saved,
    ) -> Quick {
        let register = (esr >> 5 & 31) as u8;
        if !saved.has(register) {
            return Quick::Registers;
        }
        if esr & ID_MASK == READ_ID {
            let (crm, op2) = ((esr >> 1 & 7) as u8, (esr >> 17 & 7) as u8);
            if crm == 0 {
                return Quick::No;
            }
            state.frame.write(register, self.ids.read_space(crm, op2));
            state.count(Exit::SystemRegister);
            state.frame.advance_a64();
            return Quick::Done;
        }
        if esr & !SYSTEM_REGISTER_RT == SEND_SGI {
            return self.quick_sgi(at, cpu, state, register);
        }
        Quick::No
    }

    /// A data abort, by ESR_EL2, FAR_EL2 and HPFAR_EL2, which is read only for a fault that it is defined for.
    #[inline]
    pub fn on_quick_access<C: Cpu>(
        &self,
        at: Located<'_>,
        cpu: &mut C,
        state: &mut VcpuState,
        (esr, far, hpfar): (u64, u64, impl FnOnce() -> u64),
        saved: Saved,
    ) -> Quick {
        if esr & NO_RIGHT != 0 {
            return self.quick_store(at, cpu, state, esr, far, saved);
        }
        let offset = far % PAGE_SIZE;
        let width = AccessWidth::from_sas(esr >> 22);
        // One that is not aligned may touch two pages, or have begun in the one before.
        if esr & PLAIN_ACCESS_MASK != PLAIN_ACCESS
            || !offset.is_multiple_of(width.bytes())
            || self.hpfar != Hpfar::Architectural
            || state.frame.pstate & AARCH32 != 0
        {
            return Quick::No;
        }
        if !saved.has(register_of(esr)) {
            return Quick::Registers;
        }
        let syndrome = Syndrome {
            esr,
            far,
            hpfar: hpfar(),
        };
        let ipa = Ipa(syndrome.hpfar_page().0 | offset);
        if offset == 0 && width != AccessWidth::Byte && !begins_here(at.domain, cpu, state, far) {
            return self.quick_at_start(at, cpu, state, esr, far, ipa);
        }
        self.quick_plain(at, cpu, state, esr, far, ipa)
    }

    /// An access that the syndrome describes, to whom it concerns. Nothing is decoded here that not all of them need.
    #[inline(always)]
    fn quick_plain<C: Cpu>(
        &self,
        at: Located<'_>,
        cpu: &mut C,
        state: &mut VcpuState,
        esr: u64,
        far: u64,
        ipa: Ipa,
    ) -> Quick {
        let Located { domain, vcpu } = at;
        let access = MmioAccess {
            ipa,
            width: AccessWidth::from_sas(esr >> 22),
            direction: Direction::Read,
        };
        match domain.devices.find(&access) {
            Some((Device::Interrupts(frame), offset)) if esr & WRITE == 0 => {
                quick_setting(domain, vcpu.id.index, state, esr, frame, offset)
            }
            Some((Device::Interrupts(frame), offset)) => {
                self.quick_controller_write(at, cpu, state, esr, frame, offset)
            }
            Some((Device::Console, offset)) if esr & WRITE == 0 => quick_console_read(domain, state, esr, offset),
            Some(_) => Quick::No,
            None if domain.devices.may_be_near_served(ipa) => self.quick_served(at, cpu, state, esr, far, ipa),
            None => self.quick_nobody(domain, cpu, state, esr, far, ipa),
        }
    }

    /// An access to what the manifest gives a server, or near it.
    #[inline(never)]
    fn quick_served<C: Cpu>(
        &self,
        at: Located<'_>,
        cpu: &mut C,
        state: &mut VcpuState,
        esr: u64,
        far: u64,
        ipa: Ipa,
    ) -> Quick {
        let Located { domain, vcpu } = at;
        if !domain.devices.may_be_served(ipa) {
            return self.quick_nobody(domain, cpu, state, esr, far, ipa);
        }
        let width = AccessWidth::from_sas(esr >> 22);
        let register = register_of(esr);
        let direction = if esr & WRITE != 0 {
            Direction::Write(state.frame.read(register) & width.mask())
        } else {
            Direction::Read
        };
        let plain = PlainAccess {
            access: MmioAccess { ipa, width, direction },
            register,
            extension: extension(esr),
            virtual_address: far,
        };
        let slot = domain.shadows.find(ipa);
        if let Some(slot) = slot {
            self.left_guest(vcpu.pcpu);
            if self.meets_shadow(cpu, (domain, vcpu), state, (slot, &plain.access)) {
                return Quick::Due;
            }
        }
        match self.quick_post(cpu, domain, vcpu, state, &plain) {
            // The guest was left: it is to be entered again.
            Quick::Done if slot.is_some() => Quick::Due,
            quick => quick,
        }
    }

    /// EVTCHNOP_send, the call of those that serve. Each way that it can go is a function of its own, so that none keeps more
    /// registers than it needs.
    #[inline(never)]
    pub fn on_send<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState) -> Quick {
        let pointer = state.frame.read(1);
        // One that is not aligned may lie in two pages.
        if !pointer.is_multiple_of(4) {
            return Quick::No;
        }
        state.count(Exit::Hypercall);
        let Some(argument) = self.known_argument(at.domain, cpu, state, pointer) else {
            return self.send_by_argument(at, cpu, state, pointer);
        };
        let port = EventPort(self.machine.load_u32(argument));
        if port == state.peer.port {
            return self.send_to_peer(at, cpu, state, port);
        }
        if port == state.own_port {
            return self.send_to_own(at, cpu, state, port);
        }
        self.send_anew(at, cpu, state, port)
    }

    #[inline(never)]
    fn send_by_argument<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState, pointer: u64) -> Quick {
        self.left_guest(at.vcpu.pcpu);
        match self.argument(at.domain, cpu, state, pointer) {
            Ok(argument) => {
                let port = EventPort(self.machine.load_u32(argument));
                self.send_anew(at, cpu, state, port)
            }
            Err(error) => {
                state.frame.write(0, HypercallError::register(error));
                Quick::Due
            }
        }
    }

    #[inline(never)]
    fn send_to_own<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState, port: EventPort) -> Quick {
        match self.send_to_itself(at, cpu, state, port) {
            Some(quick) => {
                state.frame.write(0, 0);
                quick
            }
            None => self.send_anew(at, cpu, state, port),
        }
    }

    /// EVTCHNOP_send from `port`, of which nothing is known.
    #[inline(never)]
    pub(super) fn send_anew<C: Cpu>(
        &self,
        at: Located<'_>,
        cpu: &mut C,
        state: &mut VcpuState,
        port: EventPort,
    ) -> Quick {
        self.left_guest(at.vcpu.pcpu);
        match self.send_event(at, cpu, state, port) {
            Ok(quick) => {
                state.frame.write(0, 0);
                quick
            }
            Err(error) => {
                state.frame.write(0, HypercallError::register(error));
                Quick::Due
            }
        }
    }

    /// An access to what no device of the hypervisor has.
    #[inline(never)]
    fn leave_for<C: Cpu>(
        &self,
        cpu: &mut C,
        domain: &Domain,
        vcpu: &Vcpu,
        state: &mut VcpuState,
        plain: &PlainAccess,
        may_ring: bool,
    ) -> Quick {
        self.left_guest(vcpu.pcpu);
        if may_ring && self.ring(domain, vcpu, &plain.access) {
            state.count(Exit::Server);
            state.frame.advance_a64();
            return Quick::Due;
        }
        self.begin_plain(cpu, domain, vcpu, state, plain)
    }
}

/// Whether ESR_EL2 is of a WFI of AArch64.
#[inline(always)]
pub(crate) fn is_wait_for_interrupt(esr: u64, frame: &GuestFrame) -> bool {
    esr & WAIT_MASK == WAIT_FOR_INTERRUPT && frame.pstate & AARCH32 == 0
}

/// Whether ESR_EL2 is of the hypercall EVTCHNOP_send, which has a way of its own ([`Hypervisor::on_quick_call`]).
#[inline(always)]
pub fn is_send(esr: u64, frame: &GuestFrame) -> bool {
    esr == HYPERCALL && frame.read(16) == EVENT_CHANNEL_OP && frame.read(0) == SEND
}

/// The register that an access loads or stores (SRT).
#[inline(always)]
const fn register_of(esr: u64) -> u8 {
    (esr >> 16 & 31) as u8
}

#[inline(always)]
const fn extension(esr: u64) -> Extension {
    match (esr & SIGNED, esr & SIXTY_FOUR) {
        (0, _) => Extension::Zero,
        (_, 0) => Extension::SignTo32,
        _ => Extension::SignTo64,
    }
}

/// The load is answered with `value`, of which bits beyond its width are ignored.
#[inline(always)]
fn finish_read(state: &mut VcpuState, esr: u64, value: u64) {
    let value = load_value(AccessWidth::from_sas(esr >> 22), extension(esr), value);
    state.frame.write(register_of(esr), value);
    state.frame.advance_a64();
}
