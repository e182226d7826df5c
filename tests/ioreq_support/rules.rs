//! A request that is answered, rights, ranges, and the ordinary life of a server.

use crate::world::{BACKEND, DEVICE, OTHER_BACKEND, World, load, range, store};
use portunus::abi::HypercallError::{
    Exists, Invalid, NoEntry, NoSpace, NotPermitted, NotSupported, OutOfMemory as NoMemory,
};
use portunus::abi::dm_op::IoRange;
use portunus::abi::ioreq::State;
use portunus::access::AccessWidth;
use portunus::ids::{EventPort, ServerId, VcpuSet};
use portunus::ioreq::{Answer, Begun, OnFailure, Request};

const WORD: AccessWidth = AccessWidth::Word;
const READY: u8 = State::READY.0;
const INPROCESS: u8 = State::INPROCESS.0;
const DONE: u8 = State::IORESP_READY.0;

#[test]
fn a_read_goes_to_the_server_and_its_answer_is_masked() {
    let mut world = World::new(2, OnFailure::Wait);
    let (id, _) = world.serving(BACKEND);
    let (begun, effects) = world.begin_with_effects(1, load(DEVICE + 0x70, WORD));
    assert_eq!(begun, Begun::Accepted);
    let slot = world.slot(id, BACKEND, 1);
    assert_eq!(
        (slot.addr, slot.size, slot.state(), slot.is_read()),
        (DEVICE + 0x70, 4, State::READY, true)
    );
    assert_eq!(effects.notify.as_slice(), [EventPort(slot.vp_eport)]);
    assert_eq!(world.servers.take(1), None);
    assert_eq!(world.servers.serving(1), Some(BACKEND));

    // Linux' ioeventfd goes back to READY before user space answers.
    for state in [INPROCESS, READY, INPROCESS, READY] {
        assert_eq!(world.answer(id, BACKEND, 1, state, 0).wake, VcpuSet::EMPTY);
    }
    let effects = world.answer(id, BACKEND, 1, DONE, 0xffff_0000_1234_5678);
    assert_eq!(effects.wake, VcpuSet::only(1));
    assert_eq!(world.servers.take(1), Some(Answer::Value(0x1234_5678)));
    assert_eq!(world.servers.take(1), None);
    assert_eq!(world.slot(id, BACKEND, 1).state(), State::NONE);
}

#[test]
fn an_event_without_a_change_only_looks_again() {
    let mut world = World::new(2, OnFailure::Wait);
    let (id, _) = world.serving(BACKEND);
    let (servers, around, _) = world.parts();
    assert_eq!(servers.notified(id, 0, &around), Default::default(), "no request");
    assert_eq!(
        servers.notified(ServerId(7), 0, &around),
        Default::default(),
        "no server"
    );
    assert_eq!(servers.notified(id, 200, &around), Default::default(), "no vCPU");
    world.begin(0, store(DEVICE, WORD, 7));
    world.write_slot(id, BACKEND, 1, DONE, 1);
    let (servers, around, _) = world.parts();
    assert_eq!(
        servers.notified(id, 1, &around),
        Default::default(),
        "another vCPU's slot"
    );
    assert!(world.servers.request(0).holds_vcpu());
}

#[test]
fn a_vcpu_has_one_request_at_a_time() {
    let mut world = World::new(1, OnFailure::Wait);
    world.begin(0, load(DEVICE, WORD));
    let (servers, around, _) = world.parts();
    let error = servers
        .begin(0, load(DEVICE, WORD), &around, &mut Default::default())
        .unwrap_err();
    assert_eq!((error.state, error.cause), ("waiting", "start"));
}

#[test]
fn what_belongs_to_no_device_is_unclaimed_and_a_device_waits_for_its_server() {
    let mut world = World::new(1, OnFailure::Wait);
    let rows = [
        (DEVICE - 4, WORD, Begun::Unclaimed),
        (DEVICE - 2, WORD, Begun::Unclaimed),
        (DEVICE + 0x1fc, AccessWidth::Doubleword, Begun::Unclaimed),
        (DEVICE + 0x200, AccessWidth::Byte, Begun::Unclaimed),
        (u64::MAX - 1, WORD, Begun::Unclaimed),
        (DEVICE + 0x1f8, AccessWidth::Doubleword, Begun::Accepted),
    ];
    for (at, width, expected) in rows {
        assert_eq!(world.begin(0, load(at, width)), expected, "{at:#x}");
    }
    assert!(matches!(world.servers.request(0), Request::Waiting { .. }));
    let (id, effects) = world.serving(BACKEND);
    let port = EventPort(world.slot(id, BACKEND, 0).vp_eport);
    assert_eq!(
        effects.notify.as_slice(),
        [port],
        "the server that came gets the request that waited"
    );
    assert_eq!(world.slot(id, BACKEND, 0).state(), State::READY);
}

