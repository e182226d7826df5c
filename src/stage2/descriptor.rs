//! Stage-2 descriptors: what a frame is used for decides every attribute that its mapping has.
//!
//! Guarantee: there is no way to map a frame of one use with the attributes of another, so all aliases of a frame agree
//! (Arm ARM, "Mismatched memory attributes"). With FEAT_S2FWB ([`Caching::ForcedWriteBack`]) MemAttr is encoded otherwise
//! (Arm ARM, "Stage 2 memory type and Cacheability attributes when FEAT_S2FWB is enabled"): own RAM is as the guest's tables
//! say, as without, and frames of the uncached pool are write-back whatever these say.

use crate::ids::{PAGE_SIZE, Pa};
use crate::memory::MemoryType;
use crate::memory::uncached::Caching;

/// Valid, all levels.
const VALID: u64 = 1;
/// Table (levels 0 to 2) or page (level 3).
const TABLE_OR_PAGE: u64 = 1 << 1;
/// MemAttr, without FEAT_S2FWB.
const MEMORY_SHIFT: u32 = 2;
const NORMAL_WRITE_BACK: u64 = 0b1111;
const NORMAL_NON_CACHEABLE: u64 = 0b0101;
const DEVICE_NGNRE: u64 = 0b0001;
const MEMORY_MASK: u64 = 0b1111;
/// MemAttr with FEAT_S2FWB: as stage 1 says, and Normal write-back whatever it says; Device is encoded as without.
const AS_STAGE_1: u64 = 0b0111;
const FORCED_WRITE_BACK: u64 = 0b0110;
/// S2AP
const READ: u64 = 1 << 6;
const WRITE: u64 = 1 << 7;
const INNER_SHAREABLE: u64 = 3 << 8;
const ACCESS_FLAG: u64 = 1 << 10;
/// XN[1]: no execution at EL1 or EL0, with and without FEAT_XNX.
const EXECUTE_NEVER: u64 = 1 << 54;
/// Four bits that hardware ignores.
const USE_SHIFT: u32 = 55;
const USE_MASK: u64 = 0b1111;
/// Bits 47:12.
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// What a guest-physical page is.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub enum PageUse {
    /// The domain's own RAM.
    Ram,
    /// RAM of another domain, with a counted reference.
    Foreign {
        /// May be written.
        writable: bool,
    },
    /// RAM that a domain, perhaps this one, has granted to this one, with a counted reference.
    Granted {
        /// May be written.
        writable: bool,
    },
    /// A page that the hypervisor keeps for this domain (shared_info, an IOREQ page, its grant table).
    Shared {
        /// May be written.
        writable: bool,
    },
    /// A frame of the uncached pool.
    Uncached {
        /// May be written.
        writable: bool,
    },
    /// Memory that the manifest gives to several domains, and that is nobody's own.
    Common,
    /// Registers of a device that belongs to the domain.
    Device,
}

/// The attributes of a mapping.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub struct Attributes {
    /// Memory type.
    pub memory: MemoryType,
    /// May be written.
    pub writable: bool,
    /// May be executed.
    pub executable: bool,
}

impl PageUse {
    /// The one set of attributes that this use has.
    pub const fn attributes(self, caching: Caching) -> Attributes {
        let memory = match self {
            Self::Ram | Self::Foreign { .. } | Self::Granted { .. } | Self::Shared { .. } | Self::Common => {
                MemoryType::WriteBack
            }
            Self::Uncached { .. } => caching.memory_type(),
            Self::Device => MemoryType::Device,
        };
        Attributes {
            memory,
            writable: self.is_writable(),
            executable: self.is_executable(),
        }
    }

    /// Whether stage 2 lets it be written.
    pub const fn is_writable(self) -> bool {
        match self {
            Self::Ram | Self::Common | Self::Device => true,
            Self::Foreign { writable }
            | Self::Granted { writable }
            | Self::Shared { writable }
            | Self::Uncached { writable } => writable,
        }
    }

    /// Whether stage 2 lets it be executed.
    pub const fn is_executable(self) -> bool {
        matches!(self, Self::Ram)
    }

    /// Whether a hypercall may use it as a buffer: only the caller's own RAM (Xen answers -EFAULT for all else).
    pub const fn is_own_ram(self) -> bool {
        matches!(self, Self::Ram)
    }

    const fn code(self) -> u64 {
        match self {
            Self::Ram => 1,
            Self::Foreign { .. } => 2,
            Self::Shared { .. } => 3,
            Self::Uncached { .. } => 4,
            Self::Device => 5,
            Self::Granted { .. } => 6,
            Self::Common => 7,
        }
    }
}

/// What one descriptor says.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Entry {
    Invalid,
    Table(Pa),
    /// A block, or at level 3 a page.
    Leaf(Pa, PageUse),
}

/// Bytes that one descriptor of `level` covers.
#[inline]
pub(super) const fn span(level: u8) -> u64 {
    PAGE_SIZE << (9 * (3 - level as u32))
}

