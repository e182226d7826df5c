//! `cargo xtask manifest check`: the hypervisor's own reading of a manifest, on a PC.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use portunus::manifest::{Host, Manifest, ModuleReader, NoModules, Tree};
use portunus::policy::{Policy, Report};
use portunus::range::PaRange;

use crate::failure::{Doing, Result};
use crate::manifest::{self, Loaded};
use crate::qemu::Launch;
use crate::scenario::{self, MachineChoice, Scenario};
use crate::setup::{self, Tool};
use crate::stage;
use crate::workspace::Workspace;

/// What a module that isn't built is taken to be long.
const NOMINAL_SIZE: u64 = 1 << 20;

/// The command line of `cargo xtask manifest`.
#[derive(Args, Debug)]
pub(crate) struct ManifestCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Reads a manifest as the hypervisor does, and shows its errors or the resulting domains and rights.
    Check {
        /// A device tree with a machine and domains: DTS or DTB. A scenario's overlay is merged with its machine first.
        file: PathBuf,
        /// Version of the interrupt controller of an overlay's machine, 2 or 3.
        #[arg(long)]
        gic: Option<u32>,
        /// Number of CPUs of an overlay's machine.
        #[arg(long)]
        smp: Option<u32>,
    },
}

impl ManifestCommand {
    /// Reads the manifest and prints what it says.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let Action::Check { file, gic, smp } = &self.action;
        let choice = MachineChoice {
            gic: *gic,
            smp: *smp,
            ..MachineChoice::default()
        };
        let workspace = Workspace::find()?;
        let folder = workspace.target.join("manifest-check");
        fs::create_dir_all(&folder).doing(format!("creating {}", folder.display()))?;
        let (tree, modules) = if file.extension().is_some_and(|ending| ending == "dtb") {
            (file.clone(), Vec::new())
        } else if let Some(scenario) = scenario_of(&workspace, file)? {
            as_scenario(&workspace, &scenario, &choice, &folder)?
        } else {
            setup::require(&[Tool::DEVICE_TREE_COMPILER])?;
            let output = folder.join("manifest.dtb");
            manifest::compile_file(file, &BTreeMap::new(), &output)?;
            (output, Vec::new())
        };
        let bytes = fs::read(&tree).doing(tree.display())?;
        print!("{}", read(&bytes, &modules).doing(file.display())?);
        Ok(ExitCode::SUCCESS)
    }
}

/// The hypervisor's reading of the tree in `bytes`, as text.
pub(crate) fn read(bytes: &[u8], modules: &[Loaded]) -> std::result::Result<String, String> {
    let reader: &dyn ModuleReader = if modules.is_empty() {
        &NoModules
    } else {
        &Files(modules)
    };
    let reading = || {
        let tree = Tree::new(bytes)?;
        let host = Host::parse(&tree)?;
        let manifest = Manifest::parse(&tree, &host, reader)?;
        let policy = Policy::new(&manifest);
        Ok(Report {
            host: &host,
            manifest: &manifest,
            policy: &policy,
        }
        .to_string())
    };
    reading().map_err(|error: portunus::manifest::ManifestError| error.to_string())
}

/// Modules in files, at the addresses where they will be loaded.
struct Files<'a>(&'a [Loaded]);

impl ModuleReader for Files<'_> {
    fn read(&self, range: PaRange) -> Option<Vec<u8>> {
        let module = self
            .0
            .iter()
            .find(|module| module.address == range.start.0 && module.size == range.size)?;
        fs::read(&module.file).ok()
    }
}

/// The scenario whose manifest `file` is.
fn scenario_of(workspace: &Workspace, file: &Path) -> Result<Option<Scenario>> {
    let folder = workspace.scenarios();
    let wanted = fs::canonicalize(file).doing(file.display())?;
    for name in scenario::names(&folder)? {
        let scenario = Scenario::read(&folder, &name)?;
        if fs::canonicalize(folder.join(scenario.manifest_file())).is_ok_and(|path| path == wanted) {
            return Ok(Some(scenario));
        }
    }
    Ok(None)
}

/// Merges a scenario's overlay with its machine. Nothing is built or downloaded: only the device trees among the modules
/// are real.
fn as_scenario(
    workspace: &Workspace,
    scenario: &Scenario,
    choice: &MachineChoice,
    folder: &Path,
) -> Result<(PathBuf, Vec<Loaded>)> {
    setup::require(&[Tool::QEMU, Tool::DEVICE_TREE_COMPILER])?;
    let machine = choice.over(&scenario.machine).complete()?;
    let mut values: BTreeMap<String, String> = scenario.parameters(false);
    values.insert("gic".into(), machine.gic.to_string());
    let mut files = Vec::new();
    for (name, module) in &scenario.modules {
        let file = folder.join(format!("{name}.module"));
        if let Some(source) = &module.device_tree {
            manifest::compile_file(&workspace.scenarios().join(source), &values, &file)?;
        } else {
            let contents = fs::File::create(&file).doing(file.display())?;
            contents.set_len(NOMINAL_SIZE).doing(file.display())?;
        }
        files.push((name.clone(), file));
    }
    let modules = manifest::place(files, machine.board.first_module(), machine.memory_end())?;
    values.extend(manifest::placeholders(&modules));
    scenario.add_copies(&mut values)?;
    let launch = Launch {
        machine: &machine,
        virtualization: true,
        disks: &[],
        multi_threaded: false,
    };
    let manifest = workspace.scenarios().join(scenario.manifest_file());
    Ok((stage::merged_tree(&launch, &manifest, &values, folder, false)?, modules))
}
