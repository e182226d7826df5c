//! Writes that wait for nobody, from the guest's STR to the backend's interrupt.

use std::rc::Rc;

use portunus::abi::dm_op::{self, AttachBuffered, AttachDoorbell, Detach, GetIoreqServerInfo, WRITE_ONLY};
use portunus::abi::ioreq;
use portunus::counters::Exit;
use portunus::fakes::Operation;
use portunus::ids::{EventPort, PcpuId, ServerId, VcpuId};
use portunus::trace::{Event, Kind, rung, served};

use crate::backend::{PAGES, Server};
use crate::guest::{TRANSLATION, WNR, data_abort, vcpu};
use crate::restarts::{SYSTEM_RESET, answer_reset, is_new, lives};
use crate::sim::Sim;
use crate::world::{BACKEND, DISK, EMPTY_GFN, GUEST, MS, Options, STRANGER};

const G0: VcpuId = vcpu(GUEST, 0);
const B0: VcpuId = vcpu(BACKEND, 0);
const S0: VcpuId = vcpu(STRANGER, 0);
const NOTIFY: u64 = DISK + 0x50;
const POSTED: u64 = DISK + 0x80;
const SHARED: u64 = (EMPTY_GFN + 0x20) << 12;
const RING: u64 = PAGES << 12;

/// A backend that serves the disk, takes its events, and has a doorbell for each value of QueueNotify's low byte and a
/// buffered range. Its ports for value 0 and for the ring.
fn posting(sim: &Sim, values: u64) -> (Server, Vec<u32>, u32) {
    sim.run_until(B0);
    let server = sim.serve(B0);
    assert_eq!(sim.map_shared_info(B0, SHARED >> 12), 0);
    sim.enable_interrupts(B0);
    let bells = (0..values).map(|value| {
        let (result, attached) = sim.dm_op(B0, dm_op::VENDOR_ATTACH_DOORBELL, doorbell(server.id, value));
        assert_eq!(result, 0);
        sim.bind(B0, GUEST, attached.port).expect("a port")
    });
    let bells = bells.collect();
    let range = AttachBuffered {
        id: server.id,
        flags: WRITE_ONLY,
        start: POSTED,
        end: POSTED + 0x7f,
        ..Default::default()
    };
    assert_eq!(sim.dm_op(B0, dm_op::VENDOR_ATTACH_BUFFERED, range).0, 0);
    let info = GetIoreqServerInfo {
        id: server.id,
        flags: GetIoreqServerInfo::NO_GFNS,
        ..Default::default()
    };
    let (_, info) = sim.dm_op(B0, dm_op::GET_IOREQ_SERVER_INFO, info);
    let ring = sim.bind(B0, GUEST, info.bufioreq_port).expect("a port");
    let _ = news(sim);
    (server, bells, ring)
}

fn doorbell(id: u16, value: u64) -> AttachDoorbell {
    AttachDoorbell {
        id,
        flags: WRITE_ONLY,
        address: NOTIFY,
        value,
        mask: 0xff,
        size: 4,
        ..Default::default()
    }
}

fn server_exits(sim: &Sim) -> u64 {
    sim.hypervisor.vcpu_report(G0).expect("a vCPU").exits[Exit::Server as usize]
}

/// What the backend finds when its interrupt comes.
fn news(sim: &Sim) -> Vec<u32> {
    sim.run_until(B0);
    match sim.take_interrupt(B0) {
        Some(31) => sim.take_events(B0, SHARED),
        _ => Vec::new(),
    }
}

/// The backend takes everything out of its ring: the values.
fn drain(sim: &Sim) -> Vec<u32> {
    let mut values = Vec::new();
    loop {
        let [read, write] = sim.get::<[u32; 2]>(BACKEND, RING);
        if read == write {
            return values;
        }
        let slot: ioreq::BufferedIoreq = sim.get(BACKEND, RING + 8 + u64::from(read % 511) * 8);
        values.push(slot.data);
        sim.put(BACKEND, RING, &(read + 1));
    }
}

