//! The memory-mapped registers: GICD of either version and GICR, as tables of descriptors.
//!
//! Every offset and width has an answer. What no row describes, or with a width that its row does not take, or not
//! naturally aligned, reads as zero and ignores writes, as on KVM: LPI, message and security registers, SGIs and PPIs in
//! a GICv3's GICD, the space beyond the last interrupt, vCPU or frame.

use super::bank::Bank;
use super::distributor_regs as regs;
use super::irq::{NOBODY, Slot};
use super::list_register::VirtualInterface;
use super::{Config, GroupEnables, Version, Vgic};
use crate::access::{AccessWidth, Direction};
use crate::ids::{IntId, VcpuSet};

/// Which registers an access is for.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub enum Frame {
    /// GICD.
    Distributor,
    /// GICR of every vCPU: 128 KiB each, vCPU 0 first.
    Redistributor,
}

/// What the guest gets.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// The value of a load, zero-extended.
    Value(u64),
    /// A store is done, or was ignored.
    Written,
    /// Nothing was done: kick the vCPUs and let the guest run the same instruction again. A vCPU that was asked answers
    /// when it next flushes, waits or is unloaded.
    Again,
}

/// An answer, and what else has to be done.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct MmioResult {
    /// For the guest.
    pub answer: Answer,
    /// vCPUs to kick; can include the one that accessed, which flushes before it runs on.
    pub kick: VcpuSet,
    /// Physical interrupts whose setting changed: [`Vgic::physical_changes`] names them.
    pub physical: Option<PhysicalChanges>,
}

/// The setting that a write changed for up to 32 interrupts that hardware backs.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct PhysicalChanges {
    first: u32,
    interrupts: u32,
    setting: Setting,
}

/// A setting of a physical interrupt.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub enum Setting {
    /// Enabled or not.
    Enable,
    /// Edge or level.
    Trigger,
    /// Who gets it.
    Route,
}

/// What a physical interrupt is to be set to.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub enum PhysicalChange {
    /// Enable or disable it.
    Enable(bool),
    /// Edge-triggered, or level-sensitive.
    Edge(bool),
    /// Route it to the pCPU of this vCPU.
    Route(u8),
}

/// Registers of one kind that follow each other.
struct Row {
    start: u64,
    bytes: u64,
    /// Sum of the widths in bytes that it takes.
    widths: u64,
    register: Register,
}

#[derive(Copy, Clone)]
enum Register {
    Control,
    Type,
    Constant(u32),
    Bank(Bank),
    SoftwareInterrupt,
    RedistributorType,
    Waker,
}

/// Which interrupts the banks of a frame are about.
#[derive(Copy, Clone)]
pub(super) enum Scope {
    /// SPIs, and the private ones of this vCPU.
    Banked(u8),
    /// SPIs alone.
    Shared,
    /// The private ones of this vCPU alone.
    Private(u8),
}

const WORD: u64 = 4;
const BYTE_OR_WORD: u64 = 1 + 4;
const WORD_OR_DOUBLEWORD: u64 = 4 + 8;

const fn row(start: u64, bytes: u64, widths: u64, register: Register) -> Row {
    Row {
        start,
        bytes,
        widths,
        register,
    }
}

const fn bank(start: u64, bytes: u64, widths: u64, bank: Bank) -> Row {
    row(start, bytes, widths, Register::Bank(bank))
}

/// Bytes of a chunk of a frame's first 4 KiB, and how many there are.
const CHUNK: u64 = 0x80;
const CHUNKS: usize = 0x20;

/// The rows of a frame in ascending order, and the first one that can hold an offset of each chunk; the last is for what
/// lies behind the chunks.
struct Rows {
    rows: &'static [Row],
    first: [u8; CHUNKS + 1],
}

impl Rows {
    const fn new(rows: &'static [Row]) -> Self {
        let mut first = [0; CHUNKS + 1];
        let mut chunk = 0;
        while chunk < first.len() {
            let mut index = 0;
            while index < rows.len() && rows[index].start + rows[index].bytes <= chunk as u64 * CHUNK {
                index += 1;
            }
            first[chunk] = index as u8;
            chunk += 1;
        }
        Self { rows, first }
    }

    /// The row that holds `offset`.
    fn find(&self, offset: u64) -> Option<&'static Row> {
        let chunk = (offset / CHUNK).min(CHUNKS as u64);
        let first = *self.first.get(chunk as usize)?;
        let rows = self.rows.get(usize::from(first)..)?;
        let row = rows.iter().find(|row| offset < row.start + row.bytes)?;
        (row.start <= offset).then_some(row)
    }
}

