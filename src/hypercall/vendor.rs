//! Portunus' own dm_ops: what a server can do beside answering (`docs/abi.md`, "Portunus' own dm_ops").
//!
//! Checks in this order: payload, pads and flags, server, right, the operation's own.

use super::buffers::write_value;
use super::dm_op::Operation;
use super::host::{DomainInfo, Host, Right};
use super::shadow;
use crate::abi::HypercallError;
use crate::abi::dm_op as abi;
use crate::access::AccessWidth;
use crate::ids::ServerId;
use crate::ioreq::{DoorbellRequest, Range};
use crate::routing::Domains;

pub(super) fn run<H: Host>(operation: &Operation, host: &mut H, target: &DomainInfo) -> Result<u64, HypercallError> {
    match operation.op {
        abi::VENDOR_FEATURES => features(operation, host, target),
        abi::VENDOR_STATE_PAGE => state_page(operation, host, target),
        abi::VENDOR_ATTACH_BUFFERED => attach_buffered(operation, host, target),
        abi::VENDOR_ATTACH_DOORBELL => attach_doorbell(operation, host, target),
        abi::VENDOR_ATTACH_SHADOW => shadow::attach_shadow(operation, host, target),
        abi::VENDOR_ATTACH_ACK => shadow::attach_ack(operation, host, target),
        abi::VENDOR_DETACH => detach(operation, host, target),
        abi::VENDOR_UPDATE => shadow::update(operation, host, target),
        abi::VENDOR_REPLACE => shadow::replace(operation, host, target),
        _ => Err(HypercallError::NotSupported),
    }
}

/// Whether the manifest lets the caller answer all of `range` for the target; `None` is no range, which nobody may.
pub(super) fn may_serve<H: Host>(host: &H, target: &DomainInfo, range: Option<Range>) -> bool {
    range.is_some_and(|range| {
        host.permits(Right::ServeRange {
            target: target.id,
            range,
        })
    })
}

/// The server is alive and the caller's, and the caller may serve what it asks for.
pub(super) fn check<H: Host>(
    host: &mut H,
    target: &DomainInfo,
    id: u16,
    permitted: bool,
) -> Result<(), HypercallError> {
    let caller = host.caller().domain;
    let alive = host
        .domains()
        .servers(target.id, |servers, _, _| servers.features(caller, ServerId(id)));
    alive.ok_or(HypercallError::NoDomain)??;
    if permitted {
        Ok(())
    } else {
        Err(HypercallError::NotPermitted)
    }
}

pub(super) const fn zero(must_be_zero: u32) -> Result<(), HypercallError> {
    if must_be_zero == 0 {
        Ok(())
    } else {
        Err(HypercallError::Invalid)
    }
}

fn features<H: Host>(operation: &Operation, host: &mut H, target: &DomainInfo) -> Result<u64, HypercallError> {
    let mut payload: abi::Features = operation.in_out(host)?;
    if payload.pad != [0; 3] {
        return Err(HypercallError::Invalid);
    }
    let caller = host.caller().domain;
    let features = host.domains().servers(target.id, |servers, _, _| {
        servers.features(caller, ServerId(payload.id))
    });
    payload.features = features.ok_or(HypercallError::NoDomain)??;
    write_value(host, operation.payload, &payload)?;
    Ok(0)
}

fn state_page<H: Host>(operation: &Operation, host: &mut H, target: &DomainInfo) -> Result<u64, HypercallError> {
    let mut payload: abi::StatePage = operation.in_out(host)?;
    if payload.pad != [0; 3] {
        return Err(HypercallError::Invalid);
    }
    let permitted = may_serve(host, target, Range::from_length(payload.address, 1));
    let caller = host.caller().domain;
    let frame = host.domains().servers(target.id, |servers, _, _| {
        servers.state_page(caller, ServerId(payload.id), payload.address, permitted)
    });
    payload.frame = frame.ok_or(HypercallError::NoDomain)??;
    write_value(host, operation.payload, &payload)?;
    Ok(0)
}

fn attach_buffered<H: Host>(operation: &Operation, host: &mut H, target: &DomainInfo) -> Result<u64, HypercallError> {
    let payload: abi::AttachBuffered = operation.input(host)?;
    zero(payload.pad.into())?;
    zero(payload.flags & !abi::WRITE_ONLY)?;
    let range =
        Range::new(payload.start, payload.end).filter(|range| range.end() - range.start() < abi::BUFFERED_REACH);
    let range = range.ok_or(HypercallError::Invalid)?;
    let permitted = may_serve(host, target, Some(range));
    let write_only = payload.flags & abi::WRITE_ONLY != 0;
    let caller = host.caller().domain;
    let attached = host.domains().servers(target.id, |servers, around, _| {
        let id = ServerId(payload.id);
        servers.attach_buffered(caller, id, range, write_only, permitted, around.memory)
    });
    attached.ok_or(HypercallError::NoDomain)??;
    Ok(0)
}

fn attach_doorbell<H: Host>(operation: &Operation, host: &mut H, target: &DomainInfo) -> Result<u64, HypercallError> {
    let mut payload: abi::AttachDoorbell = operation.in_out(host)?;
    zero(payload.pad.into())?;
    zero(payload.flags & !abi::WRITE_ONLY)?;
    let width = AccessWidth::from_bytes(payload.size.into()).ok_or(HypercallError::Invalid)?;
    let matches_some = payload.value & payload.mask & !width.mask() == 0;
    if !matches_some || !payload.address.is_multiple_of(width.bytes()) {
        return Err(HypercallError::Invalid);
    }
    let permitted = may_serve(host, target, Range::from_length(payload.address, width.bytes()));
    let request = DoorbellRequest {
        address: payload.address,
        width,
        value: payload.value,
        mask: payload.mask,
        write_only: payload.flags & abi::WRITE_ONLY != 0,
    };
    let caller = host.caller().domain;
    let port = host.domains().servers(target.id, |servers, _, resources| {
        servers.attach_doorbell(caller, ServerId(payload.id), &request, permitted, resources)
    });
    payload.port = port.ok_or(HypercallError::NoDomain)??.0;
    write_value(host, operation.payload, &payload)?;
    Ok(0)
}

fn detach<H: Host>(operation: &Operation, host: &mut H, target: &DomainInfo) -> Result<u64, HypercallError> {
    let payload: abi::Detach = operation.input(host)?;
    zero(payload.pad.into())?;
    if matches!(payload.kind, abi::Detach::SHADOW | abi::Detach::ACK) {
        check(host, target, payload.id, true)?;
        return shadow::detach(&payload, host, target);
    }
    let caller = host.caller().domain;
    let detached = host.domains().servers(target.id, |servers, _, resources| {
        let what = (payload.kind, payload.address, payload.value);
        servers.detach(caller, ServerId(payload.id), what, resources)
    });
    detached.ok_or(HypercallError::NoDomain)??;
    Ok(0)
}
