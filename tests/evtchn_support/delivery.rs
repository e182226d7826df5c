//! Events in the shared page: order, masks, pollers, and guests that fight for the words.

use portunus::abi::HypercallError::{Busy, NoEntry};
use portunus::evtchn::{Delivery, PollOutcome, Received, Sent};
use portunus::fakes::{FakeMachine, Interference, Operation, SharedAccessKind};
use portunus::ids::{EventPort, Pa, VcpuSet};
use portunus::memory::atomic::{ATTEMPTS, SharedWords, Starved, StopOthers};

use crate::world::{A, B, INFO, MASK, PENDING, QUIET, SHARED_A, SHARED_B, UPCALL_0, World};

#[test]
fn an_event_takes_the_strict_order_of_the_abi() {
    let mut world = World::new();
    let (local, remote) = world.connected();
    world.machine.clear_log();
    assert_eq!(world.send(local), Ok(Received::Delivered(UPCALL_0)));
    let bit = 1 << remote.0;
    let exchanged = |offset, value| Operation::Exchanged {
        at: Pa(SHARED_B.0 + offset),
        width: 8,
        previous: 0,
        value,
    };
    let told = Operation::Store {
        at: SHARED_B,
        width: 1,
        value: 1,
    };
    let order = [exchanged(PENDING, bit), exchanged(8, 1), told];
    assert_eq!(world.machine.take_log(), order, "pending, pending_sel, upcall_pending");
}

#[test]
fn each_step_stops_at_a_bit_that_was_set() {
    // (pending, mask, pending_sel, upcall) before -> is the upcall injected, and the words after
    let rows = [
        ("fresh", [0, 0, 0, 0], true, [2, 1, 1]),
        ("pending already", [2, 0, 0, 0], false, [2, 0, 0]),
        ("masked", [0, 2, 0, 0], false, [2, 0, 0]),
        ("word announced already", [0, 0, 1, 0], false, [2, 1, 0]),
        ("upcall announced already", [0, 0, 0, 1], false, [2, 1, 1]),
        (
            "other bits of the upcall word do not count",
            [0, 0, 0, 0xff00],
            true,
            [2, 1, 0xff01],
        ),
        ("other ports", [!2, !2, !1, 0], true, [!0, !0, 1]),
    ];
    for (name, [pending, mask, selector, upcall], injected, after) in rows {
        let mut world = World::new();
        let (local, remote) = world.connected();
        assert_eq!(remote, EventPort(1));
        world.poke(SHARED_B, PENDING, pending);
        world.poke(SHARED_B, MASK, mask);
        world.poke(SHARED_B, 8, selector);
        world.poke(SHARED_B, 0, upcall);
        let expected = Received::Delivered(if injected { UPCALL_0 } else { QUIET });
        assert_eq!(world.send(local), Ok(expected), "{name}");
        let words = [
            world.word(SHARED_B, PENDING),
            world.word(SHARED_B, 8),
            world.word(SHARED_B, 0),
        ];
        assert_eq!(words, after, "{name}");
    }
}

#[test]
fn unmasking_announces_what_was_pending() {
    let rows = [
        ("masked and pending", 2, 2, true),
        ("masked, nothing pending", 0, 2, false),
        ("not masked", 2, 0, false),
    ];
    for (name, pending, mask, injected) in rows {
        let mut world = World::new();
        let port = world.b.alloc_unbound(A).unwrap();
        world.poke(SHARED_B, PENDING, pending);
        world.poke(SHARED_B, MASK, mask | 4);
        let (_, b, words) = world.apart();
        let expected = if injected { UPCALL_0 } else { QUIET };
        assert_eq!(b.unmask(port, &words), Ok(expected), "{name}");
        assert_eq!(world.word(SHARED_B, MASK), 4, "{name}");
    }
}

#[test]
fn an_ipi_goes_to_its_vcpu_once_that_has_a_place_for_news() {
    let mut world = World::new();
    let port = world.a.bind_ipi(1).unwrap();
    assert_eq!(world.a.bind_ipi(2), Err(NoEntry));
    let (a, _, words) = world.apart();
    assert_eq!(
        a.send(port, &words),
        Ok(Sent::Own(QUIET)),
        "vCPU 1 has no vcpu_info yet"
    );
    let upcall_1 = Delivery {
        upcall: Some(1),
        wake: VcpuSet::EMPTY,
    };
    assert_eq!(
        a.register_vcpu_info(1, INFO, &words),
        Ok(upcall_1),
        "everything is announced"
    );
    assert_eq!(world.word(INFO, 8), u64::MAX);
    assert_eq!(world.word(INFO, 0), 1);
    assert!(world.a.has_upcall(1, &world.machine));
    world.clear(SHARED_A);
    world.clear(INFO);
    assert!(!world.a.has_upcall(1, &world.machine));
    let (a, _, words) = world.apart();
    assert_eq!(a.send(port, &words), Ok(Sent::Own(upcall_1)));
    assert_eq!(a.register_vcpu_info(1, INFO, &words), Err(Busy));
    assert_eq!(a.register_vcpu_info(2, INFO, &words), Err(NoEntry));
    assert_eq!(world.word(INFO, 8), 1);
}

