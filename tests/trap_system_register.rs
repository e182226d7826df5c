//! Trapped system registers, the ID registers of unlike pCPUs, and the emulated physical timer.

use portunus::ids::Ticks;
use portunus::trap::exception::PstateFeatures;
use portunus::trap::registers::GuestMode;
use portunus::trap::syndrome::{SystemRegister, SystemRegisterAccess, SystemRegisterDirection};
use portunus::trap::system_register::identification::{IdError, IdOptions, IdRegisters, IdTraps, RawIdRegisters};
use portunus::trap::system_register::physical_timer::PhysicalTimer;
use portunus::trap::system_register::{
    EmulatedRegisters, SgiRegister, SystemRegisterContext, SystemRegisterOutcome as Outcome, access,
};

use SystemRegisterDirection::{Read, Write};

const V3: IdOptions = IdOptions {
    gic_system_registers: true,
    ipa_bits: 40,
};
const V2: IdOptions = IdOptions {
    gic_system_registers: false,
    ipa_bits: 48,
};

/// Rows of [`RawIdRegisters::space`].
const PFR: usize = 3;
const DFR: usize = 4;
const ISAR: usize = 5;
const MMFR: usize = 6;

/// A pCPU that claims everything: every field of every register has this value.
fn claims(nibble: u64) -> RawIdRegisters {
    RawIdRegisters {
        space: [[0x1111_1111_1111_1111 * nibble; 8]; 7],
        midr: 0x411f_d070,
        revidr: 0,
        ctr: 0x8444_c004,
        clidr: 0x0a20_0023,
        dczid: 4,
    }
}

/// Cortex-A57's registers (r1p0, as QEMU models it).
fn cortex_a57() -> RawIdRegisters {
    let mut raw = claims(0);
    raw.space[PFR][0] = 0x0000_2222;
    raw.space[DFR][0] = 0x1030_5106;
    raw.space[ISAR][0] = 0x0001_1120;
    raw.space[MMFR][0] = 0x0000_1124;
    raw.space[0] = [
        0x131,
        0x1_1011,
        0x0301_0066,
        0,
        0x1010_1105,
        0x4000_0000,
        0x0126_0000,
        0x0210_2211,
    ];
    raw.space[1] = [
        0x0210_1110,
        0x1311_2111,
        0x2123_2042,
        0x0111_2131,
        0x0001_1142,
        0x0001_1121,
        0,
        0,
    ];
    raw.space[2] = [0x1011_0222, 0x1211_1111, 0x43, 0, 0, 0, 0, 0];
    raw
}

fn combine(pcpus: &[RawIdRegisters], options: &IdOptions) -> IdRegisters {
    IdRegisters::combine(pcpus, options).unwrap()
}

#[test]
fn a_cortex_a57_shows_what_it_has_less_el2_el3_pmu_and_debug_extras() {
    let ids = combine(&[cortex_a57(); 4], &V3);
    #[rustfmt::skip]
    let table = [
        ("ID_AA64PFR0: EL0 both, EL1 AArch64", 4, 0, 0x12),
        ("ID_AA64PFR1", 4, 1, 0),
        ("ID_AA64DFR0: no PMU, two comparators of each kind, no double lock", 5, 0, 0xf0_0010_1006),
        ("ID_AA64ISAR0", 6, 0, 0x0001_1120),
        ("ID_AA64MMFR0: 40 bits as the IPA", 7, 0, 0x0000_1122),
        ("ID_PFR1: no virtualisation, no security extensions", 1, 1, 0x0001_0001),
        ("ID_DFR0: no PMU", 1, 2, 0x6),
        ("ID_MMFR0", 1, 4, 0x1010_1105),
        ("ID_ISAR5", 2, 5, 0x0001_1121),
        ("MVFR1", 3, 1, 0x1211_1111),
    ];
    for (text, crm, op2, expected) in table {
        assert_eq!(
            ids.read_space(crm, op2),
            expected,
            "{text}: {:#x}",
            ids.read_space(crm, op2)
        );
    }
    assert!(!ids.pointer_authentication());
    assert_eq!(ids.pstate_features(), PstateFeatures::default());
}

