//! The run queue as it is told in words: every decision looks at every vCPU. What the real one must decide too.

#![allow(dead_code, reason = "the whole of it, as it is told")]

use portunus::ids::{Ticks, VcpuId};
use portunus::sched::{DEFAULT_SHARE, Pick, Slot, SlotReport, Wait};

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

/// One pCPU's vCPUs.
#[derive(Debug)]
pub(crate) struct Model {
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
}

/// What a decision is made from.
struct Scan {
    /// Who can run and has aged least.
    youngest: Option<usize>,
    /// Its age; without one, more than any.
    age: u64,
    /// How many can run.
    runnable: u32,
    /// The first deadline of those that wait, or [`NEVER`].
    deadline: u64,
    /// Some deadline has passed.
    due: bool,
}

/// No time.
const NEVER: u64 = u64::MAX;

impl Model {
    /// An empty queue with slices of `slice` ticks.
    pub(crate) fn new(slice: Ticks) -> Self {
        Self {
            entries: Vec::new(),
            slice: slice.0.max(1),
            current: None,
            charged_until: Ticks(0),
            floor: 0,
            contended: false,
            handoff: None,
            visits: false,
        }
    }

    /// Adds a vCPU, powered off, while domains are built.
    pub(crate) fn add(&mut self, vcpu: VcpuId, share: u32) {
        self.entries.push(Entry {
            vcpu,
            share: share.max(1),
            age: 0,
            waits: Some(Wait::Power),
            deadline: None,
            charged: None,
            ran: 0,
            ready: 0,
            since: Ticks(0),
            waited: 0,
            held: None,
            visit: false,
        });
    }

