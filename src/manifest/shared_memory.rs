//! Memory that two domains share from the start: Xen's `xen,domain-shared-memory-v1` nodes.
//!
//! Portunus does not build such windows. A manifest that asks for one is refused: a domain whose peer is not there would
//! read memory that means nothing.

use crate::manifest::error::{ManifestError, Reason};
use crate::manifest::tree::Node;

/// Refuses a domain that asks for shared memory.
pub(crate) fn refuse(domain: Node<'_, '_>) -> Result<(), ManifestError> {
    let asks = |node: &Node<'_, '_>| node.is_compatible("xen,domain-shared-memory-v1") || node.has("xen,shared-mem");
    match domain.children().find(asks) {
        Some(node) => Err(node.error("xen,shared-mem", Reason::Unsupported("static shared memory"))),
        None => Ok(()),
    }
}
