//! The load/store decoder: golden encodings from an assembler, an independent mask table on random words, and plans.

use portunus::access::AccessWidth;
use portunus::cpu::El1Register;
use portunus::fakes::Random;
use portunus::ids::Ipa;
use portunus::trap::instruction::{
    Addressing, LoadStore, Operation, PlanError, Refusal, RegisterExtend, ReportedAccess, decode, plan_from_instruction,
};
use portunus::trap::plan::{AccessPlan, Base, Extension, Transfer, Writeback};
use portunus::trap::registers::{GuestFrame, InstructionLength};

use AccessWidth::{Byte, Doubleword, Halfword, Word};
use Addressing::{Literal, Offset, PostIndex, PreIndex};
use Extension::{SignTo32, SignTo64, Zero};
use Operation::{Load, Store};

const fn single(operation: Operation, width: AccessWidth, rt: u8, rn: u8, addressing: Addressing) -> LoadStore {
    LoadStore {
        operation,
        width,
        rt,
        rt2: None,
        rn,
        addressing,
    }
}

const fn pair(operation: Operation, width: AccessWidth, rt: u8, rt2: u8, rn: u8, addressing: Addressing) -> LoadStore {
    LoadStore {
        operation,
        width,
        rt,
        rt2: Some(rt2),
        rn,
        addressing,
    }
}

const fn register(rm: u8, extend: RegisterExtend, shift: u8) -> Addressing {
    Addressing::Register { rm, extend, shift }
}

