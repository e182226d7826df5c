//! What a person is shown of a domain's interrupts. Nothing is read back from list registers: what those hold is as it
//! was when it was put there.

use super::irq::{NOBODY, Place};
use super::{VcpuInterface, Vgic};
use crate::ids::IntId;

/// Where an interrupt waits.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Waits {
    /// Nowhere.
    Nowhere,
    /// In a queue of this vCPU.
    Queued(u8),
    /// In a list register of this vCPU.
    Listed {
        /// Whose.
        vcpu: u8,
        /// Which.
        register: u8,
    },
}

/// One interrupt.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct InterruptLook {
    /// Its number.
    pub interrupt: IntId,
    /// The vCPU that it goes to; `None`: to none that exists.
    pub target: Option<u8>,
    /// The guest wants it.
    pub enabled: bool,
    /// It is to be delivered.
    pub pending: bool,
    /// The guest handles it.
    pub active: bool,
    /// Edge-triggered; else level-sensitive.
    pub edge: bool,
    /// Its line is high.
    pub line: bool,
    /// 0 is the most urgent.
    pub priority: u8,
    /// Group 1, or 0.
    pub group1: bool,
    /// The physical interrupt behind it.
    pub physical: Option<IntId>,
    /// Where it waits.
    pub waits: Waits,
}

impl InterruptLook {
    /// Whether the guest has still to do something about it.
    pub fn is_due(&self) -> bool {
        self.pending || self.active
    }
}

/// The controller as a whole.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct ControllerLook {
    /// GICD_CTLR.EnableGrp0.
    pub group0: bool,
    /// GICD_CTLR.EnableGrp1.
    pub group1: bool,
}

impl Vgic {
    /// What the distributor forwards.
    pub fn look(&self) -> ControllerLook {
        ControllerLook {
            group0: self.groups.group0,
            group1: self.groups.group1,
        }
    }

    /// Whether more interrupts wait for `vcpu` than its list registers hold.
    pub fn overflows(&self, vcpu: u8) -> bool {
        self.cpu(vcpu)
            .is_some_and(|cpu| VcpuInterface::overflows(&cpu.interface))
    }

    /// One interrupt: a private one of `vcpu`, or an SPI. `None`: there is none of that number.
    pub fn look_at(&self, vcpu: u8, interrupt: IntId) -> Option<InterruptLook> {
        let slot = if interrupt.is_private() {
            self.private_slot(vcpu, interrupt.0)?
        } else {
            self.spi_slot(interrupt.0)?
        };
        let irq = &self.irqs[slot];
        let target = self.owner(slot).unwrap_or_else(|| self.spi_target(slot));
        Some(InterruptLook {
            interrupt,
            target: (target != NOBODY).then_some(target),
            enabled: irq.enabled,
            pending: irq.shows_pending(),
            active: irq.shows_active(),
            edge: irq.edge,
            line: irq.line,
            priority: irq.priority,
            group1: irq.group1,
            physical: irq.physical,
            waits: match irq.place {
                Place::Idle => Waits::Nowhere,
                Place::Pending { cpu, .. } | Place::Active { cpu, .. } => Waits::Queued(cpu),
                Place::Resident { cpu } => Waits::Listed {
                    vcpu: cpu,
                    register: irq.lr,
                },
            },
        })
    }
}
