//! Numbers at random that are often interesting: a seed gives the same ones every time.

use portunus::ids::DomainId;

use crate::world::{
    BACKEND, DISK, DISTRIBUTOR, EMPTY_GFN, GUEST, RAM, RAM_PAGES, REDISTRIBUTOR, SCRATCH, STRANGER, UART,
};

/// Marsaglia's xorshift64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
    pub(crate) fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// A guest frame: RAM, the window, or far away.
    pub(crate) fn gfn(&mut self) -> u64 {
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

    pub(crate) fn address(&mut self) -> u64 {
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

    pub(crate) fn domain(&mut self) -> u16 {
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

    pub(crate) fn number(&mut self) -> u64 {
        match self.below(6) {
            0 => self.next(),
            1 => self.next() >> self.below(64),
            2 => self.address(),
            3 => SCRATCH + self.below(32) * 8,
            _ => self.below(40),
        }
    }
}
