//! The life of a backend, and what a Linux guest asks at boot.

use crate::host::{self, Action, BACKEND, DEVICE, FakeHost, GUEST, SPI, VA};
use portunus::abi::sched::ShutdownReason;
use portunus::abi::vcpu::RunstateInfo;
use portunus::abi::{HypercallError, dm_op, domctl, evtchn, hvm_op, hypercall, memory, sched, vcpu, version};
use portunus::domain::runstate::RunstateArea;
use portunus::evtchn::Delivery;
use portunus::hypercall::Outcome;
use portunus::ids::{Pa, VcpuSet};
use portunus::ioreq::{Answer, Begun};
use zerocopy::IntoBytes;

use crate::calls::{OK, SELF, UPCALL_0, attach, dm, event, guest_reads, memory_op};

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
    for (index, value) in [(0, 2 << 56 | 2 << 8 | 31), (1, 0), (2, 0), (17, 0x39000), (18, 1)] {
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

    for (op, expected) in [(3, 0x10000 - 0x123), (4, 0x10000), (14, 0x7ffff)] {
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
        [Action::Resource(_, 0x10), Action::Resource(_, 0x11)]
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
        (host.shutdown, host.paused) = (None, true);
        assert_eq!(host.call(hypercall::DOMCTL, &[VA]), OK);
        assert_eq!(host.get::<domctl::GetDomainInfo>(VA + 16).flags, 2 | 8 | 32 | 256);
        (host.paused, host.dying) = (false, true);
        assert_eq!(host.call(hypercall::DOMCTL, &[VA]), OK);
        assert_eq!(host.get::<domctl::GetDomainInfo>(VA + 16).flags, 1 | 2 | 32 | 256);
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
