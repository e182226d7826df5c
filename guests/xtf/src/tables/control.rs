//! Portunus' own hypercall: what a domain may read of itself, and what one may do that controls another.

use portunus::abi::HypercallError::{self, Invalid, NoDomain, NoEntry, NotPermitted, NotSupported};
use portunus::abi::control::{self as abi, Action, Domain, Server, Vcpu, Version};
use portunus::abi::hypercall::CONTROL;
use zerocopy::FromZeros;

use super::dm_op::{FAST, NO_SERVER, STRANGER, create, destroy, make};
use crate::case::{Case, Registers, Row, Structure, Table};
use crate::suite::Suite;
use crate::world::{DOMID_SELF, NOBODY, World, plain};

const OTHER_VERSION: u32 = abi::INTERFACE_VERSION + 1;

fn table<'a, T: FromZeros>(
    operation: &'static str,
    registers: Registers,
    good: fn(u64, &mut World) -> T,
    rows: &'a [Row<T>],
) -> Table<'a, T> {
    Table {
        registers,
        good,
        ..Table::hypercall(("control", CONTROL), operation, Structure::InOut, rows)
    }
}

/// What a domain may do that controls nobody.
pub(crate) fn of_itself(suite: &mut Suite) {
    version(suite);
    domain_itself(suite);
    vcpu_itself(suite);
    server_itself(suite);
    actions(suite);
    let operations: [Registers; 2] = [|at| [abi::SHUTDOWN + 1, at, 0, 0, 0], |at| [u64::MAX, at, 0, 0, 0]];
    for registers in operations {
        suite.table(&Table {
            structure: Structure::Ignored,
            ..table(
                "others",
                registers,
                |_, world| Action::on(world.me),
                &[Row::bad("a structure", NotSupported, |_, _| {})],
            )
        });
    }
}

/// What the one may do that controls the other.
pub(crate) fn of_another(suite: &mut Suite) {
    domain_other(suite);
    vcpu_other(suite);
    server_other(suite);
    hold(suite);
    refused_of_another(suite);
}

fn version(suite: &mut Suite) {
    type R = Row<Version>;
    suite.table(&table(
        "version",
        |at| [abi::VERSION, at, 0, 0, 0],
        |_, _| Version {
            version: abi::INTERFACE_VERSION,
            pad: 0,
        },
        &[
            R::good("the one that there is", |_, _| {})
                .check(|case, _| case.structure.version == abi::INTERFACE_VERSION),
            R::bad("0", Invalid, |case, _| case.structure.version = 0)
                .writes()
                .check(|case, _| case.structure.version == abi::INTERFACE_VERSION),
            R::bad("the next", Invalid, |case, _| case.structure.version = OTHER_VERSION)
                .writes()
                .check(|case, _| case.structure.version == abi::INTERFACE_VERSION),
            R::bad("the last", Invalid, |case, _| case.structure.version = u32::MAX)
                .writes()
                .check(|case, _| case.structure.version == abi::INTERFACE_VERSION),
            R::bad("padding", Invalid, |case, _| case.structure.pad = 1),
        ],
    ));
}

/// It is this one, as the manifest says.
fn is_domain(case: &Case<Domain>, id: u16) -> bool {
    let domain = &case.structure;
    domain.domain == id
        && domain.state == Domain::STATE_RUNNING
        && domain.reason == Domain::NO_REASON
        && domain.restarts == 0
        && domain.ram_pages == 0x4000 / 4
        && domain.pool_used <= domain.pool_frames
        && domain.reserved == 0
        && domain.name().len() == 1
}

