//! FP and SIMD registers, switched only between vCPUs that use them.
//!
//! The registers have an owner. While another vCPU runs they trap, so its domain never reads them; its first use saves
//! the owner's and loads its own. A vCPU that trapped for them gets them without a trap for its next [`EAGER`] loads.
//! EL2's own code is compiled without FP.

use crate::controls::set_fp_trap;
use crate::features::Features;
use crate::pcpu::{Local, Open};
use crate::switch::{Extras, VcpuContext};
use crate::sysreg::isb;
use core::arch::naked_asm;

/// How many loads of a vCPU bring its FP registers along after one trap.
const EAGER: u8 = 16;

/// Q0 to Q31, FPCR, FPSR.
#[derive(Debug)]
#[repr(C, align(16))]
pub(crate) struct FpState {
    q: [u128; 32],
    fpcr: u64,
    fpsr: u64,
}

impl FpState {
    /// All zero, as no architecture promises and every guest can bear.
    pub(crate) const fn new() -> Self {
        Self {
            q: [0; 32],
            fpcr: 0,
            fpsr: 0,
        }
    }
}

/// The loaded vCPU used FP while it trapped.
pub(crate) fn on_trap(local: &mut Local, features: Features) {
    let loaded = local.loaded;
    // SAFETY: the loaded context lives for ever, and this pCPU's only handler has the only reference.
    if let Some(context) = unsafe { loaded.as_mut() } {
        context.fp_eager = EAGER;
        context.extras.add(Extras::FP);
    }
    take(local, loaded, features);
}

/// `next`, which has used FP registers or comes after one that has them, is about to run.
#[inline]
pub(crate) fn on_switch(local: &mut Local, next: *mut VcpuContext) {
    // SAFETY: as `on_trap`.
    let Some(context) = (unsafe { next.as_mut() }) else {
        return;
    };
    let own = local.fp_owner == next;
    if !own && context.fp_eager > 0 {
        context.fp_eager -= 1;
        take(local, next, local.features);
    } else if local.open.has(Open::FP) != own {
        local.open.set(Open::FP, own);
        set_fp_trap(local.features, !own);
    }
}

/// Makes `vcpu` the owner.
fn take(local: &mut Local, vcpu: *mut VcpuContext, features: Features) {
    local.open.set(Open::FP, true);
    set_fp_trap(features, false);
    if local.fp_owner == vcpu {
        return;
    }
    isb();
    // SAFETY: both live for ever and belong to this pCPU, whose FP registers are accessible since the ISB.
    unsafe {
        if let Some(owner) = local.fp_owner.as_mut() {
            save(&raw mut owner.fp);
        }
        if let Some(vcpu) = vcpu.as_ref() {
            load(&raw const vcpu.fp);
        }
    }
    local.fp_owner = vcpu;
}

#[unsafe(naked)]
unsafe extern "C" fn save(state: *mut FpState) {
    naked_asm!(
        ".arch_extension fp",
        ".arch_extension simd",
        "stp    q0, q1, [x0]",
        "stp    q2, q3, [x0, #32]",
        "stp    q4, q5, [x0, #64]",
        "stp    q6, q7, [x0, #96]",
        "stp    q8, q9, [x0, #128]",
        "stp    q10, q11, [x0, #160]",
        "stp    q12, q13, [x0, #192]",
        "stp    q14, q15, [x0, #224]",
        "stp    q16, q17, [x0, #256]",
        "stp    q18, q19, [x0, #288]",
        "stp    q20, q21, [x0, #320]",
        "stp    q22, q23, [x0, #352]",
        "stp    q24, q25, [x0, #384]",
        "stp    q26, q27, [x0, #416]",
        "stp    q28, q29, [x0, #448]",
        "stp    q30, q31, [x0, #480]",
        "mrs    x1, fpcr",
        "mrs    x2, fpsr",
        "str    x1, [x0, #512]",
        "str    x2, [x0, #520]",
        "ret",
        ".arch_extension nosimd",
        ".arch_extension nofp",
    )
}

#[unsafe(naked)]
unsafe extern "C" fn load(state: *const FpState) {
    naked_asm!(
        ".arch_extension fp",
        ".arch_extension simd",
        "ldp    q0, q1, [x0]",
        "ldp    q2, q3, [x0, #32]",
        "ldp    q4, q5, [x0, #64]",
        "ldp    q6, q7, [x0, #96]",
        "ldp    q8, q9, [x0, #128]",
        "ldp    q10, q11, [x0, #160]",
        "ldp    q12, q13, [x0, #192]",
        "ldp    q14, q15, [x0, #224]",
        "ldp    q16, q17, [x0, #256]",
        "ldp    q18, q19, [x0, #288]",
        "ldp    q20, q21, [x0, #320]",
        "ldp    q22, q23, [x0, #352]",
        "ldp    q24, q25, [x0, #384]",
        "ldp    q26, q27, [x0, #416]",
        "ldp    q28, q29, [x0, #448]",
        "ldp    q30, q31, [x0, #480]",
        "ldr    x1, [x0, #512]",
        "ldr    x2, [x0, #520]",
        "msr    fpcr, x1",
        "msr    fpsr, x2",
        "ret",
        ".arch_extension nosimd",
        ".arch_extension nofp",
    )
}
