//! Which vCPU a pCPU runs next: decisions only.
//!
//! vCPUs are pinned, so each pCPU has one [`RunQueue`] and nothing ever migrates. Time is divided by *share*: a vCPU
//! that runs for `t` ticks ages by `t * 100 / share`, and the youngest runnable vCPU runs, for a slice of 1 ms at the
//! most when others wait. A vCPU that wakes re-enters at most one slice younger than the youngest that ran meanwhile,
//! so sleeping saves up nothing, and an event preempts a vCPU that has used more than its share.
//!
//! *Direct handoff*: when a vCPU waits for a server on the same pCPU, that server's vCPU runs at once, whatever its age,
//! and the time is charged to the one that waits. The loan ends when the waiter wakes, when the server's vCPU blocks, or
//! when the waiter has grown older than the others by a slice; so a guest can give away only time that is its own.
//!
//! The usual handoff, from one vCPU to a server that waits or can run, and back, is one step each ([`RunQueue::call`],
//! [`RunQueue::answer`]), and so are a wait for an event ([`RunQueue::wait`]) and an event
//! for one that waits ([`RunQueue::preempt`]). They say no wherever something else has to be looked at, and the steps one by one decide.
//! While the same two go on talking, not even that is needed ([`Turns`]).
//!
//! Nothing here depends on how many vCPUs there are by more than their number's logarithm, but holding and yielding.
//!
//! *Holding* a vCPU keeps it from running and leaves what it waits for as it is: interrupts and answers that come
//! meanwhile end its wait, and it runs when it is released. A time limit on it stands still.

mod direct;
mod entry;
mod heap;
mod held;
mod loans;
mod rest;
mod turns;
mod volleys;

use alloc::vec::Vec;

use crate::ids::{Ticks, VcpuId};
pub use crate::manifest::domain::DEFAULT_SHARE;
use entry::Entry;
pub use entry::{SlotReport, Spent};
use heap::Heap;
pub use turns::Turns;

/// What a vCPU that does not run waits for; a wake-up names what happened and only ends a wait that it concerns.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Wait {
    /// Any interrupt or event (WFI, SCHEDOP_block, SCHEDOP_poll).
    Event,
    /// The answer to a request, or a server that takes it.
    Request,
    /// Power: PSCI CPU_ON, or for ever.
    Power,
}

/// A vCPU's place in its pCPU's [`RunQueue`].
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Slot(usize);

impl Slot {
    /// Its number: no two slots of a queue have the same one.
    pub const fn index(self) -> usize {
        self.0
    }
}

/// What a pCPU runs, and until when at the most.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Pick {
    /// The vCPU; `None`: idle.
    pub run: Option<VcpuId>,
    /// End of its slice, or the first deadline of a waiting vCPU.
    pub until: Option<Ticks>,
}

/// One pCPU's vCPUs.
#[derive(Debug)]
pub struct RunQueue {
    entries: Vec<Entry>,
    slice: u64,
    /// Whom it runs, or [`NOBODY`].
    current: usize,
    /// Up to when the current vCPU's time is charged.
    charged_until: Ticks,
    /// The age that a vCPU wakes at, or ends to work on another's time at: a slice less than that of the youngest.
    floor: u64,
    /// Several vCPUs can run. Otherwise the current one is the youngest.
    contended: bool,
    /// Served before any other at the next decision, or [`NOBODY`].
    handoff: usize,
    /// Some vCPU is to be visited.
    visits: bool,
    /// The current vCPU waits where it is, on nobody's time.
    rests: bool,
    /// Who can run, but the current one, by age: that of who pays for it.
    ready: Heap,
    /// Who waits for an event or a request until a time at the latest, but those that are held.
    timers: Heap,
}

/// No time.
const NEVER: u64 = u64::MAX;
/// No vCPU's number.
const NOBODY: usize = usize::MAX;

/// A time, or [`NEVER`].
#[inline]
fn at(deadline: Option<Ticks>) -> u64 {
    deadline.map_or(NEVER, |deadline| deadline.0)
}

impl RunQueue {
    /// An empty queue with slices of `slice` ticks.
    pub fn new(slice: Ticks) -> Self {
        Self {
            entries: Vec::new(),
            slice: slice.0.max(1),
            current: NOBODY,
            charged_until: Ticks(0),
            floor: 0,
            contended: false,
            handoff: NOBODY,
            visits: false,
            rests: false,
            ready: Heap::default(),
            timers: Heap::default(),
        }
    }

    /// Adds a vCPU, powered off, while domains are built.
    pub fn add(&mut self, vcpu: VcpuId, share: u32) -> Slot {
        self.ready.add_slot();
        self.timers.add_slot();
        self.entries.push(Entry::new(vcpu, share));
        Slot(self.entries.len() - 1)
    }

