//! hvm_op: x0 = operation, x1 -> its structure (Xen public `hvm/hvm_op.h`, `hvm/params.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// [`Parameter`]
pub const SET_PARAM: u64 = 0;
/// [`Parameter`]
pub const GET_PARAM: u64 = 1;
/// Tells a monitor.
pub const GUEST_REQUEST_VM_EVENT: u64 = 24;

/// How the event upcall is delivered.
pub const PARAM_CALLBACK_IRQ: u32 = 0;
/// Frame of the xenstore ring; 0: there is none.
pub const PARAM_STORE_PFN: u32 = 1;
/// Port of the xenstore ring; 0: there is none.
pub const PARAM_STORE_EVTCHN: u32 = 2;
/// Frame of the PV console; 0: there is none.
pub const PARAM_CONSOLE_PFN: u32 = 17;
/// Port of the PV console; 0: there is none.
pub const PARAM_CONSOLE_EVTCHN: u32 = 18;

/// [`PARAM_CALLBACK_IRQ`]: bits 63:56, the upcall is a PPI.
pub const CALLBACK_VIA_PPI: u64 = 2 << 56;
/// [`PARAM_CALLBACK_IRQ`]: the PPI is active low.
pub const CALLBACK_ACTIVE_LOW: u64 = 1 << 9;

/// A domain's parameter (`xen_hvm_param`).
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Parameter {
    /// Whose.
    pub domid: u16,
    /// Padding.
    pub pad: u16,
    /// Which.
    pub index: u32,
    /// Its value.
    pub value: u64,
}

const _: () = assert!(size_of::<Parameter>() == 16);
