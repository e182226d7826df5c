//! What a server attaches: which writes it takes, when it goes, and that every other write is a request as ever.

use portunus::abi::HypercallError::{Exists, Invalid, NoEntry, NoSpace, NotPermitted};
use portunus::abi::dm_op::Detach;
use portunus::abi::ioreq::State;
use portunus::access::AccessWidth::{self, Byte, Doubleword, Halfword, Word};
use portunus::evtchn::Consumer;
use portunus::ids::{DomainId, EventPort, Pa, ServerId};
use portunus::ioreq::{Begun, DoorbellRequest, Effects, OnFailure, Range, Request, Ring, Stage};

use crate::world::{BACKEND, DEVICE, OTHER_BACKEND, World, load, range, store};

const NOTIFY: u64 = DEVICE + 0x50;
const PEER: EventPort = EventPort(7);

fn bell(address: u64, value: u64, mask: u64) -> DoorbellRequest {
    DoorbellRequest {
        address,
        width: Word,
        value,
        mask,
        write_only: true,
    }
}

/// A doorbell that its owner has bound.
fn attach(world: &mut World, id: ServerId, request: DoorbellRequest) -> EventPort {
    let (servers, _, mut resources) = world.parts();
    let port = servers.attach_doorbell(BACKEND, id, &request, true, &mut resources);
    let port = port.unwrap();
    servers.posting_bound(Consumer::Doorbell { server: id }, port, PEER);
    port
}

/// The device's registers from `start` to `end` are buffered, and the server listens.
fn buffer(world: &mut World, id: ServerId, start: u64, end: u64) {
    let (servers, around, _) = world.parts();
    let range = Range::new(start, end).unwrap();
    servers
        .attach_buffered(BACKEND, id, range, true, true, around.memory)
        .unwrap();
    let port = servers.buffered_port(BACKEND, id, true).unwrap();
    servers.posting_bound(Consumer::Buffered { server: id }, port, PEER);
}

fn rings(world: &World, address: u64, width: AccessWidth, value: u64) -> Option<EventPort> {
    let ring: Option<Ring> = world.servers.doorbells().ring(&store(address, width, value));
    ring.map(|ring| {
        assert_eq!((ring.owner, ring.peer), (BACKEND, PEER));
        ring.port
    })
}

fn pointers(world: &World, id: ServerId) -> (u32, u32) {
    let page = world.servers.frame(BACKEND, id.0.into(), 0).unwrap();
    let word = |at: u64| u32::from_le_bytes(world.machine.peek(Pa(at), 4).try_into().unwrap());
    (word(page.0), word(page.0 + 4))
}

fn doorbell_ports(world: &World) -> usize {
    let pool = world.pool.borrow();
    let doorbells = |(_, consumer): &&(DomainId, Consumer)| matches!(consumer, Consumer::Doorbell { .. });
    pool.ports.values().filter(doorbells).count()
}

fn release(world: &mut World, effects: &Effects) {
    assert!(effects.release_ports, "the effects tell that ports are to be closed");
    let (servers, _, mut resources) = world.parts();
    servers.release_detached(&mut resources);
}

#[test]
fn a_doorbell_matches_address_size_and_value_under_its_mask() {
    let mut world = World::new(2, OnFailure::Wait);
    let (id, _) = world.serving(BACKEND);
    let zero = attach(&mut world, id, bell(NOTIFY, 0, 0xffff));
    let three = attach(&mut world, id, bell(NOTIFY, 0xabcd_0003, 0xffff));
    let any = attach(&mut world, id, bell(NOTIFY + 0x10, 99, 0));
    let wide = attach(
        &mut world,
        id,
        DoorbellRequest {
            width: Doubleword,
            ..bell(DEVICE + 0x68, u64::MAX, u64::MAX)
        },
    );
    let rows = [
        ("the value", NOTIFY, Word, 0, Some(zero)),
        (
            "bits beside the mask do not count",
            NOTIFY,
            Word,
            0xffff_0000,
            Some(zero),
        ),
        ("another value", NOTIFY, Word, 3, Some(three)),
        ("no doorbell's value", NOTIFY, Word, 1, None),
        ("too narrow", NOTIFY, Halfword, 0, None),
        ("too wide", NOTIFY, Doubleword, 0, None),
        ("inside the register", NOTIFY + 2, Halfword, 0, None),
        ("the register before", NOTIFY - 4, Word, 0, None),
        ("the register behind", NOTIFY + 4, Word, 0, None),
        ("any value", NOTIFY + 0x10, Word, 0x1234, Some(any)),
        ("eight bytes", DEVICE + 0x68, Doubleword, u64::MAX, Some(wide)),
        (
            "eight bytes, but for one bit",
            DEVICE + 0x68,
            Doubleword,
            u64::MAX - 1,
            None,
        ),
        ("far away", u64::MAX - 3, Word, 0, None),
    ];
    for (what, address, width, value, expected) in rows {
        assert_eq!(rings(&world, address, width, value), expected, "{what}");
    }
    assert_eq!(world.servers.doorbells().ring(&load(NOTIFY, Word)), None, "a read");
    assert_eq!(world.servers.report(id).unwrap().posted, 5);
}

