//! Every refusal: bad pointers, lengths, domains, ports, pads. The exact error, and nothing changed.

use crate::host::{self, BACKEND, DEVICE, FakeHost, GUEST, MAXIMUM_GFN, READ_ONLY, SPI, STRANGER, UNMAPPED, VA};
use portunus::abi::HypercallError::{
    self, AccessDenied, BadPointer, Busy, Domain, Exists, IllegalSequence, Invalid, NoAddress, NoBuffers, NoData,
    NoDomain, NoEntry, NotImplemented, NotPermitted, NotSupported, TooManyArguments,
};
use portunus::abi::{dm_op, domctl, evtchn, hvm_op, hypercall, memory, sched, vcpu, version};
use portunus::hypercall::Outcome;
use portunus::ids::DomainId;
use zerocopy::{Immutable, IntoBytes};

const SELF: u16 = DomainId::SELF.0;
/// Domains that do not exist: a number beyond them and the special ones.
const NOBODY: [u16; 7] = [0, 5, 0x7ff1, 0x7ff2, 0x7ff4, 0x7fff, 0xffff];

fn refused(host: &mut FakeHost, what: &str, number: u64, arguments: &[u64], expected: HypercallError) {
    let before = host.snapshot();
    let outcome = host.call(number, arguments);
    assert_eq!(
        outcome,
        Outcome::Return(expected.register()),
        "{what}: expected {expected:?}"
    );
    let after = host.snapshot();
    assert!(before.0 == after.0, "{what} changed the caller's memory");
    assert_eq!(before.1, after.1, "{what} changed servers or channels");
    assert_eq!(
        (before.2, before.3),
        (after.2, after.3),
        "{what} did something: {:?}",
        host.actions.last()
    );
}

fn dm<T: IntoBytes + Immutable>(host: &mut FakeHost, op: u32, payload: &T) -> [u64; 3] {
    dm_padded(host, op, 0, payload, 8 + size_of::<T>() as u64)
}

fn dm_padded<T: IntoBytes + Immutable>(host: &mut FakeHost, op: u32, pad: u32, payload: &T, size: u64) -> [u64; 3] {
    host.put(
        VA,
        &dm_op::Buffer {
            pointer: VA + 0x100,
            size,
        },
    );
    host.put(VA + 0x100, &dm_op::Header { op, pad });
    host.put(VA + 0x108, payload);
    [GUEST.0.into(), 1, VA]
}

fn create(host: &mut FakeHost) -> u16 {
    let arguments = dm(host, dm_op::CREATE_IOREQ_SERVER, &dm_op::CreateIoreqServer::default());
    assert_eq!(host.call(hypercall::DM_OP, &arguments), Outcome::Return(0));
    host.get::<dm_op::CreateIoreqServer>(VA + 0x108).id
}

#[test]
fn numbers_that_are_not_served() {
    let mut host = FakeHost::new(BACKEND);
    let rows = [
        (6, NotImplemented),
        (16, NotImplemented),
        (19, NotImplemented),
        (hypercall::PLATFORM_OP, NotImplemented),
        (hypercall::GRANT_TABLE_OP, NotImplemented),
        (hypercall::XSM_OP, NotImplemented),
        (hypercall::PHYSDEV_OP, NotImplemented),
        (hypercall::HYPFS_OP, NotImplemented),
        (hypercall::VM_ASSIST, Invalid),
        (hypercall::SYSCTL, NotPermitted),
        (hypercall::ARGO_OP, NotSupported),
        (15, NotImplemented),
        (0, NotImplemented),
        (63, NotImplemented),
        (u64::MAX, NotImplemented),
        // Only the whole register names a call.
        (1 << 32 | hypercall::XEN_VERSION, NotImplemented),
    ];
    for (number, expected) in rows {
        refused(
            &mut host,
            &format!("hypercall {number}"),
            number,
            &[0, VA, VA, VA, VA],
            expected,
        );
    }
}

