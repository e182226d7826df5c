//! The servers of one target: who may do what to which, which addresses they have, whether they get requests.

use alloc::vec::Vec;

use super::account::ServerCounters;
use super::buffered::BufferedRanges;
use super::doorbell::SharedDoorbells;
use super::handoff::Route;
use super::ranges::{Range, RangeError, RangeTable};
use super::request::{Move, Policy, Request};
use super::slot::Slot;
use super::standing::Shadowed;
use super::{Effects, Event, Surroundings};
use crate::abi::HypercallError;
use crate::abi::dm_op::{Features, IoRange, MAX_DOORBELLS, MAX_SERVERS, VENDOR_FIRST_FRAME};
use crate::ids::{DomainId, DomainSet, EventPort, MAX_VCPUS, PAGE_SIZE, Pa, ServerId, Ticks, VcpuSet};
use crate::memory::PhysicalMemory;
use crate::sorting::sort_by_key;

/// A device that the manifest declared: its addresses are reserved for the target's life.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct DeviceRange {
    /// Its registers.
    pub range: Range,
    /// Its rules.
    pub policy: Policy,
    /// A frame of the target that keeps the device's state from one server to the next; its servers alone map it.
    pub state_page: Option<Pa>,
}

/// How many ranges all servers of a target can have together.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct ServerLimits {
    /// Of memory addresses.
    pub memory_ranges: usize,
    /// Of port numbers, and again of PCI functions; neither is ever selected on Arm.
    pub other_ranges: usize,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            memory_ranges: MAX_SERVERS * crate::abi::dm_op::MAX_RANGES,
            other_ranges: 32,
        }
    }
}

/// Whether a server gets requests.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Stage {
    /// Not yet, or no more, by its own wish.
    Disabled,
    /// Yes.
    Enabled,
    /// No: it was too slow or wrote nonsense; an answer re-admits it.
    Suspended,
    /// No: it has closed a port.
    Closing,
    /// Never again: only its id is left.
    Tombstone,
}

#[derive(Debug)]
pub(super) struct Server {
    pub(super) owner: DomainId,
    /// Counts creations: the newer of two servers has the higher one.
    pub(super) serial: u64,
    pub(super) stage: Stage,
    pub(super) synchronous: Pa,
    pub(super) buffered: Pa,
    pub(super) ports: [EventPort; MAX_VCPUS],
    /// Whom each of them was bound to last; 0: nobody yet. Whoever sends there is told if that is not so any more.
    pub(super) peers: [EventPort; MAX_VCPUS],
    pub(super) buffered_port: EventPort,
    /// Somebody listens at it.
    pub(super) buffered_bound: bool,
    /// The owner's port that listens.
    pub(super) buffered_peer: EventPort,
    pub(super) bound: VcpuSet,
    /// vCPUs whose slot still holds a request that nobody waits for.
    pub(super) stale: VcpuSet,
}

impl Server {
    pub(super) fn slot(&self, vcpu: u8) -> Option<Slot> {
        let port = *self.ports.get(usize::from(vcpu))?;
        Some(Slot {
            page: self.synchronous,
            vcpu,
            port,
        })
    }

    pub(super) fn owner(&self) -> DomainId {
        self.owner
    }

    /// The owner's port for the requests of `vcpu`, as far as is known.
    #[inline]
    pub(super) fn peer(&self, vcpu: u8) -> EventPort {
        self.peers.get(usize::from(vcpu)).copied().unwrap_or(EventPort(0))
    }

    #[inline]
    pub(super) fn accepts(&self, vcpu: u8) -> bool {
        self.stage == Stage::Enabled && !self.stale.contains(vcpu)
    }
}

/// One target's servers, devices and requests.
#[derive(Debug)]
pub struct Servers {
    pub(super) vcpus: u8,
    pub(super) slots: [Option<Server>; MAX_SERVERS],
    pub(super) memory: RangeTable,
    ports: RangeTable,
    pci: RangeTable,
    devices: Vec<DeviceRange>,
    fallback: Policy,
    pub(super) requests: [Request; MAX_VCPUS],
    pub(super) buffered: BufferedRanges,
    pub(super) doorbells: SharedDoorbells,
    /// Ports of doorbells that are gone.
    pub(super) detached: Vec<EventPort>,
    /// Pages that servers have attached.
    pub(super) shadowed: Vec<Shadowed>,
    pub(super) created: u64,
    /// Who had each vCPU's last request.
    pub(super) routes: [Route; MAX_VCPUS],
    /// When each vCPU's last request was posted.
    pub(super) posted_at: [Ticks; MAX_VCPUS],
    /// By id of the server.
    pub(super) counters: Vec<ServerCounters>,
    /// Domains with a server that failed and was buried for it.
    pub(super) suspects: DomainSet,
    /// vCPU 0 waits for a server that is to bring a device to rest.
    pub(super) quiescing: bool,
}

