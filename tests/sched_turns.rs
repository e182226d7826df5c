//! Requests and answers that are only taken down against the same ones decided one by one.

use portunus::fakes::Random;
use portunus::ids::{DomainId, Ticks, VcpuId};
use portunus::sched::{RunQueue, Slot, Turns, Wait};

const SLICE: u64 = 1_000;
const NEVER: Ticks = Ticks(u64::MAX);

/// Two queues with the same history, of which one need not decide everything.
struct Two {
    turns: Turns,
    queue: RunQueue,
    slots: Vec<Slot>,
    now: Ticks,
    /// The server, while it was lent the time without a decision.
    lent: bool,
    taken_down: u32,
}

impl Two {
    fn new(shares: &[u32]) -> Self {
        let (mut queue, mut other) = (RunQueue::new(Ticks(SLICE)), RunQueue::new(Ticks(SLICE)));
        let slots = (1..).zip(shares).map(|(domain, share)| {
            let vcpu = VcpuId {
                domain: DomainId(domain),
                index: 0,
            };
            other.add(vcpu, *share);
            queue.add(vcpu, *share)
        });
        let slots = slots.collect();
        Self {
            turns: Turns::new(other),
            queue,
            slots,
            now: Ticks(0),
            lent: false,
            taken_down: 0,
        }
    }

    fn wake(&mut self, slot: Slot, what: Wait) {
        self.lent = false;
        let found = self.turns.settled().wake(slot, what, self.now);
        assert_eq!(found, self.queue.wake(slot, what, self.now));
    }

    fn pick(&mut self) {
        self.lent = false;
        let found = self.turns.settled().pick(self.now);
        assert_eq!(found, self.queue.pick(self.now), "at {:?}", self.now);
    }

    /// Whatever anybody can know of the queues is the same.
    fn check(&mut self) {
        self.lent = false;
        let (one, other, now) = (self.turns.settled(), &mut self.queue, self.now);
        assert_eq!(one.running(), other.running());
        for slot in &self.slots {
            assert_eq!(one.spent(*slot, now), other.spent(*slot, now), "{slot:?} at {now:?}");
            assert_eq!(
                one.starved(*slot, now),
                other.starved(*slot, now),
                "{slot:?} at {now:?}"
            );
            assert_eq!(one.waits(*slot), other.waits(*slot), "{slot:?} at {now:?}");
            assert_eq!(one.is_current(*slot), other.is_current(*slot), "{slot:?} at {now:?}");
        }
    }

    /// A request. Whether it could be made by one of the short ways.
    fn call(&mut self, from: Slot, to: Slot, deadline: Option<Ticks>) -> bool {
        let now = self.now;
        let runnable = now.0 - self.queue.starved(to, now).map_or(0, |starved| starved.0);
        if let Some(found) = self.turns.lend(from, to, deadline, now) {
            assert_eq!(found.0, runnable, "how long {to:?} could have run at {now:?}");
            let over = self.queue.call(from, to, deadline, now).expect("a usual request");
            assert!(
                over.until.is_none_or(|until| until > now),
                "the other has not decided for good"
            );
            self.lent = true;
            self.taken_down += 1;
            return true;
        }
        self.lent = false;
        let found = self.turns.settled().call(from, to, deadline, now);
        assert_eq!(found, self.queue.call(from, to, deadline, now));
        found.is_some()
    }

    fn answer(&mut self, from: Slot, to: Slot, limit: Ticks) -> bool {
        let now = self.now;
        if self.turns.take_back(from, to, now) {
            assert!(self.lent, "nothing was lent");
            self.lent = false;
            self.taken_down += 1;
            self.queue.answer(from, to, now).expect("a usual answer");
            return true;
        }
        self.lent = false;
        let found = self.turns.answer(from, to, limit, now);
        assert_eq!(found, self.queue.answer(from, to, now));
        found.is_some()
    }

