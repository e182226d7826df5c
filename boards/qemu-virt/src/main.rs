//! QEMU's `virt` machine: what its device tree cannot tell is only which driver speaks to its console.
#![no_std]
#![no_main]

use portunus_aarch64::board::Board;
use portunus_aarch64::pl011::Pl011;

/// The board that the hypervisor is built for; `portunus_aarch64` finds it by its symbol.
#[unsafe(no_mangle)]
pub static BOARD: Board = Board {
    name: "QEMU virt",
    open_console: Pl011::open,
    semihosting: true,
};
