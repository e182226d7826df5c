//! `cargo xtask test`: everything that is checked, with one line for each thing and the sums as the last line.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use crate::failure::{Doing, Failure, Result};
use crate::scenario::{self, Machine, Scenario};
use crate::setup;
use crate::setup::rust::{CoreLibrary, require_component};
use crate::stage::{self, Choices, Stage};
use crate::suites::Suites;
use crate::workspace::{Workspace, cargo};
use crate::{boards, build};

/// Machines that run at once: two keep two host CPUs busy, more would make time limits depend on each other.
const AT_ONCE: usize = 2;

/// How many of the slowest are named at the end.
const SLOWEST: usize = 10;

/// Lines of a failed run that are shown.
const TAIL: usize = 40;

/// Options of `cargo xtask test`.
#[derive(Args, Debug)]
pub(crate) struct Test {
    /// Run the full sizes, and the scenarios that are in the full set only.
    #[arg(long)]
    full: bool,
    /// Run this scenario on all machines of its matrix and nothing else; may be repeated.
    #[arg(long = "scenario", value_name = "NAME")]
    scenarios: Vec<String>,
}

/// How one check ended.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

/// One check that was made.
#[derive(Clone, Debug)]
struct Row {
    name: String,
    outcome: Outcome,
    time: Duration,
    /// What is said of it in any case.
    findings: Vec<String>,
    /// What helps to understand a failure.
    details: String,
}

/// Sums and times of all checks.
#[derive(Debug, Default)]
struct Sums {
    passed: u64,
    failed: u64,
    skipped: u64,
    unobtainable: u64,
    times: Vec<(Duration, String)>,
}

impl Sums {
    fn add(&mut self, row: &Row) {
        let seconds = row.time.as_secs_f32();
        match &row.outcome {
            Outcome::Passed => {
                self.passed += 1;
                println!("ok    {} ({seconds:.1} s)", row.name);
            }
            Outcome::Failed(reason) => {
                self.failed += 1;
                println!("{}\nFAIL  {} ({seconds:.1} s): {reason}", row.details, row.name);
            }
            Outcome::Skipped(reason) => {
                self.skipped += 1;
                self.unobtainable += 1;
                println!("skip  {}: {reason}", row.name);
            }
        }
        for line in &row.findings {
            println!("      {line}");
        }
        self.times.push((row.time, row.name.clone()));
    }

    fn conclude(mut self) -> ExitCode {
        self.times.sort_by(|a, b| b.cmp(a));
        println!("\nslowest:");
        for (time, name) in self.times.iter().take(SLOWEST) {
            println!("{:8.1} s  {name}", time.as_secs_f32());
        }
        let in_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false");
        let incomplete = in_ci && self.unobtainable > 0;
        if incomplete {
            println!("what is skipped because its inputs can't be had counts as failed in CI");
            self.failed += self.unobtainable;
            self.skipped -= self.unobtainable;
        }
        println!(
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        );
        if self.failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

impl Test {
    /// Runs the checks.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let workspace = Workspace::find()?;
        let mut sums = Sums::default();
        if self.scenarios.is_empty() {
            source_checks(&workspace, &mut sums)?;
            host_tests(&workspace, &mut sums)?;
            for board in boards::BOARDS {
                let made = || boards::make(&workspace, board, None, None).map(drop);
                sums.add(&timed(&format!("image {}", board.name), made));
            }
        }
        self.scenarios(&workspace, &mut sums)?;
        Ok(sums.conclude())
    }

    fn scenarios(&self, workspace: &Workspace, sums: &mut Sums) -> Result<()> {
        let folder = workspace.scenarios();
        let names = if self.scenarios.is_empty() {
            scenario::names(&folder)?
        } else {
            self.scenarios.clone()
        };
        let mut scenarios = Vec::new();
        for name in names {
            let scenario = Scenario::read(&folder, &name)?;
            let wanted = !scenario.is_benchmark() && (self.full || !scenario.full_only);
            if wanted || !self.scenarios.is_empty() {
                scenarios.push(scenario);
            }
        }
        if scenarios.is_empty() {
            return Ok(());
        }
        for scenario in &scenarios {
            stage::require_tools(scenario)?;
        }
        let built = timed("build for bare metal", || {
            build::build(workspace, &stage::packages(&scenarios))
        });
        let go_on = built.outcome == Outcome::Passed;
        if !go_on {
            sums.add(&built);
            return Ok(());
        }
        let choices = Choices {
            full: self.full,
            ..Choices::default()
        };
        let mut queue = VecDeque::new();
        for scenario in &scenarios {
            match stage::require_downloads(scenario, &choices) {
                Ok(()) => queue.extend(scenario.machines()?.into_iter().map(|machine| (scenario, machine))),
                Err(failure) => sums.add(&row(scenario.name.clone(), Err(failure), Instant::now())),
            }
        }
        let (queue, sums) = (Mutex::new(queue), Mutex::new(sums));
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    while let Some((scenario, machine)) = lock(&queue).pop_front() {
                        let row = run_scenario(workspace, scenario, &machine, &choices);
                        lock(&sums).add(&row);
                    }
                });
            }
        });
        Ok(())
    }
}

