//! Guest memory that a driver grants page by page (Xen's grant references), instead of opening all of it.
//!
//! A driver that grants names its buffers by addresses whose bit 63 is set: bits 62 to 12 are the reference of the first
//! page, the low twelve the offset in it, and buffers of several pages have consecutive references. The driver ends a
//! grant when the request is answered, and gives its device up if the page is still mapped then. So:
//!
//! * rings stay mapped from when the queue is first used until the driver stops it;
//! * a request's buffers are mapped within one call of [`GuestMemory`] at most, so none is mapped when the request is
//!   answered: what is small the hypervisor copies by reference, what is large is mapped, copied and unmapped, each by one
//!   call for many pages ([`Granter::map_from`]);
//! * an address without bit 63 is no memory at all.

use core::cell::RefCell;

use heapless::Vec;

use crate::memory::{GuestAddress, GuestMemory, MemoryError, Part, Piece, RingArea};
use crate::mmio::MAX_QUEUES;

/// Bytes that one reference stands for.
pub const PAGE_SIZE: usize = 4096;
/// Parts of pages that are mapped or copied at a time at most.
pub const BATCH: usize = 64;
/// Rings that can be held at a time: those of one device.
pub const RINGS: usize = 3 * MAX_QUEUES;

const GRANTED: u64 = 1 << 63;

/// The name of a page that a guest grants.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct GrantReference(pub u32);

/// Bytes within one granted page.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct GrantedBytes {
    /// The page.
    pub reference: GrantReference,
    /// The first byte in it.
    pub offset: u16,
    /// How many; not beyond the end of the page.
    pub length: u16,
}

/// Bytes for a part of a granted page.
#[derive(Copy, Clone, Debug)]
pub struct GrantedPart<'a> {
    /// Where they go.
    pub to: GrantedBytes,
    /// As many bytes.
    pub bytes: &'a [u8],
}

/// A page is not granted, not for this, or not any more; or there is no room for it.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("grant {} can't be used", .0.0)]
pub struct GrantError(pub GrantReference);

/// What a hypervisor does with pages that one guest grants.
pub trait Granter {
    /// Pages that are mapped, one behind the other.
    type Pages: GrantedPages;

    /// Requests of so many bytes and more are mapped, smaller ones copied by the hypervisor: whichever costs less.
    fn map_from(&self) -> usize;
    /// Maps `references`, at most [`BATCH`]: all or none.
    fn map(&self, references: &[GrantReference], writable: bool) -> Result<Self::Pages, GrantError>;
    /// Gives pages back: when this returns, nothing of them is mapped any more.
    fn unmap(&self, pages: Self::Pages);
    /// Copies `from`, at most [`BATCH`], one after the other into `into`, which is as long as all of them.
    fn copy_from(&self, from: &[GrantedBytes], into: &mut [u8]) -> Result<(), GrantError>;
    /// Copies each of `parts`, at most [`BATCH`], to its place.
    fn copy_to(&self, parts: &[GrantedPart<'_>]) -> Result<(), GrantError>;
}

/// Pages that are mapped. Their owner may change any byte at any time.
///
/// Callers keep offsets and lengths within the pages, and words aligned; implementations may panic otherwise.
pub trait GrantedPages {
    /// Copies out of them.
    fn read(&self, offset: usize, into: &mut [u8]);
    /// Copies into them.
    fn write(&self, offset: usize, from: &[u8]);
    /// As [`GuestMemory::load_acquire_u16`].
    fn load_acquire_u16(&self, offset: usize) -> u16;
    /// As [`GuestMemory::store_release_u16`].
    fn store_release_u16(&self, offset: usize, value: u16);
}

/// Addresses of buffers that a driver has named, and how many of them are grants.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct AddressCounts {
    /// Of descriptors.
    pub descriptors: u64,
    /// Of descriptors whose bit 63 was set.
    pub granted: u64,
}

impl AddressCounts {
    pub(crate) fn add(&mut self, address: u64) {
        self.descriptors += 1;
        self.granted += address >> 63;
    }
    pub(crate) fn add_all(&mut self, others: Self) {
        self.descriptors += others.descriptors;
        self.granted += others.granted;
    }
}

/// A ring that stays mapped.
#[derive(Debug)]
struct Held<P> {
    ring: RingArea,
    pages: P,
}

/// The memory that one device's driver grants.
#[derive(Debug)]
pub struct GrantMemory<G: Granter> {
    granter: G,
    rings: RefCell<Vec<Held<G::Pages>, RINGS>>,
}

/// The page of an address, and the offset in it.
fn page(at: GuestAddress) -> Result<(GrantReference, usize), MemoryError> {
    let page = (at.0 & !GRANTED) >> 12;
    match u32::try_from(page) {
        Ok(reference) if at.0 & GRANTED != 0 => Ok((GrantReference(reference), at.0 as usize % PAGE_SIZE)),
        _ => Err(MemoryError(at)),
    }
}

/// A piece cut at its pages' ends.
struct Cut {
    address: u64,
    left: usize,
}

impl Iterator for Cut {
    type Item = Result<GrantedBytes, MemoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let at = GuestAddress(self.address);
        let bytes = page(at).map(|(reference, offset)| {
            let length = (PAGE_SIZE - offset).min(self.left);
            self.left -= length;
            // Bit 63 is lost beyond the last reference, and then the next page is none.
            self.address = self.address.wrapping_add(length as u64);
            GrantedBytes {
                reference,
                offset: offset as u16,
                length: length as u16,
            }
        });
        if bytes.is_err() {
            self.left = 0;
        }
        Some(bytes)
    }
}

