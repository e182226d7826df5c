//! What can be answered at the vector: calls whose answers depend on nothing but their registers.
//!
//! `arch` asks here before it calls the core. An answer is the one that the core would give; the vCPU goes on at once, and
//! whatever else is due is due at its next exception, which is pending already.

use crate::abi::hypercall::{HVC_IMMEDIATE, XEN_VERSION};
use crate::abi::version;
use crate::counters::Exit;
use crate::hypercall::refused;
use crate::psci;
use crate::trace::{self, Kind};
use crate::trap::registers::GuestFrame;

/// ESR_EL2 of an HVC from AArch64 with this immediate (EC 0x16, IL).
const fn hvc(immediate: u16) -> u64 {
    0x16 << 26 | 1 << 25 | immediate as u64
}
const HYPERCALL: u64 = hvc(HVC_IMMEDIATE);
const FIRMWARE_CALL: u64 = hvc(0);

/// What was answered.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Answered {
    /// As what it counts.
    pub exit: Exit,
    /// What its trace event is.
    pub kind: Kind,
    /// The event's argument.
    pub argument: u32,
}

/// Answers the exception with syndrome `esr` in `frame`; `None`: it is not such a call, and nothing changed.
#[inline]
pub fn answer(esr: u64, frame: &mut GuestFrame) -> Option<Answered> {
    let (value, exit, kind, argument) = match esr {
        HYPERCALL if frame.read(16) == XEN_VERSION && frame.read(0) as u32 == version::VERSION as u32 => {
            let value = version::MAJOR << 16 | version::MINOR;
            let argument = trace::call(XEN_VERSION, version::VERSION);
            (value, Exit::Hypercall, Kind::Hypercall, argument)
        }
        HYPERCALL => {
            let number = frame.read(16);
            let argument = trace::call(number, frame.read(0));
            (refused(number)?.register(), Exit::Hypercall, Kind::Hypercall, argument)
        }
        FIRMWARE_CALL => {
            let function = frame.read(0) as u32;
            (psci::immediate(function)?, Exit::Firmware, Kind::Firmware, function)
        }
        _ => return None,
    };
    frame.write(0, value);
    Some(Answered { exit, kind, argument })
}
