//! A manifest and the rights made from it as text: what will be built and who may do what, for a person to read before it runs.

use core::fmt;

use super::Policy;
use crate::manifest::Manifest;
use crate::manifest::devices::{DeviceConfig, Source};
use crate::manifest::domain::{DomainConfig, UnmappedAccess};
use crate::manifest::host::Host;
use crate::manifest::layout::VirtualGic;

/// Displays the machine, the domains, the rights and the notices, several lines.
#[derive(Copy, Clone, Debug)]
pub struct Report<'m> {
    /// The machine.
    pub host: &'m Host,
    /// The manifest.
    pub manifest: &'m Manifest,
    /// The rights made from it.
    pub policy: &'m Policy,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host;
        write!(f, "machine: {} CPUs, GICv{}, RAM", host.cpus.len(), host.gic.version())?;
        for bank in &host.memory {
            write!(f, " {bank}")?;
        }
        writeln!(f)?;
        if let Some(uart) = &host.uart {
            writeln!(f, "  console {}", uart.path)?;
        }
        for domain in &self.manifest.domains {
            writeln!(f)?;
            self.domain(f, domain)?;
        }
        if !self.manifest.channels.is_empty() || !self.manifest.shared_memory.is_empty() {
            writeln!(f)?;
        }
        for channel in &self.manifest.channels {
            let [first, second] = [channel.first, channel.second];
            let name = |domain| self.manifest.name_of(domain);
            let (from, to) = (name(first.domain), name(second.domain));
            writeln!(
                f,
                "event channel: {from} port {} <-> {to} port {}",
                first.port.0, second.port.0
            )?;
        }
        for shared in &self.manifest.shared_memory {
            write!(f, "shared memory {}: {} KiB", shared.id, shared.size / 1024)?;
            if let Some(range) = shared.host {
                write!(f, " at {range} of the machine")?;
            }
            let users = shared.users.iter();
            users
                .map(|(domain, range)| (self.manifest.name_of(*domain), range))
                .try_for_each(|(name, range)| write!(f, ", {name} at {range}"))?;
            writeln!(f)?;
        }
        writeln!(f)?;
        self.rights(f)?;
        for notice in &self.manifest.notices {
            writeln!(f, "note: {notice}")?;
        }
        Ok(())
    }
}

