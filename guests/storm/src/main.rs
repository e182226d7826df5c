//! Domains in a storm of grants: each grants pages to the others and takes them back, maps, copies and gives back theirs,
//! and dies now and then, or has another one die. All of it at random, from the boot argument `seed=`, until they have
//! done `operations=` together; a life has about `span=` steps.
//!
//! Each knows what it must reach and what each operation must answer, from a ledger that they share and from what it
//! did itself. What contradicts that is a failure, unless the other's death explains it.
#![no_std]
#![no_main]

extern crate alloc;

mod accesses;
mod copies;
mod ledger;
mod others;
mod own;
mod storm;

use guest_runtime::attempt;

guest_runtime::entry!(main);

fn main() -> ! {
    attempt::init();
    match storm::Storm::new() {
        Some(storm) => storm.run(),
        None => storm::failed(format_args!(
            "no ledger, no window, no grant table, or no boot argument me="
        )),
    }
}
