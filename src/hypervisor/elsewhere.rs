//! A request to a server on another pCPU, whose vCPU waits there in place, from a vCPU that waits here in place: each side
//! leaves the other a note and kicks its pCPU, and neither run queue has anything to decide.

use core::sync::atomic::Ordering;

use crate::domain::Domain;
use crate::domain::vcpu::{Attention, Vcpu};
use crate::evtchn::Delivery;
use crate::hypervisor::clock::CoreClock;
use crate::hypervisor::{Hypervisor, VcpuState};
use crate::ids::Ticks;
use crate::ioreq::{Clock, Handed, Servers};
use crate::machine::Machine;
use crate::sched::Wait;

impl<M: Machine> Hypervisor<M> {
    /// The server has the request of the loaded vCPU, and is told of it by `delivery` alone: that is done, and the vCPU waits
    /// in place. `false`: it is not as simple as that, and nothing was done.
    #[inline]
    pub(crate) fn call_elsewhere(
        &self,
        vcpu: &Vcpu,
        state: &mut VcpuState,
        servers: &mut Servers,
        (server, delivery, handed): (&Domain, &Delivery, &Handed),
        now: Ticks,
    ) -> bool {
        let Some(to) = delivery.upcall.and_then(|upcall| server.vcpus.get(usize::from(upcall))) else {
            return false;
        };
        let Some(there) = self.pcpu(to.pcpu) else { return false };
        if to.pcpu == vcpu.pcpu
            || !delivery.wake.is_empty()
            || there.resting.load(Ordering::Acquire) != to.slot.index()
            || !self.rests_for_answer(vcpu, state, handed.deadline, now)
        {
            return false;
        }
        if handed.deadline.is_some() {
            // Of several vCPUs it is the one that got the most.
            let runnable = match server.vcpus.as_slice() {
                [_] => Ticks(now.0.saturating_sub(there.starved.load(Ordering::Relaxed))),
                _ => CoreClock::new(self).runnable(handed.owner),
            };
            servers.set_posted(vcpu.id.index, runnable);
        }
        // Should it rest no longer, that wakes it, as any event does that it may hear.
        self.notify(to, Attention::Upcall, Wait::Event);
        true
    }
}
