//! grant_table_op: what the caller grants, and what it maps and copies of what others grant.
//!
//! An entry that is refused says so in its status, and the call goes on with the next. The call itself fails only where a
//! structure cannot be read or written, and for what is no operation.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Done;
use super::buffers::{element, read_for_update, read_value, write_value};
use super::host::Host;
use crate::abi::HypercallError;
use crate::abi::grant as abi;
use crate::abi::grant::GrantStatus;
use crate::ids::{DomainId, PAGE_SIZE, Pa};

/// Entries that one execution handles.
pub const BATCH: usize = 32;
/// Frames of a table whose places are written together.
const PLACES: usize = 64;
/// Where in x0 the cursor of a cache_flush is.
const CURSOR_SHIFT: u32 = abi::COMMAND_MASK.trailing_ones();
/// No frame (INVALID_GFN).
const INVALID_GFN: u64 = u64::MAX;

/// What grant_table_op asks of the rest of the hypervisor, for the caller. Where an answer is a status the entries have it.
pub trait Granting {
    /// Maps grants; each entry gets status, handle and bus address.
    fn map_grants(&mut self, entries: &mut [abi::MapGrantRef]) {
        for entry in entries {
            entry.status = GrantStatus::GeneralError.code();
        }
    }
    /// Unmaps grants, with one drop of translations for all.
    fn unmap_grants(&mut self, entries: &mut [abi::UnmapGrantRef]) {
        for entry in entries {
            entry.status = GrantStatus::GeneralError.code();
        }
    }
    /// Copies.
    fn copy_grants(&mut self, entries: &mut [abi::GrantCopy]) {
        for entry in entries {
            entry.status = GrantStatus::GeneralError.code();
        }
    }
    /// Frames of the caller's table: how many there are, and can be.
    fn grant_frames(&self) -> (u32, u32) {
        (0, 0)
    }
    /// Makes the caller's table at least so many frames big. `Ok(false)`: not yet, call again.
    ///
    /// # Errors
    /// ENOMEM: that is more than it may be, or its pool is used up.
    fn grow_grant_table(&mut self, _frames: u32) -> Result<bool, HypercallError> {
        Err(HypercallError::OutOfMemory)
    }
    /// At which of the caller's guest frames a frame of its table is.
    fn grant_frame_place(&mut self, _index: u32) -> Option<u64> {
        None
    }
    /// Replaces what the caller has at `gfn` by a frame of its table, which grows as far as needed. `Ok(false)`: not yet,
    /// call again.
    ///
    /// # Errors
    /// EINVAL: no such frame; EBUSY: the frame is mapped elsewhere already; ENOMEM.
    fn map_grant_frame(&mut self, _index: u32, _gfn: u64) -> Result<bool, HypercallError> {
        Err(HypercallError::Invalid)
    }
    /// As [`Self::grant_frames`], of any domain.
    fn grant_frames_of(&self, _domain: DomainId) -> (u32, u32) {
        (0, 0)
    }
    /// Takes a reference to a frame of another domain's table, which grows as far as needed.
    ///
    /// # Errors
    /// EINVAL: no such frame; ENOMEM: that domain's pool is used up; EAGAIN: it does not run, or its table is to grow by much.
    fn share_grant_frame(&mut self, _domain: DomainId, _index: u32) -> Result<Pa, HypercallError> {
        Err(HypercallError::Invalid)
    }
    /// Cleans and invalidates (offset, length) of the page at a bus address: one of the caller's own, or one that it has mapped.
    /// `Ok(Some(cursor))`: not found yet, go on there.
    ///
    /// # Errors
    /// EINVAL: no such page; EPERM: another's that the caller has not mapped.
    fn flush_cache(
        &mut self,
        _bus_address: u64,
        _part: (u64, u64),
        _cursor: u32,
    ) -> Result<Option<u32>, HypercallError> {
        Err(HypercallError::Invalid)
    }
    /// Exchanges two entries of the caller's table.
    ///
    /// # Errors
    /// As [`crate::grant::GrantTable::swap`].
    fn swap_grants(&mut self, _one: u32, _other: u32) -> Result<(), GrantStatus> {
        Err(GrantStatus::GeneralError)
    }
}

