//! One physical console for many domains.
//!
//! *Output.* Each port's bytes are gathered into lines, and a line is shown whole, behind its domain's name. A line
//! that has not ended is shown too, so that prompts can be seen: that of the port in focus after a short pause, from
//! then on character by character; that of another port after a long one. When another line must be shown while an
//! unfinished one stands on the terminal, the terminal goes to a new line first, and the unfinished one is shown again
//! from its start afterwards: no two domains ever share a line, and every line can be read whole somewhere. A guest that
//! goes back to the start of its line, as shells do that redraw it, gets there behind its domain's name.
//!
//! *Input* goes to the port in focus. Ctrl-a pressed three times moves the focus, Ctrl-a q asks to quit, Ctrl-a and one of
//! [`keys`] for a table; a Ctrl-a followed by anything else reaches the guest with it, and so does one of two Ctrl-a's.
//!
//! Output is pulled: [`Console::drain`] fills what it is given and never waits. Its work is bounded by what it is given.
//! It is called after a guest has written to its UART, when the physical console has room again, and at
//! [`Console::deadline`]; a pause counts from the call that took the bytes.

use alloc::vec::Vec;

use heapless::Vec as Array;
use thiserror::Error;

use super::keys::{self, Topic};
use super::pl011::{IdleFlags, Pl011};
use super::port::{Port, Source};
use super::ring::ByteRing;
use crate::access::{AccessWidth, Direction};
use crate::ids::{DomainId, MAX_DOMAINS, Ticks};
use crate::primecell::BadAccess;

/// Bytes of a line that are kept to be shown whole; longer ones are shown in pieces.
pub const LINE_CAPACITY: usize = 256;
/// Bytes of a name that are shown.
pub const NAME_CAPACITY: usize = 32;
/// Bytes that the hypervisor itself can have printed and nobody taken.
pub const MESSAGE_CAPACITY: usize = 8 * 1024;

const CTRL_A: u8 = 0x01;
/// Line, name and everything around them.
const STAGING: usize = LINE_CAPACITY + NAME_CAPACITY + 32;
const COLOURS: [&[u8]; 6] = [
    b"\x1b[32m",
    b"\x1b[36m",
    b"\x1b[33m",
    b"\x1b[35m",
    b"\x1b[34m",
    b"\x1b[31m",
];
const COLOUR_END: &[u8] = b"\x1b[0m";

/// Whether names are coloured.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum Colour {
    /// Plain text.
    #[default]
    Never,
    /// A colour for each domain, by ANSI escape sequences.
    Ansi,
}

/// A place on the console: the hypervisor's own, or a domain's UART.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct PortId(pub(super) u8);

/// No more ports can be added.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Error)]
#[error("{0:?} would be one console too many")]
pub struct TooManyPorts(pub DomainId);

/// A domain's UART interrupt line has a new level.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct LineChange {
    /// Whose UART.
    pub domain: DomainId,
    /// Asserted or not.
    pub asserted: bool,
}

/// What an access to a UART did.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct UartAccess {
    /// What a load reads; 0 for a store.
    pub value: u64,
    /// The interrupt line's new level, if it changed.
    pub line: Option<LineChange>,
}

/// What a typed character asks for.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum InputEffect {
    /// Nothing.
    None,
    /// The domain in focus got it, and its line changed.
    Line(LineChange),
    /// Input goes to this domain from now on.
    Focus(DomainId),
    /// Ctrl-a q.
    Quit,
    /// Ctrl-a and one of [`keys::KEYS`].
    Show {
        /// What about.
        topic: Topic,
        /// Of which domain; `None`: of all.
        domain: Option<DomainId>,
    },
}

/// All ports, and the terminal as it stands.
#[derive(Debug)]
pub struct Console {
    pub(super) ports: Vec<Port>,
    /// Which port input goes to; the hypervisor's own takes none.
    focus: usize,
    /// Which port was shown last, for fairness.
    served: usize,
    /// Whose unfinished line stands on the terminal.
    open: Option<usize>,
    staging: Array<u8, STAGING>,
    staged: usize,
    colour: Colour,
    short_pause: u64,
    long_pause: u64,
    /// Ctrl-a's typed and not yet decided about.
    held: u8,
    /// Unfinished lines are not shown.
    holds_back: bool,
    /// Some port is no UART.
    pub(super) has_streams: bool,
}

const MESSAGES: usize = 0;

impl Console {
    /// A console without domains. `frequency` is the system counter's, in Hz.
    pub fn new(frequency: u64, colour: Colour) -> Self {
        let mut ports = Vec::with_capacity(MAX_DOMAINS + 1);
        ports.push(Port::new("portunus", Source::Messages(ByteRing::new(MESSAGE_CAPACITY))));
        Self {
            ports,
            focus: MESSAGES,
            served: 0,
            open: None,
            staging: Array::new(),
            staged: 0,
            colour,
            short_pause: frequency / 50,
            long_pause: frequency / 2,
            held: 0,
            holds_back: false,
            has_streams: false,
        }
    }