/// Address and data of what a vCPU of the guest waits for.
fn request(sim: &Sim, server: &Server, vcpu: u8) -> Option<(u64, u64)> {
    let slot = sim.slot(BACKEND, server, vcpu);
    (slot.state() == ioreq::State::READY).then_some((slot.addr, slot.data))
}

/// Guest and backend on CPUs of their own, on one, and with the stranger.
const PLACES: [[u8; 5]; 3] = [[0, 1, 2, 3, 4], [0, 1, 0, 3, 4], [0, 0, 0, 0, 0]];

fn world(pcpus: [u8; 5]) -> Rc<Sim> {
    Sim::new(&Options {
        pcpus,
        ..Options::default()
    })
}

#[test]
fn a_doorbell_interrupts_the_backend_and_its_guest_goes_on() {
    for pcpus in PLACES {
        let sim = world(pcpus);
        let (server, bells, _) = posting(&sim, 4);
        sim.run_until(G0);
        let exits = server_exits(&sim);
        sim.machine().take_trace();
        for value in [2, 0, 2, 0xff00] {
            sim.run_until(G0);
            assert!(sim.store_to(G0, NOTIFY, 2, value), "it does not wait");
        }
        assert_eq!(server_exits(&sim), exits + 4);
        assert_eq!(request(&sim, &server, 0), None);
        let rung_ports: Vec<u32> = sim
            .machine()
            .take_trace()
            .iter()
            .filter(|(_, event)| event.kind == Kind::Doorbell)
            .map(|(_, event)| event.argument)
            .collect();
        let expected = [2, 0, 2, 0].map(|bell| rung(BACKEND, EventPort(bells[bell])));
        assert_eq!(rung_ports, expected);
        assert_eq!(news(&sim), [bells[0], bells[2]], "several rings are one event");
        assert_eq!(news(&sim), [], "nothing is left");
        sim.run_until(G0);
        assert!(sim.store_to(G0, NOTIFY, 2, 3));
        assert_eq!(news(&sim), [bells[3]]);
    }
}

#[test]
fn what_a_doorbell_does_not_take_is_a_request() {
    let sim = world(PLACES[0]);
    let (server, bells, _) = posting(&sim, 2);
    let ask = |address, size, value| {
        assert!(!sim.store_to(G0, address, size, value), "it waits");
        let asked = request(&sim, &server, 0);
        sim.answer(B0, &server, 0, 0);
        assert!(sim.runs(G0));
        asked
    };
    assert_eq!(ask(NOTIFY, 2, 2), Some((NOTIFY, 2)), "another value");
    assert_eq!(ask(NOTIFY, 1, 0), Some((NOTIFY, 0)), "two bytes");
    assert_eq!(ask(NOTIFY + 4, 2, 0), Some((NOTIFY + 4, 0)), "the next register");
    assert_eq!(sim.load_from(G0, NOTIFY, 2, 1), None, "a read");
    sim.answer(B0, &server, 0, 0);
    assert_eq!(sim.close(B0, bells[0]), 0);
    assert_eq!(ask(NOTIFY, 2, 0), Some((NOTIFY, 0)), "nobody listens");
    assert_eq!(sim.set_enabled(B0, server.id, false), 0);
    assert!(!sim.store_to(G0, NOTIFY, 2, 1), "nobody serves");
    assert_eq!(sim.set_enabled(B0, server.id, true), 0);
    assert_eq!(request(&sim, &server, 0), Some((NOTIFY, 1)));
    sim.answer(B0, &server, 0, 0);
    let _ = news(&sim);
    assert!(sim.store_to(G0, NOTIFY, 2, 1));
    assert_eq!(news(&sim), [bells[1]]);
    let gone = Detach {
        id: server.id,
        kind: Detach::DOORBELL,
        address: NOTIFY,
        value: 1,
        ..Default::default()
    };
    assert_eq!(sim.dm_op(B0, dm_op::VENDOR_DETACH, gone).0, 0);
    assert_eq!(ask(NOTIFY, 2, 1), Some((NOTIFY, 1)));
}

