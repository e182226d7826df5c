//! Pages that a guest grants to this domain, by Xen's grant-table operations.

use core::cell::{Cell, RefCell};
use core::sync::atomic::{AtomicU16, Ordering};

use guest_runtime::copy::copy;
use guest_runtime::hypercall::{DOMID_SELF, grant};
use guest_runtime::window::{CHUNK, NoRoom, Window};
use guest_runtime::{device_tree, println};
use heapless::Vec;
use portunus::abi::grant::{CopyEnd, GrantCopy, MapGrantRef, UnmapGrantRef};
use portunus_virtio::grants::{
    BATCH, GrantError, GrantReference, GrantedBytes, GrantedPages, GrantedPart, Granter, PAGE_SIZE, RINGS,
};

use crate::fate;

const PAGE: u64 = PAGE_SIZE as u64;
/// Pages of a ring: it need not begin at a page's.
const RING_PAGES: usize = 2;

/// One device's grants: room for its rings, and behind them for one batch of a request's pages.
#[derive(Debug)]
pub(crate) struct XenGranter {
    domain: u16,
    base: u64,
    /// A bit for each place of a ring that is taken.
    rings: Cell<u32>,
    batch_taken: Cell<bool>,
    /// Made once: most requests need few of them.
    entries: RefCell<Copies>,
    /// Requests of so many bytes and more are mapped. That never was cheaper than to copy them (docs/performance.md), so only
    /// tests ask for it.
    map_from: usize,
    counts: Cell<GrantCounts>,
}

/// What was done with grants since the start.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct GrantCounts {
    pub(crate) copies: u64,
    pub(crate) maps: u64,
    pub(crate) mapped_now: u64,
}

const _: () = assert!(RINGS <= u32::BITS as usize && ((RINGS * RING_PAGES + BATCH) as u64) * PAGE <= CHUNK);

/// Copies that one call asks for: as many as the hypervisor does before it looks at the call anew.
const COPIES: usize = 32;

/// The entries of a call. The first one crosses no page, which the hypervisor's short way for one entry demands.
#[repr(align(64))]
#[derive(Debug)]
struct Copies([GrantCopy; COPIES]);

const _: () = assert!(size_of::<GrantCopy>() <= align_of::<Copies>());

/// Pages of a guest that are mapped here.
#[derive(Debug)]
pub(crate) struct XenPages {
    at: u64,
    /// By page.
    handles: Vec<u32, BATCH>,
}

impl XenGranter {
    /// Room for what one device of `domain` needs at a time.
    pub(crate) fn new(domain: u16, window: &mut Window) -> Result<Self, NoRoom> {
        Ok(Self {
            domain,
            base: window.take(CHUNK)?,
            rings: Cell::new(0),
            batch_taken: Cell::new(false),
            entries: RefCell::new(Copies([GrantCopy::default(); COPIES])),
            map_from: device_tree::boot_number("map-from").map_or(usize::MAX, |bytes| bytes as usize),
            counts: Cell::new(GrantCounts::default()),
        })
    }

    pub(crate) fn counts(&self) -> GrantCounts {
        self.counts.get()
    }

