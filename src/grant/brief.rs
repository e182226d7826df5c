//! Uses of entries in few steps: one that is over while the table is still locked, and the first pin of an entry.

use super::entry::{Access, allows, announce, announce_writer, decode};
use super::table::{Counts, GrantTable, MAX_PINS, Place};
use crate::abi::grant::{GrantEntry, GrantStatus};
use crate::ids::{DomainId, Pa};
use crate::memory::PhysicalMemory;
use crate::memory::atomic::SharedWords;

/// A use of an entry that is over before the table is let go: nobody needs to remember it.
#[derive(Debug)]
#[must_use]
pub struct Borrowed {
    /// The frame.
    pub frame: Pa,
    entry: Pa,
    /// What the entry says of this use alone.
    bits: u16,
}

/// A grant that nobody uses, as its entry was read.
#[derive(Copy, Clone, Debug)]
pub struct Offer {
    /// The guest's frame number that it names.
    pub gfn: u32,
    place: Place,
    word: u64,
    user: DomainId,
    access: Access,
}

impl GrantTable {
    /// What an entry that is not in use grants to `user`, for [`Self::accept`]; `None`: [`Self::pin`] knows what it is.
    #[inline(always)]
    pub fn offer(&self, memory: &impl PhysicalMemory, reference: u32, user: DomainId, access: Access) -> Option<Offer> {
        let place = self.find(memory, reference)?;
        if !self.is_open() || !Counts(memory.load_u64(Pa(place.record.0 + 8))).is_free() {
            return None;
        }
        let word = memory.load_u64(place.entry);
        allows(word, user, access).then_some(Offer {
            gfn: decode(word).frame,
            place,
            word,
            user,
            access,
        })
    }

    /// Pins what is offered, whose frame number is `frame`, if the entry still says so; whether it does. The table was locked
    /// all the time.
    #[inline(always)]
    pub fn accept(&mut self, memory: &impl PhysicalMemory, offer: &Offer, frame: Pa) -> bool {
        let Offer {
            place,
            word,
            user,
            access,
            ..
        } = *offer;
        let announced = word | u64::from(access.bits());
        if memory.try_compare_exchange_u64(place.entry, word, announced) != Ok(word) {
            return false;
        }
        memory.store_u64(place.record, frame.0);
        memory.store_u64(Pa(place.record.0 + 8), Counts::new(user).0 + Counts::one(access));
        true
    }

    /// As [`Self::pin`], for as long as the table is locked: [`Self::end_borrowed`] under the same lock.
    ///
    /// # Errors
    /// As [`Self::pin`].
    #[inline(always)]
    pub fn borrow<M: PhysicalMemory>(
        &self,
        words: &SharedWords<'_, M>,
        reference: u32,
        user: DomainId,
        access: Access,
        frame_of: impl FnOnce(u32) -> Option<Pa>,
    ) -> Result<Borrowed, GrantStatus> {
        let memory = words.memory;
        let Place { entry, record } = self.find(memory, reference).ok_or(GrantStatus::BadReference)?;
        if !self.is_open() {
            return Err(GrantStatus::GeneralError);
        }
        let counts = Counts(memory.load_u64(Pa(record.0 + 8)));
        if counts.is_free() {
            let granted = announce(words, entry, user, access)?;
            let bits = access.bits();
            let Some(frame) = frame_of(granted.frame) else {
                let _ = words.clear_bits(entry, bits.into());
                return Err(GrantStatus::BadPage);
            };
            return Ok(Borrowed { frame, entry, bits });
        }
        let frame = Pa(memory.load_u64(record));
        let bits = self.borrow_pinned(words, (entry, frame), counts, (user, access), frame_of)?;
        Ok(Borrowed { frame, entry, bits })
    }

    #[inline(never)]
    fn borrow_pinned<M: PhysicalMemory>(
        &self,
        words: &SharedWords<'_, M>,
        (entry, frame): (Pa, Pa),
        counts: Counts,
        (user, access): (DomainId, Access),
        frame_of: impl FnOnce(u32) -> Option<Pa>,
    ) -> Result<u16, GrantStatus> {
        if counts.user() != user || counts.of(access) >= MAX_PINS {
            return Err(GrantStatus::GeneralError);
        }
        if access == Access::Read || counts.writers() != 0 {
            return Ok(0);
        }
        announce_writer(words, entry, user, frame, frame_of)?;
        Ok(GrantEntry::WRITING)
    }

    /// The use is over.
    #[inline(always)]
    pub fn end_borrowed<M: PhysicalMemory>(&self, words: &SharedWords<'_, M>, borrowed: Borrowed) {
        if borrowed.bits != 0 {
            // As where a pin is given back.
            let _ = words.clear_bits(borrowed.entry, borrowed.bits.into());
        }
    }
}
