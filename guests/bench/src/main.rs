//! A guest that measures what single operations cost, in ticks of the virtual counter.
//!
//! Each row is measured [`SAMPLES`] times between two `isb; mrs cntvct_el0`, and printed as `BENCH NAME MIN MEDIAN P90`. On
//! a machine where a tick is an instruction (`-icount shift=0,sleep=off -cpu ...,cntfrq=1000000000`) those are
//! instructions, of the guest, the hypervisor and other domains alike; an empty pair costs 2. `entry_to_guest` is the
//! physical counter at this guest's first instruction: what was executed since the machine's reset. A row that needs what this
//! domain does not have (a served device, a channel to another domain) is left out. Boot arguments: `only=NAME` leaves out
//! the other rows, `samples=N` replaces [`SAMPLES`].
#![no_std]
#![no_main]

extern crate alloc;

mod operations;
mod vectors;

use alloc::vec::Vec;

use guest_runtime::events::Events;
use guest_runtime::gic::Gic;
use guest_runtime::{device_tree, hypercall, println, psci, timer, virtio};

use operations::Machine;

guest_runtime::entry!(main);

/// Measurements of a row.
const SAMPLES: usize = 1_000;
/// Repetitions before the first one, in which buffers, server and caches come to rest.
const WARM_UP: usize = 16;
/// The port that the manifest connects with another domain, if it does.
const PEER_PORT: u32 = 10;
/// Addresses where no guest of this hypervisor has anything.
const NOWHERE: u64 = 0x0100_0000;
/// Offset of a register that drivers read (VirtIO 1.2, 4.2.2).
const INTERRUPT_STATUS: u64 = 0x60;
/// The SGI that this guest sends to itself.
const SGI: u32 = 5;

/// Measures `operation` and prints its row.
fn row(name: &str, mut operation: impl FnMut() -> u64) {
    let mut wanted = device_tree::boot_arguments().filter_map(|word| word.strip_prefix("only="));
    if wanted.any(|only| only != "all" && only != name) {
        return;
    }
    let count = device_tree::boot_number("samples").map_or(SAMPLES, |samples| samples.max(1) as usize);
    for _ in 0..WARM_UP {
        operation();
    }
    let mut samples: Vec<u64> = (0..count).map(|_| operation()).collect();
    samples.sort_unstable();
    let at = |percent| samples[(count - 1) * percent / 100];
    println!("BENCH {name} {} {} {}", at(0), at(50), at(90));
}

fn main() -> ! {
    println!("bench: hello");
    let gic = Gic::init();
    let events = Events::init().ok();
    if let Some(events) = &events {
        gic.enable(events.upcall, false);
    }
    gic.enable(timer::intid(), false);
    gic.enable(SGI, true);
    let machine = Machine { gic, events };
    let distributor = gic.distributor().base() as u64;

    // The machine's counter was 0 at its reset.
    let started = timer::started();
    println!("BENCH entry_to_guest {started} {started} {started}");
    row("empty_pair", operations::empty);
    row("null_hypercall", operations::null_hypercall);
    row("unknown_hypercall", operations::unknown_hypercall);
    row("psci_version", operations::psci_version);
    row("gicd_typer_read", || operations::read(distributor + 4));
    row("gicd_isenabler_write", || operations::write(distributor + 0x104, 0));
    let uart = device_tree::find_compatible(&["arm,pl011"]).and_then(|node| device_tree::reg(node, 0));
    if let Some(uart) = uart {
        row("vpl011_read", || operations::read(uart.start + 0x18));
    }
    row("id_register_read", operations::id_register);
    row("unmapped_mmio", || operations::abort(NOWHERE));
    row("sgi_self", || machine.sgi_self(SGI));
    row("timer_spin", || machine.timer_spin());
    row("timer_wfi", || machine.timer_wfi());
    if let Some(port) = own_port(&machine) {
        row("event_self", || machine.event_self(port));
    }
    let mut served = None;
    virtio::each_mmio(|registers, _| served = Some(registers.start + INTERRUPT_STATUS));
    if let Some(register) = served {
        row("ioreq_sync_same_cpu", || operations::read(register));
    }
    if machine.events.is_some() && hypercall::send(PEER_PORT).is_ok() {
        machine.wait_for_event();
        row("event_ping_pong", || machine.ping_pong(PEER_PORT));
    }
    println!("bench: done");
    psci::system_off()
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
