//! Hostile parameters of the operations on shadow pages: the error of each, and that nothing has changed.

use portunus::abi::HypercallError::{self, Exists, Invalid, NoEntry, NoSpace, NotPermitted};
use portunus::abi::dm_op::{self, AttachAck, AttachShadow, Detach, Features, Replace, Update};
use portunus::ids::VcpuId;

use crate::backend::PAGES;
use crate::guest::{refused, vcpu};
use crate::shadow_server::{B0, FRAME, INTERRUPT_ACK, SHADOW, page, register, world};
use crate::sim::Sim;
use crate::world::{DISK, DISK_INTERRUPT, GUEST, Options, STRANGER};

/// Everything that such an operation could change.
fn figures(sim: &Sim) -> (String, u64, u64, String) {
    let shadow = sim.with_shadow(|shadow| format!("{shadow:?}"));
    let free = sim.domain(GUEST).memory.lock().pool.free_frames();
    let server = sim.mapping(crate::world::BACKEND, SHADOW << 12);
    (shadow, free, sim.references_to_shadow(), format!("{server:?}"))
}

#[test]
fn the_feature_is_told() {
    let sim = world();
    let id = sim.create_server(B0).expect("a server");
    let (result, features) = sim.dm_op(
        B0,
        dm_op::VENDOR_FEATURES,
        Features {
            id,
            ..Default::default()
        },
    );
    assert_eq!((result, features.features & Features::SHADOW), (0, Features::SHADOW));
}

#[test]
fn a_page_that_is_none_is_refused() {
    let sim = world();
    let server = sim.prepare(B0, PAGES);
    let other = sim.create_server(B0).expect("a server");
    let right = page(server.id);
    let before = figures(&sim);
    let rows: [(&str, AttachShadow, HypercallError); 13] = [
        ("a pad", AttachShadow { pad: 1, ..right }, Invalid),
        ("another pad", AttachShadow { pad2: 1, ..right }, Invalid),
        ("flags", AttachShadow { flags: 2, ..right }, Invalid),
        (
            "half a page",
            AttachShadow {
                address: DISK + 0x800,
                ..right
            },
            Invalid,
        ),
        (
            "a byte on",
            AttachShadow {
                address: DISK + 1,
                ..right
            },
            Invalid,
        ),
        (
            "a failure beyond the page",
            AttachShadow {
                failure_offset: 0x1000,
                ..right
            },
            Invalid,
        ),
        (
            "a failure across words",
            AttachShadow {
                failure_offset: 2,
                ..right
            },
            Invalid,
        ),
        (
            "a failure far away",
            AttachShadow {
                failure_offset: 0xffff_fffc,
                ..right
            },
            Invalid,
        ),
        ("no such server", AttachShadow { id: 7, ..right }, NoEntry),
        (
            "a server without the range",
            AttachShadow { id: other, ..right },
            NoEntry,
        ),
        (
            "the page after the device",
            AttachShadow {
                address: DISK + 0x1000,
                ..right
            },
            NotPermitted,
        ),
        (
            "memory",
            AttachShadow {
                address: crate::world::RAM,
                ..right
            },
            NotPermitted,
        ),
        (
            "the last page",
            AttachShadow {
                address: 0xffff_ffff_ffff_f000,
                ..right
            },
            NotPermitted,
        ),
    ];
    for (what, request, error) in rows {
        assert_eq!(sim.attach_shadow(request), Err(refused(error)), "{what}");
        assert_eq!(figures(&sim), before, "{what}");
    }
    assert_eq!(sim.attach_shadow(right), Ok(FRAME));
    let before = figures(&sim);
    for _ in 0..100 {
        assert_eq!(sim.attach_shadow(right), Err(refused(Exists)));
    }
    assert_eq!(figures(&sim), before);
    // Ten thousand attaches and detaches leave nothing behind.
    let frames = before.1;
    sim.forget_log();
    for _ in 0..10_000 {
        assert_eq!(sim.detach(server.id, Detach::SHADOW, DISK), 0);
        assert_eq!(sim.attach_shadow(right), Ok(FRAME));
    }
    assert_eq!(sim.domain(GUEST).memory.lock().pool.free_frames(), frames);
}

