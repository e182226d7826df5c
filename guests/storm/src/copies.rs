//! Copies by reference: from a page that another domain grants, to one, or between two.

use core::sync::atomic::Ordering;

use guest_runtime::hypercall::DOMID_SELF;
use guest_runtime::hypercall::grant::{self, DEST_GREF, SOURCE_GREF};
use portunus::abi::grant::{CopyEnd, GrantCopy, GrantStatus};

use crate::ledger::{Count, State, Written, pattern};
use crate::others::Forecast;
use crate::own::{HALF, PAGE};
use crate::storm::Storm;

/// What the buffer holds where nothing was copied.
const UNTOUCHED: u64 = 0x5555_aaaa_1234_4321;
const HALF_PAGE: u16 = HALF as u16 * 8;

fn end_of(forecast: &Forecast, offset: u16) -> CopyEnd {
    CopyEnd {
        frame: forecast.grant.reference.into(),
        domid: forecast.granter as u16 + 1,
        offset,
        pad: 0,
    }
}

impl Storm {
    fn buffer_end(&self, offset: u16) -> CopyEnd {
        CopyEnd {
            frame: (&raw const *self.buffer) as u64 / PAGE,
            domid: DOMID_SELF,
            offset,
            pad: 0,
        }
    }

    fn copy_one(&self, source: CopyEnd, dest: CopyEnd, len: u16, flags: u16) -> i16 {
        let mut entry = [GrantCopy {
            source,
            dest,
            len,
            flags,
            status: i16::MAX,
            pad: 0,
        }];
        // SAFETY: the buffer is for that, and so are pages that others grant.
        if let Err(error) = unsafe { grant::copy(&mut entry) } {
            self.fail(format_args!("a copy: {error}"));
        }
        self.ledger.add(self.me, Count::Operations, 1);
        if entry[0].status == 0 {
            self.ledger.add(self.me, Count::Copies, 1);
        }
        entry[0].status
    }

    pub(crate) fn copy(&mut self) {
        let granter = self.granter();
        let page = self.choose_page(granter);
        match self.random.below(8) {
            0..4 => self.copy_from(granter, page),
            4..6 => self.copy_to(granter, page, None),
            6 => {
                let other = self.granter();
                let source = (other, self.choose_page(other));
                self.copy_to(granter, page, Some(source));
            }
            _ => self.copy_wrongly(granter, page),
        }
    }

    fn copy_from(&mut self, granter: usize, page: usize) {
        for word in &self.buffer.0 {
            word.store(UNTOUCHED, Ordering::Relaxed);
        }
        let first = self.random.below(2 * HALF as u64) as usize;
        let words = self.random.between(1, (2 * HALF - first) as u64) as usize;
        self.publish_pins(granter, page, true);
        if let Some(forecast) = self.forecast(granter, page, false) {
            let before = self.ledger.contents(granter, page);
            let offset = first as u16 * 8;
            let source = end_of(&forecast, offset);
            let status = self.copy_one(source, self.buffer_end(offset), words as u16 * 8, SOURCE_GREF);
            self.judge("a copy from a grant", &[forecast], status);
            let is_known = self.is_certain(&forecast) && self.ledger.contents(granter, page) == before;
            for (index, word) in self.buffer.0.iter().enumerate() {
                let word = word.load(Ordering::Relaxed);
                let expected = if status != 0 || index < first || index >= first + words {
                    Some(UNTOUCHED)
                } else if index < HALF {
                    before.filter(|_| is_known).map(|stamp| pattern(granter, stamp, index))
                } else {
                    None
                };
                if expected.is_some_and(|expected| expected != word) {
                    self.fail(format_args!(
                        "a copy of {words} words from {first}: word {index} is {word:#x}: {forecast:?}"
                    ));
                }
            }
        }
        self.publish_pins(granter, page, false);
    }

    /// What this domain is known to have written to a page.
    fn known(&self, granter: usize, page: usize) -> Option<u32> {
        let written = self.ledger.written(self.me, granter, page);
        let is_known = written.state == State::Known && written.stamp != 0;
        (is_known && written.id == self.ledger.grant(granter, page).id).then_some(written.stamp)
    }

    /// Copies to the second half of a page: from the buffer, or from what this domain wrote to another page.
    fn copy_to(&mut self, granter: usize, page: usize, from: Option<(usize, usize)>) {
        if from == Some((granter, page)) {
            return;
        }
        let source = match from {
            None => None,
            Some((other, there)) => {
                let Some(stamp) = self.known(other, there) else { return };
                self.publish_pins(other, there, true);
                Some((self.forecast(other, there, false), stamp))
            }
        };
        let stamp = match source {
            None => {
                let stamp = self.new_stamp();
                for index in HALF..2 * HALF {
                    self.buffer.0[index].store(pattern(self.me, stamp.into(), index), Ordering::Relaxed);
                }
                stamp
            }
            Some((_, stamp)) => stamp,
        };
        self.publish_pins(granter, page, true);
        if let Some(forecast) = self.forecast(granter, page, true)
            && source.is_none_or(|(source, _)| source.is_some())
        {
            let source = source.and_then(|(source, _)| source);
            let before = self.ledger.written(self.me, granter, page);
            let busy = Written {
                state: State::Busy,
                ..before
            };
            self.ledger.set_written(self.me, granter, page, busy);
            let dest = end_of(&forecast, HALF_PAGE);
            let status = match &source {
                None => self.copy_one(self.buffer_end(HALF_PAGE), dest, HALF_PAGE, DEST_GREF),
                Some(source) => self.copy_one(end_of(source, HALF_PAGE), dest, HALF_PAGE, SOURCE_GREF | DEST_GREF),
            };
            let is_certain = self.is_certain(&forecast) && source.is_none_or(|source| self.is_certain(&source));
            let after = match status {
                0 if is_certain => Written {
                    id: forecast.grant.id,
                    stamp,
                    state: State::Known,
                },
                0 => Written {
                    id: self.ledger.grant(granter, page).id,
                    stamp,
                    state: State::Unknown,
                },
                _ => before,
            };
            self.ledger.set_written(self.me, granter, page, after);
            match source {
                None => self.judge("a copy to a grant", &[forecast], status),
                Some(source) => self.judge("a copy between grants", &[source, forecast], status),
            }
        }
        self.publish_pins(granter, page, false);
        if let Some((other, there)) = from {
            self.publish_pins(other, there, false);
        }
    }

    /// Copies that leave a page, or name frames that are not this domain's to name.
    fn copy_wrongly(&mut self, granter: usize, page: usize) {
        let buffer = self.buffer_end(0);
        let foreign = CopyEnd {
            frame: self.own.frame(page),
            domid: granter as u16 + 1,
            ..Default::default()
        };
        let nowhere = CopyEnd {
            frame: self.window / PAGE + crate::others::SLOTS as u64,
            domid: DOMID_SELF,
            ..Default::default()
        };
        let across = CopyEnd { offset: 4090, ..buffer };
        let rows = [
            (buffer, foreign, GrantStatus::PermissionDenied),
            (nowhere, buffer, GrantStatus::BadPage),
            (across, buffer, GrantStatus::BadCopyArgument),
        ];
        for (source, dest, expected) in rows {
            let status = self.copy_one(source, dest, 8, 0);
            if status != expected.code() {
                self.fail(format_args!("a copy from {source:?} to {dest:?} answered {status}"));
            }
            self.ledger.add(self.me, Count::Refusals, 1);
        }
    }
}