#[test]
fn many_doorbells_are_told_apart() {
    let mut world = World::new(1, OnFailure::Wait);
    let (id, _) = world.serving(BACKEND);
    // Eight registers with eight values each, attached in no order.
    let mut ports = Vec::new();
    for step in 0..64_u64 {
        let number = step * 37 % 64;
        let (register, value) = (DEVICE + number / 8 * 8, number % 8);
        ports.push((register, value, attach(&mut world, id, bell(register, value, 7))));
    }
    for (register, value, port) in &ports {
        assert_eq!(rings(&world, *register, Word, *value), Some(*port));
        assert_eq!(rings(&world, *register, Word, value | 8), Some(*port));
        assert_eq!(rings(&world, register + 4, Word, *value), None);
    }
    let (servers, _, mut resources) = world.parts();
    let one_more = servers.attach_doorbell(BACKEND, id, &bell(DEVICE + 0x100, 0, 0), true, &mut resources);
    assert_eq!(one_more, Err(NoSpace), "64 a server");
}

#[test]
fn doorbells_that_contradict_others_are_refused_and_change_nothing() {
    let mut world = World::new(1, OnFailure::Wait);
    let (id, _) = world.serving(BACKEND);
    attach(&mut world, id, bell(NOTIFY, 1, 0xff));
    attach(&mut world, id, bell(DEVICE + 0x74, 0, 0));
    let short = |address, width| DoorbellRequest {
        width,
        ..bell(address, 0, 0)
    };
    let rows = [
        ("the same value", bell(NOTIFY, 1, 0xff), Exists),
        ("the same value under the mask", bell(NOTIFY, 0x101, 0xff), Exists),
        ("another mask", bell(NOTIFY, 2, 0xfff), Invalid),
        ("any value there", bell(NOTIFY, 2, 0), Invalid),
        (
            "another size",
            DoorbellRequest {
                width: Halfword,
                ..bell(NOTIFY, 2, 0xff)
            },
            Invalid,
        ),
        ("the second half", short(NOTIFY + 2, Halfword), Exists),
        ("the last byte", short(NOTIFY + 3, Byte), Exists),
        ("around it", short(NOTIFY, Doubleword), Invalid),
        ("eight bytes that end in one", short(DEVICE + 0x70, Doubleword), Exists),
        ("outside of the range", bell(DEVICE + 0x200, 0, 0), NoEntry),
        ("partly outside", short(DEVICE + 0x1fc, Doubleword), NoEntry),
        ("the end of the world", bell(u64::MAX - 3, 0, 0), NoEntry),
        ("beyond it", short(u64::MAX - 3, Doubleword), Invalid),
    ];
    let before = format!("{:?}", world.servers);
    for (what, request, expected) in rows {
        let (servers, _, mut resources) = world.parts();
        let result = servers.attach_doorbell(BACKEND, id, &request, true, &mut resources);
        assert_eq!(result, Err(expected), "{what}");
    }
    let (servers, _, mut resources) = world.parts();
    let request = bell(NOTIFY, 2, 0xff);
    let mut attempt = |caller, id, permitted| servers.attach_doorbell(caller, id, &request, permitted, &mut resources);
    assert_eq!(attempt(OTHER_BACKEND, id, true), Err(NotPermitted), "another's server");
    assert_eq!(attempt(BACKEND, id, false), Err(NotPermitted), "not in the manifest");
    assert_eq!(attempt(BACKEND, ServerId(5), true), Err(NoEntry), "no such server");
    assert_eq!(before, format!("{:?}", world.servers));
    assert_eq!(doorbell_ports(&world), 2);
    world.pool.borrow_mut().ports_left = Some(0);
    let (servers, _, mut resources) = world.parts();
    assert_eq!(
        servers.attach_doorbell(BACKEND, id, &request, true, &mut resources),
        Err(NoSpace),
        "no port"
    );
    assert_eq!(before, format!("{:?}", world.servers));
}

