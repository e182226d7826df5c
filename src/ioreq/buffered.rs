//! Buffered ranges: writes that are posted into the server's page instead of waiting for it.
//!
//! The page is Xen's `buffered_iopage`: two pointers that only grow, 511 slots. The hypervisor alone advances the write
//! pointer, the server alone the read pointer, by atomic additions. The hypervisor takes multiples of 511 from both at
//! once before they can overflow. The server can write anything there at any time: pointers that can't be are refused,
//! and a slot's place is computed modulo 511 from one reading, so nothing is written outside of the page.

use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};

use super::ranges::Range;
use crate::abi::HypercallError;
use crate::abi::dm_op::{BUFFERED_REACH, MAX_BUFFERED_RANGES, MAX_SERVERS};
use crate::abi::ioreq::{BUFFERED_FIRST_SLOT, BUFFERED_SLOTS, BUFFERED_WRITE_POINTER, BufferedIoreq, TYPE_COPY};
use crate::access::AccessWidth;
use crate::ids::{Ipa, PAGE_SIZE, Pa, ServerId};
use crate::memory::PhysicalMemory;
use crate::memory::atomic::try_update;

const SLOTS: u32 = BUFFERED_SLOTS as u32;
/// The bits of the address that a slot keeps.
const ADDRESS_MASK: u64 = BUFFERED_REACH - 1;

/// Why a write was not posted: it is made synchronously then.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RingError {
    /// The server has not taken enough of what is there.
    #[error("{0} slots of the ring are in use")]
    Full(u32),
    /// The pointers are further apart than the ring is long.
    #[error("the ring is read at {read} and written at {write}")]
    BadPointers {
        /// The read pointer.
        read: u32,
        /// The write pointer.
        write: u32,
    },
}

/// A server's buffered page.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct BufferedPage(pub Pa);

/// Both pointers, from one word.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
struct Pointers {
    read: u32,
    write: u32,
}

impl Pointers {
    const fn from_word(word: u64) -> Self {
        Self {
            read: word as u32,
            write: (word >> 32) as u32,
        }
    }

    const fn word(self) -> u64 {
        (self.write as u64) << 32 | self.read as u64
    }

    const fn used(self) -> u32 {
        self.write.wrapping_sub(self.read)
    }

    /// The same place with the smallest numbers.
    const fn canonical(self) -> Self {
        let turns = self.read / SLOTS * SLOTS;
        Self {
            read: self.read - turns,
            write: self.write.wrapping_sub(turns),
        }
    }
}

impl BufferedPage {
    fn slot(self, index: u32) -> Pa {
        Pa(self.0.0 + BUFFERED_FIRST_SLOT + u64::from(index % SLOTS) * size_of::<BufferedIoreq>() as u64)
    }

    /// Posts a write. `Ok(true)`: the server may have found the ring empty and must be notified.
    ///
    /// The caller is the only one who posts to this page.
    ///
    /// # Errors
    /// [`RingError`]; nothing is written.
    pub fn post<M: PhysicalMemory + ?Sized>(
        self,
        memory: &M,
        ipa: Ipa,
        width: AccessWidth,
        value: u64,
    ) -> Result<bool, RingError> {
        let pointers = Pointers::from_word(memory.load_u64(self.0));
        let Pointers { read, write } = pointers;
        let used = pointers.used();
        let wanted = if width == AccessWidth::Doubleword { 2 } else { 1 };
        if used > SLOTS {
            return Err(RingError::BadPointers { read, write });
        }
        if SLOTS - used < wanted {
            return Err(RingError::Full(used));
        }
        let head = u32::from(TYPE_COPY) | (width as u32) << 10 | ((ipa.0 & ADDRESS_MASK) as u32) << 12;
        let slot = |data: u64| data << 32 | u64::from(head);
        memory.store_u64(self.slot(write), slot(value & width.mask()));
        let mut next = write.wrapping_add(1);
        if wanted == 2 {
            memory.store_u64(self.slot(next), slot(value >> 32));
            next = next.wrapping_add(1);
        }
        memory.store_u32(Pa(self.0.0 + BUFFERED_WRITE_POINTER), next);
        // Either the server sees this write pointer after it has advanced its own, or this sees that it has.
        fence(Ordering::SeqCst);
        let now = memory.load_u32(self.0);
        if now >= SLOTS {
            // What fails is done by the next write.
            let _ = try_update(memory, self.0, |word| Pointers::from_word(word).canonical().word());
        }
        Ok(now == write)
    }

    /// Makes both pointers zero if they can't be.
    pub fn repair<M: PhysicalMemory + ?Sized>(self, memory: &M) {
        if Pointers::from_word(memory.load_u64(self.0)).used() > SLOTS {
            memory.store_u64(self.0, 0);
        }
    }

