//! Shared interrupts: many at once, storms, routing.

use crate::recorder::{clear, count, masked, set_hook, settle, total, wait_until};
use crate::registers::{self, route};
use crate::source::COUNT;
use crate::worker::{self, OTHER};
use crate::{Bench, Case, Needs, Outcome};

pub(crate) const CASES: &[Case] = &[
    ("64 SPIs at once all come, once each", Needs::Nothing, all_at_once),
    (
        "64 SPIs at once come to either vCPU, a hundred times",
        Needs::Nothing,
        all_again_and_again,
    ),
    (
        "64 SPIs while interrupts are masked all come afterwards",
        Needs::Nothing,
        masked_meanwhile,
    ),
    ("SPIs made pending by registers come", Needs::Nothing, by_registers),
    ("an SPI wakes a vCPU that sleeps", Needs::Nothing, wakes),
    (
        "an SPI comes where it is routed to, and the routing can be read",
        Needs::Nothing,
        routing,
    ),
    (
        "an SPI that is routed elsewhere while it is pending comes there",
        Needs::Nothing,
        rerouted,
    ),
    ("an SPI to both vCPUs comes to one", Needs::GicV2, either),
    ("of a storm of one SPI the last one comes", Needs::Lines, storm),
    (
        "an SPI comes as often as it is raised after its end",
        Needs::Nothing,
        counted,
    ),
];

fn all_come(bench: &Bench, to: usize, times: u32) -> Outcome {
    let missing = || {
        bench
            .sources
            .intids
            .iter()
            .filter(|intid| count(to, **intid) != times)
            .count()
    };
    let come = wait_until(|| missing() == 0);
    settle();
    ensure!(
        come && missing() == 0,
        "{} of {COUNT} SPIs did not come {times} times to vCPU {to}",
        missing()
    );
    Ok(())
}

fn all_at_once(bench: &Bench) -> Outcome {
    bench.sources.raise(bench.gic, 0, COUNT);
    all_come(bench, 0, 1)?;
    ensure!(total(OTHER) == 0, "{} came to vCPU 1", total(OTHER));
    Ok(())
}

fn all_again_and_again(bench: &Bench) -> Outcome {
    for round in 0..100 {
        let to = round % 2;
        bench
            .sources
            .intids
            .iter()
            .for_each(|intid| route(bench.gic, *intid, to));
        bench.sources.raise(bench.gic, 0, COUNT);
        let times = round as u32 / 2 + 1;
        let come = || bench.sources.intids.iter().all(|intid| count(to, *intid) >= times);
        ensure!(wait_until(come), "in round {round} not all came");
    }
    all_come(bench, 0, 50)?;
    all_come(bench, OTHER, 50)
}

fn masked_meanwhile(bench: &Bench) -> Outcome {
    masked(|| {
        bench.sources.raise(bench.gic, 0, COUNT);
        settle();
    });
    all_come(bench, 0, 1)
}

fn by_registers(bench: &Bench) -> Outcome {
    bench
        .sources
        .intids
        .iter()
        .for_each(|intid| bench.gic.set_pending(*intid));
    all_come(bench, 0, 1)
}

fn wakes(bench: &Bench) -> Outcome {
    route(bench.gic, bench.sources.intids[7], OTHER);
    worker::begin(worker::sleep);
    settle();
    bench.sources.raise(bench.gic, 7, 1);
    ensure!(worker::finish(), "vCPU 1 sleeps on");
    Ok(())
}

fn routing(bench: &Bench) -> Outcome {
    let intid = bench.sources.intids[3];
    for (round, to) in [OTHER, 0, OTHER, OTHER, 0].into_iter().enumerate() {
        clear();
        route(bench.gic, intid, to);
        let read = registers::routed_to(bench.gic, intid);
        bench.sources.raise(bench.gic, 3, 1);
        let come = wait_until(|| count(to, intid) == 1);
        settle();
        let counts = (count(0, intid), count(OTHER, intid));
        ensure!(
            come && read == to && counts.0 + counts.1 == 1,
            "round {round}: reads {read}, came {counts:?}"
        );
    }
    Ok(())
}

fn rerouted(bench: &Bench) -> Outcome {
    let intid = bench.sources.intids[3];
    masked(|| {
        bench.sources.raise(bench.gic, 3, 1);
        route(bench.gic, intid, OTHER);
        settle();
    });
    let come = wait_until(|| count(OTHER, intid) == 1);
    settle();
    ensure!(
        come && count(0, intid) == 0,
        "it came {} and {} times",
        count(0, intid),
        count(OTHER, intid)
    );
    Ok(())
}

fn either(bench: &Bench) -> Outcome {
    let intid = bench.sources.intids[9];
    const ITARGETSR: usize = 0x800;
    bench.gic.distributor().write_u8(ITARGETSR + intid as usize, 3);
    bench.sources.raise(bench.gic, 9, 1);
    let both = || count(0, intid) + count(OTHER, intid);
    let come = wait_until(|| both() > 0);
    settle();
    ensure!(come && both() == 1, "it came {} times", both());
    Ok(())
}

const STORM: u32 = 5_000;

fn storm(bench: &Bench) -> Outcome {
    let intid = bench.sources.intids[11];
    bench.sources.burst(11, STORM);
    while bench.sources.burst_left(11) > 0 {
        guest_runtime::let_others_run();
    }
    settle();
    let during = count(0, intid);
    ensure!((1..=STORM).contains(&during), "it came {during} times");
    bench.sources.raise(bench.gic, 11, 1);
    ensure!(
        wait_until(|| count(0, intid) == during + 1),
        "after the storm it does not come"
    );
    Ok(())
}

fn counted(bench: &Bench) -> Outcome {
    set_hook(|_, _| {});
    let intid = bench.sources.intids[20];
    for round in 1..=1000 {
        bench.sources.raise(bench.gic, 20, 1);
        ensure!(
            wait_until(|| count(0, intid) == round),
            "in round {round} it came {} times",
            count(0, intid)
        );
    }
    Ok(())
}
