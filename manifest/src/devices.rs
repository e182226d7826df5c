//! Devices that one domain serves to another: the `portunus,devices` node.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::DomainConfig;
use crate::domain::DomainNode;
use crate::error::{ManifestError, Reason};
use crate::layout::DeviceWindow;
use crate::name_of;
use crate::notice::Notices;
use crate::tree::{Interrupt, Node, Trigger, decode_gic_interrupt};
use portunus_base::ids::{DomainId, PAGE_SIZE};
use portunus_base::range::IpaRange;

/// Queues that a device may have.
const MAX_QUEUES: u32 = 64;
/// The largest RAM disk in MiB: bounds what a backend allocates.
const MAX_RAM_DISK: u32 = 1 << 20;
/// A window has whole MiB.
pub(crate) const MIB: u64 = 1 << 20;
/// MiB of a window when the manifest says nothing: the rings and the data in flight of one device.
const DEFAULT_WINDOW: u32 = 8;
/// MiB of a window at most.
const MAX_WINDOW: u32 = 1024;
/// How many pages a backend may map at once.
const MAP_QUOTA: &str = "portunus,map-quota";
/// How large the window of a device is.
pub(crate) const WINDOW_SIZE: &str = "portunus,window-size";
/// Milliseconds of backend-runnable time for an answer (design: failure policy).
pub const DEFAULT_TIMEOUT_MS: u32 = 5_000;
/// Milliseconds to wait for a server (design: failure policy).
pub const DEFAULT_ATTACH_TIMEOUT_MS: u32 = 60_000;

/// A virtual device of a guest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DeviceConfig {
    /// The node's name.
    pub name: String,
    /// Path of its node.
    pub path: String,
    /// What it is.
    pub kind: DeviceKind,
    /// The domain that serves it.
    pub backend: DomainId,
    /// What it is made of.
    pub source: Source,
    /// Transports in order of preference.
    pub transports: Vec<Transport>,
    /// What the backend may reach of the guest's memory.
    pub memory_access: MemoryAccess,
    /// With [`MemoryAccess::Window`]: the part of the guest's RAM that all requests and data are in.
    pub window: Option<IpaRange>,
    /// Pages of the guest's RAM that the backend may map at once for it.
    pub map_quota: u64,
    /// Whether the guest may only read it.
    pub read_only: bool,
    /// The number of its queues.
    pub queues: u32,
    /// Whether its register page is served by doorbell, shadow and ack ranges where the backend can.
    pub accel: bool,
    /// Milliseconds of backend-runnable time for an answer; 0: no limit.
    pub timeout_ms: u32,
    /// Milliseconds to wait for a server; 0: for ever.
    pub attach_timeout_ms: u32,
    /// What a failed access answers.
    pub on_failure: OnFailure,
    /// Its registers in the guest's physical map.
    pub range: IpaRange,
    /// Its interrupt in the guest.
    pub interrupt: Interrupt,
}

/// A virtio device type (VirtIO 1.3, section 5).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct DeviceKind(pub u32);

impl DeviceKind {
    /// A network card.
    pub const NET: Self = Self(1);
    /// A disk.
    pub const BLOCK: Self = Self(2);
    /// A console.
    pub const CONSOLE: Self = Self(3);
    /// A source of entropy.
    pub const RNG: Self = Self(4);

    /// The word for it in a manifest; `None`: only a number names it.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::NET => Some("net"),
            Self::BLOCK => Some("block"),
            Self::CONSOLE => Some("console"),
            Self::RNG => Some("rng"),
            _ => None,
        }
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "virtio type {}", self.0),
        }
    }
}

/// What a device is made of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// Nothing outside the backend.
    None,
    /// A device of the machine that the backend owns.
    Device {
        /// Path of its node in the backend's own tree.
        path: String,
        /// A partition of it, from 1; `None`: all.
        partition: Option<u32>,
    },
    /// RAM of the backend.
    RamDisk {
        /// Its size in MiB.
        mib: u32,
    },
}

/// How requests travel.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Transport {
    /// virtio-mmio registers.
    Mmio,
    /// Argo messages.
    Argo,
}

impl Transport {
    /// The word for it in a manifest.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mmio => "mmio",
            Self::Argo => "argo",
        }
    }
}

/// What a guest gets when its server does not answer (manifest: `on-failure`).
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
pub enum OnFailure {
    /// It waits for another server, up to the attach limit, then all ones.
    #[default]
    Wait,
    /// Reads give all ones, writes are dropped.
    Ones,
    /// An external abort.
    Abort,
}

