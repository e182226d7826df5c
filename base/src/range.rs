//! Spans of addresses, physical and guest-physical.
//!
//! Guarantee: no operation overflows, whatever a device tree says.

use core::fmt;

use crate::ids::{Ipa, Pa};

macro_rules! range {
    ($(#[$doc:meta])* $name:ident of $address:ident) => {
        $(#[$doc])*
        #[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Ord, PartialOrd, Hash)]
        pub struct $name {
            /// The first byte.
            pub start: $address,
            /// Bytes.
            pub size: u64,
        }

        impl $name {
            /// `size` bytes from `start`.
            pub const fn new(start: u64, size: u64) -> Self {
                Self { start: $address(start), size }
            }
            /// One past the last byte; saturates at the end of the address space.
            pub const fn end(self) -> u64 {
                self.start.0.saturating_add(self.size)
            }
            /// Whether it holds no byte.
            pub const fn is_empty(self) -> bool {
                self.size == 0
            }
            /// Whether its last byte has a 64-bit address.
            pub const fn fits(self) -> bool {
                self.size == 0 || self.start.0.checked_add(self.size - 1).is_some()
            }
            /// Whether `self` and `other` share a byte.
            pub const fn overlaps(self, other: Self) -> bool {
                self.start.0 < other.end() && other.start.0 < self.end()
            }
            /// Whether every byte of `other` is in `self`.
            pub const fn contains(self, other: Self) -> bool {
                self.start.0 <= other.start.0 && other.end() <= self.end()
            }
            /// The pages that it touches.
            pub const fn pages(self) -> Self {
                let start = self.start.page().0;
                let end = match self.end().checked_next_multiple_of(crate::ids::PAGE_SIZE) {
                    Some(end) => end,
                    None => u64::MAX - (crate::ids::PAGE_SIZE - 1),
                };
                Self::new(start, end.saturating_sub(start))
            }
            /// Whether start and size are multiples of `alignment`, a power of two.
            pub const fn is_aligned(self, alignment: u64) -> bool {
                (self.start.0 | self.size) & (alignment - 1) == 0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}..{:#x}", self.start.0, self.end())
            }
        }
    };
}

range! {
    /// Physical addresses of the machine.
    PaRange of Pa
}
range! {
    /// Addresses that a guest calls physical.
    IpaRange of Ipa
}
