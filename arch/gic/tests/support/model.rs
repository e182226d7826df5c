//! A GICv2 as the rules of `boards/rcar-h3/registers.md` describe it: every access is checked against them, and kept.

use std::sync::Mutex;

use portunus::registers::DeviceRegisters;

const RULES: &str = include_str!("../../../../boards/rcar-h3/registers.md");
/// SPIs of the SoC's controller reach this far (GICD_TYPER.ITLinesNumber).
const LINES: u32 = 512;
const LIST_REGISTERS: usize = 4;
const SPURIOUS: u32 = 1023;
const IIDR: u32 = 0x0202_143b;

/// A register block.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Block {
    Gicd,
    Gicc,
    Gich,
}

/// An access that the rules allow, on the CPU that made it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Access {
    Read(Block, usize),
    Write(Block, usize, u32),
}

/// One row of the table.
#[derive(Clone, Debug)]
struct Rule {
    block: Block,
    first: usize,
    last: usize,
    bytes: Vec<usize>,
    readable: bool,
    writable: bool,
    must_be_zero: u32,
}

fn rules() -> Vec<Rule> {
    let rows = RULES.lines().filter(|line| line.starts_with("| GIC"));
    let rules: Vec<Rule> = rows
        .map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [block, first, last, "4", _, bytes, access, zero, source] = cells[..] else {
                panic!("a row of nine cells: {line}")
            };
            assert!(!source.is_empty(), "no source: {line}");
            let number = |text: &str| u32::from_str_radix(text.strip_prefix("0x").expect("a hex number"), 16).unwrap();
            Rule {
                block: match block {
                    "GICD" => Block::Gicd,
                    "GICC" => Block::Gicc,
                    "GICH" => Block::Gich,
                    other => panic!("a block: {other}"),
                },
                first: number(first) as usize,
                last: number(last) as usize,
                bytes: bytes.split(", ").map(|width| width.parse().unwrap()).collect(),
                readable: access.contains("read"),
                writable: access.contains("write"),
                must_be_zero: if zero.is_empty() { 0 } else { number(zero) },
            }
        })
        .collect();
    assert!(rules.len() > 25, "the table is there");
    rules
}

/// What each CPU has for itself.
#[derive(Clone, Debug, Default)]
struct Cpu {
    /// Its CPU interface, as a bit.
    interface: u8,
    enabled: u32,
    active: u32,
    /// Bit n: SGI or PPI n is pending.
    pending: u32,
    /// The CPU that sent each pending SGI.
    senders: [u32; 16],
    control: u32,
    mask: Option<u32>,
    binary_point: Option<u32>,
    /// Acknowledged and not dropped, the last one last.
    running: Vec<u32>,
    /// Dropped and not deactivated.
    dropped: Vec<u32>,
    hcr: u32,
    vmcr: u32,
    apr: u32,
    /// GICH_VMCR and GICH_APR were written since the machine started.
    restored: [bool; 2],
    list: [u32; LIST_REGISTERS],
}

#[derive(Debug)]
struct State {
    control: u32,
    enabled: [u32; 32],
    pending: [u32; 32],
    active: [u32; 32],
    targets: Vec<u8>,
    priorities: Vec<u8>,
    configuration: [u32; 64],
    cpus: Vec<Cpu>,
    now: usize,
    accesses: Vec<Access>,
}

/// The controller.
#[derive(Debug)]
pub(crate) struct Model {
    rules: Vec<Rule>,
    /// Bytes of GICC in the device tree, and whether its pages are repeated.
    size: usize,
    repeated: bool,
    state: Mutex<State>,
}

