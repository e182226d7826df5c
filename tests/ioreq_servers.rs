//! Servers of a target: rights, lifetime, failure policy, with a fake machine.

#[path = "ioreq_support/world.rs"]
mod world;

use portunus::abi::HypercallError::{
    Exists, Invalid, NoEntry, NoSpace, NotPermitted, NotSupported, OutOfMemory as NoMemory,
};
use portunus::abi::dm_op::IoRange;
use portunus::abi::ioreq::State;
use portunus::ids::{EventPort, ServerId, VcpuSet};
use portunus::ioreq::{Answer, Begun, DeviceRange, Event, Failure, OnFailure, Range, Request};
use portunus::trap::access::AccessWidth;
use world::{BACKEND, DEVICE, OTHER_BACKEND, World, load, policy, range, store};

const WORD: AccessWidth = AccessWidth::Word;
const READY: u8 = State::READY.0;
const INPROCESS: u8 = State::INPROCESS.0;
const DONE: u8 = State::IORESP_READY.0;
const POLICIES: [OnFailure; 3] = [OnFailure::Wait, OnFailure::Ones, OnFailure::Abort];

/// What a vCPU gets when its request is given up; `None`: it waits.
fn given_up(on_failure: OnFailure) -> Option<Answer> {
    match on_failure {
        OnFailure::Wait => None,
        OnFailure::Ones => Some(Answer::Value(0xffff_ffff)),
        OnFailure::Abort => Some(Answer::Abort),
    }
}

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
    let error = servers.begin(0, load(DEVICE, WORD), &around).unwrap_err();
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
fn a_device_without_a_server_answers_by_policy_at_the_attach_limit() {
    for on_failure in POLICIES {
        let mut world = World::new(1, on_failure);
        let (_, effects) = world.begin_with_effects(0, load(DEVICE, WORD));
        assert!(matches!(effects.events.as_slice(), [Event::Waits { vcpu: 0, .. }]));
        world.clock.now.set(59);
        world.clock.runnable.set(1000);
        let (servers, around, _) = world.parts();
        assert_eq!(servers.deadline(0, &around).map(|ticks| ticks.0), Some(60));
        assert_eq!(world.expire().wake, VcpuSet::EMPTY);
        world.clock.now.set(60);
        assert_eq!(world.expire().wake, VcpuSet::only(0), "{on_failure:?}");
        let answer = given_up(on_failure).unwrap_or(Answer::Value(0xffff_ffff));
        assert_eq!(world.servers.take(0), Some(answer), "{on_failure:?}");
    }
}

#[test]
fn the_time_limit_counts_the_backends_time_alone() {
    for on_failure in POLICIES {
        let mut world = World::new(2, on_failure);
        let (id, _) = world.serving(BACKEND);
        world.clock.runnable.set(100);
        world.begin(0, load(DEVICE, WORD));
        world.clock.now.set(1_000_000);
        world.clock.runnable.set(104);
        assert_eq!(world.expire(), Default::default(), "the backend had no time");
        world.clock.runnable.set(105);
        let effects = world.expire();
        assert_eq!(
            effects.events.as_slice(),
            [Event::Failed {
                server: id,
                failure: Failure::TimeLimit
            }]
        );
        assert_eq!(world.servers.take(0), given_up(on_failure), "{on_failure:?}");
        // It gets no new requests, of any vCPU.
        world.begin(1, load(DEVICE, WORD));
        assert!(
            matches!(world.servers.request(1), Request::Waiting { late: None, .. }),
            "{on_failure:?}"
        );

        let effects = world.answer(id, BACKEND, 0, DONE, 0x77);
        if on_failure == OnFailure::Wait {
            assert_eq!(world.servers.take(0), Some(Answer::Value(0x77)), "a late answer counts");
            assert!(effects.events.contains(&Event::Readmitted { server: id }));
            assert_eq!(effects.notify.len(), 1, "and the server gets what waited");
            assert!(matches!(world.servers.request(1), Request::InFlight { .. }));
        } else {
            assert_eq!(effects, Default::default(), "late answers are dropped");
            let (servers, around, mut resources) = world.parts();
            assert!(
                servers.destroy(BACKEND, id, &around, &mut resources).is_ok(),
                "the tombstone can be destroyed"
            );
        }
    }
}