fn domain_itself(suite: &mut Suite) {
    type R = Row<Domain>;
    suite.table(&table(
        "domain",
        |at| [abi::DOMAIN, at, 0, 0, 0],
        |_, world| Domain::ask(world.me),
        &[
            R::good("itself", |_, _| {}).check(|case, world| {
                is_domain(case, world.me) && case.structure.vcpus == 2 && case.structure.online_vcpus == 1
            }),
            R::good("by DOMID_SELF", |case, _| case.structure.domain = DOMID_SELF)
                .check(|case, world| is_domain(case, world.me)),
            R::boundary("what the answer held before", |case, _| {
                (case.structure.state, case.structure.reserved, case.structure.name) = (77, 77, [77; 64]);
            })
            .check(|case, world| is_domain(case, world.me)),
            R::bad("another", NotPermitted, |case, world| {
                case.structure.domain = world.other
            }),
            R::bad("domain 0", NoDomain, |case, _| case.structure.domain = 0),
            R::bad("one that does not exist", NoDomain, |case, _| {
                case.structure.domain = NOBODY
            }),
            R::bad("the last number of a domain", NoDomain, |case, _| {
                case.structure.domain = u16::MAX
            }),
            R::bad("padding", Invalid, |case, _| case.structure.pad = 1),
            R::bad("another version", Invalid, |case, _| {
                case.structure.version = OTHER_VERSION
            })
            .writes()
            .check(|case, _| case.structure.version == abi::INTERFACE_VERSION),
        ],
    ));
    suite.table(&table(
        "next domain",
        |at| [abi::NEXT_DOMAIN, at, 0, 0, 0],
        |_, _| Domain::ask(0),
        &[
            R::good("from the first on: itself", |_, _| {}).check(|case, world| is_domain(case, world.me)),
            R::boundary("from itself on: itself", |case, world| case.structure.domain = world.me)
                .check(|case, world| is_domain(case, world.me)),
            R::bad("from the next on: none is left", NoDomain, |case, world| {
                case.structure.domain = world.me + 1
            }),
            R::bad("from the last number on", NoDomain, |case, _| {
                case.structure.domain = u16::MAX
            }),
            R::bad("from DOMID_SELF on, which is a number here", NoDomain, |case, _| {
                case.structure.domain = DOMID_SELF
            }),
            R::bad("padding", Invalid, |case, _| case.structure.pad = 1),
        ],
    ));
}

fn vcpu_itself(suite: &mut Suite) {
    type R = Row<Vcpu>;
    suite.table(&table(
        "vcpu",
        |at| [abi::VCPU, at, 0, 0, 0],
        |_, world| Vcpu::ask(world.me, 0),
        &[
            R::good("the one that asks runs", |_, _| {}).check(|case, _| {
                case.structure.state == Vcpu::STATE_RUNNING
                    && case.structure.server == Vcpu::NO_SERVER
                    && case.structure.exits[Vcpu::EXIT_HYPERCALL] > 0
                    && case.structure.run_time > 0
            }),
            R::good("by DOMID_SELF", |case, _| case.structure.domain = DOMID_SELF)
                .check(|case, world| case.structure.domain == world.me),
            R::boundary("the last one is off", |case, _| case.structure.vcpu = 1).check(|case, _| {
                case.structure.state == Vcpu::STATE_OFF && case.structure.run_time == 0 && case.structure.address == 0
            }),
            R::bad("the first that there is not", NoEntry, |case, _| {
                case.structure.vcpu = 2
            }),
            R::bad("the last number of a vCPU", NoEntry, |case, _| {
                case.structure.vcpu = u16::MAX
            }),
            R::bad("of another", NotPermitted, |case, world| {
                case.structure.domain = world.other
            }),
            R::bad("of one that does not exist", NoDomain, |case, _| {
                case.structure.domain = NOBODY
            }),
        ],
    ));
}

fn server_itself(suite: &mut Suite) {
    type R = Row<Server>;
    suite.table(&Table {
        structure: Structure::Ignored,
        ..table(
            "server",
            |at| [abi::SERVER, at, 0, 0, 0],
            |_, world| Server::ask(world.me, 9, 0),
            &[
                R::bad("one that there can't be", NoEntry, |_, _| {}),
                R::bad("the last number of a server", NoEntry, |case, _| {
                    case.structure.server = u16::MAX
                }),
                R::bad("of another", NotPermitted, |case, world| {
                    case.structure.domain = world.other
                }),
                R::bad("of one that does not exist", NoDomain, |case, _| {
                    case.structure.domain = NOBODY
                }),
            ],
        )
    });
}

