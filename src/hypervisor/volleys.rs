//! Two vCPUs on one pCPU that wait for each other's events in turns: the event of one, and the other's WFI, without a
//! decision of the run queue ([`crate::sched::Turns`]).
//!
//! The event goes to the words that the last one from the same port went to, the upcall comes with the vCPU that is loaded for
//! it, and its WFI gives the pCPU back to whoever sent it. What is not as it was goes the way of all events and waits.

use core::sync::atomic::Ordering;

use crate::abi::vcpu::{RUNSTATE_BLOCKED, RUNSTATE_RUNNABLE};
use crate::counters::Exit;
use crate::cpu::Cpu;
use crate::domain::vcpu::Vcpu;
use crate::evtchn::{Arrived, Delivery, Route, Sender};
use crate::hypervisor::quick::is_wait_for_interrupt;
use crate::hypervisor::{Across, Hypervisor, Located, News, Quick, VcpuState};
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
    /// EVTCHNOP_send by the loaded vCPU, which has left its guest, from the port that it sent by last. `None`: nothing was done.
    #[inline]
    pub(crate) fn send_to_peer(&self, at: Located<'_>, state: &mut VcpuState) -> Option<Quick> {
        let Located { domain, vcpu } = at;
        let known = &state.peer;
        let target = self.domain(known.remote)?;
        let mut events = target.events.lock();
        let listener = known.route.vcpu();
        let delivery = match events.arrive(&known.route, &self.machine) {
            Arrived::Upcall => Delivery {
                upcall: Some(listener),
                ..Delivery::NOBODY
            },
            Arrived::Quietly => Delivery::NOBODY,
            Arrived::Not => return None,
            Arrived::Halfway => {
                let (peer, sender) = (
                    known.peer,
                    Sender {
                        domain: domain.id,
                        port: known.port,
                    },
                );
                self.with_words(|words| events.tell(peer, sender, words))
            }
        };
        drop(events);
        if delivery == Delivery::NOBODY {
            return Some(self.go_back(vcpu));
        }
        Some(self.tell_guest(vcpu, state, target, listener, delivery))
    }

    /// The loaded vCPU has sent an event to `to`, another one of its pCPU, which is to have the upcall, and which runs at once.
    /// `false`: nothing was done.
    #[inline(always)]
    pub(crate) fn go_to_listener(&self, vcpu: &Vcpu, state: &mut VcpuState, to: &Vcpu) -> bool {
        let Some(pcpu) = self.pcpu(vcpu.pcpu) else { return false };
        if pcpu.must_schedule.load(Ordering::Acquire) {
            return false;
        }
        let now = self.machine.now();
        if !pcpu.queue.lock().send(vcpu.slot, to.slot, now) {
            return false;
        }
        pcpu.running.store(to.slot.index(), Ordering::Relaxed);
        state.across = Across {
            to: to.id,
            news: News::Event,
        };
        state.leaves_as = Some(RUNSTATE_RUNNABLE);
        true
    }

    /// The loaded vCPU's WFI, by ESR_EL2, if an event of another brought it here and that one goes on at once. `false`: nothing
    /// was done.
    #[inline]
    pub fn waits_across<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState, esr: u64) -> bool {
        if !state.came_across {
            return false;
        }
        self.gives_way(at, cpu, state, esr)
    }

    #[inline(never)]
    fn gives_way<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState, esr: u64) -> bool {
        let Located { domain, vcpu } = at;
        let timer = &state.registers.physical_timer;
        let due = state.flush_due || state.polls || state.physical_timer_line || timer.is_enabled();
        if due || !is_wait_for_interrupt(esr, &state.frame) || vcpu.has_notes() || self.virtual_deadline(cpu).is_some()
        {
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
        let Some((slot, to)) = pcpu.queue.lock().wait_again(vcpu.slot, now) else {
            return false;
        };
        pcpu.running.store(slot.index(), Ordering::Relaxed);
        self.left_guest(vcpu.pcpu);
        state.count(Exit::Wait);
        state.frame.advance_a64();
        // What it was sent meanwhile comes along.
        let news = match self.vcpu(to) {
            Some((_, sender)) if sender.take_upcall() => News::Upcall,
            _ => News::Nothing,
        };
        state.across = Across { to, news };
        state.leaves_as = Some(RUNSTATE_BLOCKED);
        true
    }
}
