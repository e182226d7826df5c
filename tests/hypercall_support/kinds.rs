//! Attaching kinds of ranges by hypercalls: every field, every refusal, ports as a backend binds them.

use crate::calls::{attach, dm, event};
use crate::errors::{dm as arguments, refused};
use crate::host::{
    Action, BACKEND, DEVICE, FOREIGN_DEVICE, FakeHost, GUEST, READ_ONLY, SECOND_BACKEND, SPI, STRANGER, UNMAPPED, VA,
};
use portunus::abi::HypercallError::{self, BadPointer, Exists, Invalid, NoEntry, NoSpace, NotPermitted};
use portunus::abi::dm_op::{
    self, AttachAck, AttachBuffered, AttachDoorbell, AttachShadow, Detach, Features, Replace, Update, WRITE_ONLY,
};
use portunus::abi::{evtchn, hypercall};
use portunus::access::{AccessWidth, Direction, MmioAccess};
use portunus::hypercall::Outcome;
use portunus::ids::{EventPort, Ipa, Pa};
use portunus::ioreq::{Begun, Effects};
use portunus::routing::{self, Domains};

const NOTIFY: u64 = DEVICE + 0x50;

fn doorbell(id: u16) -> AttachDoorbell {
    AttachDoorbell {
        id,
        flags: WRITE_ONLY,
        address: NOTIFY,
        mask: 0xffff,
        size: 4,
        ..Default::default()
    }
}

fn buffered(id: u16) -> AttachBuffered {
    AttachBuffered {
        id,
        flags: WRITE_ONLY,
        start: DEVICE + 0x80,
        end: DEVICE + 0x8f,
        ..Default::default()
    }
}

fn bind(host: &mut FakeHost, remote_port: u32) -> u32 {
    let bind = evtchn::BindInterdomain {
        remote_dom: GUEST.0,
        remote_port,
        ..Default::default()
    };
    event(host, evtchn::BIND_INTERDOMAIN, bind).local_port
}

fn write(address: u64, value: u64) -> MmioAccess {
    MmioAccess {
        ipa: Ipa(address),
        width: AccessWidth::Word,
        direction: Direction::Write(value),
    }
}

/// The guest writes: whether it rang.
fn rings(host: &mut FakeHost, address: u64, value: u64) -> bool {
    let ring = host.servers.doorbells().ring(&write(address, value));
    ring.is_some_and(|ring| routing::ring(host, GUEST, &ring))
}

fn guest_writes(host: &mut FakeHost, address: u64, value: u64) -> Begun {
    let mut effects = Effects::default();
    let begun = host.servers(GUEST, |servers, around, _| {
        servers.begin(0, write(address, value), around, &mut effects)
    });
    routing::perform(host, GUEST, &effects);
    begun.unwrap().unwrap()
}

/// Whether `port` of the backend is pending; it is not afterwards, and the backend has seen all its news.
fn take(host: &FakeHost, port: u32) -> bool {
    let shared = host.events(BACKEND).shared_info();
    let at = Pa(shared.0 + 48 + u64::from(port / 64) * 8);
    let word = u64::from_le_bytes(host.machine.peek(at, 8).try_into().unwrap());
    host.machine.memory(|memory| memory.zero(shared, 560));
    word >> (port % 64) & 1 != 0
}

#[test]
fn features_say_what_there_is() {
    let mut host = FakeHost::new(BACKEND);
    let (id, ..) = attach(&mut host);
    let features = Features {
        id,
        ..Default::default()
    };
    let there = dm(&mut host, dm_op::VENDOR_FEATURES, features).features;
    assert_eq!(there & (Features::BUFFERED | Features::DOORBELL), 6);
}

