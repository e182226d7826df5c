//! vcpu_op: x0 = operation, x1 = vCPU, x2 -> its structure (Xen public `vcpu.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// [`RegisterRunstateMemoryArea`]
pub const REGISTER_RUNSTATE_MEMORY_AREA: u64 = 5;
/// [`RegisterVcpuInfo`]
pub const REGISTER_VCPU_INFO: u64 = 10;

/// Moves a vCPU's [`crate::abi::shared_info::VcpuInfo`] to a place of its own.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegisterVcpuInfo {
    /// The guest frame.
    pub mfn: u64,
    /// Byte offset in it.
    pub offset: u32,
    /// Padding.
    pub rsvd: u32,
}

/// Names a place that says how a vCPU spends its time.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegisterRunstateMemoryArea {
    /// -> [`RunstateInfo`], a virtual address.
    pub pointer: u64,
}

/// How a vCPU spends its time (`vcpu_runstate_info`).
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RunstateInfo {
    /// `RUNSTATE_*`.
    pub state: u32,
    /// Padding.
    pub pad: u32,
    /// System time in nanoseconds of the last change; bit 63 is set while the structure changes.
    pub state_entry_time: u64,
    /// Nanoseconds spent in each state.
    pub time: [u64; 4],
}

impl RunstateInfo {
    /// Bit of [`Self::state_entry_time`]: do not trust the rest now.
    pub const UPDATING: u64 = 1 << 63;
}

/// It runs.
pub const RUNSTATE_RUNNING: u32 = 0;
/// It could run.
pub const RUNSTATE_RUNNABLE: u32 = 1;
/// It waits.
pub const RUNSTATE_BLOCKED: u32 = 2;
/// It is off.
pub const RUNSTATE_OFFLINE: u32 = 3;

/// vm_assist: turn on.
pub const ASSIST_ENABLE: u64 = 0;
/// vm_assist: turn off.
pub const ASSIST_DISABLE: u64 = 1;
/// vm_assist: mark [`RunstateInfo`] while it changes.
pub const ASSIST_RUNSTATE_UPDATE_FLAG: u64 = 5;

const _: () = {
    assert!(size_of::<RegisterVcpuInfo>() == 16);
    assert!(size_of::<RegisterRunstateMemoryArea>() == 8);
    assert!(size_of::<RunstateInfo>() == 48);
};
