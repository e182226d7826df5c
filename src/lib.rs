//! The portable core of Portunus: what a type-1 micro-hypervisor decides, with nothing of how a machine does it.
//!
//! The core is a function from values to values. `arch` reads the trap registers once and passes integers in; the core
//! decodes, routes and decides; `arch` performs. Everything that touches the machine goes through two traits:
//! [`machine::Machine`] (what any pCPU may do at any time) and [`cpu::Cpu`] (this pCPU with one vCPU loaded). Both have
//! strict fakes, so that every trap is tested on a PC.
//!
//! Guarantees: no `unsafe`; no panic, unbounded loop or allocation that a guest, a backend, a manifest or an image can
//! reach on a trap path; shared memory is read once.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "hypervisor")]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod abi;

pub use portunus_base::ids;
#[cfg(feature = "hypervisor")]
pub use portunus_base::{range, sorting};
#[cfg(feature = "hypervisor")]
pub use portunus_manifest as manifest;

#[cfg(feature = "hypervisor")]
pub mod access;
#[cfg(feature = "hypervisor")]
pub mod console;
#[cfg(feature = "hypervisor")]
pub mod counters;
#[cfg(feature = "hypervisor")]
pub mod cpu;
#[cfg(feature = "hypervisor")]
pub mod domain;
#[cfg(feature = "hypervisor")]
pub mod entropy;
#[cfg(feature = "hypervisor")]
pub mod errata;
#[cfg(feature = "hypervisor")]
pub mod evtchn;
#[cfg(feature = "fakes")]
pub mod fakes;
#[cfg(feature = "hypervisor")]
pub mod grant;
#[cfg(feature = "hypervisor")]
pub mod hypercall;
#[cfg(feature = "hypervisor")]
pub mod hypervisor;
#[cfg(feature = "hypervisor")]
pub mod ioreq;
#[cfg(feature = "hypervisor")]
pub mod machine;
#[cfg(feature = "hypervisor")]
pub mod memory;
#[cfg(feature = "hypervisor")]
pub mod policy;
#[cfg(feature = "hypervisor")]
pub mod primecell;
#[cfg(feature = "hypervisor")]
pub mod psci;
#[cfg(feature = "hypervisor")]
pub mod registers;
#[cfg(feature = "hypervisor")]
pub mod routing;
#[cfg(feature = "hypervisor")]
pub mod rtc;
#[cfg(feature = "hypervisor")]
pub mod sched;
#[cfg(feature = "hypervisor")]
pub mod stage2;
#[cfg(feature = "hypervisor")]
pub mod sync;
#[cfg(feature = "hypervisor")]
pub mod trace;
#[cfg(feature = "hypervisor")]
pub mod trap;
#[cfg(feature = "hypervisor")]
pub mod vgic;
