//! The page of a PV console: two rings of bytes (Xen public `io/console.h`).
//!
//! Indices run freely and are taken modulo the size of their ring. The guest produces *out* and consumes *in*; whoever
//! has moved an index sends on the console's event channel. The page is named by `hvm_op::PARAM_CONSOLE_PFN`, the channel
//! by `hvm_op::PARAM_CONSOLE_EVTCHN`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of the ring to the guest.
pub const IN_SIZE: u32 = 1024;
/// Bytes of the ring from the guest.
pub const OUT_SIZE: u32 = 2048;

/// The part of the page that is used (`xencons_interface`).
#[derive(Copy, Clone, Debug, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Interface {
    /// To the guest.
    pub input: [u8; IN_SIZE as usize],
    /// From the guest.
    pub output: [u8; OUT_SIZE as usize],
    /// The guest has taken so much of `input`.
    pub in_cons: u32,
    /// So much was put into `input`.
    pub in_prod: u32,
    /// So much of `output` was taken.
    pub out_cons: u32,
    /// The guest has put so much into `output`.
    pub out_prod: u32,
    /// [`CONNECTED`]: somebody serves the rings.
    pub connection: u32,
}

/// [`Interface::connection`], whose other bytes are zero.
pub const CONNECTED: u32 = 0;

impl Interface {
    /// Offset of [`Self::input`].
    pub const IN_OFFSET: u64 = 0;
    /// Offset of [`Self::output`].
    pub const OUT_OFFSET: u64 = 1024;
    /// Offset of [`Self::in_cons`].
    pub const IN_CONS_OFFSET: u64 = 3072;
    /// Offset of [`Self::in_prod`].
    pub const IN_PROD_OFFSET: u64 = 3076;
    /// Offset of [`Self::out_cons`].
    pub const OUT_CONS_OFFSET: u64 = 3080;
    /// Offset of [`Self::out_prod`].
    pub const OUT_PROD_OFFSET: u64 = 3084;
}

const _: () = assert!(size_of::<Interface>() == 3092);
