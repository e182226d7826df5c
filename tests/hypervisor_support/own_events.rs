//! Events that a domain sends to itself, by channels between its own ports: the way for these alone, and the way of all.

use std::rc::Rc;

use portunus::abi::{HypercallError, evtchn};
use portunus::ids::{DomainId, VcpuId};

use crate::guest::{refused, vcpu};
use crate::sim::Sim;
use crate::world::{EMPTY_GFN, GUEST, Options};

const G0: VcpuId = vcpu(GUEST, 0);
/// Where the guest puts its shared page.
const SHARED: u64 = (EMPTY_GFN + 0x20) << 12;
const UPCALL: u32 = 31;

/// A guest that hears upcalls.
fn listening() -> Rc<Sim> {
    let sim = Sim::new(&Options::default());
    sim.enable_interrupts(G0);
    assert_eq!(sim.map_shared_info(G0, SHARED >> 12), 0);
    sim.take_events(G0, SHARED);
    while sim.take_interrupt(G0).is_some() {}
    sim
}

fn unbound(sim: &Sim) -> u32 {
    let request = evtchn::AllocUnbound {
        dom: DomainId::SELF.0,
        remote_dom: DomainId::SELF.0,
        port: 0,
    };
    let (result, made) = sim.events(G0, evtchn::ALLOC_UNBOUND, request);
    assert_eq!(result, 0);
    made.port
}

/// Two ports that are connected with each other.
fn connected(sim: &Sim) -> [u32; 2] {
    let remote_port = unbound(sim);
    let request = evtchn::BindInterdomain {
        remote_dom: DomainId::SELF.0,
        remote_port,
        ..Default::default()
    };
    let (result, bound) = sim.events(G0, evtchn::BIND_INTERDOMAIN, request);
    assert_eq!(result, 0);
    sim.take_events(G0, SHARED);
    while sim.take_interrupt(G0).is_some() {}
    [bound.local_port, remote_port]
}

/// Which ports the guest hears of, if it gets an upcall.
fn heard(sim: &Sim) -> Option<Vec<u32>> {
    sim.take_interrupt(G0).map(|interrupt| {
        assert_eq!((interrupt, sim.take_interrupt(G0)), (UPCALL, None));
        sim.take_events(G0, SHARED)
    })
}

fn set_mask(sim: &Sim, port: u32, masked: bool) {
    let word = u64::from(masked) << (port % 64);
    sim.put(GUEST, SHARED + 560 + u64::from(port / 64) * 8, &word);
}

#[test]
fn each_end_is_told_of_what_comes_from_the_other_every_time() {
    let sim = listening();
    let [one, other] = connected(&sim);
    for round in 0..4 {
        for (from, to) in [(one, other), (one, other), (other, one)] {
            assert_eq!(sim.send(G0, from), 0, "round {round}");
            assert_eq!(heard(&sim), Some(vec![to]), "round {round}, from {from}");
        }
    }
    // A second one before the first is taken is the same; both ends in one upcall.
    assert_eq!((sim.send(G0, one), sim.send(G0, one), sim.send(G0, other)), (0, 0, 0));
    let mut both = vec![one, other];
    both.sort_unstable();
    assert_eq!((heard(&sim), heard(&sim)), (Some(both), None));
}

#[test]
fn an_upcall_that_is_still_handled_comes_again_after_its_end() {
    let sim = listening();
    let [one, other] = connected(&sim);
    assert_eq!(sim.send(G0, one), 0);
    assert_eq!(heard(&sim), Some(vec![other]));
    assert_eq!(sim.send(G0, one), 0);
    let taken = sim.with(G0, |context| {
        portunus::cpu::Cpu::virtual_interface(&mut context.cpu).acknowledge()
    });
    assert_eq!(taken.map(|interrupt| interrupt.0), Some(UPCALL));
    assert_eq!(sim.take_events(G0, SHARED), [other]);
    assert_eq!(sim.send(G0, one), 0, "while its upcall is active");
    sim.with(G0, |context| {
        let interface = portunus::cpu::Cpu::virtual_interface(&mut context.cpu);
        interface.end(portunus::ids::IntId(UPCALL));
    });
    sim.maintain(G0);
    assert_eq!(heard(&sim), Some(vec![other]));
}

#[test]
fn a_masked_port_is_only_pending() {
    let sim = listening();
    let [one, other] = connected(&sim);
    assert_eq!(sim.send(G0, one), 0);
    assert_eq!(heard(&sim), Some(vec![other]));
    set_mask(&sim, other, true);
    assert_eq!(sim.send(G0, one), 0);
    assert_eq!(heard(&sim), None);
    assert_eq!(sim.events(G0, evtchn::UNMASK, evtchn::Port { port: other }).0, 0);
    assert_eq!(heard(&sim), Some(vec![other]));
}

#[test]
fn a_port_that_is_something_else_now_is_looked_at_anew() {
    let sim = listening();
    let [one, other] = connected(&sim);
    for _ in 0..2 {
        assert_eq!(sim.send(G0, one), 0);
        assert_eq!(heard(&sim), Some(vec![other]));
    }
    assert_eq!(sim.close(G0, other), 0);
    assert_eq!(sim.send(G0, one), 0, "nobody listens, which is no error");
    assert_eq!(heard(&sim), None);
    assert_eq!(sim.close(G0, one), 0);
    assert_eq!(sim.send(G0, one), refused(HypercallError::Invalid));
    let again = unbound(&sim);
    assert_eq!(sim.send(G0, again), 0);
    assert_eq!(heard(&sim), None);
    // An argument in no memory, on the way of all.
    let call = [evtchn::SEND, 0x1000];
    let fault = sim.hypercall(G0, portunus::abi::hypercall::EVENT_CHANNEL_OP, &call);
    assert_eq!(fault, Some(refused(HypercallError::BadPointer)));
}
