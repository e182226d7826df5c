//! A domain's stage 2: which guest-physical page is which frame, as which use.
//!
//! Guarantees, for any sequence of calls:
//! - a live descriptor changes only by break-before-make: written invalid, published, its translations dropped on every
//!   pCPU, then written again;
//! - what a page was before is told to the caller only after its translations are gone, so that a reference may be given
//!   back, or a frame freed, as soon as the caller hears of it;
//! - the attributes of a mapping follow from its [`PageUse`] alone, so that aliases agree;
//! - an address beyond the guest-physical map is refused, never truncated; table frames come from the domain's own pool
//!   and run out with an error.
//!
//! While a block is split its addresses translate to nothing for an instant: a translation fault on an address for which
//! [`Stage2::lookup`], asked under the domain's memory lock, finds a mapping is to be retried by the guest.
//!
//! Tables are not taken apart again before the domain ends (`anew`): an address range that was mapped once keeps its
//! tables, so a domain that maps and unmaps the same window uses no more of its pool.

mod anew;
mod descriptor;
mod geometry;
mod granted;

pub use anew::{Region, TableCursor, Taken};
pub use descriptor::{Attributes, MemoryType, PageUse, hardware_attributes};
pub use geometry::{Geometry, GeometryError, physical_bits};
pub use granted::Ungranted;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering, fence};

use crate::ids::{Ipa, PAGE_SIZE, Pa, Vmid};
use crate::machine::Machine;
use crate::memory::PhysicalMemory;
use crate::memory::pool::{Pool, PoolError};
use descriptor::{Entry, decode, leaf, linked, span, table};

/// Descriptors in a table.
const ENTRIES: u64 = 512;
/// The level of pages.
const PAGE_LEVEL: u8 = 3;
/// Pages whose translations are dropped together when a range is unmapped or a batch is mapped.
pub const BATCH: usize = 64;

/// Why a stage-2 operation was refused. Nothing changed but, perhaps, a block that is now a table of the same pages.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Stage2Error {
    /// The guest-physical address is beyond the map.
    #[error("guest-physical address {0} is beyond the map")]
    BeyondMap(Ipa),
    /// The physical address is beyond what a descriptor can hold.
    #[error("physical address {0} is beyond what the CPUs translate to")]
    BeyondMemory(Pa),
    /// An address or a length is no multiple of a page.
    #[error("{0} is not the start of a page, or the length is not whole pages")]
    Misaligned(Ipa),
    /// There is a mapping already.
    #[error("{0} is mapped already")]
    AlreadyMapped(Ipa),
    /// There is no mapping.
    #[error("{0} is not mapped")]
    NotMapped(Ipa),
    /// The domain that the pages belong to does not run, and nobody maps them now.
    #[error("the pages' owner does not run")]
    OwnerDown,
    /// No frame for a table.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// What a guest-physical address is.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Mapping {
    /// The physical address.
    pub pa: Pa,
    /// What it is.
    pub page_use: PageUse,
    /// Bytes of the block or page that maps it.
    pub size: u64,
}

/// What a page was before it was replaced or unmapped. Its translations are gone.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Previous {
    /// The frame.
    pub frame: Pa,
    /// What it was mapped as: the caller gives a reference back for [`PageUse::Foreign`] and
    /// [`PageUse::Granted`].
    pub page_use: PageUse,
}

/// A page to map.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct NewPage {
    /// Where.
    pub ipa: Ipa,
    /// The frame.
    pub frame: Pa,
    /// As what.
    pub page_use: PageUse,
}

/// The translation tables of one domain.
#[derive(Debug)]
pub struct Stage2 {
    root: Pa,
    vmid: Vmid,
    geometry: Geometry,
    /// Pages mapped that are another domain's.
    foreign: u64,
    changes: Changes,
}

/// A number that is another one after any change of what a domain's stage 2 maps, and from before that change on: while
/// it stays, what was not mapped is not, and its fault is none of a change on its way. Who has it needs no lock.
#[derive(Clone, Debug)]
pub struct Changes(Arc<AtomicU64>);

