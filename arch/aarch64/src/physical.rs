//! Physical memory by the identity map: bounded copies and single accesses, all of them instructions that the compiler
//! can't split, merge or repeat, because a guest may write the same bytes at the same time.

use core::sync::atomic::{AtomicBool, Ordering};
use portunus::memory::Contended;

/// FEAT_LSE on every pCPU: one instruction instead of an exclusive pair.
static ATOMICS: AtomicBool = AtomicBool::new(false);

/// Says whether every pCPU has FEAT_LSE.
pub(crate) fn init(atomics: bool) {
    ATOMICS.store(atomics, Ordering::Relaxed);
}

/// Copies `length` bytes upwards, 64 at a time.
///
/// # Safety
/// Both ranges are mapped Normal memory, `to` is the caller's to write, and they don't overlap.
#[inline]
pub(crate) unsafe fn copy(to: usize, from: usize, length: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!(
            "subs {n}, {n}, #64",
            "b.lo 3f",
            "2: ldp {a}, {b}, [{from}]",
            "ldp {c}, {d}, [{from}, #16]",
            "stp {a}, {b}, [{to}]",
            "stp {c}, {d}, [{to}, #16]",
            "ldp {a}, {b}, [{from}, #32]",
            "ldp {c}, {d}, [{from}, #48]",
            "stp {a}, {b}, [{to}, #32]",
            "stp {c}, {d}, [{to}, #48]",
            "add {from}, {from}, #64",
            "add {to}, {to}, #64",
            "subs {n}, {n}, #64",
            "b.hs 2b",
            "3: adds {n}, {n}, #56",
            "b.mi 5f",
            "4: ldr {a}, [{from}], #8",
            "str {a}, [{to}], #8",
            "subs {n}, {n}, #8",
            "b.pl 4b",
            "5: adds {n}, {n}, #8",
            "b.eq 7f",
            "6: ldrb {a:w}, [{from}], #1",
            "strb {a:w}, [{to}], #1",
            "subs {n}, {n}, #1",
            "b.ne 6b",
            "7:",
            n = inout(reg) length => _,
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _,
            options(nostack),
        );
    }
}

/// As [`copy`], 256 bytes at a time where there are so many: for guests' pages.
///
/// # Safety
/// As [`copy`]; where the ranges overlap, what arrives is some of both.
#[inline]
pub(crate) unsafe fn copy_pages(mut to: usize, mut from: usize, length: usize) {
    let mut left = length;
    if length >= 256 {
        // SAFETY: the caller's promise.
        unsafe {
            core::arch::asm!(
                "sub {n}, {n}, #256",
                "2:",
                ".irp offset, 0, 32, 64, 96, 128, 160, 192, 224",
                "ldp {a}, {b}, [{from}, #\\offset]",
                "ldp {c}, {d}, [{from}, #\\offset + 16]",
                "stp {a}, {b}, [{to}, #\\offset]",
                "stp {c}, {d}, [{to}, #\\offset + 16]",
                ".endr",
                "add {from}, {from}, #256",
                "add {to}, {to}, #256",
                "subs {n}, {n}, #256",
                "b.hs 2b",
                "add {n}, {n}, #256",
                n = inout(reg) left,
                from = inout(reg) from,
                to = inout(reg) to,
                a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _,
                options(nostack),
            );
        }
    }
    if left != 0 {
        // SAFETY: the caller's promise.
        unsafe { copy(to, from, left) }
    }
}

/// Sets `length` bytes to zero.
///
/// # Safety
/// The range is mapped Normal memory and the caller's to write.
pub(crate) unsafe fn zero(at: usize, length: usize) {
    let end = at + length;
    let aligned = at.next_multiple_of(64).min(end);
    let last = aligned + ((end - aligned) & !63);
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!(
            "2: cmp {at}, {aligned}",
            "b.hs 3f",
            "strb wzr, [{at}], #1",
            "b 2b",
            "3: cmp {at}, {last}",
            "b.hs 4f",
            "stp xzr, xzr, [{at}]",
            "stp xzr, xzr, [{at}, #16]",
            "stp xzr, xzr, [{at}, #32]",
            "stp xzr, xzr, [{at}, #48]",
            "add {at}, {at}, #64",
            "b 3b",
            "4: cmp {at}, {end}",
            "b.hs 5f",
            "strb wzr, [{at}], #1",
            "b 4b",
            "5:",
            at = inout(reg) at => _,
            aligned = in(reg) aligned,
            last = in(reg) last,
            end = in(reg) end,
            options(nostack),
        );
    }
}

