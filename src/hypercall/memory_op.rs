//! memory_op: the caller changes its own physical map.

use super::Done;
use super::buffers::{element, read_for_update, read_value, write_value};
use super::host::{ForeignPage, Host, Right, own, remote};
use crate::abi::HypercallError;
use crate::abi::dm_op::{VENDOR_FIRST_FRAME, VENDOR_FIRST_SHADOW_FRAME};
use crate::abi::memory as abi;
use crate::ids::DomainId;
use crate::routing::Domains;

/// Entries that one execution handles.
pub(super) const LIMIT: u64 = 64;
/// Extents of a reservation are at most this long, in powers of two of pages: kernels whose pages are of 64 KiB have such.
const MAX_ORDER: u32 = 4;
/// Entries that are handed to stage 2 together.
const PIECE: usize = 32;
/// No frame (INVALID_GFN).
const INVALID_GFN: u64 = u64::MAX;
/// Frames of an IOREQ server: the buffered page and one synchronous page.
const IOREQ_FRAMES: u64 = 2;

pub(super) fn run<H: Host>(
    host: &mut H,
    command: u64,
    pointer: u64,
    arguments: [u64; 5],
) -> Result<Done, HypercallError> {
    let start = command >> abi::EXTENT_SHIFT;
    let op = command & abi::COMMAND_MASK;
    match op {
        abi::ADD_TO_PHYSMAP_BATCH => return batch(host, pointer, start, arguments),
        abi::DECREASE_RESERVATION | abi::POPULATE_PHYSMAP => {
            return reservation(host, op, pointer, start, arguments);
        }
        _ => {}
    }
    let known = [
        abi::CURRENT_RESERVATION,
        abi::MAXIMUM_RESERVATION,
        abi::MAXIMUM_GPFN,
        abi::ADD_TO_PHYSMAP,
        abi::REMOVE_FROM_PHYSMAP,
        abi::ACQUIRE_RESOURCE,
    ];
    if known.contains(&op) && start != 0 {
        return Err(HypercallError::Invalid);
    }
    let value = match op {
        abi::CURRENT_RESERVATION => {
            let info = info(host, pointer)?;
            info.ram_pages.saturating_sub(info.parked_pages)
        }
        abi::MAXIMUM_RESERVATION => info(host, pointer)?.ram_pages,
        abi::MAXIMUM_GPFN => info(host, pointer)?.maximum_gfn,
        abi::ADD_TO_PHYSMAP => {
            let request: abi::AddToPhysmap = read_value(host, pointer)?;
            own_map(host, request.domid, request.space)?;
            if !add_one(host, request.space, request.idx, request.gpfn)? {
                return Ok(Done::Continue(arguments));
            }
            0
        }
        abi::REMOVE_FROM_PHYSMAP => {
            let request: abi::RemoveFromPhysmap = read_value(host, pointer)?;
            own(host, request.domid)?;
            host.unmap(request.gpfn)?;
            0
        }
        abi::ACQUIRE_RESOURCE => acquire_resource(host, pointer)?,
        // Xen's answers to a translated guest without NUMA, and without authority over others.
        abi::EXCHANGE | abi::GET_VNUMAINFO => return Err(HypercallError::NotSupported),
        abi::CLAIM_PAGES => return Err(HypercallError::NotPermitted),
        _ => return Err(HypercallError::NotImplemented),
    };
    Ok(Done::Value(value))
}

/// The domain whose number is at `pointer`: the caller, or one that it serves.
fn info<H: Host>(host: &mut H, pointer: u64) -> Result<super::DomainInfo, HypercallError> {
    let id: u16 = read_value(host, pointer)?;
    let id = if DomainId(id) == DomainId::SELF {
        host.caller().domain
    } else {
        DomainId(id)
    };
    let info = host.domain(id).ok_or(HypercallError::NoDomain)?;
    if id == host.caller().domain || host.permits(Right::Serve { target: id }) {
        Ok(info)
    } else {
        Err(HypercallError::NotPermitted)
    }
}

/// `Ok(false)`: not yet, call again.
fn add_one<H: Host>(host: &mut H, space: u32, index: u64, gfn: u64) -> Result<bool, HypercallError> {
    match space {
        abi::SPACE_SHARED_INFO if index == 0 => host.map_shared_info(gfn).map(|()| true),
        abi::SPACE_SHARED_INFO => Err(HypercallError::Invalid),
        // Status frames, whose indices are beyond any table, are of version 2.
        abi::SPACE_GRANT_TABLE => {
            let index = u32::try_from(index).map_err(|_| HypercallError::Invalid)?;
            host.map_grant_frame(index, gfn)
        }
        _ => Err(HypercallError::NotImplemented),
    }
}

