//! A vCPU's slot in a server's synchronous page.
//!
//! The server can write anything there at any time. So the hypervisor keeps its own copy of the request, and reads back
//! only the state and the data, once each. The state is written last, with release order; it is read with acquire order
//! before the data.

use zerocopy::IntoBytes;

use crate::abi::ioreq::{Ioreq, State, TYPE_COPY, TYPE_INVALIDATE};
use crate::access::{Direction, MmioAccess};
use crate::ids::{EventPort, Pa};
use crate::memory::PhysicalMemory;

/// Offset of the word that begins with [`Ioreq::count`].
const COUNT_WORD: u64 = 16;
/// Offset of the word that begins with [`Ioreq::vp_eport`], and where [`Ioreq::flags`] is in it.
const LAST_WORD: u64 = Ioreq::PORT_OFFSET;
const FLAGS_SHIFT: u64 = 8 * (Ioreq::FLAGS_OFFSET - LAST_WORD);

/// Bytes that an INVALIDATE says it writes (Xen).
const INVALIDATE_SIZE: u32 = 4;

/// Where a slot is, and the port that the server was told to answer on.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Slot {
    /// The server's synchronous page.
    pub page: Pa,
    /// The vCPU of the target.
    pub vcpu: u8,
    /// The target's port for it.
    pub port: EventPort,
}

/// The server left something in the slot that forbids a request.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SlotError {
    /// The state is not NONE.
    #[error("the slot is in state {0}")]
    BadState(u8),
    /// Somebody changed the port.
    #[error("the slot names port {0}")]
    BadPort(u32),
}

/// What the server did with a request, as far as the slot says.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Reading {
    /// READY or INPROCESS, in any order: it works on it.
    Working,
    /// IORESP_READY: the data, unmasked.
    Answered(u64),
    /// NONE, or a state that does not exist.
    Nonsense(u8),
}

impl Slot {
    #[inline]
    fn address(&self) -> Pa {
        Pa(self.page.0 + u64::from(self.vcpu) * Ioreq::SIZE)
    }

    #[inline]
    fn at(&self, offset: u64) -> Pa {
        Pa(self.address().0 + offset)
    }

    /// Empties the slot and tells the server its port.
    pub fn reset<M: PhysicalMemory + ?Sized>(&self, memory: &M) {
        let empty = Ioreq {
            vp_eport: self.port.0,
            ..Ioreq::default()
        };
        memory.write(self.address(), empty.as_bytes());
    }

    /// Hands a request to the server: everything but the state first, then READY.
    ///
    /// # Errors
    /// [`SlotError`] when the slot is not as the hypervisor left it; nothing is written.
    #[inline]
    pub fn begin<M: PhysicalMemory + ?Sized>(&self, memory: &M, access: &MmioAccess) -> Result<(), SlotError> {
        self.check(memory)?;
        let (data, direction) = match access.direction {
            Direction::Read => (0, Ioreq::READ),
            Direction::Write(value) => (value & access.width.mask(), 0),
        };
        // By words, each as `Ioreq` has it: `addr`; `data`; `count` and `size`; the port, no padding, the flags, the kind.
        memory.store_u64(self.address(), access.ipa.0);
        memory.store_u64(self.at(Ioreq::DATA_OFFSET), data);
        memory.store_u64(self.at(COUNT_WORD), access.width.bytes() << 32 | 1);
        let flags_and_kind = u64::from(direction | State::READY.0) | u64::from(TYPE_COPY) << 8;
        memory.store_u64(
            self.at(LAST_WORD),
            flags_and_kind << FLAGS_SHIFT | u64::from(self.port.0),
        );
        Ok(())
    }

    /// Hands over the news that a page has left the target's map, as Xen does: by the type and a state alone, with all else
    /// as of a write of ones to address 0.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub fn invalidate<M: PhysicalMemory + ?Sized>(&self, memory: &M) -> Result<(), SlotError> {
        self.check(memory)?;
        let request = Ioreq {
            data: u64::MAX,
            size: INVALIDATE_SIZE,
            vp_eport: self.port.0,
            kind: TYPE_INVALIDATE,
            ..Ioreq::default()
        };
        memory.write(self.address(), request.as_bytes());
        memory.store_u8(self.at(Ioreq::FLAGS_OFFSET), State::READY.0);
        Ok(())
    }

    /// Whether the slot is as the hypervisor left it.
    #[inline]
    fn check<M: PhysicalMemory + ?Sized>(&self, memory: &M) -> Result<(), SlotError> {
        let last = memory.load_u64(self.at(LAST_WORD));
        let state = (last >> FLAGS_SHIFT) as u8 & Ioreq::STATE_MASK;
        if state != State::NONE.0 {
            return Err(SlotError::BadState(state));
        }
        if last as u32 != self.port.0 {
            return Err(SlotError::BadPort(last as u32));
        }
        Ok(())
    }

    /// Looks at the slot of a request in flight. An answer is taken: the slot is empty afterwards.
    #[inline]
    pub fn poll<M: PhysicalMemory + ?Sized>(&self, memory: &M) -> Reading {
        let flags = memory.load_u8(self.at(Ioreq::FLAGS_OFFSET));
        match State(flags & Ioreq::STATE_MASK) {
            State::READY | State::INPROCESS => Reading::Working,
            State::IORESP_READY => {
                let data = memory.load_u64(self.at(Ioreq::DATA_OFFSET));
                memory.store_u8(self.at(Ioreq::FLAGS_OFFSET), State::NONE.0);
                Reading::Answered(data)
            }
            State(other) => Reading::Nonsense(other),
        }
    }
}
