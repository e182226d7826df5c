//! Distributor and redistributor registers of one interrupt, as the executing vCPU reaches them.

use guest_runtime::gic::Gic;

/// Registers with a bit for each interrupt.
pub(crate) const ISENABLER: usize = 0x100;
pub(crate) const ISPENDR: usize = 0x200;
pub(crate) const ISACTIVER: usize = 0x300;
pub(crate) const ICACTIVER: usize = 0x380;
const IPRIORITYR: usize = 0x400;
const ITARGETSR: usize = 0x800;
const ICFGR: usize = 0xc00;
const IROUTER: usize = 0x6000;
/// GICv2: an SGI's senders, a byte for each SGI.
pub(crate) const CPENDSGIR: usize = 0xf10;
pub(crate) const SPENDSGIR: usize = 0xf20;
/// GICv2: sends.
pub(crate) const SGIR: usize = 0xf00;
/// Distributor control.
pub(crate) const CTLR: usize = 0;

/// Writes a one for `intid` to a register of bits.
pub(crate) fn set(gic: &Gic, register: usize, intid: u32) {
    gic.frame(intid)
        .write(register + 4 * (intid as usize / 32), 1 << (intid % 32));
}

/// The bit of `intid` in a register of bits.
pub(crate) fn get(gic: &Gic, register: usize, intid: u32) -> bool {
    gic.frame(intid).read(register + 4 * (intid as usize / 32)) >> (intid % 32) & 1 != 0
}

/// Its priority.
pub(crate) fn priority(gic: &Gic, intid: u32) -> u8 {
    let word = gic.frame(intid).read(IPRIORITYR + (intid as usize & !3));
    word.to_le_bytes()[intid as usize % 4]
}

/// Edge-triggered or level-sensitive.
pub(crate) fn configure(gic: &Gic, intid: u32, edge: bool) {
    let (frame, register, bit) = (
        gic.frame(intid),
        ICFGR + 4 * (intid as usize / 16),
        2 << (2 * (intid % 16)),
    );
    let others = frame.read(register) & !bit;
    frame.write(register, if edge { others | bit } else { others });
}

/// Whether it is edge-triggered.
pub(crate) fn is_edge(gic: &Gic, intid: u32) -> bool {
    gic.frame(intid).read(ICFGR + 4 * (intid as usize / 16)) >> (2 * (intid % 16)) & 2 != 0
}

/// Sends an SPI to vCPU `to`, which has that number in its affinity 0 and as CPU interface.
pub(crate) fn route(gic: &Gic, intid: u32, to: usize) {
    match gic {
        Gic::V2(_) => gic.distributor().write_u8(ITARGETSR + intid as usize, 1 << to),
        Gic::V3(_) => gic.distributor().write_u64(IROUTER + 8 * intid as usize, to as u64),
    }
}

/// The vCPU that an SPI is sent to.
pub(crate) fn routed_to(gic: &Gic, intid: u32) -> usize {
    match gic {
        Gic::V2(_) => {
            let word = gic.distributor().read(ITARGETSR + (intid as usize & !3));
            word.to_le_bytes()[intid as usize % 4].trailing_zeros() as usize
        }
        Gic::V3(_) => gic.distributor().read_u64(IROUTER + 8 * intid as usize) as usize,
    }
}

/// Whom an SGI goes to.
#[derive(Copy, Clone, Debug)]
pub(crate) enum SgiTargets {
    /// The vCPUs with a one in these bits.
    List(u64),
    /// All but the sender.
    Others,
}

/// Sends an SGI.
pub(crate) fn send(gic: &Gic, number: u32, targets: SgiTargets) {
    match (gic, targets) {
        (Gic::V2(_), SgiTargets::List(list)) => gic.distributor().write(SGIR, (list as u32) << 16 | number),
        (Gic::V2(_), SgiTargets::Others) => gic.distributor().write(SGIR, 1 << 24 | number),
        (Gic::V3(_), targets) => {
            let targets = match targets {
                SgiTargets::List(list) => list,
                SgiTargets::Others => 1 << 40,
            };
            let value = targets | u64::from(number) << 24;
            // SAFETY: sends an SGI, after what was written before.
            unsafe {
                core::arch::asm!("dsb ishst", "msr icc_sgi1r_el1, {}", "isb", in(reg) value, options(nostack, preserves_flags));
            }
        }
    }
}

/// Whether ending an interrupt leaves it active until [`deactivate`] (EOImode).
pub(crate) fn set_separate_deactivation(gic: &Gic, separate: bool) {
    match gic {
        Gic::V2(gic) => {
            let control = gic.interface.read(0) & !(1 << 9);
            gic.interface
                .write(0, if separate { control | 1 << 9 } else { control });
        }
        // SAFETY: changes what ending an interrupt does; nothing is active.
        Gic::V3(_) => unsafe {
            core::arch::asm!("msr icc_ctlr_el1, {}", "isb", in(reg) u64::from(separate) << 1, options(nostack, preserves_flags));
        },
    }
}

/// Deactivates an interrupt that was ended.
pub(crate) fn deactivate(gic: &Gic, intid: u32) {
    match gic {
        Gic::V2(gic) => gic.interface.write(0x1000, intid),
        // SAFETY: of an interrupt that this vCPU has ended.
        Gic::V3(_) => unsafe {
            core::arch::asm!("msr icc_dir_el1, {}", "isb", in(reg) u64::from(intid), options(nostack, preserves_flags));
        },
    }
}
