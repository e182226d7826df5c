//! A guest's RAM, all of it or a window, as this domain sees it: mapped in chunks of 2 MiB when they are first touched. Where the
//! manifest lets less be mapped at once, it is dropped and mapped page by page, as requests go.

use core::cell::Cell;
use core::sync::atomic::{AtomicU16, Ordering};

use alloc::vec::Vec;
use core::ops::Range;

use guest_runtime::copy::copy;
use guest_runtime::hypercall::memory::{map_foreign, remove};
use guest_runtime::window::{CHUNK, NoRoom, Window};
use portunus::abi::HypercallError;
use portunus::abi::hypercall::from_register;
use portunus_virtio::memory::{GuestAddress, GuestMemory, MemoryError};

use crate::fate;

const PAGE: u64 = 4096;
const CHUNK_PAGES: usize = (CHUNK / PAGE) as usize;

/// 2 MiB of a guest's RAM.
#[derive(Debug, Default)]
struct Chunk {
    /// All of it is mapped.
    whole: Cell<bool>,
    /// Mapping all of it was tried.
    tried: Cell<bool>,
    /// A bit for each page that is mapped.
    mapped: [Cell<u64>; CHUNK_PAGES / u64::BITS as usize],
}

impl Chunk {
    fn is_mapped(&self, page: usize) -> bool {
        let word = self.mapped.get(page / u64::BITS as usize);
        word.is_some_and(|word| word.get() >> (page % u64::BITS as usize) & 1 != 0)
    }

    fn set_mapped(&self, page: usize) {
        if let Some(word) = self.mapped.get(page / u64::BITS as usize) {
            word.update(|bits| bits | 1 << (page % u64::BITS as usize));
        }
    }

