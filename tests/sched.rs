//! The run queue: fairness by share, preemption by events, handoff, deadlines.

use portunus::ids::{DomainId, Ticks, VcpuId};
use portunus::sched::{RunQueue, Slot, SlotReport, Wait};

const SLICE: u64 = 1_000;

fn vcpu(domain: u16) -> VcpuId {
    VcpuId {
        domain: DomainId(domain),
        index: 0,
    }
}

/// A queue with one runnable vCPU a share, of domains 1, 2, ….
fn queue(shares: &[u32]) -> (RunQueue, Vec<Slot>) {
    let mut queue = RunQueue::new(Ticks(SLICE));
    let slots: Vec<Slot> = (1..)
        .zip(shares)
        .map(|(domain, share)| queue.add(vcpu(domain), *share))
        .collect();
    for slot in &slots {
        queue.wake(*slot, Wait::Power, Ticks(0));
    }
    (queue, slots)
}

/// Runs the queue from `from` to `to`, every vCPU spinning, and returns the ticks that each domain got.
fn run(queue: &mut RunQueue, from: u64, to: u64, domains: usize) -> Vec<u64> {
    let mut got = vec![0; domains];
    let mut now = from;
    while now < to {
        let pick = queue.pick(Ticks(now));
        let until = pick.until.map_or(to, |until| until.0.min(to)).max(now + 1);
        if let Some(vcpu) = pick.run {
            got[usize::from(vcpu.domain.0) - 1] += until - now;
        }
        now = until;
    }
    queue.pick(Ticks(now));
    got
}

#[test]
fn spinning_vcpus_get_time_by_share() {
    for shares in [
        &[100, 100][..],
        &[100, 300],
        &[100, 50, 25],
        &[1, 1, 1, 1, 1, 1, 1, 1],
        &[100, 10_000],
    ] {
        let (mut queue, _) = queue(shares);
        let total = 4_000_000;
        let got = run(&mut queue, 0, total, shares.len());
        let sum: u32 = shares.iter().sum();
        for (ticks, share) in got.iter().zip(shares) {
            let fair = f64::from(total as u32) * f64::from(*share) / f64::from(sum);
            assert!(
                (*ticks as f64 - fair).abs() <= 2.0 * SLICE as f64 + fair * 0.02,
                "{shares:?}: {got:?}"
            );
        }
    }
}

#[test]
fn a_vcpu_alone_has_no_slice_end() {
    let (mut queue, _) = queue(&[100]);
    let pick = queue.pick(Ticks(5));
    assert_eq!((pick.run, pick.until), (Some(vcpu(1)), None));
}

#[test]
fn an_empty_queue_is_idle_for_ever() {
    let mut queue = RunQueue::new(Ticks(SLICE));
    let pick = queue.pick(Ticks(5));
    assert_eq!((pick.run, pick.until), (None, None));
}

#[test]
fn an_event_preempts_a_vcpu_that_used_more_than_its_share() {
    let (mut queue, slots) = queue(&[100, 100]);
    queue.block(slots[1], Wait::Event, None, Ticks(0));
    run(&mut queue, 0, 50 * SLICE, 2);
    assert!(queue.wake(slots[1], Wait::Event, Ticks(50 * SLICE)), "must decide anew");
    assert_eq!(queue.pick(Ticks(50 * SLICE)).run, Some(vcpu(2)));
}

#[test]
fn sleeping_saves_up_at_most_one_slice() {
    let (mut queue, slots) = queue(&[100, 100]);
    queue.block(slots[1], Wait::Event, None, Ticks(0));
    run(&mut queue, 0, 1_000 * SLICE, 2);
    queue.wake(slots[1], Wait::Event, Ticks(1_000 * SLICE));
    let got = run(&mut queue, 1_000 * SLICE, 1_010 * SLICE, 2);
    assert!(got[1] <= 7 * SLICE, "{got:?}");
}