#[test]
fn what_a_vcpu_does_not_get_is_hidden_however_loudly_hardware_claims_it() {
    #[rustfmt::skip]
    let hidden: &[(&str, usize, usize, u32)] = &[
        ("EL2", PFR, 0, 8), ("EL3", PFR, 0, 12), ("RAS", PFR, 0, 28), ("SVE", PFR, 0, 32), ("SEL2", PFR, 0, 36),
        ("MPAM", PFR, 0, 40), ("AMU", PFR, 0, 44), ("RME", PFR, 0, 52), ("MTE", PFR, 1, 8), ("RAS_frac", PFR, 1, 12),
        ("MPAM_frac", PFR, 1, 16), ("SME", PFR, 1, 24), ("NMI", PFR, 1, 36), ("GCS", PFR, 1, 44),
        ("SVE's own register", PFR, 4, 0), ("SME's own register", PFR, 5, 0),
        ("PMU", DFR, 0, 8), ("trace", DFR, 0, 4), ("SPE", DFR, 0, 32), ("TRBE", DFR, 0, 44), ("BRBE", DFR, 0, 52),
        ("TME", ISAR, 0, 24), ("LS64", ISAR, 1, 60), ("WFxT", ISAR, 2, 0), ("MOPS", ISAR, 2, 16),
        ("FGT", MMFR, 0, 56), ("ECV", MMFR, 0, 60), ("VMIDBits", MMFR, 1, 4), ("VHE", MMFR, 1, 8),
        ("LORegions", MMFR, 1, 16), ("HCX", MMFR, 1, 40), ("IESB", MMFR, 2, 12), ("52-bit VA", MMFR, 2, 16),
        ("nested virtualisation", MMFR, 2, 24), ("FWB", MMFR, 2, 40), ("EVT", MMFR, 2, 56), ("TCR2", MMFR, 3, 0),
    ];
    for nibble in 1..16 {
        let ids = combine(&[claims(nibble)], &V3);
        for (text, row, column, shift) in hidden {
            let value = ids.read_space(*row as u8 + 1, *column as u8) >> shift & 0xf;
            assert_eq!(value, 0, "{text} where every field is {nibble:#x}");
        }
        // 52-bit addresses: PARange, and each granule's "with 52 bits".
        let granules = ids.read_space(7, 0);
        assert!(granules & 0xf <= 5);
        assert!(granules >> 20 & 0xf <= 1, "TGran16");
        assert!(matches!(granules >> 28 & 0xf, 0 | 8..=0xf), "TGran4");
        assert_eq!(ids.read_space(4, 0) >> 4 & 0xf, 1, "EL1 is AArch64");
        assert_eq!(ids.read_space(5, 0) & 0xf, 6, "base debug");
    }
}

#[test]
fn each_field_is_the_least_of_all_pcpus() {
    let shift_of = |shift: u32, value: u64| value << shift;
    // (register, field, on pCPU 0, on pCPU 1, shown)
    #[rustfmt::skip]
    let table: &[(&str, usize, usize, u32, u64, u64, u64)] = &[
        ("LSE", ISAR, 0, 20, 2, 0, 0),
        ("AES", ISAR, 0, 4, 1, 2, 1),
        ("floating point present and absent: 0xf is less than 0", PFR, 0, 16, 1, 0xf, 0xf),
        ("4K granule present and absent", MMFR, 0, 28, 0, 0xf, 0xf),
        ("64K granule in both", MMFR, 0, 24, 0, 0, 0),
        ("52-bit 4K granule shows as plain", MMFR, 0, 28, 1, 1, 0),
        ("PARange", MMFR, 0, 0, 5, 2, 2),
        ("PAN", MMFR, 1, 20, 3, 1, 1),
        ("CSV2 without SCXTNUM", PFR, 0, 56, 2, 2, 1),
        ("SpecSEI warns, so the greatest", MMFR, 1, 24, 0, 1, 1),
        ("pointer authentication, the same algorithm", ISAR, 1, 8, 3, 3, 3),
        ("pointer authentication, unlike algorithms", ISAR, 1, 8, 3, 1, 0),
    ];
    for (text, row, column, shift, left, right, expected) in table {
        let mut pcpus = [cortex_a57(); 2];
        for (raw, value) in pcpus.iter_mut().zip([left, right]) {
            raw.space[*row][*column] = raw.space[*row][*column] & !(0xf << shift) | shift_of(*shift, *value);
        }
        let options = IdOptions { ipa_bits: 48, ..V3 };
        let shown = combine(&pcpus, &options).read_space(*row as u8 + 1, *column as u8) >> shift & 0xf;
        assert_eq!(shown, *expected, "{text}");
        pcpus.reverse();
        let reversed = combine(&pcpus, &options).read_space(*row as u8 + 1, *column as u8) >> shift & 0xf;
        assert_eq!(reversed, *expected, "{text}, the other way round");
    }
}

