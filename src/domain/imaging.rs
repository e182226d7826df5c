//! Work on a domain's memory in steps of bounded length: what a step may cost, and what it does to ranges.
//!
//! Guarantee: a step ends after an amount of work that its caller chose, whatever the domain's size and whatever its files
//! contain. Nothing here allocates.

use crate::domain::ram::{GuestRam, OutsideRam};
use crate::ids::{Ipa, PAGE_SIZE, Pa};
use crate::memory::PhysicalMemory;
use crate::range::{IpaRange, PaRange};

/// Bytes copied at once, by way of the stack.
const CHUNK: usize = 4 << 10;

/// What work costs, in units of a byte set to zero.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u64)]
pub(super) enum Cost {
    /// A byte set to zero, read, or cleaned to the point of coherency.
    Single = 1,
    /// A byte read and written, or made visible to execution.
    Double = 2,
    /// A byte that came out of a decompressor.
    Inflated = 16,
    /// A byte that went into one: compressed data can hold more tables to build than they yield output.
    Deflated = 64,
}

/// How much one step may do, in bytes of memory that is set to zero; other work costs more a byte.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Budget {
    left: u64,
}

impl Budget {
    /// The least: a step must be able to do something.
    pub const LEAST: u64 = 16 << 10;
    /// A step's, for work between which others run: less than about 100 µs on a CPU that writes 2 GB/s.
    pub const STEP: u64 = 128 << 10;

    /// `bytes`, but not below [`Self::LEAST`].
    pub const fn new(bytes: u64) -> Self {
        Self {
            left: if bytes < Self::LEAST { Self::LEAST } else { bytes },
        }
    }

    /// For work that nobody waits for.
    pub const fn unlimited() -> Self {
        Self::new(u64::MAX)
    }

    /// How many bytes of `wanted` may be worked on now.
    pub(super) const fn take(&mut self, wanted: u64, cost: Cost) -> u64 {
        let affordable = self.affordable(cost);
        let count = if wanted < affordable { wanted } else { affordable };
        self.left -= count * cost as u64;
        count
    }

    /// How many bytes may be worked on yet.
    pub(super) const fn affordable(&self, cost: Cost) -> u64 {
        self.left / cost as u64
    }

    /// Pays for work whose amount showed afterwards.
    pub(super) const fn pay(&mut self, bytes: u64, cost: Cost) {
        self.left = self.left.saturating_sub(bytes.saturating_mul(cost as u64));
    }

    /// As [`Self::take`], in whole pages as long as more remains than is taken.
    const fn take_pages(&mut self, wanted: u64, cost: Cost) -> u64 {
        let affordable = self.affordable(cost);
        let count = if wanted <= affordable {
            wanted
        } else {
            affordable / PAGE_SIZE * PAGE_SIZE
        };
        self.left -= count * cost as u64;
        count
    }
}

/// How far work on a range has come.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Progress {
    done: u64,
}

impl Progress {
    /// Goes on with `range`, of which it may do up to a limit in one call of `work`; whether all is done.
    fn advance(&mut self, range: PaRange, budget: &mut Budget, cost: Cost, work: impl Fn(Pa, u64)) -> bool {
        let left = range.size.saturating_sub(self.done);
        let count = budget.take_pages(left, cost);
        if count > 0 {
            work(Pa(range.start.0 + self.done), count);
            self.done += count;
        }
        count == left
    }
}

/// One kind of work on all RAM of a domain, piece by piece.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Sweep {
    piece: usize,
    progress: Progress,
}

impl Sweep {
    /// Sets RAM to zero; whether all is.
    pub(super) fn zero(&mut self, memory: &impl PhysicalMemory, ram: &GuestRam, budget: &mut Budget) -> bool {
        self.step(ram, budget, |at, length| memory.zero(at, length))
    }

    /// Cleans RAM to the point of coherency: a guest that starts with its caches off sees what was written, and no dirty
    /// line is written back over what the guest writes. Whether all is.
    pub(super) fn clean(&mut self, memory: &impl PhysicalMemory, ram: &GuestRam, budget: &mut Budget) -> bool {
        self.step(ram, budget, |at, length| memory.clean_to_coherency(at, length))
    }

    fn step(&mut self, ram: &GuestRam, budget: &mut Budget, work: impl Fn(Pa, u64)) -> bool {
        while let Some(piece) = ram.pieces().get(self.piece) {
            if !self.progress.advance(piece.pa, budget, Cost::Single, &work) {
                return false;
            }
            *self = Self {
                piece: self.piece + 1,
                progress: Progress::default(),
            };
        }
        true
    }
}

/// A copy out of the hypervisor's memory into a domain's.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Transfer {
    from: PaRange,
    to: Ipa,
    done: u64,
}

impl Transfer {
    /// Of all of `from`.
    ///
    /// # Errors
    /// [`OutsideRam`] when the domain has no RAM there.
    pub(super) fn new(ram: &GuestRam, from: PaRange, to: Ipa) -> Result<Self, OutsideRam> {
        ram.check(IpaRange::new(to.0, from.size))?;
        Ok(Self { from, to, done: 0 })
    }

    /// Whether all is copied.
    ///
    /// # Errors
    /// [`OutsideRam`] when the domain has no RAM there.
    pub(super) fn step(
        &mut self,
        memory: &impl PhysicalMemory,
        ram: &GuestRam,
        budget: &mut Budget,
    ) -> Result<bool, OutsideRam> {
        let mut buffer = [0; CHUNK];
        loop {
            let left = self.from.size.saturating_sub(self.done);
            let count = budget.take(left.min(CHUNK as u64), Cost::Double);
            let Some(chunk) = buffer.get_mut(..count as usize).filter(|chunk| !chunk.is_empty()) else {
                return Ok(left == 0);
            };
            memory.read(Pa(self.from.start.0 + self.done), chunk);
            ram.write(memory, Ipa(self.to.0 + self.done), chunk)?;
            self.done += count;
        }
    }
}

/// Code that is made visible to execution.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Synchronisation {
    done: u64,
}

impl Synchronisation {
    /// Whether all of `code` is.
    ///
    /// # Errors
    /// [`OutsideRam`].
    pub(super) fn step(
        &mut self,
        memory: &impl PhysicalMemory,
        ram: &GuestRam,
        code: IpaRange,
        budget: &mut Budget,
    ) -> Result<bool, OutsideRam> {
        let left = code.size.saturating_sub(self.done);
        let count = budget.take_pages(left, Cost::Double);
        let part = IpaRange::new(code.start.0.saturating_add(self.done), count);
        for span in ram.parts(part)? {
            memory.synchronise_instructions(span.start, span.size);
        }
        self.done += count;
        Ok(count == left)
    }
}