/// A block (levels 1 and 2) or a page (level 3).
pub(super) const fn leaf(level: u8, pa: Pa, page_use: PageUse, caching: Caching) -> u64 {
    let memory = match (page_use, caching) {
        (PageUse::Device, _) => DEVICE_NGNRE << MEMORY_SHIFT,
        (PageUse::Uncached { .. }, Caching::ForcedWriteBack) => FORCED_WRITE_BACK << MEMORY_SHIFT | INNER_SHAREABLE,
        (PageUse::Uncached { .. }, Caching::NonCacheable) => NORMAL_NON_CACHEABLE << MEMORY_SHIFT | INNER_SHAREABLE,
        (_, Caching::ForcedWriteBack) => AS_STAGE_1 << MEMORY_SHIFT | INNER_SHAREABLE,
        (_, Caching::NonCacheable) => NORMAL_WRITE_BACK << MEMORY_SHIFT | INNER_SHAREABLE,
    };
    let kind = if level == 3 { TABLE_OR_PAGE } else { 0 };
    let write = if page_use.is_writable() { WRITE } else { 0 };
    let never = if page_use.is_executable() { 0 } else { EXECUTE_NEVER };
    VALID | kind | memory | READ | write | ACCESS_FLAG | never | page_use.code() << USE_SHIFT | pa.0 & ADDRESS
}

/// A link to a table of the next level.
pub(super) const fn table(pa: Pa) -> u64 {
    VALID | TABLE_OR_PAGE | pa.0 & ADDRESS
}

/// The table that `descriptor` links, if it is of a level above pages.
#[inline]
pub(super) const fn linked(descriptor: u64) -> Option<Pa> {
    if descriptor & (VALID | TABLE_OR_PAGE) == VALID | TABLE_OR_PAGE {
        Some(Pa(descriptor & ADDRESS))
    } else {
        None
    }
}

/// Whether it is anything.
#[inline]
pub(super) const fn is_valid(descriptor: u64) -> bool {
    descriptor & VALID != 0
}

/// Whether a leaf is the domain's own RAM.
#[inline]
pub(super) const fn is_ram(descriptor: u64) -> bool {
    descriptor & (USE_MASK << USE_SHIFT | VALID) == PageUse::Ram.code() << USE_SHIFT | VALID
}

/// Whether a descriptor of a page, or an invalid one, is that of `frame` as `page_use`.
#[inline]
pub(super) const fn is(descriptor: u64, frame: Pa, page_use: PageUse) -> bool {
    let write = if page_use.is_writable() { WRITE } else { 0 };
    let told = USE_MASK << USE_SHIFT | WRITE | ADDRESS | VALID;
    descriptor & told == page_use.code() << USE_SHIFT | write | frame.0 & ADDRESS | VALID
}

/// Where a leaf leads.
#[inline]
pub(super) const fn output(descriptor: u64) -> Pa {
    Pa(descriptor & ADDRESS)
}

/// What `descriptor`, found at `level`, says. One that this module never writes reads as invalid.
pub(super) const fn decode(level: u8, descriptor: u64) -> Entry {
    if descriptor & VALID == 0 {
        return Entry::Invalid;
    }
    let pa = Pa(descriptor & ADDRESS);
    if level < 3 && descriptor & TABLE_OR_PAGE != 0 {
        return Entry::Table(pa);
    }
    let writable = descriptor & WRITE != 0;
    match descriptor >> USE_SHIFT & USE_MASK {
        1 => Entry::Leaf(pa, PageUse::Ram),
        2 => Entry::Leaf(pa, PageUse::Foreign { writable }),
        3 => Entry::Leaf(pa, PageUse::Shared { writable }),
        4 => Entry::Leaf(pa, PageUse::Uncached { writable }),
        5 => Entry::Leaf(pa, PageUse::Device),
        6 => Entry::Leaf(pa, PageUse::Granted { writable }),
        7 => Entry::Leaf(pa, PageUse::Common),
        _ => Entry::Invalid,
    }
}

/// The attributes that the hardware takes from a valid leaf, if stage 1 asks for write-back: for those who check tables as
/// the walker reads them.
pub const fn hardware_attributes(descriptor: u64, caching: Caching) -> Option<Attributes> {
    let memory = match (descriptor >> MEMORY_SHIFT & MEMORY_MASK, caching) {
        (NORMAL_WRITE_BACK, Caching::NonCacheable) | (AS_STAGE_1 | FORCED_WRITE_BACK, Caching::ForcedWriteBack) => {
            MemoryType::WriteBack
        }
        (NORMAL_NON_CACHEABLE, Caching::NonCacheable) => MemoryType::NonCacheable,
        (DEVICE_NGNRE, _) => MemoryType::Device,
        _ => return None,
    };
    Some(Attributes {
        memory,
        writable: descriptor & WRITE != 0,
        executable: descriptor & EXECUTE_NEVER == 0,
    })
}
