//! The rules of each operation on ports.

use portunus::abi::HypercallError::{Busy, Exists, Invalid, NoEntry, NoSpace};
use portunus::abi::evtchn as abi;
use portunus::evtchn::{Bound, Channel, Consumer, PortLimits, PortStatus, Received, Sent, Tables};
use portunus::ids::{EventPort, ServerId};

use crate::world::{A, B, C, PENDING, QUIET, SHARED_A, SHARED_B, UPCALL_0, World};

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
