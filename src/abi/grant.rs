//! grant_table_op: x0 = operation, x1 -> array, x2 = entries; version 1 (Xen public `grant_table.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// [`MapGrantRef`]
pub const MAP_GRANT_REF: u64 = 0;
/// [`UnmapGrantRef`]
pub const UNMAP_GRANT_REF: u64 = 1;
/// [`SetupTable`]
pub const SETUP_TABLE: u64 = 2;
/// Shows a table on the console of a Xen built for debugging.
pub const DUMP_TABLE: u64 = 3;
/// [`Transfer`]
pub const TRANSFER: u64 = 4;
/// [`GrantCopy`]
pub const COPY: u64 = 5;
/// [`QuerySize`]
pub const QUERY_SIZE: u64 = 6;
/// [`UnmapAndReplace`]
pub const UNMAP_AND_REPLACE: u64 = 7;
/// [`Version`]
pub const SET_VERSION: u64 = 8;
/// [`GetStatusFrames`]
pub const GET_STATUS_FRAMES: u64 = 9;
/// [`GetVersion`]
pub const GET_VERSION: u64 = 10;
/// [`SwapGrantRef`]
pub const SWAP_GRANT_REF: u64 = 11;
/// [`CacheFlush`]
pub const CACHE_FLUSH: u64 = 12;

/// [`MapGrantRef::flags`]: for a device.
pub const MAP_DEVICE: u32 = 1;
/// [`MapGrantRef::flags`]: for the CPU.
pub const MAP_HOST: u32 = 1 << 1;
/// [`MapGrantRef::flags`]: not for writing.
pub const MAP_READ_ONLY: u32 = 1 << 2;
/// [`MapGrantRef::flags`]: for user space of a PV guest.
pub const MAP_APPLICATION: u32 = 1 << 3;
/// [`MapGrantRef::flags`]: the address is of a page-table entry of a PV guest.
pub const MAP_CONTAINS_PTE: u32 = 1 << 4;

/// [`GrantCopy::flags`]: the source is a grant.
pub const COPY_SOURCE_REFERENCE: u16 = 1;
/// [`GrantCopy::flags`]: the destination is a grant.
pub const COPY_DESTINATION_REFERENCE: u16 = 1 << 1;

/// [`CacheFlush::op`]: clean.
pub const CACHE_CLEAN: u32 = 1;
/// [`CacheFlush::op`]: invalidate.
pub const CACHE_INVALIDATE: u32 = 1 << 1;

/// XENMAPSPACE_grant_table: the index is of a status frame (version 2).
pub const STATUS_FRAME_INDEX: u64 = 1 << 31;
/// Bits of x0 that hold the operation; the others are the cursor of a [`CACHE_FLUSH`] that goes on.
pub const COMMAND_MASK: u64 = 0xfff;

/// Entries in a frame of a table.
pub const ENTRIES_PER_FRAME: u32 = 512;

/// What became of one entry of a call (GNTST_*).
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, thiserror::Error)]
#[repr(i16)]
pub enum GrantStatus {
    /// Done.
    #[default]
    #[error("done")]
    Okay = 0,
    /// Refused.
    #[error("general error")]
    GeneralError = -1,
    /// No such domain.
    #[error("no such domain")]
    BadDomain = -2,
    /// No such entry.
    #[error("no such grant")]
    BadReference = -3,
    /// No such handle.
    #[error("no such handle")]
    BadHandle = -4,
    /// No such address.
    #[error("bad address")]
    BadVirtualAddress = -5,
    /// No such address of a device.
    #[error("bad device address")]
    BadDeviceAddress = -6,
    /// An I/O translation unit has no room.
    #[error("no space for a device")]
    NoDeviceSpace = -7,
    /// No right.
    #[error("permission denied")]
    PermissionDenied = -8,
    /// No page that can be used.
    #[error("bad page")]
    BadPage = -9,
    /// The copy leaves its page.
    #[error("copy crosses a page")]
    BadCopyArgument = -10,
    /// Too big an address.
    #[error("address too big")]
    AddressTooBig = -11,
    /// Not now.
    #[error("try again")]
    Again = -12,
    /// No handle, or no memory, is left.
    #[error("no space left")]
    NoSpace = -13,
}

impl GrantStatus {
    /// The number that guests see.
    pub const fn code(self) -> i16 {
        self as i16
    }
}

/// One entry of a grant table (`grant_entry_v1`).
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GrantEntry {
    /// Bits 1:0 type, 2 read-only, 3 reading, 4 writing.
    pub flags: u16,
    /// Who may use it.
    pub domid: u16,
    /// The guest frame.
    pub frame: u32,
}

impl GrantEntry {
    /// The bits of [`Self::flags`] that say what the entry is.
    pub const TYPE_MASK: u16 = 0b11;
    /// Types of mapping that only x86 has (PWT, PCD, PAT), and parts of pages (version 2): refused.
    pub const UNSUPPORTED: u16 = 0b1111 << 5;
    /// [`Self::flags`] bits 1:0: `domid` may map or copy the frame.
    pub const PERMIT_ACCESS: u16 = 1;
    /// [`Self::flags`]: not for writing.
    pub const READ_ONLY: u16 = 1 << 2;
    /// [`Self::flags`]: it is mapped.
    pub const READING: u16 = 1 << 3;
    /// [`Self::flags`]: it is mapped for writing.
    pub const WRITING: u16 = 1 << 4;
}

