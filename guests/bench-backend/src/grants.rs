//! What this domain grants to others: its grant table, of as many entries as
//! are wanted, mapped in the window that the device tree names.

use core::sync::atomic::{Ordering, fence};

use guest_runtime::device_tree::{self, device_tree};
use guest_runtime::hypercall::{self, memory};
use guest_runtime::mmu::{self, Attribute};
use portunus::abi::grant::{ENTRIES_PER_FRAME, GrantEntry};

const PAGE: u64 = 4096;
/// Entries below this one are reserved (Xen public `grant_table.h`).
pub(crate) const FIRST: u32 = 8;

/// This domain's table.
#[derive(Debug)]
pub(crate) struct Grants {
    entries: *mut GrantEntry,
    count: u32,
}

impl Grants {
    /// Maps a table of at least `entries` entries; `None`: there is no window, or not so many are allowed. To be called once.
    pub(crate) fn init(entries: u32) -> Option<Self> {
        let node = device_tree().find_node("/hypervisor")?;
        let window = device_tree::reg(node, 0)?;
        let frames = entries.div_ceil(ENTRIES_PER_FRAME).max(1);
        if u64::from(frames) * PAGE > window.end - window.start {
            return None;
        }
        // The last one first: the table grows once.
        for index in (0..u64::from(frames)).rev() {
            // SAFETY: the window is for this.
            unsafe { memory::map_grant_table(index, window.start / PAGE + index) }.ok()?;
        }
        // SAFETY: nothing else of this domain is there.
        unsafe { mmu::map(window.start..window.start + u64::from(frames) * PAGE, Attribute::Normal) };
        Some(Self {
            entries: window.start as *mut GrantEntry,
            count: frames * ENTRIES_PER_FRAME,
        })
    }

    /// Lets `domain` use the frame at guest frame `frame` by entry `reference`, for reading or also for writing.
    ///
    /// # Safety
    /// Another domain may write there at any time.
    pub(crate) unsafe fn grant(
        &mut self,
        reference: u32,
        domain: u16,
        frame: u64,
        writable: bool,
    ) -> hypercall::Result<()> {
        let flags = if writable { 0 } else { GrantEntry::READ_ONLY } | GrantEntry::PERMIT_ACCESS;
        if reference >= self.count {
            return Err(portunus::abi::HypercallError::Range);
        }
        // SAFETY: the entry is inside the table, which is shared with the hypervisor: it is written as the ABI says, the
        // flags last.
        unsafe {
            let entry = self.entries.add(reference as usize);
            (&raw mut (*entry).domid).write_volatile(domain);
            (&raw mut (*entry).frame).write_volatile(frame as u32);
            fence(Ordering::Release);
            (&raw mut (*entry).flags).write_volatile(flags);
        }
        Ok(())
    }
}
