//! Who gets which frame: the machine's free RAM, a domain's pool, and references across domains.

use portunus::fakes::FakeMachine;
use portunus::ids::{DomainId, DomainSet, PAGE_SIZE, Pa};
use portunus::memory::frames::{FrameAllocator, FrameError, Zone};
use portunus::memory::pool::{Pool, PoolError, Retired};
use portunus::memory::references::{FrameReferences, ReferenceError};
use portunus::range::PaRange;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn range(start: u64, size: u64) -> PaRange {
    PaRange::new(start, size)
}

#[test]
fn reserved_ranges_are_rounded_outwards_and_free_ones_inwards() {
    let frames = FrameAllocator::new(&[range(0x4000_0100, 0x10_000)], &[range(0x4000_3fff, 2)]);
    assert_eq!(
        frames.free_ranges(),
        [range(0x4000_1000, 0x2000), range(0x4000_5000, 0xb000)]
    );
}

#[test]
fn memory_is_taken_at_the_alignment_that_blocks_need() {
    let ram = [range(0x4000_0000, 4 * GIB)];
    let rows = [
        // size, expected alignment
        (PAGE_SIZE, PAGE_SIZE),
        (MIB, PAGE_SIZE),
        (2 * MIB, 2 * MIB),
        (512 * MIB, 2 * MIB),
        (GIB, GIB),
        (2 * GIB, GIB),
    ];
    for (size, alignment) in rows {
        let mut frames = FrameAllocator::new(&ram, &[range(0x4000_0000, 0x1000)]);
        let got = frames.allocate(size).expect("fits");
        assert_eq!((got.size, got.start.0 % alignment), (size, 0), "{size:#x}");
        assert!(!got.overlaps(range(0x4000_0000, 0x1000)));
    }
}

#[test]
fn a_smaller_alignment_serves_where_the_greater_is_not_to_be_had() {
    let mut frames = FrameAllocator::new(&[range(0x4800_0000, GIB)], &[]);
    assert_eq!(frames.allocate(GIB), Ok(range(0x4800_0000, GIB)));
    assert_eq!(frames.allocate(1), Err(FrameError::Exhausted(PAGE_SIZE)));
}

#[test]
fn the_smallest_free_range_that_fits_is_broken_first() {
    let mut frames = FrameAllocator::new(&[range(0x4000_0000, GIB), range(0x1_0000_0000, 64 * MIB)], &[]);
    assert_eq!(frames.allocate(32 * MIB), Ok(range(0x1_0000_0000, 32 * MIB)));
}

#[test]
fn pieces_cover_what_no_single_range_can() {
    let ram = [
        range(0x4800_0000, 896 * MIB),
        range(0x5_0000_0000, GIB),
        range(0x6_0000_0000, GIB),
    ];
    let mut frames = FrameAllocator::new(&ram, &[]);
    let pieces = frames.allocate_pieces(2 * GIB + 0x3000).expect("fits");
    assert_eq!(pieces.iter().map(|piece| piece.size).sum::<u64>(), 2 * GIB + 0x3000);
    let (_last, blocks) = pieces.split_last().expect("pieces");
    assert!(blocks.iter().all(|piece| piece.is_aligned(2 * MIB)), "{pieces:?}");
    assert_eq!(frames.free_bytes(), 896 * MIB - 0x3000);

    let before = frames.clone();
    assert_eq!(frames.allocate_pieces(GIB), Err(FrameError::Exhausted(GIB)));
    assert_eq!(frames.free_ranges(), before.free_ranges(), "a refusal takes nothing");
}

