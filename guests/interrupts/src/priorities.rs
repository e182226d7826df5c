//! Priorities: order, mask, preemption.

use core::sync::atomic::{AtomicU32, Ordering};

use alloc::vec::Vec;

use guest_runtime::exceptions;
use guest_runtime::gic::{Acknowledged, Gic};

use crate::recorder::{count, ended, masked, order, set_hook, settle, total, wait_until};
use crate::source::COUNT;
use crate::{Bench, Case, Needs, Outcome, registers};

pub(crate) const CASES: &[Case] = &[
    (
        "64 pending SPIs come in the order of their priorities",
        Needs::Nothing,
        in_order,
    ),
    (
        "a priority that is changed while the SPI is pending counts",
        Needs::Nothing,
        changed_late,
    ),
    ("only priorities above the mask come", Needs::Nothing, mask),
    (
        "a higher priority preempts, twelve times over",
        Needs::Nothing,
        preemption,
    ),
    ("the same priority does not preempt", Needs::Nothing, same),
    ("a lower priority does not preempt", Needs::Nothing, lower),
    (
        "higher SPIs that come while all list registers are taken come first",
        Needs::Nothing,
        overtaking,
    ),
];

fn in_order(bench: &Bench) -> Outcome {
    // 64 SPIs, 31 priorities, in no order of their numbers.
    let priority = |index: usize| (index * 7 % 31) as u8 * 8;
    for (index, intid) in bench.sources.intids.iter().enumerate() {
        bench.gic.set_priority(*intid, priority(index));
    }
    masked(|| bench.sources.raise(bench.gic, 0, COUNT));
    let come = wait_until(|| total(0) == COUNT);
    let priorities: Vec<u8> = order(0)
        .iter()
        .map(|intid| registers::priority(bench.gic, *intid))
        .collect();
    ensure!(
        come && priorities.is_sorted(),
        "{} came, with priorities {priorities:x?}",
        total(0)
    );
    Ok(())
}

fn changed_late(bench: &Bench) -> Outcome {
    masked(|| {
        bench.sources.raise(bench.gic, 0, COUNT);
        for (index, intid) in bench.sources.intids.iter().enumerate() {
            bench.gic.set_priority(*intid, 0xf0 - 8 * (index as u8 / 4));
        }
    });
    let come = wait_until(|| total(0) == COUNT);
    let priorities: Vec<u8> = order(0)
        .iter()
        .map(|intid| registers::priority(bench.gic, *intid))
        .collect();
    ensure!(
        come && priorities.is_sorted(),
        "{} came, with priorities {priorities:x?}",
        total(0)
    );
    Ok(())
}

fn mask(bench: &Bench) -> Outcome {
    for (index, intid) in bench.sources.intids.iter().enumerate() {
        bench.gic.set_priority(*intid, 8 * (index as u8 % 16));
    }
    bench.gic.set_priority_mask(0x40);
    bench.sources.raise(bench.gic, 0, COUNT);
    // 0, 8, ... 0x38 of 0 ... 0x78: half of them.
    let half = wait_until(|| total(0) == COUNT / 2);
    settle();
    let above = bench.sources.intids.iter().all(|intid| {
        let expected = u32::from(registers::priority(bench.gic, *intid) < 0x40);
        count(0, *intid) == expected
    });
    ensure!(half && above, "{} came of {}", total(0), COUNT / 2);
    bench.gic.set_priority_mask(0xff);
    ensure!(wait_until(|| total(0) == COUNT), "{} came in the end", total(0));
    Ok(())
}

/// Sources that one handler after the other makes pending.
static FIRST: AtomicU32 = AtomicU32::new(0);
static DEPTH: AtomicU32 = AtomicU32::new(0);
static DEEPEST: AtomicU32 = AtomicU32::new(0);
const NESTED: u32 = 12;

/// Makes the next source pending and lets interrupts in before this one is ended.
fn nest(gic: &Gic, acknowledged: Acknowledged) {
    let depth = DEPTH.fetch_add(1, Ordering::SeqCst) + 1;
    DEEPEST.fetch_max(depth, Ordering::SeqCst);
    let next = acknowledged.intid + 1;
    if next < FIRST.load(Ordering::SeqCst) + NESTED {
        gic.set_pending(next);
        exceptions::enable_interrupts();
        settle();
        exceptions::disable_interrupts();
    }
    DEPTH.fetch_sub(1, Ordering::SeqCst);
}

/// Runs a chain of sources with these priorities; returns how deep they nested.
fn chain(bench: &Bench, priority: impl Fn(u32) -> u8) -> Result<u32, alloc::string::String> {
    let first = bench.sources.intids[0];
    FIRST.store(first, Ordering::SeqCst);
    DEEPEST.store(0, Ordering::SeqCst);
    for index in 0..NESTED {
        bench.gic.set_priority(first + index, priority(index));
    }
    set_hook(nest);
    bench.sources.raise(bench.gic, 0, 1);
    let all = wait_until(|| ended(0) == NESTED as usize);
    settle();
    let once = (0..NESTED).all(|index| count(0, first + index) == 1);
    ensure!(all && once, "{} of {NESTED} came and {} ended", total(0), ended(0));
    Ok(DEEPEST.load(Ordering::SeqCst))
}

fn preemption(bench: &Bench) -> Outcome {
    let deepest = chain(bench, |index| 0xf0 - 16 * index as u8)?;
    ensure!(deepest == NESTED, "at most {deepest} were active at once");
    Ok(())
}

fn same(bench: &Bench) -> Outcome {
    let deepest = chain(bench, |_| 0x80)?;
    ensure!(deepest == 1, "{deepest} were active at once");
    Ok(())
}

fn lower(bench: &Bench) -> Outcome {
    let deepest = chain(bench, |index| 0x20 + 16 * index as u8)?;
    ensure!(deepest == 1, "{deepest} were active at once");
    Ok(())
}

fn overtaking(bench: &Bench) -> Outcome {
    for (index, intid) in bench.sources.intids.iter().enumerate() {
        bench.gic.set_priority(*intid, if index < 48 { 0xc0 } else { 0x40 });
    }
    masked(|| {
        bench.sources.raise(bench.gic, 0, 48);
        settle();
        bench.sources.raise(bench.gic, 48, COUNT - 48);
    });
    let come = wait_until(|| total(0) == COUNT);
    let first: Vec<u32> = order(0).into_iter().take(COUNT - 48).collect();
    let right = first.iter().all(|intid| bench.sources.intids[48..].contains(intid));
    ensure!(come && right, "{} came, first {first:?}", total(0));
    Ok(())
}
