//! The buffered page of an IOREQ server, as its owner reads it: writes that their vCPUs did not wait for.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use portunus::abi::ioreq::{BUFFERED_FIRST_SLOT, BUFFERED_SLOTS, BufferedIoreq};
use portunus::abi::memory::IOREQ_SERVER_FRAME_BUFFERED;

use crate::hypercall::{Result, memory};

/// One write that was posted.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Posted {
    /// Bits 19:0 of the guest-physical address.
    pub address: u32,
    /// 1, 2, 4 or 8.
    pub bytes: u8,
    /// What was written.
    pub value: u64,
}

/// A buffered page that is mapped. The hypervisor writes it meanwhile.
#[derive(Copy, Clone, Debug)]
pub struct BufferedPage(*mut u64);

impl BufferedPage {
    /// Maps the page of server `id` of `domain` at `address` of the window.
    ///
    /// # Safety
    /// Nothing uses the page at `address`, and nothing but this value ever will.
    ///
    /// # Errors
    /// The hypercall's.
    pub unsafe fn map(domain: u16, id: u16, address: u64) -> Result<Self> {
        // SAFETY: the caller gives the page.
        unsafe { memory::map_ioreq_page(domain, id, IOREQ_SERVER_FRAME_BUFFERED, address / 4096) }?;
        Ok(Self(address as *mut u64))
    }

    /// Both pointers, read pointer in the low half: they are changed together.
    pub fn pointers(&self) -> &AtomicU64 {
        // SAFETY: the page is mapped for the domain's life, and its first word is used atomically only.
        unsafe { AtomicU64::from_ptr(self.0) }
    }

    fn read_pointer(&self) -> &AtomicU32 {
        // SAFETY: as above; the low half of a little-endian word.
        unsafe { AtomicU32::from_ptr(self.0.cast()) }
    }

    fn slot(&self, pointer: u32) -> BufferedIoreq {
        let first = self
            .0
            .wrapping_byte_add(BUFFERED_FIRST_SLOT as usize)
            .cast::<BufferedIoreq>();
        // SAFETY: within the page, aligned; any bytes are a slot. Volatile: one copy, now.
        unsafe { first.wrapping_add(pointer as usize % BUFFERED_SLOTS).read_volatile() }
    }

    /// Takes the oldest write.
    pub fn take(&self) -> Option<Posted> {
        let pointers = self.pointers().load(Ordering::Acquire);
        let (read, write) = (pointers as u32, (pointers >> 32) as u32);
        if read == write {
            return None;
        }
        let slot = self.slot(read);
        let mut value = u64::from(slot.data);
        let mut slots = 1;
        if slot.bytes() == 8 {
            value |= u64::from(self.slot(read.wrapping_add(1)).data) << 32;
            slots = 2;
        }
        // The hypervisor may have made both pointers smaller meanwhile: only a difference may be stored.
        self.read_pointer().fetch_add(slots, Ordering::Release);
        Some(Posted {
            address: slot.address(),
            bytes: slot.bytes(),
            value,
        })
    }
}
