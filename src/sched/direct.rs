//! Decisions in one step, for what happens most: a request to a server here, its answer, a wait, an event for one that waits.
//!
//! Each does what the steps one by one would do, and decides the same, or says no and changes nothing. The vCPUs that it is
//! not about are looked at through the first of each heap alone.

use super::{Entry, NEVER, Pick, RunQueue, Slot, Wait, aged};
use crate::ids::{Ticks, VcpuId};

impl RunQueue {
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
}
