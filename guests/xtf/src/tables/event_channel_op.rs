//! event_channel_op on ports of one domain.

use portunus::abi::HypercallError::{Busy, Exists, Invalid, NoDomain, NoEntry, NotImplemented, NotPermitted};
use portunus::abi::evtchn::{self, AllocUnbound, BindInterdomain, BindIpi, BindVcpu, BindVirq, Port, Reset, Status};
use portunus::abi::hypercall::EVENT_CHANNEL_OP;
use zerocopy::FromZeros;

use crate::case::{Case, Expected, Registers, Row, Structure, Table};
use crate::suite::Suite;
use crate::world::{DOMID_SELF, NOBODY, World, ask};

/// The first port that the two-level ABI can't name.
const NO_PORT: u32 = 4096;
/// Beyond the ports that guests have, and within those of the ABI.
const HIGH_PORT: u32 = 4000;

fn table<'a, T: FromZeros>(operation: &'static str, structure: Structure, rows: &'a [Row<T>]) -> Table<'a, T> {
    Table::hypercall(("event_channel_op", EVENT_CHANNEL_OP), operation, structure, rows)
}

fn close(port: u32) -> u64 {
    ask(EVENT_CHANNEL_OP, evtchn::CLOSE, &mut Port { port })
}

pub(crate) fn run(suite: &mut Suite) {
    bind_interdomain(suite);
    bind_virq(suite);
    close_table(suite);
    send(suite);
    status(suite);
    alloc_unbound(suite);
    bind_ipi(suite);
    bind_vcpu(suite);
    unmask(suite);
    reset(suite);
    refused(suite);
}

fn bind_interdomain(suite: &mut Suite) {
    type R = Row<BindInterdomain>;
    suite.table(&Table {
        registers: |at| [evtchn::BIND_INTERDOMAIN, at, 0, 0, 0],
        good: |_, world| BindInterdomain {
            remote_dom: DOMID_SELF,
            remote_port: world.unbound(DOMID_SELF),
            ..BindInterdomain::default()
        },
        undo: |case, world| {
            if case.structure.local_port != 0 {
                close(case.structure.local_port);
                world.set_mask(case.structure.local_port, false);
            }
        },
        ..table(
            "bind_interdomain",
            Structure::InOut,
            &[
                R::good("to itself", |_, _| {}).check(|case, world| {
                    let (local, remote) = (
                        world.status(case.structure.local_port),
                        world.status(case.structure.remote_port),
                    );
                    local.status == evtchn::STATUS_INTERDOMAIN
                        && remote.status == evtchn::STATUS_INTERDOMAIN
                        && local.peer_port == case.structure.remote_port
                        && remote.peer_port == case.structure.local_port
                }),
                R::good("by its own number", |case, world| case.structure.remote_dom = world.me)
                    .check(|case, world| world.status(case.structure.local_port).status == evtchn::STATUS_INTERDOMAIN),
                R::good("the new port is pending, the other one is not", |_, _| {}).check(|case, world| {
                    world.is_pending(case.structure.local_port) && !world.is_pending(case.structure.remote_port)
                }),
                R::boundary("what the padding and the result held before", |case, _| {
                    case.structure.pad = 0xffff;
                    case.structure.local_port = u32::MAX;
                })
                .check(|case, world| world.status(case.structure.local_port).status == evtchn::STATUS_INTERDOMAIN),
                R::bad("port 0", Invalid, |case, _| case.structure.remote_port = 0),
                R::bad("a free port", Invalid, |case, _| case.structure.remote_port = HIGH_PORT),
                R::bad("the first port that there can't be", Invalid, |case, _| {
                    case.structure.remote_port = NO_PORT
                }),
                R::bad("the last number of a port", Invalid, |case, _| {
                    case.structure.remote_port = u32::MAX
                }),
                R::bad("a port that is connected", Invalid, |case, world| {
                    case.structure.remote_port = world.connected().0
                }),
                R::bad("a port for events to itself", Invalid, |case, world| {
                    case.structure.remote_port = world.ipi()
                }),
                R::bad("a domain that does not exist", NoDomain, |case, _| {
                    case.structure.remote_dom = NOBODY
                }),
                R::bad("DOMID_IO", NoDomain, |case, _| case.structure.remote_dom = 0x7ff1),
                R::bad("DOMID_INVALID", NoDomain, |case, _| case.structure.remote_dom = 0x7ff4),
                R::bad("the last number of a domain", NoDomain, |case, _| {
                    case.structure.remote_dom = u16::MAX
                }),
            ],
        )
    });
}

