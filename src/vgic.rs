//! The virtual interrupt controller of one domain: a GICv2 or GICv3 distributor in software over hardware list registers.
//!
//! **Model.** [`Vgic`] is a state machine that neither locks nor touches hardware. Each interrupt is in one place: idle,
//! in one vCPU's queue of pending or of active interrupts, or in a list register of one loaded vCPU ([`irq`]). Queues are
//! intrusive lists by priority ([`queue`]), so that no operation depends on the number of SPIs; a register write touches at
//! most 32 interrupts. All memory is allocated by [`Vgic::new`].
//!
//! **A running vCPU** owns the state that its list registers hold. [`Vgic::sync`] reads it back, [`Vgic::flush`] moves the
//! most urgent interrupts into list registers, [`Vgic::park`] and [`Vgic::unload`] leave them free ([`interface`]). Between
//! two flushes nothing is read or written: list registers stay as they are over any number of exits. Whoever changes something that a
//! vCPU must see gets that vCPU in the returned set; it is kicked, and flushes before it runs on. Writes to the state of
//! an interrupt that another vCPU holds are applied when that one reads its list registers back; a *read* of such state
//! asks for the same and answers [`Answer::Again`] until it has happened, so that what a guest reads is exact.
//!
//! **Maintenance interrupts** are asked for only when something waits that no other event will announce: *no list register
//! pending* while pending interrupts overflow (one a batch, not one an interrupt), and *end of interrupt* on a list register
//! whose interrupt will be pending again: a high line, another SGI source, an overflow of active interrupts.
//!
//! **Limits**: an interrupt that is deactivated by a separate write (EOImode 1) while more interrupts are active than there
//! are list registers can stay active; without that mode any nesting works, given two list registers (hardware has four).
//! Interrupts of a group that the guest enabled in the distributor but not in its CPU interface can fill the list registers.
//!
//! Sources: GIC architecture versions 3 and 4 (IHI 0069), version 2 (IHI 0048).

mod at_once;
mod bank;
mod distributor;
mod distributor_regs;
mod inject;
mod interface;
mod irq;
pub mod list_register;
mod look;
mod queue;
mod sgi;

use alloc::boxed::Box;
use core::fmt;

pub use distributor::{Answer, Frame, MmioResult, PhysicalChange, PhysicalChanges, Setting};
pub use interface::{Cleared, KnownLine, Line};
pub use look::{ControllerLook, InterruptLook, Waits};
pub use sgi::SgiRegister;

use crate::ids::{IntId, MAX_VCPUS, VcpuSet};
use interface::VcpuInterface;
use irq::{Irq, Irqs, NOBODY, Place, Slot};
use queue::PriorityQueue;

/// Which distributor the guest sees.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub enum Version {
    /// GICv2: GICD of 4 KiB, target lists.
    V2,
    /// GICv3: GICD of 64 KiB, a redistributor of 128 KiB a vCPU, affinity routing always on, one Security state.
    V3,
}

/// What a domain's interrupt controller is made of.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// Which distributor.
    pub version: Version,
    /// 1 to 8. vCPU n has affinity 0.0.0.n, and is CPU interface n of a GICv2.
    pub vcpus: u8,
    /// SPIs, from INTID 32 on: 32 to 988.
    pub spis: u16,
}

impl Config {
    /// An interrupt as after reset, by its slot.
    fn first_state(self, slot: u16) -> Irq {
        let group1 = self.version == Version::V3;
        if slot >= u16::from(self.vcpus) * PRIVATE {
            return Irq::new(0, false, group1);
        }
        let sgi = u32::from(slot % PRIVATE) < IntId::FIRST_PPI;
        let mut irq = Irq::new((slot / PRIVATE) as u8, sgi, group1);
        // A GICv2's SGIs are always enabled (IHI 0048, GICD_ISENABLERn).
        irq.enabled = sgi && self.version == Version::V2;
        irq
    }
}

