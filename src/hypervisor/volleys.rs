//! Two vCPUs on one pCPU that wait for each other's events in turns: the event of one, and the other's WFI, without a
//! decision of the run queue ([`crate::sched::Turns`]).
//!
//! The event goes to the words that the last one from the same port went to, the upcall comes with the vCPU that is loaded for
//! it, and its WFI gives the pCPU back to whoever sent it. What is not as it was goes the way of all events and waits.

use core::sync::atomic::Ordering;

use crate::abi::vcpu::{RUNSTATE_BLOCKED, RUNSTATE_RUNNABLE};
use crate::counters::Exit;
use crate::cpu::Cpu;
use crate::domain::Domain;
use crate::domain::vcpu::{Attention, Vcpu};
use crate::evtchn::{Arrived, Delivery, Route, Sender};
use crate::hypervisor::interrupts::VIRTUAL_TIMER;
use crate::hypervisor::quick::is_wait_for_interrupt;
use crate::hypervisor::{Hypervisor, Located, News, Quick, VcpuState};
use crate::ids::{DomainId, EventPort};
use crate::machine::Machine;

/// The port of another domain by which a vCPU sent last.
#[derive(Copy, Clone, Debug)]
pub(crate) struct KnownPeer {
    /// Its own port; 0: none.
    pub(crate) port: EventPort,
    /// Where that is connected to, and how the other side is told. It is good while that side's channels are as they were,
    /// of which this connection is one.
    remote: DomainId,
    peer: EventPort,
    route: Route,
}

impl KnownPeer {
    pub(crate) const NONE: Self = Self {
        port: EventPort(0),
        remote: DomainId(0),
        peer: EventPort(0),
        route: Route::NONE,
    };

    pub(crate) const fn new(port: EventPort, remote: DomainId, peer: EventPort, route: Route) -> Self {
        Self {
            port,
            remote,
            peer,
            route,
        }
    }
}

impl<M: Machine> Hypervisor<M> {
    /// EVTCHNOP_send by the loaded vCPU from the port of another domain that it sent by last. It has not left its guest: nobody is
    /// waited for who may wait for that.
    #[inline(never)]
    pub(crate) fn send_to_peer<C: Cpu>(
        &self,
        at: Located<'_>,
        cpu: &mut C,
        state: &mut VcpuState,
        port: EventPort,
    ) -> Quick {
        let vcpu = at.vcpu;
        let known = &state.peer;
        let Some(target) = self.domain(known.remote) else {
            return self.send_anew(at, cpu, state, port);
        };
        let Some(events) = target.events.try_lock() else {
            return self.send_anew(at, cpu, state, port);
        };
        let arrived = events.arrive(&known.route, &self.machine);
        drop(events);
        match arrived {
            Arrived::Not => return self.send_anew(at, cpu, state, port),
            Arrived::Halfway => return self.finish_send(at, state, target),
            Arrived::Quietly => {}
            Arrived::Upcall => {
                let listener = known.route.vcpu();
                let Some(to) = target
                    .vcpus
                    .get(usize::from(listener))
                    .filter(|to| to.pcpu == vcpu.pcpu)
                else {
                    return self.tell_peer(at, state, target, listener);
                };
                if to.may_wait() {
                    if !self.go_to_listener(vcpu, state, to) {
                        return self.tell_peer(at, state, target, listener);
                    }
                    self.left_guest(vcpu.pcpu);
                    state.frame.write(0, 0);
                    return Quick::Across;
                }
                // It could run all the time, and finds it when it is loaded.
                to.note(Attention::Upcall);
            }
        }
        state.frame.write(0, 0);
        Quick::Done
    }

    /// The vCPU `listener` of `target` is to have the upcall, and it is not as simple as that.
    #[inline(never)]
    fn tell_peer(&self, at: Located<'_>, state: &mut VcpuState, target: &Domain, listener: u8) -> Quick {
        self.left_guest(at.vcpu.pcpu);
        state.frame.write(0, 0);
        let delivery = Delivery {
            upcall: Some(listener),
            ..Delivery::NOBODY
        };
        self.tell_guest(at.vcpu, state, target, listener, delivery)
    }

