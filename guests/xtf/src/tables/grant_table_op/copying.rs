//! Copying from and to what a domain grants to itself.

use portunus::abi::HypercallError::Invalid;
use portunus::abi::grant::{self, GrantCopy};

use super::{
    BAD_COPY_ARG, BAD_DOMAIN, BAD_GNTREF, BAD_PAGE, GENERAL, NO_REFERENCE, PERMISSION, end, status_is, table, told,
};
use crate::case::{Row, Structure, Table};
use crate::suite::Suite;
use crate::world::{DOMID_SELF, Grants, NOBODY, PAGE};

pub(super) fn run(suite: &mut Suite) {
    type R = Row<GrantCopy>;
    const LENGTH: u16 = 64;
    suite.table(&Table {
        registers: |at| [grant::COPY, at, 1, 0, 0],
        // From the page that it grants to itself to spare page 0.
        good: |_, world| GrantCopy {
            source: end(Grants::OWN.into(), world.me, 128),
            dest: end(world.spare_frame(0), DOMID_SELF, 0),
            len: LENGTH,
            flags: grant::COPY_SOURCE_REFERENCE,
            ..GrantCopy::default()
        },
        undo: |_, world| world.fill_spare(),
        ..table(
            "copy",
            Structure::InOut,
            &[
                R::good("from a reference", |_, _| {}).check(|case, world| {
                    let source = (Grants::OWN_PAGE * PAGE + 128) / 8;
                    let same = (0..8).all(|word| world.spare_word(word) == world.spare_word(source + word));
                    case.structure.status == 0 && same && world.spare_word(8) != world.spare_word(source + 8)
                }),
                R::good("to a reference", |case, _| {
                    (case.structure.source, case.structure.dest) = (case.structure.dest, case.structure.source);
                    case.structure.flags = grant::COPY_DESTINATION_REFERENCE;
                })
                .check(|case, world| {
                    case.structure.status == 0
                        && world.spare_word((Grants::OWN_PAGE * PAGE + 128) / 8) == world.spare_word(0)
                }),
                R::good("from frame to frame", |case, world| {
                    case.structure.source.frame = world.spare_frame(1);
                    case.structure.source.domid = DOMID_SELF;
                    case.structure.flags = 0;
                })
                .check(|case, world| {
                    case.structure.status == 0 && world.spare_word(0) == world.spare_word((PAGE + 128) / 8)
                }),
                R::boundary("a whole page", |case, _| {
                    case.structure.source.offset = 0;
                    case.structure.len = PAGE as u16;
                })
                .check(|case, world| {
                    case.structure.status == 0
                        && world.spare_word(511) == world.spare_word(Grants::OWN_PAGE * PAGE / 8 + 511)
                }),
                R::boundary("the last byte", |case, _| {
                    (case.structure.source.offset, case.structure.dest.offset) = (4095, 4095);
                    case.structure.len = 1;
                })
                .check(status_is::<0, _>),
                R::boundary("nothing", |case, _| case.structure.len = 0)
                    .check(|case, world| case.structure.status == 0 && world.spare_is_whole(0)),
                told::<BAD_GNTREF, _>("nothing, of what there is not", |case, _| {
                    case.structure.len = 0;
                    case.structure.source.frame = NO_REFERENCE.into();
                }),
                R::boundary("no entries", |case, _| case.registers[2] = 0).check(|_, world| world.spare_is_whole(0)),
                told::<BAD_COPY_ARG, _>("beyond the source's page", |case, _| {
                    case.structure.source.offset = 4096 - LENGTH + 1
                }),
                told::<BAD_COPY_ARG, _>("beyond the destination's page", |case, _| {
                    case.structure.dest.offset = 4096 - LENGTH + 1
                }),
                told::<BAD_COPY_ARG, _>("the last offset", |case, _| case.structure.dest.offset = u16::MAX),
                told::<BAD_COPY_ARG, _>("the longest", |case, _| case.structure.len = u16::MAX),
                told::<GENERAL, _>("from a free reference", |case, _| {
                    case.structure.source.frame = Grants::FREE.into()
                }),
                told::<BAD_GNTREF, _>("from a reference beyond the table", |case, _| {
                    case.structure.source.frame = NO_REFERENCE.into();
                }),
                told::<GENERAL, _>("to what is granted for reading", |case, _| {
                    (case.structure.source, case.structure.dest) = (case.structure.dest, case.structure.source);
                    case.structure.dest.frame = Grants::OWN_READ_ONLY.into();
                    case.structure.flags = grant::COPY_DESTINATION_REFERENCE;
                }),
                told::<PERMISSION, _>("from a frame of another domain", |case, world| {
                    case.structure.source.domid = world.other;
                    case.structure.source.frame = world.spare_frame(0);
                    case.structure.flags = 0;
                }),
                told::<BAD_PAGE, _>("to a frame that is no RAM", |case, world| {
                    case.structure.dest.frame = world.nowhere / PAGE
                }),
                told::<BAD_DOMAIN, _>("from a domain that does not exist", |case, _| {
                    case.structure.source.domid = NOBODY
                }),
                R::bad("more entries than can be counted", Invalid, |case, _| {
                    case.registers[2] = 1 << 31
                }),
            ],
        )
    });
}
