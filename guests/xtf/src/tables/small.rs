//! Hypercalls with few operations: hvm_op, vcpu_op, console_io, vm_assist, multicall, domctl, and those that there are none of.

use portunus::abi::HypercallError::{
    AccessDenied, BadPointer, Invalid, NoAddress, NoDomain, NoEntry, NotImplemented, NotPermitted, NotSupported,
};
use portunus::abi::domctl::{self, Domctl};
use portunus::abi::hvm_op::{self, Parameter};
use portunus::abi::hypercall::{self as number, HypercallError, MulticallEntry};
use portunus::abi::vcpu::{self, RegisterRunstateMemoryArea, RegisterVcpuInfo, RunstateInfo};
use portunus::abi::{console_io, version};
use zerocopy::FromZeros;

use crate::case::{Case, Expected, Registers, Row, Structure, Table};
use crate::suite::Suite;
use crate::world::{DOMID_SELF, NOBODY, PAGE, World, plain};

fn table<'a, T: FromZeros>(
    call: &'static str,
    operation: &'static str,
    number: u64,
    structure: Structure,
    rows: &'a [Row<T>],
) -> Table<'a, T> {
    Table::hypercall((call, number), operation, structure, rows)
}

pub(crate) fn run(suite: &mut Suite) {
    hvm(suite);
    vcpu_info(suite);
    runstate(suite);
    console(suite);
    assist(suite);
    multicall(suite);
    domain_control(suite);
    refused(suite);
}

fn hvm(suite: &mut Suite) {
    type R = Row<Parameter>;
    let good = |_: u64, _: &mut World| Parameter {
        domid: DOMID_SELF,
        index: hvm_op::PARAM_CALLBACK_IRQ,
        ..Parameter::default()
    };
    suite.table(&Table {
        registers: |at| [hvm_op::GET_PARAM, at, 0, 0, 0],
        good,
        ..table(
            "hvm_op",
            "get_param",
            number::HVM_OP,
            Structure::InOut,
            &[
                R::good("the upcall is a PPI", |_, _| {}).check(|case, world| {
                    case.structure.value >> 56 == 2 && case.structure.value & 0xff == world.events.upcall.into()
                }),
                R::good("by its own number", |case, world| case.structure.domid = world.me)
                    .check(|case, _| case.structure.value >> 56 == 2),
                R::good("there is no xenstore's port", |case, _| {
                    case.structure.index = hvm_op::PARAM_STORE_EVTCHN
                })
                .check(|case, _| case.structure.value == 0),
                R::good("nor its frame", |case, _| {
                    case.structure.index = hvm_op::PARAM_STORE_PFN
                })
                .check(|case, _| case.structure.value == 0),
                R::good("there is no PV console's port", |case, _| {
                    case.structure.index = hvm_op::PARAM_CONSOLE_EVTCHN
                })
                .check(|case, _| case.structure.value == 0),
                R::good("nor its frame", |case, _| {
                    case.structure.index = hvm_op::PARAM_CONSOLE_PFN
                })
                .check(|case, _| case.structure.value == 0),
                R::boundary("what padding and answer held before", |case, _| {
                    (case.structure.pad, case.structure.value) = (0xffff, u64::MAX);
                })
                .check(|case, _| case.structure.value >> 56 == 2),
                R::bad("one that is not for guests", Invalid, |case, _| {
                    case.structure.index = 5
                }),
                R::bad("the last index", Invalid, |case, _| case.structure.index = u32::MAX),
                R::bad("of another domain", NotPermitted, |case, world| {
                    case.structure.domid = world.other
                }),
                R::bad("of a domain that does not exist", NoDomain, |case, _| {
                    case.structure.domid = NOBODY
                }),
            ],
        )
    });
    suite.table(&Table {
        registers: |at| [hvm_op::SET_PARAM, at, 0, 0, 0],
        good,
        ..table(
            "hvm_op",
            "set_param",
            number::HVM_OP,
            Structure::Ignored,
            &[
                R::bad("the upcall", NotPermitted, |_, _| {}),
                R::bad("xenstore's frame", NotPermitted, |case, _| {
                    case.structure.index = hvm_op::PARAM_STORE_PFN
                }),
                R::bad("the last index", Invalid, |case, _| case.structure.index = u32::MAX),
                R::bad("of another domain", NotPermitted, |case, world| {
                    case.structure.domid = world.other
                }),
                R::bad("of a domain that does not exist", NoDomain, |case, _| {
                    case.structure.domid = NOBODY
                }),
                R::bad("no structure", BadPointer, |case, _| case.registers[1] = 0),
            ],
        )
    });
    suite.table(&Table {
        registers: |at| [99, at, 0, 0, 0],
        good,
        ..table(
            "hvm_op",
            "others",
            number::HVM_OP,
            Structure::Ignored,
            &[
                R::bad("one that does not exist", NotImplemented, |_, _| {}),
                R::bad("the last", NotImplemented, |case, _| case.registers[0] = u64::MAX),
            ],
        )
    });
}

