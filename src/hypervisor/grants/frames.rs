//! The frames of a domain's grant table in maps: its own, and those of domains that may map all its memory.

use crate::abi::HypercallError;
use crate::domain::{Domain, DomainMemory};
use crate::hypervisor::Hypervisor;
use crate::hypervisor::calls::{address, own_error};
use crate::ids::{DomainSet, Ipa, Pa};
use crate::machine::Machine;
use crate::stage2::{NewPage, PageUse};

impl<M: Machine> Hypervisor<M> {
    /// Makes the table of `domain` at least `frames` big.
    pub(super) fn grow_grants(&self, domain: &Domain, frames: u32) -> Result<bool, HypercallError> {
        let mut memory = domain.memory.lock();
        let grown = domain.grants.lock().grow(&self.machine, &mut memory.pool, frames);
        grown.map_err(|_| HypercallError::OutOfMemory)
    }

    /// Where `domain` has a frame of its table in its map.
    pub(super) fn grant_frame_place(&self, domain: &Domain, index: u32) -> Option<u64> {
        let memory = domain.memory.lock();
        let table = domain.grants.lock();
        let gfn = table.place(&self.machine, index)?;
        self.is_at(&memory, gfn, table.frame(&self.machine, index)?)
            .then_some(gfn)
    }

    fn is_at(&self, memory: &DomainMemory, gfn: u64, frame: Pa) -> bool {
        let mapping = Ipa::from_frame(gfn).and_then(|ipa| memory.stage2.lookup(&self.machine, ipa));
        mapping.is_some_and(|mapping| mapping.pa == frame && mapping.page_use == PageUse::Shared { writable: true })
    }

    /// Makes what `domain` has at `gfn` a frame of its table. Who maps RAM that was there is added to `departed`.
    pub(super) fn map_grant_frame(
        &self,
        domain: &Domain,
        index: u32,
        gfn: u64,
        departed: &mut DomainSet,
    ) -> Result<bool, HypercallError> {
        let ipa = address(gfn)?;
        let machine = &self.machine;
        let mut memory = domain.memory.lock();
        let mut table = domain.grants.lock();
        if index >= table.limit() {
            return Err(HypercallError::Invalid);
        }
        let DomainMemory { stage2, pool, .. } = &mut *memory;
        match table.grow(machine, pool, index + 1) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(_) => return Err(HypercallError::OutOfMemory),
        }
        let frame = table.frame(machine, index).ok_or(HypercallError::Invalid)?;
        let page_use = PageUse::Shared { writable: true };
        if let Some(place) = table.place(machine, index) {
            let at = Ipa::from_frame(place).and_then(|ipa| stage2.lookup(machine, ipa));
            if at.is_some_and(|there| there.pa == frame && there.page_use == page_use) {
                // One frame is at one place, and not moved before it is taken away.
                return if place == gfn {
                    Ok(true)
                } else {
                    Err(HypercallError::Busy)
                };
            }
        }
        let previous = stage2
            .replace(machine, pool, NewPage { ipa, frame, page_use })
            .map_err(own_error)?;
        table.set_place(machine, index, Some(gfn));
        drop(table);
        drop(memory);
        if let Some(previous) = previous {
            departed.merge(self.release(domain, ipa, previous));
        }
        Ok(true)
    }

    /// Takes a reference to a frame of the table of `domain`, for a map of another.
    pub(super) fn share_grant_frame(&self, domain: &Domain, index: u32) -> Result<Pa, HypercallError> {
        let mut memory = domain.memory.lock();
        let mut table = domain.grants.lock();
        if !table.is_open() {
            return Err(HypercallError::TryAgain);
        }
        let wanted = index.checked_add(1).ok_or(HypercallError::Invalid)?;
        match table.grow(&self.machine, &mut memory.pool, wanted) {
            Ok(true) => {}
            Ok(false) => return Err(HypercallError::TryAgain),
            Err(_) => return Err(HypercallError::OutOfMemory),
        }
        let frame = table.frame(&self.machine, index).ok_or(HypercallError::Invalid)?;
        let taken = self.references.lock().get(&self.machine, frame, domain.id);
        taken.map(|()| frame).map_err(|_| HypercallError::Invalid)
    }
}
