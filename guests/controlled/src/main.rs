//! Domains that somebody controls, and two that try to, by the boot argument `role=`:
//!
//! - `ticker` reads a register of its device every 50 ms and says how long it was away;
//! - `watcher` sends the ticker an event every 20 ms, and must never be late itself;
//! - `examiner` may control the others: it holds what the hypervisor says and does against what it should;
//! - `intruder` may not, and must be refused everything.
#![no_std]
#![no_main]

extern crate alloc;

mod examiner;
mod intruder;
mod roles;

use guest_runtime::device_tree;

guest_runtime::entry!(main);

fn main() -> ! {
    let role = device_tree::boot_arguments().find_map(|word| word.strip_prefix("role="));
    match role {
        Some("ticker") => roles::ticker(),
        Some("watcher") => roles::watcher(),
        Some("examiner") => examiner::run(),
        Some("intruder") => intruder::run(),
        other => panic!("no role {other:?}"),
    }
}
