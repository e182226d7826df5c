//! From the loader's jump to Rust with stage 1 on.
//!
//! The Image follows Linux's boot protocol for arm64 (Documentation/arch/arm64/booting.rst): MMU off, x0 = device tree.
//! Loaders differ in what they leave in EL2's registers (U-Boot leaves HCR_EL2 = 0x20 and its own vectors), so every
//! register that matters is written before anything depends on it. Until stage 1 is on, memory is Device memory:
//! no exclusive accesses, and what was written is invalidated from the caches before they are used.
//!
//! Addresses in code are made of pages (ADRP), so code works only where the Image begins on a page. Loaded elsewhere it moves
//! itself up to one first, so that the boot pCPU can say what is wrong; it does not go on.
//!
//! Of a cold machine nothing is assumed but what that protocol says: the Image's file is clean to the point of coherency.
//! Lines of the rest of it are invalidated before it is written, all of it after; TLBs and instruction caches are invalidated
//! before they are used; a secondary pCPU uses no memory but the Image's code and its mailbox, which was cleaned for it.

use crate::{boot, early, layout, mmu, vectors};
use core::arch::{global_asm, naked_asm};

/// SCTLR_EL2 with MMU and caches off: only bits that are RES1.
pub(crate) const SCTLR_OFF: u64 = 0x30c5_0830;
/// SCTLR_EL2 with the early tables: M, C, SA (stack alignment), I.
pub(crate) const SCTLR_EARLY: u64 = SCTLR_OFF | 1 | 1 << 2 | 1 << 3 | 1 << 12;
/// SCTLR_EL2 while the hypervisor runs: with WXN, what is writable is never executed.
pub(crate) const SCTLR_ON: u64 = SCTLR_EARLY | 1 << 19;
/// HCR_EL2 while no guest was chosen: EL1 is AArch64, E2H = 0, and physical interrupts go to EL2.
const HCR_BOOT: u64 = 1 << 31 | 1 << 5 | 1 << 4 | 1 << 3;
/// CPTR_EL2 without E2H: RES1 bits, SVE (TZ), FP (TFP) and trace (TTA) trap.
const CPTR_BOOT: u64 = 0x33ff | 1 << 10 | 1 << 20;

