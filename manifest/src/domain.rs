//! One domain: Xen's `xen,domain` node and the `portunus,*` properties beside it.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::affinity::{self, PcpuSet};
use crate::control;
use crate::devices::{DeviceConfig, MemoryAccess};
use crate::error::{ManifestError, Reason};
use crate::host::Host;
use crate::layout::Layout;
use crate::lifecycle::{self, OnShutdown, RestartLimit};
use crate::modules::{self, ModuleReader, Modules};
use crate::notice::Notices;
use crate::passthrough::{self, Passthrough};
use crate::rtc;
use crate::shared_memory::{self, SharedRegion};
use crate::tree::Node;
use portunus_base::ids::{DomainId, MAX_VCPUS, PAGE_SIZE};
use portunus_base::range::{IpaRange, PaRange};

/// The share of a domain whose manifest names none.
pub const DEFAULT_SHARE: u32 = 100;
/// The largest share: keeps the scheduler's arithmetic in 32 bits.
pub const MAX_SHARE: u32 = 10_000;
/// Grant frames of a domain when the manifest says nothing (Xen's default).
const DEFAULT_GRANT_FRAMES: u32 = 64;
/// The grant window holds this many frames (16 MiB of 4 KiB; xen-abi arm layout).
const MAX_GRANT_FRAMES: u32 = 4096;
/// Maptrack frames of a domain when the manifest says nothing (Xen's default).
const DEFAULT_MAPTRACK_FRAMES: u32 = 1024;
/// More maptrack frames than any domain can use.
const MAX_MAPTRACK_FRAMES: u32 = 1 << 16;
/// SPIs that a GIC can have: INTIDs 32 to 1019, in steps of 32 up to 988.
const MAX_SPIS: u32 = 988;

/// RAM of a domain at most: half of 40 bits, so that its other windows have room.
const MAX_MEMORY: u64 = 1 << 39;
/// The property that limits a domain's stage-2 tables.
pub(crate) const PAGE_TABLE_POOL: &str = "xen,domain-p2m-mem-mb";

/// Bytes of tables that map `memory` bytes page by page, wherever the pages are: 8 a page, and room for upper levels.
pub(crate) const fn tables_to_map(memory: u64) -> u64 {
    (memory / 512).next_multiple_of(PAGE_SIZE) + 64 * KIB
}

/// The property that names a console which is no UART.
const CONSOLE: &str = "portunus,console";
/// The property that lets a domain use its console by hypercall.
const CONSOLE_IO: &str = "portunus,console-io";

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A domain's node before it is read.
#[derive(Copy, Clone, Debug)]
pub(crate) struct DomainNode<'t, 'a> {
    pub(crate) node: Node<'t, 'a>,
    pub(crate) id: DomainId,
    pub(crate) name: &'a str,
}

/// What a manifest says of one domain.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DomainConfig {
    /// Its number: domains count from 1 in the order of the tree.
    pub id: DomainId,
    /// Its name: the node's, without unit address.
    pub name: String,
    /// Path of its node.
    pub path: String,
    /// RAM in bytes, a multiple of 4 KiB.
    pub memory: u64,
    /// Host RAM set aside for it; empty: any.
    pub static_memory: Vec<PaRange>,
    /// Whether guest-physical addresses are the machine's.
    pub direct_map: bool,
    /// Its vCPUs, each with the pCPUs that it may run on; `None`: the scheduler chooses.
    pub vcpus: Vec<Option<PcpuSet>>,
    /// The share of a pCPU that each vCPU gets against others.
    pub share: u32,
    /// Kernel, ramdisk, command line.
    pub modules: Modules,
    /// Whether it has an emulated UART.
    pub vpl011: bool,
    /// Whether it has a PV console.
    pub pv_console: bool,
    /// Whether it uses its console by hypercall.
    pub console_io: bool,
    /// Whether it has an emulated real-time clock.
    pub rtc: bool,
    /// SPIs that its GIC has at least; the layout raises it to what its devices need.
    pub spis: u32,
    /// What an access answers that nothing serves.
    pub unmapped: UnmappedAccess,
    /// Whether its tree has a `/hypervisor` node.
    pub hypervisor_node: bool,
    /// Bytes for stage-2 tables and mappings of others' memory.
    pub page_table_pool: u64,
    /// Grant-table limits.
    pub grants: GrantLimits,
    /// Whether it may own devices that reach all memory, which makes it as trusted as EL2.
    pub dma_trusted: bool,
    /// What follows when it crashes.
    pub on_crash: OnShutdown,
    /// What follows when it asks for a restart.
    pub on_reboot: OnShutdown,
    /// What follows when its watchdog fires.
    pub on_watchdog: OnShutdown,
    /// How often it may start again; `None`: as often as it likes.
    pub restart_limit: Option<RestartLimit>,
    /// The domains that it may look at, pause, restart and stop.
    pub controls: Vec<DomainId>,
    /// Devices of the machine that are its own.
    pub passthrough: Passthrough,
    /// Memory that it shares with others from the start.
    pub shared_memory: Vec<SharedRegion>,
    /// Devices that other domains serve to it.
    pub devices: Vec<DeviceConfig>,
    /// Where everything is in its guest-physical map.
    pub layout: Layout,
}

