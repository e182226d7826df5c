//! Operations that change two domains' channels at once: connect and disconnect.
//!
//! The caller locks both domains (lower number first) and passes [`Tables`]. Whom a port is connected to is found under
//! one lock ([`EventChannels::peer`]) and verified under both: a port that changed meanwhile is left alone.

use super::{Channel, Consumer, Delivery, EventChannels, Port};
use crate::abi::HypercallError;
use crate::ids::{DomainId, EventPort};
use crate::memory::PhysicalMemory;
use crate::memory::atomic::SharedWords;

/// The channels of the caller and of its peer, both locked.
#[derive(Debug)]
pub enum Tables<'a> {
    /// A domain that talks to itself.
    Loopback(&'a mut EventChannels),
    /// Two domains.
    Pair {
        /// The caller's.
        local: &'a mut EventChannels,
        /// The peer's.
        remote: &'a mut EventChannels,
    },
}

impl Tables<'_> {
    fn local(&mut self) -> &mut EventChannels {
        match self {
            Self::Loopback(both) => both,
            Self::Pair { local, .. } => local,
        }
    }

    fn remote(&mut self) -> &mut EventChannels {
        match self {
            Self::Loopback(both) => both,
            Self::Pair { remote, .. } => remote,
        }
    }
}

/// What [`Tables::bind_interdomain`] did.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Bound {
    /// The caller's new port.
    pub port: EventPort,
    /// It starts pending: tell the caller.
    pub delivery: Delivery,
    /// The peer's port is attached: tell its consumer that somebody listens.
    pub consumer: Option<Consumer>,
}

/// What [`Tables::close`] did.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Closed {
    /// The peer's port was attached: tell its consumer that nobody listens any more.
    pub consumer: Option<Consumer>,
    /// That port.
    pub peer: EventPort,
}

impl EventChannels {
    /// The domain that [`Tables::close`] of `port` needs besides this one: itself when the port has no peer.
    ///
    /// # Errors
    /// EINVAL: a port that does not exist, is not in use or is attached.
    pub fn peer(&self, port: EventPort) -> Result<DomainId, HypercallError> {
        match self.guest_port(port)?.channel {
            Channel::Free => Err(HypercallError::Invalid),
            Channel::Interdomain { remote, .. } => Ok(remote),
            _ => Ok(self.domain()),
        }
    }

    /// As [`Self::peer`], for an attached port that the hypervisor gives up; `None`: it is not in use.
    pub fn attached_peer(&self, port: EventPort) -> Option<DomainId> {
        let entry = self.port(port).filter(|entry| entry.consumer.is_some())?;
        match entry.channel {
            Channel::Interdomain { remote, .. } => Some(remote),
            _ => Some(self.domain()),
        }
    }
}

impl Tables<'_> {
    /// EVTCHNOP_bind_interdomain: connects a new port of the caller with `remote_port`. The caller's port starts
    /// pending, so that nothing sent before is missed. `words` are the caller's.
    ///
    /// # Errors
    /// ENOSPC: the caller's ports are all in use; EINVAL: the peer's port does not wait for the caller.
    pub fn bind_interdomain<M: PhysicalMemory + ?Sized>(
        &mut self,
        remote_port: EventPort,
        words: &SharedWords<'_, M>,
    ) -> Result<Bound, HypercallError> {
        let port = self.local().free_port()?;
        self.connect(port, remote_port, words)
    }

    /// As [`Self::bind_interdomain`], at the number that the manifest names (`xen,evtchn-v1`).
    ///
    /// # Errors
    /// EINVAL: no such port, or the peer's does not wait for the caller; EBUSY: the port is in use.
    pub fn bind_static<M: PhysicalMemory + ?Sized>(
        &mut self,
        port: EventPort,
        remote_port: EventPort,
        words: &SharedWords<'_, M>,
    ) -> Result<Bound, HypercallError> {
        let entry = *self.local().guest_port(port)?;
        if entry.channel != Channel::Free {
            return Err(HypercallError::Busy);
        }
        self.connect(port, remote_port, words)
    }

    fn connect<M: PhysicalMemory + ?Sized>(
        &mut self,
        port: EventPort,
        remote_port: EventPort,
        words: &SharedWords<'_, M>,
    ) -> Result<Bound, HypercallError> {
        let (local, remote) = (self.local().domain(), self.remote().domain());
        let waits = Channel::Unbound { remote: local };
        let entry = self.remote().port_mut(remote_port, |entry| entry.channel == waits);
        let entry = entry.ok_or(HypercallError::Invalid)?;
        entry.channel = Channel::Interdomain { remote: local, port };
        let consumer = entry.consumer;
        let connected = Channel::Interdomain {
            remote,
            port: remote_port,
        };
        let entry = Port {
            heard_by: consumer,
            ..Port::new(connected, 0)
        };
        self.local().set(port, entry);
        let delivery = self.local().set_port_pending(port, words);
        Ok(Bound {
            port,
            delivery,
            consumer,
        })
    }

    /// EVTCHNOP_close: frees a port of the caller; its peer's can be bound again by the caller. `words` are the
    /// caller's.
    ///
    /// # Errors
    /// EINVAL: the port does not exist, is not in use or is attached; EAGAIN: it is connected to a third domain.
    pub fn close<M: PhysicalMemory + ?Sized>(
        &mut self,
        port: EventPort,
        words: &SharedWords<'_, M>,
    ) -> Result<Closed, HypercallError> {
        let peer = self.local().peer(port)?;
        if peer != self.local().domain() && peer != self.remote().domain() {
            return Err(HypercallError::TryAgain);
        }
        self.local().clear_pending(port, words);
        Ok(self.disconnect(port))
    }

    /// Gives up an attached port of `local`. Nothing happens when it is not in use, or connected to a third domain.
    pub fn close_attached(&mut self, port: EventPort) {
        let peer = self.local().attached_peer(port);
        if peer.is_some_and(|peer| peer == self.local().domain() || peer == self.remote().domain()) {
            let _ = self.disconnect(port);
        }
    }

    fn disconnect(&mut self, port: EventPort) -> Closed {
        let local = self.local().domain();
        let Some(entry) = self.local().port_mut(port, |_| true) else {
            return Closed::default();
        };
        let channel = core::mem::replace(entry, Port::FREE).channel;
        if channel != Channel::Free {
            self.local().count(port, false);
        }
        match channel {
            Channel::Virq { .. } => self.local().unbind_virq(port),
            Channel::Interdomain { remote, port: peer } => {
                let connected = Channel::Interdomain { remote: local, port };
                let table = if remote == local { self.local() } else { self.remote() };
                if let Some(entry) = table.port_mut(peer, |entry| entry.channel == connected) {
                    entry.channel = Channel::Unbound { remote: local };
                    entry.heard_by = None;
                    return Closed {
                        consumer: entry.consumer,
                        peer,
                    };
                }
            }
            Channel::Free | Channel::Unbound { .. } | Channel::Ipi | Channel::Console => {}
        }
        Closed::default()
    }
}
