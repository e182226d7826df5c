//! A host with four domains, for tests of hypercalls: it records what handlers ask of it.
//!
//! Domain 1 is a guest, 2 serves it, 3 is a stranger, 4 serves it too. The caller's virtual memory is one buffer: first
//! pages that can be written, then read-only ones; everything else faults.

use std::cell::RefCell;
use std::collections::BTreeMap;

use portunus::abi::HypercallError;
use portunus::abi::sched::ShutdownReason;
use portunus::domain::runstate::RunstateArea;
use portunus::domain::watchdog::Watchdogs;
use portunus::evtchn::{Consumer, Delivery, EventChannels, PortLimits, Tables};
use portunus::fakes::FakeMachine;
use portunus::hypercall::{Call, Direction, DomainInfo, ForeignPage, GuestBuffers, Host, Outcome, Right, dispatch};
use portunus::ids::{DomainId, EventPort, IntId, Pa, Ticks, VcpuId, VcpuSet};
use portunus::ioreq::{
    Clock, DeviceRange, Event, OnFailure, Policy, Range, Resources, ServerLimits, Servers, Surroundings,
};
use portunus::machine::Machine;
use portunus::memory::atomic::{SharedWords, StopOthers};
use portunus::routing::Domains;
use portunus::trace::Kind;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

pub(crate) const GUEST: DomainId = DomainId(1);
pub(crate) const BACKEND: DomainId = DomainId(2);
pub(crate) const STRANGER: DomainId = DomainId(3);
pub(crate) const SECOND_BACKEND: DomainId = DomainId(4);
const DOMAINS: [DomainId; 4] = [GUEST, BACKEND, STRANGER, SECOND_BACKEND];

/// Where the caller's memory begins.
pub(crate) const VA: u64 = 0xffff_8000_0001_0000;
const PAGE: usize = 4096;
const WRITABLE: usize = 4 * PAGE;
/// The first read-only address.
pub(crate) const READ_ONLY: u64 = VA + WRITABLE as u64;
/// The first address that faults.
pub(crate) const UNMAPPED: u64 = READ_ONLY + PAGE as u64;
/// The guest's device, and the backend's SPI.
pub(crate) const DEVICE: u64 = 0x0200_0000;
pub(crate) const SPI: u32 = 33;
/// A device of the first backend alone that has a state page, and its frame.
pub(crate) const ACCELERATED: u64 = 0x0200_1000;
pub(crate) const STATE_PAGE: Pa = Pa(0x8000_8000);
/// One that somebody else serves.
pub(crate) const FOREIGN_DEVICE: u64 = 0x0200_2000;
/// The spare guest frames at which pages may be mapped are below this.
pub(crate) const MAXIMUM_GFN: u64 = 0x80000;

const SHARED: u64 = 0x8000_0000;
const FRAMES: u64 = 0x8010_0000;

#[derive(Debug, PartialEq, Clone)]
pub(crate) enum Action {
    Deliver(DomainId, Delivery),
    Wake(DomainId, VcpuSet),
    Record(DomainId, Event),
    Interrupt(DomainId, u32, bool),
    SharedInfo(u64),
    Foreign(DomainId, u64, u64),
    Resource(Pa, u64),
    Unmap(u64),
    Park(u64),
    Populate(u64),
    Runstate(u8, Option<RunstateArea>),
    Console(Vec<u8>),
    MarkRunstate(bool),
    Direct(DomainId, Direction),
}

pub(crate) struct NoOthers;

impl StopOthers for NoOthers {
    fn while_stopped(&self, attempt: &mut dyn FnMut()) {
        attempt();
    }
}

struct ZeroClock;

impl Clock for ZeroClock {
    fn now(&self) -> Ticks {
        Ticks(0)
    }
    fn runnable(&self, _: DomainId) -> Ticks {
        Ticks(0)
    }
}

type Channels = BTreeMap<DomainId, RefCell<EventChannels>>;

