//! Random operations on the virtual GIC against a naive model: an ideal GIC that looks at every interrupt each time.
//!
//! The model has no list registers. With kicks and maintenance interrupts served at once, the guest must see exactly what
//! an ideal GIC shows: which priority an acknowledge gets, and every state register. Among equals either may come first.

#[path = "vgic_support/guest.rs"]
mod guest;
#[path = "vgic_support/ideal.rs"]
mod ideal;

use guest::{BOTH, Guest, offsets};
use ideal::Ideal;
use portunus::access::{AccessWidth, Direction};
use portunus::fakes::Random;
use portunus::ids::IntId;
use portunus::vgic::list_register::{Backing, VirtualInterface};
use portunus::vgic::{Frame, SgiRegister, Version};

const VCPUS: u8 = 3;
const TIMER: IntId = IntId(27);
const FIRST_PHYSICAL: u32 = 44;
const PHYSICAL: std::ops::Range<u32> = FIRST_PHYSICAL..48;
const SPIS: std::ops::Range<u32> = 32..64;
const OPERATIONS: usize = 30_000;

struct Run {
    guest: Guest,
    ideal: Ideal,
    random: Random,
    /// What each vCPU handles, outermost first.
    handling: [Vec<IntId>; VCPUS as usize],
    loaded: [bool; VCPUS as usize],
    /// Who is on its pCPU but does not run.
    resting: [bool; VCPUS as usize],
    /// Physical interrupts that are active: the timers', then the SPIs'.
    physical_active: Vec<(Option<u8>, IntId)>,
    /// Interrupts made active by a register write are many only where list registers are.
    writes_active: bool,
}

impl Run {
    fn new(version: Version, list_registers: usize, seed: u64) -> Self {
        let mut guest = Guest::new(version, VCPUS, list_registers);
        guest.vgic.bind_physical_ppi(TIMER, TIMER).unwrap();
        for interrupt in PHYSICAL {
            guest
                .vgic
                .bind_physical(IntId(interrupt), IntId(interrupt + 100), false)
                .unwrap();
        }
        Self {
            ideal: Ideal::new(version, VCPUS, 128),
            guest,
            random: Random::new(seed),
            handling: Default::default(),
            loaded: [true; VCPUS as usize],
            resting: [false; VCPUS as usize],
            physical_active: Vec::new(),
            writes_active: list_registers == 16,
        }
    }

    fn run(&mut self) {
        for vcpu in 0..VCPUS {
            for interrupt in (0..32).filter(|_| self.random.one_in(2)) {
                self.guest.enable(vcpu, IntId(interrupt));
                self.ideal.irq(vcpu, IntId(interrupt)).enabled = true;
            }
        }
        for interrupt in SPIS {
            self.guest.enable(0, IntId(interrupt));
            self.ideal.irq(0, IntId(interrupt)).enabled = true;
        }
        for _ in 0..OPERATIONS {
            let vcpu = self.random.below(u32::from(VCPUS)) as u8;
            match self.random.below(100) {
                0..30 => self.inject(),
                30..50 => self.acknowledge(vcpu),
                50..68 => self.end(vcpu),
                68..74 => self.unload(vcpu),
                74..90 => self.write(vcpu),
                _ => self.read(vcpu),
            }
            self.check();
        }
        // In the end everything that can be delivered is, and nothing is left in hardware.
        self.guest.write(0, offsets::CTLR, 3);
        self.ideal.groups = [true, true];
        self.serve();
        for vcpu in 0..VCPUS {
            self.load(vcpu);
        }
        for _ in 0..4 {
            for vcpu in 0..VCPUS {
                while !self.handling[usize::from(vcpu)].is_empty() {
                    self.end(vcpu);
                }
                self.acknowledge(vcpu);
            }
            self.check();
        }
    }

