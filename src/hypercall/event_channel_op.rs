//! event_channel_op: the caller's ports.

use super::Done;
use super::buffers::{read_for_update, read_value, write_value};
use super::host::{Host, Right, own};
use crate::abi::HypercallError;
use crate::abi::evtchn as abi;
use crate::evtchn::EventChannels;
use crate::ids::{DomainId, EventPort};
use crate::routing::{self, Domains};

/// Ports that one execution of a reset closes.
const RESET_LIMIT: u32 = 32;

pub(super) fn run<H: Host>(
    host: &mut H,
    command: u32,
    pointer: u64,
    arguments: [u64; 5],
) -> Result<Done, HypercallError> {
    match u64::from(command) {
        abi::BIND_INTERDOMAIN => bind_interdomain(host, pointer)?,
        abi::BIND_VIRQ => {
            let mut request: abi::BindVirq = read_for_update(host, pointer)?;
            request.port = table(host, |events| events.bind_virq(request.virq, request.vcpu))?.0;
            write_value(host, pointer, &request)?;
        }
        abi::CLOSE => {
            let request: abi::Port = read_value(host, pointer)?;
            let caller = host.caller().domain;
            routing::close(host.domains(), caller, EventPort(request.port))?;
        }
        abi::SEND => {
            let request: abi::Port = read_value(host, pointer)?;
            let caller = host.caller().domain;
            routing::send(host.domains(), caller, EventPort(request.port))?;
        }
        abi::STATUS => status(host, pointer)?,
        abi::ALLOC_UNBOUND => alloc_unbound(host, pointer)?,
        abi::BIND_IPI => {
            let mut request: abi::BindIpi = read_for_update(host, pointer)?;
            request.port = table(host, |events| events.bind_ipi(request.vcpu))?.0;
            write_value(host, pointer, &request)?;
        }
        abi::BIND_VCPU => {
            let request: abi::BindVcpu = read_value(host, pointer)?;
            table(host, |events| events.bind_vcpu(EventPort(request.port), request.vcpu))?;
        }
        abi::UNMASK => {
            let request: abi::Port = read_value(host, pointer)?;
            let caller = host.caller().domain;
            let delivery = host
                .domains()
                .events(caller, |events, words| events.unmask(EventPort(request.port), words))
                .ok_or(HypercallError::NoDomain)??;
            host.domains().deliver(caller, delivery);
        }
        abi::RESET => {
            let request: abi::Reset = read_value(host, pointer)?;
            let domain = own(host, request.dom)?;
            if routing::close_some(host.domains(), domain, RESET_LIMIT)? {
                return Ok(Done::Continue(arguments));
            }
        }
        _ => return Err(HypercallError::NotImplemented),
    }
    Ok(Done::Value(0))
}

/// Runs `with` on the caller's channels.
fn table<H: Host, R>(
    host: &mut H,
    with: impl FnOnce(&mut EventChannels) -> Result<R, HypercallError>,
) -> Result<R, HypercallError> {
    let caller = host.caller().domain;
    host.domains()
        .events(caller, |events, _| with(events))
        .ok_or(HypercallError::NoDomain)?
}

fn alloc_unbound<H: Host>(host: &mut H, pointer: u64) -> Result<(), HypercallError> {
    let mut request: abi::AllocUnbound = read_for_update(host, pointer)?;
    let caller = own(host, request.dom)?;
    let remote = if DomainId(request.remote_dom) == DomainId::SELF {
        caller
    } else {
        DomainId(request.remote_dom)
    };
    if remote != caller && !host.permits(Right::EventChannel { peer: remote }) {
        return Err(HypercallError::NotPermitted);
    }
    request.port = table(host, |events| events.alloc_unbound(remote))?.0;
    write_value(host, pointer, &request)
}

fn bind_interdomain<H: Host>(host: &mut H, pointer: u64) -> Result<(), HypercallError> {
    let mut request: abi::BindInterdomain = read_for_update(host, pointer)?;
    let caller = host.caller().domain;
    let remote = if DomainId(request.remote_dom) == DomainId::SELF {
        caller
    } else {
        DomainId(request.remote_dom)
    };
    host.domain(remote).ok_or(HypercallError::NoDomain)?;
    // A port is bound with the consent of the domain that made it; those of a server are made for who serves.
    let permitted = remote == caller
        || host.permits(Right::Serve { target: remote })
        || host.permits(Right::EventChannel { peer: remote });
    if !permitted {
        return Err(HypercallError::NotPermitted);
    }
    request.local_port = routing::bind_interdomain(host.domains(), caller, remote, EventPort(request.remote_port))?.0;
    write_value(host, pointer, &request)
}

fn status<H: Host>(host: &mut H, pointer: u64) -> Result<(), HypercallError> {
    let mut request: abi::Status = read_for_update(host, pointer)?;
    own(host, request.dom)?;
    let status = table(host, |events| events.status(EventPort(request.port)))?;
    request.status = status.status;
    request.vcpu = status.vcpu;
    request.peer = status.peer;
    request.peer_port = status.peer_port;
    write_value(host, pointer, &request)
}
