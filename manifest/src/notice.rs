//! Lines for the boot console: what a manifest says that has no effect.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::tree::Node;

/// A property or node that was read and has no effect.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Notice {
    /// Path of the node.
    pub node: String,
    /// The property; empty for the node as a whole.
    pub property: String,
    /// Why it has no effect.
    pub why: &'static str,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.property.is_empty() { "" } else { ": " };
        write!(f, "{}: {}{separator}ignored: {}", self.node, self.property, self.why)
    }
}

/// Notices in the order in which they were made.
#[derive(Debug, Default)]
pub(crate) struct Notices(Vec<Notice>);

impl Notices {
    pub(crate) fn ignored(&mut self, node: Node<'_, '_>, property: &str, why: &'static str) {
        self.0.push(Notice {
            node: node.path(),
            property: property.to_string(),
            why,
        });
    }
    pub(crate) fn into_lines(self) -> Vec<Notice> {
        self.0
    }
}
