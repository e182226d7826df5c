//! What control domains and the console read of domains, vCPUs and servers.
//!
//! Each part is taken under its own lock, so that a report of a running domain is not of one single moment. The cost is
//! bounded: it does not grow with memory or with what a guest has open.

use core::sync::atomic::Ordering;

use crate::domain::Domain;
use crate::domain::report::{DomainCounters, DomainReport, VcpuActivity, VcpuReport};
use crate::hypercall::control::Ranges;
use crate::hypervisor::Hypervisor;
use crate::ids::{DomainId, PAGE_SHIFT, ServerId, VcpuId};
use crate::ioreq::report::ServerReport;
use crate::machine::Machine;
use crate::sched::Wait;

impl<M: Machine> Hypervisor<M> {
    /// What a domain has of things that can leak; `None`: there is none of that number.
    pub fn domain_counters(&self, id: DomainId) -> Option<DomainCounters> {
        let domain = self.domain(id)?;
        let memory = domain.memory.lock();
        let (pool_frames, free) = (memory.pool.frames(), memory.pool.free_frames());
        let foreign_pages = memory.stage2.foreign_pages();
        drop(memory);
        let references = self.references.lock().held(id);
        let (event_channels, attached_ports) = domain.events.lock().in_use();
        Some(DomainCounters {
            ram_pages: domain.ram.iter().map(|bank| bank.size >> PAGE_SHIFT).sum(),
            pool_frames,
            pool_used: pool_frames.saturating_sub(free),
            foreign_pages,
            references,
            event_channels,
            attached_ports,
        })
    }

    /// A domain; `None`: there is none of that number.
    pub fn domain_report(&self, id: DomainId) -> Option<DomainReport> {
        let domain = self.domain(id)?;
        let online = domain.vcpus.iter().filter(|vcpu| vcpu.is_on()).count();
        let servers = domain.servers.lock().ids();
        Some(DomainReport {
            id,
            state: domain.life.phase(),
            paused: domain.paused.load(Ordering::Acquire),
            leaving: self.is_leaving(domain),
            restarts: domain.restarts.load(Ordering::Acquire),
            vcpus: domain.vcpus.len() as u8,
            online_vcpus: online as u8,
            servers,
            serves: domain.serves,
            run_time: self.run_time(domain),
            counters: self.domain_counters(id)?,
        })
    }

    /// Whether some vCPU of a domain that is held has not left its pCPU yet.
    fn is_leaving(&self, domain: &Domain) -> bool {
        domain.vcpus.iter().any(|vcpu| {
            self.pcpu(vcpu.pcpu).is_some_and(|pcpu| {
                let mut turns = pcpu.queue.lock();
                let queue = turns.settled();
                queue.is_held(vcpu.slot) && queue.is_current(vcpu.slot)
            })
        })
    }

    /// A vCPU; `None`: there is no such vCPU.
    pub fn vcpu_report(&self, id: VcpuId) -> Option<VcpuReport> {
        let (domain, vcpu) = self.vcpu(id)?;
        let request = domain.servers.lock().request_report(id.index);
        let interrupts = domain.vgic.lock().injected(id.index);
        let pcpu = self.pcpu(vcpu.pcpu)?;
        let slot = pcpu.queue.lock().settled().report(vcpu.slot, self.machine.now())?;
        Some(VcpuReport {
            pcpu: vcpu.pcpu,
            activity: match slot.waits {
                // What its domain's end and start wait for is not its own.
                _ if !vcpu.is_on() => VcpuActivity::Waiting(Wait::Power),
                Some(wait) => VcpuActivity::Waiting(wait),
                None if slot.is_current => VcpuActivity::Running,
                None => VcpuActivity::Runnable,
            },
            held: slot.held,
            since: slot.since,
            request: request.filter(|_| slot.waits == Some(Wait::Request)),
            run_time: slot.ran,
            server_wait: slot.waited,
            interrupts,
            exits: vcpu.counters.exits(),
        })
    }

    /// A server of a domain's devices; `None`: there is none of that id.
    pub fn server_report(&self, domain: DomainId, server: ServerId) -> Option<ServerReport> {
        self.domain(domain)?.servers.lock().report(server)
    }

    /// Appends the ranges of a server, from number `first` on, as many as there is room for.
    pub fn server_ranges(&self, domain: DomainId, server: ServerId, first: u32, into: &mut Ranges) {
        let Some(domain) = self.domain(domain) else { return };
        let servers = domain.servers.lock();
        let room = into.capacity().saturating_sub(into.len());
        into.extend(servers.ranges(server).skip(first as usize).take(room));
    }
}
