//! One list register in neutral form, and the hardware that holds them.

use crate::ids::IntId;

/// Where an interrupt in a list register is in its life (GIC specification: list register State).
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
pub enum LrState {
    /// The register is free.
    #[default]
    Inactive,
    /// Waits for the guest to acknowledge it.
    Pending,
    /// Acknowledged, not deactivated.
    Active,
    /// Acknowledged, and pending again.
    PendingAndActive,
}

/// The hardware behind a virtual interrupt, or what to do when it ends.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub enum Backing {
    /// A physical interrupt that the guest's deactivation deactivates (HW = 1).
    Physical(IntId),
    /// Software; `maintenance` asks for a maintenance interrupt at the guest's EOI; `source` is a GICv2 SGI's CPU.
    Software {
        /// Ask for a maintenance interrupt when the guest ends it.
        maintenance: bool,
        /// CPU that sent the SGI, GICv2 only.
        source: u8,
    },
}

/// One list register.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub struct ListRegister {
    /// The interrupt that the guest sees.
    pub interrupt: IntId,
    /// 0 is the most urgent; a multiple of 8.
    pub priority: u8,
    /// Group 1 (IRQ) or group 0.
    pub group1: bool,
    /// Its state.
    pub state: LrState,
    /// What is behind it.
    pub backing: Backing,
}

/// Which interrupts a guest's CPU interface lets through.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct PriorityMask {
    /// Only interrupts with a priority number below this one (VPMR).
    pub threshold: u8,
    /// Group 0 is enabled (VENG0).
    pub group0: bool,
    /// Group 1 is enabled (VENG1).
    pub group1: bool,
}

impl PriorityMask {
    /// Whether an interrupt of this priority and group gets through.
    pub const fn accepts(self, priority: u8, group1: bool) -> bool {
        priority < self.threshold && if group1 { self.group1 } else { self.group0 }
    }
}

/// The virtual CPU interface of this pCPU: ICH_*_EL2, or GICH.
pub trait VirtualInterface {
    /// How many list registers there are: 1 to 16.
    fn list_registers(&self) -> usize;
    /// Reads list register `index`, which is below [`Self::list_registers`]; `None` when it is free.
    fn read(&self, index: usize) -> Option<ListRegister>;
    /// Writes list register `index`; `None` frees it.
    fn write(&mut self, index: usize, value: Option<ListRegister>);
    /// One bit for each list register that is free (ICH_ELRSR_EL2, GICH_ELRSR).
    fn free(&self) -> u16;
    /// Asks for a maintenance interrupt while no list register is in state [`LrState::Pending`] (ICH_HCR_EL2.NPIE,
    /// GICH_HCR.NPIE), or no longer.
    fn set_no_pending(&mut self, wanted: bool);
    /// What the guest lets through now (ICH_VMCR_EL2, GICH_VMCR).
    fn mask(&self) -> PriorityMask;
    /// Deactivates a physical interrupt whose priority was dropped and that the guest will not deactivate, because it
    /// took the virtual one back (ICC_DIR_EL1, GICC_DIR). A PPI is the calling pCPU's own.
    fn deactivate(&mut self, physical: IntId);
}