    /// Gives `domain` a UART. The first one has the focus. Allocates: for the time when domains are built.
    ///
    /// # Errors
    /// [`TooManyPorts`]
    pub fn add(&mut self, domain: DomainId, name: &str) -> Result<PortId, TooManyPorts> {
        let source = Source::Uart {
            domain,
            uart: Pl011::default(),
            asserted: false,
        };
        self.add_port(domain, name, source)
    }

    pub(super) fn add_port(&mut self, domain: DomainId, name: &str, source: Source) -> Result<PortId, TooManyPorts> {
        let index = self.ports.len();
        if index > MAX_DOMAINS {
            return Err(TooManyPorts(domain));
        }
        self.ports.push(Port::new(name, source));
        if self.focus == MESSAGES {
            self.focus = index;
        }
        Ok(PortId(index as u8))
    }

    /// Performs a guest's access to its UART, at an offset in the frame.
    ///
    /// # Errors
    /// [`BadAccess`]; nothing changes.
    pub fn access(
        &mut self,
        port: PortId,
        offset: u64,
        width: AccessWidth,
        direction: Direction,
    ) -> Result<UartAccess, BadAccess> {
        let shape = BadAccess::Shape { offset, width };
        let port = self.ports.get_mut(usize::from(port.0)).ok_or(shape)?;
        let Source::Uart { uart, .. } = &mut port.source else {
            return Err(shape);
        };
        let value = uart.access(offset, width, direction)?;
        Ok(UartAccess {
            value,
            line: port.line_change(),
        })
    }

    /// The flag register of a domain's UART, for readers without a lock.
    pub fn idle_flags(&self, port: PortId) -> Option<IdleFlags> {
        match &self.ports.get(usize::from(port.0))?.source {
            Source::Uart { uart, .. } => Some(uart.idle_flags()),
            Source::Messages(_) | Source::Stream(_) => None,
        }
    }

    /// The domain starts again: its UART is as after a reset, and what it has sent is shown as ever. The new level of its
    /// interrupt line, if it changed.
    pub fn reset(&mut self, port: PortId) -> Option<LineChange> {
        let port = self.ports.get_mut(usize::from(port.0))?;
        match &mut port.source {
            Source::Uart { uart, .. } => uart.reset(),
            Source::Stream(stream) => stream.reset(),
            Source::Messages(_) => {}
        }
        port.line_change()
    }

    /// Prints a message of the hypervisor; how many bytes fitted.
    pub fn print(&mut self, message: &[u8]) -> usize {
        match self.ports.first_mut().map(|port| &mut port.source) {
            Some(Source::Messages(ring)) => message.iter().take_while(|byte| ring.push(**byte)).count(),
            _ => 0,
        }
    }

    /// A character was typed.
    pub fn input(&mut self, byte: u8) -> InputEffect {
        match (self.held, byte) {
            (2, CTRL_A) => {
                self.held = 0;
                self.move_focus()
            }
            (held, CTRL_A) => {
                self.held = held + 1;
                InputEffect::None
            }
            (1, b'q') => {
                self.held = 0;
                InputEffect::Quit
            }
            (held, byte) => {
                self.held = 0;
                match keys::find(byte) {
                    Some((topic, all)) if held == 1 => InputEffect::Show {
                        topic,
                        domain: if all { None } else { self.focus() },
                    },
                    _ => self.deliver(held > 0, byte),
                }
            }
        }
    }

    /// How many bytes of the hypervisor's own messages nobody has taken yet.
    pub fn backlog(&self) -> usize {
        match self.ports.first().map(|port| &port.source) {
            Some(Source::Messages(ring)) => ring.len(),
            _ => 0,
        }
    }

    /// Keeps unfinished lines back, or no more: between the lines of a table each would be shown again and again.
    pub fn hold_back(&mut self, unfinished: bool) {
        self.holds_back = unfinished;
    }

    /// The domain that input goes to.
    pub fn focus(&self) -> Option<DomainId> {
        match &self.ports.get(self.focus)?.source {
            Source::Uart { domain, .. } => Some(*domain),
            Source::Stream(stream) => Some(stream.domain),
            Source::Messages(_) => None,
        }
    }

    /// Fills `out` with what the terminal shows next; how many bytes. Whose UART lines changed by this is put into
    /// `lines`, which has room for all.
    pub fn drain(&mut self, now: Ticks, out: &mut [u8], lines: &mut Array<LineChange, MAX_DOMAINS>) -> usize {
        let mut filled = 0;
        while filled < out.len() {
            if self.staged == self.staging.len() {
                self.staging.clear();
                self.staged = 0;
                if !self.compose(now) {
                    break;
                }
            }
            let waiting = self.staging.get(self.staged..).unwrap_or_default();
            let room = out.get_mut(filled..).unwrap_or_default();
            let count = waiting.len().min(room.len());
            for (to, from) in room.iter_mut().zip(waiting) {
                *to = *from;
            }
            filled += count;
            self.staged += count;
        }
        for port in &mut self.ports {
            if let Some(change) = port.line_change() {
                // A line for each port at most.
                let _ = lines.push(change);
            }
        }
        filled
    }

