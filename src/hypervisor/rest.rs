//! A WFI, or a request to a server elsewhere, while nobody else can run here: the pCPU itself waits, with everything of the
//! vCPU in place.
//!
//! A WFI is mostly ended by the vCPU's own timer or by an event, a request by its answer. Then the interrupt goes into the
//! list register that it always has, or the answer into its register, and the vCPU goes on; nothing was unloaded, and no
//! other vCPU was looked for. Meanwhile the vCPU waits for all others as any does that waits
//! ([`crate::sched::RunQueue::rest`]). Only whoever has something for it need not wake it: a note and a kick are enough,
//! since the pCPU looks at the notes after it has said that it rests no longer (`Pcpu::resting`). After any other interrupt,
//! or when this pCPU is wanted for something else, the wait goes on as usual.

use core::sync::atomic::Ordering;

use crate::abi::vcpu::{RUNSTATE_BLOCKED, RUNSTATE_RUNNING};
use crate::counters::Exit;
use crate::cpu::Cpu;
use crate::domain::vcpu::{Attention, Vcpu};
use crate::hypervisor::quick::is_wait_for_interrupt;
use crate::hypervisor::run::NOBODY;
use crate::hypervisor::{Hypervisor, Located, VcpuState};
use crate::ids::Ticks;
use crate::machine::Machine;
use crate::sched::Wait;

/// What ends a wait in place.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum RestEnd {
    /// The interrupt of the vCPU's virtual timer, which stays active.
    Timer,
    /// A kick.
    Kick,
    /// Something else.
    Other,
}

/// How the vCPU goes on after that.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Rested {
    /// At once.
    GoesOn,
    /// It waits no longer, but something is due before it goes on.
    Due,
    /// The interrupt is to be taken, and [`Hypervisor::wait_on`] follows.
    Waits,
}

