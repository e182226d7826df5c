//! Hypercalls that succeed: the life of a backend, what a Linux guest asks at boot, long calls in bounded pieces.

#[path = "hypercall_support/errors.rs"]
mod errors;
#[path = "hypercall_support/host.rs"]
mod host;

use host::{Action, BACKEND, DEVICE, FakeHost, GUEST, SPI, VA};
use portunus::abi::hypercall::MulticallEntry;
use portunus::abi::sched::ShutdownReason;
use portunus::abi::vcpu::RunstateInfo;
use portunus::abi::{HypercallError, dm_op, domctl, evtchn, hvm_op, hypercall, memory, sched, vcpu, version};
use portunus::evtchn::Delivery;
use portunus::hypercall::{Outcome, RunstateArea, routing};
use portunus::ids::{DomainId, Ipa, Pa, VcpuSet};
use portunus::ioreq::{Answer, Begun};
use portunus::trap::access::{AccessWidth, Direction, MmioAccess};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

const SELF: u16 = DomainId::SELF.0;
const OK: Outcome = Outcome::Return(0);

fn dm<T: IntoBytes + FromBytes + Immutable>(host: &mut FakeHost, op: u32, payload: T) -> T {
    host.put(
        VA,
        &dm_op::Buffer {
            pointer: VA + 0x100,
            size: 8 + size_of::<T>() as u64,
        },
    );
    host.put(VA + 0x100, &dm_op::Header { op, pad: 0 });
    host.put(VA + 0x108, &payload);
    assert_eq!(host.call(hypercall::DM_OP, &[GUEST.0.into(), 1, VA]), OK, "dm_op {op}");
    host.get(VA + 0x108)
}

fn event<T: IntoBytes + FromZeros + FromBytes + Immutable>(host: &mut FakeHost, op: u64, payload: T) -> T {
    host.put(VA, &payload);
    assert_eq!(
        host.call(hypercall::EVENT_CHANNEL_OP, &[op, VA]),
        OK,
        "event_channel_op {op}"
    );
    host.get(VA)
}

fn memory_op<T: IntoBytes + FromZeros + FromBytes + Immutable>(host: &mut FakeHost, op: u64, payload: T) -> T {
    host.put(VA, &payload);
    assert_eq!(host.call(hypercall::MEMORY_OP, &[op, VA]), OK, "memory_op {op}");
    host.get(VA)
}

/// What virtio-disk does: vCPUs, server, page, enable, bind each port, map its range. The server, its page and the local
/// ports.
fn attach(host: &mut FakeHost) -> (u16, Pa, [u32; 2]) {
    assert_eq!(dm(host, dm_op::NR_VCPUS, dm_op::NrVcpus::default()).vcpus, 2);
    let id = dm(host, dm_op::CREATE_IOREQ_SERVER, dm_op::CreateIoreqServer::default()).id;
    host.put(VA + 0x200, &0x7000u64);
    let acquire = memory::AcquireResource {
        domid: GUEST.0,
        id: id.into(),
        nr_frames: 1,
        frame: 1,
        frame_list: VA + 0x200,
        ..Default::default()
    };
    memory_op(host, memory::ACQUIRE_RESOURCE, acquire);
    let Some(Action::Resource(GUEST, page, 0x7000)) = host.actions.last().cloned() else {
        panic!()
    };
    dm(
        host,
        dm_op::SET_IOREQ_SERVER_STATE,
        dm_op::SetIoreqServerState { id, enabled: 1, pad: 0 },
    );
    let ports = [0, 1].map(|vcpu| {
        let bytes = host.machine.peek(Pa(page.0 + vcpu * 32 + 24), 4);
        let remote_port = u32::from_le_bytes(bytes.try_into().unwrap());
        assert!(remote_port > 40, "above the guest's own ports");
        let bind = evtchn::BindInterdomain {
            remote_dom: GUEST.0,
            remote_port,
            ..Default::default()
        };
        event(host, evtchn::BIND_INTERDOMAIN, bind).local_port
    });
    let range = dm_op::IoRange {
        id,
        pad: 0,
        kind: 1,
        start: DEVICE,
        end: DEVICE + 0x1ff,
    };
    dm(host, dm_op::MAP_IO_RANGE_TO_IOREQ_SERVER, range);
    host.machine.memory(|memory| memory.zero(Pa(0x8000_2000), 560));
    host.actions.clear();
    (id, page, ports)
}

