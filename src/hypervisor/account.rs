//! How each vCPU spends its time, as its guest reads it (VCPUOP_register_runstate_memory_area).

use crate::abi::vcpu::{RUNSTATE_BLOCKED, RUNSTATE_OFFLINE, RUNSTATE_RUNNABLE, RUNSTATE_RUNNING, RunstateInfo};
use crate::domain::vcpu::Vcpu;
use crate::hypercall::RunstateArea;
use crate::hypervisor::{Hypervisor, VcpuState};
use crate::ids::Ticks;
use crate::machine::Machine;
use crate::sched::Wait;

/// The account of a vCPU, on the system counter: only a guest that reads it wants nanoseconds.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Account {
    /// `RUNSTATE_*`.
    state: u32,
    /// Since when.
    since: Ticks,
    /// Spent in each state before.
    spent: [Ticks; 4],
}

impl Account {
    /// Of one that is off since `booted`.
    pub(crate) const fn new(booted: Ticks) -> Self {
        Self {
            state: RUNSTATE_OFFLINE,
            since: booted,
            spent: [Ticks(0); 4],
        }
    }

    /// It does something else from `now` on.
    #[inline]
    fn turn(&mut self, new: u32, now: Ticks) {
        if let Some(spent) = self.spent.get_mut(self.state as usize) {
            spent.0 = spent.0.wrapping_add(now.0.saturating_sub(self.since.0));
        }
        self.state = new;
        self.since = now;
    }
}

impl<M: Machine> Hypervisor<M> {
    /// The vCPU runs from now on.
    #[inline]
    pub(crate) fn account_running(&self, vcpu: &Vcpu, state: &mut VcpuState) {
        if state.account.state != RUNSTATE_RUNNING {
            self.account(vcpu, &mut state.account, RUNSTATE_RUNNING);
        }
    }

    /// The vCPU is unloaded: it waits, or others run before it.
    #[inline]
    pub(crate) fn account_stopped(&self, vcpu: &Vcpu, state: &mut VcpuState) {
        let new = match state.leaves_as.take() {
            Some(known) => known,
            None => self.runstate(vcpu),
        };
        vcpu.set_may_wait(new != RUNSTATE_RUNNABLE);
        // One that was only looked at does what it did before.
        if state.account.state != new {
            self.account(vcpu, &mut state.account, new);
        }
    }

    /// What a vCPU does that is not loaded.
    fn runstate(&self, vcpu: &Vcpu) -> u32 {
        let (waits, held) = self.pcpu(vcpu.pcpu).map_or((None, false), |pcpu| {
            let queue = pcpu.queue.lock();
            (queue.waits(vcpu.slot), queue.is_held(vcpu.slot))
        });
        match (waits, held) {
            (Some(Wait::Power), _) | (None, true) => RUNSTATE_OFFLINE,
            (Some(_), _) => RUNSTATE_BLOCKED,
            (None, false) => RUNSTATE_RUNNABLE,
        }
    }

    #[inline]
    fn account(&self, vcpu: &Vcpu, account: &mut Account, new: u32) {
        account.turn(new, self.machine.now());
        if let Some(area) = vcpu.runstate_area() {
            self.publish_account(area, account);
        }
    }

    #[inline(never)]
    fn publish_account(&self, area: RunstateArea, account: &Account) {
        let since = account.since.0.saturating_sub(self.booted.0);
        let info = RunstateInfo {
            state: account.state,
            pad: 0,
            // 0 is when nothing was written yet.
            state_entry_time: self.nanoseconds(Ticks(since)).max(1),
            time: account.spent.map(|spent| self.nanoseconds(spent)),
        };
        area.publish(&self.machine, &info);
    }
}
