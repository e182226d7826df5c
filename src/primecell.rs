//! What Arm's PrimeCell peripherals have in common: a frame of 32-bit registers, with identification in its last words.

use thiserror::Error;

use crate::access::AccessWidth;

/// Bytes of the register frame.
pub const FRAME_SIZE: u64 = 0x1000;
/// PeriphID0; the other identification registers follow.
pub(crate) const PERIPH_ID0: u64 = 0xfe0;

/// An access that no such peripheral answers.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Error)]
pub enum BadAccess {
    /// Past the frame, not aligned to its width, or 8 bytes wide.
    #[error("{width:?} at offset {offset:#x}")]
    Shape {
        /// Offset in the frame.
        offset: u64,
        /// Width.
        width: AccessWidth,
    },
}

/// The register that an access is to, and the byte of it that the access begins at.
///
/// # Errors
/// [`BadAccess::Shape`].
#[inline]
pub(crate) const fn register_and_lane(offset: u64, width: AccessWidth) -> Result<(u64, u64), BadAccess> {
    if offset >= FRAME_SIZE || !offset.is_multiple_of(width.bytes()) || matches!(width, AccessWidth::Doubleword) {
        return Err(BadAccess::Shape { offset, width });
    }
    Ok((offset & !3, offset & 3))
}

/// What the identification register `register`, at [`PERIPH_ID0`] or above, reads: a byte of PeriphID0 to 3, then of
/// PCellID0 to 3.
pub(crate) fn identification(bytes: [u8; 8], register: u64) -> u8 {
    let index = usize::try_from(register.wrapping_sub(PERIPH_ID0) / 4);
    index.ok().and_then(|index| bytes.get(index).copied()).unwrap_or(0)
}
