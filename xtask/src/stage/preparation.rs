//! The steps that make a machine ready: its disks, its modules, its device tree, its command line.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Choices;
use super::needs::needs_busybox;
use crate::build::program;
use crate::failure::{Doing, Failure, Result, failed};
use crate::image::image_size;
use crate::manifest::{self, Loaded};
use crate::qemu::{Launch, MachineDisk, Payload};
use crate::scenario::{Machine, Module, Plain, Scenario, substitute};
use crate::trace::MEMORY_FILE;
use crate::workspace::Workspace;
use crate::{distribution, gzip, initramfs, session};

/// What the steps of a preparation share.
pub(super) struct Preparation<'a> {
    pub(super) workspace: &'a Workspace,
    pub(super) scenario: &'a Scenario,
    pub(super) choices: &'a Choices,
    pub(super) folder: &'a Path,
}

impl Preparation<'_> {
    /// Where the machine's memory is to be kept, if somebody looks at the trace in it afterwards.
    pub(super) fn memory(&self) -> Option<PathBuf> {
        let wanted = self.choices.trace.is_wanted() || !self.scenario.trace.is_empty();
        (wanted && !self.choices.plain).then(|| self.folder.join(MEMORY_FILE))
    }

    pub(super) fn disks(&self) -> Result<Vec<MachineDisk>> {
        let beside = &self.scenario.folder;
        let busybox = if needs_busybox(self.scenario, self.choices) {
            Some(distribution::busybox()?)
        } else {
            None
        };
        let mut own = self.choices.disk.clone();
        let mut disks = Vec::new();
        for disk in &self.scenario.disks {
            let file = match own.take() {
                Some(file) => existing(&file)?,
                None => disk.make(self.folder, beside, busybox.as_deref())?,
            };
            disks.push(MachineDisk {
                file,
                read_only: disk.read_only,
            });
        }
        Ok(disks)
    }

    pub(super) fn plain(&self, plain: &Plain, machine: &Machine, disks: &[MachineDisk]) -> Result<Command> {
        let memory = plain.memory.unwrap_or(machine.memory);
        let machine = Machine {
            smp: plain.smp,
            memory,
            ..machine.clone()
        };
        let values = self.scenario.parameters(self.choices.full);
        let file = |name: &String| match self.scenario.modules.get(name) {
            Some(module) => self.module(name, module, &values),
            None => failed(format!("there is no module {name}")),
        };
        let payload = Payload {
            kernel: file(&plain.kernel)?,
            initrd: plain.initrd.as_ref().map(file).transpose()?,
            bootargs: Some(plain.bootargs.clone()).filter(|bootargs| !bootargs.is_empty()),
            gdb: self.choices.gdb,
            ..Payload::default()
        };
        let multi_threaded = self.choices.multi_threaded;
        Launch {
            machine: &machine,
            virtualization: false,
            disks,
            multi_threaded,
        }
        .run(&payload)
    }

    pub(super) fn hypervised(&self, machine: &Machine, disks: &[MachineDisk]) -> Result<Command> {
        let multi_threaded = self.choices.multi_threaded;
        let card = self.card()?;
        let places = self.places(machine)?;
        let all: Vec<MachineDisk> = card.iter().chain(disks).cloned().collect();
        let launch = Launch {
            machine,
            virtualization: machine.virtualization,
            disks: &all,
            multi_threaded,
        };
        if self.has_boards_card() {
            return self.start_from_card(&launch, None);
        }
        let mut values = self.scenario.parameters(self.choices.full);
        values.extend(self.choices.parameters.clone());
        values.insert("gic".into(), machine.gic.to_string());
        let files = self.modules(&values)?;
        let modules = manifest::place(files, places.modules.0, places.modules.1)?;
        values.extend(manifest::placeholders(&modules));
        self.scenario.add_copies(&mut values)?;
        let kernel = match &self.choices.xen {
            Some(file) => existing(file)?,
            None => program(self.workspace, machine.board.package()).image,
        };
        let manifest = self.scenario.folder.join(self.scenario.manifest_file());
        let colour = session::has_colour();
        let mut tree = merged_tree(&launch, &manifest, &values, self.folder, colour)?;
        if let Some(xen) = self.scenario.xen.as_ref().filter(|_| self.choices.xen.is_some()) {
            tree = manifest::for_xen(&tree, &xen.bootargs)?;
        }
        let image = fs::read(&kernel).doing(format!("reading {}", kernel.display()))?;
        let hypervisor = machine.board.memory()..places.rest.image + image_size(&image);
        manifest::check_reservations(&tree, &modules, hypervisor)?;
        if let Some(card) = card {
            let trust = self.trust(&launch)?;
            self.fill_card(&card, machine, kernel, tree, modules, trust.clone())?;
            return self.start_from_card(&launch, trust);
        }
        self.payload(&launch, kernel, tree, &modules)
    }

    fn payload(&self, launch: &Launch<'_>, kernel: PathBuf, tree: PathBuf, modules: &[Loaded]) -> Result<Command> {
        let gdb = self.choices.gdb;
        launch.run(&Payload {
            kernel,
            device_tree: Some(tree),
            modules,
            gdb,
            memory: self.memory(),
            ..Payload::default()
        })
    }

    /// The files of all modules.
    pub(super) fn modules(&self, values: &BTreeMap<String, String>) -> Result<Vec<(String, PathBuf)>> {
        let modules = self.scenario.modules.iter();
        modules
            .map(|(name, module)| Ok((name.clone(), self.module(name, module, values)?)))
            .collect()
    }

    /// The file of a module.
    fn module(&self, name: &str, module: &Module, values: &BTreeMap<String, String>) -> Result<PathBuf> {
        let beside = &self.scenario.folder;
        let file = if let Some(package) = &module.build {
            program(self.workspace, package).image
        } else if let Some(flavour) = module.kernel {
            match &self.choices.kernel {
                Some(file) => existing(file)?,
                None => distribution::kernel(flavour)?.image,
            }
        } else if let Some(initramfs) = &module.initramfs {
            match &self.choices.initrd {
                Some(file) => existing(file)?,
                None => {
                    let init = initramfs
                        .init
                        .as_deref()
                        .map(|init| substitute(init, values))
                        .transpose()?;
                    self.initramfs(name, &initramfs.modules, init.as_deref())?
                }
            }
        } else if let Some(source) = &module.device_tree {
            let output = self.folder.join(format!("{name}.dtb"));
            manifest::compile_file(&beside.join(source), values, &output)?;
            output
        } else if let Some(file) = &module.file {
            existing(&beside.join(file))?
        } else {
            return failed(format!("the module {name} has no source"));
        };
        if !module.gzip && module.truncate.is_none() {
            return Ok(file);
        }
        let mut contents = fs::read(&file).doing(format!("reading {}", file.display()))?;
        if module.gzip {
            contents = gzip::compress(&contents);
        }
        contents.truncate(module.truncate.unwrap_or(usize::MAX));
        self.write(&format!("{name}.module"), &contents)
    }

    fn initramfs(&self, name: &str, modules: &[String], init: Option<&str>) -> Result<PathBuf> {
        let busybox = distribution::busybox()?;
        // A kernel of the user's own has other modules: what it needs must be built in.
        let flavour = self.scenario.modules.values().find_map(|module| module.kernel);
        let folder = match flavour.filter(|_| self.choices.kernel.is_none()) {
            Some(flavour) => distribution::kernel(flavour)?.modules,
            None => None,
        };
        let archive = initramfs::make(&busybox, folder.as_deref(), modules, init)?;
        self.write(&format!("{name}.cpio.gz"), &gzip::compress(&archive))
    }

    pub(super) fn write(&self, name: &str, contents: &[u8]) -> Result<PathBuf> {
        let path = self.folder.join(name);
        fs::write(&path, contents).doing(format!("writing {}", path.display()))?;
        Ok(path)
    }
}

/// Writes the machine's device tree with `manifest` merged into it to a file in `folder`.
pub(crate) fn merged_tree(
    launch: &Launch<'_>,
    manifest: &Path,
    values: &BTreeMap<String, String>,
    folder: &Path,
    colour: bool,
) -> Result<PathBuf> {
    let (bare, merged) = (folder.join("machine.dtb"), folder.join("manifest.dtb"));
    launch.dump_tree(&bare)?;
    manifest::merge(&manifest::decompile(&bare)?, manifest, values, colour, &merged)?;
    Ok(merged)
}

fn existing(file: &Path) -> Result<PathBuf> {
    fs::canonicalize(file).map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))
}
