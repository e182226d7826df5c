//! What is counted of servers and requests, under the lock that is held anyway.

use super::Range;
use super::report::{RequestReport, ServerReport};
use super::request::Request;
use super::server::{Server, Servers};
use crate::counters::Latencies;
use crate::ids::{ServerId, Ticks};

/// What is counted of one server.
#[derive(Clone, Debug, Default)]
pub(super) struct ServerCounters {
    /// From requests to their answers; their number is that of the requests that were answered.
    latencies: Latencies,
    /// Requests that were taken away without an answer.
    pub(super) failed: u64,
    /// Writes that were posted to it.
    pub(super) posted: u64,
}

impl Servers {
    /// The request of `vcpu` was posted at `now`.
    #[inline]
    pub(super) fn count_posted(&mut self, vcpu: u8, now: Ticks) {
        if let Some(posted) = self.posted_at.get_mut(usize::from(vcpu)) {
            *posted = now;
        }
    }

    /// The server `id` has answered the request of `vcpu`, which it got last.
    #[inline]
    pub(super) fn count_answered(&mut self, id: ServerId, vcpu: u8, now: Ticks) {
        let posted = self.posted_at.get(usize::from(vcpu)).copied().unwrap_or(now);
        if let Some(counters) = self.counters.get_mut(usize::from(id.0)) {
            counters.latencies.record(Ticks(now.0.saturating_sub(posted.0)));
        }
    }

    /// A server of that id begins.
    pub(super) fn count_from_zero(&mut self, id: ServerId) {
        if let Some(counters) = self.counters.get_mut(usize::from(id.0)) {
            *counters = ServerCounters::default();
        }
        self.doorbells.count_from_zero(id);
    }

    /// The ids in use, a bit each.
    pub fn ids(&self) -> u8 {
        let used = self.slots.iter().enumerate().filter(|(_, slot)| slot.is_some());
        used.fold(0, |ids, (index, _)| ids | 1 << index)
    }

    /// A server; `None`: there is none of that id.
    pub fn report(&self, id: ServerId) -> Option<ServerReport> {
        let Server { owner, stage, .. } = self.server(id)?;
        let counters = self.counters.get(usize::from(id.0))?;
        let has = |request: &&Request| matches!(request, Request::InFlight { server, .. } if *server == id);
        Some(ServerReport {
            owner: *owner,
            stage: *stage,
            ranges: self.memory.of(id).count() as u32,
            in_flight: self.requests.iter().filter(has).count() as u32,
            answered: counters.latencies.count(),
            failed: counters.failed,
            posted: counters.posted.saturating_add(self.doorbells.rung(id)),
            median: counters.latencies.percentile(50),
            percentile_99: counters.latencies.percentile(99),
            longest: counters.latencies.longest(),
        })
    }

    /// The guest-physical ranges of a server, lowest first.
    pub fn ranges(&self, id: ServerId) -> impl Iterator<Item = Range> {
        self.memory.of(id)
    }

    /// What `vcpu` waits for; `None`: for no server.
    pub fn request_report(&self, vcpu: u8) -> Option<RequestReport> {
        match self.request(vcpu) {
            Request::InFlight { pending, server, .. } => Some(RequestReport {
                address: pending.access.ipa,
                server: Some(server),
            }),
            Request::Waiting { pending, late, .. } => Some(RequestReport {
                address: pending.access.ipa,
                server: late,
            }),
            Request::Idle | Request::Finished { .. } => None,
        }
    }
}
