//! One access of a guest to an address that is not memory, in neutral form: what every emulated device and every server sees.

use crate::ids::Ipa;

/// How many bytes an access moves.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub enum AccessWidth {
    /// 1
    Byte,
    /// 2
    Halfword,
    /// 4
    Word,
    /// 8
    Doubleword,
}

impl AccessWidth {
    /// From the two lowest bits of a syndrome's SAS.
    pub const fn from_sas(sas: u64) -> Self {
        match sas & 3 {
            0 => Self::Byte,
            1 => Self::Halfword,
            2 => Self::Word,
            _ => Self::Doubleword,
        }
    }
    /// From 1, 2, 4 or 8.
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        match bytes {
            1 => Some(Self::Byte),
            2 => Some(Self::Halfword),
            4 => Some(Self::Word),
            8 => Some(Self::Doubleword),
            _ => None,
        }
    }
    /// 1, 2, 4 or 8.
    pub const fn bytes(self) -> u64 {
        1 << self as u64
    }
    /// The bits of a register that such an access moves.
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }
}

/// Which way the bytes go.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub enum Direction {
    /// A load.
    Read,
    /// A store of this value, masked to the width.
    Write(u64),
}

/// One access: address, width, direction.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub struct MmioAccess {
    /// Where.
    pub ipa: Ipa,
    /// How wide.
    pub width: AccessWidth,
    /// Load, or store of a value.
    pub direction: Direction,
}