#[test]
fn memory_below_4_gib_is_left_to_those_who_ask_for_it() {
    let across = [range(0x8000_0000, 4 * GIB)];
    let mut frames = FrameAllocator::new(&across, &[]);
    assert_eq!(frames.allocate(GIB), Ok(range(0x1_0000_0000, GIB)), "a part of a bank");
    assert_eq!(frames.allocate_aligned(2 * MIB, MIB), Ok(range(0x1_4000_0000, 2 * MIB)));
    assert_eq!(frames.allocate_in(Zone::Low, GIB), Ok(range(0x8000_0000, GIB)));
    assert_eq!(
        frames.allocate_pieces(GIB),
        Ok(vec![range(0x1_4020_0000, GIB - 2 * MIB), range(0xc000_0000, 2 * MIB)]),
        "what is above first"
    );
    assert_eq!(
        frames.allocate(2 * MIB),
        Ok(range(0xc020_0000, 2 * MIB)),
        "then what is below"
    );
    assert_eq!(frames.free_bytes(), GIB - 4 * MIB);

    let mut frames = FrameAllocator::new(
        &across,
        &[range(0x8000_0000, 2 * GIB - MIB), range(0x1_0010_0000, 2 * GIB)],
    );
    assert_eq!(
        frames.allocate(2 * MIB),
        Ok(range(0xfff0_0000, 2 * MIB)),
        "one piece across the boundary rather than none"
    );
    let mut frames = FrameAllocator::new(&[range(0x5_0000_0000, GIB)], &[]);
    assert_eq!(
        frames.allocate_in(Zone::Low, MIB),
        Ok(range(0x5_0000_0000, MIB)),
        "without any below"
    );
}

#[test]
fn static_memory_is_given_only_where_all_of_it_is_free() {
    let mut frames = FrameAllocator::new(&[range(0x4000_0000, GIB)], &[range(0x5000_0000, MIB)]);
    let rows = [
        (range(0x4100_0000, 0), Err(FrameError::Empty)),
        (
            range(0x4100_0800, 0x1000),
            Err(FrameError::Misaligned(range(0x4100_0800, 0x1000))),
        ),
        (
            range(0x4100_0000, 0x1001),
            Err(FrameError::Misaligned(range(0x4100_0000, 0x1001))),
        ),
        (
            range(u64::MAX - 0xfff, 0x2000),
            Err(FrameError::Misaligned(range(u64::MAX - 0xfff, 0x2000))),
        ),
        (
            range(0x4ff0_0000, 2 * MIB),
            Err(FrameError::NotFree(range(0x4ff0_0000, 2 * MIB))),
        ),
        (
            range(0x3ff0_0000, 2 * MIB),
            Err(FrameError::NotFree(range(0x3ff0_0000, 2 * MIB))),
        ),
        (range(0x4100_0000, 16 * MIB), Ok(())),
        (
            range(0x4100_0000, MIB),
            Err(FrameError::NotFree(range(0x4100_0000, MIB))),
        ),
    ];
    for (asked, answer) in rows {
        assert_eq!(frames.carve(asked), answer, "{asked}");
    }
    frames.add(range(0x4100_0000, 16 * MIB));
    assert_eq!(
        frames.free_ranges().len(),
        2,
        "what comes back is joined with its neighbours"
    );
}

#[test]
fn a_pool_runs_dry_with_an_error_and_hands_frames_out_zeroed() {
    let machine = FakeMachine::with_memory(Pa(0x8000_0000), 70 * PAGE_SIZE);
    let mut pool = Pool::new(range(0x8000_0000, 70 * PAGE_SIZE));
    let frames: Vec<Pa> = (0..70).map(|_| pool.allocate(&machine).expect("a frame")).collect();
    let mut sorted = frames.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!(sorted.len(), 70);
    assert_eq!(pool.allocate(&machine), Err(PoolError::Exhausted));

    machine.poke(frames[66], &[7; 8]);
    assert_eq!(pool.free(frames[66]), Ok(()));
    assert_eq!(pool.free(frames[66]), Err(PoolError::AlreadyFree(frames[66])));
    assert_eq!(pool.allocate(&machine), Ok(frames[66]));
    assert_eq!(machine.peek(frames[66], 8), [0; 8]);

    for stranger in [Pa(0x7fff_f000), Pa(0x8000_0000 + 70 * PAGE_SIZE), Pa(0x8000_0008)] {
        assert_eq!(pool.free(stranger), Err(PoolError::NotOurs(stranger)));
        assert!(!pool.is_used(stranger));
    }
    assert_eq!(pool.free_frames(), 0);
}