#[test]
fn a_late_server_is_not_waited_for_beyond_the_attach_limit() {
    let mut world = World::new(1, OnFailure::Wait);
    let (id, _) = world.serving(BACKEND);
    world.begin(0, load(DEVICE, WORD));
    world.clock.runnable.set(5);
    let _ = world.expire();
    world.clock.now.set(60);
    let _ = world.expire();
    assert_eq!(world.servers.take(0), Some(Answer::Value(0xffff_ffff)));
    // Its slot is stale: the old answer must not reach the next request.
    world.begin(0, load(DEVICE + 4, WORD));
    let effects = world.answer(id, BACKEND, 0, DONE, 0xbad);
    assert_eq!(effects.wake, VcpuSet::EMPTY);
    assert_eq!(effects.notify.len(), 1, "now the next request is posted");
    assert_eq!(world.slot(id, BACKEND, 0).addr, DEVICE + 4);
    let _ = world.answer(id, BACKEND, 0, DONE, 0x600d);
    assert_eq!(world.servers.take(0), Some(Answer::Value(0x600d)));
}

#[test]
fn nonsense_twice_in_succession_is_the_servers_failure() {
    for on_failure in POLICIES {
        for state in [0u8, 4, 7, 15] {
            let mut world = World::new(2, on_failure);
            let (id, _) = world.serving(BACKEND);
            world.begin(0, load(DEVICE, WORD));
            assert_eq!(
                world.answer(id, BACKEND, 0, state, 0),
                Default::default(),
                "once may be a race"
            );
            let _ = world.answer(id, BACKEND, 0, INPROCESS, 0);
            assert_eq!(
                world.answer(id, BACKEND, 0, state, 0),
                Default::default(),
                "not in succession"
            );
            let effects = world.answer(id, BACKEND, 0, state, 0);
            assert_eq!(
                effects.events.as_slice(),
                [Event::Failed {
                    server: id,
                    failure: Failure::BadSlot
                }]
            );
            assert_eq!(world.servers.take(0), given_up(on_failure), "{on_failure:?}");

            // A server made anew serves again.
            let (new, effects) = world.serving(BACKEND);
            if on_failure == OnFailure::Wait {
                assert!(effects.events.contains(&Event::Moved {
                    range: Range::new(DEVICE, DEVICE + 0x1ff).unwrap(),
                    from: id,
                    to: new
                }));
            } else {
                world.begin(0, load(DEVICE, WORD));
            }
            let _ = world.answer(new, BACKEND, 0, DONE, 5);
            assert_eq!(world.servers.take(0), Some(Answer::Value(5)));
            // And the late answer of the old one changes nothing.
            world.begin(0, load(DEVICE, WORD));
            let _ = world.answer(id, BACKEND, 0, DONE, 0xbad);
            assert!(matches!(world.servers.request(0), Request::InFlight { server, .. } if server == new));
        }
    }
}

#[test]
fn a_slot_spoilt_between_requests_fails_the_server_and_not_the_guest() {
    for on_failure in POLICIES {
        let mut world = World::new(1, on_failure);
        let (id, _) = world.serving(BACKEND);
        world.write_slot(id, BACKEND, 0, DONE, 0);
        assert_eq!(world.begin(0, load(DEVICE, WORD)), Begun::Accepted);
        assert_eq!(world.servers.take(0), given_up(on_failure));
        if on_failure == OnFailure::Wait {
            // It says that it is done with the spoilt slot: then it gets the request.
            let (servers, around, _) = world.parts();
            let effects = servers.notified(id, 0, &around);
            assert_eq!(effects.notify.len(), 1);
            let _ = world.answer(id, BACKEND, 0, DONE, 9);
            assert_eq!(world.servers.take(0), Some(Answer::Value(9)));
        }
    }
}

/// Ways in which a server goes while it works on a request of vCPU 0.
const ENDS: [&str; 5] = ["destroyed", "disabled", "unmapped", "first port closed", "domain gone"];

fn end(world: &mut World, id: ServerId, how: &str) {
    let (servers, around, mut resources) = world.parts();
    let _ = match how {
        "destroyed" => servers.destroy(BACKEND, id, &around, &mut resources).unwrap(),
        "disabled" => servers.set_enabled(BACKEND, id, false, &around).unwrap(),
        "unmapped" => servers
            .unmap_range(BACKEND, &range(id, DEVICE, DEVICE + 0x1ff), &around)
            .unwrap(),
        "first port closed" => servers.port_closed(id, 1, &around),
        _ => servers.owner_gone(BACKEND, &around),
    };
}