/// What an access answers that no device and no RAM serves.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum UnmappedAccess {
    /// A data abort into the guest.
    Abort,
    /// Reads give ones, writes have no effect.
    Ones,
}

/// Limits on a domain's use of grants.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct GrantLimits {
    /// Frames of its grant table.
    pub frames: u32,
    /// Frames that track what it mapped; 0: it can map nothing.
    pub maptrack_frames: u32,
}

impl DomainConfig {
    /// The number of its vCPUs, 1 to 8.
    pub fn vcpu_count(&self) -> u8 {
        self.vcpus.len() as u8
    }

    /// Whether a device of it is served with that access to its memory.
    pub fn has_access(&self, access: MemoryAccess) -> bool {
        self.devices.iter().any(|device| device.memory_access == access)
    }

    /// Parts of its RAM that its kernel, ramdisk and device tree stay out of.
    pub fn windows(&self) -> impl Iterator<Item = IpaRange> {
        self.devices.iter().filter_map(|device| device.window)
    }
}

/// Properties that other files read, or that the node has for its children.
const READ_ELSEWHERE: [&str; 5] = [
    "compatible",
    "#address-cells",
    "#size-cells",
    "phandle",
    "linux,phandle",
];
/// Properties that [`parse`] reads.
const READ: [&str; 25] = [
    "memory",
    "cpus",
    "vpl011",
    CONSOLE,
    CONSOLE_IO,
    "direct-map",
    "xen,static-mem",
    "nr_spis",
    "trap-unmapped-accesses",
    "xen,enhanced",
    "passthrough",
    "capabilities",
    "xen,domain-p2m-mem-mb",
    "max_grant_version",
    "max_grant_frames",
    "max_maptrack_frames",
    "portunus,dma-trusted",
    "portunus,share",
    rtc::RTC,
    lifecycle::ON_CRASH,
    lifecycle::ON_REBOOT,
    lifecycle::ON_WATCHDOG,
    lifecycle::RESTART_LIMIT,
    control::CONTROL,
    "xen,sci_type",
];

/// Reads a domain, without what other domains or the machine have a say in: the devices that are served to it, whom it
/// controls, whether it has a clock, its layout.
pub(crate) fn parse(
    domain: &DomainNode<'_, '_>,
    host: &Host,
    modules: &dyn ModuleReader,
    notices: &mut Notices,
) -> Result<DomainConfig, ManifestError> {
    let node = domain.node;
    refuse_what_isolates(node, notices)?;

    let vcpus = vcpus(node)?;
    let memory = memory(node, host)?;
    let direct_map = node.has("direct-map");
    let dma_trusted = node.has("portunus,dma-trusted");
    let found = modules::parse(node, host, notices)?;
    let passthrough = match found.device_tree {
        None => Passthrough::default(),
        Some(module) => match modules.read(module.range) {
            Some(bytes) => passthrough::parse(node, &bytes, direct_map, dma_trusted)?,
            None => {
                notices.ignored(node, "multiboot,device-tree", "the module can't be read here");
                Passthrough {
                    unread: true,
                    ..Passthrough::default()
                }
            }
        },
    };
    if node.property("passthrough").is_some() {
        match node.string("passthrough")? {
            Some("disabled") => {}
            Some("enabled") => notices.ignored(node, "passthrough", "no IOMMU is used"),
            Some(other) => return Err(node.error("passthrough", Reason::UnknownText(other.to_string()))),
            None => {}
        }
    }

    Ok(DomainConfig {
        id: domain.id,
        name: domain.name.to_string(),
        path: node.path(),
        memory,
        static_memory: static_memory(node, host, memory)?,
        direct_map,
        share: share(node)?,
        vpl011: node.has("vpl011"),
        pv_console: pv_console(node)?,
        console_io: node.has(CONSOLE_IO),
        rtc: false,
        spis: limited(node, "nr_spis", MAX_SPIS)?.unwrap_or(0),
        unmapped: match node.u32("trap-unmapped-accesses")? {
            None | Some(1) => UnmappedAccess::Abort,
            Some(0) => UnmappedAccess::Ones,
            Some(other) => return Err(node.error("trap-unmapped-accesses", Reason::UnknownNumber(other.into()))),
        },
        hypervisor_node: enhanced(node, notices)?,
        page_table_pool: page_table_pool(node, host, vcpus, memory)?,
        grants: GrantLimits {
            frames: limited(node, "max_grant_frames", MAX_GRANT_FRAMES)?.unwrap_or(DEFAULT_GRANT_FRAMES),
            maptrack_frames: limited(node, "max_maptrack_frames", MAX_MAPTRACK_FRAMES)?
                .unwrap_or(DEFAULT_MAPTRACK_FRAMES),
        },
        dma_trusted,
        on_crash: lifecycle::on_shutdown(node, lifecycle::ON_CRASH, OnShutdown::Stop)?,
        on_reboot: lifecycle::on_shutdown(node, lifecycle::ON_REBOOT, OnShutdown::Restart)?,
        on_watchdog: lifecycle::on_shutdown(node, lifecycle::ON_WATCHDOG, OnShutdown::Restart)?,
        restart_limit: lifecycle::restart_limit(node)?,
        controls: Vec::new(),
        vcpus: affinity::parse(node, vcpus, host)?,
        modules: found,
        passthrough,
        shared_memory: shared_memory::parse(node, host, direct_map)?,
        devices: Vec::new(),
        layout: Layout::default(),
    })
}

