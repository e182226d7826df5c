//! The page that a domain shares with the hypervisor: pending events and their masks (Xen public `xen.h`, arm64).
//!
//! Event channels are two-level: 64 words of 64 ports. A vCPU's [`VcpuInfo`] says which words have news.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What a vCPU learns of its events (`vcpu_info_t`), 48 bytes on arm64.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuInfo {
    /// Nonzero: look at `pending_sel`. The hypervisor sets bit 0, the guest clears the byte.
    pub upcall_pending: u8,
    /// Padding (the mask of x86 PV guests).
    pub pad: [u8; 7],
    /// A bit for each word of `evtchn_pending` that has news.
    pub pending_sel: u64,
    /// Unused on Arm.
    pub time: [u64; 4],
}

impl VcpuInfo {
    /// Bytes.
    pub const SIZE: u64 = 48;
    /// Offset of [`Self::upcall_pending`].
    pub const UPCALL_PENDING_OFFSET: u64 = 0;
    /// Offset of [`Self::pending_sel`].
    pub const PENDING_SEL_OFFSET: u64 = 8;
}

/// Ports that the two-level layout can name.
pub const TWO_LEVEL_PORTS: u32 = 4096;
/// Ports in one word.
pub const PORTS_PER_WORD: u32 = 64;

/// The page (`shared_info_t`), of which 1,088 bytes are used on arm64.
#[derive(Copy, Clone, Debug, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SharedInfo {
    /// vCPU 0, until it registers its own.
    pub vcpu_info: [VcpuInfo; 1],
    /// A bit for each port: it has an event.
    pub evtchn_pending: [u64; 64],
    /// A bit for each port: do not tell.
    pub evtchn_mask: [u64; 64],
    /// Version of the wall clock: odd while it changes.
    pub wc_version: u32,
    /// Seconds since 1970 at boot.
    pub wc_sec: u32,
    /// And nanoseconds.
    pub wc_nsec: u32,
    /// High half of the seconds.
    pub wc_sec_hi: u32,
}

impl SharedInfo {
    /// Offset of [`Self::evtchn_pending`].
    pub const PENDING_OFFSET: u64 = 48;
    /// Offset of [`Self::evtchn_mask`].
    pub const MASK_OFFSET: u64 = 560;
}

const _: () = {
    assert!(size_of::<VcpuInfo>() == 48);
    assert!(size_of::<SharedInfo>() == 1088);
};
