//! Maps and unmaps of a page of another domain, which lets this one map all of its RAM (boot argument `mapped=N`).

use core::arch::asm;

use guest_runtime::device_tree;
use guest_runtime::hypercall::DOMID_SELF;
use guest_runtime::window::Window;
use portunus::abi::hypercall::MEMORY_OP;
use portunus::abi::memory::{
    ADD_TO_PHYSMAP_BATCH, AddToPhysmapBatch, REMOVE_FROM_PHYSMAP, RemoveFromPhysmap, SPACE_GMFN_FOREIGN,
};

use crate::operations::{begin_mark, end_mark, measure};
use crate::row::{row, unavailable};

const PAGE: u64 = 4096;
/// A frame of the other's RAM, wherever it is an ordinary domain.
const FRAME: u64 = 0x4010_0000 / PAGE;
const NAMES: [&str; 2] = ["foreign_map", "foreign_unmap"];

fn call<T>(operation: u64, request: &mut T) -> u64 {
    let result: u64;
    // The call reads the request, which is here, and does what the callers say.
    let ticks = measure!(
        "hvc #0xea1";
        inout("x0") operation => result, inout("x1") &raw mut *request => _, inout("x16") MEMORY_OP => _,
        options(nostack)
    );
    assert_eq!(result, 0, "memory_op {operation}");
    ticks
}

fn map(domain: u16, to: u64) -> u64 {
    let (from, to, mut error) = ([FRAME], [to], [-1_i32]);
    let mut request = AddToPhysmapBatch {
        domid: DOMID_SELF,
        space: SPACE_GMFN_FOREIGN as u16,
        size: 1,
        foreign_domid: domain,
        idxs: from.as_ptr() as u64,
        gpfns: to.as_ptr() as u64,
        errs: error.as_mut_ptr() as u64,
    };
    let ticks = call(ADD_TO_PHYSMAP_BATCH, &mut request);
    // SAFETY: it is a live variable, which the hypercall has written.
    assert_eq!(unsafe { error.as_ptr().read_volatile() }, 0, "a map");
    ticks
}

fn unmap(at: u64) -> u64 {
    let mut request = RemoveFromPhysmap {
        domid: DOMID_SELF,
        gpfn: at,
        ..Default::default()
    };
    call(REMOVE_FROM_PHYSMAP, &mut request)
}

/// Prints the rows.
pub(crate) fn measure() {
    let mapped = device_tree::boot_number("mapped");
    let window = mapped.and_then(|_| Window::from_device_tree()?.take(PAGE).ok());
    let (Some(domain), Some(window)) = (mapped, window) else {
        for name in NAMES {
            unavailable(name, "this domain may map no other's memory");
        }
        return;
    };
    let (domain, at) = (domain as u16, window / PAGE);
    row("foreign_map", || {
        let ticks = map(domain, at);
        unmap(at);
        ticks
    });
    row("foreign_unmap", || {
        map(domain, at);
        unmap(at)
    });
}
