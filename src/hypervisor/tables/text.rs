//! How names, times and sets are written.

use core::fmt::{self, Write};

use crate::access::{Direction, MmioAccess};
use crate::ids::{DomainId, Ipa};

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

#[cfg(test)]
mod tests {
    use core::fmt::Write;
    use std::format;
    use std::string::{String, ToString};

    use super::{Access, DomainId, Ipa, Line, MmioAccess, Name, Time, write_ranges};
    use crate::access::{AccessWidth, Direction};

    #[test]
    fn names_are_cut_and_tell_a_terminal_nothing() {
        for (name, expected) in [
            ("domU1", "domU1"),
            ("", "domain 7"),
            ("a\u{1b}[2Jb\r\n", "a.[2Jb.."),
            ("caf\u{e9}", "caf.."),
            ("abcdefghijklmnopqrstuvwxyz", "abcdefghijklmnop"),
            ("\u{0}\u{7f} x", "...x"),
        ] {
            assert_eq!(Name(name, DomainId(7)).to_string(), expected, "{name:?}");
        }
        assert_eq!(format!("{:<8}|", Name("dm", DomainId(1))), "dm      |");
    }

    #[test]
    fn times_have_a_unit_that_fits() {
        for (nanoseconds, expected) in [
            (0, "0.0 us"),
            (99, "0.0 us"),
            (100, "0.1 us"),
            (999_999, "999.9 us"),
            (1_000_000, "1.0 ms"),
            (12_345_678, "12.3 ms"),
            (999_999_999, "999.9 ms"),
            (1_000_000_000, "1.0 s"),
            (86_400_000_000_000, "86400.0 s"),
            (u64::MAX, "18446744073.7 s"),
        ] {
            assert_eq!(Time(nanoseconds).to_string(), expected);
        }
    }

    #[test]
    fn accesses_say_what_goes_where() {
        let access = |direction| {
            Access(MmioAccess {
                ipa: Ipa(0x200_0070),
                width: AccessWidth::Word,
                direction,
            })
        };
        assert_eq!(access(Direction::Read).to_string(), "load of 4 bytes at 0x2000070");
        assert_eq!(
            access(Direction::Write(15)).to_string(),
            "store of 4 bytes at 0x2000070: 0xf"
        );
    }

    #[test]
    fn a_line_takes_what_fits_and_never_fails() {
        let mut line = Line::new();
        for _ in 0..20 {
            assert!(write!(line, "0123456789").is_ok());
        }
        assert_eq!(line.as_bytes().len(), 89);
    }

    #[test]
    fn numbers_are_written_as_ranges_until_the_line_is_full() {
        let ranges = |numbers, has: &dyn Fn(u32) -> bool| {
            let mut line = Line::new();
            write_ranges(&mut line, numbers, has);
            String::from_utf8(line.as_bytes().to_vec()).unwrap()
        };
        assert_eq!(ranges(0..32, &|_| false), " none");
        assert_eq!(ranges(0..32, &|_| true), " 0-31");
        assert_eq!(ranges(0..32, &|number| [0, 2, 3, 4, 31].contains(&number)), " 0 2-4 31");
        let all = ranges(32..1020, &|number| number % 2 == 0);
        assert!(all.starts_with(" 32 34 36 ") && all.ends_with(" ..."), "{all}");
        assert!(all.len() <= 89 && all.len() > 80, "{all}");
    }
}
