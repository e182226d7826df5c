//! What a server may attach to its ranges: Portunus' own dm_ops but those that only ask.

use portunus::abi::HypercallError::{Exists, Invalid, NoEntry, NoSpace, NotPermitted};
use portunus::abi::dm_op as abi;
use portunus::abi::evtchn::{self, BindInterdomain};
use portunus::abi::hypercall::{DM_OP, EVENT_CHANNEL_OP, MEMORY_OP};
use portunus::abi::memory::{self, AcquireResource, RemoveFromPhysmap};

use super::dm_op::{self, DEVICE, FAST, HEADER, INTERRUPT, NO_SERVER, PAYLOAD, create, make};
use crate::case::{Case, Row, Structure, Table};
use crate::suite::Suite;
use crate::world::{DOMID_SELF, PAGE, World, ask, plain};

/// Two buffers of two words, header, five words of payload.
type Words = [u64; 10];
type R = Row<Words>;

const RAM: u64 = 0x4000_0000;
/// The register that rows ring, and one that acknowledges.
const REGISTER: u64 = FAST + 0x50;
const ACK: u64 = FAST + 0x64;
const FAST_INTERRUPT: u64 = INTERRUPT + 1;
/// Ports of guests are below.
const FIRST_OF_THE_HYPERVISOR: u64 = 1024;

fn words(at: u64, operation: u32, size: u64, payload: [u64; 5]) -> Words {
    let mut words = [0; 10];
    words[0] = at + 8 * HEADER as u64;
    words[1] = 8 + size;
    words[HEADER] = operation.into();
    words[PAYLOAD..].copy_from_slice(&payload);
    words
}

/// Makes an operation that is none of a row's; its payload afterwards.
fn attach(world: &World, operation: u32, size: u64, payload: [u64; 5]) -> [u64; 5] {
    let mut structure = words(0, operation, size, payload);
    structure[0] = &raw const structure[HEADER] as u64;
    plain(DM_OP, [world.other.into(), 1, &raw mut structure as u64, 0, 0]);
    let mut payload = [0; 5];
    payload.copy_from_slice(&structure[PAYLOAD..]);
    payload
}

/// A server with all registers of the device.
fn server(world: &World) -> u64 {
    let id = create(world);
    let range = [id | 1 << 32, FAST, FAST + PAGE - 1];
    make(world.other, abi::MAP_IO_RANGE_TO_IOREQ_SERVER, 24, range);
    id
}

fn unmap_range(world: &World, id: u64) {
    let range = [id | 1 << 32, FAST, FAST + PAGE - 1];
    make(world.other, abi::UNMAP_IO_RANGE_FROM_IOREQ_SERVER, 24, range);
}

fn doorbell(world: &World, id: u64, value: u64, mask: u64) {
    attach(world, abi::VENDOR_ATTACH_DOORBELL, 40, [id, REGISTER, value, mask, 4]);
}

/// A page is shown; its frame.
fn shadow(world: &World, id: u64) -> u64 {
    let frame = attach(world, abi::VENDOR_ATTACH_SHADOW, 40, [id, FAST, 0, 0, 0])[4];
    world.handle.set(frame as u32);
    frame
}

/// And a register acknowledges what is in its word 0x60.
fn acknowledged(world: &World, id: u64) {
    shadow(world, id);
    let payload = [id | FAST_INTERRUPT << 32, ACK, 0x60, 0, 0];
    attach(world, abi::VENDOR_ATTACH_ACK, 24, payload);
}

/// The word of the shown frame, which is mapped for that.
fn published(world: &World, id: u64) -> u64 {
    let frame = world.window / PAGE;
    let mut request = AcquireResource {
        domid: world.other,
        kind: memory::RESOURCE_IOREQ_SERVER,
        id: id as u32,
        nr_frames: 1,
        frame: world.handle.get().into(),
        frame_list: &raw const frame as u64,
        ..AcquireResource::default()
    };
    ask(MEMORY_OP, memory::ACQUIRE_RESOURCE, &mut request);
    let word = world.word_at(world.window + 0x60);
    let mut request = RemoveFromPhysmap {
        domid: DOMID_SELF,
        gpfn: frame,
        ..RemoveFromPhysmap::default()
    };
    ask(MEMORY_OP, memory::REMOVE_FROM_PHYSMAP, &mut request);
    word
}

