//! Devices of the machine that a domain owns: Xen's partial device tree.
//!
//! Portunus drives no IOMMU. A device that can be a bus master therefore reaches all memory: its domain must be declared
//! `portunus,dma-trusted` and be direct-mapped, unless the device's node says `portunus,no-dma`.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::error::{ManifestError, Reason};
use crate::tree::{Interrupt, Node, Tree, decode_gic_interrupt};
use portunus_base::ids::{Ipa, PAGE_SIZE};
use portunus_base::range::{IpaRange, PaRange};

/// Where a partial tree keeps the devices.
pub const ROOT: &str = "/passthrough";

/// What a domain owns of the machine's devices.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Passthrough {
    /// The devices in the order of the partial tree.
    pub devices: Vec<PassthroughDevice>,
    /// The partial tree, from which the guest's is made; empty without one.
    pub tree: Vec<u8>,
    /// Whether there is a partial tree that could not be read here.
    pub unread: bool,
}

/// One device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PassthroughDevice {
    /// Path of its node in the partial tree, and in the guest's.
    pub path: String,
    /// Path of its node in the host's tree.
    pub host_path: Option<String>,
    /// Its registers, whole pages.
    pub mappings: Vec<Mapping>,
    /// Its SPIs, which have the same numbers in the guest.
    pub interrupts: Vec<Interrupt>,
    /// Whether it can reach memory by itself.
    pub dma: bool,
    /// How it is brought to rest when its domain stops without doing so; `None`: it can't be.
    pub quiesce: Option<Quiesce>,
}

/// How the hypervisor brings a device to rest (`portunus,quiesce`).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Quiesce {
    /// By a write of 0 to Status of each virtio-mmio transport among its registers (VIRTIO 1.3, section 4.2.3.1).
    VirtioMmio,
}

/// Registers of the machine in a guest's physical map, mapped as device memory.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Mapping {
    /// Where they are.
    pub physical: PaRange,
    /// Where the guest sees them.
    pub guest: Ipa,
}

impl Mapping {
    /// What it takes of the guest's physical map.
    pub const fn guest_range(self) -> IpaRange {
        IpaRange {
            start: self.guest,
            size: self.physical.size,
        }
    }
}

impl Passthrough {
    /// Every mapping of every device.
    pub fn mappings(&self) -> impl Iterator<Item = Mapping> {
        self.devices.iter().flat_map(|device| device.mappings.iter().copied())
    }
    /// Every interrupt of every device.
    pub fn interrupts(&self) -> impl Iterator<Item = Interrupt> {
        self.devices.iter().flat_map(|device| device.interrupts.iter().copied())
    }
    /// The device whose node in the host's tree is `path`.
    pub fn by_host_path(&self, path: &str) -> Option<&PassthroughDevice> {
        self.devices
            .iter()
            .find(|device| device.host_path.as_deref() == Some(path))
    }
    /// The device whose node in the partial tree is `path`.
    pub fn by_path(&self, path: &str) -> Option<&PassthroughDevice> {
        self.devices.iter().find(|device| device.path == path)
    }
}

/// Reads the partial tree of `domain`.
pub(crate) fn parse(
    domain: Node<'_, '_>,
    bytes: &[u8],
    direct_map: bool,
    dma_trusted: bool,
) -> Result<Passthrough, ManifestError> {
    let tree = Tree::new(bytes).map_err(|error| domain.error("multiboot,device-tree", error.into_reason()))?;
    let root = tree
        .find(ROOT)
        .ok_or_else(|| domain.error("multiboot,device-tree", Reason::Missing))?;
    let mut devices = Vec::new();
    let mut pending: Vec<Node<'_, '_>> = root.children().collect();
    pending.reverse();
    while let Some(node) = pending.pop() {
        if node.has("xen,reg") || node.has("xen,path") || node.has("interrupts") || node.has("interrupts-extended") {
            devices.push(device(domain, node, direct_map, dma_trusted)?);
        }
        let first = pending.len();
        pending.extend(node.children());
        if let Some(children) = pending.get_mut(first..) {
            children.reverse();
        }
    }
    Ok(Passthrough {
        devices,
        tree: bytes.to_vec(),
        unread: false,
    })
}