impl Servers {
    /// A target without servers; allocates. Devices must not overlap (the manifest's reader refuses those that do).
    /// `fallback` rules requests to ranges outside every device.
    pub fn new(vcpus: u8, mut devices: Vec<DeviceRange>, fallback: Policy, limits: ServerLimits) -> Self {
        sort_by_key(&mut devices, |device| device.range.start());
        let shadows = devices.len();
        Self {
            vcpus: vcpus.min(MAX_VCPUS as u8),
            slots: [const { None }; MAX_SERVERS],
            memory: RangeTable::with_capacity(limits.memory_ranges),
            ports: RangeTable::with_capacity(limits.other_ranges),
            pci: RangeTable::with_capacity(limits.other_ranges),
            devices,
            fallback,
            requests: [Request::Idle; MAX_VCPUS],
            buffered: BufferedRanges::new(),
            doorbells: SharedDoorbells::new(),
            detached: Vec::with_capacity(MAX_SERVERS * MAX_DOORBELLS),
            shadowed: Vec::with_capacity(shadows),
            created: 0,
            routes: [Route::NONE; MAX_VCPUS],
            posted_at: [Ticks(0); MAX_VCPUS],
            counters: alloc::vec![ServerCounters::default(); MAX_SERVERS],
            suspects: DomainSet::default(),
            quiescing: false,
        }
    }

    /// The target's number of vCPUs (nr_vcpus).
    pub fn vcpus(&self) -> u8 {
        self.vcpus
    }

    pub(super) fn server(&self, id: ServerId) -> Option<&Server> {
        self.slots.get(usize::from(id.0))?.as_ref()
    }

    pub(super) fn server_mut(&mut self, id: ServerId) -> Option<&mut Server> {
        self.slots.get_mut(usize::from(id.0))?.as_mut()
    }

    /// The rules of the device that has all of `access`; `None`: it is no device's.
    pub(super) fn device_policy(&self, access: Range) -> Option<Policy> {
        self.device_of(access).map(|device| device.policy)
    }

    /// The device that has all of `access`.
    pub(super) fn device_of(&self, access: Range) -> Option<&DeviceRange> {
        let after = self
            .devices
            .partition_point(|device| device.range.start() <= access.start());
        let device = self.devices.get(after.checked_sub(1)?)?;
        device.range.contains(access).then_some(device)
    }

    /// Device number `index`, lowest address first.
    pub(super) fn device(&self, index: usize) -> Option<&DeviceRange> {
        self.devices.get(index)
    }

    pub(super) fn fallback(&self) -> Policy {
        self.fallback
    }

    pub(super) fn owned(&self, caller: DomainId, id: ServerId) -> Result<&Server, HypercallError> {
        let server = self.server(id).ok_or(HypercallError::NoEntry)?;
        if server.owner != caller {
            return Err(HypercallError::NotPermitted);
        }
        Ok(server)
    }

    fn table(&mut self, kind: u32) -> Result<&mut RangeTable, HypercallError> {
        match kind {
            IoRange::PORT => Ok(&mut self.ports),
            IoRange::MEMORY => Ok(&mut self.memory),
            IoRange::PCI => Ok(&mut self.pci),
            _ => Err(HypercallError::Invalid),
        }
    }

    pub(super) fn free_ranges(&mut self, id: ServerId) {
        self.memory.remove_all(id);
        self.ports.remove_all(id);
        self.pci.remove_all(id);
        self.detach_within(id, None);
    }

    /// get_ioreq_server_info with XEN_DMOP_no_gfns: the port of the buffered page, which nobody rings.
    ///
    /// # Errors
    /// ENOENT: no such server; EPERM: another domain's; EOPNOTSUPP: without that flag.
    pub fn buffered_port(&self, caller: DomainId, id: ServerId, no_gfns: bool) -> Result<EventPort, HypercallError> {
        let server = self.owned(caller, id)?;
        if no_gfns {
            Ok(server.buffered_port)
        } else {
            Err(HypercallError::NotSupported)
        }
    }

