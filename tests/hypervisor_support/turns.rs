//! A guest and its server on one pCPU that talk all the time: without a decision for each request, nobody can tell.

use std::rc::Rc;

use portunus::abi::ioreq::State;
use portunus::counters::Exit;
use portunus::ids::{ServerId, VcpuId};

use crate::backend::Server;
use crate::guest::vcpu;
use crate::sim::Sim;
use crate::world::{BACKEND, DISK, EMPTY_GFN, GUEST, MS, Options, REDISTRIBUTOR};

const G0: VcpuId = vcpu(GUEST, 0);
const B0: VcpuId = vcpu(BACKEND, 0);
/// Where both put their shared page.
const SHARED: u64 = (EMPTY_GFN + 0x20) << 12;
const UPCALL: u32 = 31;

fn together(disk: &'static str) -> (Rc<Sim>, Server) {
    let sim = Sim::new(&Options {
        pcpus: [0, 1, 0, 3, 4],
        one_server: true,
        disk,
        ..Options::default()
    });
    sim.run_until(B0);
    let server = sim.serve(B0);
    sim.run_until(G0);
    (sim, server)
}

/// One request and its answer, with some time before each. What the guest has then.
fn talk(sim: &Sim, server: &Server, round: u64, write: bool) -> (u64, u64) {
    sim.advance(10 + round % 3);
    sim.run_until(G0);
    if write {
        assert!(!sim.store_to(G0, DISK + 8, round % 4, round));
    } else {
        assert_eq!(sim.load_from(G0, DISK + 8 + round % 8 * 8, round % 4, 1), None);
    }
    sim.advance(20 + round % 5);
    sim.run_until(B0);
    let slot = sim.slot(BACKEND, server, 0);
    assert_eq!((slot.state(), slot.is_read()), (State::READY, !write));
    sim.answer(B0, server, 0, 0x8182_8384_8586_8788 + round);
    (sim.x(G0, 1), sim.pc(G0))
}

/// What is counted of both, but for times: slices begin anew with each decision.
fn seen(sim: &Sim) -> (Vec<[u64; Exit::COUNT]>, u64) {
    let exits = [GUEST, BACKEND].map(|id| sim.domain(id).vcpus[0].counters.exits());
    let servers = sim.domain(GUEST).servers.lock();
    let answered = servers.report(ServerId(0)).expect("a server").answered;
    (exits.to_vec(), answered)
}

#[test]
fn what_a_guest_and_its_server_see_is_the_same_without_decisions() {
    let ((quick, server), (slow, other)) = (together(""), together(""));
    slow.be_slow();
    for round in 0..600 {
        let write = round % 7 == 3;
        let one = talk(&quick, &server, round, write);
        assert_eq!(one, talk(&slow, &other, round, write), "round {round}");
        if round % 50 == 49 {
            assert_eq!(seen(&quick), seen(&slow), "round {round}");
        }
    }
    assert!(quick.across() > 1_000, "{} times", quick.across());
    assert_eq!(slow.across(), 0);
}

#[test]
fn a_server_that_answers_no_more_is_late_as_ever() {
    let (sim, server) = together("timeout-ms = <5>; on-failure = \"ones\";");
    for round in 0..20 {
        talk(&sim, &server, round, false);
    }
    assert!(sim.across() > 30);
    let asked = sim.across();
    sim.run_until(G0);
    assert_eq!(sim.load_from(G0, DISK + 8, 2, 1), None);
    assert_eq!(sim.across(), asked + 1);
    sim.advance(4 * MS);
    assert!(sim.runs(B0), "it has time");
    sim.advance(2 * MS);
    sim.run_until(G0);
    assert_eq!(sim.x(G0, 1), 0xffff_ffff);
}

#[test]
fn what_comes_while_the_server_works_for_a_guest_comes_through() {
    let (sim, server) = together("");
    for round in 0..20 {
        talk(&sim, &server, round, false);
    }
    sim.run_until(G0);
    assert_eq!(sim.load_from(G0, DISK + 8, 2, 1), None);
    // The guest is held while its server works: it hears the answer, and goes on when it may.
    sim.hypervisor.pause(sim.domain(GUEST)).expect("it runs");
    sim.settle();
    sim.run_until(B0);
    sim.answer(B0, &server, 0, 5);
    assert!(!sim.runs(G0));
    sim.hypervisor.unpause(sim.domain(GUEST));
    sim.settle();
    sim.run_until(G0);
    assert_eq!(sim.x(G0, 1), 5);
}

