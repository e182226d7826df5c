//! Golden layouts: every structure of the ABI, every field, at the offset that Xen's public headers give on arm64.

use core::mem::offset_of;

use portunus::abi::hypercall::{HypercallError, MulticallEntry, from_register, to_register};
use portunus::abi::ioreq::{BufferedIoreq, Ioreq, State};
use portunus::abi::{
    console, control, dm_op, domctl, evtchn, grant, hvm_op, memory, sched, shared_info, vcpu, version,
};
use zerocopy::{FromBytes, IntoBytes};

/// (structure, its size, its size here, [(field, offset, offset here)])
type Golden = (&'static str, usize, usize, Vec<(&'static str, usize, usize)>);

macro_rules! golden {
    ($($type:ty, $size:literal { $($field:ident @ $offset:literal),* $(,)? })*) => {
        vec![$((
            stringify!($type),
            $size,
            size_of::<$type>(),
            vec![$((stringify!($field), $offset, offset_of!($type, $field))),*],
        )),*]
    };
}

#[test]
fn every_field_is_where_xens_headers_put_it() {
    let table: Vec<Golden> = golden! {
        Ioreq, 32 { addr @ 0, data @ 8, count @ 16, size @ 20, vp_eport @ 24, pad @ 28, flags @ 30, kind @ 31 }
        BufferedIoreq, 8 { word @ 0, data @ 4 }
        MulticallEntry, 64 { op @ 0, result @ 8, args @ 16 }
        dm_op::Buffer, 16 { pointer @ 0, size @ 8 }
        dm_op::Header, 8 { op @ 0, pad @ 4 }
        dm_op::CreateIoreqServer, 6 { handle_bufioreq @ 0, pad @ 1, id @ 4 }
        dm_op::GetIoreqServerInfo, 24 { id @ 0, flags @ 2, bufioreq_port @ 4, ioreq_gfn @ 8, bufioreq_gfn @ 16 }
        dm_op::IoRange, 24 { id @ 0, pad @ 2, kind @ 4, start @ 8, end @ 16 }
        dm_op::SetIoreqServerState, 4 { id @ 0, enabled @ 2, pad @ 3 }
        dm_op::DestroyIoreqServer, 4 { id @ 0, pad @ 2 }
        dm_op::SetIrqLevel, 8 { irq @ 0, level @ 4, pad @ 5 }
        dm_op::NrVcpus, 4 { vcpus @ 0 }
        dm_op::Features, 16 { id @ 0, pad @ 2, features @ 8 }
        dm_op::StatePage, 24 { id @ 0, pad @ 2, address @ 8, frame @ 16 }
        dm_op::AttachBuffered, 24 { id @ 0, pad @ 2, flags @ 4, start @ 8, end @ 16 }
        dm_op::AttachDoorbell, 40 {
            id @ 0, pad @ 2, flags @ 4, address @ 8, value @ 16, mask @ 24, size @ 32, port @ 36
        }
        dm_op::AttachShadow, 40 {
            id @ 0, pad @ 2, flags @ 4, address @ 8, failure_offset @ 16, failure_bits @ 20, failure_interrupt @ 24,
            pad2 @ 28, frame @ 32
        }
        dm_op::AttachAck, 24 { id @ 0, pad @ 2, irq @ 4, address @ 8, offset @ 16, pad2 @ 20 }
        dm_op::Detach, 24 { id @ 0, pad @ 2, kind @ 4, address @ 8, value @ 16 }
        dm_op::Update, 24 { id @ 0, pad @ 2, flags @ 4, address @ 8, clear @ 16, set @ 20 }
        dm_op::Replace, 24 { id @ 0, pad @ 2, flags @ 4, address @ 8, frame @ 16 }
        console::Interface, 3092 {
            input @ 0, output @ 1024, in_cons @ 3072, in_prod @ 3076, out_cons @ 3080, out_prod @ 3084, connection @ 3088
        }
        memory::AddToPhysmap, 24 { domid @ 0, size @ 2, space @ 4, idx @ 8, gpfn @ 16 }
        memory::AddToPhysmapBatch, 32 { domid @ 0, space @ 2, size @ 4, foreign_domid @ 6, idxs @ 8, gpfns @ 16, errs @ 24 }
        memory::RemoveFromPhysmap, 16 { domid @ 0, gpfn @ 8 }
        memory::AcquireResource, 32 {
            domid @ 0, kind @ 2, id @ 4, nr_frames @ 8, pad @ 12, frame @ 16, frame_list @ 24
        }
        memory::MemoryReservation, 32 {
            extent_start @ 0, nr_extents @ 8, extent_order @ 16, mem_flags @ 20, domid @ 24
        }
        shared_info::VcpuInfo, 48 { upcall_pending @ 0, pending_sel @ 8, time @ 16 }
        shared_info::SharedInfo, 1088 {
            vcpu_info @ 0, evtchn_pending @ 48, evtchn_mask @ 560,
            wc_version @ 1072, wc_sec @ 1076, wc_nsec @ 1080, wc_sec_hi @ 1084
        }
        evtchn::AllocUnbound, 8 { dom @ 0, remote_dom @ 2, port @ 4 }
        evtchn::BindInterdomain, 12 { remote_dom @ 0, remote_port @ 4, local_port @ 8 }
        evtchn::BindVirq, 12 { virq @ 0, vcpu @ 4, port @ 8 }
        evtchn::BindIpi, 8 { vcpu @ 0, port @ 4 }
        evtchn::BindVcpu, 8 { port @ 0, vcpu @ 4 }
        evtchn::Port, 4 { port @ 0 }
        evtchn::Reset, 2 { dom @ 0 }
        evtchn::Status, 24 { dom @ 0, port @ 4, status @ 8, vcpu @ 12, peer @ 16, peer_port @ 20 }
        sched::Shutdown, 4 { reason @ 0 }
        sched::Poll, 24 { ports @ 0, nr_ports @ 8, timeout @ 16 }
        sched::Watchdog, 8 { id @ 0, timeout @ 4 }
        vcpu::RegisterVcpuInfo, 16 { mfn @ 0, offset @ 8, rsvd @ 12 }
        vcpu::RegisterRunstateMemoryArea, 8 { pointer @ 0 }
        vcpu::RunstateInfo, 48 { state @ 0, state_entry_time @ 8, time @ 16 }
        version::FeatureInfo, 8 { submap_idx @ 0, submap @ 4 }
        version::CompileInfo, 144 { compiler @ 0, compile_by @ 64, compile_domain @ 80, compile_date @ 112 }
        version::VariableBuffer, 4 { len @ 0 }
        hvm_op::Parameter, 16 { domid @ 0, index @ 4, value @ 8 }
        domctl::Domctl, 16 { cmd @ 0, interface_version @ 4, domain @ 8 }
        domctl::GetDomainInfo, 120 {
            domain @ 0, flags @ 4, tot_pages @ 8, max_pages @ 16, shared_info_frame @ 48, cpu_time @ 56,
            nr_online_vcpus @ 64, max_vcpu_id @ 68, ssidref @ 72, handle @ 76, cpupool @ 92, gpaddr_bits @ 96,
            gic_version @ 104, sve_vl @ 105, tee_type @ 106, nr_spis @ 108, clock_frequency @ 112
        }
        control::Version, 8 { version @ 0, pad @ 4 }
        control::Domain, 176 {
            version @ 0, domain @ 4, pad @ 6, state @ 8, flags @ 12, reason @ 16, restarts @ 20, vcpus @ 24,
            online_vcpus @ 28, servers @ 32, reserved @ 36, event_channels @ 40, attached_ports @ 44, ram_pages @ 48,
            pool_frames @ 56, pool_used @ 64, foreign_pages @ 72, references @ 80, run_time @ 88, now @ 96,
            frequency @ 104, name @ 112
        }
        control::Vcpu, 192 {
            version @ 0, domain @ 4, vcpu @ 6, state @ 8, flags @ 12, pcpu @ 16, server @ 20, address @ 24, since @ 32,
            run_time @ 40, server_wait @ 48, interrupts @ 56, exits @ 64
        }
        control::Server, 208 {
            version @ 0, domain @ 4, server @ 6, first_range @ 8, ranges @ 12, owner @ 16, reserved @ 18, stage @ 20,
            in_flight @ 24, reserved2 @ 28, answered @ 32, failed @ 40, posted @ 48, median @ 56, percentile_99 @ 64,
            longest @ 72, range @ 80
        }
        control::Range, 16 { start @ 0, end @ 8 }
        control::Action, 16 { version @ 0, domain @ 4, pad @ 6, reason @ 8, pad2 @ 12 }
        grant::GrantEntry, 8 { flags @ 0, domid @ 2, frame @ 4 }
        grant::MapGrantRef, 32 {
            host_addr @ 0, flags @ 8, reference @ 12, dom @ 16, status @ 18, handle @ 20, dev_bus_addr @ 24
        }
        grant::UnmapGrantRef, 24 { host_addr @ 0, dev_bus_addr @ 8, handle @ 16, status @ 20 }
        grant::SetupTable, 24 { dom @ 0, nr_frames @ 4, status @ 8, frame_list @ 16 }
        grant::CopyEnd, 16 { frame @ 0, domid @ 8, offset @ 10 }
        grant::GrantCopy, 40 { source @ 0, dest @ 16, len @ 32, flags @ 34, status @ 36 }
        grant::QuerySize, 16 { dom @ 0, nr_frames @ 4, max_nr_frames @ 8, status @ 12 }
        grant::Version, 4 { version @ 0 }
        grant::GetVersion, 8 { dom @ 0, version @ 4 }
        grant::SwapGrantRef, 12 { ref_a @ 0, ref_b @ 4, status @ 8 }
        grant::CacheFlush, 16 { dev_bus_addr @ 0, offset @ 8, length @ 10, op @ 12 }
    };
    for (name, size, here, fields) in table {
        assert_eq!(size, here, "size of {name}");
        for (field, offset, here) in fields {
            assert_eq!(offset, here, "{name}.{field}");
        }
    }
}

