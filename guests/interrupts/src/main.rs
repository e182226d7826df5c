//! A guest with two vCPUs that tests its interrupt controller, GICv2 or GICv3: software-generated, private and shared
//! interrupts, priorities, states, routing, storms.
//!
//! Shared interrupts are raised by another domain (guests/scratch) where the device tree has its devices; without them
//! the distributor makes them pending, and the cases that need lines are left out, so that the same program runs on a bare
//! machine. (QEMU's own controllers fail a few: its GICv2 keeps a pending SPI where it was raised and sends one for two
//! vCPUs to both, its GICv3 remembers enables of interrupts that it does not have.)
#![no_std]
#![no_main]

extern crate alloc;

/// Ends a case with what was found unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($found:tt)*) => {
        if !$condition {
            return Err(alloc::format!($($found)*));
        }
    };
}

mod lines;
mod priorities;
mod recorder;
mod registers;
mod sgi;
mod shared;
mod source;
mod states;
mod timers;
mod worker;

use alloc::string::String;

use guest_runtime::gic::{DEFAULT_PRIORITY, Gic};
use guest_runtime::{exceptions, println, psci};
use source::Sources;

guest_runtime::entry!(main);

/// What every case gets.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) gic: &'static Gic,
    pub(crate) sources: Sources,
}

/// What was found that should not be.
pub(crate) type Outcome = Result<(), String>;

/// Which machines have what a case needs.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Needs {
    Nothing,
    GicV2,
    GicV3,
    /// Interrupt lines that another domain drives.
    Lines,
}

/// A case: its name as a sentence, what it needs, what it does.
pub(crate) type Case = (&'static str, Needs, fn(&Bench) -> Outcome);

impl Bench {
    fn has(&self, needs: Needs) -> bool {
        match needs {
            Needs::Nothing => true,
            Needs::GicV2 => matches!(self.gic, Gic::V2(_)),
            Needs::GicV3 => matches!(self.gic, Gic::V3(_)),
            Needs::Lines => self.sources.have_lines(),
        }
    }

    /// Every source enabled, edge-triggered, with the default priority, to vCPU 0; nothing recorded.
    fn reset(&self) {
        recorder::settle();
        self.gic.set_priority_mask(0xff);
        for intid in &self.sources.intids {
            self.gic.disable(*intid);
            self.gic.clear_pending(*intid);
            registers::set(self.gic, registers::ICACTIVER, *intid);
            self.gic.enable(*intid, true);
            self.gic.set_priority(*intid, DEFAULT_PRIORITY);
        }
        recorder::clear();
    }
}

fn main() -> ! {
    let bench = Bench {
        gic: recorder::gic(),
        sources: Sources::find(),
    };
    recorder::install();
    for sgi in 0..16 {
        bench.gic.enable(sgi, true);
    }
    exceptions::enable_interrupts();
    if !worker::start() {
        println!("interrupts: FAILED: vCPU 1 does not start");
        psci::system_off();
    }
    println!(
        "interrupts: {} lines of another domain",
        if bench.sources.have_lines() { "with" } else { "without" }
    );

    let groups = [
        sgi::CASES,
        timers::CASES,
        shared::CASES,
        states::CASES,
        priorities::CASES,
        lines::CASES,
    ];
    let (mut passed, mut failed) = (0, 0);
    for (name, needs, case) in groups.into_iter().flatten() {
        if !bench.has(*needs) {
            continue;
        }
        bench.reset();
        let outcome = case(&bench);
        match outcome {
            Ok(()) => {
                passed += 1;
                println!("CASE {name}");
            }
            Err(found) => {
                failed += 1;
                println!("interrupts: FAILED: {name}: {found}");
            }
        }
    }
    match failed {
        0 => println!("interrupts: {passed} cases passed"),
        _ => println!("interrupts: {failed} of {} cases FAILED", passed + failed),
    }
    psci::system_off()
}
