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
use crate::domain::{Domain, DomainMemory};
use crate::grant::{Access, Handle, Mapped, Maptrack};
use crate::hypervisor::buffers::KnownPage;
use crate::hypervisor::quick::Quick;
use crate::hypervisor::{Hypervisor, Located, VcpuState};
use crate::ids::{DomainId, Ipa, PAGE_SIZE, Pa};
use crate::machine::Machine;
use crate::memory::atomic::SharedWords;

/// Words of the structures, and fields in them (`abi::grant`).
pub(super) const MAP_WORDS: u64 = 4;
pub(super) const UNMAP_WORDS: u64 = 3;
pub(super) const COPY_WORDS: u64 = 5;

/// What a map is asked for.
pub(super) struct MapAsked {
    /// Where.
    pub(super) address: u64,
    pub(super) reference: u32,
    pub(super) access: Access,
    pub(super) owner: DomainId,
}

/// Where a word of the structure at `at` is.
pub(super) const fn word(at: Pa, index: u64) -> Pa {
    Pa(at.0 + index * 8)
}

impl<M: Machine> Hypervisor<M> {
    /// grant_table_op of the loaded vCPU.
    #[inline]
    pub fn on_grant_call<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState) -> Quick {
        if state.frame.read(2) != 1 {
            return self.quick_batch(at, cpu, state);
        }
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
        let pointer = state.frame.read(1);
        // The three bits that are to be 0 come to the top, where they are more than any offset.
        if (pointer % PAGE_SIZE).rotate_right(3) > PAGE_SIZE / 8 - words {
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
            MAP_HOST => self.map_only(at, state, entry, (reference, Access::Write)),
            flags if flags == MAP_HOST | MAP_READ_ONLY => self.map_only(at, state, entry, (reference, Access::Read)),
            _ => None,
        }
    }

    #[inline(always)]
    fn map_only(
        &self,
        at: Located<'_>,
        state: &mut VcpuState,
        entry: Pa,
        (reference, access): (u32, Access),
    ) -> Option<()> {
        let machine = &self.machine;
        let third = machine.load_u64(word(entry, 2));
        let asked = MapAsked {
            address: machine.load_u64(entry),
            reference,
            access,
            owner: DomainId(third as u16),
        };
        let (handle, bus_address) = self.map_one(at.domain, &mut state.argument, &asked)?;
        machine.store_u64(word(entry, 2), mapped_word(third, handle));
        machine.store_u64(word(entry, 3), bus_address);
        Some(())
    }

    /// Maps a page of another domain where nothing is: its handle, and the address that devices have for it.
    #[inline(always)]
    pub(super) fn map_one(&self, domain: &Domain, argument: &mut KnownPage, ask: &MapAsked) -> Option<(Handle, u64)> {
        let machine = &self.machine;
        let ipa = Ipa(ask.address).page();
        let (user, owner) = (domain.id, ask.owner);
        let (reference, access) = (ask.reference, ask.access);
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
        argument.outlives(changed);
        Some((handle, bus_address(domain, frame, ipa)))
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
        machine.store_u64(word(entry, 2), without_status(third));
        Some(())
    }

    #[inline(always)]
    fn copy_one<C: Cpu>(&self, at: Located<'_>, cpu: &C, state: &mut VcpuState) -> Option<()> {
        let machine = &self.machine;
        let entry = self.only_entry(at, cpu, state, COPY_WORDS)?;
        let asked = core::array::from_fn(|index| machine.load_u64(word(entry, index as u64)));
        self.copy_between(at.domain, &asked)?;
        machine.store_u64(word(entry, 4), without_status(asked[4]));
        Some(())
    }

    /// Copies between a page of the caller's and one that another domain grants, as the words of an entry ask for.
    #[inline(always)]
    pub(super) fn copy_between(&self, domain: &Domain, asked: &[u64; COPY_WORDS as usize]) -> Option<()> {
        let machine = &self.machine;
        let [source, source_second, dest, dest_second, last] = *asked;
        let (length, flags) = (last & 0xffff, (last >> 16) as u16);
        let source = End::of(source, source_second);
        let dest = End::of(dest, dest_second);
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
    const fn of(frame: u64, second: u64) -> Self {
        Self {
            frame,
            domain: DomainId(second as u16),
            offset: second >> 16 & 0xffff,
        }
    }
}

/// The third word of a map that was done: the handle, the status 0 and the granter as they were asked for.
#[inline(always)]
pub(super) const fn mapped_word(third: u64, handle: Handle) -> u64 {
    (handle.0 as u64) << 32 | third & 0xffff
}

/// The third word of an unmap, or the fifth of a copy, that was done: status 0.
#[inline(always)]
pub(super) const fn without_status(word: u64) -> u64 {
    word & 0xffff_0000_ffff_ffff
}

/// The lower and the upper half of a word.
pub(super) const fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}
