//! Guest PSCI and SMCCC calls as a table of arguments, vCPU states and answers.

use portunus::psci::{Action, PowerState, call, immediate};

use PowerState::{Off, On, OnPending};

const ON32: u64 = 0x8400_0003;
const ON64: u64 = 0xc400_0003;
const INFO32: u64 = 0x8400_0004;
const INFO64: u64 = 0xc400_0004;
const FEATURES: u64 = 0x8400_000a;

const fn value(x0: u64) -> Action {
    Action::Return([x0, 0, 0, 0])
}
/// A negative 32-bit result.
const fn error(code: i32) -> Action {
    value(code as u32 as u64)
}
const NOT_SUPPORTED: Action = error(-1);
const INVALID_PARAMETERS: Action = error(-2);
const ALREADY_ON: Action = error(-4);
const ON_PENDING: Action = error(-5);

const VCPUS: [PowerState; 3] = [On, Off, OnPending];

#[test]
fn every_call_has_its_answer() {
    let on = |target, entry, context| Action::CpuOn { target, entry, context };
    #[rustfmt::skip]
    let table: &[(&str, [u64; 4], Action)] = &[
        ("PSCI_VERSION is 1.1", [0x8400_0000, 0, 0, 0], value(0x1_0001)),
        ("upper bits of the function id are ignored", [0xffff_ffff_8400_0000, 0, 0, 0], value(0x1_0001)),
        ("MIGRATE_INFO_TYPE: no trusted OS", [0x8400_0006, 0, 0, 0], value(2)),
        ("MIGRATE", [0xc400_0005, 0, 0, 0], NOT_SUPPORTED),
        ("CPU_ON of a vCPU that is off", [ON64, 1, 0x1_4008_0000, 7], on(1, 0x1_4008_0000, 7)),
        ("CPU_ON with 32-bit arguments", [ON32, 0xffff_ffff_0000_0001, 0x1_4008_0000, u64::MAX],
            on(1, 0x4008_0000, 0xffff_ffff)),
        ("CPU_ON of the caller", [ON64, 0, 0x4008_0000, 0], ALREADY_ON),
        ("CPU_ON of one that is starting", [ON64, 2, 0x4008_0000, 0], ON_PENDING),
        ("CPU_ON of one that does not exist", [ON64, 3, 0x4008_0000, 0], INVALID_PARAMETERS),
        ("CPU_ON in another cluster", [ON64, 0x101, 0x4008_0000, 0], INVALID_PARAMETERS),
        ("CPU_ON with Aff3", [ON64, 1 << 32 | 1, 0x4008_0000, 0], INVALID_PARAMETERS),
        ("CPU_ON with MPIDR_EL1's RES1 bit", [ON64, 1 << 31 | 1, 0x4008_0000, 0], INVALID_PARAMETERS),
        ("CPU_ON of the last number", [ON64, u64::MAX, 0x4008_0000, 0], INVALID_PARAMETERS),
        ("CPU_OFF", [0x8400_0002, 0, 0, 0], Action::CpuOff),
        ("CPU_SUSPEND, standby", [0xc400_0001, 0, 0, 0], Action::Suspend),
        ("CPU_SUSPEND, power-down", [0xc400_0001, 1 << 30, 0x4008_0000, 0], Action::Suspend),
        ("CPU_SUSPEND with reserved bits", [0xc400_0001, 1 << 31, 0, 0], INVALID_PARAMETERS),
        ("AFFINITY_INFO: on", [INFO64, 0, 0, 0], value(0)),
        ("AFFINITY_INFO: off", [INFO64, 1, 0, 0], value(1)),
        ("AFFINITY_INFO: starting", [INFO32, 2, 0, 0], value(2)),
        ("AFFINITY_INFO: nobody", [INFO64, 3, 0, 0], INVALID_PARAMETERS),
        ("AFFINITY_INFO of the cluster", [INFO64, 0, 1, 0], value(0)),
        ("AFFINITY_INFO of the cluster ignores Aff0", [INFO64, 0x77, 1, 0], value(0)),
        ("AFFINITY_INFO of another cluster", [INFO64, 0x100, 1, 0], INVALID_PARAMETERS),
        ("AFFINITY_INFO of another group of clusters", [INFO64, 0x1_1100, 2, 0], INVALID_PARAMETERS),
        ("AFFINITY_INFO of another Aff3", [INFO64, 1 << 32, 3, 0], INVALID_PARAMETERS),
        ("AFFINITY_INFO of everything", [INFO64, 0xff_ffff, 3, 0], value(0)),
        ("AFFINITY_INFO of level 4", [INFO64, 0, 4, 0], INVALID_PARAMETERS),
        ("AFFINITY_INFO of level 3 in 32 bits", [INFO32, 0, 3, 0], INVALID_PARAMETERS),
        ("SYSTEM_OFF", [0x8400_0008, 0, 0, 0], Action::SystemOff),
        ("SYSTEM_RESET", [0x8400_0009, 0, 0, 0], Action::SystemReset),
        ("SYSTEM_RESET2, warm", [0xc400_0012, 0, 0, 0], Action::SystemReset),
        ("SYSTEM_RESET2, vendor's", [0xc400_0012, 0x8000_0000, 0, 0], INVALID_PARAMETERS),
        ("SYSTEM_RESET2, reserved", [0xc400_0012, 1, 0, 0], INVALID_PARAMETERS),
        ("SYSTEM_SUSPEND", [0xc400_000e, 0, 0, 0], NOT_SUPPORTED),
        ("MEM_PROTECT", [0x8400_0013, 1, 0, 0], NOT_SUPPORTED),
        ("CPU_FREEZE", [0x8400_000b, 0, 0, 0], NOT_SUPPORTED),
        ("PSCI_FEATURES of CPU_SUSPEND: extended state ids", [FEATURES, 0xc400_0001, 0, 0], value(2)),
        ("PSCI_FEATURES of CPU_ON", [FEATURES, ON64, 0, 0], value(0)),
        ("PSCI_FEATURES of SMCCC_VERSION", [FEATURES, 0x8000_0000, 0, 0], value(0)),
        ("PSCI_FEATURES of SYSTEM_RESET2", [FEATURES, 0xc400_0012, 0, 0], value(0)),
        ("PSCI_FEATURES of SYSTEM_SUSPEND", [FEATURES, 0xc400_000e, 0, 0], NOT_SUPPORTED),
        ("PSCI_FEATURES of nothing", [FEATURES, 0, 0, 0], NOT_SUPPORTED),
        ("a PSCI number that is not assigned", [0x8400_001f, 0, 0, 0], NOT_SUPPORTED),
        ("PSCI 0.1's numbers", [0x95c1_ba5e, 0, 0, 0], NOT_SUPPORTED),
        ("SMCCC_VERSION is 1.2", [0x8000_0000, 0, 0, 0], value(0x1_0002)),
        ("ARCH_FEATURES of SMCCC_VERSION", [0x8000_0001, 0x8000_0000, 0, 0], value(0)),
        ("ARCH_FEATURES of itself", [0x8000_0001, 0x8000_0001, 0, 0], value(0)),
        ("ARCH_FEATURES of WORKAROUND_1", [0x8000_0001, 0x8000_8000, 0, 0], NOT_SUPPORTED),
        ("ARCH_FEATURES of WORKAROUND_2", [0x8000_0001, 0x8000_7fff, 0, 0], NOT_SUPPORTED),
        ("ARCH_FEATURES of SOC_ID", [0x8000_0001, 0x8000_0002, 0, 0], NOT_SUPPORTED),
        ("WORKAROUND_1 itself", [0x8000_8000, 0, 0, 0], NOT_SUPPORTED),
        ("CALL_COUNT of the hypervisor service, where Xen has it", [0x8500_ff00, 0, 0, 0], value(3)),
        ("REVISION of it is 0.1", [0x8500_ff03, 0, 0, 0], Action::Return([0, 1, 0, 0])),
        ("UID of it", [0x8500_ff01, 0, 0, 0],
            Action::Return([0xdc12_18a7, 0x6943_98c6, 0xd179_cf9a, 0x67e6_de8d])),
        ("a call of it that is not assigned", [0x8500_ff02, 0, 0, 0], NOT_SUPPORTED),
        ("CALL_COUNT of the vendor's hypervisor service", [0x8600_ff00, 0, 0, 0], value(3)),
        ("REVISION of that is 0.1", [0x8600_ff03, 0, 0, 0], Action::Return([0, 1, 0, 0])),
        ("UID of that", [0x8600_ff01, 0, 0, 0],
            Action::Return([0xdc12_18a7, 0x6943_98c6, 0xd179_cf9a, 0x67e6_de8d])),
        ("a call of that which is not assigned", [0x8600_ff02, 0, 0, 0], NOT_SUPPORTED),
        ("a yielding call", [0x0000_0000, 0, 0, 0], NOT_SUPPORTED),
        ("a trusted OS", [0xb200_0000, 0, 0, 0], NOT_SUPPORTED),
    ];
    for (text, arguments, expected) in table {
        assert_eq!(call(arguments, &VCPUS), *expected, "{text}");
    }
}