#[test]
fn a_wake_up_of_another_kind_changes_nothing() {
    for (waits, what) in [
        (Wait::Request, Wait::Event),
        (Wait::Event, Wait::Request),
        (Wait::Power, Wait::Event),
    ] {
        let (mut queue, slots) = queue(&[100]);
        queue.block(slots[0], waits, None, Ticks(0));
        assert!(!queue.wake(slots[0], what, Ticks(1)));
        assert_eq!((queue.waits(slots[0]), queue.pick(Ticks(1)).run), (Some(waits), None));
    }
}

#[test]
fn a_deadline_wakes_a_waiting_vcpu_and_bounds_the_pick() {
    let (mut queue, slots) = queue(&[100]);
    queue.block(slots[0], Wait::Event, Some(Ticks(70)), Ticks(0));
    let pick = queue.pick(Ticks(10));
    assert_eq!((pick.run, pick.until), (None, Some(Ticks(70))));
    assert_eq!(queue.pick(Ticks(70)).run, Some(vcpu(1)));
}

#[test]
fn a_powered_off_vcpu_has_no_deadline() {
    let (mut queue, slots) = queue(&[100]);
    queue.block(slots[0], Wait::Power, Some(Ticks(70)), Ticks(0));
    assert_eq!(queue.pick(Ticks(100)).run, None);
}

#[test]
fn a_handoff_runs_the_server_on_the_waiters_time_and_returns_at_once() {
    let (mut queue, slots) = queue(&[100, 100, 100]);
    let (guest, server) = (slots[0], slots[1]);
    assert_eq!(queue.pick(Ticks(0)).run, Some(vcpu(1)));
    queue.block(guest, Wait::Request, None, Ticks(100));
    queue.hand_off(guest, server);
    assert_eq!(queue.pick(Ticks(100)).run, Some(vcpu(2)));
    assert!(queue.wake(guest, Wait::Request, Ticks(200)), "the answer ends the loan");
    assert_eq!(
        queue.pick(Ticks(200)).run,
        Some(vcpu(1)),
        "although the third vCPU is younger"
    );
}

#[test]
fn a_handoff_cannot_give_away_the_time_of_others() {
    let (mut queue, slots) = queue(&[100, 100, 100]);
    let (guest, server) = (slots[0], slots[1]);
    let mut third = 0;
    let mut now = 0;
    // The guest asks again and again; each time the server works for a whole slice.
    for _ in 0..300 {
        let pick = queue.pick(Ticks(now));
        match pick.run {
            Some(run) if run == vcpu(1) => {
                queue.block(guest, Wait::Request, None, Ticks(now + 10));
                queue.hand_off(guest, server);
                now += 10;
            }
            Some(run) if run == vcpu(2) => {
                now += SLICE;
                queue.wake(guest, Wait::Request, Ticks(now));
            }
            _ => {
                third += SLICE;
                now += SLICE;
            }
        }
    }
    assert!(third * 5 >= now, "the third vCPU got {third} of {now}");
}

#[test]
fn time_without_the_processor_is_counted_as_starved() {
    let (mut queue, slots) = queue(&[100, 100]);
    run(&mut queue, 0, 100 * SLICE, 2);
    let starved: u64 = slots
        .iter()
        .map(|slot| queue.starved(*slot, Ticks(100 * SLICE)).map_or(0, |ticks| ticks.0))
        .sum();
    assert_eq!(starved, 100 * SLICE, "each waits while the other runs");
    queue.block(slots[0], Wait::Request, None, Ticks(100 * SLICE));
    let before = queue.starved(slots[1], Ticks(100 * SLICE));
    run(&mut queue, 100 * SLICE, 200 * SLICE, 2);
    assert_eq!(
        queue.starved(slots[1], Ticks(200 * SLICE)),
        before,
        "alone, it waits for nobody"
    );
}

#[test]
fn yielding_lets_every_other_runnable_vcpu_go_first() {
    let (mut queue, slots) = queue(&[100, 100]);
    assert_eq!(queue.pick(Ticks(0)).run, Some(vcpu(1)));
    queue.yield_now(slots[0], Ticks(1));
    assert_eq!(queue.pick(Ticks(1)).run, Some(vcpu(2)));
}

