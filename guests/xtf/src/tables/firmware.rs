//! PSCI and SMCCC, by HVC and by SMC: registers beyond x3 stay as they are.

use crate::case::{Case, Expected, Row, Structure, Table};
use crate::suite::Suite;
use crate::trampoline::Conduit;
use crate::world::World;

type R = Row<()>;

const NOT_SUPPORTED: i32 = -1;
const INVALID_PARAMETERS: i32 = -2;
const ALREADY_ON: i32 = -4;

/// A call that succeeds.
const fn good(name: &'static str, change: fn(&mut Case<()>, &mut World)) -> R {
    R::good(name, change).returns(Expected::Success)
}

/// Answers are 32 bits wide: what a call with this number answers is in bits 31:0.
fn answers<const VALUE: i32>(case: &Case<()>, _: &mut World) -> bool {
    case.x0 as i32 == VALUE
}

/// A call that is refused.
const fn refused(name: &'static str, change: fn(&mut Case<()>, &mut World)) -> R {
    R::bad(name, portunus::abi::HypercallError::Invalid, change).returns(Expected::Anything)
}

pub(crate) fn run(suite: &mut Suite) {
    for (call, conduit) in [("HVC #0", Conduit::Hvc), ("SMC #0", Conduit::Smc)] {
        let mut table = |operation: &'static str, rows: &[R]| {
            suite.table(&Table {
                call,
                operation,
                conduit,
                number: 0,
                registers: |_| [0; 5],
                structure: Structure::None,
                good: |_, _| (),
                undo: |_, _| {},
                rows,
            });
        };
        table(
            "SMCCC_VERSION",
            &[good("1.1 or later", |case, _| case.registers[0] = 0x8000_0000).check(|case, _| case.x0 >= 0x1_0001)],
        );
        table(
            "SMCCC_ARCH_FEATURES",
            &[
                good("SMCCC_VERSION is there", |case, _| {
                    case.registers[..2].copy_from_slice(&[0x8000_0001, 0x8000_0000])
                })
                .check(answers::<0>),
                refused("what is not there", |case, _| {
                    case.registers[..2].copy_from_slice(&[0x8000_0001, 0x8000_1234])
                })
                .check(answers::<NOT_SUPPORTED>),
                refused("the last number", |case, _| {
                    case.registers[..2].copy_from_slice(&[0x8000_0001, u64::MAX])
                })
                .check(answers::<NOT_SUPPORTED>),
            ],
        );
        table(
            "hypervisor service",
            &[
                good("three calls", |case, _| case.registers[0] = 0x8500_ff00).check(answers::<3>),
                good("whose it is", |case, _| case.registers[0] = 0x8500_ff01)
                    .returns(Expected::Anything)
                    .check(|case, _| case.x0 as u32 == 0xdc12_18a7),
                good("its revision", |case, _| case.registers[0] = 0x8500_ff03),
                refused("a call that it does not have", |case, _| {
                    case.registers[0] = 0x8500_0000
                })
                .check(answers::<NOT_SUPPORTED>),
                good("as that of a vendor: three calls", |case, _| {
                    case.registers[0] = 0x8600_ff00
                })
                .check(answers::<3>),
                good("as that of a vendor: whose it is", |case, _| {
                    case.registers[0] = 0x8600_ff01
                })
                .returns(Expected::Anything)
                .check(|case, _| case.x0 as u32 == 0xdc12_18a7),
            ],
        );
        table(
            "PSCI_VERSION",
            &[good("1.0 or later", |case, _| case.registers[0] = 0x8400_0000).check(|case, _| case.x0 >= 0x1_0000)],
        );
        table(
            "PSCI_FEATURES",
            &[
                good("CPU_ON is there", |case, _| {
                    case.registers[..2].copy_from_slice(&[0x8400_000a, 0xc400_0003])
                })
                .check(answers::<0>),
                refused("what is not there", |case, _| {
                    case.registers[..2].copy_from_slice(&[0x8400_000a, 0x8400_0fff])
                })
                .check(answers::<NOT_SUPPORTED>),
            ],
        );
        table(
            "CPU_ON",
            &[
                refused("a vCPU that is on", |case, world| {
                    case.registers[..3].copy_from_slice(&[0xc400_0003, 0, world.spare]);
                })
                .check(answers::<ALREADY_ON>),
                refused("a vCPU that it does not have", |case, world| {
                    case.registers[..3].copy_from_slice(&[0xc400_0003, 77, world.spare]);
                })
                .check(answers::<INVALID_PARAMETERS>),
                refused("the last affinity", |case, world| {
                    case.registers[..3].copy_from_slice(&[0xc400_0003, u64::MAX, world.spare]);
                })
                .check(answers::<INVALID_PARAMETERS>),
            ],
        );
        table(
            "AFFINITY_INFO",
            &[
                good("this vCPU is on", |case, _| {
                    case.registers[..3].copy_from_slice(&[0xc400_0004, 0, 0])
                })
                .check(answers::<0>),
                good("the other one is off", |case, _| {
                    case.registers[..3].copy_from_slice(&[0xc400_0004, 1, 0])
                })
                .check(answers::<1>),
                refused("a vCPU that it does not have", |case, _| {
                    case.registers[..3].copy_from_slice(&[0xc400_0004, 77, 0]);
                })
                .check(answers::<INVALID_PARAMETERS>),
            ],
        );
        table(
            "MIGRATE_INFO_TYPE",
            &[good("nothing to migrate", |case, _| case.registers[0] = 0x8400_0006).check(answers::<2>)],
        );
        table(
            "others",
            &[
                refused("a PSCI call that does not exist", |case, _| {
                    case.registers[0] = 0x8400_0fff
                })
                .check(answers::<NOT_SUPPORTED>),
                refused("a service of OEMs", |case, _| case.registers[0] = 0x8300_0000).check(answers::<NOT_SUPPORTED>),
                refused("a trusted application's", |case, _| case.registers[0] = 0xb000_0000)
                    .check(answers::<NOT_SUPPORTED>),
            ],
        );
    }
}
