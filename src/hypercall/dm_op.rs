//! dm_op: a device model acts on its target.
//!
//! Checks in Xen's order: number of buffers, the buffers' array, target, right, size, operation, payload, pads, then the
//! operation's own.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::buffers::{element, read_for_update, read_value, write_value};
use super::host::{DomainInfo, Host, Right, remote};
use super::vendor;
use crate::abi::HypercallError;
use crate::abi::dm_op as abi;
use crate::ids::{DomainId, IntId, ServerId};
use crate::ioreq::{Effects, Range, Resources, Servers, Surroundings};
use crate::routing::{Domains, perform};

pub(super) fn run<H: Host>(host: &mut H, domain: u16, count: u32, pointer: u64) -> Result<u64, HypercallError> {
    if count == 0 {
        return Err(HypercallError::NoData);
    }
    if u64::from(count) > abi::MAX_BUFFERS {
        return Err(HypercallError::TooManyArguments);
    }
    let mut buffers = [abi::Buffer::default(); abi::MAX_BUFFERS as usize];
    for (index, buffer) in buffers.iter_mut().enumerate().take(count as usize) {
        *buffer = read_value(host, element(pointer, index as u64, size_of::<abi::Buffer>())?)?;
    }
    let target = remote(host, domain)?;
    if !host.permits(Right::Serve { target: target.id }) {
        return Err(HypercallError::NotPermitted);
    }
    let operation = Operation::read(host, buffers[0])?;
    match operation.op {
        abi::CREATE_IOREQ_SERVER => operation.create(host, &target),
        abi::GET_IOREQ_SERVER_INFO => operation.info(host, &target),
        abi::MAP_IO_RANGE_TO_IOREQ_SERVER => operation.map(host, &target),
        abi::UNMAP_IO_RANGE_FROM_IOREQ_SERVER => operation.unmap(host, &target),
        abi::SET_IOREQ_SERVER_STATE => operation.set_state(host, &target),
        abi::DESTROY_IOREQ_SERVER => operation.destroy(host, &target),
        abi::SET_IRQ_LEVEL => operation.set_irq_level(host, &target),
        abi::NR_VCPUS => operation.nr_vcpus(host, &target),
        _ => vendor::run(&operation, host, &target),
    }
}

/// Runs `with` on the target's servers and performs what it asks for.
pub(super) fn change<H: Host>(
    host: &mut H,
    target: DomainId,
    with: impl FnOnce(
        &mut Servers,
        &Surroundings<'_, <H::Domains as Domains>::Memory>,
        &mut dyn Resources,
    ) -> Result<Effects, HypercallError>,
) -> Result<u64, HypercallError> {
    let effects = host.domains().servers(target, with).ok_or(HypercallError::NoDomain)??;
    perform(host.domains(), target, &effects);
    Ok(0)
}

/// Buffer 0, after its header was read.
pub(super) struct Operation {
    pub(super) op: u32,
    pad: u32,
    pub(super) payload: u64,
    size: u64,
}

impl Operation {
    fn read<H: Host>(host: &mut H, buffer: abi::Buffer) -> Result<Self, HypercallError> {
        let header_size = size_of::<abi::Header>() as u64;
        let size = buffer.size.checked_sub(header_size).ok_or(HypercallError::BadPointer)?;
        let header: abi::Header = read_value(host, buffer.pointer)?;
        let payload = buffer
            .pointer
            .checked_add(header_size)
            .ok_or(HypercallError::BadPointer)?;
        Ok(Self {
            op: header.op,
            pad: header.pad,
            payload,
            size,
        })
    }

    fn check<T>(&self) -> Result<(), HypercallError> {
        if self.size < size_of::<T>() as u64 {
            Err(HypercallError::BadPointer)
        } else {
            Ok(())
        }
    }

    fn check_pad(&self) -> Result<(), HypercallError> {
        if self.pad == 0 {
            Ok(())
        } else {
            Err(HypercallError::Invalid)
        }
    }

    pub(super) fn input<T: FromZeros + FromBytes + IntoBytes, H: Host>(
        &self,
        host: &mut H,
    ) -> Result<T, HypercallError> {
        self.check::<T>()?;
        let payload = read_value(host, self.payload)?;
        self.check_pad()?;
        Ok(payload)
    }

    pub(super) fn in_out<T: FromZeros + FromBytes + IntoBytes + Immutable, H: Host>(
        &self,
        host: &mut H,
    ) -> Result<T, HypercallError> {
        self.check::<T>()?;
        let payload = read_for_update(host, self.payload)?;
        self.check_pad()?;
        Ok(payload)
    }

