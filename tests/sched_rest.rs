//! A wait in place against a wait by which the pCPU becomes idle: for everybody else the same happens.

use portunus::fakes::Random;
use portunus::ids::{DomainId, Ticks, VcpuId};
use portunus::sched::{RunQueue, Slot, Wait};

const SLICE: u64 = 1_000;
const ROUNDS: u64 = 40_000;

/// A queue with these vCPUs, all of them waiting for an event.
fn queue(shares: &[u32]) -> (RunQueue, Vec<Slot>) {
    let mut queue = RunQueue::new(Ticks(SLICE));
    let slots = (1..).zip(shares).map(|(domain, share)| {
        let vcpu = VcpuId {
            domain: DomainId(domain),
            index: 0,
        };
        let slot = queue.add(vcpu, *share);
        queue.wake(slot, Wait::Power, Ticks(0));
        queue.block(slot, Wait::Event, None, Ticks(0));
        slot
    });
    let slots = slots.collect();
    queue.pick(Ticks(0));
    (queue, slots)
}

/// One queue on which vCPUs rest, and one on which they block and are woken.
struct Pair {
    resting: RunQueue,
    idle: RunQueue,
    slots: Vec<Slot>,
    now: Ticks,
    /// Who rests, for what, and until when.
    rests: Option<(Slot, Wait, Option<Ticks>)>,
    /// Rests that ended by themselves, and those that others ended.
    over: (u32, u32),
}

impl Pair {
    fn new(shares: &[u32]) -> Self {
        let ((resting, slots), (idle, _)) = (queue(shares), queue(shares));
        Self {
            resting,
            idle,
            slots,
            now: Ticks(1),
            rests: None,
            over: (0, 0),
        }
    }

    fn current(&self) -> Option<Slot> {
        self.idle.running()
    }

    fn pick(&mut self) {
        assert_eq!(
            self.resting.pick(self.now),
            self.idle.pick(self.now),
            "at {:?}",
            self.now
        );
    }

    /// Something that both are told, and what they say to it: whether to decide.
    fn both(&mut self, tell: impl Fn(&mut RunQueue, Ticks) -> bool) {
        let (one, other) = (tell(&mut self.resting, self.now), tell(&mut self.idle, self.now));
        // Who waits in place is still the current one: to decide once more is no mistake, not to decide is.
        assert!(one || !other, "at {:?}", self.now);
        if one || other {
            self.interrupted();
        }
    }

    /// The current vCPU waits.
    fn wait(&mut self, slot: Slot, what: Wait, deadline: Option<Ticks>) {
        if let Some(starved) = self.resting.rest(slot, what, deadline, self.now) {
            assert_eq!(self.resting.starved(slot, self.now), Some(starved));
            self.rests = Some((slot, what, deadline));
            self.idle.block(slot, what, deadline, self.now);
            let pick = self.idle.pick(self.now);
            assert_eq!(pick.run, None, "somebody could run at {:?}", self.now);
        } else {
            self.both(|queue, now| {
                queue.block(slot, what, deadline, now);
                true
            });
        }
    }

    /// The pCPU is kicked, or its time has come.
    fn interrupted(&mut self) {
        if let Some((slot, what, deadline)) = self.rests.take() {
            self.over.1 += 1;
            self.resting.stop_resting(self.now);
            match self.resting.waits(slot) {
                Some(waits) if waits != what => panic!("waits for another thing at {:?}", self.now),
                Some(Wait::Request) => self.resting.wait_on(slot),
                Some(_) => self.resting.block(slot, what, deadline, self.now),
                None => {}
            }
        }
        self.pick();
    }

    /// What the one that rests waits for is there: its timer fires, or it was noted and the pCPU kicked.
    fn fire(&mut self) {
        let Some((slot, what, deadline)) = self.rests else {
            return self.interrupted();
        };
        if self.resting.end_rest(slot, what, self.now) {
            self.rests = None;
            self.over.0 += 1;
            self.idle.wake(slot, what, self.now);
            let pick = self.idle.pick(self.now);
            assert_eq!(self.resting.running(), Some(slot), "at {:?}", self.now);
            assert_eq!(pick.run.map(|vcpu| vcpu.domain.0 - 1), Some(slot.index() as u16));
        } else {
            let wakes = deadline.is_none_or(|deadline| deadline > self.now);
            self.both(|queue, now| wakes && queue.wake(slot, what, now));
            self.interrupted();
        }
    }

