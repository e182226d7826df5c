//! The range table against a naive model: an array with one owner for each address.

use portunus::fakes::Random;
use portunus::ids::ServerId;
use portunus::ioreq::Range;
use portunus::ioreq::ranges::{RangeError, RangeTable};

const SPACE: u64 = 96;

fn range(start: u64, end: u64) -> Range {
    Range::new(start, end).unwrap()
}

/// Runs of the same owner in the model: what the table's entries must be.
fn runs(model: &[Option<u16>]) -> usize {
    let changes = model
        .windows(2)
        .filter(|pair| pair[0] != pair[1] && pair[1].is_some())
        .count();
    changes + usize::from(model[0].is_some())
}

#[test]
fn random_operations_agree_with_an_array_of_owners() {
    for seed in 1..40 {
        let capacity = 12;
        let mut random = Random::new(seed);
        let mut table = RangeTable::with_capacity(capacity);
        let mut model = vec![None; SPACE as usize];
        for _ in 0..600 {
            let start = random.below(SPACE);
            let end = (start + random.below(12)).min(SPACE - 1);
            let owner = random.below(4) as u16;
            let slice = start as usize..=end as usize;
            let mut after = model.clone();
            match random.below(5) {
                0..3 if !model[slice.clone()].contains(&Some(owner)) => {
                    after[slice].fill(Some(owner));
                    let fits = runs(&after) <= capacity;
                    let result = table.assign(range(start, end), ServerId(owner));
                    assert_eq!(result, if fits { Ok(()) } else { Err(RangeError::Full) }, "seed {seed}");
                    if fits {
                        model = after;
                    }
                }
                3 => {
                    let contained = model[slice.clone()].iter().all(|have| *have == Some(owner));
                    after[slice].fill(None);
                    let expected = match (contained, runs(&after) <= capacity) {
                        (false, _) => Err(RangeError::NotContained(start, end)),
                        (true, false) => Err(RangeError::Full),
                        (true, true) => Ok(()),
                    };
                    assert_eq!(
                        table.remove(range(start, end), ServerId(owner)),
                        expected,
                        "seed {seed}"
                    );
                    if expected.is_ok() {
                        model = after;
                    }
                }
                4 if random.below(10) == 0 => {
                    table.remove_all(ServerId(owner));
                    model
                        .iter_mut()
                        .filter(|have| **have == Some(owner))
                        .for_each(|have| *have = None);
                }
                _ => {}
            }
            let first = random.below(SPACE);
            let last = (first + random.below(8)).min(SPACE - 1);
            let access = &model[first as usize..=last as usize];
            let expected = access[0].filter(|owner| access.iter().all(|have| *have == Some(*owner)));
            assert_eq!(
                table.find(range(first, last)),
                expected.map(ServerId),
                "seed {seed}: {first} to {last}"
            );
        }
    }
}

#[test]
fn an_access_must_be_inside_one_range_whole() {
    let mut table = RangeTable::with_capacity(4);
    table.assign(range(0x1000, 0x11ff), ServerId(1)).unwrap();
    table.assign(range(0x1200, 0x13ff), ServerId(2)).unwrap();
    let rows = [
        (0x0fff, 0x0fff, None),
        (0x0fff, 0x1000, None),
        (0x1000, 0x1000, Some(1)),
        (0x11f8, 0x11ff, Some(1)),
        (0x11fc, 0x1203, None),
        (0x1200, 0x1203, Some(2)),
        (0x13fc, 0x1400, None),
    ];
    for (start, end, server) in rows {
        assert_eq!(
            table.find(range(start, end)),
            server.map(ServerId),
            "{start:#x} to {end:#x}"
        );
    }
}

#[test]
fn neighbours_of_one_server_are_one_range() {
    let mut table = RangeTable::with_capacity(2);
    table.assign(range(0x1000, 0x11ff), ServerId(1)).unwrap();
    table.assign(range(0x1400, 0x15ff), ServerId(1)).unwrap();
    table.assign(range(0x1200, 0x13ff), ServerId(1)).unwrap();
    assert_eq!(table.of(ServerId(1)).collect::<Vec<_>>(), [range(0x1000, 0x15ff)]);
    assert_eq!(table.find(range(0x11fc, 0x1203)), Some(ServerId(1)));
}

#[test]
fn a_range_can_end_at_the_last_address_and_start_at_the_first() {
    let mut table = RangeTable::with_capacity(3);
    table.assign(range(0, u64::MAX), ServerId(0)).unwrap();
    assert_eq!(table.find(range(u64::MAX - 7, u64::MAX)), Some(ServerId(0)));
    table.assign(range(u64::MAX, u64::MAX), ServerId(1)).unwrap();
    table.assign(range(0, 0), ServerId(2)).unwrap();
    assert_eq!(table.of(ServerId(0)).collect::<Vec<_>>(), [range(1, u64::MAX - 1)]);
    table.remove(range(1, u64::MAX - 1), ServerId(0)).unwrap();
    assert_eq!(table.find(range(1, 1)), None);
    assert_eq!(Range::from_length(u64::MAX, 2), None);
    assert_eq!(Range::from_length(5, 0), None);
    assert_eq!(Range::new(1, 0), None);
}

#[test]
fn a_server_has_at_most_256_ranges() {
    let mut table = RangeTable::with_capacity(2048);
    for index in 0..256 {
        table.assign(range(index * 16, index * 16 + 7), ServerId(1)).unwrap();
    }
    assert_eq!(
        table.assign(range(0x10000, 0x10007), ServerId(1)),
        Err(RangeError::Full)
    );
    assert_eq!(
        table.remove(range(2, 3), ServerId(1)),
        Err(RangeError::Full),
        "a split makes one more"
    );
    assert_eq!(table.assign(range(8, 15), ServerId(1)), Ok(()), "neighbours merge");
    assert_eq!(
        table.assign(range(0x10000, 0x10007), ServerId(2)),
        Ok(()),
        "another server has its own 256"
    );
}
