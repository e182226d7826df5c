//! Pages that left a guest's map are announced to who maps them, at the end of the hypercall that took them out.
//!
//! The vCPU waits for the answers one server after the other, as for an access; its registers hold the call's result by then.

use crate::cpu::Cpu;
use crate::domain::Domain;
use crate::domain::vcpu::Vcpu;
use crate::hypervisor::clock::CoreClock;
use crate::hypervisor::mmio::PendingAccess;
use crate::hypervisor::{Hypervisor, VcpuState};
use crate::ioreq::{Effects, Surroundings};
use crate::machine::Machine;

impl<M: Machine> Hypervisor<M> {
    /// The loaded vCPU's hypercall is over, and pages left the map of its domain that [`VcpuState::departed`] maps.
    #[inline(never)]
    pub(crate) fn announce_departures<C: Cpu>(&self, cpu: &mut C, domain: &Domain, vcpu: &Vcpu, state: &mut VcpuState) {
        let mappers = core::mem::take(&mut state.departed);
        state.unheard = domain.servers.lock().listeners(vcpu.id.index, mappers);
        self.announce_rest(cpu, domain, vcpu, state);
    }

    /// Tells the servers that are yet to be told; whether the vCPU can run.
    pub(crate) fn announce_rest<C: Cpu>(
        &self,
        cpu: &mut C,
        domain: &Domain,
        vcpu: &Vcpu,
        state: &mut VcpuState,
    ) -> bool {
        while let Some(id) = state.unheard.next() {
            let clock = CoreClock::new(self);
            let around = Surroundings {
                memory: &self.machine,
                clock: &clock,
            };
            let mut effects = Effects::default();
            let mut servers = domain.servers.lock();
            let told = servers.announce(vcpu.id.index, id, &around, &mut effects);
            drop(servers);
            self.perform(domain, &effects);
            if !told {
                continue;
            }
            // The answer takes PC forward, as that of an access does.
            state.frame.rewind();
            state.access = Some(PendingAccess::ANNOUNCEMENT);
            if self.await_answer(domain, vcpu).is_none() {
                return false;
            }
            self.finish_announcement(cpu, state);
        }
        true
    }
}