pub(super) fn run<H: Host>(
    host: &mut H,
    command: u32,
    pointer: u64,
    count: u32,
    arguments: [u64; 5],
) -> Result<Done, HypercallError> {
    if i32::try_from(count).is_err() {
        return Err(HypercallError::Invalid);
    }
    let command = u64::from(command);
    if command & !abi::COMMAND_MASK != 0 && command & abi::COMMAND_MASK != abi::CACHE_FLUSH {
        return Err(HypercallError::Invalid);
    }
    match command & abi::COMMAND_MASK {
        abi::MAP_GRANT_REF => batch(
            host,
            pointer,
            count,
            arguments,
            |host, entries: &mut [abi::MapGrantRef]| {
                host.map_grants(entries);
            },
        ),
        abi::UNMAP_GRANT_REF => batch(
            host,
            pointer,
            count,
            arguments,
            |host, entries: &mut [abi::UnmapGrantRef]| {
                host.unmap_grants(entries);
            },
        ),
        abi::COPY => batch(
            host,
            pointer,
            count,
            arguments,
            |host, entries: &mut [abi::GrantCopy]| {
                host.copy_grants(entries);
            },
        ),
        abi::UNMAP_AND_REPLACE => batch(host, pointer, count, arguments, unmap_and_replace),
        // Of guests that are not translated.
        abi::TRANSFER => Err(HypercallError::NotSupported),
        abi::SWAP_GRANT_REF => batch(
            host,
            pointer,
            count,
            arguments,
            |host, entries: &mut [abi::SwapGrantRef]| {
                for entry in entries {
                    entry.status = code(host.swap_grants(entry.ref_a, entry.ref_b));
                }
            },
        ),
        abi::SETUP_TABLE => setup_table(host, pointer, count, arguments),
        abi::QUERY_SIZE => query_size(host, pointer, count),
        abi::GET_STATUS_FRAMES => get_status_frames(host, pointer, count),
        abi::CACHE_FLUSH => cache_flush(host, pointer, count, (command >> CURSOR_SHIFT) as u32, arguments),
        abi::SET_VERSION => set_version(host, pointer),
        abi::GET_VERSION => get_version(host, pointer),
        _ => Err(HypercallError::NotImplemented),
    }
}

fn code(result: Result<(), GrantStatus>) -> i16 {
    result.err().unwrap_or_default().code()
}

/// Calls `handle` with up to [`BATCH`] entries; the call goes on with the rest.
fn batch<H: Host, T: FromBytes + IntoBytes + Immutable + Copy>(
    host: &mut H,
    pointer: u64,
    count: u32,
    mut arguments: [u64; 5],
    handle: impl FnOnce(&mut H, &mut [T]),
) -> Result<Done, HypercallError> {
    let wanted = count.min(BATCH as u32) as usize;
    // Filled in place: it is large, and to be moved would cost more than what the entries ask for.
    let mut entries = heapless::Vec::<T, BATCH>::new();
    read_entries(host, pointer, wanted, &mut entries)?;
    handle(host, &mut entries);
    if host.write(pointer, entries.as_bytes()).is_err() {
        for (index, entry) in (0..).zip(&entries) {
            write_value(host, element(pointer, index, size_of::<T>())?, entry)?;
        }
    }
    let done = entries.len() as u32;
    if done >= count {
        return Ok(Done::Value(0));
    }
    let [_, next, left, ..] = &mut arguments;
    *next = element(pointer, done.into(), size_of::<T>())?;
    *left = u64::from(count - done);
    Ok(Done::Continue(arguments))
}

/// The first entries, which can be written back: at least one, and at most `wanted`.
fn read_entries<H: Host, T: FromBytes + IntoBytes + Immutable + Copy>(
    host: &mut H,
    pointer: u64,
    wanted: usize,
    entries: &mut heapless::Vec<T, BATCH>,
) -> Result<(), HypercallError> {
    // There is room: no more are wanted.
    let _ = entries.resize(wanted, T::new_zeroed());
    let all = host.read(pointer, entries.as_mut_bytes());
    if all.and_then(|()| host.write(pointer, entries.as_bytes())).is_ok() {
        return Ok(());
    }
    entries.clear();
    for index in 0..wanted as u64 {
        let at = element(pointer, index, size_of::<T>());
        match at.and_then(|at| read_for_update(host, at)) {
            // There is room: no more are wanted.
            Ok(entry) => drop(entries.push(entry)),
            Err(error) if entries.is_empty() => return Err(error),
            // Those before it are done; the call fails when it goes on with this one.
            Err(_) => break,
        }
    }
    Ok(())
}

fn unmap_and_replace<H: Host>(host: &mut H, entries: &mut [abi::UnmapAndReplace]) {
    for entry in entries {
        let mut plain = [abi::UnmapGrantRef {
            host_addr: entry.host_addr,
            handle: entry.handle,
            ..Default::default()
        }];
        if entry.new_addr == 0 {
            host.unmap_grants(&mut plain);
        } else {
            plain = [abi::UnmapGrantRef {
                status: GrantStatus::GeneralError.code(),
                ..Default::default()
            }];
        }
        let [plain] = plain;
        entry.status = plain.status;
    }
}

/// A domain whose table the caller may look at: its own.
fn own_table<H: Host>(host: &H, id: u16) -> Result<(), GrantStatus> {
    let id = DomainId(id);
    if id == DomainId::SELF || id == host.caller().domain {
        return Ok(());
    }
    match host.domain(id) {
        Some(_) => Err(GrantStatus::PermissionDenied),
        None => Err(GrantStatus::BadDomain),
    }
}

fn one(count: u32) -> Result<(), HypercallError> {
    if count == 1 {
        Ok(())
    } else {
        Err(HypercallError::Invalid)
    }
}