#[test]
fn unknown_operations() {
    let mut host = FakeHost::new(GUEST);
    let rows = [
        (hypercall::XEN_VERSION, 15, NotImplemented),
        (hypercall::XEN_VERSION, u32::MAX.into(), NotImplemented),
        (hypercall::CONSOLE_IO, 2, NotImplemented),
        (hypercall::VCPU_OP, 0, Invalid),
        (hypercall::VCPU_OP, 14, Invalid),
        (hypercall::SCHED_OP, sched::REMOTE_SHUTDOWN, NotPermitted),
        (hypercall::SCHED_OP, sched::PIN_OVERRIDE, NotPermitted),
        (hypercall::SCHED_OP, sched::WATCHDOG, NotImplemented),
        (hypercall::SCHED_OP, 8, NotImplemented),
        (hypercall::EVENT_CHANNEL_OP, evtchn::BIND_PIRQ, NotImplemented),
        (hypercall::EVENT_CHANNEL_OP, evtchn::INIT_CONTROL, NotImplemented),
        (hypercall::EVENT_CHANNEL_OP, evtchn::EXPAND_ARRAY, NotImplemented),
        (hypercall::EVENT_CHANNEL_OP, evtchn::SET_PRIORITY, NotImplemented),
        (hypercall::EVENT_CHANNEL_OP, 14, NotImplemented),
        (hypercall::HVM_OP, 24, NotImplemented),
        (hypercall::HVM_OP, u64::MAX, NotImplemented),
        (hypercall::MEMORY_OP, memory::INCREASE_RESERVATION, NotImplemented),
        (hypercall::MEMORY_OP, memory::MAXIMUM_RAM_PAGE, NotImplemented),
        (hypercall::MEMORY_OP, memory::MEMORY_MAP, NotImplemented),
        (hypercall::MEMORY_OP, memory::EXCHANGE, NotImplemented),
        (hypercall::MEMORY_OP, 63, NotImplemented),
    ];
    for (number, operation, expected) in rows {
        refused(
            &mut host,
            &format!("{number} operation {operation}"),
            number,
            &[operation, VA, VA],
            expected,
        );
    }
}

#[test]
fn pointers_that_fault() {
    let mut host = FakeHost::new(BACKEND);
    let bad = [0, 8, UNMAPPED, UNMAPPED - 1, u64::MAX, u64::MAX - 7, VA - 1];
    let mut calls = Vec::new();
    for operation in [0, 1, 3, 4, 5, 6, 7, 8, 9, 10] {
        calls.push((hypercall::EVENT_CHANNEL_OP, operation));
    }
    for operation in [3, 4, 7, 14, 15, 23, 28] {
        calls.push((hypercall::MEMORY_OP, operation));
    }
    calls.extend([(hypercall::HVM_OP, 0), (hypercall::HVM_OP, 1)]);
    calls.extend([2, 3, 5].map(|operation| (hypercall::SCHED_OP, operation)));
    calls.extend([1, 2, 3, 4, 5, 6, 8, 9].map(|operation| (hypercall::XEN_VERSION, operation)));
    for pointer in bad {
        for (number, operation) in &calls {
            // One byte before the end: a single byte or a pair of them would be read.
            let what = format!("{number} operation {operation} at {pointer:#x}");
            refused(&mut host, &what, *number, &[*operation, pointer], BadPointer);
        }
        for operation in [5, 10] {
            let what = format!("vcpu_op {operation} at {pointer:#x}");
            refused(
                &mut host,
                &what,
                hypercall::VCPU_OP,
                &[operation, 0, pointer],
                BadPointer,
            );
        }
        refused(&mut host, "domctl", hypercall::DOMCTL, &[pointer], BadPointer);
        refused(&mut host, "dm_op", hypercall::DM_OP, &[1, 1, pointer], BadPointer);
        refused(&mut host, "multicall", hypercall::MULTICALL, &[pointer, 1], BadPointer);
        refused(
            &mut host,
            "console_io",
            hypercall::CONSOLE_IO,
            &[0, 5, pointer],
            BadPointer,
        );
    }
    for operation in [11, 12, 13, 14] {
        let what = format!("xen_version {operation}");
        refused(
            &mut host,
            &what,
            hypercall::XEN_VERSION,
            &[operation, UNMAPPED],
            BadPointer,
        );
    }
}

