//! The counter, and EL2's own timer (CNTHP), which ends a slice or a pCPU's sleep.

use crate::sysreg::{isb, read_sysreg, write_sysreg};
use portunus::ids::Ticks;

/// CNTHP_CTL_EL2.ENABLE.
const ENABLE: u64 = 1;

/// The system counter now. The ISB keeps it from being read before what precedes it.
#[inline]
pub(crate) fn now() -> Ticks {
    isb();
    Ticks(read_sysreg!("cntpct_el0"))
}

/// Ticks a second.
pub(crate) fn frequency() -> u64 {
    read_sysreg!("cntfrq_el0")
}

/// Raises the timer's interrupt at `deadline`, or never.
#[inline]
pub(crate) fn set(deadline: Option<Ticks>) {
    match deadline {
        Some(Ticks(at)) => {
            write_sysreg!("cnthp_cval_el2", at);
            write_sysreg!("cnthp_ctl_el2", ENABLE);
        }
        None => write_sysreg!("cnthp_ctl_el2", 0),
    }
}

/// Raises the timer's interrupt at `deadline`, if it would not do so earlier.
#[inline]
pub(crate) fn set_earlier(deadline: Option<Ticks>) {
    if let Some(Ticks(at)) = deadline
        && (read_sysreg!("cnthp_ctl_el2") & ENABLE == 0 || read_sysreg!("cnthp_cval_el2") > at)
    {
        set(deadline);
    }
}

/// Turns the virtual timer of a vCPU that is nobody's off.
pub(crate) fn stop_virtual() {
    write_sysreg!("cntv_ctl_el0", 0);
    isb();
}
