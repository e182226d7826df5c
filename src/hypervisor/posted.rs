//! Writes of a guest that wait for nobody: doorbells, which need no lock of the servers, and what is posted to a buffered
//! page.

use crate::access::MmioAccess;
use crate::domain::Domain;
use crate::domain::vcpu::Vcpu;
use crate::evtchn::{Received, Sender};
use crate::hypervisor::Hypervisor;
use crate::ids::{DomainId, EventPort};
use crate::machine::Machine;
use crate::routing;
use crate::trace::{Kind, rung, served};

/// What became of a write.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Rang {
    /// Not now: [`Hypervisor::ring`] says whether it is a doorbell's.
    No,
    /// It is done.
    Yes,
    /// It is done, and whether this vCPU goes on is to be looked at.
    Told,
}

impl<M: Machine> Hypervisor<M> {
    /// The loaded vCPU, which has left its guest, makes a write that may be a doorbell's; `false`: it is none's.
    pub(crate) fn ring(&self, domain: &Domain, vcpu: &Vcpu, access: &MmioAccess) -> bool {
        let Some(ring) = domain.doorbells.ring(access) else {
            return false;
        };
        let mut domains = self;
        let rang = routing::ring(&mut domains, domain.id, &ring);
        if rang {
            self.machine.trace(Kind::Doorbell, vcpu.id, rung(ring.owner, ring.peer));
        } else {
            domain.doorbells.missed(&ring);
        }
        rang
    }

    /// As [`Self::ring`], where there may be a doorbell, but its guest is only interrupted: waits for no event channels, as
    /// whoever has them may wait for this pCPU to leave its guest.
    #[inline(never)]
    pub(crate) fn ring_at_once(&self, domain: &Domain, vcpu: &Vcpu, access: &MmioAccess) -> Rang {
        let Some(ring) = domain.doorbells.ring_here(access) else {
            return Rang::No;
        };
        let Some(owner) = self.domain(ring.owner) else {
            return Rang::No;
        };
        let sender = Sender {
            domain: domain.id,
            port: ring.port,
        };
        let received = {
            let Some(mut events) = owner.events.try_lock() else {
                domain.doorbells.missed(&ring);
                return Rang::No;
            };
            self.with_words(|words| events.receive(ring.peer, sender, words))
        };
        let Received::Delivered(delivery) = received else {
            domain.doorbells.missed(&ring);
            return Rang::No;
        };
        self.machine.trace(Kind::Doorbell, vcpu.id, rung(ring.owner, ring.peer));
        if self.announce_from(vcpu.pcpu, owner, delivery) {
            Rang::Told
        } else {
            Rang::Yes
        }
    }

    /// The loaded vCPU makes a write that may be posted ([`Board::may_post`](crate::ioreq::Board::may_post)), but its guest is
    /// only interrupted: waits for nobody, as whoever has what it needs may wait for this pCPU to leave its guest.
    #[inline(never)]
    pub(crate) fn post_at_once(&self, domain: &Domain, vcpu: &Vcpu, access: &MmioAccess) -> Rang {
        let Some(mut servers) = domain.servers.try_lock() else {
            return Rang::No;
        };
        let posted = servers.post_at_once(vcpu.id.index, access, &self.machine);
        drop(servers);
        let Some(posted) = posted else {
            return Rang::No;
        };
        let argument = served(posted.owner, posted.server);
        self.machine.trace_loaded(Kind::Buffered, vcpu.id, argument);
        match posted.tells {
            Some(ports) => self.tell_posted(domain, vcpu, posted.owner, ports),
            None => Rang::Yes,
        }
    }

    /// Tells `owner`, which listens at `peer` to `domain`'s `port`, that its ring is not empty any more.
    #[inline(always)]
    fn tell_posted(&self, domain: &Domain, vcpu: &Vcpu, owner: DomainId, (port, peer): (EventPort, EventPort)) -> Rang {
        let sender = Sender {
            domain: domain.id,
            port,
        };
        if let Some(owner) = self.domain(owner)
            && let Some(mut events) = owner.events.try_lock()
            && let Received::Delivered(delivery) = self.with_words(|words| events.receive(peer, sender, words))
        {
            drop(events);
            return if self.announce_from(vcpu.pcpu, owner, delivery) {
                Rang::Told
            } else {
                Rang::Yes
            };
        }
        self.tell_posted_anyway(domain, vcpu, port)
    }

    #[cold]
    #[inline(never)]
    fn tell_posted_anyway(&self, domain: &Domain, vcpu: &Vcpu, port: EventPort) -> Rang {
        self.left_guest(vcpu.pcpu);
        let sent = domain.events.lock().notify_attached(port);
        let mut domains = self;
        routing::carry(&mut domains, domain.id, sent);
        Rang::Told
    }
}
