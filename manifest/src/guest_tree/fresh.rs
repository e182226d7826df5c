//! Where a flattened guest tree has what differs at each start of the guest.

use dtoolkit::{Node as _, Property as _};

use crate::tree::check::fdt;

/// Bytes of `kaslr-seed`.
pub(super) const KASLR_SEED: usize = 8;
/// Bytes of `rng-seed`.
pub(super) const RNG_SEED: usize = 32;
/// How often the domain was restarted.
pub(super) const RESTARTS: &str = "portunus,restarts";

/// Offsets of values under `/chosen`, from the start of the blob.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct FreshValues {
    /// `kaslr-seed`, 8 bytes.
    pub kaslr_seed: Option<u32>,
    /// `rng-seed`, 32 bytes.
    pub rng_seed: Option<u32>,
    /// `portunus,restarts`, a cell.
    pub restarts: Option<u32>,
}

impl FreshValues {
    /// Finds those that `blob` has with the right size; none in what is no device tree.
    pub fn find(blob: &[u8]) -> Self {
        let chosen = fdt(blob).ok().and_then(|tree| tree.find_node("/chosen"));
        let offset = |name, size| {
            let property = chosen?.property(name)?;
            let value = property.value();
            // The value is a part of the blob.
            let offset = value.as_ptr().addr().checked_sub(blob.as_ptr().addr())?;
            u32::try_from(offset).ok().filter(|_| value.len() == size)
        };
        Self {
            kaslr_seed: offset("kaslr-seed", KASLR_SEED),
            rng_seed: offset("rng-seed", RNG_SEED),
            restarts: offset(RESTARTS, size_of::<u32>()),
        }
    }

    /// Whether there is room for a seed.
    pub const fn has_seeds(&self) -> bool {
        self.kaslr_seed.is_some() || self.rng_seed.is_some()
    }
}
