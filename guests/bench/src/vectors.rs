//! Exceptions while an operation is measured: note the time, and go on behind it.
//!
//! The measured code names x9 to x11 as changed. A handler puts the counter into x10 first of all, which ends the measured
//! code's wait. An interrupt masks itself in the interrupted code and stays pending until that code acknowledges it; a
//! synchronous exception skips its instruction.

use core::arch::{asm, global_asm};

global_asm!(
    r#"
    .macro  unexpected
    .balign 0x80
    b       .
    .endm

    // As `end_mark` of the operations.
    .macro  end_mark
    b       73f
71: b       74f
72: b       71b
73: b       72b
74:
    .endm

    .text
    .balign 0x800
measured_vectors:
    .rept   4
    unexpected
    .endr
    .balign 0x80
    isb
    mrs     x10, cntvct_el0
    end_mark
    mrs     x11, elr_el1
    add     x11, x11, #4
    msr     elr_el1, x11
    eret
    .balign 0x80
    isb
    mrs     x10, cntvct_el0
    end_mark
    mrs     x11, spsr_el1
    orr     x11, x11, #0x80
    msr     spsr_el1, x11
    eret
    .rept   10
    unexpected
    .endr
"#
);

/// Puts the vectors into place around `measured`, whose exceptions come here.
pub(crate) fn with<T>(measured: impl FnOnce() -> T) -> T {
    unsafe extern "C" {
        static measured_vectors: u8;
    }
    let own = &raw const measured_vectors as u64;
    let kept: u64;
    // SAFETY: the table is complete; `measured` raises only what it handles.
    unsafe {
        asm!("mrs {}, vbar_el1", "msr vbar_el1, {}", "isb", out(reg) kept, in(reg) own, options(nostack));
    }
    let result = measured();
    // SAFETY: what was there before.
    unsafe { asm!("msr vbar_el1, {}", "isb", in(reg) kept, options(nostack)) };
    result
}
