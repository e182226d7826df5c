//! The one kind of lock: a fair spin lock, so that no pCPU waits for more than the others' turns.
//!
//! Lock order, outermost first (ARCHITECTURE.md, "Lock order"): a domain's IOREQ servers, a domain's memory, a
//! domain's event channels (two domains: the lower number first), a domain's vGIC, a run queue, the console.

/// A fair spin lock; held for a bounded, short time, never across a call that can block.
pub type Mutex<T> = spin::mutex::TicketMutex<T>;
