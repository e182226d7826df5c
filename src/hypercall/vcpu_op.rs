//! vcpu_op: where a vCPU of the caller finds its news and its time account.

use super::buffers::read_value;
use super::host::Host;
use crate::abi::HypercallError;
use crate::abi::shared_info::VcpuInfo;
use crate::abi::vcpu as abi;
use crate::domain::runstate::RunstateArea;
use crate::ids::{PAGE_SIZE, Pa};
use crate::routing::Domains;

pub(super) fn run<H: Host>(host: &mut H, command: u32, vcpu: u32, pointer: u64) -> Result<u64, HypercallError> {
    let command = u64::from(command);
    if !matches!(command, abi::REGISTER_VCPU_INFO | abi::REGISTER_RUNSTATE_MEMORY_AREA) {
        return Err(HypercallError::Invalid);
    }
    let caller = host.caller().domain;
    let vcpus = host.domain(caller).ok_or(HypercallError::NoDomain)?.vcpus;
    let index = u8::try_from(vcpu)
        .ok()
        .filter(|index| *index < vcpus)
        .ok_or(HypercallError::NoEntry)?;
    if command == abi::REGISTER_VCPU_INFO {
        register_vcpu_info(host, index, pointer)?;
    } else {
        let request: abi::RegisterRunstateMemoryArea = read_value(host, pointer)?;
        let area = match request.pointer {
            0 => None,
            address => Some(RunstateArea::at(address, |address| host.pin_address(address))?),
        };
        host.set_runstate_area(index, area);
    }
    Ok(0)
}

fn register_vcpu_info<H: Host>(host: &mut H, vcpu: u8, pointer: u64) -> Result<(), HypercallError> {
    let request: abi::RegisterVcpuInfo = read_value(host, pointer)?;
    let offset = u64::from(request.offset);
    if offset > PAGE_SIZE - VcpuInfo::SIZE || !offset.is_multiple_of(8) {
        return Err(HypercallError::NoAddress);
    }
    let caller = host.caller().domain;
    let registered = host.domains().events(caller, |events, _| events.has_registered(vcpu));
    if registered.ok_or(HypercallError::NoDomain)? {
        return Err(HypercallError::Busy);
    }
    let frame = host.pin_frame(request.mfn)?;
    let delivery = host
        .domains()
        .events(caller, |events, words| {
            events.register_vcpu_info(vcpu.into(), Pa(frame.0 + offset), words)
        })
        .ok_or(HypercallError::NoDomain)??;
    host.domains().deliver(caller, delivery);
    Ok(())
}
