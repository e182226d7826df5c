//! Traps that need one look at a device of the hypervisor: answered without leaving the guest's time.
//!
//! Such a trap changes nothing that [`Hypervisor::enter`] looks at, or says that it did. What others want of the vCPU
//! meanwhile comes with a kick, which is pending when the guest goes on. Only locks below those of event channels are
//! taken, so that a pCPU that waits for this one to leave its guest never holds one of them.

mod shown;

use crate::abi::HypercallError;
use crate::abi::evtchn::SEND;
use crate::abi::hypercall::{EVENT_CHANNEL_OP, HVC_IMMEDIATE};
use crate::counters::Exit;
use crate::cpu::{Access, Cpu};
use crate::domain::Domain;
use crate::domain::devices::Device;
use crate::domain::vcpu::Vcpu;
use crate::hypervisor::calls::Caller;
use crate::hypervisor::mmio::PlainAccess;
use crate::hypervisor::{Hypervisor, Located, VcpuState};
use crate::ids::{EventPort, Ipa, PAGE_SIZE};
use crate::machine::Machine;
use crate::trap::access::{AccessWidth, Direction, Extension, MmioAccess, load_value};
use crate::trap::registers::Saved;
use crate::trap::syndrome::{Hpfar, Syndrome};
use crate::vgic::SgiRegister;

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
    /// Nothing: it is a trap of another kind.
    No,
    /// Nothing: it needs a register that is not in the frame. With all of them there it will be something else.
    Registers,
}