/// The operations that do something to a domain.
const ACTIONS: [(&str, Registers); 4] = [
    ("pause", |at| [abi::PAUSE, at, 0, 0, 0]),
    ("unpause", |at| [abi::UNPAUSE, at, 0, 0, 0]),
    ("restart", |at| [abi::RESTART, at, 0, 0, 0]),
    ("shutdown", |at| [abi::SHUTDOWN, at, 0, 0, 0]),
];

/// Rows of every operation that does something to a domain, of which it is the other one.
fn each_action(suite: &mut Suite, rows: &[Row<Action>]) {
    for (operation, registers) in ACTIONS {
        suite.table(&Table {
            structure: Structure::Ignored,
            ..table(operation, registers, |_, world| Action::on(world.other), rows)
        });
    }
}

fn actions(suite: &mut Suite) {
    type R = Row<Action>;
    each_action(
        suite,
        &[
            R::bad("another, without the right", NotPermitted, |_, _| {}),
            R::bad("itself", Invalid, |case, world| case.structure.domain = world.me),
            R::bad("DOMID_SELF", Invalid, |case, _| case.structure.domain = DOMID_SELF),
            R::bad("one that does not exist", NoDomain, |case, _| {
                case.structure.domain = NOBODY
            }),
            R::bad("the last number of a domain", NoDomain, |case, _| {
                case.structure.domain = u16::MAX
            }),
            R::bad("padding", Invalid, |case, _| case.structure.pad = 1),
            R::bad("padding at the end", Invalid, |case, _| case.structure.pad2 = 1),
            R::bad("another version", Invalid, |case, _| {
                case.structure.version = OTHER_VERSION
            })
            .writes()
            .check(|case, _| case.structure.version == abi::INTERFACE_VERSION),
            R::bad("no structure", HypercallError::BadPointer, |case, _| {
                case.registers[1] = 0
            }),
            R::bad(
                "structure in memory that may only be read",
                HypercallError::BadPointer,
                |case, world| case.registers[1] = world.read_only,
            ),
        ],
    );
}

fn domain_other(suite: &mut Suite) {
    type R = Row<Domain>;
    suite.table(&Table {
        structure: Structure::Ignored,
        ..table(
            "domain",
            |at| [abi::DOMAIN, at, 0, 0, 0],
            |_, world| Domain::ask(world.other),
            &[
                R::good("the one that it controls", |_, _| {}).check(|case, world| {
                    is_domain(case, world.other) && case.structure.flags == 0 && case.structure.name() == "a"
                }),
                R::bad("one that it does not control", NotPermitted, |case, _| {
                    case.structure.domain = STRANGER as u16
                }),
            ],
        )
    });
    suite.table(&Table {
        structure: Structure::Ignored,
        ..table(
            "next domain",
            |at| [abi::NEXT_DOMAIN, at, 0, 0, 0],
            |_, _| Domain::ask(0),
            &[
                R::good("from the first on: the one that it controls", |_, _| {})
                    .check(|case, world| is_domain(case, world.other)),
                R::good("what it does not control is left out", |case, world| {
                    case.structure.domain = world.other + 1
                })
                .check(|case, world| is_domain(case, world.me)),
            ],
        )
    });
}

fn vcpu_other(suite: &mut Suite) {
    type R = Row<Vcpu>;
    suite.table(&Table {
        structure: Structure::Ignored,
        ..table(
            "vcpu",
            |at| [abi::VCPU, at, 0, 0, 0],
            |_, world| Vcpu::ask(world.other, 0),
            &[
                R::good("of the one that it controls", |_, _| {}).check(|case, _| {
                    case.structure.state != Vcpu::STATE_OFF && case.structure.run_time > 0 && case.structure.pcpu == 0
                }),
                R::bad("of one that it does not control", NotPermitted, |case, _| {
                    case.structure.domain = STRANGER as u16
                }),
            ],
        )
    });
}

