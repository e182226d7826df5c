//! The virtual timer (CNTV).

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTV_CTL_EL0, CNTV_CVAL_EL0, Readable, Writeable};

use crate::device_tree;
use crate::gic::Gic;
use crate::wait_for_interrupt;

static STARTED: AtomicU64 = AtomicU64::new(0);

pub(crate) fn set_started(counter: u64) {
    STARTED.store(counter, Ordering::Relaxed);
}

/// The physical counter at this guest's first instruction.
pub fn started() -> u64 {
    STARTED.load(Ordering::Relaxed)
}

/// The counter now.
pub fn now() -> u64 {
    let value: u64;
    // SAFETY: reads a counter; the barrier keeps the read in its place.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) value, options(nostack, preserves_flags)) };
    value
}

/// Ticks a second.
pub fn frequency() -> u64 {
    CNTFRQ_EL0.get()
}

/// Ticks in `microseconds`.
pub fn ticks(microseconds: u64) -> u64 {
    (u128::from(frequency()) * u128::from(microseconds) / 1_000_000) as u64
}

/// Lets the timer fire when the counter reaches `deadline`.
pub fn set_deadline(deadline: u64) {
    CNTV_CVAL_EL0.set(deadline);
    CNTV_CTL_EL0.set(1);
}

/// Keeps the timer quiet.
pub fn stop() {
    CNTV_CTL_EL0.set(0);
}

/// Whether the deadline has passed.
pub fn has_fired() -> bool {
    CNTV_CTL_EL0.get() & 5 == 5
}

/// The virtual timer's interrupt: the third of the timer node, else PPI 11.
pub fn intid() -> u32 {
    device_tree::find_compatible(&["arm,armv8-timer", "arm,armv7-timer"])
        .and_then(|node| device_tree::interrupt(node, 2))
        .map_or(27, |interrupt| interrupt.intid)
}

/// Spins for `microseconds`.
pub fn spin(microseconds: u64) {
    let end = now() + ticks(microseconds);
    while now() < end {
        core::hint::spin_loop();
    }
}

/// Sleeps for `microseconds`. Interrupts stay masked at the CPU; whatever else is pending is ended unseen.
pub fn sleep(gic: &Gic, microseconds: u64) {
    sleep_unless(gic, now() + ticks(microseconds), || false);
}

/// As [`sleep`], until the counter reaches `deadline`, or an enabled interrupt has come after which `ends` says so.
pub(crate) fn sleep_unless(gic: &Gic, deadline: u64, mut ends: impl FnMut() -> bool) {
    let intid = intid();
    gic.enable(intid, false);
    set_deadline(deadline);
    // The timer's interrupt stays until the timer is stopped, and so may others that nobody serves now: each round asks
    // the timer first.
    while !has_fired() && !ends() {
        match gic.acknowledge() {
            Some(acknowledged) => gic.end(acknowledged),
            None => wait_for_interrupt(),
        }
    }
    stop();
    // Of interrupts of one priority the lowest number is first: after a higher one the timer has none pending.
    while let Some(acknowledged) = gic.acknowledge() {
        gic.end(acknowledged);
        if acknowledged.intid >= intid {
            break;
        }
    }
    gic.disable(intid);
}