    fn create<H: Host>(&self, host: &mut H, target: &DomainInfo) -> Result<u64, HypercallError> {
        let mut payload: abi::CreateIoreqServer = self.in_out(host)?;
        if payload.pad != [0; 3] {
            return Err(HypercallError::Invalid);
        }
        let caller = host.caller().domain;
        let created = host.domains().servers(target.id, |servers, around, resources| {
            servers.create(caller, payload.handle_bufioreq, around.memory, resources)
        });
        let ServerId(id) = created.ok_or(HypercallError::NoDomain)??;
        payload.id = id;
        write_value(host, self.payload, &payload)?;
        Ok(0)
    }

    fn info<H: Host>(&self, host: &mut H, target: &DomainInfo) -> Result<u64, HypercallError> {
        let mut payload: abi::GetIoreqServerInfo = self.in_out(host)?;
        let no_gfns = abi::GetIoreqServerInfo::NO_GFNS;
        if payload.flags & !no_gfns != 0 {
            return Err(HypercallError::Invalid);
        }
        let caller = host.caller().domain;
        let port = host.domains().servers(target.id, |servers, _, _| {
            servers.buffered_port(caller, ServerId(payload.id), payload.flags & no_gfns != 0)
        });
        payload.bufioreq_port = port.ok_or(HypercallError::NoDomain)??.0;
        write_value(host, self.payload, &payload)?;
        Ok(0)
    }

    fn map<H: Host>(&self, host: &mut H, target: &DomainInfo) -> Result<u64, HypercallError> {
        let payload: abi::IoRange = self.input(host)?;
        if payload.pad != 0 {
            return Err(HypercallError::Invalid);
        }
        let permitted = match Range::new(payload.start, payload.end) {
            Some(range) if payload.kind == abi::IoRange::MEMORY => host.permits(Right::ServeRange {
                target: target.id,
                range,
            }),
            // Ports and PCI functions are never selected on Arm: nothing is gained by having them.
            _ => true,
        };
        let caller = host.caller().domain;
        change(host, target.id, |servers, around, _| {
            servers.map_range(caller, &payload, permitted, around)
        })
    }

    fn unmap<H: Host>(&self, host: &mut H, target: &DomainInfo) -> Result<u64, HypercallError> {
        let payload: abi::IoRange = self.input(host)?;
        if payload.pad != 0 {
            return Err(HypercallError::Invalid);
        }
        let caller = host.caller().domain;
        change(host, target.id, |servers, around, _| {
            servers.unmap_range(caller, &payload, around)
        })
    }

    fn set_state<H: Host>(&self, host: &mut H, target: &DomainInfo) -> Result<u64, HypercallError> {
        let payload: abi::SetIoreqServerState = self.input(host)?;
        if payload.pad != 0 {
            return Err(HypercallError::Invalid);
        }
        let caller = host.caller().domain;
        change(host, target.id, |servers, around, _| {
            servers.set_enabled(caller, ServerId(payload.id), payload.enabled != 0, around)
        })
    }

    fn destroy<H: Host>(&self, host: &mut H, target: &DomainInfo) -> Result<u64, HypercallError> {
        let payload: abi::DestroyIoreqServer = self.input(host)?;
        if payload.pad != 0 {
            return Err(HypercallError::Invalid);
        }
        let caller = host.caller().domain;
        change(host, target.id, |servers, around, resources| {
            servers.destroy(caller, ServerId(payload.id), around, resources)
        })
    }

    fn set_irq_level<H: Host>(&self, host: &mut H, target: &DomainInfo) -> Result<u64, HypercallError> {
        let payload: abi::SetIrqLevel = self.input(host)?;
        let interrupt = IntId(payload.irq);
        let exists = interrupt.is_spi() && payload.irq - IntId::FIRST_SPI < target.spis;
        if payload.pad != [0; 3] || payload.level > 1 || !exists {
            return Err(HypercallError::Invalid);
        }
        if !host.permits(Right::Interrupt {
            target: target.id,
            interrupt,
        }) {
            return Err(HypercallError::NotPermitted);
        }
        host.set_interrupt_level(target.id, interrupt, payload.level == 1)?;
        Ok(0)
    }

    fn nr_vcpus<H: Host>(&self, host: &mut H, target: &DomainInfo) -> Result<u64, HypercallError> {
        let mut payload: abi::NrVcpus = self.in_out(host)?;
        payload.vcpus = target.vcpus.into();
        write_value(host, self.payload, &payload)?;
        Ok(0)
    }
}
