//! Backends that die and successors that go on: before every step of a run, twice in a row, during a resume.

mod accelerated;
mod driver;
mod hypervisor;
mod nonsense;
mod registers;
mod third_party;
mod world;

use driver::{Driver, Kind, Options, Request, Run};
use world::{Fate, SECTORS, World};

/// A generator of numbers (xorshift), for runs that are the same each time.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// All of them without acceleration, and each of them once with it.
fn options() -> impl Iterator<Item = Options> {
    let plain = (0..8).map(|bits| (bits, false));
    let accelerated = [0, 3, 5, 6].map(|bits| (bits, true));
    plain.chain(accelerated).map(|(bits, accelerated)| Options {
        queues: if bits & 4 == 0 { 1 } else { 2 },
        event_idx: bits & 1 != 0,
        indirect: bits & 2 != 0,
        accelerated,
    })
}

/// Some requests beside each other, in batches, on all queues, while interrupts come and the device works a little.
fn traffic(run: &mut Run<'_>, random: &mut Random, requests: usize) {
    let queues = u64::from(run.driver.options.queues);
    let mut submitted = 0;
    while submitted < requests {
        let queue = random.below(queues) as usize;
        for _ in 0..=random.below(3) {
            let sectors = 1 + random.below(5) as usize;
            let sector = random.below((SECTORS - sectors) as u64) as usize;
            let kind = match random.below(5) {
                0 => Kind::Flush,
                1 | 2 => Kind::Write(random.below(255) as u8),
                _ => Kind::Read,
            };
            if submitted < requests && run.driver.has_room(queue) && !run.driver.touches(sector, sectors) {
                run.submit(queue, Request { kind, sector, sectors });
                submitted += 1;
            }
        }
        run.notify(queue);
        let turns = random.below(4) as usize;
        run.work(turns);
        if random.below(2) == 0 {
            run.take_interrupt();
        }
    }
}

/// Every sector holds what was written last.
fn read_back(run: &mut Run<'_>) {
    for sector in (0..SECTORS).step_by(4) {
        let request = Request {
            kind: Kind::Read,
            sector,
            sectors: 4,
        };
        run.submit(0, request);
        run.notify(0);
        run.wait();
    }
}

/// From nothing: set up, traffic, a reset with requests in work, traffic across the wrap of the indices.
fn whole_life(run: &mut Run<'_>) {
    let random = &mut Random(0x9e37_79b9_7f4a_7c15);
    run.set_up();
    traffic(run, random, 9);
    run.wait();
    traffic(run, random, 4);
    run.set_up();
    traffic(run, random, 4);
    run.wait();
    run.age(0xfffd);
    traffic(run, random, 12);
    run.wait();
    assert_eq!(run.driver.submitted, run.driver.completed + run.driver.dropped);
}

/// A run with deaths; the deaths and the steps that there were, and requests that were run again.
fn run_with(options: Options, lives: &[u64], script: fn(&mut Run<'_>)) -> (u64, u64, u32) {
    let mut world = World::new();
    world.fate = Fate::new(lives.iter().copied());
    let mut run = Run::new(&world, Driver::new(options));
    script(&mut run);
    let again = run.again;
    drop(run);
    (world.fate.deaths.get(), world.fate.total.get(), again)
}

#[test]
fn a_death_before_any_step_is_noticed_by_nobody() {
    let (mut deaths, mut again) = (0, 0);
    for options in options() {
        let (none, steps, _) = run_with(options, &[], whole_life);
        assert_eq!(none, 0);
        for step in 1..=steps {
            let (died, _, repeated) = run_with(options, &[step], whole_life);
            assert_eq!(died, 1, "{options:?} at step {step}");
            deaths += died;
            again += repeated;
        }
    }
    println!("{deaths} deaths, {again} requests run again");
    assert!(deaths > 5_000 && again > 1_000);
}

/// Set up, then a few requests beside each other.
fn short_life(run: &mut Run<'_>) {
    run.set_up();
    run.age(0xffff);
    traffic(run, &mut Random(0x1234_5678_9abc_def1), 6);
    run.wait();
    read_back(run);
    assert_eq!(run.driver.submitted, run.driver.completed);
}

#[test]
fn a_successor_that_dies_while_it_resumes_is_noticed_by_nobody() {
    let mut deaths = 0;
    for options in options().filter(|options| options.queues == 2) {
        let (_, steps, _) = run_with(options, &[], short_life);
        for step in (1..=steps).step_by(7) {
            for second in 1..=14 {
                let (died, ..) = run_with(options, &[step, second], short_life);
                assert!(died >= 1, "{options:?} at step {step}, then {second}");
                deaths += died;
            }
        }
    }
    println!("{deaths} deaths");
    assert!(deaths > 5_000);
}

#[test]
fn lives_of_random_length_one_after_the_other() {
    let random = &mut Random(77);
    let mut deaths = 0;
    for turn in 0..160 {
        let longest = 2 + random.below(60);
        let lives: Vec<u64> = (0..100).map(|_| 1 + random.below(longest)).collect();
        // A backend whose lives are all shorter than one reset would never end it.
        let lives: Vec<u64> = lives
            .into_iter()
            .map(|life| life + if turn % 2 == 0 { 0 } else { 200 })
            .collect();
        let options = options().nth(turn % 12).unwrap();
        let (died, ..) = run_with(options, &lives, whole_life);
        assert!(died > 0, "{options:?} {lives:?}");
        deaths += died;
    }
    println!("{deaths} deaths");
}