    fn load(&mut self, vcpu: u8) {
        if std::mem::take(&mut self.resting[usize::from(vcpu)]) {
            self.loaded[usize::from(vcpu)] = true;
            self.flush(vcpu);
        }
        if !self.loaded[usize::from(vcpu)] {
            self.loaded[usize::from(vcpu)] = true;
            let due = self
                .guest
                .vgic
                .load(vcpu, &mut self.guest.interfaces[usize::from(vcpu)]);
            if due {
                self.flush(vcpu);
            }
        }
    }

    fn unload(&mut self, vcpu: u8) {
        if std::mem::take(&mut self.loaded[usize::from(vcpu)]) {
            if self.random.one_in(4) {
                self.resting[usize::from(vcpu)] = true;
                let kick = self
                    .guest
                    .vgic
                    .rest(vcpu, &mut self.guest.interfaces[usize::from(vcpu)]);
                return self.kick(kick);
            }
            let parks = self.random.below(4) > 0;
            let interface = &mut self.guest.interfaces[usize::from(vcpu)];
            let kick = if parks {
                self.guest.vgic.park(vcpu, interface)
            } else {
                self.guest.vgic.unload(vcpu, interface)
            };
            assert_eq!(interface.free().count_ones() as usize, interface.list_registers());
            self.kick(kick);
            self.settle(vcpu);
            let active = self.physical_active.contains(&(Some(vcpu), TIMER));
            assert_eq!(self.guest.vgic.holds_physical(vcpu, TIMER), active);
            if parks {
                return;
            }
            // Running priorities do not matter to a vCPU that looks for a reason to wake.
            let expected = self.ideal.candidates(vcpu, None).0;
            assert_eq!(self.guest.vgic.has_deliverable(vcpu), expected.is_some(), "vCPU {vcpu}");
        }
    }

    fn kick(&mut self, kick: portunus::ids::VcpuSet) {
        for vcpu in kick
            .iter()
            .filter(|vcpu| self.resting[usize::from(*vcpu)])
            .collect::<Vec<_>>()
        {
            self.load(vcpu);
        }
        let loaded = self.loaded;
        for vcpu in kick.iter().filter(|vcpu| loaded[usize::from(*vcpu)]) {
            if self.guest.vgic.needs_flush(vcpu) {
                self.flush(vcpu);
            }
        }
    }

    fn flush(&mut self, vcpu: u8) {
        let kick = self
            .guest
            .vgic
            .flush(vcpu, &mut self.guest.interfaces[usize::from(vcpu)]);
        assert!(
            !self.guest.interfaces[usize::from(vcpu)].no_pending_fires(),
            "maintenance storm"
        );
        self.kick(kick);
    }

    /// Flushes whoever must: a loaded vCPU that nobody kicked fails.
    fn serve(&mut self) {
        for vcpu in (0..VCPUS).filter(|vcpu| self.loaded[usize::from(*vcpu)]) {
            assert!(!self.guest.vgic.needs_flush(vcpu), "vCPU {vcpu} was not kicked");
        }
        for vcpu in 0..VCPUS {
            self.settle(vcpu);
        }
    }

    /// Takes note of what a pCPU deactivated; only what is active may be.
    fn settle(&mut self, vcpu: u8) {
        for physical in std::mem::take(&mut self.guest.interfaces[usize::from(vcpu)].deactivated) {
            let of = physical.is_private().then_some(vcpu);
            let index = self.physical_active.iter().position(|active| *active == (of, physical));
            let index = index.unwrap_or_else(|| panic!("{physical:?} deactivated, but not active"));
            self.physical_active.swap_remove(index);
        }
    }

