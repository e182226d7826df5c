//! Trace events: their layout, and what a reader makes of memory that may hold anything.

use portunus::fakes::FakeMachine;
use portunus::ids::{DomainId, EventPort, PcpuId, ServerId, Ticks, VcpuId};
use portunus::machine::Machine;
use portunus::trace::{Denial, Event, Kind, call, rung, served, vcpu_bits, vcpu_byte, vcpu_of, word};
use portunus::trap::event::of_exception;
use portunus::trap::registers::GuestFrame;

const fn vcpu(domain: u16, index: u8) -> VcpuId {
    VcpuId {
        domain: DomainId(domain),
        index,
    }
}

#[test]
fn an_event_is_two_words_with_the_time_first() {
    let event = Event {
        time: 0x1122_3344_5566_7788,
        kind: Kind::Injected,
        vcpu: Some(vcpu(2, 5)),
        argument: 0xdead_beef,
    };
    assert_eq!(event.encode(), [0x1122_3344_5566_7788, 0x7788_0d15_dead_beef]);
    assert_eq!(
        event.encode()[1] << 16 >> 16,
        word(event.kind, vcpu_bits(vcpu(2, 5)), 0xdead_beef)
    );
    assert_eq!(Event::decode(event.encode()), Some(event));
}

#[test]
fn numbers_of_kinds_and_arguments_stay_what_they_are() {
    let numbers: Vec<u8> = Kind::ALL.iter().map(|kind| *kind as u8).collect();
    assert_eq!(numbers, (1..=17).collect::<Vec<u8>>());
    for kind in Kind::ALL {
        assert_eq!(Kind::from_number(kind as u8), Some(kind));
    }
    for number in [0, 18, 255] {
        assert_eq!(Kind::from_number(number), None);
    }
    assert_eq!(call(32, 4), 0x0004_0020);
    assert_eq!(call(0xffff_ffff_0000_0020, 0xffff_0004), 0x0004_0020);
    assert_eq!(served(DomainId(2), ServerId(3)), 0x0002_0003);
    assert_eq!(rung(DomainId(2), EventPort(1025)), 0x0002_0401);
    assert_eq!(Denial::Policy.argument(Some(DomainId(3))), 0x0003_0001);
    assert_eq!(Denial::Refused.argument(None), 2);
}

#[test]
fn an_exception_is_one_event_that_says_what_kind_of_call_it_was() {
    let mut frame = GuestFrame::default();
    frame.write(0, 0xaaaa_bbbb_c400_0003);
    frame.write(16, 0xcccc_dddd_eeee_0020);
    for (what, esr, event) in [
        ("hypercall", 0x5a00_0ea1, (Kind::Hypercall, 0x0003_0020)),
        ("HVC #0", 0x5a00_0000, (Kind::Firmware, 0xc400_0003)),
        ("HVC of no meaning", 0x5a00_1234, (Kind::Firmware, 0xc400_0003)),
        ("SMC", 0x5e00_0000, (Kind::Firmware, 0xc400_0003)),
        ("HVC of AArch32", 0x4a00_0ea1, (Kind::Trap, 0x4a00_0ea1)),
        ("system register", 0x6230_1234, (Kind::Trap, 0x6230_1234)),
        ("data abort with ISS2", 0x5_9381_0007, (Kind::Trap, 0x9381_0007)),
    ] {
        assert_eq!(of_exception(esr, &frame), event, "{what}");
    }
}

#[test]
fn every_vcpu_has_a_byte_of_its_own_that_is_not_nobody_s() {
    assert_eq!(vcpu_of(0), None);
    for domain in 1..=16 {
        for index in 0..8 {
            assert_eq!(vcpu_of(vcpu_byte(vcpu(domain, index))), Some(vcpu(domain, index)));
        }
    }
}

#[test]
fn halves_of_different_events_and_garbage_are_no_events() {
    let of = |time| {
        let event = Event {
            time,
            kind: Kind::Trap,
            vcpu: Some(vcpu(1, 0)),
            argument: 0,
        };
        event.encode()
    };
    let (old, new) = (of(1_000), of(9_000));
    for words in [
        [new[0], old[1]],
        [old[0], new[1]],
        [0, 0],
        [u64::MAX, u64::MAX],
        [old[1], old[0]],
        [1_000, old[1] & !(0xff << 40)],
        [0xaaaa_aaaa_aaaa_aaaa; 2],
    ] {
        assert_eq!(Event::decode(words), None, "{words:x?}");
    }
}

#[test]
fn the_fake_machine_keeps_who_recorded_what_when() {
    let machine = FakeMachine::new();
    machine.set_now(Ticks(7));
    machine.set_pcpu(PcpuId(1));
    machine.trace(Kind::Doorbell, vcpu(3, 1), rung(DomainId(2), EventPort(5)));
    let event = Event {
        time: 7,
        kind: Kind::Doorbell,
        vcpu: Some(vcpu(3, 1)),
        argument: 0x0002_0005,
    };
    assert_eq!(machine.take_trace(), [(PcpuId(1), event)]);
    assert_eq!(machine.take_trace(), []);
}

#[test]
fn events_read_as_people_say_them() {
    let event = |kind, argument| Event {
        time: 0,
        kind,
        vcpu: Some(vcpu(1, 2)),
        argument,
    };
    for (kind, argument, text) in [
        (Kind::Trap, 0x9381_0007, "d1v2 trap 0x93810007"),
        (Kind::Hypercall, call(32, 4), "d1v2 hypercall 32 operation 4"),
        (
            Kind::Posted,
            served(DomainId(2), ServerId(3)),
            "d1v2 request posted d2 server 3",
        ),
        (
            Kind::Doorbell,
            rung(DomainId(2), EventPort(1024)),
            "d1v2 doorbell d2 port 1024",
        ),
        (
            Kind::Switched,
            u32::from(vcpu_byte(vcpu(2, 0))),
            "d1v2 switch from d2v0",
        ),
        (Kind::Switched, 0, "d1v2 switch"),
        (Kind::Taken, 0, "d1v2 answer taken"),
        (Kind::Taken, 1, "d1v2 answer taken: external abort"),
        (
            Kind::Denied,
            Denial::Policy.argument(Some(DomainId(3))),
            "d1v2 denied 1 of d3",
        ),
        (Kind::Idle, 0, "d1v2 idle"),
    ] {
        assert_eq!(event(kind, argument).to_string(), text);
    }
}
