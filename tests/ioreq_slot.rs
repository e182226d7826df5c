//! A vCPU's slot against a server that writes what it likes, when it likes.

use portunus::abi::ioreq::{Ioreq, State};
use portunus::access::{AccessWidth, Direction, MmioAccess};
use portunus::fakes::{FakeMachine, Interference, Operation, SharedAccessKind};
use portunus::ids::{EventPort, Ipa, Pa};
use portunus::ioreq::slot::{Reading, Slot, SlotError};
use zerocopy::IntoBytes;

const PAGE: Pa = Pa(0x8000_0000);
const SLOT: Slot = Slot {
    page: PAGE,
    vcpu: 3,
    port: EventPort(1030),
};
const FLAGS: Pa = Pa(0x8000_0000 + 3 * 32 + 30);
const DATA: Pa = Pa(0x8000_0000 + 3 * 32 + 8);

fn machine() -> FakeMachine {
    let machine = FakeMachine::with_memory(PAGE, 4096);
    machine.memory(|memory| memory.zero(PAGE, 4096));
    SLOT.reset(&machine);
    machine.clear_log();
    machine
}

fn slot(machine: &FakeMachine) -> Ioreq {
    zerocopy::FromBytes::read_from_bytes(machine.peek(Pa(PAGE.0 + 96), 32).as_slice()).unwrap()
}

fn access(width: AccessWidth, direction: Direction) -> MmioAccess {
    MmioAccess {
        ipa: Ipa(0x0200_0070),
        width,
        direction,
    }
}

#[test]
fn a_request_has_every_field_and_ready_is_written_last() {
    let rows = [
        (AccessWidth::Byte, Direction::Read, 0, 0x21),
        (AccessWidth::Word, Direction::Read, 0, 0x21),
        (AccessWidth::Halfword, Direction::Write(0xdead_beef), 0xbeef, 0x01),
        (AccessWidth::Doubleword, Direction::Write(u64::MAX), u64::MAX, 0x01),
    ];
    for (width, direction, data, flags) in rows {
        let machine = machine();
        SLOT.begin(&machine, &access(width, direction)).unwrap();
        let expected = Ioreq {
            addr: 0x0200_0070,
            data,
            count: 1,
            size: width.bytes() as u32,
            vp_eport: 1030,
            pad: 0,
            flags,
            kind: 1,
        };
        assert_eq!(slot(&machine), expected);
        let words = expected.as_bytes().chunks_exact(8).zip([0, 8, 16, 24]);
        let stores = words.map(|(word, offset)| Operation::Store {
            at: Pa(PAGE.0 + 96 + offset),
            width: 8,
            value: u64::from_le_bytes(word.try_into().unwrap()),
        });
        // The state is in the last one.
        assert!(machine.take_log().into_iter().eq(stores));
    }
}

#[test]
fn nothing_is_written_over_a_slot_that_the_server_spoilt() {
    for state in 1..16u8 {
        let machine = machine();
        machine.poke(FLAGS, &[state | 0xf0]);
        let refused = SLOT.begin(&machine, &access(AccessWidth::Word, Direction::Read));
        assert_eq!(refused, Err(SlotError::BadState(state)));
        assert!(machine.take_log().is_empty());
    }
    let machine = machine();
    machine.poke(Pa(PAGE.0 + 96 + 24), &1031u32.to_le_bytes());
    let refused = SLOT.begin(&machine, &access(AccessWidth::Word, Direction::Read));
    assert_eq!(refused, Err(SlotError::BadPort(1031)));
    assert!(machine.take_log().is_empty());
}

#[test]
fn each_state_reads_as_what_it_means() {
    for byte in 0..=255u8 {
        let machine = machine();
        machine.poke(FLAGS, &[byte]);
        machine.poke(DATA, &0x1234u64.to_le_bytes());
        let expected = match byte & 0xf {
            1 | 2 => Reading::Working,
            3 => Reading::Answered(0x1234),
            other => Reading::Nonsense(other),
        };
        assert_eq!(SLOT.poll(&machine), expected, "flags {byte:#x}");
        if byte & 0xf == 3 {
            assert_eq!(slot(&machine).state(), State::NONE);
        } else {
            assert_eq!(machine.peek(FLAGS, 1), [byte], "only an answer is taken");
        }
    }
}

#[test]
fn the_server_is_believed_once() {
    use std::sync::{Arc, Mutex};
    let machine = machine();
    SLOT.begin(&machine, &access(AccessWidth::Word, Direction::Read))
        .unwrap();
    let loads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&loads);
    machine.set_adversary(move |memory, access| {
        assert_eq!(access.kind, SharedAccessKind::Load);
        seen.lock().unwrap().push(access.at);
        // Before each load: another state, another value, another port, another size.
        let turn = seen.lock().unwrap().len() as u64;
        memory.set_word(FLAGS, 1, if turn == 1 { 3 } else { 7 });
        memory.set_word(DATA, 8, 0x1000 + turn);
        memory.set_word(Pa(PAGE.0 + 96 + 20), 4, 0xffff_ffff);
        Interference::None
    });
    assert_eq!(SLOT.poll(&machine), Reading::Answered(0x1002));
    assert_eq!(
        *loads.lock().unwrap(),
        [FLAGS, DATA],
        "the state, then the data, once each"
    );
}
