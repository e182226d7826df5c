//! Hypercalls against a recording host: what succeeds, what is refused with which error, what goes in pieces.

#[path = "hypercall_support/calls.rs"]
mod calls;
#[path = "hypercall_support/control.rs"]
mod control;
#[path = "hypercall_support/dm_errors.rs"]
mod dm_errors;
#[path = "hypercall_support/errors.rs"]
mod errors;
#[path = "hypercall_support/event_errors.rs"]
mod event_errors;
#[path = "hypercall_support/foreign_batch.rs"]
mod foreign_batch;
#[path = "hypercall_support/guest.rs"]
mod guest;
#[path = "hypercall_support/host.rs"]
mod host;
#[path = "hypercall_support/kinds.rs"]
mod kinds;
#[path = "hypercall_support/long.rs"]
mod long;
#[path = "hypercall_support/memory_errors.rs"]
mod memory_errors;
#[path = "hypercall_support/served.rs"]
mod served;
#[path = "hypercall_support/state_page.rs"]
mod state_page;
