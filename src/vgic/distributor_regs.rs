//! Offsets of the GIC's memory-mapped registers, in the specifications' order. No logic.
//!
//! GICD: IHI 0069 section 12.9, IHI 0048 section 4.1.2. GICR: IHI 0069 section 12.11.

/// Bytes of a GICv2 distributor.
pub(super) const GICD_V2_SIZE: u64 = 0x1000;
/// Bytes of a GICv3 distributor.
pub(super) const GICD_V3_SIZE: u64 = 0x1_0000;
/// Bytes of one redistributor: the RD frame, then the SGI frame.
pub(super) const GICR_SIZE: u64 = 0x2_0000;
/// Where the SGI frame begins in a redistributor.
pub(super) const GICR_SGI_FRAME: u64 = 0x1_0000;

/// Distributor control
pub(super) const GICD_CTLR: u64 = 0x0000;
/// Interrupt controller type
pub(super) const GICD_TYPER: u64 = 0x0004;
/// Implementer identification
pub(super) const GICD_IIDR: u64 = 0x0008;
/// Interrupt group, 1 bit
pub(super) const GICD_IGROUPR: u64 = 0x0080;
/// Set-enable, 1 bit
pub(super) const GICD_ISENABLER: u64 = 0x0100;
/// Clear-enable, 1 bit
pub(super) const GICD_ICENABLER: u64 = 0x0180;
/// Set-pending, 1 bit
pub(super) const GICD_ISPENDR: u64 = 0x0200;
/// Clear-pending, 1 bit
pub(super) const GICD_ICPENDR: u64 = 0x0280;
/// Set-active, 1 bit
pub(super) const GICD_ISACTIVER: u64 = 0x0300;
/// Clear-active, 1 bit
pub(super) const GICD_ICACTIVER: u64 = 0x0380;
/// Priority, 8 bits
pub(super) const GICD_IPRIORITYR: u64 = 0x0400;
/// Processor targets, 8 bits (GICv2)
pub(super) const GICD_ITARGETSR: u64 = 0x0800;
/// Configuration, 2 bits
pub(super) const GICD_ICFGR: u64 = 0x0c00;
/// Software-generated interrupt (GICv2)
pub(super) const GICD_SGIR: u64 = 0x0f00;
/// SGI clear-pending, 8 bits (GICv2)
pub(super) const GICD_CPENDSGIR: u64 = 0x0f10;
/// SGI set-pending, 8 bits (GICv2)
pub(super) const GICD_SPENDSGIR: u64 = 0x0f20;
/// Peripheral ID2 (GICv2)
pub(super) const GICD_V2_PIDR2: u64 = 0x0fe8;
/// Interrupt routing, 64 bits (GICv3)
pub(super) const GICD_IROUTER: u64 = 0x6000;
/// Peripheral ID2 (GICv3 distributor and redistributor)
pub(super) const PIDR2: u64 = 0xffe8;

/// Implementer identification
pub(super) const GICR_IIDR: u64 = 0x0004;
/// Redistributor type, 64 bits
pub(super) const GICR_TYPER: u64 = 0x0008;
/// Wake
pub(super) const GICR_WAKER: u64 = 0x0014;

/// GICD_CTLR: EnableGrp0
pub(super) const CTLR_ENABLE_GROUP0: u32 = 1 << 0;
/// GICD_CTLR: EnableGrp1
pub(super) const CTLR_ENABLE_GROUP1: u32 = 1 << 1;
/// GICD_CTLR: affinity routing enabled (GICv3)
pub(super) const CTLR_ARE: u32 = 1 << 4;
/// GICD_CTLR: security disabled (GICv3)
pub(super) const CTLR_DS: u32 = 1 << 6;
/// GICD_TYPER: number of INTID bits, minus one, from here
pub(super) const TYPER_ID_BITS_SHIFT: u32 = 19;
/// GICD_TYPER: an SPI goes to one named CPU only
pub(super) const TYPER_NO1N: u32 = 1 << 25;
/// GICR_TYPER: the last redistributor of the region
pub(super) const GICR_TYPER_LAST: u64 = 1 << 4;
/// GICR_WAKER: ProcessorSleep
pub(super) const WAKER_PROCESSOR_SLEEP: u32 = 1 << 1;
/// GICR_WAKER: ChildrenAsleep
pub(super) const WAKER_CHILDREN_ASLEEP: u32 = 1 << 2;
/// IIDR: product 'P', implementer Arm's JEP106 code, as models of the architecture use
pub(super) const IIDR: u32 = 0x5000_043b;
/// PIDR2: architecture version 2
pub(super) const PIDR2_V2: u32 = 0x2b;
/// PIDR2: architecture version 3
pub(super) const PIDR2_V3: u32 = 0x3b;
