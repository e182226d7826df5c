//! Consoles: a PL011 for every domain that asks for one, and one physical console that they share.
//!
//! [`pl011`] is the device that a guest sees; [`mux`] owns all of them, turns what they send into lines with names, and
//! gives what is typed to the domain in focus; [`keys`] is what the hypervisor itself understands. Nothing here waits: output is pulled by whoever has room for it, and a
//! guest that sends faster than the console takes sees its own FIFO full.

pub mod keys;
pub mod mux;
pub mod pl011;
mod port;
mod ring;
mod serial;
pub mod stream;
mod without_uart;

pub use mux::{Colour, Console, InputEffect, LineChange, PortId, TooManyPorts};
pub use serial::SerialPort;
