//! GICv2: distributor and CPU interface in memory.

use dtoolkit::fdt::FdtNode;

use super::{DEFAULT_PRIORITY, gicd};
use crate::device_tree;
use crate::mmio::Registers;

const GICD_ITARGETSR: usize = 0x800;
const GICD_SGIR: usize = 0xf00;
const GICC_CTLR: usize = 0x00;
const GICC_PMR: usize = 0x04;
const GICC_BPR: usize = 0x08;
const GICC_IAR: usize = 0x0c;
const GICC_EOIR: usize = 0x10;

/// A GICv2.
#[derive(Copy, Clone, Debug)]
pub struct GicV2 {
    pub(super) distributor: Registers,
    /// The CPU interface.
    pub interface: Registers,
}

pub(super) enum SgiTarget {
    Own,
    Interface(u8),
}

impl GicV2 {
    pub(super) fn init(node: FdtNode<'static>) -> Self {
        let base = |index| {
            device_tree::reg(node, index)
                .expect("a GICv2 has two register frames")
                .start as usize
        };
        // SAFETY: the device tree names the GIC's frames.
        let (distributor, interface) = unsafe { (Registers::new(base(0)), Registers::new(base(1))) };
        for register in 0..8 {
            let priorities = u32::from_ne_bytes([DEFAULT_PRIORITY; 4]);
            distributor.write(gicd::IPRIORITYR + 4 * register, priorities);
        }
        distributor.write(gicd::CTLR, 1);
        interface.write(GICC_PMR, 0xff);
        interface.write(GICC_BPR, 0);
        interface.write(GICC_CTLR, 1);
        Self { distributor, interface }
    }

    pub(super) fn route_here(&self, intid: u32) {
        // The private interrupts' target registers read as this interface's own bit.
        let own = self.distributor.read(GICD_ITARGETSR) as u8;
        self.distributor.write_u8(GICD_ITARGETSR + intid as usize, own.max(1));
    }
    pub(super) fn acknowledge(&self) -> u32 {
        self.interface.read(GICC_IAR)
    }
    pub(super) fn end(&self, raw: u32) {
        self.interface.write(GICC_EOIR, raw);
    }
    pub(super) fn set_priority_mask(&self, mask: u8) {
        self.interface.write(GICC_PMR, mask.into());
    }
    pub(super) fn send(&self, number: u32, target: SgiTarget) {
        let filter = match target {
            SgiTarget::Own => 2 << 24,
            SgiTarget::Interface(index) => 1 << (16 + (u32::from(index) & 7)),
        };
        // SAFETY: a barrier: what the SGI announces is seen first.
        unsafe { core::arch::asm!("dsb ishst", options(nostack, preserves_flags)) };
        self.distributor.write(GICD_SGIR, filter | number & 0xf);
    }
}
