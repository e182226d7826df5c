//! A guest of some vCPUs, each on a pCPU of its own with fake list registers; kicks and maintenance interrupts are served
//! at once, as by a hypervisor that is infinitely fast.

#![allow(dead_code, unreachable_pub, reason = "each test crate uses its part")]

use portunus::access::{AccessWidth, Direction};
use portunus::fakes::FakeVirtualInterface;
use portunus::ids::{IntId, VcpuSet};
use portunus::vgic::list_register::{Backing, ListRegister};
use portunus::vgic::{Answer, Config, Frame, PhysicalChange, Version, Vgic, VgicError};

pub const BOTH: [Version; 2] = [Version::V2, Version::V3];

/// Offsets in GICD (IHI 0048, table 4-1); in GICv3 the same.
pub mod offsets {
    pub const CTLR: u64 = 0;
    pub const GROUP: u64 = 0x80;
    pub const SET_ENABLE: u64 = 0x100;
    pub const CLEAR_ENABLE: u64 = 0x180;
    pub const SET_PENDING: u64 = 0x200;
    pub const CLEAR_PENDING: u64 = 0x280;
    pub const SET_ACTIVE: u64 = 0x300;
    pub const CLEAR_ACTIVE: u64 = 0x380;
    pub const PRIORITY: u64 = 0x400;
    pub const TARGETS: u64 = 0x800;
    pub const CONFIGURATION: u64 = 0xc00;
    pub const SGIR: u64 = 0xf00;
    pub const CLEAR_SGI_PENDING: u64 = 0xf10;
    pub const SET_SGI_PENDING: u64 = 0xf20;
    pub const ROUTER: u64 = 0x6000;
}

pub struct Guest {
    pub version: Version,
    pub vgic: Vgic,
    pub interfaces: Vec<FakeVirtualInterface>,
    /// Maintenance interrupts taken.
    pub maintenances: usize,
    /// Kicks are served at once.
    pub serve: bool,
}

impl Guest {
    /// All interrupts disabled, the distributor enabled.
    pub fn new(version: Version, vcpus: u8, list_registers: usize) -> Self {
        let config = Config {
            version,
            vcpus,
            spis: 128,
        };
        let mut guest = Self {
            version,
            vgic: Vgic::new(config).unwrap(),
            interfaces: (0..vcpus).map(|_| FakeVirtualInterface::new(list_registers)).collect(),
            maintenances: 0,
            serve: true,
        };
        for vcpu in 0..vcpus {
            guest.flush(vcpu);
        }
        guest.write(0, offsets::CTLR, 3);
        guest
    }

    pub fn flush(&mut self, vcpu: u8) {
        let kick = self.vgic.flush(vcpu, &mut self.interfaces[usize::from(vcpu)]);
        assert!(!kick.contains(vcpu));
        assert!(!self.vgic.needs_flush(vcpu));
        assert!(
            !self.interfaces[usize::from(vcpu)].no_pending_fires(),
            "maintenance storm"
        );
        assert!(
            !self.interfaces[usize::from(vcpu)].end_fires(),
            "the end of an interrupt that was dealt with asks for maintenance"
        );
        self.serve(kick);
    }

    pub fn serve(&mut self, kick: VcpuSet) {
        if !self.serve {
            return;
        }
        for vcpu in kick.iter() {
            if self.vgic.needs_flush(vcpu) {
                self.flush(vcpu);
            }
        }
    }

    pub fn inject(&mut self, inject: impl FnOnce(&mut Vgic) -> Result<VcpuSet, VgicError>) {
        let kick = inject(&mut self.vgic).unwrap();
        self.serve(kick);
        if self.serve {
            for vcpu in 0..self.vgic.config().vcpus {
                assert!(!self.vgic.needs_flush(vcpu), "vCPU {vcpu} was not kicked");
            }
        }
    }

