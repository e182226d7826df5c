//! The ID registers that guests see: what every pCPU has, less what a vCPU does not get.
//!
//! A guest decides once, at boot, what its CPUs can do, and may run on any of them; so each field shows the least of
//! all pCPUs (Arm ARM, D24.1.3, Principles of the ID scheme for fields in ID registers). Fields are shown by the table
//! below and by nothing else: a feature that the table does not name reads as absent, however new it is. Hidden on
//! purpose: SVE, SME, MTE, PMU, AMU, SPE, TRBE, BRBE, RAS, MPAM, nested virtualisation, EL3, LORegions, 52-bit
//! addresses, and every feature that works only if EL2 switches state or sets HCRX_EL2 for it.
//!
//! MIDR_EL1 and REVIDR_EL1 are no part of this: they are those of the pCPU that the vCPU is pinned to, whose errata its
//! kernel works around.

use thiserror::Error;

use super::super::exception::PstateFeatures;

/// The ID registers of one pCPU, as EL2 reads them.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct RawIdRegisters {
    /// S3_0_C0_C`m`_`n` at `[m - 1][n]`: AArch32's in rows 0 to 2, AArch64's in rows 3 to 6.
    pub space: [[u64; 8]; 7],
    /// MIDR_EL1
    pub midr: u64,
    /// REVIDR_EL1
    pub revidr: u64,
    /// CTR_EL0
    pub ctr: u64,
    /// CLIDR_EL1
    pub clidr: u64,
    /// DCZID_EL0, as EL2 reads it with HCR_EL2.TDZ = 0.
    pub dczid: u64,
}

impl RawIdRegisters {
    /// Those of no pCPU.
    pub const NONE: Self = Self {
        space: [[0; 8]; 7],
        midr: 0,
        revidr: 0,
        ctr: 0,
        clidr: 0,
        dczid: 0,
    };

    /// What a guest that runs on both would see change.
    pub const fn differences(&self, other: &Self) -> IdTraps {
        IdTraps {
            cache: self.ctr != other.ctr || self.clidr != other.clidr,
            zero_block: self.dczid != other.dczid,
        }
    }
}

/// What guests are to see of the machine around the CPUs.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct IdOptions {
    /// GICv3: the CPU interface is system registers.
    pub gic_system_registers: bool,
    /// Bits of an intermediate physical address; ID_AA64MMFR0_EL1.PARange shows no more.
    pub ipa_bits: u8,
}

/// A machine whose ID registers can't be combined.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Error)]
pub enum IdError {
    /// No pCPU was given.
    #[error("no pCPU")]
    NoPcpu,
    /// Guests can't have an address space of so few bits: PARange has no such value.
    #[error("an IPA of {0} bits is smaller than any PARange")]
    IpaBits(u8),
}

/// How the values of one field on several pCPUs become one.
#[derive(Copy, Clone)]
enum Rule {
    /// The least unsigned value.
    Least,
    /// The least unsigned value, and no more than this.
    Most(u64),
    /// The least as two's complement: 0xf is "absent".
    Signed,
    /// Signed, and no more than this.
    SignedMost(i64),
    /// The greatest: the field warns of something.
    Greatest,
    /// The value that all share, or 0.
    Same,
    /// This, whatever the hardware has.
    Always(u64),
}

impl Rule {
    fn combine(self, left: u64, right: u64) -> u64 {
        match self {
            Self::Least | Self::Most(_) => left.min(right),
            Self::Signed | Self::SignedMost(_) => {
                if signed(left) < signed(right) {
                    left
                } else {
                    right
                }
            }
            Self::Greatest => left.max(right),
            Self::Same => {
                if left == right {
                    left
                } else {
                    0
                }
            }
            Self::Always(value) => value,
        }
    }
    fn limit(self, value: u64) -> u64 {
        match self {
            Self::Most(limit) => value.min(limit),
            Self::SignedMost(limit) if signed(value) > limit => (limit & 0xf) as u64,
            Self::Always(value) => value,
            _ => value,
        }
    }
}

const fn signed(field: u64) -> i64 {
    (field << 60) as i64 >> 60
}

/// One shown field: row and column in [`RawIdRegisters::space`], lowest bit, rule.
struct Field(usize, usize, u32, Rule);

use Rule::{Always, Greatest, Least, Most, Same, Signed, SignedMost};

const PFR0: (usize, usize) = (3, 0);
const PFR1: (usize, usize) = (3, 1);
const DFR0: (usize, usize) = (4, 0);
const ISAR1: (usize, usize) = (5, 1);
const ISAR2: (usize, usize) = (5, 2);
const MMFR0: (usize, usize) = (6, 0);
const MMFR1: (usize, usize) = (6, 1);

