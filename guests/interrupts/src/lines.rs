//! Lines that another domain drives: levels and edges. From the first case on each source has sent 0, so that its levels
//! are a line's.

use core::sync::atomic::{AtomicUsize, Ordering};

use crate::recorder::{count, masked, set_hook, settle, total, wait_until};
use crate::registers::{self, ISPENDR, configure};
use crate::source::{COUNT, Sources};
use crate::{Bench, Case, Needs, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("a high level comes again until it is low", Needs::Lines, again),
    (
        "a level that is low again before it is taken does not come",
        Needs::Lines,
        gone,
    ),
    ("an edge comes although the line is low again", Needs::Lines, edge),
    (
        "a high level can't be taken back by a register",
        Needs::Lines,
        not_taken_back,
    ),
    (
        "a level that is disabled is pending while it is high",
        Needs::Lines,
        disabled,
    ),
    ("64 levels at once come until each is low", Needs::Lines, many),
];

const LINE: usize = 30;

/// For hooks: the bench's sources, which live as long as the guest.
static SOURCES: AtomicUsize = AtomicUsize::new(0);

fn sources() -> &'static Sources {
    // SAFETY: `lines` stored the address of the bench's sources, which are in use until the guest powers off.
    unsafe { &*(SOURCES.load(Ordering::SeqCst) as *const Sources) }
}

/// All lines low; source `LINE` as asked for.
fn lines(bench: &Bench, edge: bool) -> u32 {
    SOURCES.store(&raw const bench.sources as usize, Ordering::SeqCst);
    bench.sources.lower(0, COUNT);
    let intid = bench.sources.intids[LINE];
    configure(bench.gic, intid, edge);
    intid
}

fn again(bench: &Bench) -> Outcome {
    let intid = lines(bench, false);
    set_hook(|_, acknowledged| {
        if count(0, acknowledged.intid) == 4 {
            sources().lower(LINE, 1);
        }
    });
    bench.sources.raise(bench.gic, LINE, 1);
    let come = wait_until(|| count(0, intid) == 4);
    settle();
    ensure!(come && count(0, intid) == 4, "it came {} times", count(0, intid));
    Ok(())
}

fn gone(bench: &Bench) -> Outcome {
    let intid = lines(bench, false);
    let pending = masked(|| {
        bench.sources.raise(bench.gic, LINE, 1);
        let high = registers::get(bench.gic, ISPENDR, intid);
        bench.sources.lower(LINE, 1);
        (high, registers::get(bench.gic, ISPENDR, intid))
    });
    settle();
    ensure!(
        pending == (true, false) && count(0, intid) == 0,
        "pending {pending:?}, came {} times",
        count(0, intid)
    );
    Ok(())
}

fn edge(bench: &Bench) -> Outcome {
    let intid = lines(bench, true);
    masked(|| {
        bench.sources.raise(bench.gic, LINE, 1);
        bench.sources.lower(LINE, 1);
    });
    let come = wait_until(|| count(0, intid) == 1);
    settle();
    ensure!(come && count(0, intid) == 1, "it came {} times", count(0, intid));
    Ok(())
}

fn not_taken_back(bench: &Bench) -> Outcome {
    let intid = lines(bench, false);
    set_hook(|_, _| sources().lower(LINE, 1));
    let pending = masked(|| {
        bench.sources.raise(bench.gic, LINE, 1);
        bench.gic.clear_pending(intid);
        registers::get(bench.gic, ISPENDR, intid)
    });
    let come = wait_until(|| count(0, intid) == 1);
    settle();
    ensure!(
        pending && come && count(0, intid) == 1,
        "pending: {pending}, came {} times",
        count(0, intid)
    );
    Ok(())
}

fn disabled(bench: &Bench) -> Outcome {
    let intid = lines(bench, false);
    bench.gic.disable(intid);
    bench.sources.raise(bench.gic, LINE, 1);
    let high = registers::get(bench.gic, ISPENDR, intid);
    bench.sources.lower(LINE, 1);
    let low = registers::get(bench.gic, ISPENDR, intid);
    registers::set(bench.gic, registers::ISENABLER, intid);
    settle();
    ensure!(
        high && !low && count(0, intid) == 0,
        "high {high}, low {low}, came {} times",
        count(0, intid)
    );
    Ok(())
}

fn many(bench: &Bench) -> Outcome {
    lines(bench, false);
    bench
        .sources
        .intids
        .iter()
        .for_each(|intid| configure(bench.gic, *intid, false));
    set_hook(|_, acknowledged| {
        let index = sources().intids.iter().position(|intid| *intid == acknowledged.intid);
        if let (Some(index), 3) = (index, count(0, acknowledged.intid)) {
            sources().lower(index, 1);
        }
    });
    bench.sources.raise(bench.gic, 0, COUNT);
    let all = || bench.sources.intids.iter().all(|intid| count(0, *intid) == 3);
    let come = wait_until(all);
    settle();
    ensure!(come && all(), "{} came", total(0));
    Ok(())
}
