//! What a run queue keeps of each vCPU.

use super::{DEFAULT_SHARE, NEVER, NOBODY, Wait};
use crate::ids::{Ticks, VcpuId};

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) vcpu: VcpuId,
    pub(super) waits: Option<Wait>,
    /// Somebody wants its pCPU to look at its registers.
    pub(super) visit: bool,
    pub(super) share: u32,
    /// Run time scaled by share, in ticks.
    pub(super) age: u64,
    /// When to wake it at the latest; [`NEVER`] if at no time.
    pub(super) deadline: u64,
    /// Whom its time is charged to while it serves, or [`NOBODY`].
    pub(super) charged: usize,
    /// Who runs on its time while it waits: the other end of `charged`.
    pub(super) lends_to: usize,
    /// Ticks that it ran, whoever was charged.
    pub(super) ran: u64,
    /// Ticks that it could have run, up to `since`, or up to `held`.
    pub(super) ready: u64,
    /// Since when it can run, or waits.
    pub(super) since: Ticks,
    /// Ticks that it waited for servers, and for events, up to `since`.
    pub(super) waited: u64,
    pub(super) slept: u64,
    /// What of `ready` it was held.
    pub(super) paused: u64,
    /// Since when it is held.
    pub(super) held: Option<Ticks>,
}

impl Entry {
    /// One that is off.
    pub(super) fn new(vcpu: VcpuId, share: u32) -> Self {
        Self {
            vcpu,
            waits: Some(Wait::Power),
            visit: false,
            share: share.max(1),
            age: 0,
            deadline: NEVER,
            charged: NOBODY,
            lends_to: NOBODY,
            ran: 0,
            ready: 0,
            since: Ticks(0),
            waited: 0,
            slept: 0,
            paused: 0,
            held: None,
        }
    }

    /// It can run, and nobody holds it.
    #[inline]
    pub(super) fn is_runnable(&self) -> bool {
        self.waits.is_none() && self.held.is_none()
    }

    /// The wait, or the time in which it could run, ends.
    #[inline]
    pub(super) fn account(&mut self, now: Ticks) {
        let spent = now.0.saturating_sub(self.since.0);
        match self.waits {
            None if self.held.is_none() => self.ready += spent,
            Some(Wait::Request) => self.waited += spent,
            Some(Wait::Event) => self.slept += spent,
            _ => {}
        }
        self.since = now;
    }

    /// Its wait, or the time in which it could run, ends: how long that was.
    #[inline]
    pub(super) fn spent(&mut self, now: Ticks) -> u64 {
        let spent = now.0.saturating_sub(self.since.0);
        self.since = now;
        spent
    }

    /// How much it ages in so many ticks.
    #[inline]
    pub(super) fn aged(&self, elapsed: u64) -> u64 {
        if self.share == DEFAULT_SHARE {
            return elapsed;
        }
        elapsed.saturating_mul(u64::from(DEFAULT_SHARE)) / u64::from(self.share)
    }

    /// In how many ticks it ages so much, and not more.
    #[inline]
    pub(super) fn ages_in(&self, age: u64) -> u64 {
        if self.share == DEFAULT_SHARE {
            return age;
        }
        age.saturating_mul(u64::from(self.share)) / u64::from(DEFAULT_SHARE)
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

/// How a vCPU has spent its time.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Spent {
    /// It ran.
    pub running: Ticks,
    /// It could have run.
    pub runnable: Ticks,
    /// It waited for an event or for a server.
    pub blocked: Ticks,
}

impl Spent {
    /// What is not of `before`.
    pub fn since(&self, before: &Self) -> Self {
        let less = |now: Ticks, before: Ticks| Ticks(now.0.saturating_sub(before.0));
        Self {
            running: less(self.running, before.running),
            runnable: less(self.runnable, before.runnable),
            blocked: less(self.blocked, before.blocked),
        }
    }
}
