//! Two vCPUs that talk: requests and answers between the same two, taken down rather than decided.
//!
//! Whoever sends one request to a server on its pCPU sends another. After an answer by which the pCPU went back to the
//! caller, while the server could have run on, all that [`RunQueue::call`] and [`RunQueue::answer`] look at stays as it is
//! until some time, but for the ages of the two and what depends on them. So until then a request is a time that is taken
//! down ([`Turns::lend`]), and its answer another ([`Turns::take_back`]).
//!
//! Whoever wants anything else of the run queue goes by [`Turns::settled`]: then it is as if each of these requests and
//! answers had been decided when it came. The pCPU's timer stays as the last decision has set it, which is earlier than
//! each of them would have set it, so that a time slice is as long as without them.

use super::volleys::Volley;
use super::{NEVER, NOBODY, Pick, RunQueue, Slot, Wait, at};
use crate::ids::{Ticks, VcpuId};

/// A run queue and the conversation that is not in it yet.
#[derive(Debug)]
pub struct Turns {
    queue: RunQueue,
    pair: Pair,
    volley: Volley,
    /// Who sent an event last that another vCPU ran for at once, and that one.
    sent: (usize, usize),
}

/// Who talks, and what they did since the run queue was told.
#[derive(Debug)]
struct Pair {
    /// Up to when nothing else is to be decided; 0: nobody talks.
    until: u64,
    caller: usize,
    server: usize,
    /// The server runs on the caller's time.
    lent: bool,
    /// When the last request came, its time limit, and when its answer came. [`NEVER`]: not yet.
    called: u64,
    deadline: u64,
    answered: u64,
    /// What the server has run for all requests that it has answered.
    served: u64,
    /// For how long the server could have run at any time, but for `served`.
    runnable: u64,
}

impl Pair {
    const NONE: Self = Self {
        until: 0,
        caller: NOBODY,
        server: NOBODY,
        lent: false,
        called: NEVER,
        deadline: NEVER,
        answered: NEVER,
        served: 0,
        runnable: 0,
    };
}

impl Turns {
    /// Of a pCPU's run queue.
    pub const fn new(queue: RunQueue) -> Self {
        Self {
            queue,
            pair: Pair::NONE,
            volley: Volley::NONE,
            sent: (NOBODY, NOBODY),
        }
    }

    /// The run queue, with everything that has happened in it.
    #[inline]
    pub fn settled(&mut self) -> &mut RunQueue {
        if self.pair.until | self.volley.until != 0 {
            self.settle();
        }
        &mut self.queue
    }

    /// As [`RunQueue::answer`]. Whatever else than the run queue's vCPUs the pCPU must look at comes at `limit` at the earliest,
    /// or says so.
    #[inline(always)]
    pub fn answer(&mut self, from: Slot, to: Slot, limit: Ticks, now: Ticks) -> Option<Pick> {
        let queue = self.settled();
        let pick = queue.answer(from, to, now)?;
        let until = at(pick.until).min(limit.0);
        if let Some(pair) = queue.pair(to, from, until, now) {
            self.pair = pair;
        }
        Some(pick)
    }

    /// As [`RunQueue::call`], if nothing has to be decided for it: `to` runs, and the pCPU's timer stays as it is. For how long
    /// `to` has been able to run ([`RunQueue::starved`] counts the rest). `None`: it is not as simple as that; nothing has
    /// changed.
    #[inline(always)]
    pub fn lend(&mut self, from: Slot, to: Slot, deadline: Option<Ticks>, now: Ticks) -> Option<Ticks> {
        let pair = &mut self.pair;
        let deadline = at(deadline);
        let talks = pair.caller == from.0 && pair.server == to.0 && !pair.lent;
        if !talks || now.0 >= pair.until || deadline <= pair.until {
            return None;
        }
        pair.lent = true;
        pair.called = now.0;
        pair.deadline = deadline;
        Some(Ticks(pair.runnable.wrapping_add(pair.served)))
    }

    /// As [`RunQueue::answer`] after [`Self::lend`]: `to` runs, and the pCPU's timer stays as it is. `false`: it is not as
    /// simple as that; nothing has changed.
    #[inline(always)]
    pub fn take_back(&mut self, from: Slot, to: Slot, now: Ticks) -> bool {
        let pair = &mut self.pair;
        let talks = pair.server == from.0 && pair.caller == to.0 && pair.lent;
        if !talks || now.0 >= pair.until {
            return false;
        }
        pair.lent = false;
        pair.answered = now.0;
        pair.served += now.0.saturating_sub(pair.called);
        true
    }

    /// As [`RunQueue::preempt`].
    #[inline(always)]
    pub fn preempt(&mut self, to: Slot, now: Ticks) -> Option<Pick> {
        let queue = self.settled();
        let from = queue.current;
        let pick = queue.preempt(to, now)?;
        self.sent = (from, to.0);
        Some(pick)
    }

