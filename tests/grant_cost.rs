//! What grants cost: the same number of accesses to memory, however large tables are and however much is mapped.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use portunus::abi::grant::{ENTRIES_PER_FRAME, GrantEntry};
use portunus::fakes::FakeMachine;
use portunus::grant::{Access, GrantTable, Handle, Mapped, Maptrack};
use portunus::ids::{DomainId, PAGE_SIZE, Pa};
use portunus::memory::atomic::{SharedWords, StopOthers};
use portunus::memory::pool::Pool;
use portunus::memory::{Contended, PhysicalMemory};
use portunus::range::PaRange;

const FRAMES: PaRange = PaRange::new(0x7000_0000, 8 << 20);
const USER: DomainId = DomainId(2);
const GRANTER: DomainId = DomainId(1);
const FRAME: Pa = Pa(0x4000_0000);
/// The largest table, and handles for all of its entries.
const TABLE: u32 = 64;
const HANDLES: u32 = TABLE * ENTRIES_PER_FRAME / 256;

/// Memory that counts how often it is accessed.
struct Counting {
    memory: FakeMachine,
    accesses: AtomicU64,
}

impl Counting {
    fn new() -> Self {
        Self {
            memory: FakeMachine::with_memory(FRAMES.start, FRAMES.size),
            accesses: AtomicU64::new(0),
        }
    }
    fn counted<T>(&self, access: impl FnOnce(&FakeMachine) -> T) -> T {
        self.accesses.fetch_add(1, Ordering::Relaxed);
        access(&self.memory)
    }
    /// How many accesses `work` makes.
    fn cost<T>(&self, work: impl FnOnce() -> T) -> (u64, T) {
        let before = self.accesses.load(Ordering::Relaxed);
        let result = work();
        (self.accesses.load(Ordering::Relaxed) - before, result)
    }
}

macro_rules! counted {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $name(&self, $($argument: $type),*) -> $result {
            self.counted(|memory| memory.$name($($argument),*))
        })*
    };
}

impl PhysicalMemory for Counting {
    counted! {
        read(at: Pa, into: &mut [u8]) -> ();
        write(at: Pa, from: &[u8]) -> ();
        zero(at: Pa, length: u64) -> ();
        load_u8(at: Pa) -> u8;
        load_u32(at: Pa) -> u32;
        load_u64(at: Pa) -> u64;
        store_u8(at: Pa, value: u8) -> ();
        store_u32(at: Pa, value: u32) -> ();
        store_u64(at: Pa, value: u64) -> ();
        try_compare_exchange_u32(at: Pa, current: u32, new: u32) -> Result<u32, Contended>;
        try_compare_exchange_u64(at: Pa, current: u64, new: u64) -> Result<u64, Contended>;
        clean_to_coherency(at: Pa, length: u64) -> ();
        synchronise_instructions(at: Pa, length: u64) -> ();
    }
}

/// Nobody is stopped for what is done here.
struct Nobody(Cell<bool>);

impl StopOthers for Nobody {
    fn while_stopped(&self, _attempt: &mut dyn FnMut()) {
        self.0.set(true);
    }
}

/// A table of `frames` frames that grants everything to [`USER`], and its entries.
fn table(memory: &Counting, pool: &mut Pool, frames: u32) -> (GrantTable, u32) {
    let mut table = GrantTable::new(memory, pool, TABLE).expect("a table");
    while !table.grow(memory, pool, frames).expect("frames") {}
    let entries = frames * ENTRIES_PER_FRAME;
    for reference in 0..entries {
        let frame = table.frame(memory, reference / ENTRIES_PER_FRAME).expect("its frame");
        let entry = u64::from(GrantEntry::PERMIT_ACCESS) | u64::from(USER.0) << 16 | u64::from(reference) << 32;
        memory.store_u64(Pa(frame.0 + u64::from(reference % ENTRIES_PER_FRAME) * 8), entry);
    }
    (table, entries)
}

fn frame_of(gfn: u32) -> Option<Pa> {
    Some(Pa(FRAME.0 + u64::from(gfn) * PAGE_SIZE))
}

