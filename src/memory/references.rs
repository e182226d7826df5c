//! Who owns which frame, and how often other domains map it.
//!
//! Every page that one domain maps of another holds a counted reference here, taken before the mapping is made and given
//! back after its translations are dropped, so that no frame changes hands under a mapping. Counts live in memory that was
//! set aside at boot for every frame that domains own; they neither wrap nor go below zero.
//!
//! A frame that its owner took out of its own map is *parked*: it stays the owner's, and is handed out again by
//! [`FrameReferences::unpark`] once no other domain maps it. The list of parked frames runs through their counters, never
//! through the frames, where the hypervisor or a device may still write what a guest chose.
//!
//! Of RAM that a domain maps of another by that one's leave, all that it maps together is counted too, and kept within a
//! quota ([`FrameReferences::map`]); and each frame remembers who has mapped it since nobody did, so that whoever maps a page
//! can be told when it leaves its owner's map.

use alloc::vec::Vec;
use core::cell::Cell;

use crate::ids::{DomainId, DomainSet, MAX_DOMAINS, PAGE_SHIFT, PAGE_SIZE, Pa};
use crate::memory::PhysicalMemory;
use crate::range::PaRange;

/// Bytes of a frame's counter, and behind it the domains that have mapped the frame, a bit each.
const COUNTER: u64 = size_of::<u64>() as u64;
const MAPPERS: u64 = size_of::<u32>() as u64;
/// In a counter: the frame is in its owner's list of parked frames, and the other bits are the number of the next one's
/// counter, plus 1; 0 ends the list.
const PARKED: u32 = 1 << 31;
/// In a counter: the frame will be parked when the count, in the bits below, comes to 0.
const LEAVING: u32 = 1 << 30;
const COUNT: u32 = LEAVING - 1;

/// Why a reference was not taken or given back.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReferenceError {
    /// No domain owns the frame.
    #[error("{0} belongs to no domain")]
    NotOwned(Pa),
    /// Another domain owns it.
    #[error("{0} belongs to domain {1:?}")]
    WrongOwner(Pa, DomainId),
    /// The counter is at its end.
    #[error("{0} has as many references as can be counted")]
    Saturated(Pa),
    /// There is no reference to give back.
    #[error("{0} has no reference")]
    Unreferenced(Pa),
    /// The frame is in nobody's map.
    #[error("{0} is parked")]
    Parked(Pa),
    /// The mapper has as much of the owner's RAM mapped as it may.
    #[error("a quota of {0} pages is used up")]
    Quota(u64),
    /// The table has no room for another range.
    #[error("no room to count the frames of {0}")]
    TableFull(PaRange),
    /// The range overlaps one that has an owner.
    #[error("{0} has an owner already")]
    Overlap(PaRange),
}

#[derive(Copy, Clone, Debug)]
struct Owned {
    range: PaRange,
    owner: DomainId,
    /// It is RAM of the owner's guest, and not the hypervisor's for it.
    ram: bool,
    /// Where the counter of its first frame is.
    counters: Pa,
}

/// Owners and counters of every frame that a domain has.
#[derive(Debug)]
pub struct FrameReferences {
    /// Lowest first.
    owned: Vec<Owned>,
    /// Of each owner, the number of the first parked frame's counter, plus 1; 0: none is parked.
    parked: Vec<(DomainId, u32)>,
    /// How many are parked of each owner, by its number.
    parked_frames: [u64; MAX_DOMAINS + 1],
    /// References that others hold to each owner's frames, by its number.
    held: [u64; MAX_DOMAINS + 1],
    /// Pages of RAM that are mapped, by the number of the mapper and of the owner.
    mapped: [[u64; MAX_DOMAINS + 1]; MAX_DOMAINS + 1],
    table: PaRange,
    used: u64,
    /// Which of `owned` had the last frame that was asked for.
    recent: Cell<usize>,
}

impl FrameReferences {
    /// Bytes of table that `frames` frames need, in whole pages.
    pub const fn table_size(frames: u64) -> u64 {
        frames.saturating_mul(COUNTER).saturating_add(PAGE_SIZE - 1) & !(PAGE_SIZE - 1)
    }

    /// An empty account, whose counters will be in `table` (zeroed here).
    pub fn new(memory: &impl PhysicalMemory, table: PaRange) -> Self {
        if !table.is_empty() {
            memory.zero(table.start, table.size);
        }
        Self {
            owned: Vec::new(),
            parked: Vec::new(),
            parked_frames: [0; MAX_DOMAINS + 1],
            held: [0; MAX_DOMAINS + 1],
            mapped: [[0; MAX_DOMAINS + 1]; MAX_DOMAINS + 1],
            table,
            used: 0,
            recent: Cell::new(0),
        }
    }

