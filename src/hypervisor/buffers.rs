//! The memory of a hypercall's caller, by its virtual addresses.
//!
//! Each page is translated by the caller's current stage 1 with its kernel's rights, then by its stage 2; only RAM of its
//! own is touched. All pages of a range are checked before the first byte is written.

use crate::abi::HypercallError;
use crate::cpu::{Access, Cpu};
use crate::domain::Domain;
use crate::hypercall::GuestBuffers;
use crate::hypervisor::calls::Caller;
use crate::hypervisor::{Hypervisor, VcpuState};
use crate::ids::{Ipa, PAGE_SIZE, Pa};
use crate::machine::Machine;
use crate::stage2::Changed;

/// A page of a domain's own RAM, and the state of its map when it was found: while that stays, it is there. A frame of RAM
/// is its domain's for life, so one that is moved meanwhile shows nobody else's memory.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct KnownPage {
    page: Ipa,
    frame: Pa,
    /// [`Changes::count`](crate::stage2::Changes::count), which never is 0.
    changes: u64,
}

impl KnownPage {
    /// The state of the map became `now` by one change, under its lock, of a page that was no RAM and is none.
    #[inline(always)]
    pub(crate) fn outlives(&mut self, now: Changed) {
        if self.changes == now.before() {
            self.changes = now.count();
        }
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Where the loaded vCPU has the first byte of an argument, if it had one in that page before; `None`: it is to be
    /// [found](Self::argument).
    #[inline(always)]
    pub(crate) fn known_argument<C: Cpu>(
        &self,
        domain: &Domain,
        cpu: &C,
        state: &VcpuState,
        address: u64,
    ) -> Option<Pa> {
        let ipa = cpu.translate(address, Access::Read).ok()?;
        let known = &state.argument;
        let same = known.page == ipa.page() && known.changes == domain.map_changes.count();
        same.then_some(Pa(known.frame.0 | (ipa.0 % PAGE_SIZE)))
    }

    /// Where the loaded vCPU, which has left its guest, has the first byte of an argument: as [`Caller::resolve`].
    ///
    /// # Errors
    /// EFAULT.
    #[inline(never)]
    pub(crate) fn argument<C: Cpu>(
        &self,
        domain: &Domain,
        cpu: &C,
        state: &mut VcpuState,
        address: u64,
    ) -> Result<Pa, HypercallError> {
        let ipa = cpu
            .translate(address, Access::Read)
            .map_err(|_| HypercallError::BadPointer)?;
        let known = state.argument;
        if known.page != ipa.page() || known.changes != domain.map_changes.count() {
            state.argument = self.find_argument(domain, ipa)?;
        }
        Ok(Pa(state.argument.frame.0 | (ipa.0 % PAGE_SIZE)))
    }

    /// Where the loaded vCPU has an argument of 8 bytes or less, aligned, that it may also write; `None`: nowhere, or its map
    /// is locked. For those who have not left their guest, and so must not wait.
    #[inline(always)]
    pub(crate) fn try_argument<C: Cpu>(
        &self,
        domain: &Domain,
        cpu: &C,
        state: &mut VcpuState,
        address: u64,
    ) -> Option<Pa> {
        let ipa = cpu.translate(address, Access::Write).ok()?;
        let known = state.argument;
        if known.page != ipa.page() || known.changes != domain.map_changes.count() {
            state.argument = self.try_find_argument(domain, ipa)?;
        }
        Some(Pa(state.argument.frame.0 | (ipa.0 % PAGE_SIZE)))
    }

    #[inline(never)]
    fn try_find_argument(&self, domain: &Domain, ipa: Ipa) -> Option<KnownPage> {
        let memory = domain.memory.try_lock()?;
        Some(KnownPage {
            page: ipa.page(),
            frame: memory.stage2.ram_page(&self.machine, ipa)?,
            changes: domain.map_changes.count(),
        })
    }

    #[inline(never)]
    fn find_argument(&self, domain: &Domain, ipa: Ipa) -> Result<KnownPage, HypercallError> {
        let memory = domain.memory.lock();
        match memory.stage2.lookup(&self.machine, ipa) {
            Some(mapping) if mapping.page_use.is_own_ram() => Ok(KnownPage {
                page: ipa.page(),
                frame: mapping.pa.page(),
                changes: domain.map_changes.count(),
            }),
            _ => Err(HypercallError::BadPointer),
        }
    }
}

impl<M: Machine, C: Cpu> Caller<'_, M, C> {
    /// Where a byte of the caller's own RAM is.
    pub(crate) fn resolve(&self, address: u64, access: Access) -> Result<Pa, HypercallError> {
        let ipa = self
            .cpu
            .translate(address, access)
            .map_err(|_| HypercallError::BadPointer)?;
        let memory = self.domain.memory.lock();
        match memory.stage2.lookup(&self.hypervisor.machine, ipa) {
            Some(mapping) if mapping.page_use.is_own_ram() => Ok(mapping.pa),
            _ => Err(HypercallError::BadPointer),
        }
    }

    /// Calls `visit` for each piece of a range that lies in one page: where it is, its first byte's index, its length.
    fn for_each_piece(
        &self,
        address: u64,
        length: usize,
        access: Access,
        mut visit: impl FnMut(Pa, usize, usize),
    ) -> Result<(), HypercallError> {
        let mut done = 0;
        while done < length {
            let at = address.checked_add(done as u64).ok_or(HypercallError::BadPointer)?;
            let piece = ((PAGE_SIZE - at % PAGE_SIZE) as usize).min(length - done);
            visit(self.resolve(at, access)?, done, piece);
            done += piece;
        }
        Ok(())
    }
}

impl<M: Machine, C: Cpu> GuestBuffers for Caller<'_, M, C> {
    fn read(&mut self, address: u64, into: &mut [u8]) -> Result<(), HypercallError> {
        let machine = &self.hypervisor.machine;
        self.for_each_piece(address, into.len(), Access::Read, |pa, start, length| {
            if let Some(piece) = into.get_mut(start..start + length) {
                machine.read(pa, piece);
            }
        })
    }

    fn write(&mut self, address: u64, from: &[u8]) -> Result<(), HypercallError> {
        let machine = &self.hypervisor.machine;
        if address % PAGE_SIZE + from.len() as u64 > PAGE_SIZE {
            self.for_each_piece(address, from.len(), Access::Write, |_, _, _| {})?;
        }
        self.for_each_piece(address, from.len(), Access::Write, |pa, start, length| {
            if let Some(piece) = from.get(start..start + length) {
                machine.write(pa, piece);
            }
        })
    }
}