/// A panic of another worker is reported by the scope; until then its data is as good as ever.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn run_scenario(workspace: &Workspace, scenario: &Scenario, machine: &Machine, choices: &Choices) -> Row {
    let name = format!("{} {machine}", scenario.name);
    let started = Instant::now();
    let report = match Stage::prepare(workspace, scenario, machine, choices).and_then(Stage::run) {
        Ok(report) => report,
        Err(failure) => return row(name, Err(failure), started),
    };
    let lines: Vec<&str> = report.output.lines().collect();
    let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
    let details = format!(
        "{tail}\n{}\nlog: {}",
        report.explanation.join("\n"),
        report.log.display()
    );
    let outcome = report.reason.map_or(Outcome::Passed, Outcome::Failed);
    Row {
        name,
        outcome,
        time: report.time,
        findings: report.findings,
        details,
    }
}

fn row(name: String, result: Result<()>, started: Instant) -> Row {
    let outcome = match result {
        Ok(()) => Outcome::Passed,
        Err(Failure::Skipped(reason)) => Outcome::Skipped(reason),
        Err(Failure::Failed(reason) | Failure::SetupMissing(reason)) => Outcome::Failed(reason),
    };
    Row {
        name,
        outcome,
        time: started.elapsed(),
        findings: Vec::new(),
        details: String::new(),
    }
}

fn timed(name: &str, check: impl FnOnce() -> Result<()>) -> Row {
    let started = Instant::now();
    row(name.into(), check(), started)
}

/// Format and lints, of what runs on a PC and of what runs on bare metal.
fn source_checks(workspace: &Workspace, sums: &mut Sums) -> Result<()> {
    require_component("fmt", "rustfmt")?;
    require_component("clippy", "clippy")?;
    let core = CoreLibrary::prepare(&setup::cache()?)?;
    let run = |arguments: &[&str], change: &dyn Fn(&mut Command)| {
        let mut command = Command::new(cargo());
        command.current_dir(&workspace.root).args(arguments);
        change(&mut command);
        let status = command.status().doing("running cargo")?;
        if status.success() {
            Ok(())
        } else {
            Err(Failure::Failed(format!("cargo {} complains", arguments.join(" "))))
        }
    };
    let deny: &[&str] = &["--", "-D", "warnings"];
    sums.add(&timed("format", || run(&["fmt", "--all", "--check"], &|_| {})));
    let host = ["clippy", "--quiet", "--all-targets"];
    sums.add(&timed("lints", || {
        run(&host, &|command| {
            command.args(deny);
        })
    }));
    let bare_metal = |command: &mut Command| {
        core.apply(command);
        for package in &workspace.bare_metal {
            command.args(["--package", package]);
        }
        command.args(deny);
    };
    sums.add(&timed("lints for bare metal", || {
        run(&["clippy", "--quiet", "--release"], &bare_metal)
    }));
    Ok(())
}

/// `cargo test`, each of its tests counted.
fn host_tests(workspace: &Workspace, sums: &mut Sums) -> Result<()> {
    let started = Instant::now();
    let (reader, writer) = std::io::pipe().doing("making a pipe")?;
    let mut command = Command::new(cargo());
    command.current_dir(&workspace.root).args(["test", "--no-fail-fast"]);
    command
        .stdout(writer.try_clone().doing("making a pipe")?)
        .stderr(writer);
    let mut child = command.spawn().doing("running cargo test")?;
    // The command holds the writing end, too: without it the pipe ends with the child.
    drop(command);
    let mut suites = Suites::default();
    let mut output = String::new();
    for line in BufReader::new(reader).lines().map_while(std::result::Result::ok) {
        suites.take(&line);
        output.push_str(&line);
        output.push('\n');
    }
    let status = child.wait().doing("running cargo test")?;
    sums.passed += suites.passed;
    sums.failed += suites.failed;
    sums.skipped += suites.ignored;
    sums.times.extend(suites.times);
    let seconds = started.elapsed().as_secs_f32();
    if status.success() {
        println!("ok    {} host tests ({seconds:.1} s)", suites.passed);
    } else {
        println!("{output}\nFAIL  {} host tests ({seconds:.1} s)", suites.failed);
        // A suite that doesn't compile has no tests that could be counted.
        sums.failed += u64::from(suites.failed == 0);
    }
    Ok(())
}