/// ESR_EL2 of a load or store of one register (EC 0x24, ISV) by a 4-byte instruction (IL) whose own address (no
/// S1PTW) has no translation (DFSC 0b0001xx), and that is no cache maintenance (no CM).
const PLAIN_ACCESS: u64 = 0x24 << 26 | 1 << 25 | 1 << 24 | 0b0001 << 2;
const PLAIN_ACCESS_MASK: u64 = 0x3f << 26 | 1 << 25 | 1 << 24 | 1 << 8 | 1 << 7 | 0b1111 << 2;
/// SSE and SF.
const SIGNED: u64 = 1 << 21;
const SIXTY_FOUR: u64 = 1 << 15;
/// ESR_EL2 of MSR ICC_SGI1R_EL1 (EC 0x18; S3_0_C12_C11_5), without its register.
const SEND_SGI: u64 = 0x18 << 26 | 1 << 25 | 3 << 20 | 5 << 17 | 12 << 10 | 11 << 1;
const SYSTEM_REGISTER_RT: u64 = 31 << 5;
/// ESR_EL2 of MRS of a register of the ID space (S3_0_C0_Cm_n), without its register, m and n.
const READ_ID: u64 = 0x18 << 26 | 1 << 25 | 3 << 20 | 1;
const ID_MASK: u64 = 0x3f << 26 | 1 << 25 | 3 << 20 | 7 << 14 | 15 << 10 | 1;
/// ESR_EL2 of a hypercall.
const HYPERCALL: u64 = 0x16 << 26 | 1 << 25 | HVC_IMMEDIATE as u64;
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
            0x16 => self.on_quick_call(at, cpu, state, syndrome.esr),
            0x18 => self.on_quick_system_register(at, cpu, state, syndrome.esr, saved),
            0x24 => self.on_quick_access(at, cpu, state, syndrome, saved),
            _ => Quick::No,
        }
    }

    /// HVC from AArch64, if [`crate::trap::quick::answer`] has no answer.
    #[inline]
    pub fn on_quick_call<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState, esr: u64) -> Quick {
        if esr == HYPERCALL && state.frame.read(16) == EVENT_CHANNEL_OP && state.frame.read(0) == SEND {
            return self.quick_send(at, cpu, state);
        }
        Quick::No
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
            let (crm, op2) = ((esr >> 1 & 15) as u8, (esr >> 17 & 7) as u8);
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

    /// A data abort.
    #[inline]
    pub fn on_quick_access<C: Cpu>(
        &self,
        at: Located<'_>,
        cpu: &mut C,
        state: &mut VcpuState,
        syndrome: &Syndrome,
        saved: Saved,
    ) -> Quick {
        let Located { domain, vcpu } = at;
        let (esr, offset) = (syndrome.esr, syndrome.far % PAGE_SIZE);
        let register = (esr >> 16 & 31) as u8;
        let width = AccessWidth::from_sas(esr >> 22);
        // One that is not aligned may touch two pages, or have begun in the one before.
        if esr & PLAIN_ACCESS_MASK != PLAIN_ACCESS
            || !offset.is_multiple_of(width.bytes())
            || self.hpfar != Hpfar::Architectural
            || state.frame.pstate & AARCH32 != 0
        {
            return self.quick_store(at, cpu, state, syndrome, saved);
        }
        if !saved.has(register) {
            return Quick::Registers;
        }
        let at_start = offset == 0 && width != AccessWidth::Byte;
        if at_start {
            self.left_guest(vcpu.pcpu);
            if self.may_begin_before(cpu, domain, syndrome.far) {
                return Quick::No;
            }
        }
        let direction = if esr & WRITE != 0 {
            Direction::Write(state.frame.read(register) & width.mask())
        } else {
            Direction::Read
        };
        let access = MmioAccess {
            ipa: Ipa(syndrome.hpfar_page().0 | offset),
            width,
            direction,
        };
        let extension = match (esr & SIGNED, esr & SIXTY_FOUR) {
            (0, _) => Extension::Zero,
            (_, 0) => Extension::SignTo32,
            _ => Extension::SignTo64,
        };
        let (exit, value, done) = match (domain.devices.find(&access), direction) {
            (Some((Device::Interrupts(frame), offset)), Direction::Read) => {
                let value = domain.vgic.lock().read_setting(vcpu.id.index, frame, offset, width);
                (Exit::InterruptController, value, Quick::Done)
            }
            (Some((Device::Interrupts(frame), offset)), Direction::Write(_)) => {
                let live = !state.flush_due;
                match self.access_interrupt_controller(cpu, domain, vcpu, live, (frame, offset), &access) {
                    Some(value) => (Exit::InterruptController, Some(value), Quick::Due),
                    None => return Quick::Due,
                }
            }
            (Some((Device::Console, offset)), Direction::Read) => {
                (Exit::Uart, self.read_console(domain, offset, width), Quick::Done)
            }
            (None, _) => {
                let plain = PlainAccess {
                    access,
                    register,
                    extension,
                    virtual_address: syndrome.far,
                };
                let slot = domain.shadows.find(access.ipa);
                if let Some(slot) = slot {
                    self.left_guest(vcpu.pcpu);
                    if self.meets_shadow(cpu, (domain, vcpu), state, (slot, &access)) {
                        return Quick::Due;
                    }
                }
                return match self.quick_post(cpu, domain, vcpu, state, plain) {
                    // The guest was left: it is to be entered again.
                    Quick::Done if at_start || slot.is_some() => Quick::Due,
                    quick => quick,
                };
            }
            _ => return Quick::No,
        };
        let Some(value) = value else { return Quick::No };
        state.count(exit);
        if direction == Direction::Read {
            state.frame.write(register, load_value(width, extension, value));
        }
        state.frame.advance_a64();
        if at_start { Quick::Due } else { done }
    }

    fn quick_sgi<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState, register: u8) -> Quick {
        let Located { domain, vcpu } = at;
        if !domain.gic_system_registers {
            return Quick::No;
        }
        let value = state.frame.read(register);
        let told = self.send_sgi(cpu, domain, vcpu, !state.flush_due, (SgiRegister::Sgi1r, value));
        state.count(Exit::SystemRegister);
        state.frame.advance_a64();
        if told { Quick::Due } else { Quick::Done }
    }

    /// EVTCHNOP_send, the call of those that serve.
    #[inline(never)]
    fn quick_send<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState) -> Quick {
        let Located { domain, vcpu } = at;
        let pointer = state.frame.read(1);
        // One that is not aligned may lie in two pages.
        if !pointer.is_multiple_of(4) {
            return Quick::No;
        }
        self.left_guest(vcpu.pcpu);
        state.count(Exit::Hypercall);
        let caller = Caller {
            hypervisor: self,
            cpu,
            domain,
            vcpu,
        };
        let sent = caller.resolve(pointer, Access::Read).and_then(|argument| {
            let port = EventPort(self.machine.load_u32(argument));
            self.send_event(domain, vcpu, state, port)
        });
        match sent {
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

    /// Whether an access at the first byte of a page may have begun in the page before: only if there is memory there.
    fn may_begin_before<C: Cpu>(&self, cpu: &C, domain: &Domain, virtual_address: u64) -> bool {
        match cpu.translate(virtual_address.wrapping_sub(1), Access::Read) {
            Ok(ipa) => domain.memory.lock().stage2.lookup(&self.machine, ipa).is_some(),
            Err(_) => false,
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
        plain: PlainAccess,
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

    /// A register of the domain's UART, if reading it changes nothing.
    fn read_console(&self, domain: &Domain, offset: u64, width: AccessWidth) -> Option<u64> {
        self.console.lock().read_idle(domain.console?, offset, width)
    }
}
