//! The other vCPU: does what it is told, one thing at a time, with interrupts let in.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use guest_runtime::{exceptions, smp, wait_for_interrupt};

use crate::recorder::{self, gic, wait_until};

/// The number of the other vCPU.
pub(crate) const OTHER: usize = 1;

static READY: AtomicBool = AtomicBool::new(false);
static WORK: AtomicUsize = AtomicUsize::new(0);

/// Starts it; `false`: it does not come.
pub(crate) fn start() -> bool {
    let mut started = false;
    smp::each_vcpu(|mpidr| {
        if mpidr & 0xff == OTHER as u64 {
            started = smp::start(mpidr, work, 0).is_ok();
        }
    });
    started && wait_until(|| READY.load(Ordering::SeqCst))
}

extern "C" fn work(_: u64) -> ! {
    for sgi in 0..16 {
        gic().enable(sgi, true);
    }
    exceptions::enable_interrupts();
    READY.store(true, Ordering::SeqCst);
    loop {
        let work = WORK.load(Ordering::SeqCst);
        if work != 0 {
            // SAFETY: only `begin` stores there, and only `fn()`s.
            let work = unsafe { core::mem::transmute::<usize, fn()>(work) };
            work();
            WORK.store(0, Ordering::SeqCst);
        }
        guest_runtime::let_others_run();
    }
}

/// Lets it begin `work`.
pub(crate) fn begin(work: fn()) {
    WORK.store(work as usize, Ordering::SeqCst);
}

/// Waits until it is through; `false`: it is not.
pub(crate) fn finish() -> bool {
    wait_until(|| WORK.load(Ordering::SeqCst) == 0)
}

/// Both.
pub(crate) fn run(work: fn()) -> bool {
    begin(work);
    finish()
}

/// Work: sleeps until the first interrupt after the last `clear`.
pub(crate) fn sleep() {
    let own = recorder::own();
    loop {
        exceptions::disable_interrupts();
        let awake = recorder::total(own) > 0;
        if !awake {
            wait_for_interrupt();
        }
        exceptions::enable_interrupts();
        if awake {
            return;
        }
    }
}
