//! Mapping and unmapping what a domain grants to itself.

use portunus::abi::HypercallError::Invalid;
use portunus::abi::grant::{self, GrantEntry, MapGrantRef, UnmapAndReplace, UnmapGrantRef};

use super::{
    BAD_DOMAIN, BAD_GNTREF, BAD_HANDLE, BAD_PAGE, GENERAL, NO_REFERENCE, in_use, map_at_window, status_is, table,
    to_map, told, unmap_one,
};
use crate::case::{Row, Structure, Table};
use crate::suite::Suite;
use crate::world::{DOMID_SELF, Grants, NOBODY, PAGE};

pub(super) fn run(suite: &mut Suite) {
    map(suite);
    unmap(suite);
    unmap_and_replace(suite);
}

fn map(suite: &mut Suite) {
    type R = Row<MapGrantRef>;
    suite.table(&Table {
        registers: |at| [grant::MAP_GRANT_REF, at, 1, 0, 0],
        good: |_, world| to_map(world.window, world.me, Grants::OWN),
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
                .check(status_is::<0, _>),
                R::boundary("no entries", |case, _| case.registers[2] = 0)
                    .check(|case, world| case.structure.status == 0 && in_use(world, Grants::OWN) == 0),
                told::<BAD_GNTREF, _>("neither for the CPU nor a device", |case, _| case.structure.flags = 0),
                told::<GENERAL, _>("for a device", |case, _| case.structure.flags = grant::MAP_DEVICE),
                told::<GENERAL, _>("for an application", |case, _| {
                    case.structure.flags |= grant::MAP_APPLICATION
                }),
                told::<GENERAL, _>("by a page-table entry", |case, _| case.structure.flags |= 1 << 4),
                told::<GENERAL, _>("a reference that is free", |case, _| {
                    case.structure.reference = Grants::FREE
                }),
                told::<BAD_GNTREF, _>("a reference beyond the table", |case, _| {
                    case.structure.reference = NO_REFERENCE
                }),
                told::<BAD_GNTREF, _>("the last reference", |case, _| case.structure.reference = u32::MAX),
                told::<GENERAL, _>("what is granted to another", |case, _| {
                    case.structure.reference = Grants::NOBODYS
                }),
                told::<GENERAL, _>("for writing what is granted for reading", |case, _| {
                    case.structure.reference = Grants::OWN_READ_ONLY;
                }),
                told::<BAD_PAGE, _>("what is no RAM", |case, _| case.structure.reference = Grants::NO_RAM),
                told::<BAD_DOMAIN, _>("of a domain that does not exist", |case, _| case.structure.dom = NOBODY),
                told::<BAD_DOMAIN, _>("of the last number of a domain", |case, _| {
                    case.structure.dom = u16::MAX
                }),
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
    suite.table(&Table {
        registers: |at| [grant::UNMAP_GRANT_REF, at, 1, 0, 0],
        good: |_, world| {
            let mapped = map_at_window(world, world.me, Grants::OWN);
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
                .check(status_is::<0, _>),
                R::boundary("no entries", |case, _| case.registers[2] = 0)
                    .check(|_, world| in_use(world, Grants::OWN) != 0),
                told::<GENERAL, _>("another address", |case, _| case.structure.host_addr += PAGE),
                told::<BAD_HANDLE, _>("a handle that was never given", |case, _| {
                    case.structure.handle = NO_REFERENCE
                }),
                told::<BAD_HANDLE, _>("the last handle", |case, _| case.structure.handle = u32::MAX),
                told::<BAD_HANDLE, _>("a second time", |case, world| {
                    unmap_one(world.window, case.structure.handle)
                }),
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
            let mapped = map_at_window(world, world.me, Grants::OWN);
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
                told::<GENERAL, _>("with a new address", |case, world| {
                    case.structure.new_addr = world.window + PAGE
                }),
                told::<BAD_HANDLE, _>("a handle that was never given", |case, _| {
                    case.structure.handle = NO_REFERENCE
                }),
            ],
        )
    });
}