    fn check(&mut self) {
        self.serve();
        // The timer of a vCPU that is not loaded is as the vGIC says, and becomes so in hardware when it is.
        let (vgic, loaded, resting) = (&self.guest.vgic, self.loaded, self.resting);
        self.physical_active.retain(|(vcpu, _)| {
            vcpu.is_none_or(|vcpu| {
                let index = usize::from(vcpu);
                loaded[index] || resting[index] || vgic.holds_physical(vcpu, TIMER)
            })
        });
        // A physical interrupt is active exactly as long as something is left of the virtual one.
        for (vcpu, physical) in self.physical_active.clone() {
            let interrupt = if physical.is_private() {
                physical
            } else {
                IntId(physical.0 - 100)
            };
            let irq = self.ideal.irq(vcpu.unwrap_or(0), interrupt);
            assert!(
                irq.latch != 0 || irq.active.is_some(),
                "{physical:?} stays active for nobody"
            );
        }
    }

    fn spi(&mut self) -> IntId {
        IntId(SPIS.start + self.random.below(SPIS.end - SPIS.start))
    }

    fn inject(&mut self) {
        let vcpu = self.random.below(u32::from(VCPUS)) as u8;
        let high = self.random.one_in(2);
        let interrupt = self.spi();
        let physical = PHYSICAL.contains(&interrupt.0);
        let ppi = IntId(16 + self.random.below(16));
        let vgic = &mut self.guest.vgic;
        let irq = self.ideal.irq(0, interrupt);
        let kick = match self.random.below(10) {
            8.. if !physical => return self.lower(interrupt),
            0 if !physical => {
                irq.set_line(high);
                vgic.set_spi_level(interrupt, high)
            }
            1 if !physical => {
                irq.line = true;
                irq.latch |= u8::from(irq.edge);
                vgic.raise_spi(interrupt)
            }
            2 if !physical => {
                irq.latch |= 1;
                vgic.pulse_spi(interrupt)
            }
            3 if !physical => {
                irq.server_level(high);
                vgic.set_irq_level(interrupt, high)
            }
            4 if ppi == TIMER => {
                let index = usize::from(vcpu);
                if !(self.loaded[index] || self.resting[index]) || self.physical_active.contains(&(Some(vcpu), TIMER)) {
                    return;
                }
                self.physical_active.push((Some(vcpu), TIMER));
                self.ideal.irq(vcpu, TIMER).latch |= 1;
                vgic.physical_private(vcpu, TIMER)
            }
            4 => {
                self.ideal.irq(vcpu, ppi).set_line(high);
                vgic.set_private_level(vcpu, ppi, high)
            }
            5 => {
                let physical = FIRST_PHYSICAL + self.random.below(4);
                let entry = (None, IntId(physical + 100));
                if self.physical_active.contains(&entry) {
                    return;
                }
                self.physical_active.push(entry);
                self.ideal.irq(0, IntId(physical)).latch |= 1;
                vgic.physical(IntId(physical))
            }
            6 if ppi != TIMER => {
                self.ideal.irq(vcpu, ppi).latch |= 1;
                vgic.pulse_private(vcpu, ppi)
            }
            _ => return self.send_sgi(vcpu),
        };
        self.kick(kick.unwrap());
    }

    /// A device of the hypervisor lowers its line: by what some vCPU does, or because something else happened.
    fn lower(&mut self, interrupt: IntId) {
        let irq = self.ideal.irq(0, interrupt);
        irq.line = false;
        if irq.edge {
            irq.latch = 0;
        }
        let vcpu = self.random.below(u32::from(VCPUS)) as u8;
        let vgic = &mut self.guest.vgic;
        let kick = if self.loaded[usize::from(vcpu)] && self.random.one_in(2) {
            vgic.lower_own_spi(vcpu, interrupt, &mut self.guest.interfaces[usize::from(vcpu)])
        } else {
            vgic.lower_spi(interrupt)
        };
        self.kick(kick.unwrap());
    }

