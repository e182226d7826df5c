//! The table itself: its frames, its version, entries that change places.

use portunus::abi::HypercallError::{Invalid, NoDomain, NotImplemented, NotPermitted};
use portunus::abi::grant::{
    self, GetStatusFrames, GetVersion, GrantEntry, QuerySize, SetupTable, SwapGrantRef, Version,
};
use portunus::abi::hypercall::GRANT_TABLE_OP;

use super::{BAD_DOMAIN, BAD_GNTREF, GENERAL, NO_REFERENCE, PERMISSION, status_is, table, told};
use crate::case::{Row, Structure, Table};
use crate::suite::Suite;
use crate::world::{DOMID_SELF, Grants, NOBODY, plain};

pub(super) fn run(suite: &mut Suite) {
    tables(suite);
    versions(suite);
    swap(suite);
}

fn tables(suite: &mut Suite) {
    {
        type R = Row<SetupTable>;
        suite.table(&Table {
            registers: |at| [grant::SETUP_TABLE, at, 1, 0, 0],
            good: |_, world| SetupTable {
                dom: DOMID_SELF,
                nr_frames: 1,
                frame_list: world.list(),
                ..SetupTable::default()
            },
            ..table(
                "setup_table",
                Structure::InOut,
                &[
                    R::good("where its only frame is", |_, _| {})
                        .check(|case, world| case.structure.status == 0 && world.list_word(0) == world.table_frame()),
                    R::boundary("no frames", |case, _| case.structure.nr_frames = 0).check(status_is::<0, _>),
                    told::<GENERAL, _>("more frames than it may have", |case, _| {
                        case.structure.nr_frames = 1 << 16
                    }),
                    told::<PERMISSION, _>("of another domain", |case, world| case.structure.dom = world.other),
                    told::<BAD_DOMAIN, _>("of a domain that does not exist", |case, _| case.structure.dom = NOBODY),
                    R::bad("no entries", Invalid, |case, _| case.registers[2] = 0),
                    R::bad("two entries", Invalid, |case, _| case.registers[2] = 2),
                ],
            )
        });
    }
    {
        type R = Row<QuerySize>;
        suite.table(&Table {
            registers: |at| [grant::QUERY_SIZE, at, 1, 0, 0],
            good: |_, _| QuerySize {
                dom: DOMID_SELF,
                ..QuerySize::default()
            },
            ..table(
                "query_size",
                Structure::InOut,
                &[
                    R::good("one frame of many", |_, _| {}).check(|case, _| {
                        case.structure.status == 0
                            && case.structure.nr_frames == 1
                            && case.structure.max_nr_frames > case.structure.nr_frames
                    }),
                    R::good("by its own number", |case, world| case.structure.dom = world.me).check(status_is::<0, _>),
                    R::boundary("what the answer held before", |case, _| {
                        (case.structure.nr_frames, case.structure.max_nr_frames) = (u32::MAX, u32::MAX);
                    })
                    .check(|case, _| case.structure.nr_frames == 1),
                    told::<PERMISSION, _>("of another domain", |case, world| case.structure.dom = world.other),
                    told::<BAD_DOMAIN, _>("of a domain that does not exist", |case, _| case.structure.dom = NOBODY),
                    R::bad("no entries", Invalid, |case, _| case.registers[2] = 0),
                    R::bad("two entries", Invalid, |case, _| case.registers[2] = 2),
                ],
            )
        });
    }
    type R = Row<GetStatusFrames>;
    suite.table(&Table {
        registers: |at| [grant::GET_STATUS_FRAMES, at, 1, 0, 0],
        good: |_, world| GetStatusFrames {
            dom: DOMID_SELF,
            frame_list: world.list(),
            ..GetStatusFrames::default()
        },
        ..table(
            "get_status_frames",
            Structure::InOut,
            &[
                R::boundary("none of none", |_, _| {}),
                told::<GENERAL, _>("one", |case, _| case.structure.nr_frames = 1),
                R::bad("no entries", Invalid, |case, _| case.registers[2] = 0),
                R::bad("two entries", Invalid, |case, _| case.registers[2] = 2),
            ],
        )
    });
}

fn versions(suite: &mut Suite) {
    {
        type R = Row<Version>;
        suite.table(&Table {
            registers: |at| [grant::SET_VERSION, at, 1, 0, 0],
            good: |_, _| Version { version: 1 },
            ..table(
                "set_version",
                Structure::InOut,
                &[
                    R::good("1", |_, _| {}),
                    R::bad("2, and 1 is told", NotImplemented, |case, _| case.structure.version = 2)
                        .writes()
                        .check(|case, _| case.structure.version == 1),
                    R::bad("0, and 1 is told", Invalid, |case, _| case.structure.version = 0)
                        .writes()
                        .check(|case, _| case.structure.version == 1),
                    R::bad("3, and 1 is told", Invalid, |case, _| case.structure.version = 3)
                        .writes()
                        .check(|case, _| case.structure.version == 1),
                    R::bad("the last, and 1 is told", Invalid, |case, _| {
                        case.structure.version = u32::MAX
                    })
                    .writes()
                    .check(|case, _| case.structure.version == 1),
                ],
            )
        });
    }
    type R = Row<GetVersion>;
    suite.table(&Table {
        registers: |at| [grant::GET_VERSION, at, 1, 0, 0],
        good: |_, _| GetVersion {
            dom: DOMID_SELF,
            ..GetVersion::default()
        },
        ..table(
            "get_version",
            Structure::InOut,
            &[
                R::good("1", |_, _| {}).check(|case, _| case.structure.version == 1),
                R::good("by its own number", |case, world| case.structure.dom = world.me)
                    .check(|case, _| case.structure.version == 1),
                R::bad("of another domain", NotPermitted, |case, world| {
                    case.structure.dom = world.other
                }),
                R::bad("of a domain that does not exist", NoDomain, |case, _| {
                    case.structure.dom = NOBODY
                }),
            ],
        )
    });
}

fn swap(suite: &mut Suite) {
    type R = Row<SwapGrantRef>;
    suite.table(&Table {
        registers: |at| [grant::SWAP_GRANT_REF, at, 1, 0, 0],
        good: |_, _| SwapGrantRef {
            ref_a: Grants::OWN,
            ref_b: Grants::FREE,
            ..SwapGrantRef::default()
        },
        undo: |case, world| {
            if case.structure.status == 0 && world.entry_flags(Grants::FREE) != 0 {
                let mut back = case.structure;
                plain(GRANT_TABLE_OP, [grant::SWAP_GRANT_REF, &raw mut back as u64, 1, 0, 0]);
            }
        },
        ..table(
            "swap_grant_ref",
            Structure::InOut,
            &[
                R::good("one with a free one", |_, _| {}).check(|case, world| {
                    case.structure.status == 0
                        && world.entry_flags(Grants::OWN) == 0
                        && world.entry_flags(Grants::FREE) == GrantEntry::PERMIT_ACCESS
                }),
                R::boundary("with itself", |case, _| case.structure.ref_b = Grants::OWN)
                    .check(|case, world| case.structure.status == 0 && world.entry_flags(Grants::OWN) != 0),
                told::<BAD_GNTREF, _>("the first beyond the table", |case, _| {
                    case.structure.ref_a = NO_REFERENCE
                }),
                told::<BAD_GNTREF, _>("the second beyond the table", |case, _| case.structure.ref_b = u32::MAX),
            ],
        )
    });
}