    /// Gives the frames of `range` to `owner`, unreferenced. Done while domains are built.
    ///
    /// # Errors
    /// [`ReferenceError::Overlap`], [`ReferenceError::TableFull`].
    pub fn add(&mut self, range: PaRange, owner: DomainId) -> Result<(), ReferenceError> {
        self.insert(range, owner, false)
    }

    /// As [`Self::add`], for RAM of the owner's guest.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn add_ram(&mut self, range: PaRange, owner: DomainId) -> Result<(), ReferenceError> {
        self.insert(range, owner, true)
    }

    fn insert(&mut self, range: PaRange, owner: DomainId, ram: bool) -> Result<(), ReferenceError> {
        let range = range.pages();
        if self.owned.iter().any(|other| other.range.overlaps(range)) {
            return Err(ReferenceError::Overlap(range));
        }
        let bytes = (range.size >> PAGE_SHIFT).saturating_mul(COUNTER);
        let used = self.used.saturating_add(bytes);
        if used > self.table.size || used / COUNTER > u64::from(COUNT) {
            return Err(ReferenceError::TableFull(range));
        }
        let counters = Pa(self.table.start.0 + self.used);
        self.used = used;
        let index = self.owned.partition_point(|other| other.range.start < range.start);
        let owned = Owned {
            range,
            owner,
            ram,
            counters,
        };
        self.owned.insert(index, owned);
        if !self.parked.iter().any(|(other, _)| *other == owner) {
            self.parked.push((owner, 0));
        }
        Ok(())
    }

    /// The domain that owns the frame of `pa`.
    pub fn owner(&self, pa: Pa) -> Option<DomainId> {
        self.find(pa).map(|found| found.owner)
    }

    /// How many references other domains hold to the frame of `pa`.
    ///
    /// # Errors
    /// [`ReferenceError::NotOwned`].
    pub fn count(&self, memory: &impl PhysicalMemory, pa: Pa) -> Result<u32, ReferenceError> {
        let Found { counter, .. } = self.find(pa).ok_or(ReferenceError::NotOwned(pa))?;
        Ok(count(memory.load_u32(counter)))
    }

    /// Takes a reference to the frame of `pa`, if it belongs to `owner`.
    ///
    /// # Errors
    /// [`ReferenceError::NotOwned`], [`ReferenceError::WrongOwner`], [`ReferenceError::Saturated`],
    /// [`ReferenceError::Parked`].
    #[inline(always)]
    pub fn get(&mut self, memory: &impl PhysicalMemory, pa: Pa, owner: DomainId) -> Result<(), ReferenceError> {
        self.take(memory, pa, owner).map(drop)
    }

    /// Takes a reference to RAM of `owner` for a mapping by `mapper`, which has fewer than `quota` pages of it.
    ///
    /// # Errors
    /// [`ReferenceError::Quota`]; as [`Self::get`].
    #[inline]
    pub fn map(
        &mut self,
        memory: &impl PhysicalMemory,
        pa: Pa,
        owner: DomainId,
        mapper: DomainId,
        quota: u64,
    ) -> Result<(), ReferenceError> {
        let (by, of) = (usize::from(mapper.0), usize::from(owner.0));
        let mapped = self.mapped.get(by).and_then(|row| row.get(of)).copied();
        if mapped.is_none_or(|mapped| mapped >= quota) {
            return Err(ReferenceError::Quota(quota));
        }
        let (counter, ram) = self.take(memory, pa, owner)?;
        if ram && let Some(mapped) = self.mapped.get_mut(by).and_then(|row| row.get_mut(of)) {
            *mapped += 1;
            let at = Pa(counter.0 + MAPPERS);
            let mappers = memory.load_u32(at);
            memory.store_u32(at, mappers | 1 << by);
        }
        Ok(())
    }

    /// Gives back the reference of [`Self::map`] of a frame that is RAM, after the translations made from it were dropped. How
    /// many are left; `None`: it is no RAM, and nothing has changed.
    ///
    /// # Errors
    /// As [`Self::put`].
    #[inline]
    pub fn unmap(
        &mut self,
        memory: &impl PhysicalMemory,
        pa: Pa,
        mapper: DomainId,
    ) -> Option<Result<u32, ReferenceError>> {
        let Found { counter, owner, .. } = self.find(pa).filter(|found| found.ram)?;
        let left = self.give_back(memory, pa, owner, counter);
        let (by, of) = (usize::from(mapper.0), usize::from(owner.0));
        if left.is_ok()
            && let Some(mapped) = self.mapped.get_mut(by).and_then(|row| row.get_mut(of))
        {
            *mapped = mapped.saturating_sub(1);
        }
        Some(left)
    }

    /// How many pages of RAM of `owner` are mapped by `mapper`.
    pub fn mapped(&self, mapper: DomainId, owner: DomainId) -> u64 {
        let row = self.mapped.get(usize::from(mapper.0));
        row.and_then(|row| row.get(usize::from(owner.0))).copied().unwrap_or(0)
    }

    /// Takes a reference; where its counter is, and whether the frame is RAM.
    #[inline(always)]
    fn take(&mut self, memory: &impl PhysicalMemory, pa: Pa, owner: DomainId) -> Result<(Pa, bool), ReferenceError> {
        let found = self.find(pa).ok_or(ReferenceError::NotOwned(pa))?;
        if found.owner != owner {
            return Err(ReferenceError::WrongOwner(pa, found.owner));
        }
        let counter = found.counter;
        let word = memory.load_u32(counter);
        // Both marks are above the count.
        if word >= COUNT {
            return Err(if word == COUNT {
                ReferenceError::Saturated(pa)
            } else {
                ReferenceError::Parked(pa)
            });
        }
        memory.store_u32(counter, word + 1);
        if let Some(held) = self.held.get_mut(usize::from(owner.0)) {
            // Each frame has less than 2^30.
            *held = held.wrapping_add(1);
        }
        Ok((counter, found.ram))
    }

    /// How many references others hold to the frames of `owner`, together.
    pub fn held(&self, owner: DomainId) -> u64 {
        self.held.get(usize::from(owner.0)).copied().unwrap_or(0)
    }

    /// How many frames `owner` has parked that nobody maps.
    pub fn parked(&self, owner: DomainId) -> u64 {
        self.parked_frames.get(usize::from(owner.0)).copied().unwrap_or(0)
    }

    /// Gives a reference to the frame of `pa` back, after the translations made from it were dropped. How many are left.
    ///
    /// # Errors
    /// [`ReferenceError::NotOwned`], [`ReferenceError::Unreferenced`].
    pub fn put(&mut self, memory: &impl PhysicalMemory, pa: Pa) -> Result<u32, ReferenceError> {
        let Found { counter, owner, .. } = self.find(pa).ok_or(ReferenceError::NotOwned(pa))?;
        self.give_back(memory, pa, owner, counter)
    }

    #[inline]
    fn give_back(
        &mut self,
        memory: &impl PhysicalMemory,
        pa: Pa,
        owner: DomainId,
        counter: Pa,
    ) -> Result<u32, ReferenceError> {
        let word = memory.load_u32(counter);
        if count(word) == 1 {
            memory.store_u32(Pa(counter.0 + MAPPERS), 0);
        }
        if count(word) != 0
            && let Some(held) = self.held.get_mut(usize::from(owner.0))
        {
            *held = held.saturating_sub(1);
        }
        match count(word) {
            0 => Err(ReferenceError::Unreferenced(pa)),
            1 if word & LEAVING != 0 => {
                self.enlist(memory, owner, counter);
                Ok(0)
            }
            count => {
                memory.store_u32(counter, word - 1);
                Ok(count - 1)
            }
        }
    }

    /// The frame of `pa` left its owner's map for good: [`Self::unpark`] may hand it out as soon as nobody else maps it. The
    /// domains that map RAM of its owner and have mapped it since nobody did.
    ///
    /// # Errors
    /// [`ReferenceError::NotOwned`]; [`ReferenceError::Parked`]: it is already.
    pub fn park(&mut self, memory: &impl PhysicalMemory, pa: Pa) -> Result<DomainSet, ReferenceError> {
        let Found { counter, owner, .. } = self.find(pa).ok_or(ReferenceError::NotOwned(pa))?;
        let mut mappers = DomainSet::default();
        match memory.load_u32(counter) {
            0 => self.enlist(memory, owner, counter),
            word if word & (PARKED | LEAVING) != 0 => return Err(ReferenceError::Parked(pa)),
            word => {
                memory.store_u32(counter, word | LEAVING);
                let told = memory.load_u32(Pa(counter.0 + MAPPERS));
                let all = (0..=MAX_DOMAINS as u16).map(DomainId);
                for mapper in all.filter(|mapper| told >> mapper.0 & 1 != 0 && self.mapped(*mapper, owner) != 0) {
                    mappers.insert(mapper);
                }
            }
        }
        Ok(mappers)
    }

    /// A frame that `owner` parked and that nobody maps, with whatever was in it; `None`: there is none.
    pub fn unpark(&mut self, memory: &impl PhysicalMemory, owner: DomainId) -> Option<Pa> {
        let (_, first) = self.parked.iter_mut().find(|(other, _)| *other == owner)?;
        let counter = Pa(self.table.start.0 + u64::from(first.checked_sub(1)?) * COUNTER);
        let owned = self
            .owned
            .iter()
            .find(|owned| owned.counters <= counter && counter.0 - owned.counters.0 < owned.counter_bytes())?;
        *first = memory.load_u32(counter) & !PARKED;
        memory.store_u32(counter, 0);
        if let Some(parked) = self.parked_frames.get_mut(usize::from(owner.0)) {
            *parked = parked.saturating_sub(1);
        }
        Some(Pa(
            owned.range.start.0 + (((counter.0 - owned.counters.0) / COUNTER) << PAGE_SHIFT)
        ))
    }

    /// `owner`, of which no vCPU runs, has all its RAM in its map again: frames that it parked, or was to park, are not any
    /// more. Looks at `limit` counters from number `from` on; where to go on, `None`: all are done, and none is parked.
    pub fn reclaim(&mut self, memory: &impl PhysicalMemory, owner: DomainId, from: u64, limit: u64) -> Option<u64> {
        let mut skipped = 0;
        let mut left = limit;
        for owned in self.owned.iter().filter(|owned| owned.owner == owner) {
            let count = owned.range.size >> PAGE_SHIFT;
            let first = from.saturating_sub(skipped).min(count);
            let last = first.saturating_add(left).min(count);
            for index in first..last {
                let counter = Pa(owned.counters.0 + index * COUNTER);
                let word = memory.load_u32(counter);
                if word & (PARKED | LEAVING) != 0 {
                    memory.store_u32(counter, self::count(word));
                }
            }
            left -= last - first;
            if last < count {
                return Some(skipped + last);
            }
            skipped += count;
        }
        if let Some((_, first)) = self.parked.iter_mut().find(|(other, _)| *other == owner) {
            *first = 0;
        }
        if let Some(parked) = self.parked_frames.get_mut(usize::from(owner.0)) {
            *parked = 0;
        }
        None
    }

    /// How many references other domains hold to the frames of `range` together.
    pub fn total(&self, memory: &impl PhysicalMemory, range: PaRange) -> u64 {
        let (start, end) = (range.pages().start.0, range.pages().end());
        let mut total = 0;
        for owned in &self.owned {
            let (first, last) = (start.max(owned.range.start.0), end.min(owned.range.end()));
            let index = (first.saturating_sub(owned.range.start.0)) >> PAGE_SHIFT;
            for number in 0..last.saturating_sub(first) >> PAGE_SHIFT {
                let counter = Pa(owned.counters.0 + (index + number) * COUNTER);
                total += u64::from(count(memory.load_u32(counter)));
            }
        }
        total
    }

    /// Puts a frame that nobody refers to at the head of its owner's list.
    fn enlist(&mut self, memory: &impl PhysicalMemory, owner: DomainId, counter: Pa) {
        let number = ((counter.0 - self.table.start.0) / COUNTER) as u32;
        if let Some((_, first)) = self.parked.iter_mut().find(|(other, _)| *other == owner) {
            memory.store_u32(counter, PARKED | *first);
            *first = number + 1;
            if let Some(parked) = self.parked_frames.get_mut(usize::from(owner.0)) {
                *parked = parked.saturating_add(1);
            }
        }
    }

    #[inline(always)]
    fn find(&self, pa: Pa) -> Option<Found> {
        let recent = self.owned.get(self.recent.get());
        let owned = match recent.filter(|owned| owned.has(pa)) {
            Some(owned) => owned,
            None => self.find_other(pa)?,
        };
        Some(owned.found(pa))
    }

    #[inline(never)]
    fn find_other(&self, pa: Pa) -> Option<&Owned> {
        let after = self.owned.partition_point(|owned| owned.range.start <= pa);
        let index = after.checked_sub(1)?;
        let owned = self.owned.get(index).filter(|owned| owned.has(pa))?;
        self.recent.set(index);
        Some(owned)
    }
}

/// The counter of a frame, and whose frame that is.
#[derive(Copy, Clone)]
struct Found {
    counter: Pa,
    owner: DomainId,
    ram: bool,
}

impl Owned {
    /// Whether the frame of `pa` is one of these.
    #[inline(always)]
    fn has(&self, pa: Pa) -> bool {
        pa.0.wrapping_sub(self.range.start.0) < self.range.size
    }

    /// What there is of the frame of `pa`, which is one of these.
    #[inline(always)]
    fn found(&self, pa: Pa) -> Found {
        let offset = pa.0.wrapping_sub(self.range.start.0);
        Found {
            counter: Pa(self.counters.0.wrapping_add((offset >> PAGE_SHIFT) * COUNTER)),
            owner: self.owner,
            ram: self.ram,
        }
    }

    fn counter_bytes(&self) -> u64 {
        (self.range.size >> PAGE_SHIFT) * COUNTER
    }
}

/// The references that a counter says there are.
const fn count(word: u32) -> u32 {
    if word & PARKED != 0 { 0 } else { word & COUNT }
}
