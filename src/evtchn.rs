//! Event channels: one bit of news between domains, in Xen's two-level layout.
//!
//! [`EventChannels`] is one domain's ports. Ports 1 to the domain's limit are the guest's own; above them lies a range
//! of *attached* ports that the hypervisor allocates in the guest's name (an IOREQ server's `vp_eport`), so that a guest
//! that uses up its ports can't keep a server from being made. Attached ports have no bit in the shared page: what a
//! peer sends to them goes to a [`Consumer`] inside the hypervisor.
//!
//! An event is made pending in the strict order of the ABI: the port's pending bit; if it was clear and the port is not
//! masked, the word's bit in the vCPU's `pending_sel`; if that was clear, `upcall_pending`; if that was clear, the upcall
//! interrupt. All of it with bounded atomics ([`crate::memory::atomic`]), because the guest writes these words too.
//!
//! Nothing here locks or injects: operations return [`Delivery`] and the like. Operations on two domains take
//! [`Tables`].

pub mod delivery;
mod look;
pub mod pair;
pub mod port;
mod route;
mod virq;

use alloc::vec::Vec;

use crate::abi::HypercallError;
use crate::abi::evtchn as abi;
use crate::abi::shared_info::TWO_LEVEL_PORTS;
use crate::ids::{DomainId, EventPort, MAX_VCPUS, Pa, ServerId};

pub use delivery::{Delivery, PollOutcome, Poller};
pub use look::{Found, PortLook};
pub use pair::{Bound, Closed, Tables};
pub use port::{Channel, Consumer, Port, PortStatus};
pub use route::{Arrived, Route};

/// The INTID of the upcall: a PPI (`/hypervisor` node, property `interrupts`).
pub const UPCALL: crate::ids::IntId = crate::ids::IntId(31);

/// How many ports a domain has.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct PortLimits {
    /// The guest's highest port: 1,023 unless the manifest says otherwise; at most 4,095.
    pub highest: u32,
    /// Attached ports above that.
    pub attached: u32,
}

impl Default for PortLimits {
    fn default() -> Self {
        Self {
            highest: 1023,
            attached: 0,
        }
    }
}

/// What goes where after [`EventChannels::send`].
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Sent {
    /// Nobody listens; that is no error.
    Nobody,
    /// It was an event between vCPUs of the sender.
    Own(Delivery),
    /// Call [`EventChannels::receive`] on that domain.
    Peer(Sender, DomainId, EventPort),
    /// The sender's PV console has something to do.
    Console,
}

/// Who sends: checked by the receiver, whose port may have been closed meanwhile.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Sender {
    /// The sending domain.
    pub domain: DomainId,
    /// Its port.
    pub port: EventPort,
}

/// What arrived.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Received {
    /// The port was closed meanwhile.
    Nothing,
    /// The guest has an event.
    Delivered(Delivery),
    /// The hypervisor has one.
    Consumed(Consumer),
}

/// One domain's event channels.
#[derive(Debug)]
pub struct EventChannels {
    domain: DomainId,
    vcpus: u8,
    limits: PortLimits,
    ports: Vec<Port>,
    /// How many of the guest's are in use, and of the attached ones.
    open: u32,
    attached: u32,
    /// The port of each VIRQ on each vCPU; port 0: none. Those of the domain are under vCPU 0.
    virqs: [[EventPort; abi::VIRQS as usize]; MAX_VCPUS],
    /// Global VIRQs that this domain may bind, a bit each.
    global_virqs: u32,
    shared_info: Pa,
    vcpu_info: [Option<Pa>; MAX_VCPUS],
    pollers: [Poller; MAX_VCPUS],
    /// Somebody polls; it may have stopped meanwhile.
    polls: bool,
    /// How often something changed that a [`Route`] depends on.
    changes: u64,
}

