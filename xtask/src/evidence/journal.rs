//! The journal of a guest that writes: each record that it was told is on its disk must be there after the run.
//!
//! A record's line is printed after the write was flushed, so it is an acknowledgement: it names the place on the disk, the
//! SHA-256 of what was written there, and the time that this took by the guest's clock. The transcript keeps it on the
//! host, out of reach of whatever happens to the guest's backend.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use regex_lite::{Captures, Regex};

use crate::failure::{Doing, Failure, Result, failed};
use crate::scenario::evidence::Journal;
use crate::timeline::Said;

/// A record can't be larger: it is read as one piece.
const LARGEST: u64 = 64 << 20;

/// One record that was acknowledged.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Record {
    number: u64,
    offset: u64,
    length: u64,
    sum: String,
    /// How long it took, by the guest's clock.
    time: Duration,
    /// When it was acknowledged, by the host's.
    at: Duration,
}

/// The records of one journal, in the order in which they were acknowledged.
#[derive(Debug)]
pub(super) struct Records {
    pub(super) name: String,
    records: Vec<Record>,
    wanted: u64,
    limit: Duration,
}

/// Reads the records of `journal` from what was printed.
pub(super) fn read(journal: &Journal, values: &BTreeMap<String, String>, lines: &[Said]) -> Result<Records> {
    let what = format!("journal {}", journal.name);
    let regex = Regex::new(&journal.record).doing(format!("{what}: the regular expression for records"))?;
    let mut records = Vec::new();
    for line in lines {
        if let Some(captures) = regex.captures(&line.text) {
            records.push(record(&captures, line).doing(&what)?);
        }
    }
    Ok(Records {
        name: journal.name.clone(),
        records,
        wanted: journal.records.value(values).doing(&what)?,
        limit: Duration::from_millis(journal.limit_ms.value(values).doing(&what)?),
    })
}

fn record(captures: &Captures<'_>, line: &Said) -> Result<Record> {
    let text = |group: &str| captures.name(group).map_or("", |found| found.as_str());
    let number = |group: &str| {
        let digits = text(group);
        digits
            .parse::<u64>()
            .map_err(|_| Failure::Failed(format!("{group} {digits:?} in {:?} is not a number", line.text)))
    };
    Ok(Record {
        number: number("number")?,
        offset: number("offset")?,
        length: number("length")?,
        sum: text("sum").to_lowercase(),
        time: Duration::from_millis(number("ms")?),
        at: line.at,
    })
}

impl Records {
    /// How many records there are, and what took longest.
    pub(super) fn summary(&self) -> String {
        let longest = self.records.iter().map(|record| record.time).max().unwrap_or_default();
        let bytes: u64 = self.records.iter().map(|record| record.length).sum();
        format!(
            "journal {}: {} records of {} KiB acknowledged, the longest operation took {} ms",
            self.name,
            self.records.len(),
            bytes / 1024,
            longest.as_millis()
        )
    }

    /// The longest time between two records that follow each other, of those times that overlap `begin` to `end`. `None`:
    /// nothing was being written then.
    pub(super) fn gap(&self, begin: Duration, end: Duration) -> Option<Duration> {
        let pairs = self.records.iter().zip(self.records.iter().skip(1));
        pairs
            .filter(|(before, after)| before.at <= end && after.at >= begin)
            .map(|(before, after)| after.at.saturating_sub(before.at))
            .max()
    }

    /// Makes sure that all records are complete, came in time, and are in the image `disk`.
    pub(super) fn check(&self, disk: &Path) -> Result<()> {
        let name = &self.name;
        for (record, wanted) in self.records.iter().zip(1..) {
            if record.number != wanted {
                return failed(format!(
                    "journal {name}: record {} follows record {}",
                    record.number,
                    wanted - 1
                ));
            }
            if record.time > self.limit {
                return failed(format!(
                    "journal {name}: record {wanted} took {} ms, and {} ms are allowed",
                    record.time.as_millis(),
                    self.limit.as_millis()
                ));
            }
        }
        if (self.records.len() as u64) < self.wanted {
            return failed(format!(
                "journal {name}: {} records instead of {}",
                self.records.len(),
                self.wanted
            ));
        }
        let mut places: Vec<&Record> = self.records.iter().collect();
        places.sort_by_key(|record| record.offset);
        for (record, next) in places.iter().zip(places.iter().skip(1)) {
            if record.offset.saturating_add(record.length) > next.offset {
                return failed(format!(
                    "journal {name}: records {} and {} overlap, so one can't be verified",
                    record.number, next.number
                ));
            }
        }
        let mut file = File::open(disk).doing(format!("journal {name}: opening {}", disk.display()))?;
        for record in &self.records {
            let what = format!(
                "journal {name}: record {} of {} bytes at {}",
                record.number, record.length, record.offset
            );
            if record.length == 0 || record.length > LARGEST {
                return failed(format!("{what} has no length that can be"));
            }
            let mut contents = Vec::new();
            file.seek(SeekFrom::Start(record.offset)).doing(&what)?;
            let length = (&file).take(record.length).read_to_end(&mut contents).doing(&what)?;
            if length as u64 != record.length || sha256(&contents)? != record.sum {
                return failed(format!("{what} was acknowledged and is not on the disk"));
            }
        }
        Ok(())
    }
}

