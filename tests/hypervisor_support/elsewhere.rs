//! A request to a server on another pCPU while nobody else can run on either: both vCPUs stay where they are, and whatever
//! else comes is noticed as ever.

use portunus::abi::sched::ShutdownReason;
use portunus::cpu::{Cpu, El1Register};
use portunus::domain::report::VcpuActivity;
use portunus::ids::{IntId, Ticks, VcpuId};
use portunus::machine::Machine;
use portunus::sched::Wait;
use std::rc::Rc;

use crate::backend::Server;
use crate::guest::vcpu;
use crate::sim::Sim;
use crate::world::{BACKEND, DISK, EMPTY_GFN, GUEST, MS, Options, REDISTRIBUTOR, STRANGER};

const G0: VcpuId = vcpu(GUEST, 0);
const B0: VcpuId = vcpu(BACKEND, 0);
const S0: VcpuId = vcpu(STRANGER, 0);

/// Where the guest and the backend put their shared page.
const SHARED: u64 = (EMPTY_GFN + 0x20) << 12;
const TIMER: u32 = 27;
const UPCALL: u32 = 31;

/// The guest is on pCPU 1, the backend on pCPU 0 and the stranger where it is told, asleep; the backend serves the guest's disk,
/// and has a channel to the guest.
fn apart(stranger: u8, disk: &'static str) -> (Rc<Sim>, Server) {
    let sim = Sim::new(&Options {
        disk,
        channels: [
            "chan0: ec0 { compatible = \"xen,evtchn-v1\"; xen,evtchn = <10 &chan1>; };",
            "chan1: ec0 { compatible = \"xen,evtchn-v1\"; xen,evtchn = <11 &chan0>; };",
        ],
        pcpus: [1, 2, 0, 3, stranger],
        ..Options::default()
    });
    sim.run_until(S0);
    sim.enable_interrupts(S0);
    sim.wfi(S0);
    sim.run_until(B0);
    let server = sim.serve(B0);
    for vcpu in [G0, B0] {
        sim.run_until(vcpu);
        sim.enable_interrupts(vcpu);
        assert_eq!(sim.map_shared_info(vcpu, SHARED >> 12), 0);
        sim.take_events(vcpu, SHARED);
        while sim.take_interrupt(vcpu).is_some() {}
    }
    // A slice that was shared ends.
    sim.advance(2 * MS);
    (sim, server)
}

fn ask(sim: &Sim) {
    sim.set_x(G0, 1, 0x1111_2222_3333_4444);
    assert_eq!(sim.load_from(G0, DISK + 8, 2, 1), None, "answered at once");
}

/// The backend's vCPU, which slept, has been told of a request.
fn hear(sim: &Sim, server: &Server) {
    assert_eq!((sim.take_interrupt(B0), sim.take_interrupt(B0)), (Some(UPCALL), None));
    assert_eq!(sim.take_events(B0, SHARED), [server.ports[0]]);
}

fn set_timer(sim: &Sim, vcpu: VcpuId, from_now: u64) {
    let at = sim.machine().now().0 + from_now;
    sim.with(vcpu, |context| {
        context.cpu.write_el1(El1Register::CntvCvalEl0, at);
        context.cpu.write_el1(El1Register::CntvCtlEl0, 1);
    });
}

fn activity(sim: &Sim, vcpu: VcpuId) -> VcpuActivity {
    sim.hypervisor.vcpu_report(vcpu).expect("a vCPU").activity
}

fn run_time(sim: &Sim, vcpu: VcpuId) -> Ticks {
    sim.hypervisor.vcpu_report(vcpu).expect("a vCPU").run_time
}

#[test]
fn question_and_answer_leave_both_vcpus_where_they_are() {
    let (sim, server) = apart(3, "");
    for round in 0..4 {
        sim.wfi(B0);
        assert!(sim.waits_here(0), "round {round}");
        let before = (run_time(&sim, G0), run_time(&sim, B0));
        ask(&sim);
        assert!(sim.waits_here(1) && !sim.runs(G0), "round {round}");
        assert_eq!(activity(&sim, G0), VcpuActivity::Waiting(Wait::Request));
        assert!(sim.runs(B0) && !sim.waits_here(0), "round {round}");
        hear(&sim, &server);
        sim.advance(7);
        sim.answer(B0, &server, 0, 0xab00 + round);
        assert!(sim.runs(G0) && !sim.waits_here(1), "round {round}");
        assert_eq!(sim.x(G0, 1), 0xab00 + round);
        let after = (run_time(&sim, G0), run_time(&sim, B0));
        assert_eq!(
            (after.0.0 - before.0.0, after.1.0 - before.1.0),
            (0, 7),
            "the guest waited"
        );
        sim.advance(3);
        assert_eq!(run_time(&sim, G0).0 - after.0.0, 3, "its time counts again");
    }
}

#[test]
fn what_the_guest_has_in_its_list_registers_stays_there() {
    let (sim, server) = apart(3, "");
    // Its timer's interrupt is active, as while a handler asks a device.
    set_timer(&sim, G0, 1);
    sim.advance(1);
    sim.with(G0, |context| context.cpu.virtual_interface().acknowledge());
    ask(&sim);
    assert!(sim.waits_here(1));
    let held = |sim: &Sim| sim.with(G0, |context| context.cpu.fake.interface().find(IntId(TIMER)).is_some());
    assert!(held(&sim));
    sim.answer(B0, &server, 0, 1);
    assert!(sim.runs(G0) && held(&sim));
}

