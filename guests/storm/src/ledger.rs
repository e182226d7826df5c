//! What the domains tell each other about their grants: static shared memory, which outlives them all.
//!
//! Each word has one writer, a domain whose life may end between any two of its stores. So it says that it is busy before
//! it changes what a word speaks of; whoever finds the same word before and after an operation, not busy, and the same
//! life, knows what the operation must have met.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use dtoolkit::Node;
use guest_runtime::device_tree::{self, property_str};

/// Domains at the most; they are numbered from 1 and indexed from 0.
pub(crate) const DOMAINS: usize = 3;
/// Pages that each has to grant.
pub(crate) const PAGES: usize = 64;

/// A phase of a domain: it storms, gives all back, has nothing left, has begun its last life, has seen all others there.
pub(crate) const STORM: u64 = 0;
pub(crate) const QUIET: u64 = 1;
pub(crate) const CLEAN: u64 = 2;
pub(crate) const LAST: u64 = 3;
pub(crate) const OVER: u64 = 4;

/// What is counted.
#[derive(Copy, Clone, Debug)]
pub(crate) enum Count {
    Operations,
    Maps,
    Unmaps,
    Copies,
    Grants,
    Revocations,
    Refusals,
    Accesses,
    Deaths,
    Kills,
}
const COUNTS: usize = 10;

/// What one domain says.
#[repr(C)]
pub(crate) struct Page {
    life: AtomicU64,
    phase: AtomicU64,
    stamp: AtomicU64,
    counts: [AtomicU64; COUNTS],
    /// Of each of its pages: [`Grant`].
    grants: [AtomicU64; PAGES],
    /// Of each of its pages: which contents the first half has, and bit 0: it is being written.
    contents: [AtomicU64; PAGES],
    /// What it wrote to the second half of pages that it was granted: [`Written`].
    written: [[AtomicU64; PAGES]; DOMAINS],
    /// How often it has each page mapped: [`Pins`].
    pins: [[AtomicU64; PAGES]; DOMAINS],
}

/// What a domain grants of one page.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Grant {
    /// Counts grants of this page.
    pub(crate) id: u32,
    pub(crate) reference: u16,
    pub(crate) to: usize,
    pub(crate) is_granted: bool,
    pub(crate) is_writable: bool,
    pub(crate) is_busy: bool,
}

impl Grant {
    fn pack(self) -> u64 {
        let flag = |set: bool, bit: u32| u64::from(set) << bit;
        u64::from(self.id) << 32
            | u64::from(self.reference) << 16
            | (self.to as u64) << 8
            | flag(self.is_granted, 0)
            | flag(self.is_writable, 1)
            | flag(self.is_busy, 2)
    }
    fn unpack(word: u64) -> Self {
        Self {
            id: (word >> 32) as u32,
            reference: (word >> 16) as u16,
            to: (word >> 8 & 0xff) as usize,
            is_granted: word & 1 != 0,
            is_writable: word & 2 != 0,
            is_busy: word & 4 != 0,
        }
    }
}

/// What a domain wrote to a page of another.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Written {
    /// By which grant of it.
    pub(crate) id: u32,
    /// Which contents: [`pattern`]; 0: none yet.
    pub(crate) stamp: u32,
    pub(crate) state: State,
}

/// How much is known of what was written.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum State {
    #[default]
    Known,
    Busy,
    /// Under this grant or an earlier one something may have been written.
    Unknown,
}

/// Stamps have 30 bits.
const STAMP: u32 = (1 << 30) - 1;

impl Written {
    fn pack(self) -> u64 {
        u64::from(self.id) << 32 | u64::from(self.stamp & STAMP) << 2 | self.state as u64
    }
    fn unpack(word: u64) -> Self {
        Self {
            id: (word >> 32) as u32,
            stamp: word as u32 >> 2,
            state: match word & 3 {
                0 => State::Known,
                1 => State::Busy,
                _ => State::Unknown,
            },
        }
    }
}

/// How often a domain has a page mapped.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Pins {
    /// Counts changes.
    pub(crate) change: u32,
    pub(crate) readers: u8,
    pub(crate) writers: u8,
    pub(crate) is_busy: bool,
}

impl Pins {
    fn pack(self) -> u64 {
        u64::from(self.change) << 32
            | u64::from(self.readers) << 16
            | u64::from(self.writers) << 8
            | u64::from(self.is_busy)
    }
    fn unpack(word: u64) -> Self {
        Self {
            change: (word >> 32) as u32,
            readers: (word >> 16) as u8,
            writers: (word >> 8) as u8,
            is_busy: word & 1 != 0,
        }
    }
}