#[test]
fn accepted_encodings_decode_as_the_assembler_made_them() {
    use RegisterExtend::{Doubleword as Lsl, SignedWord, UnsignedWord};
    #[rustfmt::skip]
    let table: &[(&str, u32, LoadStore)] = &[
        ("ldr x1, [x2], #8", 0xf840_8441, single(Load(Zero), Doubleword, 1, 2, PostIndex(8))),
        ("str w1, [x2], #-4", 0xb81f_c441, single(Store, Word, 1, 2, PostIndex(-4))),
        ("ldrb w3, [x4], #1", 0x3840_1483, single(Load(Zero), Byte, 3, 4, PostIndex(1))),
        ("strh w5, [x6], #2", 0x7800_24c5, single(Store, Halfword, 5, 6, PostIndex(2))),
        ("ldrsb x7, [x8], #1", 0x3880_1507, single(Load(SignTo64), Byte, 7, 8, PostIndex(1))),
        ("ldrsb w7, [x8], #1", 0x38c0_1507, single(Load(SignTo32), Byte, 7, 8, PostIndex(1))),
        ("ldrsh x9, [x10], #2", 0x7880_2549, single(Load(SignTo64), Halfword, 9, 10, PostIndex(2))),
        ("ldrsh w9, [x10], #2", 0x78c0_2549, single(Load(SignTo32), Halfword, 9, 10, PostIndex(2))),
        ("ldrsw x11, [x12], #4", 0xb880_458b, single(Load(SignTo64), Word, 11, 12, PostIndex(4))),
        ("ldr x1, [x2, #-256]!", 0xf850_0c41, single(Load(Zero), Doubleword, 1, 2, PreIndex(-256))),
        ("strb w1, [sp, #255]!", 0x380f_ffe1, single(Store, Byte, 1, 31, PreIndex(255))),
        ("ldrsw x11, [x12, #4]!", 0xb880_4d8b, single(Load(SignTo64), Word, 11, 12, PreIndex(4))),
        ("str xzr, [x2], #8", 0xf800_845f, single(Store, Doubleword, 31, 2, PostIndex(8))),
        ("ldr xzr, [x2], #8", 0xf840_845f, single(Load(Zero), Doubleword, 31, 2, PostIndex(8))),
        ("ldp x0, x1, [x2]", 0xa940_0440, pair(Load(Zero), Doubleword, 0, 1, 2, Offset(0))),
        ("stp w3, w4, [x5, #-8]!", 0x29bf_10a3, pair(Store, Word, 3, 4, 5, PreIndex(-8))),
        ("ldp w3, w4, [x5], #8", 0x28c1_10a3, pair(Load(Zero), Word, 3, 4, 5, PostIndex(8))),
        ("ldpsw x3, x4, [x5, #-256]", 0x6960_10a3, pair(Load(SignTo64), Word, 3, 4, 5, Offset(-256))),
        ("ldnp x6, x7, [x8, #504]", 0xa85f_9d06, pair(Load(Zero), Doubleword, 6, 7, 8, Offset(504))),
        ("stnp w6, w7, [x8, #-256]", 0x2820_1d06, pair(Store, Word, 6, 7, 8, Offset(-256))),
        ("stp x1, x1, [sp], #-16", 0xa8bf_07e1, pair(Store, Doubleword, 1, 1, 31, PostIndex(-16))),
        ("ldr x1, [x2, #32760]", 0xf97f_fc41, single(Load(Zero), Doubleword, 1, 2, Offset(32760))),
        ("ldrsb w1, [x2, #4095]", 0x39ff_fc41, single(Load(SignTo32), Byte, 1, 2, Offset(4095))),
        ("ldur w1, [x2, #-3]", 0xb85f_d041, single(Load(Zero), Word, 1, 2, Offset(-3))),
        ("ldtr x1, [x2, #7]", 0xf840_7841, single(Load(Zero), Doubleword, 1, 2, Offset(7))),
        ("sttrb w1, [x2, #-1]", 0x381f_f841, single(Store, Byte, 1, 2, Offset(-1))),
        ("ldtrsh w1, [x2]", 0x78c0_0841, single(Load(SignTo32), Halfword, 1, 2, Offset(0))),
        ("ldr x1, [x2, x3]", 0xf863_6841, single(Load(Zero), Doubleword, 1, 2, register(3, Lsl, 0))),
        ("ldr w1, [x2, w3, uxtw #2]", 0xb863_5841, single(Load(Zero), Word, 1, 2, register(3, UnsignedWord, 2))),
        ("strh w1, [x2, w3, sxtw]", 0x7823_c841, single(Store, Halfword, 1, 2, register(3, SignedWord, 0))),
        ("ldrsw x1, [x2, x3, sxtx #2]", 0xb8a3_f841, single(Load(SignTo64), Word, 1, 2, register(3, Lsl, 2))),
        ("ldr x1, [x2, x3, lsl #3]", 0xf863_7841, single(Load(Zero), Doubleword, 1, 2, register(3, Lsl, 3))),
        ("ldr x1, .+16", 0x5800_0081, single(Load(Zero), Doubleword, 1, 31, Literal(16))),
        ("ldrsw x1, .-8", 0x98ff_ffc1, single(Load(SignTo64), Word, 1, 31, Literal(-8))),
        ("ldar x1, [x2]", 0xc8df_fc41, single(Load(Zero), Doubleword, 1, 2, Offset(0))),
        ("stlrb w1, [x2]", 0x089f_fc41, single(Store, Byte, 1, 2, Offset(0))),
        ("stllr w1, [x2]", 0x889f_7c41, single(Store, Word, 1, 2, Offset(0))),
        ("ldlarh w1, [x2]", 0x48df_7c41, single(Load(Zero), Halfword, 1, 2, Offset(0))),
        ("ldapr w1, [x2]", 0xb8bf_c041, single(Load(Zero), Word, 1, 2, Offset(0))),
        ("ldapur x1, [x2, #-8]", 0xd95f_8041, single(Load(Zero), Doubleword, 1, 2, Offset(-8))),
        ("stlurh w1, [x2, #255]", 0x590f_f041, single(Store, Halfword, 1, 2, Offset(255))),
        ("ldapursb w1, [x2, #1]", 0x19c0_1041, single(Load(SignTo32), Byte, 1, 2, Offset(1))),
        ("ldapursw x1, [x2, #1]", 0x9980_1041, single(Load(SignTo64), Word, 1, 2, Offset(1))),
    ];
    for (text, encoding, expected) in table {
        assert_eq!(decode(*encoding), Ok(*expected), "{text}");
    }
}

