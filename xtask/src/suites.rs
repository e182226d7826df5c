//! Reads the sums from what `cargo test` prints.

use std::time::Duration;

/// The sums over all suites, and how long each took.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Suites {
    /// Tests that passed.
    pub(crate) passed: u64,
    /// Tests that failed.
    pub(crate) failed: u64,
    /// Tests that were not run because they are marked so.
    pub(crate) ignored: u64,
    /// Time and name of each suite.
    pub(crate) times: Vec<(Duration, String)>,
    suite: String,
}

impl Suites {
    /// Takes the next line.
    pub(crate) fn take(&mut self, line: &str) {
        let line = line.trim();
        if let Some(suite) = line
            .strip_prefix("Running ")
            .or_else(|| line.strip_prefix("Doc-tests "))
        {
            // `unittests src/lib.rs (target/debug/deps/portunus-0123)`: the file's name tells the package, too.
            let program = suite.rsplit_once('/').map(|(_, program)| program.trim_end_matches(')'));
            let program = program
                .and_then(|program| program.rsplit_once('-'))
                .map(|(name, _)| name);
            self.suite = format!("cargo test, {}", program.unwrap_or(suite));
        } else if let Some(result) = line.strip_prefix("test result: ") {
            for part in result.split([';', '.']).map(str::trim) {
                let Some((number, word)) = part.split_once(' ') else {
                    continue;
                };
                let number = number.parse::<u64>().unwrap_or(0);
                match word {
                    "passed" => self.passed += number,
                    "failed" => self.failed += number,
                    "ignored" => self.ignored += number,
                    _ => {}
                }
            }
            let seconds = result
                .rsplit_once("finished in ")
                .and_then(|(_, time)| time.trim_end_matches('s').parse().ok());
            let time = Duration::try_from_secs_f64(seconds.unwrap_or(0.0)).unwrap_or_default();
            self.times.push((time, self.suite.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Suites;

    #[test]
    fn the_tests_of_all_suites_are_summed() {
        let mut suites = Suites::default();
        for line in "
     Running unittests src/lib.rs (/t/debug/deps/portunus-0a1b2c)

running 2 tests
test a ... ok
test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 1.50s

     Running tests/sched.rs (target/debug/deps/sched-77)
test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.25s
   Doc-tests portunus
test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s"
            .lines()
        {
            suites.take(line);
        }
        assert_eq!((suites.passed, suites.failed, suites.ignored), (15, 2, 1));
        let names: Vec<(Duration, &str)> = suites.times.iter().map(|(time, name)| (*time, name.as_str())).collect();
        assert_eq!(
            names,
            [
                (Duration::from_millis(1500), "cargo test, portunus"),
                (Duration::from_millis(250), "cargo test, sched"),
                (Duration::ZERO, "cargo test, portunus"),
            ]
        );
    }
}