/// The longest time that `domain` does not run from `from` to `to`, while every runnable vCPU spins.
fn longest_pause(queue: &mut RunQueue, from: u64, to: u64, domain: u16) -> u64 {
    let (mut now, mut last_ran, mut longest) = (from, from, 0);
    while now < to {
        let pick = queue.pick(Ticks(now));
        let until = pick.until.map_or(to, |until| until.0.min(to)).max(now + 1);
        if pick.run == Some(vcpu(domain)) {
            longest = longest.max(now - last_ran);
            last_ran = until;
        }
        now = until;
    }
    longest.max(now - last_ran)
}

#[test]
fn a_server_that_worked_on_the_time_of_another_has_saved_up_none_of_its_own() {
    for ends in [Wait::Request, Wait::Power] {
        let (mut queue, slots) = queue(&[100, 100, 100]);
        let (guest, server) = (slots[0], slots[1]);
        assert_eq!(queue.pick(Ticks(0)).run, Some(vcpu(1)));
        queue.block(guest, Wait::Request, None, Ticks(10));
        queue.hand_off(guest, server);
        run(&mut queue, 10, 100 * SLICE, 3);
        // The server did not answer in time; the guest goes on, or stops.
        queue.wake(guest, Wait::Request, Ticks(100 * SLICE));
        if ends != Wait::Request {
            queue.block(guest, ends, None, Ticks(100 * SLICE));
        }
        let pause = longest_pause(&mut queue, 100 * SLICE, 200 * SLICE, 3);
        assert!(pause <= 4 * SLICE, "the third vCPU paused for {pause} ticks");
    }
}

#[test]
fn a_vcpu_that_wakes_does_not_pay_for_the_small_share_of_another() {
    let (mut queue, slots) = queue(&[100, 1, 100]);
    queue.block(slots[2], Wait::Event, None, Ticks(0));
    run(&mut queue, 0, 3 * SLICE, 3);
    queue.wake(slots[2], Wait::Event, Ticks(3 * SLICE));
    let pause = longest_pause(&mut queue, 3 * SLICE, 50 * SLICE, 3);
    assert!(pause <= 3 * SLICE, "it waited for {pause} ticks");
}

#[test]
fn a_turn_without_an_end_gets_one_when_somebody_else_wakes() {
    let (mut queue, slots) = queue(&[100, 100]);
    queue.block(slots[1], Wait::Event, None, Ticks(0));
    assert_eq!(queue.pick(Ticks(0)).run, Some(vcpu(1)));
    // It has not run at all yet, so it is not older than the one that wakes.
    assert!(
        queue.wake(slots[1], Wait::Event, Ticks(0)),
        "somebody must set the timer"
    );
    assert_eq!(queue.pick(Ticks(0)).until, Some(Ticks(SLICE)));
}

#[test]
fn a_held_vcpu_is_never_picked_whatever_happens_to_it() {
    let (mut queue, slots) = queue(&[100, 100]);
    assert_eq!(queue.pick(Ticks(0)).run, Some(vcpu(1)));
    assert!(queue.hold(slots[0], Ticks(10)), "it runs: this pCPU must decide anew");
    assert!(!queue.hold(slots[0], Ticks(20)), "once is enough");
    let pick = queue.pick(Ticks(20));
    assert_eq!(
        (pick.run, pick.until),
        (Some(vcpu(2)), None),
        "the other has the pCPU to itself"
    );
    for wait in [Wait::Event, Wait::Request, Wait::Power] {
        queue.block(slots[0], wait, Some(Ticks(30)), Ticks(25));
        assert!(!queue.wake(slots[0], wait, Ticks(40)), "nobody has to decide anew");
        assert_eq!(queue.waits(slots[0]), None, "but what woke it is not lost");
    }
    queue.hand_off(slots[1], slots[0]);
    assert_eq!(queue.pick(Ticks(50)).run, Some(vcpu(2)), "nor is it handed to");
    queue.block(slots[1], Wait::Event, None, Ticks(60));
    assert_eq!(queue.pick(Ticks(60)).run, None);
    assert!(queue.release(slots[0], Ticks(70)));
    assert_eq!(queue.pick(Ticks(70)).run, Some(vcpu(1)));
}