    fn count(&self, change: impl FnOnce(&mut GrantCounts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    /// Room for `pages` pages.
    fn take_room(&self, pages: usize) -> Option<u64> {
        if pages <= RING_PAGES {
            let place = self.rings.get().trailing_ones() as usize;
            if place < RINGS {
                self.rings.set(self.rings.get() | 1 << place);
                return Some(self.base + (place * RING_PAGES) as u64 * PAGE);
            }
        }
        let free = pages <= BATCH && !self.batch_taken.replace(true);
        free.then_some(self.base + (RINGS * RING_PAGES) as u64 * PAGE)
    }

    fn return_room(&self, at: u64) {
        let place = (at - self.base) as usize / PAGE_SIZE / RING_PAGES;
        if place < RINGS {
            self.rings.set(self.rings.get() & !(1 << place));
        } else {
            self.batch_taken.set(false);
        }
    }

    /// Copies between granted pages and this domain's memory. For each part: where it is there, and where its bytes are here.
    ///
    /// # Safety
    /// There are as many bytes here as each part has; for a copy to here they are the caller's to write.
    unsafe fn copy_parts(
        &self,
        parts: impl Iterator<Item = (GrantedBytes, u64)>,
        to_guest: bool,
    ) -> Result<(), GrantError> {
        let Copies(entries) = &mut *self.entries.borrow_mut();
        let mut count = 0;
        for (part, mut local) in parts {
            let mut offset = part.offset;
            let mut left = part.length;
            // What is in one page there may be in two here.
            while left != 0 {
                let length = left.min((PAGE - local % PAGE) as u16);
                let theirs = CopyEnd {
                    frame: part.reference.0.into(),
                    domid: self.domain,
                    offset,
                    pad: 0,
                };
                let ours = CopyEnd {
                    frame: local / PAGE,
                    domid: DOMID_SELF,
                    offset: (local % PAGE) as u16,
                    pad: 0,
                };
                let (source, dest, flags) = match to_guest {
                    true => (ours, theirs, grant::DEST_GREF),
                    false => (theirs, ours, grant::SOURCE_GREF),
                };
                if count == COPIES {
                    // SAFETY: the caller vouches for this domain's side.
                    unsafe { self.copy_entries(entries) }?;
                    count = 0;
                }
                entries[count] = GrantCopy {
                    source,
                    dest,
                    len: length,
                    flags,
                    status: -1,
                    pad: 0,
                };
                count += 1;
                local += u64::from(length);
                offset += length;
                left -= length;
            }
        }
        // SAFETY: the caller vouches for this domain's side.
        unsafe { self.copy_entries(&mut entries[..count]) }
    }

    /// One call for copies.
    ///
    /// # Safety
    /// As [`Self::copy_parts`].
    unsafe fn copy_entries(&self, entries: &mut [GrantCopy]) -> Result<(), GrantError> {
        if entries.is_empty() {
            return Ok(());
        }
        // SAFETY: passed on to the caller.
        let result = unsafe { grant::copy(entries) };
        self.count(|counts| counts.copies += entries.len() as u64);
        let refused = entries.iter().find(|entry| entry.status != 0);
        // A call that fails has not come to all of them.
        let refused = refused.or(entries.first().filter(|_| result.is_err()));
        refused.map_or(Ok(()), |entry| {
            let granted = match entry.flags {
                grant::DEST_GREF => entry.dest.frame,
                _ => entry.source.frame,
            };
            Err(GrantError(GrantReference(granted as u32)))
        })
    }

    fn unmap_handles(&self, at: u64, handles: &[u32]) {
        let mut entries = Vec::<UnmapGrantRef, BATCH>::new();
        for (handle, page) in handles.iter().zip(0..) {
            // There is room.
            let _ = entries.push(UnmapGrantRef {
                host_addr: at + page * PAGE,
                handle: *handle,
                ..Default::default()
            });
        }
        if entries.is_empty() {
            return;
        }
        // SAFETY: `XenPages` gave out no references, only copies.
        let result = unsafe { grant::unmap(&mut entries) };
        self.count(|counts| counts.mapped_now -= entries.len() as u64);
        if let Err(error) = result {
            println!("backend: grants of domain {} stay mapped: {error}", self.domain);
        }
        for entry in entries.iter().filter(|entry| entry.status != 0) {
            println!(
                "backend: a grant of domain {} stays mapped: status {}",
                self.domain, entry.status
            );
        }
    }
}

impl Granter for XenGranter {
    type Pages = XenPages;

    fn map_from(&self) -> usize {
        self.map_from
    }

    fn map(&self, references: &[GrantReference], writable: bool) -> Result<XenPages, GrantError> {
        let error = GrantError(references.first().copied().unwrap_or_default());
        let at = self.take_room(references.len()).ok_or(error)?;
        let access = if writable { 0 } else { grant::READ_ONLY };
        let mut entries = Vec::<MapGrantRef, BATCH>::new();
        for (reference, page) in references.iter().zip(0..) {
            // There is room.
            let _ = entries.push(MapGrantRef {
                host_addr: at + page * PAGE,
                flags: grant::HOST_MAP | access,
                reference: reference.0,
                dom: self.domain,
                status: -1,
                ..Default::default()
            });
        }
        // SAFETY: the pages are this granter's room, and hold nothing that Rust knows of.
        let result = unsafe { grant::map(&mut entries) };
        let failed = entries.iter().position(|entry| entry.status != 0);
        if result.is_ok() && failed.is_none() {
            self.count(|counts| {
                counts.maps += entries.len() as u64;
                counts.mapped_now += entries.len() as u64;
            });
            let handles = entries.iter().map(|entry| entry.handle).collect();
            return Ok(XenPages { at, handles });
        }
        for (entry, page) in entries.iter().zip(0..).filter(|(entry, _)| entry.status == 0) {
            self.count(|counts| counts.mapped_now += 1);
            self.unmap_handles(at + page * PAGE, &[entry.handle]);
        }
        self.return_room(at);
        Err(failed
            .and_then(|index| references.get(index))
            .map_or(error, |reference| GrantError(*reference)))
    }

    fn unmap(&self, pages: XenPages) {
        self.unmap_handles(pages.at, &pages.handles);
        self.return_room(pages.at);
    }

    fn copy_from(&self, from: &[GrantedBytes], into: &mut [u8]) -> Result<(), GrantError> {
        let mut local = into.as_mut_ptr() as u64;
        let parts = from.iter().map(|bytes| {
            let here = local;
            local += u64::from(bytes.length);
            (*bytes, here)
        });
        // SAFETY: the library's slice is as long as all parts.
        unsafe { self.copy_parts(parts, false) }
    }

    fn copy_to(&self, parts: &[GrantedPart<'_>]) -> Result<(), GrantError> {
        fate::step();
        let parts = parts.iter().map(|part| (part.to, part.bytes.as_ptr() as u64));
        // SAFETY: the library's slices are as long as their parts; they are only read.
        unsafe { self.copy_parts(parts, true) }
    }
}

impl XenPages {
    fn at(&self, offset: usize, length: usize) -> *mut u8 {
        let end = offset.checked_add(length);
        assert!(end.is_some_and(|end| end <= self.handles.len() * PAGE_SIZE));
        (self.at + offset as u64) as *mut u8
    }

    fn word(&self, offset: usize) -> &AtomicU16 {
        assert!(offset.is_multiple_of(2));
        // SAFETY: aligned, and mapped as long as `self` lives: only `Granter::unmap`, which takes it, unmaps it.
        unsafe { AtomicU16::from_ptr(self.at(offset, 2).cast()) }
    }
}

impl GrantedPages for XenPages {
    fn read(&self, offset: usize, into: &mut [u8]) {
        // SAFETY: so many bytes are mapped there; the slice is this domain's own.
        unsafe { copy(into.as_mut_ptr(), self.at(offset, into.len()), into.len()) };
    }
    fn write(&self, offset: usize, from: &[u8]) {
        fate::step();
        // SAFETY: so many bytes are mapped there, which Rust knows nothing of.
        unsafe { copy(self.at(offset, from.len()), from.as_ptr(), from.len()) };
    }
    fn load_acquire_u16(&self, offset: usize) -> u16 {
        u16::from_le(self.word(offset).load(Ordering::Acquire))
    }
    fn store_release_u16(&self, offset: usize, value: u16) {
        fate::step();
        self.word(offset).store(value.to_le(), Ordering::Release);
    }
}