#[test]
fn a_store_that_must_be_decoded_rings_too() {
    let sim = world(PLACES[0]);
    let (_, bells, _) = posting(&sim, 1);
    // Its syndrome does not describe it.
    let pc = sim.pc(G0);
    sim.set_x(G0, 1, 0);
    sim.set_x(G0, 8, NOTIFY);
    // STR W1, [X8], #4
    sim.put(GUEST, pc, &0xb800_4501_u32);
    sim.trap(G0, data_abort(WNR | TRANSLATION, NOTIFY));
    assert_eq!((sim.pc(G0), sim.x(G0, 8)), (pc + 4, NOTIFY + 4));
    assert_eq!(news(&sim), [bells[0]]);
}

#[test]
fn a_backend_that_sleeps_is_woken_by_a_doorbell_and_one_that_polls_too() {
    for pcpus in PLACES {
        let sim = world(pcpus);
        let (_, bells, ring) = posting(&sim, 1);
        sim.run_until(B0);
        sim.wfi(B0);
        assert!(!sim.runs(B0));
        sim.run_until(G0);
        assert!(sim.store_to(G0, NOTIFY, 2, 0));
        assert_eq!(news(&sim), [bells[0]]);
        sim.run_until(B0);
        sim.wfi(B0);
        sim.run_until(G0);
        assert!(sim.store_to(G0, POSTED, 2, 0));
        assert_eq!(news(&sim), [ring]);
    }
}

#[test]
fn posted_writes_arrive_in_order_and_before_what_the_guest_asks_afterwards() {
    for pcpus in PLACES {
        let sim = world(pcpus);
        let (server, _, ring) = posting(&sim, 1);
        sim.run_until(G0);
        sim.machine().take_trace();
        for value in 0..100 {
            sim.run_until(G0);
            assert!(sim.store_to(G0, POSTED + value % 8 * 4, 2, value));
        }
        let buffered = |(_, event): &(PcpuId, Event)| (event.kind == Kind::Buffered).then_some(event.argument);
        let traced: Vec<u32> = sim.machine().take_trace().iter().filter_map(buffered).collect();
        assert_eq!(traced, [served(BACKEND, ServerId(server.id)); 100]);
        sim.run_until(G0);
        assert!(!sim.store_to(G0, DISK + 0x14, 2, 77));
        assert_eq!(drain(&sim), (0..100).collect::<Vec<_>>());
        assert_eq!(request(&sim, &server, 0), Some((DISK + 0x14, 77)));
        let told = news(&sim);
        assert!(told.contains(&ring) && told.contains(&server.ports[0]), "{told:?}");
        sim.run_until(B0);
        sim.answer(B0, &server, 0, 0);
        sim.run_until(G0);
        assert_eq!(sim.slot(BACKEND, &server, 0).state(), ioreq::State::NONE);
    }
}

#[test]
fn a_pair_of_registers_is_two_posted_writes_and_the_second_can_be_a_request() {
    let sim = world(PLACES[0]);
    let (server, ..) = posting(&sim, 1);
    let store_pair = |first, second| {
        let pc = sim.pc(G0);
        sim.set_x(G0, 1, first);
        sim.set_x(G0, 2, second);
        sim.set_x(G0, 8, POSTED);
        // STP W1, W2, [X8]
        sim.put(GUEST, pc, &0x2900_0901_u32);
        sim.trap(G0, data_abort(WNR | TRANSLATION, POSTED));
        sim.pc(G0) == pc + 4
    };
    assert!(store_pair(1, 2));
    assert_eq!(drain(&sim), [1, 2]);
    for number in 0..510 {
        assert!(sim.store_to(G0, POSTED, 2, number));
    }
    assert!(!store_pair(510, 511), "there was room for one");
    assert_eq!(drain(&sim), (0..511).collect::<Vec<_>>());
    assert_eq!(request(&sim, &server, 0), Some((POSTED + 4, 511)));
    sim.answer(B0, &server, 0, 0);
    assert!(sim.runs(G0));
    assert!(store_pair(3, 4));
    assert_eq!(drain(&sim), [3, 4]);
}