#[test]
fn a_device_without_frames_has_no_page_and_a_stranger_has_no_say() {
    let sim = Sim::new(&Options {
        disk: "reg = <0 0x2000000 0 0x1000>;",
        ..Options::default()
    });
    let server = sim.prepare(B0, PAGES);
    assert_eq!(sim.attach_shadow(page(server.id)), Err(refused(NotPermitted)));
    let other = sim.create_server(B0).expect("a server");
    assert_eq!(
        sim.attach_shadow(page(other)),
        Err(refused(NoEntry)),
        "it does not have the range, which is looked at before"
    );
    let stranger: VcpuId = vcpu(STRANGER, 0);
    let request = page(server.id);
    assert_eq!(
        sim.dm_op(stranger, dm_op::VENDOR_ATTACH_SHADOW, request).0,
        refused(NotPermitted)
    );
    assert_eq!(
        sim.dm_op(stranger, dm_op::VENDOR_ATTACH_ACK, register(server.id)).0,
        refused(NotPermitted)
    );
    assert_eq!(sim.acquire_from(B0, server.id, (FRAME, 1), SHADOW), refused(Invalid));
}

#[test]
fn a_device_of_two_pages_shows_one_at_a_time() {
    let sim = Sim::new(&Options {
        disk: "portunus,accel; reg = <0 0x2000000 0 0x2000>;",
        ..Options::default()
    });
    let id = sim.create_server(B0).expect("a server");
    assert_eq!(sim.map_range(B0, id, DISK, DISK + 0x1fff), 0);
    assert_eq!(sim.attach_shadow(page(id)), Ok(FRAME));
    let second = AttachShadow {
        address: DISK + 0x1000,
        ..page(id)
    };
    assert_eq!(sim.attach_shadow(second), Err(refused(NoSpace)));
    assert_eq!(sim.detach(id, Detach::SHADOW, DISK + 0x1000), refused(NoEntry));
    let elsewhere = AttachAck {
        address: DISK + 0x1000 + INTERRUPT_ACK,
        ..register(id)
    };
    assert_eq!(sim.attach_ack(elsewhere), refused(NoEntry));
    assert_eq!(sim.detach(id, Detach::SHADOW, DISK), 0);
    assert_eq!(sim.attach_shadow(second), Ok(FRAME));
}

#[test]
fn a_register_that_can_not_acknowledge_is_refused() {
    let sim = world();
    let server = sim.prepare(B0, PAGES);
    let right = register(server.id);
    assert_eq!(sim.attach_ack(right), refused(NoEntry), "no page");
    assert_eq!(sim.attach_shadow(page(server.id)), Ok(FRAME));
    let before = figures(&sim);
    let rows: [(&str, AttachAck, HypercallError); 13] = [
        ("a pad", AttachAck { pad: 1, ..right }, Invalid),
        ("another pad", AttachAck { pad2: 1, ..right }, Invalid),
        (
            "half a word",
            AttachAck {
                address: right.address + 2,
                ..right
            },
            Invalid,
        ),
        ("a word across words", AttachAck { offset: 0x62, ..right }, Invalid),
        (
            "a word beyond the page",
            AttachAck {
                offset: 0x1000,
                ..right
            },
            Invalid,
        ),
        (
            "a word far away",
            AttachAck {
                offset: 0xffff_fffc,
                ..right
            },
            Invalid,
        ),
        ("a private interrupt", AttachAck { irq: 27, ..right }, Invalid),
        ("no interrupt", AttachAck { irq: 1023, ..right }, Invalid),
        ("an interrupt beyond all", AttachAck { irq: u32::MAX, ..right }, Invalid),
        (
            "another device's interrupt",
            AttachAck {
                irq: DISK_INTERRUPT + 2,
                ..right
            },
            NotPermitted,
        ),
        ("no such server", AttachAck { id: 7, ..right }, NoEntry),
        (
            "another page",
            AttachAck {
                address: DISK + 0x1000,
                ..right
            },
            NotPermitted,
        ),
        (
            "the last word",
            AttachAck {
                address: 0xffff_ffff_ffff_fffc,
                ..right
            },
            NotPermitted,
        ),
    ];
    for (what, request, error) in rows {
        assert_eq!(sim.attach_ack(request), refused(error), "{what}");
        assert_eq!(figures(&sim), before, "{what}");
    }
    assert_eq!(sim.attach_ack(right), 0);
    let before = figures(&sim);
    let rows = [
        ("the same again", right),
        (
            "the same word",
            AttachAck {
                address: DISK + 0x200,
                ..right
            },
        ),
        ("the same register", AttachAck { offset: 0x300, ..right }),
        (
            "the same interrupt",
            AttachAck {
                address: DISK + 0x200,
                offset: 0x300,
                ..right
            },
        ),
    ];
    for (what, request) in rows {
        assert_eq!(sim.attach_ack(request), refused(Exists), "{what}");
        assert_eq!(figures(&sim), before, "{what}");
    }
}

