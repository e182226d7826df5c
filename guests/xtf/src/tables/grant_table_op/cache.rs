//! Cleaning caches, of which a domain maps none of its own pages.

use portunus::abi::HypercallError::{IllegalSequence, Invalid};
use portunus::abi::grant::{self, CacheFlush};

use super::table;
use crate::case::{Row, Structure, Table};
use crate::suite::Suite;

pub(super) fn run(suite: &mut Suite) {
    type R = Row<CacheFlush>;
    suite.table(&Table {
        registers: |at| [grant::CACHE_FLUSH, at, 1, 0, 0],
        good: |_, _| CacheFlush::default(),
        ..table(
            "cache_flush",
            Structure::Input,
            &[
                R::good("nothing, which is how guests ask whether it is there", |_, _| {}),
                R::boundary("no length", |case, _| case.structure.op = grant::CACHE_CLEAN),
                R::boundary("no entries", |case, _| case.registers[2] = 0),
                R::bad("beyond its page", Invalid, |case, _| {
                    (case.structure.offset, case.structure.length) = (4095, 2);
                    case.structure.op = grant::CACHE_CLEAN;
                }),
                R::bad("the last offset", Invalid, |case, _| {
                    (case.structure.offset, case.structure.length) = (u16::MAX, 1);
                    case.structure.op = grant::CACHE_CLEAN;
                }),
                R::bad("an operation that does not exist", Invalid, |case, _| {
                    (case.structure.length, case.structure.op) = (1, 4);
                }),
                R::bad("by reference", Invalid, |case, _| {
                    (case.structure.length, case.structure.op) = (1, grant::CACHE_CLEAN | 1 << 31);
                }),
                R::bad("a cursor where nothing goes on", IllegalSequence, |case, _| {
                    case.registers[0] |= 1 << 12
                }),
            ],
        )
    });
}