#[test]
fn results_that_cannot_be_written() {
    let mut host = FakeHost::new(BACKEND);
    let port = host.events(GUEST).alloc_unbound(BACKEND).unwrap();
    host.put(
        READ_ONLY,
        &evtchn::BindInterdomain {
            remote_dom: GUEST.0,
            remote_port: port.0,
            ..Default::default()
        },
    );
    refused(
        &mut host,
        "bind",
        hypercall::EVENT_CHANNEL_OP,
        &[evtchn::BIND_INTERDOMAIN, READ_ONLY],
        BadPointer,
    );
    host.put(
        READ_ONLY,
        &evtchn::AllocUnbound {
            dom: SELF,
            remote_dom: SELF,
            port: 0,
        },
    );
    refused(
        &mut host,
        "alloc",
        hypercall::EVENT_CHANNEL_OP,
        &[evtchn::ALLOC_UNBOUND, READ_ONLY],
        BadPointer,
    );
    host.put(READ_ONLY, &evtchn::BindIpi::default());
    refused(
        &mut host,
        "ipi",
        hypercall::EVENT_CHANNEL_OP,
        &[evtchn::BIND_IPI, READ_ONLY],
        BadPointer,
    );
    host.put(
        READ_ONLY,
        &evtchn::BindVirq {
            virq: evtchn::VIRQ_ARGO,
            ..Default::default()
        },
    );
    refused(
        &mut host,
        "virq",
        hypercall::EVENT_CHANNEL_OP,
        &[evtchn::BIND_VIRQ, READ_ONLY],
        BadPointer,
    );
    host.put(
        READ_ONLY,
        &memory::AcquireResource {
            domid: GUEST.0,
            ..Default::default()
        },
    );
    refused(
        &mut host,
        "size of a resource",
        hypercall::MEMORY_OP,
        &[memory::ACQUIRE_RESOURCE, READ_ONLY],
        BadPointer,
    );
    // dm_op with its buffer in read-only memory.
    for (op, payload) in [(1u32, [0u8; 24]), (2, [0; 24]), (20, [0; 24])] {
        host.put(
            VA,
            &dm_op::Buffer {
                pointer: READ_ONLY,
                size: 32,
            },
        );
        host.put(READ_ONLY, &dm_op::Header { op, pad: 0 });
        host.put(READ_ONLY + 8, &payload);
        refused(
            &mut host,
            &format!("dm_op {op}"),
            hypercall::DM_OP,
            &[1, 1, VA],
            BadPointer,
        );
    }
    for operation in [1, 2, 3, 4, 5, 6, 8, 9] {
        let what = format!("xen_version {operation}");
        refused(
            &mut host,
            &what,
            hypercall::XEN_VERSION,
            &[operation, READ_ONLY],
            BadPointer,
        );
    }
}

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
    for op in (7..19).chain([0, 21, 22, dm_op::VENDOR_FIRST, u32::MAX]) {
        let arguments = dm_padded(&mut host, op, 1, &nothing, 8);
        refused(
            &mut host,
            &format!("operation {op}"),
            hypercall::DM_OP,
            &arguments,
            NotSupported,
        );
    }
    let sizes = [(1, 6), (2, 24), (3, 24), (4, 24), (5, 4), (6, 4), (19, 8), (20, 4)];
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

