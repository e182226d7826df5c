//! A vCPU that waits while no other can run stays where it is: the pCPU waits with it.
//!
//! It waits as after [`RunQueue::block`], so that whoever wakes, holds or looks at it finds what they find of others; only
//! that it stays the current one. While the time that nobody uses is nobody's, nothing is decided, since there is nobody
//! else. It goes on by [`RunQueue::end_rest`], or is blocked as usual when somebody else wants the pCPU.

use super::{NEVER, NOBODY, RunQueue, Slot, Wait, at};
use crate::ids::Ticks;

impl RunQueue {
    /// The current vCPU `slot` waits for `what` and stays the current one, as no other can run. Whoever makes another
    /// one runnable is told to have this pCPU decide. At `deadline` the vCPU itself ends its wait: it is only told to who
    /// asks. Returns how long it has [starved](Self::starved), which does not change meanwhile. `None`: it is not as simple
    /// as that; nothing has changed.
    #[inline]
    pub fn rest(&mut self, slot: Slot, what: Wait, deadline: Option<Ticks>, now: Ticks) -> Option<Ticks> {
        if !self.is_alone(slot, now) || self.handoff != NOBODY || self.rests || what == Wait::Power {
            return None;
        }
        let entry = self.entries.get_mut(slot.0)?;
        // One that serves runs on another's time, and an own deadline is one that was not looked at yet.
        if !entry.is_runnable() || entry.charged != NOBODY || entry.deadline != NEVER {
            return None;
        }
        let elapsed = now.0.saturating_sub(self.charged_until.0);
        self.charged_until = Ticks(now.0.max(self.charged_until.0));
        entry.ran += elapsed;
        entry.age = entry.age.saturating_add(entry.aged(elapsed));
        self.floor = self.floor.max(entry.age.saturating_sub(self.slice));
        entry.ready += entry.spent(now);
        entry.waits = Some(what);
        entry.deadline = at(deadline);
        self.rests = true;
        Some(Ticks(entry.ready.saturating_sub(entry.ran)))
    }

    /// The current vCPU rests no longer, and its time counts again. Whether it goes on at once: it waited for `what`, nobody
    /// woke or holds it, and no other can run.
    #[inline]
    pub fn end_rest(&mut self, slot: Slot, what: Wait, now: Ticks) -> bool {
        self.stop_resting(now);
        if !self.is_alone(slot, now) {
            return false;
        }
        let Some(entry) = self.entries.get_mut(slot.0) else {
            return false;
        };
        if entry.waits != Some(what) || entry.held.is_some() {
            return false;
        }
        let spent = entry.spent(now);
        match what {
            Wait::Request => entry.waited += spent,
            _ => entry.slept += spent,
        }
        entry.waits = None;
        // It is looked at if the vCPU was held meanwhile and released.
        let watched = core::mem::replace(&mut entry.deadline, NEVER) != NEVER;
        if watched && !self.timers.is_empty() {
            self.timers.remove(slot.0);
        }
        true
    }

    /// The current vCPU, which has [rested](Self::stop_resting), waits on as others do, until the same time.
    pub fn wait_on(&mut self, slot: Slot) {
        self.watch(slot.0);
    }

    /// It is the current one, and nobody else can run or has waited long enough.
    #[inline]
    fn is_alone(&self, slot: Slot, now: Ticks) -> bool {
        self.current == slot.0 && !self.contended && !self.visits && self.timers.first_key() > now.0
    }

    /// The current vCPU rests no longer: it waits as others do, or was woken.
    #[inline]
    pub fn stop_resting(&mut self, now: Ticks) {
        self.rests = false;
        self.charged_until = Ticks(now.0.max(self.charged_until.0));
    }
}
