//! Single pages, straight: what is mapped and unmapped for each small request.
//!
//! A page has a place of its own where a table of pages covers it. The table that was used last is remembered: a domain
//! that maps and unmaps does so within a window, and tables stay until the domain ends.

use super::descriptor::{Entry, decode, is, is_ram, is_valid, linked, output};
use super::tables::Broken;
use super::{Changed, ENTRIES, PAGE_LEVEL, PageUse, Stage2};
use crate::ids::{Ipa, PAGE_SHIFT, Pa};
use crate::machine::Machine;
use crate::memory::PhysicalMemory;

/// log2 of what a table of pages covers.
const REGION_SHIFT: u32 = PAGE_SHIFT + ENTRIES.ilog2();

/// A table of pages that was found.
#[derive(Copy, Clone, Debug)]
pub(super) struct PageTable {
    /// Which of the map's pieces of the size of a table it covers.
    region: u64,
    at: Pa,
}

impl PageTable {
    /// None: there is no such region.
    pub(super) const NONE: Self = Self {
        region: u64::MAX,
        at: Pa(0),
    };
}

/// A place where nothing is mapped, as long as the map stays locked.
#[derive(Debug)]
pub struct Vacant(Pa);

/// Pages that were taken out and that TLBs may still have. [`Stage2::drop_stale`] ends that, under the same lock.
#[derive(Default)]
#[must_use]
pub struct Stale(Broken);

impl core::fmt::Debug for Stale {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Stale").finish_non_exhaustive()
    }
}

impl Stage2 {
    /// The frame of the domain's own RAM that is at the page of `ipa`. A load a level.
    #[inline(always)]
    pub fn ram_page(&self, memory: &impl PhysicalMemory, ipa: Ipa) -> Option<Pa> {
        if ipa.0 >= self.geometry.ipa_end() {
            return None;
        }
        let mut shift = self.root_shift;
        // Only the root is concatenated.
        let mut descriptor = memory.load_u64(Pa(self.root.0 + (ipa.0 >> shift) * 8));
        while shift > PAGE_SHIFT
            && let Some(next) = linked(descriptor)
        {
            shift -= ENTRIES.ilog2();
            descriptor = memory.load_u64(Pa(next.0 + (ipa.0 >> shift) % ENTRIES * 8));
        }
        is_ram(descriptor).then(|| Pa(output(descriptor).0 | ipa.page().0 & ((1 << shift) - 1)))
    }

    /// Where the descriptor of the page of `ipa` is, if a table of pages covers it.
    #[inline(always)]
    fn page_slot(&self, memory: &impl PhysicalMemory, ipa: Ipa) -> Option<Pa> {
        let mut known = self.recent.get();
        if known.region != ipa.0 >> REGION_SHIFT {
            known = self.find_page_table(memory, ipa)?;
        }
        Some(Pa(known.at.0 + (ipa.0 >> PAGE_SHIFT) % ENTRIES * 8))
    }

    #[inline(never)]
    fn find_page_table(&self, memory: &impl PhysicalMemory, ipa: Ipa) -> Option<PageTable> {
        if ipa.0 >= self.geometry.ipa_end() {
            return None;
        }
        let place = self.walk(memory, ipa);
        if place.level != PAGE_LEVEL {
            return None;
        }
        let found = PageTable {
            region: ipa.0 >> REGION_SHIFT,
            at: place.at.page(),
        };
        self.recent.set(found);
        Some(found)
    }

    /// The place of the page of `ipa`, if there is a table for it and nothing is mapped there.
    #[inline(always)]
    pub fn vacancy(&self, memory: &impl PhysicalMemory, ipa: Ipa) -> Option<Vacant> {
        let at = self.page_slot(memory, ipa)?;
        (!is_valid(memory.load_u64(at))).then_some(Vacant(at))
    }

    /// Maps `frame` at a vacancy of this map, found under the same lock.
    #[inline(always)]
    pub fn fill(&mut self, machine: &impl Machine, Vacant(at): Vacant, frame: Pa, page_use: PageUse) -> Changed {
        let changed = self.write_leaf(machine, at, PAGE_LEVEL, frame, page_use);
        machine.publish_tables();
        changed
    }

    /// What the page of `ipa` is, if it is mapped as a page.
    #[inline(always)]
    pub fn single_page(&self, memory: &impl PhysicalMemory, ipa: Ipa) -> Option<(Pa, PageUse)> {
        let at = self.page_slot(memory, ipa)?;
        match decode(PAGE_LEVEL, memory.load_u64(at)) {
            Entry::Leaf(frame, page_use) => Some((frame, page_use)),
            _ => None,
        }
    }

    /// Takes the page at `ipa` out, if it is `frame` as `page_use`, and drops its translations; `None`: it is not.
    #[inline(always)]
    pub fn take_page(&mut self, machine: &impl Machine, ipa: Ipa, page: (Pa, PageUse)) -> Option<Changed> {
        let changed = self.unlink(machine, ipa, page)?;
        machine.publish_tables();
        machine.invalidate_page(self.vmid, self.root, ipa.page());
        Some(changed)
    }

    /// As [`Self::take_page`]; but its translations are dropped by [`Self::drop_stale`], with those of others.
    #[inline]
    pub fn take_pages(
        &mut self,
        machine: &impl Machine,
        ipa: Ipa,
        page: (Pa, PageUse),
        Stale(broken): &mut Stale,
    ) -> Option<Changed> {
        let changed = self.unlink(machine, ipa, page)?;
        broken.add(PAGE_LEVEL, ipa.page());
        Some(changed)
    }

    /// Drops the translations of all that was taken out.
    #[inline]
    pub fn drop_stale(&self, machine: &impl Machine, Stale(broken): &Stale) {
        self.drop_translations(machine, broken);
    }

    #[inline(always)]
    fn unlink(&mut self, machine: &impl Machine, ipa: Ipa, (frame, page_use): (Pa, PageUse)) -> Option<Changed> {
        let at = self.page_slot(machine, ipa)?;
        if !is(machine.load_u64(at), frame, page_use) {
            return None;
        }
        let changed = self.changes.begin();
        machine.store_u64(at, 0);
        self.count_foreign(PAGE_LEVEL, page_use, false);
        Some(changed)
    }
}