impl Changes {
    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1)))
    }

    /// The number; never 0. A relaxed load is enough, whoever asks:
    ///
    /// - After a fault: the exception is a context synchronization event (SCTLR_EL2.EIS is 1), so this load comes after the
    ///   walk that faulted. If that walk read a descriptor as [`Self::begin`]'s caller wrote it, the barrier there makes
    ///   this the new number or a later one.
    /// - In a call, for what was known before: a vCPU that has learned of a change, by its own call or from another vCPU by
    ///   an acquire or a branch before the HVC, asks after it in program order, and the changer's number was visible before
    ///   its guest went on. One that has learned of none may as well have called before the change.
    /// - Under the tables' lock nothing changes meanwhile. Only there a number is remembered, so what is remembered is never
    ///   of a change under way.
    #[inline]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// A leaf is about to be written or to go: every writer of one calls this first, under the lock of the tables, which is
    /// why nobody else adds. Linking an empty table where nothing was, and taking empty tables apart, maps nothing and takes
    /// nothing away.
    fn begin(&self) {
        self.0.store(self.count() + 1, Ordering::Relaxed);
        // Whoever faults on the descriptor finds the new number.
        fence(Ordering::SeqCst);
    }
}

/// Where a walk ended.
struct Place {
    /// Address of the descriptor.
    at: Pa,
    level: u8,
    entry: Entry,
}

impl Stage2 {
    /// A stage 2 that maps nothing.
    ///
    /// # Errors
    /// [`Stage2Error::Pool`] when the pool has no room for the root.
    pub fn new(
        memory: &impl PhysicalMemory,
        pool: &mut Pool,
        geometry: Geometry,
        vmid: Vmid,
    ) -> Result<Self, Stage2Error> {
        let root = pool.allocate_row(memory, geometry.root_tables())?;
        Ok(Self {
            root,
            vmid,
            geometry,
            foreign: 0,
            changes: Changes::new(),
        })
    }

    /// The first root table.
    pub fn root(&self) -> Pa {
        self.root
    }

    /// The tag of its translations.
    pub fn vmid(&self) -> Vmid {
        self.vmid
    }

    /// Size and shape.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// How many pages of other domains are mapped.
    pub fn foreign_pages(&self) -> u64 {
        self.foreign
    }

    /// What tells whether something has changed.
    pub fn changes(&self) -> Changes {
        self.changes.clone()
    }

    /// VTTBR_EL2 while a vCPU of the domain runs.
    pub fn vttbr(&self) -> u64 {
        u64::from(self.vmid.0) << 48 | self.root.0
    }

    /// What is at `ipa`; `None` when nothing is mapped there. A load a level: at most five.
    pub fn lookup(&self, memory: &impl PhysicalMemory, ipa: Ipa) -> Option<Mapping> {
        if ipa.0 >= self.geometry.ipa_end() {
            return None;
        }
        let place = self.walk(memory, ipa);
        match place.entry {
            Entry::Leaf(pa, page_use) => {
                let size = span(place.level);
                Some(Mapping {
                    pa: Pa(pa.0 | ipa.0 & (size - 1)),
                    page_use,
                    size,
                })
            }
            _ => None,
        }
    }

    /// Maps `length` bytes of `ipa` to `pa` where nothing is mapped yet, with blocks of 1 GiB and 2 MiB where both
    /// addresses are aligned for them.
    ///
    /// # Errors
    /// [`Stage2Error::BeyondMap`], [`Stage2Error::BeyondMemory`], [`Stage2Error::Misaligned`],
    /// [`Stage2Error::AlreadyMapped`], [`Stage2Error::Pool`]. After an error nothing of the range is mapped that was not
    /// before.
    pub fn map(
        &mut self,
        machine: &impl Machine,
        pool: &mut Pool,
        (ipa, pa): (Ipa, Pa),
        length: u64,
        page_use: PageUse,
    ) -> Result<(), Stage2Error> {
        self.check(ipa, length)?;
        self.check_frame(pa, length, ipa)?;
        let mut done = 0;
        let result = loop {
            if done == length {
                break Ok(());
            }
            let (at, to) = (Ipa(ipa.0 + done), Pa(pa.0 + done));
            match self.map_one(machine, pool, at, to, length - done, page_use) {
                Ok(size) => done += size,
                Err(error) => break Err(error),
            }
        };
        machine.publish_tables();
        if result.is_err() && done > 0 {
            // What was mapped so far covers exactly the first `done` bytes: no block needs a split, no frame is missing.
            self.unmap(machine, pool, ipa, done, |_, _| {})?;
        }
        result
    }