/// Why the virtual interrupt controller refuses.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum VgicError {
    /// A domain has 1 to 8 vCPUs.
    #[error("{0} vCPUs")]
    Vcpus(u8),
    /// A distributor has 32 to 988 SPIs.
    #[error("{0} SPIs")]
    Spis(u16),
    /// The domain has no such vCPU.
    #[error("no vCPU {0}")]
    NoVcpu(u8),
    /// Not an SPI that the domain has.
    #[error("{0:?} is no SPI of the domain")]
    NotSpi(IntId),
    /// Not a PPI.
    #[error("{0:?} is no PPI")]
    NotPpi(IntId),
    /// The interrupt belongs to a device of the hypervisor or of the hardware.
    #[error("{0:?} is reserved")]
    Reserved(IntId),
    /// No physical interrupt is behind it.
    #[error("{0:?} has no physical interrupt")]
    NotPhysical(IntId),
    /// It is backed by another physical interrupt already.
    #[error("{0:?} has a physical interrupt already")]
    Bound(IntId),
}

/// INTID 1020 to 1023 are special, so the last of 32 x 32 distributor bits are no interrupts.
const MAX_SPIS: u16 = (IntId::SPI_LIMIT - IntId::FIRST_SPI) as u16;
const MIN_SPIS: u16 = 32;
const PRIVATE: u16 = IntId::FIRST_SPI as u16;

/// GICD_CTLR.EnableGrp0 and EnableGrp1.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
struct GroupEnables {
    group0: bool,
    group1: bool,
}

impl GroupEnables {
    const fn has(self, group1: bool) -> bool {
        if group1 { self.group1 } else { self.group0 }
    }
}

/// The interrupt controller of one domain. See the module. In this order what every switch needs is in reach of a load.
#[repr(C)]
pub struct Vgic {
    config: Config,
    groups: GroupEnables,
    /// vCPUs with news since the last public call.
    kick: VcpuSet,
    irqs: Irqs,
    /// How often a line's word became known.
    knowings: u32,
    reserved: Box<[u32]>,
    cpus: [Cpu; MAX_VCPUS],
}

impl fmt::Debug for Vgic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vgic")
            .field("config", &self.config)
            .field("groups", &self.groups)
            .finish_non_exhaustive()
    }
}

/// A vCPU's side of the controller.
#[derive(Debug)]
#[repr(C)]
struct Cpu {
    interface: VcpuInterface,
    /// Deliverable interrupts by urgency: group 0, group 1.
    pending: [PriorityQueue; 2],
    /// Active interrupts that are in no list register.
    active: PriorityQueue,
    /// GICR_WAKER.ProcessorSleep; delivery does not depend on it.
    asleep: bool,
}

impl Cpu {
    const fn new() -> Self {
        Self {
            pending: [PriorityQueue::new(), PriorityQueue::new()],
            active: PriorityQueue::new(),
            interface: VcpuInterface::new(),
            asleep: false,
        }
    }

    fn queue(&mut self, group1: bool) -> &mut PriorityQueue {
        let [group0_queue, group1_queue] = &mut self.pending;
        if group1 { group1_queue } else { group0_queue }
    }

    /// Something is pending, of whatever group.
    fn has_pending(&self) -> bool {
        let [group0_queue, group1_queue] = &self.pending;
        !group0_queue.is_empty() || !group1_queue.is_empty()
    }

    /// The most urgent pending interrupt of the groups that are enabled, with its level.
    fn first_pending(&self, groups: GroupEnables) -> Option<(u8, Slot)> {
        let [group0_queue, group1_queue] = &self.pending;
        let best = |queue: &PriorityQueue, enabled: bool| {
            let slot = queue.first().filter(|_| enabled)?;
            Some((queue.best_level(), slot))
        };
        match (best(group0_queue, groups.group0), best(group1_queue, groups.group1)) {
            (Some(first), Some(second)) => Some(if second.0 < first.0 { second } else { first }),
            (first, second) => first.or(second),
        }
    }
}