/// The guest's vCPU reads a register of the device.
fn guest_reads(host: &mut FakeHost, vcpu: u8) -> Begun {
    use portunus::hypercall::Host;
    let access = MmioAccess {
        ipa: Ipa(DEVICE + 4),
        width: AccessWidth::Word,
        direction: Direction::Read,
    };
    let begun = host.servers(GUEST, |servers, around, _| servers.begin(vcpu, access, around));
    let (begun, effects) = begun.unwrap().unwrap();
    routing::perform(host, GUEST, &effects);
    begun
}

const UPCALL_0: Delivery = Delivery {
    upcall: Some(0),
    wake: VcpuSet::EMPTY,
};

#[test]
fn a_backend_attaches_answers_and_leaves() {
    let mut host = FakeHost::new(BACKEND);
    let (id, page, ports) = attach(&mut host);
    assert_eq!(guest_reads(&mut host, 1), Begun::Accepted);
    assert_eq!(
        host.actions,
        [Action::Deliver(BACKEND, UPCALL_0)],
        "the request's event reached the backend"
    );

    host.machine.poke(Pa(page.0 + 32 + 8), &0x74726976u64.to_le_bytes());
    host.machine.poke(Pa(page.0 + 32 + 30), &[3]);
    event(&mut host, evtchn::SEND, evtchn::Port { port: ports[1] });
    assert_eq!(host.actions.last(), Some(&Action::Wake(GUEST, VcpuSet::only(1))));
    assert_eq!(host.servers.take(1), Some(Answer::Value(0x7472_6976)));

    dm(
        &mut host,
        dm_op::SET_IRQ_LEVEL,
        dm_op::SetIrqLevel {
            irq: SPI,
            level: 1,
            pad: [0; 3],
        },
    );
    assert_eq!(host.actions.last(), Some(&Action::Interrupt(GUEST, SPI, true)));

    let info = dm_op::GetIoreqServerInfo {
        id,
        flags: 1,
        ..Default::default()
    };
    assert_eq!(dm(&mut host, dm_op::GET_IOREQ_SERVER_INFO, info).bufioreq_port, 43);

    let range = dm_op::IoRange {
        id,
        pad: 0,
        kind: 1,
        start: DEVICE,
        end: DEVICE + 0x1ff,
    };
    dm(&mut host, dm_op::UNMAP_IO_RANGE_FROM_IOREQ_SERVER, range);
    for port in ports {
        event(&mut host, evtchn::CLOSE, evtchn::Port { port });
    }
    dm(
        &mut host,
        dm_op::SET_IOREQ_SERVER_STATE,
        dm_op::SetIoreqServerState { id, enabled: 0, pad: 0 },
    );
    memory_op(
        &mut host,
        memory::REMOVE_FROM_PHYSMAP,
        memory::RemoveFromPhysmap {
            domid: SELF,
            gpfn: 0x7000,
            pad: [0; 3],
        },
    );
    dm(
        &mut host,
        dm_op::DESTROY_IOREQ_SERVER,
        dm_op::DestroyIoreqServer { id, pad: 0 },
    );
    assert_eq!(host.live_frames, 0);
    assert_eq!(host.events(GUEST).next_open(portunus::ids::EventPort(1)), None);
}

#[test]
fn a_backend_that_resets_its_ports_loses_its_requests() {
    let mut host = FakeHost::new(BACKEND);
    attach(&mut host);
    let _ = guest_reads(&mut host, 0);
    assert!(host.servers.request(0).holds_vcpu());
    event(&mut host, evtchn::RESET, evtchn::Reset { dom: SELF });
    assert_eq!(host.servers.serving(0), None, "as if no server were attached");
    host.caller.domain = host::SECOND_BACKEND;
    let (id, page, ports) = attach(&mut host);
    assert_eq!(id, 1, "the first is a tombstone");
    host.machine.poke(Pa(page.0 + 30), &[3]);
    event(&mut host, evtchn::SEND, evtchn::Port { port: ports[0] });
    assert_eq!(
        host.servers.take(0),
        Some(Answer::Value(0)),
        "the successor got the request that waited"
    );
}

