//! memory_op: a domain's own physical map and what it maps of others (Xen public `memory.h`).
//!
//! x0 = operation in bits 5:0, entries already done in the bits above ([`EXTENT_SHIFT`]); x1 -> the structure.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bits of x0 that hold the operation.
pub const COMMAND_MASK: u64 = 0x3f;
/// Where in x0 a resumed call keeps the number of entries done.
pub const EXTENT_SHIFT: u32 = 6;

/// [`MemoryReservation`]
pub const INCREASE_RESERVATION: u64 = 0;
/// [`MemoryReservation`]: gives pages back.
pub const DECREASE_RESERVATION: u64 = 1;
/// The highest machine frame.
pub const MAXIMUM_RAM_PAGE: u64 = 2;
/// u16 domain: its pages now.
pub const CURRENT_RESERVATION: u64 = 3;
/// u16 domain: pages that it may have.
pub const MAXIMUM_RESERVATION: u64 = 4;
/// [`MemoryReservation`]: takes pages.
pub const POPULATE_PHYSMAP: u64 = 6;
/// [`AddToPhysmap`]
pub const ADD_TO_PHYSMAP: u64 = 7;
/// The memory map of a PC.
pub const MEMORY_MAP: u64 = 9;
/// Exchanges pages; PV guests only.
pub const EXCHANGE: u64 = 11;
/// u16 domain: the highest guest frame.
pub const MAXIMUM_GPFN: u64 = 14;
/// [`RemoveFromPhysmap`]
pub const REMOVE_FROM_PHYSMAP: u64 = 15;
/// [`AddToPhysmapBatch`]
pub const ADD_TO_PHYSMAP_BATCH: u64 = 23;
/// Claims memory for a domain being built.
pub const CLAIM_PAGES: u64 = 24;
/// NUMA information.
pub const GET_VNUMAINFO: u64 = 26;
/// [`AcquireResource`]
pub const ACQUIRE_RESOURCE: u64 = 28;

/// Space: the caller's shared_info page.
pub const SPACE_SHARED_INFO: u32 = 0;
/// Space: the caller's grant table.
pub const SPACE_GRANT_TABLE: u32 = 1;
/// Space: another frame of the same domain.
pub const SPACE_GMFN: u32 = 2;
/// Space: a range of frames; x86 only.
pub const SPACE_GMFN_RANGE: u32 = 3;
/// Space: frames of another domain; only in a batch.
pub const SPACE_GMFN_FOREIGN: u32 = 4;
/// Space: device registers; hardware domain only.
pub const SPACE_DEV_MMIO: u32 = 5;

/// Resource: pages of an IOREQ server.
pub const RESOURCE_IOREQ_SERVER: u16 = 0;
/// Resource: a grant table.
pub const RESOURCE_GRANT_TABLE: u16 = 1;
/// Resource: x86 processor trace.
pub const RESOURCE_VMTRACE: u16 = 2;
/// Frame of an IOREQ server: the buffered page.
pub const IOREQ_SERVER_FRAME_BUFFERED: u64 = 0;
/// Frame of an IOREQ server: the first synchronous page.
pub const IOREQ_SERVER_FRAME_SYNCHRONOUS: u64 = 1;

/// Puts one page into a physical map (`xen_add_to_physmap`).
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AddToPhysmap {
    /// Whose map.
    pub domid: u16,
    /// Frames, for the range space.
    pub size: u16,
    /// Which space `idx` counts in.
    pub space: u32,
    /// What.
    pub idx: u64,
    /// Where.
    pub gpfn: u64,
}

/// Puts many pages into a physical map (`xen_add_to_physmap_batch`).
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AddToPhysmapBatch {
    /// Whose map.
    pub domid: u16,
    /// Which space the indices count in.
    pub space: u16,
    /// Entries.
    pub size: u16,
    /// Whose pages, for the foreign space.
    pub foreign_domid: u16,
    /// -> u64 each: what.
    pub idxs: u64,
    /// -> u64 each: where.
    pub gpfns: u64,
    /// -> i32 each, OUT: 0 or the negative error.
    pub errs: u64,
}

/// Takes one page out of a physical map (`xen_remove_from_physmap`).
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RemoveFromPhysmap {
    /// Whose map.
    pub domid: u16,
    /// Padding.
    pub pad: [u16; 3],
    /// Where.
    pub gpfn: u64,
}

/// Maps pages that belong to a resource of another domain (`xen_mem_acquire_resource`).
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AcquireResource {
    /// Whose resource.
    pub domid: u16,
    /// Which kind.
    pub kind: u16,
    /// Which one.
    pub id: u32,
    /// Frames; with no list and 0: OUT, the resource's size.
    pub nr_frames: u32,
    /// Zero.
    pub pad: u32,
    /// The first frame.
    pub frame: u64,
    /// -> u64 each: where to map, as the caller's frame numbers.
    pub frame_list: u64,
}

/// Gives pages back or takes pages (`xen_memory_reservation`).
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryReservation {
    /// -> u64 each: frame numbers.
    pub extent_start: u64,
    /// Entries.
    pub nr_extents: u64,
    /// log2 of the pages of each.
    pub extent_order: u32,
    /// Constraints on the memory.
    pub mem_flags: u32,
    /// Whose.
    pub domid: u16,
    /// Padding.
    pub pad: [u16; 3],
}

const _: () = {
    assert!(size_of::<AddToPhysmap>() == 24);
    assert!(size_of::<AddToPhysmapBatch>() == 32);
    assert!(size_of::<RemoveFromPhysmap>() == 16);
    assert!(size_of::<AcquireResource>() == 32);
    assert!(size_of::<MemoryReservation>() == 32);
};
