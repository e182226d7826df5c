//! The exception vectors of EL2.
//!
//! From a guest: SP points at the vCPU's [`GuestFrame`], so the registers are saved with no scratch register; then the
//! handler runs on the pCPU's main stack, from its top.
//!
//! First only x0 to x19, x30, PC and PSTATE are saved. A function keeps x20 to x29 for its caller by the procedure-call
//! standard (AAPCS64, 6.1.1), so a handler that needs nothing else and lets the same vCPU go on
//! ([`Next::Guest`](traps::Next)) returns to it by those alone. For any other answer the rest, which still is the
//! guest's, is saved too, and [`traps::finish`] says with which frame to go on.
//!
//! From EL2 itself: nothing can go on; the registers are saved on the exception stack, so that an overflow of the main
//! stack can be told, and the epitaph is written.

use crate::{epitaph, layout, traps};
use core::arch::naked_asm;
use core::mem::offset_of;
use portunus::trap::registers::GuestFrame;

const _: () = assert!(offset_of!(GuestFrame, pc) == 248 && offset_of!(GuestFrame, pstate) == 256);
const _: () = assert!(offset_of!(crate::pcpu::Pcpu, stack) == 0);
const _: () = assert!(offset_of!(crate::pcpu::Pcpu, exception_stack) == 8);
const _: () = assert!(size_of::<epitaph::Registers>() == 0x120);

/// The table that VBAR_EL2 points at (Arm ARM, D1.3.1.5).
#[unsafe(naked)]
#[unsafe(link_section = ".vectors")]
#[unsafe(export_name = "portunus_vectors")]
pub(crate) unsafe extern "C" fn vectors() {
    naked_asm!(
        ".macro fatal kind",
        ".balign 0x80",
        // The guest's thread registers are lost: nothing will go back to it.
        "msr    tpidrro_el0, x0",
        "msr    tpidr_el1, x1",
        "mov    x0, #\\kind",
        "b      9f",
        ".endm",
        // The handler gets the pCPU, and the vCPU, whose context begins with the frame. x19 keeps the frame.
        ".macro guest handler",
        ".balign 0x80",
        "stp    x0, x1, [sp]",
        "stp    x2, x3, [sp, #16]",
        "stp    x4, x5, [sp, #32]",
        "stp    x6, x7, [sp, #48]",
        "stp    x8, x9, [sp, #64]",
        "stp    x10, x11, [sp, #80]",
        "stp    x12, x13, [sp, #96]",
        "stp    x14, x15, [sp, #112]",
        "stp    x16, x17, [sp, #128]",
        "stp    x18, x19, [sp, #144]",
        "mrs    x2, elr_el2",
        "mrs    x3, spsr_el2",
        "stp    x30, x2, [sp, #240]",
        "str    x3, [sp, #256]",
        "mrs    x0, tpidr_el2",
        "ldr    x2, [x0]",
        "mov    x1, sp",
        "mov    x19, sp",
        "mov    sp, x2",
        "adr    x30, {handled}",
        "b      \\handler",
        ".endm",
        "fatal  0",
        "fatal  1",
        "fatal  2",
        "fatal  3",
        "fatal  0",
        "fatal  1",
        "fatal  2",
        "fatal  3",
        "guest  {synchronous}",
        "guest  {interrupt}",
        "guest  {interrupt}",
        "guest  {system_error}",
        // AArch32 guests do not exist (HCR_EL2.RW), AArch32 programs of a guest do.
        "guest  {synchronous}",
        "guest  {interrupt}",
        "guest  {interrupt}",
        "guest  {system_error}",
        ".balign 0x80",
        "9: mrs x1, tpidr_el2",
        "cbz    x1, 8f",
        "ldr    x1, [x1, #8]",
        "b      7f",
        "8: adrp x1, stacks_start",
        "add    x1, x1, #{boot_exception_stack}, lsl #12",
        "7: sub x1, x1, #0x120",
        "stp    x2, x3, [x1, #16]",
        "mrs    x2, tpidrro_el0",
        "mrs    x3, tpidr_el1",
        "stp    x2, x3, [x1]",
        "stp    x4, x5, [x1, #32]",
        "stp    x6, x7, [x1, #48]",
        "stp    x8, x9, [x1, #64]",
        "stp    x10, x11, [x1, #80]",
        "stp    x12, x13, [x1, #96]",
        "stp    x14, x15, [x1, #112]",
        "stp    x16, x17, [x1, #128]",
        "stp    x18, x19, [x1, #144]",
        "stp    x20, x21, [x1, #160]",
        "stp    x22, x23, [x1, #176]",
        "stp    x24, x25, [x1, #192]",
        "stp    x26, x27, [x1, #208]",
        "stp    x28, x29, [x1, #224]",
        "mov    x2, sp",
        "stp    x30, x2, [x1, #240]",
        "mrs    x2, elr_el2",
        "mrs    x3, spsr_el2",
        "stp    x2, x3, [x1, #256]",
        "mrs    x2, esr_el2",
        "mrs    x3, far_el2",
        "stp    x2, x3, [x1, #272]",
        "mov    sp, x1",
        "mov    x29, xzr",
        "bl     {fatal_exception}",
        handled = sym handled,
        synchronous = sym traps::synchronous,
        interrupt = sym traps::interrupt,
        system_error = sym traps::system_error,
        fatal_exception = sym epitaph::fatal_exception,
        boot_exception_stack = const (layout::GUARD + layout::EXCEPTION_STACK) >> 12,
    )
}

