//! Registers of the hypervisor's own devices that are read and written at once: the interrupt controller's, and the UART's
//! while it has nothing to show.

use super::{Quick, finish_read, register_of};
use crate::access::{AccessWidth, Direction, MmioAccess};
use crate::counters::Exit;
use crate::cpu::Cpu;
use crate::domain::Domain;
use crate::hypervisor::{Hypervisor, Located, VcpuState};
use crate::ids::Ipa;
use crate::machine::Machine;
use crate::vgic::{Frame, SgiRegister};

impl<M: Machine> Hypervisor<M> {
    #[inline(never)]
    pub(super) fn quick_controller_write<C: Cpu>(
        &self,
        at: Located<'_>,
        cpu: &mut C,
        state: &mut VcpuState,
        esr: u64,
        frame: Frame,
        offset: u64,
    ) -> Quick {
        let Located { domain, vcpu } = at;
        let width = AccessWidth::from_sas(esr >> 22);
        let access = MmioAccess {
            // It is known by its offset.
            ipa: Ipa(offset),
            width,
            direction: Direction::Write(state.frame.read(register_of(esr)) & width.mask()),
        };
        let live = !state.flags.flush_due;
        let (done, told) = self.access_interrupt_controller(cpu, domain, vcpu, live, (frame, offset), &access);
        if done.is_some() {
            state.count(Exit::InterruptController);
            state.frame.advance_a64();
        }
        // Whoever was told may be to run here.
        if told { Quick::Due } else { Quick::Done }
    }

    #[inline(always)]
    pub(super) fn quick_sgi<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState, register: u8) -> Quick {
        let Located { domain, vcpu } = at;
        if !domain.gic_system_registers {
            return Quick::No;
        }
        let value = state.frame.read(register);
        if !self.send_sgi_again(cpu, domain, vcpu, !state.flags.flush_due, (SgiRegister::Sgi1r, value)) {
            return self.quick_sgis(at, cpu, state, value);
        }
        state.count(Exit::SystemRegister);
        state.frame.advance_a64();
        Quick::Done
    }

    #[inline(never)]
    pub(super) fn quick_sgis<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState, value: u64) -> Quick {
        let Located { domain, vcpu } = at;
        let told = self.send_sgi(cpu, domain, vcpu, !state.flags.flush_due, (SgiRegister::Sgi1r, value));
        state.count(Exit::SystemRegister);
        state.frame.advance_a64();
        if told { Quick::Due } else { Quick::Done }
    }
}

/// A register of the interrupt controller, if the distributor alone knows it.
#[inline(always)]
pub(super) fn quick_setting(
    domain: &Domain,
    vcpu: u8,
    state: &mut VcpuState,
    esr: u64,
    frame: Frame,
    offset: u64,
) -> Quick {
    let width = AccessWidth::from_sas(esr >> 22);
    let Some(value) = domain.controller.constant(frame, offset, width) else {
        return quick_variable_setting(domain, vcpu, state, esr, frame, offset);
    };
    state.count(Exit::InterruptController);
    finish_read(state, esr, value);
    Quick::Done
}

/// A register of the domain's UART, if that has nothing to show.
#[inline(never)]
pub(super) fn quick_console_read(domain: &Domain, state: &mut VcpuState, esr: u64, offset: u64) -> Quick {
    let width = AccessWidth::from_sas(esr >> 22);
    let flags = domain.console_flags.as_ref();
    let Some(value) = flags.and_then(|flags| flags.read(offset, width)) else {
        return Quick::No;
    };
    state.count(Exit::Uart);
    finish_read(state, esr, value);
    Quick::Done
}

#[inline(never)]
pub(super) fn quick_variable_setting(
    domain: &Domain,
    vcpu: u8,
    state: &mut VcpuState,
    esr: u64,
    frame: Frame,
    offset: u64,
) -> Quick {
    let width = AccessWidth::from_sas(esr >> 22);
    let Some(value) = domain.vgic.lock().read_setting(vcpu, frame, offset, width) else {
        return Quick::No;
    };
    state.count(Exit::InterruptController);
    finish_read(state, esr, value);
    Quick::Done
}