#[test]
fn rows_for_root_tables_are_aligned_to_their_size() {
    let machine = FakeMachine::with_memory(Pa(0x8000_1000), 40 * PAGE_SIZE);
    let mut pool = Pool::new(range(0x8000_1000, 40 * PAGE_SIZE));
    for count in [1, 2, 16] {
        let row = pool.allocate_row(&machine, count).expect("fits");
        assert!(row.is_aligned(count * PAGE_SIZE), "{count} at {row}");
    }
    assert_eq!(pool.free_frames(), 40 - 19);
    assert_eq!(pool.allocate_row(&machine, 16), Err(PoolError::Exhausted));
}

#[test]
fn a_frame_given_up_while_mapped_elsewhere_is_not_handed_out_again() {
    let machine = FakeMachine::with_memory(Pa(0x8000_0000), 2 * PAGE_SIZE);
    let mut pool = Pool::new(range(0x8000_0000, 2 * PAGE_SIZE));
    let (first, second) = (
        pool.allocate(&machine).expect("one"),
        pool.allocate(&machine).expect("two"),
    );
    assert_eq!(pool.retire(first, 2), Ok(Retired::StillMapped));
    assert_eq!(pool.allocate(&machine), Err(PoolError::Exhausted));
    assert!(!pool.last_unmapped(second), "a frame in use stays in use");
    assert!(pool.last_unmapped(first));
    assert!(!pool.last_unmapped(first), "once");
    assert_eq!(pool.allocate(&machine), Ok(first));
    assert_eq!(pool.retire(first, 0), Ok(Retired::Free));
    assert_eq!(pool.free_frames(), 1);
}

#[test]
fn references_follow_the_owner_and_never_wrap() {
    let (a, b) = (DomainId(1), DomainId(2));
    let machine = FakeMachine::with_memory(Pa(0x1000), 0x2000);
    let mut references = FrameReferences::new(&machine, range(0x1000, 0x2000));
    references.add(range(0x8000_0000, 512 * PAGE_SIZE), b).expect("room");
    references.add(range(0x4000_0000, 511 * PAGE_SIZE), a).expect("room");
    let one_more = range(0x9000_0000, 2 * PAGE_SIZE);
    assert_eq!(references.add(one_more, a), Err(ReferenceError::TableFull(one_more)));
    let twice = range(0x8000_1000, PAGE_SIZE);
    assert_eq!(references.add(twice, a), Err(ReferenceError::Overlap(twice)));

    let last = Pa(0x4000_0000 + 510 * PAGE_SIZE + 5);
    for stranger in [Pa(0), Pa(0x3fff_ffff), Pa(0x4000_0000 + 511 * PAGE_SIZE), Pa(u64::MAX)] {
        assert_eq!(references.owner(stranger), None);
        assert_eq!(
            references.get(&machine, stranger, a),
            Err(ReferenceError::NotOwned(stranger))
        );
        assert_eq!(
            references.put(&machine, stranger),
            Err(ReferenceError::NotOwned(stranger))
        );
    }
    assert_eq!(
        references.get(&machine, last, b),
        Err(ReferenceError::WrongOwner(last, a))
    );
    assert_eq!(references.put(&machine, last), Err(ReferenceError::Unreferenced(last)));
    assert_eq!(references.get(&machine, last, a), Ok(()));
    assert_eq!(references.get(&machine, last, a), Ok(()));
    assert_eq!(
        references.count(&machine, Pa(last.0 & !0xfff)),
        Ok(2),
        "a frame has one count"
    );
    assert_eq!(references.count(&machine, Pa(0x8000_0000)), Ok(0));
    assert_eq!(references.put(&machine, last), Ok(1));
    assert_eq!(references.put(&machine, last), Ok(0));

    // The owner of the lower range was added last, so its counters lie behind the other's.
    machine.poke(Pa(0x1000 + 512 * 8), &((1_u32 << 30) - 1).to_le_bytes());
    assert_eq!(
        references.get(&machine, Pa(0x4000_0000), a),
        Err(ReferenceError::Saturated(Pa(0x4000_0000)))
    );
}