impl Report<'_> {
    fn domain(&self, f: &mut fmt::Formatter<'_>, domain: &DomainConfig) -> fmt::Result {
        let layout = &domain.layout;
        write!(
            f,
            "domain {} {}: {} vCPUs, {} KiB",
            domain.id.0,
            domain.name,
            domain.vcpus.len(),
            domain.memory / 1024
        )?;
        writeln!(f, ", share {}", domain.share)?;
        for (index, pcpus) in domain.vcpus.iter().enumerate() {
            if let Some(pcpus) = pcpus {
                write!(f, "  vCPU {index} on CPU")?;
                pcpus.iter().try_for_each(|pcpu| write!(f, " {}", pcpu.0))?;
                writeln!(f)?;
            }
        }
        if let Some(kernel) = domain.modules.kernel {
            write!(f, "  kernel at {}", kernel.range)?;
        }
        if let Some(ramdisk) = domain.modules.ramdisk {
            write!(f, ", ramdisk at {}", ramdisk.range)?;
        }
        writeln!(f)?;
        if let Some(bootargs) = &domain.modules.bootargs {
            writeln!(f, "  command line: {bootargs}")?;
        }
        if domain.direct_map {
            writeln!(f, "  direct-mapped")?;
        }
        for bank in &layout.memory {
            writeln!(f, "  RAM at {bank}")?;
        }
        for range in domain.static_memory.iter().filter(|_| !domain.direct_map) {
            writeln!(f, "  RAM taken from {range} of the machine")?;
        }
        let version = match layout.gic {
            VirtualGic::V2 { .. } => 2,
            VirtualGic::V3 { .. } => 3,
        };
        let [distributor, other] = layout.gic.frames();
        writeln!(f, "  GICv{version} at {distributor} and {other}, {} SPIs", layout.spis)?;
        if let Some(uart) = layout.uart {
            writeln!(f, "  UART at {}, INTID {}", uart.registers, uart.interrupt.0)?;
        }
        if let Some(rtc) = layout.rtc {
            write!(f, "  real-time clock at {}", rtc.registers)?;
            rtc.interrupt
                .map_or(Ok(()), |interrupt| write!(f, ", INTID {}", interrupt.0))?;
            writeln!(f)?;
        }
        if domain.hypervisor_node {
            write!(f, "  /hypervisor: grants at {}, mappings at", layout.grant_window)?;
            layout
                .extended_regions
                .iter()
                .try_for_each(|region| write!(f, " {region}"))?;
            writeln!(f)?;
        }
        if domain.unmapped == UnmappedAccess::Ones {
            writeln!(f, "  unserved addresses read as ones")?;
        }
        let (crash, reboot, watchdog) = (domain.on_crash, domain.on_reboot, domain.on_watchdog);
        write!(
            f,
            "  after a crash: {}, a reboot: {}, its watchdog: {}",
            crash.name(),
            reboot.name(),
            watchdog.name()
        )?;
        match domain.restart_limit {
            Some(limit) => writeln!(f, "; at most {} restarts in {} s", limit.count, limit.seconds)?,
            None => writeln!(f, "; no limit of restarts")?,
        }
        if domain.dma_trusted {
            writeln!(f, "  TRUSTED LIKE THE HYPERVISOR: its devices reach all memory")?;
        }
        for device in &domain.passthrough.devices {
            write!(f, "  owns {}", device.host_path.as_deref().unwrap_or(&device.path))?;
            device
                .mappings
                .iter()
                .try_for_each(|mapping| write!(f, " {}", mapping.physical))?;
            device
                .interrupts
                .iter()
                .try_for_each(|interrupt| write!(f, " INTID {}", interrupt.id.0))?;
            writeln!(f)?;
        }
        domain.devices.iter().try_for_each(|device| self.device(f, device))
    }

    fn device(&self, f: &mut fmt::Formatter<'_>, device: &DeviceConfig) -> fmt::Result {
        write!(f, "  device {}: {}", device.name, device.kind)?;
        let backend = self.manifest.name_of(device.backend);
        write!(
            f,
            " at {}, INTID {}, served by {backend}",
            device.range, device.interrupt.id.0
        )?;
        match &device.source {
            Source::None => {}
            Source::Device { path, partition: None } => write!(f, " from {path}")?,
            Source::Device {
                path,
                partition: Some(number),
            } => write!(f, " from partition {number} of {path}")?,
            Source::RamDisk { mib } => write!(f, " from a RAM disk of {mib} MiB")?,
        }
        write!(f, ", {} queues", device.queues)?;
        match device.window {
            Some(window) => write!(f, ", memory by a window at {window}")?,
            None => write!(f, ", memory: {}", device.memory_access.name())?,
        }
        if device.map_quota != 0 {
            write!(f, ", at most {} pages mapped", device.map_quota)?;
        }
        if device.read_only {
            write!(f, ", read-only")?;
        }
        if device.accel {
            write!(f, ", accelerated")?;
        }
        let (timeout, attach) = (device.timeout_ms, device.attach_timeout_ms);
        writeln!(
            f,
            "; answer within {timeout} ms, attach within {attach} ms, then {}",
            device.on_failure.name()
        )
    }

    fn rights(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "rights (all else is denied):")?;
        let mut none = true;
        for domain in &self.manifest.domains {
            for (permission, object) in self.policy.rights_of(domain.id) {
                none = false;
                let object = self.manifest.name_of(object);
                writeln!(f, "  {} may {permission} of {object}", domain.name)?;
            }
        }
        if none { writeln!(f, "  none") } else { Ok(()) }
    }
}
