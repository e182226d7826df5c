//! Carrying events and effects between domains: who hears of what, one lock at a time.
//!
//! [`Domains`] is what that needs of the hypervisor: each method locks, does one thing and releases. The chain is short:
//! an event of a server's owner reaches the target's request; the effect of that can be an event to an owner, which is
//! always a guest's port, so it ends there.

use crate::abi::HypercallError;
use crate::abi::dm_op::{MAX_DOORBELLS, MAX_SERVERS};
use crate::evtchn::{Consumer, Delivery, EventChannels, Received, Sender, Sent, Tables};
use crate::ids::{DomainId, EventPort, VcpuSet};
use crate::ioreq::{Effects, Event, Resources, Ring, Servers, Surroundings};
use crate::memory::PhysicalMemory;
use crate::memory::atomic::SharedWords;
use crate::trace::Kind;

/// Every domain's channels and servers, and the means to tell vCPUs of news.
pub trait Domains {
    /// Where shared pages are.
    type Memory: PhysicalMemory + ?Sized;

    /// Calls `with` with a domain's event channels locked and the means to change its shared page; `None`: no such
    /// domain.
    fn events<R>(
        &mut self,
        domain: DomainId,
        with: impl FnOnce(&mut EventChannels, &SharedWords<'_, Self::Memory>) -> R,
    ) -> Option<R>;
    /// The same with two domains locked, lower number first; `local` and `remote` may be equal. The words are those of
    /// `local`.
    fn event_pair<R>(
        &mut self,
        local: DomainId,
        remote: DomainId,
        with: impl FnOnce(Tables<'_>, &SharedWords<'_, Self::Memory>) -> R,
    ) -> Option<R>;
    /// Injects the upcall and wakes the pollers that a delivery names.
    fn deliver(&mut self, domain: DomainId, delivery: Delivery);

    /// Calls `with` with a target's servers locked; `None`: no such domain, or one without devices.
    fn servers<R>(
        &mut self,
        target: DomainId,
        with: impl FnOnce(&mut Servers, &Surroundings<'_, Self::Memory>, &mut dyn Resources) -> R,
    ) -> Option<R>;
    /// Makes vCPUs that wait for a server look at their request again.
    fn wake(&mut self, target: DomainId, vcpus: VcpuSet);
    /// Traces a step of the request of a target's vCPU.
    fn trace(&mut self, target: DomainId, kind: Kind, vcpu: u8, argument: u32);
    /// A target's servers came, went or changed: what else depends on them follows. Nothing does where there are no shadow
    /// pages.
    fn review(&mut self, _target: DomainId) {}
    /// The guest of `domain` has done something with the ring of its PV console.
    fn console(&mut self, _domain: DomainId) {}
    /// Tells what happened to a target's servers.
    fn record(&mut self, target: DomainId, event: Event);
}

/// Tries to close a port whose peer changes under it before giving up with EAGAIN.
const CLOSE_ATTEMPTS: u32 = 4;

/// EVTCHNOP_send by `caller`.
///
/// # Errors
/// EINVAL.
pub fn send<D: Domains>(domains: &mut D, caller: DomainId, port: EventPort) -> Result<(), HypercallError> {
    let sent = domains
        .events(caller, |events, words| events.send(port, words))
        .ok_or(HypercallError::NoDomain)??;
    carry(domains, caller, sent);
    Ok(())
}

/// Brings what `from` sent to whoever hears it.
pub fn carry<D: Domains>(domains: &mut D, from: DomainId, sent: Sent) {
    match sent {
        Sent::Nobody => {}
        Sent::Own(delivery) => domains.deliver(from, delivery),
        Sent::Console => domains.console(from),
        Sent::Peer(sender, domain, port) => {
            let received = domains.events(domain, |events, words| events.receive(port, sender, words));
            match received {
                Some(Received::Delivered(delivery)) => domains.deliver(domain, delivery),
                Some(Received::Consumed(Consumer::Request { server, vcpu })) => {
                    let mut effects = Effects::default();
                    domains.servers(domain, |servers, around, _| {
                        servers.hear(server, vcpu, around, &mut effects)
                    });
                    perform(domains, domain, &effects);
                }
                Some(Received::Consumed(Consumer::Buffered { .. } | Consumer::Doorbell { .. }) | Received::Nothing)
                | None => {}
            }
        }
    }
}

/// A guest of `target` wrote to a doorbell: whether its server has the event, or had it already.
#[inline]
pub fn ring<D: Domains>(domains: &mut D, target: DomainId, ring: &Ring) -> bool {
    let sender = Sender {
        domain: target,
        port: ring.port,
    };
    let received = domains.events(ring.owner, |events, words| events.receive(ring.peer, sender, words));
    match received {
        Some(Received::Delivered(delivery)) => {
            domains.deliver(ring.owner, delivery);
            true
        }
        Some(Received::Consumed(_) | Received::Nothing) | None => false,
    }
}

/// `target` starts anew: what it has posted and nobody has seen is taken back.
pub fn forget_posted<D: Domains>(domains: &mut D, target: DomainId) {
    let doorbells = domains.servers(target, |servers, around, _| {
        servers.drop_posted(around.memory);
        servers.doorbells()
    });
    let Some(doorbells) = doorbells else { return };
    for index in 0..MAX_SERVERS * MAX_DOORBELLS {
        let Some(bell) = doorbells.with(|table| table.entries().get(index).copied()) else {
            return;
        };
        let sender = Sender {
            domain: target,
            port: bell.port,
        };
        // A port that is not bound has no peer.
        let _ = domains.events(bell.owner, |events, words| events.withdraw(bell.peer, sender, words));
    }
}

/// Does what an operation on the servers of `target` asks for.
pub fn perform<D: Domains>(domains: &mut D, target: DomainId, effects: &Effects) {
    for (kind, vcpu, argument) in &effects.traced {
        domains.trace(target, *kind, *vcpu, *argument);
    }
    for port in &effects.notify {
        let sent = domains.events(target, |events, _| events.notify_attached(*port));
        carry(domains, target, sent.unwrap_or(Sent::Nobody));
    }
    if !effects.wake.is_empty() {
        domains.wake(target, effects.wake);
    }
    for event in &effects.events {
        domains.record(target, *event);
    }
    if effects.review {
        domains.review(target);
    }
    if effects.release_ports {
        domains.servers(target, |servers, _, resources| servers.release_detached(resources));
    }
}

/// Binds a new port of `caller` to `remote_port` of `remote`.
///
/// # Errors
/// ENOSPC, EINVAL.
pub fn bind_interdomain<D: Domains>(
    domains: &mut D,
    caller: DomainId,
    remote: DomainId,
    remote_port: EventPort,
) -> Result<EventPort, HypercallError> {
    let bound = domains
        .event_pair(caller, remote, |mut tables, words| {
            tables.bind_interdomain(remote_port, words)
        })
        .ok_or(HypercallError::NoDomain)??;
    if let Some(consumer) = bound.consumer {
        let _ = domains.servers(remote, |servers, _, _| match consumer {
            Consumer::Request { server, vcpu } => servers.port_bound(server, vcpu, bound.port),
            listens => servers.posting_bound(listens, remote_port, bound.port),
        });
    }
    domains.deliver(caller, bound.delivery);
    Ok(bound.port)
}

/// Closes a guest's port of `domain`: by EVTCHNOP_close, by EVTCHNOP_reset, or because the domain stops.
///
/// # Errors
/// EINVAL; EAGAIN when the peer keeps changing.
pub fn close<D: Domains>(domains: &mut D, domain: DomainId, port: EventPort) -> Result<(), HypercallError> {
    for _ in 0..CLOSE_ATTEMPTS {
        let peer = domains
            .events(domain, |events, _| events.peer(port))
            .ok_or(HypercallError::NoDomain)??;
        let closed = domains
            .event_pair(domain, peer, |mut tables, words| tables.close(port, words))
            .ok_or(HypercallError::NoDomain)?;
        match closed {
            Ok(closed) => {
                if let Some(consumer) = closed.consumer {
                    let effects = domains.servers(peer, |servers, around, _| match consumer {
                        Consumer::Request { server, vcpu } => servers.port_closed(server, vcpu, around),
                        listens => {
                            servers.posting_closed(listens, closed.peer, port);
                            Effects::default()
                        }
                    });
                    perform(domains, peer, &effects.unwrap_or_default());
                }
                return Ok(());
            }
            Err(HypercallError::TryAgain) => {}
            Err(error) => return Err(error),
        }
    }
    Err(HypercallError::TryAgain)
}

/// Closes at most `limit` guest's ports of `domain`, lowest first. `Ok(true)`: there are more.
///
/// # Errors
/// EAGAIN.
pub fn close_some<D: Domains>(domains: &mut D, domain: DomainId, limit: u32) -> Result<bool, HypercallError> {
    let next = |domains: &mut D| domains.events(domain, |events: &mut EventChannels, _| events.next_open(EventPort(1)));
    for _ in 0..limit {
        match next(domains).flatten() {
            Some(port) => close(domains, domain, port)?,
            None => return Ok(false),
        }
    }
    Ok(next(domains).flatten().is_some())
}