#[test]
fn changes_of_what_is_not_there_are_refused() {
    let sim = world();
    let server = sim.serve_shown(PAGES);
    let other = sim.create_server(B0).expect("a server");
    let before = figures(&sim);
    let right = Update {
        id: server.id,
        address: DISK + INTERRUPT_ACK,
        set: 1,
        ..Default::default()
    };
    let rows = [
        ("a pad", Update { pad: 1, ..right }, Invalid),
        ("flags", Update { flags: 1, ..right }, Invalid),
        ("no such server", Update { id: 7, ..right }, NoEntry),
        ("another server", Update { id: other, ..right }, NoEntry),
        (
            "another register",
            Update {
                address: DISK + 0x60,
                ..right
            },
            NoEntry,
        ),
        (
            "a byte of it",
            Update {
                address: right.address + 1,
                ..right
            },
            NoEntry,
        ),
        (
            "nowhere",
            Update {
                address: u64::MAX,
                ..right
            },
            NoEntry,
        ),
    ];
    for (what, request, error) in rows {
        assert_eq!(sim.dm_op(B0, dm_op::VENDOR_UPDATE, request).0, refused(error), "{what}");
        assert_eq!(figures(&sim), before, "{what}");
    }
    let right = Replace {
        id: server.id,
        address: DISK,
        ..Default::default()
    };
    let rows = [
        ("a pad", Replace { pad: 1, ..right }, Invalid),
        ("flags", Replace { flags: 1, ..right }, Invalid),
        ("another server", Replace { id: other, ..right }, NoEntry),
        (
            "half a page",
            Replace {
                address: DISK + 0x800,
                ..right
            },
            NoEntry,
        ),
        (
            "nowhere",
            Replace {
                address: u64::MAX,
                ..right
            },
            NoEntry,
        ),
    ];
    for (what, request, error) in rows {
        assert_eq!(
            sim.dm_op(B0, dm_op::VENDOR_REPLACE, request).0,
            refused(error),
            "{what}"
        );
        assert_eq!(figures(&sim), before, "{what}");
    }
    let rows = [
        (server.id, Detach::SHADOW, DISK + 0x1000, NoEntry),
        (server.id, Detach::ACK, DISK, NoEntry),
        (other, Detach::SHADOW, DISK, NoEntry),
        (other, Detach::ACK, DISK + INTERRUPT_ACK, NoEntry),
        (server.id, 0, DISK, Invalid),
        (server.id, 5, DISK, Invalid),
    ];
    for (id, kind, address, error) in rows {
        assert_eq!(
            sim.detach(id, kind, address),
            refused(error),
            "{id} {kind} {address:#x}"
        );
        assert_eq!(figures(&sim), before);
    }
}

#[test]
fn frames_that_are_none_are_not_mapped() {
    let sim = world();
    let server = sim.serve_shown(PAGES);
    let other = sim.create_server(B0).expect("a server");
    let before = figures(&sim);
    let rows = [
        (server.id, (FRAME + 2, 1), SHADOW + 4),
        (server.id, (FRAME + 1, 0), SHADOW + 4),
        (server.id, (FRAME, 3), SHADOW + 4),
        (server.id, (FRAME, u32::MAX), SHADOW + 4),
        (server.id, (u64::MAX, 1), SHADOW + 4),
        (server.id, (FRAME + 0x1000, 1), SHADOW + 4),
        (other, (FRAME, 1), SHADOW + 4),
    ];
    for (id, frames, gfn) in rows {
        assert_eq!(
            sim.acquire_from(B0, id, frames, gfn),
            refused(Invalid),
            "{id} {frames:?}"
        );
        assert_eq!(figures(&sim), before);
    }
    // A place beyond the caller's map: the frame is nowhere then, and nobody holds a reference.
    assert_eq!(
        sim.acquire_from(B0, server.id, (FRAME, 1), u64::MAX >> 12),
        refused(Invalid)
    );
    assert_eq!(sim.references_to_shadow(), 1);
    assert_eq!(sim.acquire_from(B0, server.id, (FRAME, 1), SHADOW), 0);
    assert_eq!(figures(&sim), before);
}
