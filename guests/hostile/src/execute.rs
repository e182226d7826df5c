//! An instruction that is made at run time.

use core::arch::asm;
use core::cell::UnsafeCell;

use guest_runtime::attempt::{self, Fault};

const RET: u32 = 0xd65f_03c0;

#[repr(C, align(64))]
struct Code(UnsafeCell<[u32; 2]>);
// SAFETY: only `run` touches it, and only vCPU 0 calls that.
unsafe impl Sync for Code {}

static CODE: Code = Code(UnsafeCell::new([0, RET]));

/// Runs the instruction `word` with x0 to x3 set; afterwards they are what it made of them. To be called on vCPU 0 alone.
///
/// `word` changes no other register but those that a function may change, no memory that Rust knows of, and nothing that
/// the guest needs.
pub(crate) fn run(word: u32, x: &mut [u64; 4]) -> Option<Fault> {
    let code = CODE.0.get();
    // SAFETY: one vCPU; the caches are made to agree before the code runs.
    unsafe {
        (*code)[0] = word;
        asm!("dc cvau, {0}", "dsb ish", "ic ivau, {0}", "dsb ish", "isb", in(reg) code, options(nostack));
    }
    attempt::run(|| {
        // SAFETY: an instruction as the caller vouches for, and RET.
        unsafe {
            asm!(
                "blr {code}",
                code = in(reg) code,
                inout("x0") x[0], inout("x1") x[1], inout("x2") x[2], inout("x3") x[3],
                clobber_abi("C"),
            );
        }
    })
}
