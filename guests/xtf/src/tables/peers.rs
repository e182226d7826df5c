//! Calls of one domain at objects of another one.

use core::sync::atomic::{AtomicU64, Ordering};

use guest_runtime::timer;
use portunus::abi::HypercallError::{self, Invalid, NoDomain, NotPermitted};
use portunus::abi::dm_op as device;
use portunus::abi::evtchn::{self, BindInterdomain, Port, Status};
use portunus::abi::grant::{self, CacheFlush, GrantCopy, MapGrantRef, UnmapGrantRef};
use portunus::abi::hypercall::{DM_OP, EVENT_CHANNEL_OP, GRANT_TABLE_OP, MEMORY_OP};
use portunus::abi::ioreq::Ioreq;
use portunus::abi::memory::{self, AcquireResource, RemoveFromPhysmap};
use zerocopy::FromZeros;

use super::dm_op::{STRANGER, Words, create, destroy, words};
use super::grant_table_op::{
    self, BAD_COPY_ARG, BAD_GNTREF, BAD_HANDLE, GENERAL, NO_REFERENCE, end, map_at, map_at_window, to_map, told,
    unmap_one,
};
use crate::case::{Case, Registers, Row, Structure, Table};
use crate::suite::Suite;
use crate::trampoline::Conduit;
use crate::world::{DOMID_SELF, Grants, NOBODY, PAGE, World, ask, plain};

/// How long one domain waits for the other, in microseconds: hypervisors build domains one after the other.
const PATIENCE: u64 = 300_000_000;
/// Words in the page where the two meet.
const READY: u64 = 1;
const DONE_WITH_IT: u64 = 2;

fn until(what: impl Fn() -> bool) -> bool {
    let deadline = timer::now() + timer::ticks(PATIENCE);
    while timer::now() < deadline {
        if what() {
            return true;
        }
        guest_runtime::give_way();
    }
    false
}

/// Says that this domain is through, and stays until the other one is.
pub(crate) fn host(world: &World) {
    // SAFETY: the page is this domain's, and nobody but the two of them uses it, by atomic accesses.
    let word = unsafe { AtomicU64::from_ptr(world.meeting_page() as *mut u64) };
    word.store(READY, Ordering::Release);
    until(|| word.load(Ordering::Acquire) == DONE_WITH_IT);
}

/// All rows with the other one's objects.
pub(crate) fn run(suite: &mut Suite) {
    let world = &suite.world;
    let meeting = world.window + 16 * PAGE;
    let handle = core::cell::Cell::new(0);
    let met = until(|| {
        if handle.get() == 0 {
            let entry = map_at(meeting, world.other, Grants::MEETING);
            if entry.status != 0 {
                return false;
            }
            // Handles begin with 0.
            handle.set(entry.handle + 1);
        }
        world.word_at(meeting) == READY
    });
    if !met {
        suite.fails("the other domain did not come");
        return;
    }
    map(suite);
    unmap(suite);
    copy(suite);
    cache_flush(suite);
    bind(suite);
    acquire(suite);
    operations(suite);
    suite.world.set_word_at(meeting, DONE_WITH_IT);
    unmap_one(meeting, handle.get() - 1);
}

fn table<'a, T: FromZeros>(operation: &'static str, rows: &'a [Row<T>]) -> Table<'a, T> {
    grant_table_op::table(operation, Structure::Ignored, rows)
}

/// The pattern of the other one's page is this one's, too.
const WORD: u64 = Grants::SHARED_PAGE * PAGE / 8;

