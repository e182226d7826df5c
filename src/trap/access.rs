//! One memory access of a guest to an emulated address, in neutral form.

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
    /// 1, 2, 4 or 8.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Byte => 1,
            Self::Halfword => 2,
            Self::Word => 4,
            Self::Doubleword => 8,
        }
    }
    /// The bits of a register that such an access moves.
    pub const fn mask(self) -> u64 {
        match self {
            Self::Byte => 0xff,
            Self::Halfword => 0xffff,
            Self::Word => 0xffff_ffff,
            Self::Doubleword => u64::MAX,
        }
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