struct FakeResources<'a> {
    target: DomainId,
    channels: &'a Channels,
    machine: &'a FakeMachine,
    next_frame: &'a mut u64,
    /// Frames that are not released.
    live: &'a mut u64,
}

impl Resources for FakeResources<'_> {
    fn allocate_frame(&mut self) -> Option<Pa> {
        let frame = Pa(FRAMES + *self.next_frame * 4096);
        *self.next_frame += 1;
        *self.live += 1;
        self.machine.memory(|memory| memory.zero(frame, 4096));
        Some(frame)
    }
    fn share_frame(&mut self, _: Pa) -> Result<(), HypercallError> {
        Ok(())
    }
    fn release_frame(&mut self, _: Pa) {
        *self.live -= 1;
    }
    fn allocate_port(&mut self, remote: DomainId, consumer: Consumer) -> Result<EventPort, HypercallError> {
        self.channels[&self.target]
            .borrow_mut()
            .alloc_attached(remote, consumer)
    }
    fn release_port(&mut self, port: EventPort) {
        let mut own = self.channels[&self.target].borrow_mut();
        match own.attached_peer(port) {
            Some(peer) if peer != self.target => {
                let mut remote = self.channels[&peer].borrow_mut();
                Tables::Pair {
                    local: &mut own,
                    remote: &mut remote,
                }
                .close_attached(port);
            }
            Some(_) => Tables::Loopback(&mut own).close_attached(port),
            None => panic!("{port:?} released twice"),
        }
    }
}

pub(crate) struct FakeHost {
    pub(crate) caller: VcpuId,
    pub(crate) machine: FakeMachine,
    pub(crate) memory: Vec<u8>,
    pub(crate) channels: Channels,
    pub(crate) servers: Servers,
    pub(crate) actions: Vec<Action>,
    /// Source frames of the guest's RAM that can be mapped; any other is not RAM.
    pub(crate) foreign_limit: u64,
    pub(crate) direct_mapped: bool,
    pub(crate) shutdown: Option<ShutdownReason>,
    pub(crate) paused: bool,
    pub(crate) dying: bool,
    /// map_resource fails from this call on.
    pub(crate) fail_resource: Option<usize>,
    pub(crate) watchdogs: Watchdogs,
    pub(crate) reads: usize,
    pub(crate) console_room: usize,
    pub(crate) typed: Vec<u8>,
    next_frame: u64,
    pub(crate) live_frames: u64,
}

impl FakeHost {
    pub(crate) fn new(caller: DomainId) -> Self {
        let machine = FakeMachine::with_memory(Pa(SHARED), 1 << 22);
        let limits = PortLimits {
            highest: 40,
            attached: 600,
        };
        let channels = DOMAINS.into_iter().map(|id| {
            let shared = Pa(SHARED + u64::from(id.0) * 4096);
            machine.memory(|memory| memory.zero(shared, 4096));
            (id, RefCell::new(EventChannels::new(id, 2, limits, shared)))
        });
        let channels = channels.collect();
        let policy = Policy {
            timeout: None,
            attach_timeout: None,
            on_failure: OnFailure::Wait,
        };
        let device = DeviceRange {
            range: Range::from_length(DEVICE, 0x400).unwrap(),
            policy,
            state_page: None,
        };
        machine.memory(|memory| memory.zero(STATE_PAGE, 4096));
        let accelerated = |start| DeviceRange {
            range: Range::from_length(start, 0x1000).unwrap(),
            policy,
            state_page: Some(STATE_PAGE),
        };
        Self {
            caller: VcpuId {
                domain: caller,
                index: 0,
            },
            machine,
            memory: vec![0; WRITABLE + PAGE],
            channels,
            servers: Servers::new(
                2,
                vec![accelerated(ACCELERATED), accelerated(FOREIGN_DEVICE), device],
                policy,
                ServerLimits {
                    memory_ranges: 600,
                    other_ranges: 4,
                },
            ),
            actions: Vec::new(),
            foreign_limit: 0x50000,
            direct_mapped: false,
            shutdown: None,
            paused: false,
            dying: false,
            fail_resource: None,
            watchdogs: Watchdogs::default(),
            reads: 0,
            console_room: usize::MAX,
            typed: Vec::new(),
            next_frame: 0,
            live_frames: 0,
        }
    }

