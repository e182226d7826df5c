//! The physical console: output never waits. Bytes go into a ring and from there into the port whenever it has room;
//! its transmit interrupt drains the rest. A panic sends what the ring still holds, and its own words, by polling.

use alloc::boxed::Box;
use core::fmt;
use portunus::console::SerialPort;
use portunus::sync::Mutex;
use spin::Once;

/// Bytes of output that may wait for the port.
const RING: usize = 16 * 1024;
/// How often a panicking pCPU looks for room for one byte before it gives that byte up.
const POLLS: u32 = 1_000_000;

struct Ring {
    bytes: [u8; RING],
    /// Where the next byte is taken.
    head: usize,
    /// How many bytes wait.
    length: usize,
    /// Whether the port was asked for transmit interrupts.
    transmitting: bool,
    /// Whether receive interrupts are wanted.
    receiving: bool,
}

static PORT: Once<&'static dyn SerialPort> = Once::new();
static OUTPUT: Mutex<Ring> = Mutex::new(Ring {
    bytes: [0; RING],
    head: 0,
    length: 0,
    transmitting: false,
    receiving: false,
});

impl Ring {
    fn room(&self) -> usize {
        RING - self.length
    }

    fn push(&mut self, byte: u8) -> bool {
        if self.length == RING {
            return false;
        }
        self.bytes[(self.head + self.length) % RING] = byte;
        self.length += 1;
        true
    }

    fn pop_into(&mut self, send: impl Fn(u8) -> bool) {
        while self.length > 0 && send(self.bytes[self.head]) {
            self.head = (self.head + 1) % RING;
            self.length -= 1;
        }
    }

    fn drain(&mut self, port: &dyn SerialPort) {
        self.pop_into(|byte| port.try_send(byte));
        let transmitting = self.length > 0;
        if transmitting != self.transmitting {
            self.transmitting = transmitting;
            port.set_interrupts(self.receiving, transmitting);
        }
    }
}

/// Makes `port` the console.
pub(crate) fn open(port: Box<dyn SerialPort>) {
    PORT.call_once(|| Box::leak(port));
}

/// Asks for receive interrupts from now on.
pub(crate) fn start_receiving() {
    if let Some(port) = PORT.get() {
        let mut ring = OUTPUT.lock();
        ring.receiving = true;
        port.set_interrupts(true, ring.transmitting);
    }
}

/// Appends to the console without waiting; returns how many bytes found room.
pub(crate) fn write(bytes: &[u8]) -> usize {
    let Some(port) = PORT.get() else { return bytes.len() };
    let mut ring = OUTPUT.lock();
    let mut accepted = 0;
    for byte in bytes {
        if !ring.push(*byte) {
            ring.drain(*port);
            if !ring.push(*byte) {
                break;
            }
        }
        accepted += 1;
    }
    ring.drain(*port);
    accepted
}

/// How many bytes [`write`] takes now.
pub(crate) fn room() -> usize {
    let Some(port) = PORT.get() else { return usize::MAX };
    let mut ring = OUTPUT.lock();
    ring.drain(*port);
    ring.room()
}

/// The port's interrupt: drains output, and moves up to `into.len()` received bytes; returns how many.
pub(crate) fn on_interrupt(into: &mut [u8]) -> usize {
    let Some(port) = PORT.get() else { return 0 };
    port.clear_interrupts();
    OUTPUT.lock().drain(*port);
    let mut count = 0;
    for slot in into.iter_mut() {
        let Some(byte) = port.try_receive() else { break };
        *slot = byte;
        count += 1;
    }
    count
}

fn send_polled(port: &dyn SerialPort, byte: u8) -> bool {
    (0..POLLS).any(|_| port.try_send(byte))
}

/// Sends by polling what still waits; the way out, when nobody will take another interrupt.
pub(crate) fn flush() {
    if let (Some(port), Some(mut ring)) = (PORT.get(), OUTPUT.try_lock()) {
        ring.pop_into(|byte| send_polled(*port, byte));
    }
}

/// Output of a pCPU that will not go on: polled, and without the ring's lock, whose holder may be this very pCPU.
pub(crate) struct LastWords;

impl fmt::Write for LastWords {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let Some(port) = PORT.get() else { return Ok(()) };
        for byte in text.bytes() {
            if byte == b'\n' {
                send_polled(*port, b'\r');
            }
            send_polled(*port, byte);
        }
        Ok(())
    }
}

/// Formatted output while the machine boots.
struct BootWords;

impl fmt::Write for BootWords {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for line in text.split_inclusive('\n') {
            match line.strip_suffix('\n') {
                Some(line) => {
                    write(line.as_bytes());
                    write(b"\r\n");
                }
                None => {
                    write(line.as_bytes());
                }
            }
        }
        Ok(())
    }
}

/// The `log` crate's sink: one line a record, each with the hypervisor's prefix.
struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        use fmt::Write;
        let mark = if record.level() == log::Level::Info {
            ""
        } else {
            record.level().as_str()
        };
        let space = if mark.is_empty() { "" } else { " " };
        // The ring takes every byte or drops it: writing to it can't fail.
        let _ = writeln!(BootWords, "(portunus) {mark}{space}{}", record.args());
    }
    fn flush(&self) {}
}

/// Sends `log` records to the console from now on.
pub(crate) fn start_logging() {
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}
