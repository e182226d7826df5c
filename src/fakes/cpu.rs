//! A pCPU with a vCPU loaded: EL1 registers, a scripted stage 1, and list registers that refuse what hardware leaves
//! unpredictable.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use crate::cpu::{Access, Cpu, El1Register, TranslationFault};
use crate::ids::{IntId, Ipa};
use crate::trace::Kind;
use crate::vgic::list_register::{Backing, ListRegister, LrState, PriorityMask, VirtualInterface};

/// List registers, and the guest's side of the virtual CPU interface.
#[derive(Clone, Debug)]
pub struct FakeVirtualInterface {
    registers: Vec<Option<ListRegister>>,
    /// Whose interrupt ended and asked for maintenance (ICH_EISR_EL2): not free until written.
    ended: u16,
    maintenance_wanted: bool,
    /// Interrupts with a priority number below this one get through (ICH_VMCR_EL2.VPMR).
    pub priority_mask: u8,
    /// The guest enabled group 0 (VENG0).
    pub group0: bool,
    /// The guest enabled group 1 (VENG1).
    pub group1: bool,
    active_priorities: Vec<(IntId, u8)>,
    /// Physical interrupts that were deactivated, by the guest's deactivations or for it, oldest first.
    pub deactivated: Vec<IntId>,
    /// Interrupts that came into list registers to be taken, and those that were found ended, oldest first.
    pub trace: Vec<(Kind, IntId)>,
}

impl FakeVirtualInterface {
    /// `count` free list registers, 1 to 16; the guest lets everything through.
    pub fn new(count: usize) -> Self {
        assert!((1..=16).contains(&count), "{count} list registers");
        Self {
            registers: alloc::vec![None; count],
            ended: 0,
            maintenance_wanted: false,
            priority_mask: 0xff,
            group0: true,
            group1: true,
            active_priorities: Vec::new(),
            deactivated: Vec::new(),
            trace: Vec::new(),
        }
    }

    /// Whether a maintenance interrupt is asked for when no list register is pending.
    pub fn wants_no_pending(&self) -> bool {
        self.maintenance_wanted
    }

    /// Whether a maintenance interrupt is signalled now because no list register is pending.
    pub fn no_pending_fires(&self) -> bool {
        self.maintenance_wanted && !self.used().any(|register| register.state == LrState::Pending)
    }

    /// Whether a maintenance interrupt is signalled now because an interrupt has ended.
    pub const fn end_fires(&self) -> bool {
        self.ended != 0
    }

    /// The list registers in use.
    pub fn used(&self) -> impl Iterator<Item = &ListRegister> {
        self.registers.iter().flatten()
    }

    /// The list register of `interrupt`, whichever source.
    pub fn find(&self, interrupt: IntId) -> Option<ListRegister> {
        self.used().find(|register| register.interrupt == interrupt).copied()
    }

    /// The guest reads its acknowledge register: the most urgent pending interrupt that mask, groups and running
    /// priority let through becomes active.
    pub fn acknowledge(&mut self) -> Option<IntId> {
        let running = self.active_priorities.last().map_or(u8::MAX, |(_, priority)| *priority);
        let best = (0..self.registers.len())
            .filter_map(|index| self.registers[index].map(|register| (register.priority, index, register)))
            .filter(|(priority, _, register)| {
                matches!(register.state, LrState::Pending)
                    && self.mask().accepts(*priority, register.group1)
                    && *priority < running
            })
            .min_by_key(|(priority, index, _)| (*priority, *index))?;
        let (priority, index, register) = best;
        self.registers[index] = Some(ListRegister {
            state: LrState::Active,
            ..register
        });
        self.active_priorities.push((register.interrupt, priority));
        Some(register.interrupt)
    }

    /// The guest ends and deactivates `interrupt` (EOImode 0). Whether it was active in a list register, and asked for a
    /// maintenance interrupt.
    pub fn end(&mut self, interrupt: IntId) -> Option<bool> {
        self.active_priorities.retain(|(active, _)| *active != interrupt);
        let (index, slot) = self.registers.iter_mut().enumerate().find(|(_, slot)| {
            slot.is_some_and(|register| {
                register.interrupt == interrupt && matches!(register.state, LrState::Active | LrState::PendingAndActive)
            })
        })?;
        let register = slot.as_mut()?;
        let maintenance = match register.backing {
            Backing::Physical(physical) => {
                self.deactivated.push(physical);
                false
            }
            Backing::Software { maintenance, .. } => maintenance,
        };
        if register.state == LrState::PendingAndActive {
            register.state = LrState::Pending;
        } else {
            *slot = None;
            self.ended |= u16::from(maintenance) << index;
        }
        Some(maintenance)
    }

    fn identity(register: &ListRegister) -> (IntId, u8) {
        match register.backing {
            // Only a GICv2 SGI may be listed more than once, for different senders.
            Backing::Software { source, .. } if register.interrupt.is_sgi() => (register.interrupt, source),
            _ => (register.interrupt, 0),
        }
    }

