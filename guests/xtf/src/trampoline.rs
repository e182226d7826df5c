//! Hypercalls with every register under watch: all of them hold patterns before, and all are looked at afterwards.

use core::arch::{asm, global_asm};

/// Registers x0 to x30 as they are before a call and after it.
#[derive(Copy, Clone, Debug)]
#[repr(C)]
struct Frame {
    before: [u64; 31],
    /// NZCV.
    flags: u64,
    after: [u64; 31],
    flags_after: u64,
}

/// Which instruction makes the call.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Conduit {
    /// `HVC #0xEA1`: a hypercall; its number is in x16.
    Hypercall,
    /// `HVC #0`: a firmware call.
    Hvc,
    /// `SMC #0`: the same.
    Smc,
}

impl Conduit {
    /// The registers that a call may change: its results, and what the convention leaves undefined.
    fn may_change(self) -> u32 {
        match self {
            // x0 to x4 and x16.
            Self::Hypercall => 0x1_001f,
            // SMCCC 1.1 and later: x0 to x3.
            Self::Hvc | Self::Smc => 0xf,
        }
    }
}

/// What a call left behind.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Made {
    /// x0 to x3.
    pub(crate) results: [u64; 4],
    /// The first thing that changed and must not: its name and what it holds.
    pub(crate) changed: Option<(Kept, u64)>,
}

/// What a call must not change.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Kept {
    /// A general register.
    X(usize),
    /// The condition flags.
    Flags,
    /// A system register.
    System(&'static str),
}

impl core::fmt::Display for Kept {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::X(number) => write!(f, "x{number}"),
            Self::Flags => write!(f, "NZCV"),
            Self::System(name) => write!(f, "{name}"),
        }
    }
}

