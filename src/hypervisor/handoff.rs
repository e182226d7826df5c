//! The direct handoff: a request to a server on the same pCPU, and its answer, as one straight path each.
//!
//! The request finds its server, is written into the slot, makes the event pending in the server's shared page, and the
//! pCPU goes over to the vCPU that the event is for, on the time of the one that waits. The answer's event finishes the
//! request, and the pCPU goes back at once: what the server's vCPU has left to do waits for its next turn. Each is one
//! decision of the run queue ([`crate::sched::RunQueue::call`], [`answer`](crate::sched::RunQueue::answer)). So is a WFI
//! ([`wait`](crate::sched::RunQueue::wait)).
//!
//! Whatever is not as usual (several vCPUs of higher urgency, vCPUs that are held or visited, timers that are due, a server
//! that is late or elsewhere) goes the way of all other requests and events, which decides the same.

use core::sync::atomic::Ordering;

use crate::abi::HypercallError;
use crate::abi::vcpu::{RUNSTATE_BLOCKED, RUNSTATE_RUNNABLE};
use crate::access::MmioAccess;
use crate::cpu::Cpu;
use crate::domain::Domain;
use crate::domain::vcpu::{Attention, Vcpu};
use crate::evtchn::{Arrived, Delivery, EventChannels, Sender, Sent, UPCALL};
use crate::hypervisor::alarms::NEVER;
use crate::hypervisor::clock::CoreClock;
use crate::hypervisor::run::{NOBODY, Pcpu};
use crate::hypervisor::volleys::KnownPeer;
use crate::hypervisor::{Hypervisor, Located, News, Quick, Schedule, VcpuState};
use crate::ids::{EventPort, PcpuId, ServerId, Ticks, VcpuId, VcpuSet};
use crate::ioreq::{Answer, Clock, Handed, Servers};
use crate::machine::Machine;
use crate::routing;
use crate::sched::{Pick, Slot, Wait};
use crate::trace::{Kind, served};

/// What became of a request.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Called {
    /// Nothing: it is not a usual one.
    Not,
    /// A server has it, and the vCPU waits for the answer.
    Posted,
    /// A server has it, the vCPU waits, and who runs is in its state.
    Over,
    /// A server elsewhere has it, and the vCPU waits in place.
    Rests,
    /// The same, as they have talked before.
    Across,
}

impl<M: Machine> Hypervisor<M> {
    /// The loaded vCPU's access, if it is one that a server takes at once.
    #[inline]
    pub(crate) fn call_server(
        &self,
        domain: &Domain,
        vcpu: &Vcpu,
        state: &mut VcpuState,
        access: &MmioAccess,
    ) -> Called {
        let now = self.machine.now();
        // Nobody hears an answer, or changes a limit, before the vCPU is marked as waiting.
        let mut servers = domain.servers.lock();
        let Some(handed) = servers.hand(vcpu.id.index, access, now, &self.machine) else {
            return Called::Not;
        };
        self.machine
            .trace(Kind::Posted, vcpu.id, served(handed.owner, handed.server));
        let told = self.domain(handed.owner).and_then(|server| {
            let sender = Sender {
                domain: domain.id,
                port: handed.port,
            };
            let (delivery, listener) = self.tell_server(server, &mut servers, vcpu.id.index, (handed.peer, sender))?;
            Some((server, delivery, listener))
        });
        if let Some((server, delivery, listener)) = told
            && let Some(to) = self.lend_to_server(
                (vcpu, &state.pcpu),
                &mut servers,
                (server, delivery, listener),
                &handed,
                now,
            )
        {
            let news = if delivery.upcall.is_some() {
                News::Upcall
            } else {
                News::Nothing
            };
            state.go_across(vcpu, to, news, RUNSTATE_BLOCKED);
            return Called::Across;
        }
        if let Some((server, delivery, _)) = &told
            && self.call_elsewhere(vcpu, state, &mut servers, (server, delivery, &handed), now)
        {
            return Called::Rests;
        }
        if let Some((server, delivery, listener)) = told
            && let Some(schedule) = self.go_to_server(vcpu, &mut servers, (server, delivery, listener), &handed, now)
        {
            state.over = schedule;
            state.leaves_as = Some(RUNSTATE_BLOCKED);
            return Called::Over;
        }
        if handed.deadline.is_some() {
            servers.set_posted(vcpu.id.index, CoreClock::new(self).runnable(handed.owner));
        }
        drop(servers);
        self.wait_for_answer((domain, vcpu), state, (told.map(|(server, ..)| server), &handed), now)
    }