#[test]
fn refused_encodings_say_what_they_are() {
    #[rustfmt::skip]
    let table: &[(&str, u32, Refusal)] = &[
        ("ldr q0, [x1], #16", 0x3cc1_0420, Refusal::Vector),
        ("ldp d0, d1, [x2]", 0x6d40_0440, Refusal::Vector),
        ("ld1 {v0.16b}, [x1]", 0x4c40_7020, Refusal::Vector),
        ("ldr s0, .+8", 0x1c00_0040, Refusal::Vector),
        ("ldxr x1, [x2]", 0xc85f_7c41, Refusal::Exclusive),
        ("stxp w0, x1, x2, [x3]", 0xc820_0861, Refusal::Exclusive),
        ("ldaxrb w1, [x2]", 0x085f_fc41, Refusal::Exclusive),
        ("cas x1, x2, [x3]", 0xc8a1_7c62, Refusal::CompareAndSwap),
        ("casp x0, x1, x2, x3, [x4]", 0x4820_7c82, Refusal::CompareAndSwap),
        ("ldadd x1, x2, [x3]", 0xf821_0062, Refusal::Atomic),
        ("swpb w1, w2, [x3]", 0x3821_8062, Refusal::Atomic),
        ("stset x1, [x2]", 0xf821_305f, Refusal::Atomic),
        ("dc zva, x1", 0xd50b_7421, Refusal::CacheBlock),
        ("dc gva, x1", 0xd50b_7461, Refusal::CacheBlock),
        ("dc civac, x1", 0xd50b_7e21, Refusal::NotLoadStore),
        ("prfm pldl1keep, [x1]", 0xf980_0020, Refusal::Prefetch),
        ("prfum pldl1keep, [x1, #-1]", 0xf89f_f020, Refusal::Prefetch),
        ("prfm pldl1keep, [x1, x2]", 0xf8a2_6820, Refusal::Prefetch),
        ("prfm pldl1keep, .+8", 0xd800_0040, Refusal::Prefetch),
        ("ldraa x1, [x2]", 0xf820_0441, Refusal::Authenticated),
        ("ldrab x1, [x2, #8]!", 0xf8a0_1c41, Refusal::Authenticated),
        ("ldg x1, [x2]", 0xd960_0041, Refusal::Tag),
        ("stg x1, [x2], #16", 0xd920_1441, Refusal::Tag),
        ("stgp x1, x2, [x3]", 0x6900_0861, Refusal::Tag),
        ("st64b x0, [x2]", 0xf83f_9040, Refusal::SixtyFourBytes),
        ("ld64b x0, [x2]", 0xf83f_d040, Refusal::SixtyFourBytes),
        ("cpyfp [x1]!, [x2]!, x3!", 0x1902_0461, Refusal::MemoryCopy),
        ("setp [x1]!, x2!, x3", 0x19c3_0441, Refusal::MemoryCopy),
        ("cpyp [x1]!, [x2]!, x3!", 0x1d02_0461, Refusal::MemoryCopy),
        ("add x1, x2, x3", 0x8b03_0041, Refusal::NotLoadStore),
        ("nop", 0xd503_201f, Refusal::NotLoadStore),
        ("b .", 0x1400_0000, Refusal::NotLoadStore),
        ("ldr x1, [x1], #8", 0xf840_8421, Refusal::WritebackConflict),
        ("str w2, [x2, #4]!", 0xb800_4c42, Refusal::WritebackConflict),
        ("ldp x1, x2, [x2], #16", 0xa8c1_0841, Refusal::WritebackConflict),
        ("stp x2, x1, [x2, #16]!", 0xa981_0442, Refusal::WritebackConflict),
        ("ldp x1, x1, [x2]", 0xa940_0441, Refusal::SameRegister),
        ("ldp xzr, xzr, [x2]", 0xa940_7c5f, Refusal::SameRegister),
        ("ldr size=3 opc=3", 0xf8c0_8441, Refusal::Unallocated),
        ("ldrs size=2 opc=3", 0xb8c0_0441, Refusal::Unallocated),
        ("ldrs size=3 opc=2, post", 0xf880_8441, Refusal::Unallocated),
        ("pair opc=3", 0xe940_0440, Refusal::Unallocated),
        ("register offset, option 0", 0xf863_0841, Refusal::Unallocated),
        ("ldpsw without allocation", 0x6840_0440, Refusal::Unallocated),
    ];
    for (text, encoding, expected) in table {
        assert_eq!(decode(*encoding), Err(*expected), "{text}");
    }
}

