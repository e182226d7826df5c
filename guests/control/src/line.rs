//! A line at a time from the console, with the little editing that a person expects.

use alloc::string::String;

use guest_runtime::console;
use guest_runtime::gic::Gic;
use guest_runtime::{print, timer, wait_for_interrupt};

const BACKSPACE: u8 = 0x08;
const DELETE: u8 = 0x7f;
pub(crate) const CTRL_C: u8 = 0x03;
const CTRL_U: u8 = 0x15;
/// Characters of a line.
const CAPACITY: usize = 120;
/// How long to sleep between looks at a console without an interrupt, in microseconds.
const POLL: u64 = 20_000;

/// The console's input.
pub(crate) struct Terminal {
    gic: Gic,
    interrupt: Option<u32>,
}

impl Terminal {
    /// The console, whose interrupt is enabled only while somebody reads.
    pub(crate) fn new(gic: Gic) -> Self {
        let interrupt = console::listen().map(|interrupt| interrupt.intid);
        Self { gic, interrupt }
    }

    /// The next line, without its end.
    pub(crate) fn read_line(&self) -> String {
        print!("control> ");
        let mut line = String::new();
        loop {
            match self.read_byte() {
                b'\r' | b'\n' => {
                    print!("\n");
                    return line;
                }
                BACKSPACE | DELETE => erase(&mut line, 1),
                CTRL_C | CTRL_U => erase(&mut line, CAPACITY),
                byte @ b' '..=b'~' if line.len() < CAPACITY => {
                    line.push(char::from(byte));
                    print!("{}", char::from(byte));
                }
                _ => {}
            }
        }
    }

    fn read_byte(&self) -> u8 {
        loop {
            if let Some(byte) = console::read_byte() {
                return byte;
            }
            let Some(interrupt) = self.interrupt else {
                timer::sleep(&self.gic, POLL);
                continue;
            };
            // It stands while something is unread, and nothing is: what comes from now on ends the sleep.
            self.gic.enable(interrupt, false);
            wait_for_interrupt();
            if let Some(acknowledged) = self.gic.acknowledge() {
                self.gic.end(acknowledged);
            }
            self.gic.disable(interrupt);
        }
    }
}

/// Takes up to `count` characters from the end of the line, on the terminal too.
fn erase(line: &mut String, count: usize) {
    for _ in 0..count {
        if line.pop().is_none() {
            break;
        }
        print!("\x08 \x08");
    }
}
