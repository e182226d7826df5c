//! What this domain is to serve: `/portunus` in its device tree (compatible `portunus,serves-v1`).

use alloc::vec::Vec;
use core::error::Error;
use core::fmt;
use core::ops::Range;

use dtoolkit::fdt::FdtNode;
use dtoolkit::{Node, Property};
use guest_runtime::device_tree::{self, cell, property_str, property_u32};
use guest_runtime::println;

/// VirtIO's number for a block device.
const BLOCK: u32 = 2;

/// One device for one guest.
#[derive(Debug)]
pub(crate) struct ServedConfig {
    /// Its name in the guest's manifest.
    pub(crate) name: &'static str,
    /// Guest-physical addresses of its registers.
    pub(crate) registers: Range<u64>,
    /// Its interrupt in the guest.
    pub(crate) intid: u32,
    /// The guest's domain number.
    pub(crate) guest: u16,
    pub(crate) guest_name: &'static str,
    /// What may be mapped of the guest's RAM, in its own addresses.
    pub(crate) guest_memory: Vec<Range<u64>>,
    pub(crate) queues: u16,
    pub(crate) read_only: bool,
    /// It may have a state page.
    pub(crate) accel: bool,
    pub(crate) source: Source,
    kind: u32,
    has_mmio: bool,
    pub(crate) memory_access: MemoryAccess,
    partition: Option<u32>,
}

/// What of the guest's memory a device may reach.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum MemoryAccess {
    /// All of it.
    All,
    /// The ranges that its node names.
    Window,
    /// Pages that the guest grants.
    Grants,
}

/// Where a disk's sectors are.
#[derive(Copy, Clone, Debug)]
pub(crate) enum Source {
    /// In this domain's RAM.
    Ram { mib: u32 },
    /// On a passed-through device, by its path in the machine's device tree.
    Device { path: &'static str },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ram { .. } => f.write_str("RAM"),
            Self::Device { path } => f.write_str(path),
        }
    }
}

/// Why this backend can't serve what the manifest wants.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum ConfigError {
    NotABlockDevice(u32),
    NotOverMmio,
    Partition(u32),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotABlockDevice(kind) => write!(f, "VirtIO device type {kind} is no block device"),
            Self::NotOverMmio => f.write_str("its transports do not include mmio"),
            Self::Partition(number) => write!(f, "partition {number}: only whole disks are served"),
        }
    }
}

impl Error for ConfigError {}

impl ServedConfig {
    fn from_node(node: FdtNode<'static>) -> Option<Self> {
        // None where the guest grants what is needed.
        let memory = node.property("guest-memory");
        let rows = memory.iter().flat_map(|memory| memory.value().as_chunks::<16>().0);
        let guest_memory = rows.map(|row| {
            let row = u128::from_be_bytes(*row);
            let (start, size) = ((row >> 64) as u64, row as u64);
            start..start.saturating_add(size)
        });
        let source = match property_u32(node, "ram-disk") {
            Some(mib) => Source::Ram { mib },
            None => Source::Device {
                path: property_str(node, "source")?,
            },
        };
        let transports = node.property("transport")?;
        let mut transports = transports.value().split(|byte| *byte == 0);
        Some(Self {
            name: property_str(node, "name-in-guest").unwrap_or(node.name()),
            registers: device_tree::reg(node, 0)?,
            intid: device_tree::interrupt(node, 0)?.intid,
            guest: u16::try_from(property_u32(node, "guest")?).ok()?,
            guest_name: property_str(node, "guest-name")?,
            guest_memory: guest_memory.collect(),
            queues: u16::try_from(cell(node, "queues", 0).unwrap_or(1)).ok()?,
            accel: node.property("accel").is_some(),
            read_only: node.property("read-only").is_some(),
            source,
            kind: property_u32(node, "type")?,
            has_mmio: transports.any(|transport| transport == b"mmio"),
            memory_access: match property_str(node, "memory-access")? {
                "all" => MemoryAccess::All,
                "window" => MemoryAccess::Window,
                "grants" => MemoryAccess::Grants,
                _ => return None,
            },
            partition: property_u32(node, "partition"),
        })
    }

    /// Refuses what this backend does not do.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.kind != BLOCK {
            return Err(ConfigError::NotABlockDevice(self.kind));
        }
        if !self.has_mmio {
            return Err(ConfigError::NotOverMmio);
        }
        self.partition
            .map_or(Ok(()), |number| Err(ConfigError::Partition(number)))
    }
}

/// Every device of the tree; one that can't be understood is reported and left out.
pub(crate) fn read() -> Vec<ServedConfig> {
    let mut all = Vec::new();
    device_tree::each_compatible("portunus,serves-v1", |node| {
        for device in node.children() {
            match ServedConfig::from_node(device) {
                Some(config) => all.push(config),
                None => println!("backend: {} lacks a property or has a bad one", device.name()),
            }
        }
    });
    all
}
