//! A driver of the PL031 (Arm DDI 0224).

use guest_runtime::device_tree::{Interrupt, find_compatible, interrupt, reg};
use guest_runtime::gic::Gic;
use guest_runtime::mmio::Registers;
use guest_runtime::timer;

const RTCDR: usize = 0x00;
const RTCMR: usize = 0x04;
const RTCLR: usize = 0x08;
const RTCIMSC: usize = 0x10;
const RTCRIS: usize = 0x14;
const RTCICR: usize = 0x1c;

/// The clock of the device tree.
#[derive(Debug)]
pub(crate) struct Clock {
    registers: Registers,
    interrupt: Interrupt,
}

impl Clock {
    pub(crate) fn find() -> Option<Self> {
        let node = find_compatible(&["arm,pl031"])?;
        let base = reg(node, 0)?.start as usize;
        Some(Self {
            // SAFETY: the node's registers are a page of a PL031, which reaches no memory.
            registers: unsafe { Registers::new(base) },
            interrupt: interrupt(node, 0)?,
        })
    }

    /// What it shows.
    pub(crate) fn seconds(&self) -> u32 {
        self.registers.read(RTCDR)
    }

    /// Makes it show `seconds`.
    pub(crate) fn set(&self, seconds: u32) {
        self.registers.write(RTCLR, seconds);
    }

    /// Rings in so many seconds.
    pub(crate) fn alarm_in(&self, seconds: u32) {
        self.registers.write(RTCMR, self.seconds().wrapping_add(seconds));
        self.registers.write(RTCIMSC, 1);
    }

    /// Whether it rings, heard or not.
    pub(crate) fn has_matched(&self) -> bool {
        self.registers.read(RTCRIS) == 1
    }

    /// Whether it may interrupt.
    pub(crate) fn is_enabled(&self) -> bool {
        self.registers.read(RTCIMSC) == 1
    }

    /// Ends the ringing.
    pub(crate) fn acknowledge(&self) {
        self.registers.write(RTCICR, 1);
    }

    /// Waits for the interrupt; whether it came within `microseconds`.
    pub(crate) fn await_interrupt(&self, gic: &Gic, microseconds: u64) -> bool {
        gic.enable(self.interrupt.intid, self.interrupt.edge);
        let end = timer::now() + timer::ticks(microseconds);
        let mut came = false;
        while !came && timer::now() < end {
            while let Some(acknowledged) = gic.acknowledge() {
                came |= acknowledged.intid == self.interrupt.intid;
                gic.end(acknowledged);
                if came {
                    break;
                }
            }
        }
        gic.disable(self.interrupt.intid);
        came
    }
}