#[test]
fn a_reset_of_many_ports_goes_in_pieces() {
    let mut host = FakeHost::new(GUEST);
    for _ in 0..40 {
        host.events(GUEST).bind_ipi(0).unwrap();
    }
    host.put(VA, &evtchn::Reset { dom: SELF });
    let arguments = [evtchn::RESET, VA, 0, 0, 0];
    assert_eq!(
        host.call(hypercall::EVENT_CHANNEL_OP, &arguments),
        Outcome::Continue(arguments)
    );
    assert_eq!(host.call(hypercall::EVENT_CHANNEL_OP, &arguments), OK);
    assert_eq!(host.events(GUEST).next_open(portunus::ids::EventPort(1)), None);
}

#[test]
fn linux_finds_what_it_asks_for_at_boot() {
    let mut host = FakeHost::new(GUEST);
    assert_eq!(host.call(hypercall::XEN_VERSION, &[0]), Outcome::Return(4 << 16 | 20));
    let expected = [(false, 1 << 16), (true, 1 << 17)];
    for (direct, bit) in expected {
        host.direct_mapped = direct;
        host.put(
            VA,
            &version::FeatureInfo {
                submap_idx: 0,
                submap: 0xffff_ffff,
            },
        );
        assert_eq!(host.call(hypercall::XEN_VERSION, &[6, VA]), OK);
        assert_eq!(
            host.get::<version::FeatureInfo>(VA).submap,
            1 << 0 | 1 << 2 | 1 << 13 | 1 << 14 | bit
        );
    }
    for (index, value) in [(0, 2 << 56 | 2 << 8 | 31), (1, 0), (2, 0), (17, 0), (18, 0)] {
        host.put(
            VA,
            &hvm_op::Parameter {
                domid: SELF,
                pad: 0,
                index,
                value: 77,
            },
        );
        assert_eq!(host.call(hypercall::HVM_OP, &[1, VA]), OK);
        assert_eq!(host.get::<hvm_op::Parameter>(VA).value, value, "parameter {index}");
    }
    memory_op(
        &mut host,
        memory::ADD_TO_PHYSMAP,
        memory::AddToPhysmap {
            domid: SELF,
            gpfn: 0x41234,
            ..Default::default()
        },
    );
    assert_eq!(host.actions, [Action::SharedInfo(0x41234)]);
    host.actions.clear();

    host.put(
        VA,
        &vcpu::RegisterVcpuInfo {
            mfn: 3,
            offset: 0xfd0,
            rsvd: 0,
        },
    );
    assert_eq!(host.call(hypercall::VCPU_OP, &[10, 1, VA]), OK);
    let upcall = Delivery {
        upcall: Some(1),
        wake: VcpuSet::EMPTY,
    };
    assert_eq!(host.actions, [Action::Deliver(GUEST, upcall)]);
    let again = Outcome::Return(HypercallError::Busy.register());
    assert_eq!(host.call(hypercall::VCPU_OP, &[10, 1, VA]), again);

    for (op, expected) in [(3, 0x10000), (4, 0x10000), (14, 0x7ffff)] {
        host.put(VA, &SELF);
        assert_eq!(host.call(hypercall::MEMORY_OP, &[op, VA]), Outcome::Return(expected));
    }
}

#[test]
fn strings_fill_their_fields_and_only_those() {
    let mut host = FakeHost::new(GUEST);
    let rows: [(u64, usize, &str); 4] = [
        (1, 16, ".portunus"),
        (3, 1024, "xen-3.0-aarch64 "),
        (4, 64, "portunus 0.1.0"),
        (9, 1024, ""),
    ];
    for (operation, length, expected) in rows {
        host.memory.fill(0xee);
        assert_eq!(host.call(hypercall::XEN_VERSION, &[operation, VA]), OK);
        let (text, zeroes) = host.memory[..length].split_at(expected.len());
        assert_eq!(text, expected.as_bytes(), "operation {operation}");
        assert!(zeroes.iter().all(|byte| *byte == 0), "operation {operation}");
        assert!(
            host.memory[length..].iter().all(|byte| *byte == 0xee),
            "operation {operation}"
        );
    }
    host.memory.fill(0xee);
    for (operation, length) in [(2, 144), (5, 8), (8, 16)] {
        assert_eq!(host.call(hypercall::XEN_VERSION, &[operation, VA]), OK);
        assert_eq!(host.memory[length], 0xee, "operation {operation}");
        host.memory.fill(0xee);
    }
    assert_eq!(host.call(hypercall::XEN_VERSION, &[7, 0]), Outcome::Return(4096));
    assert_eq!(
        host.call(hypercall::XEN_VERSION, &[11, 0]),
        Outcome::Return(9),
        "the length alone"
    );
    host.put(VA, &version::VariableBuffer { len: 9 });
    assert_eq!(host.call(hypercall::XEN_VERSION, &[11, VA]), Outcome::Return(9));
    assert_eq!(&host.memory[4..14], b".portunus\xee");
}

