//! What a whole run proves, beside the lines that appeared: figures that repeat, how long stops lasted, and that what a
//! guest was told is on its disk is there.

use std::collections::BTreeMap;
use std::path::Path;

use regex_lite::Regex;

use crate::failure::{Doing, Result, failed};
use crate::scenario::Scenario;
use crate::timeline::Said;

mod documented;
mod growth;
pub(crate) mod journal;
mod stops;
mod tally;

/// Checks all that `scenario` says of whole runs, with `values` for its parameters. `disk` finds the file of a disk by
/// name; `root` is the repository. Returns what people want to know of it, in lines; an error is why the run has failed.
///
/// Findings before the first failure are in `findings` all the same.
pub(crate) fn check<'a>(
    scenario: &Scenario,
    values: &BTreeMap<String, String>,
    lines: &[Said],
    disk: impl Fn(&str) -> Option<&'a Path>,
    root: &Path,
    findings: &mut Vec<String>,
) -> Result<()> {
    let journals = (scenario.journals.iter())
        .map(|journal| journal::read(journal, values, lines))
        .collect::<Result<Vec<_>>>()?;
    let mut stops = Vec::new();
    for wanted in &scenario.stops {
        let found = stops::find(wanted, values, lines)?;
        findings.extend(found.table(&journals));
        stops.push(found);
    }
    for (wanted, journal) in scenario.journals.iter().zip(&journals) {
        findings.push(journal.summary());
        // A disk of the user's own is the user's business.
        disk(&wanted.disk).map_or(Ok(()), |file| journal.check(file))?;
    }
    stops.iter().try_for_each(|stops| stops.check(&journals))?;
    for expression in &scenario.same {
        findings.push(same(expression, lines)?);
    }
    // Sums first: what failed is the reason, whatever else is not as it should be.
    for wanted in &scenario.tally {
        findings.push(tally::check(wanted, &scenario.name, lines)?);
    }
    for wanted in &scenario.documented {
        let file = root.join(&wanted.file);
        let text = std::fs::read_to_string(&file).doing(format!("reading {}", file.display()))?;
        findings.push(documented::check(wanted, &text, lines)?);
    }
    for growth in &scenario.growth {
        findings.push(growth::check(growth, lines)?);
    }
    Ok(())
}

/// Makes sure that what `expression` captures (its first group, or all that it matches) is the same in all lines that
/// match, of which there must be two at least. Returns what it is.
fn same(expression: &str, lines: &[Said]) -> Result<String> {
    let regex = Regex::new(expression).doing(format!("the regular expression {expression:?}"))?;
    let mut matches = lines.iter().filter_map(|line| {
        let captures = regex.captures(&line.text)?;
        captures
            .get(1)
            .or(captures.get(0))
            .map(|found| found.as_str().to_owned())
    });
    let Some(first) = matches.next() else {
        return failed(format!("nothing matches {expression:?}"));
    };
    let mut count = 1;
    for other in matches {
        count += 1;
        if other != first {
            return failed(format!("it printed {other:?} in time {count}, and {first:?} before"));
        }
    }
    if count < 2 {
        return failed(format!(
            "only one line matches {expression:?}: nothing to compare it with"
        ));
    }
    Ok(format!("{count} times the same: {first}"))
}

#[cfg(test)]
mod tests {
    use super::same;
    use crate::timeline::{Said, Timeline};
    use std::time::Duration;

    fn lines(text: &str) -> Vec<Said> {
        let mut timeline = Timeline::default();
        timeline.take(text.as_bytes(), Duration::ZERO);
        timeline.lines().to_vec()
    }

    #[test]
    fn figures_that_must_repeat_are_compared_and_one_alone_proves_nothing() {
        let up = r"up again \(restart \d+\): (.*)";
        for (text, wanted) in [
            (
                "a is up again (restart 1): 5 pages\nb\na is up again (restart 2): 5 pages\n",
                Ok("2 times the same: 5 pages"),
            ),
            (
                "a is up again (restart 1): 5 pages\na is up again (restart 2): 5 pages\na is up again (restart 3): 6 pages\n",
                Err("\"6 pages\" in time 3, and \"5 pages\""),
            ),
            ("a is up again (restart 1): 5 pages\n", Err("only one line")),
            ("down\n", Err("nothing matches")),
        ] {
            match (same(up, &lines(text)), wanted) {
                (Ok(found), Ok(wanted)) => assert_eq!(found, wanted),
                (Err(failure), Err(part)) => assert!(failure.to_string().contains(part), "{failure}"),
                (found, _) => panic!("{text:?}: {found:?}"),
            }
        }
        // Without a group all that matches counts.
        assert!(same(r"restart \d+", &lines("restart 1\nrestart 2\n")).is_err());
        assert!(same(r"restart", &lines("restart 1\nrestart 2\n")).is_ok());
    }
}