    /// A frame of the server for XENMEM_acquire_resource: 0 is the buffered page, 1 the synchronous one.
    ///
    /// # Errors
    /// EINVAL: no such server or frame; EPERM: another domain's server.
    pub fn frame(&self, caller: DomainId, id: u32, frame: u64) -> Result<Pa, HypercallError> {
        let id = u16::try_from(id).map_err(|_| HypercallError::Invalid)?;
        let server = self.server(ServerId(id)).ok_or(HypercallError::Invalid)?;
        if server.owner != caller {
            return Err(HypercallError::NotPermitted);
        }
        match frame {
            0 => Ok(server.buffered),
            1 => Ok(server.synchronous),
            _ => Err(HypercallError::Invalid),
        }
    }

    pub(super) fn alive(&self, caller: DomainId, id: ServerId) -> Result<&Server, HypercallError> {
        let server = self.owned(caller, id)?;
        if server.stage == Stage::Tombstone {
            return Err(HypercallError::NoEntry);
        }
        Ok(server)
    }

    /// The vendor operation *features*.
    ///
    /// # Errors
    /// ENOENT: no such server, or only its id is left; EPERM: another domain's.
    pub fn features(&self, caller: DomainId, id: ServerId) -> Result<u64, HypercallError> {
        self.alive(caller, id)
            .map(|_| Features::STATE_PAGE | Features::BUFFERED | Features::DOORBELL | Features::SHADOW)
    }

    /// The vendor operation *state_page*: the number of the frame that holds the state of the device at `address`.
    /// `permitted`: the manifest lets the caller serve that address.
    ///
    /// # Errors
    /// ENOENT: no such server, or only its id is left; EPERM: another domain's, or not permitted; EINVAL: no device begins
    /// there; EOPNOTSUPP: the device has no state page.
    pub fn state_page(
        &self,
        caller: DomainId,
        id: ServerId,
        address: u64,
        permitted: bool,
    ) -> Result<u64, HypercallError> {
        self.alive(caller, id)?;
        if !permitted {
            return Err(HypercallError::NotPermitted);
        }
        let index = self
            .devices
            .binary_search_by_key(&address, |device| device.range.start())
            .map_err(|_| HypercallError::Invalid)?;
        match self.devices.get(index).and_then(|device| device.state_page) {
            Some(_) => Ok(VENDOR_FIRST_FRAME + index as u64),
            None => Err(HypercallError::NotSupported),
        }
    }

    /// A vendor frame of the server for XENMEM_acquire_resource, and the device whose state it holds: only who may serve
    /// that device may map it.
    ///
    /// # Errors
    /// EINVAL: no such server or frame, or only the server's id is left; EPERM: another domain's server.
    pub fn state_frame(&self, caller: DomainId, id: u32, frame: u64) -> Result<(Pa, Range), HypercallError> {
        let id = u16::try_from(id).map_err(|_| HypercallError::Invalid)?;
        self.alive(caller, ServerId(id)).map_err(|error| match error {
            HypercallError::NoEntry => HypercallError::Invalid,
            error => error,
        })?;
        let index = frame
            .checked_sub(VENDOR_FIRST_FRAME)
            .and_then(|index| usize::try_from(index).ok());
        let device = index.and_then(|index| self.devices.get(index));
        device
            .and_then(|device| Some((device.state_page?, device.range)))
            .ok_or(HypercallError::Invalid)
    }

    /// Zeroes the state pages of all devices: the target starts anew, and nothing of its devices is known. To be called
    /// when no vCPU of the target runs, before its memory is made anew.
    pub fn clear_state_pages<M: PhysicalMemory + ?Sized>(&self, memory: &M) {
        for page in self.devices.iter().filter_map(|device| device.state_page) {
            memory.zero(page, PAGE_SIZE);
        }
    }

    /// map_io_range_to_ioreq_server. What an older server of the same domain had of the range moves to this one.
    /// `permitted`: the manifest lets the caller serve these addresses.
    ///
    /// # Errors
    /// EINVAL: `start > end` or no such kind; ENOENT: no such server; EPERM: another domain's, or not permitted; EEXIST:
    /// the server has some of it, or another domain's or a newer one does; ENOMEM: too many ranges.
    pub fn map_range<M: PhysicalMemory + ?Sized>(
        &mut self,
        caller: DomainId,
        request: &IoRange,
        permitted: bool,
        around: &Surroundings<'_, M>,
    ) -> Result<Effects, HypercallError> {
        let range = Range::new(request.start, request.end).ok_or(HypercallError::Invalid)?;
        let id = ServerId(request.id);
        let serial = self.alive(caller, id)?.serial;
        self.table(request.kind)?;
        if !permitted {
            return Err(HypercallError::NotPermitted);
        }
        let mut effects = Effects::default();
        let mut owners = [false; MAX_SERVERS];
        for owner in self.table(request.kind)?.owners(range) {
            if let Some(seen) = owners.get_mut(usize::from(owner.0)) {
                *seen = true;
            }
        }
        for (index, _) in owners.iter().enumerate().filter(|(_, seen)| **seen) {
            let other = ServerId(index as u16);
            let yields = self
                .server(other)
                .is_some_and(|server| server.owner == caller && server.serial < serial);
            if !yields {
                return Err(HypercallError::Exists);
            }
            effects.record(Event::Moved {
                range,
                from: other,
                to: id,
            });
        }
        self.table(request.kind)?
            .assign(range, id)
            .map_err(|_| HypercallError::OutOfMemory)?;
        for (index, _) in owners.iter().enumerate().filter(|(_, seen)| **seen) {
            if request.kind == IoRange::MEMORY {
                self.detach_within(ServerId(index as u16), Some(range));
            }
        }
        self.note_detached(&mut effects);
        self.retry(around, &mut effects);
        Ok(effects)
    }

