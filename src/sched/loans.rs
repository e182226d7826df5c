//! Who runs on whose time.

use super::entry::Entry;
use super::{NOBODY, RunQueue, Slot};

impl RunQueue {
    /// The age of who pays for `entry`.
    pub(super) fn payer_age(&self, entry: &Entry) -> u64 {
        self.entries.get(entry.charged).map_or(entry.age, |payer| payer.age)
    }

    /// Whoever ran on `lender`'s time pays for itself from now on. It did not age meanwhile, and has saved up nothing.
    pub(super) fn end_loans_to(&mut self, lender: usize) {
        let lender = self.entries.get_mut(lender);
        let borrower = lender.map_or(NOBODY, |entry| core::mem::replace(&mut entry.lends_to, NOBODY));
        if let Some(entry) = self.entries.get_mut(borrower) {
            entry.charged = NOBODY;
            entry.age = entry.age.max(self.floor);
            if self.current != borrower {
                self.rank(borrower);
            }
        }
    }

    /// `borrower` runs on nobody else's time any more. Whether it did.
    pub(super) fn return_loan(&mut self, borrower: usize) -> bool {
        let borrower = self.entries.get_mut(borrower);
        let lender = borrower.map_or(NOBODY, |entry| core::mem::replace(&mut entry.charged, NOBODY));
        match self.entries.get_mut(lender) {
            Some(lender) => {
                lender.lends_to = NOBODY;
                true
            }
            None => false,
        }
    }

    /// `borrower` runs on the time of `lender`, and nobody else does.
    fn lend(&mut self, lender: usize, borrower: usize) {
        self.end_loans_to(lender);
        self.return_loan(borrower);
        if let Some(entry) = self.entries.get_mut(borrower) {
            entry.charged = lender;
        }
        if let Some(entry) = self.entries.get_mut(lender) {
            entry.lends_to = borrower;
        }
    }

    /// `from`, which has just blocked, waits for `to` on this pCPU: run `to` next, on `from`'s time.
    pub fn hand_off(&mut self, from: Slot, to: Slot) {
        let runnable = self.entries.get(to.0).is_some_and(Entry::is_runnable);
        if runnable && from != to {
            self.lend(from.0, to.0);
            if self.current != to.0 {
                self.rank(to.0);
            }
            self.handoff = to.0;
        }
    }
}
