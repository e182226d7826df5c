//! The device tree that the guest was started with.

use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

static ADDRESS: AtomicUsize = AtomicUsize::new(0);

pub(crate) fn set_address(address: usize) {
    ADDRESS.store(address, Ordering::Relaxed);
}

/// The device tree.
pub fn device_tree() -> Fdt<'static> {
    // SAFETY: the boot protocol puts a device tree there; the heap leaves it out, so nobody writes it.
    unsafe { Fdt::from_raw_unchecked(ADDRESS.load(Ordering::Relaxed) as *const u8) }
}

/// Where the device tree is in memory.
pub fn extent() -> Range<u64> {
    let data = device_tree().data();
    let start = data.as_ptr() as u64;
    start..start + data.len() as u64
}

/// Calls `visit` with every node below `node`, at any depth.
fn visit_all(node: FdtNode<'static>, visit: &mut dyn FnMut(FdtNode<'static>)) {
    for child in node.children() {
        visit(child);
        visit_all(child, visit);
    }
}

/// Whether a node lists `compatible` and is not disabled.
pub fn is_compatible(node: FdtNode<'static>, compatible: &str) -> bool {
    let listed = node
        .compatible()
        .is_some_and(|mut list| list.any(|name| name == compatible));
    listed && property_str(node, "status").is_none_or(|status| status == "okay" || status == "ok")
}

/// Calls `visit` with every enabled node that lists `compatible`.
pub fn each_compatible(compatible: &str, mut visit: impl FnMut(FdtNode<'static>)) {
    visit_all(device_tree().root(), &mut |node| {
        if is_compatible(node, compatible) {
            visit(node);
        }
    });
}

/// The first enabled node that lists one of `compatible`, in the tree's order.
pub fn find_compatible(compatible: &[&str]) -> Option<FdtNode<'static>> {
    let mut found = None;
    visit_all(device_tree().root(), &mut |node| {
        if found.is_none() && compatible.iter().any(|name| is_compatible(node, name)) {
            found = Some(node);
        }
    });
    found
}

/// Entry `index` of a node's `reg`, as addresses of the guest. Buses in between are taken to map one to one.
pub fn reg(node: FdtNode<'static>, index: usize) -> Option<Range<u64>> {
    let reg = node.reg().ok()??.nth(index)?;
    let start: u64 = reg.address().ok()?;
    let size: u64 = reg.size().ok()?;
    Some(start..start.checked_add(size)?)
}

/// A property that holds one 32-bit number.
pub fn property_u32(node: FdtNode<'static>, name: &str) -> Option<u32> {
    node.property(name)?.value_as::<u32>().ok()
}

/// A property that holds one number of one or two cells.
pub fn property_u64(node: FdtNode<'static>, name: &str) -> Option<u64> {
    let property = node.property(name)?;
    property
        .value_as::<u64>()
        .ok()
        .or_else(|| property.value_as::<u32>().ok().map(u64::from))
}

/// A property that holds a string.
pub fn property_str(node: FdtNode<'static>, name: &str) -> Option<&'static str> {
    node.property(name)?.value_as::<&'static str>().ok()
}

/// Cell `index` of a property.
pub fn cell(node: FdtNode<'static>, name: &str, index: usize) -> Option<u32> {
    let property = node.property(name)?;
    let bytes = property.value().get(4 * index..4 * index + 4)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// The words of the kernel command line (`bootargs` of `/chosen`).
pub fn boot_arguments() -> impl Iterator<Item = &'static str> {
    let chosen = device_tree().find_node("/chosen");
    let line = chosen.and_then(|node| property_str(node, "bootargs"));
    line.unwrap_or_default().split_ascii_whitespace()
}

/// The number in the boot argument `name=NUMBER`.
///
/// # Panics
/// When it is there and no decimal number.
pub fn boot_number(name: &str) -> Option<u64> {
    let value = boot_arguments().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?;
    match value.parse() {
        Ok(number) => Some(number),
        Err(_) => panic!("boot argument {name}={value} is no number"),
    }
}

/// How often this domain was restarted since power-on; 0 if nobody says.
pub fn restarts() -> u32 {
    let chosen = device_tree().find_node("/chosen");
    chosen
        .and_then(|node| property_u32(node, "portunus,restarts"))
        .unwrap_or(0)
}

/// An interrupt as a device's node gives it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Interrupt {
    /// The GIC's number.
    pub intid: u32,
    /// Edge-triggered, else level.
    pub edge: bool,
}

/// Interrupt `index` of a node whose interrupts go to the GIC (three cells each: kind, number, flags).
pub fn interrupt(node: FdtNode<'static>, index: usize) -> Option<Interrupt> {
    let base = match cell(node, "interrupts", 3 * index)? {
        0 => 32,
        1 => 16,
        _ => return None,
    };
    let number = cell(node, "interrupts", 3 * index + 1)?;
    let flags = cell(node, "interrupts", 3 * index + 2)?;
    Some(Interrupt {
        intid: base + number,
        edge: flags & 3 != 0,
    })
}

/// Every range of RAM.
pub fn each_memory(mut visit: impl FnMut(Range<u64>)) {
    for node in device_tree().root().children() {
        if property_str(node, "device_type") != Some("memory") && node.name_without_address() != "memory" {
            continue;
        }
        for index in 0.. {
            match reg(node, index) {
                Some(range) => visit(range),
                None => break,
            }
        }
    }
}