/// Maps a granted frame.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MapGrantRef {
    /// Where, a guest-physical address.
    pub host_addr: u64,
    /// 1 device, 2 host, 4 read-only.
    pub flags: u32,
    /// Which grant.
    pub reference: u32,
    /// Whose.
    pub dom: u16,
    /// OUT: 0 or the error.
    pub status: i16,
    /// OUT: for the unmap.
    pub handle: u32,
    /// OUT: the machine address.
    pub dev_bus_addr: u64,
}

/// Unmaps a granted frame.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UnmapGrantRef {
    /// Where.
    pub host_addr: u64,
    /// 0, or the machine address.
    pub dev_bus_addr: u64,
    /// From the map.
    pub handle: u32,
    /// OUT: 0 or the error.
    pub status: i16,
    /// Padding.
    pub pad: u16,
}

/// Sets the table's size up.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetupTable {
    /// Whose.
    pub dom: u16,
    /// Padding.
    pub pad: u16,
    /// Frames.
    pub nr_frames: u32,
    /// OUT: 0 or the error.
    pub status: i16,
    /// Padding.
    pub pad2: [u16; 3],
    /// -> u64 each, OUT: frame numbers.
    pub frame_list: u64,
}

/// One end of a copy.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CopyEnd {
    /// A grant reference or a frame number.
    pub frame: u64,
    /// Whose.
    pub domid: u16,
    /// Byte offset in the frame.
    pub offset: u16,
    /// Padding.
    pub pad: u32,
}

/// Copies between frames, granted or own.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GrantCopy {
    /// From.
    pub source: CopyEnd,
    /// To.
    pub dest: CopyEnd,
    /// Bytes.
    pub len: u16,
    /// 1: the source is a grant; 2: the destination is.
    pub flags: u16,
    /// OUT: 0 or the error.
    pub status: i16,
    /// Padding.
    pub pad: u16,
}

/// Gives a page away; PV guests only.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Transfer {
    /// The page.
    pub mfn: u64,
    /// To whom.
    pub domid: u16,
    /// Padding.
    pub pad: u16,
    /// By which grant of theirs.
    pub reference: u32,
    /// OUT: 0 or the error.
    pub status: i16,
    /// Padding.
    pub pad2: [u16; 3],
}

/// Unmaps a granted frame, and moves what is elsewhere to its place.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UnmapAndReplace {
    /// Where.
    pub host_addr: u64,
    /// From where; only 0 is possible.
    pub new_addr: u64,
    /// From the map.
    pub handle: u32,
    /// OUT: 0 or the error.
    pub status: i16,
    /// Padding.
    pub pad: u16,
}

/// Asks where the status frames of version 2 are.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetStatusFrames {
    /// Frames.
    pub nr_frames: u32,
    /// Whose.
    pub dom: u16,
    /// OUT: 0 or the error.
    pub status: i16,
    /// -> u64 each, OUT: frame numbers.
    pub frame_list: u64,
}

/// Asks for the table's size.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct QuerySize {
    /// Whose.
    pub dom: u16,
    /// Padding.
    pub pad: u16,
    /// OUT: frames now.
    pub nr_frames: u32,
    /// OUT: frames at most.
    pub max_nr_frames: u32,
    /// OUT: 0 or the error.
    pub status: i16,
    /// Padding.
    pub pad2: u16,
}

/// The version of the table's format.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Version {
    /// IN/OUT: the version.
    pub version: u32,
}

/// Asks for the version of a table's format.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetVersion {
    /// Whose.
    pub dom: u16,
    /// Padding.
    pub pad: u16,
    /// OUT: the version.
    pub version: u32,
}

/// Exchanges two entries.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SwapGrantRef {
    /// One.
    pub ref_a: u32,
    /// The other.
    pub ref_b: u32,
    /// OUT: 0 or the error.
    pub status: i16,
    /// Padding.
    pub pad: u16,
}

/// Cache maintenance on a granted frame.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CacheFlush {
    /// A machine address.
    pub dev_bus_addr: u64,
    /// Byte offset.
    pub offset: u16,
    /// Bytes.
    pub length: u16,
    /// 1 clean, 2 invalidate.
    pub op: u32,
}

const _: () = {
    assert!(size_of::<GrantEntry>() == 8);
    assert!(size_of::<MapGrantRef>() == 32);
    assert!(size_of::<UnmapGrantRef>() == 24);
    assert!(size_of::<SetupTable>() == 24);
    assert!(size_of::<CopyEnd>() == 16);
    assert!(size_of::<GrantCopy>() == 40);
    assert!(size_of::<Transfer>() == 24);
    assert!(size_of::<UnmapAndReplace>() == 24);
    assert!(size_of::<GetStatusFrames>() == 16);
    assert!(size_of::<QuerySize>() == 16);
    assert!(size_of::<Version>() == 4);
    assert!(size_of::<GetVersion>() == 8);
    assert!(size_of::<SwapGrantRef>() == 12);
    assert!(size_of::<CacheFlush>() == 16);
};