#[test]
fn a_clean_shutdown_succeeds_in_any_order() {
    let steps = ["unmap", "unbind", "disable", "destroy"];
    for order in [
        [0, 1, 2, 3],
        [1, 0, 2, 3],
        [1, 2, 0, 3],
        [2, 1, 0, 3],
        [2, 0, 1, 3],
        [0, 2, 1, 3],
    ] {
        let mut world = World::new(2, OnFailure::Wait);
        let (id, _) = world.serving(BACKEND);
        for step in order.map(|index| steps[index]) {
            let (servers, around, mut resources) = world.parts();
            let result = match step {
                "unmap" => servers.unmap_range(BACKEND, &range(id, DEVICE, DEVICE + 0x1ff), &around),
                "unbind" => {
                    let _ = servers.port_closed(id, 0, &around);
                    Ok(servers.port_closed(id, 1, &around))
                }
                "disable" => servers.set_enabled(BACKEND, id, false, &around),
                _ => servers.destroy(BACKEND, id, &around, &mut resources),
            };
            assert!(result.is_ok(), "{step} in {order:?}: {result:?}");
        }
        assert!(world.pool.borrow().frames.is_empty() && world.pool.borrow().ports.is_empty());
    }
}

#[test]
fn the_last_port_closed_frees_the_ranges_for_another_domain() {
    let mut world = World::new(2, OnFailure::Wait);
    let (old, _) = world.serving(BACKEND);
    let new = world.create(OTHER_BACKEND).unwrap();
    let everything = range(new, DEVICE, DEVICE + 0x1ff);
    let (servers, around, _) = world.parts();
    assert_eq!(
        servers.map_range(OTHER_BACKEND, &everything, true, &around),
        Err(Exists)
    );
    let _ = servers.port_closed(old, 0, &around);
    assert_eq!(
        servers.map_range(OTHER_BACKEND, &everything, true, &around),
        Err(Exists),
        "one is still open"
    );
    let _ = servers.port_closed(old, 0, &around);
    let _ = servers.port_closed(old, 1, &around);
    assert!(servers.map_range(OTHER_BACKEND, &everything, true, &around).is_ok());
    assert_eq!(
        servers.map_range(BACKEND, &range(old, 0, 1), true, &around),
        Err(NoEntry),
        "a tombstone takes nothing"
    );
}

#[test]
fn ports_never_bound_do_not_count() {
    let mut world = World::new(2, OnFailure::Wait);
    let id = world.create(BACKEND).unwrap();
    let (servers, around, _) = world.parts();
    let _ = servers.set_enabled(BACKEND, id, true, &around).unwrap();
    let _ = servers
        .map_range(BACKEND, &range(id, DEVICE, DEVICE + 0x1ff), true, &around)
        .unwrap();
    assert_eq!(servers.port_closed(id, 0, &around), Default::default());
    world.begin(0, load(DEVICE, WORD));
    assert!(matches!(world.servers.request(0), Request::InFlight { .. }));
}

#[test]
fn eight_servers_then_the_oldest_tombstone_gives_its_id() {
    let mut world = World::new(1, OnFailure::Wait);
    for expected in 0..8 {
        assert_eq!(world.create(BACKEND), Ok(ServerId(expected)));
    }
    assert_eq!(world.create(BACKEND), Err(NoSpace));
    for id in [5, 2] {
        world.servers.port_bound(ServerId(id), 0, portunus::ids::EventPort(7));
        let (servers, around, _) = world.parts();
        let _ = servers.port_closed(ServerId(id), 0, &around);
    }
    assert_eq!(world.create(OTHER_BACKEND), Ok(ServerId(2)));
    let (servers, around, mut resources) = world.parts();
    assert_eq!(
        servers.destroy(BACKEND, ServerId(2), &around, &mut resources),
        Err(NotPermitted)
    );
    assert!(servers.destroy(BACKEND, ServerId(5), &around, &mut resources).is_ok());
    assert_eq!(world.create(BACKEND), Ok(ServerId(5)), "lowest free id");
    assert_eq!(world.pool.borrow().frames.len(), 16);
    assert_eq!(world.pool.borrow().ports.len(), 16);
}

#[test]
fn a_server_that_cannot_be_made_leaves_nothing_behind() {
    for (frames, ports, expected) in [(0, 9, NoMemory), (1, 9, NoMemory), (2, 0, NoSpace), (2, 2, NoSpace)] {
        let mut world = World::new(2, OnFailure::Wait);
        world.pool.borrow_mut().frames_left = Some(frames);
        world.pool.borrow_mut().ports_left = Some(ports);
        assert_eq!(world.create(BACKEND), Err(expected));
        assert!(world.pool.borrow().frames.is_empty() && world.pool.borrow().ports.is_empty());
        world.pool.borrow_mut().frames_left = None;
        world.pool.borrow_mut().ports_left = None;
        assert_eq!(world.create(BACKEND), Ok(ServerId(0)));
    }
    let mut world = World::new(1, OnFailure::Wait);
    let (servers, around, mut resources) = world.parts();
    for buffered in [1, 2, 255] {
        assert_eq!(
            servers.create(BACKEND, buffered, around.memory, &mut resources),
            Err(Invalid)
        );
    }
}