    /// The loaded vCPU waits for a server that works elsewhere, or that somebody else runs before; `told`: its domain, if it
    /// has been told.
    #[inline(never)]
    fn wait_for_answer(
        &self,
        (domain, vcpu): (&Domain, &Vcpu),
        state: &mut VcpuState,
        (told, handed): (Option<&Domain>, &Handed),
        now: Ticks,
    ) -> Called {
        let over = match told {
            Some(server) if server.vcpus.iter().all(|server| server.pcpu != vcpu.pcpu) => {
                if self.rests_for_answer(vcpu, state, handed.deadline, now) {
                    // An answer that came before has kicked this pCPU.
                    return Called::Rests;
                }
                self.switch_from_waiter(vcpu, Wait::Request, handed.deadline, now)
            }
            Some(_) => None,
            None => {
                let sent = domain.events.lock().notify_attached(handed.port);
                let mut domains = self;
                routing::carry(&mut domains, domain.id, sent);
                None
            }
        };
        if over.is_none() {
            self.block(vcpu, Wait::Request, handed.deadline);
            if let Some(server) = self.domain(handed.owner) {
                self.hand_off_to_domain(vcpu, server);
            }
        }
        // An answer, or another limit, that came before the vCPU was marked as waiting woke nobody.
        if vcpu.has_note(Attention::Request) {
            self.wake(vcpu, Wait::Request);
            return Called::Posted;
        }
        let Some(schedule) = over else {
            return Called::Posted;
        };
        state.over = schedule;
        state.leaves_as = schedule.run.map(|_| RUNSTATE_BLOCKED);
        Called::Over
    }

    /// The event for the request of the target's `vcpu`: what the server's domain is to be told, and the vCPU that it concerns.
    /// `None`: it has no port for it any more.
    #[inline(always)]
    fn tell_server(
        &self,
        server: &Domain,
        servers: &mut Servers,
        vcpu: u8,
        (port, sender): (EventPort, Sender),
    ) -> Option<(Delivery, u8)> {
        let mut events = server.events.lock();
        let route = servers.event_route(vcpu);
        let listener = route.vcpu();
        let upcall = |told| Delivery {
            upcall: told,
            ..Delivery::NOBODY
        };
        match events.arrive(route, &self.machine) {
            Arrived::Upcall => Some((upcall(Some(listener)), listener)),
            Arrived::Quietly => Some((Delivery::NOBODY, listener)),
            arrived => self.tell_server_anew(&mut events, servers, vcpu, (port, sender), arrived),
        }
    }

    /// As [`Self::tell_server`], where the way is not known, or `arrived` says that it is done by half.
    #[cold]
    #[inline(never)]
    fn tell_server_anew(
        &self,
        events: &mut EventChannels,
        servers: &mut Servers,
        vcpu: u8,
        (port, sender): (EventPort, Sender),
        arrived: Arrived,
    ) -> Option<(Delivery, u8)> {
        if arrived == Arrived::Halfway {
            let listener = servers.event_route(vcpu).vcpu();
            let delivery = self.with_words(|words| events.tell(port, sender, words));
            return Some((delivery, listener));
        }
        if let Some(route) = events.route(port, sender) {
            servers.set_event_route(vcpu, route);
        }
        self.with_words(|words| events.deliver(port, sender, words))
    }

    /// Tells the server's domain of its event, and goes over to the vCPU that hears it, if that can run here and now.
    #[inline(always)]
    fn go_to_server(
        &self,
        vcpu: &Vcpu,
        servers: &mut Servers,
        (server, delivery, listener): (&Domain, Delivery, u8),
        handed: &Handed,
        now: Ticks,
    ) -> Option<Schedule> {
        let mut told = VcpuSet::EMPTY;
        if let Some(upcall) = delivery.upcall {
            told = server.vgic.lock().pulse_private(upcall, UPCALL).unwrap_or_default();
        }
        let over = self.switch_to_server(vcpu, server, (listener, told), handed.deadline, now);
        if over.is_some() {
            // It looks before it runs.
            told.remove(listener);
        }
        if !told.is_empty() {
            self.interrupt_told(server, told);
        }
        if !delivery.wake.is_empty() {
            self.wake_pollers(server, delivery.wake);
        }
        let (schedule, runnable) = over?;
        if handed.deadline.is_some() {
            // Of several vCPUs it is the one that got the most.
            let runnable = match server.vcpus.as_slice() {
                [_] => runnable,
                _ => CoreClock::new(self).runnable(handed.owner),
            };
            servers.set_posted(vcpu.id.index, runnable);
        }
        Some(schedule)
    }