#[test]
fn event_channel_op_refuses_bad_ports_and_domains() {
    let mut host = FakeHost::new(BACKEND);
    let attached = {
        let consumer = portunus::evtchn::Consumer::Buffered {
            server: portunus::ids::ServerId(0),
        };
        host.events(BACKEND).alloc_attached(GUEST, consumer).unwrap().0
    };
    let for_stranger = host.events(GUEST).alloc_unbound(STRANGER).unwrap().0;
    macro_rules! row {
        ($what:expr, $op:ident, $payload:expr, $expected:expr) => {
            host.put(VA, &$payload);
            refused(
                &mut host,
                $what,
                hypercall::EVENT_CHANNEL_OP,
                &[evtchn::$op, VA],
                $expected,
            );
        };
    }
    for port in [0, 9, 41, attached, 4096, u32::MAX] {
        row!("send", SEND, evtchn::Port { port }, Invalid);
        row!("close", CLOSE, evtchn::Port { port }, Invalid);
        row!("bind_vcpu", BIND_VCPU, evtchn::BindVcpu { port, vcpu: 0 }, Invalid);
        let request = evtchn::BindInterdomain {
            remote_dom: GUEST.0,
            remote_port: port,
            ..Default::default()
        };
        row!("bind_interdomain", BIND_INTERDOMAIN, request, Invalid);
    }
    for port in [0, attached, 4096, u32::MAX] {
        row!("unmask", UNMASK, evtchn::Port { port }, Invalid);
    }
    row!("bind_vcpu", BIND_VCPU, evtchn::BindVcpu { port: 1, vcpu: 2 }, NoEntry);
    row!(
        "bind_ipi",
        BIND_IPI,
        evtchn::BindIpi {
            vcpu: u32::MAX,
            port: 0
        },
        NoEntry
    );
    row!(
        "bind_virq",
        BIND_VIRQ,
        evtchn::BindVirq {
            virq: 24,
            vcpu: 0,
            port: 0
        },
        Invalid
    );
    row!(
        "bind_virq",
        BIND_VIRQ,
        evtchn::BindVirq {
            virq: 1,
            vcpu: 2,
            port: 0
        },
        NoEntry
    );
    row!(
        "bind_virq",
        BIND_VIRQ,
        evtchn::BindVirq {
            virq: 2,
            vcpu: 0,
            port: 0
        },
        Busy
    );
    let bind = evtchn::BindInterdomain {
        remote_dom: GUEST.0,
        remote_port: for_stranger,
        ..Default::default()
    };
    row!("a port for another", BIND_INTERDOMAIN, bind, Invalid);
    row!(
        "a stranger's port",
        BIND_INTERDOMAIN,
        evtchn::BindInterdomain {
            remote_dom: STRANGER.0,
            ..bind
        },
        NotPermitted
    );
    row!(
        "a port for a stranger",
        ALLOC_UNBOUND,
        evtchn::AllocUnbound {
            dom: SELF,
            remote_dom: 3,
            port: 0
        },
        NotPermitted
    );
    row!(
        "another's port",
        ALLOC_UNBOUND,
        evtchn::AllocUnbound {
            dom: 1,
            remote_dom: 2,
            port: 0
        },
        NotPermitted
    );
    row!(
        "another's status",
        STATUS,
        evtchn::Status {
            dom: 1,
            ..Default::default()
        },
        NotPermitted
    );
    row!(
        "no such port",
        STATUS,
        evtchn::Status {
            dom: SELF,
            port: 105,
            ..Default::default()
        },
        Invalid
    );
    row!("another's reset", RESET, evtchn::Reset { dom: 1 }, NotPermitted);
    for nobody in NOBODY {
        row!(
            "nobody",
            BIND_INTERDOMAIN,
            evtchn::BindInterdomain {
                remote_dom: nobody,
                ..bind
            },
            NoDomain
        );
        row!(
            "nobody",
            ALLOC_UNBOUND,
            evtchn::AllocUnbound {
                dom: nobody,
                remote_dom: 2,
                port: 0
            },
            NoDomain
        );
        row!(
            "nobody",
            ALLOC_UNBOUND,
            evtchn::AllocUnbound {
                dom: SELF,
                remote_dom: nobody,
                port: 0
            },
            NotPermitted
        );
        row!(
            "nobody",
            STATUS,
            evtchn::Status {
                dom: nobody,
                ..Default::default()
            },
            NoDomain
        );
        row!("nobody", RESET, evtchn::Reset { dom: nobody }, NoDomain);
    }
}

