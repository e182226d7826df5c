//! Requests of a guest's devices to the server that emulates them (Xen public `hvm/ioreq.h`).
//!
//! A server has one *synchronous* page: an array of [`Ioreq`], a slot for each vCPU of its target. The hypervisor fills
//! a slot, sets it to [`State::READY`] last and notifies; the server answers with [`State::IORESP_READY`].

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The request accesses memory-mapped registers.
pub const TYPE_COPY: u8 = 1;
/// The request accesses PCI configuration space; never made on Arm.
pub const TYPE_PCI_CONFIG: u8 = 2;
/// The server must drop what it cached of the target's memory.
pub const TYPE_INVALIDATE: u8 = 8;

/// The state of a slot: bits 3:0 of byte 30.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
#[repr(transparent)]
pub struct State(pub u8);

impl State {
    /// No request (STATE_IOREQ_NONE).
    pub const NONE: Self = Self(0);
    /// A request for the server (STATE_IOREQ_READY).
    pub const READY: Self = Self(1);
    /// The server works on it (STATE_IOREQ_INPROCESS).
    pub const INPROCESS: Self = Self(2);
    /// The server answered (STATE_IORESP_READY).
    pub const IORESP_READY: Self = Self(3);
}

/// One request (`struct ioreq`), 32 bytes.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ioreq {
    /// Guest-physical address.
    pub addr: u64,
    /// Value written, or the answer of a read.
    pub data: u64,
    /// Repetitions; always 1 on Arm.
    pub count: u32,
    /// Bytes: 1, 2, 4 or 8.
    pub size: u32,
    /// The target's port for this vCPU, for EVTCHNOP_bind_interdomain.
    pub vp_eport: u32,
    /// Padding.
    pub pad: u16,
    /// Bits 3:0 state, 4 data_is_ptr, 5 dir (1 = read), 6 df.
    pub flags: u8,
    /// [`TYPE_COPY`] or [`TYPE_INVALIDATE`].
    pub kind: u8,
}

impl Ioreq {
    /// Bytes of one slot.
    pub const SIZE: u64 = 32;
    /// Slots in one synchronous page.
    pub const PER_PAGE: usize = 128;
    /// Offset of [`Self::data`].
    pub const DATA_OFFSET: u64 = 8;
    /// Offset of [`Self::vp_eport`].
    pub const PORT_OFFSET: u64 = 24;
    /// Offset of [`Self::flags`].
    pub const FLAGS_OFFSET: u64 = 30;
    /// Bits of [`Self::flags`] that hold the state.
    pub const STATE_MASK: u8 = 0x0f;
    /// Bit of [`Self::flags`]: `data` is an address; never set on Arm.
    pub const DATA_IS_POINTER: u8 = 1 << 4;
    /// Bit of [`Self::flags`]: the guest reads.
    pub const READ: u8 = 1 << 5;

    /// The slot's state.
    pub const fn state(&self) -> State {
        State(self.flags & Self::STATE_MASK)
    }
    /// Sets the state and keeps the other flags.
    pub fn set_state(&mut self, state: State) {
        self.flags = (self.flags & !Self::STATE_MASK) | (state.0 & Self::STATE_MASK);
    }
    /// Whether the guest reads.
    pub const fn is_read(&self) -> bool {
        self.flags & Self::READ != 0
    }
    /// Whether `data` is an address.
    pub const fn data_is_pointer(&self) -> bool {
        self.flags & Self::DATA_IS_POINTER != 0
    }
}

/// One posted write (`struct buf_ioreq`), 8 bytes.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BufferedIoreq {
    /// Bits 7:0 type, 8 pad, 9 dir, 11:10 size code (0 = 1 byte to 3 = 8 bytes), 31:12 address bits 19:0.
    pub word: u32,
    /// The value, or half of it.
    pub data: u32,
}

impl BufferedIoreq {
    /// The request's type.
    pub const fn kind(&self) -> u8 {
        self.word as u8
    }
    /// Whether it is a read.
    pub const fn is_read(&self) -> bool {
        self.word & (1 << 9) != 0
    }
    /// How many bytes: 1, 2, 4 or 8.
    pub const fn bytes(&self) -> u8 {
        1 << ((self.word >> 10) & 3)
    }
    /// Bits 19:0 of the address.
    pub const fn address(&self) -> u32 {
        self.word >> 12
    }
}

/// Slots of a buffered page.
pub const BUFFERED_SLOTS: usize = 511;
/// Offset of the buffered page's read pointer (u32).
pub const BUFFERED_READ_POINTER: u64 = 0;
/// Offset of the buffered page's write pointer (u32).
pub const BUFFERED_WRITE_POINTER: u64 = 4;
/// Offset of the buffered page's first slot.
pub const BUFFERED_FIRST_SLOT: u64 = 8;

const _: () = {
    assert!(size_of::<Ioreq>() == 32);
    assert!(Ioreq::PER_PAGE * size_of::<Ioreq>() == 4096);
    assert!(size_of::<BufferedIoreq>() == 8);
    assert!(BUFFERED_FIRST_SLOT as usize + BUFFERED_SLOTS * size_of::<BufferedIoreq>() == 4096);
};