    /// Goes over to the server's only vCPU, which has been told, if it runs on the time of `vcpu` again and again.
    #[inline(always)]
    fn lend_to_server(
        &self,
        (vcpu, pcpu): (&Vcpu, &Pcpu),
        servers: &mut Servers,
        (server, delivery, listener): (&Domain, Delivery, u8),
        handed: &Handed,
        now: Ticks,
    ) -> Option<VcpuId> {
        // Who listens is looked at when there is anybody to choose from.
        let [to] = server.vcpus.as_slice() else { return None };
        if to.pcpu != vcpu.pcpu || listener != 0 || !delivery.wake.is_empty() {
            return None;
        }
        if pcpu.must_schedule.load(Ordering::Acquire) {
            return None;
        }
        let runnable = pcpu.queue.lock().lend(vcpu.slot, to.slot, handed.deadline, now)?;
        pcpu.running.store(to.slot.index(), Ordering::Relaxed);
        servers.set_posted(vcpu.id.index, runnable.min(now));
        Some(to.id)
    }

    #[inline(never)]
    fn interrupt_told(&self, server: &Domain, told: VcpuSet) {
        self.interrupt_vcpus(server, told);
    }

    /// Goes over to the vCPU `listener` of `server`; and for how long that has been able to run.
    #[inline(always)]
    fn switch_to_server(
        &self,
        vcpu: &Vcpu,
        server: &Domain,
        (listener, told): (u8, VcpuSet),
        deadline: Option<Ticks>,
        now: Ticks,
    ) -> Option<(Schedule, Ticks)> {
        let to = server.vcpus.get(usize::from(listener))?;
        if to.pcpu != vcpu.pcpu {
            return None;
        }
        let pcpu = self.pcpu(vcpu.pcpu)?;
        let limit = self.unhurried(pcpu, vcpu.pcpu, now)?;
        let mut turns = pcpu.queue.lock();
        let queue = turns.settled();
        // An event that it has already, or does not want to hear of, does not wake it.
        if !told.contains(listener) && queue.waits(to.slot).is_some() {
            return None;
        }
        let pick = queue.call(vcpu.slot, to.slot, deadline, now)?;
        let starved = queue.starved(to.slot, now).unwrap_or_default();
        drop(turns);
        pcpu.running.store(to.slot.index(), Ordering::Relaxed);
        let runnable = Ticks(now.0.saturating_sub(starved.0));
        Some((schedule(pick, limit), runnable))
    }

    /// EVTCHNOP_send by the loaded vCPU, which has left its guest. What is left to do then: [`Quick::Done`] says that it is
    /// back in its guest.
    ///
    /// # Errors
    /// EINVAL.
    #[inline]
    pub(crate) fn send_event<C: Cpu>(
        &self,
        at: Located<'_>,
        cpu: &mut C,
        state: &mut VcpuState,
        port: EventPort,
    ) -> Result<Quick, HypercallError> {
        let Located { domain, vcpu } = at;
        let mut events = domain.events.lock();
        if let Some((target, server, waiter)) = events.answers(port) {
            drop(events);
            if let Some(target) = self.domain(target)
                && let Some(heard) = self.hear_answer(vcpu, state, target, server, waiter)
            {
                return Ok(heard);
            }
            events = domain.events.lock();
        }
        let sent = self.with_words(|words| events.send(port, words));
        drop(events);
        let sent = sent?;
        match sent {
            Sent::Peer(sender, remote, peer) => {
                if let Some(target) = self.domain(remote)
                    && let Some((delivery, listener)) = self.with_words(|words| {
                        let mut events = target.events.lock();
                        if remote != domain.id
                            && let Some(route) = events.route(peer, sender)
                        {
                            state.peer = KnownPeer::new(port, remote, peer, route);
                        }
                        events.deliver(peer, sender, words)
                    })
                {
                    if remote == domain.id {
                        state.own_port = port;
                    }
                    // It has that event already, or does not want to hear of it.
                    let nobody = delivery == Delivery::NOBODY;
                    if nobody || (remote == domain.id && self.tell_itself(at, cpu, state, delivery)) {
                        return Ok(self.go_back(vcpu));
                    }
                    return Ok(self.tell_guest(vcpu, state, target, listener, delivery));
                }
            }
            Sent::Own(delivery) if delivery == Delivery::NOBODY || self.tell_itself(at, cpu, state, delivery) => {
                return Ok(self.go_back(vcpu));
            }
            _ => {}
        }
        let mut domains = self;
        routing::carry(&mut domains, domain.id, sent);
        Ok(Quick::Due)
    }

