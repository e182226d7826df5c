//! One virtual interrupt: its configuration, its state, and where it waits. Data and predicates only.
//!
//! An interrupt is *pending* when its latch is set, or when it is level-sensitive and its line is high. The latch has a
//! bit for each sending CPU of a GICv2 SGI; everything else uses bit 0 alone. While an interrupt sits in a list register
//! the hardware owns the part of its state that was moved there; what software wants of it meanwhile is kept as a request
//! and applied when the list register is read back.

use alloc::boxed::Box;
use alloc::vec;
use core::ops::{Index, IndexMut};

use super::PRIVATE;
use super::list_register::Backing;
use crate::ids::IntId;

/// No vCPU.
pub(super) const NOBODY: u8 = u8::MAX;
/// Priority bits that the GIC implements: five.
pub(super) const PRIORITY_MASK: u8 = 0xf8;

/// Index of an interrupt in [`Irqs`]: 32 private ones a vCPU, then the SPIs.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Slot(pub(super) u16);

impl Slot {
    /// The end of a list.
    pub(super) const NONE: Self = Self(u16::MAX);
}

/// Where an interrupt waits.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// Nowhere: nothing is to be delivered or deactivated.
    Idle,
    /// In its vCPU's queue of pending interrupts of this group, at this level.
    Pending {
        /// Whose queue.
        cpu: u8,
        /// Group 1's queue, or group 0's.
        group1: bool,
        /// Priority / 8.
        level: u8,
    },
    /// In the queue of active interrupts of the vCPU that acknowledged it.
    Active {
        /// Whose queue.
        cpu: u8,
        /// Priority / 8, as it was acknowledged.
        level: u8,
    },
    /// In a list register of this vCPU.
    Resident {
        /// Whose.
        cpu: u8,
    },
}

/// A state that is asked for. A byte, so that conditions are looked at together.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Wanted(u8);

impl Wanted {
    /// None.
    pub(super) const NOTHING: Self = Self(0);

    /// This one.
    pub(super) const fn state(active: bool) -> Self {
        Self(1 + active as u8)
    }

    /// Which; `None`: nothing is asked for.
    pub(super) const fn get(self) -> Option<bool> {
        match self.0 {
            0 => None,
            asked => Some(asked > 1),
        }
    }

    /// Whether something is.
    #[inline(always)]
    pub(super) const fn is_some(self) -> bool {
        self.0 != 0
    }

    /// What was asked for, and is no longer.
    pub(super) fn take(&mut self) -> Option<bool> {
        core::mem::replace(self, Self::NOTHING).get()
    }
}

/// One virtual interrupt. The first four are looked at together, and so are the first eight ([`Irq::conditions`]).
#[derive(Clone, Debug)]
#[repr(C)]
pub(super) struct Irq {
    /// GICD_ISENABLER
    pub(super) enabled: bool,
    /// Pending whatever the line says, by source.
    pub(super) latch: u8,
    /// Acknowledged and not deactivated.
    pub(super) active: bool,
    /// The input line is high.
    pub(super) line: bool,
    /// Latch bits that went into the list register.
    pub(super) latch_in_lr: u8,
    /// Request: of those, the ones that were cleared meanwhile.
    pub(super) drop_latch: u8,
    /// Request: the active state that was written meanwhile.
    pub(super) set_active: Wanted,
    /// GICD_ICFGR: edge-triggered, otherwise level-sensitive.
    pub(super) edge: bool,
    /// The conditions under which its line fell last in its list register, with nothing else to be done.
    pub(super) usual: u64,
    /// The line's word, which a guest acknowledges, where it has one; else 0.
    pub(super) word: u32,
    /// Since when the word has been where those who know it have found it; 0: nobody knows.
    pub(super) known: u32,
    /// GICD_IGROUPR
    pub(super) group1: bool,
    /// GICD_IPRIORITYR, implemented bits.
    pub(super) priority: u8,
    /// GICD_ITARGETSR of an SPI.
    pub(super) targets: u8,
    /// GICD_IROUTER of an SPI, bits 23:0.
    pub(super) route: u32,
    /// The vCPU that gets it when it is next delivered, or [`NOBODY`].
    pub(super) target: u8,

    /// An IOREQ server has lowered it once: from then on its levels are real levels.
    pub(super) has_level: bool,
    /// Who acknowledged it, while `active`.
    pub(super) active_on: u8,
    /// The priority under which it was acknowledged: its end must match the hardware's active priority.
    pub(super) active_priority: u8,
    /// The group under which it was acknowledged.
    pub(super) active_group1: bool,
    /// The GICv2 SGI source that was acknowledged.
    pub(super) active_source: u8,

    /// The physical interrupt behind it.
    pub(super) physical: Option<IntId>,
    /// The physical interrupt is active and waits for this one's deactivation.
    pub(super) physical_active: bool,
    /// It arrived again while its list register was believed to hold it: the guest has ended the one before.
    pub(super) physical_again: bool,

    /// Where it waits.
    pub(super) place: Place,
    /// The list register that it was last in.
    pub(super) lr: u8,

    /// Next in its queue.
    pub(super) next: Slot,
    /// Previous in its queue.
    pub(super) previous: Slot,
}