#[test]
fn numbers_of_range_kinds_are_these() {
    use dm_op::{AttachShadow, Detach, Features};
    use portunus::abi::ioreq;
    let table = [
        ("features", dm_op::VENDOR_FEATURES.into(), 0x5000_0000_u64),
        ("state_page", dm_op::VENDOR_STATE_PAGE.into(), 0x5000_0001),
        ("attach_buffered", dm_op::VENDOR_ATTACH_BUFFERED.into(), 0x5000_0002),
        ("attach_doorbell", dm_op::VENDOR_ATTACH_DOORBELL.into(), 0x5000_0003),
        ("attach_shadow", dm_op::VENDOR_ATTACH_SHADOW.into(), 0x5000_0004),
        ("attach_ack", dm_op::VENDOR_ATTACH_ACK.into(), 0x5000_0005),
        ("detach", dm_op::VENDOR_DETACH.into(), 0x5000_0006),
        ("update", dm_op::VENDOR_UPDATE.into(), 0x5000_0007),
        ("replace", dm_op::VENDOR_REPLACE.into(), 0x5000_0008),
        ("feature state_page", Features::STATE_PAGE, 1),
        ("feature attach_buffered", Features::BUFFERED, 2),
        ("feature attach_doorbell", Features::DOORBELL, 4),
        ("feature attach_shadow", Features::SHADOW, 8),
        ("WRITE_ONLY", dm_op::WRITE_ONLY.into(), 1),
        ("AFTER_REPLACE", AttachShadow::AFTER_REPLACE.into(), 1),
        ("detach buffered", Detach::BUFFERED.into(), 1),
        ("detach doorbell", Detach::DOORBELL.into(), 2),
        ("detach shadow", Detach::SHADOW.into(), 3),
        ("detach ack", Detach::ACK.into(), 4),
        ("first state page", dm_op::VENDOR_FIRST_FRAME, 0x1000),
        ("first shadow frame", dm_op::VENDOR_FIRST_SHADOW_FRAME, 0x2000),
        ("doorbells of a server", dm_op::MAX_DOORBELLS as u64, 64),
        ("buffered ranges of a server", dm_op::MAX_BUFFERED_RANGES as u64, 64),
        ("bytes of a buffered range", dm_op::BUFFERED_REACH, 0x10_0000),
        ("read_pointer", ioreq::BUFFERED_READ_POINTER, 0),
        ("write_pointer", ioreq::BUFFERED_WRITE_POINTER, 4),
        ("first slot", ioreq::BUFFERED_FIRST_SLOT, 8),
        ("slots", ioreq::BUFFERED_SLOTS as u64, 511),
    ];
    for (name, here, golden) in table {
        assert_eq!(here, golden, "{name}");
    }
}

