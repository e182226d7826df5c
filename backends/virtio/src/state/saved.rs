//! Reading a state page: once, when a device begins. Nothing in it is believed; every word is checked alone and against
//! the others, so that a page full of nonsense costs its own device a reset and nothing else.

use super::layout::{MAGIC, VERSION, offset, queue};
use super::{Heads, StatePage};
use crate::feature::RingFeature;
use crate::mmio::{INTERRUPT_CONFIG, INTERRUPT_USED, MAX_QUEUES, status};
use crate::queue::QueueError;

/// Why a state page can't be believed.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StateError {
    /// The first word is neither zero nor the magic number.
    #[error("the magic number is {0:#x}")]
    Magic(u32),
    /// Another format.
    #[error("version {0}")]
    Version(u32),
    /// It is the state of another kind of device.
    #[error("it is of a device of type {0}")]
    DeviceId(u32),
    /// Bits that don't exist, or that can't be set together.
    #[error("the status is {0:#x}")]
    Status(u32),
    /// Features were accepted that are not offered.
    #[error("the features are {0:#x}")]
    Features(u64),
    /// Bits that don't exist.
    #[error("the interrupt status is {0:#x}")]
    InterruptStatus(u32),
    /// The driver uses a device whose contents died with its backend.
    #[error("what it held died with its backend")]
    ContentsLost,
    /// A queue's word that is nonsense.
    #[error("queue {queue} has {word:#x} at {offset:#x}")]
    Word {
        /// Which queue.
        queue: u16,
        /// Where in it.
        offset: usize,
        /// The word.
        word: u32,
    },
    /// A queue has taken heads that it does not have.
    #[error("queue {0} has heads beyond its size")]
    Heads(u16),
    /// A queue could not have been made ready like this.
    #[error("queue {queue}: {error}")]
    Queue {
        /// Which.
        queue: u16,
        /// Why.
        error: QueueError,
    },
    /// The used ring's index does not fit what is said to be completed.
    #[error("queue {queue} has the used index {found}")]
    UsedIndex {
        /// Which queue.
        queue: u16,
        /// What is in the ring.
        found: u16,
    },
    /// There are not as many requests in work as the indices say.
    #[error("queue {queue} has {heads} requests in work, {distance} by its indices")]
    InWork {
        /// Which queue.
        queue: u16,
        /// Bits that are set.
        heads: u32,
        /// How far the indices are apart.
        distance: u16,
    },
}

/// A page's words, each plausible.
#[derive(Clone, Debug, Default)]
pub(crate) struct Saved {
    pub(crate) status: u32,
    pub(crate) interrupt_status: u32,
    pub(crate) config_generation: u32,
    pub(crate) device_features_sel: u32,
    pub(crate) driver_features_sel: u32,
    pub(crate) driver_features: u64,
    pub(crate) queue_sel: u32,
    pub(crate) queues: [SavedQueue; MAX_QUEUES],
}

/// What of it is one queue's.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct SavedQueue {
    pub(crate) size: u32,
    pub(crate) descriptors: u64,
    pub(crate) driver: u64,
    pub(crate) device: u64,
    pub(crate) ready: bool,
    pub(crate) event_idx: bool,
    pub(crate) indirect: bool,
    pub(crate) next_available: u16,
    /// Head and used index of the completion under way.
    pub(crate) intent: Option<(u16, u16)>,
    pub(crate) taken: Heads,
}

/// What a device is, whoever serves it.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) device_id: u32,
    /// All that it offers.
    pub(crate) features: u64,
    pub(crate) queues: usize,
}

