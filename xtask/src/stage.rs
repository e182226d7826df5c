//! Prepares a run: everything between a scenario file and a machine that is ready to start.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use crate::build::program;
use crate::chain;
use crate::comparison::Comparison;
use crate::failure::{Doing, Failure, Result, failed};
use crate::image::image_size;
use crate::manifest::{self, Loaded};
use crate::monitor::Monitor;
use crate::profile::{self, Reader};
use crate::qemu::{Launch, MachineDisk, Payload};
use crate::scenario::{Boot, Contents, Ends, Expectations, Machine, Module, Plain, Scenario, Step, substitute};
use crate::session::{self, Conduct};
use crate::setup::{self, Tool};
use crate::trace::{self, MEMORY_FILE, TraceOptions};
use crate::transcript::Transcript;
use crate::workspace::Workspace;
use crate::{boards, distribution, evidence, gzip, initramfs, symbols};

/// What the user chose beside the machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choices {
    /// Wait for a debugger.
    pub(crate) gdb: bool,
    /// Seconds that replace the scenario's time limit.
    pub(crate) timeout: Option<u64>,
    /// A file whose script replaces the scenario's.
    pub(crate) script: Option<PathBuf>,
    /// Replaces the distribution's kernel.
    pub(crate) kernel: Option<PathBuf>,
    /// Replaces the initial file system.
    pub(crate) initrd: Option<PathBuf>,
    /// Replaces the first disk.
    pub(crate) disk: Option<PathBuf>,
    /// Without the hypervisor.
    pub(crate) plain: bool,
    /// The sizes of `--full`.
    pub(crate) full: bool,
    /// Show what the machine prints.
    pub(crate) show: bool,
    /// The terminal is the machine's console.
    pub(crate) interactive: bool,
    /// The emulation may use more than one host thread.
    pub(crate) multi_threaded: bool,
    /// Xen's Image, to be booted instead of this hypervisor.
    pub(crate) xen: Option<PathBuf>,
    /// What to make of the trace.
    pub(crate) trace: TraceOptions,
    /// Values that replace the scenario's parameters.
    pub(crate) parameters: BTreeMap<String, String>,
}

/// A file for `--script`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ScriptFile {
    #[serde(default)]
    script: Vec<Step>,
    #[serde(default)]
    expect: Expectations,
    #[serde(default)]
    forbid: Vec<String>,
}

/// A run that is ready.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    scenario: &'a Scenario,
    command: Command,
    conduct: Conduct,
    /// Files of the scenario's disks; `None` for one that is the user's, whose contents are the user's business.
    disks: Vec<Option<PathBuf>>,
    /// What is said of the whole run counts: nobody else's script was run.
    evidence: bool,
    values: BTreeMap<String, String>,
    /// The file with the machine's memory, where the trace is looked at.
    memory: Option<PathBuf>,
    /// The repository.
    root: &'a Path,
    /// The hypervisor with its symbols.
    hypervisor: PathBuf,
    trace: TraceOptions,
    /// A board's images, where the machine starts from its card.
    images: Option<PathBuf>,
    reference: Option<(Comparison, Box<Self>)>,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Report {
    /// Why it failed, if it did.
    pub(crate) reason: Option<String>,
    /// What the machine printed.
    pub(crate) output: String,
    /// What people want to know of a run that passes, too.
    pub(crate) findings: Vec<String>,
    /// Functions behind the addresses of an epitaph.
    pub(crate) explanation: Vec<String>,
    /// Where the output is kept.
    pub(crate) log: PathBuf,
    /// How long the machine ran.
    pub(crate) time: Duration,
}

mod card;

/// The packages that running `scenarios` takes, hypervisors included.
pub(crate) fn packages<'a>(scenarios: impl IntoIterator<Item = &'a Scenario>) -> BTreeSet<&'a str> {
    let mut packages = BTreeSet::new();
    for scenario in scenarios {
        packages.extend(module_packages(scenario));
        let machines = scenario.machines().into_iter().flatten();
        packages.extend(machines.map(|machine| machine.board.package()));
        let card = scenario.card.as_ref().and_then(|card| boards::board(&card.board).ok());
        packages.extend(card.map(|board| board.package));
    }
    packages
}

