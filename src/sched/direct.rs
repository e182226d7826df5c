//! Decisions in one step, for what happens most: a request to a server here, its answer, a wait, an event for one that waits.
//!
//! Each does what the steps one by one would do, and decides the same, or says no and changes nothing. The vCPUs that it is
//! not about are looked at through the first of each heap alone.

use super::{NEVER, NOBODY, Pick, RunQueue, Slot, Wait, at};
use crate::ids::{Ticks, VcpuId};

impl RunQueue {
    /// The current vCPU `from` waits for `to` to answer a request, until `deadline` at the latest, and `to`, woken if it
    /// waits for an event, runs on `from`'s time: [`Self::wake`], [`Self::block`], [`Self::hand_off`] and [`Self::pick`] in
    /// one step. `None`: it is not as simple as that; nothing has changed.
    #[inline(always)]
    pub fn call(&mut self, from: Slot, to: Slot, deadline: Option<Ticks>, now: Ticks) -> Option<Pick> {
        let until = at(deadline);
        let first_timer = self.timers.first_key().min(until);
        if self.current != from.0 || self.visits || first_timer <= now.0 {
            return None;
        }
        let [caller, server] = self.entries.get_disjoint_mut([from.0, to.0]).ok()?;
        // One that serves another itself is charged to that one, and so is whom it calls.
        let usual = caller.is_runnable() && caller.charged == NOBODY && server.held.is_none();
        if !usual || server.charged != NOBODY || server.deadline <= now.0 {
            return None;
        }
        let wakes = match server.waits {
            None => false,
            Some(Wait::Event) => true,
            Some(_) => return None,
        };
        let elapsed = now.0.saturating_sub(self.charged_until.0);
        let age = caller.age.saturating_add(caller.aged(elapsed));
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
        caller.ran += elapsed;
        caller.age = age;
        if !self.contended {
            self.floor = self.floor.max(age.saturating_sub(self.slice));
        }
        caller.ready += caller.spent(now);
        caller.waits = Some(Wait::Request);
        caller.deadline = until;
        caller.lends_to = to.0;
        server.charged = from.0;
        let mut own = server.deadline;
        if wakes {
            server.slept += server.spent(now);
            server.waits = None;
            server.age = server.age.max(self.floor);
            if own != NEVER {
                (own, server.deadline) = (NEVER, NEVER);
                self.timers.remove(to.0);
            }
        } else {
            self.ready.remove(to.0);
        }
        if until != NEVER {
            self.timers.put(from.0, until);
        }
        let vcpu = server.vcpu;
        Some(self.decided(to.0, vcpu, youngest, own, now))
    }

    /// The current vCPU `from`, which runs on the time of `to`, has answered it, and `to` goes on: [`Self::wake`] and
    /// [`Self::pick`] in one step. `None`: it is not as simple as that, or somebody else runs; nothing has changed.
    #[inline(always)]
    pub fn answer(&mut self, from: Slot, to: Slot, now: Ticks) -> Option<Pick> {
        if self.current != from.0 || self.visits || self.timers.first_key() <= now.0 {
            return None;
        }
        let [server, caller] = self.entries.get_disjoint_mut([from.0, to.0]).ok()?;
        let usual = server.is_runnable() && server.charged == to.0 && caller.held.is_none();
        if !usual || caller.waits != Some(Wait::Request) || server.deadline <= now.0 {
            return None;
        }
        let elapsed = now.0.saturating_sub(self.charged_until.0);
        let mut age = caller.age.saturating_add(caller.aged(elapsed));
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
        server.ran += elapsed;
        server.charged = NOBODY;
        server.age = own;
        caller.age = age;
        caller.lends_to = NOBODY;
        caller.waited += caller.spent(now);
        caller.waits = None;
        let vcpu = caller.vcpu;
        if caller.deadline != NEVER {
            caller.deadline = NEVER;
            self.timers.remove(to.0);
        }
        self.ready.put(from.0, own);
        Some(self.decided(to.0, vcpu, youngest, NEVER, now))
    }

