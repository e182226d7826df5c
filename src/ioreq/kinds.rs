//! What a server can have beside ranges: writes to some of its addresses that need no answer of it.
//!
//! An attachment lies wholly in the ranges of its server, and goes when such a range goes: unmapped, moved to a newer
//! server, or with the server. A write is tried in this order: doorbell, acknowledgement, buffered, and else it is a
//! synchronous request, so a kind that can't take it loses nothing.

use super::buffered::{BufferedPage, BufferedRange};
use super::doorbell::{Doorbell, SharedDoorbells};
use super::ranges::Range;
use super::request::Request;
use super::server::{Servers, Stage};
use super::{Effects, Resources};
use crate::abi::HypercallError;
use crate::abi::dm_op::Detach;
use crate::access::{AccessWidth, Direction, MmioAccess};
use crate::evtchn::Consumer;
use crate::ids::{DomainId, EventPort, ServerId};
use crate::memory::PhysicalMemory;
use crate::trace::{Kind, served};

/// A doorbell that a server asks for.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct DoorbellRequest {
    /// The register, naturally aligned.
    pub address: u64,
    /// Bytes of the write.
    pub width: AccessWidth,
    /// What must be written, under `mask`.
    pub value: u64,
    /// The bits of the value that count.
    pub mask: u64,
    /// The guest never reads the register back.
    pub write_only: bool,
}

/// A write that was posted.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Posted {
    /// To which server.
    pub server: ServerId,
    /// Its domain.
    pub owner: DomainId,
    /// It may have found its ring empty: the target's port, and the owner's that it is bound to, by which it is told.
    pub tells: Option<(EventPort, EventPort)>,
}

impl Servers {
    /// The target's doorbells: who has them rings without these servers' lock.
    pub fn doorbells(&self) -> SharedDoorbells {
        self.doorbells.clone()
    }

    /// The server is alive, the caller's, may serve and has all of `range`.
    pub(super) fn attachable(
        &self,
        caller: DomainId,
        id: ServerId,
        range: Range,
        permitted: bool,
    ) -> Result<(), HypercallError> {
        self.alive(caller, id)?;
        if !permitted {
            return Err(HypercallError::NotPermitted);
        }
        if self.memory.find(range) == Some(id) {
            Ok(())
        } else {
            Err(HypercallError::NoEntry)
        }
    }

    /// The vendor operation *attach_buffered*. With the first range of a server, pointers in its page that can't be become zero.
    /// `permitted`: the manifest lets the caller serve these addresses.
    ///
    /// # Errors
    /// ENOENT: no such server, only its id is left, or it does not have all of the range; EPERM: another domain's, or not
    /// permitted; EINVAL: the range collides with another of the server modulo 1 MiB, or the guest may read it back on a
    /// page that is shown to it; ENOSPC.
    pub fn attach_buffered<M: PhysicalMemory + ?Sized>(
        &mut self,
        caller: DomainId,
        id: ServerId,
        range: Range,
        write_only: bool,
        permitted: bool,
        memory: &M,
    ) -> Result<(), HypercallError> {
        self.attachable(caller, id, range, permitted)?;
        if !write_only && self.shows(range) {
            return Err(HypercallError::Invalid);
        }
        let first = !self.buffered.has(id);
        self.buffered.insert(BufferedRange {
            range,
            server: id,
            write_only,
        })?;
        self.doorbells.set_posts(self.buffered.filter());
        if let Some(server) = self.server(id).filter(|_| first) {
            BufferedPage(server.buffered).repair(memory);
        }
        Ok(())
    }