/// The caller changes its own map, and has no device memory to put there.
fn own_map<H: Host>(host: &H, domain: u16, space: u32) -> Result<(), HypercallError> {
    match own(host, domain) {
        Ok(_) | Err(HypercallError::NotPermitted) if space == abi::SPACE_DEV_MMIO => Err(HypercallError::AccessDenied),
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

fn batch<H: Host>(host: &mut H, pointer: u64, start: u64, mut arguments: [u64; 5]) -> Result<Done, HypercallError> {
    if start > u64::from(u16::MAX) {
        return Err(HypercallError::Domain);
    }
    let request: abi::AddToPhysmapBatch = read_value(host, pointer)?;
    if u32::from(request.space) == abi::SPACE_GMFN_RANGE {
        return Err(HypercallError::NotSupported);
    }
    own_map(host, request.domid, request.space.into())?;
    let size = u64::from(request.size);
    // A call that has done all is never resumed.
    if start > size || start != 0 && start == size {
        return Err(HypercallError::IllegalSequence);
    }
    if size == 0 {
        return Ok(Done::Value(0));
    }
    let foreign = (u32::from(request.space) == abi::SPACE_GMFN_FOREIGN).then(|| foreign(host, request.foreign_domid));
    if let (Some(Ok(foreign)), 0, 1) = (foreign, start, size) {
        return map_one(host, &request, foreign);
    }
    let end = size.min(start.saturating_add(LIMIT));
    let mut done = start;
    while done < end {
        let count = (end - done).min(PIECE as u64) as usize;
        let mapped = map_piece(host, &request, foreign, done, count)?;
        done += mapped as u64;
        if mapped < count {
            break;
        }
    }
    if done == size {
        return Ok(Done::Value(0));
    }
    arguments[0] = abi::ADD_TO_PHYSMAP_BATCH | done << abi::EXTENT_SHIFT;
    Ok(Done::Continue(arguments))
}

/// The domain whose memory the caller wants. That it may not have it is told by each entry, as Xen does.
fn foreign<H: Host>(host: &H, id: u16) -> Result<DomainId, HypercallError> {
    let id = DomainId(id);
    // By that name nobody is another domain, and the hypervisor's own pages are nobody's to map.
    if id == DomainId::XEN || id == host.caller().domain {
        return Err(HypercallError::NotPermitted);
    }
    if !host.exists(id) {
        return Err(HypercallError::NoDomain);
    }
    if host.permits(Right::MapMemory { target: id }) {
        Ok(id)
    } else {
        Err(HypercallError::NotPermitted)
    }
}

/// What entry `index` asks for.
fn entry<H: Host>(host: &mut H, request: &abi::AddToPhysmapBatch, index: u64) -> Result<ForeignPage, HypercallError> {
    let source = read_value(host, element(request.idxs, index, size_of::<u64>())?)?;
    let destination = read_value(host, element(request.gpfns, index, size_of::<u64>())?)?;
    if destination == INVALID_GFN {
        return Err(HypercallError::Invalid);
    }
    // The place of the result must be writable before anything is mapped.
    write_value(host, element(request.errs, index, size_of::<i32>())?, &0i32)?;
    Ok(ForeignPage {
        source,
        destination,
        result: Ok(()),
    })
}

/// As [`map_piece`], of a single page of another domain.
fn map_one<H: Host>(host: &mut H, request: &abi::AddToPhysmapBatch, foreign: DomainId) -> Result<Done, HypercallError> {
    let page = entry(host, request, 0)?;
    if let Err(error) = host.map_foreign_page(foreign, page.source, page.destination) {
        write_value(host, request.errs, &error.entry())?;
    }
    Ok(Done::Value(0))
}

/// How many entries are done: all, but where one needs another call. Those before one that fails the call are done, too.
fn map_piece<H: Host>(
    host: &mut H,
    request: &abi::AddToPhysmapBatch,
    foreign: Option<Result<DomainId, HypercallError>>,
    first: u64,
    count: usize,
) -> Result<usize, HypercallError> {
    let mut pages = [ForeignPage {
        source: 0,
        destination: 0,
        result: Ok(()),
    }; PIECE];
    let mut wanted = 0;
    let mut failure = None;
    for (page, index) in pages.iter_mut().take(count).zip(first..) {
        match entry(host, request, index) {
            Ok(entry) => *page = entry,
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
        wanted += 1;
    }
    let pages = pages.get_mut(..wanted).ok_or(HypercallError::Invalid)?;
    let mut done = wanted;
    match foreign {
        Some(Ok(foreign)) => host.map_foreign(foreign, pages),
        Some(Err(error)) => pages.iter_mut().for_each(|page| page.result = Err(error)),
        None => {
            for (index, page) in pages.iter_mut().enumerate() {
                match add_one(host, request.space.into(), page.source, page.destination) {
                    Ok(true) => {}
                    Ok(false) => {
                        done = index;
                        break;
                    }
                    Err(error) => page.result = Err(error),
                }
            }
        }
    }
    for (page, index) in pages.iter().zip(first..) {
        if let Err(error) = page.result {
            write_value(host, element(request.errs, index, size_of::<i32>())?, &error.entry())?;
        }
    }
    match failure {
        Some(error) if done == wanted => Err(error),
        _ => Ok(done),
    }
}

fn acquire_resource<H: Host>(host: &mut H, pointer: u64) -> Result<u64, HypercallError> {
    let mut request: abi::AcquireResource = read_for_update(host, pointer)?;
    if request.pad != 0 {
        return Err(HypercallError::Invalid);
    }
    let target = remote(host, request.domid)?.id;
    if !host.permits(Right::Serve { target }) {
        return Err(HypercallError::NotPermitted);
    }
    match request.kind {
        abi::RESOURCE_IOREQ_SERVER => {}
        abi::RESOURCE_GRANT_TABLE => return acquire_grant_table(host, target, pointer, &mut request),
        _ => return Err(HypercallError::Invalid),
    }
    if request.frame_list == 0 {
        if request.nr_frames != 0 || request.frame != 0 {
            return Err(HypercallError::Invalid);
        }
        request.nr_frames = IOREQ_FRAMES as u32;
        write_value(host, pointer, &request)?;
        return Ok(0);
    }
    if request.frame >= VENDOR_FIRST_SHADOW_FRAME {
        return super::shadow::acquire(host, target, &request);
    }
    if request.frame >= VENDOR_FIRST_FRAME {
        return acquire_state_page(host, target, &request);
    }
    let count = u64::from(request.nr_frames);
    if request.frame.checked_add(count).is_none_or(|end| end > IOREQ_FRAMES) {
        return Err(HypercallError::Invalid);
    }
    let caller = host.caller().domain;
    let mut gfns = [0; IOREQ_FRAMES as usize];
    let gfns = gfns.get_mut(..count as usize).ok_or(HypercallError::Invalid)?;
    for (index, gfn) in (0..).zip(gfns.iter_mut()) {
        let found = host.domains().servers(target, |servers, _, _| {
            servers.frame(caller, request.id, request.frame + index)
        });
        found.ok_or(HypercallError::NoDomain)??;
        *gfn = read_value(host, element(request.frame_list, index, size_of::<u64>())?)?;
    }
    for (index, gfn) in (0..).zip(gfns.iter()) {
        // The server may be gone by now; while it is locked, its frame is its own.
        let shared = host.domains().servers(target, |servers, _, resources| {
            let frame = servers.frame(caller, request.id, request.frame + index)?;
            resources.share_frame(frame).map(|()| frame)
        });
        let shared = shared.ok_or(HypercallError::NoDomain)?;
        let mapped = shared.and_then(|frame| host.map_resource(frame, *gfn));
        // The caller unmaps what was mapped before.
        mapped.map_err(|error| if index == 0 { error } else { HypercallError::InputOutput })?;
    }
    Ok(0)
}

/// Maps frames of a domain's grant table. Who writes there grants himself what he likes, so it takes the right to all of the
/// domain's memory.
fn acquire_grant_table<H: Host>(
    host: &mut H,
    target: DomainId,
    pointer: u64,
    request: &mut abi::AcquireResource,
) -> Result<u64, HypercallError> {
    if !host.permits(Right::MapAllMemory { target }) {
        return Err(HypercallError::NotPermitted);
    }
    // Identifier 1 is of status frames, which only version 2 has.
    if request.id != 0 {
        return Err(HypercallError::Invalid);
    }
    let (_, limit) = host.grant_frames_of(target);
    if request.frame_list == 0 {
        if request.nr_frames != 0 || request.frame != 0 {
            return Err(HypercallError::Invalid);
        }
        request.nr_frames = limit;
        write_value(host, pointer, request)?;
        return Ok(0);
    }
    let count = u64::from(request.nr_frames);
    if count > LIMIT || request.frame.checked_add(count).is_none_or(|end| end > limit.into()) {
        return Err(HypercallError::Invalid);
    }
    for index in 0..count {
        let gfn = read_value(host, element(request.frame_list, index, size_of::<u64>())?)?;
        // It is below the limit.
        let shared = host.share_grant_frame(target, (request.frame + index) as u32);
        let mapped = shared.and_then(|frame| host.map_resource(frame, gfn));
        // The caller unmaps what was mapped before.
        mapped.map_err(|error| if index == 0 { error } else { HypercallError::InputOutput })?;
    }
    Ok(0)
}

/// Maps the state page of one device, which belongs to the device and not to the server.
fn acquire_state_page<H: Host>(
    host: &mut H,
    target: DomainId,
    request: &abi::AcquireResource,
) -> Result<u64, HypercallError> {
    if request.nr_frames != 1 {
        return Err(HypercallError::Invalid);
    }
    let caller = host.caller().domain;
    let found = host.domains().servers(target, |servers, _, _| {
        servers.state_frame(caller, request.id, request.frame)
    });
    let (_, range) = found.ok_or(HypercallError::NoDomain)??;
    if !host.permits(Right::ServeRange { target, range }) {
        return Err(HypercallError::NotPermitted);
    }
    let gfn = read_value(host, request.frame_list)?;
    // The server may be gone by now; the frame is the device's.
    let shared = host.domains().servers(target, |servers, _, resources| {
        let (frame, _) = servers.state_frame(caller, request.id, request.frame)?;
        resources.share_frame(frame).map(|()| frame)
    });
    host.map_resource(shared.ok_or(HypercallError::NoDomain)??, gfn)?;
    Ok(0)
}

/// Gives pages back or takes them again; the result is the number of entries done.
fn reservation<H: Host>(
    host: &mut H,
    op: u64,
    pointer: u64,
    start: u64,
    mut arguments: [u64; 5],
) -> Result<Done, HypercallError> {
    // Every refusal is told by how many extents are done.
    let Ok(request) = read_value::<abi::MemoryReservation>(host, pointer) else {
        return Ok(Done::Value(start));
    };
    // More extents than fit into the command of a resumed call can't be counted.
    if request.nr_extents > u64::MAX >> (abi::EXTENT_SHIFT + 1) || start > request.nr_extents {
        return Ok(Done::Value(start.min(request.nr_extents)));
    }
    if own(host, request.domid).is_err() || request.extent_order > MAX_ORDER {
        return Ok(Done::Value(start));
    }
    let end = request
        .nr_extents
        .min(start.saturating_add(LIMIT >> request.extent_order));
    let mut done = start;
    while done < end {
        let gfn = element(request.extent_start, done, size_of::<u64>()).and_then(|at| read_value(host, at));
        let moved = gfn.and_then(|gfn| move_extent(host, op, gfn, 1 << request.extent_order));
        if moved.is_err() {
            return Ok(Done::Value(done));
        }
        done += 1;
    }
    if done == request.nr_extents {
        return Ok(Done::Value(done));
    }
    arguments[0] = op | done << abi::EXTENT_SHIFT;
    Ok(Done::Continue(arguments))
}

/// Moves `pages` pages out of the caller's map, or into it: of an extent that there are not enough frames for, none.
fn move_extent<H: Host>(host: &mut H, op: u64, first: u64, pages: u64) -> Result<(), HypercallError> {
    let last = first.checked_add(pages - 1).ok_or(HypercallError::Invalid)?;
    for gfn in first..=last {
        let moved = match op {
            abi::DECREASE_RESERVATION => host.park_page(gfn),
            _ => host.populate_page(gfn),
        };
        if moved.is_err() && op != abi::DECREASE_RESERVATION {
            // They were put there just now.
            (first..gfn).for_each(|gfn| host.park_page(gfn).unwrap_or_default());
        }
        moved?;
    }
    Ok(())
}
