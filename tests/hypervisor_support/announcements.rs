//! Pages that leave a guest's map while its servers' domains map them: who is told, what the guest waits for, and for how long.

use std::rc::Rc;

use portunus::abi::ioreq::{Ioreq, State, TYPE_INVALIDATE};
use portunus::abi::{dm_op, hypercall, memory};
use portunus::ids::{DomainId, VcpuId};

use crate::backend::Server;
use crate::guest::vcpu;
use crate::restarts::{SYSTEM_RESET, is_new};
use crate::sim::Sim;
use crate::world::{ALWAYS_UP, BACKEND, DISK, EMPTY_GFN, GUEST, MS, Options, RAM, SCRATCH};

const G0: VcpuId = vcpu(GUEST, 0);
const G1: VcpuId = vcpu(GUEST, 1);
const B0: VcpuId = vcpu(BACKEND, 0);
/// Frames of RAM that hold nothing.
const SPARE: u64 = (RAM >> 12) + 0x300;
const WINDOW: u64 = EMPTY_GFN + 0x10;

fn sim(disk: &'static str) -> Rc<Sim> {
    Sim::new(&Options {
        disk,
        ..Options::default()
    })
}

/// The guest gives pages back; the result, if it goes on at once.
fn give_back(sim: &Sim, vcpu: VcpuId, gfns: &[u64]) -> Option<i64> {
    let list = SCRATCH + 0x1000;
    sim.put(GUEST, list, gfns);
    let request = memory::MemoryReservation {
        extent_start: list,
        nr_extents: gfns.len() as u64,
        domid: DomainId::SELF.0,
        ..Default::default()
    };
    sim.put(GUEST, SCRATCH, &request);
    sim.hypercall(vcpu, hypercall::MEMORY_OP, &[memory::DECREASE_RESERVATION, SCRATCH])
}

/// As [`give_back`]; a server that is told answers at once.
pub(crate) fn give_back_heard(sim: &Sim, server: &Server, gfns: &[u64]) -> i64 {
    give_back(sim, G0, gfns).unwrap_or_else(|| {
        hears(sim, server, G0);
        sim.run_until(G0);
        sim.x(G0, 0) as i64
    })
}

/// The guest waits for the server, which reads what Xen would have written; it answers.
fn hears(sim: &Sim, server: &Server, vcpu: VcpuId) {
    assert!(!sim.runs(vcpu));
    let slot = sim.slot(BACKEND, server, vcpu.index);
    let wanted = Ioreq {
        data: u64::MAX,
        size: 4,
        vp_eport: slot.vp_eport,
        flags: slot.flags,
        kind: TYPE_INVALIDATE,
        ..Ioreq::default()
    };
    assert_eq!(slot, wanted);
    assert_eq!(slot.state(), State::READY);
    sim.answer(B0, server, vcpu.index, 0);
}

#[test]
fn a_page_that_a_server_maps_is_announced_to_it_before_its_guest_goes_on() {
    let sim = sim("");
    let server = sim.serve(B0);
    assert_eq!(sim.map_foreign(B0, GUEST, &[(SPARE, WINDOW)]).0, 0);
    let pc = sim.pc(G0);
    assert_eq!(give_back(&sim, G0, &[SPARE]), None);
    sim.advance(100 * MS);
    hears(&sim, &server, G0);
    sim.run_until(G0);
    assert_eq!((sim.pc(G0), sim.x(G0, 0)), (pc + 4, 1), "the hypercall's own result");
    assert_eq!(sim.slot(BACKEND, &server, 0).state(), State::NONE);

    // The guest does as ever afterwards, and the page is there again when the backend lets go.
    assert_eq!(sim.reservation(G0, memory::POPULATE_PHYSMAP, &[SPARE]), 0);
    assert_eq!(sim.remove(B0, WINDOW), 0);
    assert_eq!(sim.reservation(G0, memory::POPULATE_PHYSMAP, &[SPARE]), 1);
    assert_eq!(give_back(&sim, G0, &[SPARE]), Some(1), "nobody maps it now");
    assert_eq!(sim.load_from(G0, DISK, 4, 1), None, "a request goes as ever");
    assert_eq!(sim.slot(BACKEND, &server, 0).addr, DISK);
}

