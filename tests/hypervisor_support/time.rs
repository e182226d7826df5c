//! What happens to a domain at a time, and what time it is: watchdogs, the wall clock, the PL031.

use std::sync::atomic::Ordering;

use portunus::abi::sched::ShutdownReason;
use portunus::abi::{HypercallError, hypercall, sched};
use portunus::cpu::{Cpu, El1Register};
use portunus::ids::{Ticks, VcpuId};
use portunus::machine::Machine;
use portunus::rtc::Reading;

use crate::guest::{refused, vcpu};
use crate::sim::Sim;
use crate::world::{BACKEND, CLOCK, CLOCK_INTERRUPT, DISK, EMPTY_GFN, GUEST, MS, Options, RAM, STRANGER, WALL_CLOCK};

const G0: VcpuId = vcpu(GUEST, 0);
const G1: VcpuId = vcpu(GUEST, 1);
const B0: VcpuId = vcpu(BACKEND, 0);
const S0: VcpuId = vcpu(STRANGER, 0);
const SECOND: u64 = 1000 * MS;
const SYSTEM_OFF: u64 = 0x8400_0008;
const CPU_ON: u64 = 0xc400_0003;

/// Registers of the PL031.
const RTCDR: u64 = 0x00;
const RTCMR: u64 = 0x04;
const RTCLR: u64 = 0x08;
const RTCIMSC: u64 = 0x10;
const RTCRIS: u64 = 0x14;
const RTCICR: u64 = 0x1c;
/// Its interrupt in a domain without devices.
const STRANGERS_CLOCK_INTERRUPT: u32 = 33;

fn watchdog(sim: &Sim, vcpu: VcpuId, id: u32, timeout: u32) -> i64 {
    let request = sched::Watchdog { id, timeout };
    sim.with_structure(vcpu, hypercall::SCHED_OP, sched::WATCHDOG, request)
        .0
}

fn why(sim: &Sim, vcpu: VcpuId) -> Option<ShutdownReason> {
    sim.domain(vcpu.domain).shutdown()
}

#[test]
fn a_watchdog_that_is_not_set_again_stops_its_domain_and_no_other() {
    let sim = Sim::new(&Options::default());
    assert_eq!(watchdog(&sim, G0, 0, 10), 1);
    for _ in 0..5 {
        sim.advance(9 * SECOND);
        assert_eq!(watchdog(&sim, G0, 1, 10), 0, "set again");
    }
    sim.advance(10 * SECOND - 1);
    assert!(sim.runs(G0));
    sim.advance(1);
    assert_eq!(why(&sim, G0), Some(ShutdownReason::Watchdog));
    assert!(!sim.runs(G0));
    assert!(sim.runs(B0) && sim.runs(S0));
    sim.advance(MS);
    sim.console_ready();
    assert!(sim.shown().contains("guest stopped by its watchdog"));
    assert_eq!(sim.deadline(0), None, "nothing is left to do");
}

