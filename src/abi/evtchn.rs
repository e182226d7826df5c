//! event_channel_op: x0 = operation, x1 -> its structure (Xen public `event_channel.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// [`BindInterdomain`]
pub const BIND_INTERDOMAIN: u64 = 0;
/// [`BindVirq`]
pub const BIND_VIRQ: u64 = 1;
/// Physical interrupts; not on Arm.
pub const BIND_PIRQ: u64 = 2;
/// [`Port`]
pub const CLOSE: u64 = 3;
/// [`Port`]
pub const SEND: u64 = 4;
/// [`Status`]
pub const STATUS: u64 = 5;
/// [`AllocUnbound`]
pub const ALLOC_UNBOUND: u64 = 6;
/// [`BindIpi`]
pub const BIND_IPI: u64 = 7;
/// [`BindVcpu`]
pub const BIND_VCPU: u64 = 8;
/// [`Port`]
pub const UNMASK: u64 = 9;
/// [`Reset`]
pub const RESET: u64 = 10;
/// FIFO event channels.
pub const INIT_CONTROL: u64 = 11;
/// FIFO event channels.
pub const EXPAND_ARRAY: u64 = 12;
/// FIFO event channels.
pub const SET_PRIORITY: u64 = 13;

/// Virtual interrupts that exist.
pub const VIRQS: u32 = 24;
/// VIRQ: a one-shot timer, one a vCPU.
pub const VIRQ_TIMER: u32 = 0;
/// VIRQ: the debug key, one a vCPU.
pub const VIRQ_DEBUG: u32 = 1;
/// VIRQ: the console has input.
pub const VIRQ_CONSOLE: u32 = 2;
/// VIRQ: the profiler, one a vCPU.
pub const VIRQ_XENOPROF: u32 = 7;
/// VIRQ: Argo, one a domain.
pub const VIRQ_ARGO: u32 = 11;
/// VIRQ: performance counters, one a vCPU.
pub const VIRQ_XENPMU: u32 = 13;

/// [`Status::status`]: not in use.
pub const STATUS_CLOSED: u32 = 0;
/// [`Status::status`]: waits for the other side.
pub const STATUS_UNBOUND: u32 = 1;
/// [`Status::status`]: connected.
pub const STATUS_INTERDOMAIN: u32 = 2;
/// [`Status::status`]: a physical interrupt.
pub const STATUS_PIRQ: u32 = 3;
/// [`Status::status`]: a virtual interrupt.
pub const STATUS_VIRQ: u32 = 4;
/// [`Status::status`]: between vCPUs of one domain.
pub const STATUS_IPI: u32 = 5;

/// Makes a port that `remote_dom` may bind to.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AllocUnbound {
    /// Whose port; only DOMID_SELF.
    pub dom: u16,
    /// Who may bind.
    pub remote_dom: u16,
    /// OUT: the port.
    pub port: u32,
}

/// Connects to an unbound port of another domain.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindInterdomain {
    /// The other domain.
    pub remote_dom: u16,
    /// Padding.
    pub pad: u16,
    /// Its port.
    pub remote_port: u32,
    /// OUT: the caller's port.
    pub local_port: u32,
}

/// Makes a port for a virtual interrupt.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindVirq {
    /// Which.
    pub virq: u32,
    /// Of which vCPU.
    pub vcpu: u32,
    /// OUT: the port.
    pub port: u32,
}

/// Makes a port for events between vCPUs of the caller.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindIpi {
    /// The vCPU that is notified.
    pub vcpu: u32,
    /// OUT: the port.
    pub port: u32,
}

/// Chooses the vCPU that a port notifies.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindVcpu {
    /// The port.
    pub port: u32,
    /// The vCPU.
    pub vcpu: u32,
}

/// The argument of close, send and unmask.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Port {
    /// The port.
    pub port: u32,
}

/// Closes every port of a domain.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Reset {
    /// Whose; only DOMID_SELF.
    pub dom: u16,
}

/// Says what a port is.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Status {
    /// Whose port.
    pub dom: u16,
    /// Padding.
    pub pad: u16,
    /// Which port.
    pub port: u32,
    /// OUT: `STATUS_*`.
    pub status: u32,
    /// OUT: the vCPU that it notifies.
    pub vcpu: u32,
    /// OUT: the remote domain in bits 15:0, or the VIRQ.
    pub peer: u32,
    /// OUT: the remote port.
    pub peer_port: u32,
}

const _: () = {
    assert!(size_of::<AllocUnbound>() == 8);
    assert!(size_of::<BindInterdomain>() == 12);
    assert!(size_of::<BindVirq>() == 12);
    assert!(size_of::<BindIpi>() == 8);
    assert!(size_of::<BindVcpu>() == 8);
    assert!(size_of::<Port>() == 4);
    assert!(size_of::<Reset>() == 2);
    assert!(size_of::<Status>() == 24);
};
