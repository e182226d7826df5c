//! What must hold beyond one node: the properties of `/chosen`, and who owns what of the machine.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::error::{ManifestError, Reason};
use crate::host::{Gic, Host};
use crate::modules::is_module;
use crate::notice::Notices;
use crate::tree::Node;
use crate::{DomainConfig, Manifest};
use portunus_base::range::PaRange;

/// Names on the console are coloured.
pub(crate) const COLOUR: &str = "portunus,colour";
/// Properties of `/chosen` that are Xen's and have no effect here.
const IGNORED: [(&str, &str); 4] = [
    ("xen,xen-bootargs", "Portunus has no command line"),
    ("xen,dom0-bootargs", "there is no dom0"),
    ("xen,static-heap", "the heap is taken from any RAM"),
    ("xen,uefi-cfg-load", "modules come from the device tree alone"),
];

/// Who owns what is reserved on the machine.
const RESERVED: &str = "firmware or the hypervisor";

/// Looks at what `/chosen` says beside the domains.
pub(crate) fn chosen(chosen: Node<'_, '_>, notices: &mut Notices) -> Result<(), ManifestError> {
    for (name, _) in chosen.properties() {
        if let Some((_, why)) = IGNORED.iter().find(|(ignored, _)| *ignored == name) {
            notices.ignored(chosen, &name, why);
        } else if name != COLOUR && (name.starts_with("xen,") || name.starts_with("portunus,")) {
            return Err(chosen.error(&name, Reason::Unsupported("an unknown property")));
        }
    }
    for node in chosen.children().filter(|node| !node.is_compatible("xen,domain")) {
        if node.is_compatible("xen,cpupool") {
            return Err(node.error(
                "compatible",
                Reason::Unsupported("CPU pools; pin vCPUs by xen,vcpu nodes instead"),
            ));
        }
        if node.is_compatible("xen,xsm-policy") {
            return Err(node.error("compatible", Reason::Unsupported("a security policy module")));
        }
        if node.is_compatible("xen,evtchn-v1") {
            return Err(node.error(
                "compatible",
                Reason::Unsupported("an event channel of a hardware domain"),
            ));
        }
        if node.is_compatible("xen,domain-shared-memory-v1") {
            return Err(node.error("compatible", Reason::Unsupported("shared memory of a hardware domain")));
        }
        if node.name().starts_with("portunus,") {
            return Err(node.error("", Reason::Unsupported("an unknown node")));
        }
        if is_module(node) {
            notices.ignored(node, "", "there is no dom0");
        }
    }
    Ok(())
}

/// Checks that no part of the machine is given to two owners.
pub(crate) fn across_domains(manifest: &Manifest, host: &Host) -> Result<(), ManifestError> {
    let mut memory: Vec<(PaRange, String)> = host
        .reserved
        .iter()
        .map(|range| (*range, RESERVED.to_string()))
        .collect();
    let mut modules = Vec::new();
    for domain in &manifest.domains {
        let own = &domain.modules;
        for module in [own.kernel, own.ramdisk, own.device_tree].into_iter().flatten() {
            // Domains may share a module.
            let range = module.range.pages();
            is_free(&memory, range).map_err(|reason| error(domain, "reg", reason))?;
            modules.push((range, format!("a module of {}", domain.name)));
        }
    }
    memory.append(&mut modules);
    for shared in &manifest.shared_memory {
        let Some(range) = shared.host else { continue };
        let named = manifest.domains.iter().flat_map(|domain| &domain.shared_memory);
        let path = named.filter(|region| region.id == shared.id).map(|region| &region.path);
        let path = path.map(|path| path.as_str()).next().unwrap_or("/chosen");
        is_free(&memory, range).map_err(|reason| ManifestError::new(path, "xen,shared-mem", reason))?;
        memory.push((range, format!("shared memory {}", shared.id)));
    }
    for domain in &manifest.domains {
        for range in &domain.static_memory {
            claim(&mut memory, *range, domain).map_err(|reason| error(domain, "xen,static-mem", reason))?;
        }
    }

    let mut registers = hypervisor_registers(host);
    let mut interrupts: Vec<(u32, String)> = Vec::new();
    if let Some(interrupt) = host.uart.as_ref().and_then(|uart| uart.interrupt) {
        interrupts.push((interrupt.id.0, "the console".to_string()));
    }
    for domain in &manifest.domains {
        for device in &domain.passthrough.devices {
            let fail = |property: &str, reason| ManifestError::new(&device.path, property, reason);
            for mapping in &device.mappings {
                if host.memory.iter().any(|bank| bank.overlaps(mapping.physical)) {
                    let taken = Reason::Taken {
                        range: mapping.physical,
                        owner: "RAM".to_string(),
                    };
                    return Err(fail("xen,reg", taken));
                }
                // Devices of one domain may share a page.
                let own = registers
                    .iter()
                    .any(|(other, owner)| *other == mapping.physical && *owner == domain.name);
                if !own {
                    claim(&mut registers, mapping.physical, domain).map_err(|reason| fail("xen,reg", reason))?;
                }
            }
            for interrupt in &device.interrupts {
                let number = interrupt.id.0;
                // Devices of one domain may share a line.
                if let Some((_, owner)) = interrupts
                    .iter()
                    .find(|(other, owner)| *other == number && *owner != domain.name)
                {
                    let taken = Reason::InterruptTaken {
                        interrupt: number,
                        owner: owner.clone(),
                    };
                    return Err(fail("interrupts", taken));
                }
                interrupts.push((number, domain.name.clone()));
            }
        }
    }
    Ok(())
}

/// Checks that no part of a range has an owner.
fn is_free(owned: &[(PaRange, String)], range: PaRange) -> Result<(), Reason> {
    match owned.iter().find(|(other, _)| other.overlaps(range)) {
        Some((_, owner)) => Err(Reason::Taken {
            range,
            owner: owner.clone(),
        }),
        None => Ok(()),
    }
}

/// Adds a range to those that have an owner.
fn claim(owned: &mut Vec<(PaRange, String)>, range: PaRange, domain: &DomainConfig) -> Result<(), Reason> {
    is_free(owned, range)?;
    owned.push((range, domain.name.clone()));
    Ok(())
}

/// Registers that the hypervisor itself drives.
fn hypervisor_registers(host: &Host) -> Vec<(PaRange, String)> {
    let mut owned = Vec::new();
    if let Some(uart) = &host.uart {
        owned.push((uart.registers.pages(), "the console".to_string()));
    }
    let mut gic = |range: PaRange| owned.push((range.pages(), "the interrupt controller".to_string()));
    match &host.gic {
        Gic::V2(frames) => {
            gic(frames.distributor);
            gic(frames.cpu_interface);
            gic(frames.hypervisor_interface);
            gic(frames.virtual_cpu_interface);
        }
        Gic::V3(frames) => {
            gic(frames.distributor);
            frames.redistributors.iter().copied().for_each(gic);
        }
    }
    owned
}

fn error(domain: &DomainConfig, property: &str, reason: Reason) -> ManifestError {
    ManifestError::new(&domain.path, property, reason)
}
