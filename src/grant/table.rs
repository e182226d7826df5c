//! What one domain grants.
//!
//! Each frame of the table has two frames of pin records, 16 bytes an entry: the frame that was pinned, then the counts of
//! readers and writers and the domain that has them. The entry itself is the guest's: the hypervisor reads it when it makes
//! the first pin of a kind, and sets and clears its *reading* and *writing* bits, by exchanges of its 64 bits in bounded
//! number.

use super::entry::{Access, announce, announce_writer};
use super::frames::FrameList;
use crate::abi::grant::{ENTRIES_PER_FRAME, GrantEntry, GrantStatus};
use crate::ids::{DomainId, DomainSet, MAX_DOMAINS, PAGE_SIZE, Pa};
use crate::memory::PhysicalMemory;
use crate::memory::atomic::SharedWords;
use crate::memory::pool::{Pool, PoolError};

/// Pins of one kind that an entry can have, as in Xen.
pub const MAX_PINS: u16 = 128;
/// Words of the list for each frame of the table: the frame, two of pin records, and where the guest has mapped it.
const STRIDE: u32 = 4;
/// Where among them the guest's frame number is, plus 1; 0: nowhere.
const PLACE: u32 = 3;
/// Bytes of a pin record.
const RECORD: u64 = 16;
const RECORDS_PER_FRAME: u64 = PAGE_SIZE / RECORD;
/// Frames of the table that one step adds or takes away.
pub const STEP: u32 = 16;

/// Which life of a table a pin was made in.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Life(pub u32);

/// A domain's grant table.
#[derive(Debug)]
pub struct GrantTable {
    frames: FrameList,
    /// Frames of the table.
    count: u32,
    limit: u32,
    life: Life,
    open: bool,
    /// Handles that others have, by their number: of this life and of earlier ones.
    held: [u32; MAX_DOMAINS + 1],
    /// Who gave handles back since the table was closed, and may have pages by them yet.
    behind: DomainSet,
}

/// Where an entry and its pin record are.
#[derive(Copy, Clone, Debug)]
pub(super) struct Place {
    pub(super) entry: Pa,
    pub(super) record: Pa,
}

/// The second word of a pin record.
#[derive(Copy, Clone, Debug, Default)]
pub(super) struct Counts(pub(super) u64);

impl Counts {
    pub(super) const fn new(user: DomainId) -> Self {
        Self((user.0 as u64) << 32)
    }
    pub(super) const fn readers(self) -> u16 {
        self.0 as u16
    }
    pub(super) const fn writers(self) -> u16 {
        (self.0 >> 16) as u16
    }
    pub(super) const fn user(self) -> DomainId {
        DomainId((self.0 >> 32) as u16)
    }
    pub(super) const fn is_free(self) -> bool {
        self.0 as u32 == 0
    }
    pub(super) const fn of(self, access: Access) -> u16 {
        match access {
            Access::Read => self.readers(),
            Access::Write => self.writers(),
        }
    }
    pub(super) const fn one(access: Access) -> u64 {
        match access {
            Access::Read => 1,
            Access::Write => 1 << 16,
        }
    }
}

impl GrantTable {
    /// A table of one frame that can grow to `limit` frames.
    ///
    /// # Errors
    /// [`PoolError::Exhausted`].
    pub fn new(memory: &impl PhysicalMemory, pool: &mut Pool, limit: u32) -> Result<Self, PoolError> {
        let limit = limit.max(1);
        let mut table = Self {
            frames: FrameList::new(limit.saturating_mul(STRIDE)),
            count: 0,
            limit,
            life: Life::default(),
            open: true,
            held: [0; MAX_DOMAINS + 1],
            behind: DomainSet::default(),
        };
        table.grow(memory, pool, 1)?;
        Ok(table)
    }

    /// How many frames it has.
    pub fn frames(&self) -> u32 {
        self.count
    }

    /// How many frames it can have.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// This life of it.
    pub fn life(&self) -> Life {
        self.life
    }

    /// Whether entries can be pinned: the domain has not ended.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Frame number `index` of it.
    pub fn frame(&self, memory: &impl PhysicalMemory, index: u32) -> Option<Pa> {
        (index < self.count).then(|| Pa(self.frames.get(memory, index * STRIDE)))
    }

    /// The guest's frame number at which it has mapped frame number `index`, if it still has.
    pub fn place(&self, memory: &impl PhysicalMemory, index: u32) -> Option<u64> {
        if index >= self.count {
            return None;
        }
        self.frames.get(memory, index * STRIDE + PLACE).checked_sub(1)
    }

