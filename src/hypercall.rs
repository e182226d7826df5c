//! Hypercalls: from a number and five registers to an effect, bounded in time.
//!
//! [`Hypercall::decode`] names the call and its arguments; [`dispatch`] runs it against a [`Host`], which is all that
//! handlers know of domains, locks, stage 2 and policy, and returns an [`Outcome`] that the glue performs.
//!
//! Guarantees:
//! - a call that is refused has changed nothing, and its number is the one of Xen's ABI (`docs/abi.md`);
//! - guest memory is copied in once and decided on; a structure with results is checked to be writable before anything
//!   happens;
//! - one execution handles a bounded number of entries; longer calls are [`Outcome::Continue`]d: the guest executes its
//!   HVC again with the rest, and takes its interrupts between.

pub mod buffers;
mod console_io;
pub mod control;
mod dm_op;
mod domctl;
mod event_channel_op;
pub mod grant_table_op;
pub mod host;
mod hvm_op;
mod memory_op;
mod multicall;
pub mod sched_op;
mod shadow;
mod vcpu_op;
mod vendor;
mod version;
mod vm_assist;

use crate::abi::HypercallError;
use crate::abi::hypercall as number;
use crate::abi::sched::ShutdownReason;

pub use buffers::GuestBuffers;
pub use control::{Direction, Supervisor};
pub use grant_table_op::Granting;
pub use host::{DomainInfo, ForeignPage, Host, Right};
pub use shadow::Shadowing;

/// The registers of a call.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Call {
    /// x16.
    pub number: u64,
    /// x0 to x4.
    pub arguments: [u64; 5],
}

/// A call by its name. Arguments that Xen declares as 32 or 16 bits are cut to that.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Hypercall {
    /// memory_op.
    Memory {
        /// The operation, and the entries done before.
        command: u64,
        /// Its structure.
        pointer: u64,
    },
    /// multicall.
    Multicall {
        /// The entries.
        pointer: u64,
        /// How many.
        count: u32,
    },
    /// xen_version.
    Version {
        /// The operation.
        command: u32,
        /// Where the answer goes.
        pointer: u64,
    },
    /// console_io.
    Console {
        /// The operation.
        command: u32,
        /// Bytes.
        count: u32,
        /// The buffer.
        pointer: u64,
    },
    /// vcpu_op.
    Vcpu {
        /// The operation.
        command: u32,
        /// The vCPU.
        vcpu: u32,
        /// Its structure.
        pointer: u64,
    },
    /// vm_assist.
    Assist {
        /// On or off.
        command: u32,
        /// What.
        kind: u32,
    },
    /// sched_op.
    Sched {
        /// The operation.
        command: u32,
        /// Its structure.
        pointer: u64,
    },
    /// grant_table_op.
    GrantTable {
        /// The operation, and for some how far it has come.
        command: u32,
        /// Its structures.
        pointer: u64,
        /// How many.
        count: u32,
    },
    /// event_channel_op.
    EventChannel {
        /// The operation.
        command: u32,
        /// Its structure.
        pointer: u64,
    },
    /// hvm_op.
    Hvm {
        /// The operation.
        command: u64,
        /// Its structure.
        pointer: u64,
    },
    /// domctl.
    Domctl {
        /// Its structure.
        pointer: u64,
    },
    /// control.
    Control {
        /// The operation.
        operation: u64,
        /// Its structure.
        pointer: u64,
    },
    /// dm_op.
    DeviceModel {
        /// The target.
        domain: u16,
        /// Buffers.
        count: u32,
        /// Their array.
        pointer: u64,
    },
    /// A call that exists in Xen and is refused here with this error.
    Refused(HypercallError),
}

impl Hypercall {
    /// Names a call. Numbers that do not exist are refused with ENOSYS, on which guests rely to find optional features.
    pub fn decode(call: &Call) -> Self {
        let [x0, x1, x2, ..] = call.arguments;
        let command = x0 as u32;
        match call.number {
            number::MEMORY_OP => Self::Memory {
                command: x0,
                pointer: x1,
            },
            number::MULTICALL => Self::Multicall {
                pointer: x0,
                count: x1 as u32,
            },
            number::XEN_VERSION => Self::Version { command, pointer: x1 },
            number::CONSOLE_IO => Self::Console {
                command,
                count: x1 as u32,
                pointer: x2,
            },
            number::VCPU_OP => Self::Vcpu {
                command,
                vcpu: x1 as u32,
                pointer: x2,
            },
            number::VM_ASSIST => Self::Assist {
                command,
                kind: x1 as u32,
            },
            number::SCHED_OP => Self::Sched { command, pointer: x1 },
            number::GRANT_TABLE_OP => Self::GrantTable {
                command,
                pointer: x1,
                count: x2 as u32,
            },
            number::EVENT_CHANNEL_OP => Self::EventChannel { command, pointer: x1 },
            number::HVM_OP => Self::Hvm {
                command: x0,
                pointer: x1,
            },
            number::DOMCTL => Self::Domctl { pointer: x0 },
            number::CONTROL => Self::Control {
                operation: x0,
                pointer: x1,
            },
            number::DM_OP => Self::DeviceModel {
                domain: x0 as u16,
                count: x1 as u32,
                pointer: x2,
            },
            other => Self::Refused(refusal(other)),
        }
    }
}

