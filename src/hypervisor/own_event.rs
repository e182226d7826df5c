//! An event that a domain sends to itself, by the vCPU that hears it: a straight path, with one table to look at.
//!
//! A vCPU remembers the port by which it last did so. That is only a hint: what the port is connected to is looked at
//! again, with the domain's event channels locked.

use crate::cpu::Cpu;
use crate::evtchn::{Delivery, UPCALL};
use crate::hypervisor::{Hypervisor, Located, Quick, VcpuState};
use crate::ids::EventPort;
use crate::machine::Machine;

impl<M: Machine> Hypervisor<M> {
    /// EVTCHNOP_send by the loaded vCPU from the port that it remembers, if the other end still is the domain's own. What is left
    /// to do then; `None`: it is not, or its channels are locked, and nothing was done.
    ///
    /// The vCPU has not left its guest: nobody is waited for who may wait for that.
    #[inline(always)]
    pub(crate) fn send_to_itself<C: Cpu>(
        &self,
        at: Located<'_>,
        cpu: &mut C,
        state: &VcpuState,
        port: EventPort,
    ) -> Option<Quick> {
        let Located { domain, vcpu } = at;
        let delivery = self.with_words(|words| domain.events.try_lock()?.send_to_itself(port, words))?;
        let index = vcpu.id.index;
        let upcall = Delivery {
            upcall: Some(index),
            ..Delivery::NOBODY
        };
        // The lock is tried, so that no register is kept for a wait.
        if delivery == upcall
            && !state.flags.flush_due
            && let Some(mut vgic) = domain.vgic.try_lock()
            && vgic.pulse_private_again(index, UPCALL, cpu.virtual_interface())
        {
            return Some(Quick::Done);
        }
        Some(self.tell_own_domain(at, cpu, state, delivery))
    }

    /// The domain of the loaded vCPU has an event.
    #[inline(never)]
    fn tell_own_domain<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &VcpuState, delivery: Delivery) -> Quick {
        if delivery == Delivery::NOBODY || self.tell_itself(at, cpu, state, delivery) {
            return Quick::Done;
        }
        let Located { domain, vcpu } = at;
        self.left_guest(vcpu.pcpu);
        self.announce(domain, delivery);
        Quick::Due
    }
}