static GICD_V2: Rows = Rows::new(&[
    row(regs::GICD_CTLR, 4, WORD, Register::Control),
    row(regs::GICD_TYPER, 4, WORD, Register::Type),
    row(regs::GICD_IIDR, 4, WORD, Register::Constant(regs::IIDR)),
    bank(regs::GICD_IGROUPR, 0x80, WORD, Bank::Group),
    bank(regs::GICD_ISENABLER, 0x80, WORD, Bank::SetEnable),
    bank(regs::GICD_ICENABLER, 0x80, WORD, Bank::ClearEnable),
    bank(regs::GICD_ISPENDR, 0x80, WORD, Bank::SetPending),
    bank(regs::GICD_ICPENDR, 0x80, WORD, Bank::ClearPending),
    bank(regs::GICD_ISACTIVER, 0x80, WORD, Bank::SetActive),
    bank(regs::GICD_ICACTIVER, 0x80, WORD, Bank::ClearActive),
    bank(regs::GICD_IPRIORITYR, 0x400, BYTE_OR_WORD, Bank::Priority),
    bank(regs::GICD_ITARGETSR, 0x400, BYTE_OR_WORD, Bank::Targets),
    bank(regs::GICD_ICFGR, 0x100, WORD, Bank::Configuration),
    row(regs::GICD_SGIR, 4, WORD, Register::SoftwareInterrupt),
    bank(regs::GICD_CPENDSGIR, 0x10, BYTE_OR_WORD, Bank::ClearSgiPending),
    bank(regs::GICD_SPENDSGIR, 0x10, BYTE_OR_WORD, Bank::SetSgiPending),
    row(regs::GICD_V2_PIDR2, 4, WORD, Register::Constant(regs::PIDR2_V2)),
]);

static GICD_V3: Rows = Rows::new(&[
    row(regs::GICD_CTLR, 4, WORD, Register::Control),
    row(regs::GICD_TYPER, 4, WORD, Register::Type),
    row(regs::GICD_IIDR, 4, WORD, Register::Constant(regs::IIDR)),
    bank(regs::GICD_IGROUPR, 0x80, WORD, Bank::Group),
    bank(regs::GICD_ISENABLER, 0x80, WORD, Bank::SetEnable),
    bank(regs::GICD_ICENABLER, 0x80, WORD, Bank::ClearEnable),
    bank(regs::GICD_ISPENDR, 0x80, WORD, Bank::SetPending),
    bank(regs::GICD_ICPENDR, 0x80, WORD, Bank::ClearPending),
    bank(regs::GICD_ISACTIVER, 0x80, WORD, Bank::SetActive),
    bank(regs::GICD_ICACTIVER, 0x80, WORD, Bank::ClearActive),
    bank(regs::GICD_IPRIORITYR, 0x400, BYTE_OR_WORD, Bank::Priority),
    bank(regs::GICD_ICFGR, 0x100, WORD, Bank::Configuration),
    bank(regs::GICD_IROUTER, 0x2000, WORD_OR_DOUBLEWORD, Bank::Route),
    row(regs::PIDR2, 4, WORD, Register::Constant(regs::PIDR2_V3)),
]);

static GICR_CONTROL: Rows = Rows::new(&[
    row(regs::GICR_IIDR, 4, WORD, Register::Constant(regs::IIDR)),
    row(regs::GICR_TYPER, 8, WORD_OR_DOUBLEWORD, Register::RedistributorType),
    row(regs::GICR_WAKER, 4, WORD, Register::Waker),
    row(regs::PIDR2, 4, WORD, Register::Constant(regs::PIDR2_V3)),
]);

static GICR_SGI: Rows = Rows::new(&[
    bank(regs::GICD_IGROUPR, 4, WORD, Bank::Group),
    bank(regs::GICD_ISENABLER, 4, WORD, Bank::SetEnable),
    bank(regs::GICD_ICENABLER, 4, WORD, Bank::ClearEnable),
    bank(regs::GICD_ISPENDR, 4, WORD, Bank::SetPending),
    bank(regs::GICD_ICPENDR, 4, WORD, Bank::ClearPending),
    bank(regs::GICD_ISACTIVER, 4, WORD, Bank::SetActive),
    bank(regs::GICD_ICACTIVER, 4, WORD, Bank::ClearActive),
    bank(regs::GICD_IPRIORITYR, 0x20, BYTE_OR_WORD, Bank::Priority),
    bank(regs::GICD_ICFGR, 8, WORD, Bank::Configuration),
    row(regs::PIDR2, 4, WORD, Register::Constant(regs::PIDR2_V3)),
]);

