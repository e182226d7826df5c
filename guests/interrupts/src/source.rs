//! SPIs: raised by the domain that serves this guest's devices, or, on a bare machine, by the distributor itself.

use alloc::vec::Vec;

use guest_runtime::gic::Gic;
use guest_runtime::mmio::Registers;
use guest_runtime::virtio;

/// How many there are.
pub(crate) const COUNT: usize = 64;
/// SPIs of a bare machine that no device has.
const FREE: u32 = 160;

/// Registers of a device (guests/scratch): raise, lower, raise repeatedly.
const RAISE: usize = 0x00;
const LOWER: usize = 0x04;
const BURST: usize = 0x08;

/// All SPIs of the tests.
#[derive(Debug)]
pub(crate) struct Sources {
    /// Their numbers.
    pub(crate) intids: Vec<u32>,
    registers: Vec<Registers>,
}

impl Sources {
    /// The devices of the device tree, if there are as many as are needed.
    pub(crate) fn find() -> Self {
        let (mut intids, mut registers) = (Vec::new(), Vec::new());
        virtio::each_mmio(|range, interrupt| {
            intids.push(interrupt.intid);
            // SAFETY: the device tree names a device there; it touches no memory.
            registers.push(unsafe { Registers::new(range.start as usize) });
        });
        // A machine's own transports are far fewer.
        if registers.len() < COUNT {
            return Self {
                intids: (FREE..).take(COUNT).collect(),
                registers: Vec::new(),
            };
        }
        Self { intids, registers }
    }

    /// Whether another domain raises them, so that they have lines.
    pub(crate) fn have_lines(&self) -> bool {
        !self.registers.is_empty()
    }

    /// Raises `count` of them from number `first` on; they are pending when this returns.
    pub(crate) fn raise(&self, gic: &Gic, first: usize, count: usize) {
        match self.registers.get(first) {
            Some(device) => device.write(RAISE, count as u32),
            None => self.intids[first..first + count]
                .iter()
                .for_each(|intid| gic.set_pending(*intid)),
        }
    }

    /// Lowers the lines of `count`.
    pub(crate) fn lower(&self, first: usize, count: usize) {
        if let Some(device) = self.registers.get(first) {
            device.write(LOWER, count as u32);
        }
    }

    /// Starts to raise number `index` again and again.
    pub(crate) fn burst(&self, index: usize, count: u32) {
        self.registers[index].write(BURST, count);
    }

    /// How many of those are left.
    pub(crate) fn burst_left(&self, index: usize) -> u32 {
        self.registers[index].read(BURST)
    }
}
