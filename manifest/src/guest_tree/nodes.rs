//! Small steps to write a node: cells, strings, flags.

use alloc::vec::Vec;

use dtoolkit::model::{DeviceTreeNode, DeviceTreeProperty};

use crate::tree::Interrupt;
use portunus_base::ids::IntId;
use portunus_base::range::IpaRange;

/// Every CPU of a GIC's PPI (binding arm,gic: bits 15:8 of the flags; GICv3 ignores them).
const ALL_CPUS: u32 = 0xff00;

/// A node under construction.
#[derive(Debug)]
pub(super) struct Builder(DeviceTreeNode);

impl Builder {
    /// A node of this name, which is ours or was checked when it was read.
    pub(super) fn new(name: &str) -> Self {
        Self(DeviceTreeNode::new_unchecked(name))
    }
    pub(super) fn bytes(mut self, name: &str, value: &[u8]) -> Self {
        self.0.add_property(DeviceTreeProperty::new_unchecked(name, value));
        self
    }
    pub(super) fn cell(self, name: &str, value: u32) -> Self {
        self.bytes(name, &value.to_be_bytes())
    }
    pub(super) fn long(self, name: &str, value: u64) -> Self {
        self.bytes(name, &value.to_be_bytes())
    }
    pub(super) fn flag(self, name: &str) -> Self {
        self.bytes(name, &[])
    }
    pub(super) fn strings(self, name: &str, values: &[&str]) -> Self {
        let mut bytes = Vec::new();
        for value in values {
            bytes.extend_from_slice(value.as_bytes());
            bytes.push(0);
        }
        self.bytes(name, &bytes)
    }
    pub(super) fn interrupts(self, interrupts: &[Interrupt]) -> Self {
        let mut values = Vec::new();
        for interrupt in interrupts {
            let number = interrupt.id.0;
            let flags = interrupt.trigger.flags();
            values.extend_from_slice(&match interrupt.id.is_spi() {
                true => [0, number - IntId::FIRST_SPI, flags],
                false => [1, number.saturating_sub(IntId::FIRST_PPI), flags | ALL_CPUS],
            });
        }
        self.bytes("interrupts", &cells(&values))
    }
    pub(super) fn child(mut self, child: DeviceTreeNode) -> Self {
        self.0.add_child(child);
        self
    }
    pub(super) fn build(self) -> DeviceTreeNode {
        self.0
    }
}

/// 32-bit cells.
pub(super) fn cells(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

/// Rows of two cells of address and two of size.
pub(super) fn regs(ranges: &[IpaRange]) -> Vec<u8> {
    ranges
        .iter()
        .flat_map(|range| [range.start.0, range.size])
        .flat_map(u64::to_be_bytes)
        .collect()
}
