//! Portunus' own dm_ops: what a server can do beside answering (`docs/abi.md`, "Portunus' own dm_ops").
//!
//! Checks in this order: payload, pads and flags, server, right, the operation's own.

use super::buffers::write_value;
use super::dm_op::Operation;
use super::host::{DomainInfo, Host, Right};
use crate::abi::HypercallError;
use crate::abi::dm_op as abi;
use crate::ids::{IntId, PAGE_SIZE, ServerId};
use crate::ioreq::{DoorbellRequest, Range};
use crate::routing::Domains;
use crate::trap::access::AccessWidth;

pub(super) fn run<H: Host>(operation: &Operation, host: &mut H, target: &DomainInfo) -> Result<u64, HypercallError> {
    match operation.op {
        abi::VENDOR_FEATURES => features(operation, host, target),
        abi::VENDOR_STATE_PAGE => state_page(operation, host, target),
        abi::VENDOR_ATTACH_BUFFERED => attach_buffered(operation, host, target),
        abi::VENDOR_ATTACH_DOORBELL => attach_doorbell(operation, host, target),
        abi::VENDOR_ATTACH_SHADOW => attach_shadow(operation, host, target),
        abi::VENDOR_ATTACH_ACK => attach_ack(operation, host, target),
        abi::VENDOR_DETACH => detach(operation, host, target),
        abi::VENDOR_UPDATE => update(operation, host, target),
        abi::VENDOR_REPLACE => replace(operation, host, target),
        _ => Err(HypercallError::NotSupported),
    }
}

/// Whether the manifest lets the caller answer all of `range` for the target; `None` is no range, which nobody may.
fn may_serve<H: Host>(host: &H, target: &DomainInfo, range: Option<Range>) -> bool {
    range.is_some_and(|range| {
        host.permits(Right::ServeRange {
            target: target.id,
            range,
        })
    })
}

/// The server is alive and the caller's, and the caller may serve what it asks for.
fn check<H: Host>(host: &mut H, target: &DomainInfo, id: u16, permitted: bool) -> Result<(), HypercallError> {
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

const fn zero(must_be_zero: u32) -> Result<(), HypercallError> {
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
    let range = Range::new(payload.start, payload.end).ok_or(HypercallError::Invalid)?;
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

fn attach_shadow<H: Host>(operation: &Operation, host: &mut H, target: &DomainInfo) -> Result<u64, HypercallError> {
    let payload: abi::AttachShadow = operation.in_out(host)?;
    zero(payload.pad.into())?;
    zero(payload.flags)?;
    zero(payload.pad2)?;
    let permitted = may_serve(host, target, Range::from_length(payload.address, PAGE_SIZE));
    check(host, target, payload.id, permitted)?;
    Err(HypercallError::NotSupported)
}

fn attach_ack<H: Host>(operation: &Operation, host: &mut H, target: &DomainInfo) -> Result<u64, HypercallError> {
    let payload: abi::AttachAck = operation.input(host)?;
    zero(payload.pad.into())?;
    zero(payload.pad2)?;
    let interrupt = IntId(payload.irq);
    if !interrupt.is_spi() || payload.irq - IntId::FIRST_SPI >= target.spis {
        return Err(HypercallError::Invalid);
    }
    let driven = host.permits(Right::Interrupt {
        target: target.id,
        interrupt,
    });
    let served = may_serve(
        host,
        target,
        Range::from_length(payload.address, size_of::<u32>() as u64),
    );
    check(host, target, payload.id, driven && served)?;
    Err(HypercallError::NotSupported)
}

fn detach<H: Host>(operation: &Operation, host: &mut H, target: &DomainInfo) -> Result<u64, HypercallError> {
    let payload: abi::Detach = operation.input(host)?;
    zero(payload.pad.into())?;
    let caller = host.caller().domain;
    let detached = host.domains().servers(target.id, |servers, _, resources| {
        let what = (payload.kind, payload.address, payload.value);
        servers.detach(caller, ServerId(payload.id), what, resources)
    });
    detached.ok_or(HypercallError::NoDomain)??;
    Ok(0)
}

fn update<H: Host>(operation: &Operation, host: &mut H, target: &DomainInfo) -> Result<u64, HypercallError> {
    let payload: abi::Update = operation.input(host)?;
    zero(payload.pad.into())?;
    zero(payload.flags)?;
    check(host, target, payload.id, true)?;
    Err(HypercallError::NotSupported)
}

fn replace<H: Host>(operation: &Operation, host: &mut H, target: &DomainInfo) -> Result<u64, HypercallError> {
    let payload: abi::Replace = operation.in_out(host)?;
    zero(payload.pad.into())?;
    zero(payload.flags)?;
    check(host, target, payload.id, true)?;
    Err(HypercallError::NotSupported)
}
