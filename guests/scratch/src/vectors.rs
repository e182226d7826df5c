//! This domain's own values in the FP and SIMD registers.

use core::arch::{asm, global_asm};

// FMOV Dn, X0 for each n, as words: the code of bare-metal programs may not use these registers otherwise.
global_asm!(
    r#"
    .globl  scribble_vectors
scribble_vectors:
    .irp    n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    .inst   0x9e670000 + \n
    .endr
    ret
"#
);

/// Writes all of them.
pub(crate) fn scribble() {
    // SAFETY: allows EL1 the use of registers that compiled code never uses, and writes them; x0, x1 and x30 are named.
    unsafe {
        asm!(
            "mov {x}, #0x300000", "msr cpacr_el1, {x}", "isb", "bl scribble_vectors",
            x = out(reg) _, in("x0") 0xdead_beef_dead_beef_u64, out("x30") _, options(nostack, preserves_flags)
        );
    }
}
