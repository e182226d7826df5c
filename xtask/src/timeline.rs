//! What a machine printed, line by line, each with the time at which it was complete.
//!
//! Times are the host's: they include what the emulation, the hypervisor and the guest took, as a user would see it.

use std::time::Duration;

use crate::transcript::Line;

/// One complete line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Said {
    /// When its end was printed, since the machine started.
    pub(crate) at: Duration,
    /// The line as a person would read it, without its end.
    pub(crate) text: String,
}

/// All complete lines of a run so far, in order.
#[derive(Debug, Default)]
pub(crate) struct Timeline {
    lines: Vec<Said>,
    line: Line,
}

impl Timeline {
    /// Takes what was printed at `at`, in pieces of any size.
    pub(crate) fn take(&mut self, bytes: &[u8], at: Duration) {
        for byte in bytes {
            if *byte == b'\n' {
                let text = std::mem::take(&mut self.line).text();
                self.lines.push(Said { at, text });
            } else {
                self.line.push(*byte);
            }
        }
    }

    /// The lines.
    pub(crate) fn lines(&self) -> &[Said] {
        &self.lines
    }
}

#[cfg(test)]
mod tests {
    use super::{Said, Timeline};
    use std::time::Duration;

    #[test]
    fn a_line_has_the_time_of_its_end() {
        let mut timeline = Timeline::default();
        for (bytes, at) in [("\x1b[1mon", 1), ("e\r\ntwo\nth", 2), ("ree", 3)] {
            timeline.take(bytes.as_bytes(), Duration::from_secs(at));
        }
        let said = |text: &str| Said {
            at: Duration::from_secs(2),
            text: text.into(),
        };
        assert_eq!(timeline.lines(), [said("one"), said("two")]);
    }
}
