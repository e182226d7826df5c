//! The device state page: found by one operation, mapped by another, refused to everybody else.

use crate::host::{
    ACCELERATED, Action, BACKEND, DEVICE, FOREIGN_DEVICE, FakeHost, GUEST, MAXIMUM_GFN, SECOND_BACKEND, STATE_PAGE,
    STRANGER, UNMAPPED, VA,
};
use portunus::abi::HypercallError::{self, BadPointer, Invalid, NoEntry, NotPermitted, NotSupported};
use portunus::abi::dm_op::{self, Features, StatePage};
use portunus::abi::{hypercall, memory};
use portunus::hypercall::Outcome;
use portunus::ids::Pa;

use crate::calls::{attach, dm, event, memory_op};
use crate::errors::{dm as arguments, refused};

/// Where the list of guest frames is.
const LIST: u64 = VA + 0x200;

fn create(host: &mut FakeHost) -> u16 {
    dm(host, dm_op::CREATE_IOREQ_SERVER, dm_op::CreateIoreqServer::default()).id
}

fn page_of(id: u16, address: u64) -> StatePage {
    StatePage {
        id,
        address,
        ..Default::default()
    }
}

fn acquire(id: u16, frame: u64) -> memory::AcquireResource {
    memory::AcquireResource {
        domid: GUEST.0,
        id: id.into(),
        nr_frames: 1,
        frame,
        frame_list: LIST,
        ..Default::default()
    }
}

#[test]
fn a_backend_finds_and_maps_the_state_page_of_its_device() {
    let mut host = FakeHost::new(BACKEND);
    let id = create(&mut host);
    let features = dm(
        &mut host,
        dm_op::VENDOR_FEATURES,
        Features {
            id,
            ..Default::default()
        },
    );
    assert_ne!(features.features & Features::STATE_PAGE, 0);
    let found = dm(&mut host, dm_op::VENDOR_STATE_PAGE, page_of(id, ACCELERATED));
    assert_eq!(found.frame, 0x1001, "the second device by address");
    host.put(LIST, &0x7000_u64);
    memory_op(&mut host, memory::ACQUIRE_RESOURCE, acquire(id, found.frame));
    assert_eq!(host.actions.last(), Some(&Action::Resource(STATE_PAGE, 0x7000)));
}

#[test]
fn the_page_is_the_devices_whichever_server_asks_and_outlives_them() {
    let mut host = FakeHost::new(BACKEND);
    let (first, second) = (create(&mut host), create(&mut host));
    host.put(LIST, &0x7000_u64);
    for id in [first, second] {
        assert_eq!(
            dm(&mut host, dm_op::VENDOR_STATE_PAGE, page_of(id, ACCELERATED)).frame,
            0x1001
        );
        memory_op(&mut host, memory::ACQUIRE_RESOURCE, acquire(id, 0x1001));
    }
    host.machine.poke(Pa(STATE_PAGE.0 + 8), b"kept");
    for id in [first, second] {
        dm(
            &mut host,
            dm_op::DESTROY_IOREQ_SERVER,
            dm_op::DestroyIoreqServer { id, pad: 0 },
        );
    }
    assert_eq!(host.live_frames, 0, "of the servers' own frames");
    let successor = create(&mut host);
    host.put(LIST, &0x7001_u64);
    memory_op(&mut host, memory::ACQUIRE_RESOURCE, acquire(successor, 0x1001));
    assert_eq!(host.actions.last(), Some(&Action::Resource(STATE_PAGE, 0x7001)));
    assert_eq!(host.machine.peek(Pa(STATE_PAGE.0 + 8), 4), b"kept");

    host.servers.clear_state_pages(&host.machine);
    assert_eq!(host.machine.peek(STATE_PAGE, 4096), [0; 4096], "the guest started anew");
}

#[test]
fn the_operations_refuse_what_is_not_the_callers() {
    let mut host = FakeHost::new(BACKEND);
    let id = create(&mut host);
    let rows: &[(&str, StatePage, HypercallError)] = &[
        (
            "a pad",
            StatePage {
                pad: [0, 0, 1],
                ..page_of(id, ACCELERATED)
            },
            Invalid,
        ),
        (
            "a pad, before the server",
            StatePage {
                pad: [1, 0, 0],
                ..page_of(7, ACCELERATED)
            },
            Invalid,
        ),
        ("no such server", page_of(id + 1, ACCELERATED), NoEntry),
        ("no such id", page_of(0xffff, ACCELERATED), NoEntry),
        ("a device without", page_of(id, DEVICE), NotSupported),
        ("not the first byte", page_of(id, ACCELERATED + 1), Invalid),
        ("not the first word", page_of(id, ACCELERATED + 4), Invalid),
        ("the last byte", page_of(id, ACCELERATED + 0xfff), Invalid),
        ("within a device without", page_of(id, DEVICE + 0x200), Invalid),
        ("behind a device", page_of(id, DEVICE + 0x400), NotPermitted),
        ("another backend's device", page_of(id, FOREIGN_DEVICE), NotPermitted),
        ("no address", page_of(id, 0), NotPermitted),
        ("the last address", page_of(id, u64::MAX), NotPermitted),
    ];
    for (what, payload, expected) in rows {
        let arguments = arguments(&mut host, dm_op::VENDOR_STATE_PAGE, payload);
        refused(&mut host, what, hypercall::DM_OP, &arguments, *expected);
    }
    let features = Features {
        id,
        ..Default::default()
    };
    let rows = [
        (
            "features with a pad",
            Features {
                pad: [0, 1, 0],
                ..features
            },
            Invalid,
        ),
        ("features of no server", Features { id: id + 1, ..features }, NoEntry),
    ];
    for (what, payload, expected) in rows {
        let arguments = arguments(&mut host, dm_op::VENDOR_FEATURES, &payload);
        refused(&mut host, what, hypercall::DM_OP, &arguments, expected);
    }

    host.caller.domain = SECOND_BACKEND;
    let own = create(&mut host);
    let rows = [
        ("another's server", page_of(id, ACCELERATED)),
        ("another's device", page_of(own, ACCELERATED)),
    ];
    for (what, payload) in rows {
        let arguments = arguments(&mut host, dm_op::VENDOR_STATE_PAGE, &payload);
        refused(&mut host, what, hypercall::DM_OP, &arguments, NotPermitted);
    }
    let payload = arguments(&mut host, dm_op::VENDOR_FEATURES, &features);
    refused(
        &mut host,
        "another's features",
        hypercall::DM_OP,
        &payload,
        NotPermitted,
    );

    host.caller.domain = STRANGER;
    let payload = arguments(&mut host, dm_op::VENDOR_STATE_PAGE, &page_of(id, ACCELERATED));
    refused(&mut host, "a stranger", hypercall::DM_OP, &payload, NotPermitted);
}

