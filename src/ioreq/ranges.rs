//! Which server emulates an address: one sorted table for all servers of a domain.
//!
//! Entries never overlap, and neighbours of the same server are merged, so that an access is one server's if and only
//! if one entry contains it whole. Lookup is a binary search. The table's memory is reserved when the domain is built.

use alloc::vec::Vec;

use crate::abi::dm_op::MAX_RANGES;
use crate::ids::ServerId;

/// Addresses from `start` to `end`, inclusive: a range can end at the last address.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub struct Range {
    start: u64,
    end: u64,
}

impl Range {
    /// Contains nothing: no access is inside.
    pub(super) const NOTHING: Self = Self {
        start: u64::MAX,
        end: 0,
    };
    /// `None` when `start > end`.
    pub const fn new(start: u64, end: u64) -> Option<Self> {
        if start <= end { Some(Self { start, end }) } else { None }
    }
    /// `length` bytes from `start`; `None` when that is nothing or leaves the address space.
    pub const fn from_length(start: u64, length: u64) -> Option<Self> {
        match length.checked_sub(1) {
            Some(more) => match start.checked_add(more) {
                Some(end) => Some(Self { start, end }),
                None => None,
            },
            None => None,
        }
    }
    /// The first address.
    pub const fn start(self) -> u64 {
        self.start
    }
    /// The last address.
    pub const fn end(self) -> u64 {
        self.end
    }
    /// Whether all of `other` is inside.
    pub const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }
    /// Whether some address is in both.
    pub const fn overlaps(self, other: Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }
    /// What is in both.
    pub const fn common(self, other: Self) -> Option<Self> {
        let start = if self.start > other.start {
            self.start
        } else {
            other.start
        };
        let end = if self.end < other.end { self.end } else { other.end };
        Self::new(start, end)
    }
    const fn touches(self, other: Self) -> bool {
        self.start <= other.end.saturating_add(1) && other.start <= self.end.saturating_add(1)
    }
}

/// Why the table did not change.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RangeError {
    /// The server has as many ranges as it may have, or the table is full.
    #[error("no room for another range")]
    Full,
    /// The server does not have all of the range.
    #[error("range {0:#x} to {1:#x} is not the server's")]
    NotContained(u64, u64),
}

#[derive(Copy, Clone, Debug, Eq, PartialEq)]
struct Entry {
    range: Range,
    owner: ServerId,
}

/// The ranges of all servers of one domain, of one kind of address.
#[derive(Debug)]
pub struct RangeTable {
    entries: Vec<Entry>,
    changes: u64,
    capacity: usize,
}

impl RangeTable {
    /// A table that can hold `capacity` ranges; allocates.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            entries: Vec::with_capacity(capacity),
            changes: 1,
            capacity,
        }
    }

    /// How often it has changed; never 0.
    #[inline]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The server that has all of `access`.
    pub fn find(&self, access: Range) -> Option<ServerId> {
        self.find_range(access).map(|(owner, _)| owner)
    }

    /// The server that has all of `access`, and the range of it that does.
    pub fn find_range(&self, access: Range) -> Option<(ServerId, Range)> {
        let after = self.entries.partition_point(|entry| entry.range.start <= access.start);
        let entry = self.entries.get(after.checked_sub(1)?)?;
        entry.range.contains(access).then_some((entry.owner, entry.range))
    }

    /// The servers that have some of `range`, once for each entry.
    pub fn owners(&self, range: Range) -> impl Iterator<Item = ServerId> {
        self.overlapping(range).iter().map(|entry| entry.owner)
    }

    /// The ranges of `owner`, lowest first.
    pub fn of(&self, owner: ServerId) -> impl Iterator<Item = Range> {
        self.entries
            .iter()
            .filter(move |entry| entry.owner == owner)
            .map(|entry| entry.range)
    }

    fn first_from(&self, start: u64) -> usize {
        self.entries.partition_point(|entry| entry.range.end < start)
    }

    fn overlapping(&self, range: Range) -> &[Entry] {
        let first = self.first_from(range.start);
        let rest = self.entries.get(first..).unwrap_or_default();
        let count = rest.partition_point(|entry| entry.range.start <= range.end);
        rest.get(..count).unwrap_or_default()
    }

    /// Gives all of `range` to `owner`, taking it away from whoever had some of it.
    ///
    /// # Errors
    /// [`RangeError::Full`]; nothing is changed.
    pub fn assign(&mut self, range: Range, owner: ServerId) -> Result<(), RangeError> {
        let overlapping = self.overlapping(range);
        let left = overlapping
            .first()
            .filter(|entry| entry.range.start < range.start)
            .is_some();
        let right = overlapping.last().filter(|entry| entry.range.end > range.end).is_some();
        let grown = self.entries.len() + 1 + usize::from(left) + usize::from(right) - overlapping.len();
        let neighbours = self.of(owner).filter(|other| other.touches(range)).count();
        let own = self.of(owner).count();
        if grown > self.capacity + neighbours || (neighbours == 0 && own >= MAX_RANGES) {
            return Err(RangeError::Full);
        }
        let mut merged = range;
        for other in self.of(owner).filter(|other| other.touches(range)) {
            merged.start = merged.start.min(other.start);
            merged.end = merged.end.max(other.end);
        }
        // What others had of the range goes; what the owner had is inside `merged` and goes with it.
        self.carve(merged);
        let at = self.first_from(merged.start);
        self.entries.insert(at, Entry { range: merged, owner });
        Ok(())
    }

    /// Takes `range` away from `owner`, who must have all of it.
    ///
    /// # Errors
    /// [`RangeError::NotContained`]; [`RangeError::Full`] when a range would be split in two and there is no room.
    pub fn remove(&mut self, range: Range, owner: ServerId) -> Result<(), RangeError> {
        let container = self.of(owner).find(|other| other.contains(range));
        let Some(container) = container else {
            return Err(RangeError::NotContained(range.start, range.end));
        };
        let splits = container.start < range.start && range.end < container.end;
        if splits && (self.entries.len() >= self.capacity || self.of(owner).count() >= MAX_RANGES) {
            return Err(RangeError::Full);
        }
        self.carve(range);
        Ok(())
    }

    /// Takes everything away from `owner`.
    pub fn remove_all(&mut self, owner: ServerId) {
        self.changes += 1;
        self.entries.retain(|entry| entry.owner != owner);
    }

    /// Frees `range`, whoever has it. The caller has made sure that there is room for the pieces.
    fn carve(&mut self, range: Range) {
        self.changes += 1;
        let first = self.first_from(range.start);
        let count = self.overlapping(range).len();
        let piece = |start: Option<u64>, end: Option<u64>, owner| {
            let range = Range::new(start?, end?)?;
            Some(Entry { range, owner })
        };
        let head = self
            .overlapping(range)
            .first()
            .and_then(|entry| piece(Some(entry.range.start), range.start.checked_sub(1), entry.owner));
        let tail = self
            .overlapping(range)
            .last()
            .and_then(|entry| piece(range.end.checked_add(1), Some(entry.range.end), entry.owner));
        self.entries.drain(first..first + count);
        for (at, entry) in (first..).zip([head, tail].into_iter().flatten()) {
            self.entries.insert(at, entry);
        }
    }
}
