//! A buffered page against servers that read it as they should, late, or not at all, and against those that write
//! nonsense into it. The machine has this one page: an access beside it fails the test.

use portunus::abi::ioreq::BufferedIoreq;
use portunus::access::AccessWidth::{self, Byte, Doubleword, Halfword, Word};
use portunus::fakes::{FakeMachine, Interference, SharedAccessKind};
use portunus::ids::{Ipa, Pa};
use portunus::ioreq::buffered::{BufferedPage, RingError};
use zerocopy::FromBytes;

const PAGE: Pa = Pa(0x8000_0000);
const RING: BufferedPage = BufferedPage(PAGE);
const SLOTS: u32 = 511;

fn machine() -> FakeMachine {
    let machine = FakeMachine::with_memory(PAGE, 4096);
    machine.memory(|memory| memory.zero(PAGE, 4096));
    machine
}

fn pointers(machine: &FakeMachine) -> (u32, u32) {
    machine.memory(|memory| (memory.word(PAGE, 4) as u32, memory.word(Pa(PAGE.0 + 4), 4) as u32))
}

fn set_pointers(machine: &FakeMachine, read: u32, write: u32) {
    machine.memory(|memory| {
        memory.set_word(PAGE, 4, read.into());
        memory.set_word(Pa(PAGE.0 + 4), 4, write.into());
    });
}

fn slot(machine: &FakeMachine, index: u32) -> BufferedIoreq {
    let at = PAGE.0 + 8 + u64::from(index % SLOTS) * 8;
    BufferedIoreq::read_from_bytes(machine.peek(Pa(at), 8).as_slice()).unwrap()
}

fn post(machine: &FakeMachine, address: u64, width: AccessWidth, value: u64) -> Result<bool, RingError> {
    RING.post(machine, Ipa(address), width, value)
}

/// What a server makes of the ring: (address, bytes, value) of every write, in order.
fn drain(machine: &FakeMachine) -> Vec<(u32, u8, u64)> {
    let mut taken = Vec::new();
    loop {
        let (read, write) = pointers(machine);
        if read == write {
            return taken;
        }
        let first = slot(machine, read);
        assert_eq!((first.kind(), first.is_read()), (1, false));
        let mut value = u64::from(first.data);
        let mut slots = 1;
        if first.bytes() == 8 {
            let second = slot(machine, read.wrapping_add(1));
            assert_eq!(second.word, first.word, "both halves say the same of themselves");
            value |= u64::from(second.data) << 32;
            slots = 2;
        }
        taken.push((first.address(), first.bytes(), value));
        machine.memory(|memory| memory.set_word(PAGE, 4, read.wrapping_add(slots).into()));
    }
}

#[test]
fn a_posted_write_is_these_bits_for_each_width() {
    let rows = [
        (Byte, 0x0200_0050, 0xffff_ffff_ffff_ff17, 0x17, 1, 0x00050),
        (Halfword, 0x0200_0050, 0x1_2345, 0x2345, 2, 0x00050),
        (Word, 0x021f_fffc, 0x1_dead_beef, 0xdead_beef, 4, 0xffffc),
        (Doubleword, 0x0210_0008, 0x0123_4567_89ab_cdef, 0x89ab_cdef, 8, 0x00008),
    ];
    for (width, ipa, written, data, bytes, address) in rows {
        let machine = machine();
        assert_eq!(post(&machine, ipa, width, written), Ok(true));
        let first = slot(&machine, 0);
        assert_eq!(
            (
                first.kind(),
                first.is_read(),
                first.bytes(),
                first.address(),
                first.data,
                first.word >> 8 & 1
            ),
            (1, false, bytes, address, data, 0),
            "{width:?}"
        );
        let slots = if bytes == 8 { 2 } else { 1 };
        assert_eq!(pointers(&machine), (0, slots));
        if slots == 2 {
            assert_eq!(
                (slot(&machine, 1).word, slot(&machine, 1).data),
                (first.word, 0x0123_4567)
            );
        } else {
            assert_eq!(slot(&machine, 1), BufferedIoreq::default());
        }
    }
}