/// The packages among the modules of `scenario`.
pub(crate) fn module_packages(scenario: &Scenario) -> BTreeSet<&str> {
    let modules = scenario.modules.values();
    modules.filter_map(|module| module.build.as_deref()).collect()
}

/// The files of the modules of `scenario`, which for a board are put together in `folder`.
pub(crate) fn module_files(
    workspace: &Workspace,
    scenario: &Scenario,
    choices: &Choices,
    folder: &Path,
    values: &BTreeMap<String, String>,
) -> Result<Vec<(String, PathBuf)>> {
    let preparation = Preparation {
        workspace,
        scenario,
        choices,
        folder,
    };
    preparation.modules(values)
}

/// The packages that a run of `scenario` on the bare machine takes.
pub(crate) fn plain_packages(scenario: &Scenario) -> BTreeSet<&str> {
    let kernel = scenario
        .plain
        .as_ref()
        .and_then(|plain| scenario.modules.get(&plain.kernel));
    kernel.and_then(|kernel| kernel.build.as_deref()).into_iter().collect()
}

/// Makes sure that the programs are there that `scenario` takes.
pub(crate) fn require_tools(scenario: &Scenario) -> Result<()> {
    let mut tools = vec![Tool::QEMU, Tool::DEVICE_TREE_COMPILER];
    tools.extend(scenario.disks.iter().flat_map(|disk| disk.tools()));
    if scenario.boot == Boot::UBoot {
        tools.extend(chain::TOOLS);
    }
    if scenario.signed {
        tools.push(chain::KEY_TOOL);
    }
    tools.extend(scenario.needs.iter().map(|need| Tool {
        program: &need.program,
        package: &need.package,
    }));
    setup::require(&tools)
}

/// Gets what `scenario` needs from elsewhere, so that it is there when several runs start at once.
pub(crate) fn require_downloads(scenario: &Scenario, choices: &Choices) -> Result<()> {
    for module in scenario.modules.values() {
        if let Some(flavour) = module.kernel.filter(|_| choices.kernel.is_none()) {
            distribution::kernel(flavour)?;
        }
    }
    for machine in scenario.machines()? {
        if let Some(tree) = machine.board.tree() {
            distribution::device_tree(tree)?;
        }
    }
    if scenario.boot == Boot::UBoot {
        distribution::u_boot()?;
    }
    if needs_busybox(scenario, choices) {
        distribution::busybox().map(drop)
    } else {
        Ok(())
    }
}

fn needs_busybox(scenario: &Scenario, choices: &Choices) -> bool {
    let ramdisk = scenario.modules.values().any(|module| module.initramfs.is_some());
    let root = scenario
        .disks
        .iter()
        .any(|disk| matches!(&disk.contents, Contents::Ext4(files) if files.busybox));
    (ramdisk && choices.initrd.is_none()) || (root && choices.disk.is_none())
}

impl<'a> Stage<'a> {
    /// Prepares a run of `scenario` on `machine`. What is built from this workspace must have been built.
    pub(crate) fn prepare(
        workspace: &'a Workspace,
        scenario: &'a Scenario,
        machine: &Machine,
        choices: &Choices,
    ) -> Result<Self> {
        let kind = match (choices.plain, &choices.xen) {
            (true, _) => "-plain",
            (false, Some(_)) => "-xen",
            (false, None) => "",
        };
        let folder = workspace
            .target
            .join("scenarios")
            .join(format!("{}-{machine}{kind}", scenario.name));
        // Not emptied first: a user's disk may be the one that an earlier run left here.
        fs::create_dir_all(&folder).doing(format!("creating {}", folder.display()))?;
        let preparation = Preparation {
            workspace,
            scenario,
            choices,
            folder: &folder,
        };
        let disks = preparation.disks()?;
        let mut command = if choices.plain {
            let plain = scenario.plain.as_ref();
            let plain = plain.ok_or_else(|| Failure::Failed("this scenario says nothing of a plain run".into()))?;
            preparation.plain(plain, machine, &disks)?
        } else {
            preparation.hypervised(machine, &disks)?
        };
        let memory = preparation.memory();
        if let Some(file) = &memory {
            // One that an earlier run left behind is not this machine's.
            let _ = fs::remove_file(file);
        }
        let mut conduct = preparation.conduct()?;
        if conduct.transcript.uses_monitor() {
            conduct.monitor = Some(Monitor::attach(&mut command));
        }
        let users = usize::from(choices.disk.is_some());
        let own = |(index, disk): (usize, MachineDisk)| (index >= users).then_some(disk.file);
        let disks = disks.into_iter().enumerate().map(own).collect();
        Ok(Self {
            scenario,
            command,
            conduct,
            disks,
            evidence: choices.script.is_none() && !choices.plain,
            values: scenario.parameters(choices.full),
            memory,
            root: &workspace.root,
            hypervisor: program(workspace, machine.board.package()).elf,
            trace: choices.trace.clone(),
            images: preparation.has_boards_card().then(|| preparation.images()),
            reference: Self::reference(workspace, scenario, machine, choices)?,
        })
    }

