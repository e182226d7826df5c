//! Copies and maps of a page that `guest-bench-backend` grants (its boot argument `grants=N`).

use alloc::vec;
use alloc::vec::Vec;
use core::arch::asm;

use guest_runtime::device_tree;
use guest_runtime::hypercall::{DOMID_SELF, grant};
use guest_runtime::window::Window;
use portunus::abi::grant::{COPY, CopyEnd, GrantCopy, MAP_GRANT_REF, MapGrantRef, UNMAP_GRANT_REF, UnmapGrantRef};
use portunus::abi::hypercall::GRANT_TABLE_OP;

use crate::operations::{begin_mark, end_mark, measure};
use crate::row::{row, unavailable};

const PAGE: u64 = 4096;
/// The backend's first entry: those below are reserved.
const FIRST: u32 = 8;
const NAMES: [&str; 7] = [
    "grant_copy_64",
    "grant_copy_4096",
    "grant_map",
    "grant_unmap",
    "grant_copy_64_by_32",
    "grant_map_by_32",
    "grant_unmap_by_32",
];
/// Entries of a batch: as many as one execution handles.
const BATCH: usize = 32;

/// A page of this domain's own.
#[repr(align(4096))]
struct Page(#[allow(dead_code)] [u8; PAGE as usize]);

/// grant_table_op of one entry.
fn call<T>(operation: u64, entry: &mut T) -> u64 {
    call_all(operation, core::slice::from_mut(entry))
}

/// grant_table_op of some entries.
fn call_all<T>(operation: u64, entries: &mut [T]) -> u64 {
    let count = entries.len() as u64;
    // The call reads and writes the entries, which are here, and does what the callers say.
    measure!(
        "hvc #0xea1";
        inout("x0") operation => _, inout("x1") entries.as_mut_ptr() => _, inout("x2") count => _,
        inout("x16") GRANT_TABLE_OP => _, options(nostack)
    )
}

/// As many entries from this one on, each at a page of its own: what the call took, and their handles.
fn map_all(granter: u16, reference: u32, address: u64) -> (u64, [u32; BATCH]) {
    let mut entries: [MapGrantRef; BATCH] = core::array::from_fn(|index| MapGrantRef {
        host_addr: address + index as u64 * PAGE,
        flags: grant::HOST_MAP,
        reference: reference + index as u32,
        dom: granter,
        status: -1,
        ..Default::default()
    });
    let ticks = call_all(MAP_GRANT_REF, &mut entries);
    assert!(entries.iter().all(|entry| entry.status == 0), "maps");
    (ticks, entries.map(|entry| entry.handle))
}

fn unmap_all(handles: [u32; BATCH], address: u64) -> u64 {
    let mut entries: [UnmapGrantRef; BATCH] = core::array::from_fn(|index| UnmapGrantRef {
        host_addr: address + index as u64 * PAGE,
        handle: handles[index],
        status: -1,
        ..Default::default()
    });
    let ticks = call_all(UNMAP_GRANT_REF, &mut entries);
    assert!(entries.iter().all(|entry| entry.status == 0), "unmaps");
    ticks
}

fn copy_all(granter: u16, reference: u32, to: &Page, length: u16) -> u64 {
    let mut entries: [GrantCopy; BATCH] =
        core::array::from_fn(|index| copy_of(granter, reference + index as u32, to, length));
    let ticks = call_all(COPY, &mut entries);
    assert!(entries.iter().all(|entry| entry.status == 0), "copies");
    ticks
}

fn copy_of(granter: u16, reference: u32, to: &Page, length: u16) -> GrantCopy {
    GrantCopy {
        source: CopyEnd {
            frame: reference.into(),
            domid: granter,
            ..Default::default()
        },
        dest: CopyEnd {
            frame: &raw const *to as u64 / PAGE,
            domid: DOMID_SELF,
            ..Default::default()
        },
        len: length,
        flags: grant::SOURCE_GREF,
        status: -1,
        ..Default::default()
    }
}

fn copy(granter: u16, reference: u32, to: &Page, length: u16) -> u64 {
    let mut entry = copy_of(granter, reference, to, length);
    let ticks = call(COPY, &mut entry);
    assert_eq!(entry.status, 0, "a copy");
    ticks
}

fn map(granter: u16, reference: u32, address: u64) -> (u64, u32) {
    let mut entry = MapGrantRef {
        host_addr: address,
        flags: grant::HOST_MAP,
        reference,
        dom: granter,
        status: -1,
        ..Default::default()
    };
    let ticks = call(MAP_GRANT_REF, &mut entry);
    assert_eq!(entry.status, 0, "a map");
    (ticks, entry.handle)
}

fn unmap(handle: u32, address: u64) -> u64 {
    let mut entry = UnmapGrantRef {
        host_addr: address,
        handle,
        status: -1,
        ..Default::default()
    };
    let ticks = call(UNMAP_GRANT_REF, &mut entry);
    assert_eq!(entry.status, 0, "an unmap");
    ticks
}

/// Prints the rows, with as many more grants mapped as the boot argument `grants=N` says.
pub(crate) fn measure() {
    let granter = device_tree::boot_number("granter");
    let window = granter.and_then(|_| Window::from_device_tree()?.take((live() + BATCH as u64) * PAGE).ok());
    let (Some(granter), Some(window)) = (granter, window) else {
        for name in NAMES {
            unavailable(name, "no other domain grants this one anything");
        }
        return;
    };
    let (granter, more) = (granter as u16, live() as u32);
    let held: Vec<u32> = (1..more)
        .map(|index| map(granter, FIRST + index, window + u64::from(index) * PAGE).1)
        .collect();
    // The one after them, which nobody has.
    let reference = FIRST + more;
    let at = window + u64::from(more) * PAGE;
    let page = &vec![const { Page([0; PAGE as usize]) }][..];
    row("grant_copy_64", || copy(granter, reference, &page[0], 64));
    row("grant_copy_4096", || copy(granter, reference, &page[0], 4096));
    row("grant_map", || {
        let (ticks, handle) = map(granter, reference, at);
        unmap(handle, at);
        ticks
    });
    row("grant_unmap", || {
        let (_, handle) = map(granter, reference, at);
        unmap(handle, at)
    });
    row("grant_copy_64_by_32", || copy_all(granter, reference, &page[0], 64));
    row("grant_map_by_32", || {
        let (ticks, handles) = map_all(granter, reference, at);
        unmap_all(handles, at);
        ticks
    });
    row("grant_unmap_by_32", || {
        let (_, handles) = map_all(granter, reference, at);
        unmap_all(handles, at)
    });
    for (index, handle) in (1..).zip(held) {
        unmap(handle, window + index * PAGE);
    }
}

fn live() -> u64 {
    device_tree::boot_number("grants").map_or(1, |count| count.max(1))
}
