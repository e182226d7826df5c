//! Interrupts that come in: lines of emulated devices, IOREQ servers' requests, physical interrupts of real devices.

use super::irq::Slot;
use super::{Vgic, VgicError};
use crate::ids::{IntId, VcpuSet};

impl Vgic {
    /// Keeps an SPI from [`Self::set_irq_level`]: a device of the hypervisor or of the hardware drives it.
    ///
    /// # Errors
    /// [`VgicError::NotSpi`].
    pub fn reserve(&mut self, interrupt: IntId) -> Result<(), VgicError> {
        self.spi(interrupt)?;
        let index = interrupt.0 - IntId::FIRST_SPI;
        if let Some(word) = self.reserved.get_mut(index as usize / 32) {
            *word |= 1 << (index % 32);
        }
        Ok(())
    }

    /// Whether somebody keeps an SPI, or it does not exist.
    pub(super) fn is_reserved(&self, interrupt: IntId) -> bool {
        let index = interrupt.0.wrapping_sub(IntId::FIRST_SPI);
        self.reserved
            .get(index as usize / 32)
            .is_none_or(|word| word & 1 << (index % 32) != 0)
    }

    /// Nobody keeps an SPI any more.
    pub(super) fn unreserve(&mut self, interrupt: IntId) {
        let index = interrupt.0.wrapping_sub(IntId::FIRST_SPI);
        if let Some(word) = self.reserved.get_mut(index as usize / 32) {
            *word &= !(1 << (index % 32));
        }
    }

    /// Puts a physical SPI behind a virtual one, which becomes reserved: the guest's configuration of it is told to the
    /// hardware, and its deactivation deactivates the physical interrupt. `edge` is what the hardware is set to.
    ///
    /// # Errors
    /// [`VgicError::NotSpi`], [`VgicError::Bound`].
    pub fn bind_physical(&mut self, interrupt: IntId, physical: IntId, edge: bool) -> Result<(), VgicError> {
        let slot = self.spi(interrupt)?;
        if !physical.is_spi() {
            return Err(VgicError::NotSpi(physical));
        }
        self.reserve(interrupt)?;
        self.bind(slot, interrupt, physical)?;
        self.irqs[slot].edge = edge;
        Ok(())
    }

    /// Puts a physical PPI behind the same virtual PPI of every vCPU: the virtual timer's.
    ///
    /// # Errors
    /// [`VgicError::NotPpi`], [`VgicError::Bound`].
    pub fn bind_physical_ppi(&mut self, interrupt: IntId, physical: IntId) -> Result<(), VgicError> {
        if !physical.is_private() || physical.is_sgi() {
            return Err(VgicError::NotPpi(physical));
        }
        for vcpu in 0..self.config.vcpus {
            let slot = self.ppi(vcpu, interrupt)?;
            self.bind(slot, interrupt, physical)?;
        }
        Ok(())
    }

    fn bind(&mut self, slot: Slot, interrupt: IntId, physical: IntId) -> Result<(), VgicError> {
        let irq = &mut self.irqs[slot];
        if irq.physical.is_some_and(|bound| bound != physical) {
            return Err(VgicError::Bound(interrupt));
        }
        irq.physical = Some(physical);
        Ok(())
    }

    /// The line of an emulated device. Edge-triggered, it is pending when the line rises.
    ///
    /// # Errors
    /// [`VgicError::NotSpi`].
    pub fn set_spi_level(&mut self, interrupt: IntId, high: bool) -> Result<VcpuSet, VgicError> {
        let slot = self.spi(interrupt)?;
        Ok(self.set_line(slot, high))
    }

    /// A device has news and its line is high from now on: as [`Self::set_spi_level`], but edge-triggered it is pending
    /// again even if the line was high before.
    ///
    /// # Errors
    /// [`VgicError::NotSpi`].
    pub fn raise_spi(&mut self, interrupt: IntId) -> Result<VcpuSet, VgicError> {
        let slot = self.spi(interrupt)?;
        if self.irqs[slot].edge {
            self.irqs[slot].line = true;
            return Ok(self.pulse(slot));
        }
        Ok(self.set_line(slot, true))
    }

    /// Makes an SPI pending once, whatever its trigger.
    ///
    /// # Errors
    /// [`VgicError::NotSpi`].
    pub fn pulse_spi(&mut self, interrupt: IntId) -> Result<VcpuSet, VgicError> {
        let slot = self.spi(interrupt)?;
        Ok(self.pulse(slot))
    }

    /// The line of a PPI of one vCPU.
    ///
    /// # Errors
    /// [`VgicError::NoVcpu`], [`VgicError::NotPpi`].
    pub fn set_private_level(&mut self, vcpu: u8, interrupt: IntId, high: bool) -> Result<VcpuSet, VgicError> {
        let slot = self.ppi(vcpu, interrupt)?;
        Ok(self.set_line(slot, high))
    }

