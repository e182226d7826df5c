//! Syndromes: (ESR, FAR, HPFAR) to what they mean, and to the plan of an access or the reason there is none.

use portunus::access::{AccessWidth, Direction, MmioAccess};
use portunus::ids::Ipa;
use portunus::trap::instruction::Refusal;
use portunus::trap::plan::{AccessPlan, DataAbortPlan, Extension, Transfer, plan_from_syndrome};
use portunus::trap::registers::{GuestFrame, InstructionLength};
use portunus::trap::syndrome::{
    DataAbort, Exception, FaultAddress, FaultStatus, Hpfar, Syndrome, SystemRegister, SystemRegisterAccess,
    SystemRegisterDirection, WaitInstruction,
};

const IL: u64 = 1 << 25;
const ISV: u64 = 1 << 24;
const WNR: u64 = 1 << 6;
const S1PTW: u64 = 1 << 7;
const CM: u64 = 1 << 8;
const FNV: u64 = 1 << 10;
const TRANSLATION_L3: u64 = 0x07;
const PERMISSION_L3: u64 = 0x0f;
/// What HPFAR must never be read for.
const POISON: u64 = 0x0000_0bad_bad0_0bad;

const fn class(class: u64) -> u64 {
    class << 26 | IL
}

fn decode(esr: u64) -> Exception {
    let syndrome = Syndrome {
        esr,
        far: 0xffff_8000_0123_4567,
        hpfar: POISON,
    };
    Exception::decode(&syndrome, Hpfar::Architectural)
}

#[test]
fn every_class_of_exception_is_named() {
    let other = |class: u8, iss: u32| Exception::Other { class, iss };
    let debug = |class: u8, iss: u32| Exception::Debug { class, iss };
    #[rustfmt::skip]
    let table: &[(&str, u64, Exception)] = &[
        ("unknown", class(0x00), Exception::Unknown),
        ("WFI", class(0x01), Exception::Wait(WaitInstruction::Interrupt)),
        ("WFE", class(0x01) | 1, Exception::Wait(WaitInstruction::Event)),
        ("WFIT", class(0x01) | 2, Exception::Wait(WaitInstruction::InterruptWithTimeout)),
        ("WFET", class(0x01) | 3, Exception::Wait(WaitInstruction::EventWithTimeout)),
        ("MCR of AArch32", class(0x03), Exception::Aarch32 { class: 0x03 }),
        ("SMC of AArch32", class(0x13), Exception::Aarch32 { class: 0x13 }),
        ("floating point", class(0x07), Exception::FloatingPoint),
        ("pointer authentication", class(0x09), Exception::PointerAuthentication),
        ("LD64B", class(0x0a), Exception::LoadStore64Bytes),
        ("illegal state", class(0x0e), Exception::IllegalState),
        ("HVC #0xEA1", class(0x16) | 0xea1, Exception::Hypercall { immediate: 0xea1 }),
        ("HVC #0xFFFF", class(0x16) | 0xffff, Exception::Hypercall { immediate: 0xffff }),
        ("SMC #0", class(0x17), Exception::SecureCall { immediate: 0 }),
        ("SVE", class(0x19), Exception::ScalableVector),
        ("ERET", class(0x1a) | 2, other(0x1a, 2)),
        ("SME", class(0x1d), Exception::ScalableMatrix),
        ("PC alignment", class(0x22), Exception::PcAlignment),
        ("SP alignment", class(0x26), Exception::SpAlignment),
        ("MOPS", class(0x27) | 5, other(0x27, 5)),
        ("SError", class(0x2f) | 0x11, Exception::SystemError { iss: 0x11 }),
        ("breakpoint", class(0x30) | 0x22, debug(0x30, 0x22)),
        ("software step", class(0x32), debug(0x32, 0)),
        ("watchpoint", class(0x34), debug(0x34, 0)),
        ("BRK", class(0x3c) | 0x800, debug(0x3c, 0x800)),
        ("a class from the same level", class(0x25), other(0x25, 0)),
    ];
    for (text, esr, expected) in table {
        assert_eq!(decode(*esr), *expected, "{text}");
    }
}

#[test]
fn a_system_register_access_has_its_encoding_register_and_direction() {
    // MRS x5, S3_6_C13_C9_2.
    let iss = 3 << 20 | 2 << 17 | 6 << 14 | 13 << 10 | 5 << 5 | 9 << 1 | 1;
    let read = SystemRegisterAccess {
        register: SystemRegister::new(3, 6, 13, 9, 2),
        rt: 5,
        direction: SystemRegisterDirection::Read,
    };
    assert_eq!(decode(class(0x18) | iss), Exception::SystemRegister(read));
    let write = SystemRegisterAccess {
        direction: SystemRegisterDirection::Write,
        ..read
    };
    assert_eq!(decode(class(0x18) | iss & !1), Exception::SystemRegister(write));
}

