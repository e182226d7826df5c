//! How each vCPU spends its time, as its guest reads it (VCPUOP_register_runstate_memory_area).

use crate::abi::vcpu::{RUNSTATE_BLOCKED, RUNSTATE_OFFLINE, RUNSTATE_RUNNABLE, RUNSTATE_RUNNING, RunstateInfo};
use crate::domain::vcpu::Vcpu;
use crate::hypervisor::{Hypervisor, VcpuState};
use crate::machine::Machine;
use crate::sched::Wait;

impl<M: Machine> Hypervisor<M> {
    /// The vCPU runs from now on.
    pub(crate) fn account_running(&self, vcpu: &Vcpu, state: &mut VcpuState) {
        if state.account.state != RUNSTATE_RUNNING || state.account.state_entry_time == 0 {
            self.account(vcpu, &mut state.account, RUNSTATE_RUNNING);
        }
    }

    /// The vCPU is unloaded: it waits, or others run before it.
    pub(crate) fn account_stopped(&self, vcpu: &Vcpu, state: &mut VcpuState) {
        let (waits, held) = self.pcpu(vcpu.pcpu).map_or((None, false), |pcpu| {
            let queue = pcpu.queue.lock();
            (queue.waits(vcpu.slot), queue.is_held(vcpu.slot))
        });
        let new = match (waits, held) {
            (Some(Wait::Power), _) | (None, true) => RUNSTATE_OFFLINE,
            (Some(_), _) => RUNSTATE_BLOCKED,
            (None, false) => RUNSTATE_RUNNABLE,
        };
        // One that was only looked at does what it did before.
        if state.account.state != new {
            self.account(vcpu, &mut state.account, new);
        }
    }

    fn account(&self, vcpu: &Vcpu, account: &mut RunstateInfo, new: u32) {
        let now = self.system_time().max(1);
        let spent = now.saturating_sub(account.state_entry_time.max(1));
        if let Some(time) = account.time.get_mut(account.state as usize) {
            *time = time.saturating_add(spent);
        }
        account.state = new;
        account.state_entry_time = now;
        if let Some(area) = *vcpu.runstate.lock() {
            area.publish(&self.machine, account);
        }
    }
}
