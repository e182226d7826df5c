//! Numbers with types: an address is not a port is not an interrupt.

use core::fmt;

/// Bytes in a page: Portunus, like Xen's ABI, counts in 4 KiB whatever granule a guest uses.
pub const PAGE_SIZE: u64 = 4096;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The first byte of the page that this address is in.
            pub const fn page(self) -> Self {
                Self(self.0 & !(PAGE_SIZE - 1))
            }
            /// Byte offset inside the page.
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }
            /// The page frame number.
            pub const fn frame(self) -> u64 {
                self.0 >> PAGE_SHIFT
            }
            /// The first byte of frame `number`; `None` when it has no 64-bit address.
            pub const fn from_frame(number: u64) -> Option<Self> {
                if number >> (64 - PAGE_SHIFT) == 0 { Some(Self(number << PAGE_SHIFT)) } else { None }
            }
            /// This address plus `bytes`; `None` on overflow.
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }
            /// Whether the address is a multiple of `alignment`, a power of two.
            pub const fn is_aligned(self, alignment: u64) -> bool {
                self.0 & (alignment - 1) == 0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address! {
    /// An intermediate physical address: what a guest calls physical.
    Ipa
}
address! {
    /// A physical address of the machine.
    Pa
}

/// A domain's number, as hypercalls name it (Xen public `xen.h`, domid_t).
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
#[repr(transparent)]
pub struct DomainId(pub u16);

impl DomainId {
    /// The first number that no ordinary domain has.
    pub const FIRST_RESERVED: Self = Self(0x7ff0);
    /// The hypervisor (DOMID_XEN).
    pub const XEN: Self = Self(0x7ff2);
    /// The caller itself (DOMID_SELF).
    pub const SELF: Self = Self(0x7ff0);
    /// No domain (DOMID_INVALID).
    pub const INVALID: Self = Self(0x7ff4);

    /// Whether this can number a real domain.
    pub const fn is_ordinary(self) -> bool {
        self.0 < Self::FIRST_RESERVED.0
    }
}

/// A vCPU of some domain: its index there, which is also its ID in hypercalls.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct VcpuId {
    /// The domain.
    pub domain: DomainId,
    /// 0-based; at most [`MAX_VCPUS`] - 1.
    pub index: u8,
}

/// vCPUs that one domain may have.
pub const MAX_VCPUS: usize = 8;
/// pCPUs that Portunus uses.
pub const MAX_PCPUS: usize = 8;
/// Domains that can exist together.
pub const MAX_DOMAINS: usize = 16;

/// A set of vCPUs of one domain, by index.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct VcpuSet(pub u8);

impl VcpuSet {
    /// No vCPU.
    pub const EMPTY: Self = Self(0);

    /// The set of `index` alone; empty when it is no vCPU's index.
    pub const fn only(index: u8) -> Self {
        if (index as usize) < MAX_VCPUS {
            Self(1 << index)
        } else {
            Self::EMPTY
        }
    }
    /// Adds one vCPU; an index out of range changes nothing.
    pub fn insert(&mut self, index: u8) {
        self.0 |= Self::only(index).0;
    }
    /// Takes one vCPU out.
    pub fn remove(&mut self, index: u8) {
        self.0 &= !Self::only(index).0;
    }
    /// Adds every vCPU of `other`.
    pub fn merge(&mut self, other: Self) {
        self.0 |= other.0;
    }
    /// Whether `index` is in the set.
    pub const fn contains(self, index: u8) -> bool {
        self.0 & Self::only(index).0 != 0
    }
    /// Whether nobody is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// The indices, lowest first.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        let mut left = self.0;
        core::iter::from_fn(move || {
            let index = (left != 0).then(|| left.trailing_zeros() as u8)?;
            left &= left - 1;
            Some(index)
        })
    }
}

/// A physical CPU: 0 is the one that booted.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
#[repr(transparent)]
pub struct PcpuId(pub u8);

/// The number that tags a domain's TLB entries (VTTBR_EL2.VMID).
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
#[repr(transparent)]
pub struct Vmid(pub u16);

/// A GIC interrupt number: SGIs 0 to 15, PPIs 16 to 31, SPIs 32 to 1019 (GIC specification, section 2.2).
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash)]
#[repr(transparent)]
pub struct IntId(pub u32);

impl IntId {
    /// The first PPI.
    pub const FIRST_PPI: u32 = 16;
    /// The first SPI.
    pub const FIRST_SPI: u32 = 32;
    /// One past the last SPI.
    pub const SPI_LIMIT: u32 = 1020;
    /// "No interrupt pending" (spurious).
    pub const SPURIOUS: Self = Self(1023);

    /// Whether it is private to a CPU (SGI or PPI).
    pub const fn is_private(self) -> bool {
        self.0 < Self::FIRST_SPI
    }
    /// Whether it is an SGI.
    pub const fn is_sgi(self) -> bool {
        self.0 < Self::FIRST_PPI
    }
    /// Whether it is shared by all CPUs (an SPI).
    pub const fn is_spi(self) -> bool {
        self.0 >= Self::FIRST_SPI && self.0 < Self::SPI_LIMIT
    }
}

impl fmt::Debug for IntId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            number @ 0..16 => write!(f, "SGI {number}"),
            number @ 16..32 => write!(f, "PPI {}", number - 16),
            number @ 32..1020 => write!(f, "SPI {}", number - 32),
            number => write!(f, "INTID {number}"),
        }
    }
}

/// A local event-channel port of some domain; 0 is none.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Ord, PartialOrd, Hash)]
#[repr(transparent)]
pub struct EventPort(pub u32);

/// A grant reference of some domain.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
#[repr(transparent)]
pub struct GrantRef(pub u32);

/// An IOREQ server's number among the servers of its target.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
#[repr(transparent)]
pub struct ServerId(pub u16);

/// A reading of the system counter (CNTPCT_EL0), or a span of it.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Ord, PartialOrd, Hash)]
#[repr(transparent)]
pub struct Ticks(pub u64);

/// A set of domains.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct DomainSet(u32);

impl DomainSet {
    /// Adds one.
    pub fn insert(&mut self, domain: DomainId) {
        self.0 |= Self::bit(domain);
    }
    /// Takes one out.
    pub fn remove(&mut self, domain: DomainId) {
        self.0 &= !Self::bit(domain);
    }
    /// Whether it is in.
    pub fn contains(self, domain: DomainId) -> bool {
        self.0 & Self::bit(domain) != 0
    }
    /// The lowest.
    pub fn first(self) -> Option<DomainId> {
        (self.0 != 0).then(|| DomainId(self.0.trailing_zeros() as u16))
    }
    /// Whether none is in.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// Adds all of `other`.
    pub fn merge(&mut self, other: Self) {
        self.0 |= other.0;
    }
    fn bit(domain: DomainId) -> u32 {
        1u32.checked_shl(u32::from(domain.0)).unwrap_or(0)
    }
}