    fn check(&mut self) {
        for slot in self.slots.clone() {
            let starved = (self.resting.starved(slot, self.now), self.idle.starved(slot, self.now));
            assert_eq!(starved.0, starved.1, "{slot:?} at {:?}", self.now);
            let (one, other) = (
                self.resting.report(slot, self.now).expect("a vCPU"),
                self.idle.report(slot, self.now).expect("a vCPU"),
            );
            let told = |report: portunus::sched::SlotReport| {
                (
                    report.waits,
                    report.held,
                    report.deadline,
                    report.since,
                    report.ran,
                    report.waited,
                )
            };
            assert_eq!(told(one), told(other), "{slot:?} at {:?}", self.now);
        }
    }
}

#[test]
fn a_vcpu_that_rests_alone_is_to_all_others_one_that_waits() {
    for shares in [&[100][..], &[100, 100], &[300, 20, 100]] {
        let mut random = Random::new(0x1234_5678 + shares.len() as u64);
        let mut pair = Pair::new(shares);
        for round in 0..ROUNDS {
            pair.now.0 += 1 + random.below(SLICE / 2);
            let slot = pair.slots[random.below(shares.len() as u64) as usize];
            let what = if random.below(3) == 0 {
                Wait::Request
            } else {
                Wait::Event
            };
            let deadline = (random.below(2) == 0).then(|| Ticks(pair.now.0 + 1 + random.below(4 * SLICE)));
            match random.below(16) {
                0..6 => match pair.current() {
                    Some(current) => pair.wait(current, what, deadline),
                    None => pair.fire(),
                },
                6..9 => pair.fire(),
                9 | 10 => pair.both(|queue, now| queue.wake(slot, what, now)),
                11 => pair.both(|queue, now| queue.hold(slot, now)),
                12 | 13 => pair.both(|queue, now| queue.release(slot, now)),
                14 => pair.interrupted(),
                _ if round % 4 == 0 => {
                    // Somebody looks at its registers: nothing is decided by that.
                    for queue in [&mut pair.resting, &mut pair.idle] {
                        queue.visit(slot);
                    }
                    pair.interrupted();
                    pair.interrupted();
                }
                _ => {}
            }
            pair.check();
        }
        assert!(pair.over.0 > 500 && pair.over.1 > 100, "{shares:?}: {:?}", pair.over);
    }
}

#[test]
fn nobody_rests_while_another_can_run_or_is_to_be_looked_at() {
    let mut pair = Pair::new(&[100, 100]);
    let [one, other] = [pair.slots[0], pair.slots[1]];
    assert!(
        pair.resting.rest(one, Wait::Event, None, pair.now).is_none(),
        "it does not run"
    );
    pair.both(|queue, now| queue.wake(one, Wait::Event, now));
    assert!(
        pair.resting.rest(other, Wait::Event, None, pair.now).is_none(),
        "it does not run"
    );
    pair.resting.visit(other);
    assert!(
        pair.resting.rest(one, Wait::Event, None, pair.now).is_none(),
        "somebody is to be visited"
    );
    pair.resting.pick(pair.now);
    pair.resting.pick(pair.now);
    pair.resting.wake(other, Wait::Event, pair.now);
    assert!(
        pair.resting.rest(one, Wait::Event, None, pair.now).is_none(),
        "another can run"
    );
    assert!(
        pair.resting.rest(one, Wait::Request, None, pair.now).is_none(),
        "for an answer neither"
    );
    assert_eq!(pair.resting.waits(one), None, "nothing has changed");
}

#[test]
fn nobody_waits_in_place_for_power_or_twice() {
    let mut pair = Pair::new(&[100]);
    let slot = pair.slots[0];
    pair.both(|queue, now| queue.wake(slot, Wait::Event, now));
    assert!(pair.resting.rest(slot, Wait::Power, None, pair.now).is_none());
    assert!(pair.resting.rest(slot, Wait::Request, None, pair.now).is_some());
    assert!(
        pair.resting.rest(slot, Wait::Request, None, pair.now).is_none(),
        "it rests"
    );
    assert!(
        !pair.resting.end_rest(slot, Wait::Event, pair.now),
        "it waits for an answer"
    );
    assert_eq!(pair.resting.waits(slot), Some(Wait::Request));
}