#[test]
fn the_node_of_a_domain_is_on_while_one_vcpu_is() {
    for (vcpus, expected) in [
        (&[Off, Off][..], 1),
        (&[Off, OnPending], 2),
        (&[OnPending, On], 0),
        (&[Off, On], 0),
    ] {
        assert_eq!(call(&[INFO64, 0, 1, 0], vcpus), value(expected), "{vcpus:?}");
    }
}

#[test]
fn what_the_vector_may_answer_is_what_the_core_answers() {
    let mut answered = 0;
    for function in (0x8000_0000..0x8000_0100).chain(0x8400_0000..0x8400_0100) {
        if let Some(x0) = immediate(function) {
            answered += 1;
            assert_eq!(
                call(&[u64::from(function), 1, 2, 3], &VCPUS),
                value(x0),
                "{function:#x}"
            );
        }
    }
    assert_eq!(answered, 3);
}

#[test]
fn no_arguments_panic_or_start_a_vcpu_that_is_not_off() {
    let mut state = 3_u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.rotate_left(29)
    };
    let many = [Off; 40];
    for round in 0..100_000 {
        let function = if round % 2 == 0 {
            0x8400_0000 | next() & 0x4000_001f
        } else {
            next()
        };
        let arguments = [function, next() & 0x3f, next() & 0xff, next()];
        for vcpus in [&VCPUS[..], &[], &many] {
            if let Action::CpuOn { target, .. } = call(&arguments, vcpus) {
                assert_eq!(vcpus[usize::from(target)], Off);
                assert!(target < 8);
            }
        }
    }
}
