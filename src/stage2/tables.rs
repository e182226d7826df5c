//! The tables themselves: how a descriptor is found, written and taken out, and how a block becomes a table.

use super::descriptor::{Entry, decode, leaf, linked, span, table};
use super::{Changed, ENTRIES, NewPage, PAGE_LEVEL, PageUse, Previous, Stage2, Stage2Error};
use crate::ids::{Ipa, PAGE_SIZE, Pa};
use crate::machine::Machine;
use crate::memory::PhysicalMemory;
use crate::memory::pool::Pool;

/// Where a walk ended.
pub(super) struct Place {
    /// Address of the descriptor.
    pub(super) at: Pa,
    pub(super) level: u8,
    pub(super) entry: Entry,
}

/// Descriptors written invalid whose translations are still to be dropped.
#[derive(Default)]
pub(super) struct Broken {
    count: usize,
    /// The page, while there is just one and it is no block.
    only: Option<Ipa>,
}

impl Broken {
    /// One more, at `ipa`.
    #[inline]
    pub(super) fn add(&mut self, level: u8, ipa: Ipa) {
        self.count += 1;
        self.only = (level == PAGE_LEVEL && self.count == 1).then_some(ipa);
    }
}

impl Stage2 {
    pub(super) fn check(&self, ipa: Ipa, length: u64) -> Result<(), Stage2Error> {
        if !ipa.is_aligned(PAGE_SIZE) || !length.is_multiple_of(PAGE_SIZE) {
            return Err(Stage2Error::Misaligned(ipa));
        }
        match ipa.0.checked_add(length) {
            Some(end) if end <= self.geometry.ipa_end() && ipa.0 < self.geometry.ipa_end() => Ok(()),
            _ => Err(Stage2Error::BeyondMap(ipa)),
        }
    }

    pub(super) fn check_frame(&self, pa: Pa, length: u64, ipa: Ipa) -> Result<(), Stage2Error> {
        if !pa.is_aligned(PAGE_SIZE) {
            return Err(Stage2Error::Misaligned(ipa));
        }
        match pa.0.checked_add(length) {
            Some(end) if end <= self.geometry.physical_end() => Ok(()),
            _ => Err(Stage2Error::BeyondMemory(pa)),
        }
    }

    /// Address of the descriptor for `ipa` in the tables of `level` that `base` begins.
    pub(super) fn slot(&self, base: Pa, level: u8, ipa: Ipa) -> Pa {
        let index = ipa.0 / span(level);
        // Only the root is concatenated; there the index may exceed one table.
        let index = if level == self.geometry.start_level() {
            index
        } else {
            index % ENTRIES
        };
        Pa(base.0 + index * 8)
    }

    /// Follows tables as far as they go. `ipa` is inside the map.
    pub(super) fn walk(&self, memory: &impl PhysicalMemory, ipa: Ipa) -> Place {
        self.walk_to(memory, ipa, PAGE_LEVEL)
    }

    /// Follows tables down to `last` at most. `ipa` is inside the map.
    #[inline]
    pub(super) fn walk_to(&self, memory: &impl PhysicalMemory, ipa: Ipa, last: u8) -> Place {
        let mut level = self.geometry.start_level();
        let mut at = self.slot(self.root, level, ipa);
        let mut descriptor = memory.load_u64(at);
        while level < last
            && let Some(next) = linked(descriptor)
        {
            level += 1;
            at = Pa(next.0 + ipa.0 / span(level) % ENTRIES * 8);
            descriptor = memory.load_u64(at);
        }
        let entry = decode(level, descriptor);
        Place { at, level, entry }
    }

    /// Maps as much of `length` at `ipa` as one descriptor can; how much that was.
    pub(super) fn map_one(
        &mut self,
        machine: &impl Machine,
        pool: &mut Pool,
        ipa: Ipa,
        pa: Pa,
        length: u64,
        page_use: PageUse,
    ) -> Result<u64, Stage2Error> {
        let mut place = self.walk(machine, ipa);
        loop {
            if place.entry != Entry::Invalid {
                return Err(Stage2Error::AlreadyMapped(ipa));
            }
            let size = span(place.level);
            // Level 0 has no blocks with this granule.
            if place.level > 0 && length >= size && ipa.is_aligned(size) && pa.is_aligned(size) {
                self.write_leaf(machine, place.at, place.level, pa, page_use);
                return Ok(size);
            }
            place = self.add_table(machine, pool, &place, ipa)?;
        }
    }