#[test]
fn a_doorbell_is_a_port_that_the_backend_binds_like_any_other() {
    let mut host = FakeHost::new(BACKEND);
    let (id, ..) = attach(&mut host);
    let port = dm(&mut host, dm_op::VENDOR_ATTACH_DOORBELL, doorbell(id)).port;
    assert!(port > 40, "above the guest's own");
    assert!(!rings(&mut host, NOTIFY, 0), "nobody has bound it");
    let local = bind(&mut host, port);
    assert!(take(&host, local), "a port starts pending");
    host.actions.clear();
    for _ in 0..3 {
        assert!(rings(&mut host, NOTIFY, 0xabcd_0000));
    }
    let told = |host: &FakeHost| {
        let news = host
            .actions
            .iter()
            .filter(|action| matches!(action, Action::Deliver(BACKEND, _)));
        news.count()
    };
    assert_eq!(told(&host), 1, "three rings, one event");
    assert!(take(&host, local));
    assert!(rings(&mut host, NOTIFY, 0));
    assert!(take(&host, local));
    assert!(!rings(&mut host, NOTIFY, 1), "another value");
    assert!(!take(&host, local));

    event(&mut host, evtchn::SEND, evtchn::Port { port: local });
    assert_eq!(told(&host), 2, "what the backend sends there is nobody's");
    event(&mut host, evtchn::CLOSE, evtchn::Port { port: local });
    assert!(!rings(&mut host, NOTIFY, 0));
    assert_eq!(guest_writes(&mut host, NOTIFY, 0), Begun::Accepted, "it is a request");
    let again = bind(&mut host, port);
    assert!(rings(&mut host, NOTIFY, 0), "bound again");
    assert!(take(&host, again));
}

#[test]
fn closing_a_doorbell_does_not_end_its_server_and_reset_closes_doorbells_too() {
    let mut host = FakeHost::new(BACKEND);
    let (id, _, ports) = attach(&mut host);
    let port = dm(&mut host, dm_op::VENDOR_ATTACH_DOORBELL, doorbell(id)).port;
    let local = bind(&mut host, port);
    event(&mut host, evtchn::CLOSE, evtchn::Port { port: local });
    assert_eq!(guest_writes(&mut host, DEVICE, 0), Begun::Accepted);
    assert!(host.servers.serving(0).is_some(), "the server has it");
    let _ = bind(&mut host, port);
    assert!(rings(&mut host, NOTIFY, 0));
    event(&mut host, evtchn::RESET, evtchn::Reset { dom: 0x7ff0 });
    assert!(!rings(&mut host, NOTIFY, 0));
    assert_eq!(host.servers.serving(0), None);
    assert_eq!(host.servers.doorbells().with(|table| table.entries().len()), 0);
    let status = |host: &FakeHost, port| host.events(GUEST).status(EventPort(port)).unwrap().status;
    assert_eq!(status(&host, port), evtchn::STATUS_CLOSED);
    let _ = ports;
}

