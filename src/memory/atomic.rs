//! Atomic changes of words that a guest can write too, in bounded time.
//!
//! An exclusive store can be made to fail for ever by somebody who keeps writing the same line (XSA-295). So every such
//! change is tried [`ATTEMPTS`] times, unless the machine has one instruction for it; then the vCPUs that can reach the word are stopped, and it is tried as often
//! again. There is no unbounded loop: what fails even then is reported as [`Starved`].

use core::fmt;

use super::PhysicalMemory;
use crate::ids::Pa;

/// Exclusive attempts before others are stopped, and again while they are.
pub const ATTEMPTS: u32 = 16;

/// Holds back everybody else who can write a shared word.
pub trait StopOthers {
    /// Calls `attempt` once while no other vCPU that can write the word is in its guest.
    fn while_stopped(&self, attempt: &mut dyn FnMut());
}

/// The word could not be changed although others were stopped.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the shared word at {0} could not be changed")]
pub struct Starved(pub Pa);

/// The words of one domain's shared pages.
pub struct SharedWords<'a, M: ?Sized> {
    /// Where they are.
    pub memory: &'a M,
    /// Stops that domain's vCPUs, and those of whoever else maps the pages.
    pub others: &'a dyn StopOthers,
}

impl<M: ?Sized> fmt::Debug for SharedWords<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedWords").finish_non_exhaustive()
    }
}

impl<M: PhysicalMemory + ?Sized> SharedWords<'_, M> {
    /// Sets `bits` in the word at `at` and returns what it was. Stores made before are visible to whoever sees the bits,
    /// even when they were set already.
    ///
    /// # Errors
    /// [`Starved`] when the bounded attempts are used up; nothing was changed.
    #[inline]
    pub fn set_bits(&self, at: Pa, bits: u64) -> Result<u64, Starved> {
        match self.memory.try_set_bits_u64(at, bits) {
            Ok(previous) => Ok(previous),
            Err(_) => self.set_again(at, bits),
        }
    }

    /// The attempts after the first.
    #[cold]
    #[inline(never)]
    fn set_again(&self, at: Pa, bits: u64) -> Result<u64, Starved> {
        let mut attempts = (1..ATTEMPTS).map(|_| self.memory.try_set_bits_u64(at, bits));
        match attempts.find_map(Result::ok) {
            Some(previous) => Ok(previous),
            None => self.alone(at, bits, u64::MAX),
        }
    }

    /// Clears `bits` in the word at `at` and returns what it was.
    ///
    /// # Errors
    /// As [`Self::set_bits`].
    #[inline]
    pub fn clear_bits(&self, at: Pa, bits: u64) -> Result<u64, Starved> {
        match self.memory.try_clear_bits_u64(at, bits) {
            Ok(previous) => Ok(previous),
            Err(_) => self.clear_again(at, bits),
        }
    }

    #[cold]
    #[inline(never)]
    fn clear_again(&self, at: Pa, bits: u64) -> Result<u64, Starved> {
        try_update(self.memory, at, |word| word & !bits).or_else(|_| self.alone(at, 0, !bits))
    }

    /// Sets and keeps bits while others are stopped.
    #[cold]
    #[inline(never)]
    fn alone(&self, at: Pa, set: u64, keep: u64) -> Result<u64, Starved> {
        let mut decided = Err(Starved(at));
        self.others
            .while_stopped(&mut || decided = try_update(self.memory, at, |word| word & keep | set));
        decided
    }
}

/// Changes the word at `at` in at most [`ATTEMPTS`] attempts, and returns what it was. Nobody is stopped for it: for
/// changes that can as well be made another time.
///
/// # Errors
/// [`Starved`]; nothing was changed.
#[inline]
pub fn try_update<M: PhysicalMemory + ?Sized>(memory: &M, at: Pa, change: impl Fn(u64) -> u64) -> Result<u64, Starved> {
    let mut expected = memory.load_u64(at);
    for _ in 0..ATTEMPTS {
        match memory.try_compare_exchange_u64(at, expected, change(expected)) {
            Ok(previous) if previous == expected => return Ok(previous),
            Ok(previous) => expected = previous,
            Err(_) => expected = memory.load_u64(at),
        }
    }
    Err(Starved(at))
}
