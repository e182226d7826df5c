//! What operations cost at several sizes of what guests can have more or fewer of, and how that grows.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::plot::{self, Curve};
use super::row::{self, Figure};
use super::verdict::Growth;
use crate::failure::{Doing, Result};
use crate::scenario::series::Series;
use crate::scenario::{Machine, Scenario};
use crate::stage::{Choices, Stage};
use crate::workspace::Workspace;

/// One operation on one machine at one size.
#[derive(Clone, Debug, Serialize)]
struct Point {
    name: String,
    set: String,
    unit: String,
    size: u32,
    gic: u32,
    cpus: u32,
    /// QEMU's name of the CPU.
    cpu: String,
    /// QEMU's version.
    qemu: String,
    min: Option<u64>,
    median: Option<u64>,
    p90: Option<u64>,
    /// How the series grows that this point belongs to; nothing if one of its points is missing.
    growth: Option<Growth>,
    /// Why there is no figure.
    reason: Option<String>,
}

/// Measures every series of `set` on every machine of its matrix; prints the table, draws the pictures into docs/ and writes
/// the figures to `json`. The code says whether nothing is missing and nothing grows faster than it should.
pub(super) fn run(workspace: &Workspace, set: &Scenario, qemu: &str, json: Option<&Path>) -> Result<ExitCode> {
    let machines = set.machines()?;
    let mut points = Vec::new();
    let mut verdicts = Vec::new();
    for series in &set.series {
        let mut curves = Vec::new();
        for machine in &machines {
            println!("measuring {} on {machine}", series.name);
            let mut measured = Vec::new();
            for size in &series.sizes {
                measured.push(measure(workspace, set, series, machine, *size, qemu)?);
            }
            let curve: Vec<_> = measured
                .iter()
                .filter_map(|point| Some((point.size, point.median?)))
                .collect();
            let growth = (curve.len() == measured.len()).then(|| Growth::of(&curve));
            verdicts.push(growth);
            points.extend(measured.into_iter().map(|point| Point { growth, ..point }));
            curves.push(Curve {
                name: format!("GICv{}", machine.gic),
                points: curve,
            });
        }
        if curves.iter().any(|curve| !curve.points.is_empty()) {
            let file = workspace.root.join(format!("docs/{}-{}.svg", set.name, series.name));
            fs::write(&file, plot::svg(&series.title, &series.unit, &curves))
                .doing(format!("writing {}", file.display()))?;
        }
    }
    print!("{}", table(&points));
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(&points).doing("writing the figures")?;
        fs::write(file, text + "\n").doing(format!("writing {}", file.display()))?;
    }
    let good = verdicts
        .iter()
        .filter(|growth| matches!(growth, Some(Growth::Flat | Growth::Logarithmic)))
        .count();
    println!("{good} of {} series are flat or logarithmic", verdicts.len());
    Ok(if good == verdicts.len() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn measure(
    workspace: &Workspace,
    set: &Scenario,
    series: &Series,
    machine: &Machine,
    size: u32,
    qemu: &str,
) -> Result<Point> {
    let choices = Choices {
        parameters: series.parameters(size)?,
        ..Choices::default()
    };
    let report = Stage::prepare(workspace, set, machine, &choices)?.run()?;
    let mut measured = row::measurements(&report.output).into_iter();
    // The one that the series is about is the only one that its parameters let through.
    let measured = match (measured.next(), report.reason) {
        (_, Some(reason)) => Err(format!("{reason}; log: {}", report.log.display())),
        (Some((_, measured)), None) => measured,
        (None, None) => Err("the guest says nothing of it".to_owned()),
    };
    let figure = |of: fn(&Figure) -> u64| measured.as_ref().ok().map(of);
    Ok(Point {
        name: series.name.clone(),
        set: set.name.clone(),
        unit: series.unit.clone(),
        size,
        gic: machine.gic,
        cpus: machine.smp,
        cpu: machine.cpu.clone(),
        qemu: qemu.to_owned(),
        min: figure(|figure| figure.min),
        median: figure(|figure| figure.median),
        p90: figure(|figure| figure.p90),
        growth: None,
        reason: measured.err(),
    })
}

fn table(points: &[Point]) -> String {
    let mut text = String::new();
    if let Some(first) = points.first() {
        text.push_str(&format!("{}, -cpu {}\n", first.qemu, first.cpu));
    }
    for of_one in points.chunk_by(|one, other| (&one.name, one.gic) == (&other.name, other.gic)) {
        let (Some(first), Some(last)) = (of_one.first(), of_one.last()) else {
            continue;
        };
        let cost = |point: &Point| match (point.median, &point.reason) {
            (Some(median), _) => format!("{}: {median}", point.size),
            (None, reason) => format!("{}: none ({})", point.size, reason.as_deref().unwrap_or_default()),
        };
        let costs: Vec<String> = of_one.iter().map(cost).collect();
        let growth = last
            .growth
            .map_or("NOT MEASURED".to_owned(), |growth| growth.to_string());
        let (name, gic, unit) = (&first.name, first.gic, &first.unit);
        text.push_str(&format!(
            "{name:<10} gic{gic}  {growth:<24} {unit}  {}\n",
            costs.join("  ")
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Growth, Point, table};

    #[test]
    fn each_series_is_a_line_with_its_verdict() {
        let point = |gic, size, median: Option<u64>, growth| Point {
            name: "ports".into(),
            set: "scale".into(),
            unit: "ports".into(),
            size,
            gic,
            cpus: 1,
            cpu: "max".into(),
            qemu: "QEMU 7.2".into(),
            min: median,
            median,
            p90: median,
            growth,
            reason: median.is_none().then(|| "it hangs".into()),
        };
        let flat = Some(Growth::Flat);
        let text = table(&[
            point(3, 1, Some(500), flat),
            point(3, 512, Some(501), flat),
            point(2, 1, Some(600), None),
            point(2, 512, None, None),
        ]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(
            lines[1].contains("gic3  flat") && lines[1].ends_with("1: 500  512: 501"),
            "{text}"
        );
        assert!(
            lines[2].contains("NOT MEASURED") && lines[2].ends_with("512: none (it hangs)"),
            "{text}"
        );
    }
}