impl<M: Machine> Hypervisor<M> {
    /// The loaded vCPU's WFI, by ESR_EL2, if its pCPU may wait with it in place: until an interrupt, after which
    /// [`Self::end_rest`] is called. `false`: nothing was done.
    ///
    /// As while a guest runs, the pCPU has not left the guest, and whatever concerns it comes with a kick.
    #[inline]
    pub fn begin_rest<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState, esr: u64) -> bool {
        let Located { domain, vcpu } = at;
        let timer = &state.registers.physical_timer;
        let due = !state.flags.is_only_on() || timer.is_enabled();
        if due || !is_wait_for_interrupt(esr, &state.frame) || vcpu.has_notes() {
            return false;
        }
        let pcpu = &state.pcpu;
        // With nothing in its list registers, nothing in them wakes it.
        let may_wait = !pcpu.must_schedule.load(Ordering::Acquire)
            && domain.vgic.lock().shows_nothing(vcpu.id.index, cpu.virtual_interface());
        if !may_wait {
            return false;
        }
        let now = self.machine.now();
        let deadline = self.virtual_deadline(cpu);
        let Some(starved) = pcpu.queue.lock().settled().rest(vcpu.slot, Wait::Event, deadline, now) else {
            return false;
        };
        pcpu.starved.store(starved.0, Ordering::Relaxed);
        pcpu.resting.store(vcpu.slot.index(), Ordering::SeqCst);
        self.account_rest(vcpu, state, RUNSTATE_BLOCKED);
        state.count(Exit::Wait);
        state.frame.advance_a64();
        true
    }

    /// The loaded vCPU has asked a server elsewhere, and waits in place until `deadline` at the latest, if its pCPU may do
    /// that: until an interrupt, after which [`Self::end_rest`] is called. `false`: nothing was done.
    #[inline]
    pub(crate) fn rests_for_answer(
        &self,
        vcpu: &Vcpu,
        state: &mut VcpuState,
        deadline: Option<Ticks>,
        now: Ticks,
    ) -> bool {
        let timer = &state.registers.physical_timer;
        if state.flags.flush_due || state.flags.physical_timer_line || timer.is_enabled() {
            return false;
        }
        let pcpu = &state.pcpu;
        if pcpu.must_schedule.load(Ordering::Acquire)
            || pcpu
                .queue
                .lock()
                .settled()
                .rest(vcpu.slot, Wait::Request, deadline, now)
                .is_none()
        {
            return false;
        }
        pcpu.resting.store(vcpu.slot.index(), Ordering::SeqCst);
        self.account_rest(vcpu, state, RUNSTATE_BLOCKED);
        // What the pCPU's timer is to be set to, if that is earlier.
        state.over.deadline = deadline;
        true
    }

    /// The pCPU has waited with the loaded vCPU in place, and the interrupt of its virtual timer has come, which stays active.
    /// `false`: it goes on by [`Self::end_rest`], if that wait was for something else or this pCPU is wanted.
    #[inline(always)]
    pub fn end_rest_by_timer<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState) -> bool {
        let Located { vcpu, .. } = at;
        let pcpu = &state.pcpu;
        // Whoever leaves a note from here on finds a vCPU that waits as others do, or runs.
        pcpu.resting.store(NOBODY, Ordering::SeqCst);
        let now = self.machine.now();
        if state.has_access() || !pcpu.queue.lock().settled().end_rest(vcpu.slot, Wait::Event, now) {
            return false;
        }
        self.account_rest(vcpu, state, RUNSTATE_RUNNING);
        // It runs, and its timer fires: as ever.
        if !self.on_virtual_timer_again(at, cpu, state) && !self.on_virtual_timer_at_once(at, cpu, state) {
            self.on_virtual_timer(cpu, state);
        }
        true
    }

    /// The pCPU has waited with the loaded vCPU in place, and an interrupt has come.
    #[inline]
    pub fn end_rest<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState, end: RestEnd) -> Rested {
        let Located { vcpu, .. } = at;
        // Whoever leaves a note from here on finds a vCPU that waits as others do, or runs.
        state.pcpu.resting.store(NOBODY, Ordering::SeqCst);
        let now = self.machine.now();
        match end {
            RestEnd::Timer if self.end_rest_by_timer(at, cpu, state) => Rested::GoesOn,
            RestEnd::Kick => self.end_by_kick(at, cpu, state, now),
            _ => self.leave_rest(vcpu, now),
        }
    }

    /// The pCPU of the loaded vCPU, which rested, was kicked: the vCPU goes on if that was for what it waits for.
    #[inline(always)]
    fn end_by_kick<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState, now: Ticks) -> Rested {
        let Located { domain, vcpu } = at;
        let pcpu = &state.pcpu;
        let what = if state.has_access() { Wait::Request } else { Wait::Event };
        if !vcpu.has_notes_for(what)
            || pcpu.must_schedule.load(Ordering::Acquire)
            || !pcpu.queue.lock().settled().end_rest(vcpu.slot, what, now)
        {
            return self.leave_rest(vcpu, now);
        }
        self.account_rest(vcpu, state, RUNSTATE_RUNNING);
        // It is as if it ran all the time: whatever else is wanted of it comes with another kick.
        let goes_on = match what {
            Wait::Request => vcpu.take_only(Attention::Request) && self.take_plain(cpu, domain, vcpu, state),
            _ => {
                vcpu.take_only(Attention::Upcall) && {
                    let at_once = self.take_upcall_at_once(cpu, domain, vcpu, state);
                    if !at_once {
                        self.take_upcall(domain, vcpu);
                        state.flags.flush_due = true;
                    }
                    at_once
                }
            }
        };
        if goes_on {
            self.gate.enter(vcpu.pcpu);
            return Rested::GoesOn;
        }
        self.goes_on_otherwise(at, cpu, state)
    }

    #[inline(never)]
    fn goes_on_otherwise<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState) -> Rested {
        if self.goes_on(at, cpu, state) {
            Rested::GoesOn
        } else {
            Rested::Due
        }
    }

    #[inline(never)]
    fn leave_rest(&self, vcpu: &Vcpu, now: Ticks) -> Rested {
        if let Some(pcpu) = self.pcpu(vcpu.pcpu) {
            pcpu.queue.lock().settled().stop_resting(now);
            self.left_guest(vcpu.pcpu);
            // What comes for it from here on wakes it.
            pcpu.running.store(NOBODY, Ordering::Relaxed);
        }
        Rested::Waits
    }

    /// The loaded vCPU waits on, unless something has woken it, as it does where others can run.
    pub fn wait_on<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState) {
        let Located { domain, vcpu } = at;
        let Some(pcpu) = self.pcpu(vcpu.pcpu) else { return };
        let waits = pcpu.queue.lock().settled().waits(vcpu.slot);
        match waits {
            Some(Wait::Event) if vcpu.has_notes_for(Wait::Event) => self.wake(vcpu, Wait::Event),
            Some(Wait::Event) => match self.wait_until(cpu, state, None, self.machine.now()) {
                Some(deadline) => {
                    self.block(vcpu, Wait::Event, deadline);
                    self.recheck_wait(cpu, domain, vcpu, state);
                }
                None => self.wake(vcpu, Wait::Event),
            },
            Some(Wait::Request) => {
                pcpu.queue.lock().settled().wait_on(vcpu.slot);
                pcpu.must_schedule.store(true, Ordering::Release);
                // Interrupts it takes when it has its answer.
                if vcpu.has_notes_for(Wait::Request) {
                    self.wake(vcpu, Wait::Request);
                }
            }
            // Whoever woke it has this pCPU decide.
            _ => {}
        }
    }
}
