//! domctl getdomaininfo: how big a domain is that the caller serves.

use super::buffers::{read_for_update, read_value, write_value};
use super::host::{DomainInfo, Host, Right};
use crate::abi::HypercallError;
use crate::abi::domctl as abi;
use crate::ids::DomainId;

pub(super) fn run<H: Host>(host: &mut H, pointer: u64) -> Result<u64, HypercallError> {
    let mut header: abi::Domctl = read_value(host, pointer)?;
    if !abi::INTERFACE_VERSIONS.contains(&header.interface_version) {
        return Err(HypercallError::AccessDenied);
    }
    if header.cmd != abi::GETDOMAININFO {
        return Err(HypercallError::NotPermitted);
    }
    let found = host
        .domain_from(DomainId(header.domain))
        .ok_or(HypercallError::NoDomain)?;
    if !host.permits(Right::Serve { target: found.id }) {
        return Err(HypercallError::NotPermitted);
    }
    let payload = pointer
        .checked_add(size_of::<abi::Domctl>() as u64)
        .ok_or(HypercallError::BadPointer)?;
    let _: abi::GetDomainInfo = read_for_update(host, payload)?;
    header.domain = found.id.0;
    write_value(host, pointer, &header)?;
    write_value(host, payload, &answer(&found))?;
    Ok(0)
}

fn answer(domain: &DomainInfo) -> abi::GetDomainInfo {
    let mut flags = abi::GetDomainInfo::FLAG_HVM | abi::GetDomainInfo::FLAG_HAP;
    flags |= match (domain.shutdown, domain.running) {
        (Some(reason), _) => abi::GetDomainInfo::FLAG_SHUTDOWN | (reason as u32) << abi::GetDomainInfo::SHUTDOWN_SHIFT,
        (None, true) => abi::GetDomainInfo::FLAG_RUNNING,
        (None, false) => abi::GetDomainInfo::FLAG_BLOCKED,
    };
    if domain.paused {
        flags |= abi::GetDomainInfo::FLAG_PAUSED;
    }
    if domain.dying {
        flags |= abi::GetDomainInfo::FLAG_DYING;
    }
    // Backends take these off again to find the RAM (xen-vhost-frontend).
    let pages = domain.ram_pages.saturating_add(abi::GetDomainInfo::MAGIC_PAGES);
    abi::GetDomainInfo {
        domain: domain.id.0,
        flags,
        tot_pages: pages,
        max_pages: pages,
        shared_info_frame: u64::MAX,
        cpu_time: domain.cpu_time,
        nr_online_vcpus: domain.online_vcpus.into(),
        max_vcpu_id: u32::from(domain.vcpus.saturating_sub(1)),
        handle: domain.handle,
        gpaddr_bits: domain.address_bits,
        gic_version: if domain.gic_version == 3 { 2 } else { 1 },
        nr_spis: domain.spis,
        ..abi::GetDomainInfo::default()
    }
}