fn bind_virq(suite: &mut Suite) {
    type R = Row<BindVirq>;
    const GOOD: BindVirq = BindVirq {
        virq: evtchn::VIRQ_DEBUG,
        vcpu: 0,
        port: 0,
    };
    suite.table(&Table {
        registers: |at| [evtchn::BIND_VIRQ, at, 0, 0, 0],
        good: |_, _| GOOD,
        undo: |case, _| {
            close(case.structure.port);
        },
        ..table(
            "bind_virq",
            Structure::InOut,
            &[
                R::good("of vCPU 0", |_, _| {}).check(|case, world| {
                    let status = world.status(case.structure.port);
                    (status.status, status.vcpu, status.peer) == (evtchn::STATUS_VIRQ, 0, evtchn::VIRQ_DEBUG)
                }),
                R::good("of vCPU 1", |case, _| case.structure.vcpu = 1)
                    .check(|case, world| world.status(case.structure.port).vcpu == 1),
                R::boundary("the first", |case, _| case.structure.virq = evtchn::VIRQ_TIMER)
                    .check(|case, world| world.status(case.structure.port).peer == evtchn::VIRQ_TIMER),
                R::boundary("one of a domain, on vCPU 0", |case, _| {
                    case.structure.virq = evtchn::VIRQ_ARGO
                }),
                R::bad("the first that does not exist", Invalid, |case, _| {
                    case.structure.virq = evtchn::VIRQS
                }),
                R::bad("the last number", Invalid, |case, _| case.structure.virq = u32::MAX),
                R::bad("one of a domain, on vCPU 1", Invalid, |case, _| {
                    case.structure.virq = evtchn::VIRQ_ARGO;
                    case.structure.vcpu = 1;
                }),
                R::bad("a vCPU that it does not have", NoEntry, |case, _| {
                    case.structure.vcpu = 2
                }),
                R::bad("the last number of a vCPU", NoEntry, |case, _| {
                    case.structure.vcpu = u32::MAX
                }),
                R::bad("a second time", Exists, |_, world| {
                    let mut first = GOOD;
                    ask(EVENT_CHANNEL_OP, evtchn::BIND_VIRQ, &mut first);
                    world.closes(first.port);
                }),
                R::bad("the console's", Busy, |case, _| {
                    case.structure.virq = evtchn::VIRQ_CONSOLE
                }),
            ],
        )
    });
}

fn close_table(suite: &mut Suite) {
    type R = Row<Port>;
    suite.table(&Table {
        registers: |at| [evtchn::CLOSE, at, 0, 0, 0],
        good: |_, world| Port {
            port: world.unbound(DOMID_SELF),
        },
        ..table(
            "close",
            Structure::Input,
            &[
                R::good("an unbound port", |_, _| {})
                    .check(|case, world| world.status(case.structure.port).status == evtchn::STATUS_CLOSED),
                R::good("a connected port: the other end waits again", |case, world| {
                    case.structure.port = world.connected().0;
                })
                .check(|case, world| {
                    let ports = 1..24;
                    let unbound = ports.filter(|port| world.status(*port).status == evtchn::STATUS_UNBOUND);
                    // The table's own is the other one.
                    world.status(case.structure.port).status == evtchn::STATUS_CLOSED && unbound.count() == 2
                }),
                R::good("a port for events to itself", |case, world| {
                    case.structure.port = world.ipi()
                })
                .check(|case, world| world.status(case.structure.port).status == evtchn::STATUS_CLOSED),
                R::boundary("a pending port is not pending any more", |case, world| {
                    case.structure.port = world.ipi();
                    world.set_mask(case.structure.port, true);
                    ask(EVENT_CHANNEL_OP, evtchn::SEND, &mut case.structure);
                })
                .check(|case, world| !world.is_pending(case.structure.port)),
                R::bad("port 0", Invalid, |case, _| case.structure.port = 0),
                R::bad("a free port", Invalid, |case, _| case.structure.port = HIGH_PORT),
                R::bad("a port that was closed", Invalid, |case, _| {
                    close(case.structure.port);
                }),
                R::bad("the first port that there can't be", Invalid, |case, _| {
                    case.structure.port = NO_PORT
                }),
                R::bad("the last number of a port", Invalid, |case, _| {
                    case.structure.port = u32::MAX
                }),
            ],
        )
    });
}