#[test]
fn a_vcpu_that_waits_still_waits_after_it_was_held() {
    for (wait, wakes) in [(Wait::Event, true), (Wait::Request, true), (Wait::Power, false)] {
        let (mut queue, slots) = queue(&[100]);
        queue.block(slots[0], wait, Some(Ticks(500)), Ticks(0));
        assert!(!queue.hold(slots[0], Ticks(10)), "it does not run");
        assert_eq!(
            queue.pick(Ticks(20)).until,
            None,
            "its deadline is looked at when it is released"
        );
        queue.release(slots[0], Ticks(30));
        let pick = queue.pick(Ticks(30));
        assert_eq!((pick.run, queue.waits(slots[0])), (None, Some(wait)));
        assert_eq!(pick.until, wakes.then_some(Ticks(500)));
    }
}

#[test]
fn a_deadline_that_passed_while_the_vcpu_was_held_wakes_it_when_it_is_released() {
    let (mut queue, slots) = queue(&[100]);
    queue.block(slots[0], Wait::Event, Some(Ticks(500)), Ticks(0));
    queue.hold(slots[0], Ticks(10));
    for now in [100, 499, 500, 501, 1000] {
        assert_eq!(queue.pick(Ticks(now)).run, None);
    }
    queue.release(slots[0], Ticks(2000));
    assert_eq!(queue.pick(Ticks(2000)).run, Some(vcpu(1)));
}

#[test]
fn the_clock_of_a_held_vcpu_stands_whether_it_runs_or_waits() {
    for waits in [None, Some(Wait::Event), Some(Wait::Request)] {
        let (mut queue, slots) = queue(&[100]);
        let runnable = |queue: &mut RunQueue, now: u64| now - queue.starved(slots[0], Ticks(now)).unwrap().0;
        queue.pick(Ticks(0));
        if let Some(wait) = waits {
            queue.block(slots[0], wait, None, Ticks(100));
        }
        queue.pick(Ticks(100));
        assert_eq!(runnable(&mut queue, 300), 300, "{waits:?}");
        queue.hold(slots[0], Ticks(300));
        queue.pick(Ticks(300));
        for now in [300, 400, 5000] {
            assert_eq!(runnable(&mut queue, now), 300, "{waits:?}: it stands");
        }
        // Something wakes it meanwhile; it still gets no time.
        if let Some(wait) = waits {
            queue.wake(slots[0], wait, Ticks(5500));
        }
        assert_eq!(runnable(&mut queue, 6000), 300, "{waits:?}: it stands");
        queue.release(slots[0], Ticks(6000));
        queue.pick(Ticks(6000));
        assert_eq!(runnable(&mut queue, 6100), 400, "{waits:?}: it goes on");
        queue.pick(Ticks(6200));
        assert_eq!(runnable(&mut queue, 6200), 500, "{waits:?}: it goes on");
    }
}

#[test]
fn a_vcpu_that_was_held_has_saved_up_nothing() {
    let (mut queue, slots) = queue(&[100, 100]);
    queue.hold(slots[1], Ticks(0));
    run(&mut queue, 0, 1_000 * SLICE, 2);
    assert!(
        queue.release(slots[1], Ticks(1_000 * SLICE)),
        "the other's turn has no end yet"
    );
    let got = run(&mut queue, 1_000 * SLICE, 1_010 * SLICE, 2);
    assert!(got[1] >= 4 * SLICE && got[1] <= 7 * SLICE, "{got:?}");
}

