//! QEMU's `virt` machine: what its device tree cannot tell is only which driver speaks to its console.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::boxed::Box;
use portunus_aarch64::board::{Board, ConsoleDriver};
use portunus_aarch64::mmio::Registers;
use portunus_serial::Pl011;

/// The board that the hypervisor is built for; `portunus_aarch64` finds it by its symbol.
#[unsafe(no_mangle)]
pub static BOARD: Board = Board {
    name: "QEMU virt",
    consoles: &[ConsoleDriver {
        compatible: Pl011::<Registers>::COMPATIBLE,
        open: |registers| Box::new(Pl011::open(registers)),
    }],
    early_console: 0x0900_0000,
    semihosting: true,
    el2: "QEMU needs -M virt,virtualization=on",
};
