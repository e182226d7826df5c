//! Time as the limits on servers count it: a domain whose vCPUs get no processor is not late.

use crate::domain::Domain;
use crate::domain::vcpu::Vcpu;
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

const NANOSECONDS: u128 = 1_000_000_000;

impl<M: Machine> Hypervisor<M> {
    /// A span of the system counter in nanoseconds.
    pub(crate) fn nanoseconds(&self, span: Ticks) -> u64 {
        (u128::from(span.0) * NANOSECONDS / u128::from(self.frequency)) as u64
    }

    /// Nanoseconds since boot: the system time of Xen's ABI.
    pub(crate) fn system_time(&self) -> u64 {
        self.nanoseconds(Ticks(self.machine.now().0.saturating_sub(self.booted.0)))
    }

    /// The system counter at a system time.
    pub(crate) fn ticks_at(&self, system_time: u64) -> Ticks {
        let span = u128::from(system_time) * u128::from(self.frequency) / NANOSECONDS;
        Ticks(self.booted.0.saturating_add(u64::try_from(span).unwrap_or(u64::MAX)))
    }

    /// How long the vCPUs of `domain` have run, together.
    pub(crate) fn run_time(&self, domain: &Domain) -> Ticks {
        let ran = |vcpu: &Vcpu| {
            self.pcpu(vcpu.pcpu)
                .map_or(0, |pcpu| pcpu.queue.lock().ran(vcpu.slot).0)
        };
        Ticks(domain.vcpus.iter().map(ran).sum())
    }
}

impl<M: Machine> Clock for CoreClock<'_, M> {
    fn now(&self) -> Ticks {
        self.hypervisor.machine.now()
    }

    fn runnable(&self, domain: DomainId) -> Ticks {
        let now = self.now();
        let starved = self.hypervisor.domain(domain).and_then(|domain| {
            let starved = |vcpu: &Vcpu| {
                let pcpu = self.hypervisor.pcpu(vcpu.pcpu)?;
                Some(pcpu.queue.lock().starved(vcpu.slot, now).0)
            };
            domain.vcpus.iter().filter_map(starved).min()
        });
        Ticks(now.0.saturating_sub(starved.unwrap_or(0)))
    }
}