#[test]
fn foreign_pages_are_mapped_in_bounded_pieces_with_an_error_each() {
    let mut host = FakeHost::new(BACKEND);
    let size = 150u16;
    let batch = memory::AddToPhysmapBatch {
        domid: SELF,
        space: 4,
        size,
        foreign_domid: GUEST.0,
        idxs: VA + 0x1000,
        gpfns: VA + 0x2000,
        errs: VA + 0x3000,
    };
    host.put(VA, &batch);
    for index in 0..u64::from(size) {
        let source = if index % 50 == 7 {
            u64::MAX >> 12
        } else {
            0x40000 + index
        };
        host.put(VA + 0x1000 + index * 8, &source);
        host.put(VA + 0x2000 + index * 8, &(0x100 + index));
        host.put(VA + 0x3000 + index * 4, &0x5555i32);
    }
    let first = host.call(hypercall::MEMORY_OP, &[memory::ADD_TO_PHYSMAP_BATCH, VA]);
    assert_eq!(first, Outcome::Continue([23 | 64 << 6, VA, 0, 0, 0]));
    assert!(host.actions.len() <= 64, "{}", host.actions.len());
    let (last, resumed) = host.call_to_end(hypercall::MEMORY_OP, &[23 | 64 << 6, VA]);
    assert_eq!((last, resumed), (OK, 1));
    let mapped: Vec<_> = (0..150)
        .filter(|index| index % 50 != 7)
        .map(|index| Action::Foreign(GUEST, 0x40000 + index, 0x100 + index))
        .collect();
    assert_eq!(host.actions, mapped);
    for index in 0..150 {
        let expected = if index % 50 == 7 { -22 } else { 0 };
        assert_eq!(host.get::<i32>(VA + 0x3000 + index * 4), expected, "entry {index}");
    }
    host.put(VA, &memory::AddToPhysmapBatch { size: 0, ..batch });
    assert_eq!(host.call(hypercall::MEMORY_OP, &[23, VA]), OK, "nothing to do");
}

#[test]
fn the_size_of_a_resource_can_be_asked_and_both_frames_mapped() {
    let mut host = FakeHost::new(BACKEND);
    let id = dm(
        &mut host,
        dm_op::CREATE_IOREQ_SERVER,
        dm_op::CreateIoreqServer::default(),
    )
    .id;
    let query = memory::AcquireResource {
        domid: GUEST.0,
        id: id.into(),
        ..Default::default()
    };
    assert_eq!(memory_op(&mut host, memory::ACQUIRE_RESOURCE, query).nr_frames, 2);
    host.put(VA + 0x200, &[0x10u64, 0x11]);
    let both = memory::AcquireResource {
        nr_frames: 2,
        frame_list: VA + 0x200,
        ..query
    };
    memory_op(&mut host, memory::ACQUIRE_RESOURCE, both);
    let frames: Vec<_> = host
        .actions
        .iter()
        .filter(|action| matches!(action, Action::Resource(..)))
        .collect();
    assert!(matches!(
        frames[..],
        [Action::Resource(_, _, 0x10), Action::Resource(_, _, 0x11)]
    ));

    host.fail_resource = Some(3);
    host.put(VA, &both);
    let result = host.call(hypercall::MEMORY_OP, &[memory::ACQUIRE_RESOURCE, VA]);
    assert_eq!(
        result,
        Outcome::Return(HypercallError::InputOutput.register()),
        "not the first frame"
    );
}

