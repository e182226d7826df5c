//! The run queue against a model that looks at every vCPU each time, and its short ways against the steps one by one.

#[path = "sched_support/model.rs"]
mod model;

use model::Model;
use portunus::fakes::Random;
use portunus::ids::{DomainId, Ticks, VcpuId};
use portunus::sched::{Pick, RunQueue, Slot, Wait};

const SLICE: u64 = 1_000;

/// The queue, the model, and how often a short way was taken.
struct Pair {
    queue: RunQueue,
    model: Model,
    slots: Vec<Slot>,
    now: Ticks,
    /// Who asked last.
    asked: Slot,
    short: u32,
    long: u32,
}

impl Pair {
    fn new(shares: &[u32]) -> Self {
        let (mut queue, mut model) = (RunQueue::new(Ticks(SLICE)), Model::new(Ticks(SLICE)));
        let slots = (1..).zip(shares).map(|(domain, share)| {
            let vcpu = VcpuId {
                domain: DomainId(domain),
                index: 0,
            };
            model.add(vcpu, *share);
            queue.add(vcpu, *share)
        });
        let slots: Vec<Slot> = slots.collect();
        Self {
            asked: slots[0],
            queue,
            model,
            slots,
            now: Ticks(0),
            short: 0,
            long: 0,
        }
    }

    fn current(&self) -> Option<Slot> {
        self.slots.iter().copied().find(|slot| self.queue.is_current(*slot))
    }

    fn wake(&mut self, slot: Slot, what: Wait) {
        let (found, expected) = (
            self.queue.wake(slot, what, self.now),
            self.model.wake(slot, what, self.now),
        );
        assert_eq!(found, expected, "{what:?} for {slot:?} at {:?}", self.now);
    }

    /// A decision: in one step where somebody is woken on an idle pCPU.
    fn pick(&mut self) {
        let expected = self.model.pick(self.now);
        let resumed = self.slots.iter().find_map(|slot| self.queue.resume(*slot, self.now));
        self.short += u32::from(resumed.is_some());
        let found = resumed.unwrap_or_else(|| self.queue.pick(self.now));
        self.check(found, expected);
    }

    fn check(&mut self, found: Pick, expected: Pick) {
        assert_eq!(found, expected, "at {:?}", self.now);
        for slot in self.slots.clone() {
            let starved = (self.queue.starved(slot, self.now), self.model.starved(slot, self.now));
            assert_eq!(starved.0, starved.1, "{slot:?} at {:?}", self.now);
            let reports = (self.queue.report(slot, self.now), self.model.report(slot, self.now));
            let without_deadline = |report: Option<portunus::sched::SlotReport>| {
                report.map(|report| portunus::sched::SlotReport {
                    // Nobody looks at that of a vCPU that waits for nothing, or for power.
                    deadline: report
                        .deadline
                        .filter(|_| matches!(report.waits, Some(Wait::Event | Wait::Request))),
                    ..report
                })
            };
            assert_eq!(
                without_deadline(reports.0),
                without_deadline(reports.1),
                "at {:?}",
                self.now
            );
        }
    }

    /// A request: in one step where that goes.
    fn call(&mut self, from: Slot, to: Slot, deadline: Option<Ticks>) {
        let now = self.now;
        self.asked = from;
        self.model.wake(to, Wait::Event, now);
        self.model.block(from, Wait::Request, deadline, now);
        self.model.hand_off(from, to);
        let expected = self.model.pick(now);
        let found = match self.queue.call(from, to, deadline, now) {
            Some(pick) => {
                self.short += 1;
                pick
            }
            None => {
                self.long += 1;
                self.queue.wake(to, Wait::Event, now);
                self.queue.block(from, Wait::Request, deadline, now);
                self.queue.hand_off(from, to);
                self.queue.pick(now)
            }
        };
        self.check(found, expected);
    }

    /// An answer, likewise; after a longer way the pCPU goes on as the queue says.
    fn answer(&mut self, from: Slot, to: Slot) {
        let now = self.now;
        let decides = self.model.wake(to, Wait::Request, now);
        match self.queue.answer(from, to, now) {
            Some(pick) => {
                assert!(decides, "the steps one by one decide too");
                self.short += 1;
                let expected = self.model.pick(now);
                self.check(pick, expected);
            }
            None => {
                self.long += 1;
                assert_eq!(self.queue.wake(to, Wait::Request, now), decides);
                if decides {
                    self.pick();
                }
            }
        }
    }

    fn deadline(&self, random: &mut Random) -> Option<Ticks> {
        match random.below(4) {
            0 => Some(Ticks(self.now.0 + random.below(4 * SLICE))),
            1 => Some(Ticks(self.now.0.saturating_sub(5) + random.below(10))),
            _ => None,
        }
    }