#[rustfmt::skip]
const AARCH64_FIELDS: &[Field] = &[
    // ID_AA64PFR0_EL1: EL0, EL1 (AArch64 alone: HCR_EL2.RW), FP, AdvSIMD, DIT, CSV2 (not SCXTNUM_ELx), CSV3. GIC below.
    Field(3, 0, 0, Least), Field(3, 0, 4, Always(1)), Field(3, 0, 16, Signed), Field(3, 0, 20, Signed),
    Field(3, 0, 24, Most(1)), Field(3, 0, 48, Least), Field(3, 0, 56, Most(1)), Field(3, 0, 60, Least),
    // ID_AA64PFR1_EL1: BT, SSBS, CSV2_frac (not SCXTNUM_ELx).
    Field(3, 1, 0, Least), Field(3, 1, 4, Least), Field(3, 1, 32, Most(1)),
    // ID_AA64DFR0_EL1: Armv8 debug with the fewest comparators; OS Double Lock absent.
    Field(4, 0, 0, Always(6)), Field(4, 0, 12, Always(1)), Field(4, 0, 20, Always(1)), Field(4, 0, 36, Always(0xf)),
    // ID_AA64ISAR0_EL1: AES, SHA1, SHA2, CRC32, Atomic, RDM, SHA3, SM3, SM4, DP, FHM, TS, TLB, RNDR. (TME is hidden.)
    Field(5, 0, 4, Least), Field(5, 0, 8, Least), Field(5, 0, 12, Least), Field(5, 0, 16, Least),
    Field(5, 0, 20, Least), Field(5, 0, 28, Least), Field(5, 0, 32, Least), Field(5, 0, 36, Least),
    Field(5, 0, 40, Least), Field(5, 0, 44, Least), Field(5, 0, 48, Least), Field(5, 0, 52, Least),
    Field(5, 0, 56, Least), Field(5, 0, 60, Least),
    // ID_AA64ISAR1_EL1: DPB, APA, API, JSCVT, FCMA, LRCPC, GPA, GPI, FRINTTS, SB, SPECRES, BF16, DGH, I8MM.
    Field(5, 1, 0, Least), Field(5, 1, 4, Same), Field(5, 1, 8, Same), Field(5, 1, 12, Least),
    Field(5, 1, 16, Least), Field(5, 1, 20, Most(2)), Field(5, 1, 24, Same), Field(5, 1, 28, Same),
    Field(5, 1, 32, Least), Field(5, 1, 36, Least), Field(5, 1, 40, Least), Field(5, 1, 44, Least),
    Field(5, 1, 48, Least), Field(5, 1, 52, Least),
    // ID_AA64ISAR2_EL1: RPRES, GPA3, APA3, BC, PAC_frac, CLRBHB, RPRFM, CSSC. (WFxT and MOPS need EL2's help.)
    Field(5, 2, 4, Least), Field(5, 2, 8, Same), Field(5, 2, 12, Same), Field(5, 2, 20, Least),
    Field(5, 2, 24, Same), Field(5, 2, 28, Least), Field(5, 2, 48, Least), Field(5, 2, 52, Least),
    // ID_AA64MMFR0_EL1: PARange, ASIDBits, BigEnd, SNSMem, BigEndEL0, TGran16, TGran64, TGran4: 48 bits at most.
    Field(6, 0, 0, Most(5)), Field(6, 0, 4, Least), Field(6, 0, 8, Least), Field(6, 0, 12, Least),
    Field(6, 0, 16, Least), Field(6, 0, 20, Most(1)), Field(6, 0, 24, Signed), Field(6, 0, 28, SignedMost(0)),
    // ID_AA64MMFR1_EL1: HAFDBS, HPDS, PAN, SpecSEI, ETS, AFP, nTLBPA, ECBHB.
    Field(6, 1, 0, Most(2)), Field(6, 1, 12, Least), Field(6, 1, 20, Least), Field(6, 1, 24, Greatest),
    Field(6, 1, 36, Least), Field(6, 1, 44, Least), Field(6, 1, 48, Least), Field(6, 1, 60, Least),
    // ID_AA64MMFR2_EL1: CnP, UAO, LSM, CCIDX, ST, AT, IDS, TTL, BBM, E0PD. (VARange: 48 bits.)
    Field(6, 2, 0, Least), Field(6, 2, 4, Least), Field(6, 2, 8, Most(1)), Field(6, 2, 20, Least),
    Field(6, 2, 28, Least), Field(6, 2, 32, Least), Field(6, 2, 36, Most(1)), Field(6, 2, 48, Least),
    Field(6, 2, 52, Least), Field(6, 2, 60, Least),
];