#[test]
fn a_balloon_moves_single_pages_and_counts_them() {
    let mut host = FakeHost::new(GUEST);
    for index in 0..100 {
        host.put(VA + 0x1000 + index * 8, &(0x100 + index));
    }
    let request = memory::MemoryReservation {
        extent_start: VA + 0x1000,
        nr_extents: 100,
        domid: SELF,
        ..Default::default()
    };
    host.put(VA, &request);
    assert_eq!(
        host.call_to_end(hypercall::MEMORY_OP, &[1, VA]),
        (Outcome::Return(100), 1)
    );
    assert_eq!(host.actions.len(), 100);
    host.put(VA + 0x1000 + 70 * 8, &u64::MAX);
    assert_eq!(
        host.call_to_end(hypercall::MEMORY_OP, &[6, VA]),
        (Outcome::Return(70), 1),
        "as many as it could"
    );
    host.put(
        VA,
        &memory::MemoryReservation {
            extent_order: 9,
            ..request
        },
    );
    assert_eq!(
        host.call(hypercall::MEMORY_OP, &[1, VA]),
        Outcome::Return(0),
        "no blocks"
    );
    for nr_extents in [u64::MAX, u64::MAX >> 6, 1 << 60] {
        host.put(
            VA,
            &memory::MemoryReservation {
                nr_extents,
                extent_start: u64::MAX - 7,
                ..request
            },
        );
        assert_eq!(
            host.call(hypercall::MEMORY_OP, &[1, VA]),
            Outcome::Return(0),
            "{nr_extents:#x}"
        );
    }
    host.put(VA, &request);
    assert_eq!(
        host.call(hypercall::MEMORY_OP, &[1 | 200 << 6, VA]),
        Outcome::Return(100),
        "more done than there is"
    );
}

#[test]
fn a_multicall_runs_each_entry_in_bounded_pieces() {
    let mut host = FakeHost::new(BACKEND);
    let entry = |op, args: [u64; 6]| MulticallEntry {
        op,
        result: 0x5555,
        args,
    };
    for index in 0..20 {
        host.put(
            VA + 0x400 + index * 64,
            &entry(hypercall::XEN_VERSION, [0, 0, 0, 0, 0, 9]),
        );
    }
    host.put(VA + 0x400 + 3 * 64, &entry(99, [0; 6]));
    host.put(
        VA + 0x400 + 4 * 64,
        &entry(hypercall::MULTICALL, [VA + 0x400, 1, 0, 0, 0, 0]),
    );
    host.put(
        VA + 0x400 + 5 * 64,
        &entry(hypercall::SCHED_OP, [sched::BLOCK, 0, 0, 0, 0, 0]),
    );
    host.put(
        VA + 0x400 + 6 * 64,
        &entry(hypercall::SCHED_OP, [sched::YIELD, 0, 0, 0, 0, 0]),
    );
    assert_eq!(host.call_to_end(hypercall::MULTICALL, &[VA + 0x400, 20]), (OK, 2));
    for index in 0..20 {
        let expected = match index {
            3 | 5 => HypercallError::NotImplemented.register(),
            4 => HypercallError::Invalid.register(),
            6 => 0,
            _ => 4 << 16 | 20,
        };
        assert_eq!(
            host.get::<MulticallEntry>(VA + 0x400 + index * 64).result,
            expected,
            "entry {index}"
        );
    }
    assert_eq!(host.call(hypercall::MULTICALL, &[VA, 0]), OK);
}

#[test]
fn a_long_call_inside_a_multicall_is_resumed_where_it_stopped() {
    let mut host = FakeHost::new(BACKEND);
    let batch = memory::AddToPhysmapBatch {
        domid: SELF,
        space: 4,
        size: 100,
        foreign_domid: GUEST.0,
        idxs: VA + 0x1000,
        gpfns: VA + 0x2000,
        errs: VA + 0x3000,
    };
    host.put(VA, &batch);
    let first = MulticallEntry {
        op: hypercall::XEN_VERSION,
        ..Default::default()
    };
    let second = MulticallEntry {
        op: hypercall::MEMORY_OP,
        result: 0x5555,
        args: [23, VA, 0, 0, 0, 0],
    };
    host.put(VA + 0x400, &[first, second, first]);
    let outcome = host.call(hypercall::MULTICALL, &[VA + 0x400, 3]);
    assert_eq!(outcome, Outcome::Continue([VA + 0x440, 2, 0, 0, 0]));
    assert_eq!(host.get::<MulticallEntry>(VA + 0x440).args[0], 23 | 64 << 6);
    assert_eq!(host.call(hypercall::MULTICALL, &[VA + 0x440, 2]), OK);
    assert_eq!(host.actions.len(), 100);
    assert_eq!(host.get::<MulticallEntry>(VA + 0x440).result, 0);
    assert_eq!(host.get::<MulticallEntry>(VA + 0x480).result, 4 << 16 | 20);
}

