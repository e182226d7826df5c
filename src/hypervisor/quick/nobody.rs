//! Accesses to what no device and no server may have: answered at once, if nothing was mapped there meanwhile.

use super::{Quick, WRITE, finish_read};
use crate::counters::Exit;
use crate::cpu::{Access, Cpu};
use crate::domain::Domain;
use crate::hypervisor::{Hypervisor, Located, VcpuState};
use crate::ids::Ipa;
use crate::machine::Machine;
use crate::trace::{Denial, Kind};
use crate::trap::exception::{GuestException, inject};

/// A page of a domain's where nothing was mapped, and the state of its map then: while that stays, nothing is.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Hole {
    page: Ipa,
    /// [`Changes::count`](crate::stage2::Changes::count), which never is 0.
    changes: u64,
}

impl Hole {
    /// As if nothing were mapped at `ipa` now.
    #[inline(always)]
    fn at(domain: &Domain, ipa: Ipa) -> Self {
        Self {
            page: ipa.page(),
            changes: domain.map_changes.count(),
        }
    }
}

impl<M: Machine> Hypervisor<M> {
    /// An access to the first bytes of a page, which may have begun in the page before if there is memory.
    #[inline(never)]
    pub(super) fn quick_at_start<C: Cpu>(
        &self,
        at: Located<'_>,
        cpu: &mut C,
        state: &mut VcpuState,
        esr: u64,
        far: u64,
        ipa: Ipa,
    ) -> Quick {
        if let Ok(before) = cpu.translate(far.wrapping_sub(1), Access::Read) {
            match self.look_for_hole(at.domain, before) {
                Some(hole) => state.hole_before = hole,
                None => return Quick::No,
            }
        }
        self.quick_plain(at, cpu, state, esr, far, ipa)
    }

    /// Nothing is mapped at `ipa`; `None`: something is, or it is not known.
    pub(super) fn look_for_hole(&self, domain: &Domain, ipa: Ipa) -> Option<Hole> {
        // Who waits for this lock may hold one that others need to leave their guests for.
        let memory = domain.memory.try_lock()?;
        let mapped = memory.stage2.lookup(&self.machine, ipa).is_some();
        (!mapped).then(|| Hole::at(domain, ipa))
    }

    /// An access to what no device and no server may have.
    #[inline(never)]
    pub(super) fn quick_nobody<C: Cpu>(
        &self,
        domain: &Domain,
        cpu: &mut C,
        state: &mut VcpuState,
        esr: u64,
        far: u64,
        ipa: Ipa,
    ) -> Quick {
        if state.hole != Hole::at(domain, ipa) {
            return self.quick_hole(domain, cpu, state, esr, far, ipa);
        }
        self.answer_nobody(domain, cpu, state, esr, far)
    }

    /// As [`Self::quick_nobody`], where something may be mapped: the guest may have come by while its memory was being
    /// changed, and then it is to try again.
    #[inline(never)]
    pub(super) fn quick_hole<C: Cpu>(
        &self,
        domain: &Domain,
        cpu: &mut C,
        state: &mut VcpuState,
        esr: u64,
        far: u64,
        ipa: Ipa,
    ) -> Quick {
        match self.look_for_hole(domain, ipa) {
            Some(hole) => {
                state.hole = hole;
                self.answer_nobody(domain, cpu, state, esr, far)
            }
            None => Quick::No,
        }
    }

    /// An access to what nobody has.
    #[inline(always)]
    pub(super) fn answer_nobody<C: Cpu>(
        &self,
        domain: &Domain,
        cpu: &mut C,
        state: &mut VcpuState,
        esr: u64,
        far: u64,
    ) -> Quick {
        state.count(Exit::Unclaimed);
        if !domain.abort_unmapped {
            if esr & WRITE == 0 {
                finish_read(state, esr, u64::MAX);
            } else {
                state.frame.advance_a64();
            }
            return Quick::Done;
        }
        let exception = GuestException::DataAbort {
            virtual_address: Some(far),
            write: esr & WRITE != 0,
            cache_maintenance: false,
        };
        self.machine
            .trace(Kind::Denied, state.id, Denial::Refused.argument(None));
        // No SError: it is entered.
        let _ = inject(cpu, &mut state.frame, exception, self.ids.pstate_features());
        Quick::Done
    }
}

/// Whether an access at the first byte of a page is known not to have begun in the page before.
#[inline(always)]
pub(super) fn begins_here<C: Cpu>(domain: &Domain, cpu: &C, state: &VcpuState, virtual_address: u64) -> bool {
    match cpu.translate(virtual_address.wrapping_sub(1), Access::Read) {
        Ok(before) => state.hole_before == Hole::at(domain, before),
        Err(_) => true,
    }
}
