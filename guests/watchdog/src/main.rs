//! A guest that feeds its watchdog, then hangs; is started again, and finds everything as in a new machine but the time.
//!
//! Its first life looks at the clocks, sets its PL031 to a time of its own, feeds a watchdog for longer than that lasts, and
//! hangs with interrupts masked, with an alarm of the PL031 pending and a second watchdog running. Its second life finds the
//! counter at zero, the PL031 right again and silent, no watchdog, and the hypervisor's errors as documented; it ends with
//! the line `watchdog: N checks passed`. With the boot argument `silent` it only sets a watchdog and hangs.
#![no_std]
#![no_main]

extern crate alloc;

mod clock;

use clock::Clock;
use guest_runtime::device_tree::{device_tree, property_u32};
use guest_runtime::events::Events;
use guest_runtime::gic::Gic;
use guest_runtime::hypercall::set_watchdog;
use guest_runtime::{device_tree, println, psci, timer};
use portunus::abi::HypercallError;

guest_runtime::entry!(main);

const SECOND: u64 = 1_000_000;
/// Seconds until the watchdog of the first life fires.
const TIMEOUT: u32 = 2;
/// How often it is fed, a quarter of that apart.
const MEALS: u32 = 8;

/// Counts what was found right, and ends the guest with what was not.
struct Checks(u32);

impl Checks {
    fn check(&mut self, right: bool, what: core::fmt::Arguments<'_>) {
        if !right {
            println!("watchdog: FAILED: {what}");
            psci::system_off();
        }
        self.0 += 1;
    }

    /// What holds in every life: both clocks show the same, plausible time.
    fn clocks(&mut self, clock: &Clock, events: &Events) {
        let shown = clock.seconds().into();
        let plausible = 1_577_836_800..4_102_444_800_u64;
        self.check(plausible.contains(&shown), format_args!("the clock shows {shown}"));
        let since_start = timer::now() / timer::frequency();
        let expected = events.wall_clock() / 1_000_000_000 + since_start;
        self.check(
            expected.abs_diff(shown) <= 1,
            format_args!("by the shared page it is {expected}, by the clock {shown}"),
        );
    }

    fn watchdog(&mut self, id: u32, timeout: u32, expected: Result<u32, HypercallError>) {
        let found = set_watchdog(id, timeout);
        self.check(
            found == expected,
            format_args!("watchdog {id} to {timeout} s: {found:?}, not {expected:?}"),
        );
    }
}

fn hang() -> ! {
    timer::spin(20 * SECOND);
    println!("watchdog: FAILED: alive after 20 s without food");
    psci::system_off()
}

fn first_life(mut checks: Checks, gic: &Gic, clock: &Clock) -> ! {
    clock.alarm_in(1);
    let came = clock.await_interrupt(gic, 5 * SECOND);
    checks.check(came && clock.has_matched(), format_args!("the clock does not ring"));
    clock.acknowledge();
    clock.set(1000);
    let shown = clock.seconds();
    checks.check(
        (1000..1002).contains(&shown),
        format_args!("set to 1000, the clock shows {shown}"),
    );

    checks.watchdog(0, TIMEOUT, Ok(1));
    checks.watchdog(0, 3600, Ok(2));
    clock.alarm_in(1);
    for _ in 0..MEALS {
        timer::spin(u64::from(TIMEOUT) * SECOND / 4);
        checks.watchdog(1, TIMEOUT, Ok(0));
    }
    checks.check(clock.has_matched(), format_args!("the clock does not ring unheard"));
    println!("watchdog: fed {MEALS} times, {} checks passed, no more food", checks.0);
    hang()
}

fn second_life(mut checks: Checks, clock: &Clock) -> ! {
    checks.check(
        !clock.has_matched() && !clock.is_enabled(),
        format_args!("the clock of the last life still rings"),
    );
    let invalid = Err(HypercallError::Invalid);
    let full = Err(HypercallError::NoSpace);
    for (id, timeout, expected) in [
        (1, 5, invalid),
        (2, 0, invalid),
        (3, 5, invalid),
        (u32::MAX, 0, invalid),
        (0, u32::MAX, Ok(1)),
        (0, 100, Ok(2)),
        (0, 100, full),
        (2, 0, Ok(0)),
        (2, 100, invalid),
        (1, 1, Ok(0)),
        (1, 0, Ok(0)),
        (1, 0, invalid),
    ] {
        checks.watchdog(id, timeout, expected);
    }
    timer::spin(2 * SECOND);
    println!("watchdog: {} checks passed", checks.0);
    psci::system_off()
}

fn main() -> ! {
    if device_tree::boot_arguments().any(|word| word == "silent") {
        println!("watchdog: silent");
        let id = set_watchdog(0, 1);
        Checks(0).check(id == Ok(1), format_args!("no watchdog: {id:?}"));
        hang();
    }
    let started = timer::now();
    let chosen = device_tree().find_node("/chosen");
    let life = chosen.and_then(|node| property_u32(node, "portunus,restarts"));
    println!("watchdog: life {}", life.unwrap_or_default());
    let mut checks = Checks(0);
    checks.check(
        started < timer::ticks(SECOND),
        format_args!("the counter started at {started}"),
    );
    let gic = Gic::init();
    let events = match Events::init() {
        Ok(events) => events,
        Err(error) => {
            println!("watchdog: FAILED: no shared page: {error}");
            psci::system_off()
        }
    };
    let Some(clock) = Clock::find() else {
        println!("watchdog: FAILED: no clock");
        psci::system_off()
    };
    checks.clocks(&clock, &events);
    match life {
        None | Some(0) => first_life(checks, &gic, &clock),
        Some(_) => second_life(checks, &clock),
    }
}