#[test]
fn parked_frames_stay_their_owners_and_wait_for_the_last_who_maps_them() {
    let (a, b) = (DomainId(1), DomainId(2));
    let machine = FakeMachine::with_memory(Pa(0x1000), 0x1000);
    let mut references = FrameReferences::new(&machine, range(0x1000, 0x1000));
    references.add(range(0x8000_0000, 4 * PAGE_SIZE), a).expect("room");
    references.add(range(0x4000_0000, 4 * PAGE_SIZE), b).expect("room");
    references.add(range(0x9000_0000, 4 * PAGE_SIZE), a).expect("room");
    let [first, second, third, other] = [0x8000_0000, 0x9000_3000, 0x8000_3000, 0x4000_0000].map(Pa);
    assert_eq!(references.unpark(&machine, a), None);
    assert_eq!(references.unpark(&machine, DomainId(3)), None);
    assert_eq!(references.park(&machine, Pa(0)), Err(ReferenceError::NotOwned(Pa(0))));

    references.get(&machine, second, a).expect("a reference");
    references.get(&machine, second, a).expect("a reference");
    for frame in [first, second, third, other] {
        assert_eq!(references.park(&machine, frame), Ok(DomainSet::default()), "{frame}");
        assert_eq!(references.park(&machine, frame), Err(ReferenceError::Parked(frame)));
    }
    for frame in [first, second] {
        assert_eq!(references.get(&machine, frame, a), Err(ReferenceError::Parked(frame)));
    }
    assert_eq!(
        references.put(&machine, first),
        Err(ReferenceError::Unreferenced(first))
    );
    assert_eq!(references.count(&machine, first), Ok(0));
    assert_eq!(references.count(&machine, second), Ok(2));
    assert_eq!(references.unpark(&machine, a), Some(third));
    assert_eq!(references.put(&machine, second), Ok(1));
    assert_eq!(references.unpark(&machine, a), Some(first));
    assert_eq!(references.unpark(&machine, a), None, "somebody maps the second frame");
    assert_eq!(references.put(&machine, second), Ok(0));
    assert_eq!(references.unpark(&machine, a), Some(second));
    assert_eq!(references.unpark(&machine, a), None);
    assert_eq!(references.unpark(&machine, b), Some(other));
    assert_eq!(references.get(&machine, second, a), Ok(()), "as good as new");
}

/// The domains of a set.
fn members(mut set: DomainSet) -> Vec<u16> {
    let mut members = Vec::new();
    while let Some(domain) = set.first() {
        members.push(domain.0);
        set.remove(domain);
    }
    members
}

#[test]
fn mappings_of_ram_are_counted_for_each_mapper_and_kept_within_its_quota() {
    let (owner, one, two) = (DomainId(1), DomainId(2), DomainId(16));
    let machine = FakeMachine::with_memory(Pa(0x1000), 0x1000);
    let mut references = FrameReferences::new(&machine, range(0x1000, 0x1000));
    references
        .add_ram(range(0x8000_0000, 8 * PAGE_SIZE), owner)
        .expect("room");
    references.add(range(0x9000_0000, PAGE_SIZE), owner).expect("room");
    let [first, second, pool] = [0x8000_0000, 0x8000_1000, 0x9000_0000].map(Pa);
    assert_eq!(
        references.map(&machine, first, owner, one, 0),
        Err(ReferenceError::Quota(0))
    );
    for frame in [first, second, first] {
        assert_eq!(references.map(&machine, frame, owner, one, 3), Ok(()));
    }
    assert_eq!(
        references.map(&machine, second, owner, one, 3),
        Err(ReferenceError::Quota(3)),
        "the same page twice is two"
    );
    assert_eq!(references.count(&machine, second), Ok(1), "a refusal takes nothing");
    assert_eq!(
        references.map(&machine, second, owner, two, 3),
        Ok(()),
        "another's quota"
    );
    assert_eq!((references.mapped(one, owner), references.mapped(two, owner)), (3, 1));
    assert_eq!(references.mapped(owner, one), 0);
    // What fails for another reason uses nothing up, and a frame of the hypervisor's is none of the quota.
    let nobody = Pa(0x7000_0000);
    assert_eq!(
        references.map(&machine, nobody, owner, two, 3),
        Err(ReferenceError::NotOwned(nobody))
    );
    assert_eq!(
        references.map(&machine, first, one, two, 3),
        Err(ReferenceError::WrongOwner(first, owner))
    );
    assert_eq!(references.get(&machine, pool, owner), Ok(()));
    assert_eq!(references.unmap(&machine, pool, one), None, "no RAM");
    assert_eq!(references.put(&machine, pool), Ok(0));
    assert_eq!((references.mapped(one, owner), references.mapped(two, owner)), (3, 1));

    assert_eq!(references.unmap(&machine, first, one), Some(Ok(1)));
    assert_eq!(references.map(&machine, second, owner, one, 3), Ok(()), "room again");
    for (frame, left) in [(second, 2), (second, 1), (first, 0)] {
        assert_eq!(references.unmap(&machine, frame, one), Some(Ok(left)));
    }
    assert_eq!(
        references.unmap(&machine, first, one),
        Some(Err(ReferenceError::Unreferenced(first)))
    );
    assert_eq!((references.mapped(one, owner), references.mapped(two, owner)), (0, 1));
    for number in [0, 17, u16::MAX] {
        let mapper = DomainId(number);
        assert_eq!(references.mapped(mapper, owner), 0);
        assert_eq!(
            references.map(&machine, first, owner, mapper, u64::MAX).is_ok(),
            number == 0,
            "{number}"
        );
    }
}