fn send(suite: &mut Suite) {
    type R = Row<Port>;
    suite.table(&Table {
        registers: |at| [evtchn::SEND, at, 0, 0, 0],
        good: |_, world| Port {
            port: world.connected().0,
        },
        ..table(
            "send",
            Structure::Input,
            &[
                R::good("the other end is pending, and only that", |_, _| {}).check(|case, world| {
                    let peer = world.status(case.structure.port).peer_port;
                    world.is_pending(peer) && !world.is_pending(case.structure.port)
                }),
                R::good("to itself", |case, world| case.structure.port = world.ipi())
                    .check(|case, world| world.is_pending(case.structure.port)),
                R::boundary("twice is once", |case, _| {
                    ask(EVENT_CHANNEL_OP, evtchn::SEND, &mut case.structure);
                })
                .check(|case, world| world.is_pending(world.status(case.structure.port).peer_port)),
                R::boundary("a masked port is pending, and nobody is told", |case, world| {
                    case.structure.port = world.ipi();
                    world.set_mask(case.structure.port, true);
                })
                .check(|case, world| world.is_pending(case.structure.port) && !world.events.is_pending()),
                R::boundary("where nobody listens", |case, world| {
                    case.structure.port = world.unbound(DOMID_SELF)
                })
                .check(|case, world| !world.is_pending(case.structure.port)),
                R::bad("port 0", Invalid, |case, _| case.structure.port = 0),
                R::bad("a free port", Invalid, |case, _| case.structure.port = HIGH_PORT),
                R::bad("a VIRQ's", Invalid, |case, world| {
                    let mut virq = BindVirq {
                        virq: evtchn::VIRQ_DEBUG,
                        ..BindVirq::default()
                    };
                    ask(EVENT_CHANNEL_OP, evtchn::BIND_VIRQ, &mut virq);
                    world.closes(virq.port);
                    case.structure.port = virq.port;
                }),
                R::bad("the first port that there can't be", Invalid, |case, _| {
                    case.structure.port = NO_PORT
                }),
                R::bad("the last number of a port", Invalid, |case, _| {
                    case.structure.port = u32::MAX
                }),
            ],
        )
    });
}

fn status(suite: &mut Suite) {
    type R = Row<Status>;
    suite.table(&Table {
        registers: |at| [evtchn::STATUS, at, 0, 0, 0],
        good: |_, world| Status {
            dom: DOMID_SELF,
            port: world.unbound(DOMID_SELF),
            ..Status::default()
        },
        ..table(
            "status",
            Structure::InOut,
            &[
                R::good("an unbound port, and for whom", |_, _| {}).check(|case, world| {
                    let status = &case.structure;
                    status.status == evtchn::STATUS_UNBOUND
                        && status.peer & 0xffff == world.me.into()
                        && status.vcpu == 0
                }),
                R::good("a connected port, and with what", |case, world| {
                    case.structure.port = world.connected().0
                })
                .check(|case, world| {
                    let status = &case.structure;
                    let back = world.status(status.peer_port);
                    status.status == evtchn::STATUS_INTERDOMAIN
                        && status.peer & 0xffff == world.me.into()
                        && back.peer_port == status.port
                }),
                R::good("a port for events to itself", |case, world| {
                    case.structure.port = world.ipi()
                })
                .check(|case, _| case.structure.status == evtchn::STATUS_IPI),
                R::good("by its own number", |case, world| case.structure.dom = world.me)
                    .check(|case, _| case.structure.status == evtchn::STATUS_UNBOUND),
                R::boundary("port 0, which nobody has", |case, _| case.structure.port = 0)
                    .check(|case, _| case.structure.status == evtchn::STATUS_CLOSED),
                R::boundary("what the answer held before", |case, _| {
                    (case.structure.status, case.structure.vcpu) = (u32::MAX, u32::MAX);
                })
                .check(|case, _| (case.structure.status, case.structure.vcpu) == (evtchn::STATUS_UNBOUND, 0)),
                R::bad("the first port that there can't be", Invalid, |case, _| {
                    case.structure.port = NO_PORT
                }),
                R::bad("the last number of a port", Invalid, |case, _| {
                    case.structure.port = u32::MAX
                }),
                R::bad("of another domain", NotPermitted, |case, world| {
                    case.structure.dom = world.other
                }),
                R::bad("of a domain that does not exist", NoDomain, |case, _| {
                    case.structure.dom = NOBODY
                }),
                R::bad("the last number of a domain", NoDomain, |case, _| {
                    case.structure.dom = u16::MAX
                }),
            ],
        )
    });
}

