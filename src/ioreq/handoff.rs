//! The usual request and its answer, without the cases that they are not: what [`Servers::begin`] and [`Servers::hear`]
//! do for a server that is there and answers.

use super::ranges::Range;
use super::request::{Pending, Policy, Request};
use super::server::Servers;
use super::slot::Reading;
use crate::access::{Direction, MmioAccess};
use crate::evtchn;
use crate::ids::{DomainId, EventPort, ServerId, Ticks};
use crate::memory::PhysicalMemory;

/// A request that a server has.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Handed {
    /// Send an event from this attached port of the target.
    pub port: EventPort,
    /// Its owner's port that this was bound to last; 0: none that is known.
    pub peer: EventPort,
    /// Who.
    pub server: ServerId,
    /// Whose.
    pub owner: DomainId,
    /// When to call [`Servers::expire`] at the earliest; `None`: never. If there is such a time, [`Servers::set_posted`] is
    /// to be called before the servers are unlocked.
    pub deadline: Option<Ticks>,
}

/// Who serves some addresses, by what rules: what the tables say of them until they change.
#[derive(Copy, Clone, Debug)]
pub(super) struct Route {
    range: Range,
    server: ServerId,
    policy: Policy,
    /// [`RangeTable::changes`](super::ranges::RangeTable::changes) then; 0: nothing is known.
    changes: u64,
    /// How the server's vCPU is told.
    event: evtchn::Route,
}

impl Route {
    /// Nothing is known.
    pub(super) const NONE: Self = Self {
        range: Range::NOTHING,
        server: ServerId(0),
        policy: Policy::NONE,
        changes: 0,
        event: evtchn::Route::NONE,
    };
}

impl Servers {
    /// As [`Self::begin`] at `now`, if that would give the access to a server that takes it at once. `None`: it is not as
    /// simple as that; nothing has changed.
    #[inline]
    pub fn hand<M: PhysicalMemory + ?Sized>(
        &mut self,
        vcpu: u8,
        access: &MmioAccess,
        now: Ticks,
        memory: &M,
    ) -> Option<Handed> {
        if vcpu >= self.vcpus {
            return None;
        }
        let range = Range::from_length(access.ipa.0, access.width.bytes())?;
        let route = self.routes.get(usize::from(vcpu))?;
        if route.changes != self.memory.changes() || !route.range.contains(range) {
            self.find_route(vcpu, range)?;
        }
        let route = self.routes.get(usize::from(vcpu))?;
        let (id, policy) = (route.server, &route.policy);
        if access.direction != Direction::Read && self.buffered.find(range).is_some() {
            return None;
        }
        let server = self.server(id).filter(|server| server.accepts(vcpu))?;
        let (slot, owner, peer) = (server.slot(vcpu)?, server.owner(), server.peer(vcpu));
        let request = self.requests.get_mut(usize::from(vcpu))?;
        if !matches!(request, Request::Idle) {
            return None;
        }
        slot.begin(memory, access).ok()?;
        *request = Request::InFlight {
            pending: Pending {
                access: *access,
                policy: *policy,
            },
            server: id,
            posted: Ticks(0),
            strikes: 0,
        };
        let deadline = policy.timeout.map(|limit| Ticks(now.0.saturating_add(limit.0)));
        self.count_posted(vcpu, now);
        Some(Handed {
            port: slot.port,
            peer,
            server: id,
            owner,
            deadline,
        })
    }

    /// Looks for who serves `range`; `None`: nobody does.
    #[inline(never)]
    fn find_route(&mut self, vcpu: u8, range: Range) -> Option<()> {
        let (server, served) = self.memory.find_range(range)?;
        let (range, policy) = match self.device_of(range) {
            Some(device) => (served.common(device.range)?, device.policy),
            // A device may lie beside it.
            None => (range, self.fallback()),
        };
        let changes = self.memory.changes();
        *self.routes.get_mut(usize::from(vcpu))? = Route {
            range,
            server,
            policy,
            changes,
            event: evtchn::Route::NONE,
        };
        Some(())
    }

    /// How the server that [`Self::hand`] gave the last request of `vcpu` to is told, as far as is known.
    #[inline]
    pub fn event_route(&self, vcpu: u8) -> &evtchn::Route {
        const UNKNOWN: evtchn::Route = evtchn::Route::NONE;
        self.routes
            .get(usize::from(vcpu))
            .map_or(&UNKNOWN, |route| &route.event)
    }

    /// How that server is told of the next ones.
    pub fn set_event_route(&mut self, vcpu: u8, event: evtchn::Route) {
        if let Some(route) = self.routes.get_mut(usize::from(vcpu)) {
            route.event = event;
        }
    }

    /// The server that [`Self::hand`] gave the request of `vcpu` to had been able to run for so long by then.
    #[inline]
    pub fn set_posted(&mut self, vcpu: u8, runnable: Ticks) {
        if let Some(Request::InFlight { posted, .. }) = self.requests.get_mut(usize::from(vcpu)) {
            *posted = runnable;
        }
    }

    /// As [`Self::hear`] at `now`, if the server has answered the request of `vcpu` in time: that is finished, and the vCPU
    /// is to be woken; the server's domain is returned. `None`: it is not as simple as that; nothing has changed.
    #[inline]
    pub fn hear_answer<M: PhysicalMemory + ?Sized>(
        &mut self,
        id: ServerId,
        vcpu: u8,
        now: Ticks,
        memory: &M,
    ) -> Option<DomainId> {
        let server = self.server(id)?;
        let (slot, owner) = (server.slot(vcpu)?, server.owner());
        let request = self.requests.get_mut(usize::from(vcpu))?;
        let Request::InFlight { server, pending, .. } = request else {
            return None;
        };
        if *server != id {
            return None;
        }
        // What it reads otherwise stays to be read.
        let Reading::Answered(data) = slot.poll(memory) else {
            return None;
        };
        *request = pending.answered(data);
        self.count_answered(id, vcpu, now);
        Some(owner)
    }
}