#[test]
fn pointer_authentication_is_kept_only_if_every_pcpu_signs_alike() {
    let with = |api: u64, gpi: u64| {
        let mut raw = cortex_a57();
        raw.space[ISAR][1] = api << 8 | gpi << 28;
        raw
    };
    for (text, pcpus, expected) in [
        ("all alike", vec![with(5, 1), with(5, 1)], true),
        ("one without", vec![with(5, 1), with(0, 0)], false),
        (
            "generic authentication differs, so addresses go too",
            vec![with(5, 1), with(5, 0)],
            false,
        ),
        (
            "the third differs as the first two differed",
            vec![with(5, 1), with(3, 1), with(0, 1)],
            false,
        ),
    ] {
        let ids = combine(&pcpus, &V3);
        assert_eq!(ids.pointer_authentication(), expected, "{text}");
        assert_eq!(ids.read_space(6, 1) != 0, expected, "{text}");
    }
}

#[test]
fn the_gic_and_the_ipa_size_are_those_of_the_machine() {
    let mut raw = cortex_a57();
    raw.space[PFR][0] |= 3 << 24;
    raw.space[0][1] |= 3 << 28;
    raw.space[MMFR][0] = 0x1126;
    for (options, gic, range) in [
        (V3, 1, 2),
        (V2, 0, 5),
        (IdOptions { ipa_bits: 44, ..V2 }, 0, 4),
        (IdOptions { ipa_bits: 39, ..V2 }, 0, 1),
    ] {
        let ids = combine(&[raw], &options);
        assert_eq!(ids.read_space(4, 0) >> 24 & 0xf, gic);
        assert_eq!(ids.read_space(1, 1) >> 28 & 0xf, gic);
        assert_eq!(ids.read_space(7, 0) & 0xf, range, "{options:?}");
    }
    assert_eq!(IdRegisters::combine(&[], &V3), Err(IdError::NoPcpu));
    let narrow = IdOptions { ipa_bits: 31, ..V3 };
    assert_eq!(IdRegisters::combine(&[raw], &narrow), Err(IdError::IpaBits(31)));
}

#[test]
fn a_machine_without_aarch32_shows_no_aarch32_registers() {
    let mut raw = cortex_a57();
    raw.space[PFR][0] = 0x1111;
    let ids = combine(&[cortex_a57(), raw], &V3);
    assert_eq!(ids.read_space(4, 0), 0x11);
    for crm in 1..=3 {
        for op2 in 0..8 {
            assert_eq!(ids.read_space(crm, op2), 0, "CRm {crm}, op2 {op2}");
        }
    }
}

#[test]
fn the_cache_type_is_the_strictest_and_differences_trap() {
    let with = |ctr: u64, dczid: u64| RawIdRegisters {
        ctr,
        dczid,
        ..cortex_a57()
    };
    let res1 = 1 << 31;
    // (left, right, shown): IminLine 3:0, L1Ip 15:14, DminLine 19:16, ERG 23:20, CWG 27:24, IDC 28, DIC 29.
    for (text, left, right, expected) in [
        ("lines: the least", 0x0005_0004, 0x0004_0003, 0x0004_0003),
        ("instruction cache: VIPT before PIPT", 0xc000, 0x8000, 0x8000),
        ("granules: the greatest", 0x0430_0000, 0x0340_0000, 0x0440_0000),
        ("granules: unknown is the greatest", 0x0400_0000, 0x0000_0000, 0),
        ("IDC and DIC: both or not", 0x3000_0000, 0x2000_0000, 0x2000_0000),
    ] {
        let ids = combine(&[with(left, 4), with(right, 4)], &V3);
        assert_eq!(ids.ctr(), expected | res1, "{text}: {:#x}", ids.ctr());
        assert_eq!(
            with(left, 4).differences(&with(right, 4)),
            IdTraps {
                cache: true,
                zero_block: false
            }
        );
    }
    assert_eq!(
        with(1, 4).differences(&with(1, 3)),
        IdTraps {
            cache: false,
            zero_block: true
        }
    );
}

/// Op0, Op1, CRn, CRm, Op2.
type Encoding = (u8, u8, u8, u8, u8);

