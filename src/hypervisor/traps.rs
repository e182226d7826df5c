//! A synchronous exception from a guest: decoded, then handed to whom it concerns.

use crate::abi::hypercall::HVC_IMMEDIATE;
use crate::counters::Exit;
use crate::cpu::Cpu;
use crate::domain::Domain;
use crate::domain::vcpu::Vcpu;
use crate::hypervisor::{Hypervisor, VcpuState};
use crate::machine::Machine;
use crate::trace::Kind;
use crate::trap::exception::{GuestException, Injected, inject};
use crate::trap::registers::InstructionLength;
use crate::trap::syndrome::{Exception, Syndrome, SystemRegisterAccess, SystemRegisterDirection, WaitInstruction};
use crate::trap::system_register::identification::RawIdRegisters;
use crate::trap::system_register::{self, SystemRegisterContext, SystemRegisterOutcome};

impl<M: Machine> Hypervisor<M> {
    /// A synchronous exception from the loaded vCPU. Afterwards `arch` goes through [`Self::must_schedule`] /
    /// [`Self::schedule`] and [`Self::enter`] before it returns to any guest.
    pub fn on_trap<C: Cpu>(&self, cpu: &mut C, state: &mut VcpuState, syndrome: Syndrome) {
        let Some((domain, vcpu)) = self.vcpu(state.id) else {
            return;
        };
        match Exception::decode(&syndrome, self.hpfar) {
            Exception::DataAbort(abort) => self.on_data_abort(cpu, domain, vcpu, state, &abort),
            Exception::InstructionAbort(abort) => {
                state.count(Exit::Instruction);
                self.on_instruction_abort(cpu, domain, state, &abort);
            }
            Exception::Hypercall {
                immediate: HVC_IMMEDIATE,
            } => {
                state.count(Exit::Hypercall);
                self.on_hypercall(cpu, domain, vcpu, state);
            }
            Exception::Hypercall { immediate: 0 } => {
                state.count(Exit::Firmware);
                self.on_firmware_call(cpu, domain, vcpu, state);
            }
            Exception::Hypercall { .. } => {
                state.count(Exit::Other);
                state.frame.rewind();
                self.inject(cpu, state, GuestException::Undefined);
            }
            Exception::SecureCall { immediate: 0 } => {
                state.count(Exit::Firmware);
                state.frame.advance(InstructionLength::Word);
                self.on_firmware_call(cpu, domain, vcpu, state);
            }
            Exception::SystemRegister(access) => {
                state.count(Exit::SystemRegister);
                self.on_system_register(cpu, domain, vcpu, state, &access);
            }
            Exception::Wait(instruction) => {
                state.count(Exit::Wait);
                state.frame.advance(InstructionLength::from_esr(syndrome.esr));
                match instruction {
                    WaitInstruction::Interrupt | WaitInstruction::InterruptWithTimeout => {
                        self.wait_for_event(cpu, domain, vcpu, state, None);
                    }
                    // Somebody else may hold what the guest spins for.
                    WaitInstruction::Event | WaitInstruction::EventWithTimeout => self.yield_now(vcpu),
                }
            }
            // Features that guests do not have: `arch` keeps floating point to itself.
            Exception::FloatingPoint | Exception::SecureCall { .. } => {
                state.count(Exit::Other);
                self.inject(cpu, state, GuestException::Undefined);
            }
            other => {
                state.count(Exit::Other);
                if let Some(exception) = GuestException::of_trap(&other, &syndrome) {
                    self.inject(cpu, state, exception);
                }
            }
        }
    }

    /// An SError that the running guest caused: it gets it.
    pub fn on_system_error<C: Cpu>(&self, cpu: &mut C, state: &mut VcpuState, syndrome: Syndrome) {
        let exception = GuestException::SystemError {
            syndrome: (syndrome.esr & 0x01ff_ffff) as u32,
        };
        self.inject(cpu, state, exception);
    }

    pub(crate) fn inject<C: Cpu>(&self, cpu: &mut C, state: &mut VcpuState, exception: GuestException) {
        self.machine
            .trace(Kind::Denied, state.id, exception.denial().argument(None));
        match inject(cpu, &mut state.frame, exception, self.ids.pstate_features()) {
            Injected::Entered => {}
            Injected::PendSystemError { syndrome } => cpu.pend_system_error(syndrome),
        }
    }

    #[inline(never)]
    fn on_system_register<C: Cpu>(
        &self,
        cpu: &mut C,
        domain: &Domain,
        vcpu: &Vcpu,
        state: &mut VcpuState,
        access: &SystemRegisterAccess,
    ) {
        let context = SystemRegisterContext {
            ids: &self.ids,
            pcpu: self
                .hardware
                .get(usize::from(vcpu.pcpu.0))
                .unwrap_or(&RawIdRegisters::NONE),
            gic_system_registers: domain.gic_system_registers,
            mode: state.frame.mode(),
            now: self.machine.now(),
        };
        let value = match access.direction {
            SystemRegisterDirection::Write => state.frame.read(access.rt),
            SystemRegisterDirection::Read => 0,
        };
        match system_register::access(access, value, &mut state.registers, &context) {
            SystemRegisterOutcome::Read(value) => state.frame.write(access.rt, value),
            SystemRegisterOutcome::Written => {}
            SystemRegisterOutcome::TimerWritten => {
                self.update_physical_timer(domain, vcpu, state);
            }
            SystemRegisterOutcome::SendSgi { register, value } => {
                self.send_sgi(cpu, domain, vcpu, !state.flags.flush_due, (register, value));
            }
            SystemRegisterOutcome::CacheBySetWay => {
                if !self.clean_domain(domain, state) {
                    return;
                }
            }
            SystemRegisterOutcome::Undefined => return self.inject(cpu, state, GuestException::Undefined),
        }
        state.frame.advance(InstructionLength::Word);
    }
}