    /// unmap_io_range_from_ioreq_server. Requests in flight to the range end by their device's policy.
    ///
    /// # Errors
    /// As [`Self::map_range`], and ENOENT when the server does not have all of the range. A tombstone has nothing and
    /// agrees.
    pub fn unmap_range<M: PhysicalMemory + ?Sized>(
        &mut self,
        caller: DomainId,
        request: &IoRange,
        around: &Surroundings<'_, M>,
    ) -> Result<Effects, HypercallError> {
        let range = Range::new(request.start, request.end).ok_or(HypercallError::Invalid)?;
        let id = ServerId(request.id);
        let dead = self.owned(caller, id)?.stage == Stage::Tombstone;
        let table = self.table(request.kind)?;
        if dead {
            return Ok(Effects::default());
        }
        table.remove(range, id).map_err(|error| match error {
            RangeError::Full => HypercallError::OutOfMemory,
            RangeError::NotContained(..) => HypercallError::NoEntry,
        })?;
        let mut effects = Effects::default();
        if request.kind == IoRange::MEMORY {
            self.detach_within(id, Some(range));
            self.note_detached(&mut effects);
            self.fail_requests(id, Some(range), around, &mut effects);
        }
        Ok(effects)
    }

    /// set_ioreq_server_state. Enabling empties the slots; disabling ends requests in flight by their device's policy.
    ///
    /// # Errors
    /// ENOENT: no such server; EPERM: another domain's.
    pub fn set_enabled<M: PhysicalMemory + ?Sized>(
        &mut self,
        caller: DomainId,
        id: ServerId,
        enabled: bool,
        around: &Surroundings<'_, M>,
    ) -> Result<Effects, HypercallError> {
        let stage = self.owned(caller, id)?.stage;
        let mut effects = Effects::default();
        match (stage, enabled) {
            (Stage::Disabled, true) => self.enable(id, around, &mut effects),
            (Stage::Enabled | Stage::Suspended | Stage::Closing, false) => {
                self.set_stage(id, Stage::Disabled);
                self.fail_requests(id, None, around, &mut effects);
            }
            _ => {}
        }
        Ok(effects)
    }

    fn enable<M: PhysicalMemory + ?Sized>(
        &mut self,
        id: ServerId,
        around: &Surroundings<'_, M>,
        effects: &mut Effects,
    ) {
        let vcpus = self.vcpus;
        if let Some(server) = self.server_mut(id) {
            for slot in (0..vcpus).filter_map(|vcpu| server.slot(vcpu)) {
                slot.reset(around.memory);
            }
            server.stale = VcpuSet::EMPTY;
        }
        self.set_stage(id, Stage::Enabled);
        self.retry(around, effects);
    }

    /// Ends the requests that `id` has, or had: those inside `within`, or all.
    pub(super) fn fail_requests<M: PhysicalMemory + ?Sized>(
        &mut self,
        id: ServerId,
        within: Option<Range>,
        around: &Surroundings<'_, M>,
        effects: &mut Effects,
    ) {
        let now = around.clock.now();
        for vcpu in 0..self.vcpus {
            let (pending, cause) = match self.request(vcpu) {
                Request::InFlight { pending, server, .. } if server == id => {
                    (pending, Move::Failed { now, late: false })
                }
                Request::Waiting {
                    pending,
                    late: Some(late),
                    ..
                } if late == id => (pending, Move::LateGone { server: id }),
                _ => continue,
            };
            let access = Range::from_length(pending.access.ipa.0, pending.access.width.bytes());
            let inside = match (within, access) {
                (Some(within), Some(access)) => within.overlaps(access),
                _ => true,
            };
            if inside {
                self.apply(vcpu, cause, effects);
            }
        }
        self.tell_quiescer(effects);
        self.retry(around, effects);
    }
}
