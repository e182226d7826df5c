//! Why a device tree was refused: which node, which property, what is wrong with it.

use alloc::string::String;

use crate::manifest::range::PaRange;

/// The first thing that is wrong with a device tree.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{node}: {property}{separator}{reason}", separator = if property.is_empty() { "" } else { ": " })]
pub struct ManifestError {
    /// Path of the node; `/` for the tree as a whole.
    pub node: String,
    /// The property; empty when the node itself is at fault.
    pub property: String,
    /// What is wrong.
    pub reason: Reason,
}

/// What can be wrong with a node or a property.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Reason {
    /// The blob is no flattened device tree; the text is the parser's.
    #[error("not a device tree: {0}")]
    NotADeviceTree(String),
    /// Nodes are nested deeper than any real tree's.
    #[error("nested too deeply")]
    TooDeep,
    /// A mandatory property or node is absent.
    #[error("is missing")]
    Missing,
    /// The value has a length that its type can't have.
    #[error("has a length of {0} bytes, which its type can't have")]
    Length(usize),
    /// An address or size of this many cells can't be used.
    #[error("has a field of {0} cells")]
    Cells(u32),
    /// The value is no NUL-terminated text.
    #[error("is not a string")]
    NotAString,
    /// The text is none of those that the property may have.
    #[error("has the unknown value \"{0}\"")]
    UnknownText(String),
    /// The number is none of those that the property may have.
    #[error("has the unknown value {0}")]
    UnknownNumber(u64),
    /// A number is above what Portunus or the machine can do.
    #[error("is {found}, more than the limit of {limit}")]
    AboveLimit {
        /// What it says.
        found: u64,
        /// The highest value allowed.
        limit: u64,
    },
    /// A number is zero where that makes no sense.
    #[error("is zero")]
    Zero,
    /// An address can't be translated to one of the machine: a bus between lacks `ranges`.
    #[error("has an address that no bus translates")]
    Untranslatable,
    /// A span of addresses runs past the end of the address space.
    #[error("runs past the end of the address space: {0}")]
    Overflow(PaRange),
    /// An interrupt that is no SGI, PPI or SPI of the GIC, or belongs to another controller.
    #[error("names an interrupt that is not the GIC's")]
    Interrupt,
    /// A phandle that no node has.
    #[error("refers to phandle {0:#x}, which no node has")]
    Phandle(u32),
    /// Something that Portunus does not have and must not ignore.
    #[error("is not supported: {0}")]
    Unsupported(&'static str),
}
