//! Two vCPUs that wait for each other's events in turns, taken down rather than decided.
//!
//! One sends an event to the other, which waits for one and is younger, so that it runs at once; it waits again, and the
//! first one goes on, which nobody else keeps from running. That is a [`RunQueue::preempt`] and a [`RunQueue::wait`]; after
//! both have happened, the next ones need only the ages of the two ([`Volley`]), until another time. As with requests, the
//! run queue is told of what happened before anybody looks at it ([`super::Turns::settled`]).

use super::{DEFAULT_SHARE, NEVER, NOBODY, RunQueue, Slot, Wait};
use crate::ids::{DomainId, Ticks, VcpuId};

/// The two, and what they did since the run queue was told.
#[derive(Debug)]
pub(super) struct Volley {
    /// Up to when nothing else is to be decided; 0: there is no such pair.
    pub(super) until: u64,
    /// Who sends first and can always run; who waits.
    first: usize,
    vcpu: VcpuId,
    second: usize,
    /// Whether the second one runs; since when whoever runs does.
    is_second: bool,
    since: u64,
    ages: [u64; 2],
    floor: u64,
    /// How long each has run.
    ran: [u64; 2],
}

impl Volley {
    pub(super) const NONE: Self = Self {
        until: 0,
        first: NOBODY,
        vcpu: VcpuId {
            domain: DomainId(0),
            index: 0,
        },
        second: NOBODY,
        is_second: false,
        since: 0,
        ages: [0; 2],
        floor: 0,
        ran: [0; 2],
    };

    /// [`RunQueue::preempt`] of `from` by `to` after an event. `false`: it is not as simple as that; nothing has changed.
    #[inline(always)]
    pub(super) fn send(&mut self, from: Slot, to: Slot, slice: u64, now: Ticks) -> bool {
        if self.first != from.0 || self.second != to.0 || self.is_second || now.0 >= self.until {
            return false;
        }
        let elapsed = now.0.saturating_sub(self.since);
        let age = self.ages[0].saturating_add(elapsed);
        let floor = self.floor.max(age.saturating_sub(slice));
        let own = self.ages[1].max(floor);
        if own >= age {
            return false;
        }
        self.ages = [age, own];
        self.floor = floor;
        self.ran[0] += elapsed;
        self.since = now.0;
        self.is_second = true;
        true
    }

    /// [`RunQueue::wait`] of `from` for an event, without a deadline: whoever sent one goes on. Who that is. `None`: it is not
    /// as simple as that; nothing has changed.
    #[inline(always)]
    pub(super) fn wait(&mut self, from: Slot, now: Ticks) -> Option<(Slot, VcpuId)> {
        if self.second != from.0 || !self.is_second || now.0 >= self.until {
            return None;
        }
        let elapsed = now.0.saturating_sub(self.since);
        self.ages[1] = self.ages[1].saturating_add(elapsed);
        self.ran[1] += elapsed;
        self.since = now.0;
        self.is_second = false;
        Some((Slot(self.first), self.vcpu))
    }
}

impl RunQueue {
    /// `second`, which the current vCPU `first` had sent an event, waits for another one: what they do until `until` need not be
    /// decided. `None`: it must.
    pub(super) fn volley(&self, first: Slot, second: Slot, until: u64, now: Ticks) -> Option<Volley> {
        let (one, other) = (self.entries.get(first.0)?, self.entries.get(second.0)?);
        let usual = self.current == first.0
            && self.ready.is_empty()
            && !self.contended
            && one.is_runnable()
            && other.waits == Some(Wait::Event)
            && other.held.is_none();
        let own = |entry: &super::Entry| {
            entry.charged == NOBODY
                && entry.lends_to == NOBODY
                && entry.deadline == NEVER
                && entry.share == DEFAULT_SHARE
        };
        (usual && own(one) && own(other) && until > now.0).then_some(Volley {
            until,
            first: first.0,
            vcpu: one.vcpu,
            second: second.0,
            since: now.0,
            ages: [one.age, other.age],
            floor: self.floor,
            ..Volley::NONE
        })
    }

    /// What was taken down happens.
    #[cold]
    #[inline(never)]
    pub(super) fn settle_volley(&mut self, volley: &Volley) {
        let Volley {
            first,
            second,
            is_second,
            since,
            ages: [first_age, second_age],
            ran: [first_ran, second_ran],
            ..
        } = *volley;
        let Ok([one, other]) = self.entries.get_disjoint_mut([first, second]) else {
            return;
        };
        if first_ran == 0 && second_ran == 0 && !is_second {
            return;
        }
        one.ran += first_ran;
        one.age = first_age;
        other.ran += second_ran;
        other.age = second_age;
        // It waited while the first one ran.
        other.slept += first_ran;
        other.ready += second_ran;
        other.since = Ticks(since);
        self.charged_until = Ticks(since);
        self.floor = volley.floor.max(first_age.saturating_sub(self.slice));
        if is_second {
            other.waits = None;
            self.current = second;
            self.contended = true;
            self.ready.put(first, first_age);
            self.floor = volley.floor;
        }
    }
}