fn map(suite: &mut Suite) {
    type R = Row<MapGrantRef>;
    suite.table(&Table {
        registers: |at| [grant::MAP_GRANT_REF, at, 1, 0, 0],
        good: |_, world| {
            world.handle.set(u32::MAX);
            to_map(world.window, world.other, Grants::SHARED)
        },
        undo: |case, world| {
            if case.structure.status == 0 {
                unmap_one(case.structure.host_addr, case.structure.handle);
            }
            if world.handle.get() != u32::MAX {
                unmap_one(world.window + PAGE, world.handle.get());
            }
        },
        ..table(
            "map_grant_ref",
            &[
                R::good("another's page, which is not one's own", |_, _| {}).check(|case, world| {
                    let before = world.word_at(world.window);
                    let written = world.set_word_at(world.window, !before) && world.word_at(world.window) == !before;
                    let own = world.spare_word(WORD) == before;
                    world.set_word_at(world.window, before);
                    case.structure.status == 0 && written && own
                }),
                R::good("another's page, for reading", |case, _| {
                    case.structure.flags |= grant::MAP_READ_ONLY
                })
                .check(|case, world| {
                    case.structure.status == 0
                        && world.word_at(world.window) == world.spare_word(WORD)
                        && !world.can_write(world.window)
                }),
                R::good("what another grants for reading", |case, _| {
                    case.structure.reference = Grants::SHARED_READ_ONLY;
                    case.structure.flags |= grant::MAP_READ_ONLY;
                })
                .check(|case, world| {
                    case.structure.status == 0 && world.word_at(world.window) == world.spare_word(WORD + PAGE / 8)
                }),
                R::boundary("another's page a second time", |_, world| {
                    let again = map_at(world.window + PAGE, world.other, Grants::SHARED);
                    world.handle.set(again.handle);
                })
                .check(|case, world| {
                    case.structure.status == 0
                        && case.structure.handle != world.handle.get()
                        && world.word_at(world.window) == world.word_at(world.window + PAGE)
                }),
                told::<GENERAL, _>("for writing what another grants for reading", |case, _| {
                    case.structure.reference = Grants::SHARED_READ_ONLY;
                }),
                told::<GENERAL, _>("what another grants to itself", |case, _| {
                    case.structure.reference = Grants::OWN
                }),
                told::<GENERAL, _>("what another grants to a third", |case, _| {
                    case.structure.reference = Grants::NOBODYS
                }),
                told::<GENERAL, _>("a free reference of another", |case, _| {
                    case.structure.reference = Grants::FREE
                }),
                told::<BAD_GNTREF, _>("beyond another's table", |case, _| {
                    case.structure.reference = NO_REFERENCE
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
            let mapped = map_at_window(world, world.other, Grants::SHARED);
            UnmapGrantRef {
                host_addr: world.window,
                handle: mapped.handle,
                ..UnmapGrantRef::default()
            }
        },
        undo: |_, world| unmap_one(world.window, world.handle.get()),
        ..table(
            "unmap_grant_ref",
            &[
                R::good("another's page is gone", |_, _| {})
                    .check(|case, world| case.structure.status == 0 && !world.is_memory(world.window)),
                R::boundary("another's page, by no address", |case, _| case.structure.host_addr = 0)
                    .check(|case, world| case.structure.status == 0 && world.is_memory(world.window)),
                told::<BAD_HANDLE, _>("another's page, a second time", |case, world| {
                    unmap_one(world.window, case.structure.handle)
                }),
            ],
        )
    });
}

fn copy(suite: &mut Suite) {
    type R = Row<GrantCopy>;
    /// What is in the other one's page, at `offset`.
    fn there(world: &World, offset: u64) -> u64 {
        let mapped = map_at(world.window, world.other, Grants::SHARED);
        let word = world.word_at(world.window + offset);
        unmap_one(world.window, mapped.handle);
        word
    }
    const BOTH: u16 = grant::COPY_SOURCE_REFERENCE | grant::COPY_DESTINATION_REFERENCE;
    suite.table(&Table {
        registers: |at| [grant::COPY, at, 1, 0, 0],
        // From the other one's page to spare page 0.
        good: |_, world| GrantCopy {
            source: end(Grants::SHARED.into(), world.other, 128),
            dest: end(world.spare_frame(0), DOMID_SELF, 0),
            len: 64,
            flags: grant::COPY_SOURCE_REFERENCE,
            ..GrantCopy::default()
        },
        undo: |_, world| {
            world.fill_spare();
            // The other one's page is as this one's.
            let mut back = GrantCopy {
                source: end(world.spare_frame(Grants::SHARED_PAGE), DOMID_SELF, 0),
                dest: end(Grants::SHARED.into(), world.other, 0),
                len: PAGE as u16,
                flags: grant::COPY_DESTINATION_REFERENCE,
                ..GrantCopy::default()
            };
            plain(GRANT_TABLE_OP, [grant::COPY, &raw mut back as u64, 1, 0, 0]);
        },
        ..table(
            "copy",
            &[
                R::good("from another's page", |_, _| {}).check(|case, world| {
                    let same = (0..8).all(|word| world.spare_word(word) == world.spare_word(WORD + 16 + word));
                    case.structure.status == 0 && same && world.spare_word(8) != world.spare_word(WORD + 24)
                }),
                R::good("to another's page", |case, world| {
                    case.structure.source = end(world.spare_frame(1), DOMID_SELF, 0);
                    case.structure.dest = end(Grants::SHARED.into(), world.other, 128);
                    case.structure.flags = grant::COPY_DESTINATION_REFERENCE;
                })
                .check(|case, world| {
                    case.structure.status == 0
                        && there(world, 128) == world.spare_word(PAGE / 8)
                        && there(world, 128 + 64) == world.spare_word(WORD + 24)
                }),
                R::good("from one of another's pages to another", |case, world| {
                    case.structure.source = end(Grants::SHARED_READ_ONLY.into(), world.other, 0);
                    case.structure.dest = end(Grants::SHARED.into(), world.other, 0);
                    case.structure.flags = BOTH;
                })
                .check(|case, world| {
                    case.structure.status == 0 && there(world, 0) == world.spare_word(WORD + PAGE / 8)
                }),
                R::boundary("all of another's page", |case, _| {
                    (case.structure.source.offset, case.structure.len) = (0, PAGE as u16);
                })
                .check(|case, world| {
                    case.structure.status == 0 && world.spare_word(511) == world.spare_word(WORD + 511)
                }),
                R::boundary("its last byte", |case, _| {
                    (case.structure.source.offset, case.structure.len) = (4095, 1);
                })
                .check(|case, world| {
                    case.structure.status == 0
                        && world.spare_word(0) as u8 == (world.spare_word(WORD + 511) >> 56) as u8
                }),
                told::<BAD_COPY_ARG, _>("beyond another's page", |case, _| {
                    case.structure.source.offset = 4096 - 63
                }),
                told::<GENERAL, _>("to what another grants for reading", |case, world| {
                    case.structure.source = end(world.spare_frame(1), DOMID_SELF, 0);
                    case.structure.dest = end(Grants::SHARED_READ_ONLY.into(), world.other, 0);
                    case.structure.flags = grant::COPY_DESTINATION_REFERENCE;
                }),
                told::<GENERAL, _>("what another grants to itself", |case, _| {
                    case.structure.source.frame = Grants::OWN.into()
                }),
                told::<GENERAL, _>("a free reference of another", |case, _| {
                    case.structure.source.frame = Grants::FREE.into()
                }),
                told::<BAD_GNTREF, _>("beyond another's table", |case, _| {
                    case.structure.source.frame = NO_REFERENCE.into()
                }),
            ],
        )
    });
}

fn cache_flush(suite: &mut Suite) {
    type R = Row<CacheFlush>;
    suite.table(&Table {
        registers: |at| [grant::CACHE_FLUSH, at, 1, 0, 0],
        good: |_, world| {
            let mapped = map_at_window(world, world.other, Grants::SHARED);
            CacheFlush {
                dev_bus_addr: mapped.dev_bus_addr,
                offset: 0,
                length: 64,
                op: grant::CACHE_CLEAN,
            }
        },
        undo: |_, world| unmap_one(world.window, world.handle.get()),
        ..table(
            "cache_flush",
            &[
                R::good("a line of another's page that is mapped", |_, _| {}),
                R::boundary("all of it", |case, _| case.structure.length = PAGE as u16),
                R::bad("another's page that is not mapped any more", Invalid, |_, world| {
                    unmap_one(world.window, world.handle.get())
                }),
            ],
        )
    });
}

fn channel<'a, T: FromZeros>(operation: &'static str, rows: &'a [Row<T>]) -> Table<'a, T> {
    Table {
        call: "event_channel_op",
        number: EVENT_CHANNEL_OP,
        ..table(operation, rows)
    }
}

fn bind(suite: &mut Suite) {
    suite.table(&Table {
        registers: |at| [evtchn::BIND_INTERDOMAIN, at, 0, 0, 0],
        good: |_, world| BindInterdomain {
            remote_dom: world.other,
            remote_port: 20,
            ..BindInterdomain::default()
        },
        ..channel(
            "bind_interdomain",
            &[Row::bad("a port of another domain", NotPermitted, |_, _| {})],
        )
    });
}

fn acquire(suite: &mut Suite) {
    type R = Row<AcquireResource>;
    suite.table(&Table {
        call: "memory_op",
        number: MEMORY_OP,
        registers: |at| [memory::ACQUIRE_RESOURCE, at, 0, 0, 0],
        good: |_, world| {
            world.set_list_word(0, world.window / PAGE);
            AcquireResource {
                domid: world.other,
                kind: memory::RESOURCE_IOREQ_SERVER,
                nr_frames: 1,
                frame: memory::IOREQ_SERVER_FRAME_SYNCHRONOUS,
                frame_list: world.list(),
                ..AcquireResource::default()
            }
        },
        ..table(
            "acquire_resource",
            &[
                R::bad("a server's frame, without the right", NotPermitted, |_, _| {}),
                R::bad("how many frames, without the right", NotPermitted, |case, _| {
                    (case.structure.nr_frames, case.structure.frame_list) = (0, 0);
                }),
                R::bad("another's grant table", NotPermitted, |case, _| {
                    (case.structure.kind, case.structure.frame) = (memory::RESOURCE_GRANT_TABLE, 0);
                }),
                R::bad("another's state page", NotPermitted, |case, _| {
                    case.structure.frame = device::VENDOR_FIRST_FRAME
                }),
                R::bad("another's shadow page", NotPermitted, |case, _| {
                    case.structure.frame = device::VENDOR_FIRST_SHADOW_FRAME
                }),
                R::bad("of nobody", NoDomain, |case, _| case.structure.domid = NOBODY),
            ],
        )
    });
}

/// No operation at a domain that this one does not serve.
fn operations(suite: &mut Suite) {
    let operations = [
        (device::CREATE_IOREQ_SERVER, "create_ioreq_server"),
        (device::GET_IOREQ_SERVER_INFO, "get_ioreq_server_info"),
        (device::MAP_IO_RANGE_TO_IOREQ_SERVER, "map_io_range_to_ioreq_server"),
        (
            device::UNMAP_IO_RANGE_FROM_IOREQ_SERVER,
            "unmap_io_range_from_ioreq_server",
        ),
        (device::SET_IOREQ_SERVER_STATE, "set_ioreq_server_state"),
        (device::DESTROY_IOREQ_SERVER, "destroy_ioreq_server"),
        (device::SET_IRQ_LEVEL, "set_irq_level"),
        (device::NR_VCPUS, "nr_vcpus"),
        (device::VENDOR_FEATURES, "features"),
        (device::VENDOR_STATE_PAGE, "state_page"),
        (device::VENDOR_ATTACH_BUFFERED, "attach_buffered"),
        (device::VENDOR_ATTACH_DOORBELL, "attach_doorbell"),
        (device::VENDOR_ATTACH_SHADOW, "attach_shadow"),
        (device::VENDOR_ATTACH_ACK, "attach_ack"),
        (device::VENDOR_DETACH, "detach"),
        (device::VENDOR_UPDATE, "update"),
        (device::VENDOR_REPLACE, "replace"),
    ];
    // The second domain, itself, nobody.
    let targets: [(&str, Registers, HypercallError); 3] = [
        ("without the right", |at| [2, 1, at, 0, 0], NotPermitted),
        ("of DOMID_SELF", |at| [DOMID_SELF.into(), 1, at, 0, 0], NotPermitted),
        ("of nobody", |at| [NOBODY.into(), 1, at, 0, 0], NoDomain),
    ];
    for (number, operation) in operations {
        for (name, registers, error) in targets {
            suite.world.handle.set(number);
            suite.table(&Table {
                call: "dm_op",
                number: DM_OP,
                conduit: Conduit::Hypercall,
                registers,
                good: |at, world| words(at, world.handle.get(), 24, [0; 3]),
                ..table(operation, &[Row::bad(name, error, |_: &mut Case<Words>, _| {})])
            });
        }
    }
}

fn clear(world: &World) {
    let mut request = RemoveFromPhysmap {
        domid: DOMID_SELF,
        gpfn: world.window / PAGE,
        ..RemoveFromPhysmap::default()
    };
    ask(MEMORY_OP, memory::REMOVE_FROM_PHYSMAP, &mut request);
}

/// A server, and the port of the served domain's vCPU 0.
fn server_port(world: &World) -> u32 {
    let id = create(world);
    let frame = world.window / PAGE;
    let mut request = AcquireResource {
        domid: world.other,
        kind: memory::RESOURCE_IOREQ_SERVER,
        id: id as u32,
        nr_frames: 1,
        frame: memory::IOREQ_SERVER_FRAME_SYNCHRONOUS,
        frame_list: &raw const frame as u64,
        ..AcquireResource::default()
    };
    ask(MEMORY_OP, memory::ACQUIRE_RESOURCE, &mut request);
    world.word_at(world.window + Ioreq::PORT_OFFSET) as u32
}

/// One's own port, which is bound to it until the row is over.
fn bound(world: &mut World) -> u32 {
    let mut request = BindInterdomain {
        remote_dom: world.other,
        remote_port: server_port(world),
        ..BindInterdomain::default()
    };
    ask(EVENT_CHANNEL_OP, evtchn::BIND_INTERDOMAIN, &mut request);
    world.closes(request.local_port);
    world.events.take(|_| {});
    request.local_port
}

fn end_servers(world: &World) {
    clear(world);
    (0..8).for_each(|id| destroy(world, id));
}

/// Ports between the one that serves and the one that is served.
pub(crate) fn served_ports(suite: &mut Suite) {
    {
        type R = Row<BindInterdomain>;
        suite.table(&Table {
            registers: |at| [evtchn::BIND_INTERDOMAIN, at, 0, 0, 0],
            good: |_, world| BindInterdomain {
                remote_dom: world.other,
                remote_port: server_port(world),
                ..BindInterdomain::default()
            },
            undo: |case, world| {
                if case.structure.local_port != 0 {
                    world.closes(case.structure.local_port);
                }
                end_servers(world);
            },
            ..channel(
                "bind_interdomain",
                &[
                    R::good("served: the port of a vCPU, which is pending then", |_, _| {}).check(|case, world| {
                        let status = world.status(case.structure.local_port);
                        world.is_pending(case.structure.local_port)
                            && status.status == evtchn::STATUS_INTERDOMAIN
                            && status.peer as u16 == world.other
                    }),
                    R::bad("served: a port that is bound", Invalid, |case, world| {
                        let mut request = case.structure;
                        ask(EVENT_CHANNEL_OP, evtchn::BIND_INTERDOMAIN, &mut request);
                        world.closes(request.local_port);
                    }),
                    R::bad("served: a port that is not for it", Invalid, |case, _| {
                        case.structure.remote_port = 1000
                    }),
                    R::bad("served: the last number of a port", Invalid, |case, _| {
                        case.structure.remote_port = u32::MAX
                    }),
                    R::bad("served: of a domain that it does not serve", NotPermitted, |case, _| {
                        case.structure.remote_dom = STRANGER as u16
                    }),
                ],
            )
        });
    }
    {
        type R = Row<Port>;
        suite.table(&Table {
            registers: |at| [evtchn::SEND, at, 0, 0, 0],
            good: |_, world| Port { port: bound(world) },
            undo: |_, world| end_servers(world),
            ..channel(
                "send",
                &[
                    R::good("served: to a vCPU's port", |_, _| {})
                        .check(|case, world| !world.is_pending(case.structure.port)),
                    R::boundary("served: the server is gone, and nobody listens", |_, world| {
                        end_servers(world)
                    })
                    .check(|case, world| !world.is_pending(case.structure.port)),
                ],
            )
        });
    }
    type R = Row<Status>;
    suite.table(&Table {
        registers: |at| [evtchn::STATUS, at, 0, 0, 0],
        good: |_, world| Status {
            dom: DOMID_SELF,
            port: bound(world),
            ..Status::default()
        },
        undo: |_, world| end_servers(world),
        ..channel(
            "status",
            &[
                R::good("served: connected with another domain", |_, _| {}).check(|case, world| {
                    case.structure.status == evtchn::STATUS_INTERDOMAIN && case.structure.peer as u16 == world.other
                }),
                R::boundary("served: the server is gone: it waits for nobody yet", |_, world| {
                    end_servers(world)
                })
                .check(|case, _| case.structure.status == evtchn::STATUS_UNBOUND),
                R::bad("served: of the domain that it serves", NotPermitted, |case, world| {
                    case.structure.dom = world.other
                }),
            ],
        )
    });
}