fn table<'a>(operation: &'static str, good: fn(u64, &mut World) -> Words, rows: &'a [R]) -> Table<'a, Words> {
    Table {
        structure: Structure::Ignored,
        ..dm_op::table(operation, good, rows)
    }
}

/// attach_buffered of a register.
fn buffered_register(at: u64, world: &mut World) -> Words {
    words(
        at,
        abi::VENDOR_ATTACH_BUFFERED,
        24,
        [server(world), REGISTER, REGISTER + 3, 0, 0],
    )
}

pub(crate) fn run(suite: &mut Suite) {
    suite.table(&table("attach_buffered", buffered_register, &ANY));
    attach_buffered(suite);
    attach_doorbell(suite);
    attach_shadow(suite);
    attach_ack(suite);
    detach(suite);
    update(suite);
    replace(suite);
}

fn padded(case: &mut Case<Words>, _: &mut World) {
    case.structure[PAYLOAD] |= 1 << 16;
}

fn of_no_server(case: &mut Case<Words>, _: &mut World) {
    case.structure[PAYLOAD] |= NO_SERVER;
}

fn of_the_last_server(case: &mut Case<Words>, _: &mut World) {
    case.structure[PAYLOAD] |= 0xffff;
}

/// What each of these operations refuses.
const ANY: [R; 3] = [
    R::bad("padding", Invalid, padded),
    R::bad("a server that does not exist", NoEntry, of_no_server),
    R::bad("the last number of a server", NoEntry, of_the_last_server),
];

fn attach_buffered(suite: &mut Suite) {
    fn range(case: &mut Case<Words>, start: u64, end: u64) {
        (case.structure[PAYLOAD + 1], case.structure[PAYLOAD + 2]) = (start, end);
    }
    suite.table(&table(
        "attach_buffered",
        buffered_register,
        &[
            R::good("a register", |_, _| {}),
            R::good("one that is never read", |case, _| case.structure[PAYLOAD] |= 1 << 32),
            R::boundary("one byte", |case, _| range(case, FAST, FAST)),
            R::boundary("all of the device", |case, _| range(case, FAST, FAST + PAGE - 1)),
            R::bad("a flag that does not exist", Invalid, |case, _| {
                case.structure[PAYLOAD] |= 2 << 32
            }),
            R::bad("the last flag", Invalid, |case, _| case.structure[PAYLOAD] |= 1 << 63),
            R::bad("the end before the start", Invalid, |case, _| {
                range(case, REGISTER, REGISTER - 1)
            }),
            R::bad("a byte more than the ring can tell apart", Invalid, |case, _| {
                range(case, FAST, FAST + abi::BUFFERED_REACH)
            }),
            R::bad("one byte too many", NotPermitted, |case, _| {
                range(case, FAST, FAST + PAGE)
            }),
            R::bad("RAM", NotPermitted, |case, _| range(case, RAM, RAM + 3)),
            R::bad("what is not in its ranges", NoEntry, |case, _| {
                range(case, DEVICE, DEVICE + 3)
            }),
            R::bad("a second time", Invalid, |case, world| {
                let mut payload = [0; 5];
                payload.copy_from_slice(&case.structure[PAYLOAD..]);
                attach(world, abi::VENDOR_ATTACH_BUFFERED, 24, payload);
            }),
            R::bad(
                "a register of a page that is shown, if it is read",
                Invalid,
                |case, world| {
                    shadow(world, case.structure[PAYLOAD]);
                },
            ),
        ],
    ));
}

