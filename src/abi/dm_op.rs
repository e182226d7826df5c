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
/// [`AttachBuffered`]
pub const VENDOR_ATTACH_BUFFERED: u32 = VENDOR_FIRST + 2;
/// [`AttachDoorbell`]
pub const VENDOR_ATTACH_DOORBELL: u32 = VENDOR_FIRST + 3;
/// [`AttachShadow`]
pub const VENDOR_ATTACH_SHADOW: u32 = VENDOR_FIRST + 4;
/// [`AttachAck`]
pub const VENDOR_ATTACH_ACK: u32 = VENDOR_FIRST + 5;
/// [`Detach`]
pub const VENDOR_DETACH: u32 = VENDOR_FIRST + 6;
/// [`Update`]
pub const VENDOR_UPDATE: u32 = VENDOR_FIRST + 7;
/// [`Replace`]
pub const VENDOR_REPLACE: u32 = VENDOR_FIRST + 8;
/// Flag of [`AttachBuffered`] and [`AttachDoorbell`]: the guest never reads these registers back.
pub const WRITE_ONLY: u32 = 1;
/// Of a server's frames, the first that is Portunus' own: Xen's are below.
pub const VENDOR_FIRST_FRAME: u64 = 0x1000;
/// Of a server's frames, the first of its shadow pages: number k has frames 2k and 2k + 1 from here.
pub const VENDOR_FIRST_SHADOW_FRAME: u64 = 0x2000;

/// Servers that one domain can have (MAX_NR_IOREQ_SERVERS).
pub const MAX_SERVERS: usize = 8;
/// Ranges that one server can have of each type (MAX_NR_IO_RANGES).
pub const MAX_RANGES: usize = 256;
/// Doorbells that one server can have.
pub const MAX_DOORBELLS: usize = 64;
/// Ranges whose writes one server can have posted.
pub const MAX_BUFFERED_RANGES: usize = 64;
/// Bytes that a range whose writes are posted can have: a slot keeps 20 bits of the address.
pub const BUFFERED_REACH: u64 = 1 << 20;
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
    /// OUT: [`Self::STATE_PAGE`], [`Self::BUFFERED`], [`Self::DOORBELL`], [`Self::SHADOW`], and bits to come.
    pub features: u64,
}

impl Features {
    /// There is [`VENDOR_STATE_PAGE`].
    pub const STATE_PAGE: u64 = 1;
    /// There is [`VENDOR_ATTACH_BUFFERED`].
    pub const BUFFERED: u64 = 1 << 1;
    /// There is [`VENDOR_ATTACH_DOORBELL`].
    pub const DOORBELL: u64 = 1 << 2;
    /// There are [`VENDOR_ATTACH_SHADOW`], [`VENDOR_ATTACH_ACK`], [`VENDOR_UPDATE`], [`VENDOR_REPLACE`].
    pub const SHADOW: u64 = 1 << 3;
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

/// Lets writes to a range be posted to the server's buffered page.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AttachBuffered {
    /// The server.
    pub id: u16,
    /// Zero.
    pub pad: u16,
    /// [`WRITE_ONLY`] or 0.
    pub flags: u32,
    /// The first address.
    pub start: u64,
    /// The last address, inclusive.
    pub end: u64,
}

/// Lets one register's writes ring a port.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AttachDoorbell {
    /// The server.
    pub id: u16,
    /// Zero.
    pub pad: u16,
    /// [`WRITE_ONLY`] or 0.
    pub flags: u32,
    /// The register.
    pub address: u64,
    /// What must be written, under `mask`.
    pub value: u64,
    /// The bits of the value that count; 0: any value rings.
    pub mask: u64,
    /// Bytes of the write: 1, 2, 4 or 8.
    pub size: u32,
    /// OUT: the target's port, to be bound by EVTCHNOP_bind_interdomain.
    pub port: u32,
}

/// Shows the guest a page that the server fills.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AttachShadow {
    /// The server.
    pub id: u16,
    /// Zero.
    pub pad: u16,
    /// [`Self::AFTER_REPLACE`] or 0.
    pub flags: u32,
    /// The page in the target.
    pub address: u64,
    /// The word of the page that says that the server has failed.
    pub failure_offset: u32,
    /// The bits that are set there then; 0: the page is withdrawn instead.
    pub failure_bits: u32,
    /// The bits that are set then in the word of the page's acknowledgement register.
    pub failure_interrupt: u32,
    /// Zero.
    pub pad2: u32,
    /// OUT: for XENMEM_acquire_resource, [`VENDOR_FIRST_SHADOW_FRAME`] or above; the second is the next.
    pub frame: u64,
}

impl AttachShadow {
    /// The page is not shown before the first [`Replace`]: a server that is enabled already can fill it first.
    pub const AFTER_REPLACE: u32 = 1;
}

/// Lets writes to one register clear bits of a word of a shadow page.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AttachAck {
    /// The server.
    pub id: u16,
    /// Zero.
    pub pad: u16,
    /// The SPI that is asserted while the word is not zero.
    pub irq: u32,
    /// The 4-byte register.
    pub address: u64,
    /// The word in the page.
    pub offset: u32,
    /// Zero.
    pub pad2: u32,
}

/// Takes an attachment away.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Detach {
    /// The server.
    pub id: u16,
    /// Zero.
    pub pad: u16,
    /// [`Self::BUFFERED`], [`Self::DOORBELL`], [`Self::SHADOW`] or [`Self::ACK`].
    pub kind: u32,
    /// Where it begins.
    pub address: u64,
    /// Of a doorbell, its value.
    pub value: u64,
}

impl Detach {
    /// What [`AttachBuffered`] attached.
    pub const BUFFERED: u32 = 1;
    /// What [`AttachDoorbell`] attached.
    pub const DOORBELL: u32 = 2;
    /// What [`AttachShadow`] attached.
    pub const SHADOW: u32 = 3;
    /// What [`AttachAck`] attached.
    pub const ACK: u32 = 4;
}

/// Changes the word of an acknowledgement register: clears, then sets, then its interrupt follows.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Update {
    /// The server.
    pub id: u16,
    /// Zero.
    pub pad: u16,
    /// Zero.
    pub flags: u32,
    /// The acknowledgement register.
    pub address: u64,
    /// Bits to clear.
    pub clear: u32,
    /// Bits to set.
    pub set: u32,
}

/// Shows the guest the other frame of a shadow page.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Replace {
    /// The server.
    pub id: u16,
    /// Zero.
    pub pad: u16,
    /// Zero.
    pub flags: u32,
    /// The page in the target.
    pub address: u64,
    /// OUT: the frame that is shown now.
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
    assert!(size_of::<AttachBuffered>() == 24);
    assert!(size_of::<AttachDoorbell>() == 40);
    assert!(size_of::<AttachShadow>() == 40);
    assert!(size_of::<AttachAck>() == 24);
    assert!(size_of::<Detach>() == 24);
    assert!(size_of::<Update>() == 24);
    assert!(size_of::<Replace>() == 24);
};