    /// Notes where the guest maps frame number `index`.
    pub fn set_place(&mut self, memory: &impl PhysicalMemory, index: u32, gfn: Option<u64>) {
        let word = self.frames.word(index.saturating_mul(STRIDE) + PLACE);
        if let Some(at) = word.filter(|_| index < self.count) {
            memory.store_u64(at, gfn.map_or(0, |gfn| gfn.saturating_add(1)));
        }
    }

    /// Makes it at least `wanted` frames big, at most [`STEP`] frames at once. `Ok(false)`: there is more to do.
    ///
    /// # Errors
    /// [`PoolError::Exhausted`], also where that is more than the limit.
    pub fn grow(&mut self, memory: &impl PhysicalMemory, pool: &mut Pool, wanted: u32) -> Result<bool, PoolError> {
        if wanted > self.limit {
            return Err(PoolError::Exhausted);
        }
        for _ in 0..STEP {
            if self.count >= wanted {
                return Ok(true);
            }
            self.add_frame(memory, pool)?;
        }
        Ok(self.count >= wanted)
    }

    fn add_frame(&mut self, memory: &impl PhysicalMemory, pool: &mut Pool) -> Result<(), PoolError> {
        let first = self.count * STRIDE;
        let mut taken = [Pa(0); 3];
        for index in 0..taken.len() {
            let result = pool.allocate(memory).and_then(|frame| {
                if let Some(slot) = taken.get_mut(index) {
                    *slot = frame;
                }
                self.frames.set(memory, pool, first + index as u32, frame.0)
            });
            if let Err(error) = result {
                for frame in taken.iter().filter(|frame| frame.0 != 0) {
                    // It came from this pool just now.
                    let _ = pool.free(*frame);
                }
                self.frames.shrink(pool, first);
                return Err(error);
            }
        }
        self.frames.set(memory, pool, first + PLACE, 0)?;
        self.count += 1;
        Ok(())
    }

    #[inline(always)]
    pub(super) fn find(&self, memory: &impl PhysicalMemory, reference: u32) -> Option<Place> {
        let frame = reference / ENTRIES_PER_FRAME;
        if frame >= self.count {
            return None;
        }
        let number = u64::from(reference % ENTRIES_PER_FRAME);
        let words = self.frames.word(frame * STRIDE)?;
        let shared = memory.load_u64(words);
        let records = memory.load_u64(Pa(words.0 + 8 + number / RECORDS_PER_FRAME * 8));
        Some(Place {
            entry: Pa(shared + number * 8),
            record: Pa(records + number % RECORDS_PER_FRAME * RECORD),
        })
    }

    /// Pins an entry for `user` and returns its frame. `frame_of` says which RAM of the domain a guest's frame number is.
    ///
    /// # Errors
    /// [`GrantStatus::BadReference`]: there is no such entry; [`GrantStatus::GeneralError`]: it does not grant
    /// that; [`GrantStatus::BadPage`]: what it grants is no RAM of the granter.
    pub fn pin<M: PhysicalMemory>(
        &mut self,
        words: &SharedWords<'_, M>,
        reference: u32,
        user: DomainId,
        access: Access,
        frame_of: impl FnOnce(u32) -> Option<Pa>,
    ) -> Result<Pa, GrantStatus> {
        let memory = words.memory;
        let place = self.find(memory, reference).ok_or(GrantStatus::BadReference)?;
        if !self.open {
            return Err(GrantStatus::GeneralError);
        }
        let second = Pa(place.record.0 + 8);
        let counts = Counts(memory.load_u64(second));
        if counts.is_free() {
            let entry = announce(words, place.entry, user, access)?;
            let Some(frame) = frame_of(entry.frame) else {
                let _ = words.clear_bits(place.entry, access.bits().into());
                return Err(GrantStatus::BadPage);
            };
            memory.store_u64(place.record, frame.0);
            memory.store_u64(second, Counts::new(user).0 + Counts::one(access));
            return Ok(frame);
        }
        if counts.user() != user || counts.of(access) >= MAX_PINS {
            return Err(GrantStatus::GeneralError);
        }
        let frame = Pa(memory.load_u64(place.record));
        if access == Access::Write && counts.writers() == 0 {
            announce_writer(words, place.entry, user, frame, frame_of)?;
        }
        memory.store_u64(second, counts.0 + Counts::one(access));
        Ok(frame)
    }