    pub(crate) fn call(&mut self, number: u64, arguments: &[u64]) -> Outcome {
        let mut all = [0; 5];
        all[..arguments.len()].copy_from_slice(arguments);
        dispatch(self, &Call { number, arguments: all })
    }

    /// Runs a call to its end as a guest does; the result and how often it was resumed.
    pub(crate) fn call_to_end(&mut self, number: u64, arguments: &[u64]) -> (Outcome, usize) {
        let mut all = [0; 5];
        all[..arguments.len()].copy_from_slice(arguments);
        let mut resumed = 0;
        loop {
            match dispatch(self, &Call { number, arguments: all }) {
                Outcome::Continue(next) => {
                    assert_ne!(next, all, "no progress");
                    all = next;
                    resumed += 1;
                    assert!(resumed < 10_000);
                }
                outcome => return (outcome, resumed),
            }
        }
    }

    pub(crate) fn put<T: IntoBytes + Immutable + ?Sized>(&mut self, at: u64, value: &T) {
        let start = (at - VA) as usize;
        self.memory[start..start + value.as_bytes().len()].copy_from_slice(value.as_bytes());
    }

    pub(crate) fn get<T: FromBytes + FromZeros + IntoBytes>(&self, at: u64) -> T {
        let start = (at - VA) as usize;
        let mut value = T::new_zeroed();
        let bytes = value.as_mut_bytes();
        bytes.copy_from_slice(&self.memory[start..start + bytes.len()]);
        value
    }

    /// Everything that a refused call must leave alone.
    pub(crate) fn snapshot(&self) -> (Vec<u8>, String, usize, u64) {
        let state = format!("{:?} {:?} {:?}", self.servers, self.channels, self.watchdogs);
        (self.memory.clone(), state, self.actions.len(), self.live_frames)
    }

    pub(crate) fn events(&self, domain: DomainId) -> std::cell::RefMut<'_, EventChannels> {
        self.channels[&domain].borrow_mut()
    }

    fn check(&self, address: u64, length: usize, limit: usize) -> Result<usize, HypercallError> {
        let start = address.checked_sub(VA).ok_or(HypercallError::BadPointer)?;
        let end = start.checked_add(length as u64).ok_or(HypercallError::BadPointer)?;
        if end > limit as u64 {
            Err(HypercallError::BadPointer)
        } else {
            Ok(start as usize)
        }
    }
}

impl GuestBuffers for FakeHost {
    fn read(&mut self, address: u64, into: &mut [u8]) -> Result<(), HypercallError> {
        self.reads += 1;
        let start = self.check(address, into.len(), WRITABLE + PAGE)?;
        into.copy_from_slice(&self.memory[start..start + into.len()]);
        Ok(())
    }
    fn write(&mut self, address: u64, from: &[u8]) -> Result<(), HypercallError> {
        let start = self.check(address, from.len(), WRITABLE)?;
        self.memory[start..start + from.len()].copy_from_slice(from);
        Ok(())
    }
}

impl portunus::hypercall::Shadowing for FakeHost {}
impl portunus::hypercall::Granting for FakeHost {}

impl Host for FakeHost {
    type Domains = Self;

