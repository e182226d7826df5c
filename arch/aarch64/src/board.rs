//! What a board's folder tells the hypervisor, because its device tree cannot.

use crate::mmio::Registers;
use alloc::boxed::Box;
use alloc::vec::Vec;
use portunus::console::SerialPort;
use portunus::manifest::discovery::{self, Console};
use portunus::manifest::host::Uart;

/// One board. A board's program defines a static of this type with the symbol `BOARD`.
pub struct Board {
    /// The name on the banner.
    pub name: &'static str,
    /// Drivers for the consoles that it can have, at least one.
    pub consoles: &'static [ConsoleDriver],
    /// Where the registers of a console of the first driver are, for what has to be said when the device tree names none
    /// that has a driver.
    pub early_console: usize,
    /// Whether a debugger or emulator takes semihosting calls: how a crash ends the run.
    pub semihosting: bool,
    /// How its firmware is made to enter EL2, for people whose firmware does not.
    pub el2: &'static str,
}

/// A driver for consoles.
pub struct ConsoleDriver {
    /// What device trees call what it drives.
    pub compatible: &'static [&'static str],
    /// Takes the port. Called once, with stage 1 off or on.
    pub open: fn(Registers) -> Box<dyn SerialPort>,
}

impl Board {
    /// What device trees call the devices of each driver.
    pub(crate) fn names(&self) -> Vec<&'static [&'static str]> {
        self.consoles.iter().map(|driver| driver.compatible).collect()
    }

    /// The console that `uart` is, else the board's own.
    pub(crate) fn console(&self, uart: Option<&Uart>) -> Option<Console> {
        Console::best(uart, &self.names(), self.early_console as u64)
    }

    /// Whether there is a driver for `uart`.
    pub(crate) fn drives(&self, uart: &Uart) -> bool {
        discovery::driver(uart, &self.names()).is_some()
    }
}

unsafe extern "Rust" {
    #[link_name = "BOARD"]
    static BOARD: Board;
}

/// The board that this program was built for.
pub(crate) fn board() -> &'static Board {
    // SAFETY: the board's program defines the symbol with this type, and never writes it.
    unsafe { &BOARD }
}
