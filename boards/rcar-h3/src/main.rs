//! Renesas R-Car H3 (r8a7795, r8a77951): what its device tree cannot tell is which driver speaks to its console.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::boxed::Box;
use portunus_aarch64::board::{Board, ConsoleDriver};
use portunus_aarch64::mmio::Registers;
use portunus_serial::Scif;

/// The board that the hypervisor is built for; `portunus_aarch64` finds it by its symbol.
#[unsafe(no_mangle)]
pub static BOARD: Board = Board {
    name: "Renesas R-Car H3",
    consoles: &[ConsoleDriver {
        compatible: Scif::<Registers>::COMPATIBLE,
        open: |registers| Box::new(Scif::open(registers)),
    }],
    // SCIF2, the debug console of the starter kit (registers.md).
    early_console: 0xe6e8_8000,
    semihosting: false,
    el2: "build its firmware, TF-A, with RCAR_BL33_EXECUTION_EL=1 (docs/boards/rcar-h3.md)",
};
