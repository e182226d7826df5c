//! dm_op, and what else a domain may do that serves another's devices. The other domain is the one that it serves.
//!
//! Structures are words: the two buffers, the header, and the payload with its fields as they lie in memory.

use portunus::abi::HypercallError::{
    BadPointer, Exists, Invalid, NoData, NoDomain, NoEntry, NoSpace, NotPermitted, NotSupported, TooManyArguments,
};
use portunus::abi::dm_op as abi;
use portunus::abi::hypercall::{DM_OP, MEMORY_OP};
use portunus::abi::memory::{self, AcquireResource, AddToPhysmapBatch, RemoveFromPhysmap};

use crate::case::{Case, Row, Structure, Table};
use crate::suite::Suite;
use crate::tables::entry_is;
use crate::trampoline::Conduit;
use crate::world::{DOMID_SELF, NOBODY, PAGE, World, ask, plain};

/// Two buffers of two words, header, payload.
pub(super) type Words = [u64; 8];
type R = Row<Words>;

pub(super) const HEADER: usize = 4;
pub(super) const PAYLOAD: usize = 5;
/// What the manifest lets this domain serve.
pub(super) const DEVICE: u64 = 0x200_0000;
pub(super) const INTERRUPT: u64 = 33;
/// The same of a device that has a page to show, and its own page of state.
pub(super) const FAST: u64 = 0x200_1000;
/// A domain that it does not serve.
pub(super) const STRANGER: u64 = 2;
/// A server that was never created.
pub(super) const NO_SERVER: u64 = 7;

pub(super) fn words(at: u64, operation: u32, size: u64, payload: [u64; 3]) -> Words {
    let [first, second, third] = payload;
    let header = at + 8 * HEADER as u64;
    [header, 8 + size, 0, 0, operation.into(), first, second, third]
}

/// Makes an operation that is none of a row's.
pub(super) fn make(domain: u16, operation: u32, size: u64, payload: [u64; 3]) -> (u64, u64) {
    let mut structure = words(0, operation, size, payload);
    structure[0] = &raw const structure[HEADER] as u64;
    let x0 = plain(DM_OP, [domain.into(), 1, &raw mut structure as u64, 0, 0]);
    (x0, structure[PAYLOAD])
}

pub(super) fn create(world: &World) -> u64 {
    make(world.other, abi::CREATE_IOREQ_SERVER, 6, [0; 3]).1 >> 32 & 0xffff
}

pub(super) fn destroy(world: &World, id: u64) {
    make(world.other, abi::DESTROY_IOREQ_SERVER, 4, [id, 0, 0]);
}

/// A server for the row.
fn server(world: &World) -> u64 {
    let id = create(world);
    world.handle.set(id as u32);
    id
}

/// Servers that are there before the row's own.
fn servers_before(world: &World, count: usize) {
    for _ in 0..count {
        server(world);
    }
}

/// Destroys every server that there may be.
fn destroy_all<T>(_: &Case<T>, world: &mut World) {
    (0..8).for_each(|id| destroy(world, id));
}

pub(super) fn table<'a, const N: usize>(
    operation: &'static str,
    good: fn(u64, &mut World) -> [u64; N],
    rows: &'a [Row<[u64; N]>],
) -> Table<'a, [u64; N]> {
    Table {
        // The one that the suite serves is domain 1.
        registers: |at| [1, 1, at, 0, 0],
        good,
        undo: destroy_all,
        ..Table::hypercall(("dm_op", DM_OP), operation, Structure::InOut, rows)
    }
}

pub(crate) fn run(suite: &mut Suite) {
    servers(suite);
    ranges(suite);
    interrupts(suite);
    vendor(suite);
    acquire_resource(suite);
    foreign_memory(suite);
}

/// What can be wrong with any operation of four bytes of payload or more.
const ANY: [R; 11] = [
    R::bad("no buffers", NoData, |case, _| case.registers[1] = 0),
    R::bad("three buffers", TooManyArguments, |case, _| case.registers[1] = 3),
    R::bad("a buffer shorter than the header", BadPointer, |case, _| {
        case.structure[1] = 7
    }),
    R::bad("a buffer without the payload", BadPointer, |case, _| {
        case.structure[1] = 8
    }),
    R::bad("a buffer that is nowhere", BadPointer, |case, world| {
        case.structure[0] = world.nowhere
    }),
    R::bad("a buffer in a device", BadPointer, |case, world| {
        case.structure[0] = world.device
    }),
    R::bad("padding of the header", Invalid, |case, _| {
        case.structure[HEADER] |= 1 << 32
    }),
    R::bad("of itself", NotPermitted, |case, world| {
        case.registers[0] = world.me.into()
    }),
    R::bad("of DOMID_SELF", NotPermitted, |case, _| {
        case.registers[0] = DOMID_SELF.into()
    }),
    R::bad("of a domain that it does not serve", NotPermitted, |case, _| {
        case.registers[0] = STRANGER
    }),
    R::bad("of a domain that does not exist", NoDomain, |case, _| {
        case.registers[0] = NOBODY.into()
    }),
];

