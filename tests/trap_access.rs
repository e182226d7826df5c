//! Performing a planned access: values, registers, base and PC, and nothing before everything is answered.

use portunus::access::{AccessWidth, Direction, MmioAccess};
use portunus::cpu::El1Register;
use portunus::ids::Ipa;
use portunus::trap::plan::{
    AccessPlan, Base, Extension, PendingPlan, StackPointerWrite, Transfer, Unanswered, Writeback, load_value,
};
use portunus::trap::registers::{GuestFrame, GuestMode, InstructionLength};

const WIDTHS: [AccessWidth; 4] = [
    AccessWidth::Byte,
    AccessWidth::Halfword,
    AccessWidth::Word,
    AccessWidth::Doubleword,
];

/// Bit by bit: bit i of the result is bit i of the value, its sign, or zero.
fn reference(width: AccessWidth, extension: Extension, raw: u64) -> u64 {
    let bits = 8 * width.bytes();
    (0..64)
        .filter(|bit| {
            let source = if *bit < bits { *bit } else { bits - 1 };
            let extended = match extension {
                Extension::Zero => *bit < bits,
                Extension::SignTo32 => *bit < 32,
                Extension::SignTo64 => true,
            };
            extended && raw >> source & 1 != 0
        })
        .fold(0, |value, bit| value | 1 << bit)
}

#[test]
fn loaded_values_are_masked_and_extended_as_the_reference_says() {
    let patterns = [
        0,
        1,
        0x7f,
        0x80,
        0xff,
        0x7fff,
        0x8000,
        0x7fff_ffff,
        0x8000_0000,
        0x8000_0000_0000_0000,
        0xdead_beef_cafe_f00d,
        0x5555_5555_5555_5580,
        u64::MAX,
    ];
    for width in WIDTHS {
        for extension in [Extension::Zero, Extension::SignTo32, Extension::SignTo64] {
            for raw in patterns {
                assert_eq!(
                    load_value(width, extension, raw),
                    // A doubleword has nothing to extend into 32 bits; the encoding does not exist.
                    if (width, extension) == (AccessWidth::Doubleword, Extension::SignTo32) {
                        raw & 0xffff_ffff
                    } else {
                        reference(width, extension, raw)
                    },
                    "{width:?} {extension:?} {raw:#x}"
                );
            }
        }
    }
}

#[test]
fn ldrsb_to_w_leaves_the_upper_half_zero() {
    assert_eq!(load_value(AccessWidth::Byte, Extension::SignTo32, 0x80), 0xffff_ff80);
    assert_eq!(
        load_value(AccessWidth::Byte, Extension::SignTo64, 0x80),
        0xffff_ffff_ffff_ff80
    );
}

fn frame() -> GuestFrame {
    let mut frame = GuestFrame {
        pc: 0x1000,
        pstate: 0b0101,
        ..GuestFrame::default()
    };
    frame.x = core::array::from_fn(|index| 0x0101_0101_0101_0101 * index as u64);
    frame
}

const fn load(ipa: u64, width: AccessWidth, extension: Extension, register: u8) -> Transfer {
    Transfer::Load {
        ipa: Ipa(ipa),
        width,
        extension,
        register,
    }
}

const fn plan(first: Transfer, second: Option<Transfer>, writeback: Option<Writeback>) -> AccessPlan {
    AccessPlan {
        first,
        second,
        writeback,
        length: InstructionLength::Word,
    }
}

