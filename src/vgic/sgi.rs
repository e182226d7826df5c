//! Software-generated interrupts: a GICv3's system registers, a GICv2's GICD_SGIR.

use super::{Version, Vgic};
use crate::ids::VcpuSet;

/// The system register that a GICv3 guest wrote.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub enum SgiRegister {
    /// ICC_SGI0R_EL1: SGIs that are in group 0.
    Sgi0r,
    /// ICC_SGI1R_EL1: SGIs of either group, with one Security state.
    Sgi1r,
    /// ICC_ASGI1R_EL1: the other Security state's group 1; with one Security state, as ICC_SGI0R_EL1.
    Asgi1r,
}

/// What GICD_SGIR's TargetListFilter says.
const FILTER_LIST: u32 = 0;
const FILTER_OTHERS: u32 = 1;
const FILTER_SELF: u32 = 2;

/// Whether a write of `vcpu` to GICD_SGIR names it alone.
#[inline]
pub(super) const fn is_to_itself(vcpu: u8, value: u32) -> bool {
    match value >> 24 & 3 {
        FILTER_SELF => true,
        FILTER_LIST => (value >> 16) as u8 == VcpuSet::only(vcpu).0,
        _ => false,
    }
}

impl Vgic {
    /// The vCPU wrote `value` to an SGI register (IHI 0069, "ICC_SGI1R_EL1"): TargetList 15:0, Aff1 23:16, INTID 27:24,
    /// Aff2 39:32, IRM 40, RS 47:44, Aff3 55:48. Nothing happens with a GICv2. Returns the vCPUs to kick, which can
    /// include the sender.
    pub fn send_sgi(&mut self, vcpu: u8, register: SgiRegister, value: u64) -> VcpuSet {
        if self.config.version != Version::V3 || vcpu >= self.config.vcpus {
            return VcpuSet::EMPTY;
        }
        let interrupt = (value >> 24 & 0xf) as u32;
        let all_others = value & 1 << 40 != 0;
        let targets = if all_others {
            !VcpuSet::only(vcpu).0
        } else if value & 0x00ff_f0ff_00ff_0000 != 0 {
            // Aff3, RS, Aff2 or Aff1 name no vCPU.
            0
        } else {
            value as u8
        };
        for target in VcpuSet(targets & self.existing()).iter() {
            let Some(slot) = self.private_slot(target, interrupt) else {
                continue;
            };
            let irq = &mut self.irqs[slot];
            if !irq.group1 || register == SgiRegister::Sgi1r {
                irq.latch |= 1;
                self.update(slot);
            }
        }
        self.take_kick()
    }

    /// A write to GICD_SGIR (IHI 0048, "GICD_SGIR"): TargetListFilter 25:24, CPUTargetList 23:16, INTID 3:0. The reserved
    /// filter 3 does nothing.
    pub(super) fn write_sgir(&mut self, vcpu: u8, value: u32) {
        let own = VcpuSet::only(vcpu).0;
        let targets = match value >> 24 & 3 {
            FILTER_LIST => (value >> 16) as u8,
            FILTER_OTHERS => !own,
            FILTER_SELF => own,
            _ => 0,
        };
        for target in VcpuSet(targets & self.existing()).iter() {
            let Some(slot) = self.private_slot(target, value & 0xf) else {
                continue;
            };
            self.irqs[slot].latch |= own;
            self.update(slot);
        }
    }

    /// One bit for each vCPU.
    pub(super) fn existing(&self) -> u8 {
        u8::MAX >> (8 - self.config.vcpus.clamp(1, 8))
    }
}
