//! The interrupt controller, GICv2 or GICv3, as one guest vCPU uses it.

mod v2;
mod v3;

use crate::device_tree;
use crate::mmio::Registers;

/// Returned by an acknowledge that found nothing (and other special numbers above it).
pub const SPURIOUS: u32 = 1023;
/// The first number that is no interrupt.
const SPECIAL: u32 = 1020;

/// Distributor register offsets, the same in both versions.
mod gicd {
    pub(super) const CTLR: usize = 0x000;
    pub(super) const TYPER: usize = 0x004;
    pub(super) const IGROUPR: usize = 0x080;
    pub(super) const ISENABLER: usize = 0x100;
    pub(super) const ICENABLER: usize = 0x180;
    pub(super) const ISPENDR: usize = 0x200;
    pub(super) const ICPENDR: usize = 0x280;
    pub(super) const IPRIORITYR: usize = 0x400;
    pub(super) const ICFGR: usize = 0xc00;
}

/// A priority in the middle.
pub const DEFAULT_PRIORITY: u8 = 0xa0;

/// An acknowledged interrupt, to be ended.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Acknowledged {
    /// Which.
    pub intid: u32,
    /// As the acknowledge register gave it (GICv2: with the sender of an SGI).
    raw: u32,
}

impl Acknowledged {
    /// GICv2: the interface that sent this SGI.
    pub const fn sender(&self) -> u32 {
        self.raw >> 10 & 7
    }
}

/// The controller as seen from the vCPU that made this value.
#[derive(Copy, Clone, Debug)]
pub enum Gic {
    /// GICv2
    V2(v2::GicV2),
    /// GICv3
    V3(v3::GicV3),
}

impl Gic {
    /// Finds the controller in the device tree and sets up the distributor and this vCPU's interface: all priorities
    /// let in, nothing enabled. On further vCPUs the distributor stays as it is.
    ///
    /// # Panics
    /// When there is none.
    pub fn init() -> Self {
        if let Some(node) = device_tree::find_compatible(&["arm,gic-v3"]) {
            return Self::V3(v3::GicV3::init(node));
        }
        let node = device_tree::find_compatible(&["arm,cortex-a15-gic", "arm,gic-400", "arm,cortex-a9-gic"]);
        Self::V2(v2::GicV2::init(
            node.expect("the device tree has an interrupt controller"),
        ))
    }

    /// The distributor's registers, for tests that go beyond this driver.
    pub fn distributor(&self) -> Registers {
        match self {
            Self::V2(gic) => gic.distributor,
            Self::V3(gic) => gic.distributor,
        }
    }

    /// Where the registers of `intid` are: the redistributor's SGI frame for private ones on GICv3, else the distributor.
    pub fn frame(&self, intid: u32) -> Registers {
        match self {
            Self::V3(gic) if intid < 32 => gic.sgi_frame,
            _ => self.distributor(),
        }
    }

    /// Enables an interrupt with the default priority, routed to this vCPU.
    pub fn enable(&self, intid: u32, edge: bool) {
        let frame = self.frame(intid);
        frame.write_u8(gicd::IPRIORITYR + intid as usize, DEFAULT_PRIORITY);
        if intid >= 16 {
            let register = gicd::ICFGR + 4 * (intid as usize / 16);
            let bit = 2 << (2 * (intid % 16));
            let others = frame.read(register) & !bit;
            frame.write(register, if edge { others | bit } else { others });
        }
        if intid >= 32 {
            self.route_here(intid);
        }
        frame.write(gicd::ISENABLER + 4 * (intid as usize / 32), 1 << (intid % 32));
    }
    /// Disables an interrupt.
    pub fn disable(&self, intid: u32) {
        let frame = self.frame(intid);
        frame.write(gicd::ICENABLER + 4 * (intid as usize / 32), 1 << (intid % 32));
    }
    /// Sets an interrupt's priority: 0 is the highest.
    pub fn set_priority(&self, intid: u32, priority: u8) {
        self.frame(intid).write_u8(gicd::IPRIORITYR + intid as usize, priority);
    }
    /// Makes an interrupt pending by software.
    pub fn set_pending(&self, intid: u32) {
        let frame = self.frame(intid);
        frame.write(gicd::ISPENDR + 4 * (intid as usize / 32), 1 << (intid % 32));
    }
    /// Takes back what [`Self::set_pending`] did.
    pub fn clear_pending(&self, intid: u32) {
        let frame = self.frame(intid);
        frame.write(gicd::ICPENDR + 4 * (intid as usize / 32), 1 << (intid % 32));
    }
    /// Sends an SPI to this vCPU.
    pub fn route_here(&self, intid: u32) {
        match self {
            Self::V2(gic) => gic.route_here(intid),
            Self::V3(gic) => gic.route_here(intid),
        }
    }
    /// Interrupts that the distributor has, rounded up to 32.
    pub fn interrupts(&self) -> u32 {
        32 * ((self.distributor().read(gicd::TYPER) & 0x1f) + 1)
    }

    /// The highest pending interrupt, made active.
    pub fn acknowledge(&self) -> Option<Acknowledged> {
        let raw = match self {
            Self::V2(gic) => gic.acknowledge(),
            Self::V3(gic) => gic.acknowledge(),
        };
        let intid = match self {
            Self::V2(_) => raw & 0x3ff,
            Self::V3(_) => raw & 0xff_ffff,
        };
        (!(SPECIAL..=SPURIOUS).contains(&intid)).then_some(Acknowledged { intid, raw })
    }
    /// Ends an interrupt.
    pub fn end(&self, acknowledged: Acknowledged) {
        match self {
            Self::V2(gic) => gic.end(acknowledged.raw),
            Self::V3(gic) => gic.end(acknowledged.raw),
        }
    }
    /// Lets in only interrupts of a higher priority (a lower number) than `mask`.
    pub fn set_priority_mask(&self, mask: u8) {
        match self {
            Self::V2(gic) => gic.set_priority_mask(mask),
            Self::V3(gic) => gic.set_priority_mask(mask),
        }
    }
    /// Sends SGI `number` to this vCPU.
    pub fn send_to_self(&self, number: u32) {
        match self {
            Self::V2(gic) => gic.send(number, v2::SgiTarget::Own),
            Self::V3(gic) => gic.send(number, crate::smp::mpidr()),
        }
    }
    /// Sends SGI `number` to the vCPU `mpidr`; GICv2: whose interface has the number in its affinity 0.
    pub fn send_to(&self, number: u32, mpidr: u64) {
        match self {
            Self::V2(gic) => gic.send(number, v2::SgiTarget::Interface(mpidr as u8)),
            Self::V3(gic) => gic.send(number, mpidr),
        }
    }
}
