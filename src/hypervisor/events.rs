//! Event channels across domains, and what IOREQ servers cause.
//!
//! Each step takes one domain's lock, decides, releases it, and hands a value to the next step ([`crate::routing`]).

use crate::abi::HypercallError;
use crate::cpu::Cpu;
use crate::domain::Domain;
use crate::domain::vcpu::{Attention, Vcpu};
use crate::evtchn::{Consumer, Delivery, EventChannels, Tables, UPCALL};
use crate::hypervisor::clock::CoreClock;
use crate::hypervisor::messages::Message;
use crate::hypervisor::stop::StopPcpus;
use crate::hypervisor::{Hypervisor, VcpuState};
use crate::ids::{DomainId, EventPort, Pa, PcpuId, VcpuId, VcpuSet};
use crate::ioreq::{Effects, Event, Resources, Servers, Surroundings};
use crate::machine::Machine;
use crate::memory::atomic::SharedWords;
use crate::routing::{self, Domains};
use crate::sched::Wait;
use crate::trace::Kind;

impl<M: Machine> Hypervisor<M> {
    /// Calls `operation` with the means to change words that guests share.
    pub(crate) fn with_words<T>(&self, operation: impl FnOnce(&SharedWords<'_, M>) -> T) -> T {
        let others = self.others();
        operation(&SharedWords {
            memory: &self.machine,
            others: &others,
        })
    }

    /// Who can write the words that guests share.
    #[inline(always)]
    pub(crate) fn others(&self) -> StopPcpus<'_, M> {
        StopPcpus::new(self)
    }

    /// A domain's guest has an event.
    pub(crate) fn announce(&self, domain: &Domain, delivery: Delivery) {
        if let Some(vcpu) = delivery.upcall {
            self.with_vgic(domain, |vgic| vgic.pulse_private(vcpu, UPCALL).unwrap_or_default());
        }
        if !delivery.wake.is_empty() {
            self.wake_pollers(domain, delivery.wake);
        }
    }

    /// As [`Self::announce`], by a vCPU of `pcpu`. The upcall of a vCPU that is there too and could run is only noted: it finds
    /// it when it is loaded. Whether the pCPU may have to decide anew.
    #[inline]
    pub(crate) fn announce_from(&self, pcpu: PcpuId, domain: &Domain, delivery: Delivery) -> bool {
        if let Some(index) = delivery.upcall
            && let Some(vcpu) = domain.vcpus.get(usize::from(index))
        {
            if vcpu.pcpu != pcpu || vcpu.may_wait() {
                self.announce(domain, delivery);
                return true;
            }
            vcpu.note(Attention::Upcall);
        }
        if !delivery.wake.is_empty() {
            self.wake_pollers(domain, delivery.wake);
            return true;
        }
        false
    }

    /// The loaded vCPU has [`Attention::Upcall`], and its list registers are in use. `false`: nothing was done.
    #[inline]
    pub(crate) fn take_upcall_at_once<C: Cpu>(
        &self,
        cpu: &mut C,
        domain: &Domain,
        vcpu: &Vcpu,
        state: &VcpuState,
    ) -> bool {
        !state.flags.flush_due
            && domain
                .vgic
                .lock()
                .pulse_private_at_once(vcpu.id.index, UPCALL, cpu.virtual_interface())
    }

    /// The loaded vCPU has [`Attention::Upcall`].
    #[inline(never)]
    pub(crate) fn take_upcall(&self, domain: &Domain, vcpu: &Vcpu) {
        // It looks itself.
        let _ = domain.vgic.lock().pulse_private(vcpu.id.index, UPCALL);
    }

    /// Ends SCHEDOP_poll of some vCPUs.
    #[inline(never)]
    pub(crate) fn wake_pollers(&self, domain: &Domain, vcpus: VcpuSet) {
        for vcpu in vcpus.iter().filter_map(|index| domain.vcpus.get(usize::from(index))) {
            self.notify(vcpu, Attention::Poll, Wait::Event);
        }
    }

    /// vCPUs of `target` that wait for a server must look at their requests.
    pub(crate) fn wake_requests(&self, target: &Domain, vcpus: VcpuSet) {
        for vcpu in vcpus.iter().filter_map(|index| target.vcpus.get(usize::from(index))) {
            self.notify(vcpu, Attention::Request, Wait::Request);
        }
    }

    /// Does what an operation on `target`'s servers asks for.
    pub(crate) fn perform(&self, target: &Domain, effects: &Effects) {
        let mut domains = self;
        routing::perform(&mut domains, target.id, effects);
    }

    /// The loaded vCPU waits for `server`: if one of its vCPUs is ready on the same pCPU, that one runs next.
    pub(crate) fn hand_off_to_domain(&self, waiting: &Vcpu, server: &Domain) {
        for vcpu in server.vcpus.iter().filter(|vcpu| vcpu.pcpu == waiting.pcpu) {
            self.hand_off(waiting, vcpu);
        }
    }

