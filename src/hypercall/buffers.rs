//! Structures in the caller's memory: copied in once, copied out whole.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::abi::HypercallError;

/// The caller's memory by its virtual addresses, with its kernel's rights.
///
/// EFAULT, with nothing written, unless stage 1 allows the access at EL1 and every page is ordinary RAM that the caller
/// owns: not foreign, not shared with the hypervisor, not a device.
pub trait GuestBuffers {
    /// Copies out of the caller's memory.
    ///
    /// # Errors
    /// EFAULT.
    fn read(&mut self, address: u64, into: &mut [u8]) -> Result<(), HypercallError>;
    /// Copies into the caller's memory.
    ///
    /// # Errors
    /// EFAULT.
    fn write(&mut self, address: u64, from: &[u8]) -> Result<(), HypercallError>;
}

/// Reads a structure.
///
/// # Errors
/// EFAULT.
pub fn read_value<T: FromZeros + FromBytes + IntoBytes>(
    buffers: &mut impl GuestBuffers,
    address: u64,
) -> Result<T, HypercallError> {
    let mut value = T::new_zeroed();
    buffers.read(address, value.as_mut_bytes())?;
    Ok(value)
}

/// Writes a structure.
///
/// # Errors
/// EFAULT.
pub fn write_value<T: IntoBytes + Immutable>(
    buffers: &mut impl GuestBuffers,
    address: u64,
    value: &T,
) -> Result<(), HypercallError> {
    buffers.write(address, value.as_bytes())
}

/// Reads a structure with results in it and makes sure that it can be written back, before anything is done.
///
/// # Errors
/// EFAULT.
pub fn read_for_update<T: FromZeros + FromBytes + IntoBytes + Immutable>(
    buffers: &mut impl GuestBuffers,
    address: u64,
) -> Result<T, HypercallError> {
    let value = read_value(buffers, address)?;
    write_value(buffers, address, &value)?;
    Ok(value)
}

/// The address of element `index` of an array of `size`-byte elements at `base`.
///
/// # Errors
/// EFAULT when it is beyond the address space.
pub fn element(base: u64, index: u64, size: usize) -> Result<u64, HypercallError> {
    let offset = index.checked_mul(size as u64);
    offset
        .and_then(|offset| base.checked_add(offset))
        .ok_or(HypercallError::BadPointer)
}
