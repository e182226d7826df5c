//! How long somebody had to wait: from one line to the next of another kind, and what journals saw meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use regex_lite::Regex;

use super::journal::Records;
use crate::failure::{Doing, Result, failed};
use crate::scenario::evidence::Stops;
use crate::timeline::Said;

/// One stop.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stop {
    begin: Duration,
    /// `None`: it did not end.
    end: Option<Duration>,
}

/// The stops of a run.
#[derive(Debug)]
pub(super) struct Found {
    name: String,
    stops: Vec<Stop>,
    count: u64,
    limit: Option<Duration>,
    under_load: bool,
}

/// Finds the stops: each line that matches `begin` with the next one that matches `end`.
pub(super) fn find(wanted: &Stops, values: &BTreeMap<String, String>, lines: &[Said]) -> Result<Found> {
    let what = format!("stops {}", wanted.name);
    let regex = |text: &str| Regex::new(text).doing(format!("{what}: the regular expression {text:?}"));
    let (begin, end) = (regex(&wanted.begin)?, regex(&wanted.end)?);
    let mut stops: Vec<Stop> = Vec::new();
    for line in lines {
        if end.is_match(&line.text) {
            for stop in stops.iter_mut().filter(|stop| stop.end.is_none()) {
                stop.end = Some(line.at);
            }
        }
        if begin.is_match(&line.text) {
            stops.push(Stop {
                begin: line.at,
                end: None,
            });
        }
    }
    let limit = wanted.limit_ms.as_ref().map(|limit| limit.value(values));
    Ok(Found {
        name: wanted.name.clone(),
        stops,
        count: wanted.count.value(values).doing(&what)?,
        limit: limit.transpose().doing(&what)?.map(Duration::from_millis),
        under_load: wanted.under_load,
    })
}

impl Found {
    /// A line for each stop, with the longest time between two records of each journal around it, and the longest of all.
    pub(super) fn table(&self, journals: &[Records]) -> Vec<String> {
        let mut head = format!("{:>10}  {:>9}  {:>9}", self.name, "at ms", "took ms");
        for journal in journals {
            head.push_str(&format!("  {:>12} ms", journal.name));
        }
        let mut lines = vec![head];
        let mut longest = Vec::new();
        for (index, stop) in self.stops.iter().enumerate() {
            let took = stop.end.map(|end| end.saturating_sub(stop.begin));
            let mut line = format!("{:>10}  {:>9}  {:>9}", index + 1, stop.begin.as_millis(), ms(took));
            longest.extend(took);
            for journal in journals {
                let gap = journal.gap(stop.begin, stop.end.unwrap_or(stop.begin));
                line.push_str(&format!("  {:>12}   ", ms(gap)));
                longest.extend(gap);
            }
            lines.push(line.trim_end().into());
        }
        lines.push(format!(
            "{} times {}, the longest stop took {} ms",
            self.stops.len(),
            self.name,
            ms(longest.into_iter().max())
        ));
        lines
    }

    /// Why these are not the stops that the scenario wants, if they aren't.
    pub(super) fn check(&self, journals: &[Records]) -> Result<()> {
        let name = &self.name;
        if self.stops.len() as u64 != self.count {
            return failed(format!("{} times {name} instead of {}", self.stops.len(), self.count));
        }
        for (index, stop) in self.stops.iter().enumerate() {
            let number = index + 1;
            let Some(end) = stop.end else {
                return failed(format!("{name} {number} did not end"));
            };
            let idle = |journal: &&Records| journal.gap(stop.begin, end).is_none();
            if let Some(journal) = journals.iter().find(idle).filter(|_| self.under_load) {
                return failed(format!("{name} {number}: journal {} was idle", journal.name));
            }
            let took = end.saturating_sub(stop.begin);
            if let Some(limit) = self.limit.filter(|limit| took > *limit) {
                let (took, limit) = (took.as_millis(), limit.as_millis());
                return failed(format!("{name} {number} took {took} ms, and {limit} ms are allowed"));
            }
        }
        Ok(())
    }
}

fn ms(time: Option<Duration>) -> String {
    time.map_or("-".into(), |time| time.as_millis().to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::find;
    use crate::evidence::journal;
    use crate::scenario::evidence::{Journal, Number, Stops};
    use crate::timeline::{Said, Timeline};

    fn lines(text: &[(&str, u64)]) -> Vec<Said> {
        let mut timeline = Timeline::default();
        for (text, at) in text {
            timeline.take(format!("{text}\n").as_bytes(), Duration::from_millis(*at));
        }
        timeline.lines().to_vec()
    }

    fn stops(count: u64, limit: u64) -> Stops {
        Stops {
            name: "reboot".into(),
            begin: "^down".into(),
            end: "^up".into(),
            count: Number::Plain(count),
            limit_ms: Some(Number::Plain(limit)),
            under_load: true,
        }
    }

    #[test]
    fn a_stop_lasts_from_its_line_to_the_next_that_ends_it() {
        let said = lines(&[
            ("up", 1),
            ("down", 10),
            ("up", 30),
            ("down", 40),
            ("up", 90),
            ("up", 95),
        ]);
        let found = find(&stops(2, 50), &[].into(), &said).unwrap();
        found.check(&[]).unwrap();
        let table = found.table(&[]);
        assert_eq!(table.len(), 4);
        assert!(table[1].contains("10") && table[1].contains("20"), "{table:?}");
        assert_eq!(table[3], "2 times reboot, the longest stop took 50 ms");
    }

    #[test]
    fn too_few_too_long_and_endless_stops_fail() {
        let said = lines(&[("down", 10), ("up", 30), ("down", 40), ("up", 90)]);
        let endless = lines(&[("down", 10), ("up", 30), ("down", 40)]);
        for (said, count, limit, reason) in [
            (&said, 3, 50, "2 times reboot instead of 3"),
            (&said, 1, 50, "2 times reboot instead of 1"),
            (&said, 2, 49, "reboot 2 took 50 ms, and 49"),
            (&endless, 2, 50, "reboot 2 did not end"),
        ] {
            let found = find(&stops(count, limit), &[].into(), said).unwrap();
            assert_eq!(
                found.check(&[]).unwrap_err().to_string().find(reason),
                Some(0),
                "{reason}"
            );
        }
    }

    #[test]
    fn a_stop_while_nothing_was_being_written_says_nothing_of_a_load() {
        let journal = Journal {
            name: "j".into(),
            disk: "d".into(),
            record: r"(?<number>\d+) (?<offset>0) (?<length>1) (?<sum>a) (?<ms>7)".into(),
            records: Number::Plain(2),
            limit_ms: Number::Plain(7),
        };
        let said = lines(&[
            ("1 0 1 a 7", 20),
            ("down", 30),
            ("2 0 1 a 7", 70),
            ("up", 71),
            ("down", 80),
            ("up", 90),
        ]);
        let journals = [journal::read(&journal, &[].into(), &said).unwrap()];
        let found = find(&stops(2, 50), &[].into(), &said).unwrap();
        let table = found.table(&journals);
        assert!(table[1].ends_with(" 50") && table[2].ends_with('-'), "{table:?}");
        assert!(table[3].contains("longest stop took 50 ms"));
        assert_eq!(
            found.check(&journals).unwrap_err().to_string(),
            "reboot 2: journal j was idle"
        );
    }
}