fn servers(suite: &mut Suite) {
    suite.table(&table(
        "any operation",
        |at, world| words(at, abi::SET_IOREQ_SERVER_STATE, 4, [server(world), 0, 0]),
        &ANY,
    ));
    suite.table(&table(
        "create_ioreq_server",
        |at, _| words(at, abi::CREATE_IOREQ_SERVER, 6, [0; 3]),
        &[
            R::good("the first number", |_, _| {}).check(|case, _| case.structure[PAYLOAD] >> 32 & 0xffff == 0),
            R::boundary("the eighth server", |_, world| servers_before(world, 7))
                .check(|case, _| case.structure[PAYLOAD] >> 32 & 0xffff == 7),
            R::boundary("a second buffer that is not looked at", |case, _| case.registers[1] = 2),
            R::bad("a ninth", NoSpace, |_, world| servers_before(world, 8)),
            R::bad("a buffered mode that there is not", Invalid, |case, _| {
                case.structure[PAYLOAD] |= 3
            }),
            R::bad("the last buffered mode", Invalid, |case, _| {
                case.structure[PAYLOAD] |= 0xff
            }),
            R::bad("padding", Invalid, |case, _| case.structure[PAYLOAD] |= 1 << 8),
        ],
    ));
    suite.table(&table(
        "get_ioreq_server_info",
        |at, world| words(at, abi::GET_IOREQ_SERVER_INFO, 24, [server(world) | 1 << 16, 0, 0]),
        &[
            R::good("without frames", |_, _| {}),
            R::bad("with frames", NotSupported, |case, _| {
                case.structure[PAYLOAD] &= !(1 << 16)
            }),
            R::bad("a flag that does not exist", Invalid, |case, _| {
                case.structure[PAYLOAD] |= 1 << 17
            }),
            R::bad("a server that does not exist", NoEntry, |case, _| {
                case.structure[PAYLOAD] |= NO_SERVER
            }),
            R::bad("the last number of a server", NoEntry, |case, _| {
                case.structure[PAYLOAD] |= 0xffff
            }),
        ],
    ));
    suite.table(&table(
        "set_ioreq_server_state",
        |at, world| words(at, abi::SET_IOREQ_SERVER_STATE, 4, [server(world) | 1 << 16, 0, 0]),
        &[
            R::good("enabled", |_, _| {}),
            R::good("disabled", |case, _| case.structure[PAYLOAD] &= 0xffff),
            R::boundary("any number but 0 enables", |case, _| {
                case.structure[PAYLOAD] |= 0xff << 16
            }),
            R::bad("padding", Invalid, |case, _| case.structure[PAYLOAD] |= 1 << 24),
            R::bad("a server that does not exist", NoEntry, |case, _| {
                case.structure[PAYLOAD] |= NO_SERVER
            }),
            R::bad("the last number of a server", NoEntry, |case, _| {
                case.structure[PAYLOAD] |= 0xffff
            }),
        ],
    ));
    suite.table(&table(
        "destroy_ioreq_server",
        |at, world| words(at, abi::DESTROY_IOREQ_SERVER, 4, [server(world), 0, 0]),
        &[
            R::good("its number is free", |_, _| {}).check(|_, world| create(world) == 0),
            R::bad("padding", Invalid, |case, _| case.structure[PAYLOAD] |= 1 << 16),
            R::bad("a second time", NoEntry, |case, world| {
                destroy(world, case.structure[PAYLOAD])
            }),
            R::bad("the last number of a server", NoEntry, |case, _| {
                case.structure[PAYLOAD] |= 0xffff
            }),
        ],
    ));
    suite.table(&table(
        "nr_vcpus",
        |at, _| words(at, abi::NR_VCPUS, 4, [0; 3]),
        &[
            R::good("two", |_, _| {}).check(|case, _| case.structure[PAYLOAD] as u32 == 2),
            R::boundary("what the answer held before", |case, _| {
                case.structure[PAYLOAD] = u64::MAX
            })
            .check(|case, _| case.structure[PAYLOAD] as u32 == 2),
        ],
    ));
    suite.table(&Table {
        structure: Structure::Ignored,
        ..table(
            "others",
            |at, _| words(at, 7, 24, [0; 3]),
            &[
                R::bad("the first that there is not on Arm", NotSupported, |_, _| {}),
                R::bad("number 0", NotSupported, |case, _| case.structure[HEADER] = 0),
                R::bad("inject_msi", NotSupported, |case, _| case.structure[HEADER] = 14),
                R::bad("remote_shutdown", NotSupported, |case, _| case.structure[HEADER] = 16),
                R::bad("the first that does not exist", NotSupported, |case, _| {
                    case.structure[HEADER] = 21
                }),
                R::bad("the last", NotSupported, |case, _| {
                    case.structure[HEADER] = u32::MAX.into()
                }),
            ],
        )
    });
}