/// Accesses of a map, an unmap and a copy of entry `reference`, as far as tables and handles are concerned.
fn costs(
    memory: &Counting,
    pool: &mut Pool,
    table: &mut GrantTable,
    handles: &mut Maptrack,
    reference: u32,
) -> [u64; 3] {
    let nobody = Nobody(Cell::new(false));
    let words = SharedWords {
        memory,
        others: &nobody,
    };
    let (map, handle) = memory.cost(|| {
        let offer = table.offer(memory, reference, USER, Access::Write).expect("it is free");
        let frame = frame_of(offer.gfn).expect("RAM");
        let mapped = Mapped {
            granter: GRANTER,
            reference,
            life: table.life(),
            frame,
            access: Access::Write,
        };
        let handle = handles.add(memory, pool, &mapped).expect("a handle");
        assert!(table.accept(memory, &offer, frame));
        table.hold(USER);
        handle
    });
    let (unmap, ()) = memory.cost(|| {
        let (record, mapped) = handles.find_record(memory, handle).expect("its record");
        assert_eq!(mapped.reference, reference);
        table.release(&words, USER, (reference, mapped.life), mapped.access);
        handles.free_record(memory, record);
    });
    let (copy, ()) = memory.cost(|| {
        let borrowed = table
            .borrow(&words, reference, USER, Access::Read, frame_of)
            .expect("it is granted");
        assert_eq!(Some(borrowed.frame), frame_of(reference));
        table.end_borrowed(&words, borrowed);
    });
    assert!(!nobody.0.get());
    assert_eq!(table.pins(memory, reference), Some((0, 0)));
    [map, unmap, copy]
}

#[test]
fn a_map_an_unmap_and_a_copy_cost_the_same_whatever_is_granted_and_mapped() {
    let memory = Counting::new();
    let mut seen = Vec::new();
    for (frames, live) in [(1, 0), (1, 400), (2, 1), (TABLE, 0), (TABLE, 4096), (TABLE, 30_000)] {
        let mut pool = Pool::new(FRAMES);
        let (mut table, entries) = table(&memory, &mut pool, frames);
        let mut handles = Maptrack::new(HANDLES);
        let nobody = Nobody(Cell::new(false));
        let words = SharedWords {
            memory: &memory,
            others: &nobody,
        };
        for reference in 0..live {
            let frame = table
                .pin(&words, reference, USER, Access::Write, frame_of)
                .expect("it is granted");
            let mapped = Mapped {
                granter: GRANTER,
                reference,
                life: table.life(),
                frame,
                access: Access::Write,
            };
            handles.add(&memory, &mut pool, &mapped).expect("a handle");
        }
        // One that was in use before, as any but the first of a life.
        costs(&memory, &mut pool, &mut table, &mut handles, entries - 1);
        for reference in [live, (live + entries) / 2, entries - 1] {
            seen.push((
                (frames, live, reference),
                costs(&memory, &mut pool, &mut table, &mut handles, reference),
            ));
        }
        assert_eq!(handles.in_use(), live);
    }
    let first = seen[0].1;
    assert!(first.iter().all(|cost| (1..=16).contains(cost)), "{first:?}");
    for (case, cost) in seen {
        assert_eq!(cost, first, "{case:?}");
    }
}

#[test]
fn freed_handles_come_back_in_any_order_and_none_twice() {
    let memory = Counting::new();
    let mut pool = Pool::new(FRAMES);
    let mut handles = Maptrack::new(2);
    let mapped = |reference| Mapped {
        granter: GRANTER,
        reference,
        life: Default::default(),
        frame: FRAME,
        access: Access::Read,
    };
    let all: Vec<Handle> = (0..512)
        .map(|reference| handles.add(&memory, &mut pool, &mapped(reference)).expect("room"))
        .collect();
    assert!(handles.add(&memory, &mut pool, &mapped(0)).is_err());
    // 7 has no divisor in common with 512: each is freed once, in another order than they were made.
    for step in 0..512_u32 {
        let handle = all[(step * 7 % 512) as usize];
        let (record, found) = handles.find_record(&memory, handle).expect("in use");
        assert_eq!(found.reference, step * 7 % 512);
        handles.free_record(&memory, record);
        assert!(handles.find_record(&memory, handle).is_none());
        assert!(handles.get(&memory, handle).is_none());
        // A second time changes nothing.
        handles.free(&memory, handle);
        assert_eq!(handles.in_use(), 511 - step);
    }
    let mut again: Vec<Handle> = (0..512)
        .map(|reference| handles.add(&memory, &mut pool, &mapped(reference)).expect("room"))
        .collect();
    assert!(handles.add(&memory, &mut pool, &mapped(0)).is_err());
    again.sort();
    assert_eq!(again, all);
}