    /// Nothing is left to do before the loaded vCPU goes on in its guest.
    #[inline]
    pub(crate) fn go_back(&self, vcpu: &Vcpu) -> Quick {
        self.gate.enter(vcpu.pcpu);
        Quick::Done
    }

    /// The loaded vCPU has an event, and nobody else. `false`: it is not as simple as that, and nothing was done.
    #[inline]
    pub(crate) fn tell_itself<C: Cpu>(
        &self,
        at: Located<'_>,
        cpu: &mut C,
        state: &VcpuState,
        delivery: Delivery,
    ) -> bool {
        let index = at.vcpu.id.index;
        delivery.upcall == Some(index)
            && delivery.wake.is_empty()
            && !state.flags.flush_due
            && at
                .domain
                .vgic
                .lock()
                .pulse_private_at_once(index, UPCALL, cpu.virtual_interface())
    }

    /// The loaded vCPU has sent an event to `target`, which notifies `listener`.
    #[inline]
    pub(crate) fn tell_guest(
        &self,
        vcpu: &Vcpu,
        state: &mut VcpuState,
        target: &Domain,
        listener: u8,
        delivery: Delivery,
    ) -> Quick {
        let Some(upcall) = delivery.upcall else {
            if !delivery.wake.is_empty() {
                self.wake_pollers(target, delivery.wake);
            }
            return Quick::Due;
        };
        if delivery.wake.is_empty()
            && let Some(to) = target.vcpus.get(usize::from(upcall))
            && to.pcpu == vcpu.pcpu
            && to.id != vcpu.id
        {
            if !to.may_wait() {
                // It could run all the time, and finds it when it is loaded.
                to.note(Attention::Upcall);
                return self.go_back(vcpu);
            }
            if self.go_to_listener(vcpu, state, to) {
                return Quick::Across;
            }
        }
        let told = target.vgic.lock().pulse_private(upcall, UPCALL).unwrap_or_default();
        let alone = told == VcpuSet::only(listener) && delivery.wake.is_empty();
        if alone && let Some(schedule) = self.switch_to_listener(vcpu, target, listener) {
            state.over = schedule;
            state.leaves_as = Some(RUNSTATE_RUNNABLE);
            return Quick::Over;
        }
        self.interrupt_vcpus(target, told);
        if !delivery.wake.is_empty() {
            self.wake_pollers(target, delivery.wake);
        }
        Quick::Due
    }

    #[inline]
    fn switch_to_listener(&self, vcpu: &Vcpu, target: &Domain, listener: u8) -> Option<Schedule> {
        let to = target.vcpus.get(usize::from(listener))?;
        if to.pcpu != vcpu.pcpu {
            return None;
        }
        let now = self.machine.now();
        let pcpu = self.pcpu(vcpu.pcpu)?;
        let limit = self.unhurried(pcpu, vcpu.pcpu, now)?;
        let pick = pcpu.queue.lock().preempt(to.slot, now)?;
        pcpu.running.store(to.slot.index(), Ordering::Relaxed);
        Some(schedule(pick, limit))
    }

    /// The server `id` has sent its event for a vCPU of `target`. `None`: it is no usual answer, and nothing was done.
    #[inline]
    fn hear_answer(
        &self,
        vcpu: &Vcpu,
        state: &mut VcpuState,
        target: &Domain,
        id: ServerId,
        waiter: u8,
    ) -> Option<Quick> {
        let now = self.machine.now();
        let mut servers = target.servers.lock();
        let owner = servers.hear_answer(id, waiter, now, &self.machine)?;
        let answered = VcpuId {
            domain: target.id,
            index: waiter,
        };
        self.machine.trace(Kind::Answered, answered, served(owner, id));
        if self.give_turn_back((vcpu, &state.pcpu), target, waiter, now)
            && let Some(Answer::Value(value)) = servers.take(waiter)
        {
            state.go_across(vcpu, answered, News::Answer(value), RUNSTATE_RUNNABLE);
            return Some(Quick::Across);
        }
        drop(servers);
        if let Some(to) = target.vcpus.get(usize::from(waiter))
            && to.pcpu != vcpu.pcpu
        {
            self.notify(to, Attention::Request, Wait::Request);
            return Some(self.go_back(vcpu));
        }
        let Some(schedule) = self.switch_to_waiter(vcpu, target, waiter, now) else {
            self.wake_requests(target, VcpuSet::only(waiter));
            return Some(Quick::Due);
        };
        state.over = schedule;
        state.leaves_as = Some(RUNSTATE_RUNNABLE);
        Some(Quick::Over)
    }

