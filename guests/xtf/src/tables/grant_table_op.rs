//! grant_table_op, with pages that a domain grants to itself.

use portunus::abi::HypercallError::{IllegalSequence, Invalid, NoDomain, NotImplemented, NotPermitted, NotSupported};
use portunus::abi::grant::{
    self, CacheFlush, CopyEnd, GetStatusFrames, GetVersion, GrantCopy, GrantEntry, MapGrantRef, QuerySize, SetupTable,
    SwapGrantRef, Transfer, UnmapAndReplace, UnmapGrantRef, Version,
};
use portunus::abi::hypercall::GRANT_TABLE_OP;
use zerocopy::FromZeros;

use crate::case::{Case, Expected, Registers, Row, Structure, Table};
use crate::suite::Suite;
use crate::trampoline::Conduit;
use crate::world::{DOMID_SELF, Grants, NOBODY, PAGE, World, plain};

pub(super) const GENERAL: i16 = -1;
const BAD_DOMAIN: i16 = -2;
pub(super) const BAD_GNTREF: i16 = -3;
const BAD_HANDLE: i16 = -4;
const PERMISSION: i16 = -8;
const BAD_PAGE: i16 = -9;
pub(super) const BAD_COPY_ARG: i16 = -10;
/// Beyond any table.
pub(super) const NO_REFERENCE: u32 = 1 << 20;
/// A call whose entries say what became of them.
pub(super) const DONE: Expected = Expected::Value(0);

pub(super) fn table<'a, T: FromZeros>(
    operation: &'static str,
    structure: Structure,
    rows: &'a [Row<T>],
) -> Table<'a, T> {
    Table {
        call: "grant_table_op",
        operation,
        conduit: Conduit::Hypercall,
        number: GRANT_TABLE_OP,
        registers: |_| [0; 5],
        structure,
        good: |_, _| T::new_zeroed(),
        undo: |_, _| {},
        rows,
    }
}

pub(crate) fn run(suite: &mut Suite) {
    map(suite);
    unmap(suite);
    unmap_and_replace(suite);
    copy(suite);
    tables(suite);
    versions(suite);
    swap(suite);
    cache_flush(suite);
    refused(suite);
}

/// Maps a reference of `domain` at the window; its handle.
pub(super) fn map_one(world: &World, domain: u16, reference: u32, flags: u32) -> MapGrantRef {
    let mut entry = MapGrantRef {
        host_addr: world.window,
        flags,
        reference,
        dom: domain,
        ..MapGrantRef::default()
    };
    plain(GRANT_TABLE_OP, [grant::MAP_GRANT_REF, &raw mut entry as u64, 1, 0, 0]);
    entry
}

pub(super) fn unmap_one(host_addr: u64, handle: u32) {
    let mut entry = UnmapGrantRef {
        host_addr,
        handle,
        ..UnmapGrantRef::default()
    };
    plain(GRANT_TABLE_OP, [grant::UNMAP_GRANT_REF, &raw mut entry as u64, 1, 0, 0]);
}

fn in_use(world: &World, reference: u32) -> u16 {
    world.entry_flags(reference) & (GrantEntry::READING | GrantEntry::WRITING)
}