impl Config {
    /// What a load reads from a register that never changes, for callers without a lock; `None`: any other.
    #[inline(always)]
    pub const fn constant(&self, frame: Frame, offset: u64, width: AccessWidth) -> Option<u64> {
        match (frame, offset, width) {
            (Frame::Distributor, regs::GICD_TYPER, AccessWidth::Word) => Some(self.type_register() as u64),
            (Frame::Distributor, regs::GICD_IIDR, AccessWidth::Word) => Some(regs::IIDR as u64),
            _ => None,
        }
    }

    #[inline(always)]
    const fn type_register(&self) -> u32 {
        let lines = (IntId::FIRST_SPI + self.spis as u32).div_ceil(32) - 1;
        match self.version {
            Version::V2 => lines | (self.vcpus as u32 - 1) << 5,
            // Ten INTID bits; no LPIs, no messages, no range selector.
            Version::V3 => lines | 9 << regs::TYPER_ID_BITS_SHIFT | regs::TYPER_NO1N,
        }
    }
}

impl Vgic {
    /// Bytes of the distributor's frame.
    pub const fn distributor_size(&self) -> u64 {
        match self.config.version {
            Version::V2 => regs::GICD_V2_SIZE,
            Version::V3 => regs::GICD_V3_SIZE,
        }
    }

    /// Bytes of all redistributors; 0 with a GICv2.
    pub const fn redistributors_size(&self) -> u64 {
        match self.config.version {
            Version::V2 => 0,
            Version::V3 => regs::GICR_SIZE * self.config.vcpus as u64,
        }
    }

    /// The loaded vCPU accesses a register at `offset` in `frame`. `interface` is its own.
    pub fn mmio<V: VirtualInterface>(
        &mut self,
        interface: &mut V,
        vcpu: u8,
        frame: Frame,
        offset: u64,
        width: AccessWidth,
        direction: Direction,
    ) -> MmioResult {
        let mut result = MmioResult {
            answer: match direction {
                Direction::Read => Answer::Value(0),
                Direction::Write(_) => Answer::Written,
            },
            kick: VcpuSet::EMPTY,
            physical: None,
        };
        let Some((register, scope, within)) = self.find(vcpu, frame, offset, width) else {
            return result;
        };
        match direction {
            Direction::Read => {
                result.answer = match register {
                    Register::Bank(bank) => self.read_bank(interface, vcpu, bank, scope, within, width),
                    register => Answer::Value(self.read_register(register, scope) >> (within * 8) & width.mask()),
                };
            }
            Direction::Write(value) => match register {
                Register::Bank(bank) => {
                    let (first, interrupts) = self.write_bank(interface, vcpu, bank, scope, within, width, value);
                    result.physical = bank
                        .setting()
                        .filter(|_| interrupts != 0)
                        .map(|setting| PhysicalChanges {
                            first,
                            interrupts,
                            setting,
                        });
                }
                register => self.write_register(register, scope, vcpu, value as u32),
            },
        }
        // Its list registers were read back, so what they hold is stale.
        if self.cpu(vcpu).is_some_and(|cpu| cpu.interface.dirty) {
            self.kick.insert(vcpu);
        }
        result.kick = self.take_kick();
        result
    }

    /// What a load reads if nothing but the distributor knows it: no list register, no other vCPU. `None`: only
    /// [`Self::mmio`] can tell.
    #[inline]
    pub fn read_setting(&self, vcpu: u8, frame: Frame, offset: u64, width: AccessWidth) -> Option<u64> {
        let Some((register, scope, within)) = self.find(vcpu, frame, offset, width) else {
            return Some(0);
        };
        match register {
            Register::Bank(bank) if bank.is_state() => None,
            Register::Bank(bank) => Some(self.read_fields(vcpu, bank, scope, within, width)),
            register => Some(self.read_register(register, scope) >> (within * 8) & width.mask()),
        }
    }

    /// What physical interrupts are to be set to after a write, by physical number; at most 32.
    pub fn physical_changes(&self, changes: PhysicalChanges) -> impl Iterator<Item = (IntId, PhysicalChange)> {
        let first = changes.first;
        (0..32)
            .filter(move |bit| changes.interrupts & 1 << bit != 0)
            .filter_map(move |bit| {
                let irq = &self.irqs[self.spi_slot(first + bit)?];
                let change = match changes.setting {
                    Setting::Enable => PhysicalChange::Enable(irq.enabled),
                    Setting::Trigger => PhysicalChange::Edge(irq.edge),
                    Setting::Route if irq.target == NOBODY => return None,
                    Setting::Route => PhysicalChange::Route(irq.target),
                };
                Some((irq.physical?, change))
            })
    }

