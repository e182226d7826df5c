//! Shadow pages: attach, update, replace, detach, and the frames that a server maps of them (`docs/abi.md`, "Range kinds").

use super::buffers::{element, read_value, write_value};
use super::dm_op::Operation;
use super::host::{DomainInfo, Host, Right};
use super::vendor::{check, may_serve, zero};
use crate::abi::HypercallError;
use crate::abi::dm_op as abi;
use crate::abi::memory::AcquireResource;
use crate::ids::{DomainId, IntId, Ipa, PAGE_SIZE, ServerId};
use crate::ioreq::shadow::{Begin, FailureMark};
use crate::ioreq::{Ack, Range};

/// Frames of a page that a server can map.
const FRAMES: u32 = 2;

/// What the caller does with shadow pages of the domains that it serves. A hypervisor without them answers EOPNOTSUPP,
/// and has none of their frames.
pub trait Shadowing {
    /// Attaches the page at `page` of `target` to a server; the number of the frame that will be shown. `permitted`: the
    /// manifest lets the caller serve it. It is shown when the server serves, or not before it was replaced either.
    ///
    /// # Errors
    /// As [`crate::ioreq::Servers::may_shadow`]; EPERM: no device of `target` has frames for that page; EEXIST: it is
    /// attached; ENOSPC: another page of the device is; ENOMEM: the target has no room for tables.
    fn attach_shadow(
        &mut self,
        _target: DomainId,
        _server: ServerId,
        _page: Ipa,
        _mark: FailureMark,
        _begin: Begin,
        _permitted: bool,
    ) -> Result<u64, HypercallError> {
        Err(HypercallError::NotSupported)
    }

    /// Lets the register of `ack` acknowledge; its interrupt is the word's line from now on.
    ///
    /// # Errors
    /// ENOENT: the server has not attached the page; EEXIST: register, word or interrupt is in use; ENOSPC.
    fn attach_ack(&mut self, _target: DomainId, _server: ServerId, _ack: Ack) -> Result<(), HypercallError> {
        Err(HypercallError::NotSupported)
    }

    /// Takes a page away from a server, and from the guest.
    ///
    /// # Errors
    /// ENOENT: the server has not attached it.
    fn detach_shadow(&mut self, _target: DomainId, _server: ServerId, _page: Ipa) -> Result<(), HypercallError> {
        Err(HypercallError::NotSupported)
    }

    /// Takes an acknowledgement register away; its line falls.
    ///
    /// # Errors
    /// ENOENT: the server has not attached it.
    fn detach_ack(&mut self, _target: DomainId, _server: ServerId, _register: Ipa) -> Result<(), HypercallError> {
        Err(HypercallError::NotSupported)
    }

    /// Clears and sets bits in the word of an acknowledgement register; the line follows.
    ///
    /// # Errors
    /// ENOENT: the server has not attached it.
    fn update_shadow(
        &mut self,
        _target: DomainId,
        _server: ServerId,
        _register: Ipa,
        _clear: u32,
        _set: u32,
    ) -> Result<(), HypercallError> {
        Err(HypercallError::NotSupported)
    }

    /// Shows the guest the other frame of a page; its number.
    ///
    /// # Errors
    /// ENOENT: the server has not attached it; ENOMEM.
    fn replace_shadow(&mut self, _target: DomainId, _server: ServerId, _page: Ipa) -> Result<u64, HypercallError> {
        Err(HypercallError::NotSupported)
    }

    /// Maps frame `number` of a page that the server has attached at the caller's `gfn`, and there alone.
    ///
    /// # Errors
    /// EINVAL: no such frame, or not the server's; ENOMEM.
    fn map_shadow(
        &mut self,
        _target: DomainId,
        _server: ServerId,
        _number: u64,
        _gfn: u64,
    ) -> Result<(), HypercallError> {
        Err(HypercallError::Invalid)
    }
}

/// The offset of a word in a page.
fn word(offset: u32) -> Result<u32, HypercallError> {
    if u64::from(offset).is_multiple_of(Ack::BYTES) && u64::from(offset) < PAGE_SIZE {
        Ok(offset)
    } else {
        Err(HypercallError::Invalid)
    }
}