impl Vgic {
    /// A controller as after reset: everything disabled. As a platform's firmware leaves it, every interrupt of a GICv3 is
    /// in group 1 and every redistributor awake; a GICv2's are in group 0. SPIs go to vCPU 0.
    ///
    /// # Errors
    /// [`VgicError::Vcpus`], [`VgicError::Spis`].
    pub fn new(config: Config) -> Result<Self, VgicError> {
        if !(1..=MAX_VCPUS).contains(&usize::from(config.vcpus)) {
            return Err(VgicError::Vcpus(config.vcpus));
        }
        if !(MIN_SPIS..=MAX_SPIS).contains(&config.spis) {
            return Err(VgicError::Spis(config.spis));
        }
        let privates = u16::from(config.vcpus) * PRIVATE;
        let irqs = Irqs::new(privates + config.spis, |index| config.first_state(index));
        Ok(Self {
            config,
            groups: GroupEnables::default(),
            irqs,
            knowings: 0,
            cpus: [const { Cpu::new() }; MAX_VCPUS],
            reserved: alloc::vec![0; usize::from(config.spis).div_ceil(32)].into_boxed_slice(),
            kick: VcpuSet::EMPTY,
        })
    }

    /// As [`Self::new`] made it: no interrupt is reserved, and none has a physical one behind it. No list register of any
    /// pCPU is in use for it ([`Self::power_off`]), and every physical interrupt behind one of its SPIs is inactive.
    pub fn reset(&mut self) {
        let config = self.config;
        self.irqs.renew(|index| config.first_state(index));
        self.groups = GroupEnables::default();
        for cpu in &mut self.cpus {
            let injected = cpu.interface.injected;
            *cpu = Cpu::new();
            cpu.interface.injected = injected;
        }
        self.reserved.fill(0);
        self.kick = VcpuSet::EMPTY;
    }

    /// What it was made of.
    pub const fn config(&self) -> Config {
        self.config
    }

    /// Whether the vCPU has news that its list registers do not show: it must [`Self::flush`] before it runs on. Every vCPU
    /// for which this becomes true is in a set that some call returned.
    pub fn needs_flush(&self, vcpu: u8) -> bool {
        self.cpu(vcpu).is_some_and(|cpu| cpu.interface.dirty)
    }

    /// How many interrupts were put into list registers of a vCPU, to be taken.
    pub fn injected(&self, vcpu: u8) -> u64 {
        self.cpu(vcpu).map_or(0, |cpu| cpu.interface.injected)
    }

    fn cpu(&self, vcpu: u8) -> Option<&Cpu> {
        self.cpus.get(usize::from(vcpu)).filter(|_| vcpu < self.config.vcpus)
    }

    fn cpu_mut(&mut self, vcpu: u8) -> Option<&mut Cpu> {
        self.cpus
            .get_mut(usize::from(vcpu))
            .filter(|_| vcpu < self.config.vcpus)
    }

    fn private_slot(&self, vcpu: u8, interrupt: u32) -> Option<Slot> {
        (vcpu < self.config.vcpus && interrupt < IntId::FIRST_SPI)
            .then(|| Slot(u16::from(vcpu) * PRIVATE + interrupt as u16))
    }

    fn spi_slot(&self, interrupt: u32) -> Option<Slot> {
        let index = interrupt.checked_sub(IntId::FIRST_SPI)?;
        (index < u32::from(self.config.spis)).then(|| Slot(u16::from(self.config.vcpus) * PRIVATE + index as u16))
    }

    /// The number that the guest knows a slot by.
    fn interrupt(&self, slot: Slot) -> IntId {
        let privates = u16::from(self.config.vcpus) * PRIVATE;
        IntId(u32::from(match slot.0.checked_sub(privates) {
            Some(spi) => spi + PRIVATE,
            None => slot.0 % PRIVATE,
        }))
    }

