//! A page has left the target's map while servers' domains map it: they are told, by a request that has no address (IOREQ
//! type 8, INVALIDATE), and drop what they keep of the target's memory.
//!
//! It goes the way of a write: posted, answered, under the limits of the server's device. But only that server can answer
//! it, so when its time is over, or it is gone, the vCPU goes on; the frame stays its owner's for as long as it is mapped
//! (`memory::references`), so nobody is harmed by who does not listen.

use super::request::{Move, Pending, Policy, Request};
use super::server::Servers;
use super::{Effects, Failure, Surroundings};
use crate::abi::dm_op::MAX_SERVERS;
use crate::access::{AccessWidth, Direction, MmioAccess};
use crate::ids::{DomainSet, Ipa, ServerId};
use crate::memory::PhysicalMemory;

/// What the target says it accesses. No access of a guest is there: none fits below the end of 64 bits.
const ANNOUNCEMENT: MmioAccess = MmioAccess {
    ipa: Ipa(u64::MAX),
    width: AccessWidth::Word,
    direction: Direction::Write(u32::MAX as u64),
};

/// Servers that are yet to be told.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Unheard(u8);

const _: () = assert!(MAX_SERVERS <= u8::BITS as usize);

impl Unheard {
    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The lowest is taken out.
impl Iterator for Unheard {
    type Item = ServerId;

    fn next(&mut self) -> Option<ServerId> {
        let id = self.0.trailing_zeros() as u16;
        self.0 &= self.0.checked_sub(1)?;
        Some(ServerId(id))
    }
}

impl Pending {
    /// It tells a server that a page has left, and asks for nothing.
    pub fn is_announcement(&self) -> bool {
        self.access.ipa == ANNOUNCEMENT.ipa
    }
}

impl Servers {
    /// The servers of `mappers` that get requests of `vcpu`.
    pub fn listeners(&self, vcpu: u8, mappers: DomainSet) -> Unheard {
        let mut listeners = 0;
        for (index, server) in self.slots.iter().enumerate() {
            let listens = server
                .as_ref()
                .is_some_and(|server| mappers.contains(server.owner()) && server.accepts(vcpu));
            listeners |= u8::from(listens) << index;
        }
        Unheard(listeners)
    }

    /// Tells the server `id` by the slot of `vcpu`, which has no request. Whether the vCPU is held until [`Self::take`] gives
    /// an answer; if not, the server does not listen any more.
    pub fn announce<M: PhysicalMemory + ?Sized>(
        &mut self,
        vcpu: u8,
        id: ServerId,
        around: &Surroundings<'_, M>,
        effects: &mut Effects,
    ) -> bool {
        let Some(server) = self.server(id).filter(|server| server.accepts(vcpu)) else {
            return false;
        };
        let (Some(slot), owner) = (server.slot(vcpu), server.owner()) else {
            return false;
        };
        if !matches!(self.held(vcpu), Request::Idle) {
            return false;
        }
        let policy = self.policy_of(id);
        let now = around.clock.now();
        let pending = Pending {
            access: ANNOUNCEMENT,
            policy,
        };
        self.apply(vcpu, Move::Start { pending, now }, effects);
        if slot.invalidate(around.memory).is_ok() {
            let runnable = around.clock.runnable(owner);
            self.apply(vcpu, Move::Posted { server: id, runnable }, effects);
            self.count_posted(vcpu, now);
            if !effects.notify.contains(&slot.port) {
                let _ = effects.notify.push(slot.port);
            }
        } else {
            if let Some(server) = self.server_mut(id) {
                server.stale.insert(vcpu);
            }
            self.apply(vcpu, Move::Cancel, effects);
            self.fail_server(id, policy.on_failure, Failure::BadSlot, around, effects);
        }
        // It looks itself.
        effects.wake.remove(vcpu);
        matches!(self.held(vcpu), Request::InFlight { .. })
    }

    /// The rules of a server's first device.
    fn policy_of(&self, id: ServerId) -> Policy {
        let policy = self.ranges(id).find_map(|range| self.device_policy(range));
        policy.unwrap_or(self.fallback())
    }
}
