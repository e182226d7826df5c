//! Holding vCPUs, visiting them, and what is told of those that do not run.

use super::{NEVER, NOBODY, Pick, RunQueue, Slot, SlotReport, Spent, Wait};
use crate::ids::Ticks;

impl RunQueue {
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
        let paused = now.0.saturating_sub(held.0);
        entry.ready += paused;
        entry.paused += paused;
        if entry.waits.is_none() {
            entry.since = now;
            entry.age = entry.age.max(floor);
            self.contended = true;
            if self.current != slot.0 {
                self.rank(slot.0);
            }
        }
        // Its deadlines were not looked at.
        self.watch(slot.0);
        true
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
    pub(super) fn next_visit(&mut self) -> Option<Pick> {
        let next = self.entries.iter_mut().find(|entry| entry.visit);
        let Some(entry) = next else {
            self.visits = false;
            return None;
        };
        entry.visit = false;
        let vcpu = entry.vcpu;
        self.make_current(NOBODY);
        Some(Pick {
            run: Some(vcpu),
            until: None,
        })
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
            deadline: (entry.deadline != NEVER).then_some(Ticks(entry.deadline)),
            since: Ticks(since),
            ran: Ticks(entry.ran),
            waited: Ticks(entry.waited + open),
        })
    }

    /// Ticks that `slot`'s vCPU could have run but did not get, up to `now`: a time limit on it does not count them. All the
    /// time that it is held counts as such. `None` while it is off.
    #[inline]
    pub fn starved(&self, slot: Slot, now: Ticks) -> Option<Ticks> {
        let entry = self.entries.get(slot.0)?;
        let open = match (entry.waits, entry.held) {
            (Some(Wait::Power), _) => return None,
            (_, Some(held)) => now.0.saturating_sub(held.0),
            (Some(_), None) => 0,
            (None, None) => now.0.saturating_sub(entry.since.0),
        };
        let ran = entry.ran + self.running_for(slot, now);
        Some(Ticks((entry.ready + open).saturating_sub(ran)))
    }

    /// Ticks of the current vCPU that are not charged yet; of others: none.
    #[inline]
    fn running_for(&self, slot: Slot, now: Ticks) -> u64 {
        if self.is_current(slot) && !self.rests {
            now.0.saturating_sub(self.charged_until.0)
        } else {
            0
        }
    }

    /// How `slot`'s vCPU has spent its time up to `now`; while it was off, or held though it could run, in neither way.
    pub fn spent(&self, slot: Slot, now: Ticks) -> Spent {
        let Some(entry) = self.entries.get(slot.0) else {
            return Spent::default();
        };
        let open = now.0.saturating_sub(entry.since.0);
        let (could, waits) = match (entry.waits, entry.held) {
            (Some(Wait::Event | Wait::Request), _) => (0, open),
            (None, None) => (open, 0),
            _ => (0, 0),
        };
        let running = entry.ran + self.running_for(slot, now);
        let could = (entry.ready + could).saturating_sub(entry.paused);
        Spent {
            running: Ticks(running),
            runnable: Ticks(could.saturating_sub(running)),
            blocked: Ticks(entry.waited + entry.slept + waits),
        }
    }
}