impl OnFailure {
    /// The word for it in a manifest.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Ones => "ones",
            Self::Abort => "abort",
        }
    }
}

/// What a backend may reach of a guest's memory.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum MemoryAccess {
    /// All of its RAM.
    All,
    /// A range of its RAM, which the guest's driver copies through.
    Window,
    /// The pages that the guest grants, one by one.
    Grants,
    /// Nothing.
    None,
}

impl MemoryAccess {
    /// The word for it in a manifest.
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Window => "window",
            Self::Grants => "grants",
            Self::None => "none",
        }
    }
}

/// Properties of a device node.
const KNOWN: [&str; 19] = [
    "portunus,type",
    "portunus,backend",
    "portunus,source",
    "portunus,partition",
    "portunus,ram-disk",
    "portunus,transport",
    "portunus,memory-access",
    WINDOW_SIZE,
    MAP_QUOTA,
    "portunus,queues",
    "portunus,accel",
    "read-only",
    "timeout-ms",
    "attach-timeout-ms",
    "on-failure",
    "reg",
    "interrupts",
    "phandle",
    "linux,phandle",
];

/// Reads the devices of `domain`.
pub(crate) fn parse(
    domain: &DomainNode<'_, '_>,
    nodes: &[DomainNode<'_, '_>],
    domains: &[DomainConfig],
    notices: &mut Notices,
) -> Result<Vec<DeviceConfig>, ManifestError> {
    let Some(parent) = domain.node.children().find(|node| node.name() == "portunus,devices") else {
        return Ok(Vec::new());
    };
    let mut devices: Vec<DeviceConfig> = Vec::new();
    for node in parent.children() {
        for (name, _) in node.properties().filter(|(name, _)| !KNOWN.contains(&name.as_str())) {
            if name.starts_with("portunus,") {
                return Err(node.error(&name, Reason::Unsupported("an unknown property")));
            }
            notices.ignored(node, &name, "an unknown property");
        }
        if devices.iter().any(|other| other.name == node.name()) {
            return Err(node.error("", Reason::Repeated(node.name().to_string())));
        }
        devices.push(device(domain, node, nodes, domains, notices)?);
    }
    Ok(devices)
}

fn device(
    domain: &DomainNode<'_, '_>,
    node: Node<'_, '_>,
    nodes: &[DomainNode<'_, '_>],
    domains: &[DomainConfig],
    notices: &mut Notices,
) -> Result<DeviceConfig, ManifestError> {
    let backend = backend(domain, node, nodes)?;
    let accel = node.has("portunus,accel");
    let memory_access = memory_access(node)?;
    let window = window_size(node, memory_access)?;
    let memory = domains.iter().find(|config| config.id == domain.id);
    let memory = memory.map_or(0, |config| config.memory);
    let trigger = if accel { Trigger::LevelHigh } else { Trigger::EdgeRising };
    Ok(DeviceConfig {
        name: node.name().to_string(),
        path: node.path(),
        kind: kind(node)?,
        backend,
        source: source(node, backend, domains)?,
        transports: transports(node, notices)?,
        memory_access,
        window: window.map(|size| IpaRange::new(0, size)),
        map_quota: map_quota(node, memory_access, window.unwrap_or(memory))?,
        read_only: node.has("read-only"),
        queues: match node.u32("portunus,queues")? {
            Some(0) => return Err(node.error("portunus,queues", Reason::Zero)),
            Some(found) if found > MAX_QUEUES => {
                let reason = Reason::AboveLimit {
                    found: found.into(),
                    limit: MAX_QUEUES.into(),
                };
                return Err(node.error("portunus,queues", reason));
            }
            found => found.unwrap_or(1),
        },
        accel,
        timeout_ms: node.u32("timeout-ms")?.unwrap_or(DEFAULT_TIMEOUT_MS),
        attach_timeout_ms: node.u32("attach-timeout-ms")?.unwrap_or(DEFAULT_ATTACH_TIMEOUT_MS),
        on_failure: match node.string("on-failure")? {
            None | Some("wait") => OnFailure::Wait,
            Some("ones") => OnFailure::Ones,
            Some("abort") => OnFailure::Abort,
            Some(other) => return Err(node.error("on-failure", Reason::UnknownText(other.to_string()))),
        },
        range: IpaRange::default(),
        interrupt: Interrupt {
            id: portunus_base::ids::IntId::SPURIOUS,
            trigger,
        },
    })
}

