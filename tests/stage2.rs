//! Stage 2: what it maps, what it refuses, and the order in which it does it.

use std::collections::BTreeMap;

use portunus::fakes::translation_order::{self, OrderError};
use portunus::fakes::{FakeMachine, Operation, Random};
use portunus::ids::{Ipa, PAGE_SIZE, Pa, Vmid};
use portunus::memory::MemoryType;
use portunus::memory::pool::{Pool, PoolError};
use portunus::memory::uncached::Caching;
use portunus::range::PaRange;
use portunus::stage2::{
    BATCH, Geometry, GeometryError, Mapping, NewPage, PageUse, Previous, Stage2, Stage2Error, hardware_attributes,
    physical_bits,
};

const TABLES: PaRange = PaRange::new(0x7000_0000, 4 << 20);
const MIB2: u64 = 2 << 20;
const GIB: u64 = 1 << 30;
const FOREIGN: PageUse = PageUse::Foreign { writable: true };

struct Bench {
    machine: FakeMachine,
    pool: Pool,
    stage2: Stage2,
}

fn bench_of(frames: u64, map_end: u64, physical: u8) -> Bench {
    let machine = FakeMachine::with_memory(TABLES.start, TABLES.size);
    let mut pool = Pool::new(PaRange::new(TABLES.start.0, frames * PAGE_SIZE));
    let geometry = Geometry::new(map_end, physical, false).expect("geometry");
    let stage2 = Stage2::new(&machine, &mut pool, geometry, Vmid(3)).expect("root");
    Bench { machine, pool, stage2 }
}

fn bench() -> Bench {
    bench_of(1024, 1 << 40, 44)
}

impl Bench {
    fn map(&mut self, ipa: u64, pa: u64, length: u64, page_use: PageUse) -> Result<(), Stage2Error> {
        self.stage2
            .map(&self.machine, &mut self.pool, (Ipa(ipa), Pa(pa)), length, page_use)
    }
    fn replace(&mut self, ipa: u64, frame: u64, page_use: PageUse) -> Result<Option<Previous>, Stage2Error> {
        let page = NewPage {
            ipa: Ipa(ipa),
            frame: Pa(frame),
            page_use,
        };
        self.stage2.replace(&self.machine, &mut self.pool, page)
    }
    fn unmap_page(&mut self, ipa: u64) -> Result<Previous, Stage2Error> {
        self.stage2.unmap_page(&self.machine, &mut self.pool, Ipa(ipa))
    }
    fn at(&self, ipa: u64) -> Option<(u64, PageUse, u64)> {
        self.stage2
            .lookup(&self.machine, Ipa(ipa))
            .map(|Mapping { pa, page_use, size }| (pa.0, page_use, size))
    }
    /// The order of everything since the bench was made is right.
    fn ordered(&self) -> Result<(), OrderError> {
        let log = self.machine.take_log();
        translation_order::check(&log, (TABLES.start, TABLES.size))
    }
}

