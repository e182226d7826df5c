//! Prepares a run: everything between a scenario file and a machine that is ready to start.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::build::program;
use crate::comparison::Comparison;
use crate::failure::{Doing, Failure, Result};
use crate::monitor::Monitor;
use crate::profile::{self, Reader};
use crate::qemu::MachineDisk;
use crate::scenario::{Machine, Scenario};
use crate::session::{self, Conduct};
use crate::trace::{self, TraceOptions};
use crate::workspace::Workspace;
use crate::{evidence, symbols};

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
mod conduct;
mod needs;
mod preparation;

pub(crate) use needs::{module_packages, packages, plain_packages, require_downloads, require_tools};
use preparation::Preparation;
pub(crate) use preparation::merged_tree;

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
