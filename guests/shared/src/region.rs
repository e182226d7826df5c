//! A region of static shared memory, as the domain's tree names it.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use dtoolkit::Node;
use guest_runtime::device_tree::{self, property_str, property_u64};

use crate::fail;

/// Words of data of a message; before them are the numbers of the last question and of the last answer.
const WORDS: usize = 1022;
const ASKED: usize = 0;
const ANSWERED: usize = 1;
const DATA: usize = 2;

/// The region; the last of its pages holds the messages, so that all of it must be mapped.
pub(crate) struct Region {
    range: Range<u64>,
    words: &'static [AtomicU64],
}

fn pattern(round: u64, index: usize) -> u64 {
    (round << 32 | index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Region {
    /// The region of this id.
    pub(crate) fn find(id: &str) -> Self {
        let Some(parent) = device_tree::device_tree().find_node("/reserved-memory") else {
            fail(format_args!("no /reserved-memory"));
        };
        let node = parent.children().find(|node| {
            device_tree::is_compatible(*node, "xen,shared-memory-v1") && property_str(*node, "xen,id") == Some(id)
        });
        let Some(node) = node else {
            fail(format_args!("no region {id}"));
        };
        if property_u64(node, "xen,offset") != Some(0) {
            fail(format_args!("an offset"));
        }
        let Some(range) = device_tree::reg(node, 0) else {
            fail(format_args!("a region without a place"));
        };
        let last = (range.end - (WORDS as u64 + DATA as u64) * 8) as *const AtomicU64;
        // SAFETY: the tree says that the region is there, memory that the heap leaves alone, and it is only ever used by
        // atomic accesses.
        let words = unsafe { core::slice::from_raw_parts(last, WORDS + DATA) };
        Self { range, words }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Writes the message of a round.
    pub(crate) fn fill(&self, round: u64) {
        for (index, word) in self.words[DATA..].iter().enumerate() {
            word.store(pattern(round, index), Ordering::Relaxed);
        }
    }

    /// Makes each word its complement.
    pub(crate) fn turn_around(&self) {
        for word in &self.words[DATA..] {
            word.store(!word.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// The first word that is not the complement of what was written.
    pub(crate) fn wrong(&self, round: u64) -> Option<(usize, u64)> {
        let words = self.words[DATA..].iter().map(|word| word.load(Ordering::Relaxed));
        words.enumerate().find(|(index, word)| *word != !pattern(round, *index))
    }

    pub(crate) fn ask(&self, round: u64) {
        self.words[ASKED].store(round, Ordering::Release);
    }
    pub(crate) fn asked(&self) -> u64 {
        self.words[ASKED].load(Ordering::Acquire)
    }
    pub(crate) fn answer(&self, round: u64) {
        self.words[ANSWERED].store(round, Ordering::Release);
    }
    pub(crate) fn answered(&self) -> u64 {
        self.words[ANSWERED].load(Ordering::Acquire)
    }
}
