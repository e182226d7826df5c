//! dm_op: what a device model may ask of its target (Xen public `hvm/dm_op.h`).
//!
//! x0 = target, x1 = number of buffers, x2 -> array of [`Buffer`]. Buffer 0 holds a [`Header`] and the operation's
//! payload after it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// [`CreateIoreqServer`]
pub const CREATE_IOREQ_SERVER: u32 = 1;
/// [`GetIoreqServerInfo`]
pub const GET_IOREQ_SERVER_INFO: u32 = 2;
/// [`IoRange`]
pub const MAP_IO_RANGE_TO_IOREQ_SERVER: u32 = 3;
/// [`IoRange`]
pub const UNMAP_IO_RANGE_FROM_IOREQ_SERVER: u32 = 4;
/// [`SetIoreqServerState`]
pub const SET_IOREQ_SERVER_STATE: u32 = 5;
/// [`DestroyIoreqServer`]
pub const DESTROY_IOREQ_SERVER: u32 = 6;
/// [`SetIrqLevel`]
pub const SET_IRQ_LEVEL: u32 = 19;
/// [`NrVcpus`]
pub const NR_VCPUS: u32 = 20;
/// The first number of Portunus' own operations; Xen answers -EOPNOTSUPP to all of them.
pub const VENDOR_FIRST: u32 = 0x5000_0000;
/// [`Features`]
pub const VENDOR_FEATURES: u32 = VENDOR_FIRST;
/// [`StatePage`]
pub const VENDOR_STATE_PAGE: u32 = VENDOR_FIRST + 1;
/// Of a server's frames, the first that is Portunus' own: Xen's are below.
pub const VENDOR_FIRST_FRAME: u64 = 0x1000;

/// Servers that one domain can have (MAX_NR_IOREQ_SERVERS).
pub const MAX_SERVERS: usize = 8;
/// Ranges that one server can have of each type (MAX_NR_IO_RANGES).
pub const MAX_RANGES: usize = 256;
/// Buffers that one call may pass.
pub const MAX_BUFFERS: u64 = 2;

/// One buffer of the call (`struct xen_dm_op_buf`).
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Buffer {
    /// Where it is.
    pub pointer: u64,
    /// Bytes.
    pub size: u64,
}

/// How every operation begins (`struct xen_dm_op`); the payload follows at offset 8.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// The operation.
    pub op: u32,
    /// Zero.
    pub pad: u32,
}

/// Creates a server for the target. `handle_bufioreq` must be 0 on Arm.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CreateIoreqServer {
    /// 0 off, 1 legacy, 2 atomic.
    pub handle_bufioreq: u8,
    /// Zero.
    pub pad: [u8; 3],
    /// OUT: the new server.
    pub id: u16,
}

/// Says where a server's pages and ports are.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetIoreqServerInfo {
    /// The server.
    pub id: u16,
    /// [`Self::NO_GFNS`], which Arm requires.
    pub flags: u16,
    /// OUT: the port of the buffered page.
    pub bufioreq_port: u32,
    /// OUT: not on Arm.
    pub ioreq_gfn: u64,
    /// OUT: not on Arm.
    pub bufioreq_gfn: u64,
}

impl GetIoreqServerInfo {
    /// The caller does not want frame numbers (XEN_DMOP_no_gfns).
    pub const NO_GFNS: u16 = 1;
}

/// Gives a range to a server, or takes it away.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoRange {
    /// The server.
    pub id: u16,
    /// Zero.
    pub pad: u16,
    /// [`Self::PORT`], [`Self::MEMORY`] or [`Self::PCI`].
    pub kind: u32,
    /// The first address.
    pub start: u64,
    /// The last address, inclusive.
    pub end: u64,
}

impl IoRange {
    /// x86 port numbers.
    pub const PORT: u32 = 0;
    /// Guest-physical addresses.
    pub const MEMORY: u32 = 1;
    /// PCI functions.
    pub const PCI: u32 = 2;
}

/// Enables or disables a server.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetIoreqServerState {
    /// The server.
    pub id: u16,
    /// Nonzero: enabled.
    pub enabled: u8,
    /// Zero.
    pub pad: u8,
}

/// Destroys a server.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DestroyIoreqServer {
    /// The server.
    pub id: u16,
    /// Zero.
    pub pad: u16,
}

/// Sets the level of an SPI of the target.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetIrqLevel {
    /// The INTID.
    pub irq: u32,
    /// 0 or 1.
    pub level: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// Asks for the number of the target's vCPUs.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NrVcpus {
    /// OUT: the number.
    pub vcpus: u32,
}

/// Says which of Portunus' own operations there are.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Features {
    /// The server.
    pub id: u16,
    /// Zero.
    pub pad: [u16; 3],
    /// OUT: [`Self::STATE_PAGE`] and bits to come.
    pub features: u64,
}

impl Features {
    /// There is [`VENDOR_STATE_PAGE`].
    pub const STATE_PAGE: u64 = 1;
}

/// Says which frame of the server is the state page of a device.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StatePage {
    /// The server.
    pub id: u16,
    /// Zero.
    pub pad: [u16; 3],
    /// The first address of the device in the target.
    pub address: u64,
    /// OUT: for XENMEM_acquire_resource, [`VENDOR_FIRST_FRAME`] or above.
    pub frame: u64,
}

const _: () = {
    assert!(size_of::<Buffer>() == 16);
    assert!(size_of::<Header>() == 8);
    assert!(size_of::<CreateIoreqServer>() == 6);
    assert!(size_of::<GetIoreqServerInfo>() == 24);
    assert!(size_of::<IoRange>() == 24);
    assert!(size_of::<SetIoreqServerState>() == 4);
    assert!(size_of::<DestroyIoreqServer>() == 4);
    assert!(size_of::<SetIrqLevel>() == 8);
    assert!(size_of::<NrVcpus>() == 4);
    assert!(size_of::<Features>() == 16);
    assert!(size_of::<StatePage>() == 24);
};
