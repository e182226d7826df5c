//! Exceptions injected into a guest: vectors, PSTATE, ESR and FAR as hardware would have them.

use portunus::cpu::{Cpu, El1Register};
use portunus::fakes::FakeCpu;
use portunus::trap::exception::{GuestException, Injected, PstateFeatures, inject};
use portunus::trap::registers::GuestFrame;
use portunus::trap::syndrome::{Exception, Hpfar, Syndrome};

const EL0: u64 = 0b0000;
const EL1T: u64 = 0b0100;
const EL1H: u64 = 0b0101;
const USER32: u64 = 0b1_0000;
const DAIF: u64 = 0x3c0;
const ENTERED: u64 = DAIF | EL1H;

const SPAN: u64 = 1 << 23;
const DSSBS: u64 = 1 << 44;
const PAN: u64 = 1 << 22;
const SSBS: u64 = 1 << 12;
const TCO: u64 = 1 << 25;
const DIT: u64 = 1 << 24;
const UAO: u64 = 1 << 23;
const SS: u64 = 1 << 21;
const IL: u64 = 1 << 20;
const BTYPE: u64 = 0b11 << 10;
const FLAGS: u64 = 0xf << 28;

const ALL: PstateFeatures = PstateFeatures {
    pan: true,
    ssbs: true,
    mte: false,
    nmi: false,
};

fn cpu(sctlr: u64) -> FakeCpu {
    let mut cpu = FakeCpu::default();
    cpu.write_el1(El1Register::VbarEl1, 0xffff_8000_0800_0800);
    cpu.write_el1(El1Register::SctlrEl1, sctlr);
    cpu.write_el1(El1Register::FarEl1, 0xfa12);
    cpu
}

fn frame(pstate: u64) -> GuestFrame {
    GuestFrame {
        pc: 0x1_2340,
        pstate,
        ..GuestFrame::default()
    }
}

const DATA: GuestException = GuestException::DataAbort {
    virtual_address: Some(0xdead_0008),
    write: true,
    cache_maintenance: false,
};
const NOWHERE: GuestException = GuestException::DataAbort {
    virtual_address: None,
    write: false,
    cache_maintenance: false,
};
const FETCH: GuestException = GuestException::InstructionAbort {
    virtual_address: Some(0xdead_0010),
};

#[test]
fn the_vector_and_the_class_follow_the_level_and_state_it_came_from() {
    let (undefined, unchanged) = (GuestException::Undefined, 0xfa12);
    let reflect = |esr| GuestException::Reflected {
        esr,
        virtual_address: None,
    };
    #[rustfmt::skip]
    let table: &[(&str, u64, GuestException, u64, u64, u64)] = &[
        ("data abort, EL1h", EL1H, DATA, 0x200, 0x9600_0050, 0xdead_0008),
        ("data abort, EL1t", EL1T, DATA, 0x000, 0x9600_0050, 0xdead_0008),
        ("data abort, EL0", EL0, DATA, 0x400, 0x9200_0050, 0xdead_0008),
        ("data abort, EL0 in AArch32", USER32, DATA, 0x600, 0x9200_0050, 0xdead_0008),
        ("fetch, EL1h", EL1H, FETCH, 0x200, 0x8600_0010, 0xdead_0010),
        ("fetch, EL0", EL0, FETCH, 0x400, 0x8200_0010, 0xdead_0010),
        ("data abort without an address", EL1H, NOWHERE, 0x200, 0x9600_0410, unchanged),
        ("undefined, EL1h", EL1H, undefined, 0x200, 0x0200_0000, unchanged),
        ("undefined, EL0 in AArch32", USER32, undefined, 0x600, 0x0200_0000, unchanged),
        ("BRK #5, EL1h: one class for all levels", EL1H, reflect(0xf200_0005), 0x200, 0xf200_0005, unchanged),
        ("breakpoint, EL1h: the class of the same level", EL1H, reflect(0xc200_0022), 0x200, 0xc600_0022, unchanged),
        ("breakpoint, EL0", EL0, reflect(0xc200_0022), 0x400, 0xc200_0022, unchanged),
    ];
    for (text, pstate, exception, vector, esr, far) in table {
        let mut cpu = cpu(SPAN);
        let mut frame = frame(*pstate);
        assert_eq!(inject(&mut cpu, &mut frame, *exception, ALL), Injected::Entered);
        assert_eq!(frame.pc, 0xffff_8000_0800_0800 + vector, "{text}: vector");
        assert_eq!(frame.pstate, ENTERED, "{text}: PSTATE");
        assert_eq!(cpu.read_el1(El1Register::ElrEl1), 0x1_2340, "{text}: ELR");
        assert_eq!(cpu.read_el1(El1Register::SpsrEl1), *pstate, "{text}: SPSR");
        assert_eq!(cpu.read_el1(El1Register::EsrEl1), *esr, "{text}: ESR");
        assert_eq!(cpu.read_el1(El1Register::FarEl1), *far, "{text}: FAR");
        assert_eq!(frame.x, [0; 31], "{text}: general registers");
    }
}

