//! Where a vCPU's time account is published (VCPUOP_register_runstate_memory_area).
//!
//! The structure can lie across two pages, so its place is up to two pieces of physical memory, found once when it is
//! registered.

use core::mem::offset_of;
use core::sync::atomic::{Ordering, fence};

use zerocopy::IntoBytes;

use crate::abi::HypercallError;
use crate::abi::vcpu::RunstateInfo;
use crate::ids::{PAGE_SIZE, Pa};
use crate::memory::PhysicalMemory;

/// Offset of the word that has the mark.
const TIME: u64 = offset_of!(RunstateInfo, state_entry_time) as u64;
const SIZE: u64 = size_of::<RunstateInfo>() as u64;

/// The place of one vCPU's [`RunstateInfo`].
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct RunstateArea {
    first: Pa,
    /// Bytes at `first`; the rest is at `second`.
    length: u64,
    second: Option<Pa>,
    /// [`RunstateInfo::UPDATING`] is set while it changes.
    marked: bool,
}

impl RunstateArea {
    /// Finds the area at a virtual address of the caller; `pin` says where an address is in physical memory.
    ///
    /// # Errors
    /// EINVAL: not a multiple of 8; EFAULT: beyond the last address; what `pin` says.
    pub fn at(address: u64, mut pin: impl FnMut(u64) -> Result<Pa, HypercallError>) -> Result<Self, HypercallError> {
        if !address.is_multiple_of(8) {
            return Err(HypercallError::Invalid);
        }
        let length = (PAGE_SIZE - address % PAGE_SIZE).min(SIZE);
        let next = address.checked_add(length).ok_or(HypercallError::BadPointer)?;
        let first = pin(address)?;
        let second = if length < SIZE { Some(pin(next)?) } else { None };
        Ok(Self {
            first,
            length,
            second,
            marked: false,
        })
    }

    /// The same, marked while it changes or not.
    pub fn marked(self, marked: bool) -> Self {
        Self { marked, ..self }
    }

    /// Writes the account.
    pub fn publish<M: PhysicalMemory + ?Sized>(&self, memory: &M, info: &RunstateInfo) {
        if !self.marked {
            return self.write(memory, info);
        }
        let changing = RunstateInfo {
            state_entry_time: info.state_entry_time | RunstateInfo::UPDATING,
            ..*info
        };
        let time = match self.second {
            // The area is 8-byte aligned, so no word of it is in both pieces.
            Some(second) if self.length <= TIME => Pa(second.0 + (TIME - self.length)),
            _ => Pa(self.first.0 + TIME),
        };
        memory.store_u64(time, changing.state_entry_time);
        // Readers take the mark before they take the rest.
        fence(Ordering::SeqCst);
        self.write(memory, &changing);
        memory.store_u64(time, info.state_entry_time);
    }

    fn write<M: PhysicalMemory + ?Sized>(&self, memory: &M, info: &RunstateInfo) {
        let bytes = info.as_bytes();
        let (first, second) = bytes.split_at_checked(self.length as usize).unwrap_or((bytes, &[]));
        memory.write(self.first, first);
        if let Some(at) = self.second {
            memory.write(at, second);
        }
    }
}