#[test]
fn registering_keeps_what_vcpu_0_was_told() {
    let mut world = World::new();
    world
        .machine
        .memory(|memory| memory.set_word(Pa(SHARED_A.0 + 16), 8, 0x1234));
    let (a, _, words) = world.apart();
    assert!(!a.has_registered(0));
    let _ = a.register_vcpu_info(0, INFO, &words).unwrap();
    assert!(a.has_registered(0));
    assert_eq!(world.word(INFO, 16), 0x1234, "the rest is copied");
    world.a.restart();
    assert!(!world.a.has_registered(0));
}

#[test]
fn a_poller_wakes_for_its_ports() {
    let mut world = World::new();
    let (local, remote) = world.connected();
    let other = world.b.bind_ipi(0).unwrap();
    let rows: [(&[u32], bool); 4] = [(&[1], true), (&[2], false), (&[1, 2], true), (&[], true)];
    for (ports, wakes) in rows {
        world.clear(SHARED_B);
        let (_, b, words) = world.apart();
        assert_eq!(b.poll(1, ports, words.memory), Ok(PollOutcome::Wait), "{ports:?}");
        let Ok(Received::Delivered(delivery)) = world.send(local) else {
            panic!()
        };
        assert_eq!(
            delivery.wake,
            if wakes { VcpuSet::only(1) } else { VcpuSet::EMPTY },
            "{ports:?}"
        );
        let (_, b, words) = world.apart();
        assert_eq!(
            b.poll(1, &[other.0, remote.0], words.memory),
            Ok(PollOutcome::Ready),
            "{ports:?}"
        );
        b.stop_polling(1);
    }
    let (_, b, words) = world.apart();
    assert_eq!(b.poll(2, &[1], words.memory), Err(NoEntry));
    world.clear(SHARED_B);
    world.poke(SHARED_B, MASK, u64::MAX);
    let (_, b, words) = world.apart();
    assert_eq!(b.poll(0, &[1], words.memory), Ok(PollOutcome::Wait));
    let Ok(Received::Delivered(delivery)) = world.send(local) else {
        panic!()
    };
    assert_eq!(
        delivery,
        Delivery {
            upcall: None,
            wake: VcpuSet::only(0)
        },
        "masked ports wake pollers too"
    );
}

#[test]
fn a_guest_that_fights_for_a_word_costs_bounded_attempts_and_loses_only_its_own_event() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    for contended in [true, false] {
        let mut world = World::new();
        let (local, _) = world.connected();
        let attempts = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&attempts);
        world.machine.set_adversary(move |memory, access| {
            if access.kind != SharedAccessKind::CompareExchange {
                return Interference::None;
            }
            let turn = counter.fetch_add(1, Ordering::Relaxed);
            // Either break each exclusive, or change the word just before each attempt.
            memory.set_word(access.at, 8, u64::from(turn + 1) << 8);
            if contended {
                Interference::Contend
            } else {
                Interference::None
            }
        });
        assert_eq!(world.send(local), Ok(Received::Delivered(QUIET)));
        assert_eq!(attempts.load(Ordering::Relaxed), 2 * ATTEMPTS);
        assert_eq!(world.stop.times.get(), 1, "the others were stopped once");
    }
}

#[test]
fn stopping_the_others_lets_the_event_through() {
    struct Calms<'a>(&'a FakeMachine);
    impl StopOthers for Calms<'_> {
        fn while_stopped(&self, attempt: &mut dyn FnMut()) {
            self.0.dismiss_adversary();
            attempt();
        }
    }
    let mut world = World::new();
    let (local, remote) = world.connected();
    world.machine.set_adversary(|_, access| match access.kind {
        SharedAccessKind::CompareExchange => Interference::Contend,
        SharedAccessKind::Load => Interference::None,
    });
    let World { machine, a, b, .. } = &mut world;
    let words = SharedWords {
        memory: &*machine,
        others: &Calms(machine),
    };
    let Ok(Sent::Peer(sender, B, port)) = a.send(local, &words) else {
        panic!()
    };
    assert_eq!(b.receive(port, sender, &words), Received::Delivered(UPCALL_0));
    assert!(world.is_pending(SHARED_B, remote));
}

#[test]
fn a_starved_word_is_named() {
    let world = World::new();
    world.machine.set_adversary(|_, _| Interference::Contend);
    let words = SharedWords {
        memory: &world.machine,
        others: &world.stop,
    };
    assert_eq!(words.set_bits(Pa(SHARED_A.0 + 8), 1), Err(Starved(Pa(SHARED_A.0 + 8))));
    assert_eq!(words.clear_bits(SHARED_A, 1), Err(Starved(SHARED_A)));
    assert_eq!(world.word(SHARED_A, 8), 0);
}