    /// The run on the bare machine that this one is to be compared with.
    fn reference(
        workspace: &'a Workspace,
        scenario: &'a Scenario,
        machine: &Machine,
        choices: &Choices,
    ) -> Result<Option<(Comparison, Box<Self>)>> {
        let compare = scenario.plain.as_ref().and_then(|plain| plain.compare.as_deref());
        let Some(compare) = compare.filter(|_| !choices.plain && !choices.gdb) else {
            return Ok(None);
        };
        let choices = Choices {
            plain: true,
            show: false,
            interactive: false,
            trace: TraceOptions::default(),
            ..choices.clone()
        };
        let stage = Self::prepare(workspace, scenario, machine, &choices)?;
        Ok(Some((Comparison::new(compare)?, Box::new(stage))))
    }

    /// The command line, for people who want to run it by hand.
    pub(crate) fn command_line(&self) -> String {
        let words = std::iter::once(self.command.get_program()).chain(self.command.get_args());
        let quote = |word: &std::ffi::OsStr| {
            let word = word.to_string_lossy();
            if word.contains(' ') {
                format!("'{word}'")
            } else {
                word.into_owned()
            }
        };
        words.map(quote).collect::<Vec<_>>().join(" ")
    }

    /// Makes the machine log every instruction that it executes; the reader works while it [`Self::run`]s.
    pub(crate) fn profile(&mut self) -> Result<Reader> {
        let folder = self.conduct.log.parent().unwrap_or(Path::new("."));
        profile::attach(&mut self.command, folder)
    }

    /// Runs it, and looks at the disks afterwards.
    pub(crate) fn run(self) -> Result<Report> {
        let (interactive, log) = (self.conduct.interactive, self.conduct.log.clone());
        let dialogue_replaced = interactive && !self.scenario.script.is_empty();
        let ended = session::run(self.command, self.conduct)?;
        let mut reason = ended.reason;
        let mut findings = Vec::new();
        if let Some(memory) = &self.memory {
            let told = tell(
                memory,
                &self.hypervisor,
                &self.trace,
                &self.scenario.trace,
                &mut findings,
            );
            reason = reason.or(told.err().map(|failure| failure.to_string()));
        }
        if self.evidence && !dialogue_replaced {
            let named = |name: &str| {
                let mut disks = self.scenario.disks.iter().zip(&self.disks);
                disks.find_map(|(disk, file)| file.as_deref().filter(|_| disk.name == name))
            };
            // Before the disks' own checks, which repair file systems. A run that has failed shows how far it came.
            let proved = evidence::check(
                self.scenario,
                &self.values,
                &ended.lines,
                named,
                self.root,
                &mut findings,
            );
            reason = reason.or(proved.err().map(|failure| failure.to_string()));
        }
        if let (None, Some(images)) = (&reason, &self.images) {
            let compared = card::compare(images);
            findings.extend(compared.as_ref().ok().cloned());
            reason = compared.err().map(|failure| failure.to_string());
        }
        if reason.is_none() && !dialogue_replaced {
            let disks = self.scenario.disks.iter().zip(self.disks);
            let mut checks = disks.filter_map(|(disk, file)| Some(disk.check(&file?)));
            reason = checks.find_map(|check| check.err().map(|failure| failure.to_string()));
        }
        if let (None, Some((comparison, stage))) = (&reason, self.reference) {
            let bare = stage.run()?;
            let failed = bare.reason.map(|reason| format!("on the bare machine: {reason}"));
            reason = failed.or_else(|| comparison.difference(&ended.output, &bare.output));
        }
        let explanation = symbols::explain(&ended.output, &self.hypervisor)?;
        Ok(Report {
            reason,
            output: ended.output,
            findings,
            explanation,
            log,
            time: ended.time,
        })
    }
}

