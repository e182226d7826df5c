//! Compares what a guest printed under the hypervisor with what it printed on the bare machine.

use regex_lite::Regex;

use crate::failure::{Doing, Result};
use crate::transcript;

/// What of each line is compared.
#[derive(Debug)]
pub(crate) struct Comparison(Regex);

impl Comparison {
    /// What matches `expression` in a line is compared; lines without a match are not.
    pub(crate) fn new(expression: &str) -> Result<Self> {
        Regex::new(expression)
            .doing(format!("the regular expression {expression:?}"))
            .map(Self)
    }

    fn pick(&self, text: &str) -> Vec<String> {
        let lines = transcript::lines(text);
        let matches = lines
            .iter()
            .filter_map(|line| self.0.find(line))
            .map(|found| found.as_str().to_owned());
        matches.collect()
    }

    /// The first difference, as a phrase; `None`: there is none.
    pub(crate) fn difference(&self, hypervised: &str, bare: &str) -> Option<String> {
        let (hypervised, bare) = (self.pick(hypervised), self.pick(bare));
        if bare.is_empty() {
            return Some(format!("nothing matches {:?} on the bare machine", self.0.as_str()));
        }
        let count = hypervised.len().max(bare.len());
        let or_nothing = |line: Option<&String>| line.map_or("nothing".into(), |line| format!("{line:?}"));
        (0..count)
            .map(|index| (hypervised.get(index), bare.get(index)))
            .find(|(hypervised, bare)| hypervised != bare)
            .map(|(hypervised, bare)| {
                let (hypervised, bare) = (or_nothing(hypervised), or_nothing(bare));
                format!("it printed {hypervised} where the bare machine has {bare}")
            })
    }
}

#[cfg(test)]
mod tests {
    use super::Comparison;

    #[test]
    fn the_first_difference_is_told_and_other_lines_do_not_matter() {
        let comparison = Comparison::new("CASE .*").unwrap();
        let bare = "boot\nCASE a: 1\r\nCASE b: 2\n";
        for (hypervised, difference) in [
            ("\u{1b}[32mdomU1: \u{1b}[0mCASE a: 1\nchatter\ndomU1: CASE b: 2\n", None),
            (
                "CASE a: 1\nCASE b: 3\nCASE c\n",
                Some("\"CASE b: 3\" where the bare machine has \"CASE b: 2\""),
            ),
            ("CASE a: 1\n", Some("nothing where")),
            (
                "CASE a: 1\nCASE b: 2\nCASE c\n",
                Some("\"CASE c\" where the bare machine has nothing"),
            ),
        ] {
            let found = comparison.difference(hypervised, bare);
            match difference {
                None => assert_eq!(found, None),
                Some(part) => assert!(found.unwrap().contains(part)),
            }
        }
        assert!(
            comparison
                .difference("boot", "boot")
                .unwrap()
                .contains("nothing matches")
        );
    }
}