    fn send_sgi(&mut self, vcpu: u8) {
        let (interrupt, targets) = (self.random.below(16), self.random.below(256));
        match self.guest.version {
            Version::V2 => {
                for target in (0..VCPUS).filter(|target| targets & 1 << target != 0) {
                    self.ideal.irq(target, IntId(interrupt)).latch |= 1 << vcpu;
                }
                self.word(vcpu, Frame::Distributor, offsets::SGIR, targets << 16 | interrupt);
            }
            Version::V3 => {
                let group0_only = self.random.one_in(3);
                for target in (0..VCPUS).filter(|target| targets & 1 << target != 0) {
                    let irq = self.ideal.irq(target, IntId(interrupt));
                    if !(group0_only && irq.group1) {
                        irq.latch |= 1;
                    }
                }
                let register = if group0_only {
                    SgiRegister::Sgi0r
                } else {
                    SgiRegister::Sgi1r
                };
                let value = u64::from(interrupt) << 24 | u64::from(targets);
                let kick = self.guest.vgic.send_sgi(vcpu, register, value);
                self.kick(kick);
            }
        }
    }

    fn acknowledge(&mut self, vcpu: u8) {
        self.load(vcpu);
        let list_registers = self.guest.interfaces[usize::from(vcpu)].list_registers();
        if list_registers == 1 && !self.handling[usize::from(vcpu)].is_empty() {
            // A lone list register does without preemption.
            return;
        }
        if self.random.one_in(8) {
            let mask = self.random.below(256) as u8;
            self.guest.interfaces[usize::from(vcpu)].priority_mask = mask;
            self.ideal.masks[usize::from(vcpu)] = mask;
        } else if self.random.one_in(2) {
            self.guest.interfaces[usize::from(vcpu)].priority_mask = 0xff;
            self.ideal.masks[usize::from(vcpu)] = 0xff;
        }
        let listed: Vec<_> = self.guest.interfaces[usize::from(vcpu)].used().copied().collect();
        let got = self.guest.acknowledge_silently(vcpu);
        let running = self.ideal.running[usize::from(vcpu)].last().copied();
        let (priority, candidates) = self.ideal.candidates(vcpu, running);
        let Some(interrupt) = got else {
            assert_eq!(
                priority, None,
                "vCPU {vcpu} got nothing of {candidates:?}; it lists {listed:?}"
            );
            return;
        };
        assert!(
            candidates.contains(&interrupt),
            "vCPU {vcpu} got {interrupt:?} of {candidates:?} at {priority:?}"
        );
        let source = match listed
            .iter()
            .find(|register| register.interrupt == interrupt)
            .unwrap()
            .backing
        {
            Backing::Software { source, .. } => source,
            Backing::Physical(_) => 0,
        };
        self.ideal.running[usize::from(vcpu)].push(priority.unwrap());
        self.handling[usize::from(vcpu)].push(interrupt);
        let by_source = self.guest.version == Version::V2 && interrupt.is_sgi();
        let irq = self.ideal.irq(vcpu, interrupt);
        if by_source {
            assert_ne!(
                irq.latch & 1 << source,
                0,
                "{interrupt:?} from vCPU {source}, which did not send it"
            );
            irq.latch &= !(1 << source);
        } else {
            irq.latch = 0;
        }
        irq.active = Some(vcpu);
        if self.guest.interfaces[usize::from(vcpu)].no_pending_fires() {
            self.maintenance(vcpu);
        }
    }

    fn end(&mut self, vcpu: u8) {
        let Some(interrupt) = self.handling[usize::from(vcpu)].pop() else {
            return;
        };
        self.load(vcpu);
        let priority = self.ideal.running[usize::from(vcpu)].pop();
        let listed = self.guest.listed(vcpu, interrupt);
        assert_eq!(
            listed.map(|register| register.priority),
            priority,
            "{interrupt:?} ends as it was acknowledged"
        );
        let interface = &mut self.guest.interfaces[usize::from(vcpu)];
        let maintenance = interface.end(interrupt);
        let maintenance = maintenance.unwrap_or_else(|| panic!("{interrupt:?} ends, but is in no list register"));
        self.ideal.irq(vcpu, interrupt).active = None;
        if maintenance || self.guest.interfaces[usize::from(vcpu)].no_pending_fires() {
            self.maintenance(vcpu);
        }
    }