/// Reads a page; `None`: it says nothing.
pub(crate) fn read<P: StatePage>(page: &P, identity: Identity) -> Result<Option<Saved>, StateError> {
    match page.load(offset::MAGIC) {
        0 => return Ok(None),
        MAGIC => {}
        other => return Err(StateError::Magic(other)),
    }
    let version = page.load(offset::VERSION);
    if version != VERSION {
        return Err(StateError::Version(version));
    }
    let device_id = page.load(offset::DEVICE_ID);
    if device_id != identity.device_id {
        return Err(StateError::DeviceId(device_id));
    }
    let mut saved = Saved {
        status: page.load(offset::STATUS),
        interrupt_status: page.load(offset::INTERRUPT_STATUS),
        config_generation: page.load(offset::CONFIG_GENERATION),
        device_features_sel: page.load(offset::DEVICE_FEATURES_SEL),
        driver_features_sel: page.load(offset::DRIVER_FEATURES_SEL),
        driver_features: long(page, offset::DRIVER_FEATURES),
        queue_sel: page.load(offset::QUEUE_SEL),
        queues: Default::default(),
    };
    saved.check(identity.features)?;
    for (index, queue) in (0_u16..).zip(&mut saved.queues) {
        *queue = read_queue(page, index)?;
        if queue.ready && usize::from(index) >= identity.queues {
            let word = page.load(at(index, queue::READY));
            return Err(StateError::Word {
                queue: index,
                offset: queue::READY,
                word,
            });
        }
    }
    Ok(Some(saved))
}

impl Saved {
    fn check(&self, offered: u64) -> Result<(), StateError> {
        let accepted = self.status & status::FEATURES_OK != 0;
        let runs = self.status & status::DRIVER_OK != 0;
        let works = self.status & status::DEVICE_NEEDS_RESET == 0;
        if self.status & !status::ALL != 0 || works && runs && !accepted {
            return Err(StateError::Status(self.status));
        }
        let version_1 = self.driver_features & RingFeature::VERSION_1.bits() != 0;
        if works && accepted && (self.driver_features & !offered != 0 || !version_1) {
            return Err(StateError::Features(self.driver_features));
        }
        if self.interrupt_status & !(INTERRUPT_USED | INTERRUPT_CONFIG) != 0 {
            return Err(StateError::InterruptStatus(self.interrupt_status));
        }
        Ok(())
    }
}

fn at(index: u16, word: usize) -> usize {
    offset::QUEUES + usize::from(index) * queue::STRIDE + word
}

fn long<P: StatePage>(page: &P, offset: usize) -> u64 {
    u64::from(page.load(offset)) | u64::from(page.load(offset + 4)) << 32
}

fn read_queue<P: StatePage>(page: &P, index: u16) -> Result<SavedQueue, StateError> {
    let word = |offset| page.load(at(index, offset));
    let nonsense = |offset, word| StateError::Word {
        queue: index,
        offset,
        word,
    };
    let flags = word(queue::READY);
    let known = queue::ready::READY | queue::ready::EVENT_IDX | queue::ready::INDIRECT;
    if flags & !known != 0 {
        return Err(nonsense(queue::READY, flags));
    }
    let next_available = word(queue::NEXT_AVAILABLE);
    let Ok(next) = u16::try_from(next_available) else {
        return Err(nonsense(queue::NEXT_AVAILABLE, next_available));
    };
    let intent = word(queue::INTENT);
    let mut taken = Heads::default();
    for (number, into) in taken.0.iter_mut().enumerate() {
        *into = word(queue::TAKEN + 4 * number);
    }
    let saved = SavedQueue {
        size: word(queue::SIZE),
        descriptors: long(page, at(index, queue::DESCRIPTORS)),
        driver: long(page, at(index, queue::DRIVER)),
        device: long(page, at(index, queue::DEVICE)),
        ready: flags & queue::ready::READY != 0,
        event_idx: flags & queue::ready::EVENT_IDX != 0,
        indirect: flags & queue::ready::INDIRECT != 0,
        next_available: next,
        intent: parse_intent(intent).ok_or_else(|| nonsense(queue::INTENT, intent))?,
        taken,
    };
    if saved.ready {
        if saved.intent.is_some_and(|(head, _)| u32::from(head) >= saved.size) {
            return Err(nonsense(queue::INTENT, intent));
        }
        if !saved.taken.below(saved.size) {
            return Err(StateError::Heads(index));
        }
    }
    Ok(saved)
}

/// `None`: nonsense.
fn parse_intent(word: u32) -> Option<Option<(u16, u16)>> {
    use queue::intent::{HEAD, HEAD_SHIFT, VALID};
    if word == 0 {
        return Some(None);
    }
    let head = word >> HEAD_SHIFT & HEAD;
    let plain = VALID | head << HEAD_SHIFT | word & 0xffff;
    (word == plain).then_some(Some((head as u16, word as u16)))
}
