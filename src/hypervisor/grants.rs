//! Grants: what one domain maps and copies of another's, for hypercalls.
//!
//! Locks, in this order: the memory of both domains (the lower number first), where the mapper's handles are too; the
//! granters' tables (likewise); the account of frames. A mapped page holds a reference of its own, from before the mapping is made to after
//! its translations are gone; the pin of its entry is given back after that, so that the granter's guest sees the entry in
//! use as long as anybody can reach the page.
//!
//! A copy maps nothing: it pins, copies and unpins while it holds the granters' tables, so a domain that ends waits for it.

mod batch;
mod cache;
mod copy;
mod frames;
mod life;
mod straight;

use crate::abi::HypercallError;
use crate::abi::grant::{GrantCopy, GrantStatus, MapGrantRef, UnmapGrantRef};
use crate::abi::grant::{MAP_APPLICATION, MAP_CONTAINS_PTE, MAP_DEVICE, MAP_HOST, MAP_READ_ONLY};
use crate::cpu::Cpu;
use crate::domain::{Domain, DomainMemory};
use crate::grant::{Access, GrantTable, Handle, Mapped};
use crate::hypercall::Granting;
use crate::hypercall::grant_table_op::BATCH;
use crate::hypervisor::Hypervisor;
use crate::hypervisor::calls::Caller;
use crate::ids::{DomainId, DomainSet, Ipa, Pa};
use crate::machine::Machine;
use crate::memory::PhysicalMemory;
use crate::stage2::{NewPage, PageUse, Previous, Stage2, Stage2Error, Stale};
use crate::sync::MutexGuard;

/// What a map changes, locked: the memory of the mapper and the granter, which may be one, and the table.
struct Locked<'a> {
    own: MutexGuard<'a, DomainMemory>,
    other: Option<MutexGuard<'a, DomainMemory>>,
    table: MutexGuard<'a, GrantTable>,
}

impl<'a> Locked<'a> {
    fn lock(domain: &'a Domain, granter: &'a Domain) -> Self {
        let (own, other) = if domain.id == granter.id {
            (domain.memory.lock(), None)
        } else if domain.id < granter.id {
            let own = domain.memory.lock();
            (own, Some(granter.memory.lock()))
        } else {
            let other = Some(granter.memory.lock());
            (domain.memory.lock(), other)
        };
        Self {
            own,
            other,
            table: granter.grants.lock(),
        }
    }
}

/// What was mapped.
struct NewMapping {
    handle: Handle,
    frame: Pa,
    /// What was there before.
    previous: Option<Previous>,
}

/// The RAM of a domain behind a frame number that its guest wrote into an entry.
#[inline(always)]
fn ram_at(machine: &impl PhysicalMemory, map: &Stage2, gfn: u32) -> Option<Pa> {
    map.ram_page(machine, Ipa::from_frame(gfn.into())?)
}

/// As what a page is mapped that was granted for `access`.
#[inline]
const fn granted(access: Access) -> PageUse {
    PageUse::Granted {
        writable: matches!(access, Access::Write),
    }
}

/// The address that a device of `domain` has for a granted page: the machine's where `domain` sees that, and otherwise its
/// own, which tells nothing of the machine.
#[inline]
const fn bus_address(domain: &Domain, frame: Pa, ipa: Ipa) -> u64 {
    if domain.direct_mapped { frame.0 } else { ipa.0 }
}

/// What became of an unmap that found its handle.
struct Unmapped {
    handle: Handle,
    mapped: Mapped,
    /// Its page was taken out of the map just now.
    taken: bool,
}