#[test]
fn fault_status_codes_have_names() {
    #[rustfmt::skip]
    let table = [
        (0x00, FaultStatus::AddressSize { level: 0 }), (0x04, FaultStatus::Translation { level: 0 }),
        (0x07, FaultStatus::Translation { level: 3 }), (0x09, FaultStatus::AccessFlag { level: 1 }),
        (0x0f, FaultStatus::Permission { level: 3 }), (0x10, FaultStatus::SynchronousExternal),
        (0x11, FaultStatus::TagCheck), (0x13, FaultStatus::ExternalOnWalk { level: -1 }),
        (0x16, FaultStatus::ExternalOnWalk { level: 2 }), (0x18, FaultStatus::Parity), (0x1f, FaultStatus::Parity),
        (0x21, FaultStatus::Alignment), (0x2b, FaultStatus::Translation { level: -1 }),
        (0x30, FaultStatus::TlbConflict), (0x31, FaultStatus::UnsupportedAtomicUpdate),
        (0x35, FaultStatus::UnsupportedExclusive), (0x3f, FaultStatus::Other(0x3f)), (0x12, FaultStatus::Other(0x12)),
    ];
    for (code, expected) in table {
        assert_eq!(FaultStatus::decode(code), expected, "{code:#x}");
    }
}