fn attach_doorbell(suite: &mut Suite) {
    const SIZE: usize = PAYLOAD + 4;
    fn has_port(case: &Case<Words>, _: &mut World) -> bool {
        case.structure[SIZE] >> 32 >= FIRST_OF_THE_HYPERVISOR
    }
    fn good(at: u64, world: &mut World) -> Words {
        words(at, abi::VENDOR_ATTACH_DOORBELL, 40, [server(world), REGISTER, 0, 0, 4])
    }
    suite.table(&table("attach_doorbell", good, &ANY));
    suite.table(&table(
        "attach_doorbell",
        good,
        &[
            R::good("whatever is written; its port is the hypervisor's", |_, _| {}).check(has_port),
            R::good("its port can be bound, and is pending then", |_, _| {}).check(|case, world| {
                let mut request = BindInterdomain {
                    remote_dom: world.other,
                    remote_port: (case.structure[SIZE] >> 32) as u32,
                    ..Default::default()
                };
                let bound = ask(EVENT_CHANNEL_OP, evtchn::BIND_INTERDOMAIN, &mut request);
                world.closes(request.local_port);
                bound == 0 && world.is_pending(request.local_port)
            }),
            R::good("another value", |case, world| {
                doorbell(world, case.structure[PAYLOAD], 1, 0xff);
                case.structure[PAYLOAD + 3] = 0xff;
            })
            .check(has_port),
            R::good("of a page that is shown, never read", |case, world| {
                shadow(world, case.structure[PAYLOAD]);
                case.structure[PAYLOAD] |= 1 << 32;
            })
            .check(has_port),
            R::boundary("a byte", |case, _| case.structure[SIZE] = 1).check(has_port),
            R::boundary("eight bytes", |case, _| case.structure[SIZE] = 8).check(has_port),
            R::boundary("the device's last word", |case, _| {
                case.structure[PAYLOAD + 1] = FAST + PAGE - 4
            })
            .check(has_port),
            R::boundary("the last doorbell", |case, world| {
                let id = case.structure[PAYLOAD];
                (1..abi::MAX_DOORBELLS as u64).for_each(|value| doorbell(world, id, value, 0xffff));
                case.structure[PAYLOAD + 3] = 0xffff;
            })
            .check(has_port),
            R::bad("one more", NoSpace, |case, world| {
                let id = case.structure[PAYLOAD];
                (1..=abi::MAX_DOORBELLS as u64).for_each(|value| doorbell(world, id, value, 0xffff));
                case.structure[PAYLOAD + 3] = 0xffff;
            }),
            R::bad("a flag that does not exist", Invalid, |case, _| {
                case.structure[PAYLOAD] |= 2 << 32
            }),
            R::bad("no size", Invalid, |case, _| case.structure[SIZE] = 0),
            R::bad("three bytes", Invalid, |case, _| case.structure[SIZE] = 3),
            R::bad("16 bytes", Invalid, |case, _| case.structure[SIZE] = 16),
            R::bad("the last size", Invalid, |case, _| {
                case.structure[SIZE] = u32::MAX.into()
            }),
            R::bad("across a word", Invalid, |case, _| case.structure[PAYLOAD + 1] += 2),
            R::bad("a value that no write can have", Invalid, |case, _| {
                (case.structure[PAYLOAD + 2], case.structure[PAYLOAD + 3]) = (1 << 32, u64::MAX);
            }),
            R::bad("RAM", NotPermitted, |case, _| case.structure[PAYLOAD + 1] = RAM),
            R::bad("what is not in its ranges", NoEntry, |case, _| {
                case.structure[PAYLOAD + 1] = DEVICE
            }),
            R::bad("the same value again", Exists, |case, world| {
                doorbell(world, case.structure[PAYLOAD], 0, 0)
            }),
            R::bad("another size at one address", Invalid, |case, world| {
                doorbell(world, case.structure[PAYLOAD], 0, 0);
                case.structure[SIZE] = 2;
            }),
            R::bad("another mask at one address", Invalid, |case, world| {
                doorbell(world, case.structure[PAYLOAD], 1, 0xff)
            }),
            R::bad("over another one", Exists, |case, world| {
                doorbell(world, case.structure[PAYLOAD], 0, 0);
                (case.structure[PAYLOAD + 1], case.structure[SIZE]) = (REGISTER + 2, 2);
            }),
            R::bad("over an acknowledgement", Exists, |case, world| {
                acknowledged(world, case.structure[PAYLOAD]);
                case.structure[PAYLOAD] |= 1 << 32;
                case.structure[PAYLOAD + 1] = ACK;
            }),
            R::bad("of a page that is shown, if it is read", Invalid, |case, world| {
                shadow(world, case.structure[PAYLOAD]);
            }),
        ],
    ));
}

