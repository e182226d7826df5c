//! What dm_op refuses, and in which order.

use crate::host::{self, BACKEND, DEVICE, FakeHost, SPI, STRANGER, UNMAPPED, VA};
use portunus::abi::HypercallError::{
    BadPointer, Exists, Invalid, NoData, NoDomain, NoEntry, NotPermitted, NotSupported, TooManyArguments,
};
use portunus::abi::{dm_op, hypercall};
use portunus::hypercall::Outcome;

use crate::errors::{NOBODY, SELF, create, dm, dm_padded, refused};

#[test]
fn dm_op_checks_in_xens_order() {
    let mut host = FakeHost::new(BACKEND);
    let nothing = [0u64; 3];
    let mut row = |what: &str, arguments: [u64; 3], expected| {
        refused(&mut host, what, hypercall::DM_OP, &arguments, expected);
    };
    row("no buffers, before the domain", [SELF.into(), 0, 0], NoData);
    row("three buffers", [SELF.into(), 3, 0], TooManyArguments);
    row("2^32 - 1 buffers", [SELF.into(), u32::MAX.into(), 0], TooManyArguments);
    row(
        "the second buffer's description faults",
        [1, 2, UNMAPPED - 16],
        BadPointer,
    );
    row("itself by name", [SELF.into(), 1, VA], NotPermitted);
    row("itself by number", [BACKEND.0.into(), 1, VA], NotPermitted);
    row(
        "a domain that it does not serve",
        [STRANGER.0.into(), 1, VA],
        NotPermitted,
    );
    for nobody in NOBODY {
        row("a domain that does not exist", [nobody.into(), 1, VA], NoDomain);
    }
    for size in 0..8 {
        host.put(
            VA,
            &dm_op::Buffer {
                pointer: VA + 0x100,
                size,
            },
        );
        refused(
            &mut host,
            &format!("{size} bytes"),
            hypercall::DM_OP,
            &[1, 1, VA],
            BadPointer,
        );
    }
    for op in (7..19).chain([0, 21, 22, dm_op::VENDOR_FIRST - 1, dm_op::VENDOR_FIRST + 9, u32::MAX]) {
        let arguments = dm_padded(&mut host, op, 1, &nothing, 8);
        refused(
            &mut host,
            &format!("operation {op}"),
            hypercall::DM_OP,
            &arguments,
            NotSupported,
        );
    }
    let sizes = [
        (1, 6),
        (2, 24),
        (3, 24),
        (4, 24),
        (5, 4),
        (6, 4),
        (19, 8),
        (20, 4),
        (dm_op::VENDOR_FEATURES, 16),
        (dm_op::VENDOR_STATE_PAGE, 24),
        (dm_op::VENDOR_ATTACH_BUFFERED, 24),
        (dm_op::VENDOR_ATTACH_DOORBELL, 40),
        (dm_op::VENDOR_ATTACH_SHADOW, 40),
        (dm_op::VENDOR_ATTACH_ACK, 24),
        (dm_op::VENDOR_DETACH, 24),
        (dm_op::VENDOR_UPDATE, 24),
        (dm_op::VENDOR_REPLACE, 24),
    ];
    for (op, size) in sizes {
        let arguments = dm_padded(&mut host, op, 1, &nothing, 8 + size - 1);
        refused(
            &mut host,
            &format!("{op} a byte short, before its pad"),
            hypercall::DM_OP,
            &arguments,
            BadPointer,
        );
        let arguments = dm_padded(&mut host, op, 1, &nothing, 8 + size);
        refused(
            &mut host,
            &format!("{op} with a pad"),
            hypercall::DM_OP,
            &arguments,
            Invalid,
        );
    }
    host.put(
        VA,
        &dm_op::Buffer {
            pointer: u64::MAX - 4,
            size: 64,
        },
    );
    refused(
        &mut host,
        "a buffer at the end of the world",
        hypercall::DM_OP,
        &[1, 1, VA],
        BadPointer,
    );
    let mut stranger = FakeHost::new(STRANGER);
    let arguments = dm(&mut stranger, dm_op::NR_VCPUS, &dm_op::NrVcpus::default());
    refused(&mut stranger, "a stranger", hypercall::DM_OP, &arguments, NotPermitted);
}