/// Fields of AArch32 ID registers that guests do not see; all others are the least of all pCPUs.
#[rustfmt::skip]
const AARCH32_FIELDS: &[Field] = &[
    // ID_PFR0: AMU, RAS. ID_PFR1: Security, Virtualization, Sec_frac, Virt_frac. GIC below.
    Field(0, 0, 20, Always(0)), Field(0, 0, 28, Always(0)), Field(0, 1, 4, Always(0)), Field(0, 1, 12, Always(0)),
    Field(0, 1, 20, Always(0)), Field(0, 1, 24, Always(0)), Field(0, 1, 28, Most(1)),
    // ID_DFR0: CopDbg of Armv8, nothing of CopSDbg, MMapDbg, traces, MProfDbg, PMU, TraceFilt.
    Field(0, 2, 0, Always(6)), Field(0, 2, 4, Always(0)), Field(0, 2, 8, Always(0)), Field(0, 2, 12, Always(0)),
    Field(0, 2, 16, Always(0)), Field(0, 2, 20, Always(0)), Field(0, 2, 24, Always(0)), Field(0, 2, 28, Always(0)),
    // ID_PFR2: RAS_frac. ID_DFR1: nothing.
    Field(2, 4, 8, Always(0)), Field(2, 5, 0, Always(0)), Field(2, 5, 4, Always(0)),
];

/// Where each row's AArch32 registers end: ID_PFR0 to ID_MMFR3, ID_ISAR0 to ID_ISAR6 (with ID_MMFR4), MVFR0 to MVFR2 and
/// ID_PFR2, ID_DFR1, ID_MMFR5.
const AARCH32_COLUMNS: [&[usize]; 3] = [
    &[0, 1, 2, 3, 4, 5, 6, 7],
    &[0, 1, 2, 3, 4, 5, 6, 7],
    &[0, 1, 2, 4, 5, 6],
];

/// The ID registers that every guest sees.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct IdRegisters {
    space: [[u64; 8]; 7],
    ctr: u64,
    clidr: u64,
}

/// Which reads must trap because hardware would show something else.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct IdTraps {
    /// HCR_EL2.TID2: CTR_EL0 or the cache ID registers differ between pCPUs.
    pub cache: bool,
    /// HCR_EL2.TDZ: pCPUs clear blocks of different sizes with DC ZVA, so guests may not use it (DCZID_EL0.DZP reads 1).
    pub zero_block: bool,
}

impl IdRegisters {
    /// Combines the ID registers of all pCPUs that run guests; the first is the one that booted.
    ///
    /// # Errors
    /// [`IdError`]
    pub fn combine(pcpus: &[RawIdRegisters], options: &IdOptions) -> Result<Self, IdError> {
        let (first, rest) = pcpus.split_first().ok_or(IdError::NoPcpu)?;
        let parange_limit = parange(options.ipa_bits).ok_or(IdError::IpaBits(options.ipa_bits))?;
        let mut space = [[0; 8]; 7];

        for Field(row, column, shift, rule) in AARCH64_FIELDS {
            let values = pcpus.iter().map(|raw| field(&raw.space, (*row, *column), *shift));
            let value = values.reduce(|left, right| rule.combine(left, right)).unwrap_or(0);
            set_field(&mut space, (*row, *column), *shift, rule.limit(value));
        }
        if !options.gic_system_registers {
            set_field(&mut space, PFR0, 24, 0);
        }
        let physical_range = field(&space, MMFR0, 0).min(parange_limit);
        set_field(&mut space, MMFR0, 0, physical_range);
        hide_partial_pointer_authentication(pcpus, &mut space);

        if field(&space, PFR0, 0) == 2 {
            combine_aarch32(pcpus, &mut space);
            if !options.gic_system_registers {
                set_field(&mut space, (0, 1), 28, 0);
            }
        }

        let ctr = rest
            .iter()
            .fold(first.ctr, |ctr, raw| strictest_cache_type(ctr, raw.ctr));
        Ok(Self {
            space,
            ctr: ctr & !CTR_TMINLINE,
            clidr: first.clidr & !CLIDR_TAGS,
        })
    }

