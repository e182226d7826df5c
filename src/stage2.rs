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
mod changes;
mod descriptor;
mod geometry;
mod single;
mod tables;

pub use anew::{Region, TableCursor, Taken};
pub use changes::{Changed, Changes};
pub use descriptor::{Attributes, PageUse, hardware_attributes};
pub use geometry::{Geometry, GeometryError, physical_bits};
pub use single::{Stale, Vacant};

use core::cell::Cell;

use crate::ids::{Ipa, PAGE_SIZE, Pa, Vmid};
use crate::machine::Machine;
use crate::memory::PhysicalMemory;
use crate::memory::pool::{Pool, PoolError};
use descriptor::{Entry, decode, span};
use single::PageTable;
use tables::Broken;

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
    /// log2 of what a descriptor of the root covers.
    root_shift: u32,
    /// Pages mapped that are another domain's.
    foreign: u64,
    changes: Changes,
    recent: Cell<PageTable>,
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
            root_shift: span(geometry.start_level()).ilog2(),
            foreign: 0,
            changes: Changes::new(),
            recent: Cell::new(PageTable::NONE),
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
}