/// Where a handler returns to, with a [`Next`](traps::Next) in x0 and the frame in x19.
///
/// # Safety
/// Only by the vectors.
#[unsafe(naked)]
unsafe extern "C" fn handled() {
    naked_asm!(
        "3:",
        "cbnz   x0, 1f",
        "mov    sp, x19",
        "ldp    x30, x1, [sp, #240]",
        "ldr    x2, [sp, #256]",
        "msr    elr_el2, x1",
        "msr    spsr_el2, x2",
        "ldp    x18, x19, [sp, #144]",
        "ldp    x16, x17, [sp, #128]",
        "ldp    x14, x15, [sp, #112]",
        "ldp    x12, x13, [sp, #96]",
        "ldp    x10, x11, [sp, #80]",
        "ldp    x8, x9, [sp, #64]",
        "ldp    x6, x7, [sp, #48]",
        "ldp    x4, x5, [sp, #32]",
        "ldp    x2, x3, [sp, #16]",
        "ldp    x0, x1, [sp]",
        "eret",
        // Nothing behind an ERET may be executed by speculation.
        "dsb    nsh",
        "isb",
        "1:",
        "cmp    x0, #{rests}",
        "b.eq   2f",
        "stp    x20, x21, [x19, #160]",
        "stp    x22, x23, [x19, #176]",
        "stp    x24, x25, [x19, #192]",
        "stp    x26, x27, [x19, #208]",
        "stp    x28, x29, [x19, #224]",
        "mov    x1, x0",
        "mrs    x0, tpidr_el2",
        "adr    x30, {enter}",
        "b      {finish}",
        // Nothing else of the guest's is needed to wait, and mostly it goes on then.
        "2:",
        "mrs    x0, tpidr_el2",
        "mov    x1, x19",
        "bl     {await_answer}",
        "b      3b",
        enter = sym enter_guest,
        finish = sym traps::finish,
        rests = const traps::Next::Rests as u64,
        await_answer = sym traps::await_answer,
    )
}

/// Goes to the guest whose registers are in `frame`; SP_EL2 stays at the frame until its next exception.
///
/// # Safety
/// The vCPU that `frame` belongs to is loaded on this pCPU, `frame` is 16-byte aligned, and no handler's stack frame is
/// needed any more.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn enter_guest(frame: *mut GuestFrame) -> ! {
    naked_asm!(
        "mov    sp, x0",
        "ldp    x30, x1, [sp, #240]",
        "ldr    x2, [sp, #256]",
        "msr    elr_el2, x1",
        "msr    spsr_el2, x2",
        "ldp    x28, x29, [sp, #224]",
        "ldp    x26, x27, [sp, #208]",
        "ldp    x24, x25, [sp, #192]",
        "ldp    x22, x23, [sp, #176]",
        "ldp    x20, x21, [sp, #160]",
        "ldp    x18, x19, [sp, #144]",
        "ldp    x16, x17, [sp, #128]",
        "ldp    x14, x15, [sp, #112]",
        "ldp    x12, x13, [sp, #96]",
        "ldp    x10, x11, [sp, #80]",
        "ldp    x8, x9, [sp, #64]",
        "ldp    x6, x7, [sp, #48]",
        "ldp    x4, x5, [sp, #32]",
        "ldp    x2, x3, [sp, #16]",
        "ldp    x0, x1, [sp]",
        "eret",
        // Nothing behind an ERET may be executed by speculation.
        "dsb    nsh",
        "isb",
    )
}
