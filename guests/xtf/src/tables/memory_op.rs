//! memory_op on the memory of one domain.

use portunus::abi::HypercallError::{
    AccessDenied, Domain, IllegalSequence, Invalid, NoDomain, NoEntry, NotImplemented, NotPermitted, NotSupported,
};
use portunus::abi::grant::{self, QuerySize};
use portunus::abi::hypercall::{GRANT_TABLE_OP, MEMORY_OP};
use portunus::abi::memory::{self, AddToPhysmap, AddToPhysmapBatch, MemoryReservation, RemoveFromPhysmap};
use zerocopy::FromZeros;

use crate::case::{Case, Expected, Registers, Row, Structure, Table};
use crate::suite::Suite;
use crate::tables::entry_is;
use crate::world::{DOMID_SELF, DOMID_XEN, NOBODY, PAGE, World, ask, plain};

/// A frame beyond what guests address.
const NO_FRAME: u64 = 1 << 40;
const INVALID_GFN: u64 = u64::MAX;
/// Entries done before, as a resumed call has them.
const RESUMED: u64 = 1 << memory::EXTENT_SHIFT;

fn table<'a, T: FromZeros>(operation: &'static str, structure: Structure, rows: &'a [Row<T>]) -> Table<'a, T> {
    Table::hypercall(("memory_op", MEMORY_OP), operation, structure, rows)
}

pub(crate) fn run(suite: &mut Suite) {
    pages(suite);
    decrease_reservation(suite);
    populate_physmap(suite);
    add_to_physmap(suite);
    add_to_physmap_batch(suite);
    remove_from_physmap(suite);
    refused(suite);
}

/// The pages that this domain has, or may have.
fn count(operation: u64) -> u64 {
    let domain = DOMID_SELF;
    plain(MEMORY_OP, [operation, &raw const domain as u64, 0, 0, 0])
}

fn pages(suite: &mut Suite) {
    type R = Row<u16>;
    const ROWS: [R; 7] = [
        R::good("of itself", |_, _| {})
            .returns(Expected::Success)
            .check(|case, _| case.x0 > 0),
        R::good("by its own number", |case, world| case.structure = world.me)
            .returns(Expected::Success)
            .check(|case, _| case.x0 == count(case.registers[0])),
        R::bad("of another domain", NotPermitted, |case, world| {
            case.structure = world.other
        }),
        R::bad("of a domain that does not exist", NoDomain, |case, _| {
            case.structure = NOBODY
        }),
        R::bad("of the last number of a domain", NoDomain, |case, _| {
            case.structure = u16::MAX
        }),
        R::bad("of DOMID_IO", NoDomain, |case, _| case.structure = 0x7ff1),
        R::bad("as if it were resumed", Invalid, |case, _| case.registers[0] |= RESUMED),
    ];
    let operations: [(&str, Registers); 3] = [
        ("current_reservation", |at| [memory::CURRENT_RESERVATION, at, 0, 0, 0]),
        ("maximum_reservation", |at| [memory::MAXIMUM_RESERVATION, at, 0, 0, 0]),
        ("maximum_gpfn", |at| [memory::MAXIMUM_GPFN, at, 0, 0, 0]),
    ];
    for (operation, registers) in operations {
        suite.table(&Table {
            registers,
            good: |_, _| DOMID_SELF,
            ..table(operation, Structure::Input, &ROWS)
        });
    }
}

/// A reservation of spare page 0, or of what the list names.
fn reservation(world: &World) -> MemoryReservation {
    world.set_list_word(0, world.spare_frame(0));
    MemoryReservation {
        extent_start: world.list(),
        nr_extents: 1,
        domid: DOMID_SELF,
        ..MemoryReservation::default()
    }
}

/// Puts spare pages back that are out of the map, with what they held.
fn bring_back(world: &World, pages: u64) {
    for page in 0..pages {
        let frame = world.spare_frame(page);
        let mut request = MemoryReservation {
            extent_start: &raw const frame as u64,
            nr_extents: 1,
            domid: DOMID_SELF,
            ..MemoryReservation::default()
        };
        if world.is_mapped(page) {
            continue;
        }
        ask(MEMORY_OP, memory::POPULATE_PHYSMAP, &mut request);
    }
    world.fill_spare();
}

