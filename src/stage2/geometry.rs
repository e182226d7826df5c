//! How many address bits a stage 2 translates, and so how its tables begin (Arm ARM, "VMSAv8-64 translation using the
//! 4KB granule", stage 2 concatenation).

use crate::ids::PAGE_SIZE;
use crate::memory::uncached::Caching;

/// The sizes of physical address that stage 2 can translate to, with their VTCR_EL2.PS.
const PHYSICAL_SIZES: [(u8, u64); 6] = [(48, 5), (44, 4), (42, 3), (40, 2), (36, 1), (32, 0)];
/// Fewest and most bits of a guest-physical address.
const IPA_BITS: core::ops::RangeInclusive<u8> = 32..=48;
/// What Xen gives a guest where the machine can: room for its second RAM bank at 8 GiB and much above it.
const PREFERRED_IPA_BITS: u8 = 40;
/// VTCR_EL2: inner and outer write-back write-allocate walks, inner shareable, 4 KiB granule.
const WALK_ATTRIBUTES: u64 = 1 << 8 | 1 << 10 | 3 << 12;
/// VTCR_EL2.VS
const VMID_16_BITS: u64 = 1 << 19;

/// Why no stage 2 can be built so.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum GeometryError {
    /// PARange names no size that the architecture has.
    #[error("physical addresses of {0} bits")]
    PhysicalBits(u8),
    /// The CPUs translate fewer bits than the guest needs.
    #[error("the guest-physical map needs {needed} bits of address; the CPUs have {available}")]
    TooFewBits {
        /// What the map needs.
        needed: u8,
        /// What every pCPU can do.
        available: u8,
    },
}

/// Size and shape of a stage 2.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Geometry {
    ipa_bits: u8,
    physical_bits: u8,
    vmid_16_bits: bool,
    caching: Caching,
}

/// Bits of physical address that ID_AA64MMFR0_EL1.PARange stands for; the largest known for values from the future.
pub const fn physical_bits(parange: u8) -> u8 {
    match parange {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        _ => 48,
    }
}

impl Geometry {
    /// A stage 2 for a guest whose map ends at `map_end` (exclusive), on pCPUs that all have at least `physical_bits` of
    /// physical address, with 16-bit VMIDs if all pCPUs have them.
    ///
    /// # Errors
    /// [`GeometryError::PhysicalBits`] for less than 32 bits, [`GeometryError::TooFewBits`] when the map does not fit.
    pub fn new(map_end: u64, physical_bits: u8, vmid_16_bits: bool) -> Result<Self, GeometryError> {
        let available = physical_bits.min(*IPA_BITS.end());
        if available < *IPA_BITS.start() {
            return Err(GeometryError::PhysicalBits(physical_bits));
        }
        let needed = (64 - map_end.saturating_sub(1).leading_zeros()) as u8;
        if needed > available {
            return Err(GeometryError::TooFewBits { needed, available });
        }
        let ipa_bits = needed.max(PREFERRED_IPA_BITS.min(available));
        Ok(Self {
            ipa_bits,
            physical_bits: available,
            vmid_16_bits,
            caching: Caching::default(),
        })
    }

    /// The same, with frames of the uncached pool mapped as `caching` says.
    pub const fn with_caching(self, caching: Caching) -> Self {
        Self { caching, ..self }
    }

    /// How frames of the uncached pool are mapped.
    pub const fn caching(self) -> Caching {
        self.caching
    }

    /// Bits of a guest-physical address.
    pub const fn ipa_bits(self) -> u8 {
        self.ipa_bits
    }

    /// One past the last guest-physical address.
    pub const fn ipa_end(self) -> u64 {
        1 << self.ipa_bits
    }

    /// One past the last physical address that a descriptor can name.
    pub const fn physical_end(self) -> u64 {
        1 << self.physical_bits
    }

    /// The level of the root tables: 1 up to 43 bits, 0 above.
    pub const fn start_level(self) -> u8 {
        if self.ipa_bits <= 43 { 1 } else { 0 }
    }

    /// How many tables of the start level lie in a row: 1 to 16, a power of two.
    pub const fn root_tables(self) -> u64 {
        match self.start_level() {
            1 if self.ipa_bits > 39 => 1 << (self.ipa_bits - 39),
            _ => 1,
        }
    }

    /// Bytes of the root, which is aligned to as many.
    pub const fn root_size(self) -> u64 {
        self.root_tables() * PAGE_SIZE
    }

    /// VTCR_EL2 without its RES1 bit.
    pub fn vtcr(self) -> u64 {
        let t0sz = 64 - u64::from(self.ipa_bits);
        let sl0 = if self.start_level() == 1 { 1 } else { 2 };
        let size = PHYSICAL_SIZES
            .iter()
            .find(|(bits, _)| *bits <= self.physical_bits)
            .map_or(0, |(_, ps)| *ps);
        let vs = if self.vmid_16_bits { VMID_16_BITS } else { 0 };
        t0sz | sl0 << 6 | WALK_ATTRIBUTES | size << 16 | vs
    }
}
