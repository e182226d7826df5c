//! How vCPUs spend their time, as the run queue counts it.

use portunus::ids::{DomainId, Ticks, VcpuId};
use portunus::sched::{RunQueue, Wait};

#[test]
fn time_is_spent_running_waiting_or_kept_from_running() {
    let mut queue = RunQueue::new(Ticks(1_000));
    let id = |domain| VcpuId {
        domain: DomainId(domain),
        index: 0,
    };
    let [first, second] = [1, 2].map(|domain| queue.add(id(domain), 100));
    let check = |queue: &RunQueue, now: u64, expected: [[u64; 3]; 2]| {
        let found = [first, second].map(|slot| {
            let spent = queue.spent(slot, Ticks(now));
            [spent.running.0, spent.runnable.0, spent.blocked.0]
        });
        assert_eq!(found, expected, "at {now}");
    };
    // Both are off for 100 ticks, and the second for 50 more.
    queue.wake(first, Wait::Power, Ticks(100));
    assert_eq!(queue.pick(Ticks(100)).run, Some(id(1)));
    queue.wake(second, Wait::Power, Ticks(150));
    check(&queue, 200, [[100, 0, 0], [0, 50, 0]]);
    queue.block(first, Wait::Event, None, Ticks(300));
    assert_eq!(queue.pick(Ticks(300)).run, Some(id(2)));
    check(&queue, 400, [[200, 0, 100], [100, 150, 0]]);
    // A request is served on the caller's time.
    queue.block(second, Wait::Event, None, Ticks(400));
    queue.wake(first, Wait::Event, Ticks(400));
    assert_eq!(queue.pick(Ticks(400)).run, Some(id(1)));
    assert_eq!(queue.call(first, second, None, Ticks(500)).unwrap().run, Some(id(2)));
    check(&queue, 600, [[300, 0, 200], [200, 150, 100]]);
    assert_eq!(queue.answer(second, first, Ticks(600)).unwrap().run, Some(id(1)));
    check(&queue, 700, [[400, 0, 200], [200, 250, 100]]);
    // Held though it could run: neither.
    queue.hold(first, Ticks(700));
    assert_eq!(queue.pick(Ticks(700)).run, Some(id(2)));
    check(&queue, 900, [[400, 0, 200], [400, 250, 100]]);
    queue.release(first, Ticks(900));
    check(&queue, 950, [[400, 50, 200], [450, 250, 100]]);
}