    /// The vendor operation *attach_doorbell*: returns the target's port for the caller to bind. `permitted`: the manifest
    /// lets the caller serve that register.
    ///
    /// # Errors
    /// As [`Self::attach_buffered`], and EINVAL: the register's doorbells have another size or mask; EEXIST: the same value
    /// again, or another register that overlaps, one that acknowledges too; ENOSPC: no port.
    pub fn attach_doorbell(
        &mut self,
        caller: DomainId,
        id: ServerId,
        request: &DoorbellRequest,
        permitted: bool,
        resources: &mut dyn Resources,
    ) -> Result<EventPort, HypercallError> {
        let range = Range::from_length(request.address, request.width.bytes()).ok_or(HypercallError::Invalid)?;
        self.attachable(caller, id, range, permitted)?;
        if !request.write_only && self.shows(range) {
            return Err(HypercallError::Invalid);
        }
        if self.acknowledges(range) {
            return Err(HypercallError::Exists);
        }
        let mut doorbell = Doorbell {
            address: request.address,
            value: request.value & request.mask,
            mask: request.mask,
            width: request.width,
            write_only: request.write_only,
            server: id,
            owner: caller,
            port: EventPort(0),
            peer: EventPort(0),
            open: false,
        };
        self.doorbells.with(|table| table.admits(&doorbell))?;
        self.release_detached(resources);
        doorbell.port = resources.allocate_port(caller, Consumer::Doorbell { server: id })?;
        // Nobody else changes the table while the servers are locked.
        self.doorbells.insert(doorbell)?;
        Ok(doorbell.port)
    }

    /// The vendor operation *detach*.
    ///
    /// # Errors
    /// ENOENT: no such server, only its id is left, or it has no such attachment; EPERM: another domain's; EINVAL: no such
    /// kind.
    pub fn detach(
        &mut self,
        caller: DomainId,
        id: ServerId,
        (kind, address, value): (u32, u64, u64),
        resources: &mut dyn Resources,
    ) -> Result<(), HypercallError> {
        self.alive(caller, id)?;
        match kind {
            Detach::BUFFERED => {
                self.buffered.remove(id, address)?;
                self.doorbells.set_posts(self.buffered.filter());
                Ok(())
            }
            Detach::DOORBELL => {
                let goes =
                    |bell: &Doorbell| bell.server == id && bell.address == address && bell.value == value & bell.mask;
                if !self.doorbells.with(|table| table.entries().iter().any(goes)) {
                    return Err(HypercallError::NoEntry);
                }
                self.doorbells.remove(goes, &mut self.detached);
                self.release_detached(resources);
                Ok(())
            }
            _ => Err(HypercallError::Invalid),
        }
    }

    /// What `id` has attached in `within`, or anywhere, goes with its ranges. Its ports are closed by
    /// [`Self::release_detached`].
    pub(super) fn detach_within(&mut self, id: ServerId, within: Option<Range>) {
        self.buffered.remove_within(id, within);
        self.doorbells.set_posts(self.buffered.filter());
        let goes = |bell: &Doorbell| {
            let inside = |within: Range| bell.range().is_none_or(|range| within.overlaps(range));
            bell.server == id && within.is_none_or(inside)
        };
        self.doorbells.remove(goes, &mut self.detached);
    }

    /// Says in `effects` whether ports of doorbells are to be closed.
    pub(super) fn note_detached(&self, effects: &mut Effects) {
        effects.release_ports |= !self.detached.is_empty();
    }

    /// Closes the ports of doorbells that are gone ([`Effects::release_ports`]).
    pub fn release_detached(&mut self, resources: &mut dyn Resources) {
        while let Some(port) = self.detached.pop() {
            resources.release_port(port);
        }
    }

    /// The server goes to `stage`, and so do its attachments.
    pub(super) fn set_stage(&mut self, id: ServerId, stage: Stage) {
        if let Some(server) = self.server_mut(id) {
            server.stage = stage;
            self.doorbells.set_serving(id, stage == Stage::Enabled);
        }
    }

    /// Whether writes to some of `range` are posted although the guest may read it back: a page with such registers can't be
    /// shown to the guest.
    pub fn some_readable(&self, range: Range) -> bool {
        self.buffered.some_readable(range) || self.doorbells.with(|table| table.some_readable(range))
    }