impl<M: Machine> Hypervisor<M> {
    /// Maps a grant for `domain`: its handle and bus address. Who maps RAM that was there is added to `departed`.
    fn map_grant(
        &self,
        domain: &Domain,
        entry: &MapGrantRef,
        departed: &mut DomainSet,
    ) -> Result<(Handle, u64), GrantStatus> {
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
        let mut locked = Locked::lock(domain, granter);
        let Locked { own, other, table } = &mut locked;
        let map = other.as_ref().map(|other| &other.stage2);
        let parties = (domain.id, granter.id);
        let mapped = self.map_locked(parties, own, map, table, (entry.reference, access), ipa)?;
        drop(locked);
        if let Some(previous) = mapped.previous {
            departed.merge(self.release(domain, ipa, previous));
        }
        Ok((mapped.handle, bus_address(domain, mapped.frame, ipa)))
    }

    /// Maps with everything locked. `map` is the granter's, if it is another domain.
    fn map_locked(
        &self,
        (mapper, granter): (DomainId, DomainId),
        own: &mut DomainMemory,
        map: Option<&Stage2>,
        table: &mut GrantTable,
        (reference, access): (u32, Access),
        ipa: Ipa,
    ) -> Result<NewMapping, GrantStatus> {
        let machine = &self.machine;
        let DomainMemory {
            stage2, pool, maptrack, ..
        } = own;
        self.with_words(|words| {
            let frame = table.pin(words, reference, mapper, access, |gfn| {
                ram_at(machine, map.unwrap_or(stage2), gfn)
            })?;
            let mapped = Mapped {
                granter,
                reference,
                life: table.life(),
                frame,
                access,
            };
            let mut map = || {
                let handle = maptrack.add(machine, pool, &mapped).map_err(|_| GrantStatus::NoSpace)?;
                if self.references.lock().get(machine, frame, granter).is_err() {
                    // The granter has given the page up, or it has as many references as can be counted.
                    maptrack.free(machine, handle);
                    return Err(GrantStatus::GeneralError);
                }
                let page_use = granted(access);
                if let Some(vacant) = stage2.vacancy(machine, ipa) {
                    stage2.fill(machine, vacant, frame, page_use);
                    return Ok(NewMapping {
                        handle,
                        frame,
                        previous: None,
                    });
                }
                match stage2.replace(machine, pool, NewPage { ipa, frame, page_use }) {
                    Ok(previous) => Ok(NewMapping {
                        handle,
                        frame,
                        previous,
                    }),
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
                Ok(_) => table.hold(mapper),
                Err(_) => table.unpin(words, reference, access),
            }
            result
        })
    }

    /// Unmaps at most [`BATCH`] grants of `domain`.
    fn unmap_granted(&self, domain: &Domain, entries: &mut [UnmapGrantRef]) {
        let machine = &self.machine;
        let mut found = heapless::Vec::<Unmapped, BATCH>::new();
        let mut memory = domain.memory.lock();
        let DomainMemory { stage2, maptrack, .. } = &mut *memory;
        let mut pages = Stale::default();
        for entry in entries {
            let handle = Handle(entry.handle);
            let Some(mapped) = maptrack.take(machine, handle) else {
                entry.status = GrantStatus::BadHandle.code();
                continue;
            };
            entry.status = GrantStatus::Okay.code();
            let ipa = Ipa(entry.host_addr).page();
            let page = (mapped.frame, granted(mapped.access));
            let taken = entry.host_addr != 0 && stage2.take_pages(machine, ipa, page, &mut pages).is_some();
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
        stage2.drop_stale(machine, &pages);
        for unmapped in &found {
            if !unmapped.taken
                && let Some(granter) = self.domain(unmapped.mapped.granter)
            {
                // The page may be at another place, if it has not been taken back already.
                granter.grants.lock().leave_behind(domain.id);
            }
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
            match self.hypervisor.map_grant(self.domain, entry, &mut self.departed) {
                Ok((handle, bus_address)) => {
                    entry.status = GrantStatus::Okay.code();
                    entry.handle = handle.0;
                    entry.dev_bus_addr = bus_address;
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
        self.hypervisor
            .map_grant_frame(self.domain, index, gfn, &mut self.departed)
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
