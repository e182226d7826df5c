//! What the trace says of an exception: as which event it is recorded, whatever becomes of it.

use super::registers::GuestFrame;
use crate::abi::hypercall::HVC_IMMEDIATE;
use crate::trace::{Kind, call};

/// ESR_EL2.EC of an HVC or SMC from AArch64, which differ in its lowest bit.
const CALL: u64 = 0x16 << 26;
const CALL_MASK: u64 = 0x3e << 26;
/// ESR_EL2 of a hypercall of the ABI.
const HYPERCALL: u64 = CALL | 1 << 25 | HVC_IMMEDIATE as u64;

/// What the event of a synchronous exception from a guest says: one event, whatever becomes of the exception.
#[inline]
pub fn of_exception(esr: u64, frame: &GuestFrame) -> (Kind, u32) {
    if esr & CALL_MASK != CALL {
        (Kind::Trap, esr as u32)
    } else if esr == HYPERCALL {
        (Kind::Hypercall, call(frame.read(16), frame.read(0)))
    } else {
        (Kind::Firmware, frame.read(0) as u32)
    }
}
