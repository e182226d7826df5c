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
//!
//! Nothing here depends on how many vCPUs there are by more than their number's logarithm, but holding and yielding.
//!
//! *Holding* a vCPU keeps it from running and leaves what it waits for as it is: interrupts and answers that come
//! meanwhile end its wait, and it runs when it is released. A time limit on it stands still.

mod heap;

use alloc::vec::Vec;

use crate::ids::{Ticks, VcpuId};
use heap::Heap;

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

#[derive(Debug)]
struct Entry {
    vcpu: VcpuId,
    share: u32,
    /// Run time scaled by share, in ticks.
    age: u64,
    waits: Option<Wait>,
    /// When to wake it at the latest.
    deadline: Option<Ticks>,
    /// Whom its time is charged to while it serves.
    charged: Option<usize>,
    /// Who runs on its time while it waits: the other end of `charged`.
    lends_to: Option<usize>,
    /// Ticks that it ran, whoever was charged.
    ran: u64,
    /// Ticks that it could have run, up to `since`, or up to `held`.
    ready: u64,
    /// Since when it can run, or waits.
    since: Ticks,
    /// Ticks that it waited for servers, up to `since`.
    waited: u64,
    /// Since when it is held.
    held: Option<Ticks>,
    /// Somebody wants its pCPU to look at its registers.
    visit: bool,
}

impl Entry {
    /// It can run, and nobody holds it.
    fn is_runnable(&self) -> bool {
        self.waits.is_none() && self.held.is_none()
    }

    /// The wait, or the time in which it could run, ends.
    #[inline]
    fn account(&mut self, now: Ticks) {
        let spent = now.0.saturating_sub(self.since.0);
        match self.waits {
            None if self.held.is_none() => self.ready = self.ready.saturating_add(spent),
            Some(Wait::Request) => self.waited = self.waited.saturating_add(spent),
            _ => {}
        }
        self.since = now;
    }
}

/// What a run queue knows of a vCPU.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct SlotReport {
    /// It is the one that the pCPU runs.
    pub is_current: bool,
    /// What it waits for.
    pub waits: Option<Wait>,
    /// It is held.
    pub held: bool,
    /// When its wait ends at the latest.
    pub deadline: Option<Ticks>,
    /// How long it waits, or can run, already.
    pub since: Ticks,
    /// How long it ran.
    pub ran: Ticks,
    /// How long it waited for servers.
    pub waited: Ticks,
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
    current: Option<usize>,
    /// Up to when the current vCPU's time is charged.
    charged_until: Ticks,
    /// The age that a vCPU wakes at, or ends to work on another's time at: a slice less than that of the youngest.
    floor: u64,
    /// Several vCPUs can run. Otherwise the current one is the youngest.
    contended: bool,
    /// Served before any other at the next decision.
    handoff: Option<usize>,
    /// Some vCPU is to be visited.
    visits: bool,
    /// Who can run, but the current one, by age: that of who pays for it.
    ready: Heap,
    /// Who waits for an event or a request until a time at the latest, but those that are held.
    timers: Heap,
}

/// No time.
const NEVER: u64 = u64::MAX;

/// The share of a domain whose manifest names none.
pub const DEFAULT_SHARE: u32 = 100;

/// How much a vCPU with that share ages in so many ticks.
#[inline]
fn aged(elapsed: u64, share: u32) -> u64 {
    elapsed.saturating_mul(u64::from(DEFAULT_SHARE)) / u64::from(share)
}

impl RunQueue {
    /// An empty queue with slices of `slice` ticks.
    pub fn new(slice: Ticks) -> Self {
        Self {
            entries: Vec::new(),
            slice: slice.0.max(1),
            current: None,
            charged_until: Ticks(0),
            floor: 0,
            contended: false,
            handoff: None,
            visits: false,
            ready: Heap::default(),
            timers: Heap::default(),
        }
    }