    /// Links an empty table at an invalid descriptor above [`PAGE_LEVEL`]; the descriptor for `ipa` in it.
    pub(super) fn add_table(
        &self,
        machine: &impl Machine,
        pool: &mut Pool,
        place: &Place,
        ipa: Ipa,
    ) -> Result<Place, Stage2Error> {
        let next = pool.allocate(machine)?;
        // The walker must not see the link before the zeroes.
        machine.publish_tables();
        machine.store_u64(place.at, table(next));
        let level = place.level + 1;
        Ok(Place {
            at: self.slot(next, level, ipa),
            level,
            entry: Entry::Invalid,
        })
    }

    /// The level-3 descriptor for `page`, with tables added and blocks split on the way.
    pub(super) fn page_place(
        &self,
        machine: &impl Machine,
        pool: &mut Pool,
        page: NewPage,
    ) -> Result<Place, Stage2Error> {
        self.check(page.ipa, PAGE_SIZE)?;
        self.check_frame(page.frame, PAGE_SIZE, page.ipa)?;
        let place = self.walk(machine, page.ipa);
        let mut place = self.split_down(machine, pool, page.ipa, place)?;
        while place.level < PAGE_LEVEL {
            place = self.add_table(machine, pool, &place, page.ipa)?;
        }
        Ok(place)
    }

    /// Splits the block that a walk ended in until `ipa` has a page of its own.
    pub(super) fn split_down(
        &self,
        machine: &impl Machine,
        pool: &mut Pool,
        ipa: Ipa,
        mut place: Place,
    ) -> Result<Place, Stage2Error> {
        while place.level < PAGE_LEVEL && matches!(place.entry, Entry::Leaf(..)) {
            self.split_once(machine, pool, &place)?;
            place = self.walk(machine, ipa);
        }
        Ok(place)
    }

    /// Replaces a block by a table of the same mappings one level down.
    pub(super) fn split_once(&self, machine: &impl Machine, pool: &mut Pool, place: &Place) -> Result<(), Stage2Error> {
        let Entry::Leaf(pa, page_use) = place.entry else {
            return Ok(());
        };
        let next = pool.allocate(machine)?;
        let level = place.level + 1;
        for index in 0..ENTRIES {
            machine.store_u64(
                Pa(next.0 + index * 8),
                leaf(level, Pa(pa.0 + index * span(level)), page_use, self.geometry.caching()),
            );
        }
        self.changes.begin();
        machine.store_u64(place.at, 0);
        machine.publish_tables();
        // A TLB may hold a block in pieces of any size, so dropping one page's translations would not do.
        machine.invalidate_all(self.vmid, self.root);
        machine.store_u64(place.at, table(next));
        machine.publish_tables();
        Ok(())
    }

    /// Makes an invalid descriptor a leaf.
    #[inline]
    pub(super) fn write_leaf(
        &mut self,
        machine: &impl Machine,
        at: Pa,
        level: u8,
        frame: Pa,
        page_use: PageUse,
    ) -> Changed {
        let changed = self.changes.begin();
        machine.store_u64(at, leaf(level, frame, page_use, self.geometry.caching()));
        self.count_foreign(level, page_use, true);
        changed
    }

    pub(super) fn count_foreign(&mut self, level: u8, page_use: PageUse, mapped: bool) {
        if matches!(page_use, PageUse::Foreign { .. }) {
            let pages = span(level) / PAGE_SIZE;
            self.foreign = if mapped {
                self.foreign.saturating_add(pages)
            } else {
                self.foreign.saturating_sub(pages)
            };
        }
    }

    /// Writes a leaf invalid. The caller must drop translations before anybody hears of what was there.
    pub(super) fn break_leaf(
        &mut self,
        machine: &impl Machine,
        place: &Place,
        ipa: Ipa,
        broken: &mut Broken,
    ) -> Option<Previous> {
        let Entry::Leaf(frame, page_use) = place.entry else {
            return None;
        };
        self.changes.begin();
        machine.store_u64(place.at, 0);
        self.count_foreign(place.level, page_use, false);
        broken.add(place.level, ipa);
        Some(Previous { frame, page_use })
    }

    pub(super) fn drop_translations(&self, machine: &impl Machine, broken: &Broken) {
        if broken.count == 0 {
            return;
        }
        machine.publish_tables();
        match broken.only {
            Some(page) => machine.invalidate_page(self.vmid, self.root, page),
            None => machine.invalidate_all(self.vmid, self.root),
        }
    }
}
