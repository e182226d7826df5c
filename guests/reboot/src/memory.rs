//! What a life finds in its RAM before it has used any of it.

use core::ops::Range;

use guest_runtime::device_tree::{self, device_tree};

const PAGE: u64 = 4096;

/// What is not zero from the start: the image with its stack and page tables, the device tree, the ramdisk.
pub(crate) struct Used([Range<u64>; 3]);

impl Used {
    pub(crate) fn read() -> Self {
        Self([guest_runtime::image(), device_tree::extent(), ramdisk()])
    }

    fn touches(&self, page: u64) -> bool {
        self.0.iter().any(|used| used.start < page + PAGE && page < used.end)
    }
}

/// Where the ramdisk is.
pub(crate) fn ramdisk() -> Range<u64> {
    let chosen = device_tree().find_node("/chosen");
    let end = |name| chosen.and_then(|node| device_tree::property_u64(node, name));
    match (end("linux,initrd-start"), end("linux,initrd-end")) {
        (Some(start), Some(end)) => start..end,
        _ => 0..0,
    }
}

/// A word that is not zero.
pub(crate) struct Dirt {
    pub(crate) address: u64,
    pub(crate) value: u64,
}

/// Looks at every page of RAM that is not in use; how many pages are zero. A word that is not is an error.
pub(crate) fn check_zero(used: &Used) -> Result<u64, Dirt> {
    let mut pages = 0;
    let mut found = Ok(());
    device_tree::each_memory(|bank| {
        for page in (bank.start..bank.end).step_by(PAGE as usize) {
            if used.touches(page) {
                continue;
            }
            pages += 1;
            for address in (page..page + PAGE).step_by(8) {
                // SAFETY: RAM of this guest that Rust does not know of while nothing was allocated.
                let value = unsafe { (address as *const u64).read_volatile() };
                if value != 0 && found.is_ok() {
                    found = Err(Dirt { address, value });
                }
            }
        }
    });
    found.map(|()| pages)
}

/// FNV-1a of bytes that nobody writes.
pub(crate) fn hash(range: Range<u64>) -> u64 {
    range.fold(0xcbf2_9ce4_8422_2325, |hash, address| {
        // SAFETY: code, constants, or the ramdisk: mapped, and never written.
        let byte = unsafe { (address as *const u8).read_volatile() };
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}