#[test]
fn a_watchdog_fires_whatever_its_domain_does() {
    type Case = (&'static str, fn(&Sim));
    let cases: [Case; 4] = [
        ("it computes, and never comes out of its own", |_| {}),
        ("it sleeps", |sim| sim.wfi(G0)),
        ("it sleeps until much later", |sim| {
            sim.with(G0, |context| {
                context.cpu.write_el1(El1Register::CntvCvalEl0, 3600 * SECOND);
                context.cpu.write_el1(El1Register::CntvCtlEl0, 1);
            });
            sim.wfi(G0);
        }),
        ("it waits for a server", |sim| {
            assert!(!sim.store_to(G0, DISK + 0x70, 2, 0));
        }),
    ];
    for (what, act) in cases {
        let sim = Sim::new(&Options {
            disk: "attach-timeout-ms = <0>;",
            ..Options::default()
        });
        assert_eq!(watchdog(&sim, G0, 0, 3), 1);
        act(&sim);
        sim.advance(3 * SECOND - 1);
        assert_eq!(why(&sim, G0), None, "{what}");
        sim.advance(1);
        assert_eq!(why(&sim, G0), Some(ShutdownReason::Watchdog), "{what}");
    }
}

#[test]
fn a_watchdog_that_another_pcpu_sets_is_seen_by_the_one_that_looks_after_it() {
    let sim = Sim::new(&Options::default());
    assert_eq!(sim.psci(G0, &[CPU_ON, 1, RAM, 0]), Some(0));
    sim.wfi(G0);
    assert!(sim.runs(G1) && !sim.runs(G0));
    assert_eq!(sim.deadline(0), None);
    assert_eq!(watchdog(&sim, G1, 0, 5), 1);
    let first = sim.deadline(0).expect("pCPU 0 will look");
    sim.advance(SECOND);
    assert_eq!(watchdog(&sim, G1, 0, 1), 2);
    let second = sim.deadline(0).expect("pCPU 0 will look");
    assert_eq!(first - second, 3 * SECOND);
    // Disarmed: that pCPU may look, and finds nothing.
    assert_eq!(watchdog(&sim, G1, 2, 0), 0);
    sim.advance(2 * SECOND);
    assert!(sim.runs(G1));
    assert_eq!(sim.deadline(0), Some(first));
    sim.advance(2 * SECOND);
    assert_eq!(why(&sim, G0), Some(ShutdownReason::Watchdog));
    assert!(!sim.runs(G1));
}

#[test]
fn watchdogs_are_counted_and_refused_as_in_xen() {
    let sim = Sim::new(&Options::default());
    let invalid = refused(HypercallError::Invalid);
    let full = refused(HypercallError::NoSpace);
    // (id, timeout) -> result
    let rows = [
        (1, 10, invalid),
        (2, 0, invalid),
        (3, 10, invalid),
        (u32::MAX, 0, invalid),
        (0, u32::MAX, 1),
        (0, 100, 2),
        (0, 100, full),
        (0, 0, full),
        (1, 0, 0),
        (1, 0, invalid),
        (1, 5, invalid),
        (0, 7, 1),
        (2, 0, 0),
        (1, 0, 0),
        (2, 1, invalid),
    ];
    for (index, (id, timeout, result)) in rows.into_iter().enumerate() {
        assert_eq!(watchdog(&sim, G0, id, timeout), result, "row {index}: {id} {timeout}");
    }
    sim.advance(1000 * SECOND);
    assert!(sim.runs(G0), "none is in use");
    assert_eq!(sim.deadline(0), None);
    // Another domain has its own.
    assert_eq!((watchdog(&sim, G0, 0, 9), watchdog(&sim, S0, 0, 9)), (1, 1));
    assert_eq!(watchdog(&sim, G0, 1, 0), 0);
    sim.advance(9 * SECOND);
    assert!(sim.runs(G0));
    assert_eq!(why(&sim, S0), Some(ShutdownReason::Watchdog));
}

#[test]
fn a_new_watchdog_of_no_time_fires_at_once() {
    let sim = Sim::new(&Options::default());
    watchdog(&sim, G0, 0, 0);
    assert_eq!(why(&sim, G0), Some(ShutdownReason::Watchdog));
}

#[test]
fn a_domain_that_stops_for_another_reason_takes_its_watchdogs_with_it() {
    let sim = Sim::new(&Options::default());
    assert_eq!(watchdog(&sim, G0, 0, 5), 1);
    assert_eq!(watchdog(&sim, S0, 0, 7), 1);
    sim.psci(G0, &[SYSTEM_OFF]);
    assert_eq!(why(&sim, G0), Some(ShutdownReason::Poweroff));
    sim.advance(6 * SECOND);
    sim.console_ready();
    assert!(!sim.shown().contains("watchdog"));
    assert_eq!(sim.deadline(0), None);
    assert!(sim.runs(S0));
}

/// The four words of the wall clock in the shared page.
fn shared_clock(sim: &Sim, vcpu: VcpuId) -> [u32; 4] {
    let gfn = EMPTY_GFN + 0x40;
    sim.map_shared_info(vcpu, gfn);
    sim.get(vcpu.domain, (gfn << 12) + 1072)
}

fn load(sim: &Sim, vcpu: VcpuId, register: u64) -> u64 {
    sim.load_from(vcpu, CLOCK + register, 2, 3).expect("a register")
}

fn store(sim: &Sim, vcpu: VcpuId, register: u64, value: u64) {
    assert!(sim.store_to(vcpu, CLOCK + register, 2, value));
}

#[test]
fn the_shared_page_says_when_the_guests_counter_was_zero() {
    let seconds = |clock: [u32; 4]| u64::from(clock[3]) << 32 | u64::from(clock[1]);
    for (shown, second) in [
        (Some(WALL_CLOCK), WALL_CLOCK),
        (Some(1 << 32 | 5), 1 << 32 | 5),
        (None, 0),
    ] {
        let sim = Sim::new(&Options {
            wall_clock: shown.map(|seconds| Reading { seconds, at: Ticks(0) }),
            ..Options::default()
        });
        let before = shared_clock(&sim, G0);
        assert_eq!(before[0] & 1, 0, "not while it changes");
        // All of this happens at tick 0 of the counter, so every domain's counter was zero then.
        assert_eq!((seconds(before), before[2]), (second, 0));
        sim.advance(10 * SECOND);
        assert_eq!(shared_clock(&sim, G0), before, "it is a moment, not the present");
        assert_eq!(seconds(shared_clock(&sim, S0)), second);
    }
}

#[test]
fn a_guest_reads_the_time_and_sets_its_own() {
    let sim = Sim::new(&Options::default());
    assert_eq!(load(&sim, G0, RTCDR), WALL_CLOCK);
    sim.advance(90 * SECOND);
    assert_eq!(
        (load(&sim, G0, RTCDR), load(&sim, S0, RTCDR)),
        (WALL_CLOCK + 90, WALL_CLOCK + 90)
    );
    store(&sim, G0, RTCLR, 1000);
    sim.advance(SECOND);
    assert_eq!((load(&sim, G0, RTCDR), load(&sim, S0, RTCDR)), (1001, WALL_CLOCK + 91));
    // Where nobody knows what time it is, a clock counts from boot.
    let sim = Sim::new(&Options {
        wall_clock: None,
        ..Options::default()
    });
    sim.advance(3 * SECOND);
    assert_eq!(load(&sim, G0, RTCDR), 3);
}

#[test]
fn the_clocks_interrupt_is_a_level_and_wakes_a_guest_that_sleeps() {
    let sim = Sim::new(&Options::default());
    sim.enable_interrupts(G0);
    sim.enable_shared(G0, CLOCK_INTERRUPT);
    while sim.take_interrupt(G0).is_some() {}
    store(&sim, G0, RTCMR, WALL_CLOCK + 30);
    store(&sim, G0, RTCIMSC, 1);
    sim.wfi(G0);
    sim.advance(30 * SECOND - 1);
    assert!(!sim.runs(G0));
    sim.advance(2);
    assert!(sim.runs(G0));
    assert_eq!(load(&sim, G0, RTCDR), WALL_CLOCK + 30);
    assert_eq!(sim.take_interrupt(G0), Some(CLOCK_INTERRUPT));
    sim.maintain(G0);
    assert_eq!(sim.take_interrupt(G0), Some(CLOCK_INTERRUPT), "the line is up still");
    store(&sim, G0, RTCICR, 1);
    sim.maintain(G0);
    assert_eq!(sim.take_interrupt(G0), None);
    // Set again, then taken back.
    store(&sim, G0, RTCMR, WALL_CLOCK + 40);
    let due = sim.deadline(0).expect("pCPU 0 will look");
    store(&sim, G0, RTCIMSC, 0);
    sim.advance(due);
    sim.wfi(G0);
    assert!(!sim.runs(G0), "nobody waits for it");
    assert_eq!(sim.deadline(0), None);
}

#[test]
fn a_clock_that_matches_at_once_interrupts_at_once() {
    let sim = Sim::new(&Options::default());
    sim.enable_interrupts(G0);
    sim.enable_shared(G0, CLOCK_INTERRUPT);
    store(&sim, G0, RTCIMSC, 1);
    store(&sim, G0, RTCMR, WALL_CLOCK);
    sim.maintain(G0);
    assert_eq!(sim.take_interrupt(G0), Some(CLOCK_INTERRUPT));
}

#[test]
fn a_domain_that_stops_takes_its_clocks_interrupt_with_it() {
    let sim = Sim::new(&Options::default());
    store(&sim, S0, RTCMR, WALL_CLOCK + 5);
    store(&sim, S0, RTCIMSC, 1);
    assert!(sim.deadline(4).is_some());
    sim.psci(S0, &[SYSTEM_OFF]);
    sim.advance(10 * SECOND);
    assert_eq!(sim.deadline(4), None);
}

/// Domains start again when a watchdog fires.
fn restarting() -> Options {
    Options {
        lifecycle: "",
        ..Options::default()
    }
}

#[test]
fn a_domain_that_starts_again_has_the_time_and_nothing_else_of_its_last_life() {
    let sim = Sim::new(&restarting());
    let before = shared_clock(&sim, S0);
    sim.enable_interrupts(S0);
    sim.enable_shared(S0, STRANGERS_CLOCK_INTERRUPT);
    store(&sim, S0, RTCLR, 1000);
    store(&sim, S0, RTCMR, 1003);
    store(&sim, S0, RTCIMSC, 1);
    assert_eq!((watchdog(&sim, S0, 0, 5), watchdog(&sim, S0, 0, 100)), (1, 2));
    sim.advance(5 * SECOND);
    sim.run_until(S0);
    let zero = sim.domain(STRANGER).virtual_offset.load(Ordering::Acquire);
    assert!(zero >= 5 * SECOND);
    assert_eq!(sim.domain(STRANGER).restarts.load(Ordering::Acquire), 1);

    assert_eq!(load(&sim, S0, RTCDR), WALL_CLOCK + sim.machine().now().0 / SECOND);
    assert_eq!((load(&sim, S0, RTCRIS), load(&sim, S0, RTCIMSC)), (0, 0));
    sim.enable_interrupts(S0);
    sim.enable_shared(S0, STRANGERS_CLOCK_INTERRUPT);
    assert_eq!(sim.take_interrupt(S0), None, "the alarm of the last life");
    assert_eq!(watchdog(&sim, S0, 1, 5), refused(HypercallError::Invalid));
    // The time at which the new life's counter was zero.
    let after = shared_clock(&sim, S0);
    let nanoseconds = |clock: [u32; 4]| u64::from(clock[1]) * 1_000_000_000 + u64::from(clock[2]);
    assert_eq!(nanoseconds(after) - nanoseconds(before), zero * 1000);
    sim.advance(1000 * SECOND);
    assert_eq!(sim.domain(STRANGER).restarts.load(Ordering::Acquire), 1);
    assert_eq!(sim.deadline(4), None, "no watchdog of the last life");
}

#[test]
fn a_paused_domains_watchdog_goes_on() {
    let sim = Sim::new(&restarting());
    assert_eq!(watchdog(&sim, S0, 0, 5), 1);
    assert_eq!(sim.hypervisor.pause(sim.domain(STRANGER)), Ok(()));
    // Any call into the core lets kicks come through.
    sim.console_ready();
    assert!(!sim.runs(S0));
    sim.advance(5 * SECOND - 1);
    assert_eq!(sim.domain(STRANGER).restarts.load(Ordering::Acquire), 0);
    sim.advance(1);
    sim.run_until(S0);
    assert_eq!(sim.domain(STRANGER).restarts.load(Ordering::Acquire), 1);
}
