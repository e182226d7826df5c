//! A guest and a backend that try what they must not, while others work. All that is random comes from a seed.
//!
//! The guest goes through [`ATTACKS`]; each says how much it tried and whether the answers were as they must be. The domain
//! that serves it runs the same program and is the [`traitor`]. What a hypervisor must show is that both get errors or
//! exceptions, or hurt themselves, and that nobody else notices.
//!
//! Boot arguments: `calls=N`, the number of random hypercalls; `seed=N`.
#![no_std]
#![no_main]

extern crate alloc;

mod calls;
mod devices;
mod execute;
mod firmware;
mod ground;
mod helper;
mod registers;
mod storms;
mod traitor;

use alloc::boxed::Box;

use guest_runtime::events::Events;
use guest_runtime::exceptions::set_interrupt_handler;
use guest_runtime::gic::Gic;
use guest_runtime::{attempt, device_tree, println, psci, timer};

use ground::Ground;
use guest_runtime::random::Random;

guest_runtime::entry!(main);

/// The port of the event channel between guest and traitor, in both; the manifest says so.
const CHANNEL: u32 = 1;

/// What every attack needs.
struct Attacker {
    role: &'static str,
    random: Random,
    ground: Ground,
    gic: Gic,
    events: &'static Events,
    calls: u64,
    failures: u32,
}

impl Attacker {
    fn new() -> Self {
        let is_backend = device_tree::find_compatible(&["portunus,serves-v1"]).is_some();
        let gic = Gic::init();
        let events = Events::init().expect("shared pages are the domain's own");
        gic.enable(events.upcall, false);
        gic.enable(timer::intid(), false);
        Self {
            role: if is_backend { "traitor" } else { "hostile" },
            random: Random::new(device_tree::boot_number("seed").unwrap_or(0)),
            ground: Ground::new(),
            gic,
            events: Box::leak(Box::new(events)),
            calls: device_tree::boot_number("calls").unwrap_or(1000),
            failures: 0,
        }
    }

    /// Something was answered that must not be.
    fn fail(&mut self, what: core::fmt::Arguments<'_>) {
        self.failures += 1;
        println!("{}: FAILED: {what}", self.role);
    }

    /// Ends every interrupt that is pending.
    fn end_interrupts(&self) {
        /// More than there are; a level that nobody lowers would never end.
        const MANY: usize = 64;
        for acknowledged in core::iter::from_fn(|| self.gic.acknowledge()).take(MANY) {
            self.gic.end(acknowledged);
        }
    }

    /// Puts interrupt controller and console back to what this guest needs.
    fn restore_devices(&mut self) {
        devices::silence_clock();
        self.gic = Gic::init();
        self.gic.enable(self.events.upcall, false);
        self.gic.enable(timer::intid(), false);
        guest_runtime::console::enable();
        self.end_interrupts();
    }
}

/// Tries something; returns how often.
type Attack = fn(&mut Attacker) -> u64;

/// In this order: the last ones leave the guest's own registers in disorder.
const ATTACKS: [(&str, Attack); 14] = [
    ("rights of others", calls::refused),
    ("pointers to what is not its own", calls::bad_pointers),
    ("vCPUs that start nowhere", firmware::bad_entries),
    ("registers of a treacherous backend", devices::betrayed),
    ("a storm of SGIs", storms::interrupts),
    ("a storm of sleeps", storms::sleeps),
    ("a storm of events", storms::events),
    ("event channels under the hammer", storms::hammer),
    ("every port that there is", storms::ports),
    ("random firmware calls", firmware::calls),
    ("registers of emulated devices", devices::emulated),
    ("random hypercalls", calls::random),
    ("a vCPU that runs wild", firmware::run_wild),
    ("every system register", registers::attack),
];

fn main() -> ! {
    attempt::init();
    // Calls that let interrupts in do so until the first one comes; those are taken by asking for them.
    set_interrupt_handler(|frame| frame.spsr |= 1 << 7);
    let mut attacker = Attacker::new();
    if attacker.role == "traitor" {
        traitor::run(attacker);
    }
    helper::start(attacker.events);
    for (name, attack) in ATTACKS {
        let tries = attack(&mut attacker);
        println!("hostile: {name}: {tries} tries survived");
    }
    if attacker.failures == 0 {
        println!("hostile: all {} attacks survived", ATTACKS.len());
    }
    psci::system_off()
}
