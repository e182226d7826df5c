//! Taking a map apart and making it again, in steps of bounded length: while a domain ends and starts, and when another
//! domain's pages are taken back.

use super::descriptor::{Entry, span};
use super::single::PageTable;
use super::tables::Broken;
use super::{BATCH, PAGE_LEVEL, Previous, Stage2, Stage2Error};
use crate::ids::{Ipa, PAGE_SIZE, Pa};
use crate::machine::Machine;
use crate::memory::PhysicalMemory;
use crate::memory::pool::Pool;
use crate::stage2::PageUse;

/// Descriptors that one step looks at or writes.
const STEP: usize = 256;

/// Pages that are together in a map and in the machine, for one use.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Region {
    /// Where in the map.
    pub ipa: Ipa,
    /// Where in the machine.
    pub pa: Pa,
    /// Bytes.
    pub size: u64,
    /// As what.
    pub page_use: PageUse,
}

/// Mappings that one step took out: where each was, and what.
pub type Taken = heapless::Vec<(Ipa, Previous), BATCH>;

/// How far [`Stage2::free_tables`] has come.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct TableCursor {
    /// The level of the descriptors that link the tables.
    level: u8,
    at: Ipa,
}

impl Default for TableCursor {
    fn default() -> Self {
        Self {
            level: PAGE_LEVEL - 1,
            at: Ipa(0),
        }
    }
}

impl Stage2 {
    /// All that is mapped, lowest address first. Allocates, and takes its time: for the time when domains are built.
    pub fn regions(&self, memory: &impl PhysicalMemory) -> alloc::vec::Vec<Region> {
        let mut regions = alloc::vec::Vec::<Region>::new();
        let mut at = 0;
        while at < self.geometry.ipa_end() {
            let place = self.walk(memory, Ipa(at));
            let size = span(place.level);
            if let Entry::Leaf(pa, page_use) = place.entry {
                match regions.last_mut() {
                    Some(last)
                        if last.page_use == page_use
                            && last.ipa.0 + last.size == at
                            && last.pa.0 + last.size == pa.0 =>
                    {
                        last.size += size;
                    }
                    _ => regions.push(Region {
                        ipa: Ipa(at),
                        pa,
                        size,
                        page_use,
                    }),
                }
            }
            at = (at & !(size - 1)).saturating_add(size);
        }
        regions
    }

    /// Takes out mappings at `from` and above that `which` names, as many as one step does, and appends them to `taken`,
    /// which is empty, when their translations are gone. Where to go on; `None`: there are no more.
    pub fn unmap_some(
        &mut self,
        machine: &impl Machine,
        from: Ipa,
        mut which: impl FnMut(Previous) -> bool,
        taken: &mut Taken,
    ) -> Option<Ipa> {
        let mut broken = Broken::default();
        let mut at = from.0 & !(PAGE_SIZE - 1);
        for _ in 0..STEP {
            if at >= self.geometry.ipa_end() || taken.is_full() {
                break;
            }
            let place = self.walk(machine, Ipa(at));
            if let Entry::Leaf(frame, page_use) = place.entry
                && which(Previous { frame, page_use })
                && let Some(previous) = self.break_leaf(machine, &place, Ipa(at), &mut broken)
            {
                // There is room: the loop's condition says so.
                let _ = taken.push((Ipa(at), previous));
            }
            let size = span(place.level);
            at = (at & !(size - 1)).saturating_add(size);
        }
        self.drop_translations(machine, &broken);
        (at < self.geometry.ipa_end()).then_some(Ipa(at))
    }

    /// Gives tables back to `pool`, as many as one step does; nothing is mapped any more, and no vCPU of the domain runs.
    /// Where to go on; `None`: only the root is left.
    pub fn free_tables(
        &mut self,
        machine: &impl Machine,
        pool: &mut Pool,
        mut cursor: TableCursor,
    ) -> Option<TableCursor> {
        let mut tables = heapless::Vec::<Pa, BATCH>::new();
        self.recent.set(PageTable::NONE);
        for _ in 0..STEP {
            if tables.is_full() {
                break;
            }
            if cursor.at.0 >= self.geometry.ipa_end() {
                // The tables one level up are empty now.
                let next = cursor.level.checked_sub(1);
                let Some(level) = next.filter(|level| *level >= self.geometry.start_level()) else {
                    self.give_back(machine, pool, &tables);
                    return None;
                };
                cursor = TableCursor { level, at: Ipa(0) };
                continue;
            }
            let place = self.walk_to(machine, cursor.at, cursor.level);
            if place.level == cursor.level
                && let Entry::Table(table) = place.entry
            {
                machine.store_u64(place.at, 0);
                // There is room: the loop's condition says so.
                let _ = tables.push(table);
            }
            let size = span(place.level);
            cursor.at = Ipa((cursor.at.0 & !(size - 1)).saturating_add(size));
        }
        self.give_back(machine, pool, &tables);
        Some(cursor)
    }

    /// Frees tables that were unlinked, when no walker knows them any more.
    fn give_back(&self, machine: &impl Machine, pool: &mut Pool, tables: &[Pa]) {
        if tables.is_empty() {
            return;
        }
        machine.publish_tables();
        machine.invalidate_all(self.vmid, self.root);
        for table in tables {
            // It came from this pool, and was linked once.
            let _ = pool.free(*table);
        }
    }

    /// Maps what follows the first `done` bytes of `region`, as much as one step does; how many bytes are mapped then.
    ///
    /// # Errors
    /// As [`Self::map`]; what was mapped before stays.
    pub fn map_some(
        &mut self,
        machine: &impl Machine,
        pool: &mut Pool,
        region: &Region,
        mut done: u64,
    ) -> Result<u64, Stage2Error> {
        self.check(region.ipa, region.size)?;
        self.check_frame(region.pa, region.size, region.ipa)?;
        for _ in 0..STEP {
            if done >= region.size {
                break;
            }
            let (at, to) = (Ipa(region.ipa.0 + done), Pa(region.pa.0 + done));
            done += self.map_one(machine, pool, at, to, region.size - done, region.page_use)?;
        }
        machine.publish_tables();
        Ok(done)
    }
}
