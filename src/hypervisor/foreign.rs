//! The straight path of memory_op: a single page of another domain is mapped, or taken out again.
//!
//! Whatever is not as usual, a lock that somebody has included, is left to the general way before anything is changed. So
//! this never waits, and need not let go of the guest for those who wait for that.

use crate::abi::memory::{ADD_TO_PHYSMAP_BATCH, REMOVE_FROM_PHYSMAP, SPACE_GMFN_FOREIGN};
use crate::counters::Exit;
use crate::cpu::Cpu;
use crate::hypervisor::quick::Quick;
use crate::hypervisor::{Hypervisor, Located, VcpuState};
use crate::ids::{DomainId, Ipa, PAGE_SIZE, Pa};
use crate::machine::Machine;
use crate::stage2::{PageUse, Previous};

/// Bytes of the structures (`abi::memory`).
const BATCH_SIZE: u64 = 32;
const REMOVE_SIZE: u64 = 16;
/// The first word of a batch: one page of another domain's for the caller. The domain's number is above.
const ONE_FOREIGN: u64 = DomainId::SELF.0 as u64 | (SPACE_GMFN_FOREIGN as u64) << 16 | 1 << 32;
const FOREIGN_SHIFT: u32 = 48;
/// As what a page of another domain is mapped.
const FOREIGN: PageUse = PageUse::Foreign { writable: true };

/// An argument that was found: the page of its virtual address, and where that is.
#[derive(Copy, Clone)]
struct Found {
    page: u64,
    frame: Pa,
}

impl<M: Machine> Hypervisor<M> {
    /// memory_op of the loaded vCPU.
    #[inline]
    pub fn on_memory_call<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState) -> Quick {
        match state.frame.read(0) {
            ADD_TO_PHYSMAP_BATCH => self.quick_foreign_map(at, cpu, state),
            REMOVE_FROM_PHYSMAP => self.quick_foreign_unmap(at, cpu, state),
            _ => Quick::No,
        }
    }

    #[inline(never)]
    fn quick_foreign_map<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState) -> Quick {
        finish(self.map_foreign(at, cpu, state), state)
    }

    #[inline(never)]
    fn quick_foreign_unmap<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState) -> Quick {
        finish(self.unmap_foreign(at, cpu, state), state)
    }

    /// Where the first byte of a structure in one page is.
    #[inline(always)]
    fn structure<C: Cpu>(
        &self,
        at: Located<'_>,
        cpu: &C,
        state: &mut VcpuState,
        (pointer, size): (u64, u64),
    ) -> Option<Pa> {
        if !pointer.is_multiple_of(8) || pointer % PAGE_SIZE > PAGE_SIZE - size {
            return None;
        }
        self.try_argument(at.domain, cpu, state, pointer)
    }

    /// Where an aligned word of an array is, which may be in the page of the structure.
    #[inline(always)]
    fn nearby<C: Cpu>(
        &self,
        at: Located<'_>,
        cpu: &C,
        state: &mut VcpuState,
        (pointer, size): (u64, u64),
        found: Found,
    ) -> Option<Pa> {
        if !pointer.is_multiple_of(size) {
            return None;
        }
        if pointer & !(PAGE_SIZE - 1) == found.page {
            return Some(Pa(found.frame.0 | (pointer % PAGE_SIZE)));
        }
        self.try_argument(at.domain, cpu, state, pointer)
    }

    /// Maps a page of a domain all of whose RAM the caller may map, where it has nothing.
    #[inline(always)]
    fn map_foreign<C: Cpu>(&self, at: Located<'_>, cpu: &C, state: &mut VcpuState) -> Option<Quick> {
        let pointer = state.frame.read(1);
        let domain = at.domain;
        let machine = &self.machine;
        let request = self.structure(at, cpu, state, (pointer, BATCH_SIZE))?;
        let word = |index: u64| machine.load_u64(Pa(request.0 + index * 8));
        let first = word(0);
        if first & ((1 << FOREIGN_SHIFT) - 1) != ONE_FOREIGN {
            return None;
        }
        let found = Found {
            page: pointer & !(PAGE_SIZE - 1),
            frame: request.page(),
        };
        let (source, destination, error) = (word(1), word(2), word(3));
        let source = machine.load_u64(self.nearby(at, cpu, state, (source, 8), found)?);
        let destination = machine.load_u64(self.nearby(at, cpu, state, (destination, 8), found)?);
        let error = self.nearby(at, cpu, state, (error, 4), found)?;
        let foreign = DomainId((first >> FOREIGN_SHIFT) as u16);
        let quota = self.policy.map_all_quota(domain.id, foreign)?;
        let foreign = self.domain(foreign).filter(|foreign| foreign.id != domain.id)?;
        let (source, ipa) = (Ipa::from_frame(source)?, Ipa::from_frame(destination)?);
        let mut own = domain.memory.try_lock()?;
        let vacant = own.stage2.vacancy(machine, ipa)?;
        let memory = foreign.memory.try_lock()?;
        let frame = memory.stage2.ram_page(machine, source)?;
        // Under the lock under which mappings of a domain that ends are taken back.
        if !foreign.life.is_running() {
            return None;
        }
        let mut references = self.references.lock();
        references.map(machine, frame, foreign.id, domain.id, quota).ok()?;
        drop((references, memory));
        let changed = own.stage2.fill(machine, vacant, frame, FOREIGN);
        state.argument.outlives(changed);
        drop(own);
        machine.store_u32(error, 0);
        Some(Quick::Done)
    }

    /// Takes a page of another domain out.
    #[inline(always)]
    fn unmap_foreign<C: Cpu>(&self, at: Located<'_>, cpu: &C, state: &mut VcpuState) -> Option<Quick> {
        let pointer = state.frame.read(1);
        let domain = at.domain;
        let machine = &self.machine;
        let request = self.structure(at, cpu, state, (pointer, REMOVE_SIZE))?;
        if machine.load_u64(request) as u16 != DomainId::SELF.0 {
            return None;
        }
        let ipa = Ipa::from_frame(machine.load_u64(Pa(request.0 + 8)))?;
        let mut own = domain.memory.try_lock()?;
        let (frame, page_use) = own.stage2.single_page(machine, ipa)?;
        if page_use != FOREIGN {
            return None;
        }
        let changed = own.stage2.take_page(machine, ipa, (frame, page_use))?;
        state.argument.outlives(changed);
        drop(own);
        if self.references.lock().unmap(machine, frame, domain.id).is_none() {
            // A frame of a pool, whose lock is its owner's.
            self.left_guest(at.vcpu.pcpu);
            let departed = self.release(domain, ipa, Previous { frame, page_use });
            state.departed.merge(departed);
            return Some(Quick::Due);
        }
        Some(Quick::Done)
    }
}

/// What became of a call.
#[inline(always)]
fn finish(done: Option<Quick>, state: &mut VcpuState) -> Quick {
    let Some(quick) = done else {
        return Quick::No;
    };
    state.count(Exit::Hypercall);
    state.frame.write(0, 0);
    quick
}
