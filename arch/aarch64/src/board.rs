//! What a board's folder tells the hypervisor, because its device tree cannot.

use crate::console::SerialPort;

/// One board. A board's program defines a static of this type with the symbol `BOARD`.
pub struct Board {
    /// The name on the banner.
    pub name: &'static str,
    /// Makes the console's driver from the base address of its registers. Called once, with stage 1 off or on.
    pub open_console: fn(base: usize) -> &'static dyn SerialPort,
    /// Whether a debugger or emulator takes semihosting calls: how a crash ends the run.
    pub semihosting: bool,
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