impl EventChannels {
    /// A domain without channels. `shared_info` is its shared page, zeroed; allocates, so only while it is built.
    pub fn new(domain: DomainId, vcpus: u8, limits: PortLimits, shared_info: Pa) -> Self {
        let highest = limits.highest.min(TWO_LEVEL_PORTS - 1);
        let limits = PortLimits { highest, ..limits };
        let count = highest as usize + 1 + limits.attached as usize;
        let mut vcpu_info = [None; MAX_VCPUS];
        vcpu_info[0] = Some(shared_info);
        Self {
            domain,
            vcpus: vcpus.min(MAX_VCPUS as u8),
            limits,
            ports: alloc::vec![Port::FREE; count],
            open: 0,
            attached: 0,
            virqs: [[EventPort(0); abi::VIRQS as usize]; MAX_VCPUS],
            global_virqs: 0,
            shared_info,
            vcpu_info,
            pollers: [Poller::None; MAX_VCPUS],
            polls: false,
            changes: 1,
        }
    }

    /// Lets the domain bind these global VIRQs (a bit each); the builder gives each to one domain.
    pub fn grant_global_virqs(&mut self, bits: u32) {
        self.global_virqs |= bits;
    }

    /// Whose channels these are.
    pub fn domain(&self) -> DomainId {
        self.domain
    }

    /// What `port` is.
    pub fn port(&self, port: EventPort) -> Option<&Port> {
        self.ports.get(port.0 as usize)
    }

    /// The guest's ports in use, and the attached ones.
    pub fn in_use(&self) -> (u32, u32) {
        (self.open, self.attached)
    }

    /// Keeps count of a port that came into use, or went out of it.
    fn count(&mut self, port: EventPort, used: bool) {
        let count = if port.0 > self.limits.highest {
            &mut self.attached
        } else {
            &mut self.open
        };
        *count = if used {
            count.saturating_add(1)
        } else {
            count.saturating_sub(1)
        };
    }

    /// `port`, to change it, if it is `wanted`.
    fn port_mut(&mut self, port: EventPort, wanted: impl FnOnce(&Port) -> bool) -> Option<&mut Port> {
        let entry = self.ports.get_mut(port.0 as usize).filter(|entry| wanted(entry))?;
        self.changes = self.changes.wrapping_add(1);
        Some(entry)
    }

    /// A port that the guest may operate on: not port 0, and not attached. It need not be in use.
    fn guest_port(&self, port: EventPort) -> Result<&Port, HypercallError> {
        match self.port(port) {
            Some(entry) if port.0 != 0 && entry.consumer.is_none() => Ok(entry),
            _ => Err(HypercallError::Invalid),
        }
    }

    fn check_vcpu(&self, vcpu: u32) -> Result<u8, HypercallError> {
        u8::try_from(vcpu)
            .ok()
            .filter(|index| *index < self.vcpus)
            .ok_or(HypercallError::NoEntry)
    }

    /// The guest's lowest free port.
    fn free_port(&self) -> Result<EventPort, HypercallError> {
        self.free_in(1, self.limits.highest)
    }

    fn free_in(&self, first: u32, last: u32) -> Result<EventPort, HypercallError> {
        (first..=last)
            .map(EventPort)
            .find(|port| self.port(*port).is_some_and(|entry| entry.channel == Channel::Free))
            .ok_or(HypercallError::NoSpace)
    }

    fn set(&mut self, port: EventPort, entry: Port) {
        if let Some(slot) = self.port_mut(port, |_| true) {
            // Only a free port is set.
            *slot = entry;
            self.count(port, true);
        }
    }

    /// EVTCHNOP_alloc_unbound: a port that `remote` may bind to.
    ///
    /// # Errors
    /// ENOSPC: all ports are in use.
    pub fn alloc_unbound(&mut self, remote: DomainId) -> Result<EventPort, HypercallError> {
        let port = self.free_port()?;
        self.set(port, Port::new(Channel::Unbound { remote }, 0));
        Ok(port)
    }

    /// As [`Self::alloc_unbound`], at a number that the manifest names (`xen,evtchn-v1`).
    ///
    /// # Errors
    /// EINVAL: no such port; EBUSY: it is in use.
    pub fn alloc_static(&mut self, port: EventPort, remote: DomainId) -> Result<(), HypercallError> {
        if port.0 == 0 || port.0 > self.limits.highest {
            return Err(HypercallError::Invalid);
        }
        match self.port(port) {
            Some(entry) if entry.channel == Channel::Free => {
                self.set(port, Port::new(Channel::Unbound { remote }, 0));
                Ok(())
            }
            _ => Err(HypercallError::Busy),
        }
    }

