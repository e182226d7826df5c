//! Event channels across domains, and what IOREQ servers cause.
//!
//! Each step takes one domain's lock, decides, releases it, and hands a value to the next step.

use crate::domain::Domain;
use crate::domain::vcpu::{Attention, Vcpu};
use crate::evtchn::{Consumer, Delivery, Received, Sent, UPCALL};
use crate::hypervisor::Hypervisor;
use crate::hypervisor::clock::CoreClock;
use crate::hypervisor::messages::Message;
use crate::hypervisor::stop::StopPcpus;
use crate::ids::{DomainId, VcpuSet};
use crate::ioreq::{Effects, Surroundings};
use crate::machine::Machine;
use crate::memory::atomic::SharedWords;
use crate::sched::Wait;

impl<M: Machine> Hypervisor<M> {
    /// Calls `operation` with the means to change words that guests share.
    pub(crate) fn with_words<T>(&self, operation: impl FnOnce(&SharedWords<'_, M>) -> T) -> T {
        let others = StopPcpus::new(self);
        operation(&SharedWords {
            memory: &self.machine,
            others: &others,
        })
    }

    /// An event was sent: brings it to whoever gets it.
    pub(crate) fn deliver(&self, sender: &Domain, sent: Sent) {
        match sent {
            Sent::Nobody => {}
            Sent::Own(delivery) => self.announce(sender, delivery),
            Sent::Peer(from, to, port) => {
                let Some(receiver) = self.domain(to) else { return };
                let received = self.with_words(|words| receiver.events.lock().receive(port, from, words));
                match received {
                    Received::Nothing => {}
                    Received::Delivered(delivery) => self.announce(receiver, delivery),
                    Received::Consumed(consumer) => self.consume(receiver, consumer),
                }
            }
        }
    }

    /// A domain's guest has an event.
    pub(crate) fn announce(&self, domain: &Domain, delivery: Delivery) {
        if let Some(vcpu) = delivery.upcall {
            self.with_vgic(domain, |vgic| vgic.pulse_private(vcpu, UPCALL).unwrap_or_default());
        }
        for vcpu in delivery
            .wake
            .iter()
            .filter_map(|index| domain.vcpus.get(usize::from(index)))
        {
            self.notify(vcpu, Attention::Poll, Wait::Event);
        }
    }

    /// The hypervisor itself has an event, in the name of `domain`.
    fn consume(&self, domain: &Domain, consumer: Consumer) {
        match consumer {
            Consumer::Request { server, vcpu } => {
                let clock = CoreClock::new(self);
                let around = Surroundings {
                    memory: &self.machine,
                    clock: &clock,
                };
                let effects = domain.servers.lock().notified(server, vcpu, &around);
                self.perform(domain, &effects);
            }
            Consumer::Buffered { .. } => {}
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
        for port in &effects.notify {
            let sent = target.events.lock().notify_attached(*port);
            self.deliver(target, sent);
        }
        self.wake_requests(target, effects.wake);
        for event in &effects.events {
            self.tell(Message::Request {
                domain: target.id,
                event: *event,
            });
        }
    }

    /// The loaded vCPU waits for `server`: if one of its vCPUs is ready on the same pCPU, that one runs next.
    pub(crate) fn hand_off_to_domain(&self, waiting: &Vcpu, server: &Domain) {
        for vcpu in &server.vcpus {
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
