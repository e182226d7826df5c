//! The guest's own physical map, and what of others it may put there.

use portunus::abi::hypercall::MEMORY_OP;
use portunus::abi::memory::{
    self, ACQUIRE_RESOURCE, ADD_TO_PHYSMAP, ADD_TO_PHYSMAP_BATCH, AcquireResource, AddToPhysmap, AddToPhysmapBatch,
    REMOVE_FROM_PHYSMAP, RemoveFromPhysmap,
};

use super::{DOMID_SELF, Result, call, pointer};

/// Puts the shared-info page at guest frame `frame`.
///
/// # Safety
/// What was at that frame is gone, and the hypervisor writes there at any time, by atomic accesses.
pub unsafe fn map_shared_info(frame: u64) -> Result<()> {
    let mut argument = AddToPhysmap {
        domid: DOMID_SELF,
        space: memory::SPACE_SHARED_INFO,
        gpfn: frame,
        ..Default::default()
    };
    // SAFETY: the structure is here; the caller gives the frame.
    unsafe { call(MEMORY_OP, [ADD_TO_PHYSMAP, pointer(&mut argument), 0, 0, 0]) }.map(drop)
}

/// Puts frame `index` of this domain's grant table at guest frame `frame`.
///
/// # Safety
/// What was at that frame is gone, and the hypervisor writes there at any time, by atomic accesses.
pub unsafe fn map_grant_table(index: u64, frame: u64) -> Result<()> {
    let mut argument = AddToPhysmap {
        domid: DOMID_SELF,
        space: memory::SPACE_GRANT_TABLE,
        idx: index,
        gpfn: frame,
        ..Default::default()
    };
    // SAFETY: the structure is here; the caller gives the frame.
    unsafe { call(MEMORY_OP, [ADD_TO_PHYSMAP, pointer(&mut argument), 0, 0, 0]) }.map(drop)
}

/// Maps frames `from` of `domain` at the caller's frames `to`; `errors` gets 0 or a negative error each.
///
/// # Safety
/// What was at those frames is gone, and another domain may write there at any time.
pub unsafe fn map_foreign(domain: u16, from: &[u64], to: &[u64], errors: &mut [i32]) -> Result<()> {
    let size = from.len().min(to.len()).min(errors.len()).min(usize::from(u16::MAX));
    let mut argument = AddToPhysmapBatch {
        domid: DOMID_SELF,
        space: memory::SPACE_GMFN_FOREIGN as u16,
        size: size as u16,
        foreign_domid: domain,
        idxs: from.as_ptr() as u64,
        gpfns: to.as_ptr() as u64,
        errs: errors.as_mut_ptr() as u64,
    };
    // SAFETY: structure and lists are here, `size` entries long at least; the caller gives the frames.
    unsafe { call(MEMORY_OP, [ADD_TO_PHYSMAP_BATCH, pointer(&mut argument), 0, 0, 0]) }.map(drop)
}

/// Takes away what is at guest frame `frame`.
///
/// # Safety
/// Nobody uses it any more.
pub unsafe fn remove(frame: u64) -> Result<()> {
    let mut argument = RemoveFromPhysmap {
        domid: DOMID_SELF,
        gpfn: frame,
        ..Default::default()
    };
    // SAFETY: the structure is here; the caller gives the frame.
    unsafe { call(MEMORY_OP, [REMOVE_FROM_PHYSMAP, pointer(&mut argument), 0, 0, 0]) }.map(drop)
}

fn reservation(operation: u64, frame: u64) -> Result<u64> {
    let mut frames = [frame];
    let mut argument = memory::MemoryReservation {
        extent_start: pointer(&mut frames),
        nr_extents: 1,
        domid: DOMID_SELF,
        ..Default::default()
    };
    // SAFETY: structure and list are here; the callers give the frame.
    unsafe { call(MEMORY_OP, [operation, pointer(&mut argument), 0, 0, 0]) }
}

/// Gives the page at guest frame `frame` up. Whether it did.
///
/// # Safety
/// Nobody uses it any more.
pub unsafe fn give_up(frame: u64) -> Result<bool> {
    reservation(memory::DECREASE_RESERVATION, frame).map(|done| done == 1)
}

/// Takes a page that was given up for guest frame `frame`, where nothing is. Whether there was one.
pub fn take_back(frame: u64) -> Result<bool> {
    reservation(memory::POPULATE_PHYSMAP, frame).map(|done| done == 1)
}

/// Maps frame `frame` of IOREQ server `id` of `domain` at the caller's frame `at`.
///
/// # Safety
/// What was at that frame is gone, and the hypervisor writes there at any time.
pub unsafe fn map_ioreq_page(domain: u16, id: u16, frame: u64, at: u64) -> Result<()> {
    let mut frames = [at];
    let mut argument = AcquireResource {
        domid: domain,
        kind: memory::RESOURCE_IOREQ_SERVER,
        id: id.into(),
        nr_frames: 1,
        pad: 0,
        frame,
        frame_list: pointer(&mut frames),
    };
    // SAFETY: structure and list are here; the caller gives the frame.
    unsafe { call(MEMORY_OP, [ACQUIRE_RESOURCE, pointer(&mut argument), 0, 0, 0]) }.map(drop)
}