fn attach_shadow(suite: &mut Suite) {
    const MARK: usize = PAYLOAD + 2;
    fn good(at: u64, world: &mut World) -> Words {
        words(at, abi::VENDOR_ATTACH_SHADOW, 40, [server(world), FAST, 0, 0, 0])
    }
    fn has_frame(case: &Case<Words>, _: &mut World) -> bool {
        case.structure[PAYLOAD + 4] >= abi::VENDOR_FIRST_SHADOW_FRAME
    }
    suite.table(&table("attach_shadow", good, &ANY));
    suite.table(&table(
        "attach_shadow",
        good,
        &[
            R::good("its frame is told", |_, _| {}).check(has_frame),
            R::good("not shown before it is replaced", |case, _| {
                case.structure[PAYLOAD] |= 1 << 32
            })
            .check(has_frame),
            R::good("a mark of failure, and its interrupt", |case, _| {
                (case.structure[MARK], case.structure[MARK + 1]) = (0x70 | 0x40 << 32, 2);
            })
            .check(has_frame),
            R::boundary("the mark in the last word", |case, _| {
                case.structure[MARK] = 4092 | 0xffff_ffff << 32
            })
            .check(has_frame),
            R::bad("a flag that does not exist", Invalid, |case, _| {
                case.structure[PAYLOAD] |= 2 << 32
            }),
            R::bad("padding at the end", Invalid, |case, _| {
                case.structure[MARK + 1] |= 1 << 32
            }),
            R::bad("no page", Invalid, |case, _| case.structure[PAYLOAD + 1] += 0x200),
            R::bad("the mark across words", Invalid, |case, _| case.structure[MARK] = 2),
            R::bad("the mark behind the page", Invalid, |case, _| {
                case.structure[MARK] = 4096
            }),
            R::bad("the last mark", Invalid, |case, _| {
                case.structure[MARK] = u32::MAX.into()
            }),
            R::bad("RAM", NotPermitted, |case, _| case.structure[PAYLOAD + 1] = RAM),
            R::bad("a device that shares its page", NotPermitted, |case, _| {
                case.structure[PAYLOAD + 1] = DEVICE
            }),
            R::bad("what is not in its ranges", NoEntry, |case, world| {
                unmap_range(world, case.structure[PAYLOAD])
            }),
            R::bad("a second time", Exists, |case, world| {
                shadow(world, case.structure[PAYLOAD]);
            }),
            R::bad("over a doorbell that is read", Invalid, |case, world| {
                doorbell(world, case.structure[PAYLOAD], 0, 0)
            }),
        ],
    ));
}

