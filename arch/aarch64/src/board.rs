//! What a board's folder tells the hypervisor, because its device tree cannot.

use crate::mmio::Registers;
use alloc::boxed::Box;
use portunus::console::SerialPort;
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
}

/// A driver for consoles.
pub struct ConsoleDriver {
    /// What device trees call what it drives.
    pub compatible: &'static [&'static str],
    /// Takes the port. Called once, with stage 1 off or on.
    pub open: fn(Registers) -> Box<dyn SerialPort>,
}

impl Board {
    /// The driver for `uart`.
    pub(crate) fn driver(&self, uart: &Uart) -> Option<&'static ConsoleDriver> {
        let drives = |driver: &&ConsoleDriver| {
            uart.compatible
                .iter()
                .any(|name| driver.compatible.contains(&name.as_str()))
        };
        self.consoles.iter().find(drives)
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
