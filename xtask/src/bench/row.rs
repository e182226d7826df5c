//! One row of the table of benchmarks: what was measured, beside what it should be and what others need.

use std::collections::BTreeMap;

use regex_lite::Regex;
use serde::Serialize;

use crate::scenario::{Goal, Machine};

/// What a guest measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Figure {
    pub(crate) min: u64,
    pub(crate) median: u64,
    pub(crate) p90: u64,
}

/// What became of a measurement: a figure, or why there is none.
pub(crate) type Measured = Result<Figure, String>;

/// One row of the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    set: String,
    gic: u32,
    cpus: u32,
    /// QEMU's name of the CPU.
    cpu: String,
    /// QEMU's version.
    qemu: String,
    min: Option<u64>,
    median: Option<u64>,
    p90: Option<u64>,
    pub(crate) goal: Option<u64>,
    /// Xen's figure.
    peer: Option<u64>,
    /// What the least code that can do it needs.
    floor: Option<u64>,
    /// What others need, by name.
    others: BTreeMap<String, u64>,
    /// The median does not exceed the goal, if there is one. Without a figure no goal is met.
    pub(crate) met: bool,
    /// Why there is no figure.
    reason: Option<String>,
}

impl Row {
    pub(crate) fn new(
        (name, set): (&str, &str),
        machine: &Machine,
        qemu: &str,
        measured: Measured,
        wanted: &Goal,
        tolerance: u32,
    ) -> Self {
        let (goal, peer, floor) = wanted.on(machine.gic);
        let figure = measured.as_ref().ok();
        Self {
            name: name.to_owned(),
            set: set.to_owned(),
            gic: machine.gic,
            cpus: machine.smp,
            cpu: machine.cpu.clone(),
            qemu: qemu.to_owned(),
            min: figure.map(|figure| figure.min),
            median: figure.map(|figure| figure.median),
            p90: figure.map(|figure| figure.p90),
            goal,
            peer,
            floor,
            others: wanted.others.clone(),
            met: figure.map_or(goal.is_none(), |figure| meets(figure.median, goal, tolerance)),
            reason: measured.err(),
        }
    }
}

fn meets(median: u64, goal: Option<u64>, tolerance: u32) -> bool {
    // In wide numbers, so that no figure is too large.
    let wide = u128::from;
    goal.is_none_or(|goal| wide(median) * 100 <= wide(goal) * (100 + u128::from(tolerance)))
}

/// What guests say of their measurements, in the order in which it was printed; the last word on a name counts.
///
/// `BENCH NAME MIN MEDIAN P90` is a figure, `BENCH NAME - REASON` says why there is none.
pub(crate) fn measurements(output: &str) -> Vec<(String, Measured)> {
    let regex = Regex::new(r"BENCH (\w+) (?:(\d+) (\d+) (\d+)|- ([^\r\n]+))").expect("this expression is right");
    let mut all: Vec<(String, Measured)> = Vec::new();
    for found in regex.captures_iter(output) {
        let number = |group| found.get(group).and_then(|text| text.as_str().parse().ok());
        let measured = match (number(2), number(3), number(4), found.get(5)) {
            (Some(min), Some(median), Some(p90), _) => Ok(Figure { min, median, p90 }),
            (_, _, _, Some(reason)) => Err(reason.as_str().trim_end().to_owned()),
            _ => continue,
        };
        match all.iter_mut().find(|(name, _)| *name == found[1]) {
            Some((_, earlier)) => *earlier = measured,
            None => all.push((found[1].to_owned(), measured)),
        }
    }
    all
}