#[test]
fn the_translation_control_register_fits_the_map() {
    // map end, physical bits, VMID16 -> IPA bits, start level, root tables, VTCR_EL2
    let rows = [
        (1 << 40, 48, false, 40, 1, 2, 24 | 1 << 6 | 0x3500 | 5 << 16),
        (1 << 40, 44, true, 40, 1, 2, 24 | 1 << 6 | 0x3500 | 4 << 16 | 1 << 19),
        (1 << 33, 40, false, 40, 1, 2, 24 | 1 << 6 | 0x3500 | 2 << 16),
        (1 << 33, 36, false, 36, 1, 1, 28 | 1 << 6 | 0x3500 | 1 << 16),
        (0x1_0000_0000, 32, false, 32, 1, 1, 32 | 1 << 6 | 0x3500),
        ((1 << 42) + 1, 48, false, 43, 1, 16, 21 | 1 << 6 | 0x3500 | 5 << 16),
        ((1 << 43) + 1, 48, false, 44, 0, 1, 20 | 2 << 6 | 0x3500 | 5 << 16),
        (1 << 48, 52, false, 48, 0, 1, 16 | 2 << 6 | 0x3500 | 5 << 16),
    ];
    for (end, physical, wide, bits, level, tables, vtcr) in rows {
        let geometry = Geometry::new(end, physical, wide).expect("fits");
        let got = (
            geometry.ipa_bits(),
            geometry.start_level(),
            geometry.root_tables(),
            geometry.vtcr(),
        );
        assert_eq!(got, (bits, level, tables, vtcr), "{end:#x} {physical}");
    }
    assert_eq!(
        Geometry::new(1 << 40, 36, false),
        Err(GeometryError::TooFewBits {
            needed: 40,
            available: 36
        })
    );
    assert_eq!(
        Geometry::new(1 << 49, 52, false),
        Err(GeometryError::TooFewBits {
            needed: 49,
            available: 48
        })
    );
    assert_eq!(Geometry::new(1 << 20, 31, false), Err(GeometryError::PhysicalBits(31)));
    let known: Vec<u8> = (0..=7).map(physical_bits).collect();
    assert_eq!(known, [32, 36, 40, 42, 44, 48, 48, 48]);
}

#[test]
fn ranges_are_mapped_by_the_biggest_blocks_that_both_addresses_allow() {
    let mut bench = bench();
    bench
        .map(GIB, 4 * GIB, 2 * GIB + MIB2 + PAGE_SIZE, PageUse::Ram)
        .expect("maps");
    bench
        .map(0x2_0000_0000, 0x5_0020_0000, GIB, PageUse::Ram)
        .expect("maps");
    let rows = [
        (GIB, Some((4 * GIB, PageUse::Ram, GIB))),
        (2 * GIB + 0x1234, Some((5 * GIB + 0x1234, PageUse::Ram, GIB))),
        (3 * GIB + 8, Some((6 * GIB + 8, PageUse::Ram, MIB2))),
        (
            3 * GIB + MIB2 + 0xfff,
            Some((6 * GIB + MIB2 + 0xfff, PageUse::Ram, PAGE_SIZE)),
        ),
        (3 * GIB + MIB2 + PAGE_SIZE, None),
        (GIB - 1, None),
        (0x2_0000_0000, Some((0x5_0020_0000, PageUse::Ram, MIB2))),
        (0x2_3fff_ffff, Some((0x5_401f_ffff, PageUse::Ram, MIB2))),
        (u64::MAX, None),
        (1 << 40, None),
        // 2^40 + 1 GiB would hit the first block if high bits were dropped.
        ((1 << 40) + GIB, None),
    ];
    for (ipa, expected) in rows {
        assert_eq!(bench.at(ipa), expected, "{ipa:#x}");
    }
    assert_eq!(bench.ordered(), Ok(()));
}

#[test]
fn the_second_concatenated_root_table_serves_the_upper_half_of_the_map() {
    let mut bench = bench();
    let top = (1 << 40) - PAGE_SIZE;
    bench.map(top, 0x4000_0000, PAGE_SIZE, PageUse::Ram).expect("maps");
    bench.map(1 << 39, 0x8000_0000, GIB, PageUse::Ram).expect("maps");
    assert_eq!(bench.at(top + 5), Some((0x4000_0005, PageUse::Ram, PAGE_SIZE)));
    assert_eq!(bench.at(1 << 39), Some((0x8000_0000, PageUse::Ram, GIB)));
    assert_eq!(bench.at(0), None);
    let descriptor = bench.machine.peek(Pa(bench.stage2.root().0 + PAGE_SIZE), 8);
    assert_ne!(descriptor, [0; 8], "index 512 lies in the second table");
    assert_eq!(bench.stage2.vttbr(), 3 << 48 | bench.stage2.root().0);
}