#[test]
fn an_ioreq_is_these_bytes() {
    let mut request = Ioreq {
        addr: 0x0200_0050,
        data: 0x1122_3344_5566_7788,
        count: 1,
        size: 4,
        vp_eport: 0x401,
        pad: 0,
        flags: Ioreq::READ,
        kind: portunus::abi::ioreq::TYPE_COPY,
    };
    request.set_state(State::READY);
    let bytes = [
        0x50, 0x00, 0x00, 0x02, 0, 0, 0, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 1, 0, 0, 0, 4, 0, 0, 0, 1,
        4, 0, 0, 0, 0, 0x21, 1,
    ];
    assert_eq!(request.as_bytes(), bytes);
    assert!(request.is_read());
    assert!(!request.data_is_pointer());
    request.set_state(State(0xff));
    assert_eq!(
        request.flags, 0x2f,
        "a state of eight bits does not touch the other flags"
    );
}

#[test]
fn a_buffered_request_is_these_bits() {
    let slot = BufferedIoreq::read_from_bytes(&[0x01, 0x0a, 0x05, 0x10, 0xdd, 0xcc, 0xbb, 0xaa]).unwrap();
    assert_eq!(
        (slot.kind(), slot.is_read(), slot.bytes(), slot.address(), slot.data),
        (1, true, 4, 0x10050, 0xaabb_ccdd)
    );
}

