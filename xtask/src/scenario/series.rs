//! What a scenario file says about measurements at several sizes, and about parts of a manifest that are there several times.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::evidence::Number;
use super::substitute;
use crate::failure::Result;

/// One operation, measured at several sizes of something that guests can have more or fewer of.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Series {
    /// What it is called.
    pub(crate) name: String,
    /// What is measured, as a heading.
    pub(crate) title: String,
    /// What there are so many of.
    pub(crate) unit: String,
    /// How many, in ascending order; each is a run of its own.
    pub(crate) sizes: Vec<u32>,
    /// Parameters that replace the scenario's; `${size}` in them is the size.
    pub(crate) parameters: BTreeMap<String, String>,
}

impl Series {
    /// The parameters of the run at `size`.
    pub(crate) fn parameters(&self, size: u32) -> Result<BTreeMap<String, String>> {
        let values = BTreeMap::from([("size".to_owned(), size.to_string())]);
        let filled = self.parameters.iter();
        filled
            .map(|(name, text)| Ok((name.clone(), substitute(text, &values)?)))
            .collect()
    }
}

/// A part of a manifest that is there several times.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Copies {
    /// The number of the first copy.
    #[serde(default = "one")]
    first: u64,
    /// The number of the last copy; a smaller one than the first: there is none.
    last: Number,
    /// The part; `${copy}` in it is the number of the copy.
    text: String,
}

fn one() -> u64 {
    1
}

impl Copies {
    /// All of them, with `values` filled in.
    pub(crate) fn text(&self, values: &BTreeMap<String, String>) -> Result<String> {
        let mut values = values.clone();
        let mut copies = String::new();
        for copy in self.first..=self.last.value(&values)? {
            values.insert("copy".to_owned(), copy.to_string());
            copies.push_str(&substitute(&self.text, &values)?);
        }
        Ok(copies)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Copies, Number};

    #[test]
    fn copies_are_numbered_and_have_the_values_of_the_rest() {
        let values = BTreeMap::from(["n", "of"].map(|name| (name.to_owned(), "2".to_owned())));
        for (first, last, expected) in [
            (1, Number::Text("${n}".into()), "d1 { 2 }; d2 { 2 }; "),
            (2, Number::Plain(3), "d2 { 2 }; d3 { 2 }; "),
            (2, Number::Plain(1), ""),
            (1, Number::Plain(0), ""),
        ] {
            let text = "d${copy} { ${of} }; ".to_owned();
            assert_eq!(Copies { first, last, text }.text(&values).unwrap(), expected);
        }
        let (last, text) = (Number::Plain(1), "${nothing}".to_owned());
        assert!(Copies { first: 1, last, text }.text(&values).is_err());
    }
}