    /// How many vCPUs are pinned here.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    pub(crate) fn is_empty(&self) -> bool {
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
            let aged = elapsed.saturating_mul(u64::from(DEFAULT_SHARE)) / u64::from(payer.share);
            payer.age = payer.age.saturating_add(aged);
            if !self.contended {
                self.floor = self.floor.max(payer.age.saturating_sub(self.slice));
            }
        }
    }

    /// `slot`'s vCPU stops running until it is woken for `wait`, or until `deadline`.
    pub(crate) fn block(&mut self, slot: Slot, wait: Wait, deadline: Option<Ticks>, now: Ticks) {
        self.charge(now);
        self.end_loans_to(slot.index());
        if let Some(entry) = self.entries.get_mut(slot.index()) {
            if entry.waits != Some(wait) {
                entry.account(now);
            }
            entry.waits = Some(wait);
            entry.deadline = deadline;
            entry.charged = None;
        }
    }

    /// Something happened that ends a wait of kind `what`. Returns whether this pCPU must decide anew.
    pub(crate) fn wake(&mut self, slot: Slot, what: Wait, now: Ticks) -> bool {
        let Some(entry) = self.entries.get(slot.index()) else {
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
            .is_some_and(|entry| entry.charged == Some(slot.index()));
        let alone = !self.contended;
        self.make_runnable(slot.index(), now);
        match self.current {
            _ if held => false,
            None => true,
            Some(current) => {
                if served {
                    self.handoff = Some(slot.index());
                }
                // One that had the pCPU to itself shares it from now on: its turn must end.
                served || alone || self.is_idle_or_older(current, slot.index())
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
            entry.deadline = None;
            entry.age = entry.age.max(floor);
            self.contended |= entry.held.is_none();
        }
        self.end_loans_to(index);
    }

    /// Whoever ran on `lender`'s time pays for itself from now on. It did not age meanwhile, and has saved up nothing.
    fn end_loans_to(&mut self, lender: usize) {
        for entry in &mut self.entries {
            if entry.charged == Some(lender) {
                entry.charged = None;
                entry.age = entry.age.max(self.floor);
            }
        }
    }

    /// `from`, which has just blocked, waits for `to` on this pCPU: run `to` next, on `from`'s time.
    pub(crate) fn hand_off(&mut self, from: Slot, to: Slot) {
        let runnable = self.entries.get(to.index()).is_some_and(Entry::is_runnable);
        if runnable && from != to {
            self.end_loans_to(from.index());
            if let Some(entry) = self.entries.get_mut(to.index()) {
                entry.charged = Some(from.index());
            }
            self.handoff = Some(to.index());
        }
    }

    /// The current vCPU lets the others go first (SCHEDOP_yield).
    pub(crate) fn yield_now(&mut self, slot: Slot, now: Ticks) {
        self.charge(now);
        let oldest = self
            .entries
            .iter()
            .filter(|entry| entry.is_runnable())
            .map(|entry| entry.age)
            .max();
        if let (Some(entry), Some(oldest)) = (self.entries.get_mut(slot.index()), oldest) {
            entry.age = entry.age.max(oldest.saturating_add(1));
        }
    }

    /// Sets or clears the time at which a runnable vCPU wants this pCPU's attention (an emulated timer).
    pub(crate) fn set_deadline(&mut self, slot: Slot, deadline: Option<Ticks>) {
        if let Some(entry) = self.entries.get_mut(slot.index()) {
            entry.deadline = deadline;
        }
    }

    /// At the next decision this pCPU loads `slot`'s vCPU, whatever that waits for, so that its registers can be looked at.
    /// Its wait stays as it is, and the time is nobody's.
    pub(crate) fn visit(&mut self, slot: Slot) {
        if let Some(entry) = self.entries.get_mut(slot.index()) {
            entry.visit = true;
            self.visits = true;
        }
    }

    /// The registers of `slot`'s vCPU, which is loaded, are about to be looked at. Whether it goes on: a visited one does not.
    pub(crate) fn end_visit(&mut self, slot: Slot) -> bool {
        if let Some(entry) = self.entries.get_mut(slot.index()) {
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
        self.current = None;
        Some(Pick {
            run: Some(entry.vcpu),
            until: None,
        })
    }

    /// The vCPU that this pCPU runs from `now` on, and when to ask again at the latest. One that is visited is not
    /// [current](Self::is_current), and the pCPU asks again at once.
    pub(crate) fn pick(&mut self, now: Ticks) -> Pick {
        self.charge(now);
        if self.visits
            && let Some(visit) = self.next_visit()
        {
            return visit;
        }
        let mut scan = self.scan(now);
        if scan.due {
            self.end_waits(now);
            scan = self.scan(now);
        }
        if scan.youngest.is_some() {
            self.floor = self.floor.max(scan.age.saturating_sub(self.slice));
        }
        let favoured = self.handoff.take().filter(|index| {
            let limit = scan.age.saturating_add(self.slice);
            self.entries
                .get(*index)
                .is_some_and(|entry| entry.is_runnable() && self.payer_age(entry) <= limit)
        });
        self.current = favoured.or(scan.youngest);

        self.contended = scan.runnable > 1;
        let mut until = scan.deadline;
        if self.contended {
            until = until.min(now.0.saturating_add(self.slice));
        }
        let current = self.current.and_then(|index| self.entries.get(index));
        // Of those that can run, only the one that does is woken for its timers; another looks at them when it runs.
        if let Some(deadline) = current.and_then(|entry| entry.deadline) {
            until = until.min(deadline.0);
        }
        Pick {
            run: current.map(|entry| entry.vcpu),
            until: (until != NEVER).then_some(Ticks(until)),
        }
    }

    /// Looks at every vCPU once.
    fn scan(&self, now: Ticks) -> Scan {
        let mut scan = Scan {
            youngest: None,
            age: NEVER,
            runnable: 0,
            deadline: NEVER,
            due: false,
        };
        for (index, entry) in self.entries.iter().enumerate() {
            if entry.held.is_some() {
                continue;
            }
            let deadline = entry.deadline.map_or(NEVER, |deadline| deadline.0);
            scan.due |= deadline <= now.0;
            match entry.waits {
                None => {
                    scan.runnable += 1;
                    let age = self.payer_age(entry);
                    if age < scan.age || scan.youngest.is_none() {
                        (scan.youngest, scan.age) = (Some(index), age);
                    }
                }
                Some(Wait::Power) => {}
                Some(_) => scan.deadline = scan.deadline.min(deadline),
            }
        }
        scan
    }

    /// Ends every wait whose deadline has passed.
    fn end_waits(&mut self, now: Ticks) {
        for index in 0..self.entries.len() {
            let due = self.entries.get(index).is_some_and(|entry| {
                entry.held.is_none()
                    && matches!(entry.waits, Some(Wait::Event | Wait::Request))
                    && entry.deadline.is_some_and(|deadline| deadline <= now)
            });
            if due {
                self.make_runnable(index, now);
            }
            // A vCPU that runs looks at its timers itself.
            if let Some(entry) = self.entries.get_mut(index)
                && entry.held.is_none()
                && entry.deadline.is_some_and(|deadline| deadline <= now)
            {
                entry.deadline = None;
            }
        }
    }

    /// What `slot`'s vCPU waits for; `None` while it can run.
    pub(crate) fn waits(&self, slot: Slot) -> Option<Wait> {
        self.entries.get(slot.index()).and_then(|entry| entry.waits)
    }

    /// Whether `slot`'s vCPU is held.
    pub(crate) fn is_held(&self, slot: Slot) -> bool {
        self.entries.get(slot.index()).is_some_and(|entry| entry.held.is_some())
    }

    /// The vCPU that this pCPU runs, if that waits for nothing.
    pub(crate) fn running(&self) -> Option<Slot> {
        None
    }

    /// Whether `slot`'s vCPU is the one that this pCPU runs.
    pub(crate) fn is_current(&self, slot: Slot) -> bool {
        self.current == Some(slot.index())
    }

    /// Ticks that `slot`'s vCPU has run up to the last decision.
    pub(crate) fn ran(&self, slot: Slot) -> Ticks {
        Ticks(self.entries.get(slot.index()).map_or(0, |entry| entry.ran))
    }

    /// Keeps `slot`'s vCPU from running, whatever it waits for or will wait for; what wakes it meanwhile is not lost. Returns
    /// whether this pCPU must decide anew.
    pub(crate) fn hold(&mut self, slot: Slot, now: Ticks) -> bool {
        self.charge(now);
        let floor = self.floor;
        let Some(entry) = self.entries.get_mut(slot.index()).filter(|entry| entry.held.is_none()) else {
            return false;
        };
        if entry.waits.is_none() {
            entry.account(now);
        }
        entry.held = Some(now);
        if entry.charged.take().is_some() {
            entry.age = entry.age.max(floor);
        }
        // Whoever serves it goes on, on its own time.
        self.end_loans_to(slot.index());
        self.is_current(slot)
    }

    /// Lets `slot`'s vCPU run again, if it can. Returns whether this pCPU must decide anew.
    pub(crate) fn release(&mut self, slot: Slot, now: Ticks) -> bool {
        self.charge(now);
        let floor = self.floor;
        let Some(entry) = self.entries.get_mut(slot.index()) else {
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
        }
        // Its deadlines were not looked at.
        true
    }

    /// What is known of `slot`'s vCPU.
    pub(crate) fn report(&mut self, slot: Slot, now: Ticks) -> Option<SlotReport> {
        self.charge(now);
        let entry = self.entries.get(slot.index())?;
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
    pub(crate) fn starved(&self, slot: Slot, now: Ticks) -> Option<Ticks> {
        let entry = self.entries.get(slot.index())?;
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
