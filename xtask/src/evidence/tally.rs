//! Sums of what several lines tell, such as the results of each domain of a suite.

use regex_lite::Regex;

use crate::failure::{Doing, Result, failed};
use crate::scenario::evidence::Tally;
use crate::timeline::Said;

/// Sums, and says what came out, under `name`; it is an error if a sum that must be 0 is not.
pub(super) fn check(wanted: &Tally, name: &str, lines: &[Said]) -> Result<String> {
    let regex = Regex::new(&wanted.line).doing(format!("the regular expression {:?}", wanted.line))?;
    let mut sums: Vec<(&str, u64)> = regex.capture_names().flatten().map(|group| (group, 0)).collect();
    if let Some(unknown) = wanted
        .zero
        .iter()
        .find(|zero| sums.iter().all(|(group, _)| group != zero))
    {
        return failed(format!("{:?} has no group {unknown}", wanted.line));
    }
    let mut count = 0;
    for captures in lines.iter().filter_map(|line| regex.captures(&line.text)) {
        count += 1;
        for (group, sum) in &mut sums {
            let text = captures.name(group).map_or("0", |found| found.as_str());
            *sum += text.parse::<u64>().doing(format!("{group} {text:?}"))?;
        }
    }
    let told: Vec<String> = sums.iter().map(|(group, sum)| format!("{sum} {group}")).collect();
    let told = format!("{name}: {}", told.join(", "));
    if count != wanted.lines {
        return failed(format!("{count} of {} told their results; {told}", wanted.lines));
    }
    match sums
        .iter()
        .find(|(group, sum)| *sum > 0 && wanted.zero.iter().any(|zero| zero == group))
    {
        Some((group, sum)) => failed(format!("{sum} {group}; {told}")),
        None => Ok(told),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::check;
    use crate::scenario::evidence::Tally;
    use crate::timeline::Timeline;

    fn summed(text: &str, zero: &str) -> Result<String, String> {
        let mut timeline = Timeline::default();
        timeline.take(text.as_bytes(), Duration::ZERO);
        let wanted = Tally {
            line: r"x: (?P<rows>\d+) rows, (?P<failed>\d+) failed".into(),
            lines: 2,
            zero: vec![zero.into()],
        };
        check(&wanted, "suite", timeline.lines()).map_err(|failure| failure.to_string())
    }

    #[test]
    fn results_of_several_are_summed_and_one_failure_or_a_missing_one_fails_all() {
        for (text, wanted) in [
            (
                "x: 3 rows, 0 failed\nx: 4 rows, 0 failed\n",
                Ok("suite: 7 rows, 0 failed"),
            ),
            (
                "x: 3 rows, 0 failed\nx: 4 rows, 1 failed\n",
                Err("1 failed; suite: 7 rows, 1 failed"),
            ),
            ("x: 3 rows, 0 failed\n", Err("1 of 2 told their results")),
            ("", Err("0 of 2 told")),
            (
                "x: 3 rows, 0 failed\nx: 99999999999999999999 rows, 0 failed\n",
                Err("rows"),
            ),
        ] {
            match (summed(text, "failed"), wanted) {
                (Ok(told), Ok(wanted)) => assert_eq!(told, wanted),
                (Err(failure), Err(part)) => assert!(failure.contains(part), "{failure}"),
                (found, _) => panic!("{text:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn what_must_be_zero_is_a_group() {
        assert!(summed("", "lost").unwrap_err().contains("no group lost"));
    }
}