#[test]
fn the_server_is_told_when_it_may_have_found_the_ring_empty_and_only_then() {
    let machine = machine();
    assert_eq!(post(&machine, 0, Word, 1), Ok(true));
    assert_eq!(
        post(&machine, 4, Word, 2),
        Ok(false),
        "the first event is still to be served"
    );
    assert_eq!(post(&machine, 8, Word, 3), Ok(false));
    machine.memory(|memory| memory.set_word(PAGE, 4, 2));
    assert_eq!(post(&machine, 12, Word, 4), Ok(false), "it has not come to the third");
    assert_eq!(drain(&machine), [(8, 4, 3), (12, 4, 4)]);
    assert_eq!(post(&machine, 16, Word, 5), Ok(true));

    // The server takes the last entry and goes to sleep between the look at the pointers and the new write pointer.
    let mut looks = 0;
    machine.set_adversary(move |memory, access| {
        looks += u32::from(access.at == PAGE);
        if looks == 2 {
            let read = memory.word(PAGE, 4);
            memory.set_word(PAGE, 4, read + 1);
        }
        Interference::None
    });
    assert_eq!(post(&machine, 20, Word, 6), Ok(true), "it may have seen an empty ring");
}

#[test]
fn a_server_that_never_drains_gets_511_slots_and_not_one_more() {
    let machine = machine();
    for number in 0..SLOTS {
        assert_eq!(post(&machine, 0x50, Word, number.into()), Ok(number == 0));
    }
    for width in [Byte, Halfword, Word, Doubleword] {
        let before = machine.peek(PAGE, 4096);
        assert_eq!(post(&machine, 0x50, width, 7), Err(RingError::Full(511)));
        assert_eq!(machine.peek(PAGE, 4096), before, "nothing is written");
    }
    machine.memory(|memory| memory.set_word(PAGE, 4, 1));
    assert_eq!(
        post(&machine, 0x50, Doubleword, 7),
        Err(RingError::Full(510)),
        "eight bytes need two slots"
    );
    assert_eq!(post(&machine, 0x54, Byte, 8), Ok(false));
    let taken = drain(&machine);
    assert_eq!(taken.len(), 511);
    assert!(taken.iter().take(510).map(|entry| entry.2).eq(1..511), "in order");
    assert_eq!(taken.last(), Some(&(0x54, 1, 8)));
}

#[test]
fn eight_bytes_go_over_the_end_of_the_ring() {
    for start in [510, 509, 511, 1021] {
        let machine = machine();
        set_pointers(&machine, start, start);
        assert_eq!(post(&machine, 0xabcd8, Doubleword, 0x1111_2222_3333_4444), Ok(true));
        assert_eq!(slot(&machine, start).data, 0x3333_4444);
        assert_eq!(slot(&machine, start + 1).data, 0x1111_2222);
        assert_eq!(drain(&machine), [(0xabcd8, 8, 0x1111_2222_3333_4444)]);
    }
}

#[test]
fn every_write_arrives_once_and_in_order_however_the_server_dawdles() {
    let machine = machine();
    let mut random = 0x1234_5678_9abc_def1_u64;
    let mut next = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let widths = [Byte, Halfword, Word, Doubleword];
    let (mut posted, mut taken) = (Vec::new(), Vec::new());
    for _ in 0..20_000 {
        let width = widths[next(4) as usize];
        let address = next(1 << 20) & !7;
        let value = next(u64::MAX) & width.mask();
        match post(&machine, address, width, value) {
            Ok(_) => posted.push((address as u32, width.bytes() as u8, value)),
            Err(RingError::Full(_)) => taken.append(&mut drain(&machine)),
            Err(error) => panic!("{error}"),
        }
        if next(300) == 0 {
            taken.append(&mut drain(&machine));
        }
        let (read, write) = pointers(&machine);
        assert!(
            read <= 2 * SLOTS && write <= 2 * SLOTS,
            "the pointers stay small: {read} {write}"
        );
    }
    taken.append(&mut drain(&machine));
    assert_eq!(posted.len(), taken.len());
    assert!(posted == taken);
}

