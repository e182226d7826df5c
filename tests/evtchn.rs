//! Event channels: rules of each operation, delivery into the shared page, and a naive model under random operations.

use std::cell::Cell;

use portunus::abi::HypercallError::{self, Busy, Exists, Invalid, NoEntry, NoSpace};
use portunus::abi::evtchn as abi;
use portunus::evtchn::{
    Bound, Channel, Consumer, Delivery, EventChannels, PollOutcome, PortLimits, PortStatus, Received, Sent, Tables,
};
use portunus::fakes::{FakeMachine, Interference, Operation, SharedAccessKind};
use portunus::ids::{DomainId, EventPort, Pa, ServerId, VcpuSet};
use portunus::memory::atomic::{ATTEMPTS, SharedWords, Starved, StopOthers};

const A: DomainId = DomainId(1);
const B: DomainId = DomainId(2);
const C: DomainId = DomainId(3);
const SHARED_A: Pa = Pa(0x8000_0000);
const SHARED_B: Pa = Pa(0x8000_1000);
const INFO: Pa = Pa(0x8000_2000);
const PENDING: u64 = 48;
const MASK: u64 = 560;

/// Counts how often others were stopped.
#[derive(Default)]
struct Stop {
    times: Cell<u32>,
}

impl StopOthers for Stop {
    fn while_stopped(&self, attempt: &mut dyn FnMut()) {
        self.times.set(self.times.get() + 1);
        attempt();
    }
}

struct World {
    machine: FakeMachine,
    stop: Stop,
    a: EventChannels,
    b: EventChannels,
}

impl World {
    fn new() -> Self {
        Self::with_limits(PortLimits {
            highest: 1023,
            attached: 4,
        })
    }

    fn with_limits(limits: PortLimits) -> Self {
        let machine = FakeMachine::with_memory(SHARED_A, 0x4000);
        machine.memory(|memory| memory.zero(SHARED_A, 0x4000));
        let a = EventChannels::new(A, 2, limits, SHARED_A);
        let b = EventChannels::new(B, 2, limits, SHARED_B);
        Self {
            machine,
            stop: Stop::default(),
            a,
            b,
        }
    }

    fn apart(&mut self) -> (&mut EventChannels, &mut EventChannels, SharedWords<'_, FakeMachine>) {
        let Self { machine, stop, a, b } = self;
        (
            a,
            b,
            SharedWords {
                memory: &*machine,
                others: &*stop,
            },
        )
    }

    /// A binds to a port of B.
    fn bind(&mut self, remote_port: EventPort) -> Result<Bound, HypercallError> {
        let (local, remote, words) = self.apart();
        Tables::Pair { local, remote }.bind_interdomain(remote_port, &words)
    }

    /// A port of A connected to a port of B, without pending events.
    fn connected(&mut self) -> (EventPort, EventPort) {
        let remote = self.b.alloc_unbound(A).unwrap();
        let local = self.bind(remote).unwrap().port;
        self.clear(SHARED_A);
        (local, remote)
    }

    fn clear(&self, shared: Pa) {
        self.machine.memory(|memory| memory.zero(shared, 560));
    }

    fn word(&self, shared: Pa, offset: u64) -> u64 {
        self.machine.memory(|memory| memory.word(Pa(shared.0 + offset), 8))
    }

    fn poke(&self, shared: Pa, offset: u64, value: u64) {
        self.machine
            .memory(|memory| memory.set_word(Pa(shared.0 + offset), 8, value));
    }

    fn is_pending(&self, shared: Pa, port: EventPort) -> bool {
        self.word(shared, PENDING + u64::from(port.0 / 64) * 8) >> (port.0 % 64) & 1 == 1
    }

    /// A sends; what B gets.
    fn send(&mut self, port: EventPort) -> Result<Received, HypercallError> {
        let (a, b, words) = self.apart();
        match a.send(port, &words)? {
            Sent::Peer(sender, B, port) => Ok(b.receive(port, sender, &words)),
            Sent::Nobody => Ok(Received::Nothing),
            other => panic!("{other:?}"),
        }
    }
}

const UPCALL_0: Delivery = Delivery {
    upcall: Some(0),
    wake: VcpuSet::EMPTY,
};
const QUIET: Delivery = Delivery {
    upcall: None,
    wake: VcpuSet::EMPTY,
};