fn decrease_reservation(suite: &mut Suite) {
    type R = Row<MemoryReservation>;
    suite.table(&Table {
        registers: |at| [memory::DECREASE_RESERVATION, at, 0, 0, 0],
        good: |_, world| reservation(world),
        undo: |_, world| bring_back(world, 4),
        ..table(
            "decrease_reservation",
            Structure::Counted,
            &[
                R::good("one page, which is gone", |_, _| {})
                    .returns(Expected::Value(1))
                    .check(|_, world| !world.is_mapped(0)),
                R::good("by its own number", |case, world| case.structure.domid = world.me).returns(Expected::Value(1)),
                R::good("four pages", |case, world| {
                    for page in 0..4 {
                        world.set_list_word(page, world.spare_frame(page));
                    }
                    case.structure.nr_extents = 4;
                })
                .returns(Expected::Value(4))
                .check(|_, world| (0..4).all(|page| !world.is_mapped(page)) && world.is_mapped(4)),
                R::boundary("none", |case, _| case.structure.nr_extents = 0).check(|_, world| world.is_mapped(0)),
                R::boundary("an extent of four pages", |case, _| case.structure.extent_order = 2)
                    .returns(Expected::Value(1))
                    .check(|_, world| !world.is_mapped(3) && world.is_mapped(4)),
                R::boundary("resumed where it was done", |case, _| case.registers[0] |= RESUMED)
                    .returns(Expected::Value(1))
                    .check(|_, world| world.is_mapped(0)),
                R::boundary("ends where a page is no RAM", |case, world| {
                    world.set_list_word(1, world.nowhere / PAGE);
                    case.structure.nr_extents = 2;
                })
                .returns(Expected::Value(1))
                .check(|_, world| !world.is_mapped(0)),
                R::boundary("flags of NUMA nodes", |case, _| case.structure.mem_flags = 0xff00)
                    .returns(Expected::Value(1)),
                R::bad("no RAM", NotPermitted, |_, world| {
                    world.set_list_word(0, world.nowhere / PAGE)
                })
                .returns(Expected::Value(0)),
                R::bad("a frame beyond all", NotPermitted, |_, world| {
                    world.set_list_word(0, NO_FRAME)
                })
                .returns(Expected::Value(0)),
                R::bad("INVALID_GFN", NotPermitted, |_, world| {
                    world.set_list_word(0, INVALID_GFN)
                })
                .returns(Expected::Value(0)),
                R::bad("an extent that is too long", NotPermitted, |case, _| {
                    case.structure.extent_order = 20
                })
                .returns(Expected::Value(0)),
                R::bad("the longest extent", NotPermitted, |case, _| {
                    case.structure.extent_order = u32::MAX
                })
                .returns(Expected::Value(0)),
                R::bad("a list that is nowhere", NotPermitted, |case, world| {
                    case.structure.extent_start = world.nowhere
                })
                .returns(Expected::Value(0)),
                R::bad("more extents than can be counted", NotPermitted, |case, _| {
                    case.structure.nr_extents = u64::MAX
                })
                .returns(Expected::Value(0)),
                R::bad("of another domain", NotPermitted, |case, world| {
                    case.structure.domid = world.other
                })
                .returns(Expected::Value(0)),
                R::bad("of a domain that does not exist", NoDomain, |case, _| {
                    case.structure.domid = NOBODY
                })
                .returns(Expected::Value(0)),
            ],
        )
    });
}

/// Takes a spare page out of the map.
fn take_out(world: &World, page: u64) {
    let frame = world.spare_frame(page);
    let mut request = MemoryReservation {
        extent_start: &raw const frame as u64,
        nr_extents: 1,
        domid: DOMID_SELF,
        ..MemoryReservation::default()
    };
    ask(MEMORY_OP, memory::DECREASE_RESERVATION, &mut request);
}