/// Performs an access on registers after reset, at time 1000.
fn at(mode: GuestMode, gic: bool, register: Encoding, direction: SystemRegisterDirection, value: u64) -> Outcome {
    let ids = combine(&[cortex_a57()], &V3);
    let (op0, op1, crn, crm, op2) = register;
    let access_to = SystemRegisterAccess {
        register: SystemRegister::new(op0, op1, crn, crm, op2),
        rt: 0,
        direction,
    };
    let context = SystemRegisterContext {
        ids: &ids,
        pcpu: &cortex_a57(),
        gic_system_registers: gic,
        mode,
        now: Ticks(1000),
    };
    access(&access_to, value, &mut EmulatedRegisters::default(), &context)
}

#[test]
fn every_trapped_register_has_its_answer_at_el1_and_el0() {
    use Outcome::{CacheBySetWay, Read as Value, TimerWritten, Undefined, Written};
    let sgi = |register| Outcome::SendSgi {
        register,
        value: 0xabcd,
    };
    // (register, read at EL1, write at EL1, read at EL0, write at EL0)
    #[rustfmt::skip]
    let table: &[(&str, Encoding, Outcome, Outcome, Outcome, Outcome)] = &[
        ("ID_AA64PFR0_EL1", (3, 0, 0, 4, 0), Value(0x12), Undefined, Value(0x12), Undefined),
        ("an ID register without a name", (3, 0, 0, 7, 7), Value(0), Undefined, Value(0), Undefined),
        ("MIDR_EL1", (3, 0, 0, 0, 0), Value(0x411f_d070), Undefined, Value(0x411f_d070), Undefined),
        ("AIDR_EL1", (3, 1, 0, 0, 7), Value(0), Undefined, Value(0), Undefined),
        ("CLIDR_EL1", (3, 1, 0, 0, 1), Value(0x0a20_0023), Undefined, Value(0x0a20_0023), Undefined),
        ("CTR_EL0", (3, 3, 0, 0, 1), Value(0x8444_c004), Undefined, Value(0x8444_c004), Undefined),
        ("CCSIDR_EL1", (3, 1, 0, 0, 0), Value(2), Undefined, Value(2), Undefined),
        ("ACTLR_EL1", (3, 0, 1, 0, 1), Value(0), Written, Value(0), Written),
        ("DC ISW", (1, 0, 7, 6, 2), Undefined, CacheBySetWay, Undefined, CacheBySetWay),
        ("DC CSW", (1, 0, 7, 10, 2), Undefined, CacheBySetWay, Undefined, CacheBySetWay),
        ("DC CISW", (1, 0, 7, 14, 2), Undefined, CacheBySetWay, Undefined, CacheBySetWay),
        ("DC CGSW: memory tags", (1, 0, 7, 10, 4), Undefined, Undefined, Undefined, Undefined),
        ("CNTP_TVAL_EL0", (3, 3, 14, 2, 0), Value(0xffff_fc18), TimerWritten, Value(0xffff_fc18), TimerWritten),
        ("CNTP_CTL_EL0", (3, 3, 14, 2, 1), Value(0), TimerWritten, Value(0), TimerWritten),
        ("CNTP_CVAL_EL0", (3, 3, 14, 2, 2), Value(0), TimerWritten, Value(0), TimerWritten),
        ("CNTPCT_EL0", (3, 3, 14, 0, 1), Value(1000), Undefined, Value(1000), Undefined),
        ("CNTPS_CTL_EL1", (3, 7, 14, 2, 1), Undefined, Undefined, Undefined, Undefined),
        ("ICC_SGI1R_EL1", (3, 0, 12, 11, 5), Undefined, sgi(SgiRegister::Sgi1r), Undefined, sgi(SgiRegister::Sgi1r)),
        ("ICC_SGI0R_EL1", (3, 0, 12, 11, 7), Undefined, sgi(SgiRegister::Sgi0r), Undefined, sgi(SgiRegister::Sgi0r)),
        ("ICC_ASGI1R_EL1", (3, 0, 12, 11, 6), Undefined, sgi(SgiRegister::Asgi1r), Undefined,
            sgi(SgiRegister::Asgi1r)),
        ("ICC_SRE_EL1", (3, 0, 12, 12, 5), Value(7), Written, Value(7), Written),
        ("MDSCR_EL1", (2, 0, 0, 2, 2), Value(0), Written, Undefined, Undefined),
        ("OSLAR_EL1", (2, 0, 1, 0, 4), Undefined, Written, Undefined, Undefined),
        ("OSLSR_EL1", (2, 0, 1, 1, 4), Value(8), Undefined, Undefined, Undefined),
        ("OSDLR_EL1", (2, 0, 1, 3, 4), Value(0), Written, Undefined, Undefined),
        ("MDRAR_EL1", (2, 0, 1, 0, 0), Value(0), Undefined, Undefined, Undefined),
        ("DBGBVR1_EL1", (2, 0, 0, 1, 4), Value(0), Written, Undefined, Undefined),
        ("DBGBCR2_EL1 does not exist", (2, 0, 0, 2, 5), Undefined, Undefined, Undefined, Undefined),
        ("DBGWCR0_EL1", (2, 0, 0, 0, 7), Value(0), Written, Undefined, Undefined),
        ("DBGWVR15_EL1 does not exist", (2, 0, 0, 15, 6), Undefined, Undefined, Undefined, Undefined),
        ("DBGCLAIMSET_EL1", (2, 0, 7, 8, 6), Value(0), Written, Undefined, Undefined),
        ("MDCCSR_EL0", (2, 3, 0, 1, 0), Value(0), Undefined, Value(0), Undefined),
        ("DBGDTR_EL0", (2, 3, 0, 4, 0), Value(0), Written, Value(0), Written),
        ("a trace register", (2, 1, 0, 1, 0), Undefined, Undefined, Undefined, Undefined),
        ("DBGVCR32_EL2", (2, 4, 0, 7, 0), Undefined, Undefined, Undefined, Undefined),
        ("PMCR_EL0", (3, 3, 9, 12, 0), Value(0), Written, Undefined, Undefined),
        ("PMCCNTR_EL0", (3, 3, 9, 13, 0), Value(0), Written, Undefined, Undefined),
        ("PMUSERENR_EL0", (3, 3, 9, 14, 0), Value(0), Written, Value(0), Undefined),
        ("PMOVSSET_EL0", (3, 3, 9, 14, 3), Value(0), Written, Undefined, Undefined),
        ("PMINTENSET_EL1", (3, 0, 9, 14, 1), Value(0), Written, Value(0), Written),
        ("PMEVCNTR30_EL0", (3, 3, 14, 11, 6), Value(0), Written, Undefined, Undefined),
        ("PMCCFILTR_EL0", (3, 3, 14, 15, 7), Value(0), Written, Undefined, Undefined),
        ("AMCR_EL0", (3, 3, 13, 2, 0), Undefined, Undefined, Undefined, Undefined),
        ("PMSCR_EL1: SPE", (3, 0, 9, 9, 0), Undefined, Undefined, Undefined, Undefined),
        ("TRBLIMITR_EL1", (3, 0, 9, 11, 0), Undefined, Undefined, Undefined, Undefined),
        ("ERRIDR_EL1: RAS", (3, 0, 5, 3, 0), Undefined, Undefined, Undefined, Undefined),
        ("LORC_EL1", (3, 0, 10, 4, 3), Undefined, Undefined, Undefined, Undefined),
        ("APIAKEYLO_EL1", (3, 0, 2, 1, 0), Undefined, Undefined, Undefined, Undefined),
        ("S3_1_C15_C2_0: implementation-defined", (3, 1, 15, 2, 0), Undefined, Undefined, Undefined, Undefined),
        ("S3_1_C11_C0_2: L2CTLR_EL1", (3, 1, 11, 0, 2), Undefined, Undefined, Undefined, Undefined),
        ("an EL2 register", (3, 4, 1, 1, 0), Undefined, Undefined, Undefined, Undefined),
    ];
    for (text, register, read1, write1, read0, write0) in table {
        for (mode, direction, expected) in [
            (GuestMode::El1h, Read, read1),
            (GuestMode::El1t, Write, write1),
            (GuestMode::El0, Read, read0),
            (GuestMode::El0, Write, write0),
        ] {
            assert_eq!(
                at(mode, true, *register, direction, 0xabcd),
                *expected,
                "{text}: {direction:?} from {mode:?}"
            );
        }
    }
}