/// Refuses what Portunus does not have and whose absence would weaken isolation; notes what is harmless to leave out.
fn refuse_what_isolates(node: Node<'_, '_>, notices: &mut Notices) -> Result<(), ManifestError> {
    for cells in ["#address-cells", "#size-cells"] {
        if node.u32(cells)?.is_none() {
            return Err(node.error(cells, Reason::Missing));
        }
    }
    for (name, _) in node.properties() {
        let unsupported = |what| Err(node.error(&name, Reason::Unsupported(what)));
        match name.as_str() {
            "llc-colors" => return unsupported("cache colouring"),
            "domain-cpupool" => return unsupported("CPU pools; pin vCPUs by xen,vcpu nodes instead"),
            "sve" if node.u32("sve")? != Some(0) => {
                notices.ignored(node, "sve", "guests see no SVE");
            }
            "sve" => {}
            "v8r_el1_msa" if node.string("v8r_el1_msa")? != Some("mmu") => {
                return unsupported("a domain without MMU");
            }
            "v8r_el1_msa" => {}
            "xen,sci_type" if node.string("xen,sci_type")? != Some("none") => {
                return unsupported("calls to system control firmware");
            }
            "max_grant_version" => match node.u32("max_grant_version")? {
                Some(1) => {}
                Some(2) => return unsupported("grant tables of version 2"),
                other => {
                    return Err(node.error(&name, Reason::UnknownNumber(other.unwrap_or_default().into())));
                }
            },
            "capabilities" => {
                let bits = node.u32("capabilities")?.unwrap_or_default();
                if bits & !7 != 0 {
                    return Err(node.error(&name, Reason::UnknownNumber(bits.into())));
                }
                if bits != 0 {
                    notices.ignored(
                        node,
                        "capabilities",
                        "rights come from declared devices and channels alone",
                    );
                }
            }
            known if READ.contains(&known) || READ_ELSEWHERE.contains(&known) => {}
            other if other.starts_with("xen,") || other.starts_with("portunus,") => {
                return unsupported("an unknown property");
            }
            _ => notices.ignored(node, &name, "an unknown property"),
        }
    }
    for child in node.children() {
        if child.name().starts_with("portunus,") && child.name() != "portunus,devices" {
            return Err(child.error("", Reason::Unsupported("an unknown node")));
        }
    }
    Ok(())
}

fn vcpus(node: Node<'_, '_>) -> Result<u8, ManifestError> {
    match node.u32("cpus")? {
        None => Err(node.error("cpus", Reason::Missing)),
        Some(0) => Err(node.error("cpus", Reason::Zero)),
        Some(count) if count as usize > MAX_VCPUS => Err(node.error(
            "cpus",
            Reason::AboveLimit {
                found: count.into(),
                limit: MAX_VCPUS as u64,
            },
        )),
        Some(count) => Ok(count as u8),
    }
}

/// `memory` in bytes: KiB in two cells, as Xen has it, or in one.
fn memory(node: Node<'_, '_>, host: &Host) -> Result<u64, ManifestError> {
    let cells = node
        .cells("memory")?
        .ok_or_else(|| node.error("memory", Reason::Missing))?;
    let kib = match *cells.as_slice() {
        [high, low] => u64::from(high) << 32 | u64::from(low),
        [low] => low.into(),
        _ => return Err(node.error("memory", Reason::Length(cells.len().saturating_mul(4)))),
    };
    if kib == 0 {
        return Err(node.error("memory", Reason::Zero));
    }
    let limit = host
        .memory
        .iter()
        .fold(0_u64, |sum, bank| sum.saturating_add(bank.size))
        / KIB;
    let limit = limit.min(MAX_MEMORY / KIB);
    if kib > limit {
        return Err(node.error("memory", Reason::AboveLimit { found: kib, limit }));
    }
    let bytes = kib * KIB;
    if !bytes.is_multiple_of(PAGE_SIZE) {
        return Err(node.error(
            "memory",
            Reason::Misaligned {
                value: bytes,
                alignment: PAGE_SIZE,
            },
        ));
    }
    Ok(bytes)
}

