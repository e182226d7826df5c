//! A device's registers as a table of rules: every access is checked against it, and kept.

use std::collections::BTreeMap;
use std::sync::Mutex;

use portunus::registers::DeviceRegisters;

/// One row of a table in `registers/`.
#[derive(Clone, Debug)]
struct Rule {
    bytes: u32,
    readable: bool,
    writable: bool,
    must_be_zero: u32,
    /// Flags that a 0 clears, if they were read as 1 before; a 1 leaves them.
    flags: u32,
}

/// An access that the rules allow.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Access {
    Read(usize),
    Write(usize, u32),
}

/// The registers of a device.
pub(crate) struct Model {
    rules: BTreeMap<usize, Rule>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    values: BTreeMap<usize, u32>,
    accesses: Vec<Access>,
    /// What was last read of each register since it was written.
    seen: BTreeMap<usize, u32>,
}

fn number(text: &str) -> u32 {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let radix = if digits.len() < text.len() { 16 } else { 10 };
    u32::from_str_radix(digits, radix).unwrap_or_else(|_| panic!("no number: {text}"))
}

impl Model {
    /// The device with the rules in the table of `text`; all registers read as zero.
    pub(crate) fn new(text: &str) -> Self {
        // The first table alone: a board may have tables of other devices, too.
        let rows = text.lines().skip_while(|line| !line.starts_with("| 0x"));
        let rows = rows.take_while(|line| line.starts_with("| 0x"));
        let rules = rows.map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [offset, _, bytes, access, must_be_zero, flags, source] = cells[..] else {
                panic!("a row of seven cells: {line}")
            };
            let bits = |cell: &str| if cell.is_empty() { 0 } else { number(cell) };
            assert!(!source.is_empty(), "no source: {line}");
            let rule = Rule {
                bytes: number(bytes),
                readable: access.contains("read"),
                writable: access.contains("write"),
                must_be_zero: bits(must_be_zero),
                flags: bits(flags),
            };
            (number(offset) as usize, rule)
        });
        Self {
            rules: rules.collect(),
            state: Mutex::default(),
        }
    }

    /// What the register reads as from now on.
    pub(crate) fn set(&self, offset: usize, value: u32) {
        self.state.lock().unwrap().values.insert(offset, value);
    }

    /// The accesses since this was last asked.
    pub(crate) fn accesses(&self) -> Vec<Access> {
        std::mem::take(&mut self.state.lock().unwrap().accesses)
    }

    fn rule(&self, offset: usize, bytes: u32) -> &Rule {
        let rule = self.rules.get(&offset);
        let rule = rule.unwrap_or_else(|| panic!("there is no register at {offset:#x}"));
        assert_eq!(rule.bytes, bytes, "the register at {offset:#x} has another width");
        rule
    }

    fn read(&self, offset: usize, bytes: u32) -> u32 {
        assert!(
            self.rule(offset, bytes).readable,
            "the register at {offset:#x} can't be read"
        );
        let mut state = self.state.lock().unwrap();
        state.accesses.push(Access::Read(offset));
        let value = state.values.get(&offset).copied().unwrap_or(0);
        state.seen.insert(offset, value);
        value
    }

    fn write(&self, offset: usize, bytes: u32, value: u32) {
        let rule = self.rule(offset, bytes);
        assert!(rule.writable, "the register at {offset:#x} can't be written");
        assert_eq!(
            value & rule.must_be_zero,
            0,
            "{value:#x} sets reserved bits of the register at {offset:#x}"
        );
        let mut state = self.state.lock().unwrap();
        let seen = state.seen.remove(&offset).unwrap_or(0);
        let unseen = rule.flags & !value & !seen;
        assert_eq!(
            unseen & state.values.get(&offset).copied().unwrap_or(0),
            0,
            "flags of the register at {offset:#x} are cleared that were not read as 1"
        );
        if rule.flags != 0 {
            let before = state.values.get(&offset).copied().unwrap_or(0);
            state.values.insert(offset, before & !(rule.flags & seen & !value));
        }
        state.accesses.push(Access::Write(offset, value));
    }
}

/// A driver's view of a model.
#[derive(Clone, Copy)]
pub(crate) struct View(pub(crate) &'static Model);

impl DeviceRegisters for View {
    fn read_u8(&self, offset: usize) -> u8 {
        self.0.read(offset, 1) as u8
    }
    fn read_u16(&self, offset: usize) -> u16 {
        self.0.read(offset, 2) as u16
    }
    fn read_u32(&self, offset: usize) -> u32 {
        self.0.read(offset, 4)
    }
    fn write_u8(&self, offset: usize, value: u8) {
        self.0.write(offset, 1, value.into());
    }
    fn write_u16(&self, offset: usize, value: u16) {
        self.0.write(offset, 2, value.into());
    }
    fn write_u32(&self, offset: usize, value: u32) {
        self.0.write(offset, 4, value);
    }
}