    /// Drops what the server has not taken; pointers that can't be are made good.
    pub fn discard<M: PhysicalMemory + ?Sized>(self, memory: &M) {
        // A server that fights for the word keeps what it makes of it.
        let _ = try_update(memory, self.0, |word| {
            let Pointers { read, .. } = Pointers::from_word(word);
            Pointers { read, write: read }.canonical().word()
        });
    }
}

/// Pages that follow each other have different bits.
#[inline(always)]
pub(super) const fn page_bit(ipa: Ipa) -> u64 {
    1 << (ipa.0 / PAGE_SIZE % 64)
}

/// Writes to these addresses are posted.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct BufferedRange {
    pub(super) range: Range,
    pub(super) server: ServerId,
    pub(super) write_only: bool,
}

/// Whether two ranges have addresses whose lowest 20 bits are the same.
fn collide(one: Range, other: Range) -> bool {
    // Where `other` begins after `one`, and the other way round, in a world of 1 MiB that is a circle.
    let after = other.start().wrapping_sub(one.start()) & ADDRESS_MASK;
    let before = one.start().wrapping_sub(other.start()) & ADDRESS_MASK;
    after <= one.end() - one.start() || before <= other.end() - other.start()
}

/// The buffered ranges of all servers of one target, lowest first. They never overlap, as the ranges of servers don't. Its
/// memory is reserved when the domain is built.
#[derive(Debug)]
pub(super) struct BufferedRanges {
    entries: Vec<BufferedRange>,
}

impl BufferedRanges {
    pub(super) fn new() -> Self {
        Self {
            entries: Vec::with_capacity(MAX_SERVERS * MAX_BUFFERED_RANGES),
        }
    }

    /// The server to which a write is posted.
    #[inline]
    pub(super) fn find(&self, access: Range) -> Option<ServerId> {
        if self.entries.is_empty() {
            return None;
        }
        let after = self
            .entries
            .partition_point(|entry| entry.range.start() <= access.start());
        let entry = self.entries.get(after.checked_sub(1)?)?;
        entry.range.contains(access).then_some(entry.server)
    }

    /// A bit for each page of them: [`page_bit`].
    pub(super) fn filter(&self) -> u64 {
        let bits = self.entries.iter().map(|entry| {
            let (first, last) = (entry.range.start() / PAGE_SIZE, entry.range.end() / PAGE_SIZE);
            match last - first {
                // The bits from the first to the last, of a world of 64 pages that is a circle.
                more @ 0..63 => ((2 << more) - 1_u64).rotate_left((first % 64) as u32),
                _ => u64::MAX,
            }
        });
        bits.fold(0, |filter, bits| filter | bits)
    }

    pub(super) fn has(&self, server: ServerId) -> bool {
        self.entries.iter().any(|entry| entry.server == server)
    }

    /// # Errors
    /// EINVAL: the range is longer than 1 MiB, or has an address whose lowest 20 bits another range of the server has;
    /// ENOSPC: the server has as many as it may have.
    pub(super) fn insert(&mut self, wanted: BufferedRange) -> Result<(), HypercallError> {
        let own = self.entries.iter().filter(|entry| entry.server == wanted.server);
        if wanted.range.end() - wanted.range.start() > ADDRESS_MASK
            || own.clone().any(|entry| collide(entry.range, wanted.range))
        {
            return Err(HypercallError::Invalid);
        }
        if own.count() >= MAX_BUFFERED_RANGES || self.entries.len() >= self.entries.capacity() {
            return Err(HypercallError::NoSpace);
        }
        let at = self
            .entries
            .partition_point(|entry| entry.range.start() < wanted.range.start());
        self.entries.insert(at, wanted);
        Ok(())
    }

    /// # Errors
    /// ENOENT: no range of the server begins there.
    pub(super) fn remove(&mut self, server: ServerId, start: u64) -> Result<(), HypercallError> {
        let found = |entry: &BufferedRange| entry.server == server && entry.range.start() == start;
        let at = self.entries.iter().position(found).ok_or(HypercallError::NoEntry)?;
        self.entries.remove(at);
        Ok(())
    }

    /// Takes away every range of `server` that overlaps `within`; all of them without it.
    pub(super) fn remove_within(&mut self, server: ServerId, within: Option<Range>) {
        let goes =
            |entry: &BufferedRange| entry.server == server && within.is_none_or(|within| within.overlaps(entry.range));
        self.entries.retain(|entry| !goes(entry));
    }

    /// Whether the guest may read some of `range` back although writes to it are posted.
    pub(super) fn some_readable(&self, range: Range) -> bool {
        self.entries
            .iter()
            .any(|entry| !entry.write_only && entry.range.overlaps(range))
    }
}
