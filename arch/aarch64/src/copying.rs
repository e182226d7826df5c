//! `memcpy` and `memset` as the compiler calls them: pairs of registers at a time.
//!
//! The compiler's own, written for every CPU, move one word at a time, which shows on trap paths. What is not aligned goes
//! in smaller steps and never by unaligned accesses: before stage 1 is on, memory is Device memory.

use core::arch::naked_asm;

/// C's memcpy: copies `length` bytes from `from` to `to`, which it returns.
///
/// # Safety
/// As in C: both ranges are valid and do not overlap.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    naked_asm!(
        "mov    x3, x0",
        "cmp    x2, #8",
        "b.lo   8f",
        "eor    x4, x0, x1",
        "tst    x4, #7",
        "b.ne   5f",
        // Both become multiples of 8 at once.
        "tbz    x3, #0, 1f",
        "ldrb   w4, [x1], #1",
        "strb   w4, [x3], #1",
        "sub    x2, x2, #1",
        "1: tbz x3, #1, 2f",
        "ldrh   w4, [x1], #2",
        "strh   w4, [x3], #2",
        "sub    x2, x2, #2",
        "2: tbz x3, #2, 3f",
        "ldr    w4, [x1], #4",
        "str    w4, [x3], #4",
        "sub    x2, x2, #4",
        "3: subs x2, x2, #32",
        "b.lo   4f",
        "2: ldp x4, x5, [x1]",
        "ldp    x6, x7, [x1, #16]",
        "add    x1, x1, #32",
        "stp    x4, x5, [x3]",
        "stp    x6, x7, [x3, #16]",
        "add    x3, x3, #32",
        "subs   x2, x2, #32",
        "b.hs   2b",
        // What is left is x2 modulo 32, which the subtractions have not changed.
        "4: tbz x2, #4, 2f",
        "ldp    x4, x5, [x1], #16",
        "stp    x4, x5, [x3], #16",
        "2: tbz x2, #3, 2f",
        "ldr    x4, [x1], #8",
        "str    x4, [x3], #8",
        "2: tbz x2, #2, 7f",
        "ldr    w4, [x1], #4",
        "str    w4, [x3], #4",
        "b      7f",
        "5: orr x4, x0, x1",
        "tst    x4, #3",
        "b.ne   8f",
        "subs   x2, x2, #4",
        "6: ldr w4, [x1], #4",
        "str    w4, [x3], #4",
        "subs   x2, x2, #4",
        "b.hs   6b",
        "7: and x2, x2, #3",
        "8: cbz x2, 9f",
        "ldrb   w4, [x1], #1",
        "strb   w4, [x3], #1",
        "sub    x2, x2, #1",
        "b      8b",
        "9: ret",
    )
}

/// C's memset: sets `length` bytes from `to` on to the lowest byte of `value`; returns `to`.
///
/// # Safety
/// As in C: the range is valid.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, length: usize) -> *mut u8 {
    naked_asm!(
        "mov    x3, x0",
        "and    x1, x1, #0xff",
        "mov    x4, #0x0101010101010101",
        "mul    x1, x1, x4",
        // Bytes up to the first whole word.
        "1: cbz x2, 6f",
        "tst    x3, #7",
        "b.eq   2f",
        "strb   w1, [x3], #1",
        "sub    x2, x2, #1",
        "b      1b",
        "2: subs x2, x2, #32",
        "b.lo   4f",
        "3: stp x1, x1, [x3]",
        "stp    x1, x1, [x3, #16]",
        "add    x3, x3, #32",
        "subs   x2, x2, #32",
        "b.hs   3b",
        "4: and x2, x2, #31",
        "5: cbz x2, 6f",
        "strb   w1, [x3], #1",
        "sub    x2, x2, #1",
        "b      5b",
        "6: ret",
    )
}
