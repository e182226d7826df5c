//! Starting and stopping vCPUs and domains: PSCI, SCHEDOP_shutdown.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use crate::abi::sched::ShutdownReason;
use crate::cpu::{Cpu, El1Register};
use crate::domain::Domain;
use crate::domain::vcpu::{Attention, Power, Vcpu};
use crate::hypervisor::messages::Message;
use crate::hypervisor::{Hypervisor, VcpuState};
use crate::ids::{Ipa, MAX_VCPUS};
use crate::machine::Machine;
use crate::manifest::lifecycle::OnShutdown;
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
            Action::CpuOff => self.power_off_vcpu(vcpu),
            Action::Suspend => {
                state.frame.write(0, 0);
                self.wait_for_event(cpu, domain, vcpu, state, None);
            }
            Action::SystemOff => self.stop_domain(domain, ShutdownReason::Poweroff),
            Action::SystemReset => self.stop_domain(domain, ShutdownReason::Reboot),
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
        *power = Power::Starting { entry, context };
        drop(power);
        self.notify(vcpu, Attention::Power, Wait::Power);
        Action::SUCCESS
    }

    /// Powers a domain's boot vCPU on: its first instruction is `entry`, with `device_tree` in x0.
    pub(crate) fn boot(&self, domain: &Domain) {
        if let Some(vcpu) = domain.vcpus.first() {
            *vcpu.power.lock() = Power::Starting {
                entry: domain.entry,
                context: domain.device_tree.0,
            };
            self.notify(vcpu, Attention::Power, Wait::Power);
        }
    }

    fn power_off_vcpu(&self, vcpu: &Vcpu) {
        self.block(vcpu, Wait::Power, None);
        *vcpu.power.lock() = Power::Off;
    }

    /// Applies a start that was asked for.
    pub(crate) fn apply_power<C: Cpu>(&self, cpu: &mut C, vcpu: &Vcpu, state: &mut VcpuState) {
        let mut power = vcpu.power.lock();
        if let Power::Starting { entry, context } = *power {
            *power = Power::On;
            drop(power);
            *state = VcpuState {
                // The vGIC still has the line as the old timer left it, and time spent is spent.
                physical_timer_line: state.physical_timer_line,
                account: state.account,
                ..VcpuState::new(state.id, Arc::clone(&state.counters))
            };
            state.frame = GuestFrame {
                pc: entry.0,
                pstate: START_PSTATE,
                ..GuestFrame::default()
            };
            state.frame.write(0, context);
            cpu.write_el1(El1Register::SctlrEl1, START_SCTLR);
            cpu.write_el1(El1Register::CntvCtlEl0, 0);
        }
    }

    /// Stops all vCPUs of a domain for good.
    pub(crate) fn stop_domain(&self, domain: &Domain, reason: ShutdownReason) {
        if !domain.stop(reason) {
            return;
        }
        self.cancel_alarms(domain);
        // Only vCPUs that can be scheduled retire.
        self.unpause(domain);
        domain.servers.lock().cancel_all();
        for vcpu in &domain.vcpus {
            for wait in [Wait::Event, Wait::Request] {
                self.notify(vcpu, Attention::Stop, wait);
            }
        }
        self.abandon_servers(domain.id);
        self.tell(Message::Stopped {
            domain: domain.id,
            reason,
        });
        let guests_stopped = self.domains().filter(|domain| !domain.serves).all(Domain::is_stopped);
        let fatal = reason == ShutdownReason::Crash && domain.on_crash == OnShutdown::PowerOff;
        if guests_stopped || fatal {
            self.finished.store(true, Ordering::Release);
        }
    }

    /// A vCPU of a stopped domain was scheduled: it never runs again.
    pub(crate) fn retire(&self, vcpu: &Vcpu, state: &mut VcpuState) {
        state.access = None;
        self.power_off_vcpu(vcpu);
    }
}
