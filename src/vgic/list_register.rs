//! One list register in neutral form, its two encodings, and the hardware that holds them.
//!
//! The rest of the virtual GIC speaks of [`ListRegister`] alone; `arch` writes words. Encoding is pure, so that the words
//! are tested on a PC.

use crate::ids::IntId;
use crate::trace::Kind;

/// Where an interrupt in a list register is in its life (GIC specification: list register State).
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
pub enum LrState {
    /// The register is free.
    #[default]
    Inactive,
    /// Waits for the guest to acknowledge it.
    Pending,
    /// Acknowledged, not deactivated.
    Active,
    /// Acknowledged, and pending again.
    PendingAndActive,
}

impl LrState {
    const fn bits(self) -> u32 {
        match self {
            Self::Inactive => 0,
            Self::Pending => 1,
            Self::Active => 2,
            Self::PendingAndActive => 3,
        }
    }
    /// By the two low bits: 1 is pending, 2 active.
    #[inline]
    pub const fn from_bits(bits: u32) -> Self {
        match bits & 3 {
            0 => Self::Inactive,
            1 => Self::Pending,
            2 => Self::Active,
            _ => Self::PendingAndActive,
        }
    }
    /// Waits to be acknowledged, active or not.
    pub const fn is_pending(self) -> bool {
        self.bits() & 1 != 0
    }
    /// Acknowledged, pending again or not.
    pub const fn is_active(self) -> bool {
        self.bits() & 2 != 0
    }
}

/// The hardware behind a virtual interrupt, or what to do when it ends.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub enum Backing {
    /// A physical interrupt that the guest's deactivation deactivates (HW = 1).
    Physical(IntId),
    /// Software; `maintenance` asks for a maintenance interrupt at the guest's EOI; `source` is a GICv2 SGI's CPU.
    Software {
        /// Ask for a maintenance interrupt when the guest ends it.
        maintenance: bool,
        /// CPU that sent the SGI, GICv2 only.
        source: u8,
    },
}

impl Backing {
    /// Nothing physical, nothing asked of the end, no CPU that sent it, or CPU 0.
    pub(crate) const QUIET: Self = Self::Software {
        maintenance: false,
        source: 0,
    };
}

/// One list register.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub struct ListRegister {
    /// The interrupt that the guest sees.
    pub interrupt: IntId,
    /// 0 is the most urgent; a multiple of 8.
    pub priority: u8,
    /// Group 1 (IRQ) or group 0.
    pub group1: bool,
    /// Its state.
    pub state: LrState,
    /// What is behind it.
    pub backing: Backing,
}

impl ListRegister {
    /// One that is in no use.
    pub(crate) const FREE: Self = Self {
        interrupt: IntId(0),
        priority: 0,
        group1: false,
        state: LrState::Inactive,
        backing: Backing::QUIET,
    };

    /// The same, active alone, and without a maintenance interrupt at its end; software is behind it.
    const fn lowered(self) -> Self {
        let source = match self.backing {
            Backing::Software { source, .. } => source,
            Backing::Physical(_) => 0,
        };
        Self {
            state: LrState::Active,
            backing: Backing::Software {
                maintenance: false,
                source,
            },
            ..self
        }
    }

    /// [`VirtualInterface::lower`] of a value of ICH_LR<n>_EL2 with HW = 0; 0: it is free.
    pub const fn lower_ich(word: u64) -> u64 {
        if word >> 63 != 0 {
            word & !(1 << 62 | 1 << 41)
        } else {
            0
        }
    }

    /// [`VirtualInterface::lower`] of a value of GICH_LR<n> with HW = 0; 0: it is free.
    pub const fn lower_gich(word: u32) -> u32 {
        if word >> 29 & 1 != 0 {
            word & !(1 << 28 | 1 << 19)
        } else {
            0
        }
    }

    /// Software alone is behind it, and nobody awaits its end.
    #[inline]
    pub(crate) const fn is_plain(&self) -> bool {
        matches!(self.backing, Backing::Software { maintenance: false, .. })
    }

    /// It asks for a maintenance interrupt at its end.
    pub(crate) const fn asks_for_maintenance(&self) -> bool {
        matches!(self.backing, Backing::Software { maintenance: true, .. })
    }

    /// The value of ICH_LR<n>_EL2 (GICv3 specification, "ICH_LR<n>_EL2"): vINTID 31:0, pINTID 44:32 (EOI maintenance in
    /// bit 41 when HW = 0), priority 55:48, group 60, HW 61, state 63:62. A free register is 0.
    pub const fn to_ich(register: Option<Self>) -> u64 {
        let Some(register) = register else { return 0 };
        let backing = match register.backing {
            Backing::Physical(physical) => 1 << 61 | (physical.0 as u64 & 0x1fff) << 32,
            Backing::Software { maintenance, .. } => (maintenance as u64) << 41,
        };
        register.interrupt.0 as u64
            | backing
            | (register.priority as u64) << 48
            | (register.group1 as u64) << 60
            | (register.state.bits() as u64) << 62
    }

