//! Calls with several entries: each done as the one of a single call is, without leaving the guest's time.
//!
//! The pages that the entries are in are found once. An entry is read, done and answered before the next one is looked at
//! (unmaps: all are taken out, then share one drop of translations, then are given back and answered). Between two an
//! interrupt may come: then, and after [`BATCH`], the guest executes its HVC again with the rest. Where an entry is not as
//! usual, the general way goes on with it.

use super::granted;
use super::straight::{COPY_WORDS, MAP_WORDS, MapAsked, UNMAP_WORDS, halves, mapped_word, without_status, word};
use crate::abi::grant::{COPY, MAP_GRANT_REF, MAP_HOST, MAP_READ_ONLY, UNMAP_GRANT_REF};
use crate::counters::Exit;
use crate::cpu::Cpu;
use crate::domain::DomainMemory;
use crate::grant::{Access, Handle, Mapped, Record};
use crate::hypercall::grant_table_op::BATCH;
use crate::hypervisor::quick::Quick;
use crate::hypervisor::{Hypervisor, Located, VcpuState};
use crate::ids::{DomainId, Ipa, PAGE_SIZE, Pa};
use crate::machine::Machine;
use crate::memory::PhysicalMemory;
use crate::memory::atomic::SharedWords;
use crate::stage2::Stale;

/// Where a batch's words are: in one page of the caller's RAM, and from `room` bytes on in another. No word is in both.
struct Place {
    first: Pa,
    room: u64,
    second: Pa,
    /// Entries in both.
    entries: u64,
}

impl Place {
    #[inline(always)]
    const fn at(&self, offset: u64) -> Pa {
        if offset < self.room {
            Pa(self.first.0 + offset)
        } else {
            Pa(self.second.0 + (offset - self.room))
        }
    }

    /// Where entry `index` of `N` words is.
    #[inline(always)]
    const fn entry<const N: usize>(&self, index: u64) -> Entry<'_, N> {
        let offset = index * size(N as u64);
        Entry {
            place: self,
            offset,
            start: self.at(offset),
            is_cut: offset < self.room && offset + size(N as u64) > self.room,
        }
    }
}

/// One entry of `N` words.
struct Entry<'a, const N: usize> {
    place: &'a Place,
    offset: u64,
    start: Pa,
    /// It begins in one page and ends in the other.
    is_cut: bool,
}

impl<const N: usize> Entry<'_, N> {
    #[inline(always)]
    fn load(&self, memory: &impl PhysicalMemory) -> [u64; N] {
        if self.is_cut {
            return core::array::from_fn(|index| memory.load_u64(self.far_word(index as u64)));
        }
        core::array::from_fn(|index| memory.load_u64(word(self.start, index as u64)))
    }

    /// Writes one word.
    #[inline(always)]
    fn store(&self, memory: &impl PhysicalMemory, index: u64, value: u64) {
        let at = if self.is_cut {
            self.far_word(index)
        } else {
            word(self.start, index)
        };
        memory.store_u64(at, value);
    }

    #[cold]
    const fn far_word(&self, index: u64) -> Pa {
        self.place.at(self.offset + index * 8)
    }
}

/// How far a batch came.
struct Done {
    entries: u64,
    /// The next one, if there is one, can be done in the same way.
    usual: bool,
}

/// Bytes of an entry of so many words.
const fn size(words: u64) -> u64 {
    words * 8
}

