//! Whether a document's table has the counts that guests print: every row of either has its like in the other.

use std::collections::BTreeMap;

use regex_lite::Regex;

use crate::failure::{Doing, Result, failed};
use crate::scenario::evidence::Documented;
use crate::timeline::Said;

/// Counts by names.
type Rows = BTreeMap<Vec<String>, Vec<u64>>;

/// What was printed; the same names in several lines are one row.
fn printed(wanted: &Documented, lines: &[Said]) -> Result<Rows> {
    let regex = Regex::new(&wanted.counts).doing(format!("the regular expression {:?}", wanted.counts))?;
    let mut rows = Rows::new();
    for captures in lines.iter().filter_map(|line| regex.captures(&line.text)) {
        let mut groups = captures.iter().skip(1).flatten().map(|group| group.as_str().to_owned());
        let names: Vec<String> = groups.by_ref().take(wanted.names).collect();
        let counts = groups.map(|count| count.parse().doing(format!("{names:?} {count:?}")));
        let counts = counts.collect::<Result<Vec<u64>>>()?;
        let sums = rows.entry(names).or_insert_with(|| vec![0; counts.len()]);
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    Ok(rows)
}

/// The cells of a row of a table.
fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(|cell| cell.trim().to_owned()).collect())
}

/// The cells of the first table after a heading, without its head.
fn table(heading: &str, text: &str) -> Result<Vec<Vec<String>>> {
    let mut lines = text.lines().skip_while(|line| line.trim() != heading).skip(1);
    let Some(_) = lines.by_ref().find(|line| line.starts_with('|')) else {
        return failed(format!("no table follows {heading:?}"));
    };
    Ok(lines.skip(1).map_while(cells).collect())
}

/// Compares. A cell is a count, or says in words where else that is tested, and the count is 0 then; none is empty.
pub(super) fn check(wanted: &Documented, text: &str, lines: &[Said]) -> Result<String> {
    let mut rows = printed(wanted, lines)?;
    if rows.is_empty() {
        return failed(format!("nothing matches {:?}", wanted.counts));
    }
    let file = &wanted.file;
    let mut compared = 0;
    for cells in table(&wanted.heading, text).doing(file)? {
        let (names, told) = cells.split_at(wanted.names.min(cells.len()));
        let (told, remarks) = told.split_at(told.len().saturating_sub(wanted.remarks));
        let row = names.join(" ");
        if remarks.iter().any(String::is_empty) {
            return failed(format!("{file}: {row} has an empty cell"));
        }
        let Some(counts) = rows.remove(names) else {
            return failed(format!("{file} has a row {row}, which was not run"));
        };
        if told.len() != counts.len() {
            return failed(format!("{file}: {row} has {} counts, not {}", told.len(), counts.len()));
        }
        for (cell, count) in told.iter().zip(&counts) {
            let right = match cell.parse::<u64>() {
                Ok(number) => number == *count && number > 0,
                Err(_) => *count == 0 && !cell.is_empty(),
            };
            if !right {
                return failed(format!("{file}: {row} says {cell:?}, and {count} were run: {counts:?}"));
            }
        }
        compared += 1;
    }
    match rows.first_key_value() {
        Some((names, counts)) => failed(format!("{file} has no row {}: {counts:?}", names.join(" "))),
        None => Ok(format!("{compared} rows of {file} are as they were run")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::check;
    use crate::scenario::evidence::Documented;
    use crate::timeline::Timeline;

    fn compared(document: &str, text: &str) -> Result<String, String> {
        compared_but(0, document, text)
    }

    fn compared_but(remarks: usize, document: &str, text: &str) -> Result<String, String> {
        let mut timeline = Timeline::default();
        timeline.take(text.as_bytes(), Duration::ZERO);
        let wanted = Documented {
            file: "abi.md".into(),
            heading: "## Suite".into(),
            counts: r"of (\S+) (.+): (\d+) good, (\d+) bad".into(),
            names: 2,
            remarks,
        };
        check(&wanted, document, timeline.lines()).map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_table_and_a_run_must_have_the_same_rows() {
        let document = "# A\n| x | y |\n|---|---|\n## Suite\nText.\n\n| call | op | good | bad |\n|---|---|---|---|\n| m | a b | 3 | 2 |\n| m | c | elsewhere | 1 |\n\nMore.\n";
        let run = "of m a b: 1 good, 2 bad\nof m a b: 2 good, 0 bad\nof m c: 0 good, 1 bad\n";
        assert_eq!(
            compared(document, run).unwrap(),
            "2 rows of abi.md are as they were run"
        );
        for (run, part) in [
            ("", "nothing matches"),
            ("of m a b: 3 good, 2 bad\n", "a row m c, which was not run"),
            (
                "of m a b: 3 good, 1 bad\nof m c: 0 good, 1 bad\n",
                "m a b says \"2\", and 1",
            ),
            (
                "of m a b: 3 good, 2 bad\nof m c: 1 good, 1 bad\n",
                "m c says \"elsewhere\", and 1",
            ),
            (
                "of m a b: 3 good, 2 bad\nof m c: 0 good, 1 bad\nof n d: 1 good, 1 bad\n",
                "has no row n d",
            ),
        ] {
            let failure = compared(document, run).unwrap_err();
            assert!(failure.contains(part), "{failure} lacks {part}");
        }
    }

    #[test]
    fn columns_of_remarks_are_not_compared_but_are_not_empty() {
        let document = "## Suite\n| c | o | g | b | why |\n|-|-|-|-|-|\n| m | a | 1 | 1 | so |\n";
        let run = "of m a: 1 good, 1 bad\n";
        assert!(compared_but(1, document, run).is_ok());
        assert!(compared(document, run).unwrap_err().contains("has 3 counts"));
        let failure = compared_but(1, &document.replace("so", ""), run).unwrap_err();
        assert!(failure.contains("empty cell"), "{failure}");
    }

    #[test]
    fn no_cell_is_empty_and_none_says_zero() {
        for cell in ["", "0"] {
            let document = format!("## Suite\n| c | o | g | b |\n|-|-|-|-|\n| m | a | {cell} | 1 |\n");
            assert!(compared(&document, "of m a: 0 good, 1 bad\n").is_err());
        }
        assert!(
            compared("## Other\n", "of m a: 0 good, 1 bad\n")
                .unwrap_err()
                .contains("no table")
        );
    }
}
