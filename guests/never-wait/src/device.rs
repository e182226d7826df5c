//! The device as its guest and its backend know it: a page of registers.
//!
//! Registers that are read are words of the shadow page; those that are written are different ones.

use core::ops::Range;

/// vCPUs of a guest that write, each to registers of its own.
pub(crate) const VCPUS: usize = 2;

/// Bytes of the page.
pub(crate) const PAGE: u64 = 4096;

/// Written, 4 bytes: a [`Command`] in bits 7:0, its argument above. The writer waits.
pub(crate) const CONTROL: u64 = 0x000;
/// Written, 8 bytes: the guest-physical address of the counters of rings, a word of 4 bytes every 64 bytes for each vCPU.
/// The writer waits.
pub(crate) const COUNTERS: u64 = 0x008;
/// From one counter to the next.
pub(crate) const COUNTER_STRIDE: usize = 64;
/// Read: bits of the interrupt.
pub(crate) const STATUS: u64 = 0x060;
/// Written, 4 bytes: clears those bits.
pub(crate) const ACK: u64 = 0x064;
/// Written, 4 bytes: 0, by the hypervisor, when the guest ends.
pub(crate) const DEVICE_STATUS: u64 = 0x070;

/// A register of a vCPU.
pub(crate) const fn of_vcpu(register: u64, vcpu: usize) -> u64 {
    0x100 + 0x100 * vcpu as u64 + register
}
/// Posted, 4 bytes: the number of this write among those that the vCPU posted, from 1.
pub(crate) const POST4: u64 = 0x00;
/// Posted, 8 bytes: the same, and its complement in the high half.
pub(crate) const POST8: u64 = 0x08;
/// What is posted of a vCPU.
pub(crate) const POSTED: Range<u64> = 0x00..0x10;
/// Written, 4 bytes: how many writes the vCPU has posted. The writer waits.
pub(crate) const SYNC: u64 = 0x10;
/// Rings, 4 bytes: any value.
pub(crate) const BELL: u64 = 0x20;

/// Read: [`LIVE`] and the number of the server's life.
pub(crate) const LIFE: u64 = 0x800;
/// The high half of [`LIFE`].
pub(crate) const LIVE: u32 = 0x4c49_0000;
/// Read: posted writes that came as requests because they could not be posted.
pub(crate) const FALLBACKS: u64 = 0x804;
/// Read: rings that came as requests.
pub(crate) const NAKED: u64 = 0x808;
/// Read: times that a doorbell's port had an event.
pub(crate) const WAKES: u64 = 0x80c;
/// Read: for each vCPU, the counter of its rings when the backend looked last.
pub(crate) const SEEN: u64 = 0x810;

/// What the backend is to do.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u32)]
pub(crate) enum Command {
    /// Nothing for so many milliseconds.
    Sleep = 1,
    /// Take all that is posted, then spoil the pointers of the buffered page in the way of this number.
    Spoil = 2,
    /// Put them right again.
    Mend = 3,
    /// Detach the kinds in this mask: [`DOORBELLS`], [`BUFFERED`], [`ACKNOWLEDGEMENT`].
    Detach = 4,
    /// Attach them again.
    Attach = 5,
    /// Destroy the server and make a new one.
    Rebirth = 6,
    /// Set the bits of the interrupt.
    Interrupt = 7,
}

impl Command {
    /// All of them.
    const ALL: [Self; 7] = [
        Self::Sleep,
        Self::Spoil,
        Self::Mend,
        Self::Detach,
        Self::Attach,
        Self::Rebirth,
        Self::Interrupt,
    ];

    /// The command and its argument in what was written.
    pub(crate) fn from_value(value: u32) -> Option<(Self, u32)> {
        let command = Self::ALL.into_iter().find(|command| *command as u32 == value & 0xff)?;
        Some((command, value >> 8))
    }

    /// What is written.
    pub(crate) const fn value(self, argument: u32) -> u32 {
        self as u32 | argument << 8
    }
}

/// Kinds, as a mask.
pub(crate) const DOORBELLS: u32 = 1;
pub(crate) const BUFFERED: u32 = 2;
pub(crate) const ACKNOWLEDGEMENT: u32 = 4;

/// Ways to spoil the pointers: what both are, read pointer low, from the write pointer as it is.
pub(crate) const SPOILED: [fn(u32) -> u64; 6] = [
    // The server has read what nobody wrote.
    |write| u64::from(write) << 32 | u64::from(write.wrapping_add(1)),
    // More is in the ring than it holds.
    |write| u64::from(write) << 32 | u64::from(write.wrapping_sub(512)),
    // It is full of what nobody wrote.
    |write| u64::from(write) << 32 | u64::from(write.wrapping_sub(511)),
    |write| u64::from(write) << 32 | u64::from(write.wrapping_sub(0x8000_0000)),
    |_| 0x7fff_ffff_ffff_ffff,
    |_| 0xffff_0000_0000_ffff,
];