    fn caller(&self) -> VcpuId {
        self.caller
    }
    fn domain(&self, id: DomainId) -> Option<DomainInfo> {
        DOMAINS.contains(&id).then_some(DomainInfo {
            id,
            vcpus: 2,
            online_vcpus: 1,
            ram_pages: 0x10000,
            parked_pages: 0x123,
            maximum_gfn: MAXIMUM_GFN - 1,
            direct_mapped: self.direct_mapped,
            spis: 64,
            gic_version: 3,
            address_bits: 40,
            handle: [7; 16],
            running: true,
            paused: self.paused,
            dying: self.dying,
            shutdown: self.shutdown,
            cpu_time: 99,
        })
    }
    fn domain_from(&self, id: DomainId) -> Option<DomainInfo> {
        DOMAINS
            .into_iter()
            .find(|other| *other >= id)
            .and_then(|id| self.domain(id))
    }
    fn permits(&self, right: Right) -> bool {
        let serves = |target| target == GUEST && [BACKEND, SECOND_BACKEND].contains(&self.caller.domain);
        match right {
            Right::Serve { target } => serves(target),
            Right::ServeRange { target, range } => {
                let mine = |start, length| Range::from_length(start, length).unwrap().contains(range);
                let first = self.caller.domain == BACKEND;
                serves(target) && (mine(DEVICE, 0x400) || first && mine(ACCELERATED, 0x1000))
            }
            Right::Interrupt { target, interrupt } => serves(target) && interrupt == IntId(SPI),
            Right::MapMemory { target } | Right::MapAllMemory { target } => {
                target == GUEST && self.caller.domain == BACKEND
            }
            Right::EventChannel { peer } => {
                // A backend binds the ports of its server because it serves.
                self.caller.domain == GUEST && [BACKEND, SECOND_BACKEND].contains(&peer)
            }
            Right::Control { target } => target == GUEST && self.caller.domain == BACKEND,
        }
    }

    fn domains(&mut self) -> &mut Self {
        self
    }
    fn set_interrupt_level(&mut self, target: DomainId, interrupt: IntId, level: bool) -> Result<(), HypercallError> {
        self.actions.push(Action::Interrupt(target, interrupt.0, level));
        Ok(())
    }

    fn map_shared_info(&mut self, gfn: u64) -> Result<(), HypercallError> {
        if gfn >= MAXIMUM_GFN {
            return Err(HypercallError::Invalid);
        }
        self.actions.push(Action::SharedInfo(gfn));
        Ok(())
    }
    fn map_foreign(&mut self, foreign: DomainId, pages: &mut [ForeignPage]) {
        for page in pages {
            if page.source >= self.foreign_limit || page.destination >= MAXIMUM_GFN {
                page.result = Err(HypercallError::Invalid);
            } else {
                self.actions
                    .push(Action::Foreign(foreign, page.source, page.destination));
            }
        }
    }
    fn map_resource(&mut self, frame: Pa, gfn: u64) -> Result<(), HypercallError> {
        let maps = self
            .actions
            .iter()
            .filter(|action| matches!(action, Action::Resource(..)))
            .count();
        if gfn >= MAXIMUM_GFN || self.fail_resource.is_some_and(|limit| maps >= limit) {
            return Err(HypercallError::Invalid);
        }
        self.actions.push(Action::Resource(frame, gfn));
        Ok(())
    }
    fn unmap(&mut self, gfn: u64) -> Result<(), HypercallError> {
        if gfn >= MAXIMUM_GFN {
            return Err(HypercallError::NoEntry);
        }
        self.actions.push(Action::Unmap(gfn));
        Ok(())
    }
    fn park_page(&mut self, gfn: u64) -> Result<(), HypercallError> {
        if gfn >= MAXIMUM_GFN {
            return Err(HypercallError::Invalid);
        }
        self.actions.push(Action::Park(gfn));
        Ok(())
    }
    fn populate_page(&mut self, gfn: u64) -> Result<(), HypercallError> {
        if gfn >= MAXIMUM_GFN {
            return Err(HypercallError::Invalid);
        }
        self.actions.push(Action::Populate(gfn));
        Ok(())
    }