    fn check(&self, index: usize, register: &ListRegister) {
        assert!(
            register.interrupt.0 < IntId::SPI_LIMIT,
            "{:?} in a list register",
            register.interrupt
        );
        assert_eq!(
            register.priority % 8,
            0,
            "priority {:#x} has bits that hardware drops",
            register.priority
        );
        if let Backing::Physical(physical) = register.backing {
            assert!(
                !physical.is_sgi() && physical.0 < IntId::SPI_LIMIT,
                "{physical:?} behind a list register"
            );
            assert_ne!(
                register.state,
                LrState::PendingAndActive,
                "hardware interrupt pending and active"
            );
        }
        if let Backing::Software { source, .. } = register.backing {
            assert!(source < 8, "SGI source {source}");
        }
        for (other_index, other) in self.registers.iter().enumerate() {
            if let Some(other) = other
                && other_index != index
            {
                let twice = Self::identity(other) == Self::identity(register);
                assert!(!twice, "{:?} in two list registers", register.interrupt);
            }
        }
    }
}

impl VirtualInterface for FakeVirtualInterface {
    fn list_registers(&self) -> usize {
        self.registers.len()
    }
    fn read(&self, index: usize) -> Option<ListRegister> {
        assert!(index < self.registers.len(), "list register {index} does not exist");
        self.registers[index]
    }
    fn write(&mut self, index: usize, value: Option<ListRegister>) {
        assert!(index < self.registers.len(), "list register {index} does not exist");
        // A register written as inactive is free, as hardware reads it back.
        let value = value.filter(|register| register.state != LrState::Inactive);
        if let Some(register) = &value {
            self.check(index, register);
        }
        self.registers[index] = value;
        self.ended &= !(1 << index);
    }
    fn free(&self) -> u16 {
        (0..self.registers.len())
            .filter(|index| self.registers[*index].is_none() && self.ended & 1 << index == 0)
            .fold(0, |set, index| set | 1 << index)
    }
    fn set_no_pending(&mut self, wanted: bool) {
        self.maintenance_wanted = wanted;
    }
    fn mask(&self) -> PriorityMask {
        PriorityMask {
            threshold: self.priority_mask,
            group0: self.group0,
            group1: self.group1,
        }
    }
    fn deactivate(&mut self, physical: IntId) {
        self.deactivated.push(physical);
    }
    fn trace(&mut self, kind: Kind, interrupt: IntId) {
        self.trace.push((kind, interrupt));
    }
}

type Translation = Box<dyn Fn(u64, Access) -> Result<Ipa, TranslationFault> + Send>;

/// A pCPU with a vCPU loaded. EL1 registers are 0 until written; stage 1 is the identity until scripted.
pub struct FakeCpu {
    interface: FakeVirtualInterface,
    registers: Vec<(El1Register, u64)>,
    translation: Translation,
    pending_system_error: Option<u32>,
    /// A physical interrupt waits for it all the time.
    pub is_interrupted: bool,
}

impl fmt::Debug for FakeCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeCpu")
            .field("interface", &self.interface)
            .field("registers", &self.registers)
            .finish_non_exhaustive()
    }
}

impl Default for FakeCpu {
    fn default() -> Self {
        Self::new(4)
    }
}

impl FakeCpu {
    /// A pCPU with this many list registers.
    pub fn new(list_registers: usize) -> Self {
        Self {
            interface: FakeVirtualInterface::new(list_registers),
            registers: Vec::new(),
            translation: Box::new(|address, _| Ok(Ipa(address))),
            pending_system_error: None,
            is_interrupted: false,
        }
    }

    /// Takes the syndrome of the virtual SError that is pending.
    pub fn take_system_error(&mut self) -> Option<u32> {
        self.pending_system_error.take()
    }

    /// Replaces the guest's stage 1.
    pub fn set_translation(
        &mut self,
        translation: impl Fn(u64, Access) -> Result<Ipa, TranslationFault> + Send + 'static,
    ) {
        self.translation = Box::new(translation);
    }

    /// The list registers, to look at.
    pub fn interface(&self) -> &FakeVirtualInterface {
        &self.interface
    }
}

impl Cpu for FakeCpu {
    type VirtualInterface = FakeVirtualInterface;

    fn pend_system_error(&mut self, syndrome: u32) {
        self.pending_system_error = Some(syndrome);
    }

    fn virtual_interface(&mut self) -> &mut FakeVirtualInterface {
        &mut self.interface
    }
    fn read_el1(&self, register: El1Register) -> u64 {
        self.registers
            .iter()
            .find(|(name, _)| *name == register)
            .map_or(0, |(_, value)| *value)
    }
    fn write_el1(&mut self, register: El1Register, value: u64) {
        match self.registers.iter_mut().find(|(name, _)| *name == register) {
            Some((_, stored)) => *stored = value,
            None => self.registers.push((register, value)),
        }
    }
    fn reset(&mut self) {
        let constant = [El1Register::CntvoffEl2, El1Register::VmpidrEl2];
        self.registers.retain(|(register, _)| constant.contains(register));
        self.interface.active_priorities.clear();
        self.pending_system_error = None;
    }
    fn is_interrupted(&self) -> bool {
        self.is_interrupted
    }
    fn translate(&self, address: u64, access: Access) -> Result<Ipa, TranslationFault> {
        (self.translation)(address, access)
    }
}
