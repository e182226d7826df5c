//! What happens to a domain at a time: its watchdogs.

use portunus::abi::sched::ShutdownReason;
use portunus::abi::{HypercallError, hypercall, sched};
use portunus::cpu::{Cpu, El1Register};
use portunus::ids::VcpuId;

use crate::guest::{refused, vcpu};
use crate::sim::Sim;
use crate::world::{BACKEND, GUEST, MS, Options, STRANGER};

const G0: VcpuId = vcpu(GUEST, 0);
const G1: VcpuId = vcpu(GUEST, 1);
const B0: VcpuId = vcpu(BACKEND, 0);
const S0: VcpuId = vcpu(STRANGER, 0);
const SECOND: u64 = 1000 * MS;
const SYSTEM_OFF: u64 = 0x8400_0008;
const CPU_ON: u64 = 0xc400_0003;

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
            assert!(!sim.store_to(G0, crate::world::DISK + 0x70, 2, 0));
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
    assert_eq!(sim.psci(G0, &[CPU_ON, 1, crate::world::RAM, 0]), Some(0));
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
