//! xen_version.

use portunus::abi::HypercallError::{Invalid, NoBuffers, NotImplemented};
use portunus::abi::hypercall::XEN_VERSION;
use portunus::abi::version::{self, CompileInfo, FeatureInfo};

use crate::case::{Case, Expected, Registers, Row, Structure, Table};
use crate::suite::Suite;
use crate::world::{World, plain};

/// A table whose answer is a structure.
fn table<'a, T>(operation: &'static str, structure: Structure, rows: &'a [Row<T>]) -> Table<'a, T>
where
    T: zerocopy::FromZeros,
{
    Table::hypercall(("xen_version", XEN_VERSION), operation, structure, rows)
}

/// Whether `bytes` is text that ends with a zero.
fn is_text(bytes: &[u8]) -> bool {
    let end = bytes.iter().position(|byte| *byte == 0);
    end.is_some_and(|end| {
        bytes
            .iter()
            .take(end)
            .all(|byte| byte.is_ascii_graphic() || *byte == b' ')
    })
}

fn text_is_there<const LENGTH: usize>(case: &Case<[u8; LENGTH]>, _: &mut World) -> bool {
    is_text(&case.structure)
}

pub(crate) fn run(suite: &mut Suite) {
    suite.table(&Table {
        registers: |_| [version::VERSION, 0, 0, 0, 0],
        ..table(
            "version",
            Structure::None,
            &[
                Row::good("major and minor number", |_: &mut Case<()>, _| {})
                    .returns(Expected::Success)
                    .check(|case, _| case.x0 >> 16 == 4 && case.x0 & 0xffff >= 10),
                Row::boundary("an argument that nobody looks at", |case, _| {
                    case.registers[1] = u64::MAX
                })
                .returns(Expected::Success)
                .check(|case, _| case.x0 >> 16 == 4),
                Row::boundary("bits of the operation above 31", |case, _| case.registers[0] |= 1 << 32)
                    .returns(Expected::Success)
                    .check(|case, _| case.x0 >> 16 == 4),
            ],
        )
    });
    suite.table(&Table {
        registers: |at| [version::EXTRAVERSION, at, 0, 0, 0],
        ..table(
            "extraversion",
            Structure::InOut,
            &[Row::good("16 bytes of text", |_: &mut Case<[u8; 16]>, _| {}).check(text_is_there)],
        )
    });
    suite.table(&Table {
        registers: |at| [version::COMPILE_INFO, at, 0, 0, 0],
        ..table(
            "compile_info",
            Structure::InOut,
            &[Row::good("who built it, and how", |_: &mut Case<CompileInfo>, _| {})
                .check(|case, _| is_text(&case.structure.compiler) && is_text(&case.structure.compile_by))],
        )
    });
    suite.table(&Table {
        registers: |at| [version::CAPABILITIES, at, 0, 0, 0],
        ..table(
            "capabilities",
            Structure::InOut,
            &[
                Row::good("1024 bytes of text", |_: &mut Case<[u8; 1024]>, _| {}).check(text_is_there),
                Row::good("what guests of 64 bits look for", |_, _| {})
                    .check(|case, _| case.structure.windows(15).any(|part| part == b"xen-3.0-aarch64")),
            ],
        )
    });
    suite.table(&Table {
        registers: |at| [version::CHANGESET, at, 0, 0, 0],
        ..table(
            "changeset",
            Structure::InOut,
            &[Row::good("64 bytes of text", |_: &mut Case<[u8; 64]>, _| {}).check(text_is_there)],
        )
    });
    suite.table(&Table {
        registers: |at| [version::PLATFORM_PARAMETERS, at, 0, 0, 0],
        ..table(
            "platform_parameters",
            Structure::InOut,
            &[
                Row::good("there is no virt_start", |case: &mut Case<u64>, _| case.structure = 7)
                    .check(|case, _| case.structure == 0),
            ],
        )
    });
    features(suite);
    suite.table(&Table {
        registers: |_| [version::PAGESIZE, 0, 0, 0, 0],
        ..table(
            "pagesize",
            Structure::None,
            &[
                Row::good("4096", |_: &mut Case<()>, _| {}).returns(Expected::Value(4096)),
                Row::bad("an argument", Invalid, |case, world| case.registers[1] = world.place()),
                Row::bad("the least argument", Invalid, |case, _| case.registers[1] = 1),
            ],
        )
    });
    suite.table(&Table {
        registers: |at| [version::GUEST_HANDLE, at, 0, 0, 0],
        ..table(
            "guest_handle",
            Structure::InOut,
            &[
                Row::good("16 bytes", |case: &mut Case<[u8; 16]>, _| case.structure = [7; 16])
                    .check(|case, _| case.structure != [7; 16]),
            ],
        )
    });
    suite.table(&Table {
        registers: |at| [version::COMMANDLINE, at, 0, 0, 0],
        ..table(
            "commandline",
            Structure::InOut,
            &[Row::good("1024 bytes of text", |_: &mut Case<[u8; 1024]>, _| {}).check(text_is_there)],
        )
    });
    suite.table(&Table {
        registers: |at| [version::BUILD_ID, at, 0, 0, 0],
        ..table(
            "build_id",
            Structure::Ignored,
            &[
                Row::bad(
                    "there is none",
                    portunus::abi::HypercallError::NoData,
                    |_: &mut Case<[u32; 8]>, _| {},
                ),
                Row::bad("nor its length", portunus::abi::HypercallError::NoData, |case, _| {
                    case.registers[1] = 0
                }),
            ],
        )
    });
    variable(suite);
    suite.table(&Table {
        registers: |at| [15, at, 0, 0, 0],
        ..table(
            "others",
            Structure::Ignored,
            &[
                Row::bad(
                    "the first that does not exist",
                    NotImplemented,
                    |_: &mut Case<u64>, _| {},
                ),
                Row::bad("the last", NotImplemented, |case, _| {
                    case.registers[0] = u32::MAX.into()
                }),
            ],
        )
    });
}