impl Irq {
    /// As after reset: disabled, idle, the most urgent priority.
    pub(super) fn new(target: u8, edge: bool, group1: bool) -> Self {
        Self {
            enabled: false,
            group1,
            edge,
            priority: 0,
            targets: 1,
            route: 0,
            target,
            line: false,
            has_level: false,
            latch: 0,
            active: false,
            active_on: 0,
            active_priority: 0,
            active_group1: false,
            active_source: 0,
            physical: None,
            physical_active: false,
            physical_again: false,
            place: Place::Idle,
            latch_in_lr: 0,
            drop_latch: 0,
            set_active: Wanted::NOTHING,
            usual: u64::MAX,
            word: 0,
            known: 0,
            lr: 0,
            next: Slot::NONE,
            previous: Slot::NONE,
        }
    }

    /// Enabled, with a line that is low, neither pending nor active apart from what a list register holds.
    #[inline(always)]
    pub(super) const fn is_ready(&self) -> bool {
        let flags = [self.enabled as u8, self.latch, self.active as u8, self.line as u8];
        u32::from_le_bytes(flags) == u32::from_le_bytes([1, 0, 0, 0])
    }
    /// All that decides what becomes of a line that falls, but for where the interrupt is and what is behind it.
    #[inline(always)]
    pub(super) const fn conditions(&self) -> u64 {
        u64::from_le_bytes([
            self.enabled as u8,
            self.latch,
            self.active as u8,
            self.line as u8,
            self.latch_in_lr,
            self.drop_latch,
            self.set_active.0,
            self.edge as u8,
        ])
    }
    /// Pending, apart from what a list register holds.
    pub(super) fn pending(&self) -> bool {
        self.latch != 0 || (self.line && !self.edge)
    }
    /// Pending and enabled, with somebody to go to; the group enables are the distributor's.
    pub(super) fn deliverable(&self) -> bool {
        self.pending() && self.enabled && self.target != NOBODY
    }
    /// Pending as GICD_ISPENDR shows it.
    pub(super) fn shows_pending(&self) -> bool {
        self.pending() || self.latch_in_lr & !self.drop_latch != 0
    }
    /// Active as GICD_ISACTIVER shows it.
    pub(super) fn shows_active(&self) -> bool {
        self.set_active.get().unwrap_or(self.active)
    }
    /// In a list register of some vCPU.
    pub(super) fn resident_on(&self) -> Option<u8> {
        match self.place {
            Place::Resident { cpu } => Some(cpu),
            _ => None,
        }
    }
    /// The guest has ended what its list register, which was backed by `backing`, held of it.
    #[inline]
    pub(super) fn end(&mut self, backing: Backing) {
        if matches!(backing, Backing::Physical(_)) {
            self.physical_active = self.physical_again;
        }
        self.physical_again = false;
        self.latch_in_lr = 0;
        self.drop_latch = 0;
        self.active = false;
    }
    /// There is nothing to deliver, to end or to deactivate.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        !self.active && !self.pending() && !self.physical_active
    }
    /// Where it belongs while it is in no list register.
    pub(super) fn wanted_place(&self) -> Place {
        if self.active {
            Place::Active {
                cpu: self.active_on,
                level: self.active_priority >> 3,
            }
        } else if self.deliverable() {
            Place::Pending {
                cpu: self.target,
                group1: self.group1,
                level: self.priority >> 3,
            }
        } else {
            Place::Idle
        }
    }
}

/// Every interrupt of a domain. Indexing is total: a slot that does not exist reaches a spare that nobody looks at.
#[derive(Debug)]
pub(super) struct Irqs {
    table: Box<[Irq]>,
    spare: Irq,
}

impl Irqs {
    /// `count` interrupts as `make` says.
    pub(super) fn new(count: u16, make: impl Fn(u16) -> Irq) -> Self {
        let mut table = vec![Irq::new(NOBODY, true, false); usize::from(count)].into_boxed_slice();
        for (index, irq) in (0..count).zip(table.iter_mut()) {
            *irq = make(index);
        }
        Self {
            table,
            spare: Irq::new(NOBODY, true, false),
        }
    }
    /// Every interrupt is as `make` says.
    pub(super) fn renew(&mut self, make: impl Fn(u16) -> Irq) {
        for (index, irq) in (0..).zip(self.table.iter_mut()) {
            *irq = make(index);
        }
    }
    /// The private ones of a vCPU that exists, found by one look.
    #[inline(always)]
    pub(super) fn private(&self, vcpu: u8) -> Option<&[Irq; PRIVATE as usize]> {
        self.table.as_chunks().0.get(usize::from(vcpu))
    }
}

impl Index<Slot> for Irqs {
    type Output = Irq;
    fn index(&self, slot: Slot) -> &Irq {
        self.table.get(usize::from(slot.0)).unwrap_or(&self.spare)
    }
}

impl IndexMut<Slot> for Irqs {
    fn index_mut(&mut self, slot: Slot) -> &mut Irq {
        self.table.get_mut(usize::from(slot.0)).unwrap_or(&mut self.spare)
    }
}