/// The SHA-256 of `contents` in hexadecimal, by the host's sha256sum.
pub(crate) fn sha256(contents: &[u8]) -> Result<String> {
    let what = "running sha256sum";
    let child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = child.doing(what)?;
    // It prints nothing before it has read everything, so writing first can't block for ever.
    if let Some(mut input) = child.stdin.take() {
        input.write_all(contents).doing(what)?;
    }
    let output = child.wait_with_output().doing(what)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::time::Duration;

    use super::{Records, read, sha256};
    use crate::scenario::evidence::{Journal, Number};
    use crate::timeline::Timeline;

    /// A record on the disk below: number, offset, what is written, time.
    type Line<'a> = (u64, u64, &'a str, u64);

    const WRITTEN: [Line<'static>; 3] = [(1, 0, "first", 10), (2, 512, "second", 2000), (3, 1024, "third", 20)];

    fn image(name: &str, records: &[Line<'_>]) -> PathBuf {
        let mut contents = vec![0; 4096];
        for (_, offset, text, _) in records {
            let offset = usize::try_from(*offset).unwrap();
            contents[offset..offset + text.len()].copy_from_slice(text.as_bytes());
        }
        let file = std::env::temp_dir().join(format!("portunus-journal-{name}-{}", std::process::id()));
        fs::write(&file, contents).unwrap();
        file
    }

    fn records(lines: &[Line<'_>]) -> Records {
        let journal = Journal {
            name: "j".into(),
            disk: "d".into(),
            record: r"record (?<number>\d+) at (?<offset>\d+) length (?<length>\d+) (?<sum>\w+) in (?<ms>\d+)".into(),
            records: Number::Text("${records}".into()),
            limit_ms: Number::Plain(2000),
        };
        let mut timeline = Timeline::default();
        let mut now = Duration::ZERO;
        for (number, offset, text, ms) in lines {
            now += Duration::from_millis(*ms);
            let (length, sum) = (text.len(), sha256(text.as_bytes()).unwrap());
            let line = format!("guest: record {number} at {offset} length {length} {sum} in {ms} ms\nchatter\n");
            timeline.take(line.as_bytes(), now);
        }
        read(&journal, &[("records".into(), "3".into())].into(), timeline.lines()).unwrap()
    }

    #[test]
    fn records_that_are_on_the_disk_in_time_are_fine() {
        let image = image("fine", &WRITTEN);
        let records = records(&WRITTEN);
        records.check(&image).unwrap();
        assert!(records.summary().contains("3 records") && records.summary().contains("2000 ms"));
        fs::remove_file(image).unwrap();
    }

    #[test]
    fn the_gap_around_a_stop_is_the_longest_that_overlaps_it() {
        let records = records(&WRITTEN);
        let ms = Duration::from_millis;
        // Acknowledged at 10, 2010 and 2030.
        assert_eq!(records.gap(ms(500), ms(600)), Some(ms(2000)));
        assert_eq!(records.gap(ms(2011), ms(2012)), Some(ms(20)));
        // One more was on its way to the console when the stop began.
        assert_eq!(records.gap(ms(5), ms(600)), Some(ms(2000)));
        assert_eq!(records.gap(ms(3000), ms(3001)), None);
    }

    #[test]
    fn what_is_lost_late_or_missing_fails_with_its_record() {
        let intact = image("intact", &WRITTEN);
        let lost = image("lost", &WRITTEN[..2]);
        let torn = image(
            "torn",
            &[(1, 0, "first", 0), (2, 512, "secomd", 0), (3, 1024, "third", 0)],
        );
        let swapped = image(
            "swapped",
            &[(1, 512, "first", 0), (2, 0, "second", 0), (3, 1024, "third", 0)],
        );
        let [first, second, third] = WRITTEN;
        for (image, lines, reason) in [
            (
                &lost,
                &WRITTEN[..],
                "record 3 of 5 bytes at 1024 was acknowledged and is not on the disk",
            ),
            (&torn, &WRITTEN[..], "record 2 of 6 bytes at 512 was acknowledged"),
            (&swapped, &WRITTEN[..], "record 1 of 5 bytes at 0 was acknowledged"),
            (
                &intact,
                &[first, second, (3, 1024, "third", 2001)],
                "record 3 took 2001 ms, and 2000 ms",
            ),
            (&intact, &WRITTEN[..2], "2 records instead of 3"),
            (&intact, &[first, third], "record 3 follows record 1"),
            (&intact, &[first, second, third, first], "record 1 follows record 3"),
            (
                &intact,
                &[first, second, (3, 515, "third", 1)],
                "records 2 and 3 overlap",
            ),
            (
                &intact,
                &[first, second, (3, 4090, "after the end", 1)],
                "record 3 of 13 bytes at 4090",
            ),
            (
                &intact,
                &[first, second, (3, 2048, "", 1)],
                "record 3 of 0 bytes at 2048 has no length",
            ),
        ] {
            let failure = records(lines).check(image).unwrap_err().to_string();
            assert!(failure.contains(reason), "{failure:?} lacks {reason:?}");
        }
        assert!(records(&WRITTEN).check(&PathBuf::from("/nonexistent")).is_err());
        for image in [intact, lost, torn, swapped] {
            fs::remove_file(image).unwrap();
        }
    }
}