#[test]
fn sched_op_becomes_an_action() {
    let mut host = FakeHost::new(GUEST);
    assert_eq!(host.call(hypercall::SCHED_OP, &[0]), Outcome::Yield);
    assert_eq!(host.call(hypercall::SCHED_OP, &[1]), Outcome::Block);
    let reasons = [
        ShutdownReason::Poweroff,
        ShutdownReason::Reboot,
        ShutdownReason::Suspend,
        ShutdownReason::Crash,
        ShutdownReason::Watchdog,
        ShutdownReason::SoftReset,
    ];
    for (number, reason) in reasons.into_iter().enumerate() {
        host.put(VA, &sched::Shutdown { reason: number as u32 });
        assert_eq!(host.call(hypercall::SCHED_OP, &[2, VA]), Outcome::Shutdown(reason));
        assert_eq!(host.call(hypercall::SCHED_OP, &[5, VA]), OK);
    }
    let port = event(&mut host, evtchn::BIND_IPI, evtchn::BindIpi { vcpu: 1, port: 0 }).port;
    host.put(VA + 0x100, &[port, port]);
    for (nr_ports, timeout, until) in [(1, 0, None), (2, 1234, Some(1234)), (0, 5, Some(5))] {
        host.put(
            VA,
            &sched::Poll {
                ports: VA + 0x100,
                nr_ports,
                pad: 0,
                timeout,
            },
        );
        assert_eq!(host.call(hypercall::SCHED_OP, &[3, VA]), Outcome::Poll { until });
    }
    host.actions.clear();
    event(&mut host, evtchn::SEND, evtchn::Port { port });
    let delivery = Delivery {
        upcall: None,
        wake: VcpuSet::only(0),
    };
    assert_eq!(host.actions, [Action::Deliver(GUEST, delivery)], "the poller wakes");
    host.put(
        VA,
        &sched::Poll {
            ports: VA + 0x100,
            nr_ports: 1,
            pad: 0,
            timeout: 0,
        },
    );
    assert_eq!(host.call(hypercall::SCHED_OP, &[3, VA]), OK, "an event is there");
}

#[test]
fn ports_say_what_they_are() {
    let mut host = FakeHost::new(GUEST);
    let request = evtchn::AllocUnbound {
        dom: SELF,
        remote_dom: BACKEND.0,
        port: 0,
    };
    let port = event(&mut host, evtchn::ALLOC_UNBOUND, request).port;
    event(&mut host, evtchn::BIND_VCPU, evtchn::BindVcpu { port, vcpu: 1 });
    let status = event(
        &mut host,
        evtchn::STATUS,
        evtchn::Status {
            dom: GUEST.0,
            port,
            ..Default::default()
        },
    );
    assert_eq!(
        (status.status, status.vcpu, status.peer),
        (evtchn::STATUS_UNBOUND, 1, BACKEND.0.into())
    );
    event(&mut host, evtchn::UNMASK, evtchn::Port { port });
    event(&mut host, evtchn::CLOSE, evtchn::Port { port });
    let loopback = event(
        &mut host,
        evtchn::ALLOC_UNBOUND,
        evtchn::AllocUnbound {
            dom: SELF,
            remote_dom: SELF,
            port: 0,
        },
    );
    let bind = evtchn::BindInterdomain {
        remote_dom: SELF,
        remote_port: loopback.port,
        ..Default::default()
    };
    assert_eq!(event(&mut host, evtchn::BIND_INTERDOMAIN, bind).local_port, 2);
    let virq = event(
        &mut host,
        evtchn::BIND_VIRQ,
        evtchn::BindVirq {
            virq: evtchn::VIRQ_DEBUG,
            vcpu: 1,
            port: 0,
        },
    );
    assert_eq!(virq.port, 3);
}

#[test]
fn getdomaininfo_tells_a_backend_how_big_its_guest_is() {
    for interface_version in 0x15..=0x18 {
        let mut host = FakeHost::new(BACKEND);
        host.memory.fill(0xee);
        // The first domain whose number is not below 0.
        host.put(
            VA,
            &domctl::Domctl {
                cmd: 5,
                interface_version,
                domain: 0,
                pad: [0; 3],
            },
        );
        assert_eq!(host.call(hypercall::DOMCTL, &[VA]), OK);
        assert_eq!(host.get::<domctl::Domctl>(VA).domain, GUEST.0);
        let info: domctl::GetDomainInfo = host.get(VA + 16);
        assert_eq!(
            (info.domain, info.tot_pages - 4, info.max_vcpu_id, info.nr_online_vcpus),
            (1, 0x10000, 1, 1)
        );
        assert_eq!(
            (info.flags, info.gpaddr_bits, info.gic_version, info.nr_spis),
            (2 | 32 | 256, 40, 2, 64)
        );
        assert!(host.memory[136..].iter().all(|byte| *byte == 0xee));
        host.shutdown = Some(ShutdownReason::Crash);
        assert_eq!(host.call(hypercall::DOMCTL, &[VA]), OK);
        assert_eq!(host.get::<domctl::GetDomainInfo>(VA + 16).flags, 2 | 4 | 256 | 3 << 16);
    }
}

