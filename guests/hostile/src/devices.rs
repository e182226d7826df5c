//! Random accesses to registers that the hypervisor or another domain answers, in every width and form.

use core::arch::asm;
use core::ops::Range;

use alloc::vec::Vec;
use guest_runtime::attempt;
use guest_runtime::device_tree::{find_compatible, reg};
use guest_runtime::mmio::Registers;

use crate::Attacker;
use guest_runtime::random::Random;

/// Makes an access; what it loads is of no interest.
type Access = fn(u64, u64);

macro_rules! accesses {
    ($($instructions:literal),* $(,)?) => {
        [$(|address, value| {
            // SAFETY: only device registers are at the address; the instructions change no other registers than these.
            unsafe {
                asm!(
                    $instructions,
                    inout("x0") address => _, inout("x1") value => _, out("x2") _, options(nostack)
                );
            }
        }),*]
    };
}

/// Loads first: [`LOADS`] of them.
const ACCESSES: [Access; 24] = accesses![
    "ldrb w1, [x0]",
    "ldrh w1, [x0]",
    "ldr w1, [x0]",
    "ldr x1, [x0]",
    "ldrsb x1, [x0]",
    "ldrsh w1, [x0]",
    "ldrsw x1, [x0]",
    "ldp w1, w2, [x0]",
    "ldp x1, x2, [x0]",
    "ldr w1, [x0], #4",
    "ldar w1, [x0]",
    "ldxr w1, [x0]",
    "prfm pldl1keep, [x0]",
    "dc cvac, x0",
    "dc civac, x0",
    "ic ivau, x0",
    "strb w1, [x0]",
    "strh w1, [x0]",
    "str w1, [x0]",
    "str x1, [x0]",
    "stp w1, w1, [x0]",
    "str w1, [x0, #-4]!",
    "stxr w2, w1, [x0]",
    "stlr w1, [x0]",
];
const LOADS: u64 = 16;

/// One random access inside `registers`, a multiple of 4 mostly. Writes stay out of `spared` bytes at the start.
pub(crate) fn poke(registers: &Range<u64>, spared: u64, random: &mut Random) {
    let offset = random.below(registers.end - registers.start);
    let offset = match random.below(8) {
        0 => offset,
        _ => offset & !3,
    };
    let all = if offset < spared { LOADS } else { ACCESSES.len() as u64 };
    let access = ACCESSES[random.below(all) as usize];
    let value = match random.below(3) {
        0 => 0,
        1 => u64::MAX,
        _ => random.next(),
    };
    attempt::run(|| access(registers.start + offset, value));
}

/// The registers of the devices that other domains serve to this one.
pub(crate) fn served() -> Vec<Range<u64>> {
    let mut all = Vec::new();
    guest_runtime::virtio::each_mmio(|registers, _| all.push(registers));
    all
}

/// Masks the interrupt of the real-time clock, which may be asserted.
pub(crate) fn silence_clock() {
    const RTCIMSC: usize = 0x10;
    if let Some(registers) = find_compatible(&["arm,pl031"]).and_then(|node| reg(node, 0)) {
        // SAFETY: a PL031, which reaches no memory.
        unsafe { Registers::new(registers.start as usize) }.write(RTCIMSC, 0);
    }
}

/// What the hypervisor emulates.
pub(crate) fn emulated(attacker: &mut Attacker) -> u64 {
    const TRIES: u64 = 40_000;
    /// The data register of the console: what is written there would be seen.
    const CONSOLE_SPARED: u64 = 16;
    let mut devices = Vec::new();
    for (compatible, spared) in [
        ("arm,gic-v3", 0),
        ("arm,gic-400", 0),
        ("arm,pl031", 0),
        ("arm,pl011", CONSOLE_SPARED),
    ] {
        let node = find_compatible(&[compatible]);
        let frames = (0..2).map_while(|index| reg(node?, index));
        devices.extend(frames.map(|registers| (registers, spared)));
    }
    for _ in 0..TRIES {
        let (registers, spared) = devices[attacker.random.below(devices.len() as u64) as usize].clone();
        poke(&registers, spared, &mut attacker.random);
    }
    attacker.restore_devices();
    TRIES
}

/// What a backend serves that answers nonsense, late, or never.
pub(crate) fn betrayed(attacker: &mut Attacker) -> u64 {
    const TRIES: u64 = 400;
    let devices = served();
    for _ in 0..TRIES {
        let device = &devices[attacker.random.below(devices.len() as u64) as usize];
        poke(device, 0, &mut attacker.random);
    }
    TRIES
}