fn map(suite: &mut Suite) {
    type R = Row<MapGrantRef>;
    fn failed_with<const STATUS: i16>(case: &Case<MapGrantRef>, _: &mut World) -> bool {
        case.structure.status == STATUS
    }
    suite.table(&Table {
        registers: |at| [grant::MAP_GRANT_REF, at, 1, 0, 0],
        good: |_, world| MapGrantRef {
            host_addr: world.window,
            flags: grant::MAP_HOST,
            reference: Grants::OWN,
            dom: world.me,
            ..MapGrantRef::default()
        },
        undo: |case, _| {
            if case.structure.status == 0 && case.registers[2] == 1 {
                unmap_one(case.structure.host_addr, case.structure.handle);
            }
        },
        ..table(
            "map_grant_ref",
            Structure::InOut,
            &[
                R::good("for writing", |_, _| {}).check(|case, world| {
                    let both = GrantEntry::READING | GrantEntry::WRITING;
                    case.structure.status == 0
                        && in_use(world, Grants::OWN) == both
                        && world.word_at(world.window) == world.spare_word(Grants::OWN_PAGE * PAGE / 8)
                }),
                R::good("for reading", |case, _| case.structure.flags |= grant::MAP_READ_ONLY).check(|case, world| {
                    case.structure.status == 0
                        && in_use(world, Grants::OWN) == GrantEntry::READING
                        && !world.can_write(world.window)
                }),
                R::good("what is granted for reading", |case, _| {
                    case.structure.reference = Grants::OWN_READ_ONLY;
                    case.structure.flags |= grant::MAP_READ_ONLY;
                })
                .check(|case, world| {
                    case.structure.status == 0 && in_use(world, Grants::OWN_READ_ONLY) == GrantEntry::READING
                }),
                R::good("what is written there is in the page", |_, _| {}).check(|case, world| {
                    let word = Grants::OWN_PAGE * PAGE / 8;
                    let before = world.spare_word(word);
                    world.set_word_at(world.window, !before);
                    let written = world.spare_word(word) == !before;
                    world.set_word_at(world.window, before);
                    case.structure.status == 0 && written
                }),
                R::boundary("DOMID_SELF", |case, _| case.structure.dom = DOMID_SELF)
                    .check(|case, _| case.structure.status <= 0),
                R::boundary("an address inside the page", |case, _| {
                    case.structure.host_addr += 0xfff
                })
                .check(failed_with::<0>),
                R::boundary("no entries", |case, _| case.registers[2] = 0)
                    .check(|case, world| case.structure.status == 0 && in_use(world, Grants::OWN) == 0),
                R::bad("neither for the CPU nor a device", Invalid, |case, _| {
                    case.structure.flags = 0
                })
                .returns(DONE)
                .check(failed_with::<BAD_GNTREF>),
                R::bad("for a device", Invalid, |case, _| {
                    case.structure.flags = grant::MAP_DEVICE
                })
                .returns(DONE)
                .check(failed_with::<GENERAL>),
                R::bad("for an application", Invalid, |case, _| {
                    case.structure.flags |= grant::MAP_APPLICATION
                })
                .returns(DONE)
                .check(failed_with::<GENERAL>),
                R::bad("by a page-table entry", Invalid, |case, _| {
                    case.structure.flags |= 1 << 4
                })
                .returns(DONE)
                .check(failed_with::<GENERAL>),
                R::bad("a reference that is free", Invalid, |case, _| {
                    case.structure.reference = Grants::FREE
                })
                .returns(DONE)
                .check(failed_with::<GENERAL>),
                R::bad("a reference beyond the table", Invalid, |case, _| {
                    case.structure.reference = NO_REFERENCE
                })
                .returns(DONE)
                .check(failed_with::<BAD_GNTREF>),
                R::bad("the last reference", Invalid, |case, _| {
                    case.structure.reference = u32::MAX
                })
                .returns(DONE)
                .check(failed_with::<BAD_GNTREF>),
                R::bad("what is granted to another", Invalid, |case, _| {
                    case.structure.reference = Grants::NOBODYS
                })
                .returns(DONE)
                .check(failed_with::<GENERAL>),
                R::bad("for writing what is granted for reading", Invalid, |case, _| {
                    case.structure.reference = Grants::OWN_READ_ONLY;
                })
                .returns(DONE)
                .check(failed_with::<GENERAL>),
                R::bad("what is no RAM", Invalid, |case, _| {
                    case.structure.reference = Grants::NO_RAM
                })
                .returns(DONE)
                .check(failed_with::<BAD_PAGE>),
                R::bad("of a domain that does not exist", Invalid, |case, _| {
                    case.structure.dom = NOBODY
                })
                .returns(DONE)
                .check(failed_with::<BAD_DOMAIN>),
                R::bad("of the last number of a domain", Invalid, |case, _| {
                    case.structure.dom = u16::MAX
                })
                .returns(DONE)
                .check(failed_with::<BAD_DOMAIN>),
                R::bad("more entries than can be counted", Invalid, |case, _| {
                    case.registers[2] = 1 << 31
                }),
                R::bad("a cursor, which only cache_flush has", Invalid, |case, _| {
                    case.registers[0] |= 1 << 12
                }),
            ],
        )
    });
}