/// A hypercall of the guest.
type Way = fn(&Sim) -> Option<i64>;

#[test]
fn every_way_out_of_the_map_is_announced() {
    let shared_info = |sim: &Sim| {
        let request = memory::AddToPhysmap {
            domid: DomainId::SELF.0,
            gpfn: SPARE,
            ..Default::default()
        };
        sim.put(GUEST, SCRATCH, &request);
        sim.hypercall(G0, hypercall::MEMORY_OP, &[memory::ADD_TO_PHYSMAP, SCRATCH])
    };
    let remove = |sim: &Sim| {
        let request = memory::RemoveFromPhysmap {
            domid: DomainId::SELF.0,
            gpfn: SPARE,
            ..Default::default()
        };
        sim.put(GUEST, SCRATCH, &request);
        sim.hypercall(G0, hypercall::MEMORY_OP, &[memory::REMOVE_FROM_PHYSMAP, SCRATCH])
    };
    let ways: [(&str, Way, u64); 3] = [
        (
            "decrease_reservation",
            |sim| give_back(sim, G0, &[SPARE + 1, SPARE, SPARE + 2]),
            3,
        ),
        ("remove_from_physmap", remove, 0),
        ("add_to_physmap", shared_info, 0),
    ];
    for (name, way, result) in ways {
        let sim = sim("");
        let server = sim.serve(B0);
        assert_eq!(sim.map_foreign(B0, GUEST, &[(SPARE, WINDOW)]).0, 0);
        assert_eq!(way(&sim), None, "{name}");
        hears(&sim, &server, G0);
        sim.run_until(G0);
        assert_eq!(sim.x(G0, 0), result, "{name}");
    }
}

#[test]
fn where_no_page_can_be_there_is_none_to_take_out() {
    let sim = sim("");
    for gpfn in [WINDOW, 1 << 28, 1 << 40, 1 << 52, u64::MAX] {
        let request = memory::RemoveFromPhysmap {
            domid: DomainId::SELF.0,
            gpfn,
            ..Default::default()
        };
        sim.put(GUEST, SCRATCH, &request);
        let result = sim.hypercall(G0, hypercall::MEMORY_OP, &[memory::REMOVE_FROM_PHYSMAP, SCRATCH]);
        assert_eq!(result, Some(-2), "frame {gpfn:#x}");
    }
}

#[test]
fn only_servers_of_domains_that_map_the_page_are_told_and_only_when_they_get_requests() {
    let sim = sim("");
    let server = sim.serve(B0);
    assert_eq!(
        sim.map_foreign(B0, GUEST, &[(SPARE, WINDOW), (SPARE + 2, WINDOW + 2)])
            .0,
        0
    );
    assert_eq!(
        give_back(&sim, G0, &[SPARE + 1]),
        Some(1),
        "another page than that which is mapped"
    );
    assert_eq!(sim.remove(B0, WINDOW), 0);
    assert_eq!(
        give_back(&sim, G0, &[SPARE]),
        Some(1),
        "it was mapped and is not any more"
    );
    assert_eq!(sim.set_enabled(B0, server.id, false), 0);
    assert_eq!(give_back(&sim, G0, &[SPARE + 2]), Some(1), "a server that is disabled");
    assert_eq!(sim.map_foreign(B0, GUEST, &[(SPARE + 3, WINDOW)]).0, 0);
    assert_eq!(sim.destroy_server(B0, server.id), 0);
    assert_eq!(
        give_back(&sim, G0, &[SPARE + 3]),
        Some(1),
        "a mapper without any server"
    );
}

