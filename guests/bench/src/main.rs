//! A guest that measures what single operations cost, in ticks of the virtual counter.
//!
//! Each row is measured [`row::SAMPLES`] times between two `isb; mrs cntvct_el0`, and printed as `BENCH NAME MIN MEDIAN
//! P90`, or as `BENCH NAME - REASON` if it can't be. On a machine where a tick is an instruction (`-icount
//! shift=0,sleep=off -cpu ...,cntfrq=1000000000`) those are instructions, of the guest, the hypervisor and other domains
//! alike; an empty pair costs 2. `entry_to_guest` is the physical counter at this guest's first instruction: what was
//! executed since the machine's reset.
//!
//! Boot arguments: `set=primitives`, `set=other-cpu` (requests to a backend on another CPU), `set=disk`, `set=scale`
//! (operations at sizes that further arguments give) or `set=nothing` (it sleeps for ever); `only=NAME` leaves out the other
//! rows, `samples=N` replaces the number of samples.
#![no_std]
#![no_main]

extern crate alloc;

mod disk;
mod foreign;
mod grants;
mod operations;
mod posts;
mod row;
mod scale;
mod vectors;

use guest_runtime::events::Events;
use guest_runtime::gic::Gic;
use guest_runtime::{device_tree, hypercall, println, psci, timer, wait_for_interrupt};

use operations::Machine;
use row::{row, unavailable};

guest_runtime::entry!(main);

/// The port that the manifest connects with another domain, if it does.
const PEER_PORT: u32 = 10;
/// Addresses where no guest of this hypervisor has anything.
const NOWHERE: u64 = 0x0100_0000;
/// Offset of a register that drivers read (VirtIO 1.2, 4.2.2).
const INTERRUPT_STATUS: u64 = 0x60;
/// From one range of addresses to the next, where the backend serves many (boot argument `ranges=N` of both).
const RANGE_STRIDE: u64 = 16;
/// The SGI that this guest sends to itself.
const SGI: u32 = 5;

fn main() -> ! {
    println!("bench: hello");
    let gic = Gic::init();
    match device_tree::boot_arguments().find_map(|word| word.strip_prefix("set=")) {
        Some("disk") => disk::measure(gic),
        Some("other-cpu") => {
            let machine = machine(gic);
            served("ioreq_sync_other_cpu", INTERRUPT_STATUS);
            machine.drain();
        }
        Some("scale") => scale::measure(&machine(gic)),
        Some("nothing") => loop {
            wait_for_interrupt();
        },
        _ => primitives(&machine(gic)),
    }
    println!("bench: done");
    psci::system_off()
}

fn machine(gic: Gic) -> Machine {
    let events = Events::init().ok();
    if let Some(events) = &events {
        gic.enable(events.upcall, false);
    }
    gic.enable(timer::intid(), false);
    gic.enable(SGI, true);
    Machine { gic, events }
}

/// What needs one CPU and another domain at the most.
fn primitives(machine: &Machine) {
    let distributor = machine.gic.distributor().base() as u64;
    // The machine's counter was 0 at its reset.
    let started = timer::started();
    row::print("entry_to_guest", &mut [started]);
    row("empty_pair", operations::empty);
    row("null_hypercall", operations::null_hypercall);
    row("unknown_hypercall", operations::unknown_hypercall);
    row("psci_version", operations::psci_version);
    row("gicd_typer_read", || operations::read(distributor + 4));
    row("isenabler_write", || operations::write(distributor + 0x104, 0));
    let uart = device_tree::find_compatible(&["arm,pl011"]).and_then(|node| device_tree::reg(node, 0));
    match uart {
        Some(uart) => row("vpl011_read", || operations::read(uart.start + 0x18)),
        None => unavailable("vpl011_read", "the manifest gives this domain no vpl011"),
    }
    row("id_register_read", operations::id_register);
    row("unmapped_mmio", || operations::abort(NOWHERE));
    row("sgi_self", || machine.sgi_self(SGI));
    row("timer_spin", || machine.timer_spin());
    row("timer_wfi", || machine.timer_wfi());
    match own_port(machine) {
        Some(port) => {
            row("event_self", || machine.event_self(port));
            row("event_pending", || machine.event_pending(port));
        }
        None => {
            for name in ["event_self", "event_pending"] {
                unavailable(name, "this domain has no event channels");
            }
        }
    }
    served("ioreq_sync_same_cpu", INTERRUPT_STATUS);
    posts::measure(machine);
    grants::measure();
    foreign::measure();
    if machine.events.is_some() && hypercall::send(PEER_PORT).is_ok() {
        machine.wait_for_event();
        row("event_ping_pong", || machine.ping_pong(PEER_PORT));
    } else {
        unavailable("event_ping_pong", "the manifest connects this domain with no other");
    }
}

/// A load from a register that another domain serves.
fn served(name: &str, offset: u64) {
    match posts::device(false) {
        Some((registers, _)) => row(name, || operations::read(registers.start + offset)),
        None => unavailable(name, "no device of this domain is served"),
    }
}

/// A port of this domain that is connected with itself.
fn own_port(machine: &Machine) -> Option<u32> {
    machine.events.as_ref()?;
    let far = hypercall::alloc_unbound(hypercall::DOMID_SELF).ok()?;
    let near = hypercall::bind_interdomain(hypercall::DOMID_SELF, far).ok()?;
    // Both ends may have been masked, and binding announces one of them.
    for port in [far, near] {
        hypercall::unmask(port).ok()?;
    }
    machine.drain();
    Some(near)
}
