//! One port: what it is connected to, and whom it notifies.

use super::Sender;
use crate::abi::evtchn as abi;
use crate::ids::{DomainId, EventPort, ServerId};

/// What a port is connected to.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Channel {
    /// Nothing: it can be allocated.
    Free,
    /// Nothing yet: this domain may bind to it.
    Unbound {
        /// Who.
        remote: DomainId,
    },
    /// A port of another domain, or of the same one.
    Interdomain {
        /// Whose.
        remote: DomainId,
        /// Which.
        port: EventPort,
    },
    /// A virtual interrupt.
    Virq {
        /// Which.
        virq: u32,
    },
    /// Other vCPUs of the domain.
    Ipi,
    /// The hypervisor's end of the domain's PV console.
    Console,
}

/// Who inside the hypervisor hears what is sent to an attached port.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Consumer {
    /// A vCPU's request to an IOREQ server.
    Request {
        /// The server.
        server: ServerId,
        /// The vCPU of the target.
        vcpu: u8,
    },
    /// A server's buffered page: the server only listens.
    Buffered {
        /// The server.
        server: ServerId,
    },
    /// One of a server's doorbells: the server only listens.
    Doorbell {
        /// The server.
        server: ServerId,
    },
}

/// One port.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Port {
    /// What it is connected to.
    pub channel: Channel,
    /// The vCPU that it notifies.
    pub vcpu: u8,
    /// Set for an attached port.
    pub consumer: Option<Consumer>,
    /// Who inside the hypervisor hears what this port sends: the other end is attached.
    pub heard_by: Option<Consumer>,
}

impl Port {
    /// A port not in use.
    pub const FREE: Self = Self::new(Channel::Free, 0);

    /// A guest's port.
    pub const fn new(channel: Channel, vcpu: u8) -> Self {
        Self {
            channel,
            vcpu,
            consumer: None,
            heard_by: None,
        }
    }

    /// Whether `sender` is its other end.
    #[inline]
    pub fn is_connected_to(&self, sender: Sender) -> bool {
        match self.channel {
            Channel::Interdomain { remote, port } => remote == sender.domain && port == sender.port,
            _ => false,
        }
    }

    /// What EVTCHNOP_status says of it.
    pub fn status(&self) -> PortStatus {
        let (status, peer, peer_port) = match self.channel {
            Channel::Free => (abi::STATUS_CLOSED, 0, 0),
            Channel::Unbound { remote } => (abi::STATUS_UNBOUND, remote.0.into(), 0),
            Channel::Interdomain { remote, port } => (abi::STATUS_INTERDOMAIN, remote.0.into(), port.0),
            Channel::Virq { virq } => (abi::STATUS_VIRQ, virq, 0),
            Channel::Ipi => (abi::STATUS_IPI, 0, 0),
            Channel::Console => (abi::STATUS_INTERDOMAIN, DomainId::XEN.0.into(), 0),
        };
        PortStatus {
            status,
            vcpu: self.vcpu.into(),
            peer,
            peer_port,
        }
    }
}

/// The answer of EVTCHNOP_status.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct PortStatus {
    /// `STATUS_*`.
    pub status: u32,
    /// The vCPU that it notifies.
    pub vcpu: u32,
    /// The remote domain, or the VIRQ.
    pub peer: u32,
    /// The remote port.
    pub peer_port: u32,
}
