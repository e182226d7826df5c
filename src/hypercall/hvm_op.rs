//! hvm_op: a domain's parameters. There is no xenstore, so its are 0, as are those of a
//! PV console that the domain does not have.

use super::buffers::{read_for_update, read_value, write_value};
use super::host::{Host, own};
use crate::abi::HypercallError;
use crate::abi::hvm_op as abi;
use crate::evtchn::UPCALL;

pub(super) fn run<H: Host>(host: &mut H, command: u64, pointer: u64) -> Result<u64, HypercallError> {
    match command {
        abi::GET_PARAM => {
            let mut request: abi::Parameter = read_for_update(host, pointer)?;
            own(host, request.domid)?;
            request.value = value(host, request.index).ok_or(HypercallError::Invalid)?;
            write_value(host, pointer, &request)?;
            Ok(0)
        }
        abi::SET_PARAM => {
            let request: abi::Parameter = read_value(host, pointer)?;
            own(host, request.domid)?;
            value(host, request.index).ok_or(HypercallError::Invalid)?;
            Err(HypercallError::NotPermitted)
        }
        _ => Err(HypercallError::NotImplemented),
    }
}

fn value<H: Host>(host: &H, index: u32) -> Option<u64> {
    match index {
        abi::PARAM_CALLBACK_IRQ => Some(abi::CALLBACK_VIA_PPI | abi::CALLBACK_ACTIVE_LOW | u64::from(UPCALL.0)),
        abi::PARAM_STORE_PFN | abi::PARAM_STORE_EVTCHN => Some(0),
        abi::PARAM_CONSOLE_PFN => Some(host.pv_console().map_or(0, |(frame, _)| frame)),
        abi::PARAM_CONSOLE_EVTCHN => Some(host.pv_console().map_or(0, |(_, port)| port.0.into())),
        _ => None,
    }
}