    /// Whether some of `range` is a doorbell.
    pub fn has_doorbell(&self, range: Range) -> bool {
        self.doorbells.with(|table| table.overlaps(range))
    }

    /// As [`Self::post_at_once`], of a range; what follows is noted in `effects`.
    #[inline]
    pub(super) fn post<M: PhysicalMemory + ?Sized>(
        &mut self,
        vcpu: u8,
        access: &MmioAccess,
        range: Range,
        memory: &M,
        effects: &mut Effects,
    ) -> Option<ServerId> {
        let posted = self.post_in(vcpu, access, range, memory)?;
        if let Some((port, _)) = posted.tells {
            let _ = effects.notify.push(port);
        }
        let argument = served(posted.owner, posted.server);
        let _ = effects.traced.push((Kind::Buffered, vcpu, argument));
        Some(posted.server)
    }

    /// Posts a write of the guest to the server that has it in a buffered range; `None`: it has to be a synchronous request.
    pub fn post_at_once<M: PhysicalMemory + ?Sized>(
        &mut self,
        vcpu: u8,
        access: &MmioAccess,
        memory: &M,
    ) -> Option<Posted> {
        let range = Range::from_length(access.ipa.0, access.width.bytes()).filter(|_| vcpu < self.vcpus)?;
        self.post_in(vcpu, access, range, memory)
    }

    #[inline(always)]
    fn post_in<M: PhysicalMemory + ?Sized>(
        &mut self,
        vcpu: u8,
        access: &MmioAccess,
        range: Range,
        memory: &M,
    ) -> Option<Posted> {
        let Direction::Write(value) = access.direction else {
            return None;
        };
        let id = self.buffered.find(range)?;
        let server = self.server(id)?;
        if server.stage != Stage::Enabled || !server.buffered_bound || *self.held(vcpu) != Request::Idle {
            return None;
        }
        let (page, owner) = (BufferedPage(server.buffered), server.owner());
        let ports = (server.buffered_port, server.buffered_peer);
        let notify = page.post(memory, access.ipa, access.width, value).ok()?;
        if let Some(counters) = self.counters.get_mut(usize::from(id.0)) {
            counters.posted += 1;
        }
        Some(Posted {
            server: id,
            owner,
            tells: notify.then_some(ports),
        })
    }

    /// The target starts anew: what it had posted, and nobody has taken, is dropped.
    pub fn drop_posted<M: PhysicalMemory + ?Sized>(&self, memory: &M) {
        for (index, server) in self.slots.iter().enumerate() {
            if let Some(server) = server
                && self.buffered.has(ServerId(index as u16))
            {
                BufferedPage(server.buffered).discard(memory);
            }
        }
    }

    /// Somebody bound the target's `port`, of `server`'s doorbell or buffered page, to its own `peer`.
    pub fn posting_bound(&mut self, consumer: Consumer, port: EventPort, peer: EventPort) {
        match consumer {
            Consumer::Doorbell { .. } => self.doorbells.bind(port, peer),
            Consumer::Buffered { server } => self.set_buffered_bound(server, port, Some(peer)),
            Consumer::Request { .. } => {}
        }
    }

    /// Its `peer` was closed.
    pub fn posting_closed(&mut self, consumer: Consumer, port: EventPort, peer: EventPort) {
        match consumer {
            Consumer::Doorbell { .. } => self.doorbells.unbind(port, peer),
            Consumer::Buffered { server } => self.set_buffered_bound(server, port, None),
            Consumer::Request { .. } => {}
        }
    }

    fn set_buffered_bound(&mut self, id: ServerId, port: EventPort, peer: Option<EventPort>) {
        if let Some(server) = self.server_mut(id).filter(|server| server.buffered_port == port) {
            server.buffered_bound = peer.is_some();
            server.buffered_peer = peer.unwrap_or(EventPort(0));
        }
    }
}
