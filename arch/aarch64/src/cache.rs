//! Cache maintenance by address (Arm ARM, D7.5), with the line lengths that CTR_EL0 gives.

use crate::sysreg::{dsb_ish, dsb_sy, isb, read_sysreg};

/// Bytes of the shortest data cache line.
fn data_line() -> usize {
    4 << (read_sysreg!("ctr_el0") >> 16 & 0xf)
}

macro_rules! by_line {
    ($operation:literal, $start:expr, $length:expr, $line:expr) => {{
        let line: usize = $line;
        let (start, length): (usize, usize) = ($start, $length);
        let mut address = start & !(line - 1);
        while address < start + length {
            // SAFETY: cleaning (and invalidating) by address loses nothing; the caller gives mapped memory.
            unsafe { core::arch::asm!(concat!($operation, ", {}"), in(reg) address, options(nostack, preserves_flags)) };
            address += line;
        }
    }};
}

/// Cleans and invalidates to the point of coherency, and waits.
pub(crate) fn clean_invalidate(start: usize, length: usize) {
    by_line!("dc civac", start, length, data_line());
    dsb_sy();
}

/// Makes instructions that were written as data visible to execution on every pCPU. CTR_EL0.IDC and DIC say what may be
/// left out.
pub(crate) fn synchronise_instructions(start: usize, length: usize) {
    let ctr = read_sysreg!("ctr_el0");
    if ctr & 1 << 28 == 0 {
        by_line!("dc cvau", start, length, data_line());
    }
    dsb_ish();
    if ctr & 1 << 29 == 0 {
        by_line!("ic ivau", start, length, 4 << (ctr & 0xf));
        dsb_ish();
    }
    isb();
}
