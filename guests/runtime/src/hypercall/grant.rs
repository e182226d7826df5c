//! Pages that other domains grant, mapped or copied by reference.

use portunus::abi::grant::{COPY, GrantCopy, MAP_GRANT_REF, MapGrantRef, UNMAP_GRANT_REF, UnmapGrantRef};
use portunus::abi::hypercall::GRANT_TABLE_OP;

use super::{Result, call};

/// [`MapGrantRef::flags`]: for the CPU.
pub const HOST_MAP: u32 = 2;
/// [`MapGrantRef::flags`]: for reading.
pub const READ_ONLY: u32 = 4;
/// [`GrantCopy::flags`]: the source is a grant reference.
pub const SOURCE_GREF: u16 = 1;
/// [`GrantCopy::flags`]: the destination is a grant reference.
pub const DEST_GREF: u16 = 2;

/// # Safety
/// As the operation's.
unsafe fn grant_table_op<T>(operation: u64, entries: &mut [T]) -> Result<()> {
    let arguments = [operation, entries.as_mut_ptr() as u64, entries.len() as u64, 0, 0];
    // SAFETY: the entries are here, of the operation's type (private function, see the callers).
    unsafe { call(GRANT_TABLE_OP, arguments) }.map(drop)
}

/// Maps a page for each entry; each has its status afterwards.
///
/// # Safety
/// What was at the entries' addresses is gone, and another domain may write there at any time.
pub unsafe fn map(entries: &mut [MapGrantRef]) -> Result<()> {
    // SAFETY: passed on to the caller.
    unsafe { grant_table_op(MAP_GRANT_REF, entries) }
}

/// Unmaps a page for each entry; each has its status afterwards.
///
/// # Safety
/// Nobody uses those pages any more.
pub unsafe fn unmap(entries: &mut [UnmapGrantRef]) -> Result<()> {
    // SAFETY: passed on to the caller.
    unsafe { grant_table_op(UNMAP_GRANT_REF, entries) }
}

/// Copies within a page for each entry; each has its status afterwards.
///
/// # Safety
/// The destinations are the caller's to write.
pub unsafe fn copy(entries: &mut [GrantCopy]) -> Result<()> {
    // SAFETY: passed on to the caller.
    unsafe { grant_table_op(COPY, entries) }
}
