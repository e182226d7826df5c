//! Every refusal: bad pointers, lengths, domains, ports, pads. The exact error, and nothing changed.

use crate::host::{BACKEND, FakeHost, GUEST, READ_ONLY, UNMAPPED, VA};
use portunus::abi::HypercallError::{
    self, AccessDenied, BadPointer, Domain, IllegalSequence, Invalid, NoAddress, NoBuffers, NoData, NoDomain, NoEntry,
    NoSpace, NotImplemented, NotPermitted, NotSupported,
};
use portunus::abi::{dm_op, domctl, evtchn, hvm_op, hypercall, memory, sched, vcpu, version};
use portunus::hypercall::Outcome;
use portunus::ids::DomainId;
use zerocopy::{Immutable, IntoBytes};

pub(crate) const SELF: u16 = DomainId::SELF.0;
/// Domains that do not exist: a number beyond them and the special ones.
pub(crate) const NOBODY: [u16; 7] = [0, 5, 0x7ff1, 0x7ff2, 0x7ff4, 0x7fff, 0xffff];

pub(crate) fn refused(host: &mut FakeHost, what: &str, number: u64, arguments: &[u64], expected: HypercallError) {
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

pub(crate) fn dm<T: IntoBytes + Immutable>(host: &mut FakeHost, op: u32, payload: &T) -> [u64; 3] {
    dm_padded(host, op, 0, payload, 8 + size_of::<T>() as u64)
}

pub(crate) fn dm_padded<T: IntoBytes + Immutable>(
    host: &mut FakeHost,
    op: u32,
    pad: u32,
    payload: &T,
    size: u64,
) -> [u64; 3] {
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

pub(crate) fn create(host: &mut FakeHost) -> u16 {
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
        (hypercall::XSM_OP, NotImplemented),
        (hypercall::PHYSDEV_OP, NotImplemented),
        (hypercall::HYPFS_OP, NotImplemented),
        (9, NotImplemented),
        (10, NotImplemented),
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
    calls.extend([2, 3, 5, 6].map(|operation| (hypercall::SCHED_OP, operation)));
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
    let watchdog = |id, timeout| sched::Watchdog { id, timeout };
    for id in [1, 2, 3, 4, u32::MAX] {
        for timeout in [0, 1, u32::MAX] {
            row!("watchdog not in use", SCHED_OP, [6, VA], watchdog(id, timeout), Invalid);
        }
    }
    for id in 1..=2 {
        host.put(VA, &watchdog(0, 10));
        assert_eq!(host.call(hypercall::SCHED_OP, &[6, VA]), Outcome::Return(id));
    }
    for timeout in [0, 1, u32::MAX] {
        row!("a third watchdog", SCHED_OP, [6, VA], watchdog(0, timeout), NoSpace);
        row!("no such watchdog", SCHED_OP, [6, VA], watchdog(3, timeout), Invalid);
    }
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
