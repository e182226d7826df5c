//! What registers show of an interrupt's state, and what writing them does.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::recorder::{count, ended, masked, set_hook, settle, total, wait_until};
use crate::registers::{self, ICACTIVER, ISACTIVER, ISENABLER, ISPENDR};
use crate::source::COUNT;
use crate::{Bench, Case, Needs, Outcome};

pub(crate) const CASES: &[Case] = &[
    (
        "disabled SPIs stay pending and come when they are enabled",
        Needs::Nothing,
        disabled,
    ),
    (
        "a pending SPI that is taken back does not come",
        Needs::Nothing,
        taken_back,
    ),
    (
        "an SPI that is disabled while it is pending comes when it is enabled",
        Needs::Nothing,
        disabled_late,
    ),
    (
        "an SPI is pending until it is taken, then active until it is ended",
        Needs::Nothing,
        life,
    ),
    (
        "an SPI raised while it is active comes again",
        Needs::Nothing,
        raised_while_active,
    ),
    (
        "an SPI that is made active comes when it is made inactive",
        Needs::Nothing,
        made_active,
    ),
    (
        "ended and not deactivated, an SPI does not come again",
        Needs::Nothing,
        separate_deactivation,
    ),
    (
        "nothing comes while the distributor is off, all comes afterwards",
        Needs::Nothing,
        distributor_off,
    ),
    (
        "priorities, triggers and enables read as written",
        Needs::Nothing,
        read_back,
    ),
    (
        "registers of interrupts that do not exist read as zero",
        Needs::Nothing,
        beyond_the_end,
    ),
];

fn disabled(bench: &Bench) -> Outcome {
    let intids = &bench.sources.intids;
    intids.iter().for_each(|intid| bench.gic.disable(*intid));
    bench.sources.raise(bench.gic, 0, COUNT);
    settle();
    let pending = intids
        .iter()
        .filter(|intid| registers::get(bench.gic, ISPENDR, **intid))
        .count();
    ensure!(
        total(0) == 0 && pending == COUNT,
        "{} came, {pending} are pending",
        total(0)
    );
    intids
        .iter()
        .for_each(|intid| registers::set(bench.gic, ISENABLER, *intid));
    let all = || intids.iter().all(|intid| count(0, *intid) == 1);
    let come = wait_until(all);
    settle();
    ensure!(come && all(), "{} came when enabled", total(0));
    Ok(())
}

fn taken_back(bench: &Bench) -> Outcome {
    masked(|| {
        bench.sources.raise(bench.gic, 0, COUNT);
        bench
            .sources
            .intids
            .iter()
            .for_each(|intid| bench.gic.clear_pending(*intid));
    });
    settle();
    ensure!(total(0) == 0, "{} came", total(0));
    Ok(())
}

fn disabled_late(bench: &Bench) -> Outcome {
    masked(|| {
        bench.sources.raise(bench.gic, 0, COUNT);
        bench.sources.intids.iter().for_each(|intid| bench.gic.disable(*intid));
    });
    settle();
    ensure!(total(0) == 0, "{} came while disabled", total(0));
    for intid in &bench.sources.intids {
        ensure!(
            registers::get(bench.gic, ISPENDR, *intid),
            "{intid} is not pending any more"
        );
        registers::set(bench.gic, ISENABLER, *intid);
    }
    let all = || bench.sources.intids.iter().all(|intid| count(0, *intid) == 1);
    ensure!(wait_until(all), "{} came when enabled", total(0));
    Ok(())
}

static SEEN: AtomicU32 = AtomicU32::new(0);

fn life(bench: &Bench) -> Outcome {
    let intid = bench.sources.intids[1];
    let state = move |gic| {
        (
            registers::get(gic, ISPENDR, intid),
            registers::get(gic, ISACTIVER, intid),
        )
    };
    set_hook(|gic, acknowledged| {
        let [pending, active] = [ISPENDR, ISACTIVER].map(|register| registers::get(gic, register, acknowledged.intid));
        SEEN.store(u32::from(pending) << 1 | u32::from(active), Ordering::SeqCst);
    });
    let (before, raised) = masked(|| {
        let before = state(bench.gic);
        bench.sources.raise(bench.gic, 1, 1);
        (before, state(bench.gic))
    });
    ensure!(wait_until(|| ended(0) == 1), "it does not come");
    let (taken, after) = (SEEN.load(Ordering::SeqCst), state(bench.gic));
    ensure!(
        before == (false, false) && raised == (true, false) && taken == 0b01 && after == (false, false),
        "pending and active: {before:?}, raised {raised:?}, taken {taken:#b}, ended {after:?}"
    );
    Ok(())
}