#[test]
fn a_doorbell_rings_only_while_it_is_bound_and_its_server_takes_requests() {
    let mut world = World::new(2, OnFailure::Wait);
    let (id, _) = world.serving(BACKEND);
    let (servers, around, mut resources) = world.parts();
    let port = servers
        .attach_doorbell(BACKEND, id, &bell(NOTIFY, 0, 0), true, &mut resources)
        .unwrap();
    let table = servers.doorbells();
    let write = store(NOTIFY, Word, 0);
    let consumer = Consumer::Doorbell { server: id };
    assert_eq!(table.ring(&write), None, "not bound");
    servers.posting_bound(consumer, port, PEER);
    assert!(table.ring(&write).is_some());
    servers.posting_closed(consumer, port, EventPort(8));
    assert!(table.ring(&write).is_some(), "an older end was closed");
    servers.posting_closed(consumer, port, PEER);
    assert_eq!(table.ring(&write), None, "closed");
    servers.posting_bound(consumer, port, EventPort(9));
    assert_eq!(table.ring(&write).unwrap().peer, EventPort(9), "bound again");

    let _ = servers.set_enabled(BACKEND, id, false, &around).unwrap();
    assert_eq!(table.ring(&write), None, "disabled");
    let _ = servers.set_enabled(BACKEND, id, true, &around).unwrap();
    assert!(table.ring(&write).is_some());
    let closing = servers.port_closed(id, 1, &around);
    assert_eq!(table.ring(&write), None, "closing");
    assert!(!closing.release_ports, "but still there");
    let gone = servers.port_closed(id, 0, &around);
    release(&mut world, &gone);
    assert_eq!(
        (doorbell_ports(&world), table.with(|table| table.entries().len())),
        (0, 0)
    );
}

#[test]
fn a_late_servers_doorbell_is_a_request_until_it_answers() {
    let mut world = World::new(2, OnFailure::Wait);
    let (id, _) = world.serving(BACKEND);
    attach(&mut world, id, bell(NOTIFY, 0, 0));
    buffer(&mut world, id, DEVICE + 0x100, DEVICE + 0x1ff);
    assert_eq!(world.begin(0, load(DEVICE, Word)), Begun::Accepted);
    world.clock.runnable.set(6);
    let _ = world.expire();
    assert_eq!(rings(&world, NOTIFY, Word, 0), None);
    assert_eq!(world.begin(1, store(DEVICE + 0x100, Word, 1)), Begun::Accepted);
    assert_eq!(pointers(&world, id), (0, 0));
    let _ = world.answer(id, BACKEND, 0, State::IORESP_READY.0, 1);
    assert!(rings(&world, NOTIFY, Word, 0).is_some());
    let _ = world.answer(id, BACKEND, 1, State::IORESP_READY.0, 1);
    let _ = world.servers.take(1);
    assert_eq!(world.begin(1, store(DEVICE + 0x100, Word, 1)), Begun::Posted);
}

