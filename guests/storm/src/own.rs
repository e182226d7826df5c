//! The pages of this domain, and its grant table: what it grants, takes back, and finds in them.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use guest_runtime::device_tree::{self, device_tree};
use guest_runtime::hypercall::memory;
use guest_runtime::mmu::{self, Attribute};
use portunus::abi::grant::{ENTRIES_PER_FRAME, GrantEntry};

use crate::ledger::{Count, DOMAINS, Grant, PAGES, State, pattern};
use crate::storm::{Storm, failed};

pub(crate) const PAGE: u64 = 4096;
/// Words of a half page. The first half is its owner's to write, the second that of whom it is granted to.
pub(crate) const HALF: usize = 256;
/// The entries before are the toolstack's.
const FIRST: usize = 8;
const IN_USE: u16 = GrantEntry::READING | GrantEntry::WRITING;
/// Words of a page that are looked at, as a rule.
const GLANCE: u64 = 6;

#[repr(C, align(4096))]
pub(crate) struct Words(pub(crate) [AtomicU64; 2 * HALF]);

/// What becomes of one of the pages.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Use {
    /// Nobody else reaches it: all of it holds the pattern of this stamp.
    Private(u64),
    Granted,
    /// Its entry grants nothing any more, and somebody may have it mapped yet.
    Leaving,
}

/// A domain's own pages.
pub(crate) struct Own {
    pages: &'static [Words],
    uses: [Use; PAGES],
    /// Where the grant table is.
    table: u64,
    frames: u64,
    most_frames: u64,
}

impl Own {
    pub(crate) fn new(most_frames: u64) -> Option<Self> {
        let window = device_tree::reg(device_tree().find_node("/hypervisor")?, 0)?;
        let table = window.start;
        // SAFETY: the room is for the grant table.
        unsafe { mmu::map(table..table + most_frames * PAGE, Attribute::Normal) };
        let pages: Vec<Words> = (0..PAGES)
            .map(|_| Words([const { AtomicU64::new(0) }; 2 * HALF]))
            .collect();
        let mut own = Self {
            pages: Box::leak(pages.into_boxed_slice()),
            uses: [Use::Private(0); PAGES],
            table,
            frames: 0,
            most_frames,
        };
        own.grow();
        own.frames.eq(&1).then_some(own)
    }

    /// Makes the table one frame bigger. `false`: it is as big as it may be.
    fn grow(&mut self) -> bool {
        if self.frames == self.most_frames {
            return false;
        }
        let frame = self.table / PAGE + self.frames;
        // SAFETY: the room is for the grant table.
        match unsafe { memory::map_grant_table(self.frames, frame) } {
            Ok(()) => self.frames += 1,
            Err(error) => failed(format_args!("the table does not grow to {}: {error}", self.frames + 1)),
        }
        true
    }

    fn entry(&self, reference: u16) -> (&'static AtomicU16, &'static AtomicU16, &'static AtomicU32) {
        assert!(u64::from(reference) < self.frames * u64::from(ENTRIES_PER_FRAME));
        let at = self.table + u64::from(reference) * size_of::<GrantEntry>() as u64;
        // SAFETY: within the table, aligned; it stays mapped.
        unsafe {
            (
                AtomicU16::from_ptr(at as *mut u16),
                AtomicU16::from_ptr((at + 2) as *mut u16),
                AtomicU32::from_ptr((at + 4) as *mut u32),
            )
        }
    }

    pub(crate) fn frame(&self, page: usize) -> u64 {
        (&raw const self.pages[page]) as u64 / PAGE
    }
}

impl Storm {
    fn fill(&self, page: usize, words: core::ops::Range<usize>, stamp: u64) {
        for index in words {
            self.own.pages[page].0[index].store(pattern(self.me, stamp, index), Ordering::Relaxed);
        }
    }

    /// All pages are private, and nobody is told otherwise: the first thing of a life.
    pub(crate) fn begin_own(&mut self) {
        for page in 0..PAGES {
            let grant = self.ledger.grant(self.me, page);
            // One that is within a new table.
            let ended = Grant {
                reference: (FIRST + page) as u16,
                is_granted: false,
                is_busy: false,
                ..grant
            };
            self.ledger.set_grant(self.me, page, ended);
            self.make_private(page);
        }
    }

