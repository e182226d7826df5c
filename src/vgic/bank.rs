//! Registers with a field for each interrupt: what reading and writing one field means.

use super::distributor::{Answer, Scope, Setting};
use super::irq::{NOBODY, PRIORITY_MASK, Slot, Wanted};
use super::list_register::VirtualInterface;
use super::{Version, Vgic};
use crate::access::AccessWidth;
use crate::ids::VcpuSet;

/// A kind of field.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Bank {
    /// IGROUPR
    Group,
    /// ISENABLER
    SetEnable,
    /// ICENABLER
    ClearEnable,
    /// ISPENDR
    SetPending,
    /// ICPENDR
    ClearPending,
    /// ISACTIVER
    SetActive,
    /// ICACTIVER
    ClearActive,
    /// IPRIORITYR
    Priority,
    /// ITARGETSR
    Targets,
    /// ICFGR
    Configuration,
    /// IROUTER
    Route,
    /// SPENDSGIR
    SetSgiPending,
    /// CPENDSGIR
    ClearSgiPending,
}

impl Bank {
    /// Bits of one field.
    const fn bits(self) -> u32 {
        match self {
            Self::Group
            | Self::SetEnable
            | Self::ClearEnable
            | Self::SetPending
            | Self::ClearPending
            | Self::SetActive
            | Self::ClearActive => 1,
            Self::Configuration => 2,
            Self::Priority | Self::Targets | Self::SetSgiPending | Self::ClearSgiPending => 8,
            Self::Route => 64,
        }
    }

    /// A field of zeros changes nothing.
    const fn acts_on_ones(self) -> bool {
        match self {
            Self::SetEnable
            | Self::ClearEnable
            | Self::SetPending
            | Self::ClearPending
            | Self::SetActive
            | Self::ClearActive
            | Self::SetSgiPending
            | Self::ClearSgiPending => true,
            Self::Group | Self::Priority | Self::Targets | Self::Configuration | Self::Route => false,
        }
    }

    /// Shows state that list registers hold.
    pub(super) const fn is_state(self) -> bool {
        matches!(
            self,
            Self::SetPending
                | Self::ClearPending
                | Self::SetActive
                | Self::ClearActive
                | Self::SetSgiPending
                | Self::ClearSgiPending
        )
    }

    /// What a change means for a physical interrupt.
    pub(super) const fn setting(self) -> Option<Setting> {
        match self {
            Self::SetEnable | Self::ClearEnable => Some(Setting::Enable),
            Self::Configuration => Some(Setting::Trigger),
            Self::Targets | Self::Route => Some(Setting::Route),
            _ => None,
        }
    }

    /// The first interrupt that an access is about, and how many fields it covers (at least one).
    const fn span(self, within: u64, width: AccessWidth) -> (u32, u32) {
        let bits = self.bits() as u64;
        let first = within * 8 / bits;
        let count = width.bytes() * 8 / bits;
        (first as u32, if count == 0 { 1 } else { count as u32 })
    }
}

impl Vgic {
    /// Reads the fields at byte offset `within` of a bank.
    pub(super) fn read_bank<V: VirtualInterface>(
        &mut self,
        interface: &mut V,
        vcpu: u8,
        bank: Bank,
        scope: Scope,
        within: u64,
        width: AccessWidth,
    ) -> Answer {
        if bank.is_state() {
            let (first, count) = bank.span(within, width);
            self.read_back(vcpu, interface);
            for index in 0..count {
                if let Some(slot) = self.slot(scope, first + index) {
                    self.fetch(slot, interface);
                }
            }
            let mut holders = VcpuSet::EMPTY;
            for slot in (0..count).filter_map(|index| self.slot(scope, first + index)) {
                holders.merge(self.ahead(slot, vcpu));
            }
            if !self.observe(vcpu, holders) {
                return Answer::Again;
            }
        }
        Answer::Value(self.read_fields(vcpu, bank, scope, within, width))
    }

    /// As [`Self::read_bank`], by what is in the tables.
    pub(super) fn read_fields(&self, vcpu: u8, bank: Bank, scope: Scope, within: u64, width: AccessWidth) -> u64 {
        let (first, count) = bank.span(within, width);
        if bank == Bank::Route {
            let route = self.slot(scope, first).map_or(0, |slot| self.irqs[slot].route);
            // The upper word is Aff3, which no vCPU has.
            return if within.is_multiple_of(8) { u64::from(route) } else { 0 };
        }
        let mut value = 0;
        for index in 0..count {
            if let Some(slot) = self.slot(scope, first + index) {
                value |= u64::from(self.read_field(bank, slot, vcpu)) << (index * bank.bits());
            }
        }
        value
    }