fn vcpu_info(suite: &mut Suite) {
    type R = Row<RegisterVcpuInfo>;
    suite.table(&Table {
        registers: |at| [vcpu::REGISTER_VCPU_INFO, 1, at, 0, 0],
        good: |_, world| RegisterVcpuInfo {
            mfn: world.info_frame(),
            offset: 0,
            rsvd: 0,
        },
        ..table(
            "vcpu_op",
            "register_vcpu_info",
            number::VCPU_OP,
            Structure::Ignored,
            &[
                R::bad("across the end of a page", NoAddress, |case, _| {
                    case.structure.offset = 4096 - 40
                }),
                R::bad("no multiple of 8", NoAddress, |case, _| case.structure.offset = 4),
                R::bad("the last offset", NoAddress, |case, _| case.structure.offset = u32::MAX),
                R::bad("no RAM", Invalid, |case, world| {
                    case.structure.mfn = world.nowhere / PAGE
                }),
                R::bad("no frame", Invalid, |case, _| case.structure.mfn = u64::MAX),
                R::bad("a vCPU that it does not have", NoEntry, |case, _| case.registers[1] = 2),
                R::bad("the last number of a vCPU", NoEntry, |case, _| {
                    case.registers[1] = u32::MAX.into()
                }),
                R::bad("no structure", BadPointer, |case, _| case.registers[2] = 0),
                R::bad("structure in a device", BadPointer, |case, world| {
                    case.registers[2] = world.device
                }),
                R::boundary("as near to the end of a page as it goes", |case, _| {
                    case.structure.offset = 4096 - 48
                })
                .check(|_, world| world.word_at(world.info_frame() * PAGE + 4096 - 48) & 0xff != 0),
                R::bad("a second time", HypercallError::Busy, |_, _| {}),
            ],
        )
    });
    // vCPU 0 of the suite registered its own long ago: that was the good call.
    suite.table(&Table {
        registers: |at| [vcpu::REGISTER_VCPU_INFO, 0, at, 0, 0],
        good: |_, world| RegisterVcpuInfo {
            mfn: world.info_frame(),
            ..RegisterVcpuInfo::default()
        },
        ..table(
            "vcpu_op",
            "register_vcpu_info",
            number::VCPU_OP,
            Structure::Ignored,
            &[R::bad("vCPU 0 a second time", HypercallError::Busy, |_, _| {})],
        )
    });
}

fn runstate(suite: &mut Suite) {
    type R = Row<RegisterRunstateMemoryArea>;
    fn state(world: &World) -> RunstateInfo {
        world.get(world.spare)
    }
    suite.table(&Table {
        registers: |at| [vcpu::REGISTER_RUNSTATE_MEMORY_AREA, 0, at, 0, 0],
        good: |_, world| RegisterRunstateMemoryArea { pointer: world.spare },
        undo: |_, world| {
            let none = RegisterRunstateMemoryArea::default();
            for vcpu in 0..2 {
                let registers = [vcpu::REGISTER_RUNSTATE_MEMORY_AREA, vcpu, &raw const none as u64, 0, 0];
                plain(number::VCPU_OP, registers);
            }
            world.fill_spare();
        },
        ..table(
            "vcpu_op",
            "register_runstate_memory_area",
            number::VCPU_OP,
            Structure::Input,
            &[
                R::good("it runs, and has run", |_, _| {}).check(|_, world| {
                    let state = state(world);
                    state.state == vcpu::RUNSTATE_RUNNING && state.state_entry_time != 0
                }),
                R::good("of another vCPU", |case, _| case.registers[1] = 1),
                R::boundary("none any more", |case, _| case.structure.pointer = 0)
                    .check(|_, world| world.spare_is_whole(0)),
                R::boundary("across two pages", |case, _| case.structure.pointer += PAGE - 24)
                    .check(|_, world| !world.spare_is_whole(0) && !world.spare_is_whole(1)),
                R::bad("no multiple of 8", Invalid, |case, _| case.structure.pointer += 4),
                R::bad("in a device", BadPointer, |case, world| {
                    case.structure.pointer = world.device
                }),
                R::bad("where stage 2 has nothing", BadPointer, |case, world| {
                    case.structure.pointer = world.nowhere
                }),
                R::bad("in memory that may only be read", BadPointer, |case, world| {
                    case.structure.pointer = world.read_only
                }),
                R::bad("a vCPU that it does not have", NoEntry, |case, _| case.registers[1] = 2),
                R::bad("the last number of a vCPU", NoEntry, |case, _| {
                    case.registers[1] = u32::MAX.into()
                }),
            ],
        )
    });
    let operations: [Registers; 4] = [
        |at| [0, 0, at, 0, 0],
        |at| [4, 0, at, 0, 0],
        |at| [14, 0, at, 0, 0],
        |at| [u32::MAX.into(), 0, at, 0, 0],
    ];
    for registers in operations {
        suite.table(&Table {
            registers,
            ..table(
                "vcpu_op",
                "others",
                number::VCPU_OP,
                Structure::Ignored,
                &[Row::bad("zeroes", Invalid, |_: &mut Case<[u64; 4]>, _| {})],
            )
        });
    }
}