    /// Makes `page` what its address maps to, whatever was there before.
    ///
    /// # Errors
    /// [`Stage2Error::BeyondMap`], [`Stage2Error::BeyondMemory`], [`Stage2Error::Misaligned`], [`Stage2Error::Pool`].
    pub fn replace(
        &mut self,
        machine: &impl Machine,
        pool: &mut Pool,
        page: NewPage,
    ) -> Result<Option<Previous>, Stage2Error> {
        let place = self.page_place(machine, pool, page)?;
        let mut broken = Broken::default();
        let previous = self.break_leaf(machine, &place, page.ipa, &mut broken);
        self.drop_translations(machine, &broken);
        self.write_leaf(machine, place.at, PAGE_LEVEL, page.frame, page.page_use);
        machine.publish_tables();
        Ok(previous)
    }

    /// As [`Self::replace`] for up to [`BATCH`] pages: those whose addresses were mapped share one drop of translations.
    /// `results` gets an entry for each page that there is room for; pages without one are left alone.
    pub fn replace_batch(
        &mut self,
        machine: &impl Machine,
        pool: &mut Pool,
        pages: &[NewPage],
        results: &mut [Result<Option<Previous>, Stage2Error>],
    ) {
        let mut broken = Broken::default();
        let mut places = [None; BATCH];
        for ((page, result), place) in pages.iter().zip(results.iter_mut()).zip(&mut places) {
            *result = self.page_place(machine, pool, *page).map(|found| {
                *place = Some(found.at);
                self.break_leaf(machine, &found, page.ipa, &mut broken)
            });
        }
        self.drop_translations(machine, &broken);
        for ((page, result), place) in pages.iter().zip(results.iter_mut()).zip(places) {
            let Some(at) = place else { continue };
            // The same address twice in one batch: the first is live by now, and the second says what it replaced.
            if let Entry::Leaf(frame, page_use) = decode(PAGE_LEVEL, machine.load_u64(at)) {
                self.changes.begin();
                machine.store_u64(at, 0);
                machine.publish_tables();
                machine.invalidate_page(self.vmid, self.root, page.ipa);
                self.count_foreign(PAGE_LEVEL, page_use, false);
                *result = Ok(Some(Previous { frame, page_use }));
            }
            self.write_leaf(machine, at, PAGE_LEVEL, page.frame, page.page_use);
        }
        machine.publish_tables();
    }

    /// Takes one page out of the map.
    ///
    /// # Errors
    /// [`Stage2Error::BeyondMap`], [`Stage2Error::Misaligned`], [`Stage2Error::NotMapped`]; [`Stage2Error::Pool`] when it
    /// is inside a block and there is no frame for the table that splits it.
    pub fn unmap_page(&mut self, machine: &impl Machine, pool: &mut Pool, ipa: Ipa) -> Result<Previous, Stage2Error> {
        self.unmap_page_if(machine, pool, ipa, |_| true)
    }

    /// As [`Self::unmap_page`], if the page is of a use that `may` go: otherwise it is as if nothing were mapped there.
    ///
    /// # Errors
    /// As [`Self::unmap_page`].
    pub fn unmap_page_if(
        &mut self,
        machine: &impl Machine,
        pool: &mut Pool,
        ipa: Ipa,
        may: impl FnOnce(PageUse) -> bool,
    ) -> Result<Previous, Stage2Error> {
        self.check(ipa, PAGE_SIZE)?;
        let place = self.walk(machine, ipa);
        match place.entry {
            Entry::Leaf(_, page_use) if may(page_use) => {}
            _ => return Err(Stage2Error::NotMapped(ipa)),
        }
        let place = self.split_down(machine, pool, ipa, place)?;
        let mut broken = Broken::default();
        let previous = self.break_leaf(machine, &place, ipa, &mut broken);
        self.drop_translations(machine, &broken);
        previous.ok_or(Stage2Error::NotMapped(ipa))
    }

