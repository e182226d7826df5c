//! What a scenario file says about the lines of a whole run: figures that must repeat, stops, and journals of what was
//! written to disks.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::substitute;
use crate::failure::{Result, failed};

/// A number, or a text that is one once the parameters are filled in.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Number {
    /// As it is.
    Plain(u64),
    /// With parameters.
    Text(String),
}

impl Number {
    /// The number, with `values` for parameters.
    pub(crate) fn value(&self, values: &BTreeMap<String, String>) -> Result<u64> {
        match self {
            Self::Plain(number) => Ok(*number),
            Self::Text(text) => match substitute(text, values)?.parse() {
                Ok(number) => Ok(number),
                Err(_) => failed(format!("{text:?} is not a number")),
            },
        }
    }
}

/// Moments at which somebody must wait.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Stops {
    /// What a stop is called.
    pub(crate) name: String,
    /// A regular expression for the line with which a stop begins.
    pub(crate) begin: String,
    /// One for the line with which it ends.
    pub(crate) end: String,
    /// How many there must be.
    pub(crate) count: Number,
    /// How long each may last, in milliseconds.
    pub(crate) limit_ms: Option<Number>,
    /// Whether every journal must go on before and after each.
    #[serde(default)]
    pub(crate) under_load: bool,
}

/// How much one figure grows with another.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Growth {
    /// What it is called.
    pub(crate) name: String,
    /// A regular expression whose first group is the figure.
    pub(crate) of: String,
    /// One for the figure that it grows with.
    pub(crate) per: String,
    /// By how much that one must grow at least.
    #[serde(default)]
    pub(crate) least_per: u64,
    /// The least and the most that the figure may grow for each of the other.
    pub(crate) least: f64,
    /// The most.
    pub(crate) most: f64,
}

/// Counts that guests print, and that a table of a document has, too.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Documented {
    /// The document, from the root of the repository.
    pub(crate) file: String,
    /// The heading that the table follows.
    pub(crate) heading: String,
    /// A regular expression for a line with counts: the first groups are the first columns of the table, as names; the last
    /// ones are numbers, which are summed where the names are the same.
    pub(crate) counts: String,
    /// How many of the groups are names.
    pub(crate) names: usize,
    /// How many columns follow the counts that say something else. None of their cells is empty.
    #[serde(default)]
    pub(crate) remarks: usize,
}

/// Numbers that several lines tell, and their sums.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Tally {
    /// A regular expression for such a line. Its groups have names, and are numbers.
    pub(crate) line: String,
    /// How many there must be.
    pub(crate) lines: usize,
    /// The groups whose sums must be 0.
    #[serde(default)]
    pub(crate) zero: Vec<String>,
}

/// What a guest says that it has written and flushed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Journal {
    /// What it is called.
    pub(crate) name: String,
    /// The disk that holds the records.
    pub(crate) disk: String,
    /// A regular expression for a record's line, with the groups `number`, `offset`, `length`, `sum` and `ms`.
    pub(crate) record: String,
    /// How many there must be at least.
    pub(crate) records: Number,
    /// How long each may take, in milliseconds.
    pub(crate) limit_ms: Number,
}

/// The groups that the expression for a record must have.
pub(crate) const RECORD_GROUPS: [&str; 5] = ["number", "offset", "length", "sum", "ms"];
