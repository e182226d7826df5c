//! How servers begin and end, and what a server leaves behind.
//!
//! A server's ports decide its life (design, "Server lifetime"): when the first bound one is closed it gets no new
//! requests; when the last one is closed its ranges are free, and its id lives on as a *tombstone* until the owner
//! destroys it or the id is needed. So a clean shutdown succeeds in any order.

use super::server::{Server, Servers, Stage};
use super::{Effects, Event, Failure, Resources, Surroundings};
use crate::abi::HypercallError;
use crate::abi::dm_op::MAX_SERVERS;
use crate::evtchn::Consumer;
use crate::ids::{DomainId, EventPort, MAX_VCPUS, ServerId, VcpuSet};
use crate::memory::PhysicalMemory;

impl Servers {
    /// create_ioreq_server: pages and ports are allocated here, so that a server that is enabled before its page is
    /// mapped works.
    ///
    /// # Errors
    /// EINVAL: buffered requests, which Arm does not have; ENOSPC: eight servers, or no ports; ENOMEM: no frames.
    pub fn create<M: PhysicalMemory + ?Sized>(
        &mut self,
        caller: DomainId,
        handle_bufioreq: u8,
        memory: &M,
        resources: &mut dyn Resources,
    ) -> Result<ServerId, HypercallError> {
        if handle_bufioreq != 0 {
            return Err(HypercallError::Invalid);
        }
        let free = self.slots.iter().position(Option::is_none);
        let index = free
            .or_else(|| self.oldest_tombstone())
            .ok_or(HypercallError::NoSpace)?;
        let id = ServerId(index as u16);
        if free.is_none() {
            self.discard(id, resources);
        }
        let server = self.build(id, caller, resources)?;
        for vcpu in 0..self.vcpus {
            if let Some(slot) = server.slot(vcpu) {
                slot.reset(memory);
            }
        }
        self.created += 1;
        self.count_from_zero(id);
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = Some(server);
        }
        Ok(id)
    }

    fn oldest_tombstone(&self) -> Option<usize> {
        let dead = |(index, slot): (usize, &Option<Server>)| {
            let server = slot.as_ref()?;
            (server.stage == Stage::Tombstone).then_some((server.serial, index))
        };
        self.slots
            .iter()
            .enumerate()
            .filter_map(dead)
            .min()
            .map(|(_, index)| index)
    }

    fn build(&self, id: ServerId, owner: DomainId, resources: &mut dyn Resources) -> Result<Server, HypercallError> {
        let synchronous = resources.allocate_frame().ok_or(HypercallError::OutOfMemory)?;
        let Some(buffered) = resources.allocate_frame() else {
            resources.release_frame(synchronous);
            return Err(HypercallError::OutOfMemory);
        };
        let mut server = Server {
            owner,
            serial: self.created,
            stage: Stage::Disabled,
            synchronous,
            buffered,
            ports: [EventPort(0); MAX_VCPUS],
            peers: [EventPort(0); MAX_VCPUS],
            buffered_port: EventPort(0),
            buffered_peer: EventPort(0),
            buffered_bound: false,
            bound: VcpuSet::EMPTY,
            stale: VcpuSet::EMPTY,
        };
        match Self::allocate_ports(&mut server, id, self.vcpus, resources) {
            Ok(()) => Ok(server),
            Err(error) => {
                Self::release(&server, resources);
                Err(error)
            }
        }
    }

    fn allocate_ports(
        server: &mut Server,
        id: ServerId,
        vcpus: u8,
        resources: &mut dyn Resources,
    ) -> Result<(), HypercallError> {
        let owner = server.owner;
        for (vcpu, port) in (0..vcpus).zip(&mut server.ports) {
            *port = resources.allocate_port(owner, Consumer::Request { server: id, vcpu })?;
        }
        server.buffered_port = resources.allocate_port(owner, Consumer::Buffered { server: id })?;
        Ok(())
    }

    fn release(server: &Server, resources: &mut dyn Resources) {
        for port in server
            .ports
            .iter()
            .chain([&server.buffered_port])
            .filter(|port| port.0 != 0)
        {
            resources.release_port(*port);
        }
        resources.release_frame(server.buffered);
        resources.release_frame(server.synchronous);
    }

    fn discard(&mut self, id: ServerId, resources: &mut dyn Resources) {
        self.free_ranges(id);
        self.release_detached(resources);
        if let Some(server) = self.slots.get_mut(usize::from(id.0)).and_then(Option::take) {
            Self::release(&server, resources);
        }
    }

    /// destroy_ioreq_server. Requests in flight end by their device's policy.
    ///
    /// # Errors
    /// ENOENT: no such server; EPERM: another domain's.
    pub fn destroy<M: PhysicalMemory + ?Sized>(
        &mut self,
        caller: DomainId,
        id: ServerId,
        around: &Surroundings<'_, M>,
        resources: &mut dyn Resources,
    ) -> Result<Effects, HypercallError> {
        self.owned(caller, id)?;
        let mut effects = Effects::default();
        self.bury(id, around, &mut effects);
        self.discard(id, resources);
        Ok(effects)
    }

    /// Frees the server's ranges, ends its requests, leaves a tombstone.
    pub(super) fn bury<M: PhysicalMemory + ?Sized>(
        &mut self,
        id: ServerId,
        around: &Surroundings<'_, M>,
        effects: &mut Effects,
    ) {
        self.free_ranges(id);
        self.note_detached(effects);
        self.set_stage(id, Stage::Tombstone);
        self.fail_requests(id, None, around, effects);
    }

    /// Somebody bound the port of `vcpu` to its own `peer`.
    pub fn port_bound(&mut self, id: ServerId, vcpu: u8, peer: EventPort) {
        if let Some(server) = self.server_mut(id) {
            server.bound.insert(vcpu);
            if let Some(known) = server.peers.get_mut(usize::from(vcpu)) {
                *known = peer;
            }
        }
    }

    /// The owner closed its end of the port of `vcpu`; ports never bound do not count.
    pub fn port_closed<M: PhysicalMemory + ?Sized>(
        &mut self,
        id: ServerId,
        vcpu: u8,
        around: &Surroundings<'_, M>,
    ) -> Effects {
        let mut effects = Effects::default();
        let Some(server) = self.server_mut(id).filter(|server| server.bound.contains(vcpu)) else {
            return effects;
        };
        server.bound.remove(vcpu);
        let last = server.bound.is_empty();
        let serving = matches!(server.stage, Stage::Enabled | Stage::Suspended);
        if server.stage == Stage::Tombstone {
            return effects;
        }
        if serving {
            effects.record(Event::Failed {
                server: id,
                failure: Failure::Gone,
            });
        }
        if last {
            self.bury(id, around, &mut effects);
        } else if serving {
            self.set_stage(id, Stage::Closing);
            self.fail_requests(id, None, around, &mut effects);
        }
        effects
    }

    /// `owner` stopped, crashed or starts again: all its servers are dead.
    pub fn owner_gone<M: PhysicalMemory + ?Sized>(&mut self, owner: DomainId, around: &Surroundings<'_, M>) -> Effects {
        let mut effects = Effects::default();
        self.suspects.remove(owner);
        for index in 0..MAX_SERVERS {
            let id = ServerId(index as u16);
            let alive = |server: &&Server| server.owner == owner && server.stage != Stage::Tombstone;
            if let Some(stage) = self.server(id).filter(alive).map(|server| server.stage) {
                // Of one that has closed a port it was said then.
                if stage != Stage::Closing {
                    effects.record(Event::Failed {
                        server: id,
                        failure: Failure::Gone,
                    });
                }
                self.bury(id, around, &mut effects);
            }
        }
        effects
    }

    /// `owner` has nothing mapped any more and no port bound: what its dead servers left behind is free.
    pub fn discard_dead(&mut self, owner: DomainId, resources: &mut dyn Resources) {
        for id in (0..MAX_SERVERS).map(|index| ServerId(index as u16)) {
            let dead = |server: &Server| server.owner == owner && server.stage == Stage::Tombstone;
            if self.server(id).is_some_and(dead) {
                self.discard(id, resources);
            }
        }
    }
}