fn alloc_unbound(suite: &mut Suite) {
    type R = Row<AllocUnbound>;
    suite.table(&Table {
        registers: |at| [evtchn::ALLOC_UNBOUND, at, 0, 0, 0],
        good: |_, _| AllocUnbound {
            dom: DOMID_SELF,
            remote_dom: DOMID_SELF,
            port: 0,
        },
        undo: |case, _| {
            close(case.structure.port);
        },
        ..table(
            "alloc_unbound",
            Structure::InOut,
            &[
                R::good("for itself", |_, _| {}).check(|case, world| {
                    let status = world.status(case.structure.port);
                    status.status == evtchn::STATUS_UNBOUND && status.peer & 0xffff == world.me.into()
                }),
                R::good("by its own number", |case, world| {
                    (case.structure.dom, case.structure.remote_dom) = (world.me, world.me);
                })
                .check(|case, world| world.status(case.structure.port).status == evtchn::STATUS_UNBOUND),
                R::bad(
                    "for another domain: what connects domains is in the manifest",
                    NotPermitted,
                    |case, world| {
                        case.structure.remote_dom = world.other;
                    },
                ),
                R::boundary("the lowest free port is taken", |case, world| {
                    let (low, _) = (world.unbound(DOMID_SELF), world.unbound(DOMID_SELF));
                    close(low);
                    case.structure.port = low;
                })
                .check(|case, world| {
                    let free = |port: &u32| world.status(*port).status == evtchn::STATUS_CLOSED;
                    !(1..case.structure.port).any(|port| free(&port))
                }),
                R::bad("in another domain", NotPermitted, |case, world| {
                    case.structure.dom = world.other
                }),
                R::bad("in a domain that does not exist", NoDomain, |case, _| {
                    case.structure.dom = NOBODY
                }),
                R::bad("in the last number of a domain", NoDomain, |case, _| {
                    case.structure.dom = u16::MAX
                }),
                R::bad(
                    "for a domain that the manifest does not name",
                    NotPermitted,
                    |case, _| {
                        case.structure.remote_dom = NOBODY;
                    },
                ),
            ],
        )
    });
}

fn bind_ipi(suite: &mut Suite) {
    type R = Row<BindIpi>;
    suite.table(&Table {
        registers: |at| [evtchn::BIND_IPI, at, 0, 0, 0],
        undo: |case: &Case<BindIpi>, _| {
            close(case.structure.port);
        },
        ..table(
            "bind_ipi",
            Structure::InOut,
            &[
                R::good("of vCPU 0", |_, _| {}).check(|case, world| {
                    let status = world.status(case.structure.port);
                    (status.status, status.vcpu) == (evtchn::STATUS_IPI, 0)
                }),
                R::boundary("of the last vCPU", |case, _| case.structure.vcpu = 1)
                    .check(|case, world| world.status(case.structure.port).vcpu == 1),
                R::bad("a vCPU that it does not have", NoEntry, |case, _| {
                    case.structure.vcpu = 2
                }),
                R::bad("the last number of a vCPU", NoEntry, |case, _| {
                    case.structure.vcpu = u32::MAX
                }),
            ],
        )
    });
}

fn bind_vcpu(suite: &mut Suite) {
    type R = Row<BindVcpu>;
    suite.table(&Table {
        registers: |at| [evtchn::BIND_VCPU, at, 0, 0, 0],
        good: |_, world| BindVcpu {
            port: world.connected().0,
            vcpu: 1,
        },
        ..table(
            "bind_vcpu",
            Structure::Input,
            &[
                R::good("a connected port to vCPU 1", |_, _| {})
                    .check(|case, world| world.status(case.structure.port).vcpu == 1),
                R::good("an unbound port", |case, world| {
                    case.structure.port = world.unbound(DOMID_SELF)
                })
                .check(|case, world| world.status(case.structure.port).vcpu == 1),
                R::boundary("to where it is", |case, _| case.structure.vcpu = 0)
                    .check(|case, world| world.status(case.structure.port).vcpu == 0),
                R::bad("a port for events to itself", Invalid, |case, world| {
                    case.structure.port = world.ipi()
                }),
                R::bad("a VIRQ of a vCPU", Invalid, |case, world| {
                    let mut virq = BindVirq {
                        virq: evtchn::VIRQ_DEBUG,
                        ..BindVirq::default()
                    };
                    ask(EVENT_CHANNEL_OP, evtchn::BIND_VIRQ, &mut virq);
                    world.closes(virq.port);
                    case.structure.port = virq.port;
                }),
                R::bad("a vCPU that it does not have", NoEntry, |case, _| {
                    case.structure.vcpu = 2
                }),
                R::bad("the last number of a vCPU", NoEntry, |case, _| {
                    case.structure.vcpu = u32::MAX
                }),
                R::bad("port 0", Invalid, |case, _| case.structure.port = 0),
                R::bad("a free port", Invalid, |case, _| case.structure.port = HIGH_PORT),
                R::bad("the first port that there can't be", Invalid, |case, _| {
                    case.structure.port = NO_PORT
                }),
                R::bad("the last number of a port", Invalid, |case, _| {
                    case.structure.port = u32::MAX
                }),
            ],
        )
    });
}