    pub fn access(
        &mut self,
        vcpu: u8,
        frame: Frame,
        offset: u64,
        width: AccessWidth,
        direction: Direction,
    ) -> (u64, Vec<(IntId, PhysicalChange)>) {
        for _ in 0..3 {
            let interface = &mut self.interfaces[usize::from(vcpu)];
            let result = self.vgic.mmio(interface, vcpu, frame, offset, width, direction);
            let physical = result
                .physical
                .map_or(Vec::new(), |changes| self.vgic.physical_changes(changes).collect());
            self.serve(result.kick);
            assert!(
                !self.serve || !self.vgic.needs_flush(vcpu),
                "vCPU {vcpu} is not told to flush before it runs on"
            );
            match (result.answer, direction) {
                (Answer::Value(value), Direction::Read) => {
                    assert_eq!(value & !width.mask(), 0, "zero-extended");
                    return (value, physical);
                }
                (Answer::Written, Direction::Write(_)) => return (0, physical),
                (Answer::Again, Direction::Read) => assert!(!result.kick.is_empty()),
                (answer, direction) => panic!("{answer:?} to {direction:?}"),
            }
        }
        panic!("{frame:?} {offset:#x}: asked again for ever");
    }

    fn frame(&self, vcpu: u8, offset: u64, private: bool) -> (Frame, u64) {
        if private && self.version == Version::V3 {
            (Frame::Redistributor, u64::from(vcpu) * 0x2_0000 + 0x1_0000 + offset)
        } else {
            (Frame::Distributor, offset)
        }
    }

    pub fn read(&mut self, vcpu: u8, offset: u64) -> u64 {
        self.access(vcpu, Frame::Distributor, offset, AccessWidth::Word, Direction::Read)
            .0
    }
    pub fn read_byte(&mut self, vcpu: u8, offset: u64) -> u64 {
        self.access(vcpu, Frame::Distributor, offset, AccessWidth::Byte, Direction::Read)
            .0
    }
    pub fn write(&mut self, vcpu: u8, offset: u64, value: u64) -> Vec<(IntId, PhysicalChange)> {
        self.access(
            vcpu,
            Frame::Distributor,
            offset,
            AccessWidth::Word,
            Direction::Write(value),
        )
        .1
    }
    pub fn write_byte(&mut self, vcpu: u8, offset: u64, value: u64) {
        self.access(
            vcpu,
            Frame::Distributor,
            offset,
            AccessWidth::Byte,
            Direction::Write(value),
        );
    }
    pub fn write64(&mut self, vcpu: u8, offset: u64, value: u64) {
        self.access(
            vcpu,
            Frame::Distributor,
            offset,
            AccessWidth::Doubleword,
            Direction::Write(value),
        );
    }
    pub fn write_redistributor(&mut self, vcpu: u8, offset: u64, value: u64) {
        self.access(
            vcpu,
            Frame::Redistributor,
            offset,
            AccessWidth::Word,
            Direction::Write(value & 0xffff_ffff),
        );
    }

