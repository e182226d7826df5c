//! An ideal GIC: no list registers, no queues; every question looks at every interrupt.

#![allow(unreachable_pub, reason = "a support module")]

use super::guest::offsets;
use portunus::ids::IntId;
use portunus::vgic::Version;

#[derive(Clone, Default)]
pub struct IdealIrq {
    pub enabled: bool,
    pub group1: bool,
    pub edge: bool,
    pub priority: u8,
    pub target: Option<u8>,
    pub line: bool,
    pub has_level: bool,
    /// By source for a GICv2's SGIs.
    pub latch: u8,
    pub active: Option<u8>,
}

impl IdealIrq {
    pub fn pending(&self) -> bool {
        self.latch != 0 || (self.line && !self.edge)
    }
    pub fn set_line(&mut self, high: bool) {
        if self.edge && high && !self.line {
            self.latch |= 1;
        }
        self.line = high;
    }
    pub fn server_level(&mut self, high: bool) {
        match (high, self.has_level) {
            (true, false) => self.latch |= 1,
            (true, true) => {
                self.line = true;
                self.latch |= u8::from(self.edge);
            }
            (false, false) => {
                self.has_level = true;
                self.line = false;
                if !self.edge {
                    self.latch = 0;
                }
            }
            (false, true) => self.line = false,
        }
    }
}

pub struct Ideal {
    version: Version,
    vcpus: u8,
    private: Vec<[IdealIrq; 32]>,
    shared: Vec<IdealIrq>,
    pub groups: [bool; 2],
    pub masks: Vec<u8>,
    /// Priorities of what each vCPU handles.
    pub running: Vec<Vec<u8>>,
    /// Interrupts that a register write made active.
    pub written_active: usize,
}

impl Ideal {
    pub fn new(version: Version, vcpus: u8, spis: usize) -> Self {
        let group1 = version == Version::V3;
        let private = |vcpu| {
            std::array::from_fn(|interrupt| IdealIrq {
                enabled: version == Version::V2 && interrupt < 16,
                group1,
                edge: interrupt < 16,
                target: Some(vcpu),
                ..IdealIrq::default()
            })
        };
        let spi = IdealIrq {
            group1,
            target: Some(0),
            ..IdealIrq::default()
        };
        Self {
            version,
            vcpus,
            private: (0..vcpus).map(private).collect(),
            shared: vec![spi; spis],
            groups: [true, true],
            masks: vec![0xff; usize::from(vcpus)],
            running: vec![Vec::new(); usize::from(vcpus)],
            written_active: 0,
        }
    }

    pub fn irq(&mut self, vcpu: u8, interrupt: IntId) -> &mut IdealIrq {
        match interrupt.0.checked_sub(32) {
            Some(spi) => &mut self.shared[spi as usize],
            None => &mut self.private[usize::from(vcpu)][interrupt.0 as usize],
        }
    }

    /// The priority that the next acknowledge of a vCPU gets, and the interrupts that have it.
    pub fn candidates(&self, vcpu: u8, running: Option<u8>) -> (Option<u8>, Vec<IntId>) {
        let private = self.private[usize::from(vcpu)].iter().zip(0..);
        let shared = self.shared.iter().zip(32..);
        let deliverable: Vec<_> = private
            .chain(shared)
            .filter(|(irq, _)| {
                irq.pending()
                    && irq.enabled
                    && irq.active.is_none()
                    && irq.target == Some(vcpu)
                    && self.groups[usize::from(irq.group1)]
                    && irq.priority < self.masks[usize::from(vcpu)]
                    && running.is_none_or(|running| irq.priority < running)
            })
            .collect();
        let best = deliverable.iter().map(|(irq, _)| irq.priority).min();
        let equals = deliverable.iter().filter(|(irq, _)| Some(irq.priority) == best);
        (best, equals.map(|(_, interrupt)| IntId(*interrupt)).collect())
    }

    pub fn read_bits(&mut self, bank: u64, vcpu: u8, first: u32) -> u32 {
        (0..32).fold(0, |value, bit| {
            let irq = self.irq(vcpu, IntId(first + bit));
            let set = match bank {
                offsets::GROUP => irq.group1,
                offsets::SET_ENABLE => irq.enabled,
                offsets::SET_PENDING | offsets::CLEAR_PENDING => irq.pending(),
                _ => irq.active.is_some(),
            };
            value | u32::from(set) << bit
        })
    }

    /// `vcpu` writes; private registers are `owner`'s.
    pub fn write_bits(&mut self, bank: u64, vcpu: u8, owner: u8, first: u32, value: u32) {
        let version = self.version;
        for bit in 0..32 {
            let one = value & 1 << bit != 0;
            let interrupt = IntId(first + bit);
            let irq = self.irq(owner, interrupt);
            if bank == offsets::GROUP {
                irq.group1 = one;
                continue;
            }
            let read_only = version == Version::V2 && interrupt.is_sgi();
            let holder = irq.target.unwrap_or(vcpu);
            match bank {
                _ if !one => {}
                offsets::SET_ACTIVE => irq.active = irq.active.or(Some(holder)),
                offsets::CLEAR_ACTIVE => irq.active = None,
                _ if read_only => {}
                offsets::SET_ENABLE => irq.enabled = true,
                offsets::CLEAR_ENABLE => irq.enabled = false,
                offsets::SET_PENDING => irq.latch |= 1,
                offsets::CLEAR_PENDING => irq.latch = 0,
                _ => unreachable!("{bank:#x} is no bank of bits"),
            }
        }
        let handled: usize = self.running.iter().map(Vec::len).sum();
        let every = (0..self.vcpus)
            .flat_map(|vcpu| self.private[usize::from(vcpu)].iter())
            .chain(&self.shared);
        self.written_active = every.filter(|irq| irq.active.is_some()).count() - handled;
    }
}
