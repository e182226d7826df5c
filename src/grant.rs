//! Grant tables, version 1: which of a domain's frames others may map or copy, and which of others' it has mapped.
//!
//! A [`GrantTable`] is what one domain grants: entries in frames that its guest writes, and for each entry a *pin record*
//! that it does not see. A [`Maptrack`] is what one domain has mapped: a record for each handle.
//!
//! Guarantees:
//! - what a guest writes is read once, and counts when the first pin of an entry is made; while the entry is pinned its
//!   frame and its user stay, whatever the guest makes of it, and it only stops new pins of a kind that there is none of: the
//!   first writer of a frame that was granted for reading is let in where the entry grants that frame, and no other, for writing;
//! - the guest sees that an entry is in use from before the first access to after the last translation is gone;
//! - pins are counted, a handle is given back once, and nothing that a domain does with its own tables harms another;
//! - a map, an unmap and a copy cost the same whatever the tables' sizes;
//! - all that grows is in frames of the own domain's pool ([`frames::FrameList`]), up to the manifest's limits.
//!
//! When a domain ends, its table is closed and begins another *life*; pins of an earlier life are only counted.

mod brief;
mod entry;
pub mod frames;
mod maptrack;
mod table;

pub use brief::{Borrowed, Offer};
pub use entry::Access;
pub use maptrack::{HANDLES_PER_FRAME, Handle, Mapped, Maptrack, Record};
pub use table::{GrantTable, Life, MAX_PINS, STEP};
