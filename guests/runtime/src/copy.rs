//! Bulk copies of memory that others may write meanwhile.

use core::arch::asm;

/// Copies `length` bytes with 64-byte steps of LDP and STP.
///
/// # Safety
/// `length` bytes at `from` can be read and at `to` written, as Normal memory; the ranges do not overlap; if Rust knows of
/// the bytes at `to`, nobody else uses them now. Bytes at `from` may change meanwhile: each is then old or new.
pub unsafe fn copy(to: *mut u8, from: *const u8, length: usize) {
    // SAFETY: stays within the ranges that the caller vouches for; only named registers change.
    unsafe {
        asm!(
            "subs {n}, {n}, #64",
            "b.lo 3f",
            "2: ldp {a}, {b}, [{s}]",
            "ldp {c}, {d}, [{s}, #16]",
            "ldp {e}, {f}, [{s}, #32]",
            "ldp {g}, {h}, [{s}, #48]",
            "add {s}, {s}, #64",
            "stp {a}, {b}, [{t}]",
            "stp {c}, {d}, [{t}, #16]",
            "stp {e}, {f}, [{t}, #32]",
            "stp {g}, {h}, [{t}, #48]",
            "add {t}, {t}, #64",
            "subs {n}, {n}, #64",
            "b.hs 2b",
            "3: adds {n}, {n}, #56",
            "b.mi 5f",
            "4: ldr {a}, [{s}], #8",
            "str {a}, [{t}], #8",
            "subs {n}, {n}, #8",
            "b.pl 4b",
            "5: adds {n}, {n}, #8",
            "b.eq 7f",
            "6: ldrb {a:w}, [{s}], #1",
            "strb {a:w}, [{t}], #1",
            "subs {n}, {n}, #1",
            "b.ne 6b",
            "7:",
            n = inout(reg) length => _, s = inout(reg) from => _, t = inout(reg) to => _,
            a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _,
            e = out(reg) _, f = out(reg) _, g = out(reg) _, h = out(reg) _,
            options(nostack)
        );
    }
}