    /// Forgets all; calls `each` with every page that was mapped.
    fn take(&self, mut each: impl FnMut(usize)) {
        self.whole.set(false);
        self.tried.set(false);
        for (index, word) in self.mapped.iter().enumerate() {
            let mut bits = word.take();
            while bits != 0 {
                each(index * u64::BITS as usize + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }
}

#[derive(Debug)]
struct Bank {
    /// Guest-physical addresses.
    guest: Range<u64>,
    /// Where the first byte is in this domain.
    window: u64,
    chunks: Vec<Chunk>,
}

/// No more pages may be mapped at once.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
struct Exhausted;

/// RAM of one guest.
#[derive(Debug)]
pub(crate) struct GuestRam {
    domain: u16,
    banks: Vec<Bank>,
    /// How often a page was mapped.
    mapped_pages: Cell<u64>,
    /// The hypervisor maps no more pages than there are: what is not needed now goes, and pages are mapped one by one.
    sparing: Cell<bool>,
    /// How often all was dropped for that reason.
    drops: Cell<u64>,
}

impl GuestRam {
    /// Room for all of `memory` of `domain`; nothing is mapped yet.
    pub(crate) fn new(domain: u16, memory: &[Range<u64>], window: &mut Window) -> Result<Self, NoRoom> {
        let banks = memory.iter().map(|guest| {
            let bytes = guest.end - guest.start;
            let chunks = usize::try_from(bytes.div_ceil(CHUNK)).map_err(|_| NoRoom { bytes })?;
            Ok(Bank {
                guest: guest.clone(),
                window: window.take(bytes)?,
                chunks: (0..chunks).map(|_| Chunk::default()).collect(),
            })
        });
        Ok(Self {
            domain,
            banks: banks.collect::<Result<_, _>>()?,
            mapped_pages: Cell::new(0),
            sparing: Cell::new(false),
            drops: Cell::new(0),
        })
    }

    /// How often a page was mapped.
    pub(crate) fn mapped_pages(&self) -> u64 {
        self.mapped_pages.get()
    }

    /// How often all was dropped because no more may be mapped at once.
    pub(crate) fn drops(&self) -> u64 {
        self.drops.get()
    }

    /// Drops every mapping: the guest's map has changed.
    pub(crate) fn invalidate(&self) {
        for bank in &self.banks {
            for (index, chunk) in bank.chunks.iter().enumerate() {
                let first = bank.window / PAGE + (index * CHUNK_PAGES) as u64;
                chunk.take(|page| {
                    // SAFETY: only `at` gives out addresses in the window, for the time of one copy.
                    let _ = unsafe { remove(first + page as u64) };
                });
            }
        }
    }

    /// Maps `count` pages of a chunk from page `first` on; false if no more may be mapped at once.
    fn map(&self, bank: &Bank, index: usize, chunk: &Chunk, first: usize, count: usize) -> bool {
        let mut from = [0; CHUNK_PAGES];
        let mut to = [0; CHUNK_PAGES];
        let mut errors = [0; CHUNK_PAGES];
        let offset = (index * CHUNK_PAGES + first) as u64;
        for (page, (from, to)) in from.iter_mut().zip(&mut to).take(count).enumerate() {
            *from = bank.guest.start / PAGE + offset + page as u64;
            *to = bank.window / PAGE + offset + page as u64;
        }
        // SAFETY: these frames of the window are this bank's and hold nothing that Rust knows of.
        let result = unsafe { map_foreign(self.domain, &from[..count], &to[..count], &mut errors[..count]) };
        let mut room = true;
        for (page, error) in errors.iter().take(count).enumerate() {
            if result.is_ok() && *error == 0 {
                chunk.set_mapped(first + page);
                self.mapped_pages.update(|pages| pages + 1);
            }
            room &= from_register(i64::from(*error) as u64) != Err(HypercallError::NoSpace);
        }
        room
    }

    /// Maps the chunk, or what is missing of it; true if page `page` of it is there afterwards.
    #[cold]
    fn map_missing(&self, bank: &Bank, index: usize, page: usize) -> Result<bool, Exhausted> {
        let Some(chunk) = bank.chunks.get(index) else {
            return Ok(false);
        };
        if !self.sparing.get() && !chunk.tried.replace(true) {
            let pages = (bank.guest.end - bank.guest.start) / PAGE - (index * CHUNK_PAGES) as u64;
            let count = pages.min(CHUNK_PAGES as u64) as usize;
            let room = self.map(bank, index, chunk, 0, count);
            chunk.whole.set((0..count).all(|page| chunk.is_mapped(page)));
            if !room && !chunk.is_mapped(page) {
                return Err(Exhausted);
            }
        }
        if chunk.is_mapped(page) || self.map(bank, index, chunk, page, 1) {
            return Ok(chunk.is_mapped(page));
        }
        Err(Exhausted)
    }

    /// Maps what is missing of so many bytes of a bank.
    fn map_range(&self, bank: &Bank, offset: u64, length: u64) -> Result<bool, Exhausted> {
        let mut at = offset & !(PAGE - 1);
        while at < offset + length {
            let index = (at / CHUNK) as usize;
            if bank.chunks.get(index).is_some_and(|chunk| chunk.whole.get()) {
                at = (at / CHUNK + 1) * CHUNK;
                continue;
            }
            if !self.map_missing(bank, index, (at % CHUNK / PAGE) as usize)? {
                return Ok(false);
            }
            at += PAGE;
        }
        Ok(true)
    }

    /// Maps what is missing of so many bytes of a bank, if need be in the place of all else.
    #[cold]
    fn make_there(&self, bank: &Bank, offset: u64, length: u64) -> Option<()> {
        let mut mapped = self.map_range(bank, offset, length);
        if mapped.is_err() {
            self.sparing.set(true);
            self.drops.update(|drops| drops + 1);
            self.invalidate();
            mapped = self.map_range(bank, offset, length);
        }
        (mapped == Ok(true)).then_some(())
    }

    /// Where `length` bytes at `address` are in this domain, mapped.
    fn at(&self, address: GuestAddress, length: usize) -> Result<*mut u8, MemoryError> {
        let error = MemoryError(address);
        let end = address.0.checked_add(length as u64).ok_or(error)?;
        let inside = |bank: &&Bank| bank.guest.start <= address.0 && end <= bank.guest.end;
        let bank = self.banks.iter().find(inside).ok_or(error)?;
        let offset = address.0 - bank.guest.start;
        let first = offset / CHUNK;
        let last = (offset + length as u64).saturating_sub(1) / CHUNK;
        let whole = |chunk: &Chunk| chunk.whole.get();
        if first != last || !bank.chunks.get(first as usize).is_some_and(whole) {
            self.make_there(bank, offset, length as u64).ok_or(error)?;
        }
        Ok((bank.window + offset) as *mut u8)
    }
}

impl GuestMemory for GuestRam {
    fn read(&self, at: GuestAddress, into: &mut [u8]) -> Result<(), MemoryError> {
        let Some(from) = self.at_once(at, into.len())? else {
            return self.each_page(at, into.len(), |page, from| {
                if let Some(into) = into.get_mut(page) {
                    // SAFETY: as below.
                    unsafe { copy(into.as_mut_ptr(), from, into.len()) };
                }
            });
        };
        // SAFETY: so many bytes of guest RAM are mapped there; the slice is this domain's own.
        unsafe { copy(into.as_mut_ptr(), from, into.len()) };
        Ok(())
    }
    fn write(&self, at: GuestAddress, from: &[u8]) -> Result<(), MemoryError> {
        fate::step();
        let Some(to) = self.at_once(at, from.len())? else {
            return self.each_page(at, from.len(), |page, to| {
                if let Some(from) = from.get(page) {
                    // SAFETY: as below.
                    unsafe { copy(to, from.as_ptr(), from.len()) };
                }
            });
        };
        // SAFETY: so many bytes of guest RAM are mapped there, which Rust knows nothing of.
        unsafe { copy(to, from.as_ptr(), from.len()) };
        Ok(())
    }
    fn load_acquire_u16(&self, at: GuestAddress) -> Result<u16, MemoryError> {
        Ok(u16::from_le(self.word(at)?.load(Ordering::Acquire)))
    }
    fn store_release_u16(&self, at: GuestAddress, value: u16) -> Result<(), MemoryError> {
        fate::step();
        self.word(at)?.store(value.to_le(), Ordering::Release);
        Ok(())
    }
}

impl GuestRam {
    /// Where all of an access is mapped; `None` if it is to go page by page, because few may be mapped at once.
    #[inline]
    fn at_once(&self, at: GuestAddress, length: usize) -> Result<Option<*mut u8>, MemoryError> {
        if self.sparing.get() {
            return Ok(None);
        }
        match self.at(at, length) {
            Err(_) if self.sparing.get() => Ok(None),
            mapped => mapped.map(Some),
        }
    }

    /// Calls `each` with the bytes of an access in each page, and where they are mapped while it runs.
    #[cold]
    fn each_page(
        &self,
        at: GuestAddress,
        length: usize,
        mut each: impl FnMut(Range<usize>, *mut u8),
    ) -> Result<(), MemoryError> {
        let mut done = 0;
        while done < length {
            let at = GuestAddress(at.0.checked_add(done as u64).ok_or(MemoryError(at))?);
            let run = (length - done).min((PAGE - at.0 % PAGE) as usize);
            each(done..done + run, self.at(at, run)?);
            done += run;
        }
        Ok(())
    }

    fn word(&self, at: GuestAddress) -> Result<&AtomicU16, MemoryError> {
        if !at.0.is_multiple_of(2) {
            return Err(MemoryError(at));
        }
        let word = self.at(at, 2)?.cast();
        // SAFETY: aligned, mapped, and stays mapped as long as `self` is borrowed by the caller's one access.
        Ok(unsafe { AtomicU16::from_ptr(word) })
    }
}
