//! The first instructions: the arm64 Image header, relocation, BSS, stack, MMU, then Rust.

use core::arch::global_asm;

use crate::{console, device_tree, mmu, psci, timer};

global_asm!(
    r#"
    .section .text.header, "ax"
image_header:
    b       start
    .word   0
    .quad   0                       // text_offset
    .quad   image_size
    .quad   0xa                     // little-endian, 4 KiB pages, anywhere in memory
    .quad   0
    .quad   0
    .quad   0
    .ascii  "ARM\x64"
    .word   0

start:
    mrs     x22, cntpct_el0
    msr     daifset, #0xf
    msr     spsel, #1
    mov     x19, x0
    adrp    x20, image_start
    add     x20, x20, :lo12:image_start

    // R_AARCH64_RELATIVE (1027): word at base + offset becomes base + addend.
    adrp    x1, rela_start
    add     x1, x1, :lo12:rela_start
    adrp    x2, rela_end
    add     x2, x2, :lo12:rela_end
1:  cmp     x1, x2
    b.hs    2f
    ldp     x3, x4, [x1], #16
    ldr     x5, [x1], #8
    cmp     w4, #1027
    b.ne    1b
    add     x5, x5, x20
    str     x5, [x20, x3]
    b       1b

2:  adrp    x1, bss_start
    add     x1, x1, :lo12:bss_start
    adrp    x2, bss_end
    add     x2, x2, :lo12:bss_end
3:  cmp     x1, x2
    b.hs    4f
    stp     xzr, xzr, [x1], #16
    b       3b

4:  adrp    x1, vectors
    add     x1, x1, :lo12:vectors
    msr     vbar_el1, x1
    msr     cpacr_el1, xzr          // FP and SIMD trap
    isb
    adrp    x1, stack_top
    add     x1, x1, :lo12:stack_top
    mov     sp, x1
    mov     x29, xzr
    mov     x30, xzr

    mov     x0, x19
    mov     x1, x22
    bl      prepare_translation

    // What was written with the MMU off went past the caches: drop what they may hold of the image.
    adrp    x1, image_end
    add     x1, x1, :lo12:image_end
    mov     x0, x20
    bl      invalidate_range
    bl      enable_mmu
    bl      begin
    b       .

    // x0..x1: clobbers x2, x3
invalidate_range:
    mrs     x3, ctr_el0
    ubfx    x3, x3, #16, #4
    mov     x2, #4
    lsl     x3, x2, x3
    sub     x2, x3, #1
    bic     x0, x0, x2
1:  dc      ivac, x0
    add     x0, x0, x3
    cmp     x0, x1
    b.lo    1b
    dsb     sy
    ret

    // Loads the translation registers that `prepare_translation` left in memory. Clobbers x0..x3.
    .globl  enable_mmu
enable_mmu:
    adrp    x0, TRANSLATION
    add     x0, x0, :lo12:TRANSLATION
    ldp     x1, x2, [x0]
    ldr     x3, [x0, #16]
    msr     mair_el1, x1
    msr     tcr_el1, x2
    msr     ttbr0_el1, x3
    dsb     sy
    isb
    tlbi    vmalle1
    ic      iallu
    dsb     sy
    isb
    // Caches and MMU on, alignment checks off, EL0 gets nothing.
    ldr     x1, =0x30d0180d
    msr     sctlr_el1, x1
    isb
    ret

    // x0 -> {{ stack top, function, argument, vectors }} of a secondary vCPU, cleaned to the point of coherency.
    .globl  secondary_start
secondary_start:
    msr     daifset, #0xf
    msr     spsel, #1
    mov     x19, x0
    msr     cpacr_el1, xzr
    bl      enable_mmu
    ldp     x1, x2, [x19]
    ldp     x0, x3, [x19, #16]
    msr     vbar_el1, x3
    isb
    mov     sp, x1
    mov     x29, xzr
    mov     x30, xzr
    blr     x2
    b       .
"#
);

/// Names the guest's `fn() -> !` that runs after the runtime has set everything up.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "Rust" fn guest_main() -> ! {
            let main: fn() -> ! = $main;
            main()
        }
    };
}

unsafe extern "Rust" {
    fn guest_main() -> !;
}

/// Runs with the MMU off, before anything else: no locks, no heap, no console.
#[unsafe(no_mangle)]
extern "C" fn prepare_translation(device_tree: usize, started: u64) {
    device_tree::set_address(device_tree);
    timer::set_started(started);
    mmu::prepare();
}

/// Runs with the MMU on.
#[unsafe(no_mangle)]
extern "C" fn begin() -> ! {
    console::init();
    psci::init();
    // SAFETY: `entry!` defines it, once, in the guest; without it the guest does not link.
    unsafe { guest_main() }
}

/// The image where it was loaded: code, data, page tables, stacks.
pub fn image() -> core::ops::Range<u64> {
    unsafe extern "C" {
        static image_start: u8;
        static image_end: u8;
    }
    (&raw const image_start as u64)..(&raw const image_end as u64)
}

/// The part of [`image`] that nothing writes: code, constants, relocations.
pub fn constants() -> core::ops::Range<u64> {
    unsafe extern "C" {
        static rela_end: u8;
    }
    image().start..(&raw const rela_end as u64)
}
