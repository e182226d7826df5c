//! What a device model asks of the domain that it serves.

use portunus::abi::dm_op::{
    self, Buffer, CreateIoreqServer, Header, IoRange, NrVcpus, SetIoreqServerState, SetIrqLevel,
};
use portunus::abi::hypercall::DM_OP;

use super::{Result, call, pointer};

/// Header and payload, as buffer 0 holds them.
#[repr(C)]
struct Operation<T> {
    header: Header,
    payload: T,
}

pub(super) fn dm_op<T>(domain: u16, op: u32, payload: T) -> Result<T> {
    let mut operation = Operation {
        header: Header { op, pad: 0 },
        payload,
    };
    let buffer = Buffer {
        pointer: pointer(&mut operation),
        size: (size_of::<Header>() + size_of::<T>()) as u64,
    };
    // SAFETY: the buffer and the operation are here and live until the call returns; a dm_op writes nothing else.
    unsafe { call(DM_OP, [domain.into(), 1, &raw const buffer as u64, 0, 0]) }?;
    Ok(operation.payload)
}

/// How many vCPUs `domain` has.
pub fn nr_vcpus(domain: u16) -> Result<u32> {
    Ok(dm_op(domain, dm_op::NR_VCPUS, NrVcpus::default())?.vcpus)
}
/// Creates an IOREQ server without a buffered page.
pub fn create_ioreq_server(domain: u16) -> Result<u16> {
    Ok(dm_op(domain, dm_op::CREATE_IOREQ_SERVER, CreateIoreqServer::default())?.id)
}
/// The port of a server's buffered page in `domain`, to be bound.
pub fn bufioreq_port(domain: u16, id: u16) -> Result<u32> {
    let payload = dm_op::GetIoreqServerInfo {
        id,
        flags: dm_op::GetIoreqServerInfo::NO_GFNS,
        ..Default::default()
    };
    Ok(dm_op(domain, dm_op::GET_IOREQ_SERVER_INFO, payload)?.bufioreq_port)
}
/// Enables or disables a server.
pub fn set_ioreq_server_state(domain: u16, id: u16, enabled: bool) -> Result<()> {
    let payload = SetIoreqServerState {
        id,
        enabled: enabled.into(),
        pad: 0,
    };
    dm_op(domain, dm_op::SET_IOREQ_SERVER_STATE, payload).map(drop)
}
/// Destroys a server.
pub fn destroy_ioreq_server(domain: u16, id: u16) -> Result<()> {
    let payload = dm_op::DestroyIoreqServer { id, pad: 0 };
    dm_op(domain, dm_op::DESTROY_IOREQ_SERVER, payload).map(drop)
}

fn io_range(id: u16, start: u64, end: u64) -> IoRange {
    IoRange {
        id,
        pad: 0,
        kind: IoRange::MEMORY,
        start,
        end,
    }
}
/// Gives the guest-physical addresses `start` to `end`, inclusive, to a server.
pub fn map_io_range(domain: u16, id: u16, start: u64, end: u64) -> Result<()> {
    dm_op(domain, dm_op::MAP_IO_RANGE_TO_IOREQ_SERVER, io_range(id, start, end)).map(drop)
}
/// Takes them away again.
pub fn unmap_io_range(domain: u16, id: u16, start: u64, end: u64) -> Result<()> {
    dm_op(
        domain,
        dm_op::UNMAP_IO_RANGE_FROM_IOREQ_SERVER,
        io_range(id, start, end),
    )
    .map(drop)
}
/// Which of Portunus' own operations there are: bits of [`dm_op::Features`].
pub fn features(domain: u16, id: u16) -> Result<u64> {
    let payload = dm_op::Features {
        id,
        ..Default::default()
    };
    Ok(dm_op(domain, dm_op::VENDOR_FEATURES, payload)?.features)
}
/// The frame of server `id` that keeps the state of the device at `address`.
pub fn state_page(domain: u16, id: u16, address: u64) -> Result<u64> {
    let payload = dm_op::StatePage {
        id,
        address,
        ..Default::default()
    };
    Ok(dm_op(domain, dm_op::VENDOR_STATE_PAGE, payload)?.frame)
}
/// Sets the level of an SPI of `domain`.
pub fn set_irq_level(domain: u16, irq: u32, level: bool) -> Result<()> {
    let payload = SetIrqLevel {
        irq,
        level: level.into(),
        pad: [0; 3],
    };
    dm_op(domain, dm_op::SET_IRQ_LEVEL, payload).map(drop)
}
