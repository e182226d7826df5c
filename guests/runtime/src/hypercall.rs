//! Hypercalls of Xen's ABI (`portunus::abi`): the instruction, and typed calls.
//!
//! Structures and lists are passed by address; they are in the guest's own Normal memory, and virtual addresses are
//! physical ones here.

pub mod control;
pub mod dm;
pub mod grant;
pub mod kinds;
pub mod memory;

use core::arch::asm;

use portunus::abi::hypercall::{self as abi, HypercallError};
use portunus::abi::{evtchn, sched, vcpu, version};

/// This domain, in calls about a domain.
pub const DOMID_SELF: u16 = 0x7ff0;

/// What a hypercall returns.
pub type Result<T> = core::result::Result<T, HypercallError>;

/// Makes hypercall `number` and returns x0.
///
/// # Safety
/// The call does to memory what its arguments say: every pointer and frame among them must be the caller's to give.
pub unsafe fn raw(number: u64, arguments: [u64; 5]) -> u64 {
    let result;
    // SAFETY: clobbers x0 to x4 and x16 at most; the caller vouches for the rest.
    unsafe {
        asm!(
            "hvc #0xea1",
            inout("x0") arguments[0] => result, inout("x1") arguments[1] => _, inout("x2") arguments[2] => _,
            inout("x3") arguments[3] => _, inout("x4") arguments[4] => _, inout("x16") number => _,
            options(nostack)
        );
    }
    result
}

/// As [`raw`], with the result decoded.
///
/// # Safety
/// As [`raw`].
pub unsafe fn call(number: u64, arguments: [u64; 5]) -> Result<u64> {
    // SAFETY: passed on to the caller.
    abi::from_register(unsafe { raw(number, arguments) })
}

fn pointer<T>(to: &mut T) -> u64 {
    &raw mut *to as u64
}

/// The hypervisor's version: major in bits 31:16, minor below.
pub fn version() -> Result<u64> {
    // SAFETY: no memory is involved.
    unsafe { call(abi::XEN_VERSION, [version::VERSION, 0, 0, 0, 0]) }
}

fn event_channel_op<T>(operation: u64, argument: &mut T) -> Result<u64> {
    // SAFETY: the structure is the caller's, of the operation's type (private function, see the callers).
    unsafe { call(abi::EVENT_CHANNEL_OP, [operation, pointer(argument), 0, 0, 0]) }
}

/// Connects to port `remote_port` of `remote`; returns the local port.
pub fn bind_interdomain(remote: u16, remote_port: u32) -> Result<u32> {
    let mut argument = evtchn::BindInterdomain {
        remote_dom: remote,
        remote_port,
        ..Default::default()
    };
    event_channel_op(evtchn::BIND_INTERDOMAIN, &mut argument)?;
    Ok(argument.local_port)
}

/// Makes a port that `remote` may bind to.
pub fn alloc_unbound(remote: u16) -> Result<u32> {
    let mut argument = evtchn::AllocUnbound {
        dom: DOMID_SELF,
        remote_dom: remote,
        port: 0,
    };
    event_channel_op(evtchn::ALLOC_UNBOUND, &mut argument)?;
    Ok(argument.port)
}

/// Makes a port that this domain sends to itself by; it notifies vCPU 0.
pub fn bind_ipi() -> Result<u32> {
    let mut argument = evtchn::BindIpi::default();
    event_channel_op(evtchn::BIND_IPI, &mut argument)?;
    Ok(argument.port)
}

/// Sends an event.
pub fn send(port: u32) -> Result<()> {
    event_channel_op(evtchn::SEND, &mut evtchn::Port { port }).map(drop)
}

/// Closes a port.
pub fn close(port: u32) -> Result<()> {
    event_channel_op(evtchn::CLOSE, &mut evtchn::Port { port }).map(drop)
}

/// Unmasks a port; an event that came meanwhile is delivered.
pub fn unmask(port: u32) -> Result<()> {
    event_channel_op(evtchn::UNMASK, &mut evtchn::Port { port }).map(drop)
}

/// Puts a vCPU's event information into memory of its own.
///
/// # Safety
/// The hypervisor writes there at any time from now on, by atomic accesses; 48 bytes within one page, aligned to 8.
pub unsafe fn register_vcpu_info(index: u32, address: u64) -> Result<()> {
    let mut argument = vcpu::RegisterVcpuInfo {
        mfn: address >> 12,
        offset: (address & 0xfff) as u32,
        rsvd: 0,
    };
    // SAFETY: the structure is here; the caller gives the memory.
    unsafe {
        call(
            abi::VCPU_OP,
            [vcpu::REGISTER_VCPU_INFO, index.into(), pointer(&mut argument), 0, 0],
        )
    }
    .map(drop)
}

/// Sleeps until an event or an interrupt is pending, and lets interrupts in.
pub fn block() -> Result<()> {
    // SAFETY: no memory is involved.
    unsafe { call(abi::SCHED_OP, [sched::BLOCK, 0, 0, 0, 0]) }.map(drop)
}

/// Lets others run.
pub fn yield_now() -> Result<()> {
    // SAFETY: no memory is involved.
    unsafe { call(abi::SCHED_OP, [sched::YIELD, 0, 0, 0, 0]) }.map(drop)
}

/// Stops this domain.
pub fn shutdown(reason: sched::ShutdownReason) -> Result<()> {
    let mut argument = sched::Shutdown { reason: reason as u32 };
    // SAFETY: the structure is here.
    unsafe { call(abi::SCHED_OP, [sched::SHUTDOWN, pointer(&mut argument), 0, 0, 0]) }.map(drop)
}

/// Sets a watchdog of this domain; `id` 0 makes one and returns its number.
pub fn set_watchdog(id: u32, timeout: u32) -> Result<u32> {
    let mut argument = sched::Watchdog { id, timeout };
    // SAFETY: the structure is here.
    let result = unsafe { call(abi::SCHED_OP, [sched::WATCHDOG, pointer(&mut argument), 0, 0, 0]) };
    result.map(|id| id as u32)
}