    fn maintenance(&mut self, vcpu: u8) {
        let kick = self
            .guest
            .vgic
            .sync(vcpu, &mut self.guest.interfaces[usize::from(vcpu)]);
        self.kick(kick);
        self.kick(portunus::ids::VcpuSet::only(vcpu));
    }

    fn word(&mut self, vcpu: u8, frame: Frame, offset: u64, value: u32) {
        self.access(
            vcpu,
            frame,
            offset,
            AccessWidth::Word,
            Direction::Write(u64::from(value)),
        );
    }

    /// The vCPU that accesses is loaded; the others may be.
    fn access(&mut self, vcpu: u8, frame: Frame, offset: u64, width: AccessWidth, direction: Direction) -> u64 {
        self.load(vcpu);
        // Each vCPU that holds any of it may have to be asked, the one that rests after it was woken.
        for _ in 0..=VCPUS {
            let interface = &mut self.guest.interfaces[usize::from(vcpu)];
            let result = self.guest.vgic.mmio(interface, vcpu, frame, offset, width, direction);
            self.kick(result.kick);
            self.kick(portunus::ids::VcpuSet::only(vcpu));
            match result.answer {
                portunus::vgic::Answer::Value(value) => return value,
                portunus::vgic::Answer::Written => return 0,
                portunus::vgic::Answer::Again => {}
            }
        }
        panic!("{frame:?} {offset:#x}: asked again for ever");
    }

    /// A register of bits: its frame and offset, and the first interrupt.
    fn bits(&mut self, vcpu: u8, bank: u64) -> (Frame, u64, u8, u32) {
        let first = if self.random.one_in(3) { 0 } else { 32 };
        let owner = match self.guest.version {
            Version::V3 if first == 0 => self.random.below(u32::from(VCPUS)) as u8,
            _ => vcpu,
        };
        if self.guest.version == Version::V3 && first == 0 {
            (
                Frame::Redistributor,
                u64::from(owner) * 0x2_0000 + 0x1_0000 + bank,
                owner,
                0,
            )
        } else {
            (Frame::Distributor, bank + u64::from(first / 8), owner, first)
        }
    }

    fn handled(&self, owner: u8, interrupt: IntId) -> bool {
        let of = |vcpu: u8| self.handling[usize::from(vcpu)].contains(&interrupt);
        if interrupt.is_private() {
            of(owner)
        } else {
            (0..VCPUS).any(of)
        }
    }

    fn write(&mut self, vcpu: u8) {
        let bank = match self.random.below(12) {
            0 => offsets::SET_ENABLE,
            1 => offsets::CLEAR_ENABLE,
            2 => offsets::SET_PENDING,
            3 => offsets::CLEAR_PENDING,
            4 => offsets::SET_ACTIVE,
            5 => offsets::CLEAR_ACTIVE,
            6 => offsets::GROUP,
            7 | 8 => return self.write_priority(vcpu),
            9 => return self.write_route(vcpu),
            10 => return self.write_trigger(vcpu),
            _ => return self.write_control(vcpu),
        };
        let (frame, offset, owner, first) = self.bits(vcpu, bank);
        // Few bits, so that the rest has a life.
        let mut value = (0..3).fold(0, |value, _| value | 1 << self.random.below(32));
        if bank == offsets::SET_ENABLE {
            value |= self.random.next() as u32;
        }
        if bank == offsets::SET_ACTIVE || bank == offsets::CLEAR_ACTIVE {
            // Not under the feet of a handler; one whose guest has no more list registers than active interrupts is
            // never asked to.
            if !self.writes_active {
                return;
            }
            let few = self.ideal.written_active < 4;
            value &= !(0..32)
                .filter(|bit| self.handled(owner, IntId(first + bit)))
                .fold(0, |value, bit| value | 1 << bit);
            value = if bank == offsets::SET_ACTIVE && few {
                value & value.wrapping_neg()
            } else {
                value
            };
            if bank == offsets::SET_ACTIVE && !few {
                return;
            }
        }
        let old_group = if bank == offsets::GROUP {
            self.access(vcpu, frame, offset, AccessWidth::Word, Direction::Read) as u32
        } else {
            0
        };
        value ^= old_group;
        self.ideal.write_bits(bank, vcpu, owner, first, value);
        self.word(vcpu, frame, offset, value);
    }