/// `portunus,type`: a word or a number.
fn kind(node: Node<'_, '_>) -> Result<DeviceKind, ManifestError> {
    let name = "portunus,type";
    let kinds = [DeviceKind::NET, DeviceKind::BLOCK, DeviceKind::CONSOLE, DeviceKind::RNG];
    // Four bytes with a NUL at the end are a word of three letters; no number of a device type looks like one.
    if let Ok(Some(word)) = node.string(name)
        && !word.is_empty()
    {
        let found = kinds.into_iter().find(|kind| kind.name() == Some(word));
        return found.ok_or_else(|| node.error(name, Reason::UnknownText(word.to_string())));
    }
    match node.u32(name)? {
        None => Err(node.error(name, Reason::Missing)),
        Some(0) => Err(node.error(name, Reason::Zero)),
        Some(number) => Ok(DeviceKind(number)),
    }
}

/// `portunus,backend`: a phandle, or a domain's name.
fn backend(
    domain: &DomainNode<'_, '_>,
    node: Node<'_, '_>,
    nodes: &[DomainNode<'_, '_>],
) -> Result<DomainId, ManifestError> {
    let name = "portunus,backend";
    if !node.has(name) {
        return Err(node.error(name, Reason::Missing));
    }
    let text = node.string(name).ok().flatten();
    let by_name = text.and_then(|text| nodes.iter().find(|other| other.name == text));
    let by_phandle = || match node.u32(name) {
        Ok(Some(phandle)) => node.tree().by_phandle(phandle),
        _ => None,
    };
    let found = by_name.or_else(|| by_phandle().and_then(|target| nodes.iter().find(|other| other.node.is(target))));
    match found {
        Some(other) if other.id != domain.id => Ok(other.id),
        Some(own) => Err(node.error(name, Reason::NoSuchDomain(own.name.to_string()))),
        None => {
            let phandle = || {
                node.u32(name)
                    .ok()
                    .flatten()
                    .map(|phandle| alloc::format!("{phandle:#x}"))
            };
            let said = text
                .map(ToString::to_string)
                .filter(|text| !text.is_empty())
                .or_else(phandle);
            Err(node.error(name, Reason::NoSuchDomain(said.unwrap_or_default())))
        }
    }
}

/// `portunus,source` or `portunus,ram-disk`.
fn source(node: Node<'_, '_>, backend: DomainId, domains: &[DomainConfig]) -> Result<Source, ManifestError> {
    let (name, ram_disk) = ("portunus,source", "portunus,ram-disk");
    let partition = node.u32("portunus,partition")?;
    if partition == Some(0) {
        return Err(node.error("portunus,partition", Reason::Zero));
    }
    if !node.has(name) {
        if partition.is_some() {
            return Err(node.error(name, Reason::Missing));
        }
        return match node.u32(ram_disk)? {
            None => Ok(Source::None),
            Some(0) => Err(node.error(ram_disk, Reason::Zero)),
            Some(mib) if mib > MAX_RAM_DISK => Err(node.error(
                ram_disk,
                Reason::AboveLimit {
                    found: mib.into(),
                    limit: MAX_RAM_DISK.into(),
                },
            )),
            Some(mib) => Ok(Source::RamDisk { mib }),
        };
    }
    if node.has(ram_disk) {
        return Err(node.error(ram_disk, Reason::Repeated("the source".to_string())));
    }
    let text = node.string(name).ok().flatten().filter(|text| text.starts_with('/'));
    let said = match text {
        Some(path) => node.tree().find(path).map_or_else(|| path.to_string(), Node::path),
        None => {
            let phandle = node.u32(name)?.unwrap_or_default();
            node.tree()
                .by_phandle(phandle)
                .ok_or_else(|| node.error(name, Reason::Phandle(phandle)))?
                .path()
        }
    };
    let Some(owner) = domains.iter().find(|domain| domain.id == backend) else {
        return Err(node.error(name, Reason::NoSuchDomain(name_of(domains, backend))));
    };
    if owner.passthrough.unread {
        return Ok(Source::Device { path: said, partition });
    }
    let found = owner
        .passthrough
        .by_host_path(&said)
        .or_else(|| owner.passthrough.by_path(&said));
    match found {
        Some(device) => Ok(Source::Device {
            path: device.path.clone(),
            partition,
        }),
        None => Err(node.error(name, Reason::NotPassedThrough(said))),
    }
}

