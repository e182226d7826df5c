//! Grants: what one domain maps and copies of another's, for hypercalls.
//!
//! Locks, in this order: the memory of both domains (the lower number first), the mapper's handles, the granters' tables
//! (likewise), the account of frames. A mapped page holds a reference of its own, from before the mapping is made to after
//! its translations are gone; the pin of its entry is given back after that, so that the granter's guest sees the entry in
//! use as long as anybody can reach the page.
//!
//! A copy maps nothing: it pins, copies and unpins while it holds the granters' tables, so a domain that ends waits for it.

mod cache;
mod copy;
mod frames;
mod life;

use crate::abi::HypercallError;
use crate::abi::grant::{GrantCopy, GrantStatus, MapGrantRef, UnmapGrantRef};
use crate::abi::grant::{MAP_APPLICATION, MAP_CONTAINS_PTE, MAP_DEVICE, MAP_HOST, MAP_READ_ONLY};
use crate::cpu::Cpu;
use crate::domain::{Domain, DomainMemory};
use crate::grant::{Access, Handle, Mapped};
use crate::hypercall::Granting;
use crate::hypercall::grant_table_op::BATCH;
use crate::hypervisor::Hypervisor;
use crate::hypervisor::calls::Caller;
use crate::ids::{DomainId, Ipa, PAGE_SIZE, Pa};
use crate::machine::Machine;
use crate::memory::PhysicalMemory;
use crate::stage2::{NewPage, PageUse, Previous, Stage2Error, Ungranted};
use crate::sync::MutexGuard;

/// The memory of the caller and of a granter, locked; they may be one.
struct Memories<'a> {
    own: MutexGuard<'a, DomainMemory>,
    other: Option<MutexGuard<'a, DomainMemory>>,
}

impl<'a> Memories<'a> {
    #[inline]
    fn lock(own: &'a Domain, other: &'a Domain) -> Self {
        if own.id == other.id {
            return Self {
                own: own.memory.lock(),
                other: None,
            };
        }
        if own.id < other.id {
            let own = own.memory.lock();
            let other = Some(other.memory.lock());
            return Self { own, other };
        }
        let other = Some(other.memory.lock());
        let own = own.memory.lock();
        Self { own, other }
    }

    #[inline]
    fn granter(&self) -> &DomainMemory {
        self.other.as_deref().unwrap_or(&self.own)
    }
}

/// The RAM of a domain behind a frame number that its guest wrote into an entry.
#[inline]
fn ram_at(machine: &impl PhysicalMemory, memory: &DomainMemory, gfn: u32) -> Option<Pa> {
    let mapping = memory.stage2.lookup(machine, Ipa::from_frame(gfn.into())?)?;
    mapping.page_use.is_own_ram().then(|| mapping.pa.page())
}

/// What became of an unmap that found its handle.
struct Unmapped {
    handle: Handle,
    mapped: Mapped,
    /// Its page was taken out of the map just now.
    taken: bool,
}

impl<M: Machine> Hypervisor<M> {
    /// Maps a grant for `domain`.
    fn map_grant(&self, domain: &Domain, entry: &MapGrantRef) -> Result<Handle, GrantStatus> {
        if entry.flags & (MAP_DEVICE | MAP_HOST) == 0 {
            return Err(GrantStatus::BadReference);
        }
        if entry.flags & (MAP_DEVICE | MAP_APPLICATION | MAP_CONTAINS_PTE) != 0 {
            return Err(GrantStatus::GeneralError);
        }
        let granter = self.domain(DomainId(entry.dom)).ok_or(GrantStatus::BadDomain)?;
        let access = if entry.flags & MAP_READ_ONLY != 0 {
            Access::Read
        } else {
            Access::Write
        };
        let ipa = Ipa(entry.host_addr).page();
        let (handle, previous) = self.map_granted(domain, granter, (entry.reference, access), ipa)?;
        if let Some(previous) = previous {
            self.release(domain, ipa, previous);
        }
        Ok(handle)
    }

    fn map_granted(
        &self,
        domain: &Domain,
        granter: &Domain,
        (reference, access): (u32, Access),
        ipa: Ipa,
    ) -> Result<(Handle, Option<Previous>), GrantStatus> {
        let machine = &self.machine;
        let mut memories = Memories::lock(domain, granter);
        let mut maptrack = domain.maptrack.lock();
        let mut table = granter.grants.lock();
        self.with_words(|words| {
            let frame = table.pin(words, reference, domain.id, access, |gfn| {
                ram_at(machine, memories.granter(), gfn)
            })?;
            let mapped = Mapped {
                granter: granter.id,
                reference,
                life: table.life(),
                frame,
                access,
            };
            let DomainMemory { stage2, pool, .. } = &mut *memories.own;
            let mut map = || {
                let handle = maptrack.add(machine, pool, &mapped).map_err(|_| GrantStatus::NoSpace)?;
                if self.references.lock().get(machine, frame, granter.id).is_err() {
                    // The granter has given the page up, or it has as many references as can be counted.
                    maptrack.free(machine, handle);
                    return Err(GrantStatus::GeneralError);
                }
                let page_use = PageUse::Granted {
                    writable: access == Access::Write,
                };
                let page = NewPage { ipa, frame, page_use };
                match stage2.replace(machine, pool, page) {
                    Ok(previous) => Ok((handle, previous)),
                    Err(error) => {
                        // Nobody has mapped it.
                        let _ = self.references.lock().put(machine, frame);
                        maptrack.free(machine, handle);
                        Err(match error {
                            Stage2Error::Pool(_) => GrantStatus::NoSpace,
                            _ => GrantStatus::GeneralError,
                        })
                    }
                }
            };
            let result = map();
            match &result {
                Ok(_) => table.hold(domain.id),
                Err(_) => table.unpin(words, reference, access),
            }
            result
        })
    }

