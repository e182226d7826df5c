//! What hypercall handlers ask of the rest of the hypervisor.
//!
//! The glue implements [`Host`] for a caller that is loaded on this pCPU. Locks are taken inside each method and released
//! before it returns; handlers call one method at a time, except that the closure of [`Domains::servers`] may use
//! [`crate::ioreq::Resources`], which takes event-channel locks inside the servers' lock, as the lock order allows.

use super::buffers::GuestBuffers;
use super::control::Supervisor;
use super::grant_table_op::Granting;
use super::shadow::Shadowing;
use crate::abi::HypercallError;
use crate::abi::sched::ShutdownReason;
use crate::domain::runstate::RunstateArea;
use crate::ids::{DomainId, EventPort, IntId, Pa, VcpuId};
use crate::ioreq::Range;
use crate::routing::Domains;

/// What hypercalls say about a domain.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct DomainInfo {
    /// Its number.
    pub id: DomainId,
    /// Its vCPUs.
    pub vcpus: u8,
    /// Those that are on.
    pub online_vcpus: u8,
    /// Pages of RAM.
    pub ram_pages: u64,
    /// Those of them that it has given up for now.
    pub parked_pages: u64,
    /// The highest guest frame that can be mapped.
    pub maximum_gfn: u64,
    /// Guest-physical addresses are machine addresses.
    pub direct_mapped: bool,
    /// SPIs of its virtual GIC.
    pub spis: u32,
    /// The version of its virtual GIC: 2 or 3.
    pub gic_version: u8,
    /// Bits of a guest-physical address.
    pub address_bits: u8,
    /// Its UUID.
    pub handle: [u8; 16],
    /// Some vCPU runs or could run.
    pub running: bool,
    /// It is held.
    pub paused: bool,
    /// It is being stopped.
    pub dying: bool,
    /// Why it stopped, if it did.
    pub shutdown: Option<ShutdownReason>,
    /// Nanoseconds that its vCPUs ran.
    pub cpu_time: u64,
}

/// Something that the caller wants to do to another domain.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Right {
    /// Be a device model of it at all.
    Serve {
        /// The other domain.
        target: DomainId,
    },
    /// Answer these addresses for it.
    ServeRange {
        /// The other domain.
        target: DomainId,
        /// Guest-physical addresses.
        range: Range,
    },
    /// Drive this interrupt of it.
    Interrupt {
        /// The other domain.
        target: DomainId,
        /// An SPI.
        interrupt: IntId,
    },
    /// Map its memory, or some of it: [`Host::map_foreign`] decides page by page.
    MapMemory {
        /// The other domain.
        target: DomainId,
    },
    /// Map all of its memory.
    MapAllMemory {
        /// The other domain.
        target: DomainId,
    },
    /// Have event channels with it.
    EventChannel {
        /// The other domain.
        peer: DomainId,
    },
    /// Look at its state and counters, pause it, restart it, stop it.
    Control {
        /// The other domain.
        target: DomainId,
    },
}

/// One page of another domain to map, and what became of it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct ForeignPage {
    /// The other domain's guest frame.
    pub source: u64,
    /// The caller's guest frame.
    pub destination: u64,
    /// The page's own error.
    pub result: Result<(), HypercallError>,
}

/// The hypervisor, as a hypercall of one vCPU sees it.
pub trait Host: GuestBuffers + Supervisor + Shadowing + Granting {
    /// See [`Self::domains`].
    type Domains: Domains;

    /// Who calls.
    fn caller(&self) -> VcpuId;
    /// A domain that exists.
    fn domain(&self, id: DomainId) -> Option<DomainInfo>;
    /// Whether there is such a domain.
    fn exists(&self, id: DomainId) -> bool {
        self.domain(id).is_some()
    }
    /// The existing domain with the lowest number that is not below `id`.
    fn domain_from(&self, id: DomainId) -> Option<DomainInfo>;
    /// Whether the manifest gives the caller that right. The one place where authority is decided.
    fn permits(&self, right: Right) -> bool;

    /// The channels and servers of all domains.
    fn domains(&mut self) -> &mut Self::Domains;
    /// Sets the level of an SPI of `target`.
    ///
    /// # Errors
    /// EINVAL: the interrupt is a physical one, or the hypervisor's own.
    fn set_interrupt_level(&mut self, target: DomainId, interrupt: IntId, level: bool) -> Result<(), HypercallError>;

