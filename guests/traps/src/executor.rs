//! Runs one instruction with all registers set, and says what all of them hold afterwards.
//!
//! The word is written into a page of code and entered by ERET, so that no register is needed to get there. Behind it are
//! two BRKs; whichever exception comes first is taken through vectors that save everything without touching memory by SP,
//! which may point anywhere. So a step also shows by how much PC has moved.

use core::arch::global_asm;

/// PSTATE: EL1 with its own SP, everything masked.
pub(crate) const EL1H: u64 = 0x3c5;
/// PSTATE: EL1 with SP_EL0, everything masked.
pub(crate) const EL1T: u64 = 0x3c4;
/// NZCV in PSTATE.
pub(crate) const FLAGS: u64 = 0xf << 28;

/// Registers before or after a step.
#[derive(Clone, Debug, Eq, PartialEq)]
#[repr(C)]
pub(crate) struct State {
    /// x0 to x30.
    pub(crate) x: [u64; 31],
    pub(crate) sp_el1: u64,
    pub(crate) sp_el0: u64,
    /// Where it starts; afterwards where the exception was taken.
    pub(crate) pc: u64,
    pub(crate) pstate: u64,
    /// Of the exception that ended the step.
    pub(crate) esr: u64,
    pub(crate) far: u64,
    /// The vector that was taken: 0 and 4 are the synchronous ones of EL1.
    vector: u64,
    /// Where the caller's stack is meanwhile.
    host_sp: u64,
}

const _: () = assert!(core::mem::offset_of!(State, sp_el1) == 248 && core::mem::offset_of!(State, host_sp) == 304);