#[test]
fn a_gicv2_guest_has_no_interrupt_registers() {
    for crm_op2 in [(11, 5), (11, 6), (11, 7), (12, 5)] {
        let register = (3, 0, 12, crm_op2.0, crm_op2.1);
        for direction in [Read, Write] {
            assert_eq!(at(GuestMode::El1h, false, register, direction, 1), Outcome::Undefined);
        }
    }
}

#[test]
fn no_encoding_panics_and_none_reads_anything_but_what_it_was_given() {
    let ids = combine(&[cortex_a57()], &V3);
    let mut registers = EmulatedRegisters::default();
    let context = SystemRegisterContext {
        ids: &ids,
        pcpu: &RawIdRegisters::NONE,
        gic_system_registers: true,
        mode: GuestMode::El1h,
        now: Ticks(1),
    };
    let mut undefined = 0;
    for encoding in 0..1_u32 << 16 {
        let field = |shift: u32, mask: u32| (encoding >> shift & mask) as u8;
        let register = SystemRegister::new(field(14, 3), field(11, 7), field(7, 15), field(3, 15), field(0, 7));
        for direction in [Read, Write] {
            let one = SystemRegisterAccess {
                register,
                rt: 1,
                direction,
            };
            match access(&one, u64::MAX, &mut registers, &context) {
                Outcome::Read(_) => assert_eq!(direction, Read, "{register:?}"),
                Outcome::Undefined => undefined += 1,
                _ => assert_eq!(direction, Write, "{register:?}"),
            }
        }
    }
    assert!(
        undefined > 120_000,
        "the default is undefined, and was only {undefined} times"
    );
}