    fn pin_frame(&mut self, gfn: u64) -> Result<Pa, HypercallError> {
        let frame = gfn
            .checked_mul(4096)
            .filter(|at| *at < 0x10000)
            .ok_or(HypercallError::Invalid)?;
        Ok(Pa(FRAMES + 0x20_0000 + frame))
    }
    fn pin_address(&mut self, address: u64) -> Result<Pa, HypercallError> {
        let start = self.check(address, 1, WRITABLE)?;
        Ok(Pa(FRAMES + 0x20_0000 + start as u64))
    }
    fn set_runstate_area(&mut self, vcpu: u8, area: Option<RunstateArea>) {
        self.actions.push(Action::Runstate(vcpu, area));
    }
    fn set_watchdog(&mut self, id: u32, timeout: u32) -> Result<u32, HypercallError> {
        self.watchdogs.set(id, timeout, Ticks(0), 1000)
    }
    fn mark_runstate(&mut self, marked: bool) {
        self.actions.push(Action::MarkRunstate(marked));
    }
    fn pv_console(&self) -> Option<(u64, EventPort)> {
        (self.caller.domain == GUEST).then_some((0x39000, EventPort(1)))
    }
    fn console_write(&mut self, bytes: &[u8]) -> Result<usize, HypercallError> {
        if self.caller.domain == STRANGER {
            return Err(HypercallError::NotPermitted);
        }
        let count = bytes.len().min(self.console_room);
        self.console_room -= count;
        self.actions.push(Action::Console(bytes[..count].to_vec()));
        Ok(count)
    }
    fn console_read(&mut self, into: &mut [u8]) -> Result<usize, HypercallError> {
        if self.caller.domain != GUEST {
            return Err(HypercallError::NotPermitted);
        }
        let count = into.len().min(self.typed.len());
        for (slot, byte) in into.iter_mut().zip(self.typed.drain(..count)) {
            *slot = byte;
        }
        Ok(count)
    }
}

impl Domains for FakeHost {
    type Memory = FakeMachine;

    fn events<R>(
        &mut self,
        domain: DomainId,
        with: impl FnOnce(&mut EventChannels, &SharedWords<'_, FakeMachine>) -> R,
    ) -> Option<R> {
        let words = SharedWords {
            memory: &self.machine,
            others: &NoOthers,
        };
        Some(with(&mut self.channels.get(&domain)?.borrow_mut(), &words))
    }
    fn event_pair<R>(
        &mut self,
        local: DomainId,
        remote: DomainId,
        with: impl FnOnce(Tables<'_>, &SharedWords<'_, FakeMachine>) -> R,
    ) -> Option<R> {
        let words = SharedWords {
            memory: &self.machine,
            others: &NoOthers,
        };
        let mut own = self.channels.get(&local)?.borrow_mut();
        if local == remote {
            return Some(with(Tables::Loopback(&mut own), &words));
        }
        let mut other = self.channels.get(&remote)?.borrow_mut();
        Some(with(
            Tables::Pair {
                local: &mut own,
                remote: &mut other,
            },
            &words,
        ))
    }
    fn deliver(&mut self, domain: DomainId, delivery: Delivery) {
        if delivery != Delivery::default() {
            self.actions.push(Action::Deliver(domain, delivery));
        }
    }

    fn servers<R>(
        &mut self,
        target: DomainId,
        with: impl FnOnce(&mut Servers, &Surroundings<'_, FakeMachine>, &mut dyn Resources) -> R,
    ) -> Option<R> {
        if target != GUEST {
            return None;
        }
        let mut resources = FakeResources {
            target,
            channels: &self.channels,
            machine: &self.machine,
            next_frame: &mut self.next_frame,
            live: &mut self.live_frames,
        };
        let around = Surroundings {
            memory: &self.machine,
            clock: &ZeroClock,
        };
        Some(with(&mut self.servers, &around, &mut resources))
    }
    fn wake(&mut self, target: DomainId, vcpus: VcpuSet) {
        self.actions.push(Action::Wake(target, vcpus));
    }
    fn trace(&mut self, target: DomainId, kind: Kind, vcpu: u8, argument: u32) {
        let vcpu = VcpuId {
            domain: target,
            index: vcpu,
        };
        self.machine.trace(kind, vcpu, argument);
    }
    fn record(&mut self, target: DomainId, event: Event) {
        self.actions.push(Action::Record(target, event));
    }
}
