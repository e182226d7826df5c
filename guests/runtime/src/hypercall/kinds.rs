//! How a device model spares its target from waiting: writes that are posted or ring, reads that do not trap, acknowledgements.

use portunus::abi::dm_op::{self, AttachAck, AttachBuffered, AttachDoorbell, AttachShadow, Detach, Replace, Update};

use super::Result;
use super::dm::dm_op;

/// Posts writes to `start` to `end`, inclusive, to the server's buffered page.
pub fn attach_buffered(domain: u16, id: u16, flags: u32, start: u64, end: u64) -> Result<()> {
    let payload = AttachBuffered {
        id,
        flags,
        start,
        end,
        ..Default::default()
    };
    dm_op(domain, dm_op::VENDOR_ATTACH_BUFFERED, payload).map(drop)
}
/// Lets writes ring that match `doorbell`, whose port is not looked at; returns the target's port, to be bound.
pub fn attach_doorbell(domain: u16, doorbell: AttachDoorbell) -> Result<u32> {
    Ok(dm_op(domain, dm_op::VENDOR_ATTACH_DOORBELL, doorbell)?.port)
}
/// Shows a page that the server fills; returns the first of its two frames.
pub fn attach_shadow(domain: u16, shadow: AttachShadow) -> Result<u64> {
    Ok(dm_op(domain, dm_op::VENDOR_ATTACH_SHADOW, shadow)?.frame)
}
/// Lets writes to a register clear bits of a word of a shadow page.
pub fn attach_ack(domain: u16, ack: AttachAck) -> Result<()> {
    dm_op(domain, dm_op::VENDOR_ATTACH_ACK, ack).map(drop)
}
/// Takes an attachment away: a kind of [`Detach`], its address and, of a doorbell, its value.
pub fn detach(domain: u16, id: u16, kind: u32, address: u64, value: u64) -> Result<()> {
    let payload = Detach {
        id,
        kind,
        address,
        value,
        ..Default::default()
    };
    dm_op(domain, dm_op::VENDOR_DETACH, payload).map(drop)
}
/// Clears, then sets bits of the word of the acknowledgement register at `address`; its interrupt follows.
pub fn update(domain: u16, id: u16, address: u64, clear: u32, set: u32) -> Result<()> {
    let payload = Update {
        id,
        address,
        clear,
        set,
        ..Default::default()
    };
    dm_op(domain, dm_op::VENDOR_UPDATE, payload).map(drop)
}
/// Shows the other frame of the shadow page at `address`; returns the one that is shown now.
pub fn replace(domain: u16, id: u16, address: u64) -> Result<u64> {
    let payload = Replace {
        id,
        address,
        ..Default::default()
    };
    Ok(dm_op(domain, dm_op::VENDOR_REPLACE, payload)?.frame)
}
