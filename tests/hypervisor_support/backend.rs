//! What the domain that serves a guest does, by hypercalls and through the shared page.

use portunus::abi::{dm_op, evtchn, hypercall, ioreq, memory};
use portunus::ids::{DomainId, VcpuId};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::sim::Sim;
use crate::world::{DISK, EMPTY_GFN, GUEST, SCRATCH};

/// Where the backend maps a server's two pages.
pub(crate) const PAGES: u64 = EMPTY_GFN;

/// A server that the backend made and bound.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) id: u16,
    /// The backend's port for each vCPU of the guest.
    pub(crate) ports: Vec<u32>,
    /// Where its synchronous page is in the backend.
    pub(crate) page: u64,
}

impl Sim {
    /// A dm_op on the guest; the result, and the payload afterwards.
    pub(crate) fn dm_op<T>(&self, vcpu: VcpuId, op: u32, payload: T) -> (i64, T)
    where
        T: IntoBytes + FromBytes + Immutable,
    {
        let at = SCRATCH + 0x100;
        let buffer = dm_op::Buffer {
            pointer: at,
            size: (size_of::<dm_op::Header>() + size_of::<T>()) as u64,
        };
        self.put(vcpu.domain, SCRATCH, &buffer);
        self.put(vcpu.domain, at, &dm_op::Header { op, pad: 0 });
        self.put(vcpu.domain, at + 8, &payload);
        let result = self.hypercall(vcpu, hypercall::DM_OP, &[GUEST.0.into(), 1, SCRATCH]);
        // Without a result, it is done, and somebody else runs now.
        let result = result.unwrap_or_else(|| self.x(vcpu, 0) as i64);
        (result, self.get(vcpu.domain, at + 8))
    }

    pub(crate) fn create_server(&self, vcpu: VcpuId) -> Result<u16, i64> {
        match self.dm_op(vcpu, dm_op::CREATE_IOREQ_SERVER, dm_op::CreateIoreqServer::default()) {
            (0, created) => Ok(created.id),
            (error, _) => Err(error),
        }
    }

    /// Maps `count` pages of a server from guest frame `gfn` on.
    pub(crate) fn acquire(&self, vcpu: VcpuId, id: u16, gfn: u64, count: u64) -> i64 {
        let list = SCRATCH + 0x1000;
        self.put(
            vcpu.domain,
            list,
            (0..count)
                .map(|page| gfn.wrapping_add(page))
                .collect::<Vec<u64>>()
                .as_slice(),
        );
        let request = memory::AcquireResource {
            domid: GUEST.0,
            kind: memory::RESOURCE_IOREQ_SERVER,
            id: id.into(),
            nr_frames: count as u32,
            frame_list: list,
            ..Default::default()
        };
        self.memory_op(vcpu, memory::ACQUIRE_RESOURCE, request).0
    }

    /// Maps `count` of a server's frames from number `frame` on, from guest frame `gfn` on.
    pub(crate) fn acquire_from(&self, vcpu: VcpuId, id: u16, (frame, count): (u64, u32), gfn: u64) -> i64 {
        let list = SCRATCH + 0x1000;
        let gfns: Vec<u64> = (0..u64::from(count.min(8)))
            .map(|page| gfn.wrapping_add(page))
            .collect();
        self.put(vcpu.domain, list, gfns.as_slice());
        let request = memory::AcquireResource {
            domid: GUEST.0,
            kind: memory::RESOURCE_IOREQ_SERVER,
            id: id.into(),
            nr_frames: count,
            frame,
            frame_list: list,
            ..Default::default()
        };
        self.memory_op(vcpu, memory::ACQUIRE_RESOURCE, request).0
    }

    pub(crate) fn set_enabled(&self, vcpu: VcpuId, id: u16, enabled: bool) -> i64 {
        let payload = dm_op::SetIoreqServerState {
            id,
            enabled: enabled.into(),
            pad: 0,
        };
        self.dm_op(vcpu, dm_op::SET_IOREQ_SERVER_STATE, payload).0
    }

    pub(crate) fn destroy_server(&self, vcpu: VcpuId, id: u16) -> i64 {
        let payload = dm_op::DestroyIoreqServer { id, pad: 0 };
        self.dm_op(vcpu, dm_op::DESTROY_IOREQ_SERVER, payload).0
    }

    pub(crate) fn map_range(&self, vcpu: VcpuId, id: u16, start: u64, end: u64) -> i64 {
        let payload = dm_op::IoRange {
            id,
            kind: dm_op::IoRange::MEMORY,
            start,
            end,
            ..Default::default()
        };
        self.dm_op(vcpu, dm_op::MAP_IO_RANGE_TO_IOREQ_SERVER, payload).0
    }

    pub(crate) fn bind(&self, vcpu: VcpuId, remote: DomainId, remote_port: u32) -> Result<u32, i64> {
        let request = evtchn::BindInterdomain {
            remote_dom: remote.0,
            remote_port,
            ..Default::default()
        };
        match self.events(vcpu, evtchn::BIND_INTERDOMAIN, request) {
            (0, bound) => Ok(bound.local_port),
            (error, _) => Err(error),
        }
    }

    /// A server of the guest's disk, ready.
    pub(crate) fn serve(&self, vcpu: VcpuId) -> Server {
        self.serve_at(vcpu, PAGES)
    }

    /// As [`Self::serve`], with its pages from guest frame `gfn` on.
    pub(crate) fn serve_at(&self, vcpu: VcpuId, gfn: u64) -> Server {
        let id = self.create_server(vcpu).expect("a server");
        assert_eq!(self.acquire(vcpu, id, gfn, 2), 0);
        let page = (gfn + 1) << 12;
        let ports = (0..2).map(|index| {
            let slot: ioreq::Ioreq = self.get(vcpu.domain, page + index * 32);
            self.bind(vcpu, GUEST, slot.vp_eport).expect("a port")
        });
        let ports = ports.collect();
        assert_eq!(self.set_enabled(vcpu, id, true), 0);
        assert_eq!(self.map_range(vcpu, id, DISK, DISK + 0x1ff), 0);
        Server { id, ports, page }
    }

    /// What a guest's vCPU asks of a server.
    pub(crate) fn slot(&self, of: DomainId, server: &Server, vcpu: u8) -> ioreq::Ioreq {
        self.get(of, server.page + u64::from(vcpu) * ioreq::Ioreq::SIZE)
    }

    pub(crate) fn set_slot(&self, of: DomainId, server: &Server, vcpu: u8, state: ioreq::State, data: u64) {
        let mut slot = self.slot(of, server, vcpu);
        slot.set_state(state);
        slot.data = data;
        self.put(of, server.page + u64::from(vcpu) * ioreq::Ioreq::SIZE, &slot);
    }

    /// The backend answers a request and tells.
    pub(crate) fn answer(&self, vcpu: VcpuId, server: &Server, guest_vcpu: u8, data: u64) {
        self.set_slot(vcpu.domain, server, guest_vcpu, ioreq::State::IORESP_READY, data);
        assert_eq!(self.send(vcpu, server.ports[usize::from(guest_vcpu)]), 0);
    }
}