/// A guest and a backend with a channel, its ends 10 and 11, of which the backend sleeps.
fn connected(slow: bool) -> Rc<Sim> {
    let sim = Sim::new(&Options {
        pcpus: [0, 1, 0, 3, 4],
        one_server: true,
        channels: [
            "chan0: ec0 { compatible = \"xen,evtchn-v1\"; xen,evtchn = <10 &chan1>; };",
            "chan1: ec0 { compatible = \"xen,evtchn-v1\"; xen,evtchn = <11 &chan0>; };",
        ],
        ..Options::default()
    });
    for vcpu in [B0, G0] {
        sim.run_until(vcpu);
        sim.enable_interrupts(vcpu);
        assert_eq!(sim.map_shared_info(vcpu, SHARED >> 12), 0);
        sim.take_events(vcpu, SHARED);
        while sim.take_interrupt(vcpu).is_some() {}
    }
    if slow {
        sim.be_slow();
    }
    sim.run_until(B0);
    sim.wfi(B0);
    sim.run_until(G0);
    sim
}

/// The vCPU, which runs or will, has an upcall for this port, and no other.
fn hear(sim: &Sim, vcpu: VcpuId, port: u32) {
    sim.run_until(vcpu);
    assert_eq!(
        (sim.take_interrupt(vcpu), sim.take_interrupt(vcpu)),
        (Some(UPCALL), None)
    );
    assert_eq!(sim.take_events(vcpu, SHARED), [port]);
}

/// There and back.
fn volley(sim: &Sim, round: u64) {
    sim.run_until(G0);
    sim.advance(20 + round % 3);
    sim.send(G0, 10);
    hear(sim, B0, 11);
    sim.advance(3);
    assert_eq!(sim.send(B0, 11), 0);
    sim.run_until(B0);
    sim.wfi(B0);
    hear(sim, G0, 10);
}

#[test]
fn events_there_and_back_are_heard_once_each_without_decisions_too() {
    let (quick, slow) = (connected(false), connected(true));
    for round in 0..400 {
        volley(&quick, round);
        volley(&slow, round);
        let pcs = [&quick, &slow].map(|sim| [G0, B0].map(|vcpu| sim.pc(vcpu)));
        assert_eq!(pcs[0], pcs[1], "round {round}");
    }
    let exits = [&quick, &slow].map(|sim| [GUEST, BACKEND].map(|id| sim.domain(id).vcpus[0].counters.exits()));
    assert_eq!(exits[0], exits[1]);
    assert!(quick.across() > 500, "{} times", quick.across());
    assert_eq!(slow.across(), 0);
}

#[test]
fn a_port_that_is_closed_or_masked_meanwhile_and_a_listener_that_is_held_get_no_visit() {
    let sim = connected(false);
    for round in 0..5 {
        volley(&sim, round);
    }
    // The listener masks its port: nothing comes.
    let mask = |masked: bool| sim.put(BACKEND, SHARED + 560, &(u64::from(masked) << 11));
    mask(true);
    sim.run_until(G0);
    assert_eq!(sim.send(G0, 10), 0);
    assert!(sim.runs(G0));
    assert_eq!(sim.across() % 2, 0, "nobody went anywhere");
    mask(false);
    // What came is forgotten.
    sim.put(BACKEND, SHARED + 48, &0_u64);

    sim.direct(|hypervisor| hypervisor.pause(sim.domain(BACKEND)).expect("it is there"));
    assert_eq!(sim.send(G0, 10), 0);
    assert!(sim.runs(G0), "who is held does not run");
    sim.direct(|hypervisor| hypervisor.unpause(sim.domain(BACKEND)));
    sim.run_until(B0);
    assert_eq!(sim.events(B0, portunus::abi::evtchn::CLOSE, 11_u32).0, 0);
    while sim.take_interrupt(B0).is_some() {}
    sim.take_events(B0, SHARED);
    sim.wfi(B0);
    sim.run_until(G0);
    let across = sim.across();
    sim.send(G0, 10);
    assert_eq!((sim.across(), sim.take_events(B0, SHARED)), (across, vec![]));
}

#[test]
fn a_listener_that_wants_no_upcalls_hears_of_the_event_later() {
    let sim = connected(false);
    for round in 0..5 {
        volley(&sim, round);
    }
    sim.run_until(G0);
    sim.send(G0, 10);
    hear(&sim, B0, 11);
    // Its upcall's PPI is disabled (GICR_ICENABLER0): WFI may end, and nothing is taken.
    assert!(sim.store_to(B0, REDISTRIBUTOR + 0x1_0180, 2, 1 << UPCALL));
    sim.wfi(B0);
    sim.run_until(G0);
    sim.send(G0, 10);
    sim.run_until(G0);
    sim.wfi(G0);
    sim.run_until(B0);
    assert_eq!(sim.take_interrupt(B0), None);
    assert!(sim.store_to(B0, REDISTRIBUTOR + 0x1_0100, 2, 1 << UPCALL));
    hear(&sim, B0, 11);
}