impl From<Piece> for Cut {
    fn from(piece: Piece) -> Self {
        Self {
            address: piece.address.0,
            left: piece.length,
        }
    }
}

/// Puts `items` into batches of up to [`BATCH`] and calls `each` with every batch.
fn batches<T>(
    items: impl Iterator<Item = Result<T, MemoryError>>,
    mut each: impl FnMut(&[T]) -> Result<(), MemoryError>,
) -> Result<(), MemoryError> {
    let mut batch = Vec::<T, BATCH>::new();
    for item in items {
        if batch.is_full() {
            each(&batch)?;
            batch.clear();
        }
        // There is room.
        let _ = batch.push(item?);
    }
    if batch.is_empty() { Ok(()) } else { each(&batch) }
}

fn refused(GrantError(reference): GrantError) -> MemoryError {
    MemoryError(GuestAddress(GRANTED | u64::from(reference.0) << 12))
}

impl<G: Granter> GrantMemory<G> {
    /// Nothing is mapped yet.
    pub fn new(granter: G) -> Self {
        Self {
            granter,
            rings: RefCell::new(Vec::new()),
        }
    }

    /// How it is had.
    pub fn granter(&self) -> &G {
        &self.granter
    }

    /// Rings that are mapped now.
    pub fn held(&self) -> usize {
        self.rings.borrow().len()
    }

    /// Calls `with` with the pages of the ring that has `length` bytes at `at`, and the offset in them.
    fn in_ring<R>(
        &self,
        at: GuestAddress,
        length: usize,
        write: bool,
        with: impl FnOnce(&G::Pages, usize) -> R,
    ) -> Option<R> {
        let rings = self.rings.borrow();
        let (held, place) = rings.iter().find_map(|held| {
            let place = at.0.checked_sub(held.ring.address.0)?;
            let end = place.checked_add(length as u64)?;
            let inside = end <= u64::from(held.ring.length) && (held.ring.writable || !write);
            inside.then_some((held, place as usize))
        })?;
        Some(with(&held.pages, held.ring.address.0 as usize % PAGE_SIZE + place))
    }

    /// Maps the pages of `batch`, lets `with` copy each of them from or to an offset in the mapped pages, and gives them back.
    fn mapped<T>(
        &self,
        batch: &[T],
        place: impl Fn(&T) -> GrantedBytes,
        writable: bool,
        mut with: impl FnMut(&G::Pages, usize, &T),
    ) -> Result<(), MemoryError> {
        let references: Vec<GrantReference, BATCH> = batch.iter().map(|item| place(item).reference).collect();
        let pages = self.granter.map(&references, writable).map_err(refused)?;
        for (index, item) in batch.iter().enumerate() {
            with(&pages, index * PAGE_SIZE + usize::from(place(item).offset), item);
        }
        self.granter.unmap(pages);
        Ok(())
    }
}

