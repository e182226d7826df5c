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

/// A part of a request's buffers that lies in one piece in the driver's addresses.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Piece {
    /// Its first byte.
    pub address: GuestAddress,
    /// Its length in bytes.
    pub length: usize,
}

/// Bytes that go into one piece of a request's buffers.
#[derive(Copy, Clone, Debug)]
pub struct Part<'a> {
    /// Where the first one goes.
    pub to: GuestAddress,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// One of a queue's three rings.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct RingArea {
    /// Its first byte.
    pub address: GuestAddress,
    /// Its length in bytes.
    pub length: u32,
    /// The device writes there, too.
    pub writable: bool,
}

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
    /// Copies `pieces` one after the other into `into`, which is as long as all of them.
    fn gather(&self, pieces: impl Iterator<Item = Piece>, mut into: &mut [u8]) -> Result<(), MemoryError> {
        for piece in pieces {
            let error = MemoryError(piece.address);
            let (part, rest) = into.split_at_mut_checked(piece.length).ok_or(error)?;
            self.read(piece.address, part)?;
            into = rest;
        }
        Ok(())
    }
    /// Copies each of `parts` to its place.
    fn scatter<'a>(&self, parts: impl Iterator<Item = Part<'a>>) -> Result<(), MemoryError> {
        for part in parts {
            self.write(part.to, part.bytes)?;
        }
        Ok(())
    }
    /// Whether it is dear to look at a table of descriptors that lies among a request's buffers: then none is offered.
    fn is_far(&self) -> bool {
        false
    }
    /// A queue's ring is used often from now on, until [`Self::release`].
    fn hold(&self, ring: RingArea) -> Result<(), MemoryError> {
        let _ = ring;
        Ok(())
    }
    /// A ring that was held is the driver's own again: nothing keeps it from being used for something else.
    fn release(&self, ring: RingArea) {
        let _ = ring;
    }
    /// Orders all earlier accesses before all later ones, a store before a load too.
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

impl<M: GuestMemory> GuestMemory for &M {
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
    fn gather(&self, pieces: impl Iterator<Item = Piece>, into: &mut [u8]) -> Result<(), MemoryError> {
        (**self).gather(pieces, into)
    }
    fn scatter<'a>(&self, parts: impl Iterator<Item = Part<'a>>) -> Result<(), MemoryError> {
        (**self).scatter(parts)
    }
    fn is_far(&self) -> bool {
        (**self).is_far()
    }
    fn hold(&self, ring: RingArea) -> Result<(), MemoryError> {
        (**self).hold(ring)
    }
    fn release(&self, ring: RingArea) {
        (**self).release(ring);
    }
    fn fence(&self) {
        (**self).fence();
    }
}
