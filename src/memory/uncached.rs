//! Frames that a guest, its backend and the hypervisor read and write at the same time, the guest as device registers.
//!
//! A guest maps its registers as Device memory in its own tables, and there is nothing that stage 2 could do about it but
//! to make the access stronger. So either nobody maps such a frame as cacheable, or the CPUs let stage 2 decide alone
//! (FEAT_S2FWB). [`Caching`] is the choice, made once at boot from what all pCPUs have; [`crate::stage2`] and
//! [`hypervisor_regions`] are the only two that make mappings, and both ask it, so that all aliases of a frame agree
//! (Arm ARM, "Mismatched memory attributes").

use alloc::vec::Vec;

use super::MemoryType;
use crate::ids::{PAGE_SIZE, Pa};
use crate::range::PaRange;

/// Frames that each device has: one that the guest sees, and one that its server prepares.
pub const FRAMES_PER_DEVICE: u64 = 2;

/// How the frames of the uncached pool are mapped, by all who map them.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
pub enum Caching {
    /// Normal, non-cacheable: what a guest maps as Device stays Device, which no cache holds either.
    #[default]
    NonCacheable,
    /// Normal write-back, whatever the guest's own tables say (HCR_EL2.FWB).
    ForcedWriteBack,
}

impl Caching {
    /// `forces`: every pCPU has FEAT_S2FWB (ID_AA64MMFR2_EL1.FWB).
    pub const fn of(forces: bool) -> Self {
        if forces {
            Self::ForcedWriteBack
        } else {
            Self::NonCacheable
        }
    }

    /// The memory type of every alias.
    pub const fn memory_type(self) -> MemoryType {
        match self {
            Self::NonCacheable => MemoryType::NonCacheable,
            Self::ForcedWriteBack => MemoryType::WriteBack,
        }
    }
}

/// How the hypervisor maps `ram`, of which `pool` is the uncached pool: write-back but for the pool, which is as `caching`
/// says.
pub fn hypervisor_regions(
    ram: impl IntoIterator<Item = PaRange>,
    pool: PaRange,
    caching: Caching,
) -> Vec<(PaRange, MemoryType)> {
    let mut regions = Vec::new();
    for bank in ram {
        let (start, end) = (bank.start.0, bank.end());
        let (low, high) = (pool.start.0.clamp(start, end), pool.end().clamp(start, end));
        let pieces = [
            (start, low, MemoryType::WriteBack),
            (low, high, caching.memory_type()),
            (high, end, MemoryType::WriteBack),
        ];
        let pieces = pieces.into_iter().filter(|(from, to, _)| from < to);
        regions.extend(pieces.map(|(from, to, memory)| (PaRange::new(from, to - from), memory)));
    }
    regions
}

/// The frames of device number `index` of those that `range` was set aside for.
pub fn frames_of(range: PaRange, index: u64) -> Option<[Pa; 2]> {
    let first = index
        .checked_mul(FRAMES_PER_DEVICE * PAGE_SIZE)?
        .checked_add(range.start.0)?;
    let fits = range.contains(PaRange::new(first, FRAMES_PER_DEVICE * PAGE_SIZE));
    fits.then_some([Pa(first), Pa(first + PAGE_SIZE)])
}