    /// Gives a pin of this life back, after the last access by it. Whoever gives back what it has not changes nothing.
    #[inline(always)]
    pub fn unpin<M: PhysicalMemory>(&mut self, words: &SharedWords<'_, M>, reference: u32, access: Access) {
        let memory = words.memory;
        let Some(place) = self.find(memory, reference) else {
            return;
        };
        let second = Pa(place.record.0 + 8);
        let counts = Counts(memory.load_u64(second));
        if counts.of(access) == 0 {
            return;
        }
        let left = Counts(counts.0 - Counts::one(access));
        memory.store_u64(second, left.0);
        let mut over = 0;
        if left.writers() == 0 && counts.writers() != 0 {
            over |= GrantEntry::WRITING;
        }
        if left.is_free() {
            over |= GrantEntry::READING;
        }
        if over != 0 {
            // Where the guest does not let the hypervisor have its word even while it is stopped, it goes without.
            let _ = words.clear_bits(place.entry, over.into());
        }
    }

    /// `user` has one more handle.
    #[inline]
    pub fn hold(&mut self, user: DomainId) {
        if let Some(held) = self.held.get_mut(usize::from(user.0)) {
            // There are fewer handles than that.
            *held = held.wrapping_add(1);
        }
    }

    /// `user` gives back what it had by a handle, after its translations are gone.
    #[inline(always)]
    pub fn release<M: PhysicalMemory>(
        &mut self,
        words: &SharedWords<'_, M>,
        user: DomainId,
        (reference, life): (u32, Life),
        access: Access,
    ) {
        if let Some(held) = self.held.get_mut(usize::from(user.0)) {
            *held = held.saturating_sub(1);
        }
        if life == self.life {
            self.unpin(words, reference, access);
        }
    }

    /// `user` gave back a handle of an earlier life, and its page may be mapped yet.
    pub fn leave_behind(&mut self, user: DomainId) {
        if !self.open {
            self.behind.insert(user);
        }
    }

    /// Who has handles, or may have pages without.
    pub fn holders(&self) -> DomainSet {
        let mut holders = self.behind;
        for (number, held) in (0..).zip(&self.held) {
            if *held != 0 {
                holders.insert(DomainId(number));
            }
        }
        holders
    }

    /// How many handles others have.
    pub fn handles(&self) -> u32 {
        self.held.iter().fold(0, |sum, held| sum.saturating_add(*held))
    }

    /// How often an entry is pinned for reading and for writing; `None`: there is none.
    pub fn pins(&self, memory: &impl PhysicalMemory, reference: u32) -> Option<(u16, u16)> {
        let place = self.find(memory, reference)?;
        let counts = Counts(memory.load_u64(Pa(place.record.0 + 8)));
        Some((counts.readers(), counts.writers()))
    }

    /// Exchanges two entries.
    ///
    /// # Errors
    /// [`GrantStatus::BadReference`]; [`GrantStatus::Again`]: one is in use.
    pub fn swap(&mut self, memory: &impl PhysicalMemory, one: u32, other: u32) -> Result<(), GrantStatus> {
        let first = self.find(memory, one).ok_or(GrantStatus::BadReference)?;
        let second = self.find(memory, other).ok_or(GrantStatus::BadReference)?;
        if one == other {
            return Ok(());
        }
        let in_use = |place: Place| !Counts(memory.load_u64(Pa(place.record.0 + 8))).is_free();
        if in_use(first) || in_use(second) {
            return Err(GrantStatus::Again);
        }
        let entry = memory.load_u64(first.entry);
        memory.store_u64(first.entry, memory.load_u64(second.entry));
        memory.store_u64(second.entry, entry);
        Ok(())
    }

    /// The domain ends: nothing can be pinned any more, and pins that there are belong to an earlier life.
    pub fn close(&mut self) {
        self.open = false;
        self.life = Life(self.life.0.wrapping_add(1));
    }

    /// Takes frames away from a closed table, at most [`STEP`], until one is left, empty. `retire` is told of frames that
    /// others may map. Whether that was all.
    pub fn shrink(
        &mut self,
        memory: &impl PhysicalMemory,
        pool: &mut Pool,
        mut retire: impl FnMut(&mut Pool, Pa),
    ) -> bool {
        for _ in 0..STEP {
            let Some(last) = self.count.checked_sub(1).filter(|last| *last != 0) else {
                for word in 0..3 {
                    memory.zero(Pa(self.frames.get(memory, word)), PAGE_SIZE);
                }
                self.set_place(memory, 0, None);
                return true;
            };
            let first = last * STRIDE;
            self.count = last;
            retire(pool, Pa(self.frames.get(memory, first)));
            for record in [first + 1, first + 2] {
                // It came from this pool.
                let _ = pool.free(Pa(self.frames.get(memory, record)));
            }
            self.frames.shrink(pool, first);
        }
        false
    }

    /// The domain starts, and nobody has pages of it any more: its guest may grant.
    pub fn open(&mut self) {
        self.open = true;
        self.behind = DomainSet::default();
    }
}