    /// The event is pending, but its guest fights for the word that tells so.
    #[cold]
    #[inline(never)]
    fn finish_send(&self, at: Located<'_>, state: &mut VcpuState, target: &Domain) -> Quick {
        self.left_guest(at.vcpu.pcpu);
        state.frame.write(0, 0);
        let known = state.peer;
        let sender = Sender {
            domain: at.domain.id,
            port: known.port,
        };
        let delivery = self.with_words(|words| target.events.lock().tell(known.peer, sender, words));
        if delivery == Delivery::NOBODY {
            return self.go_back(at.vcpu);
        }
        self.tell_guest(at.vcpu, state, target, known.route.vcpu(), delivery)
    }

    /// The loaded vCPU has sent an event to `to`, another one of its pCPU, which is to have the upcall, and which runs at once.
    /// `false`: nothing was done.
    #[inline(always)]
    pub(crate) fn go_to_listener(&self, vcpu: &Vcpu, state: &mut VcpuState, to: &Vcpu) -> bool {
        let pcpu = &state.pcpu;
        if pcpu.must_schedule.load(Ordering::Acquire) {
            return false;
        }
        let now = self.machine.now();
        // Tried, so that no register is kept for a wait.
        let Some(mut queue) = pcpu.queue.try_lock() else {
            return false;
        };
        let over = queue.send(vcpu.slot, to.slot, now);
        drop(queue);
        if !over {
            return false;
        }
        pcpu.running.store(to.slot.index(), Ordering::Relaxed);
        state.go_across(vcpu, to.id, News::Event, RUNSTATE_RUNNABLE);
        true
    }

    /// The loaded vCPU's WFI, by ESR_EL2, if an event of another brought it here and that one goes on at once. `false`: nothing
    /// was done.
    #[inline(always)]
    pub fn waits_across<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState, esr: u64) -> bool {
        if !state.came_across {
            return false;
        }
        self.gives_way(at, cpu, state, esr)
    }

    #[inline(always)]
    fn gives_way<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState, esr: u64) -> bool {
        let Located { domain, vcpu } = at;
        let timer = &state.registers.physical_timer;
        let due = !state.flags.is_only_on() || timer.is_enabled();
        if due || !is_wait_for_interrupt(esr, &state.frame) || vcpu.has_notes() || self.virtual_deadline(cpu).is_some()
        {
            return false;
        }
        // With nothing in its list registers, nothing in them wakes it.
        let pcpu = &state.pcpu;
        if pcpu.must_schedule.load(Ordering::Acquire) {
            return false;
        }
        // Locks are tried, so that no register is kept for a wait.
        let Some(mut vgic) = domain.vgic.try_lock() else {
            return false;
        };
        let index = vcpu.id.index;
        if !vgic.shows_nothing(index, cpu.virtual_interface()) {
            return false;
        }
        let now = self.machine.now();
        let Some(mut queue) = pcpu.queue.try_lock() else {
            return false;
        };
        let next = queue.wait_again(vcpu.slot, now);
        drop(queue);
        let Some((slot, to)) = next else {
            return false;
        };
        // As it goes in any case, its list registers are given up under the same lock.
        let parked = vgic.park_ended(index);
        let parked = parked.then(|| vgic.holds_physical(index, VIRTUAL_TIMER));
        drop(vgic);
        pcpu.running.store(slot.index(), Ordering::Relaxed);
        self.left_guest(vcpu.pcpu);
        state.count(Exit::Wait);
        state.frame.advance_a64();
        // What it was sent meanwhile comes along.
        let news = match self.vcpu(to) {
            Some((_, sender)) if sender.take_upcall() => News::Upcall,
            _ => News::Nothing,
        };
        state.go_across(vcpu, to, news, RUNSTATE_BLOCKED);
        state.across.parked = parked;
        true
    }
}