    /// Goes back to the vCPU `waiter` of `target`, on whose time `vcpu` was taken down to run.
    #[inline(always)]
    fn give_turn_back(&self, (vcpu, pcpu): (&Vcpu, &Pcpu), target: &Domain, waiter: u8, now: Ticks) -> bool {
        let Some(to) = target.vcpus.get(usize::from(waiter)) else {
            return false;
        };
        let back = to.pcpu == vcpu.pcpu
            && !pcpu.must_schedule.load(Ordering::Acquire)
            && pcpu.queue.lock().take_back(vcpu.slot, to.slot, now);
        if back {
            pcpu.running.store(to.slot.index(), Ordering::Relaxed);
        }
        back
    }

    #[inline]
    fn switch_to_waiter(&self, vcpu: &Vcpu, target: &Domain, waiter: u8, now: Ticks) -> Option<Schedule> {
        let to = target.vcpus.get(usize::from(waiter))?;
        if to.pcpu != vcpu.pcpu {
            return None;
        }
        let pcpu = self.pcpu(vcpu.pcpu)?;
        let limit = self.unhurried(pcpu, vcpu.pcpu, now)?;
        let pick = pcpu.queue.lock().answer(vcpu.slot, to.slot, limit, now)?;
        pcpu.running.store(to.slot.index(), Ordering::Relaxed);
        Some(schedule(pick, limit))
    }

    /// The loaded vCPU waits for `what`: who runs.
    #[inline]
    pub(crate) fn switch_from_waiter(
        &self,
        vcpu: &Vcpu,
        what: Wait,
        deadline: Option<Ticks>,
        now: Ticks,
    ) -> Option<Schedule> {
        let pcpu = self.pcpu(vcpu.pcpu)?;
        let limit = self.unhurried(pcpu, vcpu.pcpu, now)?;
        let mut turns = pcpu.queue.lock();
        let pick = match what {
            Wait::Event => turns.wait(vcpu.slot, deadline, limit, now),
            _ => turns.settled().wait(vcpu.slot, what, deadline, now),
        }?;
        let running = turns.running().map_or(NOBODY, Slot::index);
        drop(turns);
        pcpu.running.store(running, Ordering::Relaxed);
        Some(schedule(pick, limit))
    }

    /// The pCPU had nobody to run, and has kept the vCPU loaded. If that is the only one that can run now: what
    /// [`Self::schedule`] would say.
    pub fn resume(&self, at: Located<'_>) -> Option<Schedule> {
        let vcpu = at.vcpu;
        let pcpu = self.pcpu(vcpu.pcpu)?;
        let now = self.machine.now();
        // Whatever is asked for from here on is looked at the next time.
        pcpu.must_schedule.store(false, Ordering::SeqCst);
        let limit = self.unhurried(pcpu, vcpu.pcpu, now);
        let pick = limit.and_then(|limit| Some((pcpu.queue.lock().settled().resume(vcpu.slot, now)?, limit)));
        let Some((pick, limit)) = pick else {
            pcpu.must_schedule.store(true, Ordering::Release);
            return None;
        };
        pcpu.running.store(vcpu.slot.index(), Ordering::Relaxed);
        Some(schedule(pick, limit))
    }

    /// Whether nothing else than its run queue decides what a pCPU runs: when that changes at the earliest.
    #[inline]
    fn unhurried(&self, pcpu: &Pcpu, id: PcpuId, now: Ticks) -> Option<Ticks> {
        if pcpu.must_schedule.load(Ordering::Acquire) {
            return None;
        }
        let mut limit = pcpu.alarms.first();
        if id == PcpuId(0) {
            if self.has_message() {
                return None;
            }
            limit = limit.min(self.terminal_deadline());
        }
        (limit > now).then_some(limit)
    }
}

#[inline]
fn schedule(pick: Pick, limit: Ticks) -> Schedule {
    let deadline = pick.until.unwrap_or(NEVER).min(limit);
    Schedule {
        run: pick.run,
        deadline: (deadline != NEVER).then_some(deadline),
    }
}
