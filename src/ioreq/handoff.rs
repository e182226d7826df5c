//! The usual request and its answer, without the cases that they are not: what [`Servers::begin`] and [`Servers::hear`]
//! do for a server that is there and answers.

use super::Surroundings;
use super::ranges::Range;
use super::request::{Pending, Request};
use super::server::Servers;
use super::slot::Reading;
use crate::ids::{DomainId, EventPort, ServerId, Ticks};
use crate::memory::PhysicalMemory;
use crate::trap::access::{Direction, MmioAccess};

/// A request that a server has.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Handed {
    /// Send an event from this attached port of the target.
    pub port: EventPort,
    /// Who.
    pub server: ServerId,
    /// Whose.
    pub owner: DomainId,
    /// When to call [`Servers::expire`] at the earliest; `None`: never.
    pub deadline: Option<Ticks>,
}

impl Servers {
    /// As [`Self::begin`] at `now`, if that would give the access to a server that takes it at once. `None`: it is not as
    /// simple as that; nothing has changed.
    pub fn hand<M: PhysicalMemory + ?Sized>(
        &mut self,
        vcpu: u8,
        access: &MmioAccess,
        now: Ticks,
        around: &Surroundings<'_, M>,
    ) -> Option<Handed> {
        if vcpu >= self.vcpus {
            return None;
        }
        let range = Range::from_length(access.ipa.0, access.width.bytes())?;
        if access.direction != Direction::Read && self.buffered.find(range).is_some() {
            return None;
        }
        let id = self.memory.find(range)?;
        let server = self.server(id).filter(|server| server.accepts(vcpu))?;
        let (slot, owner) = (server.slot(vcpu)?, server.owner());
        if *self.held(vcpu) != Request::Idle {
            return None;
        }
        let policy = self.device_policy(range).unwrap_or(self.fallback());
        // Only a limit looks at it.
        let posted = policy.timeout.map(|_| around.clock.runnable(owner));
        slot.begin(around.memory, access).ok()?;
        if let Some(request) = self.requests.get_mut(usize::from(vcpu)) {
            *request = Request::InFlight {
                pending: Pending {
                    access: *access,
                    policy,
                },
                server: id,
                posted: posted.unwrap_or_default(),
                strikes: 0,
            };
        }
        self.count_posted(vcpu, now);
        Some(Handed {
            port: slot.port,
            server: id,
            owner,
            deadline: policy.timeout.map(|limit| Ticks(now.0.saturating_add(limit.0))),
        })
    }

    /// As [`Self::hear`] at `now`, if the server has answered the request of `vcpu` in time: that is finished, and the vCPU
    /// is to be woken; the server's domain is returned. `None`: it is not as simple as that; nothing has changed.
    pub fn hear_answer<M: PhysicalMemory + ?Sized>(
        &mut self,
        id: ServerId,
        vcpu: u8,
        now: Ticks,
        memory: &M,
    ) -> Option<DomainId> {
        let Request::InFlight { server, pending, .. } = self.held(vcpu) else {
            return None;
        };
        if *server != id {
            return None;
        }
        let server = self.server(id)?;
        let (slot, owner) = (server.slot(vcpu)?, server.owner());
        // What it reads otherwise stays to be read.
        let Reading::Answered(data) = slot.poll(memory) else {
            return None;
        };
        let finished = pending.answered(data);
        if let Some(request) = self.requests.get_mut(usize::from(vcpu)) {
            *request = finished;
        }
        self.count_answered(id, vcpu, now);
        Some(owner)
    }
}