#[test]
fn a_server_that_goes_in_flight_releases_the_vcpu_by_policy_and_a_successor_serves() {
    for on_failure in POLICIES {
        for how in ENDS {
            let mut world = World::new(2, on_failure);
            let (id, _) = world.serving(BACKEND);
            world.begin(0, store(DEVICE + 0x50, WORD, 3));
            end(&mut world, id, how);
            let expected = match given_up(on_failure) {
                Some(Answer::Value(_)) => Some(Answer::Value(0xffff_ffff)),
                other => other,
            };
            assert_eq!(world.servers.take(0), expected, "{on_failure:?}, {how}");
            if on_failure != OnFailure::Wait {
                world.begin(0, store(DEVICE + 0x50, WORD, 3));
            }
            assert!(
                matches!(world.servers.request(0), Request::Waiting { late: None, .. }),
                "{on_failure:?}, {how}"
            );
            // The successor comes from the same domain: an older server's range moves to it.
            let (new, effects) = world.serving(BACKEND);
            assert_eq!(effects.notify.len(), 1, "{on_failure:?}, {how}");
            let slot = world.slot(new, BACKEND, 0);
            assert_eq!((slot.addr, slot.data), (DEVICE + 0x50, 3));
            let _ = world.answer(new, BACKEND, 0, DONE, 0);
            assert_eq!(world.servers.take(0), Some(Answer::Value(0)));
        }
    }
}

