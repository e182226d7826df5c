//! Cache maintenance by address (Arm ARM, D7.5), for all pCPUs, which need not be alike: with the shortest lines of any, by
//! the operations that the errata of all allow, and for the worst of their instruction caches.

use crate::sysreg::{dsb_ish, dsb_sy, isb, read_sysreg};
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use portunus::trap::system_register::identification::RawIdRegisters;

/// log2 of the words of the shortest data cache line (CTR_EL0.DminLine); as long as nobody knows: one word.
static DATA_LINE: AtomicU8 = AtomicU8::new(0);
/// The same of instruction caches (CTR_EL0.IminLine).
static INSTRUCTION_LINE: AtomicU8 = AtomicU8::new(0);
/// A line is cleaned only by an operation that invalidates it, too.
static CLEAN_AND_INVALIDATE: AtomicBool = AtomicBool::new(true);
/// Instruction caches are indexed by physical address (CTR_EL0.L1Ip is PIPT), so that what is invalidated at one address is
/// gone for all that name the same memory.
static PHYSICAL_INDEX: AtomicBool = AtomicBool::new(false);

/// CTR_EL0.L1Ip of an instruction cache that is indexed and tagged by physical address.
const PIPT: u64 = 3;

/// Says what all pCPUs have. Until then the worst is assumed.
pub(crate) fn init(pcpus: &[RawIdRegisters], clean_and_invalidate: bool) {
    let least = |shift: u32| {
        pcpus
            .iter()
            .map(|pcpu| (pcpu.ctr >> shift & 0xf) as u8)
            .min()
            .unwrap_or(0)
    };
    DATA_LINE.store(least(16), Ordering::Relaxed);
    INSTRUCTION_LINE.store(least(0), Ordering::Relaxed);
    CLEAN_AND_INVALIDATE.store(clean_and_invalidate, Ordering::Relaxed);
    let physical = pcpus.iter().all(|pcpu| pcpu.ctr >> 14 & 3 == PIPT);
    PHYSICAL_INDEX.store(physical, Ordering::Relaxed);
}

/// Bytes of a line.
fn line(log2_words: &AtomicU8) -> usize {
    4 << log2_words.load(Ordering::Relaxed)
}

macro_rules! by_line {
    ($operation:literal, $start:expr, $length:expr, $line:expr) => {{
        let line: usize = $line;
        let (start, length): (usize, usize) = ($start, $length);
        let mut address = start & !(line - 1);
        while address < start + length {
            // SAFETY: cleaning (and invalidating) by address loses nothing; the caller gives mapped memory.
            unsafe { core::arch::asm!(concat!($operation, ", {}"), in(reg) address, options(nostack, preserves_flags)) };
            address += line;
        }
    }};
}

/// Cleans and invalidates to the point of coherency, and waits.
pub(crate) fn clean_invalidate(start: usize, length: usize) {
    by_line!("dc civac", start, length, line(&DATA_LINE));
    dsb_sy();
}

/// Makes instructions that were written as data visible to execution on every pCPU, at whatever address a guest has them.
/// CTR_EL0.IDC and DIC, which the executing pCPU says for all, tell what may be left out.
pub(crate) fn synchronise_instructions(start: usize, length: usize) {
    let ctr = read_sysreg!("ctr_el0");
    if CLEAN_AND_INVALIDATE.load(Ordering::Relaxed) {
        by_line!("dc civac", start, length, line(&DATA_LINE));
    } else if ctr & 1 << 28 == 0 {
        by_line!("dc cvau", start, length, line(&DATA_LINE));
    }
    dsb_ish();
    if !PHYSICAL_INDEX.load(Ordering::Relaxed) {
        // By address only what has that virtual index would go: all of it (Arm ARM, D7.5.10, VIPT instruction caches).
        // SAFETY: dropping cached instructions changes no memory.
        unsafe { core::arch::asm!("ic ialluis", options(nostack, preserves_flags)) };
        dsb_ish();
    } else if ctr & 1 << 29 == 0 {
        by_line!("ic ivau", start, length, line(&INSTRUCTION_LINE));
        dsb_ish();
    }
    isb();
}