/// Reads the trace in a machine's memory, writes what is wanted of it, and checks that it has the steps of `expected`.
fn tell(
    memory: &Path,
    elf: &Path,
    options: &TraceOptions,
    expected: &[String],
    findings: &mut Vec<String>,
) -> Result<()> {
    let story = trace::read(memory, elf);
    // It is as large as the machine's memory, and of no use any more.
    let _ = fs::remove_file(memory);
    let story = story?;
    findings.extend(options.write(&story)?);
    if !expected.is_empty() {
        findings.push(trace::expect(&story, expected)?);
    }
    Ok(())
}

/// What the steps of a preparation share.
struct Preparation<'a> {
    workspace: &'a Workspace,
    scenario: &'a Scenario,
    choices: &'a Choices,
    folder: &'a Path,
}

impl Preparation<'_> {
    /// Where the machine's memory is to be kept, if somebody looks at the trace in it afterwards.
    fn memory(&self) -> Option<PathBuf> {
        let wanted = self.choices.trace.is_wanted() || !self.scenario.trace.is_empty();
        (wanted && !self.choices.plain).then(|| self.folder.join(MEMORY_FILE))
    }

    fn disks(&self) -> Result<Vec<MachineDisk>> {
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

    fn plain(&self, plain: &Plain, machine: &Machine, disks: &[MachineDisk]) -> Result<Command> {
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

    fn hypervised(&self, machine: &Machine, disks: &[MachineDisk]) -> Result<Command> {
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
    fn modules(&self, values: &BTreeMap<String, String>) -> Result<Vec<(String, PathBuf)>> {
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

    fn write(&self, name: &str, contents: &[u8]) -> Result<PathBuf> {
        let path = self.folder.join(name);
        fs::write(&path, contents).doing(format!("writing {}", path.display()))?;
        Ok(path)
    }

    fn conduct(&self) -> Result<Conduct> {
        let (scenario, choices) = (self.scenario, self.choices);
        let own = choices.script.as_deref().map(read_script).transpose()?;
        let (script, expect, forbid) = match &own {
            Some(file) => (&file.script, &file.expect, &file.forbid),
            None => (&scenario.script, &scenario.expect, &scenario.forbid),
        };
        // A user at the terminal speaks for the script; a scenario without one expects the same of every run.
        let dialogue = !script.is_empty();
        let silent = choices.interactive && dialogue;
        let mut values = scenario.parameters(choices.full);
        values.insert("folder".into(), self.folder.display().to_string());
        let fill = |text: &String| substitute(text, &values);
        let mut expected = Vec::new();
        if !silent {
            for sequence in expect.sequences() {
                expected.push(sequence.iter().map(fill).collect::<Result<Vec<_>>>()?);
            }
        }
        let mut steps = Vec::new();
        for step in script.iter().filter(|_| !silent) {
            steps.push(Step {
                expect: fill(&step.expect)?,
                send: fill(&step.send)?,
                monitor: fill(&step.monitor)?,
            });
        }
        let timeout = choices
            .timeout
            .or((!silent && !choices.gdb).then_some(scenario.timeout));
        Ok(Conduct {
            transcript: Transcript::new(&expected, &steps, forbid, &scenario.allow)?,
            ends: if choices.xen.is_some() {
                // It does not end the machine when its last domain has ended.
                Ends::WhenSeen
            } else if silent || choices.plain {
                Ends::ByItself
            } else {
                scenario.ends
            },
            timeout: timeout.map(Duration::from_secs),
            interactive: choices.interactive,
            show: choices.show,
            monitor: None,
            log: self.folder.join("console.log"),
        })
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

fn read_script(file: &Path) -> Result<ScriptFile> {
    let text = fs::read_to_string(file).doing(format!("reading {}", file.display()))?;
    toml::from_str(&text).doing(file.display())
}
