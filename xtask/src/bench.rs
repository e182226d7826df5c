//! `cargo xtask bench`: what operations cost, in instructions, beside the goals and what others need for the same.
//!
//! A benchmark is a scenario with rows. Its guest prints `BENCH NAME MIN MEDIAN P90` for each, or `BENCH NAME - REASON`;
//! the median is compared with the goal. Under `-icount` the figures are the same in every run of one QEMU.

mod plot;
mod row;
mod scale;
mod verdict;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::build;
use crate::failure::{Doing, Result, failed};
use crate::qemu::Board;
use crate::scenario::{self, Machine, Scenario};
use crate::setup;
use crate::stage::{self, Choices, Stage};
use crate::workspace::Workspace;
use row::Row;

/// Options of `cargo xtask bench`.
#[derive(Args, Debug)]
pub(crate) struct Bench {
    /// The set of benchmarks: a scenario with rows [default: all of them], or one with series, such as `scale`.
    set: Option<String>,
    /// Write the figures to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// How many percent above its goal a figure may be.
    #[arg(long, default_value_t = 0)]
    tolerance: u32,
    /// Count the instructions of this row by function instead.
    #[arg(long, value_name = "ROW")]
    profile: Option<String>,
    /// The interrupt controller to profile with.
    #[arg(long, value_name = "VERSION", default_value_t = 3, requires = "profile")]
    gic: u32,
}

/// Operations of a profile.
const PROFILED: u32 = 20;
/// Seconds that a machine may take while it logs every instruction.
const PROFILE_TIMEOUT: u64 = 600;

impl Bench {
    /// Runs the benchmarks and prints the table.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let workspace = Workspace::find()?;
        let folder = workspace.scenarios();
        let mut sets = Vec::new();
        for name in self
            .set
            .clone()
            .map_or_else(|| scenario::names(&folder), |name| Ok(vec![name]))?
        {
            let scenario = Scenario::read(&folder, &name)?;
            if !scenario.rows.is_empty() || (self.set.is_some() && scenario.is_benchmark()) {
                sets.push(scenario);
            } else if self.set.is_some() {
                return failed(format!("the scenario {name} has nothing to measure"));
            }
        }
        if sets.is_empty() {
            return failed("no scenario has rows to measure");
        }
        for set in &sets {
            stage::require_tools(set)?;
            stage::require_downloads(set, &Choices::default())?;
        }
        if let Some(row) = &self.profile {
            return self.profile(&workspace, &sets, row);
        }
        build::build(&workspace, &stage::packages(&sets))?;
        let qemu = setup::qemu_version_line();
        if let Some(set) = sets.iter().find(|set| !set.series.is_empty()) {
            return scale::run(&workspace, set, &qemu, self.json.as_deref());
        }
        let mut rows = Vec::new();
        for set in &sets {
            for machine in set.machines()? {
                println!("measuring {} on {machine}", set.name);
                rows.extend(self.measure(&workspace, set, &machine, &qemu)?);
            }
        }
        print!("{}", row::table(&rows));
        if let Some(file) = &self.json {
            let text = serde_json::to_string_pretty(&rows).doing("writing the figures")?;
            fs::write(file, text + "\n").doing(format!("writing {}", file.display()))?;
        }
        let missed = rows.iter().filter(|row| !row.met).count();
        let goals = rows.iter().filter(|row| row.goal.is_some()).count();
        println!("{} of {goals} goals met", goals - missed);
        Ok(if missed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    /// Shows where the instructions of one row go.
    fn profile(&self, workspace: &Workspace, sets: &[Scenario], row: &str) -> Result<ExitCode> {
        let Some(set) = sets.iter().find(|set| set.rows.contains_key(row)) else {
            return failed(format!("there is no row {row}"));
        };
        let Some(machine) = set.machines()?.into_iter().find(|machine| machine.gic == self.gic) else {
            return failed(format!("{} does not run with a GICv{}", set.name, self.gic));
        };
        build::build(workspace, &stage::packages([set]))?;
        let parameters = [("only", row.to_owned()), ("samples", PROFILED.to_string())];
        let choices = Choices {
            parameters: parameters.map(|(name, value)| (name.to_owned(), value)).into(),
            timeout: Some(PROFILE_TIMEOUT),
            ..Choices::default()
        };
        let mut stage = Stage::prepare(workspace, set, &machine, &choices)?;
        let reader = stage.profile()?;
        let report = stage.run()?;
        if let Some(reason) = report.reason {
            return failed(format!(
                "{} on {machine}: {reason}; log: {}",
                set.name,
                report.log.display()
            ));
        }
        print!(
            "{row} on {machine}: {}",
            reader.report(
                &build::program(workspace, Board::QemuVirt.package()).elf,
                &workspace.root
            )?
        );
        Ok(ExitCode::SUCCESS)
    }

    /// The rows of one set on one machine. A machine that fails leaves rows that say so.
    fn measure(&self, workspace: &Workspace, set: &Scenario, machine: &Machine, qemu: &str) -> Result<Vec<Row>> {
        let report = Stage::prepare(workspace, set, machine, &Choices::default())?.run()?;
        if let Some(reason) = &report.reason {
            println!("{} on {machine}: {reason}; log: {}", set.name, report.log.display());
        }
        let mut measured = row::measurements(&report.output);
        for name in set.rows.keys() {
            if measured.iter().all(|(found, _)| found != name) {
                let reason = report.reason.clone();
                measured.push((
                    name.clone(),
                    Err(reason.unwrap_or("the guest says nothing of it".into())),
                ));
            }
        }
        let rows = measured.into_iter().filter_map(|(name, measured)| {
            let goal = set.rows.get(&name)?;
            Some(Row::new(
                (&name, &set.name),
                machine,
                qemu,
                measured,
                goal,
                self.tolerance,
            ))
        });
        Ok(rows.collect())
    }
}