#[test]
fn a_guest_that_posts_without_end_stops_at_a_full_ring_and_wakes_its_backend_once() {
    let sim = world(PLACES[0]);
    let (server, bells, ring) = posting(&sim, 1);
    let _ = sim.take_log();
    for _ in 0..10_000 {
        assert!(sim.store_to(G0, NOTIFY, 2, 0));
    }
    let kicks = |sim: &Sim| {
        let log = sim.take_log();
        let kick = |operation: &&Operation| matches!(operation, Operation::Kick(PcpuId(2)));
        log.iter().filter(kick).count()
    };
    assert_eq!(kicks(&sim), 1, "the backend's pCPU is disturbed once");
    let mut posted = 0;
    while sim.store_to(G0, POSTED, 2, posted) {
        posted += 1;
        assert!(posted < 10_000);
    }
    assert_eq!(posted, 511);
    assert!(kicks(&sim) <= 2, "for the first in the ring, and for the request");
    assert_eq!(drain(&sim).len(), 511);
    assert_eq!(request(&sim, &server, 0), Some((POSTED, 511)));
    let told = news(&sim);
    assert_eq!(told, [server.ports[0], bells[0], ring]);
    sim.answer(B0, &server, 0, 0);
    assert!(sim.store_to(G0, POSTED, 2, 0));
}

#[test]
fn a_guest_that_rings_without_end_leaves_others_on_its_pcpu_their_share() {
    let sim = world([0, 1, 0, 3, 0]);
    let (_, bells, _) = posting(&sim, 1);
    let time = |sim: &Sim, vcpu: VcpuId| sim.hypervisor.vcpu_report(vcpu).expect("a vCPU").run_time.0;
    let before = [G0, B0, S0].map(|vcpu| time(&sim, vcpu));
    for _ in 0..3000 {
        if sim.runs(G0) {
            assert!(sim.store_to(G0, NOTIFY, 2, 0));
        } else if sim.runs(B0) {
            // It serves what there is and computes on.
            if sim.take_interrupt(B0) == Some(31) {
                assert_eq!(sim.take_events(B0, SHARED), [bells[0]]);
            }
        }
        sim.advance(MS / 10);
    }
    let after = [G0, B0, S0].map(|vcpu| time(&sim, vcpu));
    let shares = [0, 1, 2].map(|index| after[index] - before[index]);
    let all: u64 = shares.iter().sum();
    for share in shares {
        assert!(share * 10 > all * 2, "a third each: {shares:?}");
    }
}

#[test]
fn a_guest_that_starts_anew_finds_its_doorbells_and_none_of_its_old_writes() {
    let sim = Sim::new(&lives());
    let (server, bells, ring) = posting(&sim, 1);
    for number in 0..5 {
        assert!(sim.store_to(G0, POSTED, 2, number));
    }
    assert!(sim.store_to(G0, NOTIFY, 2, 0));
    sim.psci(G0, &[SYSTEM_RESET]);
    answer_reset(&sim, &server);
    is_new(&sim, G0);
    assert_eq!(drain(&sim), [], "nobody had taken them");
    let told = news(&sim);
    assert!(!told.contains(&bells[0]), "nor seen the ring: {told:?}");
    assert!(sim.store_to(G0, POSTED, 2, 9));
    assert!(sim.store_to(G0, NOTIFY, 2, 0));
    assert_eq!(drain(&sim), [9]);
    let told = news(&sim);
    assert!(told.contains(&bells[0]) && told.contains(&ring), "{told:?}");
}

#[test]
fn a_backend_that_ends_leaves_no_doorbell_and_no_port() {
    let sim = Sim::new(&lives());
    let (_, attached) = sim.domain(GUEST).events.lock().in_use();
    let _ = posting(&sim, 64);
    assert_eq!(sim.domain(GUEST).events.lock().in_use().1, attached + 3 + 64);
    sim.psci(B0, &[SYSTEM_RESET]);
    is_new(&sim, B0);
    assert_eq!(sim.domain(GUEST).events.lock().in_use().1, attached);
    assert!(!sim.store_to(G0, NOTIFY, 2, 0), "it waits for the next one");
    let server = sim.serve(B0);
    assert_eq!(request(&sim, &server, 0), Some((NOTIFY, 0)), "which gets it");
    sim.answer(B0, &server, 0, 0);
    assert!(sim.runs(G0));
}
