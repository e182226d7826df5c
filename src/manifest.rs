//! What the boot device tree says: the machine ([`host`]), the domains to build on it, and the tree that each of them sees.
//!
//! Everything is read once, at boot, into owned values. The first thing that is wrong stops the boot with the node's path,
//! the property and the reason; no blob, however malformed, makes anything here panic or loop.

pub mod error;
pub mod host;
pub mod range;
pub mod tree;

pub use error::{ManifestError, Reason};
pub use host::Host;
pub use range::{IpaRange, PaRange};
