//! The firmware's power interface (Arm PSCI, DEN 0022) by the conduit that the device tree names.

use core::sync::atomic::{AtomicBool, Ordering};
use smccc::psci::{self, error::Error};
use smccc::{Hvc, Smc};

static KNOWN: AtomicBool = AtomicBool::new(false);
static BY_HVC: AtomicBool = AtomicBool::new(false);

/// Says how the firmware is called. Until then nothing is.
pub(crate) fn init(hvc: bool) {
    BY_HVC.store(hvc, Ordering::Relaxed);
    KNOWN.store(true, Ordering::Relaxed);
}

/// Starts a pCPU at EL2, MMU off, at `entry` with `context` in x0.
///
/// # Errors
/// The firmware's; [`Error::NotSupported`] without one.
pub(crate) fn cpu_on(mpidr: u64, entry: u64, context: u64) -> Result<(), Error> {
    if !KNOWN.load(Ordering::Relaxed) {
        return Err(Error::NotSupported);
    }
    if BY_HVC.load(Ordering::Relaxed) {
        psci::cpu_on::<Hvc>(mpidr, entry, context)
    } else {
        psci::cpu_on::<Smc>(mpidr, entry, context)
    }
}

/// Turns the machine off, if the firmware is known and able to.
pub(crate) fn system_off() {
    if !KNOWN.load(Ordering::Relaxed) {
        return;
    }
    // A firmware that refuses leaves the machine on: the caller stops by itself.
    let _ = if BY_HVC.load(Ordering::Relaxed) {
        psci::system_off::<Hvc>()
    } else {
        psci::system_off::<Smc>()
    };
}

/// Ends the run: by semihosting where the board has it, else by the firmware, else by stopping this pCPU.
pub(crate) fn end(code: u64) -> ! {
    crate::console::flush();
    if crate::board::board().semihosting {
        crate::semihosting::exit(code);
    }
    off()
}

/// Turns the machine off or, where that fails, stops this pCPU for ever.
pub(crate) fn off() -> ! {
    system_off();
    halt()
}

/// Stops this pCPU for ever; the others go on.
pub(crate) fn halt() -> ! {
    loop {
        crate::sysreg::wfi();
    }
}