#[test]
fn ports_are_the_lowest_free_from_1_up_to_the_limit() {
    let mut world = World::with_limits(PortLimits {
        highest: 5,
        attached: 2,
    });
    for expected in 1..=5 {
        assert_eq!(world.a.alloc_unbound(B), Ok(EventPort(expected)));
    }
    assert_eq!(world.a.alloc_unbound(B), Err(NoSpace));
    assert_eq!(world.a.bind_ipi(0), Err(NoSpace));
    assert_eq!(world.a.bind_virq(abi::VIRQ_ARGO, 0), Err(NoSpace));
    assert_eq!(world.bind(EventPort(9)), Err(NoSpace), "checked before the peer's port");
    let consumer = Consumer::Request {
        server: ServerId(0),
        vcpu: 0,
    };
    assert_eq!(
        world.a.alloc_attached(B, consumer),
        Ok(EventPort(6)),
        "a guest can't use these up"
    );
    assert_eq!(world.a.alloc_attached(B, consumer), Ok(EventPort(7)));
    assert_eq!(world.a.alloc_attached(B, consumer), Err(NoSpace));
    let (local, remote, words) = world.apart();
    Tables::Pair { local, remote }.close(EventPort(3), &words).unwrap();
    assert_eq!(world.a.alloc_unbound(B), Ok(EventPort(3)));
}

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
    let order = [exchanged(PENDING, bit), exchanged(8, 1), exchanged(0, 1)];
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
fn binding_connects_and_starts_pending() {
    let mut world = World::new();
    let remote = world.b.alloc_unbound(A).unwrap();
    let bound = world.bind(remote).unwrap();
    assert_eq!(
        bound,
        Bound {
            port: EventPort(1),
            delivery: UPCALL_0,
            consumer: None
        }
    );
    assert!(world.is_pending(SHARED_A, bound.port));
    let status = PortStatus {
        status: abi::STATUS_INTERDOMAIN,
        vcpu: 0,
        peer: 2,
        peer_port: remote.0,
    };
    assert_eq!(world.a.status(bound.port), Ok(status));
    let status = PortStatus {
        status: abi::STATUS_INTERDOMAIN,
        vcpu: 0,
        peer: 1,
        peer_port: 1,
    };
    assert_eq!(world.b.status(remote), Ok(status));
}

#[test]
fn only_a_port_that_waits_for_the_caller_can_be_bound() {
    let mut world = World::new();
    let for_c = world.b.alloc_unbound(C).unwrap();
    let ipi = world.b.bind_ipi(0).unwrap();
    let (_, taken) = world.connected();
    for port in [
        EventPort(0),
        for_c,
        ipi,
        taken,
        EventPort(700),
        EventPort(1024),
        EventPort(u32::MAX),
    ] {
        assert_eq!(world.bind(port), Err(Invalid), "{port:?}");
    }
    assert_eq!(world.a.next_open(EventPort(2)), None, "nothing was allocated");
}

#[test]
fn closing_frees_the_port_and_its_peer_can_be_bound_again() {
    let mut world = World::new();
    let (local, remote) = world.connected();
    world.poke(SHARED_A, PENDING, 0b110);
    world.a.bind_vcpu(local, 1).unwrap();
    let (a, b, words) = world.apart();
    Tables::Pair { local: a, remote: b }.close(local, &words).unwrap();
    assert_eq!(world.word(SHARED_A, PENDING), 0b100, "its event is forgotten");
    assert_eq!(world.a.status(local), Ok(PortStatus::default()), "its vCPU too");
    assert_eq!(world.b.port(remote).unwrap().channel, Channel::Unbound { remote: A });
    let (_, b, words) = world.apart();
    assert_eq!(b.send(remote, &words), Ok(Sent::Nobody), "nobody listens: no error");
    assert_eq!(world.bind(remote).unwrap().port, local);
}