fn unmap(suite: &mut Suite) {
    type R = Row<UnmapGrantRef>;
    fn is<const STATUS: i16>(case: &Case<UnmapGrantRef>, _: &mut World) -> bool {
        case.structure.status == STATUS
    }
    suite.table(&Table {
        registers: |at| [grant::UNMAP_GRANT_REF, at, 1, 0, 0],
        good: |_, world| {
            let mapped = map_one(world, world.me, Grants::OWN, grant::MAP_HOST);
            world.handle.set(mapped.handle);
            UnmapGrantRef {
                host_addr: world.window,
                handle: mapped.handle,
                ..UnmapGrantRef::default()
            }
        },
        undo: |_, world| unmap_one(world.window, world.handle.get()),
        ..table(
            "unmap_grant_ref",
            Structure::InOut,
            &[
                R::good("the page is gone, and its entry free", |_, _| {}).check(|case, world| {
                    case.structure.status == 0 && in_use(world, Grants::OWN) == 0 && !world.is_memory(world.window)
                }),
                R::boundary("no address: nothing is done, and the handle stays", |case, _| {
                    case.structure.host_addr = 0
                })
                .check(|case, world| case.structure.status == 0 && in_use(world, Grants::OWN) != 0),
                R::boundary("an address for devices is not looked at", |case, _| {
                    case.structure.dev_bus_addr = 0
                })
                .check(is::<0>),
                R::boundary("no entries", |case, _| case.registers[2] = 0)
                    .check(|_, world| in_use(world, Grants::OWN) != 0),
                R::bad("another address", Invalid, |case, _| case.structure.host_addr += PAGE)
                    .returns(DONE)
                    .check(is::<GENERAL>),
                R::bad("a handle that was never given", Invalid, |case, _| {
                    case.structure.handle = NO_REFERENCE
                })
                .returns(DONE)
                .check(is::<BAD_HANDLE>),
                R::bad("the last handle", Invalid, |case, _| case.structure.handle = u32::MAX)
                    .returns(DONE)
                    .check(is::<BAD_HANDLE>),
                R::bad("a second time", Invalid, |case, world| {
                    unmap_one(world.window, case.structure.handle)
                })
                .returns(DONE)
                .check(is::<BAD_HANDLE>),
                R::bad("more entries than can be counted", Invalid, |case, _| {
                    case.registers[2] = u32::MAX.into()
                }),
            ],
        )
    });
}

fn unmap_and_replace(suite: &mut Suite) {
    type R = Row<UnmapAndReplace>;
    suite.table(&Table {
        registers: |at| [grant::UNMAP_AND_REPLACE, at, 1, 0, 0],
        good: |_, world| {
            let mapped = map_one(world, world.me, Grants::OWN, grant::MAP_HOST);
            world.handle.set(mapped.handle);
            UnmapAndReplace {
                host_addr: world.window,
                handle: mapped.handle,
                ..UnmapAndReplace::default()
            }
        },
        undo: |_, world| unmap_one(world.window, world.handle.get()),
        ..table(
            "unmap_and_replace",
            Structure::InOut,
            &[
                R::good("without a new address", |_, _| {})
                    .check(|case, world| case.structure.status == 0 && in_use(world, Grants::OWN) == 0),
                R::bad("with a new address", Invalid, |case, world| {
                    case.structure.new_addr = world.window + PAGE
                })
                .returns(DONE)
                .check(|case, _| case.structure.status == GENERAL),
                R::bad("a handle that was never given", Invalid, |case, _| {
                    case.structure.handle = NO_REFERENCE
                })
                .returns(DONE)
                .check(|case, _| case.structure.status == BAD_HANDLE),
            ],
        )
    });
}

