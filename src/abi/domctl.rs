//! domctl: of it only getdomaininfo, which backends use to learn a guest's size (Xen public `domctl.h`).
//!
//! The interface is not stable in Xen: user space compiles one [`Domctl::interface_version`] in. Portunus answers
//! [`INTERFACE_VERSIONS`], in which everything that it fills has kept its offset.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// [`GetDomainInfo`]
pub const GETDOMAININFO: u32 = 5;
/// Interface versions that are answered.
pub const INTERFACE_VERSIONS: core::ops::RangeInclusive<u32> = 0x15..=0x18;

/// How every operation begins (`struct xen_domctl`); the payload follows at offset 16, up to 128 bytes.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Domctl {
    /// The operation.
    pub cmd: u32,
    /// The interface that the caller was built for.
    pub interface_version: u32,
    /// The domain.
    pub domain: u16,
    /// Padding.
    pub pad: [u16; 3],
}

/// Bytes of the whole structure, payload included.
pub const DOMCTL_SIZE: usize = 144;

/// What a domain is and has (`xen_domctl_getdomaininfo`).
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetDomainInfo {
    /// The domain that was found: the first whose number is not below the one asked for.
    pub domain: u16,
    /// Padding.
    pub pad1: u16,
    /// `FLAG_*`, and the shutdown reason from bit 16 on.
    pub flags: u32,
    /// Pages: RAM and [`Self::MAGIC_PAGES`].
    pub tot_pages: u64,
    /// Pages that it may have.
    pub max_pages: u64,
    /// Zero.
    pub outstanding_pages: u64,
    /// Zero.
    pub shr_pages: u64,
    /// Zero.
    pub paged_pages: u64,
    /// Frame of its shared_info.
    pub shared_info_frame: u64,
    /// Nanoseconds that its vCPUs ran.
    pub cpu_time: u64,
    /// vCPUs that are on.
    pub nr_online_vcpus: u32,
    /// The highest vCPU's number.
    pub max_vcpu_id: u32,
    /// Zero.
    pub ssidref: u32,
    /// Its UUID.
    pub handle: [u8; 16],
    /// Zero.
    pub cpupool: u32,
    /// Bits of a guest-physical address.
    pub gpaddr_bits: u8,
    /// Padding.
    pub pad2: [u8; 7],
    /// Its virtual GIC: 1 = version 2, 2 = version 3.
    pub gic_version: u8,
    /// Zero.
    pub sve_vl: u8,
    /// Zero.
    pub tee_type: u16,
    /// SPIs of its virtual GIC.
    pub nr_spis: u32,
    /// Zero: CNTFRQ_EL0 is right.
    pub clock_frequency: u32,
    /// Zero.
    pub reserved: u32,
}

impl GetDomainInfo {
    /// It is being taken apart.
    pub const FLAG_DYING: u32 = 1;
    /// It has a physical map of its own.
    pub const FLAG_HVM: u32 = 2;
    /// It stopped.
    pub const FLAG_SHUTDOWN: u32 = 4;
    /// It is held.
    pub const FLAG_PAUSED: u32 = 8;
    /// All its vCPUs wait.
    pub const FLAG_BLOCKED: u32 = 16;
    /// Some vCPU runs.
    pub const FLAG_RUNNING: u32 = 32;
    /// Its physical map is made by hardware.
    pub const FLAG_HAP: u32 = 256;
    /// Where the shutdown reason begins in [`Self::flags`].
    pub const SHUTDOWN_SHIFT: u32 = 16;
    /// Pages that Xen's tools count besides RAM; backends subtract them.
    pub const MAGIC_PAGES: u64 = 4;
}

const _: () = {
    assert!(size_of::<Domctl>() == 16);
    assert!(size_of::<GetDomainInfo>() == 120);
    assert!(size_of::<Domctl>() + size_of::<GetDomainInfo>() <= DOMCTL_SIZE);
};