fn features(suite: &mut Suite) {
    type R = Row<FeatureInfo>;
    /// Those that every Arm guest finds: its page tables are writable, it is translated, and SMCCC.
    const ALWAYS: u32 = version::FEATURE_WRITABLE_PAGE_TABLES
        | version::FEATURE_AUTO_TRANSLATED_PHYSMAP
        | version::FEATURE_MEMORY_OP_VNODE
        | version::FEATURE_ARM_SMCCC;
    suite.table(&Table {
        registers: |at| [version::GET_FEATURES, at, 0, 0, 0],
        ..table(
            "get_features",
            Structure::InOut,
            &[
                R::good("what every guest on Arm has", |_, _| {})
                    .check(|case, _| case.structure.submap & ALWAYS == ALWAYS && case.structure.submap_idx == 0),
                R::good("either direct-mapped or not", |_, _| {}).check(|case, _| {
                    let mapped = version::FEATURE_DIRECT_MAPPED | version::FEATURE_NOT_DIRECT_MAPPED;
                    (case.structure.submap & mapped).count_ones() == 1
                }),
                R::good("no guest is dom0", |_, _| {})
                    .check(|case, _| case.structure.submap & version::FEATURE_DOM0 == 0),
                R::boundary("what the answer held before", |case, _| {
                    case.structure.submap = u32::MAX
                })
                .check(|case, _| case.structure.submap & version::FEATURE_DOM0 == 0),
                R::bad("submap 1", Invalid, |case, _| case.structure.submap_idx = 1),
                R::bad("the last submap", Invalid, |case, _| {
                    case.structure.submap_idx = u32::MAX
                }),
            ],
        )
    });
}

/// The operations that tell a length: words of a buffer, the first of which is its room in bytes.
fn variable(suite: &mut Suite) {
    type Buffer = [u32; 17];
    type R = Row<Buffer>;
    const ROOM: u32 = 64;
    const ROWS: [Row<Buffer>; 5] = [
        R::good("text, and its length", |_, _| {})
            .returns(Expected::Success)
            .check(|case, _| case.x0 <= ROOM.into() && case.structure[0] == ROOM),
        R::boundary("the length alone", |case, _| case.registers[1] = 0).returns(Expected::Success),
        R::boundary("a buffer that is just long enough", |case, _| {
            case.structure[0] = plain(XEN_VERSION, [case.registers[0], 0, 0, 0, 0]).max(1) as u32;
        })
        .returns(Expected::Success)
        .check(|case, _| case.x0 <= case.structure[0].into()),
        R::bad("a buffer of nothing", Invalid, |case, _| case.structure[0] = 0),
        R::bad("a buffer of one byte", NoBuffers, |case, _| case.structure[0] = 1),
    ];
    let operations: [(&str, Registers, usize); 4] = [
        ("extraversion2", |at| [version::EXTRAVERSION2, at, 0, 0, 0], 5),
        ("capabilities2", |at| [version::CAPABILITIES2, at, 0, 0, 0], 5),
        ("changeset2", |at| [version::CHANGESET2, at, 0, 0, 0], 5),
        // It may be empty, for which there is always room.
        ("commandline2", |at| [version::COMMANDLINE2, at, 0, 0, 0], 4),
    ];
    for (operation, registers, rows) in operations {
        suite.table(&Table {
            registers,
            good: |_, _| core::array::from_fn(|index| if index == 0 { ROOM } else { 0 }),
            ..table(operation, Structure::InOutOrNone, &ROWS[..rows])
        });
    }
}
