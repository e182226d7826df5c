//! The guest's memory as ring code may touch it: copies and single ordered words, never a reference.

use core::fmt;
use core::sync::atomic::{Ordering, fence};

/// An address as the driver wrote it into a ring or a register.
#[derive(Copy, Clone, Default, Eq, PartialEq, Ord, PartialOrd, Hash)]
#[repr(transparent)]
pub struct GuestAddress(pub u64);

impl fmt::Debug for GuestAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GuestAddress({:#x})", self.0)
    }
}

/// Memory that the driver named is not there, or may not be touched.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no guest memory at {:#x}", .0.0)]
pub struct MemoryError(pub GuestAddress);

/// Access to one guest's memory.
///
/// Addresses come from the guest and are checked by the implementation, each time. A range may cross pages. The guest
/// may change any byte at any time; nothing read twice need be equal.
pub trait GuestMemory {
    /// Copies `into.len()` bytes out of the guest's memory. On an error `into` holds anything.
    fn read(&self, at: GuestAddress, into: &mut [u8]) -> Result<(), MemoryError>;
    /// Copies `from` into the guest's memory. On an error part of it may be written.
    fn write(&self, at: GuestAddress, from: &[u8]) -> Result<(), MemoryError>;
    /// One load of an aligned little-endian 16-bit word; later accesses are not seen before it.
    fn load_acquire_u16(&self, at: GuestAddress) -> Result<u16, MemoryError>;
    /// One store of an aligned little-endian 16-bit word; earlier accesses are seen before it.
    fn store_release_u16(&self, at: GuestAddress, value: u16) -> Result<(), MemoryError>;
    /// Orders all earlier accesses before all later ones, a store before a load too.
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

impl<M: GuestMemory + ?Sized> GuestMemory for &M {
    fn read(&self, at: GuestAddress, into: &mut [u8]) -> Result<(), MemoryError> {
        (**self).read(at, into)
    }
    fn write(&self, at: GuestAddress, from: &[u8]) -> Result<(), MemoryError> {
        (**self).write(at, from)
    }
    fn load_acquire_u16(&self, at: GuestAddress) -> Result<u16, MemoryError> {
        (**self).load_acquire_u16(at)
    }
    fn store_release_u16(&self, at: GuestAddress, value: u16) -> Result<(), MemoryError> {
        (**self).store_release_u16(at, value)
    }
    fn fence(&self) {
        (**self).fence();
    }
}