/// How a row of the naive table finds an address.
#[derive(Copy, Clone)]
enum Form {
    Unsigned12,
    Signed9,
    Post9,
    Pre9,
    Register,
    Literal,
    None,
    Pair,
    PairPost,
    PairPre,
}

/// Every accepted instruction as the instruction set's index pages draw it: fixed bits, and what it does.
#[rustfmt::skip]
fn naive_table() -> Vec<(u32, u32, Operation, AccessWidth, Form)> {
    let mut rows = Vec::new();
    let kinds = [
        (0x0000_0000, Store, Byte), (0x0040_0000, Load(Zero), Byte),
        (0x0080_0000, Load(SignTo64), Byte), (0x00c0_0000, Load(SignTo32), Byte),
        (0x4000_0000, Store, Halfword), (0x4040_0000, Load(Zero), Halfword),
        (0x4080_0000, Load(SignTo64), Halfword), (0x40c0_0000, Load(SignTo32), Halfword),
        (0x8000_0000, Store, Word), (0x8040_0000, Load(Zero), Word), (0x8080_0000, Load(SignTo64), Word),
        (0xc000_0000, Store, Doubleword), (0xc040_0000, Load(Zero), Doubleword),
    ];
    for (bits, operation, width) in kinds {
        rows.push((0xffc0_0000, 0x3900_0000 | bits, operation, width, Form::Unsigned12));
        rows.push((0xffe0_0c00, 0x3800_0000 | bits, operation, width, Form::Signed9));
        rows.push((0xffe0_0c00, 0x3800_0400 | bits, operation, width, Form::Post9));
        rows.push((0xffe0_0c00, 0x3800_0800 | bits, operation, width, Form::Signed9));
        rows.push((0xffe0_0c00, 0x3800_0c00 | bits, operation, width, Form::Pre9));
        rows.push((0xffe0_4c00, 0x3820_4800 | bits, operation, width, Form::Register));
        rows.push((0xffe0_0c00, 0x1900_0000 | bits, operation, width, Form::Signed9));
    }
    for (bits, width) in [(0, Byte), (0x4000_0000, Halfword), (0x8000_0000, Word), (0xc000_0000, Doubleword)] {
        rows.push((0xffe0_0000, 0x0880_0000 | bits, Store, width, Form::None));
        rows.push((0xffe0_0000, 0x08c0_0000 | bits, Load(Zero), width, Form::None));
        rows.push((0xffe0_fc00, 0x38a0_c000 | bits, Load(Zero), width, Form::None));
    }
    rows.push((0xff00_0000, 0x1800_0000, Load(Zero), Word, Form::Literal));
    rows.push((0xff00_0000, 0x5800_0000, Load(Zero), Doubleword, Form::Literal));
    rows.push((0xff00_0000, 0x9800_0000, Load(SignTo64), Word, Form::Literal));
    for (bits, operation, width) in [
        (0x0000_0000, Store, Word), (0x0040_0000, Load(Zero), Word),
        (0x8000_0000, Store, Doubleword), (0x8040_0000, Load(Zero), Doubleword),
        (0x4040_0000, Load(SignTo64), Word),
    ] {
        if bits != 0x4040_0000 {
            rows.push((0xffc0_0000, 0x2800_0000 | bits, operation, width, Form::Pair));
        }
        rows.push((0xffc0_0000, 0x2880_0000 | bits, operation, width, Form::PairPost));
        rows.push((0xffc0_0000, 0x2900_0000 | bits, operation, width, Form::Pair));
        rows.push((0xffc0_0000, 0x2980_0000 | bits, operation, width, Form::PairPre));
    }
    rows
}

/// A two's complement field, bit by bit.
fn signed_bits(word: u32, high: u32, low: u32) -> i64 {
    (low..=high)
        .filter(|bit| word & 1 << bit != 0)
        .map(|bit| {
            if bit == high {
                -(1 << (bit - low))
            } else {
                1 << (bit - low)
            }
        })
        .sum()
}

