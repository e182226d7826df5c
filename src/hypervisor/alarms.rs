//! Deadlines of domains: what is to happen to a domain at a time, whoever runs then.
//!
//! Each pCPU keeps those of the domains whose vCPU 0 is pinned to it, and [`Hypervisor::schedule`] counts them in its own
//! deadline. While none is due that costs one load. An alarm says only that it is time to look: the domain's state, under
//! its own lock, decides. So an alarm that is already on its way when its reason is taken back does nothing, and state
//! that sets its alarm while it is locked never misses one.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::hypervisor::run::Pcpu;
use crate::ids::{DomainId, MAX_DOMAINS, Ticks};
use crate::machine::Machine;
use crate::sync::Mutex;

/// What has a deadline. A domain has at most one of each.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Alarm {
    /// The first of its watchdogs.
    Watchdog,
    /// The interrupt of its PL031.
    Clock,
}

impl Alarm {
    /// How many kinds there are.
    const KINDS: usize = 2;
}

/// The time that does not come.
pub(crate) const NEVER: Ticks = Ticks(u64::MAX);

#[derive(Copy, Clone, Debug)]
struct Entry {
    deadline: Ticks,
    domain: DomainId,
    alarm: Alarm,
}

type Table = heapless::Vec<Entry, { (MAX_DOMAINS + 1) * Alarm::KINDS }>;

/// The alarms that one pCPU looks after.
#[derive(Debug)]
pub(crate) struct Alarms {
    /// The earliest deadline, or [`NEVER`]. Written under the table's lock.
    first: AtomicU64,
    table: Mutex<Table>,
}

impl Default for Alarms {
    fn default() -> Self {
        Self {
            first: AtomicU64::new(NEVER.0),
            table: Mutex::new(Table::new()),
        }
    }
}

impl Alarms {
    /// The earliest deadline, or [`NEVER`].
    #[inline]
    pub(crate) fn first(&self) -> Ticks {
        Ticks(self.first.load(Ordering::Acquire))
    }

    /// Replaces the deadline of one alarm; `None` cancels it. Returns whether the earliest of all is earlier now.
    fn set(&self, domain: DomainId, alarm: Alarm, deadline: Option<Ticks>) -> bool {
        let mut table = self.table.lock();
        table.retain(|entry| entry.domain != domain || entry.alarm != alarm);
        if let Some(deadline) = deadline.filter(|deadline| *deadline != NEVER) {
            // There is room for every alarm of every domain.
            let _ = table.push(Entry {
                deadline,
                domain,
                alarm,
            });
        }
        let first = earliest(&table);
        self.first.swap(first, Ordering::AcqRel) > first
    }

    /// Takes an alarm that is due, the earliest first.
    fn take_due(&self, now: Ticks) -> Option<(DomainId, Alarm)> {
        let mut table = self.table.lock();
        let (index, entry) = table.iter().enumerate().min_by_key(|(_, entry)| entry.deadline)?;
        if entry.deadline > now {
            return None;
        }
        let taken = table.swap_remove(index);
        self.first.store(earliest(&table), Ordering::Release);
        Some((taken.domain, taken.alarm))
    }
}

fn earliest(table: &Table) -> u64 {
    table.iter().map(|entry| entry.deadline.0).min().unwrap_or(NEVER.0)
}

impl<M: Machine> Hypervisor<M> {
    /// Sets when an alarm of `domain` is due, or that it is not; from any pCPU, while the state that asks for it is locked.
    pub(crate) fn set_alarm(&self, domain: &Domain, alarm: Alarm, deadline: Option<Ticks>) {
        let Some(vcpu) = domain.vcpus.first() else { return };
        let Some(pcpu) = self.pcpu(vcpu.pcpu) else { return };
        if pcpu.alarms.set(domain.id, alarm, deadline) {
            self.on_deadline(vcpu.pcpu);
            self.machine.kick(vcpu.pcpu);
        }
    }

    /// Nothing of what `domain`, which has stopped, asked for at a later time happens any more.
    pub(crate) fn cancel_alarms(&self, domain: &Domain) {
        self.drop_watchdogs(domain);
        self.reset_clock(domain);
    }

