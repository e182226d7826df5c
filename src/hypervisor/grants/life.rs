//! What becomes of grants when a domain ends: of what it granted, and of what it had mapped.

use crate::domain::{Domain, DomainMemory};
use crate::grant::{Handle, Mapped};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;

/// Handles that one step gives back.
const HANDLES: usize = 64;
/// Frames of records that one step gives back.
const FRAMES: u32 = 64;

impl<M: Machine> Hypervisor<M> {
    /// Nobody pins anything of `domain` any more.
    pub(crate) fn close_grants(&self, domain: &Domain) {
        domain.grants.lock().close();
    }

    /// Gives back what `domain` had of others, from `handle` on; nothing of it is mapped. Where to go on; `None`: that was
    /// all.
    pub(crate) fn drop_handles(&self, domain: &Domain, handle: Handle) -> Option<Handle> {
        let mut dropped = heapless::Vec::<Mapped, HANDLES>::new();
        let next = domain.memory.lock().maptrack.drain(&self.machine, handle, &mut dropped);
        for mapped in &dropped {
            self.give_back(domain.id, mapped);
        }
        next
    }

    /// Gives frames of `domain`'s table and of its handles back to its pool, of which there are none. Whether that was all.
    pub(crate) fn shrink_grants(&self, domain: &Domain) -> bool {
        let machine = &self.machine;
        let mut memory = domain.memory.lock();
        let DomainMemory { pool, maptrack, .. } = &mut *memory;
        if !maptrack.shrink(machine, pool, FRAMES) {
            return false;
        }
        domain.grants.lock().shrink(machine, pool, |pool, frame| {
            let references = self.references.lock().count(machine, frame).unwrap_or(0);
            // It came from this pool, and is given up once.
            let _ = pool.retire(frame, references);
        })
    }
}
