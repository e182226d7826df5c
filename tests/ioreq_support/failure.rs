//! Servers that are late, lie, or go: what the guest gets, and how a successor takes over.

use crate::world::{BACKEND, DEVICE, World, load, policy, range, store};
use portunus::abi::ioreq::State;
use portunus::access::AccessWidth;
use portunus::ids::{ServerId, VcpuSet};
use portunus::ioreq::{Answer, Begun, DeviceRange, Event, Failure, OnFailure, Range, Request};

const WORD: AccessWidth = AccessWidth::Word;
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
    assert_eq!(effects.wake, VcpuSet::only(0), "it is under another limit now");
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
fn two_devices_of_one_server_end_by_their_own_policies() {
    let device = |start, on_failure| DeviceRange {
        state_page: None,
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