    /// What ICH_LR<n>_EL2 says; `None` when its state is inactive.
    pub const fn from_ich(word: u64) -> Option<Self> {
        let state = LrState::from_bits((word >> 62) as u32);
        if matches!(state, LrState::Inactive) {
            return None;
        }
        Some(Self {
            interrupt: IntId(word as u32),
            priority: (word >> 48) as u8,
            group1: word & 1 << 60 != 0,
            state,
            backing: if word & 1 << 61 != 0 {
                Backing::Physical(IntId((word >> 32) as u32 & 0x1fff))
            } else {
                Backing::Software {
                    maintenance: word & 1 << 41 != 0,
                    source: 0,
                }
            },
        })
    }

    /// The value of GICH_LR<n> (GICv2 specification, "GICH_LRn"): virtual ID 9:0, physical ID 19:10 (when HW = 0: the SGI's
    /// CPU in 12:10, EOI maintenance in bit 19), priority / 8 in 27:23, state 29:28, group 30, HW 31. A free one is 0.
    pub const fn to_gich(register: Option<Self>) -> u32 {
        let Some(register) = register else { return 0 };
        let backing = match register.backing {
            Backing::Physical(physical) => 1 << 31 | (physical.0 & 0x3ff) << 10,
            Backing::Software { maintenance, source } => (maintenance as u32) << 19 | (source as u32 & 7) << 10,
        };
        register.interrupt.0 & 0x3ff
            | backing
            | (register.priority as u32 >> 3) << 23
            | register.state.bits() << 28
            | (register.group1 as u32) << 30
    }

    /// What GICH_LR<n> says; `None` when its state is inactive.
    pub const fn from_gich(word: u32) -> Option<Self> {
        let state = LrState::from_bits(word >> 28);
        if matches!(state, LrState::Inactive) {
            return None;
        }
        Some(Self {
            interrupt: IntId(word & 0x3ff),
            priority: (word >> 23 & 0x1f) as u8 * 8,
            group1: word & 1 << 30 != 0,
            state,
            backing: if word & 1 << 31 != 0 {
                Backing::Physical(IntId(word >> 10 & 0x3ff))
            } else {
                Backing::Software {
                    maintenance: word & 1 << 19 != 0,
                    source: (word >> 10 & 7) as u8,
                }
            },
        })
    }
}

/// Which interrupts a guest's CPU interface lets through.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct PriorityMask {
    /// Only interrupts with a priority number below this one (VPMR).
    pub threshold: u8,
    /// Group 0 is enabled (VENG0).
    pub group0: bool,
    /// Group 1 is enabled (VENG1).
    pub group1: bool,
}

impl PriorityMask {
    /// Whether an interrupt of this priority and group gets through.
    pub const fn accepts(self, priority: u8, group1: bool) -> bool {
        priority < self.threshold && if group1 { self.group1 } else { self.group0 }
    }
}

/// The virtual CPU interface of this pCPU: ICH_*_EL2, or GICH.
pub trait VirtualInterface {
    /// How many list registers there are: 1 to 16.
    fn list_registers(&self) -> usize;
    /// Reads list register `index`, which is below [`Self::list_registers`]; `None` when it is free.
    fn read(&self, index: usize) -> Option<ListRegister>;
    /// The state of list register `index`, which is all of it that changes by itself.
    fn state(&self, index: usize) -> LrState {
        self.read(index).map_or(LrState::Inactive, |register| register.state)
    }
    /// Writes list register `index`; `None` frees it.
    fn write(&mut self, index: usize, value: Option<ListRegister>);
    /// What list register `index` holds, with software behind it, is not pending any more and asks for no maintenance: it is
    /// active, or the register is free from now on. Which of the two.
    fn lower(&mut self, index: usize) -> LrState {
        let active = self.read(index).filter(|register| register.state.is_active());
        self.write(index, active.map(ListRegister::lowered));
        active.map_or(LrState::Inactive, |_| LrState::Active)
    }
    /// One bit for each list register that is free (ICH_ELRSR_EL2, GICH_ELRSR).
    fn free(&self) -> u16;
    /// Asks for a maintenance interrupt while no list register is in state [`LrState::Pending`] (ICH_HCR_EL2.NPIE,
    /// GICH_HCR.NPIE), or no longer.
    fn set_no_pending(&mut self, wanted: bool);
    /// What the guest lets through now (ICH_VMCR_EL2, GICH_VMCR).
    fn mask(&self) -> PriorityMask;
    /// Deactivates a physical interrupt whose priority was dropped and that the guest will not deactivate, because it
    /// took the virtual one back (ICC_DIR_EL1, GICC_DIR). A PPI is the calling pCPU's own.
    fn deactivate(&mut self, physical: IntId);
    /// Records an event of the loaded vCPU ([`Machine::trace`](crate::machine::Machine::trace)): `interrupt` came into a
    /// list register to be taken, or the guest has ended it.
    fn trace(&mut self, kind: Kind, interrupt: IntId);
}
