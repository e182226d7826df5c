//! The binary interface that guests and backends see: Xen's public ABI on arm64, declared once.
//!
//! Rules of these modules:
//! - a structure has `repr(C)`, explicit padding, zerocopy's derives and a constant assertion on its size; a golden
//!   test (`tests/abi_layout.rs`) pins every offset;
//! - all numbers are little-endian, as the machine is; pointers are the caller's virtual addresses, frame numbers are
//!   guest-physical addresses divided by 4096;
//! - bit fields are plain integers with named accessors;
//! - nothing here decides anything, so guests and backends compile it too (`default-features = false`).
//!
//! `docs/abi.md` says which operations Portunus implements and where it differs from Xen.

pub mod console;
pub mod console_io;
pub mod control;
pub mod dm_op;
pub mod domctl;
pub mod evtchn;
pub mod grant;
pub mod hvm_op;
pub mod hypercall;
pub mod ioreq;
pub mod memory;
pub mod sched;
pub mod shared_info;
pub mod vcpu;
pub mod version;

pub use hypercall::HypercallError;
