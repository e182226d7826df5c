//! `cargo xtask bench`: what operations cost, in instructions, beside the goals and what others need for the same.
//!
//! A benchmark is a scenario with rows. Its guest prints `BENCH NAME MIN MEDIAN P90` for each; the median is compared
//! with the goal. Under `-icount` the figures are the same in every run of one QEMU.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use regex_lite::Regex;
use serde::Serialize;

use crate::build;
use crate::failure::{Doing, Result, failed};
use crate::scenario::{self, Goal, Machine, Scenario};
use crate::setup;
use crate::stage::{self, Choices, Stage};
use crate::workspace::{HYPERVISOR, Workspace};

/// Options of `cargo xtask bench`.
#[derive(Args, Debug)]
pub(crate) struct Bench {
    /// The set of benchmarks: a scenario with rows [default: all of them].
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

/// What a guest measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
struct Figure {
    min: u64,
    median: u64,
    p90: u64,
}

/// One row of the table.
#[derive(Clone, Debug, Serialize)]
struct Row {
    name: String,
    set: String,
    gic: u32,
    cpus: u32,
    /// QEMU's name of the CPU.
    cpu: String,
    /// QEMU's version.
    qemu: String,
    #[serde(flatten)]
    figure: Figure,
    goal: Option<u64>,
    /// What others need for the same, by name.
    peer: BTreeMap<String, u64>,
    met: bool,
}

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
            if !scenario.rows.is_empty() {
                sets.push(scenario);
            } else if self.set.is_some() {
                return failed(format!("the scenario {name} has no rows to measure"));
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
        println!("{qemu}");
        let mut rows = Vec::new();
        for set in &sets {
            for machine in set.machines()? {
                println!("measuring {} on {machine}", set.name);
                rows.extend(self.measure(&workspace, set, &machine, &qemu)?);
            }
        }
        print!("{}", table(&rows));
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
            reader.report(&build::program(workspace, HYPERVISOR).elf, &workspace.root)?
        );
        Ok(ExitCode::SUCCESS)
    }

    fn measure(&self, workspace: &Workspace, set: &Scenario, machine: &Machine, qemu: &str) -> Result<Vec<Row>> {
        let report = Stage::prepare(workspace, set, machine, &Choices::default())?.run()?;
        if let Some(reason) = report.reason {
            return failed(format!(
                "{} on {machine}: {reason}; log: {}",
                set.name,
                report.log.display()
            ));
        }
        let figures = figures(&report.output);
        let row = |(name, goal): (&String, &Goal)| {
            let Some(figure) = figures.get(name) else {
                return failed(format!("{} on {machine} printed no figure for {name}", set.name));
            };
            let wanted = if machine.gic == 2 {
                goal.gicv2_goal.or(goal.goal)
            } else {
                goal.goal
            };
            Ok(Row {
                name: name.clone(),
                set: set.name.clone(),
                gic: machine.gic,
                cpus: machine.smp,
                cpu: machine.cpu.clone(),
                qemu: qemu.to_owned(),
                figure: *figure,
                goal: wanted,
                peer: goal.peers.clone(),
                met: meets(figure.median, wanted, self.tolerance),
            })
        };
        set.rows.iter().map(row).collect()
    }
}

fn meets(median: u64, goal: Option<u64>, tolerance: u32) -> bool {
    // In wide numbers, so that no figure is too large.
    let wide = u128::from;
    goal.is_none_or(|goal| wide(median) * 100 <= wide(goal) * (100 + u128::from(tolerance)))
}

/// The figures in what a machine printed; the last one of a name counts.
fn figures(output: &str) -> BTreeMap<String, Figure> {
    let regex = Regex::new(r"BENCH (\w+) (\d+) (\d+) (\d+)").expect("this expression is right");
    let mut figures = BTreeMap::new();
    for found in regex.captures_iter(output) {
        if let (Ok(min), Ok(median), Ok(p90)) = (found[2].parse(), found[3].parse(), found[4].parse()) {
            figures.insert(found[1].to_owned(), Figure { min, median, p90 });
        }
    }
    figures
}

fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<22} {:>3} {:>4} {:>8} {:>8} {:>8} {:>8}  {:<6} peers\n",
        "row", "gic", "cpus", "min", "median", "p90", "goal", ""
    );
    for row in rows {
        let goal = row.goal.map_or("-".into(), |goal| goal.to_string());
        let verdict = match (row.goal, row.met) {
            (None, _) => "",
            (Some(_), true) => "ok",
            (Some(_), false) => "MISSED",
        };
        let peers: Vec<String> = row
            .peer
            .iter()
            .map(|(name, figure)| format!("{name} {figure}"))
            .collect();
        let Figure { min, median, p90 } = row.figure;
        let (name, gic, cpus, peers) = (&row.name, row.gic, row.cpus, peers.join(", "));
        let line =
            format!("{name:<22} {gic:>3} {cpus:>4} {min:>8} {median:>8} {p90:>8} {goal:>8}  {verdict:<6} {peers}");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Figure, Row, figures, meets, table};

    #[test]
    fn figures_are_read_wherever_they_stand_in_a_line() {
        let found = figures(
            "(guest) BENCH null_hypercall 80 81 95\r\nBENCH broken 1 2\nBENCH ioreq 1 2 3\nBENCH ioreq 4 5 6\n",
        );
        assert_eq!(found.len(), 2);
        assert_eq!(
            found["null_hypercall"],
            Figure {
                min: 80,
                median: 81,
                p90: 95
            }
        );
        assert_eq!(
            found["ioreq"],
            Figure {
                min: 4,
                median: 5,
                p90: 6
            }
        );
        assert!(figures("BENCH x 99999999999999999999999 1 1").is_empty());
    }

    #[test]
    fn a_goal_is_met_up_to_the_tolerance() {
        for (median, goal, tolerance, met) in [
            (90, Some(90), 0, true),
            (91, Some(90), 0, false),
            (99, Some(90), 10, true),
            (100, Some(90), 10, false),
            (1_000_000, None, 0, true),
            (u64::MAX, Some(u64::MAX), u32::MAX, true),
        ] {
            assert_eq!(meets(median, goal, tolerance), met, "{median} {goal:?} {tolerance}");
        }
    }

    #[test]
    fn the_table_says_which_goals_are_missed() {
        let row = |name: &str, met| Row {
            name: name.into(),
            set: "primitives".into(),
            gic: 3,
            cpus: 1,
            cpu: "max".into(),
            qemu: "QEMU emulator version 7.2".into(),
            figure: Figure {
                min: 1,
                median: 2,
                p90: 3,
            },
            goal: Some(2),
            peer: BTreeMap::from([("xen".to_owned(), 445)]),
            met,
        };
        let text = table(&[row("a", true), row("b", false)]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].contains("ok") && lines[1].ends_with("xen 445"));
        assert!(lines[2].contains("MISSED"));
    }
}
