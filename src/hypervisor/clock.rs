//! Time as the limits on servers count it: a domain whose vCPUs get no processor is not late.

use crate::hypervisor::Hypervisor;
use crate::ids::{DomainId, Ticks};
use crate::ioreq::Clock;
use crate::machine::Machine;

/// The system counter and the run queues of one hypervisor.
pub(crate) struct CoreClock<'a, M: Machine> {
    hypervisor: &'a Hypervisor<M>,
}

impl<'a, M: Machine> CoreClock<'a, M> {
    pub(crate) fn new(hypervisor: &'a Hypervisor<M>) -> Self {
        Self { hypervisor }
    }
}

impl<M: Machine> Clock for CoreClock<'_, M> {
    fn now(&self) -> Ticks {
        self.hypervisor.machine.now()
    }

    fn runnable(&self, domain: DomainId) -> Ticks {
        let now = self.now();
        let starved = self.hypervisor.domain(domain).and_then(|domain| {
            let starved = |vcpu: &crate::domain::vcpu::Vcpu| {
                let pcpu = self.hypervisor.pcpu(vcpu.pcpu)?;
                Some(pcpu.queue.lock().starved(vcpu.slot, now).0)
            };
            domain.vcpus.iter().filter_map(starved).min()
        });
        Ticks(now.0.saturating_sub(starved.unwrap_or(0)))
    }
}
