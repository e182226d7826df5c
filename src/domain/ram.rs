//! A domain's RAM while it is filled: where each guest-physical piece of it lies in the machine.
//!
//! Guarantee: nothing is written outside the domain's own RAM, whatever an image asks for.

use alloc::vec::Vec;

use crate::ids::{Ipa, Pa};
use crate::manifest::range::{IpaRange, PaRange};
use crate::memory::PhysicalMemory;

/// Bytes of a range that are no RAM of the domain.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0} is not all in the domain's RAM")]
pub struct OutsideRam(pub IpaRange);

/// Guest-physical memory that is contiguous in the machine too.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Piece {
    /// Where the guest sees it.
    pub ipa: Ipa,
    /// Where it is.
    pub pa: PaRange,
}

impl Piece {
    /// The addresses where the guest sees it.
    pub const fn ipa_range(&self) -> IpaRange {
        IpaRange::new(self.ipa.0, self.pa.size)
    }
}

/// All RAM of a domain, lowest guest address first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GuestRam {
    pieces: Vec<Piece>,
}

impl GuestRam {
    /// RAM made of `pieces`.
    pub fn new(mut pieces: Vec<Piece>) -> Self {
        pieces.sort_unstable_by_key(|piece| piece.ipa);
        Self { pieces }
    }

    /// The pieces, lowest guest address first.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The banks that the guest sees: pieces whose guest addresses touch are one.
    pub fn banks(&self) -> Vec<IpaRange> {
        let mut banks: Vec<IpaRange> = Vec::new();
        for piece in &self.pieces {
            match banks.last_mut() {
                Some(last) if last.end() == piece.ipa.0 => last.size += piece.pa.size,
                _ => banks.push(piece.ipa_range()),
            }
        }
        banks
    }

    /// Bytes of RAM.
    pub fn size(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.pa.size).sum()
    }

    /// Where in the machine `range` is, piece by piece.
    ///
    /// # Errors
    /// [`OutsideRam`] when any of it is no RAM.
    pub fn spans(&self, range: IpaRange) -> Result<Vec<PaRange>, OutsideRam> {
        let mut spans = Vec::new();
        let mut at = range.start.0;
        let end = at.checked_add(range.size).ok_or(OutsideRam(range))?;
        for piece in &self.pieces {
            let seen = piece.ipa_range();
            if at < end && seen.start.0 <= at && at < seen.end() {
                let size = end.min(seen.end()) - at;
                spans.push(PaRange::new(piece.pa.start.0 + (at - seen.start.0), size));
                at += size;
            }
        }
        if at == end { Ok(spans) } else { Err(OutsideRam(range)) }
    }

    /// The physical address of one byte.
    ///
    /// # Errors
    /// [`OutsideRam`].
    pub fn physical(&self, ipa: Ipa) -> Result<Pa, OutsideRam> {
        let range = IpaRange::new(ipa.0, 1);
        self.spans(range)?
            .first()
            .map(|span| span.start)
            .ok_or(OutsideRam(range))
    }

    /// Copies `bytes` to `ipa`.
    ///
    /// # Errors
    /// [`OutsideRam`]: nothing was written.
    pub fn write(&self, memory: &impl PhysicalMemory, ipa: Ipa, bytes: &[u8]) -> Result<(), OutsideRam> {
        let mut rest = bytes;
        for span in self.spans(IpaRange::new(ipa.0, bytes.len() as u64))? {
            let (now, later) = rest.split_at_checked(span.size as usize).unwrap_or((rest, &[]));
            memory.write(span.start, now);
            rest = later;
        }
        Ok(())
    }

    /// Sets all of it to zero, so that a guest finds nothing of anybody else.
    pub fn zero(&self, memory: &impl PhysicalMemory) {
        for piece in &self.pieces {
            memory.zero(piece.pa.start, piece.pa.size);
        }
    }

    /// Cleans all of it to the point of coherency: a guest that starts with its caches off sees what was written, and no
    /// dirty line is written back over what the guest writes.
    pub fn clean(&self, memory: &impl PhysicalMemory) {
        for piece in &self.pieces {
            memory.clean_to_coherency(piece.pa.start, piece.pa.size);
        }
    }

    /// Makes the code written into `range` visible to execution.
    ///
    /// # Errors
    /// [`OutsideRam`].
    pub fn synchronise(&self, memory: &impl PhysicalMemory, range: IpaRange) -> Result<(), OutsideRam> {
        for span in self.spans(range)? {
            memory.synchronise_instructions(span.start, span.size);
        }
        Ok(())
    }
}