#[test]
fn a_long_call_is_announced_once_when_it_is_over() {
    let sim = sim("");
    let server = sim.serve(B0);
    let gfns: Vec<u64> = (SPARE..SPARE + 200).collect();
    let pages: Vec<(u64, u64)> = (0..200).map(|page| (SPARE + page, WINDOW + page)).collect();
    for pages in pages.chunks(100) {
        assert_eq!(sim.map_foreign(B0, GUEST, pages).0, 0);
    }
    assert_eq!(give_back(&sim, G0, &gfns), None);
    hears(&sim, &server, G0);
    sim.run_until(G0);
    assert_eq!(sim.x(G0, 0), 200);
    assert!(sim.runs(G0), "it is told once");
}

#[test]
fn several_servers_are_told_one_after_the_other_and_vcpus_do_not_mind_each_other() {
    let sim = sim("");
    let first = sim.serve(B0);
    let id = sim.create_server(B0).expect("a second server");
    assert_eq!(sim.acquire(B0, id, EMPTY_GFN + 2, 2), 0);
    let page = (EMPTY_GFN + 3) << 12;
    let ports = (0..2).map(|index| {
        let slot: Ioreq = sim.get(BACKEND, page + index * Ioreq::SIZE);
        sim.bind(B0, GUEST, slot.vp_eport).expect("a port")
    });
    let second = Server {
        id,
        ports: ports.collect(),
        page,
    };
    assert_eq!(sim.set_enabled(B0, id, true), 0);
    crate::restarts::second(&sim);
    assert_eq!(
        sim.map_foreign(B0, GUEST, &[(SPARE, WINDOW), (SPARE + 1, WINDOW + 1)])
            .0,
        0
    );

    assert_eq!(give_back(&sim, G0, &[SPARE]), None);
    assert_eq!(give_back(&sim, G1, &[SPARE + 1]), None);
    assert_eq!(sim.slot(BACKEND, &second, 0).state(), State::NONE);
    hears(&sim, &first, G1);
    hears(&sim, &first, G0);
    hears(&sim, &second, G0);
    sim.run_until(G0);
    assert_eq!(sim.x(G0, 0), 1);
    hears(&sim, &second, G1);
    sim.run_until(G1);
    assert_eq!(sim.x(G1, 0), 1);
}

#[test]
fn a_server_that_does_not_answer_fails_by_its_devices_policy_and_its_guest_goes_on() {
    // Under `wait` a late answer brings it back.
    let waits = sim("timeout-ms = <50>;");
    let server = waits.serve(B0);
    assert_eq!(waits.map_foreign(B0, GUEST, &[(SPARE, WINDOW)]).0, 0);
    assert_eq!(give_back(&waits, G0, &[SPARE]), None);
    waits.advance(49 * MS);
    assert!(!waits.runs(G0));
    waits.advance(5 * MS);
    waits.run_until(G0);
    assert_eq!(waits.x(G0, 0), 1);
    assert_eq!(waits.load_from(G0, DISK, 4, 1), None, "it gets no requests");
    assert_eq!(waits.slot(BACKEND, &server, 0).kind, TYPE_INVALIDATE);
    waits.answer(B0, &server, 0, 0);
    assert_eq!(waits.slot(BACKEND, &server, 0).addr, DISK, "it is back");
    waits.answer(B0, &server, 0, 7);
    waits.run_until(G0);
    assert_eq!(waits.x(G0, 1), 7);

    // Under `ones` and `abort` it is as if destroyed.
    for disk in [
        "timeout-ms = <50>; on-failure = \"ones\";",
        "timeout-ms = <50>; on-failure = \"abort\";",
    ] {
        let sim = sim(disk);
        let server = sim.serve(B0);
        assert_eq!(sim.map_foreign(B0, GUEST, &[(SPARE, WINDOW)]).0, 0);
        assert_eq!(give_back(&sim, G0, &[SPARE]), None);
        let pc = sim.pc(G0);
        sim.advance(60 * MS);
        sim.run_until(G0);
        assert_eq!(
            (sim.pc(G0), sim.x(G0, 0)),
            (pc + 4, 1),
            "no abort for what is no access: {disk}"
        );
        sim.answer(B0, &server, 0, 0);
        // The frame stays the guest's until the backend lets go of it.
        assert_eq!(sim.reservation(G0, memory::POPULATE_PHYSMAP, &[SPARE]), 0);
    }
}

