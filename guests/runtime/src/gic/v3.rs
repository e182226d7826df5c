//! GICv3: distributor and redistributors in memory, the CPU interface in system registers.

use core::arch::asm;

use dtoolkit::fdt::FdtNode;

use super::{DEFAULT_PRIORITY, gicd};
use crate::mmio::Registers;
use crate::{device_tree, smp};

const GICD_IROUTER: usize = 0x6000;
const GICR_TYPER: usize = 0x08;
const GICR_WAKER: usize = 0x14;
const FRAME: u64 = 0x1_0000;

/// A GICv3 as one vCPU sees it.
#[derive(Copy, Clone, Debug)]
pub struct GicV3 {
    pub(super) distributor: Registers,
    /// This vCPU's redistributor, first frame.
    pub redistributor: Registers,
    pub(super) sgi_frame: Registers,
}

fn affinity(mpidr: u64) -> u64 {
    mpidr & 0xff_ffff | mpidr >> 8 & 0xff00_0000
}

/// The redistributor whose GICR_TYPER names this vCPU.
fn find_redistributor(node: FdtNode<'static>) -> Registers {
    let own = affinity(smp::mpidr());
    let regions = device_tree::property_u32(node, "#redistributor-regions").unwrap_or(1) as usize;
    let stride = device_tree::property_u64(node, "redistributor-stride");
    for region in (1..=regions).filter_map(|index| device_tree::reg(node, index)) {
        let mut base = region.start;
        while base < region.end {
            // SAFETY: the device tree names a redistributor region here.
            let frame = unsafe { Registers::new(base as usize) };
            let typer = frame.read_u64(GICR_TYPER);
            if typer >> 32 == own {
                return frame;
            }
            const VLPIS: u64 = 1 << 1;
            const LAST: u64 = 1 << 4;
            if typer & LAST != 0 {
                break;
            }
            base += stride.unwrap_or(if typer & VLPIS != 0 { 4 * FRAME } else { 2 * FRAME });
        }
    }
    panic!("no redistributor for affinity {own:#x}");
}

impl GicV3 {
    pub(super) fn init(node: FdtNode<'static>) -> Self {
        let base = device_tree::reg(node, 0).expect("a GICv3 has a distributor").start as usize;
        // SAFETY: the device tree names the distributor.
        let distributor = unsafe { Registers::new(base) };
        let redistributor = find_redistributor(node);
        // SAFETY: the frame after the first belongs to the same redistributor.
        let sgi_frame = unsafe { Registers::new(redistributor.base() + FRAME as usize) };

        // Affinity routing, group 1.
        const ARE: u32 = 1 << 4;
        const ENABLE_GROUP1: u32 = 1 << 1;
        if distributor.read(gicd::CTLR) & (ARE | ENABLE_GROUP1) != ARE | ENABLE_GROUP1 {
            distributor.write(gicd::CTLR, ARE);
            distributor.write(gicd::CTLR, ARE | ENABLE_GROUP1);
        }
        const PROCESSOR_SLEEP: u32 = 1 << 1;
        const CHILDREN_ASLEEP: u32 = 1 << 2;
        redistributor.write(GICR_WAKER, redistributor.read(GICR_WAKER) & !PROCESSOR_SLEEP);
        while redistributor.read(GICR_WAKER) & CHILDREN_ASLEEP != 0 {}
        sgi_frame.write(gicd::IGROUPR, !0);
        for register in 0..8 {
            let priorities = u32::from_ne_bytes([DEFAULT_PRIORITY; 4]);
            sgi_frame.write(gicd::IPRIORITYR + 4 * register, priorities);
        }
        // SAFETY: sets up this vCPU's interface: system registers on, all priorities, group 1.
        unsafe {
            asm!(
                "mrs {x}, icc_sre_el1", "orr {x}, {x}, #1", "msr icc_sre_el1, {x}", "isb",
                "mov {x}, #0xff", "msr icc_pmr_el1, {x}",
                "msr icc_bpr1_el1, xzr", "msr icc_ctlr_el1, xzr",
                "mov {x}, #1", "msr icc_igrpen1_el1, {x}", "isb",
                x = out(reg) _, options(nostack, preserves_flags)
            );
        }
        Self {
            distributor,
            redistributor,
            sgi_frame,
        }
    }

    pub(super) fn route_here(&self, intid: u32) {
        let (register, bit) = (gicd::IGROUPR + 4 * (intid as usize / 32), 1 << (intid % 32));
        self.distributor.write(register, self.distributor.read(register) | bit);
        let own = smp::mpidr();
        self.distributor.write_u64(GICD_IROUTER + 8 * intid as usize, own);
    }
    pub(super) fn acknowledge(&self) -> u32 {
        let raw: u64;
        // SAFETY: acknowledges; the barrier keeps what follows after it.
        unsafe { asm!("mrs {}, icc_iar1_el1", "dsb sy", out(reg) raw, options(nostack, preserves_flags)) };
        raw as u32
    }
    pub(super) fn end(&self, raw: u32) {
        // SAFETY: ends what was acknowledged.
        unsafe { asm!("msr icc_eoir1_el1, {}", "isb", in(reg) u64::from(raw), options(nostack, preserves_flags)) };
    }
    pub(super) fn set_priority_mask(&self, mask: u8) {
        // SAFETY: only lets interrupts in or not.
        unsafe { asm!("msr icc_pmr_el1, {}", "isb", in(reg) u64::from(mask), options(nostack, preserves_flags)) };
    }
    pub(super) fn send(&self, number: u32, mpidr: u64) {
        let target = 1 << (mpidr & 0xf) | (mpidr >> 4 & 0xf) << 44;
        let levels = (mpidr >> 8 & 0xff) << 16 | (mpidr >> 16 & 0xff) << 32 | (mpidr >> 32 & 0xff) << 48;
        let value = target | levels | u64::from(number & 0xf) << 24;
        // SAFETY: interrupts another vCPU; the barrier lets it see what was written before.
        unsafe { asm!("dsb ishst", "msr icc_sgi1r_el1, {}", "isb", in(reg) value, options(nostack, preserves_flags)) };
    }
}
