//! grant_table_op, with pages that a domain grants to itself.

mod cache;
mod copying;
mod mapping;
mod table;

use portunus::abi::HypercallError::{Invalid, NotImplemented, NotSupported};
use portunus::abi::grant::{
    self, CopyEnd, GetStatusFrames, GrantCopy, GrantEntry, MapGrantRef, QuerySize, SetupTable, SwapGrantRef, Transfer,
    UnmapAndReplace, UnmapGrantRef,
};
use portunus::abi::hypercall::GRANT_TABLE_OP;
use zerocopy::FromZeros;

use crate::case::{Case, Expected, Registers, Row, Structure, Table};
use crate::suite::Suite;
use crate::world::{World, plain};

pub(super) const GENERAL: i16 = -1;
const BAD_DOMAIN: i16 = -2;
pub(super) const BAD_GNTREF: i16 = -3;
pub(super) const BAD_HANDLE: i16 = -4;
const PERMISSION: i16 = -8;
const BAD_PAGE: i16 = -9;
pub(super) const BAD_COPY_ARG: i16 = -10;
/// Beyond any table.
pub(super) const NO_REFERENCE: u32 = 1 << 20;

/// An entry that says what became of it.
pub(super) trait Entry {
    fn status(&self) -> i16;
}

macro_rules! entries {
    ($($entry:ty),* $(,)?) => {
        $(impl Entry for $entry {
            fn status(&self) -> i16 {
                self.status
            }
        })*
    };
}

entries!(
    MapGrantRef,
    UnmapGrantRef,
    UnmapAndReplace,
    GrantCopy,
    SetupTable,
    QuerySize,
    GetStatusFrames,
    SwapGrantRef,
);

pub(super) fn status_is<const STATUS: i16, T: Entry>(case: &Case<T>, _: &mut World) -> bool {
    case.structure.status() == STATUS
}

/// An entry that is refused by this status; the call is not.
pub(super) const fn told<const STATUS: i16, T: Entry>(
    name: &'static str,
    change: fn(&mut Case<T>, &mut World),
) -> Row<T> {
    Row::bad(name, Invalid, change)
        .returns(Expected::Value(0))
        .check(status_is::<STATUS, T>)
}

pub(super) fn table<'a, T: FromZeros>(
    operation: &'static str,
    structure: Structure,
    rows: &'a [Row<T>],
) -> Table<'a, T> {
    Table::hypercall(("grant_table_op", GRANT_TABLE_OP), operation, structure, rows)
}

pub(crate) fn run(suite: &mut Suite) {
    mapping::run(suite);
    copying::run(suite);
    table::run(suite);
    cache::run(suite);
    refused(suite);
}

/// A reference of `domain`, to be mapped at `host_addr` for writing.
pub(super) fn to_map(host_addr: u64, domain: u16, reference: u32) -> MapGrantRef {
    MapGrantRef {
        host_addr,
        flags: grant::MAP_HOST,
        reference,
        dom: domain,
        ..MapGrantRef::default()
    }
}

/// Maps a reference of `domain` there for writing, if it can be.
pub(super) fn map_at(host_addr: u64, domain: u16, reference: u32) -> MapGrantRef {
    let mut entry = to_map(host_addr, domain, reference);
    plain(GRANT_TABLE_OP, [grant::MAP_GRANT_REF, &raw mut entry as u64, 1, 0, 0]);
    entry
}

/// Maps a reference of `domain` at the window, and keeps its handle.
pub(super) fn map_at_window(world: &World, domain: u16, reference: u32) -> MapGrantRef {
    let mapped = map_at(world.window, domain, reference);
    world.handle.set(mapped.handle);
    mapped
}

pub(super) fn unmap_one(host_addr: u64, handle: u32) {
    let mut entry = UnmapGrantRef {
        host_addr,
        handle,
        ..UnmapGrantRef::default()
    };
    plain(GRANT_TABLE_OP, [grant::UNMAP_GRANT_REF, &raw mut entry as u64, 1, 0, 0]);
}

/// One end of a copy.
pub(super) fn end(frame: u64, domid: u16, offset: u16) -> CopyEnd {
    CopyEnd {
        frame,
        domid,
        offset,
        pad: 0,
    }
}

fn in_use(world: &World, reference: u32) -> u16 {
    world.entry_flags(reference) & (GrantEntry::READING | GrantEntry::WRITING)
}

fn refused(suite: &mut Suite) {
    suite.table(&Table {
        registers: |at| [grant::TRANSFER, at, 1, 0, 0],
        good: |_, world| Transfer {
            mfn: world.spare_frame(0),
            domid: world.other,
            ..Transfer::default()
        },
        ..table(
            "transfer",
            Structure::Ignored,
            &[Row::bad("a page", NotSupported, |_: &mut Case<Transfer>, _| {})],
        )
    });
    let operations: [(&str, Registers); 2] = [
        ("others", |at| [grant::CACHE_FLUSH + 1, at, 1, 0, 0]),
        ("others", |at| [0xfff, at, 1, 0, 0]),
    ];
    for (operation, registers) in operations {
        suite.table(&Table {
            registers,
            ..table(
                operation,
                Structure::Ignored,
                &[Row::bad("zeroes", NotImplemented, |_: &mut Case<[u64; 5]>, _| {})],
            )
        });
    }
}
