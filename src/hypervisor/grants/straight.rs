//! The straight path of a call with one entry: what backends do for each small request.
//!
//! Whatever is not as usual, a lock that somebody has included, is left to the general way before anything is changed. So
//! this never waits, and need not let go of the guest for those who wait for that.

use super::{bus_address, granted, ram_at};
use crate::abi::grant::{
    COPY, COPY_DESTINATION_REFERENCE, COPY_SOURCE_REFERENCE, MAP_GRANT_REF, MAP_HOST, MAP_READ_ONLY, UNMAP_GRANT_REF,
};
use crate::counters::Exit;
use crate::cpu::Cpu;
use crate::domain::DomainMemory;
use crate::grant::{Access, Handle, Mapped, Maptrack};
use crate::hypervisor::quick::Quick;
use crate::hypervisor::{Hypervisor, Located, VcpuState};
use crate::ids::{DomainId, Ipa, PAGE_SIZE, Pa};
use crate::machine::Machine;
use crate::memory::atomic::SharedWords;

/// Words of the structures, and fields in them (`abi::grant`).
const MAP_WORDS: u64 = 4;
const UNMAP_WORDS: u64 = 3;
const COPY_WORDS: u64 = 5;

const fn word(at: Pa, index: u64) -> Pa {
    Pa(at.0 + index * 8)
}