    fn make_private(&mut self, page: usize) {
        let stamp = self.ledger.stamp(self.me);
        self.ledger.set_contents(self.me, page, stamp, true);
        self.fill(page, 0..2 * HALF, stamp);
        self.own.uses[page] = Use::Private(stamp);
    }

    fn check_private(&self, page: usize, stamp: u64) {
        for (index, word) in self.own.pages[page].0.iter().enumerate() {
            let word = word.load(Ordering::Relaxed);
            if word != pattern(self.me, stamp, index) {
                self.fail(format_args!(
                    "word {index} of page {page}, which nobody reaches, became {word:#x}"
                ));
            }
        }
    }

    pub(crate) fn grow_table(&mut self) {
        if self.own.grow() {
            self.ledger.add(self.me, Count::Operations, 1);
        }
    }

    /// Grants a page that is private to one of the domains.
    pub(crate) fn grant(&mut self) {
        let page = self.random.below(PAGES as u64) as usize;
        let Use::Private(stamp) = self.own.uses[page] else {
            return self.change(page);
        };
        self.check_private(page, stamp);
        let entries = self.own.frames as usize * ENTRIES_PER_FRAME as usize;
        // Each page has entries of its own, so that a reference that is late still means the same page.
        let rows = (entries - FIRST - page).div_ceil(PAGES) as u64;
        let reference = (FIRST + page + self.random.below(rows) as usize * PAGES) as u16;
        let to = match self.random.below(16) {
            0 => self.me,
            _ => self.peer(),
        };
        let is_writable = self.random.below(3) != 0;
        let grant = Grant {
            id: self.ledger.grant(self.me, page).id + 1,
            reference,
            to,
            is_granted: true,
            is_writable,
            is_busy: true,
        };
        self.ledger.set_grant(self.me, page, grant);
        let stamp = self.ledger.stamp(self.me);
        self.fill(page, 0..HALF, stamp);
        self.fill(page, HALF..2 * HALF, grant.id.into());
        self.ledger.set_contents(self.me, page, stamp, false);
        let (flags, domain, frame) = self.own.entry(reference);
        let before = flags.load(Ordering::Acquire);
        if before != 0 {
            self.fail(format_args!("entry {reference}, which is free, has flags {before:#x}"));
        }
        domain.store(to as u16 + 1, Ordering::Relaxed);
        frame.store(self.own.frame(page) as u32, Ordering::Relaxed);
        let access = if is_writable { 0 } else { GrantEntry::READ_ONLY };
        flags.store(GrantEntry::PERMIT_ACCESS | access, Ordering::SeqCst);
        self.own.uses[page] = Use::Granted;
        self.ledger.set_grant(
            self.me,
            page,
            Grant {
                is_busy: false,
                ..grant
            },
        );
        self.ledger.add(self.me, Count::Operations, 1);
        self.ledger.add(self.me, Count::Grants, 1);
    }

    /// Changes what the owner's half of a page that is granted holds.
    fn change(&mut self, page: usize) {
        let stamp = self.ledger.stamp(self.me);
        self.ledger.set_contents(self.me, page, stamp, true);
        self.fill(page, 0..HALF, stamp);
        self.ledger.set_contents(self.me, page, stamp, false);
    }

    /// Ends a grant: as Linux does, if nobody uses it, or whether anybody does or not.
    pub(crate) fn revoke(&mut self) {
        let page = self.random.below(PAGES as u64) as usize;
        match self.own.uses[page] {
            Use::Private(_) => {}
            Use::Leaving => self.leave(page),
            Use::Granted => {
                let is_polite = self.random.below(2) == 0;
                self.end(page, is_polite);
            }
        }
    }

