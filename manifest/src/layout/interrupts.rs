//! The shared interrupts of a domain: which device has which, and how many there are.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;

use super::{FIRST_DEVICE_INTERRUPT, SPI_STEP};
use crate::domain::DomainConfig;
use crate::error::{ManifestError, Reason};
use crate::tree::Node;
use portunus_base::ids::IntId;

/// Which SPIs of a domain are in use, and by what.
#[derive(Debug)]
pub(super) struct Interrupts(Vec<(u32, String)>);

impl Interrupts {
    pub(super) fn new(domain: &DomainConfig) -> Self {
        let owned = domain
            .passthrough
            .interrupts()
            .map(|interrupt| (interrupt.id.0, "a passed-through device".to_string()));
        Self(owned.collect())
    }
    pub(super) fn claim(&mut self, interrupt: IntId, owner: &str) -> Result<(), Reason> {
        if let Some((_, other)) = self.0.iter().find(|(number, _)| *number == interrupt.0) {
            return Err(Reason::InterruptTaken {
                interrupt: interrupt.0,
                owner: other.clone(),
            });
        }
        self.0.push((interrupt.0, owner.to_string()));
        Ok(())
    }
    /// The lowest free SPI from `first`.
    pub(super) fn allocate(&mut self, first: u32, owner: &str) -> Result<IntId, Reason> {
        self.allocate_in(first..IntId::SPI_LIMIT, owner)
    }
    /// The lowest free SPI of `range`.
    pub(super) fn allocate_in(&mut self, mut range: Range<u32>, owner: &str) -> Result<IntId, Reason> {
        let free = range.find(|number| self.0.iter().all(|(other, _)| other != number));
        let number = free.ok_or(Reason::NoRoom(1))?;
        self.0.push((number, owner.to_string()));
        Ok(IntId(number))
    }
}

pub(super) fn allocate_interrupts(domain: &mut DomainConfig, interrupts: &mut Interrupts) -> Result<(), ManifestError> {
    for device in domain
        .devices
        .iter_mut()
        .filter(|device| device.interrupt.id == IntId::SPURIOUS)
    {
        let number = interrupts.allocate(FIRST_DEVICE_INTERRUPT, &device.name);
        device.interrupt.id = number.map_err(|reason| ManifestError::new(&device.path, "interrupts", reason))?;
    }
    Ok(())
}

/// As many SPIs as the domain uses or asks for, in the steps in which a GIC counts.
pub(super) fn spis(domain: &DomainConfig, node: Node<'_, '_>, interrupts: &Interrupts) -> Result<u32, ManifestError> {
    let highest = interrupts.0.iter().max_by_key(|(number, _)| *number);
    let needed = highest.map_or(1, |(number, _)| number.saturating_sub(IntId::FIRST_SPI - 1));
    if domain.spis != 0 && needed > domain.spis {
        let owner = highest.map_or_else(String::new, |(number, owner)| format!("INTID {number} of {owner}"));
        return Err(node.error(
            "nr_spis",
            Reason::TooFew {
                found: domain.spis,
                needed,
                owner,
            },
        ));
    }
    let wanted = needed.max(domain.spis).next_multiple_of(SPI_STEP);
    Ok(wanted.min(IntId::SPI_LIMIT - IntId::FIRST_SPI))
}