impl<M: Machine> Hypervisor<M> {
    /// grant_table_op of any number of entries but one.
    #[inline(never)]
    pub(super) fn quick_batch<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState) -> Quick {
        let operation = state.frame.read(0);
        let words = match operation {
            MAP_GRANT_REF => MAP_WORDS,
            UNMAP_GRANT_REF => UNMAP_WORDS,
            COPY => COPY_WORDS,
            _ => return Quick::No,
        };
        let (pointer, count) = (state.frame.read(1), u64::from(state.frame.read(2) as u32));
        let ends = pointer.checked_add(count * size(words));
        if count == 0 || count > i32::MAX as u64 || !pointer.is_multiple_of(8) || ends.is_none() {
            return Quick::No;
        }
        let Some(found) = self.place_of(at, cpu, state, pointer, count.min(BATCH as u64), size(words)) else {
            return Quick::No;
        };
        let done = match operation {
            MAP_GRANT_REF => self.map_batch(at, cpu, state, &found),
            COPY => self.copy_batch(at, cpu, &found),
            _ => self.unmap_batch(at, cpu, state, &found),
        };
        if done.entries == count {
            state.count(Exit::Hypercall);
            state.frame.write(0, 0);
            return Quick::Done;
        }
        if done.entries != 0 {
            state.frame.write(1, pointer + done.entries * size(words));
            state.frame.write(2, count - done.entries);
            if done.usual {
                state.count(Exit::Hypercall);
                state.frame.rewind();
                return Quick::Done;
            }
        }
        Quick::No
    }

    /// Where `entries` entries of `size` bytes are, together no more than a page: at least one of them. Where the second page
    /// is not the caller's, those that are in the first.
    #[inline(always)]
    fn place_of<C: Cpu>(
        &self,
        at: Located<'_>,
        cpu: &C,
        state: &mut VcpuState,
        pointer: u64,
        entries: u64,
        size: u64,
    ) -> Option<Place> {
        let room = PAGE_SIZE - pointer % PAGE_SIZE;
        let first = self.try_argument(at.domain, cpu, state, pointer)?;
        let mut second = None;
        if entries * size > room {
            second = self.try_argument(at.domain, cpu, state, pointer + room);
        }
        let entries = if second.is_some() {
            entries
        } else {
            entries.min(room / size)
        };
        (entries != 0).then_some(Place {
            first,
            room,
            second: second.unwrap_or(Pa(0)),
            entries,
        })
    }

    #[inline(never)]
    fn map_batch<C: Cpu>(&self, at: Located<'_>, cpu: &C, state: &mut VcpuState, place: &Place) -> Done {
        let machine = &self.machine;
        let mut done = Done::default();
        while done.entries < place.entries {
            let entry = place.entry::<{ MAP_WORDS as usize }>(done.entries);
            let [address, second, third, _] = entry.load(machine);
            let (flags, reference) = halves(second);
            let access = match flags {
                MAP_HOST => Access::Write,
                flags if flags == MAP_HOST | MAP_READ_ONLY => Access::Read,
                _ => return done.but(),
            };
            let asked = MapAsked {
                address,
                reference,
                access,
                owner: DomainId(third as u16),
            };
            let Some((handle, bus_address)) = self.map_one(at.domain, &mut state.argument, &asked) else {
                return done.but();
            };
            entry.store(machine, 2, mapped_word(third, handle));
            entry.store(machine, 3, bus_address);
            done.entries += 1;
            if cpu.is_interrupted() {
                break;
            }
        }
        done
    }

    #[inline(never)]
    fn copy_batch<C: Cpu>(&self, at: Located<'_>, cpu: &C, place: &Place) -> Done {
        let machine = &self.machine;
        let mut done = Done::default();
        while done.entries < place.entries {
            let entry = place.entry(done.entries);
            let asked = entry.load(machine);
            if self.copy_between(at.domain, &asked).is_none() {
                return done.but();
            }
            let [.., last] = asked;
            entry.store(machine, COPY_WORDS - 1, without_status(last));
            done.entries += 1;
            if cpu.is_interrupted() {
                break;
            }
        }
        done
    }

    /// Unmaps what one domain grants, up to the first entry that is of another.
    #[inline(never)]
    fn unmap_batch<C: Cpu>(&self, at: Located<'_>, cpu: &C, state: &mut VcpuState, place: &Place) -> Done {
        let domain = at.domain;
        let machine = &self.machine;
        let none = Done::default();
        let Some(mut own) = domain.memory.try_lock() else {
            return none.but();
        };
        let entry = |index| place.entry::<{ UNMAP_WORDS as usize }>(index);
        let [_, _, third] = entry(0).load(machine);
        let DomainMemory { stage2, maptrack, .. } = &mut *own;
        let Some((_, first)) = maptrack.find_record(machine, Handle(third as u32)) else {
            return none.but();
        };
        // What may be somebody else's is tried before the first page is taken out: from there on nothing is refused.
        let granter = self.domain(first.granter);
        let Some(mut table) = granter.and_then(|granter| granter.grants.try_lock()) else {
            return none.but();
        };
        let mut taken = heapless::Vec::<(Record, Mapped, u64), BATCH>::new();
        let mut stale = Stale::default();
        let mut usual = true;
        for index in 0..place.entries {
            let [address, _, third] = entry(index).load(machine);
            let ipa = Ipa(address).page();
            let found = maptrack.find_record(machine, Handle(third as u32));
            let Some((record, mapped)) = found.filter(|_| ipa.0 != 0) else {
                usual = false;
                break;
            };
            if mapped.granter != first.granter {
                break;
            }
            let page = (mapped.frame, granted(mapped.access));
            let Some(changed) = stage2.take_pages(machine, ipa, page, &mut stale) else {
                usual = false;
                break;
            };
            state.argument.outlives(changed);
            // There is room: no more are looked at.
            let _ = taken.push((record, mapped, third));
            if cpu.is_interrupted() {
                break;
            }
        }
        stage2.drop_stale(machine, &stale);
        let others = self.others();
        let words = SharedWords {
            memory: machine,
            others: &others,
        };
        for (_, mapped, _) in &taken {
            table.release(&words, domain.id, (mapped.reference, mapped.life), mapped.access);
        }
        drop(table);
        let mut references = self.references.lock();
        for (_, mapped, _) in &taken {
            // It was mapped with a reference.
            let _ = references.put(machine, mapped.frame);
        }
        drop(references);
        let mut done = Done { entries: 0, usual };
        for (record, _, third) in taken {
            maptrack.free_record(machine, record);
            entry(done.entries).store(machine, 2, without_status(third));
            done.entries += 1;
        }
        done
    }
}

impl Default for Done {
    /// None yet, and all as usual.
    fn default() -> Self {
        Self {
            entries: 0,
            usual: true,
        }
    }
}

impl Done {
    /// The next one is not as usual.
    const fn but(self) -> Self {
        Self { usual: false, ..self }
    }
}