    fn read_field(&self, bank: Bank, slot: Slot, vcpu: u8) -> u8 {
        let irq = &self.irqs[slot];
        match bank {
            Bank::Group => u8::from(irq.group1),
            Bank::SetEnable | Bank::ClearEnable => u8::from(irq.enabled),
            Bank::SetPending | Bank::ClearPending => u8::from(irq.shows_pending()),
            Bank::SetActive | Bank::ClearActive => u8::from(irq.shows_active()),
            Bank::Priority => irq.priority,
            Bank::Targets if self.owner(slot).is_some() => VcpuSet::only(vcpu).0,
            Bank::Targets => irq.targets,
            Bank::Configuration => u8::from(irq.edge) << 1,
            Bank::SetSgiPending | Bank::ClearSgiPending => irq.latch | (irq.latch_in_lr & !irq.drop_latch),
            Bank::Route => 0,
        }
    }

    /// Writes the fields at byte offset `within` of a bank. Which interrupts with a physical one behind them changed: a
    /// bit each, from the interrupt returned.
    #[expect(clippy::too_many_arguments, reason = "an access, spelled out")]
    pub(super) fn write_bank<V: VirtualInterface>(
        &mut self,
        interface: &mut V,
        vcpu: u8,
        bank: Bank,
        scope: Scope,
        within: u64,
        width: AccessWidth,
        value: u64,
    ) -> (u32, u32) {
        let (first, count) = bank.span(within, width);
        let mut physical = 0;
        for index in 0..count {
            let field = match bank {
                // The upper word is Aff3, which no vCPU has; Interrupt_Routing_Mode is not implemented.
                Bank::Route if !within.is_multiple_of(8) => return (first, 0),
                Bank::Route => value as u32 & 0xff_ffff,
                _ => (value >> (index * bank.bits())) as u32 & ((1 << bank.bits()) - 1),
            };
            if field == 0 && bank.acts_on_ones() {
                continue;
            }
            let Some(slot) = self.slot(scope, first + index) else {
                continue;
            };
            self.fetch(slot, interface);
            if self.write_field(interface, vcpu, bank, slot, field)
                && self.owner(slot).is_none()
                && self.irqs[slot].physical.is_some()
            {
                physical |= 1 << index;
            }
        }
        (first, physical)
    }

    /// Writes one field, which is not zero where only ones act. Whether a setting changed.
    fn write_field<V: VirtualInterface>(
        &mut self,
        interface: &mut V,
        vcpu: u8,
        bank: Bank,
        slot: Slot,
        field: u32,
    ) -> bool {
        let interrupt = self.interrupt(slot);
        let v2_sgi = self.config.version == Version::V2 && interrupt.is_sgi();
        let private = self.owner(slot).is_some();
        let existing = self.existing();
        let irq = &mut self.irqs[slot];
        let changed = match bank {
            Bank::Group => replace(&mut irq.group1, field != 0),
            // A GICv2's SGIs are always enabled, and pending by source.
            Bank::SetEnable | Bank::ClearEnable | Bank::SetPending | Bank::ClearPending if v2_sgi => false,
            Bank::SetEnable => replace(&mut irq.enabled, true),
            Bank::ClearEnable => replace(&mut irq.enabled, false),
            Bank::SetPending => {
                irq.latch |= 1;
                true
            }
            Bank::ClearPending => {
                self.clear_latch(slot, u8::MAX);
                self.settle(slot, vcpu, interface);
                true
            }
            Bank::SetActive | Bank::ClearActive => {
                let active = bank == Bank::SetActive;
                if irq.resident_on().is_some() {
                    irq.set_active = Wanted::state(active);
                } else {
                    let holder = if irq.target == NOBODY { vcpu } else { irq.target };
                    self.write_active(slot, holder, active);
                    self.settle(slot, vcpu, interface);
                }
                true
            }
            Bank::Priority => replace(&mut irq.priority, field as u8 & PRIORITY_MASK),
            Bank::Targets if private => false,
            Bank::Targets => {
                let changed = replace(&mut irq.targets, field as u8 & existing);
                self.irqs[slot].target = self.spi_target(slot);
                changed
            }
            Bank::Configuration if interrupt.is_sgi() => false,
            Bank::Configuration => replace(&mut irq.edge, field & 0b10 != 0),
            Bank::Route => {
                let changed = replace(&mut irq.route, field);
                self.irqs[slot].target = self.spi_target(slot);
                changed
            }
            Bank::SetSgiPending => {
                irq.latch |= field as u8 & existing;
                true
            }
            Bank::ClearSgiPending => {
                self.clear_latch(slot, field as u8);
                true
            }
        };
        if changed {
            self.update(slot);
        }
        changed
    }
}

/// Whether the value was another one.
fn replace<T: PartialEq>(place: &mut T, value: T) -> bool {
    core::mem::replace(place, value) != *place
}