#[test]
fn a_pair_is_asked_for_in_order_and_changes_nothing_until_both_are_answered() {
    let writeback = Some(Writeback {
        base: Base::General(2),
        value: 0x9000,
    });
    let mut pending = PendingPlan::new(plan(
        load(0x100, AccessWidth::Word, Extension::SignTo64, 3),
        Some(load(0x104, AccessWidth::Word, Extension::Zero, 4)),
        writeback,
    ));
    let mut frame = frame();
    let before = frame.clone();
    let access = |ipa| MmioAccess {
        ipa: Ipa(ipa),
        width: AccessWidth::Word,
        direction: Direction::Read,
    };

    assert_eq!(pending.next(), Some(access(0x100)));
    assert_eq!(pending.answered(), 0);
    assert_eq!(pending.commit(&mut frame), Err(Unanswered { answered: 0 }));
    pending.complete(0xffff_ffff_8000_0000);
    assert_eq!(pending.next(), Some(access(0x104)));
    assert_eq!(pending.commit(&mut frame), Err(Unanswered { answered: 1 }));
    assert_eq!(frame, before);
    pending.complete(0xaaaa_aaaa_8000_0001);
    assert_eq!((pending.next(), pending.answered()), (None, 2));
    // Late answers are nobody's.
    pending.complete(7);
    assert_eq!(pending.commit(&mut frame), Ok(None));

    let mut expected = before;
    expected.x[3] = 0xffff_ffff_8000_0000;
    expected.x[4] = 0x8000_0001;
    expected.x[2] = 0x9000;
    expected.pc = 0x1004;
    assert_eq!(frame, expected);
}

#[test]
fn a_store_keeps_the_value_it_was_planned_with_and_writes_no_register() {
    let store = Transfer::Store {
        ipa: Ipa(0x100),
        width: AccessWidth::Byte,
        value: 0x5a,
    };
    let mut pending = PendingPlan::new(plan(store, None, None));
    let mut frame = frame();
    assert_eq!(
        pending.next().map(|access| access.direction),
        Some(Direction::Write(0x5a))
    );
    pending.complete(0xffff);
    let mut expected = frame.clone();
    expected.pc += 4;
    assert_eq!(pending.commit(&mut frame), Ok(None));
    assert_eq!(frame, expected);
}

#[test]
fn register_31_discards_a_load_and_the_stack_pointer_is_handed_back() {
    let writeback = Some(Writeback {
        base: Base::StackPointer(El1Register::SpEl1),
        value: 0xf000,
    });
    let mut pending = PendingPlan::new(plan(
        load(0, AccessWidth::Doubleword, Extension::Zero, 31),
        None,
        writeback,
    ));
    let mut frame = frame();
    pending.complete(u64::MAX);
    let mut expected = frame.clone();
    expected.pc += 4;
    assert_eq!(
        pending.commit(&mut frame),
        Ok(Some(StackPointerWrite {
            register: El1Register::SpEl1,
            value: 0xf000
        }))
    );
    assert_eq!(frame, expected);
}

#[test]
fn a_performed_instruction_changes_pstate_as_an_executed_one() {
    const SS: u64 = 1 << 21;
    const BTYPE: u64 = 0b11 << 10;
    let mut frame = GuestFrame {
        pstate: 0b0101 | SS | BTYPE | 0xf << 28,
        ..frame()
    };
    frame.advance(InstructionLength::Word);
    assert_eq!((frame.pc, frame.pstate), (0x1004, 0b0101 | 0xf << 28));
}

/// IT state to SPSR bits: IT[1:0] in 26:25, IT[7:2] in 15:10.
fn it_bits(it: u64) -> u64 {
    (it & 3) << 25 | (it >> 2) << 10
}

#[test]
fn an_it_block_advances_as_the_architecture_says() {
    // (IT before, IT after): three instructions of an ITTE EQ block, the last of a block, none.
    for (before, after) in [
        (0b0000_0110, 0b0000_1100),
        (0b0000_1100, 0b0001_1000),
        (0b0001_1000, 0),
        (0, 0),
        (0b1010_1000, 0),
        (0b1010_0100, 0b1010_1000),
    ] {
        let mut frame = GuestFrame {
            pc: 0xffff_fffe,
            pstate: 0b1_0000 | 1 << 5 | it_bits(before),
            ..GuestFrame::default()
        };
        assert_eq!(frame.mode(), GuestMode::El0Aarch32);
        frame.advance(InstructionLength::Halfword);
        assert_eq!(frame.pstate, 0b1_0000 | 1 << 5 | it_bits(after), "{before:#010b}");
        assert_eq!(frame.pc, 0, "the PC has 32 bits");
    }
}
