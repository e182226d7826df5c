//! The conformance suite of the hypercall ABI, in the spirit of XTF: for each hypercall and operation, and for each of its
//! fields, a good, a boundary and a bad call, as rows of tables.
//!
//! A row says what x0 must be and what must be so afterwards. Of every row the suite itself checks that all registers but the
//! call's own are as before, condition flags and system registers too; that memory around the structure is; that a call that
//! was refused has written nothing and changed nothing that the domain can see ([`snapshot`]); and that nothing is left of
//! one that succeeded and was taken back.
//!
//! Several domains run this program at once. Boot arguments: `role=a` and `role=b`, which try what a domain can do by itself, and
//! `role=c`, which serves the other one's devices; when `b` is through, `a` tries what it can do with objects of `b`.
//! `self=` and `other=`, the numbers of this
//! domain and the other one; `verbose`, a line for each row. It uses what Xen has too, so the same image runs there;
//! [`differences`] says where Xen answers otherwise.
#![no_std]
#![no_main]

extern crate alloc;

mod case;
mod differences;
mod snapshot;
mod suite;
mod tables;
mod trampoline;
mod world;

use core::sync::atomic::{AtomicU64, Ordering};

use guest_runtime::hypercall::memory;
use guest_runtime::{attempt, device_tree, println, psci, timer};

use suite::Suite;
use world::{PAGE, World};

guest_runtime::entry!(main);

/// Not 0: the domain that serves this one has tried everything. It is at the same place in both, whose images are.
static SERVED: AtomicU64 = AtomicU64::new(0);

/// Memory of a domain that is down can't be mapped: the other one ends first.
fn wait_until_served() {
    const PATIENCE: u64 = 60_000_000;
    let deadline = timer::now() + timer::ticks(PATIENCE);
    while SERVED.load(Ordering::Acquire) == 0 && timer::now() < deadline {
        guest_runtime::give_way();
    }
}

fn tell_that_it_is_served(world: &World) {
    let place = &raw const SERVED as u64;
    let mut errors = [0];
    // SAFETY: nothing is in the window, and the word that is written there is for this.
    let mapped = unsafe { memory::map_foreign(world.other, &[place / PAGE], &[world.window / PAGE], &mut errors) };
    if mapped.is_ok() && errors == [0] {
        world.set_word_at(world.window + place % PAGE, 1);
    }
}

fn main() -> ! {
    attempt::init();
    let role = device_tree::boot_arguments().find_map(|word| word.strip_prefix("role="));
    let role = role.expect("boot argument role=");
    let domain = |name| device_tree::boot_number(name).map_or(0, |number| number as u16);
    let verbose = device_tree::boot_arguments().any(|word| word == "verbose");
    let world = World::new(domain("self"), domain("other"));
    println!(
        "xtf {role}: {} system registers watched, on {}",
        trampoline::WATCHED,
        if world.on_portunus {
            "Portunus"
        } else {
            "another hypervisor"
        }
    );
    // Of domains that do the same one tells the numbers.
    let mut suite = Suite::new(role, verbose, role != "b", world);
    if role == "c" {
        tables::serving(&mut suite);
    } else {
        tables::local(&mut suite);
    }
    if role == "a" {
        tables::guest(&mut suite);
    }
    suite.finish();
    suite.conclude();
    if role == "b" {
        tables::host(&mut suite);
    }
    if suite.world.on_portunus {
        match role {
            "a" => wait_until_served(),
            "c" => tell_that_it_is_served(&suite.world),
            _ => {}
        }
    }
    psci::system_off()
}
