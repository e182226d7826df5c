//! Cases that the guest judges by itself: counted, and reported where they fail.

use core::fmt;

use guest_runtime::println;

/// How many were as they must be, and how many were not.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    passed: u64,
    failed: u64,
}

impl Checks {
    /// A case, and what was found if it is not as it must be.
    pub(crate) fn check(&mut self, name: fmt::Arguments<'_>, passed: bool, found: fmt::Arguments<'_>) {
        if passed {
            self.passed += 1;
        } else {
            self.failed += 1;
            println!("traps: FAILED: {name}: {found}");
        }
    }

    /// The sum, as the last line.
    pub(crate) fn conclude(&self, others: u64) {
        match self.failed {
            0 => println!("traps: {} cases passed", self.passed + others),
            failed => println!("traps: {failed} of {} cases FAILED", self.passed + failed + others),
        }
    }
}