    /// How many vCPUs are pinned here.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Charges the current vCPU, or whoever lent it the time, up to `now`.
    fn charge(&mut self, now: Ticks) {
        let elapsed = now.0.saturating_sub(self.charged_until.0);
        self.charged_until = Ticks(now.0.max(self.charged_until.0));
        if self.rests {
            return;
        }
        let Some(entry) = self.entries.get_mut(self.current) else {
            return;
        };
        entry.ran += elapsed;
        let payer = if entry.charged == NOBODY {
            self.current
        } else {
            entry.charged
        };
        if let Some(payer) = self.entries.get_mut(payer) {
            payer.age = payer.age.saturating_add(payer.aged(elapsed));
            if !self.contended {
                self.floor = self.floor.max(payer.age.saturating_sub(self.slice));
            }
        }
    }

    /// `slot`'s vCPU stops running until it is woken for `wait`, or until `deadline`.
    pub fn block(&mut self, slot: Slot, wait: Wait, deadline: Option<Ticks>, now: Ticks) {
        self.charge(now);
        self.end_loans_to(slot.0);
        self.return_loan(slot.0);
        if self.current != slot.0 {
            self.ready.remove(slot.0);
        }
        if let Some(entry) = self.entries.get_mut(slot.0) {
            if entry.waits != Some(wait) {
                entry.account(now);
            }
            entry.waits = Some(wait);
            entry.deadline = at(deadline);
        }
        self.watch(slot.0);
    }

    /// Looks at the deadline of a vCPU that waits from now on, if it has one, and no longer otherwise.
    fn watch(&mut self, index: usize) {
        let Some(entry) = self.entries.get(index) else { return };
        match (entry.waits, entry.held) {
            (Some(Wait::Event | Wait::Request), None) if entry.deadline != NEVER => {
                self.timers.put(index, entry.deadline);
            }
            _ => {
                self.timers.remove(index);
            }
        }
    }

    /// Brings `index`, which is not the current vCPU, to where it belongs among those that can run.
    fn rank(&mut self, index: usize) {
        match self.entries.get(index) {
            Some(entry) if entry.is_runnable() => self.ready.put(index, self.payer_age(entry)),
            _ => {
                self.ready.remove(index);
            }
        }
    }

    /// Another vCPU, or none, is the current one.
    fn make_current(&mut self, next: usize) {
        let previous = core::mem::replace(&mut self.current, next);
        if previous != next {
            if previous != NOBODY {
                self.rank(previous);
            }
            if next != NOBODY {
                self.ready.remove(next);
            }
        }
    }

    /// Something happened that ends a wait of kind `what`. Returns whether this pCPU must decide anew.
    pub fn wake(&mut self, slot: Slot, what: Wait, now: Ticks) -> bool {
        let Some(entry) = self.entries.get(slot.0) else {
            return false;
        };
        if entry.waits != Some(what) {
            return false;
        }
        let held = entry.held.is_some();
        if self.current == NOBODY && !held && entry.lends_to == NOBODY {
            self.charged_until = Ticks(now.0.max(self.charged_until.0));
            self.make_ready(slot.0, now);
            return true;
        }
        self.charge(now);
        let served = self
            .entries
            .get(self.current)
            .is_some_and(|entry| entry.charged == slot.0);
        let alone = !self.contended;
        self.make_runnable(slot.0, now);
        if held || self.current == NOBODY {
            return !held;
        }
        if served {
            self.handoff = slot.0;
        }
        // One that had the pCPU to itself shares it from now on: its turn must end.
        served || alone || self.is_idle_or_older(self.current, slot.0)
    }

    fn is_idle_or_older(&self, current: usize, other: usize) -> bool {
        match (self.entries.get(current), self.entries.get(other)) {
            (Some(current), Some(other)) => !current.is_runnable() || other.age < self.payer_age(current),
            _ => true,
        }
    }

    fn make_runnable(&mut self, index: usize, now: Ticks) {
        self.make_ready(index, now);
        self.end_loans_to(index);
    }

    /// As [`Self::make_runnable`], of one whose time nobody has borrowed.
    #[inline]
    fn make_ready(&mut self, index: usize, now: Ticks) {
        let floor = self.floor;
        if let Some(entry) = self.entries.get_mut(index) {
            entry.account(now);
            entry.waits = None;
            if core::mem::replace(&mut entry.deadline, NEVER) != NEVER {
                self.timers.remove(index);
            }
            entry.age = entry.age.max(floor);
            if entry.held.is_none() {
                self.contended = true;
                if self.current != index {
                    // It ran on nobody's time while it waited.
                    self.ready.put(index, entry.age);
                }
            }
        }
    }