    /// The vCPU that a private interrupt belongs to.
    fn owner(&self, slot: Slot) -> Option<u8> {
        (slot.0 < u16::from(self.config.vcpus) * PRIVATE).then_some((slot.0 / PRIVATE) as u8)
    }

    /// Brings an interrupt to where its state wants it, and tells whom it concerns.
    fn update(&mut self, slot: Slot) {
        let current = self.irqs[slot].place;
        if let Place::Resident { cpu } = current {
            let index = self.irqs[slot].lr;
            self.announce(cpu, 1 << (index % 16));
            return;
        }
        let wanted = self.irqs[slot].wanted_place();
        if wanted != current {
            self.unlink(slot);
            self.link(slot, wanted);
        }
    }

    /// Takes an interrupt out of its queue.
    fn unlink(&mut self, slot: Slot) {
        let Self { irqs, cpus, .. } = self;
        match irqs[slot].place {
            Place::Pending { cpu, group1, level } => {
                if let Some(cpu) = cpus.get_mut(usize::from(cpu)) {
                    cpu.queue(group1).remove(irqs, slot, level);
                }
            }
            Place::Active { cpu, level } => {
                if let Some(cpu) = cpus.get_mut(usize::from(cpu)) {
                    cpu.active.remove(irqs, slot, level);
                }
            }
            Place::Idle | Place::Resident { .. } => {}
        }
        irqs[slot].place = Place::Idle;
    }

    /// Puts an interrupt that is in no queue into one, last of its priority; its vCPU is told unless its list registers
    /// could not take it anyway.
    fn link(&mut self, slot: Slot, place: Place) {
        let Self { irqs, cpus, groups, .. } = self;
        irqs[slot].place = place;
        match place {
            Place::Pending { cpu, group1, level } => {
                let Some(target) = cpus.get_mut(usize::from(cpu)) else {
                    return;
                };
                // What is left over after a flush is no more urgent than what the list registers hold.
                let hopeless = target.interface.overflows()
                    && target.first_pending(*groups).is_some_and(|(best, _)| best <= level);
                target.queue(group1).push_back(irqs, slot, level);
                if !hopeless && groups.has(group1) {
                    self.announce(cpu, 0);
                }
            }
            Place::Active { cpu, level } => {
                let Some(target) = cpus.get_mut(usize::from(cpu)) else {
                    return;
                };
                target.active.push_back(irqs, slot, level);
                self.attend(cpu);
            }
            Place::Idle | Place::Resident { .. } => {}
        }
    }

    /// A pending interrupt waits for a list register of a vCPU, or those in these list registers (a bit each) have news.
    fn announce(&mut self, vcpu: u8, news: u16) {
        if let Some(cpu) = self.cpu_mut(vcpu) {
            cpu.interface.dirty = true;
            cpu.interface.news |= news;
            self.kick.insert(vcpu);
        }
    }

    /// Makes a vCPU choose anew what its list registers hold before it runs on.
    fn attend(&mut self, vcpu: u8) {
        if let Some(cpu) = self.cpu_mut(vcpu) {
            cpu.interface.dirty = true;
            cpu.interface.reorder = true;
            self.kick.insert(vcpu);
        }
    }

    /// Whom the operation concerned.
    fn take_kick(&mut self) -> VcpuSet {
        core::mem::take(&mut self.kick)
    }

    /// The vCPU that an SPI goes to, by its registers.
    fn spi_target(&self, slot: Slot) -> u8 {
        let irq = &self.irqs[slot];
        let vcpu = match self.config.version {
            Version::V2 => irq.targets.trailing_zeros(),
            Version::V3 => irq.route,
        };
        if vcpu < u32::from(self.config.vcpus) {
            vcpu as u8
        } else {
            NOBODY
        }
    }
}
