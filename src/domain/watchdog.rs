//! A domain's watchdogs (SCHEDOP_watchdog): each is set again and again by the guest, and ends the domain when it is not.
//!
//! They count time that passes, not time in which the domain could run: a domain that others keep from running, or that is
//! paused, is late too, as in Xen.

use crate::abi::HypercallError;
use crate::abi::sched::WATCHDOGS;
use crate::ids::Ticks;

/// The watchdogs of one domain.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Watchdogs {
    /// When each fires; `None`: not in use.
    fires: [Option<Ticks>; WATCHDOGS as usize],
}

impl Watchdogs {
    /// What the guest asks for: with number 0 a new watchdog, whose number is the result; with another number that watchdog
    /// `timeout` from now, or, with a `timeout` of 0 seconds, no more. A new one of 0 seconds fires at once.
    ///
    /// # Errors
    /// EINVAL: no such watchdog, or not in use; ENOSPC: all are in use. Nothing has changed.
    pub fn set(&mut self, id: u32, timeout: u32, now: Ticks, frequency: u64) -> Result<u32, HypercallError> {
        let after = u64::from(timeout).saturating_mul(frequency);
        let fires = Ticks(now.0.saturating_add(after));
        let Some(index) = id.checked_sub(1) else {
            let free = self.fires.iter().position(Option::is_none);
            let free = free.ok_or(HypercallError::NoSpace)?;
            if let Some(slot) = self.fires.get_mut(free) {
                *slot = Some(fires);
            }
            return Ok(free as u32 + 1);
        };
        match self.fires.get_mut(index as usize) {
            Some(slot @ Some(_)) => {
                *slot = (timeout != 0).then_some(fires);
                Ok(0)
            }
            Some(None) | None => Err(HypercallError::Invalid),
        }
    }

    /// When the first fires.
    pub fn first(&self) -> Option<Ticks> {
        self.fires.iter().flatten().min().copied()
    }

    /// Whether one has fired.
    pub fn fired(&self, now: Ticks) -> bool {
        self.first().is_some_and(|first| first <= now)
    }
}
