//! The nodes of passed-through devices in a guest's tree, copied from the partial tree.
//!
//! Phandles stay as they are, so references among the copied nodes hold; references to the partial tree's placeholder of the
//! interrupt controller become references to the guest's.

use alloc::string::ToString;
use alloc::vec::Vec;

use dtoolkit::Node as _;
use dtoolkit::model::{DeviceTreeNode, DeviceTreeProperty};

use crate::passthrough::ROOT;
use crate::tree::{Node, Tree};

/// Phandle of the interrupt controller in every tree that Xen writes; partial trees often name it outright.
const GIC: u32 = 65_000;
/// How properties begin that speak to the hypervisor and not to the guest.
const OURS: [&str; 2] = ["xen,", "portunus,"];

/// Phandles of nodes that we write.
#[derive(Clone, Debug)]
pub(super) struct Phandles {
    pub(super) gic: u32,
    pub(super) clock: u32,
    /// What stands for grants.
    pub(super) iommu: u32,
    /// The windows of devices, in the order of the devices.
    pub(super) windows: Vec<u32>,
}

impl Phandles {
    /// Phandles that no copied node has, for as many windows.
    pub(super) fn new(partial: Option<&Tree<'_>>, windows: usize) -> Self {
        let used = |phandle: &u32| {
            let node = partial.and_then(|tree| tree.by_phandle(*phandle));
            node.is_some_and(is_copied)
        };
        let mut free = (GIC..u32::MAX).filter(|phandle| !used(phandle));
        Self {
            gic: free.next().unwrap_or(GIC),
            clock: free.next().unwrap_or(GIC + 1),
            iommu: free.next().unwrap_or(GIC + 2),
            windows: free.take(windows).collect(),
        }
    }
}

/// Whether the node is below `/passthrough`.
fn is_copied(node: Node<'_, '_>) -> bool {
    let mut at = Some(node);
    while let Some(node) = at {
        let parent = node.parent();
        if parent.is_some_and(|parent| parent.parent().is_none()) {
            return ROOT.strip_prefix('/') == Some(node.name());
        }
        at = parent;
    }
    false
}

/// Copies `/passthrough`.
pub(super) fn copy(root: &mut DeviceTreeNode, partial: &Tree<'_>, phandles: &Phandles) {
    if let Some(node) = partial.find(ROOT) {
        root.add_child(copied(node, partial, phandles));
    }
}

// The depth of the recursion is the tree's, which its reader bounds.
fn copied(node: Node<'_, '_>, partial: &Tree<'_>, phandles: &Phandles) -> DeviceTreeNode {
    let mut copy = DeviceTreeNode::new_unchecked(node.name());
    for (name, value) in node.properties() {
        if OURS.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let parent = (name == "interrupt-parent")
            .then(|| node.u32(&name).ok().flatten())
            .flatten();
        let own = parent.is_some_and(|phandle| partial.by_phandle(phandle).is_some_and(is_copied));
        if parent.is_some() && !own {
            copy.add_property(DeviceTreeProperty::new_unchecked(name, phandles.gic));
        } else {
            copy.add_property(DeviceTreeProperty::new_unchecked(name, value));
        }
    }
    for child in node.children() {
        copy.add_child(copied(child, partial, phandles));
    }
    copy
}

/// Aliases of the partial tree, and the UART's.
pub(super) fn aliases(root: &mut DeviceTreeNode, partial: Option<&Tree<'_>>, uart: Option<&str>) {
    let mut node = DeviceTreeNode::new_unchecked("aliases");
    let given = partial.and_then(|tree| tree.find("/aliases"));
    for (name, value) in given.into_iter().flat_map(|node| node.properties()) {
        node.add_property(DeviceTreeProperty::new_unchecked(name, value));
    }
    if let Some(uart) = uart {
        // The console keeps number 0 whatever other UARTs the domain has: kernels are told `console=ttyAMA0`.
        node.add_property(DeviceTreeProperty::new_unchecked("serial0".to_string(), uart));
    }
    if node.properties().next().is_some() {
        root.add_child(node);
    }
}
