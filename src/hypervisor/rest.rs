//! A WFI while nobody else can run here: the pCPU itself waits, with everything of the vCPU in place.
//!
//! Mostly it is the vCPU's own timer that ends such a wait. Then its interrupt goes into the list register that it always
//! has, and the vCPU goes on; nothing was unloaded, and no other vCPU was looked for. Meanwhile the vCPU waits for all
//! others as any does that waits ([`crate::sched::RunQueue::rest`]): whoever has something for it, or for another vCPU of
//! this pCPU, wakes that and kicks this pCPU. After any other interrupt than the timer's the wait goes on as usual.

use core::sync::atomic::Ordering;

use crate::abi::vcpu::{RUNSTATE_BLOCKED, RUNSTATE_RUNNING};
use crate::counters::Exit;
use crate::cpu::Cpu;
use crate::hypervisor::quick::is_wait_for_interrupt;
use crate::hypervisor::run::NOBODY;
use crate::hypervisor::{Hypervisor, Located, VcpuState};
use crate::machine::Machine;
use crate::sched::Wait;

impl<M: Machine> Hypervisor<M> {
    /// The loaded vCPU's WFI, by ESR_EL2, if its pCPU may wait with it in place: until an interrupt, after which
    /// [`Self::end_rest`] is called. `false`: nothing was done.
    ///
    /// As while a guest runs, the pCPU has not left the guest, and whatever concerns it comes with a kick.
    #[inline]
    pub fn begin_rest<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState, esr: u64) -> bool {
        let Located { domain, vcpu } = at;
        let timer = &state.registers.physical_timer;
        let due = state.flush_due || state.polls || state.physical_timer_line || timer.is_enabled();
        if due || !is_wait_for_interrupt(esr, &state.frame) || vcpu.has_notes() {
            return false;
        }
        let Some(pcpu) = self.pcpu(vcpu.pcpu) else { return false };
        // With nothing in its list registers, nothing in them wakes it.
        let may_wait = !pcpu.must_schedule.load(Ordering::Acquire)
            && domain.vgic.lock().shows_nothing(vcpu.id.index, cpu.virtual_interface());
        if !may_wait {
            return false;
        }
        let now = self.machine.now();
        let deadline = self.virtual_deadline(cpu);
        if !pcpu.queue.lock().rest(vcpu.slot, deadline, now) {
            return false;
        }
        self.account_rest(vcpu, state, RUNSTATE_BLOCKED);
        state.count(Exit::Wait);
        state.frame.advance_a64();
        true
    }

    /// The pCPU has waited with the loaded vCPU in place, and an interrupt has come; by the timer's (`timer`) the vCPU's wait is
    /// over. Whether that was all: its interrupt is in a list register, and the vCPU goes on. Otherwise the interrupt is
    /// to be taken, and [`Self::wait_on`] follows.
    #[inline]
    pub fn end_rest<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState, timer: bool) -> bool {
        let Located { vcpu, .. } = at;
        let now = self.machine.now();
        let Some(pcpu) = self.pcpu(vcpu.pcpu) else { return false };
        let mut queue = pcpu.queue.lock();
        if !timer {
            queue.stop_resting(now);
        } else if queue.end_rest(vcpu.slot, now) {
            drop(queue);
            self.account_rest(vcpu, state, RUNSTATE_RUNNING);
            // It runs, and its timer fires: as ever.
            if !self.on_virtual_timer_again(at, cpu, state) && !self.on_virtual_timer_at_once(at, cpu, state) {
                self.on_virtual_timer(cpu, state);
            }
            return true;
        }
        drop(queue);
        self.left_guest(vcpu.pcpu);
        // What comes for it from here on wakes it.
        pcpu.running.store(NOBODY, Ordering::Relaxed);
        false
    }

    /// The loaded vCPU waits on, unless something has woken it, as it does where others can run.
    pub fn wait_on<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState) {
        let Located { domain, vcpu } = at;
        let waits = self
            .pcpu(vcpu.pcpu)
            .is_some_and(|pcpu| pcpu.queue.lock().waits(vcpu.slot) == Some(Wait::Event));
        if !waits {
            // Whoever woke it has this pCPU decide.
            return;
        }
        match self.wait_until(cpu, state, None, self.machine.now()) {
            Some(deadline) => {
                self.block(vcpu, Wait::Event, deadline);
                self.recheck_wait(cpu, domain, vcpu, state);
            }
            None => self.wake(vcpu, Wait::Event),
        }
    }
}
