//! Cache maintenance by set and way.
//!
//! A guest that walks all sets and ways wants its memory cleaned, but the walk sees only its own pCPU's caches, and not the
//! system's. So the first such instruction cleans the domain's RAM by address instead, a piece at a time: the guest executes
//! it again until all is done, and interrupts are taken in between. The instructions that follow in the same walk then
//! find nothing to do.

use crate::domain::Domain;
use crate::hypervisor::{Hypervisor, VcpuState};
use crate::ids::{Pa, Ticks};
use crate::machine::Machine;

/// Bytes cleaned for one instruction.
const PIECE: u64 = 1 << 20;

/// How far a vCPU's walk is.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct SetWayWalk {
    /// Bytes of the domain's RAM that are cleaned.
    cleaned: u64,
    /// When the last instruction of the walk came, after all was clean.
    last: Option<Ticks>,
}

impl<M: Machine> Hypervisor<M> {
    /// Does a part of the work; whether all of it is done.
    pub(crate) fn clean_domain(&self, domain: &Domain, state: &mut VcpuState) -> bool {
        let now = self.machine.now();
        let walk = &mut state.set_way;
        if let Some(last) = walk.last {
            walk.last = Some(now);
            if now.0.saturating_sub(last.0) < self.slice.0 {
                return true;
            }
            *walk = SetWayWalk::default();
        }
        let mut skip = walk.cleaned;
        for bank in &domain.ram {
            if skip >= bank.size {
                skip -= bank.size;
                continue;
            }
            let length = (bank.size - skip).min(PIECE);
            self.machine.clean_to_coherency(Pa(bank.start.0 + skip), length);
            walk.cleaned += length;
            return false;
        }
        walk.last = Some(now);
        true
    }
}