    /// The port of the domain's PV console, at a number that the builder chose.
    ///
    /// # Errors
    /// EINVAL: no such port; EBUSY: it is in use.
    pub fn alloc_console(&mut self, port: EventPort) -> Result<(), HypercallError> {
        match self.guest_port(port)?.channel {
            Channel::Free => {
                self.set(port, Port::new(Channel::Console, 0));
                Ok(())
            }
            _ => Err(HypercallError::Busy),
        }
    }

    /// The PV console at `port` has news for the guest; nothing when the guest has closed the port.
    pub fn notify_console<M: crate::memory::PhysicalMemory + ?Sized>(
        &mut self,
        port: EventPort,
        words: &crate::memory::atomic::SharedWords<'_, M>,
    ) -> Delivery {
        match self.port(port).map(|entry| entry.channel) {
            Some(Channel::Console) => self.set_port_pending(port, words),
            _ => Delivery::default(),
        }
    }

    /// An attached port that `remote` may bind to; what it sends goes to `consumer`.
    ///
    /// # Errors
    /// ENOSPC: the hypervisor's range of this domain is used up.
    pub fn alloc_attached(&mut self, remote: DomainId, consumer: Consumer) -> Result<EventPort, HypercallError> {
        let first = self.limits.highest + 1;
        let last = self.limits.highest + self.limits.attached;
        let port = self.free_in(first, last)?;
        let entry = Port {
            consumer: Some(consumer),
            ..Port::new(Channel::Unbound { remote }, 0)
        };
        self.set(port, entry);
        Ok(port)
    }

    /// EVTCHNOP_bind_ipi: a port between vCPUs of this domain.
    ///
    /// # Errors
    /// ENOENT: no such vCPU; ENOSPC: all ports are in use.
    pub fn bind_ipi(&mut self, vcpu: u32) -> Result<EventPort, HypercallError> {
        let vcpu = self.check_vcpu(vcpu)?;
        let port = self.free_port()?;
        self.set(port, Port::new(Channel::Ipi, vcpu));
        Ok(port)
    }

    /// EVTCHNOP_bind_vcpu: from now on `port` notifies `vcpu`. An event that is pending stays where it is.
    ///
    /// # Errors
    /// ENOENT: no such vCPU; EINVAL: no such port, or one whose vCPU is fixed.
    pub fn bind_vcpu(&mut self, port: EventPort, vcpu: u32) -> Result<(), HypercallError> {
        let vcpu = self.check_vcpu(vcpu)?;
        let movable = match self.guest_port(port)?.channel {
            Channel::Unbound { .. } | Channel::Interdomain { .. } | Channel::Console => true,
            Channel::Virq { virq } => !virq::is_per_vcpu(virq),
            Channel::Ipi | Channel::Free => false,
        };
        let entry = self.port_mut(port, |_| movable).ok_or(HypercallError::Invalid)?;
        entry.vcpu = vcpu;
        Ok(())
    }

    /// EVTCHNOP_status.
    ///
    /// # Errors
    /// EINVAL: no such port.
    pub fn status(&self, port: EventPort) -> Result<PortStatus, HypercallError> {
        let entry = self.port(port).ok_or(HypercallError::Invalid)?;
        Ok(entry.status())
    }

    /// EVTCHNOP_send.
    ///
    /// # Errors
    /// EINVAL: a port that does not exist, is attached, or does not send.
    pub fn send<M: crate::memory::PhysicalMemory + ?Sized>(
        &mut self,
        port: EventPort,
        words: &crate::memory::atomic::SharedWords<'_, M>,
    ) -> Result<Sent, HypercallError> {
        match self.guest_port(port)?.channel {
            Channel::Interdomain { .. } => Ok(self.outgoing(port)),
            Channel::Ipi => Ok(Sent::Own(self.set_port_pending(port, words))),
            Channel::Unbound { .. } => Ok(Sent::Nobody),
            Channel::Console => Ok(Sent::Console),
            Channel::Virq { .. } | Channel::Free => Err(HypercallError::Invalid),
        }
    }

