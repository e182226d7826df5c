//! `/portunus` in the tree of a domain that serves devices: what it serves, to whom, and from what.

use alloc::format;
use alloc::vec::Vec;

use dtoolkit::model::DeviceTreeNode;

use super::GuestTree;
use super::nodes::{Builder, regs};
use crate::devices::{DeviceConfig, MemoryAccess, Source};
use crate::domain::DomainConfig;

/// What bare-metal and Linux backends look for.
const COMPATIBLE: &str = "portunus,serves-v1";

/// The node; `docs/manifest.md` says what each property means.
pub(super) fn node(tree: &GuestTree<'_>) -> DeviceTreeNode {
    let mut node = Builder::new("portunus")
        .strings("compatible", &[COMPATIBLE])
        .cell("#address-cells", 2)
        .cell("#size-cells", 2);
    for (index, (guest, device)) in tree.manifest.served_by(tree.domain).enumerate() {
        node = node.child(served(tree, index, guest, device));
    }
    node.build()
}

/// The guest's RAM that the backend may map: all, a window, or none but what is granted. A device without access to memory
/// says where it is all the same: that tells a backend how large the guest is.
fn reachable(tree: &GuestTree<'_>, guest: &DomainConfig, device: &DeviceConfig) -> Vec<u8> {
    match device.memory_access {
        MemoryAccess::All | MemoryAccess::None => regs(tree.memory_of(guest.id)),
        MemoryAccess::Window => regs(device.window.as_slice()),
        MemoryAccess::Grants => Vec::new(),
    }
}

fn served(tree: &GuestTree<'_>, index: usize, guest: &DomainConfig, device: &DeviceConfig) -> DeviceTreeNode {
    let mut transports = alloc::vec::Vec::new();
    transports.extend(device.transports.iter().map(|transport| transport.name()));
    let mut node = Builder::new(&format!("device@{index:x}"))
        .bytes("reg", &regs(&[device.range]))
        .interrupts(&[device.interrupt])
        .strings("name-in-guest", &[&device.name])
        .cell("guest", guest.id.0.into())
        .strings("guest-name", &[&guest.name])
        .cell("guest-vcpus", guest.vcpu_count().into())
        .bytes("guest-memory", &reachable(tree, guest, device))
        .strings("transport", &transports)
        .strings("memory-access", &[device.memory_access.name()])
        .cell("type", device.kind.0)
        .cell("queues", device.queues);
    if device.map_quota != 0 {
        node = node.cell("map-quota", u32::try_from(device.map_quota).unwrap_or(u32::MAX));
    }
    match &device.source {
        Source::None => {}
        Source::Device { path, partition } => {
            node = node.strings("source", &[path]);
            if let Some(partition) = partition {
                node = node.cell("partition", *partition);
            }
        }
        Source::RamDisk { mib } => node = node.cell("ram-disk", *mib),
    }
    if device.read_only {
        node = node.flag("read-only");
    }
    if device.accel {
        node = node.flag("accel");
    }
    node.build()
}