#[test]
fn attachments_go_with_the_addresses_that_they_are_in() {
    for (what, last, kept) in [
        ("a range beside it", DEVICE + 0x4f, 1),
        ("the first byte of the register", DEVICE + 0x50, 0),
        ("all", DEVICE + 0x1ff, 0),
    ] {
        let mut world = World::new(1, OnFailure::Wait);
        let (id, _) = world.serving(BACKEND);
        attach(&mut world, id, bell(NOTIFY, 0, 0));
        buffer(&mut world, id, DEVICE + 0x50, DEVICE + 0x5f);
        let (servers, around, _) = world.parts();
        let effects = servers.unmap_range(BACKEND, &range(id, DEVICE, last), &around).unwrap();
        if kept == 0 {
            release(&mut world, &effects);
            assert_eq!(rings(&world, NOTIFY, Word, 0), None, "{what}");
        } else {
            assert!(!effects.release_ports);
            assert!(rings(&world, NOTIFY, Word, 0).is_some());
            assert_eq!(world.begin(0, store(DEVICE + 0x54, Word, 1)), Begun::Posted);
        }
        assert_eq!(doorbell_ports(&world), kept, "{what}");
        let (servers, _, mut resources) = world.parts();
        let left = servers.detach(BACKEND, id, (Detach::BUFFERED, DEVICE + 0x50, 0), &mut resources);
        assert_eq!(left.is_ok(), kept == 1, "{what}");
    }
}

#[test]
fn a_newer_server_gets_the_range_and_not_what_was_attached_to_it() {
    let mut world = World::new(1, OnFailure::Wait);
    let (old, _) = world.serving(BACKEND);
    attach(&mut world, old, bell(NOTIFY, 0, 0));
    let kept = attach(&mut world, old, bell(DEVICE + 0x100, 0, 0));
    buffer(&mut world, old, DEVICE + 0x40, DEVICE + 0x5f);
    let new = world.create(BACKEND).unwrap();
    world.servers.port_bound(new, 0, portunus::ids::EventPort(7));
    let (servers, around, _) = world.parts();
    let _ = servers.set_enabled(BACKEND, new, true, &around).unwrap();
    let moved = servers
        .map_range(BACKEND, &range(new, DEVICE, DEVICE + 0xff), true, &around)
        .unwrap();
    release(&mut world, &moved);
    assert_eq!(rings(&world, NOTIFY, Word, 0), None);
    assert_eq!(rings(&world, DEVICE + 0x100, Word, 0), Some(kept), "it was elsewhere");
    assert_eq!(world.begin(0, store(NOTIFY, Word, 3)), Begun::Accepted);
    assert_eq!(world.slot(new, BACKEND, 0).data, 3);
    let (servers, _, mut resources) = world.parts();
    assert_eq!(
        servers.attach_doorbell(BACKEND, old, &bell(NOTIFY, 0, 0), true, &mut resources),
        Err(NoEntry),
        "the old one may not have it any more"
    );
    assert!(
        servers
            .attach_doorbell(BACKEND, new, &bell(NOTIFY, 0, 0), true, &mut resources)
            .is_ok()
    );
}