    /// Replaces what the caller has at `gfn` by its shared_info page.
    ///
    /// # Errors
    /// EBUSY: the page is mapped already elsewhere; EINVAL: no such frame; ENOMEM.
    fn map_shared_info(&mut self, gfn: u64) -> Result<(), HypercallError>;
    /// Maps RAM of `foreign` into the caller, replacing what is there; each page has its own result (EINVAL: not RAM of
    /// that domain; EPERM: not in the caller's window; ENOMEM: the caller's pool is used up).
    fn map_foreign(&mut self, foreign: DomainId, pages: &mut [ForeignPage]);
    /// As [`Self::map_foreign`], of one page.
    ///
    /// # Errors
    /// The page's.
    fn map_foreign_page(&mut self, foreign: DomainId, source: u64, destination: u64) -> Result<(), HypercallError> {
        let mut page = ForeignPage {
            source,
            destination,
            result: Ok(()),
        };
        self.map_foreign(foreign, core::slice::from_mut(&mut page));
        page.result
    }
    /// Maps a frame of a server into the caller, replacing what is there. The reference that [`crate::ioreq::Resources::share_frame`]
    /// took becomes the mapping's; after an error it is given back.
    ///
    /// # Errors
    /// EINVAL: no such guest frame; ENOMEM.
    fn map_resource(&mut self, frame: Pa, gfn: u64) -> Result<(), HypercallError>;
    /// Takes what the caller has at `gfn` out of its map.
    ///
    /// # Errors
    /// ENOENT: nothing is there; EINVAL: no such frame.
    fn unmap(&mut self, gfn: u64) -> Result<(), HypercallError>;
    /// Takes a page of RAM out of the caller's map; it stays the caller's (XENMEM_decrease_reservation).
    ///
    /// # Errors
    /// EINVAL: no RAM is there.
    fn park_page(&mut self, gfn: u64) -> Result<(), HypercallError>;
    /// Puts a parked page of RAM, zeroed, into the caller's map (XENMEM_populate_physmap).
    ///
    /// # Errors
    /// ENOMEM: none is parked; EINVAL: no such frame.
    fn populate_page(&mut self, gfn: u64) -> Result<(), HypercallError>;

    /// The frame at `gfn`, RAM of the caller, kept from being freed until the domain ends.
    ///
    /// # Errors
    /// EINVAL: no RAM of the caller; EACCES: read-only.
    fn pin_frame(&mut self, gfn: u64) -> Result<Pa, HypercallError>;
    /// The physical address of a virtual one that the caller can write, kept from being freed until the domain ends.
    ///
    /// # Errors
    /// EFAULT, as [`GuestBuffers::write`].
    fn pin_address(&mut self, address: u64) -> Result<Pa, HypercallError>;
    /// Publishes how a vCPU of the caller spends its time there from now on; `None`: nowhere.
    fn set_runstate_area(&mut self, vcpu: u8, area: Option<RunstateArea>);

    /// Sets a watchdog of the caller ([`crate::domain::watchdog::Watchdogs::set`]).
    ///
    /// # Errors
    /// EINVAL: no such watchdog, or not in use; ENOSPC: all are in use.
    fn set_watchdog(&mut self, id: u32, timeout: u32) -> Result<u32, HypercallError>;

    /// Whether a vCPU's account is marked while it changes, of each of the caller's vCPUs (VMASST_TYPE_runstate_update_flag).
    fn mark_runstate(&mut self, marked: bool);

    /// The guest frame and the port of the caller's PV console; `None`: it has none.
    fn pv_console(&self) -> Option<(u64, EventPort)>;
    /// Appends to the caller's console; how many bytes there was room for.
    ///
    /// # Errors
    /// EPERM: it has no console.
    fn console_write(&mut self, bytes: &[u8]) -> Result<usize, HypercallError>;
    /// Takes what was typed for the caller; how many bytes.
    ///
    /// # Errors
    /// EPERM: the manifest does not let it.
    fn console_read(&mut self, into: &mut [u8]) -> Result<usize, HypercallError>;
}

/// Resolves a domain that must not be the caller.
///
/// # Errors
/// EPERM: it is; ESRCH: there is none.
pub(super) fn remote<H: Host>(host: &H, id: u16) -> Result<DomainInfo, HypercallError> {
    let id = DomainId(id);
    if id == DomainId::SELF || id == host.caller().domain {
        return Err(HypercallError::NotPermitted);
    }
    host.domain(id).ok_or(HypercallError::NoDomain)
}

/// Resolves a domain that must be the caller.
///
/// # Errors
/// ESRCH: there is none; EPERM: it is another.
pub(super) fn own<H: Host>(host: &H, id: u16) -> Result<DomainId, HypercallError> {
    let caller = host.caller().domain;
    let id = DomainId(id);
    if id == DomainId::SELF || id == caller {
        return Ok(caller);
    }
    host.domain(id).ok_or(HypercallError::NoDomain)?;
    Err(HypercallError::NotPermitted)
}