fn console(suite: &mut Suite) {
    type R = Row<[u8; 8]>;
    suite.table(&Table {
        registers: |at| [console_io::WRITE, 8, at, 0, 0],
        good: |_, _| *b"xtf out\n",
        ..table(
            "console_io",
            "write",
            number::CONSOLE_IO,
            Structure::Input,
            &[
                R::good("a line", |_, _| {}),
                R::boundary("nothing", |case, _| case.registers[1] = 0),
                R::boundary("nothing, from nowhere", |case, _| {
                    (case.registers[1], case.registers[2]) = (0, 0)
                }),
            ],
        )
    });
    suite.table(&Table {
        registers: |at| [console_io::READ, 8, at, 0, 0],
        ..table(
            "console_io",
            "read",
            number::CONSOLE_IO,
            Structure::Ignored,
            &[R::bad("without authority", NotPermitted, |_, _| {})],
        )
    });
    suite.table(&Table {
        registers: |at| [2, 8, at, 0, 0],
        ..table(
            "console_io",
            "others",
            number::CONSOLE_IO,
            Structure::Ignored,
            &[
                R::bad("one that does not exist", NotImplemented, |_, _| {}),
                R::bad("the last", NotImplemented, |case, _| {
                    case.registers[0] = u32::MAX.into()
                }),
            ],
        )
    });
}

fn assist(suite: &mut Suite) {
    type R = Row<()>;
    const FLAG: u64 = vcpu::ASSIST_RUNSTATE_UPDATE_FLAG;
    let operations: [(&str, Registers); 2] = [
        ("enable", |_| [vcpu::ASSIST_ENABLE, FLAG, 0, 0, 0]),
        ("disable", |_| [vcpu::ASSIST_DISABLE, FLAG, 0, 0, 0]),
    ];
    for (operation, registers) in operations {
        suite.table(&Table {
            registers,
            ..table(
                "vm_assist",
                operation,
                number::VM_ASSIST,
                Structure::None,
                &[
                    R::good("the mark of a change", |_, _| {}),
                    R::boundary("once more", |case, _| {
                        plain(number::VM_ASSIST, case.registers);
                    }),
                    R::bad("the type before", Invalid, |case, _| case.registers[1] = FLAG - 1),
                    R::bad("the type after", Invalid, |case, _| case.registers[1] = FLAG + 1),
                    R::bad("the last type", Invalid, |case, _| case.registers[1] = u32::MAX.into()),
                ],
            )
        });
    }
    suite.table(&Table {
        registers: |_| [2, FLAG, 0, 0, 0],
        ..table(
            "vm_assist",
            "others",
            number::VM_ASSIST,
            Structure::None,
            &[
                R::bad("one that does not exist", NotImplemented, |_, _| {}),
                R::bad("the last", NotImplemented, |case, _| {
                    case.registers[0] = u32::MAX.into()
                }),
            ],
        )
    });
}