fn naive_decode(table: &[(u32, u32, Operation, AccessWidth, Form)], word: u32) -> Option<LoadStore> {
    let mut rows = table.iter().filter(|(mask, value, ..)| word & mask == *value);
    let (_, _, operation, width, form) = rows.next()?;
    assert!(rows.next().is_none(), "{word:#010x} is in two rows");
    let (rt, rn, rt2, rm) = (word & 31, word >> 5 & 31, word >> 10 & 31, word >> 16 & 31);
    let scale = width.bytes() as i64;
    let nine = signed_bits(word, 20, 12);
    let seven = signed_bits(word, 21, 15) * scale;
    let addressing = match form {
        Form::Unsigned12 => Offset(i64::from(word >> 10 & 0xfff) * scale),
        Form::Signed9 => Offset(nine),
        Form::Post9 => PostIndex(nine),
        Form::Pre9 => PreIndex(nine),
        Form::None => Offset(0),
        Form::Literal => Literal(signed_bits(word, 23, 5) * 4),
        Form::Pair => Offset(seven),
        Form::PairPost => PostIndex(seven),
        Form::PairPre => PreIndex(seven),
        Form::Register => {
            let extend = match word >> 13 & 7 {
                2 => RegisterExtend::UnsignedWord,
                6 => RegisterExtend::SignedWord,
                _ => RegisterExtend::Doubleword,
            };
            let shift = if word >> 12 & 1 != 0 { width.bytes().ilog2() } else { 0 };
            register(rm as u8, extend, shift as u8)
        }
    };
    let is_pair = matches!(form, Form::Pair | Form::PairPost | Form::PairPre);
    let writes_base = matches!(form, Form::Post9 | Form::Pre9 | Form::PairPost | Form::PairPre);
    let conflict = writes_base && rn != 31 && (rn == rt || is_pair && rn == rt2);
    let same = is_pair && *operation != Store && rt == rt2;
    (!conflict && !same).then_some(LoadStore {
        operation: *operation,
        width: *width,
        rt: rt as u8,
        rt2: is_pair.then_some(rt2 as u8),
        rn: if matches!(form, Form::Literal) { 31 } else { rn as u8 },
        addressing,
    })
}

#[test]
fn random_words_decode_exactly_as_a_naive_mask_table() {
    let table = naive_table();
    let mut random = Random::new(0x9e37_79b9_7f4a_7c15);
    let mut accepted = 0;
    for round in 0..600_000 {
        let mut word = (random.next() >> 32) as u32;
        // Most rounds stay among loads and stores of general registers.
        if round % 8 != 0 {
            word = word & !(1 << 25 | 1 << 26) | 1 << 27;
        }
        let decoded = decode(word);
        assert_eq!(decoded.ok(), naive_decode(&table, word), "{word:#010x}: {decoded:?}");
        accepted += u32::from(decoded.is_ok());
    }
    assert!(accepted > 100_000, "only {accepted} of the words were loads or stores");
}

const EL0: u64 = 0b0000;
const EL1T: u64 = 0b0100;
const EL1H: u64 = 0b0101;
const AARCH32_USER: u64 = 0b1_0000;

fn frame() -> GuestFrame {
    let mut frame = GuestFrame {
        pc: 0x8_0000,
        pstate: EL1H,
        ..GuestFrame::default()
    };
    for (index, x) in frame.x.iter_mut().enumerate() {
        *x = 0x1111_1111_1111_1111 * (index as u64 & 15);
    }
    frame.x[2] = 0xffff_0000_1234_0100;
    frame
}

fn reported(virtual_address: u64, write: bool) -> ReportedAccess {
    ReportedAccess {
        virtual_address,
        ipa: Ipa(0x0200_0000 | virtual_address & 0xfff),
        write,
    }
}

/// A plan where no other page is known.
fn plan(
    instruction: u32,
    frame: &GuestFrame,
    stack_pointer: u64,
    reported: &ReportedAccess,
) -> Result<AccessPlan, PlanError> {
    plan_from_instruction(instruction, frame, stack_pointer, reported, |_| None)
}