    fn end(&mut self, page: usize, is_polite: bool) {
        let grant = self.ledger.grant(self.me, page);
        let (flags, ..) = self.own.entry(grant.reference);
        self.ledger.set_grant(self.me, page, Grant { is_busy: true, ..grant });
        let ended = if is_polite {
            let result = flags.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |flags| {
                (flags & IN_USE == 0).then_some(0)
            });
            result.is_ok()
        } else {
            flags.fetch_and(IN_USE, Ordering::SeqCst);
            true
        };
        let grant = Grant {
            is_granted: !ended,
            ..grant
        };
        self.ledger.set_grant(self.me, page, grant);
        if ended {
            self.own.uses[page] = Use::Leaving;
            self.leave(page);
            self.ledger.add(self.me, Count::Operations, 1);
            self.ledger.add(self.me, Count::Revocations, 1);
        }
    }

    /// Takes a page whose grant is over, if nobody has it any more.
    fn leave(&mut self, page: usize) {
        let grant = self.ledger.grant(self.me, page);
        if self.own.entry(grant.reference).0.load(Ordering::SeqCst) == 0 {
            self.check_second_half(page, HALF as u64);
            self.make_private(page);
        }
    }

    /// What a page of this domain holds, and what its entry says about who uses it.
    pub(crate) fn check_own(&mut self) {
        let page = self.random.below(PAGES as u64) as usize;
        let (Use::Granted | Use::Leaving) = self.own.uses[page] else {
            return;
        };
        if let Some(stamp) = self.ledger.contents(self.me, page) {
            for _ in 0..GLANCE {
                let index = self.random.below(HALF as u64) as usize;
                let word = self.own.pages[page].0[index].load(Ordering::Relaxed);
                if word != pattern(self.me, stamp, index) {
                    self.fail(format_args!(
                        "word {index} of page {page}, this domain's half, became {word:#x}"
                    ));
                }
            }
        }
        self.check_second_half(page, GLANCE);
        self.check_bits(page);
        if self.own.uses[page] == Use::Leaving {
            self.leave(page);
        }
    }

    /// The second half holds what its user says to have written; `words` of them are looked at.
    fn check_second_half(&mut self, page: usize, words: u64) {
        let grant = self.ledger.grant(self.me, page);
        let before = self.ledger.written(grant.to, self.me, page);
        let mut found = vec![];
        for number in 0..words {
            let offset = if words == HALF as u64 {
                number
            } else {
                self.random.below(HALF as u64)
            };
            let index = HALF + offset as usize;
            found.push((index, self.own.pages[page].0[index].load(Ordering::Relaxed)));
        }
        if before != self.ledger.written(grant.to, self.me, page) {
            return;
        }
        let (by, stamp) = match before.state {
            State::Busy => return,
            State::Unknown if before.id >= grant.id => return,
            State::Known if before.id == grant.id && before.stamp != 0 => (grant.to, before.stamp.into()),
            State::Known | State::Unknown => (self.me, grant.id.into()),
        };
        for (index, word) in found {
            if word != pattern(by, stamp, index) {
                self.fail(format_args!(
                    "word {index} of page {page}, granted to {} as number {}, is {word:#x} and not what {by} wrote: {before:?}",
                    grant.to, grant.id
                ));
            }
        }
    }

    /// The entry of a page says that it is in use exactly while its user has it mapped.
    fn check_bits(&mut self, page: usize) {
        let grant = self.ledger.grant(self.me, page);
        let (flags, ..) = self.own.entry(grant.reference);
        self.comes_true("what an entry says of its use", page, |storm| {
            let before = storm.ledger.pins(grant.to, storm.me, page);
            let found = flags.load(Ordering::SeqCst) & IN_USE;
            if before.is_busy || before != storm.ledger.pins(grant.to, storm.me, page) {
                return None;
            }
            let mut expected = 0;
            if before.readers + before.writers != 0 {
                expected |= GrantEntry::READING;
            }
            if before.writers != 0 {
                expected |= GrantEntry::WRITING;
            }
            Some(found == expected)
        });
    }

    /// Ends all grants, and waits until nobody has any of the pages.
    pub(crate) fn end_all(&mut self) {
        for page in 0..PAGES {
            if self.own.uses[page] == Use::Granted {
                self.end(page, false);
            }
        }
        for page in 0..PAGES {
            self.comes_true("the return of", page, |storm| {
                if storm.own.uses[page] == Use::Leaving {
                    storm.leave(page);
                }
                Some(matches!(storm.own.uses[page], Use::Private(_)))
            });
            if let Use::Private(stamp) = self.own.uses[page] {
                self.check_private(page, stamp);
            }
        }
        let entries = self.own.frames * u64::from(ENTRIES_PER_FRAME);
        for reference in FIRST as u16..entries as u16 {
            let flags = self.own.entry(reference).0.load(Ordering::SeqCst);
            if flags != 0 {
                self.fail(format_args!(
                    "entry {reference} has flags {flags:#x} when all is given back"
                ));
            }
        }
    }

    /// Another domain, or this one if there is no other.
    pub(crate) fn peer(&mut self) -> usize {
        let others = (self.domains - 1).max(1) as u64;
        (self.me + 1 + self.random.below(others) as usize) % self.domains.min(DOMAINS)
    }
}