    /// Does what is due at `now`; returns the next deadline, or [`NEVER`]. A handler may set alarms; those that are due at
    /// once come with the next decision, so that no domain holds a pCPU here.
    #[cold]
    #[inline(never)]
    pub(crate) fn ring_alarms(&self, pcpu: &Pcpu, now: Ticks) -> Ticks {
        let most = pcpu.alarms.table.lock().len();
        for _ in 0..most {
            let Some((domain, alarm)) = pcpu.alarms.take_due(now) else {
                break;
            };
            let Some(domain) = self.domain(domain) else { continue };
            match alarm {
                Alarm::Watchdog => self.on_watchdog(domain),
                Alarm::Clock => self.on_clock(domain),
            }
        }
        pcpu.alarms.first()
    }
}

#[cfg(test)]
mod tests {
    use super::{Alarm, Alarms, DomainId, MAX_DOMAINS, NEVER, Ticks};
    use std::vec::Vec;

    fn due(alarms: &Alarms, now: u64) -> Vec<u16> {
        core::iter::from_fn(|| alarms.take_due(Ticks(now)))
            .map(|(domain, _)| domain.0)
            .collect()
    }

    fn set(alarms: &Alarms, domain: u16, deadline: Option<u64>) -> bool {
        alarms.set(DomainId(domain), Alarm::Watchdog, deadline.map(Ticks))
    }

    #[test]
    fn every_domain_has_its_alarms_and_they_come_in_order() {
        let alarms = Alarms::default();
        assert_eq!(alarms.first(), NEVER);
        // Later ones first: each is the earliest so far, and the pCPU is told.
        for domain in (1..=MAX_DOMAINS as u16).rev() {
            assert!(set(&alarms, domain, Some(100 * u64::from(domain))));
        }
        assert_eq!(due(&alarms, 99), []);
        assert_eq!(due(&alarms, 300), [1, 2, 3]);
        assert_eq!(alarms.first(), Ticks(400));
        assert_eq!(due(&alarms, u64::MAX).len(), MAX_DOMAINS - 3);
        assert_eq!(alarms.first(), NEVER);
    }

    #[test]
    fn there_is_room_for_every_alarm_of_every_domain() {
        let alarms = Alarms::default();
        let domains = 0..=MAX_DOMAINS as u16;
        for domain in domains.clone() {
            for alarm in [Alarm::Watchdog, Alarm::Clock] {
                alarms.set(DomainId(domain), alarm, Some(Ticks(domain.into())));
            }
        }
        let twice = domains.flat_map(|domain| [domain, domain]);
        assert!(due(&alarms, u64::MAX).into_iter().eq(twice));
    }

    #[test]
    fn alarms_of_the_same_time_all_come() {
        let alarms = Alarms::default();
        for domain in 1..=MAX_DOMAINS as u16 {
            assert_eq!(
                set(&alarms, domain, Some(7)),
                domain == 1,
                "{domain}: only the first is news"
            );
        }
        let mut all = due(&alarms, 7);
        all.sort_unstable();
        assert!(all.into_iter().eq(1..=MAX_DOMAINS as u16));
    }

    #[test]
    fn an_alarm_is_replaced_or_cancelled_whatever_others_there_are() {
        let alarms = Alarms::default();
        for (domain, deadline, earlier) in [
            (1, Some(50), true),
            (2, Some(60), false),
            (1, Some(70), false),
            (2, Some(10), true),
            (2, None, false),
            (2, None, false),
            (3, Some(u64::MAX), false),
        ] {
            assert_eq!(set(&alarms, domain, deadline), earlier, "{domain} {deadline:?}");
        }
        assert_eq!(alarms.first(), Ticks(70));
        assert_eq!(due(&alarms, u64::MAX), [1]);
        // However often it is set there is one.
        for deadline in 0..10_000 {
            set(&alarms, 4, Some(deadline));
        }
        assert_eq!(due(&alarms, u64::MAX), [4]);
    }
}
