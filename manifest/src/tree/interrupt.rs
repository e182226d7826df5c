//! Interrupts as device trees write them: specifiers, their controllers, and what they are to the GIC.

use alloc::vec::Vec;

use super::Node;
use crate::error::{ManifestError, Reason};
use portunus_base::ids::IntId;

/// How an interrupt line signals (the devicetree's interrupt flags).
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub enum Trigger {
    /// 1: on a rising edge.
    EdgeRising,
    /// 2: on a falling edge.
    EdgeFalling,
    /// 4: while high.
    LevelHigh,
    /// 8: while low.
    LevelLow,
}

impl Trigger {
    /// The flag word's low four bits.
    pub const fn flags(self) -> u32 {
        match self {
            Self::EdgeRising => 1,
            Self::EdgeFalling => 2,
            Self::LevelHigh => 4,
            Self::LevelLow => 8,
        }
    }
    /// Whether the line is edge-triggered.
    pub const fn is_edge(self) -> bool {
        matches!(self, Self::EdgeRising | Self::EdgeFalling)
    }
    fn from_flags(flags: u32) -> Self {
        match flags & 0xf {
            1 => Self::EdgeRising,
            2 => Self::EdgeFalling,
            8 => Self::LevelLow,
            _ => Self::LevelHigh,
        }
    }
}

/// An interrupt as the GIC knows it.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub struct Interrupt {
    /// Its number.
    pub id: IntId,
    /// How it signals.
    pub trigger: Trigger,
}

impl<'t, 'a> Node<'t, 'a> {
    /// The controller that this node's `interrupts` go to.
    pub fn interrupt_parent(self) -> Option<Self> {
        let mut at = Some(self);
        while let Some(node) = at {
            if let Ok(Some(phandle)) = node.u32("interrupt-parent") {
                return self.tree.by_phandle(phandle);
            }
            // A controller is the parent of what is below it.
            if !node.is(self) && node.has("interrupt-controller") {
                return Some(node);
            }
            at = node.parent();
        }
        None
    }

    /// Every interrupt of this node, in order; empty when it has none.
    ///
    /// # Errors
    ///
    /// [`Reason::Interrupt`] when one is not the GIC's, [`Reason::Phandle`], [`Reason::Length`].
    pub fn interrupts(self) -> Result<Vec<Interrupt>, ManifestError> {
        let extended = "interrupts-extended";
        if let Some(cells) = self.cells(extended)? {
            let mut rest = cells.as_slice();
            let mut found = Vec::new();
            while let Some((phandle, after)) = rest.split_first() {
                let controller = self
                    .tree
                    .by_phandle(*phandle)
                    .ok_or_else(|| self.error(extended, Reason::Phandle(*phandle)))?;
                let count = controller.u32("#interrupt-cells")?.unwrap_or(0) as usize;
                let Some((specifier, after)) = after.split_at_checked(count) else {
                    return Err(self.error(extended, Reason::Length(cells.len().saturating_mul(4))));
                };
                let interrupt = controller.decode_interrupt(specifier);
                found.push(interrupt.ok_or_else(|| self.error(extended, Reason::Interrupt))?);
                rest = after;
            }
            return Ok(found);
        }
        let Some(cells) = self.cells("interrupts")? else {
            return Ok(Vec::new());
        };
        let wrong = || self.error("interrupts", Reason::Interrupt);
        let controller = self.interrupt_parent().ok_or_else(wrong)?;
        let count = controller.u32("#interrupt-cells")?.unwrap_or(0) as usize;
        if count == 0 || !cells.len().is_multiple_of(count) {
            return Err(self.error("interrupts", Reason::Length(cells.len().saturating_mul(4))));
        }
        cells
            .chunks_exact(count)
            .map(|specifier| controller.decode_interrupt(specifier).ok_or_else(wrong))
            .collect()
    }

    /// Decodes a specifier for this GIC (binding arm,gic: type 0 is SPI, 1 PPI).
    fn decode_interrupt(self, specifier: &[u32]) -> Option<Interrupt> {
        if !is_gic(self) {
            return None;
        }
        decode_gic_interrupt(specifier)
    }
}

/// Decodes `<type number flags …>` (binding arm,gic: type 0 is SPI, 1 PPI).
pub fn decode_gic_interrupt(specifier: &[u32]) -> Option<Interrupt> {
    let [kind, number, flags, ..] = *specifier else {
        return None;
    };
    let (first, limit) = match kind {
        0 => (IntId::FIRST_SPI, IntId::SPI_LIMIT),
        1 => (IntId::FIRST_PPI, IntId::FIRST_SPI),
        _ => return None,
    };
    let id = first.checked_add(number).filter(|id| *id < limit)?;
    Some(Interrupt {
        id: IntId(id),
        trigger: Trigger::from_flags(flags),
    })
}

/// Device trees' names for a GICv2 with virtualisation.
pub const GIC_V2: [&str; 3] = ["arm,gic-400", "arm,cortex-a15-gic", "arm,cortex-a7-gic"];
/// Device trees' name for a GICv3 or GICv4.
pub const GIC_V3: &str = "arm,gic-v3";

/// Whether the node is a GIC.
pub fn is_gic(node: Node<'_, '_>) -> bool {
    node.has("interrupt-controller")
        && node
            .strings("compatible")
            .any(|name| name == GIC_V3 || GIC_V2.contains(&name))
}