fn transports(node: Node<'_, '_>, notices: &mut Notices) -> Result<Vec<Transport>, ManifestError> {
    let name = "portunus,transport";
    if !node.has(name) {
        return Ok(alloc::vec![Transport::Mmio]);
    }
    let mut transports = Vec::new();
    for word in node.strings(name) {
        match word {
            "mmio" => transports.push(Transport::Mmio),
            "argo" => notices.ignored(node, name, "Argo is not there; the next transport is used"),
            other => return Err(node.error(name, Reason::UnknownText(other.to_string()))),
        }
    }
    if transports.is_empty() {
        return Err(node.error(name, Reason::Unsupported("no transport but mmio")));
    }
    transports.dedup();
    Ok(transports)
}

/// `portunus,memory-access`, which has no default: what a backend may reach is said aloud.
fn memory_access(node: Node<'_, '_>) -> Result<MemoryAccess, ManifestError> {
    let name = "portunus,memory-access";
    match node.string(name)? {
        None => Err(node.error(name, Reason::Missing)),
        Some("all") => Ok(MemoryAccess::All),
        Some("none") => Ok(MemoryAccess::None),
        Some("window") => Ok(MemoryAccess::Window),
        Some("grants") => Ok(MemoryAccess::Grants),
        Some(other) => Err(node.error(name, Reason::UnknownText(other.to_string()))),
    }
}

/// Bytes of the window, if there is one; `portunus,window-size` is in MiB.
fn window_size(node: Node<'_, '_>, access: MemoryAccess) -> Result<Option<u64>, ManifestError> {
    let found = node.u32(WINDOW_SIZE)?;
    if access != MemoryAccess::Window {
        return match found {
            None => Ok(None),
            Some(_) => Err(node.error(WINDOW_SIZE, Reason::Unsupported("a size without a window"))),
        };
    }
    match found.unwrap_or(DEFAULT_WINDOW) {
        0 => Err(node.error(WINDOW_SIZE, Reason::Zero)),
        mib if mib > MAX_WINDOW => Err(node.error(
            WINDOW_SIZE,
            Reason::AboveLimit {
                found: mib.into(),
                limit: MAX_WINDOW.into(),
            },
        )),
        mib => Ok(Some(u64::from(mib) * MIB)),
    }
}

/// `portunus,map-quota` in pages; if the manifest says nothing, all of the `reachable` bytes once.
fn map_quota(node: Node<'_, '_>, access: MemoryAccess, reachable: u64) -> Result<u64, ManifestError> {
    let found = node.u32(MAP_QUOTA)?;
    match (access, found) {
        (MemoryAccess::All | MemoryAccess::Window, Some(0)) => Err(node.error(MAP_QUOTA, Reason::Zero)),
        (MemoryAccess::All | MemoryAccess::Window, None) => Ok(reachable / PAGE_SIZE),
        (MemoryAccess::All | MemoryAccess::Window, Some(pages)) => Ok(pages.into()),
        (MemoryAccess::Grants | MemoryAccess::None, None) => Ok(0),
        (MemoryAccess::Grants | MemoryAccess::None, Some(_)) => {
            Err(node.error(MAP_QUOTA, Reason::Unsupported("a quota without the right to map")))
        }
    }
}

/// Where the manifest puts the device; each part `None` where it leaves the choice.
pub(crate) fn window(node: Node<'_, '_>) -> Result<DeviceWindow, ManifestError> {
    // Cells of `portunus,devices` if it has them, else the domain's, which are mandatory.
    let parent = node.parent();
    let source = match parent {
        Some(devices) if devices.has("#address-cells") => parent,
        Some(devices) => devices.parent(),
        None => None,
    };
    let widths = source.map_or([2, 2], |bus| [bus.address_cells(), bus.size_cells()]);
    let rows = node.rows("reg", widths)?;
    let range = match *rows.as_slice() {
        [] => None,
        [[start, size]] => Some(IpaRange::new(start, size)),
        _ => return Err(node.error("reg", Reason::Repeated("a range".to_string()))),
    };
    let interrupt = match node.cells("interrupts")? {
        None => None,
        Some(cells) if cells.len() != 3 => {
            return Err(node.error("interrupts", Reason::Length(cells.len().saturating_mul(4))));
        }
        Some(cells) => match decode_gic_interrupt(&cells) {
            Some(interrupt) if interrupt.id.is_spi() => Some(interrupt.id),
            _ => return Err(node.error("interrupts", Reason::Interrupt)),
        },
    };
    Ok(DeviceWindow { range, interrupt })
}
