//! A domain's RAM while it is filled: where each guest-physical piece of it lies in the machine.
//!
//! Guarantee: nothing is written outside the domain's own RAM, whatever an image asks for.

use alloc::vec::Vec;

use crate::ids::{Ipa, Pa};
use crate::memory::PhysicalMemory;
use crate::range::{IpaRange, PaRange};
use crate::sorting::sort_by_key;

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
        sort_by_key(&mut pieces, |piece| piece.ipa);
        Self { pieces }
    }

    /// The pieces, lowest guest address first.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The banks that the guest sees: pieces whose guest addresses touch are one.
    pub fn banks(&self) -> Vec<IpaRange> {
        self.each_bank().collect()
    }

    /// As [`Self::banks`], one after the other.
    pub(super) fn each_bank(&self) -> impl Iterator<Item = IpaRange> {
        let mut pieces = self.pieces.iter().map(Piece::ipa_range).peekable();
        core::iter::from_fn(move || {
            let mut bank = pieces.next()?;
            while let Some(more) = pieces.next_if(|piece| piece.start.0 == bank.end()) {
                bank.size += more.size;
            }
            Some(bank)
        })
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
        Ok(self.parts(range)?.collect())
    }

    /// As [`Self::spans`], one after the other.
    pub(super) fn parts(&self, range: IpaRange) -> Result<impl Iterator<Item = PaRange>, OutsideRam> {
        self.check(range)?;
        Ok(self.intersections(range))
    }

    /// Sees that all of `range` is RAM.
    pub(super) fn check(&self, range: IpaRange) -> Result<(), OutsideRam> {
        // Pieces do not overlap, so their parts of the range add up to it only when they are all of it.
        let found: u64 = self.intersections(range).map(|part| part.size).sum();
        if range.fits() && found == range.size {
            Ok(())
        } else {
            Err(OutsideRam(range))
        }
    }

    fn intersections(&self, range: IpaRange) -> impl Iterator<Item = PaRange> {
        let (start, end) = (range.start.0, range.start.0.saturating_add(range.size));
        self.pieces.iter().filter_map(move |piece| {
            let seen = piece.ipa_range();
            let (from, to) = (start.max(seen.start.0), end.min(seen.end()));
            (from < to).then(|| PaRange::new(piece.pa.start.0 + (from - seen.start.0), to - from))
        })
    }

    /// The physical address of one byte.
    ///
    /// # Errors
    /// [`OutsideRam`].
    pub fn physical(&self, ipa: Ipa) -> Result<Pa, OutsideRam> {
        let range = IpaRange::new(ipa.0, 1);
        self.parts(range)?
            .next()
            .map(|span| span.start)
            .ok_or(OutsideRam(range))
    }

    /// Copies `bytes` to `ipa`.
    ///
    /// # Errors
    /// [`OutsideRam`]: nothing was written.
    pub fn write(&self, memory: &impl PhysicalMemory, ipa: Ipa, bytes: &[u8]) -> Result<(), OutsideRam> {
        let mut rest = bytes;
        for span in self.parts(IpaRange::new(ipa.0, bytes.len() as u64))? {
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
}