#[test]
fn a_map_of_48_bits_starts_at_level_0_and_has_no_blocks_there() {
    let mut bench = bench_of(1024, 1 << 48, 48);
    bench.map(1 << 47, 1 << 39, 1 << 39, PageUse::Ram).expect("maps");
    assert_eq!(
        bench.at((1 << 47) + 3 * GIB),
        Some(((1 << 39) + 3 * GIB, PageUse::Ram, GIB))
    );
    assert_eq!(bench.pool.free_frames(), 1024 - 2);
}

#[test]
fn every_use_has_its_own_attributes_and_is_read_back() {
    let rows = [
        (PageUse::Ram, MemoryType::WriteBack, true, true),
        (PageUse::Foreign { writable: true }, MemoryType::WriteBack, true, false),
        (
            PageUse::Foreign { writable: false },
            MemoryType::WriteBack,
            false,
            false,
        ),
        (PageUse::Shared { writable: true }, MemoryType::WriteBack, true, false),
        (PageUse::Shared { writable: false }, MemoryType::WriteBack, false, false),
        (
            PageUse::Uncached { writable: false },
            MemoryType::NonCacheable,
            false,
            false,
        ),
        (PageUse::Device, MemoryType::Device, true, false),
        (PageUse::Common, MemoryType::WriteBack, true, false),
    ];
    for (page_use, memory, writable, executable) in rows {
        for (ipa, length) in [(0, PAGE_SIZE), (GIB, GIB)] {
            let mut bench = bench();
            bench.machine.clear_log();
            bench.map(ipa, 4 * GIB, length, page_use).expect("maps");
            assert_eq!(bench.at(ipa).map(|(_, read, _)| read), Some(page_use));
            assert_eq!(page_use.is_own_ram(), page_use == PageUse::Ram);
            let log = bench.machine.take_log();
            let leaf = log.iter().rev().find_map(|operation| match operation {
                Operation::Store { value, .. } => Some(*value),
                _ => None,
            });
            let attributes = leaf
                .and_then(|leaf| hardware_attributes(leaf, Caching::NonCacheable))
                .expect("a leaf");
            assert_eq!(
                (attributes.memory, attributes.writable, attributes.executable),
                (memory, writable, executable)
            );
            let flags = leaf.expect("a leaf") & (1 << 10 | 1);
            assert_eq!(flags, 1 << 10 | 1, "valid, and no access flag fault");
        }
    }
}

#[test]
fn aliases_of_a_frame_agree_whoever_maps_it() {
    // Every use that a frame of ordinary RAM can have at once: the owner's, a foreign mapper's, read-only and not.
    let uses = [
        PageUse::Ram,
        PageUse::Foreign { writable: true },
        PageUse::Foreign { writable: false },
        PageUse::Shared { writable: true },
    ];
    let types: Vec<MemoryType> = uses
        .iter()
        .map(|page_use| page_use.attributes(Caching::NonCacheable).memory)
        .collect();
    assert!(types.iter().all(|memory| *memory == MemoryType::WriteBack), "{types:?}");
}

