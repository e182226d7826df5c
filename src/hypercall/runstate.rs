//! Where a vCPU's time account is published (VCPUOP_register_runstate_memory_area).
//!
//! The structure can lie across two pages, so its place is up to two pieces of physical memory, found once when it is
//! registered.

use zerocopy::IntoBytes;

use super::host::Host;
use crate::abi::HypercallError;
use crate::abi::vcpu::RunstateInfo;
use crate::ids::{PAGE_SIZE, Pa};
use crate::memory::PhysicalMemory;

const SIZE: u64 = size_of::<RunstateInfo>() as u64;

/// The place of one vCPU's [`RunstateInfo`].
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct RunstateArea {
    first: Pa,
    /// Bytes at `first`; the rest is at `second`.
    length: u64,
    second: Option<Pa>,
}

impl RunstateArea {
    /// Finds the area at a virtual address of the caller.
    ///
    /// # Errors
    /// EINVAL: not a multiple of 8; EFAULT: not writable RAM.
    pub fn at<H: Host>(host: &mut H, address: u64) -> Result<Self, HypercallError> {
        if !address.is_multiple_of(8) {
            return Err(HypercallError::Invalid);
        }
        let length = (PAGE_SIZE - address % PAGE_SIZE).min(SIZE);
        let next = address.checked_add(length).ok_or(HypercallError::BadPointer)?;
        let first = host.pin_address(address)?;
        let second = if length < SIZE {
            Some(host.pin_address(next)?)
        } else {
            None
        };
        Ok(Self { first, length, second })
    }

    /// Writes the account.
    pub fn publish<M: PhysicalMemory + ?Sized>(&self, memory: &M, info: &RunstateInfo) {
        let bytes = info.as_bytes();
        let (first, second) = bytes.split_at_checked(self.length as usize).unwrap_or((bytes, &[]));
        memory.write(self.first, first);
        if let Some(at) = self.second {
            memory.write(at, second);
        }
    }
}
