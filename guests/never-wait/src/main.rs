//! Writes that nobody waits for, counted: a guest that posts, rings and reads ([`writer`]), the backend that serves it and
//! looks whether anything is lost or out of order ([`backend`]), and another guest of that backend, which rings without end
//! ([`ringer`]).
//!
//! Each numbers its posted writes and its rings, so that the backend knows what must come next. Whatever is wrong is
//! printed with the word FAILED. The boot argument `role=` says which one this is.
#![no_std]
#![no_main]

extern crate alloc;

mod backend;
mod device;
mod ringer;
mod writer;

use guest_runtime::{device_tree, println, psci};

guest_runtime::entry!(main);

/// The port that the manifest connects between writer and ringer.
const PEER_PORT: u32 = 10;

fn main() -> ! {
    match device_tree::boot_arguments().find_map(|word| word.strip_prefix("role=")) {
        Some("writer") => writer::run(),
        Some("ringer") => ringer::run(),
        Some("backend") => backend::run(),
        role => println!("never-wait: FAILED: there is no role {role:?}"),
    }
    psci::system_off()
}
