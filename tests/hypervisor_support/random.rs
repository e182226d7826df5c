//! Numbers at random that are often interesting: a seed gives the same ones every time.

use portunus::fakes::Random;
use portunus::ids::DomainId;

use crate::world::{
    BACKEND, DISK, DISTRIBUTOR, EMPTY_GFN, GUEST, RAM, RAM_PAGES, REDISTRIBUTOR, SCRATCH, STRANGER, UART,
};

/// What domains may be told to do at random.
pub(crate) trait Odd {
    /// A guest frame: RAM, the window, or far away.
    fn gfn(&mut self) -> u64;
    /// An address of a device, of RAM, or any.
    fn address(&mut self) -> u64;
    /// A domain's number, of which some mean nobody.
    fn domain(&mut self) -> u16;
    /// An argument of a call.
    fn number(&mut self) -> u64;
}

impl Odd for Random {
    fn gfn(&mut self) -> u64 {
        let odd = [
            0,
            1 << 20,
            u64::MAX >> 12,
            u64::MAX,
            UART >> 12,
            DISK >> 12,
            DISTRIBUTOR >> 12,
            // The PV console.
            0x39000,
        ];
        match self.below(16) {
            0 => self.pick(&odd),
            1..8 => EMPTY_GFN + self.below(16),
            _ => (RAM >> 12) + RAM_PAGES - 1 - self.below(64),
        }
    }

    fn address(&mut self) -> u64 {
        let devices = [
            DISK,
            DISK + 0x1ff,
            UART,
            UART + 0xffc,
            DISTRIBUTOR,
            DISTRIBUTOR + 0x100,
            REDISTRIBUTOR,
        ];
        match self.below(8) {
            0 => self.next(),
            1 => self.gfn().wrapping_shl(12).wrapping_add(self.below(4096)),
            2 => SCRATCH + self.below(4096),
            3 => DISTRIBUTOR + self.below(0x1_0000),
            4 => REDISTRIBUTOR + self.below(0x4_0000),
            5 => UART + self.below(0x1000),
            _ => self.pick(&devices) + self.below(16) * 4,
        }
    }

    fn domain(&mut self) -> u16 {
        self.pick(&[
            GUEST.0,
            GUEST.0,
            BACKEND.0,
            STRANGER.0,
            DomainId::SELF.0,
            0,
            17,
            DomainId::INVALID.0,
        ])
    }

    fn number(&mut self) -> u64 {
        match self.below(6) {
            0 => self.next(),
            1 => self.next() >> self.below(64),
            2 => self.address(),
            3 => SCRATCH + self.below(32) * 8,
            _ => self.below(40),
        }
    }
}