impl Model {
    /// A controller with these CPU interfaces, by CPU.
    pub(crate) fn new(interfaces: &[u8], size: usize, repeated: bool) -> Self {
        let cpu = |interface: &u8| Cpu {
            interface: *interface,
            // As firmware may leave it.
            enabled: 0xffff_ffff,
            active: 1 << 27,
            pending: 1 << 30,
            control: 1,
            hcr: 1,
            vmcr: 0xf800_0003,
            apr: 1,
            list: [0x9000_001b, 0, 0, 0],
            ..Cpu::default()
        };
        Self {
            rules: rules(),
            size,
            repeated,
            state: Mutex::new(State {
                control: 1,
                enabled: [0x00ff_0000; 32],
                pending: [0x0001_0000; 32],
                active: [0x0002_0000; 32],
                targets: vec![1; 1020],
                priorities: vec![0; 1020],
                configuration: [0x5555_5555; 64],
                cpus: interfaces.iter().map(cpu).collect(),
                now: 0,
                accesses: Vec::new(),
            }),
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
    /// From now on this CPU accesses registers.
    pub(crate) fn run_on(&self, cpu: usize) {
        self.with(|state| state.now = cpu);
    }
    /// The accesses since this was last asked.
    pub(crate) fn accesses(&self) -> Vec<Access> {
        self.with(|state| std::mem::take(&mut state.accesses))
    }
    /// A device raises an SPI, or a CPU's own a PPI on the CPU that runs.
    pub(crate) fn raise(&self, interrupt: u32) {
        self.with(|state| match interrupt {
            0..32 => state.cpu().pending |= 1 << interrupt,
            _ => state.pending[interrupt as usize / 32] |= 1 << (interrupt % 32),
        });
    }
    /// Enabled, pending, active.
    pub(crate) fn look(&self, interrupt: u32) -> (bool, bool, bool) {
        self.with(|state| {
            let word = interrupt as usize / 32;
            let [enabled, pending, active] = match word {
                0 => [state.cpu().enabled, state.cpu().pending, state.cpu().active],
                _ => [state.enabled[word], state.pending[word], state.active[word]],
            };
            let is = |word: u32| word >> (interrupt % 32) & 1 != 0;
            (is(enabled), is(pending), is(active))
        })
    }
    /// Priority and target of an interrupt.
    pub(crate) fn routing(&self, interrupt: u32) -> (u8, u8) {
        self.with(|state| {
            let index = interrupt as usize;
            (state.priorities[index], state.targets[index])
        })
    }
    /// GICH_HCR, GICH_VMCR, GICH_APR of the CPU that runs.
    pub(crate) fn virtual_state(&self) -> [u32; 3] {
        self.with(|state| [state.cpu().hcr, state.cpu().vmcr, state.cpu().apr])
    }
    /// The guest acknowledges (1) or ends (0) what list register `index` holds, or changes what it lets through.
    pub(crate) fn guest(&self, index: usize, active: bool) {
        self.with(|state| {
            let word = &mut state.cpu().list[index];
            *word = *word & !(3 << 28) | u32::from(active) << 29;
        });
    }
    /// What the guest wrote to its CPU interface and acknowledged, as GICH_VMCR and GICH_APR tell it.
    pub(crate) fn guest_state(&self, vmcr: u32, apr: u32) {
        self.with(|state| {
            state.cpu().vmcr = vmcr;
            state.cpu().apr = apr;
        });
    }

    /// The offset in the two pages that there are; `None`: nothing is there, which reads as zero.
    fn page(&self, block: Block, offset: usize) -> Option<usize> {
        assert!(
            block != Block::Gicc || offset < self.size,
            "rule 4: {offset:#x} is outside of GICC"
        );
        match (block, self.repeated) {
            (Block::Gicc, true) => Some((offset >> 16) << 12 | offset & 0xfff),
            (Block::Gicc, false) => (offset < 0x2000).then_some(offset),
            _ => Some(offset),
        }
    }

    fn rule(&self, block: Block, offset: usize, bytes: usize) -> &Rule {
        let found = self.rules.iter().find(|rule| {
            let last = rule.last + 3;
            rule.block == block && (rule.first..=last).contains(&offset)
        });
        let rule = found.unwrap_or_else(|| panic!("there is no register at {block:?} + {offset:#x}"));
        assert!(
            rule.bytes.contains(&bytes) && offset.is_multiple_of(bytes),
            "{block:?} + {offset:#x} has another width"
        );
        rule
    }

    fn read(&self, block: Block, at: usize, bytes: usize) -> u32 {
        let Some(offset) = self.page(block, at) else { return 0 };
        assert!(
            self.rule(block, offset, bytes).readable,
            "{block:?} + {offset:#x} can't be read"
        );
        self.with(|state| {
            state.accesses.push(Access::Read(block, at));
            state.read(block, offset, bytes)
        })
    }

    fn write(&self, block: Block, at: usize, bytes: usize, value: u32) {
        let offset = self.page(block, at).expect("rule 4: nothing is there");
        let rule = self.rule(block, offset, bytes);
        assert!(rule.writable, "{block:?} + {offset:#x} can't be written");
        assert_eq!(
            value & rule.must_be_zero,
            0,
            "{value:#x} sets reserved bits of {block:?} + {offset:#x}"
        );
        self.with(|state| {
            state.accesses.push(Access::Write(block, at, value));
            state.write(block, offset, bytes, value);
        });
    }
}

impl State {
    fn cpu(&mut self) -> &mut Cpu {
        &mut self.cpus[self.now]
    }
    fn interfaces(&self) -> u8 {
        self.cpus.iter().map(|cpu| cpu.interface).fold(0, |all, bit| all | bit)
    }

    fn read(&mut self, block: Block, offset: usize, bytes: usize) -> u32 {
        let word = offset % 0x80 / 4;
        match (block, offset) {
            (Block::Gicd, 0x000) => self.control,
            (Block::Gicd, 0x004) => (LINES / 32 - 1) | ((self.cpus.len() as u32 - 1) << 5) | 1 << 10,
            (Block::Gicd, 0x008) => 0x0200_143b,
            (Block::Gicd, 0x100..0x200) => *self.bank(0, word),
            (Block::Gicd, 0x280..0x300) => *self.bank(1, word),
            (Block::Gicd, 0x300..0x400) => *self.bank(2, word),
            (Block::Gicd, 0x800..0x820) => u32::from_ne_bytes([self.cpu().interface; 4]) >> (32 - bytes * 8),
            (Block::Gicd, 0xc00..0xd00) => self.configuration[(offset - 0xc00) / 4],
            (Block::Gicc, 0x000) => self.cpu().control,
            (Block::Gicc, 0x00c) => self.acknowledge(),
            (Block::Gicc, 0x0fc) => IIDR,
            (Block::Gich, 0x000) => self.cpu().hcr,
            (Block::Gich, 0x004) => 0x9000_0000 | (LIST_REGISTERS as u32 - 1),
            (Block::Gich, 0x008) => self.cpu().vmcr,
            (Block::Gich, 0x030) => {
                let list = self.cpu().list;
                let free = (0..LIST_REGISTERS).filter(|index| list[*index] >> 28 & 3 == 0);
                free.map(|index| 1 << index).sum()
            }
            (Block::Gich, 0x0f0) => self.cpu().apr,
            (Block::Gich, 0x100..) => self.cpu().list[(offset - 0x100) / 4],
            _ => panic!("nobody needs to read {block:?} + {offset:#x}"),
        }
    }

    /// Enabled, pending or active: the executing CPU's own for the first word.
    fn bank(&mut self, which: usize, word: usize) -> &mut u32 {
        match (word, which) {
            (0, 0) => &mut self.cpu().enabled,
            (0, 1) => &mut self.cpu().pending,
            (0, _) => &mut self.cpu().active,
            (_, 0) => &mut self.enabled[word],
            (_, 1) => &mut self.pending[word],
            (_, _) => &mut self.active[word],
        }
    }

    fn acknowledge(&mut self) -> u32 {
        let cpu = self.now;
        let interface = self.cpus[cpu].interface;
        let waits = |state: &mut Self, interrupt: u32| {
            let (word, bit) = (interrupt as usize / 32, 1 << (interrupt % 32));
            let targeted = word == 0 || state.targets[interrupt as usize] & interface != 0;
            let [enabled, pending, active] = [0, 1, 2].map(|which| *state.bank(which, word));
            targeted && enabled & pending & !active & bit != 0
        };
        let on = self.control & 1 != 0 && self.cpus[cpu].control & 1 != 0;
        let found = (0..LINES).find(|interrupt| on && waits(self, *interrupt));
        let Some(interrupt) = found else { return SPURIOUS };
        let (word, bit) = (interrupt as usize / 32, 1 << (interrupt % 32));
        *self.bank(1, word) &= !bit;
        *self.bank(2, word) |= bit;
        let sender = self.cpus[cpu].senders.get(interrupt as usize).copied().unwrap_or(0);
        let raw = interrupt | sender << 10;
        self.cpus[cpu].running.push(raw);
        raw
    }

    fn write(&mut self, block: Block, offset: usize, bytes: usize, value: u32) {
        let word = offset % 0x80 / 4;
        let shared = |offset: usize, first: usize| offset >= first;
        match (block, offset) {
            (Block::Gicd, 0x000) => self.control = value,
            (Block::Gicd, 0x100..0x180) => *self.bank(0, word) |= value,
            (Block::Gicd, 0x180..0x200) => *self.bank(0, word) &= !value,
            (Block::Gicd, 0x280..0x300) => *self.bank(1, word) &= !value,
            (Block::Gicd, 0x300..0x380) => *self.bank(2, word) |= value,
            (Block::Gicd, 0x380..0x400) => *self.bank(2, word) &= !value,
            (Block::Gicd, 0x400..0x800) => {
                let off = self.control == 0 || !shared(offset, 0x420);
                assert!(off, "rule 1: SPIs are set up while the distributor is on");
                for (byte, priority) in value.to_ne_bytes().into_iter().take(bytes).enumerate() {
                    self.priorities[offset - 0x400 + byte] = priority;
                }
            }
            (Block::Gicd, 0x820..0xc00) => {
                let targets = value.to_ne_bytes();
                for (byte, target) in targets.into_iter().take(bytes).enumerate() {
                    let exists = target & !self.interfaces() == 0;
                    assert!(
                        target.count_ones() == 1 && exists,
                        "rule 6: SPI {} goes to {target:#x}",
                        offset - 0x800 + byte
                    );
                    self.targets[offset - 0x800 + byte] = target;
                }
            }
            (Block::Gicd, 0xc08..0xd00) => self.configure((offset - 0xc00) / 4, value),
            (Block::Gicd, 0xf00) => self.send(value),
            (Block::Gicc, 0x0000) => {
                let set_up = self.cpu().mask.is_some() && self.cpu().binary_point.is_some();
                assert!(value & 1 == 0 || set_up, "rule 9: enabled before it is set up");
                self.cpu().control = value;
            }
            (Block::Gicc, 0x0004) => self.cpu().mask = Some(value),
            (Block::Gicc, 0x0008) => self.cpu().binary_point = Some(value),
            (Block::Gicc, 0x0010) => {
                let last = self.cpu().running.pop();
                assert_eq!(last, Some(value), "rule 2: dropped is not what was acknowledged last");
                self.cpu().dropped.push(value);
            }
            (Block::Gicc, 0x1000) => self.deactivate(value),
            (Block::Gich, 0x000) => {
                assert!(
                    value & 1 == 0 || self.cpu().restored == [true; 2],
                    "rule 8: enabled before its state is there"
                );
                self.cpu().hcr = value;
            }
            (Block::Gich, 0x008) => {
                self.cpu().vmcr = value;
                self.cpu().restored[0] = true;
            }
            (Block::Gich, 0x0f0) => {
                self.cpu().apr = value;
                self.cpu().restored[1] = true;
            }
            (Block::Gich, 0x100..) => self.fill((offset - 0x100) / 4, value),
            _ => panic!("nobody needs to write {block:?} + {offset:#x}"),
        }
    }

    fn configure(&mut self, word: usize, value: u32) {
        let changed = self.configuration[word] ^ value;
        assert_eq!(changed & 0x5555_5555, 0, "rule 10: {value:#x} changes what is reserved");
        for interrupt in (0..16).filter(|bit| changed >> (bit * 2 + 1) & 1 != 0) {
            let id = word * 16 + interrupt;
            let enabled = self.enabled[id / 32] >> (id % 32) & 1 != 0;
            assert!(!enabled, "rule 1: the trigger of {id} changes while it is enabled");
        }
        self.configuration[word] = value;
    }

    fn send(&mut self, value: u32) {
        let (filter, list, sgi) = (value >> 24 & 3, (value >> 16) as u8, value & 0xf);
        assert_eq!(filter, 0, "rule 5: a list is used");
        let exists = list & !self.interfaces() == 0;
        assert!(list != 0 && exists, "rule 5: SGI {sgi} goes to {list:#x}");
        let sender = self.cpu().interface.trailing_zeros();
        for cpu in self.cpus.iter_mut().filter(|cpu| cpu.interface & list != 0) {
            cpu.pending |= 1 << sgi;
            cpu.senders[sgi as usize] = sender;
        }
    }

    fn deactivate(&mut self, value: u32) {
        assert!(self.cpu().control & 1 << 9 != 0, "rule 3: EOImode is 0");
        let dropped = self.cpu().dropped.iter().position(|raw| *raw == value);
        let index = dropped.unwrap_or_else(|| panic!("rule 3: {value:#x} was not acknowledged and dropped here"));
        self.cpu().dropped.remove(index);
        let interrupt = value & 0x3ff;
        let bit = 1 << (interrupt % 32);
        let active = self.bank(2, interrupt as usize / 32);
        assert!(*active & bit != 0, "rule 3: {interrupt} is not active");
        *active &= !bit;
    }

    fn fill(&mut self, index: usize, value: u32) {
        self.cpu().list[index] = value;
        let state = value >> 28 & 3;
        if state == 0 {
            return;
        }
        let interrupt = value & 0x3ff;
        assert!(interrupt < 1020, "rule 7: virtual interrupt {interrupt}");
        let list = self.cpu().list;
        let others = (0..LIST_REGISTERS).filter(|other| *other != index && list[*other] >> 28 & 3 != 0);
        for other in others {
            assert_ne!(list[other] & 0x3ff, interrupt, "rule 7: {interrupt} is there twice");
        }
        if value >> 31 != 0 {
            let physical = value >> 10 & 0x3ff;
            assert!((16..1020).contains(&physical), "rule 7: physical interrupt {physical}");
            assert_ne!(state, 3, "rule 7: hardware's can't be pending and active");
        } else {
            assert_eq!(value & 0x0077_e000, 0, "rule 7: {value:#x} has reserved bits");
            assert!(interrupt < 16 || value >> 10 & 7 == 0, "rule 7: a source CPU");
        }
    }
}

/// A driver's view of one block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View(pub(crate) &'static Model, pub(crate) Block);

impl DeviceRegisters for View {
    fn read_u8(&self, offset: usize) -> u8 {
        self.0.read(self.1, offset, 1) as u8
    }
    fn read_u16(&self, offset: usize) -> u16 {
        self.0.read(self.1, offset, 2) as u16
    }
    fn read_u32(&self, offset: usize) -> u32 {
        self.0.read(self.1, offset, 4)
    }
    fn write_u8(&self, offset: usize, value: u8) {
        self.0.write(self.1, offset, 1, value.into());
    }
    fn write_u16(&self, offset: usize, value: u16) {
        self.0.write(self.1, offset, 2, value.into());
    }
    fn write_u32(&self, offset: usize, value: u32) {
        self.0.write(self.1, offset, 4, value);
    }
}