fn populate_physmap(suite: &mut Suite) {
    type R = Row<MemoryReservation>;
    suite.table(&Table {
        registers: |at| [memory::POPULATE_PHYSMAP, at, 0, 0, 0],
        good: |_, world| {
            take_out(world, 0);
            reservation(world)
        },
        undo: |_, world| bring_back(world, 4),
        ..table(
            "populate_physmap",
            Structure::Counted,
            &[
                R::good("a page that was taken out", |_, _| {})
                    .returns(Expected::Value(1))
                    .check(|_, world| world.is_mapped(0)),
                R::good("it holds nothing", |_, _| {})
                    .returns(Expected::Value(1))
                    .check(|_, world| world.is_mapped(0) && world.spare_word(0) == 0 && world.spare_word(511) == 0),
                R::good("by its own number", |case, world| case.structure.domid = world.me).returns(Expected::Value(1)),
                R::boundary("none", |case, _| case.structure.nr_extents = 0).check(|_, world| !world.is_mapped(0)),
                R::boundary("an extent of two pages", |case, world| {
                    take_out(world, 1);
                    case.structure.extent_order = 1;
                })
                .returns(Expected::Value(1))
                .check(|_, world| world.is_mapped(0) && world.is_mapped(1)),
                R::boundary("resumed where it was done", |case, _| case.registers[0] |= RESUMED)
                    .returns(Expected::Value(1))
                    .check(|_, world| !world.is_mapped(0)),
                R::bad(
                    "an extent that there are not enough pages for: none of it",
                    NotPermitted,
                    |case, world| {
                        bring_back(world, 1);
                        world.set_list_word(0, world.window / PAGE);
                        case.structure.extent_order = 3;
                    },
                )
                .returns(Expected::Value(0))
                .check(|_, world| !world.is_memory(world.window)),
                R::bad("an extent that is too long", NotPermitted, |case, _| {
                    case.structure.extent_order = 20
                })
                .returns(Expected::Value(0)),
                R::bad("a frame beyond all", NotPermitted, |_, world| {
                    world.set_list_word(0, NO_FRAME)
                })
                .returns(Expected::Value(0)),
                R::bad("a list that is nowhere", NotPermitted, |case, world| {
                    case.structure.extent_start = world.nowhere
                })
                .returns(Expected::Value(0)),
                R::bad("of another domain", NotPermitted, |case, world| {
                    case.structure.domid = world.other
                })
                .returns(Expected::Value(0)),
                R::bad("of a domain that does not exist", NoDomain, |case, _| {
                    case.structure.domid = NOBODY
                })
                .returns(Expected::Value(0)),
            ],
        )
    });
}

/// How many frames this domain's grant table may have.
fn grant_frames() -> u64 {
    let mut size = QuerySize {
        dom: DOMID_SELF,
        ..QuerySize::default()
    };
    plain(GRANT_TABLE_OP, [grant::QUERY_SIZE, &raw mut size as u64, 1, 0, 0]);
    size.max_nr_frames.into()
}

/// Takes what is at a frame of the window away.
fn clear(frame: u64) {
    let mut request = RemoveFromPhysmap {
        domid: DOMID_SELF,
        gpfn: frame,
        ..RemoveFromPhysmap::default()
    };
    ask(MEMORY_OP, memory::REMOVE_FROM_PHYSMAP, &mut request);
}

fn add_to_physmap(suite: &mut Suite) {
    type R = Row<AddToPhysmap>;
    suite.table(&Table {
        registers: |at| [memory::ADD_TO_PHYSMAP, at, 0, 0, 0],
        good: |_, world| {
            // Frame 0 of the grant table is where the suite looks at it: it comes back there.
            clear(world.table_frame());
            AddToPhysmap {
                domid: DOMID_SELF,
                space: memory::SPACE_GRANT_TABLE,
                idx: 0,
                gpfn: world.table_frame(),
                ..AddToPhysmap::default()
            }
        },
        undo: |_, world| world.map_table(),
        ..table(
            "add_to_physmap",
            Structure::Input,
            &[
                R::good("frame 0 of the grant table, at its place", |_, _| {}),
                R::good("by its own number", |case, world| {
                    case.structure.domid = world.me;
                }),
                R::boundary("size, which only ranges have", |case, _| {
                    case.structure.size = u16::MAX;
                }),
                R::bad("a frame beyond the table's limit", Invalid, |case, _| {
                    case.structure.idx = grant_frames()
                }),
                R::bad("the last index", Invalid, |case, _| case.structure.idx = u64::MAX),
                R::bad("a status frame", Invalid, |case, _| case.structure.idx = 1 << 31),
                R::bad("shared_info with an index", Invalid, |case, _| {
                    (case.structure.space, case.structure.idx) = (memory::SPACE_SHARED_INFO, 1);
                }),
                R::bad("space gmfn", NotImplemented, |case, _| {
                    case.structure.space = memory::SPACE_GMFN
                }),
                R::bad("space gmfn_foreign, which is for lists", NotImplemented, |case, _| {
                    case.structure.space = memory::SPACE_GMFN_FOREIGN;
                }),
                R::bad("space dev_mmio", AccessDenied, |case, _| {
                    case.structure.space = memory::SPACE_DEV_MMIO
                }),
                R::bad("the first space that does not exist", NotImplemented, |case, _| {
                    case.structure.space = 6
                }),
                R::bad("the last number of a space", NotImplemented, |case, _| {
                    case.structure.space = u32::MAX
                }),
                R::bad("of another domain", NotPermitted, |case, world| {
                    case.structure.domid = world.other
                }),
                R::bad("of a domain that does not exist", NoDomain, |case, _| {
                    case.structure.domid = NOBODY
                }),
                R::bad("as if it were resumed", Invalid, |case, _| case.registers[0] |= RESUMED),
            ],
        )
    });
}

