//! The ID registers of the executing pCPU, for the core, which combines those of all.

use crate::sysreg::read_sysreg;
use portunus::trap::syndrome::Hpfar;
use portunus::trap::system_register::identification::RawIdRegisters;

macro_rules! row {
    ($m:literal) => {
        [
            read_sysreg!(concat!("s3_0_c0_c", $m, "_0")),
            read_sysreg!(concat!("s3_0_c0_c", $m, "_1")),
            read_sysreg!(concat!("s3_0_c0_c", $m, "_2")),
            read_sysreg!(concat!("s3_0_c0_c", $m, "_3")),
            read_sysreg!(concat!("s3_0_c0_c", $m, "_4")),
            read_sysreg!(concat!("s3_0_c0_c", $m, "_5")),
            read_sysreg!(concat!("s3_0_c0_c", $m, "_6")),
            read_sysreg!(concat!("s3_0_c0_c", $m, "_7")),
        ]
    };
}

/// Implementer, architecture and part number of MIDR_EL1 for a Cortex-A57.
const CORTEX_A57: u64 = 0x410f_d070;
/// Those fields.
const MODEL: u64 = 0xff0f_fff0;
/// The first Cortex-A57 without erratum 834220: r1p3, as variant and revision.
const CORTEX_A57_FIXED: (u64, u64) = (1, 3);

/// How far HPFAR_EL2 can be believed on the worst of the pCPUs.
pub(crate) fn hpfar(pcpus: &[RawIdRegisters]) -> Hpfar {
    let is_affected = |pcpu: &RawIdRegisters| {
        pcpu.midr & MODEL == CORTEX_A57 && (pcpu.midr >> 20 & 0xf, pcpu.midr & 0xf) < CORTEX_A57_FIXED
    };
    if pcpus.iter().any(is_affected) {
        Hpfar::WalksOnly
    } else {
        Hpfar::Architectural
    }
}

/// Reads them. What the architecture has not allocated reads as zero.
pub(crate) fn read() -> RawIdRegisters {
    RawIdRegisters {
        space: [
            row!("1"),
            row!("2"),
            row!("3"),
            row!("4"),
            row!("5"),
            row!("6"),
            row!("7"),
        ],
        midr: read_sysreg!("midr_el1"),
        revidr: read_sysreg!("revidr_el1"),
        ctr: read_sysreg!("ctr_el0"),
        clidr: read_sysreg!("clidr_el1"),
        dczid: read_sysreg!("dczid_el0"),
    }
}