#[test]
fn a_dead_server_takes_its_attachments_along_and_leaks_no_port() {
    type Way = (&'static str, fn(&mut World, ServerId));
    let ways: [Way; 4] = [
        ("destroyed", |world, id| {
            let (servers, around, mut resources) = world.parts();
            let _ = servers.destroy(BACKEND, id, &around, &mut resources).unwrap();
        }),
        ("its domain is gone", |world, _| {
            let (servers, around, _) = world.parts();
            let effects = servers.owner_gone(BACKEND, &around);
            release(world, &effects);
        }),
        ("it did not come to rest", |world, _| {
            let (servers, around, _) = world.parts();
            let effects = servers.condemn(BACKEND, &around);
            release(world, &effects);
        }),
        ("its ports are closed", |world, id| {
            let (servers, around, _) = world.parts();
            let effects = servers.port_closed(id, 0, &around);
            release(world, &effects);
        }),
    ];
    for (what, end) in ways {
        let mut world = World::new(1, OnFailure::Wait);
        let (id, _) = world.serving(BACKEND);
        for value in 0..64 {
            attach(&mut world, id, bell(NOTIFY, value, 0xff));
        }
        buffer(&mut world, id, DEVICE, DEVICE + 0xf);
        end(&mut world, id);
        assert_eq!(doorbell_ports(&world), 0, "{what}");
        assert_eq!(rings(&world, NOTIFY, Word, 0), None, "{what}");
        assert_eq!(
            world.begin(0, store(DEVICE, Word, 0)),
            Begun::Accepted,
            "{what}: it waits"
        );
        assert_eq!(world.servers.request(0).name(), "waiting");
        let stage = world.servers.report(id).map(|report| report.stage);
        assert!(matches!(stage, None | Some(Stage::Tombstone)), "{what}");
    }
}

#[test]
fn a_buffered_write_waits_for_nobody_and_everything_else_does() {
    let mut world = World::new(2, OnFailure::Wait);
    let (id, _) = world.serving(BACKEND);
    let port = world.servers.buffered_port(BACKEND, id, true).unwrap();
    let (servers, around, _) = world.parts();
    let all = Range::new(DEVICE + 0x80, DEVICE + 0xff).unwrap();
    servers
        .attach_buffered(BACKEND, id, all, false, true, around.memory)
        .unwrap();
    let write = store(DEVICE + 0x80, Word, 5);
    assert_eq!(world.begin(0, write), Begun::Accepted, "nobody listens");
    let _ = world.answer(id, BACKEND, 0, State::IORESP_READY.0, 0);
    let _ = world.servers.take(0);
    world
        .servers
        .posting_bound(Consumer::Buffered { server: id }, port, PEER);

    let (begun, effects) = world.begin_with_effects(0, write);
    assert_eq!((begun, effects.notify.as_slice()), (Begun::Posted, [port].as_slice()));
    assert_eq!(world.servers.request(0), Request::Idle);
    let (begun, effects) = world.begin_with_effects(1, write);
    assert_eq!((begun, effects.notify.len()), (Begun::Posted, 0), "it was told");
    let others = [
        ("a read", load(DEVICE + 0x80, Word)),
        ("before the range", store(DEVICE + 0x7c, Word, 0)),
        ("over its end", store(DEVICE + 0xfc, Doubleword, 0)),
        ("over its start", store(DEVICE + 0x7c, Doubleword, 0)),
    ];
    for (what, access) in others {
        assert_eq!(world.begin(0, access), Begun::Accepted, "{what}");
        let _ = world.answer(id, BACKEND, 0, State::IORESP_READY.0, 0);
        let _ = world.servers.take(0);
    }
    assert_eq!(pointers(&world, id), (0, 2));
    assert_eq!(world.servers.report(id).unwrap().posted, 2);
}

#[test]
fn a_full_ring_makes_the_next_write_a_request_and_order_is_kept() {
    let mut world = World::new(1, OnFailure::Wait);
    let (id, _) = world.serving(BACKEND);
    buffer(&mut world, id, DEVICE + 0x80, DEVICE + 0xff);
    for number in 0..511 {
        assert_eq!(world.begin(0, store(DEVICE + 0x80, Word, number)), Begun::Posted);
    }
    let page = world.servers.frame(BACKEND, id.0.into(), 0).unwrap();
    for number in 511..520_u64 {
        assert_eq!(world.begin(0, store(DEVICE + 0x80, Word, number)), Begun::Accepted);
        // The server takes everything out of the ring before it looks at the request.
        assert_eq!(world.slot(id, BACKEND, 0).data, number);
        assert_eq!(pointers(&world, id), (0, 511));
        let last = world.machine.peek(Pa(page.0 + 8 + 510 * 8 + 4), 4);
        assert_eq!(last, 510_u32.to_le_bytes(), "nothing was overwritten");
        let _ = world.answer(id, BACKEND, 0, State::IORESP_READY.0, 0);
        assert!(world.servers.take(0).is_some());
    }
    world.machine.poke(page, &511_u32.to_le_bytes());
    assert_eq!(world.begin(0, store(DEVICE + 0x80, Word, 520)), Begun::Posted);
}

#[test]
fn what_was_posted_is_in_the_ring_before_a_later_request_is_in_its_slot() {
    let mut world = World::new(1, OnFailure::Wait);
    let (id, _) = world.serving(BACKEND);
    buffer(&mut world, id, DEVICE + 0x80, DEVICE + 0xff);
    world.machine.clear_log();
    assert_eq!(world.begin(0, store(DEVICE + 0x80, Word, 1)), Begun::Posted);
    assert_eq!(world.begin(0, load(DEVICE, Word)), Begun::Accepted);
    let ring = world.servers.frame(BACKEND, id.0.into(), 0).unwrap();
    let last = Pa(world.slot_at(id, BACKEND, 0).0 + 24);
    let stores: Vec<Pa> = world
        .machine
        .take_log()
        .iter()
        .filter_map(|operation| match operation {
            portunus::fakes::Operation::Store { at, .. } => Some(*at),
            _ => None,
        })
        .collect();
    let place = |at: Pa| stores.iter().position(|other| *other == at).unwrap();
    assert!(
        place(Pa(ring.0 + 8)) < place(Pa(ring.0 + 4)),
        "the slot, then its pointer"
    );
    assert!(
        place(Pa(ring.0 + 4)) < place(last),
        "then the request, whose state is in its last word"
    );
}

#[test]
fn buffered_ranges_that_a_slot_can_not_tell_apart_are_refused() {
    const MIB: u64 = 1 << 20;
    let rows = [
        ("the same", 0x100, 0x1ff, Err(Invalid)),
        ("inside", 0x110, 0x110, Err(Invalid)),
        ("around", 0, MIB - 1, Err(Invalid)),
        ("one byte in common", 0x1ff, 0x2ff, Err(Invalid)),
        ("beside, before", 0, 0xff, Ok(())),
        ("beside, behind", 0x200, 0x2ff, Ok(())),
        ("1 MiB further", MIB + 0x100, MIB + 0x1ff, Err(Invalid)),
        (
            "3 MiB further, one byte in common",
            3 * MIB + 0x1ff,
            3 * MIB + 0x2ff,
            Err(Invalid),
        ),
        ("1 MiB further, beside", MIB + 0x200, MIB + 0x2ff, Ok(())),
        (
            "over the border of a MiB, on to the other's first byte",
            MIB - 0x100,
            MIB + 0x100,
            Err(Invalid),
        ),
        (
            "over the border of a MiB, up to the other's",
            MIB - 0x100,
            MIB + 0xff,
            Ok(()),
        ),
        ("more than 1 MiB", MIB, 2 * MIB, Err(Invalid)),
        ("much more", MIB, 4 * MIB - 1, Err(Invalid)),
        ("beyond the range", 4 * MIB, 4 * MIB, Err(NoEntry)),
        ("partly beyond", 4 * MIB - 1, 4 * MIB, Err(NoEntry)),
    ];
    for (what, start, end, expected) in rows {
        let mut world = World::with_devices(1, Vec::new());
        let id = world.create(BACKEND).unwrap();
        let base = 0x1000_0000;
        let (servers, around, _) = world.parts();
        let _ = servers
            .map_range(BACKEND, &range(id, base, base + 4 * MIB - 1), true, &around)
            .unwrap();
        let mut attach = |start: u64, end: u64| {
            let range = Range::new(base + start, base + end).unwrap();
            servers.attach_buffered(BACKEND, id, range, true, true, around.memory)
        };
        assert_eq!(attach(0x100, 0x1ff), Ok(()));
        assert_eq!(attach(start, end), expected, "{what}");
    }
}

#[test]
fn ranges_of_different_servers_may_look_alike() {
    let mut world = World::with_devices(1, Vec::new());
    let base = 0x1000_0000_u64;
    for (owner, offset) in [(BACKEND, 0), (OTHER_BACKEND, 1 << 20)] {
        let id = world.create(owner).unwrap();
        let (servers, around, _) = world.parts();
        let mine = range(id, base + offset, base + offset + 0xff);
        let _ = servers.map_range(owner, &mine, true, &around).unwrap();
        let mine = Range::new(mine.start, mine.end).unwrap();
        assert_eq!(
            servers.attach_buffered(owner, id, mine, true, true, around.memory),
            Ok(())
        );
        assert_eq!(
            servers.attach_buffered(BACKEND, ServerId(0), mine, true, true, around.memory),
            if owner == BACKEND { Err(Invalid) } else { Err(NoEntry) }
        );
    }
}

#[test]
fn detaching_takes_exactly_what_is_named() {
    let mut world = World::new(1, OnFailure::Wait);
    let (id, _) = world.serving(BACKEND);
    attach(&mut world, id, bell(NOTIFY, 1, 0xff));
    attach(&mut world, id, bell(NOTIFY, 2, 0xff));
    buffer(&mut world, id, DEVICE + 0x80, DEVICE + 0x8f);
    let (servers, _, mut resources) = world.parts();
    let mut detach =
        |caller, id, kind, address, value| servers.detach(caller, id, (kind, address, value), &mut resources);
    let refused = [
        ("no such kind", BACKEND, id, 0, NOTIFY, 1, Invalid),
        ("a kind beyond", BACKEND, id, 5, NOTIFY, 1, Invalid),
        ("the last kind", BACKEND, id, u32::MAX, NOTIFY, 1, Invalid),
        (
            "another's server",
            OTHER_BACKEND,
            id,
            Detach::DOORBELL,
            NOTIFY,
            1,
            NotPermitted,
        ),
        (
            "no such server",
            BACKEND,
            ServerId(6),
            Detach::DOORBELL,
            NOTIFY,
            1,
            NoEntry,
        ),
        ("no such value", BACKEND, id, Detach::DOORBELL, NOTIFY, 3, NoEntry),
        (
            "no such register",
            BACKEND,
            id,
            Detach::DOORBELL,
            NOTIFY + 4,
            1,
            NoEntry,
        ),
        (
            "not where it begins",
            BACKEND,
            id,
            Detach::BUFFERED,
            DEVICE + 0x84,
            0,
            NoEntry,
        ),
        ("the other kind", BACKEND, id, Detach::BUFFERED, NOTIFY, 0, NoEntry),
    ];
    for (what, caller, id, kind, address, value, error) in refused {
        assert_eq!(detach(caller, id, kind, address, value), Err(error), "{what}");
    }
    assert_eq!(
        detach(BACKEND, id, Detach::DOORBELL, NOTIFY, 0x101),
        Ok(()),
        "under the mask"
    );
    assert_eq!(detach(BACKEND, id, Detach::DOORBELL, NOTIFY, 1), Err(NoEntry), "twice");
    assert_eq!(detach(BACKEND, id, Detach::BUFFERED, DEVICE + 0x80, 77), Ok(()));
    assert_eq!(
        detach(BACKEND, id, Detach::BUFFERED, DEVICE + 0x80, 0),
        Err(NoEntry),
        "twice"
    );
    assert_eq!((rings(&world, NOTIFY, Word, 1), doorbell_ports(&world)), (None, 1));
    assert!(rings(&world, NOTIFY, Word, 2).is_some());
    assert_eq!(world.begin(0, store(DEVICE + 0x80, Word, 1)), Begun::Accepted);
}

#[test]
fn a_target_that_starts_anew_keeps_attachments_and_loses_what_nobody_took() {
    let mut world = World::new(1, OnFailure::Wait);
    let (id, _) = world.serving(BACKEND);
    attach(&mut world, id, bell(NOTIFY, 0, 0));
    buffer(&mut world, id, DEVICE + 0x80, DEVICE + 0x8f);
    for number in 0..10 {
        assert_eq!(world.begin(0, store(DEVICE + 0x80, Word, number)), Begun::Posted);
    }
    world.servers.drop_posted(&world.machine);
    assert_eq!(pointers(&world, id), (0, 0));
    assert!(rings(&world, NOTIFY, Word, 0).is_some());
    let (begun, effects) = world.begin_with_effects(0, store(DEVICE + 0x80, Word, 10));
    assert_eq!(
        (begun, effects.notify.len()),
        (Begun::Posted, 1),
        "the server is told anew"
    );
}

#[test]
fn a_server_that_ruined_its_pointers_begins_again_with_its_first_range() {
    let mut world = World::new(1, OnFailure::Wait);
    let (id, _) = world.serving(BACKEND);
    let page = world.servers.frame(BACKEND, id.0.into(), 0).unwrap();
    let ruin = |world: &World| world.machine.poke(page, &[0xff; 4096]);
    let write = store(DEVICE + 0x80, Word, 1);
    world.machine.poke(page, &[0xff, 0, 0, 0, 3, 0, 0, 0]);
    buffer(&mut world, id, DEVICE + 0x80, DEVICE + 0x8f);
    assert_eq!(pointers(&world, id), (0, 0));
    assert_eq!(world.begin(0, write), Begun::Posted);
    ruin(&world);
    assert_eq!(world.begin(0, write), Begun::Posted, "all ones is an empty ring");
    world.machine.poke(page, &[9, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!(world.begin(0, write), Begun::Accepted);
    assert_eq!(pointers(&world, id), (9, 3), "left as it is");
}