#[test]
fn what_was_posted_is_found_in_frame_0_by_whoever_listens_at_the_servers_port() {
    let mut host = FakeHost::new(BACKEND);
    let (id, ..) = attach(&mut host);
    dm(&mut host, dm_op::VENDOR_ATTACH_BUFFERED, buffered(id));
    let info = dm_op::GetIoreqServerInfo {
        id,
        flags: dm_op::GetIoreqServerInfo::NO_GFNS,
        ..Default::default()
    };
    let port = dm(&mut host, dm_op::GET_IOREQ_SERVER_INFO, info).bufioreq_port;
    let local = bind(&mut host, port);
    assert!(take(&host, local));
    for value in 0..3 {
        assert_eq!(guest_writes(&mut host, DEVICE + 0x84, value), Begun::Posted);
        assert_eq!(take(&host, local), value == 0, "told once");
    }
    let page = host.servers.frame(BACKEND, id.into(), 0).unwrap();
    assert_eq!(host.machine.peek(page, 8), [0, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!(host.machine.peek(Pa(page.0 + 8 + 16), 8), [1, 0x48, 8, 0, 2, 0, 0, 0]);
    event(&mut host, evtchn::CLOSE, evtchn::Port { port: local });
    assert_eq!(guest_writes(&mut host, DEVICE + 0x84, 3), Begun::Accepted);
}

#[test]
fn every_field_of_a_doorbell_is_checked() {
    let mut host = FakeHost::new(BACKEND);
    let (id, ..) = attach(&mut host);
    let good = doorbell(id);
    let rows: &[(&str, AttachDoorbell, HypercallError)] = &[
        ("a pad", AttachDoorbell { pad: 1, ..good }, Invalid),
        (
            "a pad, before the server",
            AttachDoorbell { pad: 1, id: 9, ..good },
            Invalid,
        ),
        ("an unknown flag", AttachDoorbell { flags: 2, ..good }, Invalid),
        (
            "all flags",
            AttachDoorbell {
                flags: u32::MAX,
                ..good
            },
            Invalid,
        ),
        ("no such server", AttachDoorbell { id: id + 1, ..good }, NoEntry),
        ("no such id", AttachDoorbell { id: 0xffff, ..good }, NoEntry),
        ("no size", AttachDoorbell { size: 0, ..good }, Invalid),
        ("three bytes", AttachDoorbell { size: 3, ..good }, Invalid),
        ("sixteen bytes", AttachDoorbell { size: 16, ..good }, Invalid),
        (
            "2^32 - 4 bytes",
            AttachDoorbell {
                size: u32::MAX - 3,
                ..good
            },
            Invalid,
        ),
        (
            "not aligned",
            AttachDoorbell {
                address: NOTIFY + 2,
                ..good
            },
            Invalid,
        ),
        (
            "a value that four bytes do not have",
            AttachDoorbell {
                value: 1 << 32,
                mask: u64::MAX,
                ..good
            },
            Invalid,
        ),
        (
            "behind the range",
            AttachDoorbell {
                address: DEVICE + 0x200,
                ..good
            },
            NoEntry,
        ),
        (
            "behind the device",
            AttachDoorbell {
                address: DEVICE + 0x400,
                ..good
            },
            NotPermitted,
        ),
        (
            "before the device",
            AttachDoorbell {
                address: DEVICE - 4,
                ..good
            },
            NotPermitted,
        ),
        (
            "another backend's device",
            AttachDoorbell {
                address: FOREIGN_DEVICE,
                ..good
            },
            NotPermitted,
        ),
        (
            "the last address",
            AttachDoorbell {
                address: u64::MAX - 3,
                ..good
            },
            NotPermitted,
        ),
        ("address 0", AttachDoorbell { address: 0, ..good }, NotPermitted),
    ];
    for (what, payload, expected) in rows {
        let arguments = arguments(&mut host, dm_op::VENDOR_ATTACH_DOORBELL, payload);
        refused(&mut host, what, hypercall::DM_OP, &arguments, *expected);
    }
    let boundary = [
        AttachDoorbell { flags: 0, ..good },
        AttachDoorbell {
            address: DEVICE,
            size: 8,
            mask: u64::MAX,
            value: u64::MAX,
            ..good
        },
        AttachDoorbell {
            address: DEVICE + 0x1ff,
            size: 1,
            mask: u64::MAX,
            value: 0xff,
            ..good
        },
        AttachDoorbell {
            address: DEVICE + 0x1fc,
            size: 2,
            mask: 0,
            value: u64::MAX,
            ..good
        },
    ];
    for payload in boundary {
        dm(&mut host, dm_op::VENDOR_ATTACH_DOORBELL, payload);
    }
    let arguments = arguments(&mut host, dm_op::VENDOR_ATTACH_DOORBELL, &good);
    refused(&mut host, "a second time", hypercall::DM_OP, &arguments, Exists);
    host.caller.domain = SECOND_BACKEND;
    refused(
        &mut host,
        "another's server",
        hypercall::DM_OP,
        &arguments,
        NotPermitted,
    );
    host.caller.domain = STRANGER;
    refused(&mut host, "a stranger", hypercall::DM_OP, &arguments, NotPermitted);
}

#[test]
fn every_field_of_a_buffered_range_is_checked() {
    let mut host = FakeHost::new(BACKEND);
    let (id, ..) = attach(&mut host);
    let good = buffered(id);
    let rows: &[(&str, AttachBuffered, HypercallError)] = &[
        ("a pad", AttachBuffered { pad: 0x100, ..good }, Invalid),
        ("an unknown flag", AttachBuffered { flags: 3, ..good }, Invalid),
        (
            "backwards",
            AttachBuffered {
                end: good.start - 1,
                ..good
            },
            Invalid,
        ),
        ("no such server", AttachBuffered { id: id + 1, ..good }, NoEntry),
        (
            "one byte too many",
            AttachBuffered {
                end: DEVICE + 0x200,
                ..good
            },
            NoEntry,
        ),
        (
            "one byte too early",
            AttachBuffered {
                start: DEVICE - 1,
                ..good
            },
            NotPermitted,
        ),
        (
            "everything",
            AttachBuffered {
                start: 0,
                end: u64::MAX,
                ..good
            },
            Invalid,
        ),
        (
            "more than 1 MiB, before the server",
            AttachBuffered {
                id: id + 1,
                end: good.start + 0x10_0000,
                ..good
            },
            Invalid,
        ),
        (
            "1 MiB",
            AttachBuffered {
                end: good.start + 0xf_ffff,
                ..good
            },
            NotPermitted,
        ),
        (
            "the end of the world",
            AttachBuffered {
                start: u64::MAX,
                end: u64::MAX,
                ..good
            },
            NotPermitted,
        ),
        (
            "another backend's",
            AttachBuffered {
                start: FOREIGN_DEVICE,
                end: FOREIGN_DEVICE,
                ..good
            },
            NotPermitted,
        ),
    ];
    for (what, payload, expected) in rows {
        let arguments = arguments(&mut host, dm_op::VENDOR_ATTACH_BUFFERED, payload);
        refused(&mut host, what, hypercall::DM_OP, &arguments, *expected);
    }
    for (start, end) in [(0, 0), (0x1ff, 0x1ff), (1, 0x7f)] {
        let payload = AttachBuffered {
            start: DEVICE + start,
            end: DEVICE + end,
            flags: 0,
            ..good
        };
        dm(&mut host, dm_op::VENDOR_ATTACH_BUFFERED, payload);
    }
    dm(&mut host, dm_op::VENDOR_ATTACH_BUFFERED, good);
    let arguments = arguments(&mut host, dm_op::VENDOR_ATTACH_BUFFERED, &good);
    refused(&mut host, "a second time", hypercall::DM_OP, &arguments, Invalid);
    host.caller.domain = SECOND_BACKEND;
    refused(
        &mut host,
        "another's server",
        hypercall::DM_OP,
        &arguments,
        NotPermitted,
    );
}

#[test]
fn every_other_operation_checks_pads_server_and_rights() {
    let mut host = FakeHost::new(BACKEND);
    let (id, ..) = attach(&mut host);
    macro_rules! refuses {
        ($op:expr, $good:expr, $($what:literal { $($change:tt)* } $error:expr),* $(,)?) => {$(
            let payload = { let mut payload = $good; payload.$($change)*; payload };
            let call = arguments(&mut host, $op, &payload);
            refused(&mut host, $what, hypercall::DM_OP, &call, $error);
        )*};
    }
    let shadow = AttachShadow {
        id,
        address: DEVICE & !0xfff,
        ..Default::default()
    };
    refuses!(dm_op::VENDOR_ATTACH_SHADOW, shadow,
        "shadow: pad" { pad = 1 } Invalid,
        "shadow: flags" { flags = 2 } Invalid,
        "shadow: second pad" { pad2 = 1 } Invalid,
        "shadow: server" { id = 7 } NoEntry,
        "shadow: another's page" { address = FOREIGN_DEVICE & !0xfff } NotPermitted,
    );
    let ack = AttachAck {
        id,
        irq: SPI,
        address: DEVICE + 0x64,
        offset: 0x60,
        ..Default::default()
    };
    refuses!(dm_op::VENDOR_ATTACH_ACK, ack,
        "ack: pad" { pad = 1 } Invalid,
        "ack: second pad" { pad2 = 1 } Invalid,
        "ack: an SGI" { irq = 0 } Invalid,
        "ack: a PPI" { irq = 31 } Invalid,
        "ack: beyond the SPIs" { irq = 96 } Invalid,
        "ack: no INTID" { irq = u32::MAX } Invalid,
        "ack: another's interrupt" { irq = SPI + 1 } NotPermitted,
        "ack: another's register" { address = FOREIGN_DEVICE } NotPermitted,
        "ack: server" { id = 7 } NoEntry,
    );
    let detach = Detach {
        id,
        kind: Detach::DOORBELL,
        address: NOTIFY,
        ..Default::default()
    };
    refuses!(dm_op::VENDOR_DETACH, detach,
        "detach: pad" { pad = 1 } Invalid,
        "detach: server" { id = 7 } NoEntry,
        "detach: no kind" { kind = 0 } Invalid,
        "detach: unknown kind" { kind = 5 } Invalid,
        "detach: no doorbell" { value = 1 } NoEntry,
        "detach: no buffered range" { kind = Detach::BUFFERED } NoEntry,
    );
    let update = Update {
        id,
        address: DEVICE + 0x64,
        ..Default::default()
    };
    refuses!(dm_op::VENDOR_UPDATE, update,
        "update: pad" { pad = 1 } Invalid,
        "update: flags" { flags = 1 } Invalid,
        "update: server" { id = 7 } NoEntry,
    );
    let replace = Replace {
        id,
        address: DEVICE & !0xfff,
        ..Default::default()
    };
    refuses!(dm_op::VENDOR_REPLACE, replace,
        "replace: pad" { pad = 1 } Invalid,
        "replace: flags" { flags = 1 } Invalid,
        "replace: server" { id = 7 } NoEntry,
    );
    for op in [
        dm_op::VENDOR_ATTACH_DOORBELL,
        dm_op::VENDOR_ATTACH_SHADOW,
        dm_op::VENDOR_REPLACE,
    ] {
        for (what, pointer) in [("read-only", READ_ONLY), ("nothing", UNMAPPED)] {
            host.put(VA, &dm_op::Buffer { pointer, size: 64 });
            host.put(READ_ONLY, &dm_op::Header { op, pad: 0 });
            refused(&mut host, what, hypercall::DM_OP, &[1, 1, VA], BadPointer);
        }
    }
}

#[test]
fn ten_thousand_attaches_use_what_a_server_may_have_and_no_more() {
    let mut host = FakeHost::new(BACKEND);
    let (id, ..) = attach(&mut host);
    let in_use = host.events(GUEST).in_use();
    let mut attached = Vec::new();
    for number in 0..10_000_u64 {
        let payload = AttachDoorbell {
            value: number,
            mask: u64::MAX,
            ..doorbell(id)
        };
        let arguments = arguments(&mut host, dm_op::VENDOR_ATTACH_DOORBELL, &payload);
        match host.call(hypercall::DM_OP, &arguments) {
            Outcome::Return(0) => attached.push(number),
            Outcome::Return(error) => assert_eq!(error, NoSpace.register()),
            outcome => panic!("{outcome:?}"),
        }
    }
    assert_eq!(attached, (0..64).collect::<Vec<_>>());
    assert_eq!(host.events(GUEST).in_use().1, in_use.1 + 64);
    let (mut first, mut later) = (0, 0);
    for number in 0..10_000_u64 {
        let start = DEVICE + 0x80 + number % 0x100;
        let payload = AttachBuffered {
            start,
            end: start,
            ..buffered(id)
        };
        let arguments = arguments(&mut host, dm_op::VENDOR_ATTACH_BUFFERED, &payload);
        match host.call(hypercall::DM_OP, &arguments) {
            Outcome::Return(0) => first += 1,
            Outcome::Return(error) if number < 256 => assert_eq!(error, NoSpace.register()),
            Outcome::Return(error) => {
                later += 1;
                let expected = if number % 0x100 < 64 { Invalid } else { NoSpace };
                assert_eq!(error, expected.register());
            }
            outcome => panic!("{outcome:?}"),
        }
    }
    assert_eq!((first, later), (64, 10_000 - 256));

    // Attached and detached a thousand times, nothing is used up.
    for number in 0..1_000_u64 {
        let value = number % 64;
        dm(
            &mut host,
            dm_op::VENDOR_DETACH,
            Detach {
                id,
                kind: Detach::DOORBELL,
                address: NOTIFY,
                value,
                ..Default::default()
            },
        );
        let payload = AttachDoorbell {
            value,
            mask: u64::MAX,
            ..doorbell(id)
        };
        dm(&mut host, dm_op::VENDOR_ATTACH_DOORBELL, payload);
    }
    assert_eq!(host.events(GUEST).in_use().1, in_use.1 + 64);
    dm(
        &mut host,
        dm_op::DESTROY_IOREQ_SERVER,
        dm_op::DestroyIoreqServer { id, pad: 0 },
    );
    assert_eq!((host.events(GUEST).in_use().1, host.live_frames), (0, 0));
}

#[test]
fn a_guest_that_rings_while_its_doorbell_goes_makes_a_request_instead() {
    let mut host = FakeHost::new(BACKEND);
    let (id, ..) = attach(&mut host);
    let port = dm(&mut host, dm_op::VENDOR_ATTACH_DOORBELL, doorbell(id)).port;
    let local = bind(&mut host, port);
    assert!(take(&host, local));
    // The guest's vCPU has found the doorbell; before it reaches the port, the backend detaches.
    let table = host.servers.doorbells();
    let ring = table.ring(&write(NOTIFY, 0)).unwrap();
    dm(
        &mut host,
        dm_op::VENDOR_DETACH,
        Detach {
            id,
            kind: Detach::DOORBELL,
            address: NOTIFY,
            ..Default::default()
        },
    );
    assert!(
        !routing::ring(&mut host, GUEST, &ring),
        "the ports are not connected any more"
    );
    table.missed(&ring);
    assert_eq!(host.servers.report(portunus::ids::ServerId(id)).unwrap().posted, 0);
    assert!(!take(&host, local), "and nothing came of it");
    assert_eq!(guest_writes(&mut host, NOTIFY, 0), Begun::Accepted, "it is not lost");

    // The port is closed in between, or given to another doorbell.
    let mut host = FakeHost::new(BACKEND);
    let (id, ..) = attach(&mut host);
    let port = dm(&mut host, dm_op::VENDOR_ATTACH_DOORBELL, doorbell(id)).port;
    let local = bind(&mut host, port);
    let ring = host.servers.doorbells().ring(&write(NOTIFY, 0)).unwrap();
    event(&mut host, evtchn::CLOSE, evtchn::Port { port: local });
    let other = dm(
        &mut host,
        dm_op::VENDOR_ATTACH_DOORBELL,
        AttachDoorbell {
            value: 1,
            ..doorbell(id)
        },
    );
    assert_eq!(bind(&mut host, other.port), local, "the number is used again");
    assert!(take(&host, local));
    assert!(!routing::ring(&mut host, GUEST, &ring));
    assert!(!take(&host, local), "it is the other doorbell's");
}

#[test]
fn a_target_that_starts_anew_takes_back_what_nobody_has_seen() {
    let mut host = FakeHost::new(BACKEND);
    let (id, ..) = attach(&mut host);
    let port = dm(&mut host, dm_op::VENDOR_ATTACH_DOORBELL, doorbell(id)).port;
    let local = bind(&mut host, port);
    let unbound = dm(
        &mut host,
        dm_op::VENDOR_ATTACH_DOORBELL,
        AttachDoorbell {
            value: 1,
            ..doorbell(id)
        },
    );
    assert!(take(&host, local));
    assert!(rings(&mut host, NOTIFY, 0));
    routing::forget_posted(&mut host, GUEST);
    assert!(!take(&host, local));
    assert!(rings(&mut host, NOTIFY, 0), "it is still there");
    let _ = bind(&mut host, unbound.port);
    assert!(rings(&mut host, NOTIFY, 1));
}
