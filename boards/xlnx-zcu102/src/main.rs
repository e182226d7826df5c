//! Xilinx ZCU102 (Zynq UltraScale+ MPSoC): what its device tree cannot tell is which driver speaks to its console.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::boxed::Box;
use portunus_aarch64::board::{Board, ConsoleDriver};
use portunus_aarch64::mmio::Registers;
use portunus_serial::Cadence;

/// The board that the hypervisor is built for; `portunus_aarch64` finds it by its symbol.
#[unsafe(no_mangle)]
pub static BOARD: Board = Board {
    name: "Xilinx ZCU102",
    consoles: &[ConsoleDriver {
        compatible: Cadence::<Registers>::COMPATIBLE,
        open: |registers| Box::new(Cadence::open(registers)),
    }],
    // UART 0 (UG1085, table "System Address Map").
    early_console: 0xff00_0000,
    semihosting: false,
    el2: "the PMU firmware or FSBL hands over to U-Boot at EL2 (exception_level=el-2 in its .bif); QEMU needs virtualization=on",
};
