//! Holding every other pCPU out of its guest for an instant.
//!
//! The last resort against a guest that keeps the hypervisor's exclusive accesses from succeeding (D12): all others are
//! kicked out of their guests and do not go back before the one attempt is made.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

use crate::hypervisor::Hypervisor;
use crate::ids::{MAX_PCPUS, PcpuId};
use crate::machine::Machine;
use crate::memory::atomic::StopOthers;

/// Looks at each pCPU's flag before it is taken for one that will not come: far more than a kick needs.
const PATIENCE: u32 = 1_000_000;

/// Who is in a guest, and how many want nobody to be.
#[derive(Debug, Default)]
pub(crate) struct GuestGate {
    closed: AtomicU32,
    inside: [AtomicBool; MAX_PCPUS],
}

impl GuestGate {
    /// `pcpu` is about to return to a guest: waits while the gate is closed, which is for one bounded attempt each time.
    #[inline(always)]
    pub(crate) fn enter(&self, pcpu: PcpuId) {
        let Some(inside) = self.inside.get(usize::from(pcpu.0)) else {
            return;
        };
        if !self.goes_in(inside) {
            self.wait_outside(inside);
        }
    }

    #[inline(always)]
    fn goes_in(&self, inside: &AtomicBool) -> bool {
        inside.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.closed.load(Ordering::Relaxed) == 0
    }

    #[cold]
    #[inline(never)]
    fn wait_outside(&self, inside: &AtomicBool) {
        loop {
            inside.store(false, Ordering::Release);
            while self.closed.load(Ordering::Acquire) != 0 {
                crate::sync::pause();
            }
            if self.goes_in(inside) {
                return;
            }
        }
    }

    /// `pcpu` has not left its guest.
    fn is_inside(&self, pcpu: PcpuId) -> bool {
        let inside = self.inside.get(usize::from(pcpu.0));
        inside.is_some_and(|inside| inside.load(Ordering::Relaxed))
    }

    /// `pcpu` came from a guest.
    pub(crate) fn leave(&self, pcpu: PcpuId) {
        if let Some(inside) = self.inside.get(usize::from(pcpu.0)) {
            inside.store(false, Ordering::Release);
        }
    }
}

/// Stops every pCPU but the caller's.
pub(crate) struct StopPcpus<'a, M: Machine> {
    hypervisor: &'a Hypervisor<M>,
}

impl<'a, M: Machine> StopPcpus<'a, M> {
    pub(crate) fn new(hypervisor: &'a Hypervisor<M>) -> Self {
        Self { hypervisor }
    }
}

impl<M: Machine> StopOthers for StopPcpus<'_, M> {
    fn while_stopped(&self, attempt: &mut dyn FnMut()) {
        let gate = &self.hypervisor.gate;
        let own = self.hypervisor.machine.current_pcpu();
        // A quick look at a trap has not left its guest. Who stops others meanwhile must not wait for that.
        let inside = gate.is_inside(own);
        gate.leave(own);
        gate.closed.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        for (index, inside) in gate.inside.iter().enumerate() {
            let pcpu = PcpuId(index as u8);
            if pcpu == own || !inside.load(Ordering::Acquire) {
                continue;
            }
            self.hypervisor.machine.kick(pcpu);
            for _ in 0..PATIENCE {
                if !inside.load(Ordering::Acquire) {
                    break;
                }
                crate::sync::pause();
            }
        }
        attempt();
        gate.closed.fetch_sub(1, Ordering::SeqCst);
        if inside {
            gate.enter(own);
        }
    }
}
