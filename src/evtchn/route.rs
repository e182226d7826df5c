//! The way of an event to one port, found once and used again.
//!
//! Who sends to the same port again and again need not have its number, its channel and its vCPU looked up each time: a
//! [`Route`] has the words that the event goes to. It is good while nothing of the domain has changed that it was made from,
//! and every change is counted under the same lock, so one that is not good any more is never used.

use super::delivery::bit;
use super::{Delivery, EventChannels, Port, Sender};
use crate::abi::shared_info::{SharedInfo, VcpuInfo};
use crate::ids::{EventPort, Pa};
use crate::memory::PhysicalMemory;
use crate::memory::atomic::SharedWords;

/// How far the word with a port's mask is behind the one with its pending bit.
const MASK: u64 = SharedInfo::MASK_OFFSET - SharedInfo::PENDING_OFFSET;

/// Where the events of one sender to one port of a guest go.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Route {
    /// What [`EventChannels`] had counted when it was made, which never is 0.
    changes: u64,
    /// The word of the pending bit.
    pending: Pa,
    /// That bit.
    bit: u64,
    /// Where the vCPU is told.
    info: Pa,
    /// The word's bit there.
    selector: u64,
    /// The vCPU.
    vcpu: u8,
}

impl Route {
    /// None: nothing arrives by it.
    pub const NONE: Self = Self {
        changes: 0,
        pending: Pa(0),
        bit: 0,
        info: Pa(0),
        selector: 0,
        vcpu: 0,
    };

    /// The vCPU that the port notifies.
    #[inline]
    pub const fn vcpu(&self) -> u8 {
        self.vcpu
    }
}

/// What [`EventChannels::arrive`] did.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[must_use]
pub enum Arrived {
    /// Nothing: the way is to be found anew, or the word is being fought for.
    Not,
    /// The port is pending, and nobody need be told.
    Quietly,
    /// It is, and the route's vCPU is to have the upcall.
    Upcall,
    /// It is, and [`EventChannels::tell`] is to be called, with the lock released or not.
    Halfway,
}

impl EventChannels {
    /// The way from `sender` to `port`; `None`: they are not connected, the hypervisor listens, the vCPU that would be
    /// notified has no place for news, or one polls.
    pub fn route(&self, port: EventPort, sender: Sender) -> Option<Route> {
        let entry = self.port(port)?;
        if self.polls || !entry.is_connected_to(sender) || entry.consumer.is_some() {
            return None;
        }
        let (index, bit) = bit(port);
        Some(Route {
            changes: self.changes,
            pending: self.pending_word(index),
            bit,
            info: (*self.vcpu_info.get(usize::from(entry.vcpu))?)?,
            selector: 1 << index,
            vcpu: entry.vcpu,
        })
    }

    /// As [`Self::receive`], by a known way: what it takes while all is as it was.
    #[inline(always)]
    pub fn arrive<M: PhysicalMemory + ?Sized>(&self, route: &Route, memory: &M) -> Arrived {
        if route.changes != self.changes {
            return Arrived::Not;
        }
        let Ok(before) = memory.try_set_bits_u64(route.pending, route.bit) else {
            return Arrived::Not;
        };
        if before & route.bit != 0 || memory.load_u64(Pa(route.pending.0 + MASK)) & route.bit != 0 {
            return Arrived::Quietly;
        }
        match memory.try_set_bits_u64(Pa(route.info.0 + VcpuInfo::PENDING_SEL_OFFSET), route.selector) {
            Ok(selected) if selected & route.selector != 0 => Arrived::Quietly,
            Ok(_) if self.mark_upcall(route.info, memory) => Arrived::Upcall,
            Ok(_) => Arrived::Quietly,
            Err(_) => Arrived::Halfway,
        }
    }

    /// The rest of what [`Self::arrive`] began: the vCPU that is to have the upcall. `port` may have been closed meanwhile, or
    /// be bound to another vCPU.
    #[cold]
    pub fn tell<M: PhysicalMemory + ?Sized>(
        &mut self,
        port: EventPort,
        sender: Sender,
        words: &SharedWords<'_, M>,
    ) -> Delivery {
        let heard = |entry: &&Port| entry.is_connected_to(sender) && entry.consumer.is_none();
        match self.port(port).filter(heard).map(|entry| entry.vcpu) {
            Some(vcpu) => self.announce_pending(port, vcpu, words),
            None => Delivery::NOBODY,
        }
    }
}
