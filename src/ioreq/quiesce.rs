//! Bringing a target's devices to rest before its memory is made anew.
//!
//! For each device the hypervisor makes the access with which its driver would reset it: a write of 0 to Status, in
//! vCPU 0's slot, once the server has answered every request of old, so that nothing is left that could undo the reset. A
//! server that has answered it uses the target's memory no more (VIRTIO 1.3, section 2.4). One that does not in time, or that
//! failed before, may still do so: what its domain has mapped of the target must be taken from it.

use super::OnFailure;
use super::ranges::Range;
use super::request::{Move, Pending, Policy, Request};
use super::server::{Servers, Stage};
use super::{Effects, Event, Failure, Surroundings};
use crate::abi::dm_op::MAX_SERVERS;
use crate::access::{AccessWidth, Direction, MmioAccess};
use crate::ids::{DomainId, DomainSet, Ipa, Pa, ServerId, Ticks};
use crate::memory::PhysicalMemory;

/// Status in the registers of a virtio-mmio device (VIRTIO 1.3, section 4.2.2).
const STATUS: u64 = 0x70;
/// vCPU 0's slot is used.
const VCPU: u8 = 0;

/// How far a device is on its way to rest.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[must_use]
pub enum Rest {
    /// There is no such device.
    NoDevice,
    /// Nobody serves it, so nobody uses the target's memory for it.
    Unserved,
    /// Its server, of this domain, is yet to answer. vCPU 0 is woken when to ask again; but not for the limit.
    Awaited(DomainId),
    /// Its server has reset it.
    Reset,
    /// Its server, of this domain, can't.
    Failed(DomainId),
}

impl Servers {
    /// Asks the server of device number `index` to bring it to rest, or how far that is. No vCPU of the target runs, and none
    /// has a request ([`Self::cancel_all`]).
    pub fn quiesce<M: PhysicalMemory + ?Sized>(
        &mut self,
        index: usize,
        around: &Surroundings<'_, M>,
        effects: &mut Effects,
    ) -> Rest {
        self.quiescing = false;
        let Some(device) = self.device(index) else {
            return Rest::NoDevice;
        };
        let status = Ipa(device.range.start().saturating_add(STATUS));
        match self.request(VCPU) {
            Request::InFlight { server, .. } => {
                self.quiescing = true;
                return self
                    .server(server)
                    .map_or(Rest::Unserved, |server| Rest::Awaited(server.owner()));
            }
            Request::Finished { .. } => {
                let _ = self.take(VCPU);
                return Rest::Reset;
            }
            // Whoever had it is gone, or refused it.
            Request::Waiting { .. } => self.apply(VCPU, Move::Cancel, effects),
            Request::Idle => {}
        }
        let range = Range::from_length(status.0, AccessWidth::Word.bytes());
        let server = range
            .and_then(|range| self.memory.find(range))
            .and_then(|id| self.server(id));
        let Some(server) = server else {
            return Rest::Unserved;
        };
        let owner = server.owner();
        match server.stage {
            Stage::Enabled | Stage::Suspended if !server.stale.is_empty() => {
                self.quiescing = true;
                return Rest::Awaited(owner);
            }
            Stage::Enabled => {}
            Stage::Disabled | Stage::Tombstone => return Rest::Unserved,
            Stage::Suspended | Stage::Closing => return Rest::Failed(owner),
        }
        let access = MmioAccess {
            ipa: status,
            width: AccessWidth::Word,
            direction: Direction::Write(0),
        };
        // The limits are the caller's.
        let policy = Policy {
            timeout: None,
            attach_timeout: None,
            on_failure: OnFailure::Wait,
        };
        let cause = Move::Start {
            pending: Pending { access, policy },
            now: around.clock.now(),
        };
        self.apply(VCPU, cause, effects);
        self.offer(VCPU, around.clock.now(), around, effects);
        match self.request(VCPU) {
            Request::InFlight { .. } => {
                self.quiescing = true;
                Rest::Awaited(owner)
            }
            _ => {
                self.apply(VCPU, Move::Cancel, effects);
                Rest::Failed(owner)
            }
        }
    }

    /// The time that the server of device number `index` may use to bring it to rest.
    pub fn quiesce_limit(&self, index: usize) -> Option<Ticks> {
        let limit = self.device(index).and_then(|device| device.policy.timeout);
        // A device whose requests may last for ever must not keep its guest down for ever.
        limit.or(self.fallback().timeout)
    }

    /// Servers of `owner` did not bring their devices to rest: all that it has of this target are dead.
    pub fn condemn<M: PhysicalMemory + ?Sized>(&mut self, owner: DomainId, around: &Surroundings<'_, M>) -> Effects {
        let mut effects = Effects::default();
        self.quiescing = false;
        self.apply(VCPU, Move::Cancel, &mut effects);
        for id in (0..MAX_SERVERS).map(|index| ServerId(index as u16)) {
            let Some(server) = self.server(id).filter(|server| server.owner() == owner) else {
                continue;
            };
            if server.stage != Stage::Tombstone {
                effects.record(Event::Failed {
                    server: id,
                    failure: Failure::TimeLimit,
                });
                self.bury(id, around, &mut effects);
            }
        }
        effects
    }

    /// Domains whose servers failed and have not answered since: they may still use the target's memory.
    pub fn suspects(&self) -> DomainSet {
        let mut suspects = self.suspects;
        for server in self.slots.iter().flatten() {
            if server.stage == Stage::Suspended {
                suspects.insert(server.owner());
            }
        }
        suspects
    }

    /// The pages through which servers get their requests.
    pub fn pages(&self) -> heapless::Vec<Pa, { 2 * MAX_SERVERS }> {
        let pages = self
            .slots
            .iter()
            .flatten()
            .flat_map(|server| [server.synchronous, server.buffered]);
        pages.collect()
    }

    /// `domain` has no memory of the target any more.
    pub fn acquit(&mut self, domain: DomainId) {
        self.suspects.remove(domain);
    }

    /// vCPU 0 must look again: something changed that it may wait for.
    pub(super) fn tell_quiescer(&self, effects: &mut Effects) {
        if self.quiescing {
            effects.wake.insert(VCPU);
        }
    }
}