#[test]
fn operations_refuse_what_they_do_not_apply_to() {
    let mut world = World::new();
    let unbound = world.a.alloc_unbound(B).unwrap();
    let virq = world.a.bind_virq(abi::VIRQ_DEBUG, 1).unwrap();
    let ipi = world.a.bind_ipi(1).unwrap();
    let argo = world.a.bind_virq(abi::VIRQ_ARGO, 0).unwrap();
    let attached = world
        .a
        .alloc_attached(B, Consumer::Buffered { server: ServerId(0) })
        .unwrap();
    let free = EventPort(9);
    // (port, send, close, bind_vcpu to 1, unmask, poll)
    let rows = [
        (EventPort(0), Some(Invalid), Some(Invalid), Some(Invalid), Some(Invalid)),
        (
            EventPort(u32::MAX),
            Some(Invalid),
            Some(Invalid),
            Some(Invalid),
            Some(Invalid),
        ),
        (attached, Some(Invalid), Some(Invalid), Some(Invalid), Some(Invalid)),
        (free, Some(Invalid), Some(Invalid), Some(Invalid), None),
        (virq, Some(Invalid), None, Some(Invalid), None),
        (ipi, None, None, Some(Invalid), None),
        (argo, Some(Invalid), None, None, None),
        (unbound, None, None, None, None),
    ];
    for (port, send, close, bind, unmask) in rows {
        let (a, b, words) = world.apart();
        assert_eq!(a.unmask(port, &words).err(), unmask, "unmask {port:?}");
        assert_eq!(a.poll(0, &[port.0], words.memory).err(), unmask, "poll {port:?}");
        assert_eq!(a.bind_vcpu(port, 1).err(), bind, "bind_vcpu {port:?}");
        assert_eq!(a.bind_vcpu(port, 2).err(), Some(NoEntry), "the vCPU is checked first");
        assert_eq!(a.send(port, &words).err(), send, "send {port:?}");
        assert_eq!(
            Tables::Pair { local: a, remote: b }.close(port, &words).err(),
            close,
            "close {port:?}"
        );
    }
    let status = world.a.status(attached).unwrap();
    assert_eq!((status.status, status.peer), (abi::STATUS_UNBOUND, 2));
    assert_eq!(world.a.status(EventPort(1028)), Err(Invalid));
}