/// The numbers that [`Hypercall::decode`] gives a name.
const OFFERED: u64 = 1 << number::MEMORY_OP
    | 1 << number::MULTICALL
    | 1 << number::XEN_VERSION
    | 1 << number::CONSOLE_IO
    | 1 << number::VCPU_OP
    | 1 << number::VM_ASSIST
    | 1 << number::SCHED_OP
    | 1 << number::GRANT_TABLE_OP
    | 1 << number::EVENT_CHANNEL_OP
    | 1 << number::HVM_OP
    | 1 << number::DOMCTL
    | 1 << number::CONTROL
    | 1 << number::DM_OP;

/// The error of a call that is refused by its number alone; `None`: it depends.
#[inline]
pub const fn refused(call: u64) -> Option<HypercallError> {
    if call < 64 && OFFERED >> call & 1 != 0 {
        None
    } else {
        Some(refusal(call))
    }
}

const fn refusal(call: u64) -> HypercallError {
    match call {
        number::SYSCTL => HypercallError::NotPermitted,
        number::ARGO_OP => HypercallError::NotSupported,
        _ => HypercallError::NotImplemented,
    }
}

/// What a handler did.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Done {
    /// The call is over.
    Value(u64),
    /// The call goes on with these arguments.
    Continue([u64; 5]),
    /// The vCPU lets others run.
    Yield,
    /// The vCPU sleeps until an event.
    Block,
    /// The vCPU sleeps until one of its ports has an event.
    Poll(Option<u64>),
    /// The domain stops.
    Shutdown(ShutdownReason),
}

/// What the glue does after a call.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[must_use]
pub enum Outcome {
    /// Write x0; the guest goes on after its HVC.
    Return(u64),
    /// Write x0 to x4 and set PC back by 4: the guest executes its HVC again. x16 is unchanged.
    Continue([u64; 5]),
    /// Write 0 to x0 and let others run.
    Yield,
    /// Write 0 to x0; if no event is pending for the vCPU, put it to sleep as WFI does.
    Block,
    /// Write 0 to x0; put the vCPU to sleep until [`crate::evtchn::Delivery::wake`] names it, an interrupt comes, or this
    /// system time in nanoseconds has come (`None`: no time limit). Then call
    /// [`crate::evtchn::EventChannels::stop_polling`].
    Poll {
        /// When to give up.
        until: Option<u64>,
    },
    /// The caller's domain stops.
    Shutdown(ShutdownReason),
}

/// Runs one hypercall of the host's caller.
pub fn dispatch<H: Host>(host: &mut H, call: &Call) -> Outcome {
    let done = match Hypercall::decode(call) {
        Hypercall::Multicall { pointer, count } => multicall::run(host, pointer, count, call.arguments),
        other => run(host, other, call.arguments),
    };
    match done {
        Ok(Done::Value(value)) => Outcome::Return(value),
        Ok(Done::Continue(arguments)) => Outcome::Continue(arguments),
        Ok(Done::Yield) => Outcome::Yield,
        Ok(Done::Block) => Outcome::Block,
        Ok(Done::Poll(until)) => Outcome::Poll { until },
        Ok(Done::Shutdown(reason)) => Outcome::Shutdown(reason),
        Err(error) => Outcome::Return(error.register()),
    }
}

/// Everything but multicall, which does not nest.
fn run<H: Host>(host: &mut H, call: Hypercall, arguments: [u64; 5]) -> Result<Done, HypercallError> {
    match call {
        Hypercall::Memory { command, pointer } => memory_op::run(host, command, pointer, arguments),
        Hypercall::Multicall { .. } => Err(HypercallError::Invalid),
        Hypercall::Version { command, pointer } => version::run(host, command, pointer).map(Done::Value),
        Hypercall::Console {
            command,
            count,
            pointer,
        } => console_io::run(host, command, count, pointer, arguments),
        Hypercall::Vcpu { command, vcpu, pointer } => vcpu_op::run(host, command, vcpu, pointer).map(Done::Value),
        Hypercall::Assist { command, kind } => vm_assist::run(host, command, kind).map(Done::Value),
        Hypercall::Sched { command, pointer } => sched_op::run(host, command, pointer),
        Hypercall::GrantTable {
            command,
            pointer,
            count,
        } => grant_table_op::run(host, command, pointer, count, arguments),
        Hypercall::EventChannel { command, pointer } => event_channel_op::run(host, command, pointer, arguments),
        Hypercall::Hvm { command, pointer } => hvm_op::run(host, command, pointer).map(Done::Value),
        Hypercall::Domctl { pointer } => domctl::run(host, pointer).map(Done::Value),
        Hypercall::Control { operation, pointer } => control::run(host, operation, pointer).map(Done::Value),
        Hypercall::DeviceModel { domain, count, pointer } => dm_op::run(host, domain, count, pointer).map(Done::Value),
        Hypercall::Refused(error) => Err(error),
    }
}
