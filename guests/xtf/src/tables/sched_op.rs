//! sched_op, without what ends the domain.

use core::arch::asm;

use guest_runtime::exceptions::{disable_interrupts, enable_interrupts};
use guest_runtime::timer;
use portunus::abi::HypercallError::{BadPointer, Invalid, NoSpace, NotImplemented, NotPermitted};
use portunus::abi::evtchn::{self, Port};
use portunus::abi::hypercall::{EVENT_CHANNEL_OP, SCHED_OP};
use portunus::abi::sched::{self, Poll, Shutdown, Watchdog};
use zerocopy::FromZeros;

use crate::case::{Case, Expected, Registers, Row, Structure, Table};
use crate::suite::Suite;
use crate::world::{World, ask};

fn table<'a, T: FromZeros>(operation: &'static str, structure: Structure, rows: &'a [Row<T>]) -> Table<'a, T> {
    Table::hypercall(("sched_op", SCHED_OP), operation, structure, rows)
}

/// Long enough to be asleep before, in microseconds.
const SOON: u64 = 50_000;

fn are_interrupts_masked() -> bool {
    let masks: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, daif", out(reg) masks, options(nomem, nostack, preserves_flags)) };
    masks & 1 << 7 != 0
}

pub(crate) fn run(suite: &mut Suite) {
    suite.table(&Table {
        registers: |_| [sched::YIELD, 0, 0, 0, 0],
        ..table(
            "yield",
            Structure::None,
            &[
                Row::good("it comes back", |_: &mut Case<()>, _| {}),
                Row::boundary("an argument that nobody looks at", |case, _| {
                    case.registers[1] = u64::MAX
                }),
            ],
        )
    });
    suite.table(&Table {
        registers: |_| [sched::BLOCK, 0, 0, 0, 0],
        undo: |_, _| {
            timer::stop();
            disable_interrupts();
        },
        ..table(
            "block",
            Structure::None,
            &[
                Row::good("an event is pending: it comes back", |_: &mut Case<()>, world| {
                    send_to_itself(world)
                })
                .check(|_, _| !are_interrupts_masked()),
                // The interrupt controller delivers none to this guest.
                Row::good("the timer wakes it, with interrupts let in", |_, _| {
                    timer::set_deadline(timer::now() + timer::ticks(SOON))
                })
                .check(|_, _| !are_interrupts_masked()),
                Row::boundary("interrupts were let in before", |_, _| {
                    timer::set_deadline(timer::now() + timer::ticks(SOON));
                    enable_interrupts();
                })
                .check(|_, _| !are_interrupts_masked()),
            ],
        )
    });
    poll(suite);
    watchdog(suite);
    shutdown(suite);
    refused(suite);
}

fn send_to_itself(world: &mut World) {
    let mut port = Port { port: world.ipi() };
    ask(EVENT_CHANNEL_OP, evtchn::SEND, &mut port);
}

fn poll(suite: &mut Suite) {
    type R = Row<Poll>;
    suite.table(&Table {
        registers: |at| [sched::POLL, at, 0, 0, 0],
        good: |_, world| {
            let (mut pending, quiet) = (Port { port: world.ipi() }, world.ipi());
            world.set_mask(pending.port, true);
            ask(EVENT_CHANNEL_OP, evtchn::SEND, &mut pending);
            world.set_list_half(0, quiet);
            world.set_list_half(1, pending.port);
            Poll {
                ports: world.list(),
                nr_ports: 2,
                ..Poll::default()
            }
        },
        ..table(
            "poll",
            Structure::Input,
            &[
                R::good("a port that is pending, masked or not", |_, _| {}),
                R::good("a time that has passed", |case, _| {
                    (case.structure.nr_ports, case.structure.timeout) = (1, 1)
                }),
                R::boundary("no port, and a time that has passed", |case, _| {
                    (case.structure.nr_ports, case.structure.timeout) = (0, 1);
                }),
                R::boundary("as many ports as it takes", |case, world| {
                    let pending = world.list_half(1);
                    (0..sched::MAX_POLL_PORTS).for_each(|index| world.set_list_half(index.into(), pending));
                    case.structure.nr_ports = sched::MAX_POLL_PORTS;
                }),
                R::bad("one more", Invalid, |case, _| {
                    case.structure.nr_ports = sched::MAX_POLL_PORTS + 1
                }),
                R::bad("the most", Invalid, |case, _| case.structure.nr_ports = u32::MAX),
                R::bad("a port that there can't be", Invalid, |_, world| {
                    world.set_list_half(0, 1 << 20)
                }),
                R::bad("ports in a device", BadPointer, |case, world| {
                    case.structure.ports = world.device
                }),
                R::bad("ports where stage 2 has nothing", BadPointer, |case, world| {
                    case.structure.ports = world.nowhere
                }),
            ],
        )
    });
}