fn device(
    domain: Node<'_, '_>,
    node: Node<'_, '_>,
    direct_map: bool,
    dma_trusted: bool,
) -> Result<PassthroughDevice, ManifestError> {
    let dma = !node.has("portunus,no-dma");
    let mappings = mappings(node, direct_map)?;
    let host_path = node.string("xen,path")?.map(ToString::to_string);
    // An interrupt alone is not a bus master; registers or a host device may be one.
    if dma && (!mappings.is_empty() || host_path.is_some()) {
        if !dma_trusted {
            return Err(node.error("", Reason::NeedsDmaTrusted));
        }
        if host_path.is_some() && !node.has("xen,force-assign-without-iommu") {
            return Err(node.error("xen,force-assign-without-iommu", Reason::Missing));
        }
        if !direct_map {
            return Err(node.error("", Reason::NeedsDirectMap));
        }
    }
    let mut interrupts = interrupts(node)?;
    if let Some(path) = &host_path {
        let host = domain
            .tree()
            .find(path)
            .ok_or_else(|| node.error("xen,path", Reason::UnknownText(path.clone())))?;
        let theirs = host.interrupts()?;
        if interrupts
            .iter()
            .any(|ours| theirs.iter().all(|interrupt| interrupt.id != ours.id))
        {
            return Err(node.error(
                "interrupts",
                Reason::Unsupported("an interrupt that the host's node does not have"),
            ));
        }
        if !node.has("interrupts") {
            interrupts = theirs;
        }
    }
    let quiesce = match node.string("portunus,quiesce")? {
        None => None,
        Some("virtio-mmio") => Some(Quiesce::VirtioMmio),
        Some(other) => return Err(node.error("portunus,quiesce", Reason::UnknownText(other.to_string()))),
    };
    if interrupts.iter().any(|interrupt| !interrupt.id.is_spi()) {
        return Err(node.error("interrupts", Reason::Unsupported("a private interrupt of a device")));
    }
    Ok(PassthroughDevice {
        path: node.path(),
        host_path,
        mappings,
        interrupts,
        dma,
        quiesce,
    })
}

/// `xen,reg`: rows of physical address, size, guest address, in the cells of the node's parent.
fn mappings(node: Node<'_, '_>, direct_map: bool) -> Result<Vec<Mapping>, ManifestError> {
    let name = "xen,reg";
    let (address, size) = node
        .parent()
        .map_or((2, 1), |parent| (parent.address_cells(), parent.size_cells()));
    let mut mappings: Vec<Mapping> = Vec::new();
    for [physical, size, guest] in node.rows(name, [address, size, address])? {
        let range = PaRange::new(physical, size);
        if range.is_empty() {
            return Err(node.error(name, Reason::Zero));
        }
        let window = PaRange::new(guest, size);
        if let Some(wrong) = [range, window].into_iter().find(|range| !range.fits()) {
            return Err(node.error(name, Reason::Overflow(wrong)));
        }
        if let Some(value) = [physical, size, guest]
            .into_iter()
            .find(|value| !value.is_multiple_of(PAGE_SIZE))
        {
            return Err(node.error(
                name,
                Reason::Misaligned {
                    value,
                    alignment: PAGE_SIZE,
                },
            ));
        }
        if direct_map && physical != guest {
            return Err(node.error(
                name,
                Reason::NotDirect {
                    found: guest,
                    needed: physical,
                },
            ));
        }
        mappings.push(Mapping {
            physical: range,
            guest: Ipa(guest),
        });
    }
    Ok(mappings)
}

/// `interrupts` of a partial tree: its controller is a placeholder for the guest's GIC.
fn interrupts(node: Node<'_, '_>) -> Result<Vec<Interrupt>, ManifestError> {
    let name = "interrupts";
    if node.has("interrupts-extended") {
        return Err(node.error("interrupts-extended", Reason::Unsupported("use interrupts")));
    }
    let Some(cells) = node.cells(name)? else {
        return Ok(Vec::new());
    };
    if cells.is_empty() || !cells.len().is_multiple_of(3) {
        return Err(node.error(name, Reason::Length(cells.len().saturating_mul(4))));
    }
    let decode = |cells: &[u32]| decode_gic_interrupt(cells).ok_or_else(|| node.error(name, Reason::Interrupt));
    cells.chunks_exact(3).map(decode).collect()
}