#[test]
fn a_disabled_server_that_is_enabled_again_starts_with_empty_slots() {
    let mut world = World::new(1, OnFailure::Wait);
    let (id, _) = world.serving(BACKEND);
    world.begin(0, load(DEVICE, WORD));
    let (servers, around, _) = world.parts();
    let _ = servers.set_enabled(BACKEND, id, false, &around).unwrap();
    world.write_slot(id, BACKEND, 0, 9, 9);
    let (servers, around, _) = world.parts();
    let effects = servers.set_enabled(BACKEND, id, true, &around).unwrap();
    assert_eq!(effects.notify.len(), 1);
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
        world.servers.port_bound(ServerId(id), 0);
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

#[test]
fn two_devices_of_one_server_end_by_their_own_policies() {
    let device = |start, on_failure| DeviceRange {
        range: Range::from_length(start, 0x200).unwrap(),
        policy: policy(on_failure),
    };
    let second = DEVICE + 0x200;
    let mut world = World::with_devices(
        2,
        vec![device(second, OnFailure::Wait), device(DEVICE, OnFailure::Ones)],
    );
    let (id, _) = world.serving(BACKEND);
    let (servers, around, _) = world.parts();
    let _ = servers
        .map_range(BACKEND, &range(id, second, second + 0x1ff), true, &around)
        .unwrap();
    assert_eq!(world.begin(0, load(DEVICE, WORD)), Begun::Accepted);
    assert_eq!(world.begin(1, load(second, WORD)), Begun::Accepted);
    world.clock.runnable.set(5);
    let _ = world.expire();
    assert_eq!(world.servers.take(0), Some(Answer::Value(0xffff_ffff)));
    assert_eq!(world.servers.take(1), None);
    assert!(
        matches!(world.servers.request(1), Request::Waiting { late: None, .. }),
        "its server was detached"
    );
}

#[test]
fn a_target_that_stops_forgets_its_requests_and_old_answers_do_not_return() {
    let mut world = World::new(1, OnFailure::Wait);
    let (id, _) = world.serving(BACKEND);
    world.begin(0, load(DEVICE, WORD));
    world.servers.cancel_all();
    assert_eq!(world.servers.request(0), Request::Idle);
    world.begin(0, load(DEVICE + 8, WORD));
    assert!(
        matches!(world.servers.request(0), Request::Waiting { .. }),
        "the slot still holds the old request"
    );
    let effects = world.answer(id, BACKEND, 0, DONE, 0xbad);
    assert_eq!((effects.notify.len(), world.slot(id, BACKEND, 0).addr), (1, DEVICE + 8));
}

/// One address space of 48 bytes, a device each 8 bytes; who serves what is an array.
#[test]
fn random_operations_agree_with_a_naive_model() {
    #[derive(Clone, Copy, PartialEq)]
    struct Model {
        owner: portunus::ids::DomainId,
        born: u64,
        enabled: bool,
    }
    for seed in 1..30u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = move |limit: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) % limit
        };
        let devices = (0..6)
            .map(|index| DeviceRange {
                range: Range::from_length(index * 8, 8).unwrap(),
                policy: policy(OnFailure::Ones),
            })
            .collect();
        let mut world = World::with_devices(1, devices);
        let mut map = [None::<u16>; 48];
        let mut model = [None::<Model>; 8];
        for step in 0..500 {
            let caller = [BACKEND, OTHER_BACKEND][random(2) as usize];
            let id = random(8) as u16;
            let start = random(48);
            let end = (start + random(10)).min(47);
            let slice = start as usize..=end as usize;
            let known = match model[usize::from(id)] {
                None => Err(NoEntry),
                Some(server) if server.owner != caller => Err(NotPermitted),
                Some(server) => Ok(server),
            };
            let context = format!("seed {seed}, step {step}");
            match random(6) {
                0 => {
                    let expected = model.iter().position(Option::is_none).ok_or(NoSpace);
                    let expected = expected.map(|index| ServerId(index as u16));
                    assert_eq!(world.create(caller), expected, "{context}");
                    if let Ok(ServerId(new)) = expected {
                        model[usize::from(new)] = Some(Model {
                            owner: caller,
                            born: step,
                            enabled: false,
                        });
                    }
                }
                1 | 2 => {
                    let expected = known.and_then(|server| {
                        let yields = |other: &u16| {
                            let other = model[usize::from(*other)].unwrap();
                            other.owner == caller && other.born < server.born
                        };
                        if map[slice.clone()].iter().flatten().all(yields) {
                            Ok(())
                        } else {
                            Err(Exists)
                        }
                    });
                    let (servers, around, _) = world.parts();
                    let result = servers.map_range(caller, &range(ServerId(id), start, end), true, &around);
                    assert_eq!(result.map(drop), expected, "{context}");
                    if expected.is_ok() {
                        map[slice].fill(Some(id));
                    }
                }
                3 => {
                    let all = map[slice.clone()].iter().all(|owner| *owner == Some(id));
                    let expected = known.and(if all { Ok(()) } else { Err(NoEntry) });
                    let (servers, around, _) = world.parts();
                    let result = servers.unmap_range(caller, &range(ServerId(id), start, end), &around);
                    assert_eq!(result.map(drop), expected, "{context}");
                    if expected.is_ok() {
                        map[slice].fill(None);
                    }
                }
                4 => {
                    let enabled = random(3) != 0;
                    let (servers, around, _) = world.parts();
                    let result = servers.set_enabled(caller, ServerId(id), enabled, &around);
                    assert_eq!(result.map(drop), known.map(drop), "{context}");
                    if known.is_ok() {
                        model[usize::from(id)].as_mut().unwrap().enabled = enabled;
                    }
                }
                _ if random(3) == 0 => {
                    let (servers, around, mut resources) = world.parts();
                    let result = servers.destroy(caller, ServerId(id), &around, &mut resources);
                    assert_eq!(result.map(drop), known.map(drop), "{context}");
                    if known.is_ok() {
                        model[usize::from(id)] = None;
                        map.iter_mut()
                            .filter(|owner| **owner == Some(id))
                            .for_each(|owner| *owner = None);
                    }
                }
                _ => {}
            }
            let at = random(48);
            let width = [AccessWidth::Byte, AccessWidth::Halfword, WORD][random(3) as usize];
            let bytes = &map[at as usize..(at + width.bytes()).min(48) as usize];
            let whole = bytes.len() as u64 == width.bytes();
            let server = bytes[0].filter(|id| whole && bytes.iter().all(|other| *other == Some(*id)));
            let server = server.filter(|id| model[usize::from(*id)].unwrap().enabled);
            let device = whole && at / 8 == (at + width.bytes() - 1) / 8;
            let begun = world.begin(0, load(at, width));
            let claimed = device || server.is_some();
            assert_eq!(
                begun,
                if claimed { Begun::Accepted } else { Begun::Unclaimed },
                "{context}: {at}"
            );
            match (world.servers.request(0), server) {
                (Request::InFlight { server, .. }, Some(expected)) => {
                    assert_eq!(server, ServerId(expected), "{context}");
                    let owner = model[usize::from(expected)].unwrap().owner;
                    let _ = world.answer(server, owner, 0, DONE, step);
                    let answer = Answer::Value(step & width.mask());
                    assert_eq!(world.servers.take(0), Some(answer), "{context}");
                }
                (Request::Waiting { .. }, None) | (Request::Idle, None) => world.servers.cancel_all(),
                (request, expected) => panic!("{context}: {request:?}, expected {expected:?}"),
            }
        }
    }
}
