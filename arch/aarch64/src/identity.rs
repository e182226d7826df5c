//! The ID registers of the executing pCPU, for the core, which combines those of all.

use crate::sysreg::read_sysreg;
use portunus::errata::{self, Mitigations};
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

/// What the errata of all pCPUs together need.
pub(crate) fn mitigations(pcpus: &[RawIdRegisters]) -> Mitigations {
    let each = pcpus.iter().map(|pcpu| errata::mitigations(pcpu.midr));
    each.fold(Mitigations::default(), Mitigations::or)
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
