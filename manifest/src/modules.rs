//! What the boot loader placed in memory for a domain: its kernel, its ramdisk, the tree of its passed-through devices.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::error::{ManifestError, Reason};
use crate::host::Host;
use crate::notice::Notices;
use crate::tree::Node;
use portunus_base::range::PaRange;

/// The largest partial device tree: bounds what reading one allocates.
const MAX_DEVICE_TREE: u64 = 1 << 20;
/// `compatible` of a module that is not the hypervisor's own, in today's and the older spelling.
const MODULE: [&str; 4] = [
    "multiboot,module",
    "xen,multiboot-module",
    "xen,linux-zimage",
    "xen,linux-initrd",
];

/// A file in memory.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Module {
    /// Where, and exactly how long.
    pub range: PaRange,
}

/// A domain's modules.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Modules {
    /// The kernel; every domain that parsed has one.
    pub kernel: Option<Module>,
    /// Its command line.
    pub bootargs: Option<String>,
    /// The ramdisk.
    pub ramdisk: Option<Module>,
    /// The partial device tree of passed-through devices.
    pub device_tree: Option<Module>,
}

/// Reads modules out of the machine's memory.
pub trait ModuleReader {
    /// The bytes of a module; `None` where there is no memory to read, as when a manifest is checked on a PC.
    fn read(&self, range: PaRange) -> Option<Vec<u8>>;
}

/// There are no modules to read: only the manifest is looked at.
#[derive(Copy, Clone, Debug)]
pub struct NoModules;

impl ModuleReader for NoModules {
    fn read(&self, _range: PaRange) -> Option<Vec<u8>> {
        None
    }
}

/// Whether the node describes a module of some domain.
pub(crate) fn is_module(node: Node<'_, '_>) -> bool {
    MODULE.iter().any(|name| node.is_compatible(name))
}

/// Reads a domain's module nodes.
pub(crate) fn parse(domain: Node<'_, '_>, host: &Host, notices: &mut Notices) -> Result<Modules, ManifestError> {
    let mut modules = Modules::default();
    for node in domain.children().filter(|node| is_module(*node)) {
        let any = |names: [&str; 2]| names.iter().any(|name| node.is_compatible(name));
        if node.is_compatible("xen,xsm-policy") {
            return Err(node.error("compatible", Reason::Unsupported("a security policy module")));
        }
        let slot = if any(["multiboot,kernel", "xen,linux-zimage"]) {
            modules.bootargs = node.string("bootargs")?.map(ToString::to_string);
            &mut modules.kernel
        } else if any(["multiboot,ramdisk", "xen,linux-initrd"]) {
            &mut modules.ramdisk
        } else if node.is_compatible("multiboot,device-tree") {
            &mut modules.device_tree
        } else {
            notices.ignored(node, "compatible", "names no kind of module");
            continue;
        };
        if slot.is_some() {
            return Err(node.error("compatible", Reason::Repeated("a module of this kind".to_string())));
        }
        *slot = Some(Module {
            range: range(node, host)?,
        });
    }
    if modules.kernel.is_none() {
        return Err(domain.error("multiboot,kernel", Reason::Missing));
    }
    Ok(modules)
}

fn range(node: Node<'_, '_>, host: &Host) -> Result<PaRange, ManifestError> {
    let regs = node.reg()?;
    let [reg] = *regs.as_slice() else {
        let reason = if regs.is_empty() {
            Reason::Missing
        } else {
            Reason::Repeated("a range".to_string())
        };
        return Err(node.error("reg", reason));
    };
    let range = PaRange::new(reg.address, reg.size);
    if range.is_empty() {
        return Err(node.error("reg", Reason::Zero));
    }
    if !range.fits() {
        return Err(node.error("reg", Reason::Overflow(range)));
    }
    if !host.is_memory(range) {
        return Err(node.error("reg", Reason::NotMemory(range)));
    }
    if node.is_compatible("multiboot,device-tree") && range.size > MAX_DEVICE_TREE {
        return Err(node.error(
            "reg",
            Reason::AboveLimit {
                found: range.size,
                limit: MAX_DEVICE_TREE,
            },
        ));
    }
    Ok(range)
}
