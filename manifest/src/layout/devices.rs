//! Where the devices of a domain are that others serve, and the windows that they may map.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::interrupts::Interrupts;
use super::taken::{LAST_HOLE, Taken};
use super::{Layout, VIRTIO, VIRTIO_STRIDE};
use crate::devices;
use crate::domain::DomainConfig;
use crate::error::{ManifestError, Reason};
use crate::tree::Node;
use portunus_base::ids::PAGE_SIZE;
use portunus_base::range::{IpaRange, PaRange};

/// Gives every device its range, and the interrupt that the manifest asks for.
pub(super) fn place_devices(
    domain: &mut DomainConfig,
    node: Node<'_, '_>,
    layout: &Layout,
    taken: &mut Taken,
    interrupts: &mut Interrupts,
) -> Result<(), ManifestError> {
    let nodes: Vec<Node<'_, '_>> = match node.children().find(|child| child.name() == "portunus,devices") {
        Some(parent) => parent.children().collect(),
        None => return Ok(()),
    };
    // Given places first, so that the others can go around them.
    let mut slots: Vec<(IpaRange, String)> = Vec::new();
    for (device, node) in domain.devices.iter_mut().zip(&nodes) {
        let window = devices::window(*node)?;
        let unit = if device.accel { PAGE_SIZE } else { VIRTIO_STRIDE };
        if let Some(range) = window.range {
            check_given(range, unit).map_err(|reason| node.error("reg", reason))?;
            let others = taken
                .0
                .iter()
                .find(|(other, owner)| other.overlaps(range.pages()) && owner != "the virtio window");
            let occupied = |owner: &str| {
                node.error(
                    "reg",
                    Reason::Occupied {
                        range,
                        owner: owner.to_string(),
                    },
                )
            };
            if let Some((_, owner)) = others {
                return Err(occupied(owner));
            }
            if let Some((_, owner)) = slots.iter().find(|(other, _)| other.overlaps(range)) {
                return Err(occupied(owner));
            }
            device.range = range;
            slots.push((range, device.name.clone()));
        }
        if let Some(interrupt) = window.interrupt {
            interrupts
                .claim(interrupt, &device.name)
                .map_err(|reason| node.error("interrupts", reason))?;
            device.interrupt.id = interrupt;
        }
    }
    let mut next = layout.virtio.start.0;
    for (device, node) in domain.devices.iter_mut().zip(&nodes) {
        if !device.range.is_empty() {
            continue;
        }
        let unit = if device.accel { PAGE_SIZE } else { VIRTIO_STRIDE };
        let range = free_slot(next, unit, layout.virtio, &slots).ok_or_else(|| node.error("", Reason::NoRoom(unit)))?;
        next = range.end();
        device.range = range;
        slots.push((range, device.name.clone()));
    }
    for (range, name) in slots {
        taken.add(range, &name);
    }
    Ok(())
}

/// Puts the windows of devices at the end of the lowest bank with room for each, so that kernels find low memory for what
/// they place themselves, and 32-bit addresses reach all of it.
pub(super) fn place_windows(domain: &mut DomainConfig, layout: &Layout) -> Result<(), ManifestError> {
    let mut rooms = layout.memory.clone();
    for device in &mut domain.devices {
        let Some(window) = &mut device.window else { continue };
        let error = |reason| ManifestError::new(&device.path, devices::WINDOW_SIZE, reason);
        if rooms.is_empty() {
            let why = "a window of a direct-mapped domain without xen,static-mem";
            return Err(error(Reason::Unsupported(why)));
        }
        let size = window.size;
        let place = rooms.iter_mut().find_map(|room| {
            let start = room.end().checked_sub(size)? & !(devices::MIB - 1);
            // Something is left below it.
            let left = start.checked_sub(room.start.0).filter(|left| *left != 0)?;
            room.size = left;
            Some(start)
        });
        *window = IpaRange::new(place.ok_or_else(|| error(Reason::NoRoom(size)))?, size);
    }
    Ok(())
}

fn check_given(range: IpaRange, unit: u64) -> Result<(), Reason> {
    if range.is_empty() {
        return Err(Reason::Zero);
    }
    if !range.fits() {
        return Err(Reason::Overflow(PaRange::new(range.start.0, range.size)));
    }
    if !range.is_aligned(unit) {
        return Err(Reason::Misaligned {
            value: range.start.0 | range.size,
            alignment: unit,
        });
    }
    if range.size > VIRTIO.size {
        return Err(Reason::AboveLimit {
            found: range.size,
            limit: VIRTIO.size,
        });
    }
    if range.end() > LAST_HOLE {
        return Err(Reason::AboveLimit {
            found: range.end(),
            limit: LAST_HOLE,
        });
    }
    Ok(())
}

/// The next free `unit` bytes of `window` from `from`.
fn free_slot(from: u64, unit: u64, window: IpaRange, slots: &[(IpaRange, String)]) -> Option<IpaRange> {
    let mut start = from.checked_next_multiple_of(unit)?;
    loop {
        let range = IpaRange::new(start, unit);
        if !window.contains(range) {
            return None;
        }
        match slots.iter().find(|(other, _)| other.overlaps(range)) {
            Some((other, _)) => start = other.end().checked_next_multiple_of(unit)?,
            None => return Some(range),
        }
    }
}