fn ranges(suite: &mut Suite) {
    fn range(at: u64, world: &World, operation: u32) -> Words {
        words(at, operation, 24, [server(world) | 1 << 32, DEVICE, DEVICE + 0x1ff])
    }
    fn map(world: &World, payload: [u64; 3]) {
        make(world.other, abi::MAP_IO_RANGE_TO_IOREQ_SERVER, 24, payload);
    }
    suite.table(&table(
        "map_io_range_to_ioreq_server",
        |at, world| range(at, world, abi::MAP_IO_RANGE_TO_IOREQ_SERVER),
        &[
            R::good("all of its device", |_, _| {}),
            R::boundary("one byte", |case, _| case.structure[PAYLOAD + 2] = DEVICE),
            R::boundary("the last byte", |case, _| case.structure[PAYLOAD + 1] = DEVICE + 0x1ff),
            R::bad("one byte too many", NotPermitted, |case, _| {
                case.structure[PAYLOAD + 2] += 1
            }),
            R::bad("one byte before it", NotPermitted, |case, _| {
                case.structure[PAYLOAD + 1] -= 1
            }),
            R::bad("RAM", NotPermitted, |case, _| {
                (case.structure[PAYLOAD + 1], case.structure[PAYLOAD + 2]) = (0x4000_0000, 0x4000_0fff);
            }),
            R::bad("all addresses", NotPermitted, |case, _| {
                (case.structure[PAYLOAD + 1], case.structure[PAYLOAD + 2]) = (0, u64::MAX);
            }),
            R::bad("the end before the start", Invalid, |case, _| {
                case.structure[PAYLOAD + 2] = DEVICE - 1
            }),
            R::bad("what it has already", Exists, |case, world| {
                map(world, [case.structure[PAYLOAD], DEVICE, DEVICE + 0xff]);
            }),
            R::bad("padding", Invalid, |case, _| case.structure[PAYLOAD] |= 1 << 16),
            R::bad("a kind that does not exist", Invalid, |case, _| {
                case.structure[PAYLOAD] |= 3 << 32
            }),
            R::bad("the last kind", Invalid, |case, _| {
                case.structure[PAYLOAD] |= 0xffff_ffff << 32
            }),
            R::bad("a server that does not exist", NoEntry, |case, _| {
                case.structure[PAYLOAD] |= NO_SERVER
            }),
            R::bad("the last number of a server", NoEntry, |case, _| {
                case.structure[PAYLOAD] |= 0xffff
            }),
        ],
    ));
    suite.table(&table(
        "unmap_io_range_from_ioreq_server",
        |at, world| {
            let words = range(at, world, abi::UNMAP_IO_RANGE_FROM_IOREQ_SERVER);
            map(world, [words[PAYLOAD], DEVICE, DEVICE + 0x1ff]);
            words
        },
        &[
            R::good("all of it", |_, _| {}),
            R::boundary("its middle", |case, _| {
                (case.structure[PAYLOAD + 1], case.structure[PAYLOAD + 2]) = (DEVICE + 0x80, DEVICE + 0x80);
            }),
            R::bad("one byte too many", NoEntry, |case, _| case.structure[PAYLOAD + 2] += 1),
            R::bad("a second time", NoEntry, |case, world| {
                let payload = [case.structure[PAYLOAD], DEVICE, DEVICE + 0x1ff];
                make(world.other, abi::UNMAP_IO_RANGE_FROM_IOREQ_SERVER, 24, payload);
            }),
            R::bad("the end before the start", Invalid, |case, _| {
                case.structure[PAYLOAD + 2] = DEVICE - 1
            }),
            R::bad("padding", Invalid, |case, _| case.structure[PAYLOAD] |= 1 << 16),
            R::bad("a kind that does not exist", Invalid, |case, _| {
                case.structure[PAYLOAD] |= 3 << 32
            }),
            R::bad("a server that does not exist", NoEntry, |case, _| {
                case.structure[PAYLOAD] |= NO_SERVER
            }),
        ],
    ));
}

