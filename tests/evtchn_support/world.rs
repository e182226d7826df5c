//! Two domains with their channels and shared pages.

use std::cell::Cell;

use portunus::abi::HypercallError::{self};
use portunus::evtchn::{Bound, Delivery, EventChannels, PortLimits, Received, Sent, Tables};
use portunus::fakes::FakeMachine;
use portunus::ids::{DomainId, EventPort, Pa, VcpuSet};
use portunus::memory::atomic::{SharedWords, StopOthers};

pub(crate) const A: DomainId = DomainId(1);
pub(crate) const B: DomainId = DomainId(2);
pub(crate) const C: DomainId = DomainId(3);
pub(crate) const SHARED_A: Pa = Pa(0x8000_0000);
pub(crate) const SHARED_B: Pa = Pa(0x8000_1000);
pub(crate) const INFO: Pa = Pa(0x8000_2000);
pub(crate) const PENDING: u64 = 48;
pub(crate) const MASK: u64 = 560;

/// Counts how often others were stopped.
#[derive(Default)]
pub(crate) struct Stop {
    pub(crate) times: Cell<u32>,
}

impl StopOthers for Stop {
    fn while_stopped(&self, attempt: &mut dyn FnMut()) {
        self.times.set(self.times.get() + 1);
        attempt();
    }
}

pub(crate) struct World {
    pub(crate) machine: FakeMachine,
    pub(crate) stop: Stop,
    pub(crate) a: EventChannels,
    pub(crate) b: EventChannels,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_limits(PortLimits {
            highest: 1023,
            attached: 4,
        })
    }

    pub(crate) fn with_limits(limits: PortLimits) -> Self {
        let machine = FakeMachine::with_memory(SHARED_A, 0x4000);
        machine.memory(|memory| memory.zero(SHARED_A, 0x4000));
        let a = EventChannels::new(A, 2, limits, SHARED_A);
        let b = EventChannels::new(B, 2, limits, SHARED_B);
        Self {
            machine,
            stop: Stop::default(),
            a,
            b,
        }
    }

    pub(crate) fn apart(&mut self) -> (&mut EventChannels, &mut EventChannels, SharedWords<'_, FakeMachine>) {
        let Self { machine, stop, a, b } = self;
        (
            a,
            b,
            SharedWords {
                memory: &*machine,
                others: &*stop,
            },
        )
    }

    /// A binds to a port of B.
    pub(crate) fn bind(&mut self, remote_port: EventPort) -> Result<Bound, HypercallError> {
        let (local, remote, words) = self.apart();
        Tables::Pair { local, remote }.bind_interdomain(remote_port, &words)
    }

    /// A port of A connected to a port of B, without pending events.
    pub(crate) fn connected(&mut self) -> (EventPort, EventPort) {
        let remote = self.b.alloc_unbound(A).unwrap();
        let local = self.bind(remote).unwrap().port;
        self.clear(SHARED_A);
        (local, remote)
    }

    pub(crate) fn clear(&self, shared: Pa) {
        self.machine.memory(|memory| memory.zero(shared, 560));
    }

    pub(crate) fn word(&self, shared: Pa, offset: u64) -> u64 {
        self.machine.memory(|memory| memory.word(Pa(shared.0 + offset), 8))
    }

    pub(crate) fn poke(&self, shared: Pa, offset: u64, value: u64) {
        self.machine
            .memory(|memory| memory.set_word(Pa(shared.0 + offset), 8, value));
    }

    pub(crate) fn is_pending(&self, shared: Pa, port: EventPort) -> bool {
        self.word(shared, PENDING + u64::from(port.0 / 64) * 8) >> (port.0 % 64) & 1 == 1
    }

    /// A sends; what B gets.
    pub(crate) fn send(&mut self, port: EventPort) -> Result<Received, HypercallError> {
        let (a, b, words) = self.apart();
        match a.send(port, &words)? {
            Sent::Peer(sender, B, port) => Ok(b.receive(port, sender, &words)),
            Sent::Nobody => Ok(Received::Nothing),
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) const UPCALL_0: Delivery = Delivery {
    upcall: Some(0),
    wake: VcpuSet::EMPTY,
};
pub(crate) const QUIET: Delivery = Delivery {
    upcall: None,
    wake: VcpuSet::EMPTY,
};