fn copy(suite: &mut Suite) {
    type R = Row<GrantCopy>;
    fn is<const STATUS: i16>(case: &Case<GrantCopy>, _: &mut World) -> bool {
        case.structure.status == STATUS
    }
    const LENGTH: u16 = 64;
    suite.table(&Table {
        registers: |at| [grant::COPY, at, 1, 0, 0],
        // From the page that it grants to itself to spare page 0.
        good: |_, world| GrantCopy {
            source: CopyEnd {
                frame: Grants::OWN.into(),
                domid: world.me,
                offset: 128,
                pad: 0,
            },
            dest: CopyEnd {
                frame: world.spare_frame(0),
                domid: DOMID_SELF,
                offset: 0,
                pad: 0,
            },
            len: LENGTH,
            flags: grant::COPY_SOURCE_REFERENCE,
            ..GrantCopy::default()
        },
        undo: |_, world| world.fill_spare(),
        ..table(
            "copy",
            Structure::InOut,
            &[
                R::good("from a reference", |_, _| {}).check(|case, world| {
                    let source = (Grants::OWN_PAGE * PAGE + 128) / 8;
                    let same = (0..8).all(|word| world.spare_word(word) == world.spare_word(source + word));
                    case.structure.status == 0 && same && world.spare_word(8) != world.spare_word(source + 8)
                }),
                R::good("to a reference", |case, world| {
                    (case.structure.source, case.structure.dest) = (case.structure.dest, case.structure.source);
                    case.structure.flags = grant::COPY_DESTINATION_REFERENCE;
                    let _ = world;
                })
                .check(|case, world| {
                    case.structure.status == 0
                        && world.spare_word((Grants::OWN_PAGE * PAGE + 128) / 8) == world.spare_word(0)
                }),
                R::good("from frame to frame", |case, world| {
                    case.structure.source.frame = world.spare_frame(1);
                    case.structure.source.domid = DOMID_SELF;
                    case.structure.flags = 0;
                })
                .check(|case, world| {
                    case.structure.status == 0 && world.spare_word(0) == world.spare_word((PAGE + 128) / 8)
                }),
                R::boundary("a whole page", |case, _| {
                    case.structure.source.offset = 0;
                    case.structure.len = PAGE as u16;
                })
                .check(|case, world| {
                    case.structure.status == 0
                        && world.spare_word(511) == world.spare_word(Grants::OWN_PAGE * PAGE / 8 + 511)
                }),
                R::boundary("the last byte", |case, _| {
                    (case.structure.source.offset, case.structure.dest.offset) = (4095, 4095);
                    case.structure.len = 1;
                })
                .check(is::<0>),
                R::boundary("nothing", |case, _| case.structure.len = 0)
                    .check(|case, world| case.structure.status == 0 && world.spare_is_whole(0)),
                R::bad("nothing, of what there is not", Invalid, |case, _| {
                    case.structure.len = 0;
                    case.structure.source.frame = NO_REFERENCE.into();
                })
                .returns(DONE)
                .check(is::<BAD_GNTREF>),
                R::boundary("no entries", |case, _| case.registers[2] = 0).check(|_, world| world.spare_is_whole(0)),
                R::bad("beyond the source's page", Invalid, |case, _| {
                    case.structure.source.offset = 4096 - LENGTH + 1
                })
                .returns(DONE)
                .check(is::<BAD_COPY_ARG>),
                R::bad("beyond the destination's page", Invalid, |case, _| {
                    case.structure.dest.offset = 4096 - LENGTH + 1
                })
                .returns(DONE)
                .check(is::<BAD_COPY_ARG>),
                R::bad("the last offset", Invalid, |case, _| {
                    case.structure.dest.offset = u16::MAX
                })
                .returns(DONE)
                .check(is::<BAD_COPY_ARG>),
                R::bad("the longest", Invalid, |case, _| case.structure.len = u16::MAX)
                    .returns(DONE)
                    .check(is::<BAD_COPY_ARG>),
                R::bad("from a free reference", Invalid, |case, _| {
                    case.structure.source.frame = Grants::FREE.into()
                })
                .returns(DONE)
                .check(is::<GENERAL>),
                R::bad("from a reference beyond the table", Invalid, |case, _| {
                    case.structure.source.frame = NO_REFERENCE.into();
                })
                .returns(DONE)
                .check(is::<BAD_GNTREF>),
                R::bad("to what is granted for reading", Invalid, |case, _| {
                    (case.structure.source, case.structure.dest) = (case.structure.dest, case.structure.source);
                    case.structure.dest.frame = Grants::OWN_READ_ONLY.into();
                    case.structure.flags = grant::COPY_DESTINATION_REFERENCE;
                })
                .returns(DONE)
                .check(is::<GENERAL>),
                R::bad("from a frame of another domain", Invalid, |case, world| {
                    case.structure.source.domid = world.other;
                    case.structure.source.frame = world.spare_frame(0);
                    case.structure.flags = 0;
                })
                .returns(DONE)
                .check(is::<PERMISSION>),
                R::bad("to a frame that is no RAM", Invalid, |case, world| {
                    case.structure.dest.frame = world.nowhere / PAGE
                })
                .returns(DONE)
                .check(is::<BAD_PAGE>),
                R::bad("from a domain that does not exist", Invalid, |case, _| {
                    case.structure.source.domid = NOBODY
                })
                .returns(DONE)
                .check(is::<BAD_DOMAIN>),
                R::bad("more entries than can be counted", Invalid, |case, _| {
                    case.registers[2] = 1 << 31
                }),
            ],
        )
    });
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
                    R::boundary("no frames", |case, _| case.structure.nr_frames = 0)
                        .check(|case, _| case.structure.status == 0),
                    R::bad("more frames than it may have", Invalid, |case, _| {
                        case.structure.nr_frames = 1 << 16
                    })
                    .returns(DONE)
                    .check(|case, _| case.structure.status == GENERAL),
                    R::bad("of another domain", Invalid, |case, world| {
                        case.structure.dom = world.other
                    })
                    .returns(DONE)
                    .check(|case, _| case.structure.status == PERMISSION),
                    R::bad("of a domain that does not exist", Invalid, |case, _| {
                        case.structure.dom = NOBODY
                    })
                    .returns(DONE)
                    .check(|case, _| case.structure.status == BAD_DOMAIN),
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
                    R::good("by its own number", |case, world| case.structure.dom = world.me)
                        .check(|case, _| case.structure.status == 0),
                    R::boundary("what the answer held before", |case, _| {
                        (case.structure.nr_frames, case.structure.max_nr_frames) = (u32::MAX, u32::MAX);
                    })
                    .check(|case, _| case.structure.nr_frames == 1),
                    R::bad("of another domain", Invalid, |case, world| {
                        case.structure.dom = world.other
                    })
                    .returns(DONE)
                    .check(|case, _| case.structure.status == PERMISSION),
                    R::bad("of a domain that does not exist", Invalid, |case, _| {
                        case.structure.dom = NOBODY
                    })
                    .returns(DONE)
                    .check(|case, _| case.structure.status == BAD_DOMAIN),
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
                R::bad("one", Invalid, |case, _| case.structure.nr_frames = 1)
                    .returns(DONE)
                    .check(|case, _| case.structure.status == GENERAL),
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
                R::bad("the first beyond the table", Invalid, |case, _| {
                    case.structure.ref_a = NO_REFERENCE
                })
                .returns(DONE)
                .check(|case, _| case.structure.status == BAD_GNTREF),
                R::bad("the second beyond the table", Invalid, |case, _| {
                    case.structure.ref_b = u32::MAX
                })
                .returns(DONE)
                .check(|case, _| case.structure.status == BAD_GNTREF),
            ],
        )
    });
}

