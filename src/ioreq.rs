//! IOREQ servers: another domain answers a guest's accesses to device registers.
//!
//! [`Servers`] is everything about one *target*: its servers, which addresses they have, the devices that the manifest
//! declared, and each vCPU's request. It is one state machine behind one lock; it changes shared memory only through
//! [`PhysicalMemory`](crate::memory::PhysicalMemory), allocates only through [`Resources`], and returns what else must
//! happen as [`Effects`].
//!
//! - [`ranges`]: address -> server.
//! - [`slot`]: the shared slot of one vCPU, which the server can corrupt at any time.
//! - [`request`]: the life of one request, a state machine of values.
//! - [`server`]: map, unmap, enable; who owns what. `lifetime`: create, destroy, what a dead server leaves behind.
//! - `kinds`: what a server attaches to its addresses; [`doorbell`], [`buffered`]: writes that wait for nobody.
//! - [`shadow`]: pages of registers that the guest reads without a trap; [`ack`]: what it acknowledges there; `standing`:
//!   what servers are to them.
//! - `account`: what is counted of servers.
//! - [`router`]: an access comes in, an answer goes out, a limit passes.
//! - `announce`: a page has left the target's map while servers map it.
//! - `handoff`: the usual request and its answer in one step each.
//! - `quiesce`: devices come to rest before the target's memory is made anew.
//!
//! Rules that hold throughout (`docs/abi.md`, "IOREQ servers"):
//! - an address that the manifest gives to a device is never unclaimed: without a server its accesses wait;
//! - a vCPU is never held longer than its device's limits allow, whatever the server does;
//! - a slot that still holds a request nobody waits for is *stale*: the server gets no new request of that vCPU until
//!   it has answered the old one, so that an answer never reaches the wrong request.

mod account;
pub mod ack;
mod announce;
pub mod buffered;
pub mod doorbell;
mod handoff;
mod kinds;
mod lifetime;
mod look;
mod quiesce;
pub mod ranges;
pub mod report;
pub mod request;
pub mod router;
pub mod server;
pub mod shadow;
pub mod slot;
mod standing;

use crate::abi::HypercallError;
use crate::evtchn::Consumer;
use crate::ids::{DomainId, EventPort, Ipa, MAX_VCPUS, Pa, ServerId, Ticks, VcpuSet};
use crate::trace::Kind;

pub use crate::manifest::devices::OnFailure;
pub use ack::Ack;
pub use announce::Unheard;
pub use doorbell::{Board, Doorbell, Ring, SharedDoorbells};
pub use handoff::Handed;
pub use kinds::{DoorbellRequest, Posted};
pub use look::ServerLook;
pub use quiesce::Rest;
pub use ranges::Range;
pub use request::{Answer, Policy, Request};
pub use router::Begun;
pub use server::{DeviceRange, ServerLimits, Servers, Stage};
pub use shadow::{ShadowSlot, Shadows};
pub use standing::Standing;

/// What servers are made of. The hypervisor's glue implements it; it takes the event channels' locks.
pub trait Resources {
    /// A zeroed frame of the target, outside its RAM, with one reference.
    fn allocate_frame(&mut self) -> Option<Pa>;
    /// Takes a reference for somebody who is about to map such a frame.
    ///
    /// # Errors
    /// EINVAL: there are as many as can be counted.
    fn share_frame(&mut self, frame: Pa) -> Result<(), HypercallError>;
    /// Drops the first reference: the frame is free when nobody maps it any more.
    fn release_frame(&mut self, frame: Pa);
    /// An attached port of the target that `remote` may bind.
    ///
    /// # Errors
    /// ENOSPC when there is none.
    fn allocate_port(&mut self, remote: DomainId, consumer: Consumer) -> Result<EventPort, HypercallError>;
    /// Closes an attached port of the target.
    fn release_port(&mut self, port: EventPort);
}

/// Time, as limits count it.
pub trait Clock {
    /// The system counter.
    fn now(&self) -> Ticks;
    /// How long `domain` has been able to run since it was built: the clock stands while its vCPUs get no time.
    fn runnable(&self, domain: DomainId) -> Ticks;
}

/// What operations on requests need of the world.
#[derive(Copy, Clone)]
pub struct Surroundings<'a, M: ?Sized> {
    /// Where the servers' pages are.
    pub memory: &'a M,
    /// For the limits.
    pub clock: &'a dyn Clock,
}

impl<M: ?Sized> core::fmt::Debug for Surroundings<'_, M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Surroundings").finish_non_exhaustive()
    }
}

/// Why a server failed.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Failure {
    /// It used more time for a request than the device allows.
    TimeLimit,
    /// It left nonsense in a slot.
    BadSlot,
    /// It closed its channels, or its domain stopped.
    Gone,
}

/// Something for the console, outside the trap path.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// A vCPU waits because no server takes its access.
    Waits {
        /// Which vCPU.
        vcpu: u8,
        /// What it accesses.
        ipa: Ipa,
    },
    /// A server failed.
    Failed {
        /// Which.
        server: ServerId,
        /// Why.
        failure: Failure,
    },
    /// A server answered after its time limit, and gets requests again.
    Readmitted {
        /// Which.
        server: ServerId,
    },
    /// A range went from an older server of the same domain to a newer one.
    Moved {
        /// Which range was mapped.
        range: Range,
        /// Who had some of it.
        from: ServerId,
        /// Who has it.
        to: ServerId,
    },
}

/// What must happen after an operation.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[must_use]
pub struct Effects {
    /// Send an event from each of these attached ports of the target.
    pub notify: heapless::Vec<EventPort, MAX_VCPUS>,
    /// Attached ports of doorbells that are gone are to be closed: [`Servers::release_detached`].
    pub release_ports: bool,
    /// Servers came, went or changed: the target's shadow pages are to be looked at.
    pub review: bool,
    /// These vCPUs of the target have an answer, or must look again.
    pub wake: VcpuSet,
    /// To be told; more than fit are left out.
    pub events: heapless::Vec<Event, 8>,
    /// Requests that went a step: the kind of event, the vCPU, the argument. More than fit are left out.
    pub traced: heapless::Vec<(Kind, u8, u32), MAX_VCPUS>,
}

impl Effects {
    fn record(&mut self, event: Event) {
        let _ = self.events.push(event);
    }

    /// Adds what `other` says.
    pub fn merge(&mut self, other: &Self) {
        for port in &other.notify {
            if !self.notify.contains(port) {
                let _ = self.notify.push(*port);
            }
        }
        self.release_ports |= other.release_ports;
        self.review |= other.review;
        self.wake.merge(other.wake);
        for event in &other.events {
            self.record(*event);
        }
        for traced in &other.traced {
            let _ = self.traced.push(*traced);
        }
    }
}
