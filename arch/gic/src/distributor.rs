//! The registers that GICv2's distributor, GICv3's distributor and its redistributors' SGI frames share: the same bits at
//! the same offsets (GIC specification, 12.9 and 12.11; GICv2, 4.3).

use portunus::ids::IntId;
use portunus::registers::DeviceRegisters;

use crate::PRIORITY;

const IGROUPR: usize = 0x080;
const ISENABLER: usize = 0x100;
const ICENABLER: usize = 0x180;
const ICPENDR: usize = 0x280;
const ISACTIVER: usize = 0x300;
const ICACTIVER: usize = 0x380;
const IPRIORITYR: usize = 0x400;
const ICFGR: usize = 0xc00;

/// One such bank of registers.
#[derive(Copy, Clone, Debug)]
pub struct Bank<R>(pub R);

/// The word of a one-bit-each register, and the bit in it.
const fn bit(interrupt: IntId) -> (usize, u32) {
    (interrupt.0 as usize / 32 * 4, 1 << (interrupt.0 % 32))
}

impl<R: DeviceRegisters> Bank<R> {
    /// Disables and clears 32 interrupts from `first` on, and gives them the one priority. In group 1 where the
    /// controller has one security state or lets the Non-secure state choose; elsewhere the write is ignored.
    pub fn reset(&self, first: u32, group1: bool) {
        let (word, _) = bit(IntId(first));
        self.0.write_u32(ICENABLER + word, u32::MAX);
        self.0.write_u32(ICPENDR + word, u32::MAX);
        self.0.write_u32(ICACTIVER + word, u32::MAX);
        if group1 {
            self.0.write_u32(IGROUPR + word, u32::MAX);
        }
        for quad in (first as usize..first as usize + 32).step_by(4) {
            self.0.write_u32(IPRIORITYR + quad, u32::from_ne_bytes([PRIORITY; 4]));
        }
    }

    /// Lets an interrupt through, or not.
    pub fn enable(&self, interrupt: IntId, enabled: bool) {
        let (word, bit) = bit(interrupt);
        self.0
            .write_u32(if enabled { ISENABLER } else { ICENABLER } + word, bit);
    }

    /// Sets the trigger of an interrupt that is disabled. Two bits each: the upper one says edge. A read-modify-write: callers
    /// serialise.
    pub fn configure(&self, interrupt: IntId, edge: bool) {
        let word = ICFGR + interrupt.0 as usize / 16 * 4;
        let bit = 2 << (interrupt.0 % 16 * 2);
        let old = self.0.read_u32(word);
        self.0.write_u32(word, if edge { old | bit } else { old & !bit });
    }

    /// Makes an interrupt not pending.
    pub fn clear_pending(&self, interrupt: IntId) {
        let (word, bit) = bit(interrupt);
        self.0.write_u32(ICPENDR + word, bit);
    }

    /// Makes an interrupt active or inactive.
    pub fn set_active(&self, interrupt: IntId, active: bool) {
        let (word, bit) = bit(interrupt);
        self.0.write_u32(if active { ISACTIVER } else { ICACTIVER } + word, bit);
    }
}