#[test]
fn what_is_outside_or_uneven_is_refused_and_nothing_changes() {
    let mut bench = bench();
    bench.map(0x8000_0000, 0x8000_0000, MIB2, PageUse::Ram).expect("maps");
    let free = bench.pool.free_frames();
    let end = 1 << 40;
    let rows = [
        (end, 0, PAGE_SIZE, Stage2Error::BeyondMap(Ipa(end))),
        (
            end - PAGE_SIZE,
            0,
            2 * PAGE_SIZE,
            Stage2Error::BeyondMap(Ipa(end - PAGE_SIZE)),
        ),
        (
            u64::MAX - 0xfff,
            0,
            PAGE_SIZE,
            Stage2Error::BeyondMap(Ipa(u64::MAX - 0xfff)),
        ),
        (0, 1 << 44, PAGE_SIZE, Stage2Error::BeyondMemory(Pa(1 << 44))),
        (
            0,
            u64::MAX - 0xfff,
            2 * PAGE_SIZE,
            Stage2Error::BeyondMemory(Pa(u64::MAX - 0xfff)),
        ),
        (1, 0, PAGE_SIZE, Stage2Error::Misaligned(Ipa(1))),
        (0, 1, PAGE_SIZE, Stage2Error::Misaligned(Ipa(0))),
        (0, 0, 1, Stage2Error::Misaligned(Ipa(0))),
        (0x8000_0000, 0, PAGE_SIZE, Stage2Error::AlreadyMapped(Ipa(0x8000_0000))),
        (
            0x7fff_f000,
            0,
            2 * PAGE_SIZE,
            Stage2Error::AlreadyMapped(Ipa(0x8000_0000)),
        ),
    ];
    for (ipa, pa, length, error) in rows {
        assert_eq!(
            bench.map(ipa, pa, length, PageUse::Ram),
            Err(error),
            "{ipa:#x} {pa:#x} {length:#x}"
        );
    }
    assert_eq!(bench.replace(end, 0, FOREIGN), Err(Stage2Error::BeyondMap(Ipa(end))));
    assert_eq!(
        bench.replace(0, 1 << 44, FOREIGN),
        Err(Stage2Error::BeyondMemory(Pa(1 << 44)))
    );
    assert_eq!(bench.unmap_page(end), Err(Stage2Error::BeyondMap(Ipa(end))));
    assert_eq!(bench.unmap_page(7), Err(Stage2Error::Misaligned(Ipa(7))));
    assert_eq!(bench.unmap_page(0), Err(Stage2Error::NotMapped(Ipa(0))));
    assert_eq!(bench.at(0x7fff_f000), None, "the part before the clash is gone again");
    assert_eq!(bench.at(0x8000_0000), Some((0x8000_0000, PageUse::Ram, MIB2)));
    assert_eq!(
        free - bench.pool.free_frames(),
        2,
        "tables of the address before the clash"
    );
    assert_eq!(bench.ordered(), Ok(()));
}

#[test]
fn splitting_a_block_keeps_its_neighbours_and_breaks_before_it_makes() {
    let mut bench = bench();
    bench.map(GIB, 4 * GIB, GIB, PageUse::Ram).expect("maps");
    let page = GIB + 5 * MIB2 + 7 * PAGE_SIZE;
    let previous = bench.replace(page, 0x9000_0000, FOREIGN).expect("splits");
    assert_eq!(
        previous,
        Some(Previous {
            frame: Pa(page + 3 * GIB),
            page_use: PageUse::Ram
        })
    );
    let rows = [
        (page, Some((0x9000_0000, FOREIGN, PAGE_SIZE))),
        (page - 1, Some((page - 1 + 3 * GIB, PageUse::Ram, PAGE_SIZE))),
        (
            page + PAGE_SIZE,
            Some((page + PAGE_SIZE + 3 * GIB, PageUse::Ram, PAGE_SIZE)),
        ),
        (GIB, Some((4 * GIB, PageUse::Ram, MIB2))),
        (2 * GIB - 1, Some((5 * GIB - 1, PageUse::Ram, MIB2))),
    ];
    for (ipa, expected) in rows {
        assert_eq!(bench.at(ipa), expected, "{ipa:#x}");
    }
    assert_eq!(bench.ordered(), Ok(()));
}