    fn step(&mut self, random: &mut Random) {
        let slot = self.slots[random.below(self.slots.len() as u64) as usize];
        let what = [Wait::Event, Wait::Event, Wait::Request, Wait::Power][random.below(4) as usize];
        let now = self.now;
        match random.below(12) {
            0 | 1 => self.wake(slot, what),
            2 => {
                let deadline = (random.below(2) == 0).then(|| Ticks(now.0 + random.below(3 * SLICE)));
                if let Some(current) = self.queue.running() {
                    self.turns.settled().block(current, what, deadline, now);
                    self.queue.block(current, what, deadline, now);
                }
                self.pick();
            }
            3 => {
                assert_eq!(self.turns.settled().hold(slot, now), self.queue.hold(slot, now));
                self.pick();
            }
            4 | 5 => {
                for slot in self.slots.clone() {
                    assert_eq!(self.turns.settled().release(slot, now), self.queue.release(slot, now));
                }
                self.pick();
            }
            6 => {
                self.turns.settled().visit(slot);
                self.queue.visit(slot);
                self.pick();
                assert_eq!(self.turns.settled().end_visit(slot), self.queue.end_visit(slot));
                self.pick();
            }
            7 => {
                let deadline = (random.below(2) == 0).then(|| Ticks(now.0 + random.below(3 * SLICE)));
                self.turns.settled().set_deadline(slot, deadline);
                self.queue.set_deadline(slot, deadline);
            }
            8 if self.queue.running().is_some() => {
                let found = self.turns.settled().preempt(slot, now);
                assert_eq!(found, self.queue.preempt(slot, now));
            }
            _ => self.pick(),
        }
        self.check();
    }

    /// Some requests of whoever runs to one of the others, and their answers.
    fn talk(&mut self, random: &mut Random) {
        let Some(from) = self.queue.running() else { return };
        let to = self.slots[random.below(self.slots.len() as u64) as usize];
        for _ in 0..random.below(60) {
            let limit = if random.below(3) == 0 {
                Ticks(self.now.0 + random.below(2 * SLICE))
            } else {
                NEVER
            };
            let deadline = match random.below(20) {
                0 => Some(Ticks(self.now.0 + random.below(SLICE))),
                1 => None,
                _ => Some(Ticks(self.now.0 + 5_000 * SLICE)),
            };
            self.now.0 += 1 + random.below(40);
            if from == to || !self.call(from, to, deadline) {
                return;
            }
            self.now.0 += 1 + random.below(40);
            if random.below(40) == 0 {
                self.step(random);
            }
            // Somebody else, or of somebody else.
            let other = self.slots[random.below(self.slots.len() as u64) as usize];
            if random.below(40) == 0 && other != from {
                self.answer(to, other, limit);
            }
            if !self.answer(to, from, limit) {
                return;
            }
        }
    }
}

/// Some events of whoever runs to one that waits, which waits again.
fn volleys(two: &mut Two, random: &mut Random, taken_down: &mut u32) {
    let Some(from) = two.queue.running() else { return };
    let to = two.slots[random.below(two.slots.len() as u64) as usize];
    two.lent = false;
    for _ in 0..random.below(60) {
        two.now.0 += 1 + random.below(40);
        let now = two.now;
        if two.turns.send(from, to, now) {
            two.queue.preempt(to, now).expect("a usual event");
            *taken_down += 1;
        } else {
            let found = two.turns.preempt(to, now);
            assert_eq!(found, two.queue.preempt(to, now));
            if found.is_none() {
                return;
            }
        }
        two.now.0 += 1 + random.below(20);
        if random.below(60) == 0 {
            two.check();
        }
        let now = two.now;
        let deadline = (random.below(20) == 0).then(|| Ticks(now.0 + random.below(3 * SLICE)));
        let known = deadline.is_none().then(|| two.turns.wait_again(to, now)).flatten();
        if let Some((next, vcpu)) = known {
            let expected = two.queue.wait(to, Wait::Event, None, now).expect("a usual wait");
            assert_eq!((next, Some(vcpu)), (from, expected.run));
            *taken_down += 1;
        } else {
            let limit = if random.below(3) == 0 {
                Ticks(now.0 + random.below(2 * SLICE))
            } else {
                NEVER
            };
            let found = two.turns.wait(to, deadline, limit, now);
            let expected = two.queue.wait(to, Wait::Event, deadline, now);
            assert_eq!(found.map(|pick| pick.run), expected.map(|pick| pick.run));
            if let (Some(found), Some(expected)) = (found, expected) {
                // Where it is to be looked at earlier, so that nothing need be set later.
                let later = |until: Option<Ticks>| until.unwrap_or(NEVER);
                assert!(later(found.until) <= later(expected.until));
            } else {
                return;
            }
        }
        if random.below(60) == 0 {
            two.check();
        }
    }
}