    /// Takes every mapping of `length` bytes at `ipa` out, and tells `released` of each block or page (its first address
    /// and its size, what it was) after its translations are gone.
    ///
    /// # Errors
    /// [`Stage2Error::BeyondMap`], [`Stage2Error::Misaligned`]; [`Stage2Error::Pool`] when a block lies across an end of
    /// the range and there is no frame for the table that splits it: then what lies before it is unmapped.
    pub fn unmap(
        &mut self,
        machine: &impl Machine,
        pool: &mut Pool,
        ipa: Ipa,
        length: u64,
        mut released: impl FnMut((Ipa, u64), Previous),
    ) -> Result<(), Stage2Error> {
        self.check(ipa, length)?;
        let end = ipa.0 + length;
        let mut address = ipa.0;
        while address < end {
            let mut taken = heapless::Vec::<(Ipa, u64, Previous), BATCH>::new();
            let mut broken = Broken::default();
            let mut failure = Ok(());
            while address < end && !taken.is_full() {
                let at = Ipa(address);
                let mut place = self.walk(machine, at);
                if let Entry::Leaf(..) = place.entry
                    && (!at.is_aligned(span(place.level)) || end - address < span(place.level))
                {
                    match self.split_once(machine, pool, &place) {
                        Ok(()) => continue,
                        Err(error) => {
                            failure = Err(error);
                            break;
                        }
                    }
                }
                let size = span(place.level);
                if let Some(previous) = self.break_leaf(machine, &place, at, &mut broken) {
                    place.entry = Entry::Invalid;
                    // There is room: the loop's condition says so.
                    let _ = taken.push((at, size, previous));
                }
                address = (address & !(size - 1)).saturating_add(size);
            }
            self.drop_translations(machine, &broken);
            for (at, size, previous) in &taken {
                released((*at, *size), *previous);
            }
            failure?;
        }
        Ok(())
    }

    fn check(&self, ipa: Ipa, length: u64) -> Result<(), Stage2Error> {
        if !ipa.is_aligned(PAGE_SIZE) || !length.is_multiple_of(PAGE_SIZE) {
            return Err(Stage2Error::Misaligned(ipa));
        }
        match ipa.0.checked_add(length) {
            Some(end) if end <= self.geometry.ipa_end() && ipa.0 < self.geometry.ipa_end() => Ok(()),
            _ => Err(Stage2Error::BeyondMap(ipa)),
        }
    }

    fn check_frame(&self, pa: Pa, length: u64, ipa: Ipa) -> Result<(), Stage2Error> {
        if !pa.is_aligned(PAGE_SIZE) {
            return Err(Stage2Error::Misaligned(ipa));
        }
        match pa.0.checked_add(length) {
            Some(end) if end <= self.geometry.physical_end() => Ok(()),
            _ => Err(Stage2Error::BeyondMemory(pa)),
        }
    }

    /// Address of the descriptor for `ipa` in the tables of `level` that `base` begins.
    fn slot(&self, base: Pa, level: u8, ipa: Ipa) -> Pa {
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
    fn walk(&self, memory: &impl PhysicalMemory, ipa: Ipa) -> Place {
        self.walk_to(memory, ipa, PAGE_LEVEL)
    }

    /// Follows tables down to `last` at most. `ipa` is inside the map.
    #[inline]
    fn walk_to(&self, memory: &impl PhysicalMemory, ipa: Ipa, last: u8) -> Place {
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
    fn map_one(
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
    fn add_table(
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
    fn page_place(&self, machine: &impl Machine, pool: &mut Pool, page: NewPage) -> Result<Place, Stage2Error> {
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
    fn split_down(
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
    fn split_once(&self, machine: &impl Machine, pool: &mut Pool, place: &Place) -> Result<(), Stage2Error> {
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
    fn write_leaf(&mut self, machine: &impl Machine, at: Pa, level: u8, frame: Pa, page_use: PageUse) {
        self.changes.begin();
        machine.store_u64(at, leaf(level, frame, page_use, self.geometry.caching()));
        self.count_foreign(level, page_use, true);
    }

    fn count_foreign(&mut self, level: u8, page_use: PageUse, mapped: bool) {
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
    fn break_leaf(&mut self, machine: &impl Machine, place: &Place, ipa: Ipa, broken: &mut Broken) -> Option<Previous> {
        let Entry::Leaf(frame, page_use) = place.entry else {
            return None;
        };
        self.changes.begin();
        machine.store_u64(place.at, 0);
        self.count_foreign(place.level, page_use, false);
        broken.count += 1;
        broken.only = if place.level == PAGE_LEVEL && broken.count == 1 {
            Some(ipa)
        } else {
            None
        };
        Some(Previous { frame, page_use })
    }

    fn drop_translations(&self, machine: &impl Machine, broken: &Broken) {
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

/// Descriptors written invalid whose translations are still to be dropped.
#[derive(Default)]
struct Broken {
    count: usize,
    /// The page, while there is just one and it is no block.
    only: Option<Ipa>,
}