    /// The register at an offset, whose interrupts it is about, and the byte offset inside its row.
    fn find(&self, vcpu: u8, frame: Frame, offset: u64, width: AccessWidth) -> Option<(Register, Scope, u64)> {
        if vcpu >= self.config.vcpus {
            return None;
        }
        let (rows, scope, offset) = match (frame, self.config.version) {
            (Frame::Distributor, Version::V2) => (&GICD_V2, Scope::Banked(vcpu), offset),
            (Frame::Distributor, Version::V3) => (&GICD_V3, Scope::Shared, offset),
            (Frame::Redistributor, Version::V2) => return None,
            (Frame::Redistributor, Version::V3) => {
                let owner = u8::try_from(offset / regs::GICR_SIZE)
                    .ok()
                    .filter(|owner| *owner < self.config.vcpus)?;
                let (rows, start) = match offset % regs::GICR_SIZE {
                    within if within < regs::GICR_SGI_FRAME => (&GICR_CONTROL, 0),
                    _ => (&GICR_SGI, regs::GICR_SGI_FRAME),
                };
                (rows, Scope::Private(owner), offset % regs::GICR_SIZE - start)
            }
        };
        let bytes = width.bytes();
        let row = rows.find(offset)?;
        let within = offset - row.start;
        let fits = row.widths & bytes != 0 && offset.is_multiple_of(bytes) && bytes <= row.bytes - within;
        fits.then_some((row.register, scope, within))
    }

    pub(super) fn slot(&self, scope: Scope, interrupt: u32) -> Option<Slot> {
        let private = interrupt < IntId::FIRST_SPI;
        match scope {
            Scope::Banked(vcpu) | Scope::Private(vcpu) if private => self.private_slot(vcpu, interrupt),
            Scope::Banked(_) | Scope::Shared if !private => self.spi_slot(interrupt),
            _ => None,
        }
    }

    fn read_register(&self, register: Register, scope: Scope) -> u64 {
        match register {
            Register::Control => u64::from(self.read_control()),
            Register::Type => u64::from(self.config.type_register()),
            Register::Constant(value) => u64::from(value),
            Register::RedistributorType => match scope {
                Scope::Private(vcpu) | Scope::Banked(vcpu) => self.read_redistributor_type(vcpu),
                Scope::Shared => 0,
            },
            Register::Waker => match scope {
                Scope::Private(vcpu) if self.cpu(vcpu).is_some_and(|cpu| cpu.asleep) => {
                    u64::from(regs::WAKER_PROCESSOR_SLEEP | regs::WAKER_CHILDREN_ASLEEP)
                }
                _ => 0,
            },
            Register::SoftwareInterrupt | Register::Bank(_) => 0,
        }
    }

    fn write_register(&mut self, register: Register, scope: Scope, vcpu: u8, value: u32) {
        match (register, scope) {
            (Register::Control, _) => self.write_control(value),
            (Register::SoftwareInterrupt, _) => self.write_sgir(vcpu, value),
            (Register::Waker, Scope::Private(owner)) => {
                if let Some(cpu) = self.cpu_mut(owner) {
                    cpu.asleep = value & regs::WAKER_PROCESSOR_SLEEP != 0;
                }
            }
            _ => {}
        }
    }

    fn read_control(&self) -> u32 {
        let mut value = match self.config.version {
            Version::V2 => 0,
            Version::V3 => regs::CTLR_ARE | regs::CTLR_DS,
        };
        if self.groups.group0 {
            value |= regs::CTLR_ENABLE_GROUP0;
        }
        if self.groups.group1 {
            value |= regs::CTLR_ENABLE_GROUP1;
        }
        value
    }

    fn write_control(&mut self, value: u32) {
        let groups = GroupEnables {
            group0: value & regs::CTLR_ENABLE_GROUP0 != 0,
            group1: value & regs::CTLR_ENABLE_GROUP1 != 0,
        };
        if groups != self.groups {
            self.groups = groups;
            for vcpu in 0..self.config.vcpus {
                self.attend(vcpu);
            }
        }
    }

    fn read_redistributor_type(&self, vcpu: u8) -> u64 {
        let number = u64::from(vcpu);
        let last = if vcpu + 1 == self.config.vcpus {
            regs::GICR_TYPER_LAST
        } else {
            0
        };
        number << 32 | number << 8 | last
    }
}
