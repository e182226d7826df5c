//! System registers by their architectural names, one instruction each.
//!
//! The macros expand to an `asm!` that the caller wraps in nothing: reading a register has no effect on memory, and each
//! write says at its place why the new value is right. Names may be `S3_4_C12_C9_4` for what the assembler lacks.

/// Reads a system register.
macro_rules! read_sysreg {
    ($name:expr) => {{
        let value: u64;
        // SAFETY: reading this register changes no memory and no flags.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags));
        }
        value
    }};
}

/// Writes a system register. The caller's comment says why the value is safe; the asm is a compiler barrier, so that
/// memory accesses stay on their side of it.
macro_rules! write_sysreg {
    ($name:expr, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: `arch` alone owns the machine's registers; what this value does is argued where it is written.
        unsafe {
            core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags));
        }
    }};
}

/// Stores system registers, two by each instruction, at these offsets from an address.
///
/// The address is that of writable memory of the caller's, as far as the offsets reach.
macro_rules! store_sysregs {
    ($to:expr, $($offset:literal $first:literal $second:literal)*) => {{
        let to: *mut u8 = $to;
        // SAFETY: reading these registers changes nothing, and the memory is the caller's.
        unsafe {
            core::arch::asm!(
                $(
                    concat!("mrs {first}, ", $first),
                    concat!("mrs {second}, ", $second),
                    concat!("stp {first}, {second}, [{to}, #", $offset, "]"),
                )*
                first = out(reg) _,
                second = out(reg) _,
                to = in(reg) to,
                options(nostack, preserves_flags),
            );
        }
    }};
}

/// Loads system registers, the other way round. The caller's comment says why the values are safe.
macro_rules! load_sysregs {
    ($from:expr, $($offset:literal $first:literal $second:literal)*) => {{
        let from: *const u8 = $from;
        // SAFETY: the memory is the caller's; what the values do is argued where this is used.
        unsafe {
            core::arch::asm!(
                $(
                    concat!("ldp {first}, {second}, [{from}, #", $offset, "]"),
                    concat!("msr ", $first, ", {first}"),
                    concat!("msr ", $second, ", {second}"),
                )*
                first = out(reg) _,
                second = out(reg) _,
                from = in(reg) from,
                options(nostack, preserves_flags),
            );
        }
    }};
}

pub(crate) use load_sysregs;
pub(crate) use read_sysreg;
pub(crate) use store_sysregs;
pub(crate) use write_sysreg;

/// Waits until register writes before it are seen by what follows (ISB).
#[inline(always)]
pub(crate) fn isb() {
    // SAFETY: a barrier.
    unsafe { core::arch::asm!("isb", options(nostack, preserves_flags)) }
}

/// Waits until memory accesses and maintenance before it are complete for every observer (DSB SY).
#[inline(always)]
pub(crate) fn dsb_sy() {
    // SAFETY: a barrier.
    unsafe { core::arch::asm!("dsb sy", options(nostack, preserves_flags)) }
}

/// DSB ISH: as [`dsb_sy`], for the pCPUs.
#[inline(always)]
pub(crate) fn dsb_ish() {
    // SAFETY: a barrier.
    unsafe { core::arch::asm!("dsb ish", options(nostack, preserves_flags)) }
}

/// DSB ISHST: stores before it are visible to the pCPUs and their table walkers.
#[inline(always)]
pub(crate) fn dsb_ishst() {
    // SAFETY: a barrier.
    unsafe { core::arch::asm!("dsb ishst", options(nostack, preserves_flags)) }
}

/// Sleeps until an interrupt is pending, masked or not.
#[inline(always)]
pub(crate) fn wfi() {
    // SAFETY: waiting changes no state.
    unsafe { core::arch::asm!("dsb sy", "wfi", options(nostack, preserves_flags)) }
}

/// Tells the machine that this pCPU waits for another (YIELD).
pub(crate) fn hint() {
    // SAFETY: a hint.
    unsafe { core::arch::asm!("yield", options(nomem, nostack, preserves_flags)) }
}

/// The affinity fields of an MPIDR value: Aff3 in bits 39:32, Aff2 to Aff0 in bits 23:0.
pub(crate) const AFFINITY: u64 = 0xff_00ff_ffff;

/// Whether a four-bit field of an ID register says that the feature is there.
#[inline]
pub(crate) const fn field(value: u64, shift: u32) -> u64 {
    value >> shift & 0xf
}
