//! How names, times and sets are written.

use core::fmt::{self, Write};

use crate::ids::{DomainId, Ipa};
use crate::trap::access::{Direction, MmioAccess};

/// A line without the hypervisor's name before it: together they have at most 100 columns. What is longer is cut.
#[derive(Debug, Default)]
pub(super) struct Line(heapless::String<89>);

impl Line {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Appends what there is room for.
    pub(super) fn push(&mut self, text: &str) {
        for character in text.chars() {
            if self.0.push(character).is_err() {
                return;
            }
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn room(&self) -> usize {
        self.0.capacity() - self.0.len()
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text);
        Ok(())
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A domain's name, cut, without anything that a terminal would take for a command.
pub(super) struct Name<'a>(pub(super) &'a str, pub(super) DomainId);

/// Characters of a name that are shown in a table.
const NAME: usize = 16;

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = heapless::String::<NAME>::new();
        if self.0.is_empty() {
            write!(text, "domain {}", self.1.0)?;
        }
        for byte in self.0.bytes().take(NAME) {
            let shown = if byte.is_ascii_graphic() { char::from(byte) } else { '.' };
            text.push(shown).map_err(|_| fmt::Error)?;
        }
        f.pad(&text)
    }
}

/// A span of time in nanoseconds, to three digits or so.
pub(super) struct Time(pub(super) u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MICROSECOND: u64 = 1_000;
        const MILLISECOND: u64 = 1_000_000;
        const SECOND: u64 = 1_000_000_000;
        let mut text = heapless::String::<32>::new();
        let (unit, name) = match self.0 {
            0..MILLISECOND => (MICROSECOND, "us"),
            MILLISECOND..SECOND => (MILLISECOND, "ms"),
            _ => (SECOND, "s"),
        };
        write!(text, "{}.{} {name}", self.0 / unit, self.0 % unit / (unit / 10))?;
        f.pad(&text)
    }
}

/// An access to a device.
pub(super) struct Access(pub(super) MmioAccess);

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(MmioAccess {
            ipa: Ipa(at), width, ..
        }) = self;
        match self.0.direction {
            Direction::Read => write!(f, "load of {} bytes at {at:#x}", width.bytes()),
            Direction::Write(value) => write!(f, "store of {} bytes at {at:#x}: {value:#x}", width.bytes()),
        }
    }
}

/// Writes the numbers that have a property, as ranges, as long as there is room for them and a mark that there are more.
pub(super) fn write_ranges(line: &mut Line, numbers: core::ops::Range<u32>, has: impl Fn(u32) -> bool) {
    const MORE: &str = " ...";
    let mut next = numbers.start;
    let mut none = true;
    while next < numbers.end {
        if !has(next) {
            next += 1;
            continue;
        }
        let first = next;
        while next < numbers.end && has(next) {
            next += 1;
        }
        let mut range = heapless::String::<24>::new();
        let _ = match next - first {
            1 => write!(range, " {first}"),
            _ => write!(range, " {first}-{}", next - 1),
        };
        none = false;
        if line.room() < range.len() + MORE.len() {
            return line.push(MORE);
        }
        line.push(&range);
    }
    if none {
        line.push(" none");
    }
}