fn watchdog(suite: &mut Suite) {
    type R = Row<Watchdog>;
    /// A day.
    const LATE: u32 = 86_400;
    fn stop(id: u32) {
        ask(SCHED_OP, sched::WATCHDOG, &mut Watchdog { id, timeout: 0 });
    }
    suite.table(&Table {
        registers: |at| [sched::WATCHDOG, at, 0, 0, 0],
        good: |_, _| Watchdog { id: 0, timeout: LATE },
        undo: |_, _| (1..3).for_each(stop),
        ..table(
            "watchdog",
            Structure::Input,
            &[
                R::good("a new one", |_, _| {}).returns(Expected::Value(1)),
                R::good("to stop one", |case, _| {
                    ask(SCHED_OP, sched::WATCHDOG, &mut Watchdog { id: 0, timeout: LATE });
                    (case.structure.id, case.structure.timeout) = (1, 0);
                }),
                R::good("to kick one", |case, _| {
                    ask(SCHED_OP, sched::WATCHDOG, &mut Watchdog { id: 0, timeout: LATE });
                    case.structure.id = 1;
                }),
                R::boundary("the second, and the longest time", |case, _| {
                    ask(SCHED_OP, sched::WATCHDOG, &mut Watchdog { id: 0, timeout: LATE });
                    case.structure.timeout = u32::MAX;
                })
                .returns(Expected::Value(2)),
                R::bad("a third", NoSpace, |_, _| {
                    for _ in 0..2 {
                        ask(SCHED_OP, sched::WATCHDOG, &mut Watchdog { id: 0, timeout: LATE });
                    }
                }),
                R::bad("a number that there is none of", Invalid, |case, _| {
                    case.structure.id = 3
                }),
                R::bad("the last number", Invalid, |case, _| case.structure.id = u32::MAX),
                R::bad("one that is not in use", Invalid, |case, _| case.structure.id = 2),
            ],
        )
    });
}

fn shutdown(suite: &mut Suite) {
    type R = Row<Shutdown>;
    suite.table(&Table {
        registers: |at| [sched::SHUTDOWN, at, 0, 0, 0],
        ..table(
            "shutdown",
            Structure::Ignored,
            &[
                R::bad("the first reason that there is not", Invalid, |case, _| {
                    case.structure.reason = 6
                }),
                R::bad("the last number of a reason", Invalid, |case, _| {
                    case.structure.reason = u32::MAX
                }),
                R::bad("no structure", BadPointer, |case, _| case.registers[1] = 0),
                R::bad("structure in a device", BadPointer, |case, world| {
                    case.registers[1] = world.device
                }),
            ],
        )
    });
    suite.table(&Table {
        registers: |at| [sched::SHUTDOWN_CODE, at, 0, 0, 0],
        good: |_, _| Shutdown { reason: 3 },
        ..table(
            "shutdown_code",
            Structure::Input,
            &[
                R::good("a crash", |_, _| {}),
                R::boundary("the last reason", |case, _| case.structure.reason = 5),
                R::bad("the first reason that there is not", Invalid, |case, _| {
                    case.structure.reason = 6
                }),
                R::bad("the last number of a reason", Invalid, |case, _| {
                    case.structure.reason = u32::MAX
                }),
            ],
        )
    });
}

fn refused(suite: &mut Suite) {
    let operations: [(&str, Registers, portunus::abi::HypercallError); 4] = [
        (
            "remote_shutdown",
            |at| [sched::REMOTE_SHUTDOWN, at, 0, 0, 0],
            NotPermitted,
        ),
        ("pin_override", |at| [sched::PIN_OVERRIDE, at, 0, 0, 0], NotPermitted),
        ("others", |at| [8, at, 0, 0, 0], NotImplemented),
        ("others", |at| [u32::MAX.into(), at, 0, 0, 0], NotImplemented),
    ];
    for (operation, registers, error) in operations {
        suite.table(&Table {
            registers,
            good: |_, world| [u64::from(world.other), 0],
            ..table(
                operation,
                Structure::Ignored,
                &[Row::bad("of another domain", error, |_: &mut Case<[u64; 2]>, _| {})],
            )
        });
    }
}
