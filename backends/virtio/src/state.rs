//! The device state page: what a device knows, kept outside of the backend, so that a successor goes on where a backend
//! died.
//!
//! A page is 4 KiB of memory that belongs to the guest's device and outlives the domain that serves it. The device stores
//! every change there ([`record`]) and never reads it, but for once, when it begins ([`saved`]). [`layout`] is the format;
//! `docs/abi.md`, "The state page of a VirtIO device", is its specification.
//!
//! What makes it work is order. A store to the page and one to the guest's rings are seen in the order in which they were
//! made, so between any two of them the page and the rings together say exactly what has happened:
//! * a request is *taken* by setting its head's bit, then storing the next available index;
//! * it is *completed* by storing the intent (head and used index), the ring's element, the ring's index, which is the
//!   moment from which on it is completed, then clearing the bit, then the intent;
//! * a register write is stored before it is answered; one that was stored and not answered comes again, and every write
//!   can come twice.

pub mod layout;
pub(crate) mod record;
pub(crate) mod saved;

pub use saved::StateError;

/// The page, as words of 32 bits.
///
/// `offset` is a multiple of 4 below [`layout::SIZE`]. A store is a release: whoever sees it sees all earlier stores, to
/// the page and to the guest's memory, and it is not moved before them.
pub trait StatePage {
    /// The word at `offset`.
    fn load(&self, offset: usize) -> u32;
    /// Stores the word at `offset`.
    fn store(&self, offset: usize, word: u32);
}

/// No page: a device whose state dies with its backend.
#[derive(Copy, Clone, Debug, Default)]
pub struct NoPage;

impl StatePage for NoPage {
    fn load(&self, _: usize) -> u32 {
        0
    }
    fn store(&self, _: usize, _: u32) {}
}

/// A page, if there is one.
impl<P: StatePage> StatePage for Option<P> {
    fn load(&self, offset: usize) -> u32 {
        self.as_ref().map_or(0, |page| page.load(offset))
    }
    fn store(&self, offset: usize, word: u32) {
        if let Some(page) = self {
            page.store(offset, word);
        }
    }
}

impl<P: StatePage + ?Sized> StatePage for &P {
    fn load(&self, offset: usize) -> u32 {
        (**self).load(offset)
    }
    fn store(&self, offset: usize, word: u32) {
        (**self).store(offset, word);
    }
}

/// How a device began.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Resumption {
    /// As after power-on: the page said nothing.
    Fresh,
    /// It goes on: so many requests were taken and not completed, and are run again.
    Continued {
        /// How many.
        requests: u32,
    },
    /// The page can't be believed: the device needs a reset.
    Refused(StateError),
}

/// The heads of a queue's requests, a bit each.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Heads(pub(crate) [u32; layout::queue::TAKEN_WORDS]);

impl Heads {
    /// Adds or removes `head`; the word that changed, and its number.
    pub(crate) fn set(&mut self, head: u16, taken: bool) -> Option<(usize, u32)> {
        let number = usize::from(head / 32);
        let word = self.0.get_mut(number)?;
        let bit = 1 << (head % 32);
        *word = if taken { *word | bit } else { *word & !bit };
        Some((number, *word))
    }
    pub(crate) fn contains(&self, head: u16) -> bool {
        let word = self.0.get(usize::from(head / 32));
        word.is_some_and(|word| word & 1 << (head % 32) != 0)
    }
    pub(crate) fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }
    pub(crate) fn first(&self) -> Option<u16> {
        let (number, word) = (0_u16..).zip(self.0).find(|(_, word)| *word != 0)?;
        Some(number * 32 + word.trailing_zeros() as u16)
    }
    /// Whether all are below `size`.
    pub(crate) fn below(&self, size: u32) -> bool {
        (0_u32..).zip(self.0).all(|(number, word)| {
            let allowed = size.saturating_sub(number * 32).min(32);
            u64::from(word) >> allowed == 0
        })
    }
}