fn unmask(suite: &mut Suite) {
    type R = Row<Port>;
    suite.table(&Table {
        registers: |at| [evtchn::UNMASK, at, 0, 0, 0],
        good: |_, world| {
            let port = world.ipi();
            world.set_mask(port, true);
            Port { port }
        },
        ..table(
            "unmask",
            Structure::Input,
            &[
                R::good("the mask is gone, and nobody is told of nothing", |_, _| {})
                    .check(|_, world| !world.events.is_pending()),
                R::good("an event that waited is told of", |case, _| {
                    ask(EVENT_CHANNEL_OP, evtchn::SEND, &mut case.structure);
                })
                .check(|case, world| world.events.is_pending() && world.is_pending(case.structure.port)),
                R::boundary("a port that is not masked", |case, world| {
                    world.set_mask(case.structure.port, false)
                }),
                R::bad("the first port that there can't be", Invalid, |case, _| {
                    case.structure.port = NO_PORT
                }),
                R::bad("the last number of a port", Invalid, |case, _| {
                    case.structure.port = u32::MAX
                }),
            ],
        )
    });
}

fn reset(suite: &mut Suite) {
    type R = Row<Reset>;
    suite.table(&Table {
        registers: |at| [evtchn::RESET, at, 0, 0, 0],
        good: |_, _| Reset { dom: DOMID_SELF },
        ..table(
            "reset",
            Structure::Input,
            &[
                R::good("all ports are closed", |_, world| {
                    world.connected();
                    world.ipi();
                })
                .check(|_, world: &mut World| (1..24).all(|port| world.status(port).status == evtchn::STATUS_CLOSED)),
                R::boundary("more ports than one execution closes", |case, world| {
                    for _ in 0..100 {
                        ask(EVENT_CHANNEL_OP, evtchn::BIND_IPI, &mut BindIpi::default());
                    }
                    case.structure.dom = world.me;
                })
                .check(|_, world| (1..120).all(|port| world.status(port).status == evtchn::STATUS_CLOSED)),
                R::boundary("none is open", |_, _| {}),
                R::bad("of another domain", NotPermitted, |case, world| {
                    case.structure.dom = world.other
                }),
                R::bad("of a domain that does not exist", NoDomain, |case, _| {
                    case.structure.dom = NOBODY
                }),
                R::bad("of the last number of a domain", NoDomain, |case, _| {
                    case.structure.dom = u16::MAX
                }),
            ],
        )
    });
}

/// What there is none of.
fn refused(suite: &mut Suite) {
    let operations: [(&str, Registers); 5] = [
        ("bind_pirq", |at| [evtchn::BIND_PIRQ, at, 0, 0, 0]),
        ("init_control", |at| [evtchn::INIT_CONTROL, at, 0, 0, 0]),
        ("expand_array", |at| [evtchn::EXPAND_ARRAY, at, 0, 0, 0]),
        ("set_priority", |at| [evtchn::SET_PRIORITY, at, 0, 0, 0]),
        ("others", |at| [evtchn::SET_PRIORITY + 1, at, 0, 0, 0]),
    ];
    for (operation, registers) in operations {
        suite.table(&Table {
            registers,
            ..table(
                operation,
                Structure::Ignored,
                &[
                    Row::bad("zeroes", NotImplemented, |_: &mut Case<[u64; 3]>, _| {}),
                    Row::bad("ones", NotImplemented, |case, _| case.structure = [u64::MAX; 3]),
                    Row::bad("no structure", NotImplemented, |case, _| case.registers[1] = 0),
                ],
            )
        });
    }
    suite.table(&Table {
        registers: |at| [u32::MAX.into(), at, 0, 0, 0],
        ..table(
            "others",
            Structure::Ignored,
            &[
                Row::bad("the last operation", NotImplemented, |_: &mut Case<u64>, _| {})
                    .returns(Expected::Error(NotImplemented)),
            ],
        )
    });
}
