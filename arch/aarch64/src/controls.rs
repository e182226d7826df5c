//! What EL2 lets a guest do and what traps: HCR_EL2, CPTR_EL2, MDCR_EL2 and their kin, the same for every guest.

use crate::features::Features;
use crate::sysreg::{isb, read_sysreg, write_sysreg};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use portunus::trap::system_register::identification::IdTraps;

/// HCR_EL2 bits that do not depend on features (Arm ARM, D24.2.52).
const HCR: u64 = {
    let vm = 1; // stage 2 on
    let swio = 1 << 1; // set/way invalidation also cleans: RES1 on many CPUs
    let ptw = 1 << 2; // a stage-1 walk that hits Device memory at stage 2 faults instead of reading a device
    let fmo = 1 << 3; // physical FIQs come to EL2, virtual ones are enabled
    let imo = 1 << 4; // physical IRQs likewise; ICC_SGI*R writes trap
    let amo = 1 << 5; // physical SErrors likewise
    let fb = 1 << 9; // a guest's TLB and instruction-cache maintenance is broadcast
    let bsu = 1 << 10; // its barriers reach the inner shareable domain at least: a vCPU may go on elsewhere
    let twi = 1 << 13; // WFI traps: another vCPU may run. WFE (TWE) does not: waits for locks are short
    let tid3 = 1 << 18; // ID registers are answered by the core: the common subset, nothing that is hidden
    let tsc = 1 << 19; // SMC traps: PSCI is virtual
    let tidcp = 1 << 20; // implementation-defined registers trap
    let tacr = 1 << 21; // ACTLR_EL1 traps: it can change the CPU for everybody
    let tsw = 1 << 22; // set/way maintenance traps: it reaches others' lines
    let rw = 1 << 31; // EL1 is AArch64
    // Off on purpose: API, APK (`keys`), DC (the guest's MMU-off accesses are what stage 2 says), TVM/TRVM/TTLB (a guest's own translation is
    // its own), TPC/TPU, TDZ, TGE, HCD, E2H, NV.
    vm | swio | ptw | fmo | imo | amo | fb | bsu | twi | tid3 | tsc | tidcp | tacr | tsw | rw
};
/// Cache ID registers trap, CTR_EL0 too.
const HCR_TID2: u64 = 1 << 17;
/// DC ZVA traps, and DCZID_EL0 says that it is prohibited.
const HCR_TDZ: u64 = 1 << 28;
/// LORegion registers trap.
const HCR_TLOR: u64 = 1 << 35;
/// Error record registers trap.
const HCR_TERR: u64 = 1 << 36;
/// Stage 2 alone decides about caches (FEAT_S2FWB).
const HCR_FWB: u64 = 1 << 46;
/// GMID_EL1 traps; ATA stays 0, so tags are neither checked nor accessible.
const HCR_TID5: u64 = 1 << 58;

/// CPTR_EL2 (E2H = 0): RES1 bits, SVE (TZ, bit 8, RES1 without it) and trace (TTA) trap.
const CPTR: u64 = 0x33ff | 1 << 20;
/// FP and SIMD trap.
const CPTR_TFP: u64 = 1 << 10;
/// Activity monitors trap.
const CPTR_TAM: u64 = 1 << 30;

/// Whether stage-2 descriptors are written for [`HCR_FWB`].
static FORCES_WRITE_BACK: AtomicBool = AtomicBool::new(false);

/// Bits of HCR_EL2 for [`trap_unlike`].
static UNLIKE: AtomicU64 = AtomicU64::new(0);

/// Every pCPU has FEAT_S2FWB, and stage-2 descriptors are written for it from now on. Before any guest runs.
pub(crate) fn force_write_back() {
    FORCES_WRITE_BACK.store(true, Ordering::Release);
}

/// Some domain runs on unlike pCPUs: what they show differently traps from now on. Before any guest runs.
pub(crate) fn trap_unlike(registers: IdTraps) {
    let mut bits = 0;
    if registers.cache {
        bits |= HCR_TID2;
    }
    if registers.zero_block {
        bits |= HCR_TDZ;
    }
    UNLIKE.store(bits, Ordering::Release);
}

