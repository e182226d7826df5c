//! The machine under the core: EL2 on 64-bit Arm.
//!
//! A board's program links this crate and defines one [`board::Board`]. Everything that touches hardware is here; every
//! decision is in the crate `portunus`. A trap reads as one sentence: [`vectors`] save a frame, [`traps`] read the
//! syndrome once and call the core, [`run`] asks it who goes on, [`switch`] loads that vCPU, and the vector returns.
#![no_std]

extern crate alloc;

pub mod board;
mod boot;
mod cache;
mod console;
mod controls;
mod copying;
mod cpu;
mod domains;
mod early;
mod entry;
mod epitaph;
mod features;
mod fp;
mod gic;
mod heap;
mod identity;
mod keys;
mod layout;
pub mod machine;
pub mod mmio;
pub mod mmu;
mod pcpu;
mod physical;
mod pl031;
mod power;
mod random;
mod run;
mod semihosting;
mod smp;
mod switch;
mod sysreg;
mod timer;
mod trace;
mod traps;
mod vectors;
