//! A target with its servers, frames, ports and clocks, for tests of requests.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use portunus::abi::HypercallError;
use portunus::abi::dm_op::IoRange;
use portunus::abi::ioreq::Ioreq;
use portunus::access::{AccessWidth, Direction, MmioAccess};
use portunus::evtchn::Consumer;
use portunus::fakes::FakeMachine;
use portunus::ids::{DomainId, EventPort, Ipa, Pa, ServerId, Ticks};
use portunus::ioreq::{Clock, DeviceRange, OnFailure, Policy, Range, Resources, ServerLimits, Servers, Surroundings};

/// Where frames come from.
const FRAMES: u64 = 0x8000_0000;
pub(crate) const BACKEND: DomainId = DomainId(2);
pub(crate) const OTHER_BACKEND: DomainId = DomainId(3);

#[derive(Default)]
pub(crate) struct Pool {
    next: u64,
    pub(crate) frames: BTreeMap<u64, ()>,
    pub(crate) ports: BTreeMap<u32, (DomainId, Consumer)>,
    pub(crate) frames_left: Option<usize>,
    pub(crate) ports_left: Option<usize>,
}

pub(crate) struct PoolResources<'a> {
    machine: &'a FakeMachine,
    pool: &'a RefCell<Pool>,
}

impl Resources for PoolResources<'_> {
    fn allocate_frame(&mut self) -> Option<Pa> {
        let mut pool = self.pool.borrow_mut();
        if let Some(left) = &mut pool.frames_left {
            *left = left.checked_sub(1)?;
        }
        let at = FRAMES + pool.next * 4096;
        pool.next += 1;
        self.machine.memory(|memory| memory.zero(Pa(at), 4096));
        pool.frames.insert(at, ());
        Some(Pa(at))
    }
    fn share_frame(&mut self, _: Pa) -> Result<(), HypercallError> {
        Ok(())
    }
    fn release_frame(&mut self, frame: Pa) {
        assert!(
            self.pool.borrow_mut().frames.remove(&frame.0).is_some(),
            "{frame} released twice"
        );
    }
    fn allocate_port(&mut self, remote: DomainId, consumer: Consumer) -> Result<EventPort, HypercallError> {
        let mut pool = self.pool.borrow_mut();
        if let Some(left) = &mut pool.ports_left {
            *left = left.checked_sub(1).ok_or(HypercallError::NoSpace)?;
        }
        let port = (1024..).find(|port| !pool.ports.contains_key(port)).unwrap();
        pool.ports.insert(port, (remote, consumer));
        Ok(EventPort(port))
    }
    fn release_port(&mut self, port: EventPort) {
        assert!(
            self.pool.borrow_mut().ports.remove(&port.0).is_some(),
            "{port:?} released twice"
        );
    }
}

#[derive(Default)]
pub(crate) struct TestClock {
    pub(crate) now: Cell<u64>,
    pub(crate) runnable: Cell<u64>,
}

impl Clock for TestClock {
    fn now(&self) -> Ticks {
        Ticks(self.now.get())
    }
    fn runnable(&self, _: DomainId) -> Ticks {
        Ticks(self.runnable.get())
    }
}

pub(crate) struct World {
    pub(crate) machine: FakeMachine,
    pub(crate) pool: RefCell<Pool>,
    pub(crate) clock: TestClock,
    pub(crate) servers: Servers,
}

/// 5 units of backend time, 60 of waiting.
pub(crate) fn policy(on_failure: OnFailure) -> Policy {
    Policy {
        timeout: Some(Ticks(5)),
        attach_timeout: Some(Ticks(60)),
        on_failure,
    }
}

pub(crate) const DEVICE: u64 = 0x0200_0000;

impl World {
    /// A target with `vcpus` vCPUs and one device of 0x200 bytes at [`DEVICE`].
    pub(crate) fn new(vcpus: u8, on_failure: OnFailure) -> Self {
        let device = DeviceRange {
            state_page: None,
            range: Range::from_length(DEVICE, 0x200).unwrap(),
            policy: policy(on_failure),
        };
        Self::with_devices(vcpus, vec![device])
    }

    pub(crate) fn with_devices(vcpus: u8, devices: Vec<DeviceRange>) -> Self {
        Self {
            machine: FakeMachine::with_memory(Pa(FRAMES), 1 << 24),
            pool: RefCell::default(),
            clock: TestClock::default(),
            servers: Servers::new(vcpus, devices, policy(OnFailure::Ones), ServerLimits::default()),
        }
    }