    /// `domain` is no more: nobody waits for its servers.
    pub(crate) fn abandon_servers(&self, owner: DomainId) {
        for target in self.domains() {
            let clock = CoreClock::new(self);
            let around = Surroundings {
                memory: &self.machine,
                clock: &clock,
            };
            let effects = target.servers.lock().owner_gone(owner, &around);
            self.perform(target, &effects);
        }
    }
}

impl<M: Machine> Domains for &Hypervisor<M> {
    type Memory = M;

    fn events<R>(
        &mut self,
        domain: DomainId,
        with: impl FnOnce(&mut EventChannels, &SharedWords<'_, M>) -> R,
    ) -> Option<R> {
        let domain = self.domain(domain)?;
        Some(self.with_words(|words| with(&mut domain.events.lock(), words)))
    }

    fn event_pair<R>(
        &mut self,
        local: DomainId,
        remote: DomainId,
        with: impl FnOnce(Tables<'_>, &SharedWords<'_, M>) -> R,
    ) -> Option<R> {
        let (own, peer) = (self.domain(local)?, self.domain(remote)?);
        if local == remote {
            return Some(self.with_words(|words| with(Tables::Loopback(&mut own.events.lock()), words)));
        }
        let (lower, higher) = if local < remote { (own, peer) } else { (peer, own) };
        let (mut lower, mut higher) = (lower.events.lock(), higher.events.lock());
        let (local, remote) = if local < remote {
            (&mut *lower, &mut *higher)
        } else {
            (&mut *higher, &mut *lower)
        };
        Some(self.with_words(|words| with(Tables::Pair { local, remote }, words)))
    }

    fn deliver(&mut self, domain: DomainId, delivery: Delivery) {
        if let Some(domain) = self.domain(domain) {
            self.announce(domain, delivery);
        }
    }

    fn servers<R>(
        &mut self,
        target: DomainId,
        with: impl FnOnce(&mut Servers, &Surroundings<'_, M>, &mut dyn Resources) -> R,
    ) -> Option<R> {
        let target = self.domain(target)?;
        let clock = CoreClock::new(self);
        let around = Surroundings {
            memory: &self.machine,
            clock: &clock,
        };
        let mut resources = TargetResources {
            hypervisor: self,
            target,
        };
        Some(with(&mut target.servers.lock(), &around, &mut resources))
    }

    fn wake(&mut self, target: DomainId, vcpus: VcpuSet) {
        if let Some(target) = self.domain(target) {
            self.wake_requests(target, vcpus);
        }
    }

    #[inline]
    fn trace(&mut self, target: DomainId, kind: Kind, vcpu: u8, argument: u32) {
        let vcpu = VcpuId {
            domain: target,
            index: vcpu,
        };
        self.machine.trace(kind, vcpu, argument);
    }

    fn review(&mut self, target: DomainId) {
        if let Some(target) = self.domain(target) {
            self.review_shadows(target);
        }
    }

    fn console(&mut self, domain: DomainId) {
        if let Some(domain) = self.domain(domain) {
            self.ring_console(domain);
        }
    }

    fn record(&mut self, target: DomainId, event: Event) {
        self.tell(Message::Request { domain: target, event });
    }
}

/// A target's frames and ports, while its servers are locked.
struct TargetResources<'a, M: Machine> {
    hypervisor: &'a Hypervisor<M>,
    target: &'a Domain,
}

impl<M: Machine> Resources for TargetResources<'_, M> {
    fn allocate_frame(&mut self) -> Option<Pa> {
        self.target.memory.lock().pool.allocate(&self.hypervisor.machine).ok()
    }

    fn share_frame(&mut self, frame: Pa) -> Result<(), HypercallError> {
        let mut references = self.hypervisor.references.lock();
        let taken = references.get(&self.hypervisor.machine, frame, self.target.id);
        taken.map_err(|_| HypercallError::Invalid)
    }

    fn release_frame(&mut self, frame: Pa) {
        let mut memory = self.target.memory.lock();
        let references = self
            .hypervisor
            .references
            .lock()
            .count(&self.hypervisor.machine, frame)
            .unwrap_or(0);
        // The frame came from this pool and is released once.
        let _ = memory.pool.retire(frame, references);
    }

    fn allocate_port(&mut self, remote: DomainId, consumer: Consumer) -> Result<EventPort, HypercallError> {
        self.target.events.lock().alloc_attached(remote, consumer)
    }

    fn release_port(&mut self, port: EventPort) {
        let peer = self.target.events.lock().attached_peer(port);
        if let Some(peer) = peer {
            let mut domains = self.hypervisor;
            domains.event_pair(self.target.id, peer, |mut tables, _| tables.close_attached(port));
        }
    }
}
