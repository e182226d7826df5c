//! `cargo xtask run`: one scenario on one machine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use clap::{Args, ValueEnum};

use crate::build;
use crate::distribution;
use crate::failure::{Failure, Result, failed};
use crate::qemu::GDB_PORT;
use crate::scenario::{MachineChoice, Scenario};
use crate::session::has_user;
use crate::setup;
use crate::stage::{self, Choices, Report, Stage};
use crate::trace::TraceOptions;
use crate::workspace::Workspace;

/// What a scenario can be booted on.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Hypervisor {
    /// This one.
    Portunus,
    /// Xen, for scenarios that say how.
    Xen,
}

/// Options of `cargo xtask run`.
#[derive(Args, Debug)]
pub(crate) struct Run {
    /// The scenario: see `cargo xtask scenarios`.
    #[arg(default_value = "demo")]
    scenario: String,
    /// Version of the interrupt controller, 2 or 3 [default: the scenario's, else 3].
    #[arg(long)]
    gic: Option<u32>,
    /// QEMU's name of the CPU [default: the scenario's, else max].
    #[arg(long)]
    cpu: Option<String>,
    /// Number of CPUs [default: the scenario's, else 4].
    #[arg(long)]
    smp: Option<u32>,
    /// Memory in MiB [default: the scenario's, else 2048].
    #[arg(long)]
    memory: Option<u32>,
    /// Wait for a debugger, and print the line to attach with.
    #[arg(long)]
    gdb: bool,
    /// Seconds after which the run has failed [default: the scenario's].
    #[arg(long)]
    timeout: Option<u64>,
    /// A TOML file with script, expect and forbid that replace the scenario's.
    #[arg(long)]
    script: Option<PathBuf>,
    /// An arm64 kernel to use instead of the distribution's.
    #[arg(long)]
    kernel: Option<PathBuf>,
    /// An initial file system to use instead of the scenario's.
    #[arg(long)]
    initrd: Option<PathBuf>,
    /// A disk image to use instead of the scenario's first disk. The guest writes to it.
    #[arg(long)]
    disk: Option<PathBuf>,
    /// Use the sizes of `cargo xtask test --full`.
    #[arg(long)]
    full: bool,
    /// The hypervisor to boot the scenario on.
    #[arg(long, value_enum, default_value = "portunus")]
    on: Hypervisor,
    /// Xen's Image for arm64 [default: the distribution's].
    #[arg(long, value_name = "FILE")]
    xen: Option<PathBuf>,
    /// Let the guests of a scenario that has a parameter `verbose` tell of every step.
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    trace: TraceOptions,
    /// Start the guest on the bare machine, without a hypervisor: a baseline.
    #[arg(long, hide = true)]
    plain: bool,
}

impl Run {
    /// Runs the scenario. The last line says how that went.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        self.trace.check()?;
        let workspace = Workspace::find()?;
        let scenario = Scenario::read(&workspace.scenarios(), &self.scenario)?;
        match self.stage(&workspace, &scenario) {
            Ok(report) => Ok(conclude(&scenario.name, &report)),
            Err(Failure::Failed(reason)) => {
                println!("FAIL {}: {reason}", scenario.name);
                Ok(ExitCode::FAILURE)
            }
            Err(other) => Err(other),
        }
    }

    /// Xen's Image, if the scenario is to run on it.
    fn xen(&self, scenario: &Scenario) -> Result<Option<PathBuf>> {
        match (self.on, &self.xen) {
            (Hypervisor::Portunus, None) => Ok(None),
            (Hypervisor::Portunus, Some(_)) => failed("--xen needs --on xen"),
            (Hypervisor::Xen, _) if scenario.xen.is_none() => failed(format!(
                "the scenario {} does not say how it runs on Xen",
                scenario.name
            )),
            (Hypervisor::Xen, Some(file)) => Ok(Some(file.clone())),
            (Hypervisor::Xen, None) => distribution::xen().map(Some),
        }
    }

    /// Values that replace the scenario's parameters.
    fn parameters(&self, scenario: &Scenario) -> Result<BTreeMap<String, String>> {
        const VERBOSE: &str = "verbose";
        if self.verbose && !scenario.parameters.contains_key(VERBOSE) {
            return failed(format!("the scenario {} has no parameter {VERBOSE}", scenario.name));
        }
        let verbose = self.verbose.then(|| (VERBOSE.to_owned(), VERBOSE.to_owned()));
        Ok(verbose.into_iter().collect())
    }

    fn stage(&self, workspace: &Workspace, scenario: &Scenario) -> Result<Report> {
        let choice = MachineChoice {
            gic: self.gic,
            cpu: self.cpu.clone(),
            smp: self.smp,
            memory: self.memory,
            ..MachineChoice::default()
        };
        let xen = self.xen(scenario)?;
        let mut usual = scenario.machine.clone();
        if let Some(on_xen) = scenario.xen.as_ref().filter(|_| xen.is_some()) {
            usual.cpu = Some(on_xen.cpu.clone());
        }
        let machine = choice.over(&usual).complete()?;
        let choices = Choices {
            gdb: self.gdb,
            timeout: self.timeout,
            script: self.script.clone(),
            kernel: self.kernel.clone(),
            initrd: self.initrd.clone(),
            disk: self.disk.clone(),
            plain: self.plain,
            full: self.full,
            xen,
            parameters: self.parameters(scenario)?,
            trace: self.trace.clone(),
            show: true,
            interactive: self.script.is_none() && has_user(),
            // With two host CPUs one thread is as fast as several, and steadier.
            multi_threaded: thread::available_parallelism().is_ok_and(|count| count.get() > 2),
        };
        stage::require_tools(scenario)?;
        stage::require_downloads(scenario, &choices)?;
        let packages = if self.plain {
            stage::plain_packages(scenario)
        } else {
            stage::packages([scenario])
        };
        if !packages.is_empty() {
            build::build(workspace, &packages)?;
        }
        let stage = Stage::prepare(workspace, scenario, &machine, &choices)?;
        if self.gdb {
            let elf = build::program(workspace, machine.board.package()).elf;
            let gdb = ["gdb-multiarch", "gdb"]
                .into_iter()
                .find(|gdb| setup::find(gdb).is_some())
                .unwrap_or("gdb-multiarch");
            println!(
                "attach by: {gdb} -ex 'symbol-file -o {:#x} {}' -ex 'target remote localhost:{GDB_PORT}'",
                machine.board.image(),
                elf.display()
            );
        }
        if choices.interactive {
            println!(
                "{}: on {machine}; Ctrl-a three times changes the domain, Ctrl-a q ends",
                scenario.name
            );
        }
        println!("{}", stage.command_line());
        stage.run()
    }
}

/// Prints how a run ended that was shown while it ran.
fn conclude(name: &str, report: &Report) -> ExitCode {
    if !report.output.ends_with('\n') && !report.output.is_empty() {
        println!();
    }
    for line in report.findings.iter().chain(&report.explanation) {
        println!("{line}");
    }
    match &report.reason {
        None => {
            println!("PASS {name}");
            ExitCode::SUCCESS
        }
        Some(reason) => {
            println!("log: {}", report.log.display());
            println!("FAIL {name}: {reason}");
            ExitCode::FAILURE
        }
    }
}
