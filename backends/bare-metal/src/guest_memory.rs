//! A guest's RAM, all of it or a window, as this domain sees it: mapped in chunks of 2 MiB when they are first touched.

use core::cell::{Cell, RefCell};
use core::sync::atomic::{AtomicU16, Ordering};

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use guest_runtime::copy::copy;
use guest_runtime::hypercall::memory::{map_foreign, remove};
use guest_runtime::window::{CHUNK, NoRoom, Window};
use portunus_virtio::memory::{GuestAddress, GuestMemory, MemoryError};

use crate::fate;

const PAGE: u64 = 4096;
const CHUNK_PAGES: usize = (CHUNK / PAGE) as usize;

#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Chunk {
    Absent,
    Mapped,
    /// Some pages were refused: those are in `GuestRam::refused`.
    Partial,
}

#[derive(Debug)]
struct Bank {
    /// Guest-physical addresses.
    guest: Range<u64>,
    /// Where the first byte is in this domain.
    window: u64,
    chunks: Vec<Cell<Chunk>>,
}

/// RAM of one guest.
#[derive(Debug)]
pub(crate) struct GuestRam {
    domain: u16,
    banks: Vec<Bank>,
    /// Guest frames that the hypervisor would not map.
    refused: RefCell<BTreeSet<u64>>,
    /// How often a page was mapped.
    mapped_pages: Cell<u64>,
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
                chunks: vec![Cell::new(Chunk::Absent); chunks],
            })
        });
        Ok(Self {
            domain,
            banks: banks.collect::<Result<_, _>>()?,
            refused: RefCell::new(BTreeSet::new()),
            mapped_pages: Cell::new(0),
        })
    }

    /// How often a page was mapped.
    pub(crate) fn mapped_pages(&self) -> u64 {
        self.mapped_pages.get()
    }

    /// Drops every mapping: the guest's map has changed.
    pub(crate) fn invalidate(&self) {
        for bank in &self.banks {
            for (index, chunk) in bank.chunks.iter().enumerate() {
                if chunk.replace(Chunk::Absent) == Chunk::Absent {
                    continue;
                }
                let first = bank.window / PAGE + (index * CHUNK_PAGES) as u64;
                for frame in first..first + CHUNK_PAGES as u64 {
                    // SAFETY: only `at` gives out addresses in the window, for the time of one copy. A frame that was
                    // never mapped is an error that changes nothing.
                    let _ = unsafe { remove(frame) };
                }
            }
        }
        self.refused.borrow_mut().clear();
    }

    /// Maps frames `first..first + count` of a bank, counted from its start; true if all went well.
    fn map(&self, bank: &Bank, first: u64, count: usize) -> bool {
        let mut from = [0; CHUNK_PAGES];
        let mut to = [0; CHUNK_PAGES];
        let mut errors = [0; CHUNK_PAGES];
        for (index, (from, to)) in from.iter_mut().zip(&mut to).take(count).enumerate() {
            *from = bank.guest.start / PAGE + first + index as u64;
            *to = bank.window / PAGE + first + index as u64;
        }
        // SAFETY: these frames of the window are this bank's and hold nothing that Rust knows of.
        let result = unsafe { map_foreign(self.domain, &from[..count], &to[..count], &mut errors[..count]) };
        let mut refused = self.refused.borrow_mut();
        let mut complete = true;
        for (frame, error) in from.iter().zip(errors).take(count) {
            if result.is_ok() && error == 0 {
                refused.remove(frame);
                self.mapped_pages.update(|pages| pages + 1);
            } else {
                refused.insert(*frame);
                complete = false;
            }
        }
        complete
    }

    /// Maps the chunk, or what was refused of it, again; true if page `page` of the bank is there afterwards.
    #[cold]
    fn map_missing(&self, bank: &Bank, index: usize, page: u64) -> bool {
        let Some(chunk) = bank.chunks.get(index) else {
            return false;
        };
        if chunk.get() == Chunk::Absent {
            let first = (index * CHUNK_PAGES) as u64;
            let pages = (bank.guest.end - bank.guest.start) / PAGE - first;
            let count = pages.min(CHUNK_PAGES as u64) as usize;
            let complete = self.map(bank, first, count);
            chunk.set(if complete { Chunk::Mapped } else { Chunk::Partial });
        }
        let frame = bank.guest.start / PAGE + page;
        let refused = self.refused.borrow().contains(&frame);
        !refused || self.map(bank, page, 1)
    }

    /// Where `length` bytes at `address` are in this domain, mapped.
    fn at(&self, address: GuestAddress, length: usize) -> Result<*mut u8, MemoryError> {
        let error = MemoryError(address);
        let end = address.0.checked_add(length as u64).ok_or(error)?;
        let inside = |bank: &&Bank| bank.guest.start <= address.0 && end <= bank.guest.end;
        let bank = self.banks.iter().find(inside).ok_or(error)?;
        let offset = address.0 - bank.guest.start;
        let mut at = offset & !(PAGE - 1);
        while at < offset + length as u64 {
            let index = (at / CHUNK) as usize;
            if bank.chunks.get(index).is_some_and(|chunk| chunk.get() == Chunk::Mapped) {
                at = (at / CHUNK + 1) * CHUNK;
                continue;
            }
            if !self.map_missing(bank, index, at / PAGE) {
                return Err(error);
            }
            at += PAGE;
        }
        Ok((bank.window + offset) as *mut u8)
    }
}

impl GuestMemory for GuestRam {
    fn read(&self, at: GuestAddress, into: &mut [u8]) -> Result<(), MemoryError> {
        let from = self.at(at, into.len())?;
        // SAFETY: `at` says that so many bytes of guest RAM are mapped there; the slice is this domain's own.
        unsafe { copy(into.as_mut_ptr(), from, into.len()) };
        Ok(())
    }
    fn write(&self, at: GuestAddress, from: &[u8]) -> Result<(), MemoryError> {
        fate::step();
        let to = self.at(at, from.len())?;
        // SAFETY: `at` says that so many bytes of guest RAM are mapped there, which Rust knows nothing of.
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
    fn word(&self, at: GuestAddress) -> Result<&AtomicU16, MemoryError> {
        if !at.0.is_multiple_of(2) {
            return Err(MemoryError(at));
        }
        let word = self.at(at, 2)?.cast();
        // SAFETY: aligned, mapped, and stays mapped as long as `self` is borrowed by the caller's one access.
        Ok(unsafe { AtomicU16::from_ptr(word) })
    }
}