fn raised_while_active(bench: &Bench) -> Outcome {
    let intid = bench.sources.intids[1];
    // By registers: the source may not be used while its own interrupt is served.
    set_hook(|gic, acknowledged| {
        if count(0, acknowledged.intid) == 1 {
            gic.set_pending(acknowledged.intid);
        }
    });
    bench.sources.raise(bench.gic, 1, 1);
    let come = wait_until(|| count(0, intid) == 2);
    settle();
    ensure!(come && count(0, intid) == 2, "it came {} times", count(0, intid));
    Ok(())
}

fn made_active(bench: &Bench) -> Outcome {
    let intid = bench.sources.intids[2];
    registers::set(bench.gic, ISACTIVER, intid);
    bench.sources.raise(bench.gic, 2, 1);
    settle();
    let state = [ISPENDR, ISACTIVER].map(|register| registers::get(bench.gic, register, intid));
    ensure!(
        count(0, intid) == 0 && state == [true; 2],
        "it came {} times, state {state:?}",
        count(0, intid)
    );
    registers::set(bench.gic, ICACTIVER, intid);
    ensure!(
        wait_until(|| count(0, intid) == 1),
        "it does not come when it is inactive"
    );
    Ok(())
}

fn separate_deactivation(bench: &Bench) -> Outcome {
    let intid = bench.sources.intids[4];
    registers::set_separate_deactivation(bench.gic, true);
    bench.sources.raise(bench.gic, 4, 1);
    let first = wait_until(|| ended(0) == 1);
    let active = registers::get(bench.gic, ISACTIVER, intid);
    bench.gic.set_pending(intid);
    settle();
    let meanwhile = count(0, intid);
    registers::deactivate(bench.gic, intid);
    let again = wait_until(|| ended(0) == 2);
    registers::deactivate(bench.gic, intid);
    registers::set_separate_deactivation(bench.gic, false);
    ensure!(
        first && active && meanwhile == 1 && again,
        "came: {first}, active then: {active}, times before deactivation {meanwhile}, afterwards again: {again}"
    );
    Ok(())
}

fn distributor_off(bench: &Bench) -> Outcome {
    let distributor = bench.gic.distributor();
    let control = distributor.read(registers::CTLR);
    distributor.write(registers::CTLR, control & !3);
    bench.sources.raise(bench.gic, 0, COUNT);
    settle();
    let meanwhile = total(0);
    distributor.write(registers::CTLR, control);
    let all = || bench.sources.intids.iter().all(|intid| count(0, *intid) == 1);
    let come = wait_until(all);
    ensure!(
        meanwhile == 0 && come,
        "{meanwhile} came meanwhile, {} in the end",
        total(0)
    );
    Ok(())
}

fn read_back(bench: &Bench) -> Outcome {
    for (index, intid) in bench.sources.intids.iter().enumerate() {
        let priority = (index as u8 % 32) << 3;
        let edge = index % 3 == 0;
        bench.gic.set_priority(*intid, priority);
        bench.gic.disable(*intid);
        registers::configure(bench.gic, *intid, edge);
        let found = (
            registers::priority(bench.gic, *intid),
            registers::is_edge(bench.gic, *intid),
            registers::get(bench.gic, ISENABLER, *intid),
        );
        ensure!(
            found == (priority, edge, false),
            "{intid} reads {found:x?}, not ({priority:#x}, {edge}, false)"
        );
        registers::set(bench.gic, ISENABLER, *intid);
        ensure!(registers::get(bench.gic, ISENABLER, *intid), "{intid} is not enabled");
    }
    Ok(())
}

fn beyond_the_end(bench: &Bench) -> Outcome {
    let distributor = bench.gic.distributor();
    let end = bench.gic.interrupts().min(1020);
    for intid in (end..1020).step_by(32) {
        for register in [ISENABLER, ISPENDR, ISACTIVER] {
            let offset = register + intid as usize / 32 * 4;
            distributor.write(offset, !0);
            let found = distributor.read(offset);
            ensure!(found == 0, "{offset:#x} reads {found:#x}");
        }
    }
    Ok(())
}
