//! multicall: several calls in one, a bounded number at a time.

use super::buffers::{element, read_for_update, write_value};
use super::host::Host;
use super::{Call, Done, Hypercall, run as run_one};
use crate::abi::HypercallError;
use crate::abi::hypercall::MulticallEntry;
use crate::abi::sched;

/// Entries that one execution handles.
const LIMIT: u32 = 8;

pub(super) fn run<H: Host>(
    host: &mut H,
    pointer: u64,
    count: u32,
    mut arguments: [u64; 5],
) -> Result<Done, HypercallError> {
    let now = count.min(LIMIT);
    for index in 0..now {
        let at = element(pointer, index.into(), size_of::<MulticallEntry>())?;
        let mut entry: MulticallEntry = read_for_update(host, at)?;
        let [x0, x1, x2, x3, x4, _] = entry.args;
        let entry_arguments = [x0, x1, x2, x3, x4];
        let call = Call {
            number: entry.op,
            arguments: entry_arguments,
        };
        let call = match Hypercall::decode(&call) {
            // What puts the vCPU to sleep or stops the domain is a call of its own.
            Hypercall::Sched { command, .. } if u64::from(command) != sched::YIELD => {
                Hypercall::Refused(HypercallError::NotImplemented)
            }
            call => call,
        };
        match run_one(host, call, entry_arguments) {
            Ok(Done::Continue([x0, x1, x2, x3, x4])) => {
                // The entry goes on where it stopped when the guest executes its HVC again.
                entry.args = [x0, x1, x2, x3, x4, entry.args[5]];
                write_value(host, at, &entry)?;
                return Ok(Done::Continue(rest(arguments, at, count - index)));
            }
            result => entry.result = value(result),
        }
        write_value(host, at, &entry)?;
    }
    if now == count {
        return Ok(Done::Value(0));
    }
    let next = element(pointer, now.into(), size_of::<MulticallEntry>())?;
    arguments = rest(arguments, next, count - now);
    Ok(Done::Continue(arguments))
}

fn rest(mut arguments: [u64; 5], pointer: u64, count: u32) -> [u64; 5] {
    arguments[0] = pointer;
    arguments[1] = count.into();
    arguments
}

fn value(result: Result<Done, HypercallError>) -> u64 {
    match result {
        Ok(Done::Value(value)) => value,
        Ok(Done::Yield) => 0,
        Ok(_) => HypercallError::NotImplemented.register(),
        Err(error) => error.register(),
    }
}