#[test]
fn pstate_is_what_exception_entry_makes_it() {
    let nothing = PstateFeatures::default();
    let tags = PstateFeatures { mte: true, ..ALL };
    #[rustfmt::skip]
    let table: &[(&str, u64, u64, PstateFeatures, u64)] = &[
        ("flags and DIT carry over", FLAGS | DIT | EL1H, SPAN, ALL, FLAGS | DIT | ENTERED),
        ("UAO, SS, IL and BTYPE are cleared", UAO | SS | IL | BTYPE | EL0, SPAN, ALL, ENTERED),
        ("PAN carries over when SPAN is set", PAN | EL0, SPAN, ALL, PAN | ENTERED),
        ("PAN is set when SPAN is clear", EL0, 0, ALL, PAN | ENTERED),
        ("no PAN on a machine without it", EL0, 0, nothing, ENTERED),
        ("SSBS follows DSSBS: set", EL0, SPAN | DSSBS, ALL, SSBS | ENTERED),
        ("SSBS follows DSSBS: clear", SSBS | EL0, SPAN, ALL, ENTERED),
        ("no SSBS on a machine without it", EL0, SPAN | DSSBS, nothing, ENTERED),
        ("TCO is set where tags exist", EL0, SPAN, tags, TCO | ENTERED),
        ("AArch32: Q, IT, GE, E and T are cleared", 0xfe0f_fe30 & !(0b11 << 21 | 1 << 24), SPAN, ALL, FLAGS | ENTERED),
    ];
    for (text, pstate, sctlr, features, expected) in table {
        let mut cpu = cpu(*sctlr);
        let mut frame = frame(*pstate);
        assert_eq!(
            inject(&mut cpu, &mut frame, GuestException::Undefined, *features),
            Injected::Entered
        );
        assert_eq!(frame.pstate, *expected, "{text}: {:#x}", frame.pstate);
        assert_eq!(cpu.read_el1(El1Register::SpsrEl1), *pstate, "{text}");
    }
}

#[test]
fn refused_cache_maintenance_says_so() {
    let mut cpu = cpu(SPAN);
    let exception = GuestException::DataAbort {
        virtual_address: Some(0x40),
        write: false,
        cache_maintenance: true,
    };
    assert_eq!(inject(&mut cpu, &mut frame(EL1H), exception, ALL), Injected::Entered);
    assert_eq!(cpu.read_el1(El1Register::EsrEl1), 0x9600_0150);
}

#[test]
fn an_serror_is_left_to_hardware_and_changes_nothing() {
    let mut cpu = cpu(SPAN);
    let mut after = frame(EL1H);
    let exception = GuestException::SystemError { syndrome: 0x11 };
    assert_eq!(
        inject(&mut cpu, &mut after, exception, ALL),
        Injected::PendSystemError { syndrome: 0x11 }
    );
    assert_eq!(after, frame(EL1H));
    assert_eq!(cpu.read_el1(El1Register::EsrEl1), 0);
}

#[test]
fn an_hvc_that_is_undefined_faults_at_itself() {
    let mut cpu = cpu(SPAN);
    let mut frame = frame(EL1H);
    frame.rewind();
    assert_eq!(
        inject(&mut cpu, &mut frame, GuestException::Undefined, ALL),
        Injected::Entered
    );
    assert_eq!(cpu.read_el1(El1Register::ElrEl1), 0x1_233c);
}

#[test]
fn a_misaligned_vector_base_is_aligned_as_hardware_reads_it() {
    let mut cpu = cpu(SPAN);
    cpu.write_el1(El1Register::VbarEl1, 0x8_07ff);
    let mut frame = frame(EL0);
    assert_eq!(
        inject(&mut cpu, &mut frame, GuestException::Undefined, ALL),
        Injected::Entered
    );
    assert_eq!(frame.pc, 0x8_0400);
}

#[test]
fn what_is_not_the_hypervisors_business_goes_to_the_guest() {
    let far = 0x77;
    let reflected = |esr, virtual_address| Some(GuestException::Reflected { esr, virtual_address });
    let undefined = Some(GuestException::Undefined);
    // (class, what the guest gets; None: the hypervisor performs it)
    #[rustfmt::skip]
    let table: &[(&str, u64, Option<GuestException>)] = &[
        ("unknown", 0x00, undefined), ("WFI", 0x01, None), ("CP15 of AArch32", 0x03, undefined),
        ("floating point", 0x07, None), ("pointer authentication", 0x09, undefined), ("LD64B", 0x0a, undefined),
        ("illegal state", 0x0e, reflected(0x0e << 26, None)), ("HVC", 0x16, None), ("SMC", 0x17, None),
        ("MSR", 0x18, None), ("SVE", 0x19, undefined), ("SME", 0x1d, undefined), ("fetch", 0x20, None),
        ("PC alignment", 0x22, reflected(0x22 << 26, Some(far))), ("data abort", 0x24, None),
        ("SP alignment", 0x26, reflected(0x26 << 26, None)), ("MOPS", 0x27, undefined),
        ("SError", 0x2f, Some(GuestException::SystemError { syndrome: 0 })),
        ("breakpoint", 0x30, reflected(0x30 << 26, None)), ("step", 0x32, reflected(0x32 << 26, None)),
        ("watchpoint", 0x34, reflected(0x34 << 26, Some(far))), ("BRK", 0x3c, reflected(0x3c << 26, None)),
        ("a class that does not exist", 0x3f, undefined),
    ];
    for (text, class, expected) in table {
        let syndrome = Syndrome {
            esr: class << 26,
            far,
            hpfar: 0,
        };
        let exception = Exception::decode(&syndrome, Hpfar::Architectural);
        assert_eq!(GuestException::of_trap(&exception, &syndrome), *expected, "{text}");
    }
}

#[test]
fn the_abort_that_a_guest_gets_tells_of_its_own_access() {
    let syndrome = Syndrome {
        esr: 0x24 << 26 | 1 << 6 | 7,
        far: 0x1234,
        hpfar: 0,
    };
    let Exception::DataAbort(abort) = Exception::decode(&syndrome, Hpfar::Architectural) else {
        panic!("not a data abort");
    };
    assert_eq!(
        GuestException::of_data_abort(&abort),
        GuestException::DataAbort {
            virtual_address: Some(0x1234),
            write: true,
            cache_maintenance: false
        }
    );
}