fn attach_ack(suite: &mut Suite) {
    const OFFSET: usize = PAYLOAD + 2;
    fn interrupt(case: &mut Case<Words>, interrupt: u64) {
        case.structure[PAYLOAD] = case.structure[PAYLOAD] & 0xffff_ffff | interrupt << 32;
    }
    fn good(at: u64, world: &mut World) -> Words {
        let id = server(world);
        shadow(world, id);
        let payload = [id | FAST_INTERRUPT << 32, ACK, 0x60, 0, 0];
        words(at, abi::VENDOR_ATTACH_ACK, 24, payload)
    }
    suite.table(&table("attach_ack", good, &ANY));
    suite.table(&table(
        "attach_ack",
        good,
        &[
            R::good("a register, and the word that it clears", |_, _| {}),
            R::boundary("the last word", |case, _| case.structure[OFFSET] = 4092),
            R::boundary("the last register", |case, _| {
                case.structure[PAYLOAD + 1] = FAST + PAGE - 4
            }),
            R::bad("padding at the end", Invalid, |case, _| {
                case.structure[OFFSET] |= 1 << 32
            }),
            R::bad("a PPI", Invalid, |case, _| interrupt(case, 31)),
            R::bad("no interrupt", Invalid, |case, _| interrupt(case, 0)),
            R::bad("an interrupt beyond all", Invalid, |case, _| interrupt(case, 1020)),
            R::bad("the last number of an interrupt", Invalid, |case, _| {
                interrupt(case, u32::MAX.into())
            }),
            R::bad("another's interrupt", NotPermitted, |case, _| {
                interrupt(case, INTERRUPT + 7)
            }),
            R::bad("across a word", Invalid, |case, _| case.structure[PAYLOAD + 1] += 2),
            R::bad("a word across words", Invalid, |case, _| case.structure[OFFSET] = 0x62),
            R::bad("a word behind the page", Invalid, |case, _| {
                case.structure[OFFSET] = 4096
            }),
            R::bad("RAM", NotPermitted, |case, _| case.structure[PAYLOAD + 1] = RAM),
            R::bad("where no page is shown", NoEntry, |case, world| {
                let id = case.structure[PAYLOAD] & 0xffff;
                attach(world, abi::VENDOR_DETACH, 24, [id | 3 << 32, FAST, 0, 0, 0]);
            }),
            R::bad("a second time", Exists, |case, world| {
                acknowledged(world, case.structure[PAYLOAD] & 0xffff)
            }),
            R::bad("over a doorbell", Exists, |case, world| {
                let id = case.structure[PAYLOAD] & 0xffff;
                let payload = [id | 1 << 32, ACK, 0, 0, 4];
                attach(world, abi::VENDOR_ATTACH_DOORBELL, 40, payload);
            }),
        ],
    ));
}

fn detach(suite: &mut Suite) {
    fn of(case: &mut Case<Words>, kind: u32, address: u64) {
        case.structure[PAYLOAD] = case.structure[PAYLOAD] & 0xffff_ffff | u64::from(kind) << 32;
        case.structure[PAYLOAD + 1] = address;
    }
    /// Everything is attached.
    fn good(at: u64, world: &mut World) -> Words {
        let id = server(world);
        acknowledged(world, id);
        let payload = [id | 1 << 32, REGISTER, 7, 0xff, 4];
        attach(world, abi::VENDOR_ATTACH_DOORBELL, 40, payload);
        let payload = [id | 1 << 32, FAST + 0x70, FAST + 0x73, 0, 0];
        attach(world, abi::VENDOR_ATTACH_BUFFERED, 24, payload);
        let kind = u64::from(abi::Detach::DOORBELL) << 32;
        words(at, abi::VENDOR_DETACH, 24, [id | kind, REGISTER, 7, 0, 0])
    }
    /// It is not there any more.
    fn is_gone(case: &Case<Words>, world: &mut World) -> bool {
        let mut payload = [0; 3];
        payload.copy_from_slice(&case.structure[PAYLOAD..PAYLOAD + 3]);
        make(world.other, abi::VENDOR_DETACH, 24, payload).0 == NoEntry.register()
    }
    suite.table(&table("detach", good, &ANY));
    suite.table(&table(
        "detach",
        good,
        &[
            R::good("a doorbell", |_, _| {}).check(is_gone),
            R::good("posted writes", |case, _| of(case, abi::Detach::BUFFERED, FAST + 0x70)).check(is_gone),
            R::good("a page", |case, _| of(case, abi::Detach::SHADOW, FAST)).check(is_gone),
            R::good("an acknowledgement", |case, _| of(case, abi::Detach::ACK, ACK)).check(is_gone),
            R::boundary("a doorbell's value, under its mask", |case, _| {
                case.structure[PAYLOAD + 2] = 0xff07
            })
            .check(is_gone),
            R::bad("kind 0", Invalid, |case, _| of(case, 0, REGISTER)),
            R::bad("the first kind that there is not", Invalid, |case, _| {
                of(case, 5, REGISTER)
            }),
            R::bad("the last kind", Invalid, |case, _| of(case, u32::MAX, REGISTER)),
            R::bad("another value", NoEntry, |case, _| case.structure[PAYLOAD + 2] = 8),
            R::bad("no doorbell", NoEntry, |case, _| case.structure[PAYLOAD + 1] += 4),
            R::bad("no posted writes", NoEntry, |case, _| {
                of(case, abi::Detach::BUFFERED, FAST + 0x71)
            }),
            R::bad("no page", NoEntry, |case, _| of(case, abi::Detach::SHADOW, DEVICE)),
            R::bad("no acknowledgement", NoEntry, |case, _| {
                of(case, abi::Detach::ACK, ACK + 4)
            }),
            R::bad("the last address", NoEntry, |case, _| {
                of(case, abi::Detach::DOORBELL, u64::MAX)
            }),
        ],
    ));
}