#[test]
fn events_that_are_taken_down_change_what_those_that_are_decided_do() {
    let mut taken_down = 0;
    for (seed, shares) in (1..).zip(SHARES) {
        let mut random = Random::new(seed * 0x9e37_79b9);
        for _ in 0..60 {
            let mut two = Two::new(shares);
            for slot in two.slots.clone() {
                two.wake(slot, Wait::Power);
            }
            two.pick();
            for _ in 0..120 {
                two.now.0 += [0, 1, 7, 90, SLICE / 2, SLICE, 3 * SLICE][random.below(7) as usize];
                two.step(&mut random);
                volleys(&mut two, &mut random, &mut taken_down);
                two.talk(&mut random);
                if random.below(2) == 0 {
                    two.check();
                }
            }
        }
    }
    assert!(taken_down > 5_000, "{taken_down} events and waits were taken down");
}

/// Ages of these shares have no fractions, which are dropped at other times when several requests are added up.
const SHARES: [&[u32]; 6] = [
    &[100, 100],
    &[100, 50],
    &[25, 100],
    &[100, 100, 100],
    &[100, 20, 50, 1],
    &[100; 7],
];

#[test]
fn requests_that_are_taken_down_change_what_those_that_are_decided_do() {
    let mut taken_down = 0;
    for (seed, shares) in (1..).zip(SHARES) {
        let mut random = Random::new(seed * 0x9e37_79b9);
        for _ in 0..60 {
            let mut two = Two::new(shares);
            for slot in two.slots.clone() {
                two.wake(slot, Wait::Power);
            }
            two.pick();
            for _ in 0..120 {
                two.now.0 += [0, 1, 7, 90, SLICE / 2, SLICE, 3 * SLICE][random.below(7) as usize];
                two.step(&mut random);
                two.talk(&mut random);
                if random.below(2) == 0 {
                    two.check();
                }
            }
            taken_down += two.taken_down;
        }
    }
    assert!(taken_down > 50_000, "{taken_down} requests and answers were taken down");
}

#[test]
fn two_that_talk_all_the_time_decide_once_a_slice() {
    let mut two = Two::new(&[100, 100]);
    let (guest, server) = (two.slots[0], two.slots[1]);
    two.wake(guest, Wait::Power);
    two.wake(server, Wait::Power);
    two.pick();
    let mut rounds = 0;
    while rounds < 10_000 {
        if two.queue.running() != Some(guest) {
            two.turns.settled().block(server, Wait::Event, None, two.now);
            two.queue.block(server, Wait::Event, None, two.now);
            two.pick();
        }
        two.now.0 += 3;
        assert!(two.call(guest, server, Some(Ticks(two.now.0 + 5_000_000))));
        two.now.0 += 5;
        assert!(two.answer(server, guest, NEVER));
        rounds += 1;
    }
    // 8 ticks each.
    let decided = 20_000 - two.taken_down;
    assert!((40..400).contains(&decided), "{decided} decisions");
    two.check();
}

#[test]
fn nothing_is_lent_beyond_what_else_is_due() {
    let mut two = Two::new(&[100, 100]);
    let (guest, server) = (two.slots[0], two.slots[1]);
    two.wake(guest, Wait::Power);
    two.wake(server, Wait::Power);
    two.pick();
    two.now.0 += 1;
    assert!(two.call(guest, server, None));
    two.now.0 += 1;
    assert!(two.answer(server, guest, Ticks(50)));
    for (now, deadline, lent) in [
        (40, Some(45), false),
        (40, Some(50), false),
        (40, Some(51), true),
        (49, None, true),
        (50, None, false),
        (51, None, false),
    ] {
        let found = two.turns.lend(guest, server, deadline.map(Ticks), Ticks(now));
        assert_eq!(found.is_some(), lent, "at {now} until {deadline:?}");
        assert!(
            !two.turns.take_back(guest, server, Ticks(now)),
            "the caller answers nobody"
        );
        if lent {
            assert_eq!(two.turns.lend(guest, server, None, Ticks(now)), None, "twice");
            assert!(
                !two.turns.take_back(server, guest, Ticks(50)),
                "too late to go unnoticed"
            );
            assert!(two.turns.take_back(server, guest, Ticks(now)));
        }
        assert!(!two.turns.take_back(server, guest, Ticks(now)), "it was answered");
    }
}
