//! A guest that lives several times, by the boot argument `role=`:
//!
//! - `every-way`: each life finds a machine as after power-on, and ends with its vCPUs in another state: never started,
//!   running, asleep, off, with an interrupt active; by one vCPU or by the other;
//! - `crash`: crashes at once;
//! - `reset`: resets at once, `lives` times in all, then powers off;
//! - `steady`: shares a pCPU with one of these, and says how much of `seconds` it got.
#![no_std]
#![no_main]

extern crate alloc;

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use guest_runtime::device_tree::{self, device_tree, property_u32};
use guest_runtime::events::Events;
use guest_runtime::gic::Gic;
use guest_runtime::{hypercall, println, psci, smp, timer, wait_for_interrupt};
use portunus::abi::sched::ShutdownReason;

guest_runtime::entry!(main);

const MARK: u64 = 0x600d_1dea_0000_0001;
/// In memory that the image brings, and in memory that it leaves empty.
static BROUGHT: AtomicU64 = AtomicU64::new(MARK);
static EMPTY: AtomicU64 = AtomicU64::new(0);
/// vCPU 1 has come to where its life takes it.
static THERE: AtomicBool = AtomicBool::new(false);

/// How a life ends.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum End {
    /// vCPU 1 was never started.
    Alone,
    /// vCPU 1 runs, and vCPU 0 has an interrupt active.
    Running,
    /// vCPU 1 sleeps.
    Asleep,
    /// vCPU 1 has turned off.
    Off,
    /// vCPU 1 does it, while vCPU 0 sleeps.
    ByOther,
    /// vCPU 1 does it, while vCPU 0 is off.
    ByOtherAlone,
    /// By a crash.
    Crash,
}

const ENDS: [End; 7] = [
    End::Alone,
    End::Running,
    End::Asleep,
    End::Off,
    End::ByOther,
    End::ByOtherAlone,
    End::Crash,
];

fn fail(what: core::fmt::Arguments<'_>) -> ! {
    println!("lives: FAILED: {what}");
    psci::system_off()
}

fn main() -> ! {
    let chosen = device_tree().find_node("/chosen");
    let Some(life) = chosen.and_then(|node| property_u32(node, "portunus,restarts")) else {
        fail(format_args!("the tree does not say which life this is"));
    };
    let role = device_tree::boot_arguments().find_map(|word| word.strip_prefix("role="));
    match role {
        Some("every-way") => every_way(life),
        Some("crash") => crash(),
        Some("reset") => reset(life),
        Some("steady") => steady(),
        other => fail(format_args!("no role {other:?}")),
    }
}

fn crash() -> ! {
    let refused = hypercall::shutdown(ShutdownReason::Crash);
    fail(format_args!("a crash was survived: {refused:?}"))
}

fn reset(life: u32) -> ! {
    if u64::from(life) + 1 == device_tree::boot_number("lives").unwrap_or(2) {
        println!("lives: {} lives", life + 1);
        psci::system_off()
    }
    psci::system_reset()
}

fn every_way(life: u32) -> ! {
    println!("lives: life {life}");
    let age = timer::now();
    if age > 2 * timer::frequency() {
        fail(format_args!("the counter begins at {age}"));
    }
    if (
        BROUGHT.swap(!MARK, Ordering::Relaxed),
        EMPTY.swap(MARK, Ordering::Relaxed),
    ) != (MARK, 0)
    {
        fail(format_args!("memory is that of the life before"));
    }
    let gic = Gic::init();
    if let Some(acknowledged) = gic.acknowledge() {
        fail(format_args!("interrupt {} of the life before", acknowledged.intid));
    }
    let before = timer::now();
    timer::sleep(&gic, 1000);
    let slept = timer::now() - before;
    if slept < timer::ticks(1000) {
        fail(format_args!("slept {slept} ticks"));
    }
    if let Err(error) = Events::init() {
        fail(format_args!("events: {error}"));
    }
    let Some(end) = ENDS.get(life as usize) else {
        println!("lives: all {} ends survived", ENDS.len());
        psci::system_off()
    };
    let mut other = None;
    smp::each_vcpu(|mpidr| {
        if mpidr != smp::mpidr() {
            other = Some(mpidr);
        }
    });
    let Some(other) = other else {
        fail(format_args!("one vCPU"));
    };
    if *end != End::Alone {
        if let Err(error) = smp::start(other, second, life.into()) {
            fail(format_args!("starting vCPU 1: {error:?}"));
        }
        while !THERE.load(Ordering::Acquire) {
            core::hint::spin_loop();
        }
        // It has a little to go yet.
        timer::sleep(&gic, 1000);
    }
    println!("lives: life {life} ends: {end:?}");
    match end {
        End::ByOther => loop {
            wait_for_interrupt();
        },
        End::ByOtherAlone => fail(format_args!("turning off: {:?}", psci::cpu_off())),
        End::Crash => crash(),
        End::Running => {
            gic.enable(timer::intid(), false);
            timer::set_deadline(timer::now());
            while gic.acknowledge().is_none() {
                core::hint::spin_loop();
            }
            psci::system_reset()
        }
        End::Alone | End::Asleep | End::Off => psci::system_reset(),
    }
}

extern "C" fn second(life: u64) -> ! {
    let end = ENDS[life as usize];
    THERE.store(true, Ordering::Release);
    match end {
        End::Asleep | End::Crash => loop {
            wait_for_interrupt();
        },
        End::Off => fail(format_args!("turning off: {:?}", psci::cpu_off())),
        End::ByOther | End::ByOtherAlone => {
            timer::spin(20_000);
            psci::system_reset()
        }
        End::Running | End::Alone => loop {
            core::hint::spin_loop();
        },
    }
}

/// Time that is gone between two looks at the counter, when somebody else ran.
const GAP_US: u64 = 100;

fn steady() -> ! {
    let seconds = device_tree::boot_number("seconds").unwrap_or(2);
    let start = timer::now();
    let length = seconds * timer::frequency();
    let gap = timer::ticks(GAP_US);
    let (mut last, mut lost, mut longest) = (start, 0, 0);
    while last - start < length {
        let now = timer::now();
        let away = now - last;
        if away > gap {
            lost += away;
            longest = longest.max(away);
        }
        last = now;
    }
    let share = 100 - 100 * lost / length;
    let longest = longest * 1_000_000 / timer::frequency();
    println!("lives: steady: {share} percent, away for {longest} us at most");
    let least = device_tree::boot_number("least").unwrap_or(0);
    if share < least {
        fail(format_args!("{share} percent is less than {least}"));
    }
    psci::system_off()
}
