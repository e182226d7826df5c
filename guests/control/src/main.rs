//! A control domain: it lists other domains, shows what they do, pauses, restarts and stops them.
//!
//! A person types commands at its console (`help` lists them). For scripts, boot arguments make it restart a domain at
//! random moments before it listens:
//!
//! | argument | what |
//! |---|---|
//! | `kill=NAME` | the domain to restart, by name or number |
//! | `times=N` | how often (1) |
//! | `between-ms=MIN-MAX` | how long to wait before each (500-500), at random |
//! | `seed=N` | of that random number (1) |
//! | `start-ms=N` | how long to wait before the first of these waits (0) |
//! | `how=restart\|crash` | restart it, or make it crash and let its manifest say what follows (restart) |
//! | `then=listen\|off` | listen to the console afterwards, or turn itself off (listen) |
//!
//! Each restart is `control: kill N of TIMES: NAME after MS ms`, followed by `control: NAME is up again after MS ms (restart
//! R)` when it runs; the last line is `control: all N kills done`, or one with `FAILED`.
#![no_std]
#![no_main]

extern crate alloc;

mod commands;
mod failure;
mod kills;
mod line;
mod show;

use guest_runtime::gic::Gic;
use guest_runtime::hypercall::control;
use guest_runtime::{device_tree, println, psci};

use crate::kills::Plan;
use crate::line::Terminal;

guest_runtime::entry!(main);

/// What a boot argument says.
fn argument(name: &str) -> Option<&'static str> {
    device_tree::boot_arguments().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

fn main() -> ! {
    let gic = Gic::init();
    if let Err(error) = control::version() {
        println!("control: FAILED: no control interface that this program knows: {error}");
        psci::system_off();
    }
    let terminal = Terminal::new(gic);
    if argument("kill").is_some() {
        let done = Plan::from_boot_arguments().and_then(|plan| plan.run(&gic));
        if let Err(failure) = done {
            println!("control: FAILED: {failure}");
        }
        if argument("then") == Some("off") {
            psci::system_off();
        }
    }
    println!("control: type help for a list of commands");
    loop {
        let line = terminal.read_line();
        if let Err(failure) = commands::run(&line, &gic) {
            println!("control: {failure}");
        }
    }
}
