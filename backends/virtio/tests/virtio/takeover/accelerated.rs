//! Registers that are shown to the driver: who waits for whom, and disks that grow while backends die.

use portunus_virtio::mmio::register as r;

use super::driver::{Driver, Options, Run};
use super::hypervisor::Work;
use super::world::{Fate, SECTORS, World};
use super::{Random, options, traffic};

/// A capacity that differs from the old one in both halves.
const GROWN: u64 = 0x3_0000_0000 | (SECTORS as u64 / 2);

#[test]
fn in_steady_state_a_driver_never_waits() {
    for options in options().filter(|options| options.accelerated) {
        let world = World::new();
        let mut run = Run::new(&world, Driver::new(options));
        run.set_up();
        let set_up = world.hypervisor.waits.get();
        traffic(&mut run, &mut Random(11), 200);
        run.wait();
        assert_eq!(run.driver.completed, 200);
        assert_eq!(world.hypervisor.waits.get(), set_up, "{options:?}");
        let (rings, acknowledgements) = (world.hypervisor.rings.get(), world.hypervisor.acknowledgements.get());
        assert!((1..=200).contains(&rings) && (1..=200).contains(&acknowledgements));
    }
}

#[test]
fn without_acceleration_it_waits_for_each_of_three_accesses() {
    let options = options()
        .find(|options| !options.accelerated && !options.event_idx)
        .unwrap();
    let world = World::new();
    let mut run = Run::new(&world, Driver::new(options));
    run.set_up();
    let set_up = world.hypervisor.waits.get();
    for turn in 1..=10 {
        traffic(&mut run, &mut Random(3), 1);
        run.wait();
        assert_eq!(world.hypervisor.waits.get(), set_up + 3 * turn);
    }
}

/// Traffic with accesses for which the driver waits, while its disk grows and while an interrupt is pending.
fn waits_and_traffic(world: &World, run: &mut Run<'_>) {
    let random = &mut Random(23);
    run.set_up();
    for round in 0..4 {
        traffic(run, random, 5);
        if round == 2 {
            world.sectors.set(GROWN as usize);
        }
        // The requests are done, the interrupt is pending, and nothing is left to do: then another vCPU waits too long.
        while !run.work(1) {}
        run.write(r::QUEUE_SEL, round % 2);
        run.work(4);
        run.wait();
    }
    run.set_up();
    traffic(run, random, 5);
    run.wait();
    assert_eq!(run.driver.submitted, run.driver.completed + run.driver.dropped);
    assert_eq!(run.driver.capacity, GROWN);
}

#[test]
fn a_backend_that_is_too_slow_loses_no_interrupt_and_shows_its_page_again() {
    for options in options().filter(|options| options.accelerated) {
        let world = World::new();
        waits_and_traffic(&world, &mut Run::new(&world, Driver::new(options)));
        let waits = world.hypervisor.waits.get();
        for wait in 1..=waits {
            for work in [Work::Begin, Work::Publish, Work::Answer] {
                for refuses in [0, 2] {
                    let world = World::new();
                    world.hypervisor.slow.set(Some((wait, work)));
                    world.hypervisor.refuses.set(refuses);
                    let mut run = Run::new(&world, Driver::new(options));
                    waits_and_traffic(&world, &mut run);
                    if world.hypervisor.withdrawals.get() == 0 {
                        // That access was a read, which publishes nothing.
                        assert_eq!(work, Work::Publish);
                        continue;
                    }
                    if wait + u64::from(refuses) < waits {
                        let before = world.hypervisor.waits.get();
                        run.read(r::STATUS);
                        assert_eq!(world.hypervisor.waits.get(), before, "it reads without asking again");
                    }
                }
            }
        }
    }
}

#[test]
fn a_backend_that_is_too_slow_and_then_dies_is_succeeded() {
    for options in options().filter(|options| options.accelerated && options.queues == 1) {
        let slow = Some((40, Work::Answer));
        let run = |lives: &[u64]| {
            let mut world = World::new();
            world.fate = Fate::new(lives.iter().copied());
            world.hypervisor.slow.set(slow);
            waits_and_traffic(&world, &mut Run::new(&world, Driver::new(options)));
            world.fate.total.get()
        };
        for step in 1..=run(&[]) {
            run(&[step]);
        }
    }
}

/// Reads the capacity while the backend works on between any two reads; whether old or new.
fn read_meanwhile(run: &mut Run<'_>) -> u64 {
    loop {
        let generation = run.read(r::CONFIG_GENERATION);
        run.work(1);
        let low = run.read(r::CONFIG);
        run.work(1);
        let high = run.read(r::CONFIG + 4);
        if run.read(r::CONFIG_GENERATION) == generation {
            let capacity = u64::from(low) | u64::from(high) << 32;
            assert!(capacity == SECTORS as u64 || capacity == GROWN, "{capacity:#x}");
            return capacity;
        }
    }
}

/// A disk that grows with requests in work; the driver is told of it.
fn growth(world: &World, run: &mut Run<'_>, while_dead: bool) {
    run.set_up();
    assert_eq!(run.driver.capacity, SECTORS as u64);
    traffic(run, &mut Random(7), 3);
    if while_dead {
        run.bury();
    }
    world.sectors.set(GROWN as usize);
    read_meanwhile(run);
    traffic(run, &mut Random(9), 2);
    run.wait();
    for _ in 0..10 {
        run.work(1);
        run.take_interrupt();
    }
    assert_eq!(run.driver.capacity, GROWN, "the driver was told");
    assert_eq!(run.driver.submitted, run.driver.completed);
}

fn grow(options: Options, lives: &[u64], while_dead: bool) -> u64 {
    let mut world = World::new();
    world.fate = Fate::new(lives.iter().copied());
    growth(&world, &mut Run::new(&world, Driver::new(options)), while_dead);
    world.fate.total.get()
}

#[test]
fn a_disk_that_grows_is_noticed_whole_whenever_backends_die() {
    for options in options().filter(|options| options.queues == 1) {
        for while_dead in [false, true] {
            let steps = grow(options, &[], while_dead);
            for step in 1..=steps {
                grow(options, &[step], while_dead);
            }
        }
    }
}

#[test]
fn a_change_that_was_acknowledged_is_not_told_again() {
    for options in options().filter(|options| options.queues == 1) {
        let world = World::new();
        let mut run = Run::new(&world, Driver::new(options));
        growth(&world, &mut run, false);
        let generation = run.read(r::CONFIG_GENERATION);
        run.work(1);
        run.bury();
        run.work(2);
        assert_eq!(run.read(r::INTERRUPT_STATUS) & 2, 0, "{options:?}");
        assert_eq!(run.read(r::CONFIG_GENERATION), generation);
    }
}
