//! This pCPU with one vCPU's state loaded, as the core sees it.

use crate::ids::Ipa;
use crate::vgic::list_register::VirtualInterface;

/// EL1 registers that the core reads or writes of the loaded vCPU.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub enum El1Register {
    /// SP_EL0
    SpEl0,
    /// SP_EL1
    SpEl1,
    /// ELR_EL1
    ElrEl1,
    /// SPSR_EL1
    SpsrEl1,
    /// ESR_EL1
    EsrEl1,
    /// FAR_EL1
    FarEl1,
    /// VBAR_EL1
    VbarEl1,
    /// SCTLR_EL1
    SctlrEl1,
    /// CNTKCTL_EL1
    CntkctlEl1,
    /// MPIDR as the guest sees it (VMPIDR_EL2)
    VmpidrEl2,
    /// CNTV_CTL_EL0
    CntvCtlEl0,
    /// CNTV_CVAL_EL0
    CntvCvalEl0,
    /// CNTVOFF_EL2
    CntvoffEl2,
}

/// What a guest wants to do at a virtual address.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Access {
    /// Load or fetch, with EL1's rights (AT S1E1R).
    Read,
    /// Store, with EL1's rights (AT S1E1W).
    Write,
}

/// The guest's own translation refuses the access.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct TranslationFault;

/// A pCPU with a vCPU loaded. `arch` implements it; tests use a fake.
pub trait Cpu {
    /// The virtual CPU interface's list registers.
    type VirtualInterface: VirtualInterface;

    /// The list registers of this pCPU, which hold the loaded vCPU's interrupts.
    fn virtual_interface(&mut self) -> &mut Self::VirtualInterface;
    /// Reads a register of the loaded vCPU.
    fn read_el1(&self, register: El1Register) -> u64;
    /// Writes a register of the loaded vCPU.
    fn write_el1(&mut self, register: El1Register, value: u64);
    /// The loaded vCPU's own registers are as after a reset: EL1's and EL0's, the virtual CPU interface apart from its list
    /// registers, no virtual SError. Its domain's constants stay, and so does what floating-point registers hold, which a
    /// reset leaves unknown.
    fn reset(&mut self);
    /// Translates a virtual address of the loaded vCPU by its current stage 1 (AT S1E1R or AT S1E1W; PAR_EL1 is kept).
    fn translate(&self, address: u64, access: Access) -> Result<Ipa, TranslationFault>;
    /// Whether a physical interrupt waits for this pCPU (ISR_EL1): what is long and can go on later is to stop.
    fn is_interrupted(&self) -> bool;
    /// Makes a virtual SError pending for the loaded vCPU (HCR_EL2.VSE; VSESR_EL2 with FEAT_RAS).
    fn pend_system_error(&mut self, syndrome: u32);
}