#[test]
fn acquire_resource_refuses_frames_that_are_not_the_callers() {
    let mut host = FakeHost::new(BACKEND);
    let id = create(&mut host);
    host.put(LIST, &[0x7000_u64, 0x7001]);
    let good = acquire(id, 0x1001);
    let rows: &[(&str, memory::AcquireResource, HypercallError)] = &[
        ("just below", acquire(id, 0xfff), Invalid),
        ("a device without", acquire(id, 0x1000), Invalid),
        ("another backend's device", acquire(id, 0x1002), NotPermitted),
        ("beyond the last device", acquire(id, 0x1003), Invalid),
        ("frame 2^32 + 0x1001", acquire(id, 0x1_0000_1001), Invalid),
        ("the last frame", acquire(id, u64::MAX), Invalid),
        ("two frames", memory::AcquireResource { nr_frames: 2, ..good }, Invalid),
        ("no frames", memory::AcquireResource { nr_frames: 0, ..good }, Invalid),
        (
            "from Xen's frames on",
            memory::AcquireResource {
                frame: 1,
                nr_frames: 0x1001,
                ..good
            },
            Invalid,
        ),
        ("no such server", memory::AcquireResource { id: 7, ..good }, Invalid),
        (
            "no such id",
            memory::AcquireResource {
                id: 0x1_0000 + u32::from(id),
                ..good
            },
            Invalid,
        ),
        ("a pad", memory::AcquireResource { pad: 1, ..good }, Invalid),
        ("another kind", memory::AcquireResource { kind: 1, ..good }, Invalid),
        (
            "a stranger's",
            memory::AcquireResource {
                domid: STRANGER.0,
                ..good
            },
            NotPermitted,
        ),
        (
            "a list that faults",
            memory::AcquireResource {
                frame_list: UNMAPPED,
                ..good
            },
            BadPointer,
        ),
        ("no list", memory::AcquireResource { frame_list: 0, ..good }, Invalid),
    ];
    for (what, request, expected) in rows {
        host.put(VA, request);
        let call = [memory::ACQUIRE_RESOURCE, VA];
        refused(&mut host, what, hypercall::MEMORY_OP, &call, *expected);
    }
    host.put(LIST, &MAXIMUM_GFN);
    host.put(VA, &good);
    let call = [memory::ACQUIRE_RESOURCE, VA];
    refused(&mut host, "no such guest frame", hypercall::MEMORY_OP, &call, Invalid);

    host.put(LIST, &0x7000_u64);
    host.caller.domain = SECOND_BACKEND;
    let own = create(&mut host);
    for (what, server) in [("another's server", id), ("another's device", own)] {
        host.put(VA, &acquire(server, 0x1001));
        refused(&mut host, what, hypercall::MEMORY_OP, &call, NotPermitted);
    }
}

#[test]
fn a_server_of_which_only_the_id_is_left_has_no_state_page() {
    let mut host = FakeHost::new(BACKEND);
    let (id, _, ports) = attach(&mut host);
    for port in ports {
        event(
            &mut host,
            portunus::abi::evtchn::CLOSE,
            portunus::abi::evtchn::Port { port },
        );
    }
    let payload = arguments(&mut host, dm_op::VENDOR_STATE_PAGE, &page_of(id, ACCELERATED));
    refused(&mut host, "its page", hypercall::DM_OP, &payload, NoEntry);
    let payload = Features {
        id,
        ..Default::default()
    };
    let payload = arguments(&mut host, dm_op::VENDOR_FEATURES, &payload);
    refused(&mut host, "its features", hypercall::DM_OP, &payload, NoEntry);
    host.put(LIST, &0x7000_u64);
    host.put(VA, &acquire(id, 0x1001));
    let call = [memory::ACQUIRE_RESOURCE, VA];
    refused(&mut host, "its frame", hypercall::MEMORY_OP, &call, Invalid);
    let size = memory::AcquireResource {
        nr_frames: 0,
        frame: 0,
        frame_list: 0,
        ..acquire(id, 0)
    };
    host.put(VA, &size);
    assert_eq!(host.call(hypercall::MEMORY_OP, &call), Outcome::Return(0));
    assert_eq!(
        host.get::<memory::AcquireResource>(VA).nr_frames,
        2,
        "vendor frames are not counted"
    );
}
