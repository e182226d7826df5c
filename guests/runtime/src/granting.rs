//! Pages that this domain grants to another: its grant table, version 1.

use core::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use portunus::abi::grant::GrantEntry;
use spin::Once;
use spin::mutex::SpinMutex;

use crate::device_tree;
use crate::hypercall::memory;
use crate::mmu::{self, Attribute};

const PAGE: u64 = 4096;
/// Entries of the one frame that is used.
const ENTRIES: u32 = (PAGE as usize / size_of::<GrantEntry>()) as u32;
/// The first ones are the toolstack's.
const RESERVED: u32 = 8;

/// Where the table is.
static TABLE: Once<u64> = Once::new();
/// Where to look for free entries first.
static NEXT: SpinMutex<u32> = SpinMutex::new(RESERVED);

/// Maps the first frame of this domain's table where the hypervisor keeps room for it.
///
/// # Panics
/// There is no such room, or the hypervisor has no grant tables.
fn table() -> u64 {
    *TABLE.call_once(|| {
        let node = device_tree::device_tree().find_node("/hypervisor");
        let window = node.and_then(|node| device_tree::reg(node, 0));
        let start = window.expect("/hypervisor names no room for a grant table").start;
        // SAFETY: the room is for this table alone.
        unsafe {
            mmu::map(start..start + PAGE, Attribute::Normal);
            memory::map_grant_table(0, start / PAGE).expect("a grant table can be mapped");
        }
        start
    })
}

/// The two halves of an entry: flags and domain, and frame.
fn entry(reference: u32) -> (&'static AtomicU16, &'static AtomicU16, &'static AtomicU32) {
    assert!(reference < ENTRIES);
    let at = table() + u64::from(reference) * size_of::<GrantEntry>() as u64;
    // SAFETY: within the table, aligned; it stays mapped.
    unsafe {
        (
            AtomicU16::from_ptr(at as *mut u16),
            AtomicU16::from_ptr((at + 2) as *mut u16),
            AtomicU32::from_ptr((at + 4) as *mut u32),
        )
    }
}

/// Grants `pages` pages from `frame` on to `domain`; the reference of the first one, which the others follow.
///
/// # Panics
/// The table has no room.
pub fn grant(domain: u16, frame: u64, pages: u32, read_only: bool) -> u32 {
    let mut next = NEXT.lock();
    let is_free = |reference| entry(reference).0.load(Ordering::Relaxed) == 0;
    let mut first = *next;
    // Round once, from where the last one was found.
    for _ in 0..2 * ENTRIES {
        if first + pages > ENTRIES {
            first = RESERVED;
        }
        match (first..first + pages).find(|reference| !is_free(*reference)) {
            Some(taken) => first = taken + 1,
            None => {
                *next = first + pages;
                drop(next);
                let access = if read_only { GrantEntry::READ_ONLY } else { 0 };
                for (reference, frame) in (first..first + pages).zip(frame..) {
                    let (flags, domid, place) = entry(reference);
                    domid.store(domain, Ordering::Relaxed);
                    place.store(frame as u32, Ordering::Relaxed);
                    flags.store(GrantEntry::PERMIT_ACCESS | access, Ordering::Release);
                }
                return first;
            }
        }
    }
    panic!("no {pages} grants in a row are left");
}

/// Ends grants. `false`: one of them is still mapped, and stays.
pub fn end(first: u32, pages: u32) -> bool {
    let mut ended = true;
    for reference in first..first + pages {
        let (flags, ..) = entry(reference);
        let in_use = GrantEntry::READING | GrantEntry::WRITING;
        let result = flags.fetch_update(Ordering::SeqCst, Ordering::Relaxed, |flags| {
            (flags & in_use == 0).then_some(0)
        });
        ended &= result.is_ok();
    }
    ended
}