/// What the executing pCPU does before its first guest, when it is known what all of them have.
pub(crate) fn prepare_guests() {
    let mut more = UNLIKE.load(Ordering::Acquire);
    if FORCES_WRITE_BACK.load(Ordering::Acquire) {
        more |= HCR_FWB;
    }
    if more != 0 {
        // No guest ran: no translation was made under the old value.
        write_sysreg!("hcr_el2", read_sysreg!("hcr_el2") | more);
        isb();
    }
}

/// The value of HCR_EL2 while any guest runs, apart from [`prepare_guests`].
fn hcr(features: Features) -> u64 {
    let mut hcr = HCR;
    if features.lor {
        hcr |= HCR_TLOR;
    }
    if features.ras {
        hcr |= HCR_TERR;
    }
    if features.mte {
        hcr |= HCR_TID5;
    }
    hcr
}

/// The value of MDCR_EL2 (D24.3.18): every debug, trace and counter access traps; all event counters stay the guest
/// level's, so that none is left counting for EL2. E2PB and E2TB are 0: profiling and trace buffers are EL2's, unused.
fn mdcr(features: Features) -> u64 {
    let mut mdcr = 1 << 11 | 1 << 10 | 1 << 9; // TDRA, TDOSA, TDA
    if features.pmu {
        let counters = read_sysreg!("pmcr_el0") >> 11 & 0x1f;
        mdcr |= 1 << 6 | 1 << 5 | counters; // TPM, TPMCR, HPMN
    }
    if features.spe {
        mdcr |= 1 << 14; // TPMS
    }
    if features.trf {
        mdcr |= 1 << 19; // TTRF
    }
    if features.fgt {
        mdcr |= 1 << 27; // TDCC: the debug communications channel
    }
    mdcr
}

/// Sets the executing pCPU's controls. Once, before its first guest.
pub(crate) fn init(features: Features) {
    write_sysreg!("hcr_el2", hcr(features));
    set_fp_trap(features, true);
    write_sysreg!("mdcr_el2", mdcr(features));
    // AArch32 programs: implementation-defined coprocessor 15 registers.
    write_sysreg!("hstr_el2", 1 << 15);
    // The physical counter is free, the physical timer traps (EL1PCTEN = 1, EL1PCEN = 0).
    write_sysreg!("cnthctl_el2", 1);
    // Guests see the CPU that they run on.
    write_sysreg!("vpidr_el2", read_sysreg!("midr_el1"));
    // No guest can change it (TDA), so whatever firmware left must go.
    write_sysreg!("mdscr_el1", 0);
    if features.hcx {
        // HCRX_EL2: what came with it stays off and traps.
        write_sysreg!("s3_4_c1_c2_2", 0);
    }
    if features.fgt {
        // HFGRTR, HFGWTR, HFGITR, HDFGRTR, HDFGWTR: no trap beyond those above; bits that enable stay 0.
        write_sysreg!("s3_4_c1_c1_4", 0);
        write_sysreg!("s3_4_c1_c1_5", 0);
        write_sysreg!("s3_4_c1_c1_6", 0);
        write_sysreg!("s3_4_c3_c1_4", 0);
        write_sysreg!("s3_4_c3_c1_5", 0);
    }
    if features.mpam {
        // MPAM2_EL2: MPAM0_EL1 and MPAM1_EL1 trap.
        write_sysreg!("s3_4_c10_c5_0", 3 << 48);
    }
    isb();
}

/// Makes a guest's FP and SIMD instructions trap, or not. Takes effect for the guest at the ERET, for EL2's own save and
/// restore after an ISB.
#[inline]
pub(crate) fn set_fp_trap(features: Features, trap: bool) {
    let mut cptr = CPTR;
    if trap {
        cptr |= CPTR_TFP;
    }
    if features.amu {
        cptr |= CPTR_TAM;
    }
    write_sysreg!("cptr_el2", cptr);
}