#[test]
fn who_serves_a_vcpu_that_is_held_goes_on_on_its_own_time() {
    let (mut queue, slots) = queue(&[100, 100, 100]);
    let (guest, server) = (slots[0], slots[1]);
    assert_eq!(queue.pick(Ticks(0)).run, Some(vcpu(1)));
    queue.block(guest, Wait::Request, None, Ticks(10));
    queue.hand_off(guest, server);
    assert_eq!(queue.pick(Ticks(10)).run, Some(vcpu(2)));
    queue.hold(guest, Ticks(20));
    let got = run(&mut queue, 20, 100 * SLICE, 3);
    assert_eq!(got[0], 0);
    assert!(got[1].abs_diff(got[2]) <= 2 * SLICE, "{got:?}");
    assert!(
        !queue.wake(guest, Wait::Request, Ticks(100 * SLICE)),
        "its answer is kept"
    );
    queue.release(guest, Ticks(100 * SLICE));
    let pause = longest_pause(&mut queue, 100 * SLICE, 110 * SLICE, 1);
    assert!(pause <= 3 * SLICE, "it goes on after {pause}");
}

#[test]
fn a_server_that_is_held_gives_back_the_time_it_was_lent() {
    let (mut queue, slots) = queue(&[100, 100, 100]);
    assert_eq!(queue.pick(Ticks(0)).run, Some(vcpu(1)));
    queue.block(slots[0], Wait::Request, None, Ticks(10));
    queue.hand_off(slots[0], slots[1]);
    assert_eq!(queue.pick(Ticks(10)).run, Some(vcpu(2)));
    assert!(queue.hold(slots[1], Ticks(20)));
    assert_eq!(queue.pick(Ticks(20)).run, Some(vcpu(3)));
    queue.release(slots[1], Ticks(50 * SLICE));
    let got = run(&mut queue, 50 * SLICE, 60 * SLICE, 3);
    assert!(got[1] >= 4 * SLICE && got[1] <= 7 * SLICE, "{got:?}");
}

#[test]
fn what_a_vcpu_waited_for_servers_is_counted_while_it_waits_and_afterwards() {
    let (mut queue, slots) = queue(&[100]);
    let waited = |queue: &mut RunQueue, now| queue.report(slots[0], Ticks(now)).unwrap().waited.0;
    queue.pick(Ticks(0));
    queue.block(slots[0], Wait::Event, None, Ticks(100));
    queue.pick(Ticks(100));
    queue.wake(slots[0], Wait::Event, Ticks(200));
    queue.pick(Ticks(200));
    assert_eq!(waited(&mut queue, 250), 0, "for an event is not for a server");
    queue.block(slots[0], Wait::Request, None, Ticks(300));
    queue.pick(Ticks(300));
    assert_eq!(waited(&mut queue, 350), 50);
    // It looks again and waits on.
    queue.block(slots[0], Wait::Request, None, Ticks(360));
    queue.pick(Ticks(360));
    assert_eq!(waited(&mut queue, 400), 100);
    queue.wake(slots[0], Wait::Request, Ticks(420));
    queue.pick(Ticks(420));
    let report = queue.report(slots[0], Ticks(500)).unwrap();
    assert_eq!((report.waited, report.ran), (Ticks(120), Ticks(100 + 100 + 80)));
    assert_eq!((report.waits, report.since, report.is_current), (None, Ticks(80), true));
}

#[test]
fn a_visit_loads_a_vcpu_once_and_changes_neither_its_wait_nor_anybodys_time() {
    for wait in [Wait::Event, Wait::Request, Wait::Power] {
        let (mut queue, slots) = queue(&[100, 100]);
        let (first, second) = (slots[0], slots[1]);
        queue.block(second, wait, Some(Ticks(900)), Ticks(10));
        assert_eq!(queue.pick(Ticks(10)).run, Some(vcpu(1)));
        let before = queue.report(second, Ticks(10)).unwrap();
        let starved = queue.starved(second, Ticks(10));
        queue.visit(second);
        assert_eq!(queue.pick(Ticks(100)).run, Some(vcpu(2)), "{wait:?}");
        assert!(!queue.end_visit(second), "it does not go on");
        let pick = queue.pick(Ticks(140));
        assert_eq!(pick.run, Some(vcpu(1)));
        assert_eq!(pick.until, (wait != Wait::Power).then_some(Ticks(900)));
        let after = SlotReport {
            since: Ticks(before.since.0 + 130),
            waited: Ticks(before.waited.0 + if wait == Wait::Request { 130 } else { 0 }),
            ..before
        };
        assert_eq!(queue.report(second, Ticks(140)), Some(after), "{wait:?}");
        assert_eq!(queue.ran(first), Ticks(90), "the visit was nobody's time");
        assert_eq!(queue.starved(second, Ticks(140)), starved);
        // Once.
        assert_eq!(queue.pick(Ticks(150)).run, Some(vcpu(1)));
    }
}