#[test]
fn an_interrupt_for_the_guest_neither_ends_its_wait_nor_gets_lost() {
    let (sim, server) = apart(3, "");
    ask(&sim);
    assert!(sim.waits_here(1));
    assert_eq!(sim.send(B0, 11), 0);
    assert!(!sim.runs(G0) && !sim.waits_here(1), "it waits as others do");
    assert_eq!(activity(&sim, G0), VcpuActivity::Waiting(Wait::Request));
    sim.answer(B0, &server, 0, 5);
    assert!(sim.runs(G0));
    assert_eq!(sim.x(G0, 1), 5);
    assert_eq!((sim.take_interrupt(G0), sim.take_interrupt(G0)), (Some(UPCALL), None));
    assert_eq!(sim.take_events(G0, SHARED), [10]);
    // So its timer.
    set_timer(&sim, G0, 5);
    ask(&sim);
    assert!(sim.waits_here(1));
    sim.advance(5);
    assert!(!sim.runs(G0));
    sim.answer(B0, &server, 0, 6);
    assert!(sim.runs(G0));
    assert_eq!((sim.x(G0, 1), sim.take_interrupt(G0)), (6, Some(TIMER)));
}

#[test]
fn a_server_that_is_silent_has_the_time_that_the_manifest_gives_it() {
    let (sim, server) = apart(3, "timeout-ms = <250>; on-failure = \"ones\";");
    // An earlier deadline of the pCPU stays.
    for round in 0..3 {
        sim.wfi(B0);
        ask(&sim);
        assert!(sim.waits_here(1), "round {round}");
        hear(&sim, &server);
        sim.advance(100 * MS);
        sim.answer(B0, &server, 0, round);
        assert_eq!((sim.runs(G0), sim.x(G0, 1)), (true, round));
    }
    ask(&sim);
    sim.advance(249 * MS);
    assert!(!sim.runs(G0));
    sim.advance(MS);
    assert!(sim.runs(G0), "for ever");
    assert_eq!(sim.x(G0, 1), 0xffff_ffff);
}

#[test]
fn another_vcpu_of_the_guests_pcpu_runs_when_its_time_comes() {
    let (sim, server) = apart(1, "");
    // The guest sleeps for a while, and the stranger, which is loaded again, sets its timer.
    sim.wfi(G0);
    sim.direct(|hypervisor| {
        hypervisor.restart(
            sim.domain(STRANGER),
            portunus::hypervisor::lifecycle::RestartCause::Control,
        )
    })
    .expect("it starts again");
    sim.run_until(S0);
    sim.enable_interrupts(S0);
    set_timer(&sim, S0, 20 * MS);
    sim.wfi(S0);
    assert_eq!(sim.send(B0, 11), 0);
    assert!(sim.runs(G0));
    sim.take_interrupt(G0);
    sim.take_events(G0, SHARED);
    sim.advance(2 * MS);
    ask(&sim);
    assert!(sim.waits_here(1));
    // The stranger's counter began with its new life.
    sim.advance(30 * MS);
    assert!(sim.runs(S0), "its timer has fired");
    assert!(!sim.waits_here(1));
    sim.answer(B0, &server, 0, 9);
    sim.run_until(G0);
    assert_eq!(sim.x(G0, 1), 9);
}

#[test]
fn a_guest_that_is_paused_or_ended_while_it_waits_is() {
    let (sim, server) = apart(3, "");
    ask(&sim);
    assert!(sim.waits_here(1));
    sim.direct(|hypervisor| hypervisor.pause(sim.domain(GUEST)).expect("it is there"));
    assert!(!sim.waits_here(1));
    sim.answer(B0, &server, 0, 3);
    assert!(!sim.runs(G0), "it is paused");
    sim.direct(|hypervisor| hypervisor.unpause(sim.domain(GUEST)));
    assert!(sim.runs(G0));
    assert_eq!(sim.x(G0, 1), 3);
    ask(&sim);
    sim.direct(|hypervisor| hypervisor.shut_down(sim.domain(GUEST), ShutdownReason::Poweroff));
    assert!(!sim.runs(G0) && !sim.waits_here(1));
    assert_eq!(activity(&sim, G0), VcpuActivity::Waiting(Wait::Power));
}

#[test]
fn a_server_that_hears_no_upcalls_for_now_hears_of_the_request_later() {
    let (sim, server) = apart(3, "");
    // Its upcall's PPI is disabled (GICR_ICENABLER0), so WFI may end and nothing is taken.
    assert!(sim.store_to(B0, REDISTRIBUTOR + 0x1_0180, 2, 1 << UPCALL));
    sim.wfi(B0);
    ask(&sim);
    assert!(!sim.runs(G0));
    assert_eq!(sim.with(B0, |context| context.cpu.fake.interface().used().count()), 0);
    assert!(sim.runs(B0), "WFI may end at any time");
    assert_eq!(sim.take_interrupt(B0), None);
    assert!(sim.store_to(B0, REDISTRIBUTOR + 0x1_0100, 2, 1 << UPCALL));
    hear(&sim, &server);
    sim.answer(B0, &server, 0, 8);
    assert_eq!((sim.runs(G0), sim.x(G0, 1)), (true, 8));
}