    /// The address that a device of `domain` has for a granted page: the machine's where `domain` sees that, and otherwise
    /// its own, which tells nothing of the machine.
    fn bus_address(&self, domain: &Domain, handle: Handle, host_addr: u64) -> u64 {
        if !domain.direct_mapped {
            return host_addr & !(PAGE_SIZE - 1);
        }
        let mapped = domain.maptrack.lock().get(&self.machine, handle);
        mapped.map_or(host_addr, |mapped| mapped.frame.0)
    }

    /// Unmaps at most [`BATCH`] grants of `domain`.
    fn unmap_granted(&self, domain: &Domain, entries: &mut [UnmapGrantRef]) {
        let machine = &self.machine;
        let mut found = heapless::Vec::<Unmapped, BATCH>::new();
        let mut memory = domain.memory.lock();
        let mut maptrack = domain.maptrack.lock();
        let mut pages = Ungranted::default();
        for entry in entries {
            let handle = Handle(entry.handle);
            let Some(mapped) = maptrack.take(machine, handle) else {
                entry.status = GrantStatus::BadHandle.code();
                continue;
            };
            entry.status = GrantStatus::Okay.code();
            let writable = mapped.access == Access::Write;
            let ipa = Ipa(entry.host_addr).page();
            let taken = entry.host_addr != 0
                && memory
                    .stage2
                    .take_granted(machine, ipa, (mapped.frame, writable), &mut pages);
            if !taken && (entry.host_addr == 0 || !self.is_over(&mapped)) {
                // Without an address nothing is asked for; with one it is not there.
                maptrack.keep(machine, handle);
                if entry.host_addr != 0 {
                    entry.status = GrantStatus::GeneralError.code();
                }
                continue;
            }
            let unmapped = Unmapped { handle, mapped, taken };
            if found.push(unmapped).is_err() {
                break;
            }
        }
        memory.stage2.finish_granted(machine, &pages);
        drop(memory);
        for unmapped in &found {
            self.give_back(domain.id, &unmapped.mapped);
            if unmapped.taken {
                // It was mapped with a reference.
                let _ = self.references.lock().put(machine, unmapped.mapped.frame);
            }
            maptrack.free(machine, unmapped.handle);
        }
    }

    /// Whether the granter's table has begun another life since: then the page may have been taken back.
    fn is_over(&self, mapped: &Mapped) -> bool {
        let granter = self.domain(mapped.granter);
        granter.is_none_or(|granter| granter.grants.lock().life() != mapped.life)
    }

    /// `user` gives a pin back, after the translations made by it are gone.
    fn give_back(&self, user: DomainId, mapped: &Mapped) {
        if let Some(granter) = self.domain(mapped.granter) {
            let mut table = granter.grants.lock();
            self.with_words(|words| table.release(words, user, (mapped.reference, mapped.life), mapped.access));
        }
    }
}

impl<M: Machine, C: Cpu> Granting for Caller<'_, M, C> {
    fn map_grants(&mut self, entries: &mut [MapGrantRef]) {
        for entry in entries {
            match self.hypervisor.map_grant(self.domain, entry) {
                Ok(handle) => {
                    entry.status = GrantStatus::Okay.code();
                    entry.handle = handle.0;
                    entry.dev_bus_addr = self.hypervisor.bus_address(self.domain, handle, entry.host_addr);
                }
                Err(status) => entry.status = status.code(),
            }
        }
    }

    fn unmap_grants(&mut self, entries: &mut [UnmapGrantRef]) {
        for batch in entries.chunks_mut(BATCH) {
            self.hypervisor.unmap_granted(self.domain, batch);
        }
    }

    fn copy_grants(&mut self, entries: &mut [GrantCopy]) {
        for entry in entries {
            let result = self.hypervisor.copy_granted(self.domain, entry);
            entry.status = result.err().unwrap_or_default().code();
        }
    }

    fn grant_frames(&self) -> (u32, u32) {
        let table = self.domain.grants.lock();
        (table.frames(), table.limit())
    }

    fn grow_grant_table(&mut self, frames: u32) -> Result<bool, HypercallError> {
        self.hypervisor.grow_grants(self.domain, frames)
    }

    fn grant_frame_place(&mut self, index: u32) -> Option<u64> {
        self.hypervisor.grant_frame_place(self.domain, index)
    }

    fn map_grant_frame(&mut self, index: u32, gfn: u64) -> Result<bool, HypercallError> {
        self.hypervisor.map_grant_frame(self.domain, index, gfn)
    }

    fn grant_frames_of(&self, domain: DomainId) -> (u32, u32) {
        let domain = self.hypervisor.domain(domain);
        domain.map_or((0, 0), |domain| {
            let table = domain.grants.lock();
            (table.frames(), table.limit())
        })
    }

    fn share_grant_frame(&mut self, domain: DomainId, index: u32) -> Result<Pa, HypercallError> {
        let domain = self.hypervisor.domain(domain).ok_or(HypercallError::NoDomain)?;
        self.hypervisor.share_grant_frame(domain, index)
    }

    fn flush_cache(&mut self, bus_address: u64, part: (u64, u64), cursor: u32) -> Result<Option<u32>, HypercallError> {
        self.hypervisor.flush_cache(self.domain, bus_address, part, cursor)
    }

    fn swap_grants(&mut self, one: u32, other: u32) -> Result<(), GrantStatus> {
        self.domain.grants.lock().swap(&self.hypervisor.machine, one, other)
    }
}