#[test]
fn dm_op_refuses_bad_payloads() {
    let mut host = FakeHost::new(BACKEND);
    let id = create(&mut host);
    macro_rules! row {
        ($what:literal, $op:ident, $payload:expr, $expected:expr) => {
            let arguments = dm(&mut host, dm_op::$op, &$payload);
            refused(&mut host, $what, hypercall::DM_OP, &arguments, $expected);
        };
    }
    let create = dm_op::CreateIoreqServer::default();
    row!(
        "pad",
        CREATE_IOREQ_SERVER,
        dm_op::CreateIoreqServer {
            pad: [0, 0, 1],
            ..create
        },
        Invalid
    );
    row!(
        "buffered",
        CREATE_IOREQ_SERVER,
        dm_op::CreateIoreqServer {
            handle_bufioreq: 2,
            ..create
        },
        Invalid
    );
    let info = dm_op::GetIoreqServerInfo {
        id,
        ..Default::default()
    };
    row!("with gfns", GET_IOREQ_SERVER_INFO, info, NotSupported);
    row!(
        "flags",
        GET_IOREQ_SERVER_INFO,
        dm_op::GetIoreqServerInfo { flags: 3, ..info },
        Invalid
    );
    row!(
        "no such id",
        GET_IOREQ_SERVER_INFO,
        dm_op::GetIoreqServerInfo {
            id: 5,
            flags: 1,
            ..info
        },
        NoEntry
    );
    let range = dm_op::IoRange {
        id,
        pad: 0,
        kind: 1,
        start: DEVICE,
        end: DEVICE + 0x1ff,
    };
    row!(
        "pad",
        MAP_IO_RANGE_TO_IOREQ_SERVER,
        dm_op::IoRange { pad: 1, ..range },
        Invalid
    );
    row!(
        "backwards",
        MAP_IO_RANGE_TO_IOREQ_SERVER,
        dm_op::IoRange {
            end: DEVICE - 1,
            ..range
        },
        Invalid
    );
    row!(
        "no such id",
        MAP_IO_RANGE_TO_IOREQ_SERVER,
        dm_op::IoRange { id: 0xffff, ..range },
        NoEntry
    );
    row!(
        "no such kind",
        MAP_IO_RANGE_TO_IOREQ_SERVER,
        dm_op::IoRange {
            kind: u32::MAX,
            ..range
        },
        Invalid
    );
    row!(
        "not its device",
        MAP_IO_RANGE_TO_IOREQ_SERVER,
        dm_op::IoRange {
            end: DEVICE + 0x400,
            ..range
        },
        NotPermitted
    );
    row!(
        "everything",
        MAP_IO_RANGE_TO_IOREQ_SERVER,
        dm_op::IoRange {
            start: 0,
            end: u64::MAX,
            ..range
        },
        NotPermitted
    );
    row!(
        "pad",
        UNMAP_IO_RANGE_FROM_IOREQ_SERVER,
        dm_op::IoRange { pad: 1, ..range },
        Invalid
    );
    row!("not mapped", UNMAP_IO_RANGE_FROM_IOREQ_SERVER, range, NoEntry);
    row!(
        "backwards",
        UNMAP_IO_RANGE_FROM_IOREQ_SERVER,
        dm_op::IoRange {
            start: 1,
            end: 0,
            ..range
        },
        Invalid
    );
    let state = dm_op::SetIoreqServerState { id, enabled: 1, pad: 0 };
    row!(
        "pad",
        SET_IOREQ_SERVER_STATE,
        dm_op::SetIoreqServerState { pad: 1, ..state },
        Invalid
    );
    row!(
        "no such id",
        SET_IOREQ_SERVER_STATE,
        dm_op::SetIoreqServerState { id: 1, ..state },
        NoEntry
    );
    row!(
        "pad",
        DESTROY_IOREQ_SERVER,
        dm_op::DestroyIoreqServer { id, pad: 1 },
        Invalid
    );
    row!(
        "no such id",
        DESTROY_IOREQ_SERVER,
        dm_op::DestroyIoreqServer { id: 8, pad: 0 },
        NoEntry
    );
    let level = dm_op::SetIrqLevel {
        irq: SPI,
        level: 1,
        pad: [0; 3],
    };
    row!(
        "pad",
        SET_IRQ_LEVEL,
        dm_op::SetIrqLevel {
            pad: [0, 1, 0],
            ..level
        },
        Invalid
    );
    row!(
        "level 2",
        SET_IRQ_LEVEL,
        dm_op::SetIrqLevel { level: 2, ..level },
        Invalid
    );
    row!("a PPI", SET_IRQ_LEVEL, dm_op::SetIrqLevel { irq: 31, ..level }, Invalid);
    row!(
        "beyond the last SPI",
        SET_IRQ_LEVEL,
        dm_op::SetIrqLevel { irq: 96, ..level },
        Invalid
    );
    row!(
        "no INTID",
        SET_IRQ_LEVEL,
        dm_op::SetIrqLevel { irq: u32::MAX, ..level },
        Invalid
    );
    row!(
        "another's interrupt",
        SET_IRQ_LEVEL,
        dm_op::SetIrqLevel { irq: SPI + 1, ..level },
        NotPermitted
    );

    host.caller.domain = host::SECOND_BACKEND;
    row!("another's server", SET_IOREQ_SERVER_STATE, state, NotPermitted);
    row!(
        "another's server",
        DESTROY_IOREQ_SERVER,
        dm_op::DestroyIoreqServer { id, pad: 0 },
        NotPermitted
    );
    row!("another's server", MAP_IO_RANGE_TO_IOREQ_SERVER, range, NotPermitted);
    row!(
        "another's server",
        UNMAP_IO_RANGE_FROM_IOREQ_SERVER,
        range,
        NotPermitted
    );
    row!(
        "another's server",
        GET_IOREQ_SERVER_INFO,
        dm_op::GetIoreqServerInfo { flags: 1, ..info },
        NotPermitted
    );
    host.caller.domain = BACKEND;
    let arguments = dm(&mut host, dm_op::MAP_IO_RANGE_TO_IOREQ_SERVER, &range);
    assert_eq!(host.call(hypercall::DM_OP, &arguments), Outcome::Return(0));
    row!("twice", MAP_IO_RANGE_TO_IOREQ_SERVER, range, Exists);
}