#[test]
fn the_cache_selection_is_kept_and_chooses_the_line_size() {
    let mut raw = cortex_a57();
    raw.ctr = 0x8004_0003;
    let ids = combine(&[raw], &V3);
    let mut registers = EmulatedRegisters::default();
    let context = SystemRegisterContext {
        ids: &ids,
        pcpu: &RawIdRegisters::NONE,
        gic_system_registers: true,
        mode: GuestMode::El1h,
        now: Ticks(0),
    };
    let mut perform = |op1, direction, value| {
        let one = SystemRegisterAccess {
            register: SystemRegister::new(3, op1, 0, 0, 0),
            rt: 0,
            direction,
        };
        access(&one, value, &mut registers, &context)
    };
    assert_eq!(perform(1, Read, 0), Outcome::Read(2), "data: 64 bytes");
    assert_eq!(perform(2, Write, 0xfff1), Outcome::Written);
    assert_eq!(perform(2, Read, 0), Outcome::Read(1));
    assert_eq!(perform(1, Read, 0), Outcome::Read(1), "instructions: 32 bytes");
}

const ENABLE: u64 = 1;
const IMASK: u64 = 2;
const ISTATUS: u64 = 4;

#[test]
fn the_timer_fires_when_its_time_has_come_and_it_may() {
    // (control, compare, now, control as read, line, deadline)
    #[rustfmt::skip]
    let table = [
        ("off", 0, 100, 200, 0, false, None),
        ("off and masked", IMASK, 100, 200, IMASK, false, None),
        ("before its time", ENABLE, 100, 99, ENABLE, false, Some(100)),
        ("at its time", ENABLE, 100, 100, ENABLE | ISTATUS, true, None),
        ("after its time", ENABLE, 100, u64::MAX, ENABLE | ISTATUS, true, None),
        ("masked before its time", ENABLE | IMASK, 100, 99, ENABLE | IMASK, false, None),
        ("masked at its time", ENABLE | IMASK, 100, 100, ENABLE | IMASK | ISTATUS, false, None),
        ("status can't be written", ENABLE | ISTATUS | 0xfff0, 100, 99, ENABLE, false, Some(100)),
    ];
    for (text, control, compare, now, read, line, deadline) in table {
        let mut timer = PhysicalTimer::default();
        timer.set_control(control);
        timer.set_compare(compare);
        let now = Ticks(now);
        assert_eq!(
            (timer.control(now), timer.line(now), timer.deadline(now)),
            (read, line, deadline.map(Ticks)),
            "{text}"
        );
    }
}

#[test]
fn the_timer_value_is_a_signed_number_of_32_bits() {
    // (now, TVAL written, CVAL then)
    for (now, value, compare) in [
        (1000, 100, 1100),
        (1000, 0xffff_ffff, 999),
        (1000, 0xdead_0000_0000_0064, 1100),
        (0, 0x8000_0000, (-0x8000_0000_i64) as u64),
        (u64::MAX, 1, 0),
        (1 << 40, 0x7fff_ffff, (1 << 40) + 0x7fff_ffff),
    ] {
        let mut timer = PhysicalTimer::default();
        timer.set_timer_value(Ticks(now), value);
        assert_eq!(timer.compare(), compare, "{value:#x} at {now:#x}");
        assert_eq!(timer.timer_value(Ticks(now)), value & 0xffff_ffff);
    }
    let mut timer = PhysicalTimer::default();
    timer.set_compare(0x1_0000_0005);
    assert_eq!(timer.timer_value(Ticks(0)), 5, "the upper half is not seen");
}
