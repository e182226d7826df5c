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

/// Nanoseconds of a second.
const NANOSECONDS: u128 = 1_000_000_000;

/// How long a tick of the system counter is, so that no conversion divides: whole nanoseconds, and 2^-64 of them.
#[derive(Copy, Clone, Debug)]
pub(crate) struct TickLength {
    whole: u64,
    fraction: u64,
}

impl TickLength {
    /// At `frequency` Hz, which is not 0. Rounded up, so that whole nanoseconds stay whole.
    pub(crate) fn of(frequency: u64) -> Self {
        let length = (NANOSECONDS << 64).div_ceil(u128::from(frequency.max(1)));
        Self {
            whole: (length >> 64) as u64,
            fraction: length as u64,
        }
    }

    pub(crate) fn nanoseconds(self, ticks: u64) -> u64 {
        let parts = (u128::from(ticks) * u128::from(self.fraction)) >> 64;
        ticks.wrapping_mul(self.whole).wrapping_add(parts as u64)
    }
}

impl<M: Machine> Hypervisor<M> {
    /// A span of the system counter in nanoseconds.
    pub(crate) fn nanoseconds(&self, span: Ticks) -> u64 {
        self.tick_length.nanoseconds(span.0)
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
                .map_or(0, |pcpu| pcpu.queue.lock().settled().ran(vcpu.slot).0)
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
                Some(pcpu.queue.lock().settled().starved(vcpu.slot, now)?.0)
            };
            domain.vcpus.iter().filter_map(starved).min()
        });
        Ticks(now.0.saturating_sub(starved.unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::TickLength;

    #[test]
    fn nanoseconds_are_exact_at_every_frequency() {
        for frequency in [
            1,
            1_000,
            19_200_000,
            24_000_000,
            62_500_000,
            100_000_000,
            1_000_000_000,
            2_500_000_000,
        ] {
            for ticks in [
                0,
                1,
                2,
                3,
                7,
                24,
                125,
                frequency - 1,
                frequency,
                3 * frequency + 1,
                86_400 * frequency,
            ] {
                let exact = u128::from(ticks) * 1_000_000_000 / u128::from(frequency);
                let found = TickLength::of(frequency).nanoseconds(ticks);
                assert_eq!(u128::from(found), exact, "{ticks} ticks at {frequency} Hz");
            }
        }
    }
}
