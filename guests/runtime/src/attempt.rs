//! Instructions that may fault: the fault is remembered and the instruction is skipped.
//!
//! For tests of what a hypervisor refuses. Between [`init`] and the end of the guest every other synchronous exception
//! is still an error.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::exceptions::{self, ExceptionFrame, Handled};
use crate::smp;

/// vCPUs of a guest at the most; they are numbered by affinity 0.
const VCPUS: usize = 8;

struct Slot {
    armed: AtomicBool,
    faults: AtomicU32,
    esr: AtomicU64,
}

static SLOTS: [Slot; VCPUS] = [const {
    Slot {
        armed: AtomicBool::new(false),
        faults: AtomicU32::new(0),
        esr: AtomicU64::new(0),
    }
}; VCPUS];

fn slot() -> &'static Slot {
    &SLOTS[smp::mpidr() as usize % VCPUS]
}

/// What the last instruction that was skipped met.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// ESR_EL1.
    pub esr: u64,
}

impl Fault {
    /// The exception class (ESR_EL1.EC).
    pub fn class(self) -> u64 {
        self.esr >> 26 & 0x3f
    }
    /// Whether it was a data abort of this exception level.
    pub fn is_data_abort(self) -> bool {
        self.class() == 0x25
    }
}

/// Takes synchronous exceptions for [`run`] from now on, on every vCPU.
pub fn init() {
    exceptions::set_synchronous_handler(skip);
}

fn skip(frame: &mut ExceptionFrame) -> Handled {
    let slot = slot();
    if !slot.armed.load(Ordering::Relaxed) {
        return Handled::No;
    }
    slot.esr.store(frame.esr, Ordering::Relaxed);
    slot.faults.fetch_add(1, Ordering::Relaxed);
    frame.elr += 4;
    Handled::Yes
}

/// Runs `with`, of which every instruction that faults is skipped; registers that it should have loaded keep what they
/// held. Returns the last fault, if there was one.
///
/// `with` must be made of instructions whose absence does no harm: an `asm!` block with its outputs set before.
pub fn run(with: impl FnOnce()) -> Option<Fault> {
    let slot = slot();
    let before = slot.faults.load(Ordering::Relaxed);
    slot.armed.store(true, Ordering::SeqCst);
    with();
    slot.armed.store(false, Ordering::SeqCst);
    let fault = Fault {
        esr: slot.esr.load(Ordering::Relaxed),
    };
    (slot.faults.load(Ordering::Relaxed) != before).then_some(fault)
}

/// Reads the 32-bit register at `address`, or says how it faulted.
///
/// # Errors
/// [`Fault`]
pub fn read_u32(address: u64) -> Result<u32, Fault> {
    let mut value = 0u32;
    let fault = run(|| {
        // SAFETY: a load into a register; if it faults the register keeps its 0.
        unsafe {
            core::arch::asm!("ldr {0:w}, [{1}]", inout(reg) value, in(reg) address, options(nostack, preserves_flags));
        }
    });
    fault.map_or(Ok(value), Err)
}
