//! PSCI 0.2 and newer (Arm DEN 0022): power off, reset, other vCPUs.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::device_tree;

const SYSTEM_OFF: u64 = 0x8400_0008;
const SYSTEM_RESET: u64 = 0x8400_0009;
const CPU_OFF: u64 = 0x8400_0002;
const CPU_ON: u64 = 0xc400_0003;

static BY_SMC: AtomicBool = AtomicBool::new(false);

pub(crate) fn init() {
    let method = device_tree::device_tree()
        .find_node("/psci")
        .and_then(|node| device_tree::property_str(node, "method"));
    BY_SMC.store(method == Some("smc"), Ordering::Relaxed);
}

/// A PSCI error code, as returned.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct PsciError(pub i64);

/// Any PSCI or SMCCC call of up to three arguments, over the conduit of the device tree.
pub fn call(function: u64, arguments: [u64; 3]) -> u64 {
    let mut result = function;
    macro_rules! conduit {
        ($instruction:literal) => {
            // SAFETY: SMCCC calls keep x18 and up and the stack; what a call does to other vCPUs is its caller's
            // business: `start` takes only what is safe to run, the rest stops.
            unsafe {
                asm!(
                    $instruction,
                    inout("x0") result, inout("x1") arguments[0] => _, inout("x2") arguments[1] => _,
                    inout("x3") arguments[2] => _, out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _,
                    out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _,
                    out("x16") _, out("x17") _,
                )
            }
        };
    }
    if BY_SMC.load(Ordering::Relaxed) {
        conduit!("smc #0");
    } else {
        conduit!("hvc #0");
    }
    result
}

/// Turns the whole guest off.
pub fn system_off() -> ! {
    call(SYSTEM_OFF, [0; 3]);
    loop {
        crate::wait_for_interrupt();
    }
}

/// Restarts the whole guest.
pub fn system_reset() -> ! {
    call(SYSTEM_RESET, [0; 3]);
    loop {
        crate::wait_for_interrupt();
    }
}

/// Turns this vCPU off; returns only on an error.
pub fn cpu_off() -> PsciError {
    PsciError(call(CPU_OFF, [0; 3]) as i64)
}

/// Starts the vCPU with `mpidr` at `entry` with `context` in x0, MMU off.
pub(crate) fn cpu_on(mpidr: u64, entry: u64, context: u64) -> Result<(), PsciError> {
    match call(CPU_ON, [mpidr, entry, context]) {
        0 => Ok(()),
        error => Err(PsciError(error as i32 as i64)),
    }
}