fn query_size<H: Host>(host: &mut H, pointer: u64, count: u32) -> Result<Done, HypercallError> {
    one(count)?;
    let mut request: abi::QuerySize = read_for_update(host, pointer)?;
    let own = own_table(host, request.dom);
    if own.is_ok() {
        (request.nr_frames, request.max_nr_frames) = host.grant_frames();
    }
    request.status = code(own);
    write_value(host, pointer, &request)?;
    Ok(Done::Value(0))
}

fn setup_table<H: Host>(host: &mut H, pointer: u64, count: u32, arguments: [u64; 5]) -> Result<Done, HypercallError> {
    one(count)?;
    let mut request: abi::SetupTable = read_for_update(host, pointer)?;
    let mut result = own_table(host, request.dom);
    if result.is_ok() {
        match host.grow_grant_table(request.nr_frames) {
            Ok(true) => {}
            Ok(false) => return Ok(Done::Continue(arguments)),
            Err(_) => result = Err(GrantStatus::GeneralError),
        }
    }
    if result.is_ok() {
        tell_places(host, &request)?;
    }
    request.status = code(result);
    write_value(host, pointer, &request)?;
    Ok(Done::Value(0))
}

/// Writes the place of each frame that was asked for.
fn tell_places<H: Host>(host: &mut H, request: &abi::SetupTable) -> Result<(), HypercallError> {
    for first in (0..request.nr_frames).step_by(PLACES) {
        let mut places = heapless::Vec::<u64, PLACES>::new();
        for index in (first..request.nr_frames).take(PLACES) {
            // There is room: no more are taken.
            let _ = places.push(host.grant_frame_place(index).unwrap_or(INVALID_GFN));
        }
        let at = element(request.frame_list, first.into(), size_of::<u64>())?;
        host.write(at, places.as_bytes())?;
    }
    Ok(())
}

/// There are no status frames: none can be asked for.
fn get_status_frames<H: Host>(host: &mut H, pointer: u64, count: u32) -> Result<Done, HypercallError> {
    one(count)?;
    let mut request: abi::GetStatusFrames = read_for_update(host, pointer)?;
    let own = own_table(host, request.dom);
    request.status = code(match request.nr_frames {
        0 => own,
        _ => own.and(Err(GrantStatus::GeneralError)),
    });
    write_value(host, pointer, &request)?;
    Ok(Done::Value(0))
}

/// Cleans what devices that do not look into caches are to see. `cursor`: how far the search for the first entry's page has
/// come. The first entry that is refused ends the call.
fn cache_flush<H: Host>(
    host: &mut H,
    pointer: u64,
    count: u32,
    mut cursor: u32,
    mut arguments: [u64; 5],
) -> Result<Done, HypercallError> {
    let mut done = 0;
    while done < count.min(BATCH as u32) {
        let request: abi::CacheFlush = read_value(host, element(pointer, done.into(), size_of::<abi::CacheFlush>())?)?;
        let end = u64::from(request.offset) + u64::from(request.length);
        if u64::from(request.offset) >= PAGE_SIZE
            || end > PAGE_SIZE
            || request.op & !(abi::CACHE_CLEAN | abi::CACHE_INVALIDATE) != 0
        {
            return Err(HypercallError::Invalid);
        }
        if request.length != 0 && request.op != 0 {
            let part = (u64::from(request.offset), u64::from(request.length));
            if let Some(next) = host.flush_cache(request.dev_bus_addr, part, cursor)? {
                cursor = next;
                break;
            }
            cursor = 0;
        } else if cursor != 0 {
            return Err(HypercallError::IllegalSequence);
        }
        done += 1;
    }
    if done == count {
        return Ok(Done::Value(0));
    }
    let [command, next, left, ..] = &mut arguments;
    *command = abi::CACHE_FLUSH | u64::from(cursor) << CURSOR_SHIFT;
    *next = element(pointer, done.into(), size_of::<abi::CacheFlush>())?;
    *left = u64::from(count - done);
    Ok(Done::Continue(arguments))
}

fn set_version<H: Host>(host: &mut H, pointer: u64) -> Result<Done, HypercallError> {
    let request: abi::Version = read_for_update(host, pointer)?;
    // Whatever was asked for, the version that there is comes back.
    write_value(host, pointer, &abi::Version { version: 1 })?;
    match request.version {
        1 => Ok(Done::Value(0)),
        2 => Err(HypercallError::NotImplemented),
        _ => Err(HypercallError::Invalid),
    }
}

fn get_version<H: Host>(host: &mut H, pointer: u64) -> Result<Done, HypercallError> {
    let mut request: abi::GetVersion = read_for_update(host, pointer)?;
    match own_table(host, request.dom) {
        Ok(()) => {}
        Err(GrantStatus::BadDomain) => return Err(HypercallError::NoDomain),
        Err(_) => return Err(HypercallError::NotPermitted),
    }
    request.version = 1;
    write_value(host, pointer, &request)?;
    Ok(Done::Value(0))
}