    /// When to decide again at the latest: the current vCPU has a deadline of its own.
    #[inline]
    fn until(&self, deadline: u64, now: Ticks) -> Option<Ticks> {
        // Of those that can run, only the one that does is woken for its timers; another looks at them when it runs.
        let mut until = self.timers.first_key().min(deadline);
        if self.contended {
            until = until.min(now.0.saturating_add(self.slice));
        }
        (until != NEVER).then_some(Ticks(until))
    }

    /// The current vCPU lets the others go first (SCHEDOP_yield).
    pub fn yield_now(&mut self, slot: Slot, now: Ticks) {
        self.charge(now);
        let oldest = self
            .entries
            .iter()
            .filter(|entry| entry.is_runnable())
            .map(|entry| entry.age)
            .max();
        if let (Some(entry), Some(oldest)) = (self.entries.get_mut(slot.0), oldest) {
            entry.age = entry.age.max(oldest.saturating_add(1));
            if self.current != slot.0 {
                self.rank(slot.0);
            }
        }
    }

    /// Sets or clears the time at which a runnable vCPU wants this pCPU's attention (an emulated timer), until it waits for
    /// something. Returns whether it was another one.
    pub fn set_deadline(&mut self, slot: Slot, deadline: Option<Ticks>) -> bool {
        let Some(entry) = self.entries.get_mut(slot.0) else {
            return false;
        };
        let deadline = at(deadline);
        let changes = core::mem::replace(&mut entry.deadline, deadline) != deadline;
        if changes {
            self.watch(slot.0);
        }
        changes
    }

    /// The vCPU that this pCPU runs from `now` on, and when to ask again at the latest. One that is visited is not
    /// [current](Self::is_current), and the pCPU asks again at once.
    pub fn pick(&mut self, now: Ticks) -> Pick {
        self.charge(now);
        if self.visits
            && let Some(visit) = self.next_visit()
        {
            return visit;
        }
        if self.timers.first_key() <= now.0 {
            self.end_waits(now);
        }
        let running = self.entries.get(self.current).filter(|entry| entry.is_runnable());
        let current = running.map(|entry| (self.payer_age(entry), self.current));
        let youngest = match (self.ready.first(), current) {
            (Some(ready), Some(current)) => Some(ready.min(current)),
            (ready, current) => ready.or(current),
        };
        if let Some((age, _)) = youngest {
            self.floor = self.floor.max(age.saturating_sub(self.slice));
        }
        self.contended = self.ready.len() + usize::from(current.is_some()) > 1;
        let favoured = core::mem::replace(&mut self.handoff, NOBODY);
        let limit = youngest.map_or(NEVER, |(age, _)| age.saturating_add(self.slice));
        let is_favoured = self
            .entries
            .get(favoured)
            .is_some_and(|entry| entry.is_runnable() && self.payer_age(entry) <= limit);
        self.make_current(if is_favoured {
            favoured
        } else {
            youngest.map_or(NOBODY, |(_, index)| index)
        });
        let current = self.entries.get_mut(self.current);
        let (run, deadline) = match current {
            Some(entry) => {
                // A vCPU that runs looks at its timers itself.
                if entry.deadline <= now.0 {
                    entry.deadline = NEVER;
                }
                (Some(entry.vcpu), entry.deadline)
            }
            None => (None, NEVER),
        };
        Pick {
            run,
            until: self.until(deadline, now),
        }
    }

    /// Ends every wait whose deadline has passed.
    #[cold]
    #[inline(never)]
    fn end_waits(&mut self, now: Ticks) {
        while let Some((deadline, index)) = self.timers.first() {
            if deadline > now.0 {
                break;
            }
            self.timers.remove(index);
            self.make_runnable(index, now);
        }
    }

    /// What `slot`'s vCPU waits for; `None` while it can run.
    pub fn waits(&self, slot: Slot) -> Option<Wait> {
        self.entries.get(slot.0).and_then(|entry| entry.waits)
    }

    /// Whether `slot`'s vCPU is held.
    pub fn is_held(&self, slot: Slot) -> bool {
        self.entries.get(slot.0).is_some_and(|entry| entry.held.is_some())
    }

    /// The vCPU that this pCPU runs, if that waits for nothing.
    pub fn running(&self) -> Option<Slot> {
        let waits_for_nothing = self
            .entries
            .get(self.current)
            .is_some_and(|entry| entry.waits.is_none());
        waits_for_nothing.then_some(Slot(self.current))
    }

    /// Whether `slot`'s vCPU is the one that this pCPU runs.
    pub fn is_current(&self, slot: Slot) -> bool {
        self.current == slot.0
    }

    /// Ticks that `slot`'s vCPU has run up to the last decision.
    pub fn ran(&self, slot: Slot) -> Ticks {
        Ticks(self.entries.get(slot.0).map_or(0, |entry| entry.ran))
    }
}
