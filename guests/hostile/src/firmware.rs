//! HVC and SMC with any immediate, any function, and vCPUs that start where they must not.

use guest_runtime::psci;
use portunus::abi::hypercall::HVC_IMMEDIATE;

use crate::Attacker;
use crate::execute::run;

const HVC: u32 = 0xd400_0002;
const SMC: u32 = 0xd400_0003;

const CPU_ON: u64 = 0xc400_0003;
const AFFINITY_INFO: u64 = 0xc400_0004;

const INVALID_PARAMETERS: i32 = -2;
const ALREADY_ON: i32 = -4;
const INVALID_ADDRESS: i32 = -9;

/// Functions that end this guest or its vCPU, in both calling conventions: CPU_SUSPEND, CPU_OFF, SYSTEM_OFF, SYSTEM_RESET,
/// CPU_FREEZE, CPU_DEFAULT_SUSPEND, SYSTEM_SUSPEND, SYSTEM_RESET2.
const FATAL: [u64; 8] = [0x1, 0x2, 0x8, 0x9, 0xb, 0xc, 0xe, 0x12];

/// Where function numbers begin: Arm's, the CPU's, SiP's, OEM's, standard, hypervisor's, trusted applications' and OS's.
const SERVICES: [u64; 8] = [
    0x8000_0000,
    0x8100_0000,
    0x8200_0000,
    0x8300_0000,
    0x8400_0000,
    0x8600_0000,
    0xb000_0000,
    0xb200_0000,
];

fn function(attacker: &mut Attacker) -> u64 {
    let random = &mut attacker.random;
    let service = random.choose(&SERVICES) | random.below(2) << 30;
    let number = match random.below(4) {
        0 => random.below(0x1_0000),
        1 => 0xff00 + random.below(16),
        _ => random.below(32),
    };
    let fatal = service & 0x3f00_0000 == 0x0400_0000 && FATAL.contains(&number);
    match random.below(8) {
        0 => random.next() | 1 << 40,
        _ if fatal => service,
        _ => service | number,
    }
}

/// Random calls.
pub(crate) fn calls(attacker: &mut Attacker) -> u64 {
    const TRIES: u64 = 20_000;
    for _ in 0..TRIES {
        let immediate = match attacker.random.below(4) {
            0 => attacker.random.below(0x1_0000) as u16,
            _ => 0,
        };
        if immediate == HVC_IMMEDIATE {
            continue;
        }
        let instruction = attacker.random.choose(&[HVC, SMC]) | u32::from(immediate) << 5;
        let function = function(attacker);
        let mut arguments = || attacker.ground.number(&mut attacker.random);
        run(instruction, &mut [function, arguments(), arguments(), arguments()]);
    }
    TRIES
}

/// CPU_ON of vCPUs and at entries that are none.
pub(crate) fn bad_entries(attacker: &mut Attacker) -> u64 {
    let entry = attacker.ground.wilderness(&mut attacker.random);
    let mut rows = alloc::vec![
        ("this vCPU", 0, entry, ALREADY_ON),
        ("no such vCPU", 77, entry, INVALID_PARAMETERS),
        ("an affinity that is none", 0x1_0000_0002, entry, INVALID_PARAMETERS),
    ];
    for (name, address) in attacker.ground.bad {
        rows.push((name, 2, address, INVALID_ADDRESS));
    }
    for (name, target, entry, expected) in &rows {
        let result = psci::call(CPU_ON, [*target, *entry, 0]) as i32;
        if result != *expected {
            attacker.fail(format_args!("CPU_ON, {name} ({entry:#x}): {result}, not {expected}"));
        }
    }
    rows.len() as u64
}

/// A vCPU in the middle of random numbers, without a stack or vectors, for the rest of this guest's life.
pub(crate) fn run_wild(attacker: &mut Attacker) -> u64 {
    let entry = attacker.ground.wilderness(&mut attacker.random);
    let started = psci::call(CPU_ON, [2, entry | 2, entry]) as i32;
    let state = psci::call(AFFINITY_INFO, [2, 0, 0]) as i32;
    // A random call may have started it already.
    if !matches!(started, 0 | ALREADY_ON) || !(0..=2).contains(&state) {
        attacker.fail(format_args!("vCPU 2 did not start: {started}, {state}"));
    }
    1
}