impl<M: Machine> Hypervisor<M> {
    /// grant_table_op of the loaded vCPU.
    #[inline]
    pub fn on_grant_call<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState) -> Quick {
        match state.frame.read(0) {
            MAP_GRANT_REF => self.quick_map(at, cpu, state),
            UNMAP_GRANT_REF => self.quick_unmap(at, cpu, state),
            COPY => self.quick_copy(at, cpu, state),
            _ => Quick::No,
        }
    }

    #[inline(never)]
    fn quick_map<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState) -> Quick {
        finish(self.map_as_asked(at, cpu, state), state)
    }

    #[inline(never)]
    fn quick_unmap<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState) -> Quick {
        finish(self.unmap_one(at, cpu, state), state)
    }

    #[inline(never)]
    fn quick_copy<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState) -> Quick {
        finish(self.copy_one(at, cpu, state), state)
    }

    /// Where the one entry of `words` words is that a call has.
    #[inline(always)]
    fn only_entry<C: Cpu>(&self, at: Located<'_>, cpu: &C, state: &mut VcpuState, words: u64) -> Option<Pa> {
        let (pointer, count) = (state.frame.read(1), state.frame.read(2));
        if count != 1 || !pointer.is_multiple_of(8) || pointer % PAGE_SIZE > PAGE_SIZE - words * 8 {
            return None;
        }
        self.try_argument(at.domain, cpu, state, pointer)
    }

    /// The two kinds of map are apart, so that each knows its own bits.
    #[inline(always)]
    fn map_as_asked<C: Cpu>(&self, at: Located<'_>, cpu: &C, state: &mut VcpuState) -> Option<()> {
        let entry = self.only_entry(at, cpu, state, MAP_WORDS)?;
        let (flags, reference) = halves(self.machine.load_u64(word(entry, 1)));
        match flags {
            MAP_HOST => self.map_one(at, state, entry, (reference, Access::Write)),
            flags if flags == MAP_HOST | MAP_READ_ONLY => self.map_one(at, state, entry, (reference, Access::Read)),
            _ => None,
        }
    }

    /// Maps a page of another domain where nothing is.
    #[inline(always)]
    fn map_one(
        &self,
        at: Located<'_>,
        state: &mut VcpuState,
        entry: Pa,
        (reference, access): (u32, Access),
    ) -> Option<()> {
        let domain = at.domain;
        let machine = &self.machine;
        let ipa = Ipa(machine.load_u64(entry)).page();
        let third = machine.load_u64(word(entry, 2));
        let (user, owner) = (domain.id, DomainId(third as u16));
        if owner == user {
            return None;
        }
        let granter = self.domain(owner)?;
        let mut own = domain.memory.try_lock()?;
        let vacant = own.stage2.vacancy(machine, ipa)?;
        let other = granter.memory.try_lock()?;
        let mut table = granter.grants.try_lock()?;
        let offer = table.offer(machine, reference, user, access)?;
        let frame = ram_at(machine, &other.stage2, offer.gfn)?;
        // The granter may have given the page up, or it has as many references as can be counted.
        self.references.lock().get(machine, frame, owner).ok()?;
        let mapped = Mapped {
            granter: owner,
            reference,
            life: table.life(),
            frame,
            access,
        };
        let DomainMemory {
            stage2, pool, maptrack, ..
        } = &mut *own;
        let added = maptrack.add(machine, pool, &mapped);
        let accepted = added.is_ok() && table.accept(machine, &offer, frame);
        let Some(handle) = added.ok().filter(|_| accepted) else {
            self.undo_map(maptrack, frame, added.ok());
            return None;
        };
        table.hold(user);
        let changed = stage2.fill(machine, vacant, frame, granted(access));
        state.argument.outlives(changed);
        drop((table, other, own));
        machine.store_u64(word(entry, 2), u64::from(handle.0) << 32 | third & 0xffff);
        machine.store_u64(word(entry, 3), bus_address(domain, frame, ipa));
        Some(())
    }

    /// Nothing was mapped.
    #[cold]
    #[inline(never)]
    fn undo_map(&self, maptrack: &mut Maptrack, frame: Pa, handle: Option<Handle>) {
        let _ = self.references.lock().put(&self.machine, frame);
        if let Some(handle) = handle {
            maptrack.free(&self.machine, handle);
        }
    }

    /// Unmaps a page that is where the caller says.
    #[inline(always)]
    fn unmap_one<C: Cpu>(&self, at: Located<'_>, cpu: &C, state: &mut VcpuState) -> Option<()> {
        let domain = at.domain;
        let machine = &self.machine;
        let entry = self.only_entry(at, cpu, state, UNMAP_WORDS)?;
        let ipa = Ipa(machine.load_u64(entry)).page();
        let third = machine.load_u64(word(entry, 2));
        let mut own = domain.memory.try_lock()?;
        let DomainMemory { stage2, maptrack, .. } = &mut *own;
        let (record, mapped) = maptrack.find_record(machine, Handle(third as u32))?;
        let granter = self.domain(mapped.granter)?;
        let mut table = granter.grants.try_lock()?;
        if ipa.0 == 0 {
            return None;
        }
        let changed = stage2.take_page(machine, ipa, (mapped.frame, granted(mapped.access)))?;
        state.argument.outlives(changed);
        let others = self.others();
        let words = SharedWords {
            memory: machine,
            others: &others,
        };
        table.release(&words, domain.id, (mapped.reference, mapped.life), mapped.access);
        drop(table);
        // It was mapped with a reference.
        let _ = self.references.lock().put(machine, mapped.frame);
        maptrack.free_record(machine, record);
        drop(own);
        machine.store_u64(word(entry, 2), third & 0xffff_0000_ffff_ffff);
        Some(())
    }

    /// Copies between a page of the caller's and one that another domain grants.
    #[inline(always)]
    fn copy_one<C: Cpu>(&self, at: Located<'_>, cpu: &C, state: &mut VcpuState) -> Option<()> {
        let domain = at.domain;
        let machine = &self.machine;
        let entry = self.only_entry(at, cpu, state, COPY_WORDS)?;
        let last = machine.load_u64(word(entry, 4));
        let (length, flags) = (last & 0xffff, (last >> 16) as u16);
        let source = End::load(machine, entry);
        let dest = End::load(machine, word(entry, 2));
        let (granted, own, access) = match flags {
            COPY_SOURCE_REFERENCE => (source, dest, Access::Read),
            COPY_DESTINATION_REFERENCE => (dest, source, Access::Write),
            _ => return None,
        };
        let fits = |end: End| end.offset + length <= PAGE_SIZE;
        if own.domain != DomainId::SELF || length == 0 || !fits(own) || !fits(granted) {
            return None;
        }
        let granter = self.domain(granted.domain).filter(|other| other.id != domain.id)?;
        // A frame of its RAM is a domain's own for its life.
        let own_page = domain
            .memory
            .try_lock()?
            .stage2
            .ram_page(machine, Ipa::from_frame(own.frame)?)?;
        let memory = granter.memory.try_lock()?;
        let table = granter.grants.try_lock()?;
        let others = self.others();
        let words = SharedWords {
            memory: machine,
            others: &others,
        };
        let map = &memory.stage2;
        let frame_of = |gfn| ram_at(machine, map, gfn);
        let borrowed = table
            .borrow(&words, granted.frame as u32, domain.id, access, frame_of)
            .ok()?;
        drop(memory);
        let own_page = Pa(own_page.0 + own.offset);
        let page = Pa(borrowed.frame.0 + granted.offset);
        let (from, to) = match access {
            Access::Read => (page, own_page),
            Access::Write => (own_page, page),
        };
        machine.copy(from, to, length);
        table.end_borrowed(&words, borrowed);
        drop(table);
        machine.store_u64(word(entry, 4), last & 0xffff_0000_ffff_ffff);
        Some(())
    }
}

/// What became of a call.
#[inline(always)]
fn finish(done: Option<()>, state: &mut VcpuState) -> Quick {
    if done.is_none() {
        return Quick::No;
    }
    state.count(Exit::Hypercall);
    state.frame.write(0, 0);
    Quick::Done
}

/// One end of a copy.
#[derive(Copy, Clone)]
struct End {
    frame: u64,
    domain: DomainId,
    offset: u64,
}

impl End {
    #[inline(always)]
    fn load(machine: &impl Machine, at: Pa) -> Self {
        let second = machine.load_u64(word(at, 1));
        Self {
            frame: machine.load_u64(at),
            domain: DomainId(second as u16),
            offset: second >> 16 & 0xffff,
        }
    }
}

/// The lower and the upper half of a word.
const fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}