global_asm!(
    r#"
    .macro  step_vector number
    .balign 0x80
    msr     tpidr_el0, x0
    mrs     x0, tpidr_el1
    str     x1, [x0, #8]
    mov     x1, #\number
    b       step_save
    .endm

    .text
    .balign 0x800
step_vectors:
    step_vector 0
    step_vector 1
    step_vector 2
    step_vector 3
    step_vector 4
    step_vector 5
    step_vector 6
    step_vector 7
    step_vector 8
    step_vector 9
    step_vector 10
    step_vector 11
    step_vector 12
    step_vector 13
    step_vector 14
    step_vector 15

step_save:
    str     x1, [x0, #296]
    stp     x2, x3, [x0, #16]
    stp     x4, x5, [x0, #32]
    stp     x6, x7, [x0, #48]
    stp     x8, x9, [x0, #64]
    stp     x10, x11, [x0, #80]
    stp     x12, x13, [x0, #96]
    stp     x14, x15, [x0, #112]
    stp     x16, x17, [x0, #128]
    stp     x18, x19, [x0, #144]
    stp     x20, x21, [x0, #160]
    stp     x22, x23, [x0, #176]
    stp     x24, x25, [x0, #192]
    stp     x26, x27, [x0, #208]
    stp     x28, x29, [x0, #224]
    mov     x2, sp
    stp     x30, x2, [x0, #240]
    mrs     x1, tpidr_el0
    str     x1, [x0]
    mrs     x1, sp_el0
    mrs     x2, elr_el1
    stp     x1, x2, [x0, #256]
    mrs     x1, spsr_el1
    mrs     x2, esr_el1
    stp     x1, x2, [x0, #272]
    mrs     x1, far_el1
    str     x1, [x0, #288]
    ldr     x1, [x0, #304]
    mov     sp, x1
    ldp     x19, x20, [sp]
    ldp     x21, x22, [sp, #16]
    ldp     x23, x24, [sp, #32]
    ldp     x25, x26, [sp, #48]
    ldp     x27, x28, [sp, #64]
    ldp     x29, x30, [sp, #80]
    ldp     x1, x2, [sp, #96]
    add     sp, sp, #112
    msr     vbar_el1, x1
    msr     daif, x2
    isb
    ret

    // x0 -> State
    .globl  step_enter
step_enter:
    sub     sp, sp, #112
    stp     x19, x20, [sp]
    stp     x21, x22, [sp, #16]
    stp     x23, x24, [sp, #32]
    stp     x25, x26, [sp, #48]
    stp     x27, x28, [sp, #64]
    stp     x29, x30, [sp, #80]
    mrs     x1, vbar_el1
    mrs     x2, daif
    stp     x1, x2, [sp, #96]
    msr     daifset, #0xf
    mov     x1, sp
    str     x1, [x0, #304]
    msr     tpidr_el1, x0
    adrp    x1, step_vectors
    add     x1, x1, :lo12:step_vectors
    msr     vbar_el1, x1
    isb
    ldp     x1, x2, [x0, #256]
    msr     sp_el0, x1
    msr     elr_el1, x2
    ldr     x1, [x0, #272]
    msr     spsr_el1, x1
    ldp     x30, x1, [x0, #240]
    mov     sp, x1
    ldp     x2, x3, [x0, #16]
    ldp     x4, x5, [x0, #32]
    ldp     x6, x7, [x0, #48]
    ldp     x8, x9, [x0, #64]
    ldp     x10, x11, [x0, #80]
    ldp     x12, x13, [x0, #96]
    ldp     x14, x15, [x0, #112]
    ldp     x16, x17, [x0, #128]
    ldp     x18, x19, [x0, #144]
    ldp     x20, x21, [x0, #160]
    ldp     x22, x23, [x0, #176]
    ldp     x24, x25, [x0, #192]
    ldp     x26, x27, [x0, #208]
    ldp     x28, x29, [x0, #224]
    ldp     x0, x1, [x0]
    eret
"#
);

/// What ended a step.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// The instruction is complete and PC is behind it.
    Complete,
    /// The instruction took this exception (class of ESR_EL1); PC has not moved.
    Exception(u64),
    /// PC is where it should never be, or a vector was taken that should not be.
    Astray,
}

const BRK_1: u32 = 0xd420_0020;
const BRK_2: u32 = 0xd420_0040;
const EC_BRK: u64 = 0x3c;

/// Where the instruction goes.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Executor {
    code: u64,
}

impl Executor {
    /// # Safety
    /// `code` is the address of a page of RAM, identity-mapped, readable, writable and executable, that nothing else uses.
    pub(crate) const unsafe fn new(code: u64) -> Self {
        Self { code }
    }

    /// Where the instruction is while it runs.
    pub(crate) const fn code(&self) -> u64 {
        self.code
    }

    /// Runs `word` from `state`, which becomes the state after it.
    ///
    /// # Safety
    /// With those registers the instruction harms nothing that Rust code relies on.
    pub(crate) unsafe fn step(&self, word: u32, state: &mut State) -> End {
        self.place(word);
        state.pc = self.code;
        // SAFETY: the code is in place, passed on from the caller.
        unsafe { self.run(state) }
    }

    /// As [`Self::step`], at the address in `state.pc`, whatever is there.
    ///
    /// # Safety
    /// As [`Self::step`]; and what is there ends in an exception soon.
    pub(crate) unsafe fn run(&self, state: &mut State) -> End {
        let start = state.pc;
        // SAFETY: saves and restores all that a call must keep; the caller vouches for the instruction.
        unsafe {
            core::arch::asm!(
                "bl step_enter",
                inout("x0") &raw mut *state => _, out("x30") _, out("x18") _,
                clobber_abi("C"),
            );
        }
        let class = state.esr >> 26 & 0x3f;
        match (state.vector, state.pc) {
            (0 | 4, pc) if pc == start + 4 && class == EC_BRK && state.esr & 0xffff == 1 => End::Complete,
            (0 | 4, pc) if pc == start => End::Exception(class),
            _ => End::Astray,
        }
    }

    fn place(&self, word: u32) {
        for (index, word) in [word, BRK_1, BRK_2].into_iter().enumerate() {
            let address = self.code + 4 * index as u64;
            // SAFETY: the page is ours; then it is made visible to instruction fetches.
            unsafe {
                core::ptr::write_volatile(address as *mut u32, word);
                core::arch::asm!("dc cvau, {}", in(reg) address, options(nostack, preserves_flags));
            }
        }
        // SAFETY: cache maintenance of that page.
        unsafe {
            core::arch::asm!(
                "dsb ish", "ic ivau, {}", "dsb ish", "isb",
                in(reg) self.code, options(nostack, preserves_flags)
            );
        }
    }
}

impl State {
    /// A different value in each register, with bits all over, the same in every run.
    pub(crate) fn distinct(seed: u64) -> Self {
        let value = |index: u64| {
            (index + 1 + 40 * seed)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(index as u32)
        };
        Self {
            x: core::array::from_fn(|index| value(index as u64)),
            sp_el1: value(31) & !15,
            sp_el0: value(32) & !15,
            pc: 0,
            pstate: EL1H | (seed & 0xf) << 28,
            esr: 0,
            far: 0,
            vector: 0,
            host_sp: 0,
        }
    }
    /// The same with another PSTATE.
    pub(crate) const fn with_pstate(mut self, pstate: u64) -> Self {
        self.pstate = pstate;
        self
    }
    /// Register `number` as a base: 31 is the selected SP.
    pub(crate) fn set_base(&mut self, number: u32, value: u64) {
        match number {
            31 if self.pstate & 1 == 0 => self.sp_el0 = value,
            31 => self.sp_el1 = value,
            _ => self.x[number as usize] = value,
        }
    }
}
