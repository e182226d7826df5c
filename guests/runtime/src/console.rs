//! The console: the PL011 (or SBSA UART) of the device tree; without one, output is dropped.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicUsize, Ordering};

use spin::mutex::SpinMutex;

use crate::device_tree::Interrupt;
use crate::gic::Gic;
use crate::mmio::Registers;
use crate::{device_tree, exceptions, timer};

const DR: usize = 0x00;
const FR: usize = 0x18;
const CR: usize = 0x30;
/// Receive, transmit, enabled.
const CR_ON: u32 = 0x301;
const IMSC: usize = 0x38;
/// Received, and nothing more for a while.
const IMSC_RECEIVE: u32 = 1 << 4 | 1 << 6;
const FR_RXFE: u32 = 1 << 4;
const FR_TXFF: u32 = 1 << 5;

const UARTS: [&str; 2] = ["arm,pl011", "arm,sbsa-uart"];

static BASE: AtomicUsize = AtomicUsize::new(0);
static LOCK: SpinMutex<()> = SpinMutex::new(());

pub(crate) fn init() {
    let uart = device_tree::find_compatible(&UARTS);
    if let Some(range) = uart.and_then(|node| device_tree::reg(node, 0)) {
        BASE.store(range.start as usize, Ordering::Relaxed);
    }
}

fn registers() -> Option<Registers> {
    let base = BASE.load(Ordering::Relaxed);
    // SAFETY: the device tree names a PL011 there.
    (base != 0).then(|| unsafe { Registers::new(base) })
}

/// A panicking guest prints even if it panicked while it printed.
pub(crate) fn break_lock() {
    // SAFETY: the holder is this vCPU, which never returns to it, or another one whose output may mix with ours.
    unsafe { LOCK.force_unlock() };
}

struct Uart(Registers);

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.put(b'\r');
            }
            self.put(byte);
        }
        Ok(())
    }
}

impl Uart {
    fn put(&self, byte: u8) {
        while self.0.read(FR) & FR_TXFF != 0 {
            core::hint::spin_loop();
        }
        self.0.write(DR, byte.into());
    }
}

/// Turns the UART on, with both directions: for tests that wrote to its registers.
pub fn enable() {
    if let Some(uart) = registers() {
        uart.write(IMSC, 0);
        uart.write(CR, CR_ON);
    }
}

/// From now on what is typed raises an interrupt until it is read; which one. `None`: there is no UART, or it has none.
pub fn listen() -> Option<Interrupt> {
    let uart = registers()?;
    let node = device_tree::find_compatible(&UARTS)?;
    uart.write(IMSC, IMSC_RECEIVE);
    device_tree::interrupt(node, 0)
}

/// A byte that was typed, if there is one.
pub fn read_byte() -> Option<u8> {
    let uart = registers()?;
    (uart.read(FR) & FR_RXFE == 0).then(|| uart.read(DR) as u8)
}

/// Sleeps until a byte is typed, or the counter reaches `deadline`.
pub fn read_byte_until(gic: &Gic, deadline: u64) -> Option<u8> {
    if let Some(interrupt) = listen() {
        gic.enable(interrupt.intid, interrupt.edge);
    }
    let mut typed = None;
    timer::sleep_unless(gic, deadline, || {
        typed = read_byte();
        typed.is_some()
    });
    typed
}

#[doc(hidden)]
pub fn print(arguments: fmt::Arguments<'_>) {
    let Some(registers) = registers() else { return };
    // An interrupt handler may print too.
    let masks = exceptions::mask_interrupts();
    {
        let _guard = LOCK.lock();
        // Writing to a UART does not fail.
        let _ = Uart(registers).write_fmt(arguments);
    }
    exceptions::restore_masks(masks);
}

/// Prints to the console.
#[macro_export]
macro_rules! print {
    ($($arguments:tt)*) => { $crate::console::print(core::format_args!($($arguments)*)) };
}

/// Prints a line to the console, whole even if other vCPUs print.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($arguments:tt)*) => { $crate::print!("{}\n", core::format_args!($($arguments)*)) };
}