const BASE: u64 = 0xffff_0000_1234_0100;

#[test]
fn a_post_indexed_load_goes_to_the_base_and_moves_it_afterwards() {
    let plan = plan(0xf840_8441, &frame(), 0, &reported(BASE, false));
    assert_eq!(
        plan,
        Ok(AccessPlan {
            first: Transfer::Load {
                ipa: Ipa(0x0200_0100),
                width: Doubleword,
                extension: Zero,
                register: 1
            },
            second: None,
            writeback: Some(Writeback {
                base: Base::General(2),
                value: BASE + 8
            }),
            length: InstructionLength::Word,
        })
    );
}

#[test]
fn a_pair_is_two_transfers_in_address_order_with_masked_values() {
    // stp w3, w4, [x5, #-8]!
    let mut frame = frame();
    frame.x[5] = BASE;
    let plan = plan(0x29bf_10a3, &frame, 0, &reported(BASE - 8, true)).unwrap();
    let store = |ipa, value| Transfer::Store {
        ipa: Ipa(ipa),
        width: Word,
        value,
    };
    assert_eq!(plan.first, store(0x0200_00f8, 0x3333_3333));
    assert_eq!(plan.second, Some(store(0x0200_00fc, 0x4444_4444)));
    assert_eq!(
        plan.writeback,
        Some(Writeback {
            base: Base::General(5),
            value: BASE - 8
        })
    );
}

#[test]
fn register_31_as_base_is_the_stack_pointer_that_pstate_selects() {
    // strb w1, [sp, #255]!
    for (pstate, register) in [
        (EL0, El1Register::SpEl0),
        (EL1T, El1Register::SpEl0),
        (EL1H, El1Register::SpEl1),
    ] {
        let frame = GuestFrame { pstate, ..frame() };
        assert_eq!(frame.stack_pointer(), register);
        let plan = plan(0x380f_ffe1, &frame, BASE, &reported(BASE + 255, true)).unwrap();
        assert_eq!(
            plan.writeback,
            Some(Writeback {
                base: Base::StackPointer(register),
                value: BASE + 255
            })
        );
    }
}

#[test]
fn register_offsets_are_widened_and_shifted() {
    #[rustfmt::skip]
    let table = [
        ("uxtw #2", 0xb863_5841_u32, 0xffff_ffff_0000_0010_u64, BASE + 0x40, false),
        ("lsl #3", 0xf863_7841, 0x10, BASE + 0x80, false),
        ("sxtw", 0x7823_c841, 0x0000_0001_ffff_fff0, BASE - 0x10, true),
        ("sxtx #2", 0xb8a3_f841, u64::MAX, BASE - 4, false),
    ];
    for (text, instruction, x3, address, write) in table {
        let mut frame = frame();
        frame.x[3] = x3;
        let plan = plan(instruction, &frame, 0, &reported(address, write));
        assert!(plan.is_ok(), "{text}: {plan:?}");
    }
}

#[test]
fn an_instruction_that_is_not_what_trapped_runs_again() {
    #[rustfmt::skip]
    let table: &[(&str, u32, ReportedAccess)] = &[
        ("a load now, a store then", 0xf840_8441, reported(BASE, true)),
        ("a store now, a load then", 0xf800_8441, reported(BASE, false)),
        ("the byte before", 0xf840_8441, reported(BASE - 1, false)),
        ("the byte behind", 0xf840_8441, reported(BASE + 8, false)),
        ("the byte behind a pair", 0xa940_1043, reported(BASE + 16, false)),
        ("another page", 0xf840_8441, reported(BASE + 0x1000, false)),
        ("the same bits but for bit 55", 0xf840_8441, reported(BASE ^ 1 << 55, false)),
    ];
    for (text, instruction, reported) in table {
        let plan = plan(*instruction, &frame(), 0, reported);
        assert_eq!(plan, Err(PlanError::Reenter), "{text}");
    }
}

