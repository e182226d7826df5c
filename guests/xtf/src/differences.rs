//! Rows in which Xen answers otherwise, by design, and why. What is not here must be the same.

use crate::case::Expected;

/// What Xen does.
#[derive(Copy, Clone, Debug)]
pub(crate) enum Otherwise {
    /// It returns this.
    Returns(Expected),
    /// It has nothing of the kind, or the row would do harm there.
    Skipped,
}

/// Call, operation, row, what Xen does, why. `*` stands for every operation or row.
type Difference = (&'static str, &'static str, &'static str, Otherwise, &'static str);

const DIFFERENCES: &[Difference] = &[
    (
        "event_channel_op",
        "alloc_unbound",
        "for another domain: what connects domains is in the manifest",
        Otherwise::Skipped,
        "any domain may offer any other a port",
    ),
    (
        "event_channel_op",
        "alloc_unbound",
        "for a domain that the manifest does not name",
        Otherwise::Skipped,
        "it does not look whether there is such a domain",
    ),
];

/// What Xen does in this row, if it is something else, and why.
pub(crate) fn find(call: &str, operation: &str, row: &str) -> Option<(Otherwise, &'static str)> {
    let is = |pattern: &str, name: &str| pattern == "*" || pattern == name;
    let found = DIFFERENCES
        .iter()
        .find(|difference| difference.0 == call && is(difference.1, operation) && is(difference.2, row));
    found.map(|difference| (difference.3, difference.4))
}
