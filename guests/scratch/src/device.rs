//! The devices: memory, and sources of interrupts.

use core::ops::Range;

use alloc::vec;
use alloc::vec::Vec;

use dtoolkit::fdt::FdtNode;
use guest_runtime::device_tree::{self, property_u32};
use guest_runtime::hypercall::dm;
use guest_runtime::println;

/// `portunus,type` of memory.
pub(crate) const MEMORY: u32 = 0x40;
/// `portunus,type` of a source of interrupts.
pub(crate) const SOURCE: u32 = 0x41;

/// Registers of a source of interrupts, 32 bits each. Numbers count devices from this one on, in the manifest's order.
pub(crate) mod source {
    /// Write N: the interrupts of N devices get level 1, before the write is complete.
    pub(crate) const RAISE: u64 = 0x00;
    /// Write N: the interrupts of N devices get level 0, before the write is complete.
    pub(crate) const LOWER: u64 = 0x04;
    /// Write N: this device's interrupt gets level 1 N times, after the write. Read: how many of those are to come.
    pub(crate) const BURST: u64 = 0x08;
}

enum Kind {
    Memory(Vec<u8>),
    Source { intid: u32, burst: u64 },
}

/// One device of one guest.
pub(crate) struct Device {
    pub(crate) range: Range<u64>,
    pub(crate) domain: u16,
    kind: Kind,
}

impl Device {
    /// What a child of `/portunus` describes.
    pub(crate) fn from_node(node: FdtNode<'static>) -> Option<Self> {
        let range = device_tree::reg(node, 0)?;
        let kind = match property_u32(node, "type")? {
            MEMORY => Kind::Memory(vec![0; (range.end - range.start) as usize]),
            SOURCE => Kind::Source {
                intid: device_tree::interrupt(node, 0)?.intid,
                burst: 0,
            },
            _ => return None,
        };
        let domain = u16::try_from(property_u32(node, "guest")?).ok()?;
        Some(Self { range, domain, kind })
    }

    fn offsets(&self, span: &Range<u64>) -> Range<usize> {
        (span.start - self.range.start) as usize..(span.end - self.range.start) as usize
    }

    /// What an access to `span`, which is within the range, reads.
    pub(crate) fn read(&self, span: Range<u64>) -> u64 {
        match &self.kind {
            Kind::Memory(bytes) => {
                let mut value = [0; 8];
                let found = &bytes[self.offsets(&span)];
                value[..found.len()].copy_from_slice(found);
                u64::from_le_bytes(value)
            }
            Kind::Source { burst, .. } if span.start - self.range.start == source::BURST => *burst,
            Kind::Source { .. } => 0,
        }
    }

    fn set_level(&self, level: bool) {
        if let Kind::Source { intid, .. } = self.kind
            && let Err(error) = dm::set_irq_level(self.domain, intid, level)
        {
            println!("scratch: FAILED: interrupt {intid}: {error}");
        }
    }

    /// Does what is left to do after answers; returns whether there was something.
    pub(crate) fn work(&mut self) -> bool {
        let Kind::Source { burst: burst @ 1.., .. } = &mut self.kind else {
            return false;
        };
        *burst -= 1;
        self.set_level(true);
        true
    }
}

/// Writes `value` to `span`, which is in the first of `devices`.
pub(crate) fn write(devices: &mut [Device], span: Range<u64>, value: u64) {
    let Some(device) = devices.first_mut() else { return };
    let offsets = device.offsets(&span);
    let register = span.start - device.range.start;
    match (&mut device.kind, register) {
        (Kind::Memory(bytes), _) => {
            let bytes = &mut bytes[offsets];
            let length = bytes.len();
            bytes.copy_from_slice(&value.to_le_bytes()[..length]);
        }
        (Kind::Source { burst, .. }, source::BURST) => *burst = value,
        (Kind::Source { .. }, source::RAISE | source::LOWER) => {
            for device in devices.iter().take(value as usize) {
                device.set_level(register == source::RAISE);
            }
        }
        (Kind::Source { .. }, _) => {}
    }
}
