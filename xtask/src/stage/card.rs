//! Runs that begin with U-Boot: the card that it finds, and what it made of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use portunus::manifest::Tree;

use super::Preparation;
use crate::boards::{self, Board, CARD, TREE};
use crate::chain::{self, Bundle, Places, card};
use crate::distribution;
use crate::failure::{Doing, Result, failed};
use crate::manifest::Loaded;
use crate::qemu::{Launch, MachineDisk, Payload};
use crate::scenario::{Boot, CardMachine, Machine};
use crate::setup::Tool;

/// Where the script of a scenario has QEMU's monitor put the memory of the device tree, in the folder of a board's images.
const MEMORY: &str = "tree.memory";

/// Where things go in memory.
pub(super) struct Memory {
    pub(super) rest: Places,
    /// The memory for modules.
    pub(super) modules: (u64, u64),
}

impl Preparation<'_> {
    /// The board whose card it is.
    fn board(&self) -> Result<Option<Board>> {
        let card = self.scenario.card.as_ref();
        card.map(|card| boards::board(&card.board)).transpose()
    }

    /// Whether the machine starts from a board's own card, byte for byte.
    pub(super) fn has_boards_card(&self) -> bool {
        let card = self.scenario.card.as_ref();
        card.is_some_and(|card| card.machine == CardMachine::Board)
    }

    /// The folder of a board's images.
    pub(super) fn images(&self) -> PathBuf {
        self.folder.join("images")
    }

    /// Where things go in this machine's memory, or would go in the board's whose card it is.
    pub(super) fn places(&self, machine: &Machine) -> Result<Memory> {
        let own = machine.board;
        Ok(match self.board()? {
            Some(board) => Memory {
                rest: board.places,
                modules: board.modules,
            },
            None => Memory {
                rest: own.places(),
                modules: (own.first_module(), machine.memory_end()),
            },
        })
    }

    /// The card that U-Boot finds. The machine's own is empty at first: the machine is described with it before anything can be
    /// on it.
    pub(super) fn card(&self) -> Result<Option<MachineDisk>> {
        if self.scenario.boot == Boot::Emulator {
            return Ok(None);
        }
        let file = match self.board()?.filter(|_| self.has_boards_card()) {
            Some(board) => {
                let images = self.images();
                boards::make_own(self.workspace, board, &images)?;
                images.join(CARD)
            }
            None => self.write("card.disk", &[0; 512])?,
        };
        Ok(Some(MachineDisk { file, read_only: true }))
    }

    /// Puts everything onto the machine's card.
    pub(super) fn fill_card(
        &self,
        card: &MachineDisk,
        machine: &Machine,
        image: PathBuf,
        tree: PathBuf,
        modules: Vec<Loaded>,
        trust: Option<PathBuf>,
    ) -> Result<()> {
        let key = trust.as_ref().map(|_| chain::make_key(&self.folder.join("keys")));
        let script = self.scenario.boot_script.as_ref().map(|name| {
            let file = self.scenario.folder.join(name);
            fs::read_to_string(&file).doing(format!("reading {}", file.display()))
        });
        let bundle = Bundle {
            title: format!("{} on {machine}", self.scenario.name),
            image,
            tree,
            modules,
            places: self.places(machine)?.rest,
            key: key.transpose()?,
            trust,
            script: script.transpose()?,
        };
        card::make(&bundle.make(self.folder)?, &card.file)
    }

    /// The device tree that U-Boot itself works with, for a key that it is to trust. By default it takes the emulator's.
    pub(super) fn trust(&self, launch: &Launch<'_>) -> Result<Option<PathBuf>> {
        if !self.scenario.signed {
            return Ok(None);
        }
        let (dumped, own) = (self.folder.join("u-boot.dumped"), self.folder.join("u-boot.dtb"));
        launch.dump_tree(&dumped)?;
        // The emulator's has a mebibyte of nothing in it.
        let mut command = Tool::DEVICE_TREE_COMPILER.command();
        command
            .args(["-q", "-I", "dtb", "-O", "dtb", "-o"])
            .args([&own, &dumped]);
        if command.status().doing("running dtc")?.success() {
            Ok(Some(own))
        } else {
            failed("dtc refuses the machine's device tree")
        }
    }

    /// Starts the machine with U-Boot; `own` is the device tree that U-Boot works with.
    pub(super) fn start_from_card(&self, launch: &Launch<'_>, own: Option<PathBuf>) -> Result<Command> {
        launch.run(&Payload {
            firmware: Some(distribution::u_boot()?),
            device_tree: own,
            gdb: self.choices.gdb,
            memory: self.memory(),
            ..Payload::default()
        })
    }
}

/// Compares the domains in the device tree that U-Boot left in memory with those of the board's manifest.
pub(super) fn compare(images: &Path) -> Result<String> {
    let read = |name: &str| fs::read(images.join(name)).doing(format!("reading {name}"));
    let (memory, wanted) = (read(MEMORY)?, read(TREE)?);
    let made = Tree::new(&memory).doing("what U-Boot left in memory")?;
    chain::same_domains(&made, &Tree::new(&wanted).doing(TREE)?)?;
    Ok("the domains in the device tree in memory are those of the board's manifest".into())
}
