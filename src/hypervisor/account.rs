//! How each vCPU spends its time, as its guest reads it (VCPUOP_register_runstate_memory_area).
//!
//! The run queue counts; nothing more is counted for those that have registered no area.

use crate::abi::vcpu::{RUNSTATE_BLOCKED, RUNSTATE_OFFLINE, RUNSTATE_RUNNABLE, RUNSTATE_RUNNING, RunstateInfo};
use crate::domain::vcpu::Vcpu;
use crate::hypervisor::{Hypervisor, VcpuState};
use crate::ids::Ticks;
use crate::machine::Machine;
use crate::sched::{Spent, Wait};

impl<M: Machine> Hypervisor<M> {
    /// The vCPU runs from now on.
    #[inline(always)]
    pub(crate) fn account_running(&self, vcpu: &Vcpu, state: &VcpuState) {
        if vcpu.publishes_runstate() {
            self.publish_runstate(vcpu, &state.spent_before, RUNSTATE_RUNNING);
        }
    }

    /// The vCPU is unloaded: it waits, or others run before it.
    #[inline(always)]
    pub(crate) fn account_stopped(&self, vcpu: &Vcpu, state: &mut VcpuState) {
        let new = match state.leaves_as.take() {
            Some(known) => known,
            None => self.runstate(vcpu),
        };
        vcpu.set_may_wait(new != RUNSTATE_RUNNABLE);
        if vcpu.publishes_runstate() {
            self.publish_runstate(vcpu, &state.spent_before, new);
        }
    }

    /// The vCPU waits where it is, or runs there again.
    #[inline(always)]
    pub(crate) fn account_rest(&self, vcpu: &Vcpu, state: &VcpuState, new: u32) {
        if vcpu.publishes_runstate() {
            self.publish_runstate(vcpu, &state.spent_before, new);
        }
    }

    /// What a vCPU does that is not loaded.
    #[inline(never)]
    fn runstate(&self, vcpu: &Vcpu) -> u32 {
        let (waits, held) = self.pcpu(vcpu.pcpu).map_or((None, false), |pcpu| {
            let mut turns = pcpu.queue.lock();
            let queue = turns.settled();
            (queue.waits(vcpu.slot), queue.is_held(vcpu.slot))
        });
        match (waits, held) {
            (Some(Wait::Power), _) | (None, true) => RUNSTATE_OFFLINE,
            (Some(_), _) => RUNSTATE_BLOCKED,
            (None, false) => RUNSTATE_RUNNABLE,
        }
    }

    /// What the vCPU has spent since the machine's power-on.
    pub(crate) fn spent(&self, vcpu: &Vcpu, now: Ticks) -> Spent {
        let pcpu = self.pcpu(vcpu.pcpu);
        pcpu.map_or(Spent::default(), |pcpu| {
            pcpu.queue.lock().settled().spent(vcpu.slot, now)
        })
    }

    /// The vCPU is in state `new` from now on. What it spent `before` is of earlier lives of its domain.
    #[cold]
    #[inline(never)]
    fn publish_runstate(&self, vcpu: &Vcpu, before: &Spent, new: u32) {
        let Some(area) = vcpu.runstate_area() else { return };
        // One that was only looked at does what it did before.
        if !vcpu.show_runstate(new) {
            return;
        }
        let now = self.machine.now();
        let total = now.0.saturating_sub(self.booted.0);
        let spent = self.spent(vcpu, now).since(before);
        let [running, runnable, blocked] = [spent.running, spent.runnable, spent.blocked];
        let offline = Ticks(total.saturating_sub(running.0 + runnable.0 + blocked.0));
        let info = RunstateInfo {
            state: new,
            pad: 0,
            // 0 is when nothing was written yet.
            state_entry_time: self.nanoseconds(Ticks(total)).max(1),
            time: [running, runnable, blocked, offline].map(|spent| self.nanoseconds(spent)),
        };
        area.publish(&self.machine, &info);
    }
}