/// The rows as a table for people, below a line that names the machine.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut machine = String::new();
    for row in rows {
        let (name, gic, cpus) = (&row.name, row.gic, row.cpus);
        let on = format!("{}, -cpu {}", row.qemu, row.cpu);
        if on != machine {
            text.push_str(&format!(
                "{on}\n{:<22} {:>3} {:>4} {:>8} {:>8} {:>8} {:>8} {:>6}  {:<6} {:>6}  others\n",
                "row", "gic", "cpus", "min", "median", "p90", "goal", "floor", "", "xen"
            ));
            machine = on;
        }
        let number = |number: Option<u64>| number.map_or("-".into(), |number| number.to_string());
        let [goal, floor, peer] = [row.goal, row.floor, row.peer].map(number);
        let figures = [row.min, row.median, row.p90]
            .map(number)
            .map(|text| format!("{text:>8}"));
        let verdict = match (row.goal, row.met) {
            _ if row.median.is_none() => "NONE",
            (None, _) => "",
            (Some(_), true) => "ok",
            (Some(_), false) => "MISSED",
        };
        let others = row.others.iter().map(|(name, figure)| format!("{name} {figure}"));
        let remarks: Vec<String> = row.reason.clone().into_iter().chain(others).collect();
        let line = format!(
            "{name:<22} {gic:>3} {cpus:>4} {} {goal:>8} {floor:>6}  {verdict:<6} {peer:>6}  {}",
            figures.join(" "),
            remarks.join(", ")
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Figure, Row, measurements, meets, table};
    use crate::scenario::{Goal, MachineChoice};

    #[test]
    fn figures_are_read_wherever_they_stand_in_a_line() {
        let found = measurements(
            "(guest) BENCH null_hypercall 80 81 95\r\nBENCH broken 1 2\nBENCH ioreq 1 2 3\n\
             guest: BENCH doorbell - nobody serves it\r\nBENCH ioreq 4 5 6\n",
        );
        let figure = |min, median, p90| Ok(Figure { min, median, p90 });
        let expected = [
            ("null_hypercall", figure(80, 81, 95)),
            ("ioreq", figure(4, 5, 6)),
            ("doorbell", Err("nobody serves it".to_owned())),
        ];
        assert_eq!(found, expected.map(|(name, measured)| (name.to_owned(), measured)));
        assert!(measurements("BENCH x 99999999999999999999999 1 1").is_empty());
    }

    #[test]
    fn a_goal_is_met_up_to_the_tolerance() {
        for (median, goal, tolerance, met) in [
            (90, Some(90), 0, true),
            (91, Some(90), 0, false),
            (99, Some(90), 10, true),
            (100, Some(90), 10, false),
            (0, Some(0), 0, true),
            (1, Some(0), 50, false),
            (1_000_000, None, 0, true),
            (u64::MAX, Some(u64::MAX), u32::MAX, true),
        ] {
            assert_eq!(meets(median, goal, tolerance), met, "{median} {goal:?} {tolerance}");
        }
    }

    fn row(name: &str, gic: u32, median: Option<u64>) -> Row {
        let wanted = Goal {
            goal: Some(2),
            gicv2_goal: Some(3),
            peer: Some(445),
            gicv2_peer: Some(447),
            others: BTreeMap::from([("bao".to_owned(), 151)]),
            ..Goal::default()
        };
        let choice = MachineChoice {
            gic: Some(gic),
            ..MachineChoice::default()
        };
        let figure = |median| Figure { min: 1, median, p90: 9 };
        let measured = median.map(figure).ok_or("there is no device".to_owned());
        Row::new(
            (name, "set"),
            &choice.complete().unwrap(),
            "QEMU 7.2",
            measured,
            &wanted,
            0,
        )
    }

    #[test]
    fn the_table_says_which_goals_are_missed_and_what_has_no_figure() {
        let text = table(&[row("a", 3, Some(2)), row("b", 2, Some(4)), row("c", 3, None)]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert_eq!(lines[0], "QEMU 7.2, -cpu max");
        assert!(
            lines[2].contains(" ok ") && lines[2].ends_with("445  bao 151"),
            "{text}"
        );
        assert!(lines[3].contains("MISSED") && lines[3].contains("447"), "{text}");
        assert!(
            lines[4].contains("NONE") && lines[4].contains("there is no device"),
            "{text}"
        );
    }

    #[test]
    fn the_goal_is_that_of_the_interrupt_controller_and_no_figure_meets_none() {
        for (gic, median, met) in [
            (3, Some(2), true),
            (3, Some(3), false),
            (2, Some(3), true),
            (2, None, false),
        ] {
            assert_eq!(row("a", gic, median).met, met, "{gic} {median:?}");
        }
    }

    #[test]
    fn json_has_null_where_there_is_nothing() {
        let value = serde_json::to_value(row("a", 3, None)).unwrap();
        assert!(value["median"].is_null() && value["floor"].is_null());
        assert_eq!(value["peer"], 445);
        assert_eq!(value["reason"], "there is no device");
    }
}
