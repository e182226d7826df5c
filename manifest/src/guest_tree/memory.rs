//! What a guest's tree says of memory that others reach: windows of devices, grants, and shared regions.

use alloc::format;
use alloc::vec::Vec;
use core::slice::Iter;

use dtoolkit::model::DeviceTreeNode;

use super::nodes::{Builder, cells, regs};
use crate::devices::{DeviceConfig, MemoryAccess};
use crate::domain::DomainConfig;

/// A pool of bounce buffers for the devices that refer to it (Linux, bindings/reserved-memory/shared-dma-pool.yaml).
const POOL: &str = "restricted-dma-pool";

/// Memory that domains share (Linux, bindings/reserved-memory/xen,shared-memory.txt), in the words and the order of Xen,
/// which lists it as memory too.
const SHARED: &str = "xen,shared-memory-v1";

/// `/reserved-memory`, if there is any. `windows` are the phandles of the devices' windows.
pub(super) fn reserved(domain: &DomainConfig, windows: &[u32]) -> Option<DeviceTreeNode> {
    let shared = domain.shared_memory.iter().map(|region| {
        Builder::new(&format!("xen-shmem@{:x}", region.guest.start.0))
            .strings("compatible", &[SHARED])
            .bytes("reg", &regs(&[region.guest]))
            .strings("xen,id", &[&region.id])
            .long("xen,offset", 0)
            .build()
    });
    let pools = domain.windows().zip(windows).map(|(window, phandle)| {
        Builder::new(&format!("{POOL}@{:x}", window.start.0))
            .strings("compatible", &[POOL])
            .bytes("reg", &regs(&[window]))
            .cell("phandle", *phandle)
            .build()
    });
    let mut nodes = shared.chain(pools);
    let first = nodes.next()?;
    let parent = Builder::new("reserved-memory")
        .cell("#address-cells", 2)
        .cell("#size-cells", 2)
        .flag("ranges")
        .child(first);
    Some(nodes.fold(parent, Builder::child).build())
}

/// The node that stands for grants where a device refers to an IOMMU (Linux, bindings/iommu/xen,grant-dma.yaml), as libxl
/// names and places it.
pub(super) fn grant_dma(phandle: u32) -> DeviceTreeNode {
    Builder::new("xen_iommu")
        .strings("compatible", &["xen,grant-dma"])
        .cell("#iommu-cells", 1)
        .cell("phandle", phandle)
        .build()
}

/// The property of a device's node that says how its driver makes memory reachable. `windows` gives the phandle of the
/// next device's window.
pub(super) fn of_device(
    device: &DeviceConfig,
    iommu: u32,
    windows: &mut Iter<'_, u32>,
) -> Option<(&'static str, Vec<u8>)> {
    match device.memory_access {
        MemoryAccess::All | MemoryAccess::None => None,
        MemoryAccess::Window => Some(("memory-region", cells(&[*windows.next()?]))),
        MemoryAccess::Grants => Some(("iommus", cells(&[iommu, device.backend.0.into()]))),
    }
}