    /// As [`RunQueue::wait`] for an event. Whatever else than the run queue's vCPUs the pCPU must look at comes at `limit` at the
    /// earliest, or says so.
    #[inline(always)]
    pub fn wait(&mut self, slot: Slot, deadline: Option<Ticks>, limit: Ticks, now: Ticks) -> Option<Pick> {
        let queue = self.settled();
        let mut pick = queue.wait(slot, Wait::Event, deadline, now)?;
        let sent = core::mem::replace(&mut self.sent, (NOBODY, NOBODY));
        if sent.1 == slot.0 && deadline.is_none() {
            let queue = &self.queue;
            // The slice that the second one would get each time is one for all.
            let until = at(pick.until).min(limit.0).min(now.0.saturating_add(queue.slice));
            if let Some(volley) = queue.volley(Slot(sent.0), slot, until, now) {
                self.volley = volley;
                pick.until = Some(Ticks(until));
            }
        }
        Some(pick)
    }

    /// As [`RunQueue::running`], right after a decision.
    #[inline]
    pub fn running(&self) -> Option<Slot> {
        self.queue.running()
    }

    /// As [`Self::preempt`] of the current vCPU `from` by `to`, if nothing has to be decided for it: `to` runs, and the pCPU's
    /// timer stays as it is. `false`: it is not as simple as that; nothing has changed.
    #[inline(always)]
    pub fn send(&mut self, from: Slot, to: Slot, now: Ticks) -> bool {
        self.volley.send(from, to, self.queue.slice, now)
    }

    /// As [`Self::wait`] of the current vCPU after [`Self::send`]: who runs. `None`: it is not as simple as that; nothing has
    /// changed.
    #[inline(always)]
    pub fn wait_again(&mut self, from: Slot, now: Ticks) -> Option<(Slot, VcpuId)> {
        self.volley.wait(from, now)
    }

    /// What was taken down happens: all requests but the last one at once, that one as ever.
    #[cold]
    #[inline(never)]
    fn settle(&mut self) {
        let volley = core::mem::replace(&mut self.volley, Volley::NONE);
        if volley.until != 0 {
            self.queue.settle_volley(&volley);
        }
        let Pair {
            caller,
            server,
            lent,
            called,
            deadline,
            answered,
            served,
            ..
        } = core::mem::replace(&mut self.pair, Pair::NONE);
        if called == NEVER {
            return;
        }
        let last = if lent { 0 } else { answered.saturating_sub(called) };
        let queue = &mut self.queue;
        queue.take_turns((caller, server), served.saturating_sub(last), Ticks(called));
        let over = queue.call(Slot(caller), Slot(server), Some(Ticks(deadline)), Ticks(called));
        debug_assert!(over.is_some(), "it was to be as simple as that");
        if !lent {
            let back = queue.answer(Slot(server), Slot(caller), Ticks(answered));
            debug_assert!(back.is_some(), "it was to be as simple as that");
        }
    }
}

impl RunQueue {
    /// `caller`, which was answered at `now` and runs, and `server`, which could run on: what they do until `until` need not be
    /// decided. `None`: it must.
    #[inline(always)]
    fn pair(&self, caller: Slot, server: Slot, until: u64, now: Ticks) -> Option<Pair> {
        let called = self.entries.get(caller.0)?;
        let serving = self.entries.get(server.0)?;
        let others = self.ready.first_key_but(server.0);
        let mut until = until;
        if others != NEVER {
            // The caller may be older than the others by so much.
            let limit = others.min(serving.age).saturating_add(self.slice);
            until = until.min(now.0.saturating_add(called.ages_in(limit.saturating_sub(called.age))));
        }
        let usual = called.charged == NOBODY && serving.deadline == NEVER && called.deadline == NEVER;
        (usual && until > now.0).then_some(Pair {
            until,
            caller: caller.0,
            server: server.0,
            runnable: serving.since.0.wrapping_sub(serving.ready).wrapping_add(serving.ran),
            ..Pair::NONE
        })
    }

    /// The current vCPU, the first of the two, has run up to `now` but for what the second one has `served` it.
    fn take_turns(&mut self, (caller, server): (usize, usize), served: u64, now: Ticks) {
        let elapsed = now.0.saturating_sub(self.charged_until.0);
        let Ok([caller, server]) = self.entries.get_disjoint_mut([caller, server]) else {
            return;
        };
        self.charged_until = Ticks(now.0.max(self.charged_until.0));
        caller.ran += elapsed.saturating_sub(served);
        caller.age = caller.age.saturating_add(caller.aged(elapsed));
        caller.ready += caller.spent(now).saturating_sub(served);
        caller.waited += served;
        server.ran += served;
    }
}
