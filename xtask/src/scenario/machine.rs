//! The machine that a scenario runs on: what a file or the options choose, and what results.

use std::fmt;

use serde::Deserialize;

use crate::failure::{Result, failed};
use crate::qemu::Board;

/// What a scenario file, a row of its matrix or the command line says about the machine. Nothing said is left open.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct MachineChoice {
    /// The board.
    pub(crate) board: Option<Board>,
    /// The version of the interrupt controller: 2 or 3.
    pub(crate) gic: Option<u32>,
    /// QEMU's name of the CPU.
    pub(crate) cpu: Option<String>,
    /// The number of CPUs.
    pub(crate) smp: Option<u32>,
    /// Memory in MiB.
    pub(crate) memory: Option<u32>,
    /// Options for `-icount`: virtual time then counts instructions.
    pub(crate) icount: Option<String>,
    /// Further words for QEMU's command line.
    pub(crate) arguments: Option<Vec<String>>,
    /// Whether it has EL2.
    pub(crate) virtualization: Option<bool>,
    /// How far behind its place the device tree lies, in bytes.
    pub(crate) tree_offset: Option<u64>,
    /// How far behind its place the hypervisor lies, in bytes.
    pub(crate) image_offset: Option<u64>,
}

/// Who puts what is started into the machine's memory.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Boot {
    /// The emulator, before the machine starts.
    #[default]
    Emulator,
    /// The distribution's U-Boot in the machine's firmware slot, from a card, which is the machine's first disk.
    UBoot,
}

/// The card of a board, as `cargo xtask image` makes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct BoardCard {
    /// The board's name.
    pub(crate) board: String,
    /// Whose hypervisor and device tree are on it.
    pub(crate) machine: CardMachine,
}

/// Whose hypervisor and device tree are on a board's card.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CardMachine {
    /// The board's: the card is what is written to the board's, byte for byte.
    Board,
    /// The emulated machine's: all else is as on the board's, the places in memory too.
    Emulated,
}

/// A machine, complete.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Machine {
    /// The board.
    pub(crate) board: Board,
    /// The version of the interrupt controller: 2 or 3.
    pub(crate) gic: u32,
    /// QEMU's name of the CPU.
    pub(crate) cpu: String,
    /// The number of CPUs.
    pub(crate) smp: u32,
    /// Memory in MiB.
    pub(crate) memory: u32,
    /// Options for `-icount`.
    pub(crate) icount: Option<String>,
    /// Further words for QEMU's command line.
    pub(crate) arguments: Vec<String>,
    /// Whether it has EL2.
    pub(crate) virtualization: bool,
    /// How far behind its place the device tree lies, in bytes.
    pub(crate) tree_offset: u64,
    /// How far behind its place the hypervisor lies, in bytes.
    pub(crate) image_offset: u64,
}

impl MachineChoice {
    /// This choice where it says something, else `other`'s.
    pub(crate) fn over(&self, other: &Self) -> Self {
        Self {
            board: self.board.or(other.board),
            gic: self.gic.or(other.gic),
            cpu: self.cpu.clone().or_else(|| other.cpu.clone()),
            smp: self.smp.or(other.smp),
            memory: self.memory.or(other.memory),
            icount: self.icount.clone().or_else(|| other.icount.clone()),
            arguments: self.arguments.clone().or_else(|| other.arguments.clone()),
            virtualization: self.virtualization.or(other.virtualization),
            tree_offset: self.tree_offset.or(other.tree_offset),
            image_offset: self.image_offset.or(other.image_offset),
        }
    }

    /// The machine, with the defaults where nothing was said.
    pub(crate) fn complete(self) -> Result<Machine> {
        let board = self.board.unwrap_or_default();
        let (gic, cpu, memory) = match board {
            Board::QemuVirt => (3, "max", 2048),
            Board::XlnxZcu102 => (2, "cortex-a53", 4096),
        };
        let machine = Machine {
            board,
            gic: self.gic.unwrap_or(gic),
            cpu: self.cpu.unwrap_or_else(|| cpu.into()),
            smp: self.smp.unwrap_or(4),
            memory: self.memory.unwrap_or(memory),
            icount: self.icount,
            arguments: self.arguments.unwrap_or_default(),
            virtualization: self.virtualization.unwrap_or(true),
            tree_offset: self.tree_offset.unwrap_or(0),
            image_offset: self.image_offset.unwrap_or(0),
        };
        if board == Board::QemuVirt && (machine.tree_offset, machine.image_offset) != (0, 0) {
            return failed("on this machine QEMU places the hypervisor and its device tree");
        }
        if board == Board::XlnxZcu102 && (machine.gic, machine.cpu.as_str(), machine.smp) != (gic, cpu, 4) {
            return failed("the ZCU102 has four Cortex-A53 and a GICv2");
        }
        if !(2..=3).contains(&machine.gic) {
            return failed(format!("GIC version {}: there are 2 and 3", machine.gic));
        }
        if !(1..=8).contains(&machine.smp) {
            return failed(format!("{} CPUs: there may be 1 to 8", machine.smp));
        }
        if machine.memory < 512 {
            return failed(format!("{} MiB of memory: at least 512 are needed", machine.memory));
        }
        Ok(machine)
    }
}

impl Machine {
    /// Where the RAM ends that begins first.
    pub(crate) fn memory_end(&self) -> u64 {
        self.board.memory_end(self.memory)
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gic, cpu, smp, .. } = self;
        let cpu = cpu.split(',').next().unwrap_or(cpu);
        if self.board == Board::XlnxZcu102 {
            write!(f, "zcu102-")?;
        }
        write!(f, "gic{gic}-{cpu}-smp{smp}")
    }
}

/// The machines of a matrix: every combination of lists, or rows that are given one by one.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Matrix {
    /// Every combination.
    Combinations(Combinations),
    /// Each row is a machine.
    Rows(Vec<MachineChoice>),
}

/// Lists of which every combination is meant.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Combinations {
    #[serde(default)]
    gic: Vec<u32>,
    #[serde(default)]
    cpu: Vec<String>,
    #[serde(default)]
    smp: Vec<u32>,
}

impl Default for Matrix {
    fn default() -> Self {
        Self::Combinations(Combinations::default())
    }
}

impl Matrix {
    /// What each run chooses; one empty choice if there is no matrix.
    pub(crate) fn choices(&self) -> Vec<MachineChoice> {
        match self {
            Self::Rows(rows) => rows.clone(),
            Self::Combinations(lists) => {
                let mut choices = Vec::new();
                for gic in options(&lists.gic) {
                    for cpu in options(&lists.cpu) {
                        for smp in options(&lists.smp) {
                            choices.push(MachineChoice {
                                gic,
                                cpu: cpu.clone(),
                                smp,
                                ..MachineChoice::default()
                            });
                        }
                    }
                }
                choices
            }
        }
    }
}

/// Every element, or one that leaves it open if there is none.
fn options<T: Clone>(list: &[T]) -> Vec<Option<T>> {
    if list.is_empty() {
        vec![None]
    } else {
        list.iter().cloned().map(Some).collect()
    }
}
