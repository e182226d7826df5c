//! A guest and its server on one pCPU that talk all the time: without a decision for each request, nobody can tell.

use std::rc::Rc;

use portunus::abi::ioreq::State;
use portunus::counters::Exit;
use portunus::ids::{ServerId, VcpuId};

use crate::backend::Server;
use crate::guest::vcpu;
use crate::sim::Sim;
use crate::world::{BACKEND, DISK, GUEST, MS, Options};

const G0: VcpuId = vcpu(GUEST, 0);
const B0: VcpuId = vcpu(BACKEND, 0);

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
