//! Tables of what is wrong in a manifest, each a replacement in a good one.

use crate::domains::{DOMAINS, PARTIAL, read};
use crate::machines::VIRT;

/// What is wrong, the text that is replaced in a good manifest, by what, and the error.
pub(crate) type Row = (&'static str, &'static str, &'static str, &'static str);

pub(crate) fn check(rows: &[Row], read: impl Fn(&str, &str) -> Result<(), String>) {
    for (what, old, new, expected) in rows {
        match read(old, new) {
            Ok(()) => panic!("{what}: accepted"),
            Err(error) => assert_eq!(error, *expected, "{what}"),
        }
    }
}

pub(crate) fn in_domains(rows: &[Row]) {
    check(rows, |old, new| {
        assert!(DOMAINS.contains(old), "nothing to replace: {old}");
        let domains = DOMAINS.replacen(old, new, 1);
        read(VIRT, &domains, PARTIAL)
            .map(|_| ())
            .map_err(|error| error.to_string())
    });
}