#[test]
fn the_order_judge_sees_each_kind_of_mistake() {
    let at = TABLES.start;
    let store = |value| Operation::Store { at, width: 8, value };
    let root = TABLES.start;
    let drop = Operation::InvalidateAll { vmid: Vmid(1), root };
    let publish = Operation::PublishTables;
    let page = 0x4000_0003;
    let other = 0x5000_0003;
    let rows = [
        (
            vec![
                store(page),
                publish.clone(),
                store(0),
                publish.clone(),
                drop.clone(),
                store(other),
                publish.clone(),
            ],
            Ok(()),
        ),
        (
            vec![store(page), publish.clone(), store(other)],
            Err(OrderError::NoBreak {
                at,
                old: page,
                new: other,
            }),
        ),
        (
            vec![store(page), store(0), publish.clone(), store(other)],
            Err(OrderError::NotInvalidated { at }),
        ),
        (
            vec![store(page), store(0), drop.clone(), store(other)],
            Err(OrderError::NotInvalidated { at }),
        ),
        (
            vec![store(page), publish.clone(), store(0), publish.clone()],
            Err(OrderError::NeverInvalidated { at }),
        ),
        (vec![store(page)], Err(OrderError::NeverPublished { at })),
    ];
    for (log, verdict) in rows {
        assert_eq!(
            translation_order::check(&log, (TABLES.start, TABLES.size)),
            verdict,
            "{log:?}"
        );
    }
}

#[test]
fn a_page_where_nothing_was_needs_no_translation_dropped() {
    let mut bench = bench();
    assert_eq!(bench.replace(0x1000, 0x9000_0000, FOREIGN), Ok(None));
    let log = bench.machine.take_log();
    let dropped = |operation: &&Operation| {
        matches!(
            operation,
            Operation::InvalidatePage { .. } | Operation::InvalidateAll { .. }
        )
    };
    assert_eq!(log.iter().filter(dropped).count(), 0);
    assert_eq!(
        log.last(),
        Some(&Operation::PublishTables),
        "the walker sees it before the guest is told"
    );

    assert_eq!(
        bench.replace(0x1000, 0xa000_0000, FOREIGN).map(|old| old.is_some()),
        Ok(true)
    );
    let log = bench.machine.take_log();
    let root = bench.stage2.root();
    let expected = Operation::InvalidatePage {
        vmid: Vmid(3),
        root,
        page: Ipa(0x1000),
    };
    assert_eq!(log.iter().filter(dropped).collect::<Vec<_>>(), [&expected]);
}

#[test]
fn a_batch_drops_translations_once_and_reports_each_page() {
    let mut bench = bench();
    bench
        .map(0x10_0000, 0x9000_0000, 8 * PAGE_SIZE, PageUse::Ram)
        .expect("maps");
    let page = |ipa, frame| NewPage {
        ipa: Ipa(ipa),
        frame: Pa(frame),
        page_use: FOREIGN,
    };
    let pages = [
        page(0x10_0000, 0xa000_0000),
        page(0x10_1000, 0xa000_1000),
        page(0x20_0000, 0xa000_2000),
        page(1 << 40, 0xa000_3000),
        page(0x10_0000, 0xa000_4000),
    ];
    let mut results = [Ok(None); 5];
    let before = bench.machine.take_log();
    bench
        .stage2
        .replace_batch(&bench.machine, &mut bench.pool, &pages, &mut results);
    let log = bench.machine.take_log();
    let old = |frame, page_use| {
        Ok(Some(Previous {
            frame: Pa(frame),
            page_use,
        }))
    };
    let expected = [
        old(0x9000_0000, PageUse::Ram),
        old(0x9000_1000, PageUse::Ram),
        Ok(None),
        Err(Stage2Error::BeyondMap(Ipa(1 << 40))),
        old(0xa000_0000, FOREIGN),
    ];
    assert_eq!(results, expected);
    assert_eq!(
        bench.at(0x10_0000),
        Some((0xa000_4000, FOREIGN, PAGE_SIZE)),
        "the last of two wins"
    );
    let all = log
        .iter()
        .filter(|operation| matches!(operation, Operation::InvalidateAll { .. }))
        .count();
    assert_eq!(all, 1);
    let whole: Vec<Operation> = before.into_iter().chain(log).collect();
    assert_eq!(translation_order::check(&whole, (TABLES.start, TABLES.size)), Ok(()));
}

