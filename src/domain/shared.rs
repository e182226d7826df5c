//! The frames of memory that domains share from the start.
//!
//! Guarantee: a region is taken out of the free memory before a domain is given any of it, and holds zeroes, which have
//! reached the point of coherency, before the first domain that has it runs. It stays as the domains leave it when one of
//! them starts anew.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::domain::builder::BuildError;
use crate::machine::Machine;
use crate::manifest::Manifest;
use crate::memory::frames::{FrameAllocator, FrameError};
use crate::range::PaRange;

/// Regions by id.
#[derive(Debug)]
pub(super) struct SharedFrames(Vec<(String, Result<PaRange, FrameError>)>);

impl SharedFrames {
    /// Takes the regions whose places the manifest gives.
    pub(super) fn at_given_places(frames: &mut FrameAllocator, manifest: &Manifest) -> Self {
        let given = manifest
            .shared_memory
            .iter()
            .filter_map(|shared| Some((shared.id.clone(), shared.host?)));
        Self(
            given
                .map(|(id, range)| (id, frames.carve(range).map(|()| range)))
                .collect(),
        )
    }

    /// Takes the others wherever there is room.
    pub(super) fn add_others(&mut self, frames: &mut FrameAllocator, manifest: &Manifest) {
        for shared in manifest.shared_memory.iter().filter(|shared| shared.host.is_none()) {
            let place = frames.allocate(shared.size);
            self.0.push((shared.id.clone(), place));
        }
    }

    /// Empties all of them.
    pub(super) fn clear<M: Machine>(&self, machine: &M) {
        for range in self.0.iter().filter_map(|(_, place)| place.as_ref().ok()) {
            machine.zero(range.start, range.size);
            machine.clean_to_coherency(range.start, range.size);
        }
    }

    /// Where a region is.
    pub(super) fn find(&self, id: &str) -> Result<PaRange, BuildError> {
        let found = self.0.iter().find(|(other, _)| other == id);
        let place = found.map_or(Err(FrameError::Empty), |(_, place)| *place);
        place.map_err(|error| BuildError::SharedMemory(id.to_string(), error))
    }
}
