//! vm_assist: what a guest lets the hypervisor do for it.

use super::host::Host;
use crate::abi::HypercallError;
use crate::abi::vcpu as abi;

pub(super) fn run<H: Host>(host: &mut H, command: u32, kind: u32) -> Result<u64, HypercallError> {
    if u64::from(kind) != abi::ASSIST_RUNSTATE_UPDATE_FLAG {
        return Err(HypercallError::Invalid);
    }
    match u64::from(command) {
        abi::ASSIST_ENABLE => host.mark_runstate(true),
        abi::ASSIST_DISABLE => host.mark_runstate(false),
        _ => return Err(HypercallError::NotImplemented),
    }
    Ok(0)
}
