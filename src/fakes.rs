//! Stand-ins for the machine, stricter than hardware: tests drive the core through them and read what it asked for.
//!
//! [`FakeMachine`] is memory, TLB, caches, interrupts and console; it panics in the test that touches memory nobody
//! gave it, and records every operation in order. [`FakeCpu`] is a pCPU with a vCPU loaded; its list registers refuse
//! what the GIC architecture leaves unpredictable. [`translation_order`] judges a recorded log of stage-2 updates. [`Random`] gives every run of a
//! test the same numbers.

mod cpu;
mod machine;
mod memory;
mod random;
pub mod translation_order;

pub use cpu::{FakeCpu, FakeVirtualInterface};
pub use machine::{FakeMachine, InterruptConfig, Operation};
pub use memory::{Interference, POISON, SharedAccess, SharedAccessKind, SparseMemory};
pub use random::Random;
