//! How much one figure grew for each unit that another one grew, from their first lines in a run to their last.

use regex_lite::Regex;

use crate::failure::{Doing, Result, failed};
use crate::scenario::evidence::Growth;
use crate::timeline::Said;

/// The figures that `expression` captures, in order.
fn figures(expression: &str, lines: &[Said]) -> Result<Vec<u64>> {
    let regex = Regex::new(expression).doing(format!("the regular expression {expression:?}"))?;
    let captured = lines
        .iter()
        .filter_map(|line| Some(regex.captures(&line.text)?.get(1)?.as_str().to_owned()));
    captured
        .map(|figure| figure.parse().doing(format!("{expression:?} captures {figure:?}")))
        .collect()
}

/// By how much the figure of `expression` grew from its first line to its last.
fn growth(expression: &str, lines: &[Said]) -> Result<u64> {
    match figures(expression, lines)?.as_slice() {
        [first, .., last] if first <= last => Ok(last - first),
        [first, .., last] => failed(format!("{expression:?} fell from {first} to {last}")),
        _ => failed(format!("fewer than two lines match {expression:?}")),
    }
}

/// Makes sure that the figure grew as much as `wanted` says. Returns by how much.
pub(super) fn check(wanted: &Growth, lines: &[Said]) -> Result<String> {
    let name = &wanted.name;
    let of = growth(&wanted.of, lines).doing(name)?;
    let per = growth(&wanted.per, lines).doing(name)?;
    if per < wanted.least_per.max(1) {
        return failed(format!("{name}: {per} are too few to say anything"));
    }
    let ratio = of as f64 / per as f64;
    let found = format!("{name}: {ratio:.3} ({of} in {per})");
    if ratio < wanted.least || ratio > wanted.most {
        return failed(format!("{found}, not from {} to {}", wanted.least, wanted.most));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::check;
    use crate::scenario::evidence::Growth;
    use crate::timeline::Timeline;

    fn found(text: &str, least: f64, most: f64) -> Result<String, String> {
        let mut timeline = Timeline::default();
        timeline.take(text.as_bytes(), Duration::ZERO);
        let wanted = Growth {
            name: "waits".into(),
            of: r"(\d+) answers".into(),
            per: r"(\d+) requests".into(),
            least_per: 10,
            least,
            most,
        };
        check(&wanted, timeline.lines()).map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_figure_is_compared_with_what_it_belongs_to() {
        let text = "5 answers\n100 requests\n7 answers\n35 answers\n110 requests\n";
        assert_eq!(found(text, 2.5, 3.5).unwrap(), "waits: 3.000 (30 in 10)");
        assert!(found(text, 0.0, 0.0).unwrap_err().contains("not from 0 to 0"));
        assert!(found(text, 3.1, 4.0).is_err());
        let still = "5 answers\n100 requests\n5 answers\n200 requests\n";
        assert_eq!(found(still, 0.0, 0.0).unwrap(), "waits: 0.000 (0 in 100)");
    }

    #[test]
    fn too_little_proves_nothing() {
        for (text, part) in [
            ("5 answers\n5 answers\n1 requests\n", "fewer than two"),
            ("5 answers\n5 answers\n1 requests\n9 requests\n", "too few"),
            ("5 answers\n4 answers\n1 requests\n90 requests\n", "fell from 5 to 4"),
            ("", "fewer than two"),
        ] {
            assert!(found(text, 0.0, 9.0).unwrap_err().contains(part), "{text:?}");
        }
    }
}