#[test]
fn a_vcpu_that_runs_is_not_interrupted_by_a_visit_unless_the_pcpu_decides_first() {
    let (mut queue, slots) = queue(&[100, 100]);
    assert_eq!(queue.pick(Ticks(0)).run, Some(vcpu(1)));
    queue.visit(slots[0]);
    assert!(queue.end_visit(slots[0]), "looked at on its way");
    assert_eq!(queue.pick(Ticks(SLICE)).run, Some(vcpu(2)));
    queue.visit(slots[1]);
    assert_eq!(queue.pick(Ticks(SLICE + 10)).run, Some(vcpu(2)));
    assert!(!queue.is_current(slots[1]) && !queue.end_visit(slots[1]));
    assert_eq!(
        queue.pick(Ticks(SLICE + 20)).run,
        Some(vcpu(2)),
        "it is still the youngest"
    );
    assert!(queue.is_current(slots[1]));
}

#[test]
fn a_visit_does_not_cost_a_handoff() {
    let (mut queue, slots) = queue(&[100, 100, 100]);
    queue.block(slots[1], Wait::Event, None, Ticks(0));
    assert_eq!(queue.pick(Ticks(0)).run, Some(vcpu(1)));
    queue.block(slots[0], Wait::Request, None, Ticks(100));
    queue.wake(slots[1], Wait::Event, Ticks(100));
    queue.hand_off(slots[0], slots[1]);
    queue.visit(slots[2]);
    assert_eq!(queue.pick(Ticks(100)).run, Some(vcpu(3)));
    assert!(!queue.end_visit(slots[2]));
    assert_eq!(queue.pick(Ticks(110)).run, Some(vcpu(2)), "whom the time was lent to");
    // What happens meanwhile is decided about afterwards.
    queue.visit(slots[2]);
    assert_eq!(queue.pick(Ticks(200)).run, Some(vcpu(3)));
    assert!(
        queue.wake(slots[0], Wait::Request, Ticks(205)),
        "nobody runs: decide anew"
    );
}

#[test]
fn every_vcpu_that_is_to_be_visited_is() {
    let (mut queue, slots) = queue(&[100; 5]);
    for slot in &slots {
        queue.block(*slot, Wait::Power, None, Ticks(0));
    }
    slots.iter().for_each(|slot| queue.visit(*slot));
    let mut seen: Vec<u16> = (0..5)
        .filter_map(|now| Some(queue.pick(Ticks(now)).run?.domain.0))
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, [1, 2, 3, 4, 5]);
    assert_eq!(queue.pick(Ticks(9)).run, None);
}

#[test]
fn a_vcpu_that_is_held_can_be_visited_and_stays_held() {
    let (mut queue, slots) = queue(&[100]);
    assert_eq!(queue.pick(Ticks(0)).run, Some(vcpu(1)));
    queue.hold(slots[0], Ticks(10));
    queue.visit(slots[0]);
    assert_eq!(queue.pick(Ticks(20)).run, Some(vcpu(1)));
    assert!(!queue.end_visit(slots[0]));
    assert_eq!(queue.pick(Ticks(30)).run, None);
    assert_eq!(queue.ran(slots[0]), Ticks(20));
    assert!(queue.release(slots[0], Ticks(40)));
    assert_eq!(queue.pick(Ticks(40)).run, Some(vcpu(1)));
}