    /// Borrows apart what calls need.
    pub(crate) fn parts(&mut self) -> (&mut Servers, Surroundings<'_, FakeMachine>, PoolResources<'_>) {
        let Self {
            machine,
            pool,
            clock,
            servers,
        } = self;
        let machine = &*machine;
        (
            servers,
            Surroundings {
                memory: machine,
                clock: &*clock,
            },
            PoolResources { machine, pool },
        )
    }

    pub(crate) fn create(&mut self, owner: DomainId) -> Result<ServerId, HypercallError> {
        let (servers, around, mut resources) = self.parts();
        servers.create(owner, 0, around.memory, &mut resources)
    }

    /// A server of `owner` that is enabled, bound and has the device's range.
    pub(crate) fn serving(&mut self, owner: DomainId) -> (ServerId, portunus::ioreq::Effects) {
        let id = self.create(owner).unwrap();
        for vcpu in 0..self.servers.vcpus() {
            self.servers.port_bound(id, vcpu, portunus::ids::EventPort(7));
        }
        let (servers, around, _) = self.parts();
        let mut effects = servers.set_enabled(owner, id, true, &around).unwrap();
        effects.merge(
            &servers
                .map_range(owner, &range(id, DEVICE, DEVICE + 0x1ff), true, &around)
                .unwrap(),
        );
        (id, effects)
    }

    pub(crate) fn slot_at(&self, id: ServerId, owner: DomainId, vcpu: u8) -> Pa {
        let page = self.servers.frame(owner, id.0.into(), 1).unwrap();
        Pa(page.0 + u64::from(vcpu) * Ioreq::SIZE)
    }

    pub(crate) fn slot(&self, id: ServerId, owner: DomainId, vcpu: u8) -> Ioreq {
        let bytes = self.machine.peek(self.slot_at(id, owner, vcpu), 32);
        zerocopy::FromBytes::read_from_bytes(bytes.as_slice()).unwrap()
    }

    /// The server writes a state and data, without an event.
    pub(crate) fn write_slot(&self, id: ServerId, owner: DomainId, vcpu: u8, state: u8, data: u64) {
        let at = self.slot_at(id, owner, vcpu);
        self.machine.poke(Pa(at.0 + Ioreq::DATA_OFFSET), &data.to_le_bytes());
        self.machine.poke(Pa(at.0 + Ioreq::FLAGS_OFFSET), &[state]);
    }

    /// The server writes a state and data, and sends an event.
    pub(crate) fn answer(
        &mut self,
        id: ServerId,
        owner: DomainId,
        vcpu: u8,
        state: u8,
        data: u64,
    ) -> portunus::ioreq::Effects {
        self.write_slot(id, owner, vcpu, state, data);
        let (servers, around, _) = self.parts();
        servers.notified(id, vcpu, &around)
    }

    pub(crate) fn begin(&mut self, vcpu: u8, access: MmioAccess) -> portunus::ioreq::Begun {
        self.begin_with_effects(vcpu, access).0
    }

    pub(crate) fn begin_with_effects(
        &mut self,
        vcpu: u8,
        access: MmioAccess,
    ) -> (portunus::ioreq::Begun, portunus::ioreq::Effects) {
        let (servers, around, _) = self.parts();
        let mut effects = portunus::ioreq::Effects::default();
        let begun = servers.begin(vcpu, access, &around, &mut effects).unwrap();
        (begun, effects)
    }

    pub(crate) fn expire(&mut self) -> portunus::ioreq::Effects {
        let (servers, around, _) = self.parts();
        servers.expire(&around)
    }
}

pub(crate) fn range(id: ServerId, start: u64, end: u64) -> IoRange {
    IoRange {
        id: id.0,
        pad: 0,
        kind: IoRange::MEMORY,
        start,
        end,
    }
}

pub(crate) fn load(at: u64, width: AccessWidth) -> MmioAccess {
    MmioAccess {
        ipa: Ipa(at),
        width,
        direction: Direction::Read,
    }
}

pub(crate) fn store(at: u64, width: AccessWidth, value: u64) -> MmioAccess {
    MmioAccess {
        ipa: Ipa(at),
        width,
        direction: Direction::Write(value),
    }
}