global_asm!(
    r#"
    .macro  probe name, instruction, immediate
    .globl  \name
\name:
    stp     x29, x30, [sp, #-96]!
    stp     x19, x20, [sp, #16]
    stp     x21, x22, [sp, #32]
    stp     x23, x24, [sp, #48]
    stp     x25, x26, [sp, #64]
    stp     x27, x28, [sp, #80]
    str     x0, [sp, #-16]!
    ldr     x30, [x0, #248]
    msr     nzcv, x30
    ldp     x2, x3, [x0, #16]
    ldp     x4, x5, [x0, #32]
    ldp     x6, x7, [x0, #48]
    ldp     x8, x9, [x0, #64]
    ldp     x10, x11, [x0, #80]
    ldp     x12, x13, [x0, #96]
    ldp     x14, x15, [x0, #112]
    ldp     x16, x17, [x0, #128]
    ldp     x18, x19, [x0, #144]
    ldp     x20, x21, [x0, #160]
    ldp     x22, x23, [x0, #176]
    ldp     x24, x25, [x0, #192]
    ldp     x26, x27, [x0, #208]
    ldp     x28, x29, [x0, #224]
    ldr     x30, [x0, #240]
    ldp     x0, x1, [x0]
    \instruction \immediate
    stp     x0, x1, [sp, #-16]!
    ldr     x0, [sp, #16]
    add     x0, x0, #256
    stp     x2, x3, [x0, #16]
    stp     x4, x5, [x0, #32]
    stp     x6, x7, [x0, #48]
    stp     x8, x9, [x0, #64]
    stp     x10, x11, [x0, #80]
    stp     x12, x13, [x0, #96]
    stp     x14, x15, [x0, #112]
    stp     x16, x17, [x0, #128]
    stp     x18, x19, [x0, #144]
    stp     x20, x21, [x0, #160]
    stp     x22, x23, [x0, #176]
    stp     x24, x25, [x0, #192]
    stp     x26, x27, [x0, #208]
    stp     x28, x29, [x0, #224]
    mrs     x2, nzcv
    stp     x30, x2, [x0, #240]
    ldp     x2, x3, [sp], #16
    stp     x2, x3, [x0]
    add     sp, sp, #16
    ldp     x19, x20, [sp, #16]
    ldp     x21, x22, [sp, #32]
    ldp     x23, x24, [sp, #48]
    ldp     x25, x26, [sp, #64]
    ldp     x27, x28, [sp, #80]
    ldp     x29, x30, [sp], #96
    ret
    .endm

    .text
    probe   probe_hypercall, hvc, 0xea1
    probe   probe_hvc, hvc, 0
    probe   probe_smc, smc, 0
"#
);

unsafe extern "C" {
    fn probe_hypercall(frame: *mut Frame);
    fn probe_hvc(frame: *mut Frame);
    fn probe_smc(frame: *mut Frame);
}

/// System registers that nothing of this guest needs between two calls: each gets a value of its own.
macro_rules! system_registers {
    ($($name:literal = $value:expr),* $(,)?) => {
        const SYSTEM: [(&str, u64); [$($name),*].len()] = [$(($name, $value)),*];

        fn set_system_registers() {
            // SAFETY: exceptions are masked, and nothing uses these registers meanwhile.
            unsafe { $(asm!(concat!("msr ", $name, ", {}"), in(reg) const { let value: u64 = $value; value }, options(nostack, preserves_flags));)* }
        }

        fn changed_system_register() -> Option<(Kept, u64)> {
            let mut changed = None;
            $({
                let value: u64;
                // SAFETY: reads a register.
                unsafe { asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)) };
                let expected: u64 = $value;
                if value != expected {
                    changed = changed.or(Some((Kept::System($name), value)));
                }
            })*
            changed
        }
    };
}

system_registers! {
    "elr_el1" = 0x4040_1111_2222_3330,
    "spsr_el1" = 0x3c5,
    "sp_el0" = 0x4040_5555_6666_7770,
    "tpidr_el0" = 0x1717_aaaa_bbbb_cccc,
    "tpidrro_el0" = 0x1818_aaaa_bbbb_dddd,
    "tpidr_el1" = 0x1919_aaaa_bbbb_eeee,
    "far_el1" = 0x0000_1234_5678_9abc,
    "contextidr_el1" = 0x1234_5678,
    "par_el1" = 0x0000_0000_1234_5000 | 1 << 11 | 0x80,
}

/// How many system registers are watched.
pub(crate) const WATCHED: usize = SYSTEM.len();

/// Makes a call with `arguments` in x0 to x4 and `number` in x16 (of a hypercall).
///
/// # Safety
/// The call does to memory what its arguments say.
pub(crate) unsafe fn call(conduit: Conduit, number: u64, arguments: [u64; 5]) -> Made {
    let mut frame = Frame {
        before: core::array::from_fn(|index| 0x5a00_0000_c000_0000 | (index as u64 * 0x1_0000_0101)),
        flags: 0xa000_0000,
        after: [0; 31],
        flags_after: 0,
    };
    frame.before[..5].copy_from_slice(&arguments);
    if conduit == Conduit::Hypercall {
        frame.before[16] = number;
    }
    set_system_registers();
    // SAFETY: the trampoline saves what the calling convention of Rust wants saved; the caller vouches for the call.
    unsafe {
        match conduit {
            Conduit::Hypercall => probe_hypercall(&raw mut frame),
            Conduit::Hvc => probe_hvc(&raw mut frame),
            Conduit::Smc => probe_smc(&raw mut frame),
        }
    }
    let kept = (0..31).filter(|index| conduit.may_change() >> index & 1 == 0);
    let register = kept
        .filter(|index| frame.after[*index] != frame.before[*index])
        .map(|index| (Kept::X(index), frame.after[index]))
        .next();
    let flags = (frame.flags_after != frame.flags).then_some((Kept::Flags, frame.flags_after));
    let [x0, x1, x2, x3, ..] = frame.after;
    Made {
        results: [x0, x1, x2, x3],
        changed: register.or(flags).or_else(changed_system_register),
    }
}
