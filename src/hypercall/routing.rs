//! Carrying events and effects between domains: who hears of what, one lock at a time.
//!
//! The chain is short: an event of a server's owner reaches the target's request; the effect of that can be an event to
//! an owner, which is always a guest's port, so it ends there.

use super::host::Host;
use crate::abi::HypercallError;
use crate::evtchn::{Consumer, EventChannels, Received, Sent};
use crate::ids::{DomainId, EventPort};
use crate::ioreq::Effects;

/// Tries to close a port whose peer changes under it before giving up with EAGAIN.
const CLOSE_ATTEMPTS: u32 = 4;

/// EVTCHNOP_send by the caller.
///
/// # Errors
/// EINVAL.
pub fn send<H: Host>(host: &mut H, port: EventPort) -> Result<(), HypercallError> {
    let caller = host.caller().domain;
    let sent = host
        .events(caller, |events, words| events.send(port, words))
        .ok_or(HypercallError::NoDomain)??;
    carry(host, caller, sent);
    Ok(())
}

/// Brings what `from` sent to whoever hears it.
pub fn carry<H: Host>(host: &mut H, from: DomainId, sent: Sent) {
    match sent {
        Sent::Nobody => {}
        Sent::Own(delivery) => host.deliver(from, delivery),
        Sent::Peer(sender, domain, port) => {
            let received = host.events(domain, |events, words| events.receive(port, sender, words));
            match received {
                Some(Received::Delivered(delivery)) => host.deliver(domain, delivery),
                Some(Received::Consumed(Consumer::Request { server, vcpu })) => {
                    let effects = host.servers(domain, |servers, around, _| servers.notified(server, vcpu, around));
                    perform(host, domain, &effects.unwrap_or_default());
                }
                Some(Received::Consumed(Consumer::Buffered { .. }) | Received::Nothing) | None => {}
            }
        }
    }
}

/// Does what an operation on the servers of `target` asks for.
pub fn perform<H: Host>(host: &mut H, target: DomainId, effects: &Effects) {
    for port in &effects.notify {
        let sent = host.events(target, |events, _| events.notify_attached(*port));
        carry(host, target, sent.unwrap_or(Sent::Nobody));
    }
    if !effects.wake.is_empty() {
        host.wake(target, effects.wake);
    }
    for event in &effects.events {
        host.record(target, *event);
    }
}

/// Binds a new port of the caller to `remote_port` of `remote`.
///
/// # Errors
/// ENOSPC, EINVAL.
pub fn bind_interdomain<H: Host>(
    host: &mut H,
    remote: DomainId,
    remote_port: EventPort,
) -> Result<EventPort, HypercallError> {
    let caller = host.caller().domain;
    let bound = host
        .event_pair(caller, remote, |mut tables, words| {
            tables.bind_interdomain(remote_port, words)
        })
        .ok_or(HypercallError::NoDomain)??;
    if let Some(Consumer::Request { server, vcpu }) = bound.consumer {
        let _ = host.servers(remote, |servers, _, _| servers.port_bound(server, vcpu));
    }
    host.deliver(caller, bound.delivery);
    Ok(bound.port)
}

/// Closes a guest's port of `domain`: by EVTCHNOP_close, by EVTCHNOP_reset, or because the domain stops.
///
/// # Errors
/// EINVAL; EAGAIN when the peer keeps changing.
pub fn close<H: Host>(host: &mut H, domain: DomainId, port: EventPort) -> Result<(), HypercallError> {
    for _ in 0..CLOSE_ATTEMPTS {
        let peer = host
            .events(domain, |events, _| events.peer(port))
            .ok_or(HypercallError::NoDomain)??;
        let closed = host
            .event_pair(domain, peer, |mut tables, words| tables.close(port, words))
            .ok_or(HypercallError::NoDomain)?;
        match closed {
            Ok(closed) => {
                if let Some(Consumer::Request { server, vcpu }) = closed.consumer {
                    let effects = host.servers(peer, |servers, around, _| servers.port_closed(server, vcpu, around));
                    perform(host, peer, &effects.unwrap_or_default());
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
pub fn close_some<H: Host>(host: &mut H, domain: DomainId, limit: u32) -> Result<bool, HypercallError> {
    let next = |host: &mut H| host.events(domain, |events: &mut EventChannels, _| events.next_open(EventPort(1)));
    for _ in 0..limit {
        match next(host).flatten() {
            Some(port) => close(host, domain, port)?,
            None => return Ok(false),
        }
    }
    Ok(next(host).flatten().is_some())
}