/// Word `index` of a half page that `domain` filled for the time number `stamp`.
pub(crate) fn pattern(domain: usize, stamp: u64, index: usize) -> u64 {
    let seed = (domain as u64 + 1) << 60 ^ stamp << 12 ^ index as u64;
    let mixed = (seed ^ seed >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 32
}

/// All that the domains say.
#[derive(Copy, Clone)]
pub(crate) struct Ledger(&'static [Page; DOMAINS]);

impl Ledger {
    /// The region with the id `ledger`.
    pub(crate) fn find() -> Option<Self> {
        let parent = device_tree::device_tree().find_node("/reserved-memory")?;
        let node = parent.children().find(|node| {
            device_tree::is_compatible(*node, "xen,shared-memory-v1") && property_str(*node, "xen,id") == Some("ledger")
        })?;
        let range = device_tree::reg(node, 0)?;
        if range.end - range.start < size_of::<[Page; DOMAINS]>() as u64 {
            return None;
        }
        // SAFETY: the tree says that the region is there, memory that the heap leaves alone; it holds atomic words only, all
        // of which are valid.
        Some(Self(unsafe { &*(range.start as *const [Page; DOMAINS]) }))
    }

    pub(crate) fn life(self, domain: usize) -> u64 {
        self.0[domain].life.load(Ordering::Acquire)
    }
    pub(crate) fn begin_life(self, domain: usize) -> u64 {
        self.0[domain].life.fetch_add(1, Ordering::SeqCst) + 1
    }
    pub(crate) fn phase(self, domain: usize) -> u64 {
        self.0[domain].phase.load(Ordering::Acquire)
    }
    pub(crate) fn set_phase(self, domain: usize, phase: u64) {
        self.0[domain].phase.store(phase, Ordering::SeqCst);
    }
    /// A number that contents of this domain never had.
    pub(crate) fn stamp(self, domain: usize) -> u64 {
        self.0[domain].stamp.fetch_add(1, Ordering::Relaxed) + 1
    }
    pub(crate) fn add(self, domain: usize, what: Count, number: u64) {
        let count = &self.0[domain].counts[what as usize];
        count.store(count.load(Ordering::Relaxed) + number, Ordering::Relaxed);
    }
    pub(crate) fn count(self, domain: usize, what: Count) -> u64 {
        self.0[domain].counts[what as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn grant(self, domain: usize, page: usize) -> Grant {
        Grant::unpack(load(&self.0[domain].grants[page]))
    }
    pub(crate) fn set_grant(self, domain: usize, page: usize, grant: Grant) {
        store(&self.0[domain].grants[page], grant.pack());
    }
    /// Which contents a page has; `None`: they are being changed.
    pub(crate) fn contents(self, domain: usize, page: usize) -> Option<u64> {
        let word = load(&self.0[domain].contents[page]);
        (word & 1 == 0).then_some(word >> 1)
    }
    pub(crate) fn set_contents(self, domain: usize, page: usize, stamp: u64, is_busy: bool) {
        store(&self.0[domain].contents[page], stamp << 1 | u64::from(is_busy));
    }
    pub(crate) fn written(self, by: usize, domain: usize, page: usize) -> Written {
        Written::unpack(load(&self.0[by].written[domain][page]))
    }
    pub(crate) fn set_written(self, by: usize, domain: usize, page: usize, written: Written) {
        store(&self.0[by].written[domain][page], written.pack());
    }
    pub(crate) fn pins(self, by: usize, domain: usize, page: usize) -> Pins {
        Pins::unpack(load(&self.0[by].pins[domain][page]))
    }
    pub(crate) fn set_pins(self, by: usize, domain: usize, page: usize, pins: Pins) {
        store(&self.0[by].pins[domain][page], pins.pack());
    }
}

/// What was read before is older, and what is read later newer.
fn load(word: &AtomicU64) -> u64 {
    fence(Ordering::SeqCst);
    let value = word.load(Ordering::SeqCst);
    fence(Ordering::SeqCst);
    value
}

/// What was written before is seen before, and what is written later after.
fn store(word: &AtomicU64, value: u64) {
    fence(Ordering::SeqCst);
    word.store(value, Ordering::SeqCst);
    fence(Ordering::SeqCst);
}
