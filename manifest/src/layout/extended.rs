//! Addresses that a domain may use for the memory of others.

use alloc::vec::Vec;

use super::taken::Taken;
use super::{EXTENDED_ALIGNMENT, EXTENDED_SIZE, EXTENDED_SIZES, Layout, RAM0, RAM1};
use crate::domain::DomainConfig;
use crate::host::Host;
use portunus_base::range::IpaRange;

/// Room for others' memory: for an ordinary domain the unused part of its RAM windows, for a direct-mapped one a hole above
/// all of the machine's RAM.
pub(super) fn extended_regions(domain: &DomainConfig, layout: &Layout, host: &Host, taken: &Taken) -> Vec<IpaRange> {
    if domain.direct_map {
        let from = host.memory_end().0;
        let hole = EXTENDED_SIZES
            .iter()
            .find_map(|size| taken.hole(from, *size, EXTENDED_ALIGNMENT));
        return hole.into_iter().collect();
    }
    let mut regions = Vec::new();
    let after = |start: u64| {
        let bank = layout.memory.iter().find(|bank| bank.start.0 == start);
        bank.map_or(start, |bank| bank.end())
            .next_multiple_of(EXTENDED_ALIGNMENT)
    };
    let low = after(RAM0.start.0);
    if low < RAM0.end() {
        regions.push(IpaRange::new(low, RAM0.end() - low));
    }
    regions.push(IpaRange::new(after(RAM1), EXTENDED_SIZE));
    for shared in &domain.shared_memory {
        regions = regions
            .into_iter()
            .flat_map(|region| without(region, shared.guest))
            .collect();
    }
    // A passed-through device or a device with an address of its own may sit there.
    regions.retain(|region| taken.owner(*region).is_none());
    regions
}

/// What is left of an extended region below and above `hole`.
fn without(region: IpaRange, hole: IpaRange) -> impl Iterator<Item = IpaRange> {
    let parts = if region.overlaps(hole) {
        let below = hole.start.0 & !(EXTENDED_ALIGNMENT - 1);
        let above = hole.end().checked_next_multiple_of(EXTENDED_ALIGNMENT);
        let above = above.unwrap_or(region.end()).max(region.start.0);
        [
            IpaRange::new(region.start.0, below.saturating_sub(region.start.0)),
            IpaRange::new(above, region.end().saturating_sub(above)),
        ]
    } else {
        [region, IpaRange::default()]
    };
    parts.into_iter().filter(|part| !part.is_empty())
}