    /// S3_0_C0_C`crm`_`op2` for `crm` from 1 to 7; registers that are not shown read as zero.
    pub fn read_space(&self, crm: u8, op2: u8) -> u64 {
        usize::from(crm)
            .checked_sub(1)
            .and_then(|row| self.space.get(row))
            .and_then(|row| row.get(usize::from(op2)))
            .copied()
            .unwrap_or(0)
    }
    /// CTR_EL0: the strictest of all pCPUs.
    pub const fn ctr(&self) -> u64 {
        self.ctr
    }
    /// CLIDR_EL1 of the pCPU that booted.
    pub const fn clidr(&self) -> u64 {
        self.clidr
    }
    /// Guests have pointer authentication: HCR_EL2.API and APK are set, and its keys are switched.
    pub fn pointer_authentication(&self) -> bool {
        PAUTH_FIELDS
            .iter()
            .any(|(register, shift)| field(&self.space, *register, *shift) != 0)
    }
    /// The parts of PSTATE that exception entry must set.
    pub fn pstate_features(&self) -> PstateFeatures {
        PstateFeatures {
            pan: field(&self.space, MMFR1, 20) != 0,
            ssbs: field(&self.space, PFR1, 4) != 0,
            mte: false,
            nmi: false,
        }
    }
    /// The greatest number of breakpoints that DBGBVR`n`_EL1 exist for.
    pub fn breakpoints(&self) -> u8 {
        field(&self.space, DFR0, 12) as u8 + 1
    }
    /// The greatest number of watchpoints that DBGWVR`n`_EL1 exist for.
    pub fn watchpoints(&self) -> u8 {
        field(&self.space, DFR0, 20) as u8 + 1
    }
}

/// Fields that say which algorithm signs pointers: APA, API, GPA, GPI, GPA3, APA3.
const PAUTH_FIELDS: [((usize, usize), u32); 6] = [
    (ISAR1, 4),
    (ISAR1, 8),
    (ISAR1, 24),
    (ISAR1, 28),
    (ISAR2, 8),
    (ISAR2, 12),
];

/// A pointer signed on one pCPU must authenticate on another: one algorithm for all, or none at all.
fn hide_partial_pointer_authentication(pcpus: &[RawIdRegisters], space: &mut [[u64; 8]; 7]) {
    let differs = pcpus.iter().any(|raw| {
        PAUTH_FIELDS
            .iter()
            .any(|(register, shift)| field(&raw.space, *register, *shift) != field(space, *register, *shift))
    });
    if differs {
        for (register, shift) in PAUTH_FIELDS {
            set_field(space, register, shift, 0);
        }
        set_field(space, ISAR2, 24, 0);
    }
}

fn combine_aarch32(pcpus: &[RawIdRegisters], space: &mut [[u64; 8]; 7]) {
    for (row, columns) in AARCH32_COLUMNS.iter().enumerate() {
        for column in *columns {
            for shift in (0..32).step_by(4) {
                let values = pcpus.iter().map(|raw| field(&raw.space, (row, *column), shift));
                set_field(space, (row, *column), shift, values.min().unwrap_or(0));
            }
        }
    }
    for Field(row, column, shift, rule) in AARCH32_FIELDS {
        let value = rule.limit(field(space, (*row, *column), *shift));
        set_field(space, (*row, *column), *shift, value);
    }
}

fn field(space: &[[u64; 8]; 7], (row, column): (usize, usize), shift: u32) -> u64 {
    let register = space.get(row).and_then(|row| row.get(column)).copied();
    register.unwrap_or(0) >> shift & 0xf
}

fn set_field(space: &mut [[u64; 8]; 7], (row, column): (usize, usize), shift: u32, value: u64) {
    if let Some(register) = space.get_mut(row).and_then(|row| row.get_mut(column)) {
        *register = *register & !(0xf << shift) | (value & 0xf) << shift;
    }
}

/// The greatest PARange for no more than `bits` bits (ID_AA64MMFR0_EL1).
const fn parange(bits: u8) -> Option<u64> {
    match bits {
        0..32 => None,
        32..36 => Some(0),
        36..40 => Some(1),
        40..42 => Some(2),
        42..44 => Some(3),
        44..48 => Some(4),
        _ => Some(5),
    }
}

const CTR_TMINLINE: u64 = 0x3f << 32;
/// Ttype fields: allocation-tag caches.
const CLIDR_TAGS: u64 = 0x3fff << 33;

/// CTR_EL0 that is safe on both pCPUs: the smallest lines, the largest granules, the weakest promises.
fn strictest_cache_type(left: u64, right: u64) -> u64 {
    let get = |value: u64, shift: u32, mask: u64| value >> shift & mask;
    let least = |shift, mask| get(left, shift, mask).min(get(right, shift, mask)) << shift;
    // ERG and CWG: 0 says nothing, so the architecture's maximum must be assumed.
    let granule = |shift| {
        let (left, right) = (get(left, shift, 0xf), get(right, shift, 0xf));
        (if left == 0 || right == 0 { 0 } else { left.max(right) }) << shift
    };
    // IminLine, L1Ip (VIPT = 2 < PIPT = 3), DminLine, ERG, CWG, IDC, DIC, RES1.
    least(0, 0xf) | least(14, 3) | least(16, 0xf) | granule(20) | granule(24) | least(28, 1) | least(29, 1) | 1 << 31
}
