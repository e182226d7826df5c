//! Drivers of serial ports for the physical consoles of boards. A board names those that its machine can have.
//!
//! Each is written against [`portunus::registers::DeviceRegisters`], so tests run it on a model that checks every access.
//! None waits, and none sets the line's speed, which is the firmware's business.
#![no_std]
#![forbid(unsafe_code)]

pub mod cadence;
pub mod pl011;
pub mod scif;

pub use cadence::Cadence;
pub use pl011::Pl011;
pub use scif::Scif;