fn interrupts(suite: &mut Suite) {
    suite.table(&Table {
        undo: |_, world| {
            make(world.other, abi::SET_IRQ_LEVEL, 8, [INTERRUPT, 0, 0]);
        },
        ..table(
            "set_irq_level",
            |at, _| words(at, abi::SET_IRQ_LEVEL, 8, [INTERRUPT | 1 << 32, 0, 0]),
            &[
                R::good("its device's interrupt", |_, _| {}),
                R::good("and not any more", |case, _| case.structure[PAYLOAD] = INTERRUPT),
                R::bad("another's interrupt", NotPermitted, |case, _| {
                    case.structure[PAYLOAD] += 7
                }),
                R::bad("a PPI", Invalid, |case, _| case.structure[PAYLOAD] = 31 | 1 << 32),
                R::bad("the first number", Invalid, |case, _| case.structure[PAYLOAD] = 1 << 32),
                R::bad("beyond all", Invalid, |case, _| {
                    case.structure[PAYLOAD] = 1020 | 1 << 32
                }),
                R::bad("the last number", Invalid, |case, _| {
                    case.structure[PAYLOAD] |= 0xffff_ffff
                }),
                R::bad("a level that does not exist", Invalid, |case, _| {
                    case.structure[PAYLOAD] = INTERRUPT | 2 << 32
                }),
                R::bad("padding", Invalid, |case, _| case.structure[PAYLOAD] |= 1 << 40),
            ],
        )
    });
}

/// Portunus' own.
fn vendor(suite: &mut Suite) {
    suite.table(&table(
        "features",
        |at, world| words(at, abi::VENDOR_FEATURES, 16, [server(world), 0, 0]),
        &[
            R::good("state pages are among them", |_, _| {})
                .check(|case, _| case.structure[PAYLOAD + 1] & abi::Features::STATE_PAGE != 0),
            R::bad("padding", Invalid, |case, _| case.structure[PAYLOAD] |= 1 << 16),
            R::bad("a server that does not exist", NoEntry, |case, _| {
                case.structure[PAYLOAD] |= NO_SERVER
            }),
            R::bad("the last number of a server", NoEntry, |case, _| {
                case.structure[PAYLOAD] |= 0xffff
            }),
        ],
    ));
    suite.table(&Table {
        structure: Structure::Ignored,
        ..table(
            "state_page",
            |at, world| words(at, abi::VENDOR_STATE_PAGE, 24, [server(world), DEVICE, 0]),
            &[
                R::good("of a device that has one", |case, _| case.structure[PAYLOAD + 1] = FAST)
                    .check(|case, _| case.structure[PAYLOAD + 2] >= abi::VENDOR_FIRST_FRAME),
                R::bad("a device without one", NotSupported, |_, _| {}),
                R::bad("an address inside a device", Invalid, |case, _| {
                    case.structure[PAYLOAD + 1] = FAST + 1
                }),
                R::bad("an address that it may not serve", NotPermitted, |case, _| {
                    case.structure[PAYLOAD + 1] = 0x4000_0000
                }),
                R::bad("padding", Invalid, |case, _| case.structure[PAYLOAD] |= 1 << 16),
                R::bad("a server that does not exist", NoEntry, |case, _| {
                    case.structure[PAYLOAD] |= NO_SERVER
                }),
            ],
        )
    });
}

fn clear(world: &World) {
    let mut request = RemoveFromPhysmap {
        domid: DOMID_SELF,
        gpfn: world.window / PAGE,
        ..RemoveFromPhysmap::default()
    };
    ask(MEMORY_OP, memory::REMOVE_FROM_PHYSMAP, &mut request);
}

