//! Why a device tree was refused: which node, which property, what is wrong with it.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use core::ops::Deref;

use portunus_base::range::{IpaRange, PaRange};

/// The first thing that is wrong with a device tree: a [`Fault`], in a box because every reader of a property can return
/// one.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct ManifestError(Box<Fault>);

impl ManifestError {
    /// What is wrong with `property` of `node`; with an empty name, with the node itself.
    #[cold]
    pub fn new(node: &str, property: &str, reason: Reason) -> Self {
        Self(Box::new(Fault {
            node: node.to_string(),
            property: property.to_string(),
            reason,
        }))
    }

    /// What is wrong, alone.
    pub fn into_reason(self) -> Reason {
        self.0.reason
    }
}

impl Deref for ManifestError {
    type Target = Fault;

    fn deref(&self) -> &Fault {
        &self.0
    }
}

/// Where something is wrong, and what.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{node}: {property}{separator}{reason}", separator = if property.is_empty() { "" } else { ": " })]
pub struct Fault {
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
    /// A list of CPUs of which none was started.
    #[error("names no CPU that runs: {0}")]
    NoCpu(String),
    /// Something that Portunus does not have and must not ignore.
    #[error("is not supported: {0}")]
    Unsupported(&'static str),
    /// A span that must be RAM of the machine and is not.
    #[error("is not in RAM: {0}")]
    NotMemory(PaRange),
    /// A span of the machine that is somebody else's.
    #[error("takes {range}, which belongs to {owner}")]
    Taken {
        /// What it takes.
        range: PaRange,
        /// Whose it is.
        owner: String,
    },
    /// A span of guest-physical addresses that something else in that domain has.
    #[error("is at {range}, where {owner} is")]
    Occupied {
        /// Where it is.
        range: IpaRange,
        /// What is there.
        owner: String,
    },
    /// An interrupt that something else has.
    #[error("takes INTID {interrupt}, which belongs to {owner}")]
    InterruptTaken {
        /// The interrupt's number.
        interrupt: u32,
        /// Whose it is.
        owner: String,
    },
    /// An address or size that is no multiple of what it must be.
    #[error("has {value:#x}, which is no multiple of {alignment:#x}")]
    Misaligned {
        /// What it says.
        value: u64,
        /// What it must be a multiple of.
        alignment: u64,
    },
    /// A number or name that must be unique is used again.
    #[error("repeats {0}")]
    Repeated(String),
    /// The sizes of static memory do not add up to `memory`.
    #[error("adds up to {found} KiB, but memory is {memory} KiB")]
    Sum {
        /// KiB of all ranges.
        found: u64,
        /// KiB that `memory` says.
        memory: u64,
    },
    /// A device backend that is no other domain.
    #[error("names no other domain: {0}")]
    NoSuchDomain(String),
    /// A device source that was not passed through to the backend.
    #[error("names {0}, which is not passed through to the backend")]
    NotPassedThrough(String),
    /// Two ends of a static event channel that do not name each other.
    #[error("names a node that does not name this one")]
    NotMutual,
    /// A node of shared memory that does not fit the others of its id.
    #[error("differs from what another node says of {0}")]
    OtherRegion(String),
    /// A device that can reach all memory, in a domain that nobody declared trusted.
    #[error(
        "may reach any memory without an IOMMU: the domain needs portunus,dma-trusted, or the device portunus,no-dma"
    )]
    NeedsDmaTrusted,
    /// A device that reaches memory by machine addresses, in a domain that sees others.
    #[error("reaches memory by machine addresses: the domain needs direct-map")]
    NeedsDirectMap,
    /// A direct-mapped domain's addresses that are not the machine's.
    #[error("is at {found:#x} for the guest, but direct-map needs {needed:#x}")]
    NotDirect {
        /// The guest's address.
        found: u64,
        /// The machine's.
        needed: u64,
    },
    /// No free guest-physical addresses for a window.
    #[error("finds no {0:#x} free bytes in the guest-physical map")]
    NoRoom(u64),
    /// Fewer interrupts than the domain's devices use.
    #[error("gives {found} SPIs, but {owner} needs {needed}")]
    TooFew {
        /// What it says.
        found: u32,
        /// What is needed.
        needed: u32,
        /// What needs them.
        owner: String,
    },
}