    fn step(&mut self, random: &mut Random, rare: bool) {
        self.now.0 += [0, 0, 1, 7, 90, SLICE / 2, SLICE, 3 * SLICE][random.below(8) as usize];
        let slot = self.slots[random.below(self.slots.len() as u64) as usize];
        let what = [Wait::Event, Wait::Event, Wait::Request, Wait::Power][random.below(4) as usize];
        let now = self.now;
        let current = self.current();
        match (random.below(if rare { 16 } else { 12 }), current) {
            (0, _) => self.wake(slot, what),
            (1, _) => {
                let decides = self.model.wake(slot, Wait::Event, now);
                match self.queue.preempt(slot, now) {
                    Some(pick) => {
                        assert!(decides, "the steps one by one decide too");
                        self.short += 1;
                        let expected = self.model.pick(now);
                        self.check(pick, expected);
                    }
                    None => {
                        self.long += 1;
                        assert_eq!(self.queue.wake(slot, Wait::Event, now), decides);
                    }
                }
            }
            (2, Some(current)) => {
                let deadline = self.deadline(random);
                self.queue.block(current, what, deadline, now);
                self.model.block(current, what, deadline, now);
                self.pick();
            }
            (11, Some(current)) => {
                let deadline = self.deadline(random);
                self.model.block(current, what, deadline, now);
                match self.queue.wait(current, what, deadline, now) {
                    Some(pick) => {
                        self.short += 1;
                        let expected = self.model.pick(now);
                        self.check(pick, expected);
                    }
                    None => {
                        self.long += 1;
                        self.queue.block(current, what, deadline, now);
                        self.pick();
                    }
                }
            }
            (3..=6, Some(current)) => {
                let deadline = self.deadline(random);
                self.call(current, slot, deadline);
            }
            (7, Some(current)) => self.answer(current, slot),
            (8 | 9, Some(current)) => self.answer(current, self.asked),
            (10, Some(current)) if random.below(4) == 0 => {
                self.queue.yield_now(current, now);
                self.model.yield_now(current, now);
                self.pick();
            }
            (12, _) => {
                assert_eq!(self.queue.hold(slot, now), self.model.hold(slot, now));
                self.pick();
            }
            (13, _) => {
                for slot in self.slots.clone() {
                    assert_eq!(self.queue.release(slot, now), self.model.release(slot, now));
                }
                self.pick();
            }
            (14, Some(current)) => {
                let deadline = self.deadline(random);
                self.queue.set_deadline(current, deadline);
                self.model.set_deadline(current, deadline);
            }
            (15, _) => {
                self.queue.visit(slot);
                self.model.visit(slot);
                self.pick();
                assert_eq!(self.queue.end_visit(slot), self.model.end_visit(slot));
                self.pick();
            }
            _ => self.pick(),
        }
    }
}

#[test]
fn every_history_gives_the_same_picks_and_charges_as_looking_at_all_vcpus() {
    let (mut short, mut long) = (0, 0);
    for (seed, shares) in (1..).zip([
        &[100][..],
        &[100, 100],
        &[100, 400],
        &[30, 100, 100],
        &[100, 100, 1, 10_000],
        &[100, 50, 25, 100, 75, 3, 100],
        &[100; 16],
    ]) {
        for rare in [false, true] {
            let mut random = Random::new(seed * 0x9e37_79b9 + u64::from(rare));
            for _ in 0..40 {
                let mut pair = Pair::new(shares);
                for slot in pair.slots.clone() {
                    pair.wake(slot, Wait::Power);
                }
                pair.pick();
                for _ in 0..400 {
                    pair.step(&mut random, rare);
                }
                short += pair.short;
                long += pair.long;
            }
        }
    }
    assert!(short > 3_000 && long > 10_000, "{short} short ways, {long} long ones");
}

#[test]
fn requests_to_a_server_on_the_same_pcpu_always_take_the_short_way() {
    let mut pair = Pair::new(&[100, 100]);
    let (guest, server) = (pair.slots[0], pair.slots[1]);
    pair.wake(guest, Wait::Power);
    pair.wake(server, Wait::Power);
    pair.pick();
    for round in 0..1_000 {
        // The guest first, and from then on the server's rest is left for its own turn.
        while pair.current() != Some(guest) {
            pair.now.0 += SLICE;
            pair.queue.block(server, Wait::Event, None, pair.now);
            pair.model.block(server, Wait::Event, None, pair.now);
            pair.pick();
        }
        pair.now.0 += 40 + round % 7;
        pair.call(guest, server, Some(Ticks(pair.now.0 + 5_000_000)));
        pair.now.0 += 300;
        pair.answer(server, guest);
    }
    assert_eq!((pair.short, pair.long), (2_000, 0));
}
