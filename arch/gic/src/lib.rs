//! GICv2, and the registers that it shares with GICv3, written against [`portunus::registers::DeviceRegisters`]: tests run
//! them on a model that checks every access. What GICv3 has in system registers is in `portunus-aarch64`.
//!
//! EOImode is 1: acknowledging an interrupt is followed by a priority drop at once, and by a deactivation that is EL2's
//! unless the interrupt was handed to a guest, whose own deactivation then ends it. All interrupts have one priority.
#![no_std]
#![forbid(unsafe_code)]

pub mod distributor;
pub mod v2;

use portunus::ids::IntId;

/// The SGI that makes a pCPU leave its guest.
pub const KICK: IntId = IntId(0);
/// The priority of every physical interrupt.
pub const PRIORITY: u8 = 0xa0;

/// An acknowledged interrupt.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Acknowledged {
    /// What the CPU interface returned, which a GICv2 wants back whole.
    pub raw: u32,
    /// The interrupt.
    pub interrupt: IntId,
}

/// A vCPU's state in the virtual CPU interface, apart from its list registers.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct VirtualState {
    /// ICH_VMCR_EL2 or GICH_VMCR.
    pub vmcr: u64,
    /// `active` holds anything (GICv3).
    pub is_active: bool,
    /// Active priorities: ICH_AP0R and ICH_AP1R, or GICH_APR first.
    pub active: [u64; 8],
}