/// Makes the call one for memory of that domain.
fn ask_for(case: &mut Case<AddToPhysmapBatch>, world: &mut World, domain: u16) {
    world.map_table();
    case.structure.space = memory::SPACE_GMFN_FOREIGN as u16;
    case.structure.foreign_domid = domain;
}

fn add_to_physmap_batch(suite: &mut Suite) {
    type R = Row<AddToPhysmapBatch>;
    suite.table(&Table {
        registers: |at| [memory::ADD_TO_PHYSMAP_BATCH, at, 0, 0, 0],
        good: |_, world| {
            clear(world.table_frame());
            world.set_list_word(0, 0);
            world.set_list_word(1, world.table_frame());
            world.set_list_word(2, u64::MAX);
            AddToPhysmapBatch {
                domid: DOMID_SELF,
                space: memory::SPACE_GRANT_TABLE as u16,
                size: 1,
                foreign_domid: 0,
                idxs: world.list(),
                gpfns: world.list() + 8,
                errs: world.list() + 16,
            }
        },
        undo: |_, world| world.map_table(),
        ..table(
            "add_to_physmap_batch",
            Structure::Input,
            &[
                R::good("a frame of the grant table", |_, _| {}).check(|_, world| world.list_half(4) == 0),
                R::good("by its own number", |case, world| case.structure.domid = world.me)
                    .check(|_, world| world.list_half(4) == 0),
                R::boundary("none", |case, _| case.structure.size = 0).check(|_, world| world.list_half(4) == u32::MAX),
                R::bad("resumed at its end", IllegalSequence, |case, world| {
                    world.map_table();
                    case.registers[0] |= RESUMED;
                }),
                R::boundary("an entry fails by itself", |_, world| {
                    world.set_list_word(0, grant_frames())
                })
                .check(entry_is::<{ Invalid.entry() }>),
                R::bad("resumed beyond its end", IllegalSequence, |case, world| {
                    world.map_table();
                    case.registers[0] |= 2 * RESUMED;
                }),
                R::bad("space gmfn_range", NotSupported, |case, world| {
                    world.map_table();
                    case.structure.space = memory::SPACE_GMFN_RANGE as u16;
                }),
                R::bad("resumed beyond all", Domain, |case, world| {
                    world.map_table();
                    case.registers[0] |= RESUMED << 16;
                }),
                R::bad("device memory", AccessDenied, |case, world| {
                    world.map_table();
                    case.structure.space = memory::SPACE_DEV_MMIO as u16;
                }),
                R::bad("device memory for another domain", AccessDenied, |case, world| {
                    world.map_table();
                    case.structure.space = memory::SPACE_DEV_MMIO as u16;
                    case.structure.domid = world.other;
                }),
                R::boundary("its own memory as another's", |case, world| {
                    ask_for(case, world, world.me)
                })
                .check(entry_is::<{ NotPermitted.entry() }>),
                R::boundary("its own memory as another's, by name", |case, world| {
                    ask_for(case, world, DOMID_SELF)
                })
                .check(entry_is::<{ NoDomain.entry() }>),
                R::boundary("memory of the hypervisor", |case, world| {
                    ask_for(case, world, DOMID_XEN)
                })
                .check(entry_is::<{ NotPermitted.entry() }>),
                R::boundary("memory of a domain that the manifest does not open", |case, world| {
                    ask_for(case, world, world.other)
                })
                .check(entry_is::<{ NotPermitted.entry() }>),
                R::boundary("memory of a domain that does not exist", |case, world| {
                    ask_for(case, world, NOBODY)
                })
                .check(entry_is::<{ NoDomain.entry() }>),
                R::boundary("no memory of a domain that does not exist", |case, world| {
                    ask_for(case, world, NOBODY);
                    case.structure.size = 0;
                })
                .check(|_, world| world.list_half(4) == u32::MAX),
                R::bad("of another domain", NotPermitted, |case, world| {
                    world.map_table();
                    case.structure.domid = world.other;
                }),
                R::bad("of a domain that does not exist", NoDomain, |case, world| {
                    world.map_table();
                    case.structure.domid = NOBODY;
                }),
            ],
        )
    });
}