    /// When [`Self::drain`] has something to show that it has not now, if no more bytes come; `None`: never.
    pub fn deadline(&self) -> Option<Ticks> {
        if self.holds_back {
            return None;
        }
        let waits =
            |(index, port): &(usize, &Port)| port.shown < port.line.len() && (*index == self.focus || port.fresh);
        let due = |(index, port): (usize, &Port)| Ticks(port.last.0.saturating_add(self.pause(index)));
        self.ports.iter().enumerate().filter(waits).map(due).min()
    }

    fn pause(&self, index: usize) -> u64 {
        if index == self.focus {
            self.short_pause
        } else {
            self.long_pause
        }
    }

    fn move_focus(&mut self) -> InputEffect {
        // Port 0 is the hypervisor's.
        self.focus = if self.focus + 1 < self.ports.len() {
            self.focus + 1
        } else {
            1.min(self.ports.len() - 1)
        };
        let Some(domain) = self.focus() else {
            return InputEffect::None;
        };
        let name = self
            .ports
            .get(self.focus)
            .map(|port| port.name.clone())
            .unwrap_or_default();
        for part in [
            b"input goes to ".as_slice(),
            &name,
            b" (Ctrl-a three times: the next)\n",
        ] {
            self.print(part);
        }
        InputEffect::Focus(domain)
    }

    fn deliver(&mut self, ctrl_a: bool, byte: u8) -> InputEffect {
        let Some(port) = self.ports.get_mut(self.focus) else {
            return InputEffect::None;
        };
        let mut receive = |byte| match &mut port.source {
            Source::Uart { uart, .. } => {
                uart.receive(byte);
            }
            Source::Stream(stream) => stream.receive(byte),
            Source::Messages(_) => {}
        };
        if ctrl_a {
            receive(CTRL_A);
        }
        receive(byte);
        port.line_change().map_or(InputEffect::None, InputEffect::Line)
    }

    /// Stages the next thing to show. Whether there was one.
    fn compose(&mut self, now: Ticks) -> bool {
        let count = self.ports.len();
        for step in 1..=count {
            let index = (self.served + step) % count;
            let Some(port) = self.ports.get_mut(index) else {
                continue;
            };
            port.gather(now);
            let grows = self.open == Some(index) && index == self.focus && port.shown < port.line.len();
            if port.complete() || grows {
                self.served = index;
                self.show(index);
                return true;
            }
        }
        if self.holds_back {
            return false;
        }
        // No line has ended. The focus comes first; another unfinished line is shown once for each time that it grew.
        let focus = self.focus;
        for index in core::iter::once(focus).chain((0..count).filter(|index| *index != focus)) {
            let pause = self.pause(index);
            let Some(port) = self.ports.get(index) else { continue };
            let paused = now.0.saturating_sub(port.last.0) >= pause;
            if port.shown < port.line.len() && paused && (index == focus || port.fresh) {
                self.show(index);
                return true;
            }
        }
        false
    }

    /// Stages what is not shown yet of a port's line, and its end if it has ended.
    fn show(&mut self, index: usize) {
        let Some(port) = self.ports.get_mut(index) else { return };
        let overwrites = core::mem::take(&mut port.overwrites);
        if self.open != Some(index) {
            self.close_line();
            self.stage_name(index);
        } else if overwrites {
            stage(&mut self.staging, b"\r");
            self.stage_name(index);
        }
        let Some(port) = self.ports.get_mut(index) else { return };
        stage(&mut self.staging, port.line.get(port.shown..).unwrap_or_default());
        port.fresh = false;
        self.open = Some(index);
        if port.ended {
            stage(&mut self.staging, b"\r\n");
            self.open = None;
        }
        port.shown = port.line.len();
        if port.complete() {
            port.begin_next();
            port.shown = 0;
        }
    }

    /// Leaves the unfinished line that stands on the terminal; it will be shown again from its start.
    fn close_line(&mut self) {
        if let Some(open) = self.open.take() {
            stage(&mut self.staging, b"\r\n");
            if let Some(port) = self.ports.get_mut(open) {
                port.shown = 0;
            }
        }
    }

    fn stage_name(&mut self, index: usize) {
        let Some(port) = self.ports.get(index) else { return };
        let colour = match self.colour {
            Colour::Ansi => COLOURS.get(index % COLOURS.len()).copied().unwrap_or_default(),
            Colour::Never => b"",
        };
        let end = if colour.is_empty() { b"" } else { COLOUR_END };
        for part in [colour, b"[", &port.name, b"]", end, b" "] {
            stage(&mut self.staging, part);
        }
    }
}

/// Appends; staging has room for a line with everything around it.
fn stage(staging: &mut Array<u8, STAGING>, bytes: &[u8]) {
    for byte in bytes {
        let _ = staging.push(*byte);
    }
}
