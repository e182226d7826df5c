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
use crate::domain::Domain;
use crate::grant::{Access, Handle};
use crate::hypervisor::quick::Quick;
use crate::hypervisor::{Hypervisor, Located, VcpuState};
use crate::ids::{DomainId, Ipa, PAGE_SIZE, Pa};
use crate::machine::Machine;

/// Words of the structures, and fields in them (`abi::grant`).
const MAP_WORDS: u64 = 4;
const UNMAP_WORDS: u64 = 3;
const COPY_WORDS: u64 = 5;

const fn word(at: Pa, index: u64) -> Pa {
    Pa(at.0 + index * 8)
}

impl<M: Machine> Hypervisor<M> {
    /// grant_table_op of the loaded vCPU.
    #[inline(never)]
    pub(in crate::hypervisor) fn quick_grant<C: Cpu>(
        &self,
        at: Located<'_>,
        cpu: &mut C,
        state: &mut VcpuState,
    ) -> Quick {
        let domain = at.domain;
        let (operation, pointer) = (state.frame.read(0), state.frame.read(1));
        let words = match operation {
            MAP_GRANT_REF => MAP_WORDS,
            UNMAP_GRANT_REF => UNMAP_WORDS,
            COPY => COPY_WORDS,
            _ => return Quick::No,
        };
        let in_page = pointer % PAGE_SIZE + words * 8 <= PAGE_SIZE;
        if state.frame.read(2) != 1 || !pointer.is_multiple_of(8) || !in_page {
            return Quick::No;
        }
        let Some(entry) = self.try_argument(domain, cpu, state, pointer) else {
            return Quick::No;
        };
        let done = match operation {
            MAP_GRANT_REF => self.quick_map(at, state, entry),
            UNMAP_GRANT_REF => self.quick_unmap(domain, state, entry),
            _ => self.quick_copy(domain, entry),
        };
        let Some(quick) = done else {
            return Quick::No;
        };
        state.count(Exit::Hypercall);
        state.frame.write(0, 0);
        if quick == Quick::Due && !state.departed.is_empty() {
            self.announce_departures(cpu, domain, at.vcpu, state);
        }
        quick
    }

    /// Maps a page of another domain.
    #[inline(always)]
    fn quick_map(&self, at: Located<'_>, state: &mut VcpuState, entry: Pa) -> Option<Quick> {
        let domain = at.domain;
        let machine = &self.machine;
        let (flags, reference) = halves(machine.load_u64(word(entry, 1)));
        let third = machine.load_u64(word(entry, 2));
        let access = match flags {
            MAP_HOST => Access::Write,
            flags if flags == MAP_HOST | MAP_READ_ONLY => Access::Read,
            _ => return None,
        };
        let granter = self
            .domain(DomainId(third as u16))
            .filter(|other| other.id != domain.id)?;
        let ipa = Ipa(machine.load_u64(entry)).page();
        let mut own = domain.memory.try_lock()?;
        let other = granter.memory.try_lock()?;
        let mut maptrack = domain.maptrack.try_lock()?;
        let mut table = granter.grants.try_lock()?;
        let before = domain.map_changes.count();
        let mapped = self.map_locked(
            (domain.id, granter.id),
            &mut own,
            Some(&other.stage2),
            (&mut maptrack, &mut table),
            (reference, access),
            ipa,
        );
        let mapped = mapped.ok()?;
        state.argument.outlives((before, domain.map_changes.count()), ipa);
        drop((table, maptrack, other, own));
        let third = u64::from(mapped.handle.0) << 32 | third & 0xffff;
        machine.store_u64(word(entry, 2), third);
        machine.store_u64(word(entry, 3), bus_address(domain, mapped.frame, ipa));
        let Some(previous) = mapped.previous else {
            return Some(Quick::Done);
        };
        // That may have to wait.
        self.left_guest(at.vcpu.pcpu);
        state.departed.merge(self.release(domain, ipa, previous));
        Some(Quick::Due)
    }

    /// Unmaps a page that is where the caller says.
    #[inline(always)]
    fn quick_unmap(&self, domain: &Domain, state: &mut VcpuState, entry: Pa) -> Option<Quick> {
        let machine = &self.machine;
        let third = machine.load_u64(word(entry, 2));
        let handle = Handle(third as u32);
        let ipa = Ipa(machine.load_u64(entry)).page();
        let mut memory = domain.memory.try_lock()?;
        let mut maptrack = domain.maptrack.try_lock()?;
        let mapped = maptrack.get(machine, handle)?;
        let granter = self.domain(mapped.granter)?;
        let mut table = granter.grants.try_lock()?;
        let before = domain.map_changes.count();
        let page = (mapped.frame, granted(mapped.access));
        if ipa.0 == 0 || !memory.stage2.take_page(machine, ipa, page) {
            return None;
        }
        state.argument.outlives((before, domain.map_changes.count()), ipa);
        drop(memory);
        let pin = (mapped.reference, mapped.life);
        self.with_words(|words| table.release(words, domain.id, pin, mapped.access));
        drop(table);
        // It was mapped with a reference.
        let _ = self.references.lock().put(machine, mapped.frame);
        maptrack.free(machine, handle);
        drop(maptrack);
        machine.store_u64(word(entry, 2), third & 0xffff_0000_ffff_ffff);
        Some(Quick::Done)
    }

    /// Copies between a page of the caller's and one that another domain grants.
    #[inline(always)]
    fn quick_copy(&self, domain: &Domain, entry: Pa) -> Option<Quick> {
        let machine = &self.machine;
        let last = machine.load_u64(word(entry, 4));
        let (length, flags) = (last & 0xffff, (last >> 16) as u16);
        let (from_grant, access) = match flags {
            COPY_SOURCE_REFERENCE => (true, Access::Read),
            COPY_DESTINATION_REFERENCE => (false, Access::Write),
            _ => return None,
        };
        let source = End::load(machine, entry);
        let dest = End::load(machine, word(entry, 2));
        let (granted, own) = if from_grant { (source, dest) } else { (dest, source) };
        let fits = |end: End| end.offset + length <= PAGE_SIZE;
        if own.domain != DomainId::SELF || length == 0 || !fits(own) || !fits(granted) {
            return None;
        }
        let granter = self.domain(granted.domain).filter(|other| other.id != domain.id)?;
        let gfn = u32::try_from(own.frame).ok()?;
        // A frame of its RAM is a domain's own for its life.
        let own_page = ram_at(machine, &domain.memory.try_lock()?.stage2, gfn)?;
        let memory = granter.memory.try_lock()?;
        let mut table = granter.grants.try_lock()?;
        self.with_words(|words| {
            let reference = granted.frame as u32;
            let page = table
                .pin(words, reference, domain.id, access, |gfn| {
                    ram_at(machine, &memory.stage2, gfn)
                })
                .ok()?;
            drop(memory);
            let own_page = Pa(own_page.0 + own.offset);
            let page = Pa(page.0 + granted.offset);
            let (from, to) = if from_grant { (page, own_page) } else { (own_page, page) };
            machine.copy(from, to, length);
            table.unpin(words, reference, access);
            Some(())
        })?;
        drop(table);
        machine.store_u64(word(entry, 4), last & 0xffff_0000_ffff_ffff);
        Some(Quick::Done)
    }
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