#[test]
fn an_exhausted_pool_is_an_error_and_leaves_the_map_as_it_was() {
    for spare in 0..4 {
        // Two root tables and some.
        let mut bench = bench_of(2 + spare, 1 << 40, 44);
        let map = bench.map(0x4000_0000, 0x4000_0000, GIB, PageUse::Ram);
        assert_eq!(map, Ok(()), "a 1 GiB block needs no table");
        let got = bench.replace(0x4000_3000, 0x9000_0000, FOREIGN);
        let unmapped = bench.unmap_page(0x4000_5000);
        if spare < 2 {
            assert_eq!(got, Err(Stage2Error::Pool(PoolError::Exhausted)));
            assert_eq!(unmapped, Err(Stage2Error::Pool(PoolError::Exhausted)));
            assert_eq!(
                bench.at(0x4000_3000).map(|(pa, page_use, _)| (pa, page_use)),
                Some((0x4000_3000, PageUse::Ram))
            );
        } else {
            assert!(got.is_ok() && unmapped.is_ok());
        }
        let far = bench.map(1 << 39, 0, PAGE_SIZE, PageUse::Ram);
        assert_eq!(far, Err(Stage2Error::Pool(PoolError::Exhausted)));
        assert_eq!(bench.ordered(), Ok(()));
    }
    let machine = FakeMachine::with_memory(TABLES.start, TABLES.size);
    let mut pool = Pool::new(PaRange::new(TABLES.start.0, PAGE_SIZE));
    let geometry = Geometry::new(1 << 40, 40, false).expect("geometry");
    let none = Stage2::new(&machine, &mut pool, geometry, Vmid(1)).map(|_| ());
    assert_eq!(none, Err(Stage2Error::Pool(PoolError::Exhausted)));
}

#[test]
fn unmapping_tells_of_frames_only_after_their_translations_are_gone() {
    let mut bench = bench();
    bench.map(0, 4 * GIB, GIB, PageUse::Ram).expect("maps");
    bench.map(GIB, 0x9000_0000, 200 * PAGE_SIZE, FOREIGN).expect("maps");
    bench.machine.clear_log();
    let mut released = Vec::new();
    let (machine, stage2, pool) = (&bench.machine, &mut bench.stage2, &mut bench.pool);
    let mut seen = Vec::new();
    stage2
        .unmap(
            machine,
            pool,
            Ipa(GIB - MIB2 - PAGE_SIZE),
            MIB2 + 101 * PAGE_SIZE,
            |at, previous| {
                let log = machine.take_log();
                if !log.is_empty() {
                    assert!(matches!(
                        log.last(),
                        Some(Operation::InvalidateAll { .. } | Operation::InvalidatePage { .. })
                    ));
                    seen.push(log.len());
                }
                released.push((at, previous));
            },
        )
        .expect("unmaps");
    assert_eq!(released.len(), 1 + 1 + 100, "a page, a block, a hundred pages");
    assert_eq!(seen.len(), 102usize.div_ceil(BATCH), "one drop for each batch");
    let block = released.iter().find(|((_, size), _)| *size == MIB2).expect("the block");
    assert_eq!(block.0.0, Ipa(GIB - MIB2));
    assert_eq!(
        block.1,
        Previous {
            frame: Pa(5 * GIB - MIB2),
            page_use: PageUse::Ram
        }
    );
    assert_eq!(bench.at(GIB - MIB2 - PAGE_SIZE), None);
    assert_eq!(
        bench.at(GIB - MIB2 - PAGE_SIZE - 1).map(|found| found.2),
        Some(PAGE_SIZE)
    );
    assert_eq!(bench.at(GIB + 99 * PAGE_SIZE), None);
    assert_eq!(
        bench.at(GIB + 100 * PAGE_SIZE),
        Some((0x9000_0000 + 100 * PAGE_SIZE, FOREIGN, PAGE_SIZE))
    );
}