#[test]
fn a_new_server_says_its_ports_and_its_pages_are_zero() {
    let mut world = World::new(3, OnFailure::Wait);
    let id = world.create(BACKEND).unwrap();
    let ports: Vec<_> = (0..4).map(|vcpu| world.slot(id, BACKEND, vcpu).vp_eport).collect();
    assert_eq!(ports, [1024, 1025, 1026, 0]);
    let buffered = world.servers.frame(BACKEND, 0, 0).unwrap();
    assert_eq!(world.machine.peek(buffered, 4096), vec![0; 4096]);
    assert_eq!(world.servers.buffered_port(BACKEND, id, true), Ok(EventPort(1027)));
}

#[test]
fn only_the_owner_may_and_only_what_exists() {
    let mut world = World::new(1, OnFailure::Wait);
    let id = world.create(BACKEND).unwrap();
    let absent = ServerId(3);
    let beyond = ServerId(0xffff);
    for (caller, id, expected) in [
        (BACKEND, absent, NoEntry),
        (BACKEND, beyond, NoEntry),
        (OTHER_BACKEND, id, NotPermitted),
    ] {
        let (servers, around, mut resources) = world.parts();
        let request = range(id, DEVICE, DEVICE);
        assert_eq!(servers.map_range(caller, &request, true, &around), Err(expected));
        assert_eq!(servers.unmap_range(caller, &request, &around), Err(expected));
        assert_eq!(servers.set_enabled(caller, id, true, &around), Err(expected));
        assert_eq!(servers.destroy(caller, id, &around, &mut resources), Err(expected));
        assert_eq!(servers.buffered_port(caller, id, true), Err(expected));
    }
    assert_eq!(world.servers.buffered_port(BACKEND, id, false), Err(NotSupported));
    let frames = [
        (BACKEND, 0, 2, Err(Invalid)),
        (BACKEND, 0, u64::MAX, Err(Invalid)),
        (BACKEND, 1, 1, Err(Invalid)),
        (BACKEND, 0x1_0000, 1, Err(Invalid)),
        (OTHER_BACKEND, 0, 1, Err(NotPermitted)),
    ];
    for (caller, id, frame, expected) in frames {
        assert_eq!(world.servers.frame(caller, id, frame), expected, "{id} {frame}");
    }
}

#[test]
fn ranges_are_checked_in_xens_order() {
    let mut world = World::new(1, OnFailure::Wait);
    let id = world.create(BACKEND).unwrap();
    let newer = world.create(BACKEND).unwrap();
    let (servers, around, _) = world.parts();
    let kind = |kind, id, start, end| IoRange {
        kind,
        ..range(id, start, end)
    };
    let rows = [
        (
            "start after end, before the id",
            BACKEND,
            kind(9, ServerId(7), 2, 1),
            true,
            Err(Invalid),
        ),
        (
            "id before the kind",
            BACKEND,
            kind(9, ServerId(7), 1, 2),
            true,
            Err(NoEntry),
        ),
        (
            "owner before the kind",
            OTHER_BACKEND,
            kind(9, id, 1, 2),
            true,
            Err(NotPermitted),
        ),
        ("kind before the right", BACKEND, kind(3, id, 1, 2), false, Err(Invalid)),
        ("no right", BACKEND, kind(1, id, 1, 2), false, Err(NotPermitted)),
        ("the first", BACKEND, kind(1, id, 0x10, 0x1f), true, Ok(())),
        (
            "overlap in the same server",
            BACKEND,
            kind(1, id, 0x1f, 0x20),
            true,
            Err(Exists),
        ),
        (
            "another kind is another space",
            BACKEND,
            kind(0, id, 0x1f, 0x20),
            true,
            Ok(()),
        ),
        ("PCI too", BACKEND, kind(2, id, 0x1f, 0x20), true, Ok(())),
        (
            "a newer server takes a part",
            BACKEND,
            kind(1, newer, 0x18, 0x1b),
            true,
            Ok(()),
        ),
        (
            "an older one does not take it back",
            BACKEND,
            kind(1, id, 0x18, 0x1b),
            true,
            Err(Exists),
        ),
    ];
    for (what, caller, request, permitted, expected) in rows {
        assert_eq!(
            servers.map_range(caller, &request, permitted, &around).map(drop),
            expected,
            "{what}"
        );
    }
    let rows = [
        (
            "the older server lost the middle",
            kind(1, id, 0x10, 0x1f),
            Err(NoEntry),
        ),
        ("what it has can go", kind(1, id, 0x10, 0x17), Ok(())),
        ("a middle can go", kind(1, id, 0x1d, 0x1d), Ok(())),
        ("but once", kind(1, id, 0x1d, 0x1d), Err(NoEntry)),
        ("no such kind", kind(3, id, 0x1d, 0x1d), Err(Invalid)),
        ("of another kind", kind(2, id, 0x1f, 0x20), Ok(())),
    ];
    for (what, request, expected) in rows {
        assert_eq!(
            servers.unmap_range(BACKEND, &request, &around).map(drop),
            expected,
            "{what}"
        );
    }
}