fn multicall(suite: &mut Suite) {
    const ENTRIES: usize = 3;
    type Entries = [MulticallEntry; ENTRIES];
    type R = Row<Entries>;
    const MARK: u64 = 0x1234_5678;
    const PAGESIZE: MulticallEntry = MulticallEntry {
        op: number::XEN_VERSION,
        result: MARK,
        args: [version::PAGESIZE, 0, 0, 0, 0, 0],
    };
    suite.table(&Table {
        registers: |at| [at, ENTRIES as u64, 0, 0, 0],
        good: |_, _| [PAGESIZE; ENTRIES],
        ..table(
            "multicall",
            "entries",
            number::MULTICALL,
            Structure::InOut,
            &[
                R::good("each has its result", |_, _| {})
                    .check(|case, _| case.structure.iter().all(|entry| entry.result == PAGE)),
                R::good("one fails by itself", |case, _| case.structure[1].args[1] = 1).check(|case, _| {
                    let [first, second, third] = case.structure.map(|entry| entry.result);
                    (first, second, third) == (PAGE, Invalid.register(), PAGE)
                }),
                R::good("a call that does not exist", |case, _| case.structure[1].op = 63)
                    .check(|case, _| case.structure[1].result == NotImplemented.register()),
                R::boundary("none", |case, _| case.registers[1] = 0).check(|case, _| case.structure[0].result == MARK),
                R::boundary("one of three", |case, _| case.registers[1] = 1)
                    .check(|case, _| case.structure[0].result == PAGE && case.structure[1].result == MARK),
                R::bad("a multicall inside", Invalid, |case, _| {
                    case.structure[0].op = number::MULTICALL
                })
                .returns(Expected::Value(0))
                .check(|case, _| (case.structure[0].result as i64) < 0 && case.structure[1].result == PAGE),
                R::bad("the last number of a call", Invalid, |case, _| {
                    case.structure[0].op = u64::MAX
                })
                .returns(Expected::Value(0))
                .check(|case, _| case.structure[0].result == NotImplemented.register()),
            ],
        )
    });
}

fn domain_control(suite: &mut Suite) {
    #[derive(Copy, Clone, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable)]
    #[repr(C)]
    struct Command {
        header: Domctl,
        payload: [u64; 16],
    }
    type R = Row<Command>;
    suite.table(&Table {
        registers: |at| [at, 0, 0, 0, 0],
        good: |_, world| Command {
            header: Domctl {
                cmd: domctl::GETDOMAININFO,
                interface_version: *domctl::INTERFACE_VERSIONS.start(),
                domain: world.me,
                ..Domctl::default()
            },
            payload: [0; 16],
        },
        ..table(
            "domctl",
            "getdomaininfo",
            number::DOMCTL,
            Structure::Ignored,
            &[
                R::bad("of itself, as it serves nobody", NotPermitted, |_, _| {}),
                R::bad("of another domain", NotPermitted, |case, world| {
                    case.structure.header.domain = world.other
                }),
                R::bad("no domain from there on", NoDomain, |case, _| {
                    case.structure.header.domain = NOBODY
                }),
                R::bad("an interface that is too old", AccessDenied, |case, _| {
                    case.structure.header.interface_version = domctl::INTERFACE_VERSIONS.start() - 1;
                }),
                R::bad("the last interface", AccessDenied, |case, _| {
                    case.structure.header.interface_version = u32::MAX
                }),
                R::bad("no structure", BadPointer, |case, _| case.registers[0] = 0),
            ],
        )
    });
    suite.table(&Table {
        registers: |at| [at, 0, 0, 0, 0],
        good: |_, world| Command {
            header: Domctl {
                cmd: 1,
                interface_version: *domctl::INTERFACE_VERSIONS.start(),
                domain: world.other,
                ..Domctl::default()
            },
            payload: [0; 16],
        },
        ..table(
            "domctl",
            "others",
            number::DOMCTL,
            Structure::Ignored,
            &[
                R::bad("createdomain", NotPermitted, |_, _| {}),
                R::bad("destroydomain", NotPermitted, |case, _| case.structure.header.cmd = 2),
                R::bad("the last", NotPermitted, |case, _| case.structure.header.cmd = u32::MAX),
            ],
        )
    });
}

/// Calls of which there is nothing.
fn refused(suite: &mut Suite) {
    let calls: [(&str, u64, HypercallError); 14] = [
        ("sched_op_compat", 6, NotImplemented),
        ("platform_op", number::PLATFORM_OP, NotImplemented),
        ("event_channel_op_compat", 16, NotImplemented),
        ("physdev_op_compat", 19, NotImplemented),
        ("xsm_op", number::XSM_OP, NotImplemented),
        ("physdev_op", number::PHYSDEV_OP, NotImplemented),
        ("sysctl", number::SYSCTL, NotPermitted),
        ("argo_op", number::ARGO_OP, NotSupported),
        ("hypfs_op", number::HYPFS_OP, NotImplemented),
        ("set_timer_op", 15, NotImplemented),
        ("calls of architectures", 49, NotImplemented),
        ("the first call beyond all", 64, NotImplemented),
        ("call 2^32 + 17", 1 << 32 | 17, NotImplemented),
        ("the last call", u64::MAX, NotImplemented),
    ];
    for (operation, number, error) in calls {
        suite.table(&Table {
            registers: |at| [1, at, 1, 0, 0],
            ..table(
                "others",
                operation,
                number,
                Structure::Ignored,
                &[
                    Row::bad("zeroes", error, |_: &mut Case<[u64; 8]>, _| {}),
                    Row::bad("no structure", error, |case, _| case.registers = [0; 5]),
                ],
            )
        });
    }
}