#[test]
fn mapping_and_unmapping_the_same_window_uses_no_more_of_the_pool() {
    let mut bench = bench();
    bench.replace(0x10_0000_0000, 0x9000_0000, FOREIGN).expect("maps");
    let free = bench.pool.free_frames();
    for round in 0..100 {
        bench.unmap_page(0x10_0000_0000).expect("is mapped");
        bench
            .replace(0x10_0000_0000, 0x9000_0000 + round * PAGE_SIZE, FOREIGN)
            .expect("maps");
    }
    assert_eq!(bench.pool.free_frames(), free);
    assert_eq!(bench.ordered(), Ok(()));
}

#[test]
fn random_operations_agree_with_a_map_of_pages() {
    let uses = [
        PageUse::Ram,
        FOREIGN,
        PageUse::Foreign { writable: false },
        PageUse::Shared { writable: true },
    ];
    // Two windows of 4 MiB at the end of one gigabyte, so that every level takes part.
    let base = GIB - 2 * MIB2;
    for seed in 1..=40 {
        let mut random = Random::new(seed);
        let mut bench = bench_of(64, 1 << 40, 40);
        let mut model: BTreeMap<u64, (u64, PageUse)> = BTreeMap::new();
        for _ in 0..200 {
            let ipa = base + random.below(2048) * PAGE_SIZE;
            let page_use = uses[random.below(4) as usize];
            let frame = 4 * GIB + random.below(4096) * PAGE_SIZE;
            match random.below(4) {
                0 => {
                    let block = random.below(2) == 0;
                    let (ipa, frame) = if block {
                        (ipa & !(MIB2 - 1), frame & !(MIB2 - 1))
                    } else {
                        (ipa, frame)
                    };
                    let pages = if block { 512 } else { 1 + random.below(20) };
                    let clash = (0..pages)
                        .map(|page| ipa + page * PAGE_SIZE)
                        .find(|page| model.contains_key(page));
                    let answer = bench.map(ipa, frame, pages * PAGE_SIZE, page_use);
                    match clash {
                        Some(_) => assert!(matches!(answer, Err(Stage2Error::AlreadyMapped(_)))),
                        None => {
                            assert_eq!(answer, Ok(()));
                            model.extend(
                                (0..pages)
                                    .map(|page| page * PAGE_SIZE)
                                    .map(|offset| (ipa + offset, (frame + offset, page_use))),
                            );
                        }
                    }
                }
                1 => {
                    let old = model.insert(ipa, (frame, page_use));
                    let expected = old.map(|(frame, page_use)| Previous {
                        frame: Pa(frame),
                        page_use,
                    });
                    assert_eq!(bench.replace(ipa, frame, page_use), Ok(expected));
                }
                2 => {
                    let expected = match model.remove(&ipa) {
                        Some((frame, page_use)) => Ok(Previous {
                            frame: Pa(frame),
                            page_use,
                        }),
                        None => Err(Stage2Error::NotMapped(Ipa(ipa))),
                    };
                    assert_eq!(bench.unmap_page(ipa), expected);
                }
                _ => {
                    let pages = 1 + random.below(700);
                    let mut bytes = 0;
                    let (machine, pool) = (&bench.machine, &mut bench.pool);
                    bench
                        .stage2
                        .unmap(machine, pool, Ipa(ipa), pages * PAGE_SIZE, |(at, size), previous| {
                            for offset in (0..size).step_by(PAGE_SIZE as usize) {
                                let was = model.remove(&(at.0 + offset));
                                assert_eq!(was, Some((previous.frame.0 + offset, previous.page_use)));
                            }
                            bytes += size;
                        })
                        .expect("unmaps");
                    assert!(bytes <= pages * PAGE_SIZE);
                    assert!(model.range(ipa..ipa + pages * PAGE_SIZE).next().is_none());
                }
            }
        }
        for page in 0..4096 {
            let ipa = base + page * PAGE_SIZE;
            let found = bench.at(ipa).map(|(pa, page_use, _)| (pa, page_use));
            assert_eq!(found, model.get(&ipa).copied(), "seed {seed}, {ipa:#x}");
        }
        assert_eq!(bench.ordered(), Ok(()), "seed {seed}");
    }
}
