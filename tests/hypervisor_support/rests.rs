//! A vCPU that waits for an interrupt while nobody else can run on its pCPU: its own timer ends that where it is, and
//! whatever else comes is noticed as ever.

use portunus::abi::sched::ShutdownReason;
use portunus::cpu::{Cpu, El1Register};
use portunus::domain::report::VcpuActivity;
use portunus::ids::{Ticks, VcpuId};
use portunus::machine::Machine;
use portunus::sched::Wait;
use std::rc::Rc;

use crate::guest::vcpu;
use crate::sim::{Moment, Sim};
use crate::world::{BACKEND, EMPTY_GFN, GUEST, MS, Options, STRANGER};

const G0: VcpuId = vcpu(GUEST, 0);
const B0: VcpuId = vcpu(BACKEND, 0);
const S0: VcpuId = vcpu(STRANGER, 0);

/// Where the guest and the backend put their shared page.
const SHARED: u64 = (EMPTY_GFN + 0x20) << 12;
const TIMER: u32 = 27;
const UPCALL: u32 = 31;

/// The guest is on pCPU 1 with a stranger, who sleeps; the backend, which has a channel to it, on pCPU 0.
fn guest_alone() -> Rc<Sim> {
    let sim = Sim::new(&Options {
        channels: [
            "chan0: ec0 { compatible = \"xen,evtchn-v1\"; xen,evtchn = <10 &chan1>; };",
            "chan1: ec0 { compatible = \"xen,evtchn-v1\"; xen,evtchn = <11 &chan0>; };",
        ],
        pcpus: [1, 2, 0, 3, 1],
        ..Options::default()
    });
    sim.run_until(S0);
    sim.enable_interrupts(S0);
    sim.wfi(S0);
    sim.run_until(G0);
    sim.enable_interrupts(G0);
    assert_eq!(sim.map_shared_info(G0, SHARED >> 12), 0);
    sim.take_events(G0, SHARED);
    while sim.take_interrupt(G0).is_some() {}
    // Its slice, which it shared, ends.
    sim.advance(2 * MS);
    sim
}

fn set_timer(sim: &Sim, vcpu: VcpuId, from_now: u64) {
    let at = sim.machine().now().0 + from_now;
    sim.with(vcpu, |context| {
        context.cpu.write_el1(El1Register::CntvCvalEl0, at);
        context.cpu.write_el1(El1Register::CntvCtlEl0, 1);
    });
}

fn stop_timer(sim: &Sim, vcpu: VcpuId) {
    sim.with(vcpu, |context| context.cpu.write_el1(El1Register::CntvCtlEl0, 0));
}

fn run_time(sim: &Sim, vcpu: VcpuId) -> Ticks {
    sim.hypervisor.vcpu_report(vcpu).expect("a vCPU").run_time
}

fn activity(sim: &Sim, vcpu: VcpuId) -> VcpuActivity {
    sim.hypervisor.vcpu_report(vcpu).expect("a vCPU").activity
}

#[test]
fn its_timer_ends_the_wait_where_it_is_and_the_time_is_not_its_own() {
    let sim = guest_alone();
    for round in 0..4 {
        set_timer(&sim, G0, 5 * MS);
        let (pc, before) = (sim.pc(G0), run_time(&sim, G0));
        sim.wfi(G0);
        assert!(sim.waits_here(1), "round {round}");
        assert_eq!(activity(&sim, G0), VcpuActivity::Waiting(Wait::Event));
        sim.advance(5 * MS - 1);
        assert!(!sim.runs(G0), "round {round}");
        sim.advance(1);
        assert!(sim.runs(G0) && !sim.waits_here(1), "round {round}");
        assert_eq!(sim.pc(G0), pc + 4);
        assert_eq!(run_time(&sim, G0), before, "round {round}");
        assert_eq!((sim.take_interrupt(G0), sim.take_interrupt(G0)), (Some(TIMER), None));
        stop_timer(&sim, G0);
        sim.advance(MS);
        assert_eq!(run_time(&sim, G0).0, before.0 + MS, "round {round}");
    }
}

