//! Starting and stopping vCPUs and domains: PSCI, SCHEDOP_shutdown.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use crate::abi::sched::ShutdownReason;
use crate::cpu::{Cpu, El1Register};
use crate::domain::Domain;
use crate::domain::vcpu::{Attention, Power, Vcpu};
use crate::hypervisor::{Entry, Hypervisor, VcpuState};
use crate::ids::{DomainSet, Ipa, MAX_VCPUS};
use crate::ioreq::Unheard;
use crate::machine::Machine;
use crate::psci::{self, Action, PowerState};
use crate::sched::Wait;
use crate::trap::registers::GuestFrame;

/// PSTATE of a vCPU that starts: EL1h, D, A, I and F masked (DEN0022, 6.4.3).
const START_PSTATE: u64 = 0x3c5;
/// SCTLR_EL1 then: MMU and caches off, everything else as its RES1 bits (Arm ARM, D24.2, SCTLR_EL1).
const START_SCTLR: u64 = 0x30d0_0800;

impl<M: Machine> Hypervisor<M> {
    /// HVC #0 or SMC #0. PC is behind the instruction.
    #[inline(never)]
    pub(crate) fn on_firmware_call<C: Cpu>(&self, cpu: &mut C, domain: &Domain, vcpu: &Vcpu, state: &mut VcpuState) {
        let mut states = [PowerState::Off; MAX_VCPUS];
        for (state, vcpu) in states.iter_mut().zip(&domain.vcpus) {
            *state = match *vcpu.power.lock() {
                Power::Off => PowerState::Off,
                Power::Starting { .. } => PowerState::OnPending,
                Power::On => PowerState::On,
            };
        }
        let states = states.get(..domain.vcpus.len()).unwrap_or_default();
        let arguments = [
            state.frame.read(0),
            state.frame.read(1),
            state.frame.read(2),
            state.frame.read(3),
        ];
        let action = match psci::call(&arguments, states) {
            Action::CpuOn { target, entry, context } => self.power_on(domain, target, Ipa(entry), context),
            action => action,
        };
        match action {
            Action::Return(values) => {
                // A PSCI function defines x0 alone; SMCCC 1.2 lets the others keep their values.
                let defined = if values[1..] == [0; 3] { 1 } else { 4 };
                for (register, value) in (0..).zip(values).take(defined) {
                    state.frame.write(register, value);
                }
            }
            // Performed above.
            Action::CpuOn { .. } => {}
            Action::CpuOff => self.power_off_vcpu(cpu, domain, vcpu, state),
            Action::Suspend => {
                state.frame.write(0, 0);
                self.wait_for_event(cpu, domain, vcpu, state, None);
            }
            Action::SystemOff => self.shut_down(domain, ShutdownReason::Poweroff),
            Action::SystemReset => self.shut_down(domain, ShutdownReason::Reboot),
        }
    }

    fn power_on(&self, domain: &Domain, target: u8, entry: Ipa, context: u64) -> Action {
        let is_ram = domain
            .memory
            .lock()
            .stage2
            .lookup(&self.machine, entry)
            .is_some_and(|mapping| mapping.page_use.is_own_ram());
        if !is_ram {
            return Action::INVALID_ADDRESS;
        }
        let Some(vcpu) = domain.vcpus.get(usize::from(target)) else {
            return Action::INVALID_ADDRESS;
        };
        let mut power = vcpu.power.lock();
        if *power != Power::Off {
            // Somebody else was faster: what PSCI answers then depends on how far that one is.
            return if *power == Power::On {
                Action::ALREADY_ON
            } else {
                Action::ON_PENDING
            };
        }
        domain.live_vcpus.fetch_add(1, Ordering::AcqRel);
        *power = Power::Starting { entry, context };
        drop(power);
        self.notify(vcpu, Attention::Power, Wait::Power);
        Action::SUCCESS
    }

    /// Powers a domain's boot vCPU on, while all its vCPUs are off.
    pub(crate) fn boot(&self, domain: &Domain) {
        if let Some(vcpu) = domain.vcpus.first() {
            domain.live_vcpus.fetch_add(1, Ordering::AcqRel);
            *vcpu.power.lock() = Power::Starting {
                entry: domain.entry,
                context: domain.device_tree.0,
            };
            self.notify(vcpu, Attention::Power, Wait::Power);
        }
    }

    /// The loaded vCPU is off until it is powered on. Nothing of it is left in its pCPU that others see, and the last that
    /// happens is that it says so.
    pub(crate) fn power_off_vcpu<C: Cpu>(&self, cpu: &mut C, domain: &Domain, vcpu: &Vcpu, state: &mut VcpuState) {
        state.access = None;
        state.plain = None;
        state.departed = DomainSet::default();
        state.unheard = Unheard::default();
        state.flags.is_on = false;
        if core::mem::take(&mut state.flags.polls) {
            domain.events.lock().stop_polling(vcpu.id.index);
        }
        cpu.write_el1(El1Register::CntvCtlEl0, 0);
        let kick = domain.vgic.lock().power_off(vcpu.id.index, cpu.virtual_interface());
        state.flags.flush_due = true;
        self.interrupt_vcpus(domain, kick);
        self.block(vcpu, Wait::Power, None);
        let before = core::mem::replace(&mut *vcpu.power.lock(), Power::Off);
        if before != Power::Off {
            self.one_less(domain);
        }
    }

    /// The loaded vCPU was woken though it is off.
    pub(crate) fn stay_off(&self, vcpu: &Vcpu) -> Entry {
        self.block(vcpu, Wait::Power, None);
        // Somebody may have powered it on meanwhile.
        if vcpu.has_note(Attention::Power) {
            self.wake(vcpu, Wait::Power);
        }
        Entry::Blocked
    }

    /// Applies a start that was asked for.
    pub(crate) fn apply_power<C: Cpu>(&self, cpu: &mut C, domain: &Domain, vcpu: &Vcpu, state: &mut VcpuState) {
        let mut power = vcpu.power.lock();
        if let Power::Starting { entry, context } = *power {
            *power = Power::On;
            drop(power);
            let restarts = domain.restarts.load(Ordering::Acquire);
            let mut new = VcpuState {
                restarts,
                virtual_offset: domain.virtual_offset.load(Ordering::Acquire),
                ..VcpuState::new(state.id, Arc::clone(&state.counters), Arc::clone(&state.pcpu))
            };
            new.flags.is_on = true;
            if state.restarts == restarts {
                // The vGIC still has the line as the old timer left it, and time spent is spent.
                new.flags.physical_timer_line = state.flags.physical_timer_line;
                new.spent_before = state.spent_before;
            } else {
                new.spent_before = self.spent(vcpu, self.machine.now());
            }
            *state = new;
            state.frame = GuestFrame {
                pc: entry.0,
                pstate: START_PSTATE,
                ..GuestFrame::default()
            };
            state.frame.write(0, context);
            cpu.reset();
            cpu.write_el1(El1Register::SctlrEl1, START_SCTLR);
            cpu.write_el1(El1Register::CntvoffEl2, state.virtual_offset);
        }
    }
}