    /// Makes a PPI of one vCPU pending once, whatever its trigger.
    ///
    /// # Errors
    /// [`VgicError::NoVcpu`], [`VgicError::NotPpi`].
    #[inline]
    pub fn pulse_private(&mut self, vcpu: u8, interrupt: IntId) -> Result<VcpuSet, VgicError> {
        let slot = self.ppi(vcpu, interrupt)?;
        Ok(self.pulse(slot))
    }

    /// XEN_DMOP_set_irq_level of an IOREQ server. Each level 1 makes the interrupt pending, as with Xen, whose servers
    /// never send 0; once 0 was sent for this interrupt, its levels are a line's.
    ///
    /// # Errors
    /// [`VgicError::NotSpi`], [`VgicError::Reserved`].
    pub fn set_irq_level(&mut self, interrupt: IntId, high: bool) -> Result<VcpuSet, VgicError> {
        let slot = self.spi(interrupt)?;
        if self.is_reserved(interrupt) {
            return Err(VgicError::Reserved(interrupt));
        }
        let irq = &mut self.irqs[slot];
        if high {
            return if irq.has_level {
                self.raise_spi(interrupt)
            } else {
                Ok(self.pulse(slot))
            };
        }
        if !irq.has_level {
            irq.has_level = true;
            if !irq.edge {
                // The level 1 before it was the line too.
                self.clear_latch(slot, u8::MAX);
                self.update(slot);
            }
        }
        Ok(self.set_line(slot, false))
    }

    /// The physical interrupt behind an SPI was acknowledged and stays active until the guest deactivates this one.
    ///
    /// # Errors
    /// [`VgicError::NotSpi`], [`VgicError::NotPhysical`].
    pub fn physical(&mut self, interrupt: IntId) -> Result<VcpuSet, VgicError> {
        let slot = self.spi(interrupt)?;
        self.arrive(slot, interrupt)
    }

    /// As [`Self::physical`], for a PPI of the vCPU that was loaded.
    ///
    /// # Errors
    /// [`VgicError::NoVcpu`], [`VgicError::NotPpi`], [`VgicError::NotPhysical`].
    pub fn physical_private(&mut self, vcpu: u8, interrupt: IntId) -> Result<VcpuSet, VgicError> {
        let slot = self.ppi(vcpu, interrupt)?;
        self.arrive(slot, interrupt)
    }

    /// Whether the physical interrupt behind this vCPU's PPI is, or while the vCPU is unloaded would be, active: whoever
    /// loads the vCPU makes the hardware's active state agree. Exact after [`Self::sync`] or [`Self::unload`].
    #[inline(always)]
    pub fn holds_physical(&self, vcpu: u8, interrupt: IntId) -> bool {
        let private = self.irqs.private(vcpu);
        private.is_some_and(|irqs| irqs[(interrupt.0 % IntId::FIRST_SPI) as usize].physical_active)
    }

    fn arrive(&mut self, slot: Slot, interrupt: IntId) -> Result<VcpuSet, VgicError> {
        let irq = &mut self.irqs[slot];
        if irq.physical.is_none() {
            return Err(VgicError::NotPhysical(interrupt));
        }
        irq.physical_again = irq.physical_active;
        irq.physical_active = true;
        Ok(self.pulse(slot))
    }

    fn set_line(&mut self, slot: Slot, high: bool) -> VcpuSet {
        let irq = &mut self.irqs[slot];
        if irq.line != high {
            irq.line = high;
            if !irq.edge {
                self.update(slot);
            } else if high {
                return self.pulse(slot);
            }
        }
        self.take_kick()
    }

    #[inline]
    fn pulse(&mut self, slot: Slot) -> VcpuSet {
        if self.pulse_parked(slot) {
            return self.take_kick();
        }
        self.pulse_queued(slot)
    }

    #[inline(never)]
    fn pulse_queued(&mut self, slot: Slot) -> VcpuSet {
        self.irqs[slot].latch |= 1;
        self.update(slot);
        self.take_kick()
    }

    /// Clears the pending state of these sources, also of what a list register holds.
    pub(super) fn clear_latch(&mut self, slot: Slot, sources: u8) {
        let irq = &mut self.irqs[slot];
        irq.latch &= !sources;
        irq.drop_latch |= irq.latch_in_lr & sources;
    }

    pub(super) fn spi(&self, interrupt: IntId) -> Result<Slot, VgicError> {
        self.spi_slot(interrupt.0).ok_or(VgicError::NotSpi(interrupt))
    }

    #[inline]
    fn ppi(&self, vcpu: u8, interrupt: IntId) -> Result<Slot, VgicError> {
        if vcpu >= self.config.vcpus {
            return Err(VgicError::NoVcpu(vcpu));
        }
        if interrupt.is_sgi() {
            return Err(VgicError::NotPpi(interrupt));
        }
        self.private_slot(vcpu, interrupt.0).ok_or(VgicError::NotPpi(interrupt))
    }
}