    /// What the hypervisor sends from an attached port.
    pub fn notify_attached(&self, port: EventPort) -> Sent {
        match self.port(port) {
            Some(entry) if entry.consumer.is_some() => self.outgoing(port),
            _ => Sent::Nobody,
        }
    }

    fn outgoing(&self, port: EventPort) -> Sent {
        match self.port(port).map(|entry| entry.channel) {
            Some(Channel::Interdomain { remote, port: peer }) => Sent::Peer(
                Sender {
                    domain: self.domain,
                    port,
                },
                remote,
                peer,
            ),
            _ => Sent::Nobody,
        }
    }

    /// The other half of [`Self::send`]: an event from `sender` arrives at `port`.
    #[inline]
    pub fn receive<M: crate::memory::PhysicalMemory + ?Sized>(
        &mut self,
        port: EventPort,
        sender: Sender,
        words: &crate::memory::atomic::SharedWords<'_, M>,
    ) -> Received {
        match self.port(port) {
            Some(entry) if entry.is_connected_to(sender) => match entry.consumer {
                Some(consumer) => Received::Consumed(consumer),
                None => {
                    let vcpu = entry.vcpu;
                    Received::Delivered(self.set_pending(port, vcpu, words))
                }
            },
            _ => Received::Nothing,
        }
    }

    /// Takes back what `sender` sent to `port`, if the guest has not seen it.
    pub fn withdraw<M: crate::memory::PhysicalMemory + ?Sized>(
        &mut self,
        port: EventPort,
        sender: Sender,
        words: &crate::memory::atomic::SharedWords<'_, M>,
    ) {
        let entry = self.port(port).filter(|entry| entry.is_connected_to(sender));
        if entry.is_some_and(|entry| entry.consumer.is_none()) {
            self.clear_pending(port, words);
        }
    }

    /// As [`Self::receive`], of a guest's own port: what its domain is to be told, and the vCPU that the port notifies. `None`:
    /// it is no such port, or was closed meanwhile; nothing has changed.
    #[inline]
    pub fn deliver<M: crate::memory::PhysicalMemory + ?Sized>(
        &mut self,
        port: EventPort,
        sender: Sender,
        words: &crate::memory::atomic::SharedWords<'_, M>,
    ) -> Option<(Delivery, u8)> {
        let entry = self.port(port)?;
        if entry.consumer.is_some() || !entry.is_connected_to(sender) {
            return None;
        }
        let vcpu = entry.vcpu;
        Some((self.set_pending(port, vcpu, words), vcpu))
    }

    /// EVTCHNOP_send from a port whose other end is another of the guest's own; `None`: it is none of those, and nothing has
    /// changed.
    #[inline(always)]
    pub fn send_to_itself<M: crate::memory::PhysicalMemory + ?Sized>(
        &mut self,
        port: EventPort,
        words: &crate::memory::atomic::SharedWords<'_, M>,
    ) -> Option<Delivery> {
        let entry = self.port(port)?;
        let Channel::Interdomain { remote, port: peer } = entry.channel else {
            return None;
        };
        // Port 0 is never connected. Two ends in one table always name each other.
        let listens = self.port(peer)?;
        if remote != self.domain || entry.consumer.is_some() || listens.consumer.is_some() {
            return None;
        }
        let vcpu = listens.vcpu;
        Some(self.set_pending(peer, vcpu, words))
    }

    /// The target, the server and the vCPU whose request the guest speaks of when it sends from `port`; `None`: what it sends
    /// from there is of another kind.
    #[inline]
    pub fn answers(&self, port: EventPort) -> Option<(DomainId, ServerId, u8)> {
        let entry = self.port(port)?;
        match (entry.heard_by, entry.channel) {
            (Some(Consumer::Request { server, vcpu }), Channel::Interdomain { remote, .. }) => {
                Some((remote, server, vcpu))
            }
            _ => None,
        }
    }

    /// The guest's first port in use from `from` on: EVTCHNOP_reset closes them one by one.
    pub fn next_open(&self, from: EventPort) -> Option<EventPort> {
        (from.0.max(1)..=self.limits.highest)
            .map(EventPort)
            .find(|port| self.port(*port).is_some_and(|entry| entry.channel != Channel::Free))
    }
}