fn cache_flush(suite: &mut Suite) {
    type R = Row<CacheFlush>;
    suite.table(&Table {
        registers: |at| [grant::CACHE_FLUSH, at, 1, 0, 0],
        good: |_, _| CacheFlush::default(),
        ..table(
            "cache_flush",
            Structure::Input,
            &[
                R::good("nothing, which is how guests ask whether it is there", |_, _| {}),
                R::boundary("no length", |case, _| case.structure.op = grant::CACHE_CLEAN),
                R::boundary("no entries", |case, _| case.registers[2] = 0),
                R::bad("beyond its page", Invalid, |case, _| {
                    (case.structure.offset, case.structure.length) = (4095, 2);
                    case.structure.op = grant::CACHE_CLEAN;
                }),
                R::bad("the last offset", Invalid, |case, _| {
                    (case.structure.offset, case.structure.length) = (u16::MAX, 1);
                    case.structure.op = grant::CACHE_CLEAN;
                }),
                R::bad("an operation that does not exist", Invalid, |case, _| {
                    (case.structure.length, case.structure.op) = (1, 4);
                }),
                R::bad("by reference", Invalid, |case, _| {
                    (case.structure.length, case.structure.op) = (1, grant::CACHE_CLEAN | 1 << 31);
                }),
                R::bad("a cursor where nothing goes on", IllegalSequence, |case, _| {
                    case.registers[0] |= 1 << 12
                }),
            ],
        )
    });
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
