//! Writes that the guest does not wait for, and a read that does not trap: from a device that `guest-bench-backend` serves.
//!
//! Before each sample a synchronous write makes the backend take everything that came so far. Its answer switches back to
//! this vCPU at once, so the backend's vCPU can run all the time but does not, and nothing is pending for it: what is
//! measured makes a port pending, and the backend's interrupt with it, but switches to nobody and wakes nobody.

use core::ops::Range;

use guest_runtime::device_tree::Interrupt;
use guest_runtime::virtio;

use crate::operations::{self, Machine};
use crate::row::{row, unavailable};

/// Offsets of the device's registers.
const DOORBELL: u64 = 0x50;
const BUFFERED: u64 = 0x58;
const STATUS: u64 = 0x60;
const ACK: u64 = 0x64;
const SETTLE: u64 = 0xf0;
/// The other device's register that says which kinds this one has, and its bits.
const KINDS: u64 = 0x10;
const HAS_BUFFERED: u64 = 1;
const HAS_DOORBELL: u64 = 2;
const HAS_SHADOW: u64 = 4;
/// Bytes of registers of a device with `portunus,accel`.
const PAGE: u64 = 4096;
/// From one server's registers to the next one's where there are many doorbells, and a register there that it waits for.
const STRIDE: u64 = 0x100;
const STRIDE_SETTLE: u64 = 0x80;

/// The device with `portunus,accel`, or the other one.
pub(crate) fn device(accel: bool) -> Option<(Range<u64>, Interrupt)> {
    let mut found = None;
    virtio::each_mmio(|registers, interrupt| {
        if (registers.end - registers.start == PAGE) == accel {
            found = Some((registers, interrupt));
        }
    });
    found
}

/// Prints the rows of all kinds.
pub(crate) fn measure(machine: &Machine) {
    let kinds = device(false).map(|(plain, _)| operations::load(plain.start + KINDS));
    let (Some(kinds), Some((registers, interrupt))) = (kinds, device(true)) else {
        for name in ["buffered_write", "doorbell_write", "ack_write", "shadow_read"] {
            unavailable(name, "no device of this domain has portunus,accel");
        }
        return;
    };
    let at = |offset| registers.start + offset;
    let settled = |register: u64| {
        operations::store(at(SETTLE), 0);
        operations::write(register, 1)
    };
    if kinds & HAS_BUFFERED != 0 {
        row("buffered_write", || settled(at(BUFFERED)));
    } else {
        unavailable("buffered_write", "the backend could not attach a buffered range");
    }
    if kinds & HAS_DOORBELL != 0 {
        row("doorbell_write", || settled(at(DOORBELL)));
    } else {
        unavailable("doorbell_write", "the backend could not attach a doorbell");
    }
    if kinds & HAS_SHADOW != 0 {
        machine.gic.enable(interrupt.intid, interrupt.edge);
        row("ack_write", || {
            // The backend sets a bit, and its interrupt is active when it is acknowledged, as in a driver's handler.
            operations::store(at(SETTLE), 1);
            let active = machine.gic.acknowledge().expect("the interrupt is there");
            assert_eq!(operations::load(at(STATUS)), 1, "the interrupt's status");
            let ticks = operations::write(at(ACK), 1);
            assert_eq!(operations::load(at(STATUS)), 0, "the interrupt's status, acknowledged");
            machine.gic.end(active);
            ticks
        });
        machine.gic.disable(interrupt.intid);
        row("shadow_read", || operations::read(at(STATUS)));
    } else {
        for name in ["ack_write", "shadow_read"] {
            unavailable(name, "the backend could not attach a shadow page");
        }
    }
}

/// The doorbell with the highest value of the last server, where there are `doorbells` of them.
pub(crate) fn one_of_many(doorbells: u64, servers: u64) {
    let Some((registers, _)) = device(false) else {
        unavailable("doorbell_write", "no device of this domain is served");
        return;
    };
    let used = if doorbells < servers { 1 } else { servers };
    let register = registers.start + (used - 1) * STRIDE;
    let highest = (doorbells / used - 1) as u32;
    row("doorbell_write", || {
        operations::store(register + STRIDE_SETTLE, 0);
        operations::write(register, highest)
    });
}