#[test]
fn a_tag_in_the_address_does_not_matter() {
    let mut frame = frame();
    frame.x[2] = 0x5a00_0000_1234_0100;
    for far in [0x5a00_0000_1234_0100, 0x0000_0000_1234_0100] {
        let plan = plan(0xf840_8441, &frame, 0, &reported(far, false)).unwrap();
        // The base keeps its tag.
        assert_eq!(
            plan.writeback.map(|writeback| writeback.value),
            Some(0x5a00_0000_1234_0108)
        );
    }
}

/// Name, instruction, base, FAR, the page behind; where the transfers go, or no plan.
type Crossing = (&'static str, u32, u64, u64, Option<Ipa>, Option<(u64, Option<u64>)>);

#[test]
fn what_lies_in_two_pages_is_performed_where_the_second_is_known() {
    let page = 0xffff_0000_1234_1000_u64;
    let neighbour = Some(Ipa(0x0200_1000));
    let elsewhere = Some(Ipa(0x0700_0000));
    // ldr x1, [x2], #8; ldp x3, x4, [x2]. Where the transfers go, or None for a refusal.
    let (single, pair) = (0xf840_8441_u32, 0xa940_1043);
    #[rustfmt::skip]
    let table: &[Crossing] = &[
        ("neighbours", single, page - 4, page - 4, neighbour, Some((0x0200_0ffc, None))),
        ("pages apart", single, page - 4, page - 4, elsewhere, None),
        ("no second page", single, page - 4, page - 4, None, None),
        ("the second page faulted: the first is memory", single, page - 4, page, neighbour, None),
        ("a pair in one page", pair, page - 16, page - 16, None, Some((0x0200_0ff0, Some(0x0200_0ff8)))),
        ("halves in neighbours", pair, page - 8, page - 8, neighbour, Some((0x0200_0ff8, Some(0x0200_1000)))),
        ("halves in pages apart", pair, page - 8, page - 8, elsewhere, Some((0x0200_0ff8, Some(0x0700_0000)))),
        ("the second half in no page", pair, page - 8, page - 8, None, None),
        ("the second half faulted: the first is memory", pair, page - 8, page, neighbour, None),
        ("the second half faulted, in one page", pair, page - 16, page - 8, neighbour, None),
        ("the first half crosses", pair, page - 4, page - 4, neighbour, Some((0x0200_0ffc, Some(0x0200_1004)))),
        ("the first half crosses, pages apart", pair, page - 4, page - 4, elsewhere, None),
        ("the second half crosses, pages apart", pair, page - 12, page - 12, elsewhere, None),
    ];
    for (text, instruction, base, far, second, expected) in table {
        let mut frame = frame();
        frame.x[2] = *base;
        let report = ReportedAccess {
            virtual_address: *far,
            ipa: Ipa(if *far < page { 0x0200_0000 } else { 0x0200_1000 } | far & 0xfff),
            write: false,
        };
        let result = plan_from_instruction(*instruction, &frame, 0, &report, |behind| {
            assert_eq!(behind, page, "{text}");
            *second
        });
        let places = result.map(|plan| {
            let at = |transfer: Transfer| transfer.access().ipa.0;
            (at(plan.first), plan.second.map(at))
        });
        let refused = PlanError::Refused(Refusal::CrossesPage);
        assert_eq!(places, expected.ok_or(refused), "{text}");
    }
}

#[test]
fn aarch32_code_is_not_decoded() {
    let frame = GuestFrame {
        pstate: AARCH32_USER,
        ..frame()
    };
    assert_eq!(
        plan(0xf840_8441, &frame, 0, &reported(BASE, false)),
        Err(PlanError::Refused(Refusal::Aarch32))
    );
}

#[test]
fn addresses_wrap_and_never_panic() {
    let mut random = Random::new(7);
    for _ in 0..50_000 {
        let mut frame = frame();
        for x in &mut frame.x {
            *x = random.next();
        }
        let word = (random.next() >> 32) as u32 & !(1 << 25 | 1 << 26) | 1 << 27;
        let far = random.next();
        let report = ReportedAccess {
            virtual_address: far,
            ipa: Ipa(random.next()),
            write: far & 1 != 0,
        };
        let (stack_pointer, second) = (random.next(), random.next());
        let _ = plan_from_instruction(word, &frame, stack_pointer, &report, |_| Some(Ipa(second)));
    }
}