global_asm!(
    r#"
    .section .head, "ax"
    .global _start
_start:
    b       1f
    .long   0
    .quad   0                       // text_offset
    .quad   image_size
    .quad   0xa                     // little-endian, 4 KiB pages, anywhere in memory
    .quad   0
    .quad   0
    .quad   0
    .ascii  "ARM\x64"
    .long   0

// x22 = where the Image was loaded. Nothing here depends on where that is.
1:  msr     daifset, #0xf
    adr     x22, _start
    ands    x1, x22, #0xfff
    b.eq    5f
    // Up to a page, further than this code reaches: it stays while the file is copied from its end.
    mov     x2, #0x2000
    sub     x1, x2, x1
    ldr     w3, 6f
    add     x3, x22, x3             // end of the file
    // No dirty line of the loader's may land on the copy; 16 bytes are the shortest line.
    add     x2, x22, x1
    add     x4, x3, x1
2:  dc      ivac, x2
    add     x2, x2, #16
    cmp     x2, x4
    b.lo    2b
    dsb     sy
    // Without an MMU no access may be unaligned, and the Image is only known to lie on a word.
3:  ldr     w2, [x3, #-4]!
    str     w2, [x3, x1]
    cmp     x3, x22
    b.hi    3b
    dsb     sy
    ic      iallu
    dsb     sy
    isb
    adr     x2, 5f
    add     x2, x2, x1
    br      x2
5:  b       {entry}
6:  .long   image_file_size
    .text
    "#,
    entry = sym entry,
);

/// The boot pCPU's first instructions once the Image begins on a page; x22 = where it was loaded.
#[unsafe(naked)]
unsafe extern "C" fn entry() -> ! {
    naked_asm!(
        "mov    x20, x0",
        "mrs    x21, CurrentEL",
        "cmp    x21, #8",
        "b.ne   1f",
        "bl     {init_el2}",
        // Where the Image lies is added to every address in it. They are listed as RELR (the ELF specification's draft, "Relative
        // relocation table"): an even entry is where an address is; in an odd one, bits 63 to 1 say which of the next 63 words
        // are addresses, too.
        "1: adrp x0, image_start",
        "adrp   x1, relocations_start",
        "add    x1, x1, :lo12:relocations_start",
        "adrp   x2, relocations_end",
        "add    x2, x2, :lo12:relocations_end",
        "2: cmp x1, x2",
        "b.hs   3f",
        "ldr    x3, [x1], #8",
        "tbnz   x3, #0, 9f",
        "add    x4, x0, x3",
        "ldr    x5, [x4]",
        "add    x5, x5, x0",
        "str    x5, [x4], #8",
        "b      2b",
        "9: mov x6, x4",
        "add    x4, x4, #63 * 8",
        "10: lsr x3, x3, #1",
        "cbz    x3, 2b",
        "tbz    x3, #0, 11f",
        "ldr    x5, [x6]",
        "add    x5, x5, x0",
        "str    x5, [x6]",
        "11: add x6, x6, #8",
        "b      10b",
        // What is no part of the file may be dirty in a cache of whoever had that memory before: written back later it would
        // be over what is written here past the caches.
        "3: adrp x0, bss_start",
        "add    x0, x0, :lo12:bss_start",
        "adrp   x1, stacks_start",
        "add    x1, x1, #{stride}, lsl #12",
        "mrs    x2, ctr_el0",
        "ubfx   x2, x2, #16, #4",
        "mov    x3, #4",
        "lsl    x2, x3, x2",
        "sub    x3, x2, #1",
        "bic    x0, x0, x3",
        "8: dc  ivac, x0",
        "add    x0, x0, x2",
        "cmp    x0, x1",
        "b.lo   8b",
        "dsb    sy",
        "adrp   x0, bss_start",
        "add    x0, x0, :lo12:bss_start",
        "adrp   x1, bss_end",
        "add    x1, x1, :lo12:bss_end",
        "4: cmp x0, x1",
        "b.hs   5f",
        "stp    xzr, xzr, [x0], #16",
        "b      4b",
        "5: adrp x0, stacks_start",
        "add    x0, x0, #{stride}, lsl #12",
        "mov    sp, x0",
        "mov    x29, xzr",
        "mov    x30, xzr",
        "cmp    x21, #8",
        "b.ne   6f",
        "mov    x0, x20",
        "bl     {tables}",
        "mov    x19, x0",
        // Nothing stale of what was just written may hit once the caches are on.
        "adrp   x0, relro_start",
        "mov    x1, sp",
        "mrs    x2, ctr_el0",
        "ubfx   x2, x2, #16, #4",
        "mov    x3, #4",
        "lsl    x2, x3, x2",
        "7: dc  ivac, x0",
        "add    x0, x0, x2",
        "cmp    x0, x1",
        "b.lo   7b",
        "dsb    sy",
        "mov    x0, x19",
        "bl     {switch}",
        "mov    x0, x20",
        "mov    x1, x22",
        "b      {boot}",
        "6: mov x0, x20",
        "lsr    x1, x21, #2",
        "b      {wrong_level}",
        init_el2 = sym init_el2,
        stride = const layout::STACK_STRIDE >> 12,
        tables = sym early::build_tables,
        switch = sym mmu::switch_to_early,
        boot = sym boot::boot,
        wrong_level = sym boot::wrong_level,
    )
}

/// A secondary pCPU's first instructions after PSCI CPU_ON; x0 is the address of its [`crate::smp::Mailbox`].
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn secondary_entry() -> ! {
    naked_asm!(
        "msr    daifset, #0xf",
        "mov    x20, x0",
        "bl     {init_el2}",
        "ldp    x0, x19, [x20]",
        "ldr    x21, [x20, #16]",
        "bl     {switch}",
        "mov    sp, x19",
        "mov    x29, xzr",
        "mov    x30, xzr",
        "mov    x0, x21",
        "b      {start}",
        init_el2 = sym init_el2,
        switch = sym mmu::switch_to_final,
        start = sym crate::smp::secondary,
    )
}

/// Gives every EL2 register that needs no feature check a known value; MMU and caches off. Clobbers x0 and x1.
#[unsafe(naked)]
unsafe extern "C" fn init_el2() {
    naked_asm!(
        "ldr    x0, ={sctlr}",
        "msr    sctlr_el2, x0",
        "isb",
        "ldr    x0, ={hcr}",
        "msr    hcr_el2, x0",
        "isb",
        "msr    spsel, #1",
        "adrp   x0, {vectors}",
        "add    x0, x0, :lo12:{vectors}",
        "msr    vbar_el2, x0",
        "ldr    x0, ={cptr}",
        "msr    cptr_el2, x0",
        "msr    tpidr_el2, xzr",
        "msr    hstr_el2, xzr",
        "msr    vttbr_el2, xzr",
        // The performance counters stay the guest level's until `traps::init` looks at what is there.
        "mrs    x0, mdcr_el2",
        "and    x0, x0, #0x1f",
        "msr    mdcr_el2, x0",
        // Reading the physical counter is free for EL1, its timer is not.
        "mov    x0, #1",
        "msr    cnthctl_el2, x0",
        "msr    cntvoff_el2, xzr",
        "msr    cnthp_ctl_el2, xzr",
        "msr    cntp_ctl_el0, xzr",
        "msr    cntv_ctl_el0, xzr",
        "mrs    x0, midr_el1",
        "msr    vpidr_el2, x0",
        "mrs    x0, mpidr_el1",
        "msr    vmpidr_el2, x0",
        "ldr    x0, =0x30d00800",
        "msr    sctlr_el1, x0",
        "isb",
        "ret",
        sctlr = const SCTLR_OFF,
        hcr = const HCR_BOOT,
        cptr = const CPTR_BOOT,
        vectors = sym vectors::vectors,
    )
}
