//! The guest's word: what it grants, and what it is told of its use.

use crate::abi::grant::{GrantEntry, GrantStatus};
use crate::ids::{DomainId, Pa};
use crate::memory::PhysicalMemory;
use crate::memory::atomic::{ATTEMPTS, SharedWords};

/// What a pin is for.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Access {
    /// Reading.
    Read,
    /// Reading and writing.
    Write,
}

impl Access {
    /// The bits that the entry has while it is pinned for that.
    pub(super) const fn bits(self) -> u16 {
        match self {
            Self::Read => GrantEntry::READING,
            Self::Write => GrantEntry::READING | GrantEntry::WRITING,
        }
    }
}

/// An entry, as it is read.
#[inline(always)]
pub(super) const fn decode(word: u64) -> GrantEntry {
    GrantEntry {
        flags: word as u16,
        domid: (word >> 16) as u16,
        frame: (word >> 32) as u32,
    }
}

/// Whether an entry grants that to `user`.
#[inline(always)]
pub(super) fn allows(word: u64, user: DomainId, access: Access) -> bool {
    let entry = decode(word);
    let forbidden = match access {
        Access::Read => 0,
        Access::Write => GrantEntry::READ_ONLY,
    };
    let told = entry.flags & (GrantEntry::TYPE_MASK | GrantEntry::UNSUPPORTED | forbidden);
    told == GrantEntry::PERMIT_ACCESS && entry.domid == user.0
}

/// Sets what `access` means in an entry that grants it to `user`; the entry as it was.
#[inline(always)]
pub(super) fn announce<M: PhysicalMemory>(
    words: &SharedWords<'_, M>,
    at: Pa,
    user: DomainId,
    access: Access,
) -> Result<GrantEntry, GrantStatus> {
    let memory = words.memory;
    let mut word = memory.load_u64(at);
    for _ in 0..ATTEMPTS {
        if !allows(word, user, access) {
            return Err(GrantStatus::GeneralError);
        }
        match memory.try_compare_exchange_u64(at, word, word | u64::from(access.bits())) {
            Ok(previous) if previous == word => return Ok(decode(word)),
            Ok(previous) => word = previous,
            Err(_) => word = memory.load_u64(at),
        }
    }
    // Whoever keeps changing what it grants does not grant.
    Err(GrantStatus::GeneralError)
}

/// As [`announce`], for the first writer of an entry that is pinned for reading: the guest may have changed it meanwhile, so it
/// must name `frame`, which was granted for reading.
pub(super) fn announce_writer<M: PhysicalMemory>(
    words: &SharedWords<'_, M>,
    at: Pa,
    user: DomainId,
    frame: Pa,
    frame_of: impl FnOnce(u32) -> Option<Pa>,
) -> Result<(), GrantStatus> {
    let entry = announce(words, at, user, Access::Write)?;
    if frame_of(entry.frame) == Some(frame) {
        return Ok(());
    }
    let _ = words.clear_bits(at, GrantEntry::WRITING.into());
    Err(GrantStatus::GeneralError)
}