#[test]
fn a_page_that_leaves_names_those_who_map_it_and_no_others() {
    let (owner, one, two) = (DomainId(1), DomainId(2), DomainId(3));
    let machine = FakeMachine::with_memory(Pa(0x1000), 0x1000);
    let mut references = FrameReferences::new(&machine, range(0x1000, 0x1000));
    references
        .add_ram(range(0x8000_0000, 8 * PAGE_SIZE), owner)
        .expect("room");
    let frame = |index: u64| Pa(0x8000_0000 + index * PAGE_SIZE);
    for (index, mapper) in [(0, one), (1, two), (2, one), (2, two), (4, one), (5, two)] {
        references
            .map(&machine, frame(index), owner, mapper, 100)
            .expect("a reference");
    }
    // A reference that is no mapping, of a page that somebody has mapped before.
    references.get(&machine, frame(3), owner).expect("a reference");
    assert_eq!(references.unmap(&machine, frame(4), one), Some(Ok(0)));
    references.get(&machine, frame(4), owner).expect("a reference");
    for (index, mappers) in [
        (0, vec![2]),
        (1, vec![3]),
        (2, vec![2, 3]),
        (3, vec![]),
        (4, vec![]),
        (6, vec![]),
    ] {
        let left = references.park(&machine, frame(index)).expect("it was not parked");
        assert_eq!(members(left), mappers, "page {index}");
    }
    // Taken again, it is new.
    assert_eq!(references.unmap(&machine, frame(0), one), Some(Ok(0)));
    assert_eq!(references.unpark(&machine, owner), Some(frame(0)));
    assert_eq!(references.park(&machine, frame(0)).map(members), Ok(vec![]));
}

#[test]
#[should_panic(expected = "no memory region")]
fn the_fake_machine_refuses_memory_that_nobody_gave_it() {
    let machine = FakeMachine::with_memory(Pa(0x1000), 0x1000);
    machine.peek(Pa(0x1ffc), 8);
}

#[test]
fn the_fake_machine_reads_poison_until_memory_is_written_or_zeroed() {
    let machine = FakeMachine::with_memory(Pa(0x1000), 0x10_0000);
    assert_eq!(machine.peek(Pa(0x2ffe), 2), [0xaa; 2]);
    portunus::memory::PhysicalMemory::zero(&machine, Pa(0x1ffe), 0x2004);
    assert_eq!(machine.peek(Pa(0x1ffc), 4), [0xaa, 0xaa, 0, 0]);
    assert_eq!(machine.peek(Pa(0x2000), 0x2000), [0; 0x2000]);
    assert_eq!(machine.peek(Pa(0x4000), 4), [0, 0, 0xaa, 0xaa]);
    machine.poke(Pa(0x3001), &[9]);
    assert_eq!(machine.peek(Pa(0x3000), 3), [0, 9, 0]);
}