fn remove_from_physmap(suite: &mut Suite) {
    type R = Row<RemoveFromPhysmap>;
    suite.table(&Table {
        registers: |at| [memory::REMOVE_FROM_PHYSMAP, at, 0, 0, 0],
        good: |_, world| RemoveFromPhysmap {
            domid: DOMID_SELF,
            gpfn: world.table_frame(),
            ..RemoveFromPhysmap::default()
        },
        undo: |_, world| world.map_table(),
        ..table(
            "remove_from_physmap",
            Structure::Input,
            &[
                R::good("a frame of the grant table", |_, _| {})
                    .check(|_, world| !world.is_memory(world.table_frame() * PAGE)),
                R::good("by its own number", |case, world| case.structure.domid = world.me),
                R::boundary("padding", |case, _| case.structure.pad = [u16::MAX; 3]),
                R::bad("nothing", NoEntry, |case, world| {
                    case.structure.gpfn = world.window / PAGE
                }),
                R::bad("a frame beyond all", NoEntry, |case, _| case.structure.gpfn = NO_FRAME),
                R::bad("INVALID_GFN", NoEntry, |case, _| case.structure.gpfn = INVALID_GFN),
                R::bad("of another domain", NotPermitted, |case, world| {
                    case.structure.domid = world.other
                }),
                R::bad("of a domain that does not exist", NoDomain, |case, _| {
                    case.structure.domid = NOBODY
                }),
                R::bad("as if it were resumed", Invalid, |case, _| case.registers[0] |= RESUMED),
            ],
        )
    });
}

/// What there is none of.
fn refused(suite: &mut Suite) {
    let operations: [(&str, Registers, portunus::abi::HypercallError); 13] = [
        (
            "increase_reservation",
            |at| [memory::INCREASE_RESERVATION, at, 0, 0, 0],
            NotImplemented,
        ),
        (
            "maximum_ram_page",
            |at| [memory::MAXIMUM_RAM_PAGE, at, 0, 0, 0],
            NotImplemented,
        ),
        ("machphys_mfn_list", |at| [5, at, 0, 0, 0], NotImplemented),
        ("set_memory_map", |at| [8, at, 0, 0, 0], NotImplemented),
        ("memory_map", |at| [memory::MEMORY_MAP, at, 0, 0, 0], NotImplemented),
        ("machine_memory_map", |at| [10, at, 0, 0, 0], NotImplemented),
        ("exchange", |at| [memory::EXCHANGE, at, 0, 0, 0], NotSupported),
        ("machphys_mapping", |at| [12, at, 0, 0, 0], NotImplemented),
        ("machphys_compat_mfn_list", |at| [13, at, 0, 0, 0], NotImplemented),
        ("claim_pages", |at| [memory::CLAIM_PAGES, at, 0, 0, 0], NotPermitted),
        ("get_vnumainfo", |at| [memory::GET_VNUMAINFO, at, 0, 0, 0], NotSupported),
        ("others", |at| [40, at, 0, 0, 0], NotImplemented),
        ("others", |at| [memory::COMMAND_MASK, at, 0, 0, 0], NotImplemented),
    ];
    for (operation, registers, error) in operations {
        suite.table(&Table {
            registers,
            good: |_, _| MemoryReservation {
                domid: DOMID_SELF,
                ..MemoryReservation::default()
            },
            ..table(
                operation,
                Structure::Ignored,
                &[Row::bad(
                    "a reservation of nothing",
                    error,
                    |_: &mut Case<MemoryReservation>, _| {},
                )],
            )
        });
    }
}