macro_rules! accesses {
    ($($type:ty, $register:literal, $load:ident $ldar:literal, $store:ident $stlr:literal;)*) => {
        $(
            /// One load-acquire.
            ///
            /// # Safety
            /// The address is mapped Normal memory, naturally aligned.
            #[inline]
            pub(crate) unsafe fn $load(at: usize) -> $type {
                let value: u64;
                // SAFETY: the caller's promise.
                unsafe {
                    core::arch::asm!(
                        concat!($ldar, " {0:", $register, "}, [{1}]"),
                        out(reg) value, in(reg) at, options(nostack, preserves_flags),
                    );
                }
                value as $type
            }

            /// One store-release.
            ///
            /// # Safety
            /// The address is mapped Normal memory, naturally aligned, and the caller's to write.
            #[inline]
            pub(crate) unsafe fn $store(at: usize, value: $type) {
                // SAFETY: the caller's promise.
                unsafe {
                    core::arch::asm!(
                        concat!($stlr, " {0:", $register, "}, [{1}]"),
                        in(reg) u64::from(value), in(reg) at, options(nostack, preserves_flags),
                    );
                }
            }
        )*
    };
}

accesses! {
    u8, "w", load_u8 "ldarb", store_u8 "stlrb";
    u32, "w", load_u32 "ldar", store_u32 "stlr";
    u64, "x", load_u64 "ldar", store_u64 "stlr";
}

macro_rules! compare_exchanges {
    ($($type:ty, $register:literal, $name:ident;)*) => {
        $(
            /// One attempt to replace `current` by `new`; the previous value, or that the exclusive was lost.
            ///
            /// # Safety
            /// The address is mapped Normal write-back memory, naturally aligned, and the caller's to write.
            pub(crate) unsafe fn $name(at: usize, current: $type, new: $type) -> Result<$type, Contended> {
                let mut previous = u64::from(current);
                if ATOMICS.load(Ordering::Relaxed) {
                    // SAFETY: the caller's promise; every pCPU has FEAT_LSE.
                    unsafe {
                        core::arch::asm!(
                            ".arch_extension lse",
                            concat!("casal {0:", $register, "}, {1:", $register, "}, [{2}]"),
                            ".arch_extension nolse",
                            inout(reg) previous, in(reg) u64::from(new), in(reg) at,
                            options(nostack, preserves_flags),
                        );
                    }
                    return Ok(previous as $type);
                }
                let failed: u64;
                // SAFETY: the caller's promise. Either the exclusive store or the CLREX ends the monitor's use.
                unsafe {
                    core::arch::asm!(
                        concat!("ldaxr {0:", $register, "}, [{2}]"),
                        concat!("cmp {0:", $register, "}, {3:", $register, "}"),
                        "b.ne 2f",
                        concat!("stlxr {1:w}, {4:", $register, "}, [{2}]"),
                        "b 3f",
                        "2: clrex",
                        "mov {1:w}, wzr",
                        "3: dmb ish",
                        out(reg) previous, out(reg) failed, in(reg) at, in(reg) u64::from(current),
                        in(reg) u64::from(new),
                        options(nostack),
                    );
                }
                if failed == 0 { Ok(previous as $type) } else { Err(Contended) }
            }
        )*
    };
}

macro_rules! bit_changes {
    ($($name:ident, $atomic:literal, $plain:literal;)*) => {
        $(
            /// One attempt to change these bits; the previous value, or that the exclusive was lost.
            ///
            /// # Safety
            /// As `compare_exchange_u64`.
            #[inline]
            pub(crate) unsafe fn $name(at: usize, bits: u64) -> Result<u64, Contended> {
                let previous: u64;
                if ATOMICS.load(Ordering::Relaxed) {
                    // SAFETY: the caller's promise; every pCPU has FEAT_LSE.
                    unsafe {
                        core::arch::asm!(
                            ".arch_extension lse",
                            concat!($atomic, " {1}, {0}, [{2}]"),
                            ".arch_extension nolse",
                            out(reg) previous, in(reg) bits, in(reg) at,
                            options(nostack, preserves_flags),
                        );
                    }
                    return Ok(previous);
                }
                let failed: u64;
                // SAFETY: the caller's promise. The exclusive store ends the monitor's use.
                unsafe {
                    core::arch::asm!(
                        "ldaxr {0}, [{2}]",
                        concat!($plain, " {4}, {0}, {3}"),
                        "stlxr {1:w}, {4}, [{2}]",
                        "dmb ish",
                        out(reg) previous, out(reg) failed, in(reg) at, in(reg) bits, out(reg) _,
                        options(nostack, preserves_flags),
                    );
                }
                if failed == 0 { Ok(previous) } else { Err(Contended) }
            }
        )*
    };
}

bit_changes! {
    set_bits_u64, "ldsetal", "orr";
    clear_bits_u64, "ldclral", "bic";
}

compare_exchanges! {
    u32, "w", compare_exchange_u32;
    u64, "x", compare_exchange_u64;
}
