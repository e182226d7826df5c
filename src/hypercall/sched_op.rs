//! sched_op: a vCPU gives up its time, or its domain stops, at once or when a watchdog fires.

use super::Done;
use super::buffers::{element, read_value};
use super::host::Host;
use crate::abi::HypercallError;
use crate::abi::sched as abi;
use crate::evtchn::PollOutcome;
use crate::routing::Domains;

pub(super) fn run<H: Host>(host: &mut H, command: u32, pointer: u64) -> Result<Done, HypercallError> {
    match u64::from(command) {
        abi::YIELD => Ok(Done::Yield),
        abi::BLOCK => Ok(Done::Block),
        abi::SHUTDOWN => {
            let request: abi::Shutdown = read_value(host, pointer)?;
            let reason = abi::ShutdownReason::from_number(request.reason).ok_or(HypercallError::Invalid)?;
            Ok(Done::Shutdown(reason))
        }
        abi::SHUTDOWN_CODE => {
            let request: abi::Shutdown = read_value(host, pointer)?;
            let known = abi::ShutdownReason::from_number(request.reason).is_some();
            if known {
                Ok(Done::Value(0))
            } else {
                Err(HypercallError::Invalid)
            }
        }
        abi::POLL => poll(host, pointer),
        abi::WATCHDOG => {
            let request: abi::Watchdog = read_value(host, pointer)?;
            let id = host.set_watchdog(request.id, request.timeout)?;
            Ok(Done::Value(id.into()))
        }
        // No domain may stop another by this call.
        abi::REMOTE_SHUTDOWN | abi::PIN_OVERRIDE => Err(HypercallError::NotPermitted),
        _ => Err(HypercallError::NotImplemented),
    }
}

fn poll<H: Host>(host: &mut H, pointer: u64) -> Result<Done, HypercallError> {
    let request: abi::Poll = read_value(host, pointer)?;
    if request.nr_ports > abi::MAX_POLL_PORTS {
        return Err(HypercallError::Invalid);
    }
    let mut ports = [0u32; abi::MAX_POLL_PORTS as usize];
    let ports = ports
        .get_mut(..request.nr_ports as usize)
        .ok_or(HypercallError::Invalid)?;
    for (index, port) in (0..).zip(ports.iter_mut()) {
        *port = read_value(host, element(request.ports, index, size_of::<u32>())?)?;
    }
    let caller = host.caller();
    let outcome = host
        .domains()
        .events(caller.domain, |events, words| {
            events.poll(caller.index, ports, words.memory)
        })
        .ok_or(HypercallError::NoDomain)??;
    match outcome {
        PollOutcome::Ready => Ok(Done::Value(0)),
        PollOutcome::Wait => Ok(Done::Poll((request.timeout != 0).then_some(request.timeout))),
    }
}