/// `xen,static-mem`: rows of the *parent's* cells.
fn static_memory(node: Node<'_, '_>, host: &Host, memory: u64) -> Result<Vec<PaRange>, ManifestError> {
    let name = "xen,static-mem";
    if !node.has(name) {
        return Ok(Vec::new());
    }
    let widths = node
        .parent()
        .map_or([2, 1], |parent| [parent.address_cells(), parent.size_cells()]);
    let rows = node.rows(name, widths)?;
    let mut ranges: Vec<PaRange> = Vec::new();
    for [start, size] in rows {
        let range = PaRange::new(start, size);
        if range.is_empty() {
            return Err(node.error(name, Reason::Zero));
        }
        if !range.fits() {
            return Err(node.error(name, Reason::Overflow(range)));
        }
        if !range.is_aligned(PAGE_SIZE) {
            return Err(node.error(
                name,
                Reason::Misaligned {
                    value: start | size,
                    alignment: PAGE_SIZE,
                },
            ));
        }
        if !host.is_memory(range) {
            return Err(node.error(name, Reason::NotMemory(range)));
        }
        ranges.push(range);
    }
    let found = ranges.iter().fold(0_u64, |sum, range| sum.saturating_add(range.size));
    if found != memory {
        return Err(node.error(
            name,
            Reason::Sum {
                found: found / KIB,
                memory: memory / KIB,
            },
        ));
    }
    Ok(ranges)
}

/// Whether it has a PV console. There is one place for it on the machine's console, so a UART beside it is refused.
fn pv_console(node: Node<'_, '_>) -> Result<bool, ManifestError> {
    match node.string(CONSOLE)? {
        None => Ok(false),
        Some("pv") if node.has("vpl011") => Err(node.error(CONSOLE, Reason::Unsupported("a PV console beside vpl011"))),
        Some("pv") => Ok(true),
        Some(other) => Err(node.error(CONSOLE, Reason::UnknownText(other.to_string()))),
    }
}

/// Whether `xen,enhanced` asks for a `/hypervisor` node.
fn enhanced(node: Node<'_, '_>, notices: &mut Notices) -> Result<bool, ManifestError> {
    match node.property("xen,enhanced") {
        None => return Ok(false),
        Some([]) => {
            notices.ignored(node, "xen,enhanced", "there is no xenstore; the rest is there");
            return Ok(true);
        }
        Some(_) => {}
    }
    match node.string("xen,enhanced")? {
        Some("disabled") => Ok(false),
        Some("no-xenstore") => Ok(true),
        Some("enabled" | "legacy" | "") => {
            notices.ignored(node, "xen,enhanced", "there is no xenstore; the rest is there");
            Ok(true)
        }
        other => Err(node.error(
            "xen,enhanced",
            Reason::UnknownText(other.unwrap_or_default().to_string()),
        )),
    }
}

fn page_table_pool(node: Node<'_, '_>, host: &Host, vcpus: u8, memory: u64) -> Result<u64, ManifestError> {
    let name = PAGE_TABLE_POOL;
    let Some(found) = node.u32(name)? else {
        // Xen's default: 1 MiB a vCPU, 4 KiB a MiB of RAM, 512 KiB for extended regions.
        return Ok(u64::from(vcpus) * MIB + memory / MIB * 4 * KIB + 512 * KIB);
    };
    let limit = host
        .memory
        .iter()
        .fold(0_u64, |sum, bank| sum.saturating_add(bank.size))
        / MIB;
    match u64::from(found) {
        0 => Err(node.error(name, Reason::Zero)),
        found if found > limit => Err(node.error(name, Reason::AboveLimit { found, limit })),
        found => Ok(found * MIB),
    }
}

fn share(node: Node<'_, '_>) -> Result<u32, ManifestError> {
    match limited(node, "portunus,share", MAX_SHARE)? {
        Some(0) => Err(node.error("portunus,share", Reason::Zero)),
        share => Ok(share.unwrap_or(DEFAULT_SHARE)),
    }
}

fn limited(node: Node<'_, '_>, name: &str, limit: u32) -> Result<Option<u32>, ManifestError> {
    match node.u32(name)? {
        Some(found) if found > limit => Err(node.error(
            name,
            Reason::AboveLimit {
                found: found.into(),
                limit: limit.into(),
            },
        )),
        value => Ok(value),
    }
}