#[test]
fn nonsense_in_the_slot_is_the_servers_failure() {
    for state in [State::NONE, State(5), State(0xf)] {
        let sim = sim("on-failure = \"ones\";");
        let server = sim.serve(B0);
        assert_eq!(sim.map_foreign(B0, GUEST, &[(SPARE, WINDOW)]).0, 0);
        assert_eq!(give_back(&sim, G0, &[SPARE]), None);
        for _ in 0..2 {
            sim.set_slot(BACKEND, &server, 0, state, 0);
            assert_eq!(sim.send(B0, server.ports[0]), 0);
        }
        sim.run_until(G0);
        assert_eq!(sim.x(G0, 0), 1, "{state:?}");
    }
    // A slot that is not free when the page leaves.
    let sim = sim("");
    let server = sim.serve(B0);
    assert_eq!(sim.map_foreign(B0, GUEST, &[(SPARE, WINDOW)]).0, 0);
    sim.set_slot(BACKEND, &server, 0, State::INPROCESS, 0);
    assert_eq!(give_back(&sim, G0, &[SPARE]), Some(1));
}

#[test]
fn a_backend_that_dies_meanwhile_holds_nobody() {
    let options = Options {
        lifecycle: ALWAYS_UP,
        ..Options::default()
    };
    let sim = Sim::new(&options);
    sim.serve(B0);
    assert_eq!(sim.map_foreign(B0, GUEST, &[(SPARE, WINDOW)]).0, 0);
    assert_eq!(give_back(&sim, G0, &[SPARE]), None);
    sim.psci(B0, &[SYSTEM_RESET]);
    is_new(&sim, B0);
    sim.run_until(G0);
    assert_eq!(sim.x(G0, 0), 1);
    assert_eq!(
        sim.reservation(G0, memory::POPULATE_PHYSMAP, &[SPARE]),
        1,
        "it maps nothing now"
    );
}

#[test]
fn a_server_that_is_destroyed_or_disabled_meanwhile_holds_nobody() {
    for destroy in [true, false] {
        let sim = sim("");
        let server = sim.serve(B0);
        assert_eq!(sim.map_foreign(B0, GUEST, &[(SPARE, WINDOW)]).0, 0);
        assert_eq!(give_back(&sim, G0, &[SPARE]), None);
        if destroy {
            assert_eq!(sim.destroy_server(B0, server.id), 0);
        } else {
            let payload = dm_op::SetIoreqServerState {
                id: server.id,
                ..Default::default()
            };
            assert_eq!(sim.dm_op(B0, dm_op::SET_IOREQ_SERVER_STATE, payload).0, 0);
        }
        sim.run_until(G0);
        assert_eq!(sim.x(G0, 0), 1);
    }
}

#[test]
fn a_guest_that_restarts_meanwhile_is_as_new() {
    let sim = Sim::new(&Options {
        lifecycle: ALWAYS_UP,
        ..Options::default()
    });
    let server = sim.serve(B0);
    crate::restarts::second(&sim);
    assert_eq!(sim.map_foreign(B0, GUEST, &[(SPARE, WINDOW)]).0, 0);
    assert_eq!(give_back(&sim, G0, &[SPARE]), None);
    sim.psci(G1, &[SYSTEM_RESET]);
    // Its slot holds what nobody waits for: it is emptied, and then the disk is to come to rest.
    sim.answer(B0, &server, 0, 0);
    crate::restarts::answer_reset(&sim, &server);
    is_new(&sim, G0);
    assert!(sim.runs(G0));
    assert_eq!(sim.load_from(G0, DISK, 4, 1), None);
    sim.answer(B0, &server, 0, 9);
    sim.run_until(G0);
    assert_eq!(sim.x(G0, 1), 9);
}