fn acquire_resource(suite: &mut Suite) {
    type R = Row<AcquireResource>;
    suite.table(&Table {
        call: "memory_op",
        operation: "acquire_resource",
        conduit: Conduit::Hypercall,
        number: MEMORY_OP,
        registers: |at| [memory::ACQUIRE_RESOURCE, at, 0, 0, 0],
        structure: Structure::InOut,
        good: |_, world| {
            let id = server(world) as u32;
            world.set_list_word(0, world.window / PAGE);
            AcquireResource {
                domid: world.other,
                kind: memory::RESOURCE_IOREQ_SERVER,
                id,
                nr_frames: 1,
                frame: memory::IOREQ_SERVER_FRAME_SYNCHRONOUS,
                frame_list: world.list(),
                ..AcquireResource::default()
            }
        },
        undo: |_, world| {
            clear(world);
            (0..8).for_each(|id| destroy(world, id));
        },
        rows: &[
            R::good("the page of requests", |_, _| {}).check(|_, world| world.can_write(world.window)),
            R::good("how many there are", |case, _| {
                (
                    case.structure.nr_frames,
                    case.structure.frame,
                    case.structure.frame_list,
                ) = (0, 0, 0);
            })
            .check(|case, _| case.structure.nr_frames == 2),
            R::boundary("no frames", |case, _| case.structure.nr_frames = 0)
                .check(|_, world| !world.is_memory(world.window)),
            R::bad("the frame after the last", Invalid, |case, _| case.structure.frame = 2),
            R::bad("more frames than there are", Invalid, |case, _| {
                case.structure.nr_frames = 2
            }),
            R::bad("the last frame", Invalid, |case, _| case.structure.frame = u64::MAX),
            R::bad("the most frames", Invalid, |case, _| {
                case.structure.nr_frames = u32::MAX
            }),
            R::bad("padding", Invalid, |case, _| case.structure.pad = 1),
            R::bad("a kind that does not exist", Invalid, |case, _| case.structure.kind = 3),
            R::bad("the last kind", Invalid, |case, _| case.structure.kind = u16::MAX),
            R::bad("a list that is nowhere", BadPointer, |case, world| {
                case.structure.frame_list = world.nowhere
            }),
            R::bad("of itself", NotPermitted, |case, world| case.structure.domid = world.me),
            R::bad("of DOMID_SELF", NotPermitted, |case, _| {
                case.structure.domid = DOMID_SELF
            }),
            R::bad("of a domain that it does not serve", NotPermitted, |case, _| {
                case.structure.domid = STRANGER as u16
            }),
            R::bad("of a domain that does not exist", NoDomain, |case, _| {
                case.structure.domid = NOBODY
            }),
            R::bad("as if it were resumed", Invalid, |case, _| {
                case.registers[0] |= 1 << memory::EXTENT_SHIFT
            }),
        ],
    });
}

/// The memory of the domain that it serves.
fn foreign_memory(suite: &mut Suite) {
    type R = Row<AddToPhysmapBatch>;
    suite.table(&Table {
        call: "memory_op",
        operation: "add_to_physmap_batch",
        conduit: Conduit::Hypercall,
        number: MEMORY_OP,
        registers: |at| [memory::ADD_TO_PHYSMAP_BATCH, at, 0, 0, 0],
        structure: Structure::Input,
        good: |_, world| {
            // Where its RAM begins.
            world.set_list_word(0, 0x4_0000);
            world.set_list_word(1, world.window / PAGE);
            world.set_list_word(2, u64::MAX);
            AddToPhysmapBatch {
                domid: DOMID_SELF,
                space: memory::SPACE_GMFN_FOREIGN as u16,
                size: 1,
                foreign_domid: world.other,
                idxs: world.list(),
                gpfns: world.list() + 8,
                errs: world.list() + 16,
            }
        },
        undo: |_, world| clear(world),
        rows: &[
            R::good("the first page of another's RAM", |_, _| {})
                .check(|_, world| world.list_half(4) == 0 && world.is_memory(world.window)),
            R::boundary("what is no RAM fails by itself", |_, world| {
                world.set_list_word(0, 0x3_0000)
            })
            .check(entry_is::<{ Invalid.entry() }>),
            R::boundary("the last frame fails by itself", |_, world| {
                world.set_list_word(0, u64::MAX)
            })
            .check(entry_is::<{ Invalid.entry() }>),
            R::bad("to no frame", Invalid, |_, world| world.set_list_word(1, u64::MAX)),
            R::bad("from a list that is nowhere", BadPointer, |case, world| {
                case.structure.idxs = world.nowhere
            }),
            R::bad("to a list that is nowhere", BadPointer, |case, world| {
                case.structure.gpfns = world.nowhere
            }),
            R::bad("with errors that can't be written", BadPointer, |case, world| {
                case.structure.errs = world.read_only
            }),
            R::boundary("of a domain that it does not serve", |case, _| {
                case.structure.foreign_domid = STRANGER as u16
            })
            .check(entry_is::<{ NotPermitted.entry() }>),
        ],
    });
}