    /// Adds a vCPU, powered off, while domains are built.
    pub fn add(&mut self, vcpu: VcpuId, share: u32) -> Slot {
        self.ready.add_slot();
        self.timers.add_slot();
        self.entries.push(Entry {
            vcpu,
            share: share.max(1),
            age: 0,
            waits: Some(Wait::Power),
            deadline: None,
            charged: None,
            lends_to: None,
            ran: 0,
            ready: 0,
            since: Ticks(0),
            waited: 0,
            held: None,
            visit: false,
        });
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
        let Some(current) = self.current else { return };
        let Some(entry) = self.entries.get_mut(current) else {
            return;
        };
        entry.ran = entry.ran.saturating_add(elapsed);
        let payer = entry.charged.unwrap_or(current);
        if let Some(payer) = self.entries.get_mut(payer) {
            payer.age = payer.age.saturating_add(aged(elapsed, payer.share));
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
        if self.current != Some(slot.0) {
            self.ready.remove(slot.0);
        }
        if let Some(entry) = self.entries.get_mut(slot.0) {
            if entry.waits != Some(wait) {
                entry.account(now);
            }
            entry.waits = Some(wait);
            entry.deadline = deadline;
        }
        self.watch(slot.0);
    }

    /// Looks at the deadline of a vCPU that waits from now on, if it has one, and no longer otherwise.
    fn watch(&mut self, index: usize) {
        let Some(entry) = self.entries.get(index) else { return };
        match (entry.waits, entry.deadline, entry.held) {
            (Some(Wait::Event | Wait::Request), Some(deadline), None) => self.timers.put(index, deadline.0),
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
    fn make_current(&mut self, next: Option<usize>) {
        let previous = core::mem::replace(&mut self.current, next);
        if previous != next {
            if let Some(previous) = previous {
                self.rank(previous);
            }
            if let Some(next) = next {
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
        self.charge(now);
        let served = self
            .current
            .and_then(|current| self.entries.get(current))
            .is_some_and(|entry| entry.charged == Some(slot.0));
        let alone = !self.contended;
        self.make_runnable(slot.0, now);
        match self.current {
            _ if held => false,
            None => true,
            Some(current) => {
                if served {
                    self.handoff = Some(slot.0);
                }
                // One that had the pCPU to itself shares it from now on: its turn must end.
                served || alone || self.is_idle_or_older(current, slot.0)
            }
        }
    }

    fn is_idle_or_older(&self, current: usize, other: usize) -> bool {
        match (self.entries.get(current), self.entries.get(other)) {
            (Some(current), Some(other)) => !current.is_runnable() || other.age < self.payer_age(current),
            _ => true,
        }
    }

    fn payer_age(&self, entry: &Entry) -> u64 {
        entry
            .charged
            .and_then(|payer| self.entries.get(payer))
            .map_or(entry.age, |payer| payer.age)
    }

    fn make_runnable(&mut self, index: usize, now: Ticks) {
        let floor = self.floor;
        if let Some(entry) = self.entries.get_mut(index) {
            entry.account(now);
            entry.waits = None;
            if entry.deadline.take().is_some() {
                self.timers.remove(index);
            }
            entry.age = entry.age.max(floor);
            if entry.held.is_none() {
                self.contended = true;
                if self.current != Some(index) {
                    // It ran on nobody's time while it waited.
                    self.ready.put(index, entry.age);
                }
            }
        }
        self.end_loans_to(index);
    }

    /// Whoever ran on `lender`'s time pays for itself from now on. It did not age meanwhile, and has saved up nothing.
    fn end_loans_to(&mut self, lender: usize) {
        let borrower = self.entries.get_mut(lender).and_then(|entry| entry.lends_to.take());
        if let Some(borrower) = borrower {
            if let Some(entry) = self.entries.get_mut(borrower) {
                entry.charged = None;
                entry.age = entry.age.max(self.floor);
            }
            if self.current != Some(borrower) {
                self.rank(borrower);
            }
        }
    }

    /// `borrower` runs on nobody else's time any more. Whether it did.
    fn return_loan(&mut self, borrower: usize) -> bool {
        let lender = self.entries.get_mut(borrower).and_then(|entry| entry.charged.take());
        if let Some(lender) = lender.and_then(|lender| self.entries.get_mut(lender)) {
            lender.lends_to = None;
        }
        lender.is_some()
    }

    /// `borrower` runs on the time of `lender`, and nobody else does.
    fn lend(&mut self, lender: usize, borrower: usize) {
        self.end_loans_to(lender);
        self.return_loan(borrower);
        if let Some(entry) = self.entries.get_mut(borrower) {
            entry.charged = Some(lender);
        }
        if let Some(entry) = self.entries.get_mut(lender) {
            entry.lends_to = Some(borrower);
        }
    }

    /// `from`, which has just blocked, waits for `to` on this pCPU: run `to` next, on `from`'s time.
    pub fn hand_off(&mut self, from: Slot, to: Slot) {
        let runnable = self.entries.get(to.0).is_some_and(Entry::is_runnable);
        if runnable && from != to {
            self.lend(from.0, to.0);
            if self.current != Some(to.0) {
                self.rank(to.0);
            }
            self.handoff = Some(to.0);
        }
    }

    /// The current vCPU `from` waits for `to` to answer a request, until `deadline` at the latest, and `to`, woken if it
    /// waits for an event, runs on `from`'s time: [`Self::wake`], [`Self::block`], [`Self::hand_off`] and [`Self::pick`] in
    /// one step. `None`: it is not as simple as that; nothing has changed.
    pub fn call(&mut self, from: Slot, to: Slot, deadline: Option<Ticks>, now: Ticks) -> Option<Pick> {
        let until = deadline.map_or(NEVER, |deadline| deadline.0);
        if self.current != Some(from.0) || self.visits || self.timers.first_key().min(until) <= now.0 {
            return None;
        }
        let [caller, server] = self.entries.get_disjoint_mut([from.0, to.0]).ok()?;
        // One that serves another itself is charged to that one, and so is whom it calls.
        let usual = caller.is_runnable() && caller.charged.is_none() && server.held.is_none();
        if !usual || server.charged.is_some() || server.deadline.is_some_and(|deadline| deadline <= now) {
            return None;
        }
        let wakes = match server.waits {
            None => false,
            Some(Wait::Event) => true,
            Some(_) => return None,
        };
        let elapsed = now.0.saturating_sub(self.charged_until.0);
        let age = caller.age.saturating_add(aged(elapsed, caller.share));
        let others = if wakes {
            self.ready.first_key()
        } else {
            self.ready.first_key_but(to.0)
        };
        let youngest = others.min(age);
        if age > youngest.saturating_add(self.slice) {
            return None;
        }
        self.charged_until = Ticks(now.0.max(self.charged_until.0));
        caller.ran = caller.ran.saturating_add(elapsed);
        caller.age = age;
        if !self.contended {
            self.floor = self.floor.max(age.saturating_sub(self.slice));
        }
        caller.account(now);
        caller.waits = Some(Wait::Request);
        caller.deadline = deadline;
        caller.lends_to = Some(to.0);
        server.charged = Some(from.0);
        let mut own = server.deadline;
        if wakes {
            server.account(now);
            server.waits = None;
            server.deadline = None;
            server.age = server.age.max(self.floor);
            if own.take().is_some() {
                self.timers.remove(to.0);
            }
        } else {
            self.ready.remove(to.0);
        }
        if deadline.is_some() {
            self.timers.put(from.0, until);
        }
        let vcpu = server.vcpu;
        Some(self.decided(to.0, vcpu, youngest, own, now))
    }

    /// The current vCPU `from`, which runs on the time of `to`, has answered it, and `to` goes on: [`Self::wake`] and
    /// [`Self::pick`] in one step. `None`: it is not as simple as that; nothing has changed.
    pub fn answer(&mut self, from: Slot, to: Slot, now: Ticks) -> Option<Pick> {
        if self.current != Some(from.0) || self.visits || self.timers.first_key() <= now.0 {
            return None;
        }
        let [server, caller] = self.entries.get_disjoint_mut([from.0, to.0]).ok()?;
        if server.charged != Some(to.0) || !server.is_runnable() || caller.held.is_some() {
            return None;
        }
        if caller.waits != Some(Wait::Request) || server.deadline.is_some_and(|deadline| deadline <= now) {
            return None;
        }
        let elapsed = now.0.saturating_sub(self.charged_until.0);
        let mut age = caller.age.saturating_add(aged(elapsed, caller.share));
        let mut floor = self.floor;
        if !self.contended {
            floor = floor.max(age.saturating_sub(self.slice));
        }
        age = age.max(floor);
        let own = server.age.max(floor);
        let youngest = self.ready.first_key().min(own).min(age);
        if age > youngest.saturating_add(self.slice) {
            return None;
        }
        self.charged_until = Ticks(now.0.max(self.charged_until.0));
        self.floor = floor;
        server.ran = server.ran.saturating_add(elapsed);
        server.charged = None;
        server.age = own;
        caller.age = age;
        caller.lends_to = None;
        caller.account(now);
        caller.waits = None;
        let vcpu = caller.vcpu;
        if caller.deadline.take().is_some() {
            self.timers.remove(to.0);
        }
        self.ready.put(from.0, own);
        Some(self.decided(to.0, vcpu, youngest, None, now))
    }

    /// The current vCPU `slot` waits for an event until `deadline` at the latest, and another runs, or none: [`Self::block`]
    /// and [`Self::pick`] in one step. `None`: it is not as simple as that; nothing has changed.
    pub fn wait(&mut self, slot: Slot, deadline: Option<Ticks>, now: Ticks) -> Option<Pick> {
        let until = deadline.map_or(NEVER, |deadline| deadline.0);
        if self.current != Some(slot.0) || self.visits || self.timers.first_key().min(until) <= now.0 {
            return None;
        }
        let next = self.ready.first();
        let late = |entry: &Entry| entry.deadline.is_some_and(|deadline| deadline <= now);
        if self.handoff.is_some() || next.is_some_and(|(_, next)| self.entries.get(next).is_none_or(late)) {
            return None;
        }
        let waiter = self.entries.get_mut(slot.0)?;
        if !waiter.is_runnable() || waiter.charged.is_some() {
            return None;
        }
        let elapsed = now.0.saturating_sub(self.charged_until.0);
        self.charged_until = Ticks(now.0.max(self.charged_until.0));
        waiter.ran = waiter.ran.saturating_add(elapsed);
        waiter.age = waiter.age.saturating_add(aged(elapsed, waiter.share));
        if !self.contended {
            self.floor = self.floor.max(waiter.age.saturating_sub(self.slice));
        }
        waiter.account(now);
        waiter.waits = Some(Wait::Event);
        waiter.deadline = deadline;
        if deadline.is_some() {
            self.timers.put(slot.0, until);
        }
        let Some((youngest, next)) = next else {
            self.current = None;
            self.contended = false;
            return Some(Pick {
                run: None,
                until: self.until(None, now),
            });
        };
        self.ready.remove(next);
        let runner = self.entries.get(next)?;
        let (vcpu, own) = (runner.vcpu, runner.deadline);
        Some(self.decided(next, vcpu, youngest, own, now))
    }

    /// An event came for `to`, which waits for one, and it runs before the current vCPU, which can run: [`Self::wake`] and
    /// [`Self::pick`] in one step. `None`: it is not as simple as that, or somebody else runs; nothing has changed.
    pub fn preempt(&mut self, to: Slot, now: Ticks) -> Option<Pick> {
        let from = self.current?;
        if self.visits || self.handoff.is_some() || self.timers.first_key() <= now.0 {
            return None;
        }
        let [runner, waiter] = self.entries.get_disjoint_mut([from, to.0]).ok()?;
        let usual = runner.is_runnable() && runner.charged.is_none() && waiter.held.is_none();
        if !usual || waiter.waits != Some(Wait::Event) || runner.deadline.is_some_and(|deadline| deadline <= now) {
            return None;
        }
        let elapsed = now.0.saturating_sub(self.charged_until.0);
        let age = runner.age.saturating_add(aged(elapsed, runner.share));
        let mut floor = self.floor;
        if !self.contended {
            floor = floor.max(age.saturating_sub(self.slice));
        }
        let own = waiter.age.max(floor);
        // One that had the pCPU to itself decides anew in any case.
        let (first, second) = ((own, to.0), (age, from));
        if first > second || (own == age && self.contended) || self.ready.first().is_some_and(|other| other < first) {
            return None;
        }
        self.charged_until = Ticks(now.0.max(self.charged_until.0));
        self.floor = floor;
        runner.ran = runner.ran.saturating_add(elapsed);
        runner.age = age;
        waiter.account(now);
        waiter.waits = None;
        waiter.age = own;
        let vcpu = waiter.vcpu;
        if waiter.deadline.take().is_some() {
            self.timers.remove(to.0);
        }
        self.ready.put(from, age);
        Some(self.decided(to.0, vcpu, own, None, now))
    }

    /// `vcpu`, which is `index`, was chosen while the age of the youngest was `youngest`; it has a deadline of its own.
    #[inline]
    fn decided(&mut self, index: usize, vcpu: VcpuId, youngest: u64, deadline: Option<Ticks>, now: Ticks) -> Pick {
        self.current = Some(index);
        self.handoff = None;
        self.floor = self.floor.max(youngest.saturating_sub(self.slice));
        self.contended = self.ready.len() > 0;
        Pick {
            run: Some(vcpu),
            until: self.until(deadline, now),
        }
    }

    /// When to decide again at the latest: the current vCPU has a deadline of its own.
    #[inline]
    fn until(&self, deadline: Option<Ticks>, now: Ticks) -> Option<Ticks> {
        let mut until = self.timers.first_key();
        if self.contended {
            until = until.min(now.0.saturating_add(self.slice));
        }
        // Of those that can run, only the one that does is woken for its timers; another looks at them when it runs.
        if let Some(deadline) = deadline {
            until = until.min(deadline.0);
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
            if self.current != Some(slot.0) {
                self.rank(slot.0);
            }
        }
    }

    /// Sets or clears the time at which a runnable vCPU wants this pCPU's attention (an emulated timer).
    pub fn set_deadline(&mut self, slot: Slot, deadline: Option<Ticks>) {
        if let Some(entry) = self.entries.get_mut(slot.0) {
            entry.deadline = deadline;
            self.watch(slot.0);
        }
    }

    /// At the next decision this pCPU loads `slot`'s vCPU, whatever that waits for, so that its registers can be looked at.
    /// Its wait stays as it is, and the time is nobody's.
    pub fn visit(&mut self, slot: Slot) {
        if let Some(entry) = self.entries.get_mut(slot.0) {
            entry.visit = true;
            self.visits = true;
        }
    }

    /// The registers of `slot`'s vCPU, which is loaded, are about to be looked at. Whether it goes on: a visited one does not.
    pub fn end_visit(&mut self, slot: Slot) -> bool {
        if let Some(entry) = self.entries.get_mut(slot.0) {
            entry.visit = false;
        }
        self.is_current(slot)
    }

    #[cold]
    #[inline(never)]
    fn next_visit(&mut self) -> Option<Pick> {
        let next = self.entries.iter_mut().find(|entry| entry.visit);
        let Some(entry) = next else {
            self.visits = false;
            return None;
        };
        entry.visit = false;
        let vcpu = entry.vcpu;
        self.make_current(None);
        Some(Pick {
            run: Some(vcpu),
            until: None,
        })
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
        let running = self.current.filter(|index| self.can_run(*index));
        let current = running.and_then(|index| Some((self.payer_age(self.entries.get(index)?), index)));
        let youngest = match (self.ready.first(), current) {
            (Some(ready), Some(current)) => Some(ready.min(current)),
            (ready, current) => ready.or(current),
        };
        if let Some((age, _)) = youngest {
            self.floor = self.floor.max(age.saturating_sub(self.slice));
        }
        self.contended = self.ready.len() + usize::from(current.is_some()) > 1;
        let favoured = self.handoff.take().filter(|index| {
            let limit = youngest.map_or(NEVER, |(age, _)| age.saturating_add(self.slice));
            self.entries
                .get(*index)
                .is_some_and(|entry| entry.is_runnable() && self.payer_age(entry) <= limit)
        });
        self.make_current(favoured.or(youngest.map(|(_, index)| index)));
        let current = self.current.and_then(|index| self.entries.get_mut(index));
        let (run, deadline) = match current {
            Some(entry) => {
                // A vCPU that runs looks at its timers itself.
                entry.deadline = entry.deadline.filter(|deadline| *deadline > now);
                (Some(entry.vcpu), entry.deadline)
            }
            None => (None, None),
        };
        Pick {
            run,
            until: self.until(deadline, now),
        }
    }

    fn can_run(&self, index: usize) -> bool {
        self.entries.get(index).is_some_and(Entry::is_runnable)
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
        self.current.map(Slot).filter(|slot| self.waits(*slot).is_none())
    }

    /// Whether `slot`'s vCPU is the one that this pCPU runs.
    pub fn is_current(&self, slot: Slot) -> bool {
        self.current == Some(slot.0)
    }

    /// Ticks that `slot`'s vCPU has run up to the last decision.
    pub fn ran(&self, slot: Slot) -> Ticks {
        Ticks(self.entries.get(slot.0).map_or(0, |entry| entry.ran))
    }

    /// Keeps `slot`'s vCPU from running, whatever it waits for or will wait for; what wakes it meanwhile is not lost. Returns
    /// whether this pCPU must decide anew.
    pub fn hold(&mut self, slot: Slot, now: Ticks) -> bool {
        self.charge(now);
        let floor = self.floor;
        let Some(entry) = self.entries.get_mut(slot.0).filter(|entry| entry.held.is_none()) else {
            return false;
        };
        if entry.waits.is_none() {
            entry.account(now);
        }
        entry.held = Some(now);
        if self.return_loan(slot.0)
            && let Some(entry) = self.entries.get_mut(slot.0)
        {
            entry.age = entry.age.max(floor);
        }
        self.ready.remove(slot.0);
        self.timers.remove(slot.0);
        // Whoever serves it goes on, on its own time.
        self.end_loans_to(slot.0);
        self.is_current(slot)
    }

    /// Lets `slot`'s vCPU run again, if it can. Returns whether this pCPU must decide anew.
    pub fn release(&mut self, slot: Slot, now: Ticks) -> bool {
        self.charge(now);
        let floor = self.floor;
        let Some(entry) = self.entries.get_mut(slot.0) else {
            return false;
        };
        let Some(held) = entry.held.take() else {
            return false;
        };
        // To whoever has a limit on it, it got no time.
        entry.ready = entry.ready.saturating_add(now.0.saturating_sub(held.0));
        if entry.waits.is_none() {
            entry.since = now;
            entry.age = entry.age.max(floor);
            self.contended = true;
            if self.current != Some(slot.0) {
                self.rank(slot.0);
            }
        }
        // Its deadlines were not looked at.
        self.watch(slot.0);
        true
    }

    /// What is known of `slot`'s vCPU.
    pub fn report(&mut self, slot: Slot, now: Ticks) -> Option<SlotReport> {
        self.charge(now);
        let entry = self.entries.get(slot.0)?;
        let since = now.0.saturating_sub(entry.since.0);
        let open = if entry.waits == Some(Wait::Request) { since } else { 0 };
        Some(SlotReport {
            is_current: self.is_current(slot),
            waits: entry.waits,
            held: entry.held.is_some(),
            deadline: entry.deadline,
            since: Ticks(since),
            ran: Ticks(entry.ran),
            waited: Ticks(entry.waited.saturating_add(open)),
        })
    }

    /// Ticks that `slot`'s vCPU could have run but did not get, up to `now`: a time limit on it does not count them. All the
    /// time that it is held counts as such. `None` while it is off.
    pub fn starved(&self, slot: Slot, now: Ticks) -> Option<Ticks> {
        let entry = self.entries.get(slot.0)?;
        let open = match (entry.waits, entry.held) {
            (Some(Wait::Power), _) => return None,
            (_, Some(held)) => now.0.saturating_sub(held.0),
            (Some(_), None) => 0,
            (None, None) => now.0.saturating_sub(entry.since.0),
        };
        let running = if self.is_current(slot) {
            now.0.saturating_sub(self.charged_until.0)
        } else {
            0
        };
        let ran = entry.ran.saturating_add(running);
        Some(Ticks(entry.ready.saturating_add(open).saturating_sub(ran)))
    }
}