    /// Writes a one to the interrupt's bit of a bank of bits.
    pub fn set_bit(&mut self, vcpu: u8, bank: u64, interrupt: IntId) -> Vec<(IntId, PhysicalChange)> {
        let (frame, offset) = self.frame(vcpu, bank + u64::from(interrupt.0 / 32) * 4, interrupt.is_private());
        self.access(
            vcpu,
            frame,
            offset,
            AccessWidth::Word,
            Direction::Write(1 << (interrupt.0 % 32)),
        )
        .1
    }
    pub fn bit(&mut self, vcpu: u8, bank: u64, interrupt: IntId) -> bool {
        let (frame, offset) = self.frame(vcpu, bank + u64::from(interrupt.0 / 32) * 4, interrupt.is_private());
        self.access(vcpu, frame, offset, AccessWidth::Word, Direction::Read).0 >> (interrupt.0 % 32) & 1 != 0
    }
    pub fn enable(&mut self, vcpu: u8, interrupt: IntId) {
        self.set_bit(vcpu, offsets::SET_ENABLE, interrupt);
    }
    pub fn pending(&mut self, vcpu: u8, interrupt: IntId) -> bool {
        self.bit(vcpu, offsets::SET_PENDING, interrupt)
    }
    pub fn active(&mut self, vcpu: u8, interrupt: IntId) -> bool {
        self.bit(vcpu, offsets::SET_ACTIVE, interrupt)
    }
    pub fn set_priority(&mut self, vcpu: u8, interrupt: IntId, priority: u8) {
        let (frame, offset) = self.frame(vcpu, offsets::PRIORITY + u64::from(interrupt.0), interrupt.is_private());
        self.access(
            vcpu,
            frame,
            offset,
            AccessWidth::Byte,
            Direction::Write(u64::from(priority)),
        );
    }
    /// Alone: the other interrupts of the register become level-sensitive.
    pub fn set_edge(&mut self, vcpu: u8, interrupt: IntId, edge: bool) {
        let bank = offsets::CONFIGURATION + u64::from(interrupt.0 / 16) * 4;
        let (frame, offset) = self.frame(vcpu, bank, interrupt.is_private());
        let value = if edge { 2 << (interrupt.0 % 16 * 2) } else { 0 };
        self.access(vcpu, frame, offset, AccessWidth::Word, Direction::Write(value));
    }
    pub fn route(&mut self, vcpu: u8, interrupt: IntId, to: u8) {
        self.route_changes(vcpu, interrupt, to);
    }
    pub fn route_changes(&mut self, vcpu: u8, interrupt: IntId, to: u8) -> Vec<(IntId, PhysicalChange)> {
        let number = u64::from(interrupt.0);
        let (offset, width, value) = match self.version {
            Version::V2 => (offsets::TARGETS + number, AccessWidth::Byte, 1 << to),
            Version::V3 => (offsets::ROUTER + number * 8, AccessWidth::Doubleword, u64::from(to)),
        };
        self.access(vcpu, Frame::Distributor, offset, width, Direction::Write(value))
            .1
    }

    pub fn listed(&self, vcpu: u8, interrupt: IntId) -> Option<ListRegister> {
        self.interfaces[usize::from(vcpu)].find(interrupt)
    }
    pub fn deactivated(&self) -> Vec<IntId> {
        self.interfaces
            .iter()
            .flat_map(|interface| interface.deactivated.iter().copied())
            .collect()
    }

    /// The guest acknowledges; the hypervisor learns of it only by a maintenance interrupt.
    pub fn acknowledge(&mut self, vcpu: u8) -> Option<IntId> {
        let interrupt = self.acknowledge_silently(vcpu);
        if self.interfaces[usize::from(vcpu)].no_pending_fires() {
            self.maintenance(vcpu);
        }
        interrupt
    }
    pub fn acknowledge_silently(&mut self, vcpu: u8) -> Option<IntId> {
        self.interfaces[usize::from(vcpu)].acknowledge()
    }

    /// The guest ends an interrupt that it handles; it must be active in a list register.
    pub fn end(&mut self, vcpu: u8, interrupt: IntId) {
        let listed = self
            .listed(vcpu, interrupt)
            .unwrap_or_else(|| panic!("{interrupt:?} ends, but is not listed"));
        let asked = matches!(listed.backing, Backing::Software { maintenance: true, .. });
        let interface = &mut self.interfaces[usize::from(vcpu)];
        let maintenance = interface.end(interrupt);
        assert_eq!(maintenance, Some(asked), "{interrupt:?} ends");
        if asked || interface.no_pending_fires() {
            self.maintenance(vcpu);
        }
    }

    pub fn maintenance(&mut self, vcpu: u8) {
        self.maintenances += 1;
        let kick = self.vgic.sync(vcpu, &mut self.interfaces[usize::from(vcpu)]);
        self.serve(kick);
        self.flush(vcpu);
    }
}