#[test]
fn pointers_that_can_not_be_are_refused_and_nothing_is_written_beside_the_slots() {
    let numbers = [
        0,
        1,
        2,
        509,
        510,
        511,
        512,
        1021,
        1022,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_fe00,
        0xffff_fe01,
        0xffff_ffff,
    ];
    for read in numbers {
        for write in numbers {
            for width in [Word, Doubleword] {
                let machine = machine();
                set_pointers(&machine, read, write);
                let wanted = if width == Word { 1 } else { 2 };
                let used = write.wrapping_sub(read);
                let result = post(&machine, 0x50, width, 5);
                match used {
                    512.. => assert_eq!(result, Err(RingError::BadPointers { read, write })),
                    _ if 511 - used < wanted => assert_eq!(result, Err(RingError::Full(used))),
                    _ => assert_eq!(result, Ok(used == 0), "{read} {write}"),
                }
                let (read_after, write_after) = pointers(&machine);
                match result {
                    Ok(_) => assert_eq!(write_after.wrapping_sub(read_after), used + wanted),
                    Err(_) => assert_eq!((read_after, write_after), (read, write)),
                }
            }
        }
    }
}

#[test]
fn a_server_that_writes_the_pointers_at_every_look_harms_itself_alone() {
    for pattern in 0_u64..64 {
        let machine = machine();
        let mut turn = pattern;
        machine.set_adversary(move |memory, access| {
            turn = turn
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            memory.set_word(
                PAGE,
                8,
                if pattern % 2 == 0 {
                    turn
                } else {
                    turn >> 55 << 32 | turn >> 56
                },
            );
            match access.kind {
                SharedAccessKind::CompareExchange if turn >> 62 == 0 => Interference::Contend,
                _ => Interference::None,
            }
        });
        for _ in 0..100 {
            // It ends, and touches only this page.
            let _ = post(&machine, 0xffff8, Doubleword, u64::MAX);
            RING.discard(&machine);
            RING.repair(&machine);
        }
        machine.dismiss_adversary();
        RING.repair(&machine);
        RING.discard(&machine);
        assert_eq!(post(&machine, 0x50, Word, 9), Ok(true), "it is good again");
        assert_eq!(drain(&machine), [(0x50, 4, 9)]);
    }
}

#[test]
fn a_ring_whose_pointers_can_not_be_made_small_goes_on() {
    let machine = machine();
    set_pointers(&machine, 1000, 1000);
    machine.set_adversary(|_, access| match access.kind {
        SharedAccessKind::CompareExchange => Interference::Contend,
        _ => Interference::None,
    });
    assert_eq!(post(&machine, 0x50, Word, 1), Ok(true));
    assert_eq!(pointers(&machine), (1000, 1001));
    machine.dismiss_adversary();
    assert_eq!(post(&machine, 0x54, Word, 2), Ok(false));
    assert_eq!(pointers(&machine), (489, 491), "with the next one");
    assert_eq!(drain(&machine), [(0x50, 4, 1), (0x54, 4, 2)]);
}

#[test]
fn what_nobody_took_is_dropped_and_the_place_stays() {
    let machine = machine();
    set_pointers(&machine, 700, 900);
    RING.discard(&machine);
    assert_eq!(pointers(&machine), (189, 189));
    set_pointers(&machine, 10, 5);
    RING.discard(&machine);
    assert_eq!(pointers(&machine), (10, 10), "and what could not be is good");
    set_pointers(&machine, 3, 4);
    RING.repair(&machine);
    assert_eq!(pointers(&machine), (3, 4), "a ring that can be is left alone");
}
