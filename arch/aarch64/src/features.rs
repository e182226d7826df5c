//! What the machine's CPUs have beyond Armv8.0, as far as EL2's own work depends on it. Read on each pCPU; the least of
//! all counts where a vCPU's state is concerned.

use crate::sysreg::{field, read_sysreg};
use portunus::errata::mitigations;

/// Optional parts of the architecture that this pCPU implements.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) struct Features {
    /// FEAT_PAuth in any algorithm: keys are switched where they are used.
    pub(crate) pointer_authentication: bool,
    /// FEAT_SVE
    pub(crate) sve: bool,
    /// FEAT_SME
    pub(crate) sme: bool,
    /// FEAT_MTE or later.
    pub(crate) mte: bool,
    /// FEAT_AMUv1.
    pub(crate) amu: bool,
    /// FEAT_RAS.
    pub(crate) ras: bool,
    /// FEAT_LOR.
    pub(crate) lor: bool,
    /// FEAT_HCX.
    pub(crate) hcx: bool,
    /// FEAT_FGT.
    pub(crate) fgt: bool,
    /// FEAT_MPAM.
    pub(crate) mpam: bool,
    /// FEAT_TRF.
    pub(crate) trf: bool,
    /// Performance counters (PMUv3).
    pub(crate) pmu: bool,
    /// FEAT_SPE.
    pub(crate) spe: bool,
    /// Its errata need stage-1 walks closed while a vCPU is replaced.
    pub(crate) close_walks: bool,
}

impl Features {
    /// Armv8.0 alone.
    pub(crate) const NONE: Self = Self {
        pointer_authentication: false,
        sve: false,
        sme: false,
        mte: false,
        amu: false,
        ras: false,
        lor: false,
        hcx: false,
        fgt: false,
        mpam: false,
        trf: false,
        pmu: false,
        spe: false,
        close_walks: false,
    };

    /// What the executing pCPU's ID registers say (Arm ARM, D23.2).
    pub(crate) fn read() -> Self {
        let isar1 = read_sysreg!("id_aa64isar1_el1");
        let isar2 = read_sysreg!("s3_0_c0_c6_2");
        let mmfr0 = read_sysreg!("id_aa64mmfr0_el1");
        let mmfr1 = read_sysreg!("id_aa64mmfr1_el1");
        let pfr0 = read_sysreg!("id_aa64pfr0_el1");
        let pfr1 = read_sysreg!("id_aa64pfr1_el1");
        let dfr0 = read_sysreg!("id_aa64dfr0_el1");
        let algorithms = [
            (isar1, 4),
            (isar1, 8),
            (isar1, 24),
            (isar1, 28),
            (isar2, 8),
            (isar2, 12),
        ];
        let pmu = field(dfr0, 8);
        Self {
            pointer_authentication: algorithms.iter().any(|(register, shift)| field(*register, *shift) != 0),
            sve: field(pfr0, 32) != 0,
            sme: field(pfr1, 24) != 0,
            mte: field(pfr1, 8) != 0,
            amu: field(pfr0, 44) != 0,
            ras: field(pfr0, 28) != 0,
            lor: field(mmfr1, 16) != 0,
            hcx: field(mmfr1, 40) != 0,
            fgt: field(mmfr0, 56) != 0,
            mpam: field(pfr0, 40) != 0 || field(pfr1, 16) != 0,
            trf: field(dfr0, 40) != 0,
            pmu: pmu != 0 && pmu != 0xf,
            spe: field(dfr0, 32) != 0,
            close_walks: mitigations(read_sysreg!("midr_el1")).close_walks,
        }
    }
}