    /// The current vCPU `slot` waits for `what` until `deadline` at the latest, and another runs, or none: [`Self::block`]
    /// and [`Self::pick`] in one step. `None`: it is not as simple as that; nothing has changed.
    #[inline(always)]
    pub fn wait(&mut self, slot: Slot, what: Wait, deadline: Option<Ticks>, now: Ticks) -> Option<Pick> {
        // Time does not end a wait for power.
        if what == Wait::Power {
            return None;
        }
        let until = at(deadline);
        let first_timer = self.timers.first_key().min(until);
        if self.current != slot.0 || self.visits || self.handoff != NOBODY || first_timer <= now.0 {
            return None;
        }
        let next = self.ready.first();
        let (youngest, next_index) = next.unwrap_or((NEVER, NOBODY));
        let runner = self.entries.get(next_index).map(|entry| (entry.vcpu, entry.deadline));
        if runner.is_some_and(|(_, deadline)| deadline <= now.0) {
            return None;
        }
        let waiter = self.entries.get_mut(slot.0)?;
        if !waiter.is_runnable() || waiter.charged != NOBODY {
            return None;
        }
        let elapsed = now.0.saturating_sub(self.charged_until.0);
        self.charged_until = Ticks(now.0.max(self.charged_until.0));
        waiter.ran += elapsed;
        waiter.age = waiter.age.saturating_add(waiter.aged(elapsed));
        if !self.contended {
            self.floor = self.floor.max(waiter.age.saturating_sub(self.slice));
        }
        waiter.ready += waiter.spent(now);
        waiter.waits = Some(what);
        waiter.deadline = until;
        if until != NEVER {
            self.timers.put(slot.0, until);
        }
        let Some((vcpu, own)) = runner else {
            self.current = NOBODY;
            self.contended = false;
            return Some(Pick {
                run: None,
                until: self.until(NEVER, now),
            });
        };
        self.ready.remove(next_index);
        Some(self.decided(next_index, vcpu, youngest, own, now))
    }

    /// An event came for `to`, which waits for one, and it runs before the current vCPU, which can run: [`Self::wake`] and
    /// [`Self::pick`] in one step. `None`: it is not as simple as that, or somebody else runs; nothing has changed.
    #[inline(always)]
    pub fn preempt(&mut self, to: Slot, now: Ticks) -> Option<Pick> {
        let from = self.current;
        let [runner, waiter] = self.entries.get_disjoint_mut([from, to.0]).ok()?;
        // What it is about most often, so that it is looked at first: that vCPU can run already.
        if waiter.waits != Some(Wait::Event) || waiter.held.is_some() {
            return None;
        }
        if self.visits || self.handoff != NOBODY || self.timers.first_key() <= now.0 {
            return None;
        }
        if !runner.is_runnable() || runner.charged != NOBODY || runner.deadline <= now.0 {
            return None;
        }
        let elapsed = now.0.saturating_sub(self.charged_until.0);
        let age = runner.age.saturating_add(runner.aged(elapsed));
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
        runner.ran += elapsed;
        runner.age = age;
        waiter.slept += waiter.spent(now);
        waiter.waits = None;
        waiter.age = own;
        let vcpu = waiter.vcpu;
        if waiter.deadline != NEVER {
            waiter.deadline = NEVER;
            self.timers.remove(to.0);
        }
        self.ready.put(from, age);
        Some(self.decided(to.0, vcpu, own, NEVER, now))
    }

    /// Nobody runs, and `slot`'s vCPU is the only one that can: [`Self::pick`] of it. `None`: it is not as simple as that;
    /// nothing has changed.
    #[inline]
    pub fn resume(&mut self, slot: Slot, now: Ticks) -> Option<Pick> {
        let alone = self.ready.len() == 1 && self.ready.first().is_some_and(|(_, first)| first == slot.0);
        if !alone || self.current != NOBODY || self.visits || self.timers.first_key() <= now.0 {
            return None;
        }
        let entry = self.entries.get(slot.0)?;
        if entry.charged != NOBODY || entry.deadline <= now.0 {
            return None;
        }
        let (vcpu, age, deadline) = (entry.vcpu, entry.age, entry.deadline);
        self.charged_until = Ticks(now.0.max(self.charged_until.0));
        self.ready.remove(slot.0);
        Some(self.decided(slot.0, vcpu, age, deadline, now))
    }

    /// `vcpu`, which is `index`, was chosen while the age of the youngest was `youngest`; it has a deadline of its own.
    #[inline(always)]
    fn decided(&mut self, index: usize, vcpu: VcpuId, youngest: u64, deadline: u64, now: Ticks) -> Pick {
        self.current = index;
        self.handoff = NOBODY;
        self.floor = self.floor.max(youngest.saturating_sub(self.slice));
        self.contended = !self.ready.is_empty();
        Pick {
            run: Some(vcpu),
            until: self.until(deadline, now),
        }
    }
}