fn data_abort(iss: u64, hpfar: u64, trust: Hpfar) -> DataAbort {
    let syndrome = Syndrome {
        esr: class(0x24) | iss,
        far: 0xffff_8000_0123_4567,
        hpfar,
    };
    match Exception::decode(&syndrome, trust) {
        Exception::DataAbort(abort) => abort,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_address_is_known_only_where_the_architecture_defines_it() {
    let virtual_address = 0xffff_8000_0123_4567;
    let hpfar = 0x0002_0000 >> 8 << 4; // Frame 0x200 in bits 43:4.
    let both = FaultAddress::Both {
        virtual_address,
        ipa: Ipa(0x0020_0567),
    };
    let walk = FaultAddress::Walk {
        virtual_address,
        table: Ipa(0x0020_0000),
    };
    let only = FaultAddress::VirtualOnly { virtual_address };
    let trusted = Hpfar::Architectural;
    #[rustfmt::skip]
    let table: &[(&str, u64, u64, Hpfar, FaultAddress)] = &[
        ("translation", TRANSLATION_L3, hpfar, trusted, both),
        ("access flag", 0x0b, hpfar, trusted, both),
        ("address size", 0x00, hpfar, trusted, both),
        ("permission: HPFAR is poison", PERMISSION_L3, POISON, trusted, only),
        ("permission in a walk", PERMISSION_L3 | S1PTW, hpfar, trusted, walk),
        ("translation in a walk", TRANSLATION_L3 | S1PTW, hpfar, trusted, walk),
        ("translation, erratum 834220", TRANSLATION_L3, POISON, Hpfar::WalksOnly, only),
        ("translation in a walk, erratum 834220", TRANSLATION_L3 | S1PTW, hpfar, Hpfar::WalksOnly, walk),
        ("external", 0x10, POISON, trusted, only),
        ("external without FAR", 0x10 | FNV, POISON, trusted, FaultAddress::Unknown),
        ("FnV means nothing elsewhere", TRANSLATION_L3 | FNV, hpfar, trusted, both),
        ("alignment", 0x21, POISON, trusted, only),
        ("reserved bits of HPFAR", TRANSLATION_L3, hpfar | 1 << 63 | 0xf, trusted, both),
    ];
    for (text, iss, hpfar, trust, expected) in table {
        assert_eq!(data_abort(*iss, *hpfar, *trust).address, *expected, "{text}");
    }
}

fn frame() -> GuestFrame {
    let mut frame = GuestFrame {
        pc: 0x4000_0000,
        pstate: 0b0101,
        ..GuestFrame::default()
    };
    for (index, x) in frame.x.iter_mut().enumerate() {
        *x = 0xa5a5_a5a5_0000_0000 | (0x0101_0101 * index as u64);
    }
    frame
}

const WIDTHS: [AccessWidth; 4] = [
    AccessWidth::Byte,
    AccessWidth::Halfword,
    AccessWidth::Word,
    AccessWidth::Doubleword,
];

#[test]
fn a_valid_syndrome_is_planned_for_every_width_sign_size_register_and_direction() {
    let frame = frame();
    let ipa = Ipa(0x0020_0568);
    for (sas, width) in WIDTHS.into_iter().enumerate() {
        for (sse, sf) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            for register in 0..32_u8 {
                for write in [false, true] {
                    let iss = ISV
                        | (sas as u64) << 22
                        | sse << 21
                        | u64::from(register) << 16
                        | sf << 15
                        | if write { WNR } else { 0 }
                        | TRANSLATION_L3;
                    let abort = data_abort(iss, 0, Hpfar::Architectural);
                    let extension = match (sse, sf) {
                        (0, _) => Extension::Zero,
                        (_, 0) => Extension::SignTo32,
                        _ => Extension::SignTo64,
                    };
                    let value = match (register, sas) {
                        (31, _) => 0,
                        (_, 3) => frame.x[usize::from(register)],
                        _ => frame.x[usize::from(register)] % (1 << (8 << sas)),
                    };
                    let first = if write {
                        Transfer::Store { ipa, width, value }
                    } else {
                        Transfer::Load {
                            ipa,
                            width,
                            extension,
                            register,
                        }
                    };
                    assert_eq!(
                        plan_from_syndrome(&abort, ipa, &frame, |_| None),
                        DataAbortPlan::Access(AccessPlan {
                            first,
                            second: None,
                            writeback: None,
                            length: InstructionLength::Word
                        }),
                        "{iss:#x}"
                    );
                    let direction = if write {
                        Direction::Write(value)
                    } else {
                        Direction::Read
                    };
                    assert_eq!(first.access(), MmioAccess { ipa, width, direction });
                }
            }
        }
    }
}

#[test]
fn what_is_not_a_plain_access_is_decoded_skipped_or_refused() {
    let ipa = Ipa(0x0020_0ffc);
    let refuse = |refusal| DataAbortPlan::Refuse(refusal);
    let doubleword = ISV | 3 << 22;
    #[rustfmt::skip]
    let table: &[(&str, u64, DataAbortPlan)] = &[
        ("no valid syndrome", TRANSLATION_L3, DataAbortPlan::Decode),
        ("no valid syndrome, a store refused by permission", PERMISSION_L3 | WNR, DataAbortPlan::Decode),
        ("cache maintenance", TRANSLATION_L3 | CM | WNR, DataAbortPlan::Skip(InstructionLength::Word)),
        ("a table walk", TRANSLATION_L3 | S1PTW, refuse(Refusal::TableWalk)),
        ("cache maintenance whose table walk faulted", TRANSLATION_L3 | CM | S1PTW, refuse(Refusal::TableWalk)),
        ("crosses a page", TRANSLATION_L3 | doubleword, refuse(Refusal::CrossesPage)),
        ("external", 0x10 | ISV, refuse(Refusal::Fault(FaultStatus::SynchronousExternal))),
        ("an exclusive that memory does not do", 0x35, refuse(Refusal::Fault(FaultStatus::UnsupportedExclusive))),
        ("conflict in the TLB", 0x30, refuse(Refusal::Fault(FaultStatus::TlbConflict))),
    ];
    for (text, iss, expected) in table {
        let abort = data_abort(*iss, 0, Hpfar::Architectural);
        assert_eq!(plan_from_syndrome(&abort, ipa, &frame(), |_| None), *expected, "{text}");
    }
}

#[test]
fn an_access_that_crosses_into_the_neighbouring_page_is_one_access() {
    let abort = data_abort(TRANSLATION_L3 | ISV | 3 << 22, 0, Hpfar::Architectural);
    let abort = DataAbort {
        address: FaultAddress::VirtualOnly {
            virtual_address: 0x7ffc,
        },
        ..abort
    };
    for (second, planned) in [(0x0020_1000, true), (0x0020_2000, false), (0x0020_0000, false)] {
        let plan = plan_from_syndrome(&abort, Ipa(0x0020_0ffc), &frame(), |behind| {
            assert_eq!(behind, 0x8000);
            Some(Ipa(second))
        });
        assert_eq!(matches!(plan, DataAbortPlan::Access(_)), planned, "{second:#x}");
    }
}

#[test]
fn at_the_start_of_a_page_only_the_instruction_tells_whether_the_access_began_in_the_page_before() {
    for (size, ipa, decoded) in [
        (3, 0x0020_1000, true),
        (2, 0x0020_1000, true),
        (1, 0x0020_1000, true),
        (0, 0x0020_1000, false),
        (3, 0x0020_1008, false),
        (3, 0x0020_0ff8, false),
    ] {
        let abort = data_abort(TRANSLATION_L3 | ISV | size << 22, 0, Hpfar::Architectural);
        let plan = |frame: &GuestFrame| plan_from_syndrome(&abort, Ipa(ipa), frame, |_| None);
        assert_eq!(
            plan(&frame()) == DataAbortPlan::Decode,
            decoded,
            "size {size} at {ipa:#x}"
        );
        let aarch32 = GuestFrame {
            pstate: 0x10,
            ..frame()
        };
        assert!(matches!(plan(&aarch32), DataAbortPlan::Access(_)));
    }
}

#[test]
fn a_16_bit_instruction_advances_by_two() {
    let syndrome = Syndrome {
        esr: 0x24 << 26 | ISV | TRANSLATION_L3,
        ..Syndrome::default()
    };
    let Exception::DataAbort(abort) = Exception::decode(&syndrome, Hpfar::Architectural) else {
        panic!("not a data abort");
    };
    let DataAbortPlan::Access(plan) = plan_from_syndrome(&abort, Ipa(0), &frame(), |_| None) else {
        panic!("no plan");
    };
    assert_eq!(plan.length, InstructionLength::Halfword);
}

#[test]
fn no_syndrome_panics() {
    let mut state = 1_u64;
    for _ in 0..100_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let syndrome = Syndrome {
            esr: state.rotate_left(17),
            far: state,
            hpfar: !state,
        };
        if let Exception::DataAbort(abort) = Exception::decode(&syndrome, Hpfar::Architectural) {
            let _ = plan_from_syndrome(&abort, Ipa(state), &frame(), |page| Some(Ipa(page)));
        }
    }
}
