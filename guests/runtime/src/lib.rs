//! What a bare-metal guest at EL1 needs: a start, a console, memory, exceptions, interrupts, other vCPUs, hypercalls.
//!
//! A guest is an arm64 Image that is loaded anywhere and gets the address of its device tree in x0. The runtime relocates
//! it, turns the MMU and caches on with an identity map made from the device tree (RAM Normal write-back, all else
//! Device), and calls the function named by [`entry!`](crate::entry). It never uses FP or SIMD registers. What it knows of the machine comes
//! from the device tree, so the same image runs under Portunus and on `qemu-system-aarch64 -M virt` alone.
//!
//! Guests are trusted by themselves: these modules panic where an assumption about the machine does not hold.
#![no_std]

extern crate alloc;

pub mod attempt;
pub mod buffered;
pub mod console;
pub mod copy;
pub mod device_tree;
pub mod disk;
pub mod dma;
mod entry;
pub mod events;
pub mod exceptions;
pub mod gic;
pub mod granting;
mod heap;
pub mod hypercall;
pub mod mmio;
pub mod mmu;
mod panic;
pub mod psci;
pub mod random;
pub mod server;
pub mod smp;
pub mod timer;
pub mod virtio;
pub mod window;

pub use entry::{constants, image};

/// Says that this vCPU only waits for another one: an emulator that runs all of them in turns goes on with the next.
pub fn let_others_run() {
    // SAFETY: a hint.
    unsafe {
        core::arch::asm!("yield", options(nomem, nostack, preserves_flags));
    }
}

/// Lets another vCPU run that this one waits for, on this CPU or on another one.
pub fn give_way() {
    // It answers nothing that matters: without such a hypervisor there is nobody else on this CPU.
    let _ = hypercall::yield_now();
    let_others_run();
}

/// Sleeps until an interrupt is pending, masked at the CPU or not.
pub fn wait_for_interrupt() {
    // SAFETY: these instructions only wait; memory is not touched.
    unsafe {
        core::arch::asm!("dsb sy", "wfi", options(nostack, preserves_flags));
    }
}