fn update(suite: &mut Suite) {
    const BITS: usize = PAYLOAD + 2;
    fn good(at: u64, world: &mut World) -> Words {
        let id = server(world);
        acknowledged(world, id);
        words(at, abi::VENDOR_UPDATE, 24, [id, ACK, 1 << 32, 0, 0])
    }
    fn id(case: &Case<Words>) -> u64 {
        case.structure[PAYLOAD] & 0xffff
    }
    suite.table(&table("update", good, &ANY));
    suite.table(&table(
        "update",
        good,
        &[
            R::good("a bit set", |_, _| {}).check(|case, world| published(world, id(case)) as u32 == 1),
            R::good("a bit cleared", |case, world| {
                attach(world, abi::VENDOR_UPDATE, 24, [id(case), ACK, 3 << 32, 0, 0]);
                case.structure[BITS] = 1;
            })
            .check(|case, world| published(world, id(case)) as u32 == 2),
            R::boundary("nothing", |case, _| case.structure[BITS] = 0)
                .check(|case, world| published(world, id(case)) as u32 == 0),
            R::boundary("all bits, which are cleared before", |case, _| {
                case.structure[BITS] = u64::MAX
            })
            .check(|case, world| published(world, id(case)) as u32 == u32::MAX),
            R::bad("a flag that does not exist", Invalid, |case, _| {
                case.structure[PAYLOAD] |= 1 << 32
            }),
            R::bad("the last flag", Invalid, |case, _| case.structure[PAYLOAD] |= 1 << 63),
            R::bad("no acknowledgement", NoEntry, |case, _| {
                case.structure[PAYLOAD + 1] = REGISTER
            }),
            R::bad("the last address", NoEntry, |case, _| {
                case.structure[PAYLOAD + 1] = u64::MAX
            }),
        ],
    ));
}

fn replace(suite: &mut Suite) {
    fn good(at: u64, world: &mut World) -> Words {
        let id = server(world);
        shadow(world, id);
        words(at, abi::VENDOR_REPLACE, 24, [id, FAST, 0, 0, 0])
    }
    suite.table(&table("replace", good, &ANY));
    suite.table(&table(
        "replace",
        good,
        &[
            R::good("the other frame", |_, _| {})
                .check(|case, world| case.structure[PAYLOAD + 2] == u64::from(world.handle.get()) ^ 1),
            R::good("and back", |case, world| {
                attach(world, abi::VENDOR_REPLACE, 24, [case.structure[PAYLOAD], FAST, 0, 0, 0]);
            })
            .check(|case, world| case.structure[PAYLOAD + 2] == world.handle.get().into()),
            R::boundary("what the answer held before", |case, _| {
                case.structure[PAYLOAD + 2] = u64::MAX
            })
            .check(|case, world| case.structure[PAYLOAD + 2] == u64::from(world.handle.get()) ^ 1),
            R::bad("a flag that does not exist", Invalid, |case, _| {
                case.structure[PAYLOAD] |= 1 << 32
            }),
            R::bad("a page that is not shown", NoEntry, |case, _| {
                case.structure[PAYLOAD + 1] = DEVICE
            }),
            R::bad("inside a page", NoEntry, |case, _| case.structure[PAYLOAD + 1] += 4),
            R::bad("the last address", NoEntry, |case, _| {
                case.structure[PAYLOAD + 1] = u64::MAX
            }),
        ],
    ));
}