pub(super) fn attach_shadow<H: Host>(
    operation: &Operation,
    host: &mut H,
    target: &DomainInfo,
) -> Result<u64, HypercallError> {
    let mut payload: abi::AttachShadow = operation.in_out(host)?;
    zero(payload.pad.into())?;
    zero(payload.flags & !abi::AttachShadow::AFTER_REPLACE)?;
    zero(payload.pad2)?;
    if !payload.address.is_multiple_of(PAGE_SIZE) {
        return Err(HypercallError::Invalid);
    }
    let mark = FailureMark {
        offset: word(payload.failure_offset)?,
        bits: payload.failure_bits,
        interrupt: payload.failure_interrupt,
    };
    let permitted = may_serve(host, target, Range::from_length(payload.address, PAGE_SIZE));
    check(host, target, payload.id, permitted)?;
    let (server, page) = (ServerId(payload.id), Ipa(payload.address));
    let begin = match payload.flags {
        0 => Begin::AtOnce,
        _ => Begin::AfterReplace,
    };
    payload.frame = host.attach_shadow(target.id, server, page, mark, begin, permitted)?;
    write_value(host, operation.payload, &payload)?;
    Ok(0)
}

pub(super) fn attach_ack<H: Host>(
    operation: &Operation,
    host: &mut H,
    target: &DomainInfo,
) -> Result<u64, HypercallError> {
    let payload: abi::AttachAck = operation.input(host)?;
    zero(payload.pad.into())?;
    zero(payload.pad2)?;
    let interrupt = IntId(payload.irq);
    let exists = interrupt.is_spi() && payload.irq - IntId::FIRST_SPI < target.spis;
    if !exists || !payload.address.is_multiple_of(Ack::BYTES) {
        return Err(HypercallError::Invalid);
    }
    let offset = word(payload.offset)?;
    let driven = host.permits(Right::Interrupt {
        target: target.id,
        interrupt,
    });
    let served = may_serve(host, target, Range::from_length(payload.address, Ack::BYTES));
    check(host, target, payload.id, driven && served)?;
    let ack = Ack::new(Ipa(payload.address), offset, interrupt);
    host.attach_ack(target.id, ServerId(payload.id), ack)?;
    Ok(0)
}

/// The kinds of *detach* that are here.
pub(super) fn detach<H: Host>(payload: &abi::Detach, host: &mut H, target: &DomainInfo) -> Result<u64, HypercallError> {
    let (server, address) = (ServerId(payload.id), Ipa(payload.address));
    if payload.kind == abi::Detach::SHADOW {
        host.detach_shadow(target.id, server, address)?;
    } else {
        host.detach_ack(target.id, server, address)?;
    }
    Ok(0)
}

pub(super) fn update<H: Host>(operation: &Operation, host: &mut H, target: &DomainInfo) -> Result<u64, HypercallError> {
    let payload: abi::Update = operation.input(host)?;
    zero(payload.pad.into())?;
    zero(payload.flags)?;
    check(host, target, payload.id, true)?;
    let (server, register) = (ServerId(payload.id), Ipa(payload.address));
    host.update_shadow(target.id, server, register, payload.clear, payload.set)?;
    Ok(0)
}

pub(super) fn replace<H: Host>(
    operation: &Operation,
    host: &mut H,
    target: &DomainInfo,
) -> Result<u64, HypercallError> {
    let mut payload: abi::Replace = operation.in_out(host)?;
    zero(payload.pad.into())?;
    zero(payload.flags)?;
    check(host, target, payload.id, true)?;
    payload.frame = host.replace_shadow(target.id, ServerId(payload.id), Ipa(payload.address))?;
    write_value(host, operation.payload, &payload)?;
    Ok(0)
}

/// XENMEM_acquire_resource of frames of shadow pages.
pub(super) fn acquire<H: Host>(
    host: &mut H,
    target: DomainId,
    request: &AcquireResource,
) -> Result<u64, HypercallError> {
    if request.nr_frames == 0 || request.nr_frames > FRAMES {
        return Err(HypercallError::Invalid);
    }
    let server = u16::try_from(request.id).map_err(|_| HypercallError::Invalid)?;
    for index in 0..u64::from(request.nr_frames) {
        let gfn = element(request.frame_list, index, size_of::<u64>()).and_then(|at| read_value(host, at));
        let number = request.frame.checked_add(index).ok_or(HypercallError::Invalid);
        let mapped = gfn.and_then(|gfn| host.map_shadow(target, ServerId(server), number?, gfn));
        // The caller unmaps what was mapped before.
        mapped.map_err(|error| if index == 0 { error } else { HypercallError::InputOutput })?;
    }
    Ok(0)
}
