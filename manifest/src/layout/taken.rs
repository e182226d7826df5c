//! What is where in a guest-physical map that is being made, and where it has holes.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::error::Reason;
use crate::host::joined;
use portunus_base::range::{IpaRange, PaRange};

/// Where the search for holes begins: below are reset vectors and boot ROMs on many machines.
const FIRST_HOLE: u64 = 16 << 20;
/// Holes end here: the 40 bits of physical address that application processors have at least.
pub(super) const LAST_HOLE: u64 = 1 << 40;
/// Virtual windows in holes keep this alignment.
pub(super) const HOLE_ALIGNMENT: u64 = 0x1_0000;

/// What is where while a map is made.
#[derive(Debug, Default)]
pub(super) struct Taken(pub(super) Vec<(IpaRange, String)>);

impl Taken {
    pub(super) fn add(&mut self, range: IpaRange, owner: &str) {
        if !range.is_empty() {
            self.0.push((range, owner.to_string()));
        }
    }
    pub(super) fn owner(&self, range: IpaRange) -> Option<&str> {
        self.0
            .iter()
            .find(|(other, _)| other.overlaps(range))
            .map(|(_, owner)| owner.as_str())
    }
    /// Adds a range unless something else is there.
    pub(super) fn claim(&mut self, range: IpaRange, owner: &str) -> Result<(), Reason> {
        match self.owner(range) {
            Some(other) => Err(Reason::Occupied {
                range,
                owner: other.to_string(),
            }),
            None => {
                self.add(range, owner);
                Ok(())
            }
        }
    }
    /// The lowest hole from `from`.
    pub(super) fn hole(&self, from: u64, size: u64, alignment: u64) -> Option<IpaRange> {
        let taken = joined(
            self.0
                .iter()
                .map(|(range, _)| PaRange::new(range.start.0, range.size))
                .collect(),
        );
        let mut start = from.checked_next_multiple_of(alignment)?;
        for range in taken {
            if range.end() > start && range.start.0 < start.checked_add(size)? {
                start = range.end().checked_next_multiple_of(alignment)?;
            }
        }
        (start.checked_add(size)? <= LAST_HOLE).then(|| IpaRange::new(start, size))
    }
    /// Xen's place if it is free, else the lowest hole; takes it.
    pub(super) fn window(&mut self, preferred: IpaRange, owner: &str) -> Result<IpaRange, Reason> {
        let free = self.owner(preferred).is_none().then_some(preferred);
        let hole = || self.hole(FIRST_HOLE, preferred.size, HOLE_ALIGNMENT);
        let range = free.or_else(hole).ok_or(Reason::NoRoom(preferred.size))?;
        self.add(range, owner);
        Ok(range)
    }
}