#[test]
fn memory_op_refuses_what_is_not_the_callers() {
    let mut host = FakeHost::new(BACKEND);
    let id = create(&mut host);
    macro_rules! row {
        ($what:expr, $op:expr, $payload:expr, $expected:expr) => {
            host.put(VA, &$payload);
            refused(&mut host, $what, hypercall::MEMORY_OP, &[$op, VA], $expected);
        };
    }
    let add = memory::AddToPhysmap {
        domid: SELF,
        gpfn: 5,
        ..Default::default()
    };
    let op = memory::ADD_TO_PHYSMAP;
    row!(
        "another's map",
        op,
        memory::AddToPhysmap { domid: 1, ..add },
        NotPermitted
    );
    row!("index 1", op, memory::AddToPhysmap { idx: 1, ..add }, Invalid);
    row!(
        "beyond the map",
        op,
        memory::AddToPhysmap {
            gpfn: MAXIMUM_GFN,
            ..add
        },
        Invalid
    );
    row!("resumed", op | 1 << 6, add, Invalid);
    let spaces = [
        (1, Invalid),
        (2, NotImplemented),
        (3, NotImplemented),
        (4, NotImplemented),
        (5, AccessDenied),
    ];
    for (space, expected) in spaces
        .into_iter()
        .chain([(6, NotImplemented), (u32::MAX, NotImplemented)])
    {
        row!(
            &format!("space {space}"),
            op,
            memory::AddToPhysmap { space, ..add },
            expected
        );
    }
    let remove = memory::RemoveFromPhysmap {
        domid: SELF,
        pad: [0; 3],
        gpfn: MAXIMUM_GFN,
    };
    row!("nothing there", memory::REMOVE_FROM_PHYSMAP, remove, NoEntry);
    row!(
        "another's",
        memory::REMOVE_FROM_PHYSMAP,
        memory::RemoveFromPhysmap { domid: 1, ..remove },
        NotPermitted
    );
    row!("resumed", memory::REMOVE_FROM_PHYSMAP | 1 << 6, remove, Invalid);

    let batch = memory::AddToPhysmapBatch {
        domid: SELF,
        space: 4,
        size: 2,
        foreign_domid: GUEST.0,
        idxs: VA + 0x100,
        gpfns: VA + 0x200,
        errs: VA + 0x300,
    };
    let op = memory::ADD_TO_PHYSMAP_BATCH;
    row!(
        "another's map",
        op,
        memory::AddToPhysmapBatch { domid: 1, ..batch },
        NotPermitted
    );
    row!(
        "its own memory",
        op,
        memory::AddToPhysmapBatch {
            foreign_domid: BACKEND.0,
            ..batch
        },
        Invalid
    );
    row!(
        "its own memory by name",
        op,
        memory::AddToPhysmapBatch {
            foreign_domid: SELF,
            ..batch
        },
        Invalid
    );
    row!(
        "a stranger's",
        op,
        memory::AddToPhysmapBatch {
            foreign_domid: STRANGER.0,
            ..batch
        },
        NotPermitted
    );
    row!("more done than there is", op | 3 << 6, batch, IllegalSequence);
    row!("very much done", u64::MAX << 6 | op, batch, IllegalSequence);
    row!(
        "x86 space",
        op,
        memory::AddToPhysmapBatch { space: 3, ..batch },
        NotSupported
    );
    row!(
        "indices fault",
        op,
        memory::AddToPhysmapBatch {
            idxs: UNMAPPED,
            ..batch
        },
        BadPointer
    );
    row!(
        "frames fault",
        op,
        memory::AddToPhysmapBatch {
            gpfns: u64::MAX - 8,
            ..batch
        },
        BadPointer
    );
    row!(
        "errors read-only",
        op,
        memory::AddToPhysmapBatch {
            errs: READ_ONLY,
            ..batch
        },
        BadPointer
    );
    host.put(VA + 0x208, &u64::MAX);
    row!("an invalid frame", op, batch, Invalid);

    let acquire = memory::AcquireResource {
        domid: GUEST.0,
        id: id.into(),
        nr_frames: 1,
        frame: 1,
        frame_list: VA + 0x100,
        ..Default::default()
    };
    let op = memory::ACQUIRE_RESOURCE;
    row!(
        "pad, before the domain",
        op,
        memory::AcquireResource {
            pad: 1,
            domid: SELF,
            ..acquire
        },
        Invalid
    );
    row!(
        "itself",
        op,
        memory::AcquireResource { domid: SELF, ..acquire },
        NotPermitted
    );
    row!(
        "a stranger's",
        op,
        memory::AcquireResource {
            domid: STRANGER.0,
            ..acquire
        },
        NotPermitted
    );
    row!(
        "grant table",
        op,
        memory::AcquireResource { kind: 1, ..acquire },
        Invalid
    );
    row!(
        "unknown kind",
        op,
        memory::AcquireResource {
            kind: 0xffff,
            ..acquire
        },
        Invalid
    );
    row!(
        "no such server",
        op,
        memory::AcquireResource { id: 7, ..acquire },
        Invalid
    );
    row!(
        "no such id",
        op,
        memory::AcquireResource {
            id: 0x1_0000,
            ..acquire
        },
        Invalid
    );
    row!("frame 2", op, memory::AcquireResource { frame: 2, ..acquire }, Invalid);
    row!(
        "frames 1 and 2",
        op,
        memory::AcquireResource {
            nr_frames: 2,
            ..acquire
        },
        Invalid
    );
    row!(
        "frame 2^32",
        op,
        memory::AcquireResource {
            frame: 1 << 32,
            ..acquire
        },
        Invalid
    );
    row!(
        "frame 2^64 - 1",
        op,
        memory::AcquireResource {
            frame: u64::MAX,
            nr_frames: 2,
            ..acquire
        },
        Invalid
    );
    row!(
        "4 G frames",
        op,
        memory::AcquireResource {
            nr_frames: u32::MAX,
            ..acquire
        },
        Invalid
    );
    row!(
        "list faults",
        op,
        memory::AcquireResource {
            frame_list: UNMAPPED,
            ..acquire
        },
        BadPointer
    );
    row!(
        "frames without a list",
        op,
        memory::AcquireResource {
            frame_list: 0,
            ..acquire
        },
        Invalid
    );
    row!("resumed", op | 1 << 6, acquire, Invalid);
    host.put(VA + 0x100, &u64::MAX);
    row!("beyond the map", op, acquire, Invalid);
    for nobody in NOBODY {
        row!(
            "nobody",
            op,
            memory::AcquireResource {
                domid: nobody,
                ..acquire
            },
            NoDomain
        );
        row!(
            "nobody",
            memory::ADD_TO_PHYSMAP,
            memory::AddToPhysmap { domid: nobody, ..add },
            NoDomain
        );
        let foreign = memory::AddToPhysmapBatch {
            foreign_domid: nobody,
            ..batch
        };
        row!("nobody", memory::ADD_TO_PHYSMAP_BATCH, foreign, NoDomain);
        row!("nobody", memory::MAXIMUM_GPFN, nobody, NoDomain);
    }
    row!(
        "a stranger's size",
        memory::CURRENT_RESERVATION,
        STRANGER.0,
        NotPermitted
    );
    row!("resumed", memory::MAXIMUM_RESERVATION | 1 << 6, SELF, Invalid);
    host.caller.domain = host::SECOND_BACKEND;
    host.put(VA + 0x208, &1u64);
    row!(
        "a server's memory without the right",
        memory::ADD_TO_PHYSMAP_BATCH,
        batch,
        NotPermitted
    );
    host.put(VA + 0x100, &5u64);
    row!("another's server", memory::ACQUIRE_RESOURCE, acquire, NotPermitted);
}

