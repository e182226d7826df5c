//! The conformance suite of the hypercall ABI, in the spirit of XTF: for each hypercall and operation, and for each of its
//! fields, a good, a boundary and a bad call, as rows of tables.
//!
//! A row says what x0 must be and what must be so afterwards. Of every row the suite itself checks that all registers but the
//! call's own are as before, condition flags and system registers too; that memory around the structure is; that a call that
//! was refused has written nothing and changed nothing that the domain can see ([`snapshot`]); and that nothing is left of
//! one that succeeded and was taken back.
//!
//! Several domains run this program at once. Boot arguments: `role=a` or `role=b`; `self=` and `other=`, the numbers of this
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

use guest_runtime::{attempt, device_tree, println, psci};

use suite::Suite;
use world::World;

guest_runtime::entry!(main);

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
    let mut suite = Suite::new(role, verbose, role == "a", world);
    tables::local(&mut suite);
    suite.finish();
    suite.conclude();
    psci::system_off()
}
