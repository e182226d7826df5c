//! Every system register that an encoding can name, read and written.

use core::sync::atomic::{Ordering, compiler_fence};

use crate::Attacker;
use crate::execute::run;

/// MRS x0, with op0 = 2 and all else 0; MSR is bit 21 less.
const MRS: u32 = 0xd530_0000;
const MSR: u32 = 0xd510_0000;

/// One encoding.
#[derive(Copy, Clone, Debug)]
struct Register {
    op0: u32,
    op1: u32,
    crn: u32,
    crm: u32,
    op2: u32,
}

impl Register {
    /// All with op0 2 and 3.
    fn all() -> impl Iterator<Item = Self> {
        (0..1u32 << 15).map(|number| Self {
            op0: 2 + (number >> 14),
            op1: number >> 11 & 7,
            crn: number >> 7 & 15,
            crm: number >> 3 & 15,
            op2: number & 7,
        })
    }

    fn bits(self) -> u32 {
        (self.op0 - 2) << 19 | self.op1 << 16 | self.crn << 12 | self.crm << 8 | self.op2 << 5
    }

    /// Whether this guest lives on with any value in it.
    fn may_be_written(self) -> bool {
        let Self {
            op0,
            op1,
            crn,
            crm,
            op2,
            ..
        } = self;
        if op0 == 2 {
            return true;
        }
        !matches!(
            (op1, crn, crm, op2),
            // SCTLR and SCTLR2; translation tables, TCR and TCR2; MAIR and what belongs to it; vectors.
            (0, 1, 0, 0 | 3) | (0, 2, 0, _) | (0, 10, 2 | 3, _) | (0, 12, 0, 0)
            // PSTATE: stack pointer, masks and the like.
            | (0, 4, 2 | 3, _) | (3, 4, 2, _)
        )
    }
}

/// Reads all, and writes all that it survives: a random number, and if it can be read also edges and what it held. On a
/// GICv3 the CPU interface is upside down afterwards.
pub(crate) fn attack(attacker: &mut Attacker) -> u64 {
    let mut tries = 0;
    for register in Register::all() {
        let mut x = [0; 4];
        let refused = run(MRS | register.bits(), &mut x).is_some();
        tries += 1;
        if !register.may_be_written() {
            continue;
        }
        let values = [attacker.random.next(), 0, u64::MAX, x[0]];
        for value in values.into_iter().take(if refused { 1 } else { 4 }) {
            let mut x = [value, 0, 0, 0];
            run(MSR | register.bits(), &mut x);
            compiler_fence(Ordering::SeqCst);
            tries += 1;
        }
    }
    tries
}
