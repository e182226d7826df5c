//! The one kind of lock: a fair spin lock, so that no pCPU waits for more than the others' turns.
//!
//! Lock order, outermost first (ARCHITECTURE.md, "Lock order"): a domain's IOREQ servers, a domain's memory, a
//! domain's event channels (two domains: the lower number first), a domain's vGIC, a run queue, the console.

use portunus_lock::{TicketGuard, TicketLock, Wait};
use spin::Once;

/// A fair spin lock; held for a bounded, short time, never across a call that can block.
pub type Mutex<T> = TicketLock<T, Pause>;

static HINT: Once<fn()> = Once::new();

/// What a locked [`Mutex`] gives.
pub type MutexGuard<'a, T> = TicketGuard<'a, T, Pause>;

/// Has [`pause`] give the machine's own hint. The first call counts.
///
/// The compiler's hint is an ISB on this architecture. YIELD, which needs inline assembly, also tells an emulator that
/// runs one pCPU at a time to go on with another: without it every wait for a lock lasts until that emulator's own
/// time slice ends.
pub fn set_hint(hint: fn()) {
    HINT.call_once(|| hint);
}

/// What a pCPU does each time that it has looked in vain for something that another is about to do.
#[inline(never)]
pub fn pause() {
    match HINT.get() {
        Some(hint) => hint(),
        None => core::hint::spin_loop(),
    }
}

/// Waiting for a lock by [`pause`].
#[derive(Debug)]
pub struct Pause;

impl Wait for Pause {
    #[cold]
    fn wait() {
        pause();
    }
}