#[test]
fn the_other_calls_refuse_too() {
    let mut host = FakeHost::new(GUEST);
    macro_rules! row {
        ($what:expr, $number:ident, $arguments:expr, $payload:expr, $expected:expr) => {
            host.put(VA, &$payload);
            refused(&mut host, $what, hypercall::$number, &$arguments, $expected);
        };
    }
    let info = |offset| vcpu::RegisterVcpuInfo {
        mfn: 1,
        offset,
        rsvd: 0,
    };
    for offset in 0..4100 {
        if offset % 8 != 0 || offset > 4096 - 48 {
            row!(
                &format!("vcpu_info at {offset}"),
                VCPU_OP,
                [10, 0, VA],
                info(offset),
                NoAddress
            );
        }
    }
    row!(
        "vcpu_info beyond RAM",
        VCPU_OP,
        [10, 0, VA],
        vcpu::RegisterVcpuInfo {
            mfn: u64::MAX,
            ..info(0)
        },
        Invalid
    );
    row!("no such vCPU", VCPU_OP, [10, 2, VA], info(0), NoEntry);
    row!("no such vCPU", VCPU_OP, [5, u64::from(u32::MAX), VA], info(0), NoEntry);
    row!("runstate unaligned", VCPU_OP, [5, 0, VA], VA + 4, Invalid);
    row!("runstate read-only", VCPU_OP, [5, 0, VA], READ_ONLY, BadPointer);
    row!(
        "runstate half read-only",
        VCPU_OP,
        [5, 0, VA],
        READ_ONLY - 8,
        BadPointer
    );
    row!("runstate at the end", VCPU_OP, [5, 0, VA], u64::MAX - 7, BadPointer);
    row!(
        "shutdown for no reason",
        SCHED_OP,
        [2, VA],
        sched::Shutdown { reason: 6 },
        Invalid
    );
    row!(
        "shutdown_code for no reason",
        SCHED_OP,
        [5, VA],
        sched::Shutdown { reason: u32::MAX },
        Invalid
    );
    let poll = sched::Poll {
        ports: VA + 0x100,
        nr_ports: 1,
        pad: 0,
        timeout: 0,
    };
    row!(
        "129 ports",
        SCHED_OP,
        [3, VA],
        sched::Poll { nr_ports: 129, ..poll },
        Invalid
    );
    row!(
        "2^32 - 1 ports",
        SCHED_OP,
        [3, VA],
        sched::Poll {
            nr_ports: u32::MAX,
            ..poll
        },
        Invalid
    );
    row!("port 0", SCHED_OP, [3, VA], poll, Invalid);
    row!(
        "ports fault",
        SCHED_OP,
        [3, VA],
        sched::Poll {
            ports: UNMAPPED,
            ..poll
        },
        BadPointer
    );
    row!(
        "features 1",
        XEN_VERSION,
        [6, VA],
        version::FeatureInfo {
            submap_idx: 1,
            submap: 0
        },
        Invalid
    );
    row!("pagesize with an argument", XEN_VERSION, [7, VA], 0u64, Invalid);
    row!("build_id", XEN_VERSION, [10, 0], 0u64, NoData);
    row!(
        "no room",
        XEN_VERSION,
        [11, VA],
        version::VariableBuffer { len: 0 },
        Invalid
    );
    row!(
        "too little room",
        XEN_VERSION,
        [11, VA],
        version::VariableBuffer { len: 8 },
        NoBuffers
    );
    let parameter = hvm_op::Parameter {
        domid: SELF,
        pad: 0,
        index: 1,
        value: 9,
    };
    row!("set", HVM_OP, [0, VA], parameter, NotPermitted);
    row!(
        "set unknown",
        HVM_OP,
        [0, VA],
        hvm_op::Parameter { index: 3, ..parameter },
        Invalid
    );
    row!(
        "get unknown",
        HVM_OP,
        [1, VA],
        hvm_op::Parameter {
            index: u32::MAX,
            ..parameter
        },
        Invalid
    );
    row!(
        "another's",
        HVM_OP,
        [1, VA],
        hvm_op::Parameter { domid: 2, ..parameter },
        NotPermitted
    );
    row!(
        "nobody's",
        HVM_OP,
        [1, VA],
        hvm_op::Parameter {
            domid: 0x7ff4,
            ..parameter
        },
        NoDomain
    );
    let request = domctl::Domctl {
        cmd: 5,
        interface_version: 0x18,
        domain: 1,
        pad: [0; 3],
    };
    row!("itself", DOMCTL, [VA], request, NotPermitted);
    for version in [0, 0x14, 0x19, u32::MAX] {
        row!(
            "version",
            DOMCTL,
            [VA],
            domctl::Domctl {
                interface_version: version,
                cmd: 1,
                ..request
            },
            AccessDenied
        );
    }
    for cmd in [0, 1, 4, 6, u32::MAX] {
        row!("command", DOMCTL, [VA], domctl::Domctl { cmd, ..request }, NotPermitted);
    }
    row!(
        "beyond all",
        DOMCTL,
        [VA],
        domctl::Domctl { domain: 5, ..request },
        NoDomain
    );
    // An error that nothing here gives, so that a wrong mapping of numbers shows.
    assert_ne!(Domain.register(), IllegalSequence.register());
}
