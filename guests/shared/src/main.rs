//! Domains that share memory and an event channel from their first instruction, by the boot argument `role=`:
//!
//! - `asks` fills the shared region, rings, and checks what comes back;
//! - `answers` turns every word around, and rings back;
//! - `stranger` has neither, and must be refused every way to the others' region and channel.
#![no_std]
#![no_main]

extern crate alloc;

mod region;
mod stranger;

use guest_runtime::device_tree;
use guest_runtime::events::Events;
use guest_runtime::gic::Gic;
use guest_runtime::{hypercall, println, psci, timer};

use region::Region;

guest_runtime::entry!(main);

/// The port of a static channel, at either end.
const PORT: u32 = 10;
/// Messages that make a round trip.
const ROUNDS: u64 = 1000;
/// How long the other may take to start, and for one message, in microseconds.
const PATIENCE: u64 = 20_000_000;

fn main() -> ! {
    let role = device_tree::boot_arguments().find_map(|word| word.strip_prefix("role="));
    match role {
        Some("asks") => asks(),
        Some("answers") => answers(),
        Some("stranger") => stranger::run(),
        other => fail(format_args!("no role {other:?}")),
    }
}

fn fail(what: core::fmt::Arguments<'_>) -> ! {
    println!("shared: FAILED: {what}");
    psci::system_off()
}

/// An end of the channel, and the memory.
struct Link {
    events: Events,
    gic: Gic,
    region: Region,
    rung: u64,
}

impl Link {
    fn new() -> Self {
        let events = Events::init().unwrap_or_else(|error| fail(format_args!("its event channels: {error}")));
        Self {
            events,
            gic: Gic::init(),
            region: Region::find("mailbox"),
            rung: 0,
        }
    }

    /// Waits until `there`, which looks at the memory; the channel says when to look.
    fn wait(&mut self, there: impl Fn(&Region) -> bool) {
        let end = timer::now() + timer::ticks(PATIENCE);
        while !there(&self.region) {
            if timer::now() > end {
                fail(format_args!("the other end did not ring in time"));
            }
            let mut rings = 0;
            self.events.take(|port| rings += u64::from(port == PORT));
            self.rung += rings;
            if rings == 0 && !there(&self.region) {
                timer::sleep(&self.gic, 200);
            }
        }
    }

    fn ring(&self) {
        if let Err(error) = hypercall::send(PORT) {
            fail(format_args!("ringing: {error}"));
        }
    }
}

fn asks() -> ! {
    let mut link = Link::new();
    println!("shared: {} bytes of memory", link.region.bytes());
    for round in 1..=ROUNDS {
        link.region.fill(round);
        link.region.ask(round);
        link.ring();
        link.wait(|region| region.answered() == round);
        if let Some((index, word)) = link.region.wrong(round) {
            fail(format_args!("round {round}: word {index} came back as {word:#x}"));
        }
    }
    if link.rung == 0 {
        fail(format_args!("no event came"));
    }
    println!("shared: {ROUNDS} messages went there and back");
    psci::system_off()
}

fn answers() -> ! {
    let mut link = Link::new();
    for round in 1..=ROUNDS {
        link.wait(|region| region.asked() == round);
        link.region.turn_around();
        link.region.answer(round);
        link.ring();
    }
    // The end that the manifest names last finds its port pending from the start.
    println!(
        "shared: answered {ROUNDS} messages, heard {}",
        if link.rung > 0 { "some" } else { "none" }
    );
    psci::system_off()
}