#[test]
fn virqs_have_their_classes() {
    let mut world = World::new();
    world.a.grant_global_virqs(1 << abi::VIRQ_CONSOLE);
    let rows = [
        (24, 0, Err(Invalid)),
        (u32::MAX, 0, Err(Invalid)),
        (abi::VIRQ_TIMER, 2, Err(NoEntry)),
        (abi::VIRQ_TIMER, 0, Ok(1)),
        (abi::VIRQ_TIMER, 1, Ok(2)),
        (abi::VIRQ_TIMER, 0, Err(Exists)),
        (abi::VIRQ_ARGO, 1, Err(Invalid)),
        (abi::VIRQ_ARGO, 0, Ok(3)),
        (abi::VIRQ_ARGO, 0, Err(Exists)),
        (abi::VIRQ_CONSOLE, 1, Err(Invalid)),
        (abi::VIRQ_CONSOLE, 0, Ok(4)),
        (3, 0, Err(Busy)),
    ];
    for (virq, vcpu, expected) in rows {
        assert_eq!(
            world.a.bind_virq(virq, vcpu),
            expected.map(EventPort),
            "VIRQ {virq} on {vcpu}"
        );
    }
    world.a.bind_vcpu(EventPort(3), 1).unwrap();
    let (a, b, words) = world.apart();
    assert_eq!(a.raise_virq(abi::VIRQ_TIMER, 0, &words), UPCALL_0);
    assert_eq!(a.raise_virq(abi::VIRQ_XENPMU, 0, &words), QUIET, "not bound");
    Tables::Pair { local: a, remote: b }
        .close(EventPort(1), &words)
        .unwrap();
    assert_eq!(
        world.a.bind_virq(abi::VIRQ_TIMER, 0),
        Ok(EventPort(1)),
        "closing unbinds"
    );
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
fn a_server_hears_its_attached_ports() {
    let mut world = World::new();
    let consumer = Consumer::Request {
        server: ServerId(3),
        vcpu: 1,
    };
    let port = world.b.alloc_attached(A, consumer).unwrap();
    assert_eq!(world.b.notify_attached(port), Sent::Nobody, "not bound yet");
    let bound = world.bind(port).unwrap();
    assert_eq!(
        bound.consumer,
        Some(consumer),
        "the consumer learns that somebody listens"
    );
    assert_eq!(world.send(bound.port), Ok(Received::Consumed(consumer)));
    world.clear(SHARED_A);
    let (a, b, words) = world.apart();
    let Sent::Peer(sender, A, local) = b.notify_attached(port) else {
        panic!()
    };
    assert_eq!(a.receive(local, sender, &words), Received::Delivered(UPCALL_0));
    assert_eq!(b.notify_attached(EventPort(1)), Sent::Nobody);
    let closed = Tables::Pair { local: a, remote: b }.close(bound.port, &words).unwrap();
    assert_eq!(closed.consumer, Some(consumer), "and that nobody does");

    let bound = world.bind(port).unwrap();
    assert_eq!(world.b.attached_peer(port), Some(A));
    let (a, b, _) = world.apart();
    Tables::Pair { local: b, remote: a }.close_attached(port);
    assert_eq!(world.b.port(port).unwrap().channel, Channel::Free);
    assert_eq!(
        world.a.port(bound.port).unwrap().channel,
        Channel::Unbound { remote: B }
    );
    assert_eq!(world.b.attached_peer(port), None);
    let (a, b, _) = world.apart();
    Tables::Pair { local: a, remote: b }.close_attached(bound.port);
    assert_eq!(
        world.a.port(bound.port).unwrap().channel,
        Channel::Unbound { remote: B },
        "a guest's port stays"
    );
}

#[test]
fn an_event_for_a_port_that_was_closed_meanwhile_is_dropped() {
    let mut world = World::new();
    let (local, remote) = world.connected();
    let (a, b, words) = world.apart();
    let Ok(Sent::Peer(sender, B, port)) = a.send(local, &words) else {
        panic!()
    };
    Tables::Pair { local: b, remote: a }.close(remote, &words).unwrap();
    assert_eq!(b.alloc_unbound(C), Ok(remote));
    assert_eq!(b.receive(port, sender, &words), Received::Nothing);
    assert!(!world.is_pending(SHARED_B, remote));
}

#[test]
fn a_domain_can_talk_to_itself() {
    let mut world = World::new();
    let port = world.a.alloc_unbound(A).unwrap();
    let (a, _, words) = world.apart();
    let bound = Tables::Loopback(a).bind_interdomain(port, &words).unwrap();
    assert_eq!(bound.port, EventPort(2));
    let Ok(Sent::Peer(sender, A, peer)) = a.send(port, &words) else {
        panic!()
    };
    assert_eq!(peer, bound.port);
    assert_eq!(
        a.receive(peer, sender, &words),
        Received::Delivered(QUIET),
        "pending since it was bound"
    );
    Tables::Loopback(a).close(port, &words).unwrap();
    assert_eq!(a.port(bound.port).unwrap().channel, Channel::Unbound { remote: A });
}

#[test]
fn static_channels_have_the_manifests_numbers() {
    let mut world = World::new();
    world.b.alloc_static(EventPort(10), A).unwrap();
    assert_eq!(world.b.alloc_static(EventPort(10), A), Err(Busy));
    assert_eq!(world.b.alloc_static(EventPort(0), A), Err(Invalid));
    assert_eq!(world.b.alloc_static(EventPort(1024), A), Err(Invalid));
    let (local, remote, words) = world.apart();
    let mut tables = Tables::Pair { local, remote };
    let bound = tables.bind_static(EventPort(20), EventPort(10), &words).unwrap();
    assert_eq!((bound.port, bound.delivery), (EventPort(20), UPCALL_0));
    assert_eq!(tables.bind_static(EventPort(20), EventPort(10), &words), Err(Busy));
    assert_eq!(tables.bind_static(EventPort(21), EventPort(10), &words), Err(Invalid));
    assert_eq!(world.send(EventPort(20)), Ok(Received::Delivered(UPCALL_0)));
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

/// Two domains with 12 ports each; the model keeps a list of connections.
#[test]
fn random_operations_agree_with_a_naive_model() {
    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Model {
        Free,
        Unbound(usize),
        Connected(usize, usize),
        Ipi,
    }
    const PORTS: usize = 12;
    for seed in 1..60u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = move |limit: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as usize % limit
        };
        let mut world = World::with_limits(PortLimits {
            highest: PORTS as u32,
            attached: 0,
        });
        let ids = [A, B];
        let mut model = [[Model::Free; PORTS + 1]; 2];
        let mut pending = [[false; PORTS + 1]; 2];
        for step in 0..400 {
            let me = random(2);
            let port = random(PORTS + 2);
            let peer = random(2);
            let context = format!("seed {seed}, step {step}, domain {me}, port {port}");
            let free = (1..=PORTS).find(|port| model[me][*port] == Model::Free);
            let World { machine, stop, a, b } = &mut world;
            let words = SharedWords {
                memory: &*machine,
                others: &*stop,
            };
            let (local, remote) = if me == 0 { (a, b) } else { (b, a) };
            match random(5) {
                0 => {
                    let expected = free.map(|port| EventPort(port as u32)).ok_or(NoSpace);
                    if random(4) == 0 {
                        assert_eq!(local.bind_ipi(0), expected, "{context}");
                        free.into_iter().for_each(|port| model[me][port] = Model::Ipi);
                    } else {
                        assert_eq!(local.alloc_unbound(ids[peer]), expected, "{context}");
                        free.into_iter().for_each(|port| model[me][port] = Model::Unbound(peer));
                    }
                }
                1 => {
                    let waits = model[peer].get(port) == Some(&Model::Unbound(me)) && port != 0;
                    let expected = match (free, waits) {
                        (None, _) => Err(NoSpace),
                        (Some(_), false) => Err(Invalid),
                        (Some(free), true) => Ok(free),
                    };
                    let mut tables = if me == peer {
                        Tables::Loopback(local)
                    } else {
                        Tables::Pair { local, remote }
                    };
                    let result = tables.bind_interdomain(EventPort(port as u32), &words);
                    assert_eq!(result.map(|bound| bound.port.0 as usize), expected, "{context}");
                    if let Ok(new) = expected {
                        model[me][new] = Model::Connected(peer, port);
                        model[peer][port] = Model::Connected(me, new);
                        pending[me][new] = true;
                    }
                }
                2 => {
                    let entry = model[me]
                        .get(port)
                        .copied()
                        .filter(|_| port != 0)
                        .unwrap_or(Model::Free);
                    let loopback = !matches!(entry, Model::Connected(other, _) if other != me);
                    let mut tables = if loopback {
                        Tables::Loopback(local)
                    } else {
                        Tables::Pair { local, remote }
                    };
                    let result = tables.close(EventPort(port as u32), &words).map(drop);
                    assert_eq!(
                        result,
                        if entry == Model::Free { Err(Invalid) } else { Ok(()) },
                        "{context}"
                    );
                    if let Model::Connected(other, its) = entry {
                        model[other][its] = Model::Unbound(me);
                    }
                    if entry != Model::Free {
                        model[me][port] = Model::Free;
                        pending[me][port] = false;
                    }
                }
                3 => {
                    let entry = model[me]
                        .get(port)
                        .copied()
                        .filter(|_| port != 0)
                        .unwrap_or(Model::Free);
                    let result = local.send(EventPort(port as u32), &words);
                    match (entry, result) {
                        (Model::Free, Err(Invalid)) | (Model::Unbound(_), Ok(Sent::Nobody)) => {}
                        (Model::Ipi, Ok(Sent::Own(_))) => pending[me][port] = true,
                        (Model::Connected(other, its), Ok(Sent::Peer(sender, domain, at))) => {
                            assert_eq!((domain, at.0 as usize), (ids[other], its), "{context}");
                            let receiver = if other == me { local } else { remote };
                            assert!(matches!(receiver.receive(at, sender, &words), Received::Delivered(_)));
                            pending[other][its] = true;
                        }
                        (entry, result) => panic!("{context}: {entry:?} {result:?}"),
                    }
                }
                _ => {
                    // The guest takes all its events.
                    let shared = if me == 0 { SHARED_A } else { SHARED_B };
                    world.clear(shared);
                    pending[me] = [false; PORTS + 1];
                }
            }
            for (domain, shared) in [SHARED_A, SHARED_B].into_iter().enumerate() {
                let bits = world.word(shared, PENDING);
                for (port, expected) in pending[domain].iter().enumerate().skip(1) {
                    assert_eq!(bits >> port & 1 == 1, *expected, "{context}: {domain} {port}");
                }
            }
        }
    }
}