fn server_other(suite: &mut Suite) {
    type R = Row<Server>;
    suite.table(&Table {
        undo: |_, world| (0..8).for_each(|id| destroy(world, id)),
        ..table(
            "server",
            |at| [abi::SERVER, at, 0, 0, 0],
            |_, world| {
                let id = create(world);
                let range = [id | 1 << 32, FAST, FAST + 0xff];
                make(
                    world.other,
                    portunus::abi::dm_op::MAP_IO_RANGE_TO_IOREQ_SERVER,
                    24,
                    range,
                );
                Server::ask(world.other, id as u16, 0)
            },
            &[
                R::good("its own, with its range", |_, _| {}).check(|case, world| {
                    let server = &case.structure;
                    let [first, others @ ..] = &server.range;
                    server.owner == world.me
                        && server.stage == Server::STAGE_DISABLED
                        && server.ranges == 1
                        && (first.start, first.end) == (FAST, FAST + 0xff)
                        && others.iter().all(|range| range.start == 0 && range.end == 0)
                }),
                R::boundary("ranges from behind the last on", |case, _| {
                    case.structure.first_range = 1
                })
                .check(|case, _| case.structure.ranges == 1 && case.structure.range[0].end == 0),
                R::boundary("ranges from the last number on", |case, _| {
                    case.structure.first_range = u32::MAX
                })
                .check(|case, _| case.structure.ranges == 1 && case.structure.range[0].end == 0),
                R::bad("one that does not exist", NoEntry, |case, _| {
                    case.structure.server = NO_SERVER as u16
                }),
                R::bad("of one that it does not control", NotPermitted, |case, _| {
                    case.structure.domain = STRANGER as u16
                }),
            ],
        )
    });
}

/// What the domain is held by.
fn direct(world: &World, operation: u64) {
    let mut action = Action::on(world.other);
    plain(CONTROL, [operation, &raw mut action as u64, 0, 0, 0]);
}

fn is_held(world: &World) -> bool {
    let mut domain = Domain::ask(world.other);
    plain(CONTROL, [abi::DOMAIN, &raw mut domain as u64, 0, 0, 0]);
    domain.flags & Domain::FLAG_PAUSED != 0
}

fn hold(suite: &mut Suite) {
    type R = Row<Action>;
    suite.table(&Table {
        undo: |_, world| direct(world, abi::UNPAUSE),
        ..table(
            "pause",
            |at| [abi::PAUSE, at, 0, 0, 0],
            |_, world| Action::on(world.other),
            &[
                R::good("it is held", |_, _| {}).check(|_, world| is_held(world)),
                R::boundary("once more changes nothing", |_, world| direct(world, abi::PAUSE))
                    .check(|_, world| is_held(world)),
                R::bad("for a reason", Invalid, |case, _| case.structure.reason = 1).check(|_, world| !is_held(world)),
            ],
        )
    });
    suite.table(&Table {
        undo: |_, world| direct(world, abi::UNPAUSE),
        ..table(
            "unpause",
            |at| [abi::UNPAUSE, at, 0, 0, 0],
            |_, world| {
                direct(world, abi::PAUSE);
                Action::on(world.other)
            },
            &[
                R::good("it goes on", |_, _| {}).check(|_, world| !is_held(world)),
                R::boundary("one that is not held", |_, world| direct(world, abi::UNPAUSE))
                    .check(|_, world| !is_held(world)),
                R::bad("for a reason", Invalid, |case, _| case.structure.reason = u32::MAX)
                    .check(|_, world| is_held(world)),
            ],
        )
    });
}

fn refused_of_another(suite: &mut Suite) {
    type R = Row<Action>;
    each_action(
        suite,
        &[
            R::bad("a reason that there is not", Invalid, |case, _| {
                case.structure.reason = 1
            }),
            R::bad("the last reason", Invalid, |case, _| case.structure.reason = u32::MAX),
            R::bad("one that it does not control", NotPermitted, |case, _| {
                case.structure.domain = STRANGER as u16
            }),
        ],
    );
}