#[test]
fn an_event_from_another_pcpu_ends_the_wait_whenever_it_comes() {
    let moments = [El1Register::CntvCtlEl0, El1Register::CntvCvalEl0];
    for moment in [None].into_iter().chain(moments.map(Some)) {
        let sim = guest_alone();
        set_timer(&sim, G0, 3_600_000 * MS);
        if let Some(register) = moment {
            let other = sim.clone();
            sim.at(G0, Moment::Read(register), move || assert_eq!(other.send(B0, 11), 0));
        }
        sim.wfi(G0);
        if moment.is_none() {
            assert!(sim.waits_here(1));
            assert_eq!(sim.send(B0, 11), 0);
        }
        assert!(sim.runs(G0), "sleeps with an event that came at {moment:?}");
        assert_eq!(sim.take_interrupt(G0), Some(UPCALL));
        assert_eq!(sim.take_events(G0, SHARED), [10]);
    }
}

#[test]
fn another_vcpu_of_the_same_pcpu_runs_as_soon_as_it_is_woken() {
    let sim = guest_alone();
    // The guest sleeps, and the stranger is woken by its own timer, which fires while it is not loaded.
    sim.wfi(G0);
    assert!(sim.waits_here(1));
    sim.advance(MS);
    sim.direct(|hypervisor| hypervisor.pause(sim.domain(STRANGER)).expect("it waits"));
    assert_eq!(sim.running(1), None);
    sim.direct(|hypervisor| hypervisor.unpause(sim.domain(STRANGER)));
    assert_eq!(sim.running(1), None, "it waits still");
    // The wait goes on as an ordinary one: the pCPU was wanted for something else.
    assert!(!sim.waits_here(1));
    assert_eq!(sim.send(B0, 11), 0);
    assert!(sim.runs(G0));
}

#[test]
fn nobody_waits_in_place_while_another_can_run() {
    let sim = guest_alone();
    sim.wfi(G0);
    sim.direct(|hypervisor| {
        hypervisor.restart(
            sim.domain(STRANGER),
            portunus::hypervisor::lifecycle::RestartCause::Control,
        )
    })
    .expect("it starts again");
    sim.run_until(S0);
    assert_eq!(sim.send(B0, 11), 0);
    sim.run_until(G0);
    assert_eq!(sim.take_interrupt(G0), Some(UPCALL));
    sim.wfi(G0);
    assert!(!sim.waits_here(1));
    assert!(sim.runs(S0));
}

#[test]
fn a_domain_that_ends_or_is_paused_while_it_waits_in_place_does_so() {
    for (late, name) in [(false, "while it waits"), (true, "as it begins to")] {
        let sim = guest_alone();
        set_timer(&sim, G0, 10 * MS);
        let stop = |sim: &Sim| {
            sim.direct(|hypervisor| hypervisor.shut_down(sim.domain(GUEST), ShutdownReason::Poweroff));
        };
        if late {
            let other = sim.clone();
            sim.at(G0, Moment::Read(El1Register::CntvCtlEl0), move || stop(&other));
            sim.wfi(G0);
        } else {
            sim.wfi(G0);
            assert!(sim.waits_here(1));
            stop(&sim);
        }
        assert_eq!(activity(&sim, G0), VcpuActivity::Waiting(Wait::Power), "{name}");
        assert!(!sim.runs(G0) && !sim.waits_here(1), "{name}");
    }
    let sim = guest_alone();
    set_timer(&sim, G0, 10 * MS);
    sim.wfi(G0);
    sim.direct(|hypervisor| hypervisor.pause(sim.domain(GUEST)).expect("it runs"));
    assert!(!sim.waits_here(1));
    sim.advance(20 * MS);
    assert!(!sim.runs(G0), "it is paused");
    sim.direct(|hypervisor| hypervisor.unpause(sim.domain(GUEST)));
    assert!(sim.runs(G0));
    assert_eq!(sim.take_interrupt(G0), Some(TIMER));
}

#[test]
fn an_interrupt_that_is_there_already_lets_nobody_wait() {
    let sim = guest_alone();
    // Acknowledged and not ended: it keeps its list register.
    set_timer(&sim, G0, 1);
    sim.advance(1);
    let interrupt = sim.with(G0, |context| context.cpu.virtual_interface().acknowledge());
    assert_eq!(interrupt.map(|interrupt| interrupt.0), Some(TIMER));
    stop_timer(&sim, G0);
    sim.wfi(G0);
    assert!(!sim.waits_here(1), "what is in a list register must be looked at");
    assert!(!sim.runs(G0), "it is active, and nothing else comes");
    assert_eq!(sim.send(B0, 11), 0);
    assert!(sim.runs(G0));
    sim.wfi(G0);
    assert!(sim.runs(G0), "an upcall is pending");
}
