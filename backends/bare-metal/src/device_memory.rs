//! What of a guest's memory a device's requests may name, as the manifest says: all of it, a window, or what the guest
//! grants.

use alloc::boxed::Box;
use core::fmt;

use guest_runtime::window::{NoRoom, Window};
use portunus_virtio::grants::GrantMemory;
use portunus_virtio::memory::{GuestAddress, GuestMemory, MemoryError, Part, Piece, RingArea};

use crate::config::{MemoryAccess, ServedConfig};
use crate::grants::XenGranter;
use crate::guest_memory::GuestRam;

/// The memory of a device's requests.
#[derive(Debug)]
pub(crate) enum DeviceMemory {
    /// What the device tree names, mapped on first use.
    Mapped(GuestRam),
    /// What the guest grants.
    Granted(Box<GrantMemory<XenGranter>>),
}

impl DeviceMemory {
    /// Room for it; nothing is mapped yet.
    pub(crate) fn new(config: &ServedConfig, window: &mut Window) -> Result<Self, NoRoom> {
        Ok(match config.memory_access {
            MemoryAccess::All | MemoryAccess::Window => {
                Self::Mapped(GuestRam::new(config.guest, &config.guest_memory, window)?)
            }
            MemoryAccess::Grants => Self::Granted(Box::new(GrantMemory::new(XenGranter::new(config.guest, window)?))),
        })
    }

    /// The guest's map has changed.
    pub(crate) fn invalidate(&self) {
        match self {
            Self::Mapped(ram) => ram.invalidate(),
            // A grant outlasts what the guest does to its map.
            Self::Granted(_) => {}
        }
    }
}

/// What was mapped, for the console.
impl fmt::Display for DeviceMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mapped(ram) => {
                write!(f, "{} foreign pages mapped", ram.mapped_pages())?;
                match ram.drops() {
                    0 => Ok(()),
                    drops => write!(f, ", all dropped {drops} times"),
                }
            }
            Self::Granted(memory) => {
                let counts = memory.granter().counts();
                write!(
                    f,
                    "0 foreign pages mapped, {} grants copied, {} mapped, {} of them now",
                    counts.copies, counts.maps, counts.mapped_now
                )
            }
        }
    }
}

macro_rules! either {
    ($self:expr, $memory:ident => $call:expr) => {
        match $self {
            Self::Mapped($memory) => $call,
            Self::Granted($memory) => $call,
        }
    };
}

impl GuestMemory for DeviceMemory {
    fn read(&self, at: GuestAddress, into: &mut [u8]) -> Result<(), MemoryError> {
        either!(self, memory => memory.read(at, into))
    }
    fn write(&self, at: GuestAddress, from: &[u8]) -> Result<(), MemoryError> {
        either!(self, memory => memory.write(at, from))
    }
    fn load_acquire_u16(&self, at: GuestAddress) -> Result<u16, MemoryError> {
        either!(self, memory => memory.load_acquire_u16(at))
    }
    fn store_release_u16(&self, at: GuestAddress, value: u16) -> Result<(), MemoryError> {
        either!(self, memory => memory.store_release_u16(at, value))
    }
    fn gather(&self, pieces: impl Iterator<Item = Piece>, into: &mut [u8]) -> Result<(), MemoryError> {
        either!(self, memory => memory.gather(pieces, into))
    }
    fn scatter<'a>(&self, parts: impl Iterator<Item = Part<'a>>) -> Result<(), MemoryError> {
        either!(self, memory => memory.scatter(parts))
    }
    fn is_far(&self) -> bool {
        either!(self, memory => memory.is_far())
    }
    fn hold(&self, ring: RingArea) -> Result<(), MemoryError> {
        either!(self, memory => memory.hold(ring))
    }
    fn release(&self, ring: RingArea) {
        either!(self, memory => memory.release(ring))
    }
}