#[test]
fn a_runstate_area_may_lie_across_two_pages() {
    let mut host = FakeHost::new(GUEST);
    for (address, pieces) in [
        (VA + 0x800, 1),
        (VA + 0x1000 - 48, 1),
        (VA + 0x1000 - 40, 2),
        (VA + 0x1000 - 8, 2),
    ] {
        host.put(VA, &address);
        assert_eq!(host.call(hypercall::VCPU_OP, &[5, 1, VA]), OK);
        let Some(Action::Runstate(1, Some(area))) = host.actions.last().cloned() else {
            panic!()
        };
        let info = RunstateInfo {
            state: 1,
            pad: 0,
            state_entry_time: 2,
            time: [3, 4, 5, 6],
        };
        host.machine.clear_log();
        RunstateArea::publish(&area, &host.machine, &info);
        assert_eq!(host.machine.take_log().len(), pieces);
        let at = Pa(0x8010_0000 + 0x20_0000 + (address - VA));
        assert_eq!(host.machine.peek(at, 48), info.as_bytes());
    }
    host.put(VA, &0u64);
    assert_eq!(host.call(hypercall::VCPU_OP, &[5, 0, VA]), OK);
    assert_eq!(host.actions.last(), Some(&Action::Runstate(0, None)));
}

#[test]
fn console_output_goes_out_in_bounded_pieces() {
    let mut host = FakeHost::new(GUEST);
    let text: Vec<u8> = (0..1300).map(|index| b'a' + (index % 26) as u8).collect();
    host.put(VA, text.as_slice());
    assert_eq!(
        host.call(hypercall::CONSOLE_IO, &[0, 1300, VA]),
        Outcome::Continue([0, 788, VA + 512, 0, 0])
    );
    assert_eq!(host.call_to_end(hypercall::CONSOLE_IO, &[0, 788, VA + 512]), (OK, 1));
    let written: Vec<u8> = host
        .actions
        .iter()
        .flat_map(|action| match action {
            Action::Console(bytes) => bytes.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(written, text);
    assert_eq!(host.call(hypercall::CONSOLE_IO, &[1, 10, VA]), OK, "no input");
    assert_eq!(host.call(hypercall::CONSOLE_IO, &[0, 0, 0]), OK, "nothing to write");
}

/// Numbers, arguments and structures at random: whatever comes, every call ends, in few reads of guest memory.
#[test]
fn random_calls_end_and_stay_bounded() {
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let numbers = [12, 13, 17, 18, 21, 24, 29, 32, 34, 36, 41];
    let mut host = FakeHost::new(BACKEND);
    for _ in 0..30_000 {
        if random() % 4 == 0 {
            host.caller.domain = DomainId(1 + (random() % 4) as u16);
        }
        for _ in 0..8 {
            let at = VA + random() % 0x180 / 2 * 2;
            let value = match random() % 4 {
                0 => random(),
                1 => random() % 8,
                2 => VA + random() % 0x200,
                _ => u64::from(SELF),
            };
            host.put(at, &value);
        }
        let mut argument = || match random() % 4 {
            0 => random() % 32,
            1 => random(),
            _ => VA + random() % 0x180,
        };
        let arguments = [argument(), argument(), argument(), argument(), argument()];
        let small = [random() % 32, arguments[1], arguments[2], arguments[3], arguments[4]];
        let number = numbers[(random() % numbers.len() as u64) as usize];
        host.reads = 0;
        host.actions.clear();
        let _ = host.call(number, if random() % 8 == 0 { &arguments } else { &small });
        assert!(
            host.reads <= 8 * 200 && host.actions.len() <= 8 * 128,
            "{number} {small:x?}: {} reads",
            host.reads
        );
    }
}