impl<G: Granter> GuestMemory for GrantMemory<G> {
    fn read(&self, at: GuestAddress, into: &mut [u8]) -> Result<(), MemoryError> {
        let length = into.len();
        if self
            .in_ring(at, length, false, |pages, place| pages.read(place, into))
            .is_some()
        {
            return Ok(());
        }
        self.gather(core::iter::once(Piece { address: at, length }), into)
    }
    fn write(&self, at: GuestAddress, from: &[u8]) -> Result<(), MemoryError> {
        let length = from.len();
        if self
            .in_ring(at, length, true, |pages, place| pages.write(place, from))
            .is_some()
        {
            return Ok(());
        }
        self.scatter(core::iter::once(Part { to: at, bytes: from }))
    }
    fn load_acquire_u16(&self, at: GuestAddress) -> Result<u16, MemoryError> {
        let word = at.0.is_multiple_of(2);
        let loaded = word.then(|| self.in_ring(at, 2, false, |pages, place| pages.load_acquire_u16(place)));
        loaded.flatten().ok_or(MemoryError(at))
    }
    fn store_release_u16(&self, at: GuestAddress, value: u16) -> Result<(), MemoryError> {
        let word = at.0.is_multiple_of(2);
        let stored = word.then(|| self.in_ring(at, 2, true, |pages, place| pages.store_release_u16(place, value)));
        stored.flatten().ok_or(MemoryError(at))
    }
    fn gather(&self, pieces: impl Iterator<Item = Piece>, mut into: &mut [u8]) -> Result<(), MemoryError> {
        let copies = into.len() < self.granter.map_from();
        batches(pieces.flat_map(Cut::from), |batch| {
            let length = batch.iter().map(|bytes| usize::from(bytes.length)).sum();
            let (mut part, rest) = core::mem::take(&mut into)
                .split_at_mut_checked(length)
                .unwrap_or_default();
            into = rest;
            if copies {
                return self.granter.copy_from(batch, part).map_err(refused);
            }
            self.mapped(
                batch,
                |bytes| *bytes,
                false,
                |pages, place, bytes| {
                    let length = usize::from(bytes.length);
                    let (now, later) = core::mem::take(&mut part)
                        .split_at_mut_checked(length)
                        .unwrap_or_default();
                    pages.read(place, now);
                    part = later;
                },
            )
        })
    }
    fn scatter<'a>(&self, parts: impl Iterator<Item = Part<'a>>) -> Result<(), MemoryError> {
        // The first part says how large the request is: what follows the data is its status.
        let mut parts = parts.peekable();
        let copies = parts
            .peek()
            .is_none_or(|part| part.bytes.len() < self.granter.map_from());
        let cut = parts.flat_map(|part| {
            let mut rest = part.bytes;
            let piece = Piece {
                address: part.to,
                length: rest.len(),
            };
            Cut::from(piece).map(move |to| {
                let to = to?;
                let (bytes, after) = rest.split_at_checked(to.length.into()).unwrap_or_default();
                rest = after;
                Ok(GrantedPart { to, bytes })
            })
        });
        batches(cut, |batch| {
            if copies {
                return self.granter.copy_to(batch).map_err(refused);
            }
            self.mapped(
                batch,
                |part| part.to,
                true,
                |pages, place, part| pages.write(place, part.bytes),
            )
        })
    }
    fn is_far(&self) -> bool {
        true
    }
    fn hold(&self, ring: RingArea) -> Result<(), MemoryError> {
        let error = MemoryError(ring.address);
        let mut rings = self.rings.borrow_mut();
        if rings.is_full() {
            return Err(error);
        }
        let mut references = Vec::<GrantReference, BATCH>::new();
        let whole = Piece {
            address: ring.address,
            length: ring.length as usize,
        };
        for bytes in Cut::from(whole) {
            references.push(bytes?.reference).map_err(|_| error)?;
        }
        let pages = self.granter.map(&references, ring.writable).map_err(refused)?;
        // There is room.
        let _ = rings.push(Held { ring, pages });
        Ok(())
    }
    fn release(&self, ring: RingArea) {
        let mut rings = self.rings.borrow_mut();
        if let Some(index) = rings.iter().position(|held| held.ring == ring) {
            self.granter.unmap(rings.swap_remove(index).pages);
        }
    }
}
