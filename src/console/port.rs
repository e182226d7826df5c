//! One place on the console: what sends, and the line that it has sent so far.

use heapless::Vec as Array;

use super::mux::{LINE_CAPACITY, LineChange, NAME_CAPACITY};
use super::pl011::Pl011;
use super::ring::ByteRing;
use super::stream::Stream;
use crate::ids::{DomainId, Ticks};

/// Where a port's bytes come from.
#[derive(Debug)]
pub(super) enum Source {
    Messages(ByteRing),
    Uart {
        domain: DomainId,
        uart: Pl011,
        asserted: bool,
    },
    Stream(Stream),
}

/// A port: its bytes, gathered into lines.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) name: Array<u8, NAME_CAPACITY>,
    pub(super) source: Source,
    /// The line that has not ended, or has ended and is not shown yet.
    pub(super) line: Array<u8, LINE_CAPACITY>,
    pub(super) ended: bool,
    /// A carriage return came, and what follows it is not known yet.
    pub(super) returned: bool,
    /// What followed one when there was still something to show that it will overwrite.
    pub(super) held: Option<u8>,
    /// What `line` holds is to be shown over what stands on the terminal's current line.
    pub(super) overwrites: bool,
    /// Bytes of `line` that stand on the terminal's current line.
    pub(super) shown: usize,
    /// Bytes came since it was last shown.
    pub(super) fresh: bool,
    /// When bytes last came.
    pub(super) last: Ticks,
}

impl Port {
    pub(super) fn new(name: &str, source: Source) -> Self {
        let mut port = Self {
            name: Array::new(),
            source,
            line: Array::new(),
            ended: false,
            returned: false,
            held: None,
            overwrites: false,
            shown: 0,
            fresh: false,
            last: Ticks(0),
        };
        for byte in name.bytes().take(NAME_CAPACITY) {
            // Bounded by the line above. A name is no place for a terminal's commands.
            let _ = port.name.push(if byte.is_ascii_graphic() { byte } else { b'.' });
        }
        port
    }

    /// Gathers bytes up to the end of the line, of its room, or of what the next byte overwrites.
    pub(super) fn gather(&mut self, now: Ticks) {
        while !self.complete() {
            let byte = match &mut self.source {
                Source::Messages(ring) => ring.pop(),
                Source::Uart { uart, .. } => uart.take(),
                Source::Stream(stream) => stream.take(),
            };
            let Some(byte) = byte else { return };
            self.last = now;
            self.fresh = true;
            match byte {
                b'\n' => self.ended = true,
                b'\r' => self.returned = true,
                byte if self.returned && self.shown < self.line.len() => self.held = Some(byte),
                byte => {
                    if core::mem::take(&mut self.returned) {
                        self.line.clear();
                        self.shown = 0;
                        self.overwrites = true;
                    }
                    // There is room.
                    let _ = self.line.push(byte);
                }
            }
        }
    }

    pub(super) fn complete(&self) -> bool {
        self.ended || self.line.is_full() || self.held.is_some()
    }

    /// What is complete was shown: the next line, or the next text for the same one, begins.
    pub(super) fn begin_next(&mut self) {
        self.line.clear();
        if self.ended {
            self.ended = false;
            self.returned = false;
            self.overwrites = false;
        }
        if let Some(byte) = self.held.take() {
            self.returned = false;
            self.overwrites = true;
            self.fresh = true;
            // It was just cleared.
            let _ = self.line.push(byte);
        }
    }

    pub(super) fn line_change(&mut self) -> Option<LineChange> {
        match &mut self.source {
            Source::Uart { domain, uart, asserted } if *asserted != uart.line() => {
                *asserted = !*asserted;
                Some(LineChange {
                    domain: *domain,
                    asserted: *asserted,
                })
            }
            _ => None,
        }
    }
}