#[test]
fn errors_are_linux_numbers_and_come_back() {
    let numbers = [
        1, 2, 3, 5, 6, 7, 11, 12, 13, 14, 16, 17, 18, 19, 22, 28, 30, 33, 34, 35, 38, 61, 75, 84, 90, 95, 105, 111,
    ];
    assert_eq!(HypercallError::ALL.map(HypercallError::errno), numbers);
    for error in HypercallError::ALL {
        assert_eq!(from_register(to_register(Err(error))), Err(error));
        assert_eq!(error.register() as i64, i64::from(error.entry()));
    }
    assert_eq!(from_register(7), Ok(7));
    for unknown in [-4i64, -85, -4096, i64::MIN] {
        assert_eq!(from_register(unknown as u64), Err(HypercallError::InputOutput));
    }
}

#[test]
fn numbers_of_exits_are_the_counters_own() {
    use control::Vcpu;
    use portunus::counters::Exit;
    let table = [
        (Exit::InterruptController, Vcpu::EXIT_INTERRUPT_CONTROLLER, 0),
        (Exit::Uart, Vcpu::EXIT_UART, 1),
        (Exit::Device, Vcpu::EXIT_DEVICE, 2),
        (Exit::Server, Vcpu::EXIT_SERVER, 3),
        (Exit::Unclaimed, Vcpu::EXIT_UNCLAIMED, 4),
        (Exit::Memory, Vcpu::EXIT_MEMORY, 5),
        (Exit::Instruction, Vcpu::EXIT_INSTRUCTION, 6),
        (Exit::Hypercall, Vcpu::EXIT_HYPERCALL, 7),
        (Exit::Firmware, Vcpu::EXIT_FIRMWARE, 8),
        (Exit::Wait, Vcpu::EXIT_WAIT, 9),
        (Exit::SystemRegister, Vcpu::EXIT_SYSTEM_REGISTER, 10),
        (Exit::Interrupt, Vcpu::EXIT_INTERRUPT, 11),
        (Exit::Other, Vcpu::EXIT_OTHER, 12),
    ];
    for ((exit, number, golden), listed) in table.into_iter().zip(Exit::ALL) {
        assert_eq!((exit as usize, number, listed), (golden, golden, exit));
    }
    assert_eq!(table.len(), Exit::COUNT);
    const { assert!(Exit::COUNT <= control::EXITS) };
}
