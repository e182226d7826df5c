//! Calls that must succeed, and how a backend attaches.

use crate::host::{Action, DEVICE, FakeHost, GUEST, VA};
use portunus::abi::{dm_op, evtchn, hypercall, memory};
use portunus::access::{AccessWidth, Direction, MmioAccess};
use portunus::evtchn::Delivery;
use portunus::hypercall::Outcome;
use portunus::ids::{DomainId, Ipa, Pa, VcpuSet};
use portunus::ioreq::{Begun, Effects};
use portunus::routing;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

pub(crate) const SELF: u16 = DomainId::SELF.0;
pub(crate) const OK: Outcome = Outcome::Return(0);

pub(crate) fn dm<T: IntoBytes + FromBytes + Immutable>(host: &mut FakeHost, op: u32, payload: T) -> T {
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

pub(crate) fn event<T: IntoBytes + FromZeros + FromBytes + Immutable>(host: &mut FakeHost, op: u64, payload: T) -> T {
    host.put(VA, &payload);
    assert_eq!(
        host.call(hypercall::EVENT_CHANNEL_OP, &[op, VA]),
        OK,
        "event_channel_op {op}"
    );
    host.get(VA)
}

pub(crate) fn memory_op<T: IntoBytes + FromZeros + FromBytes + Immutable>(
    host: &mut FakeHost,
    op: u64,
    payload: T,
) -> T {
    host.put(VA, &payload);
    assert_eq!(host.call(hypercall::MEMORY_OP, &[op, VA]), OK, "memory_op {op}");
    host.get(VA)
}

/// What virtio-disk does: vCPUs, server, page, enable, bind each port, map its range. The server, its page and the local
/// ports.
pub(crate) fn attach(host: &mut FakeHost) -> (u16, Pa, [u32; 2]) {
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
    let Some(Action::Resource(page, 0x7000)) = host.actions.last().cloned() else {
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
pub(crate) fn guest_reads(host: &mut FakeHost, vcpu: u8) -> Begun {
    use portunus::routing::Domains;
    let access = MmioAccess {
        ipa: Ipa(DEVICE + 4),
        width: AccessWidth::Word,
        direction: Direction::Read,
    };
    let mut effects = Effects::default();
    let begun = host.servers(GUEST, |servers, around, _| {
        servers.begin(vcpu, access, around, &mut effects)
    });
    let begun = begun.unwrap().unwrap();
    routing::perform(host, GUEST, &effects);
    begun
}

pub(crate) const UPCALL_0: Delivery = Delivery {
    upcall: Some(0),
    wake: VcpuSet::EMPTY,
};