    fn write_priority(&mut self, vcpu: u8) {
        let interrupt = IntId(self.random.below(SPIS.end));
        let priority = self.random.below(256) as u8;
        self.ideal.irq(vcpu, interrupt).priority = priority & 0xf8;
        self.load(vcpu);
        let (frame, base) = match self.guest.version {
            Version::V3 if interrupt.is_private() => (Frame::Redistributor, u64::from(vcpu) * 0x2_0000 + 0x1_0000),
            _ => (Frame::Distributor, 0),
        };
        let offset = base + offsets::PRIORITY + u64::from(interrupt.0);
        self.access(
            vcpu,
            frame,
            offset,
            AccessWidth::Byte,
            Direction::Write(u64::from(priority)),
        );
    }

    fn write_route(&mut self, vcpu: u8) {
        let interrupt = self.spi();
        let number = u64::from(interrupt.0);
        // One value more than there are vCPUs: nobody.
        let target = self.random.below(u32::from(VCPUS) + 1) as u8;
        self.ideal.irq(0, interrupt).target = Some(target).filter(|target| *target < VCPUS);
        match self.guest.version {
            Version::V2 => {
                let value = 1 << target;
                let offset = offsets::TARGETS + number;
                self.access(
                    vcpu,
                    Frame::Distributor,
                    offset,
                    AccessWidth::Byte,
                    Direction::Write(value),
                );
            }
            Version::V3 => {
                let offset = offsets::ROUTER + 8 * number;
                let value = Direction::Write(u64::from(target));
                self.access(vcpu, Frame::Distributor, offset, AccessWidth::Doubleword, value);
            }
        }
    }

    fn write_trigger(&mut self, vcpu: u8) {
        let value = self.random.next() as u32;
        for index in 0..16 {
            self.ideal.irq(0, IntId(48 + index)).edge = value >> (2 * index) & 2 != 0;
        }
        self.word(vcpu, Frame::Distributor, offsets::CONFIGURATION + 12, value);
    }

    fn write_control(&mut self, vcpu: u8) {
        let value = if self.random.one_in(3) { self.random.below(4) } else { 3 };
        self.ideal.groups = [value & 1 != 0, value & 2 != 0];
        self.word(vcpu, Frame::Distributor, offsets::CTLR, value);
    }

    fn read(&mut self, vcpu: u8) {
        let banks = [
            offsets::GROUP,
            offsets::SET_ENABLE,
            offsets::CLEAR_PENDING,
            offsets::SET_PENDING,
            offsets::SET_ACTIVE,
        ];
        let bank = banks[self.random.below(banks.len() as u32) as usize];
        let (frame, offset, owner, first) = self.bits(vcpu, bank);
        let value = self.access(vcpu, frame, offset, AccessWidth::Word, Direction::Read) as u32;
        let expected = self.ideal.read_bits(bank, owner, first);
        assert_eq!(value, expected, "{frame:?} {offset:#x}: {value:#x}, not {expected:#x}");
    }
}

#[test]
fn random_operations_agree_with_an_ideal_gic() {
    for version in BOTH {
        for list_registers in [1, 2, 4, 16] {
            for seed in 1..=3_u64 {
                let mut run = Run::new(version, list_registers, seed);
                run.run();
            }
        }
    }
}
