//! Exceptions at EL1: what the guest does not take itself is reported and ends it.

use core::arch::global_asm;
use core::sync::atomic::{AtomicUsize, Ordering};

/// The registers of the interrupted code; a handler may change them.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct ExceptionFrame {
    /// x0 to x30.
    pub registers: [u64; 31],
    /// Stack pointer before the exception.
    pub sp: u64,
    /// ELR_EL1: where it goes on.
    pub elr: u64,
    /// SPSR_EL1.
    pub spsr: u64,
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1.
    pub far: u64,
}

const _: () = assert!(size_of::<ExceptionFrame>() == 288);

impl ExceptionFrame {
    /// The exception class (ESR_EL1.EC).
    pub fn class(&self) -> u64 {
        self.esr >> 26 & 0x3f
    }
}

/// What a handler made of a synchronous exception.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Handled {
    /// Go on at [`ExceptionFrame::elr`].
    Yes,
    /// It was not expected: the guest reports it and stops.
    No,
}

/// A handler for synchronous exceptions and SErrors.
pub type Handler = fn(&mut ExceptionFrame) -> Handled;
/// A handler for interrupts: acknowledges, serves and ends them.
pub type InterruptHandler = fn(&mut ExceptionFrame);

static SYNCHRONOUS: AtomicUsize = AtomicUsize::new(0);
static SYSTEM_ERROR: AtomicUsize = AtomicUsize::new(0);
static INTERRUPT: AtomicUsize = AtomicUsize::new(0);

/// Takes synchronous exceptions from now on, on every vCPU.
pub fn set_synchronous_handler(handler: Handler) {
    SYNCHRONOUS.store(handler as usize, Ordering::Release);
}
/// Takes SErrors from now on, on every vCPU.
pub fn set_system_error_handler(handler: Handler) {
    SYSTEM_ERROR.store(handler as usize, Ordering::Release);
}
/// Takes interrupts from now on, on every vCPU.
pub fn set_interrupt_handler(handler: InterruptHandler) {
    INTERRUPT.store(handler as usize, Ordering::Release);
}

/// Lets interrupts in.
pub fn enable_interrupts() {
    // SAFETY: handlers run on this stack; every lock that they share with others is taken with interrupts off.
    unsafe { core::arch::asm!("msr daifclr, #2", options(nostack)) };
}
/// Keeps interrupts out.
pub fn disable_interrupts() {
    // SAFETY: only masks.
    unsafe { core::arch::asm!("msr daifset, #2", options(nostack)) };
}
/// Keeps interrupts out until [`restore_masks`] gets the result.
pub(crate) fn mask_interrupts() -> u64 {
    let masks;
    // SAFETY: only masks.
    unsafe { core::arch::asm!("mrs {}, daif", "msr daifset, #2", out(reg) masks, options(nostack)) };
    masks
}
/// Undoes [`mask_interrupts`].
pub(crate) fn restore_masks(masks: u64) {
    // SAFETY: the state before `mask_interrupts`.
    unsafe { core::arch::asm!("msr daif, {}", in(reg) masks, options(nostack)) };
}
/// Lets SErrors in.
pub fn enable_system_errors() {
    // SAFETY: as for interrupts.
    unsafe { core::arch::asm!("msr daifclr, #4", options(nostack)) };
}

global_asm!(
    r#"
    .macro  vector kind
    .balign 0x80
    sub     sp, sp, #288
    stp     x0, x1, [sp]
    mov     x0, #\kind
    b       save_and_handle
    .endm

    .text
    .balign 0x800
    .globl  vectors
vectors:
    vector  8
    vector  9
    vector  10
    vector  11
    vector  0
    vector  1
    vector  2
    vector  3
    vector  8
    vector  9
    vector  10
    vector  11
    vector  8
    vector  9
    vector  10
    vector  11

save_and_handle:
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    add     x1, sp, #288
    stp     x30, x1, [sp, #240]
    mrs     x1, elr_el1
    mrs     x2, spsr_el1
    stp     x1, x2, [sp, #256]
    mrs     x1, esr_el1
    mrs     x2, far_el1
    stp     x1, x2, [sp, #272]
    mov     x1, sp
    bl      on_exception
    ldp     x1, x2, [sp, #256]
    msr     elr_el1, x1
    msr     spsr_el1, x2
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x19, [sp, #144]
    ldp     x20, x21, [sp, #160]
    ldp     x22, x23, [sp, #176]
    ldp     x24, x25, [sp, #192]
    ldp     x26, x27, [sp, #208]
    ldp     x28, x29, [sp, #224]
    ldr     x30, [sp, #240]
    ldp     x0, x1, [sp]
    add     sp, sp, #288
    eret
"#
);

fn handler(of: &AtomicUsize) -> Option<Handler> {
    let address = of.load(Ordering::Acquire);
    // SAFETY: only the setters store there, and only `Handler`s.
    (address != 0).then(|| unsafe { core::mem::transmute::<usize, Handler>(address) })
}

/// The common end of every vector. `kind`: 0 synchronous, 1 IRQ, 2 FIQ, 3 SError from EL1 with its own stack; 8 and up
/// the same from where no guest code of this runtime runs.
#[unsafe(no_mangle)]
extern "C" fn on_exception(kind: u64, frame: &mut ExceptionFrame) {
    let taken = match kind {
        0 => handler(&SYNCHRONOUS).is_some_and(|handler| handler(frame) == Handled::Yes),
        1 => match INTERRUPT.load(Ordering::Acquire) {
            0 => false,
            address => {
                // SAFETY: only `set_interrupt_handler` stores there, and only `InterruptHandler`s.
                let handler = unsafe { core::mem::transmute::<usize, InterruptHandler>(address) };
                handler(frame);
                true
            }
        },
        3 => handler(&SYSTEM_ERROR).is_some_and(|handler| handler(frame) == Handled::Yes),
        _ => false,
    };
    if taken {
        return;
    }
    let name = match kind & 3 {
        0 => "synchronous exception",
        1 => "interrupt",
        2 => "fast interrupt",
        _ => "SError",
    };
    crate::panic::report_registers(frame);
    panic!("unexpected {name} (vector {kind})");
}
