//! The device's side of a split virtqueue (VIRTIO 1.3, section 2.7).

use crate::chain::{Chain, ChainError, DESCRIPTOR_SIZE};
use crate::memory::{GuestAddress, GuestMemory, MemoryError, RingArea};
use crate::state::layout::queue::ready;
use crate::state::record::QueueRecord;
use crate::state::saved::SavedQueue;
use crate::state::{Heads, StateError, StatePage, layout};

/// Entries that a queue may have at most.
pub const QUEUE_SIZE_MAX: u16 = 256;

const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// Why a queue can't go on until the driver resets the device.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum QueueError {
    /// The size is zero, no power of two, or above [`QUEUE_SIZE_MAX`].
    #[error("a queue of {0} entries")]
    Size(u32),
    /// A ring is not aligned as section 2.7 demands, or wraps round the address space.
    #[error("a ring at {:#x}", .0.0)]
    Address(GuestAddress),
    /// The driver made more entries available than the queue has.
    #[error("the available index jumped to {0}")]
    AvailableIndex(u16),
    /// The driver made a request available that it has not got back yet.
    #[error("head {0} is available twice")]
    HeadInUse(u16),
    /// A chain is malformed.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A ring is not in the guest's memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// A queue as the driver set it up, and how far the device got.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    /// QueueNum as written; checked when the queue becomes ready.
    pub(crate) size: u32,
    /// Address of the descriptor table.
    pub(crate) descriptors: u64,
    /// Address of the available ring.
    pub(crate) driver: u64,
    /// Address of the used ring.
    pub(crate) device: u64,
    ready: bool,
    /// Counts how often the queue was made ready: a request taken before must not be answered after.
    epoch: u32,
    event_idx: bool,
    indirect: bool,
    next_available: u16,
    next_used: u16,
    /// `next_used` when the driver was last considered for an interrupt.
    signalled: Option<u16>,
    /// The driver will notify before it expects more to be taken.
    armed: bool,
    /// The driver was told by flags not to notify.
    suppressed: bool,
    /// Requests that were taken and not completed.
    taken: Heads,
    /// Those of them that a predecessor took: they are run again.
    again: Heads,
    /// The rings that the memory holds for it, whatever became of the queue since.
    held: Option<[RingArea; 3]>,
}

impl Queue {
    /// Whether the driver enabled it.
    pub fn is_ready(&self) -> bool {
        self.ready
    }
    /// Counts enablings.
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Whether a queue can be made ready with what the driver set up.
    fn check(&self) -> Result<(), QueueError> {
        if !self.size.is_power_of_two() || self.size > u32::from(QUEUE_SIZE_MAX) {
            return Err(QueueError::Size(self.size));
        }
        for (ring, alignment) in self.rings().into_iter().zip([16, 2, 4]) {
            let GuestAddress(address) = ring.address;
            if address % alignment != 0 || address.checked_add(ring.length.into()).is_none() {
                return Err(QueueError::Address(ring.address));
            }
        }
        Ok(())
    }

    /// Descriptors, available ring, used ring. The size is at most [`QUEUE_SIZE_MAX`].
    fn rings(&self) -> [RingArea; 3] {
        let ring = |address, length, writable| RingArea {
            address: GuestAddress(address),
            length,
            writable,
        };
        [
            ring(self.descriptors, DESCRIPTOR_SIZE as u32 * self.size, false),
            ring(self.driver, 6 + 2 * self.size, false),
            ring(self.device, 6 + 8 * self.size, true),
        ]
    }

    /// Lets the memory hold the rings, unless it does.
    fn hold<M: GuestMemory>(&mut self, memory: &M) -> Result<(), MemoryError> {
        if self.held.is_some() {
            return Ok(());
        }
        let rings = self.rings();
        for (index, ring) in rings.iter().enumerate() {
            if let Err(error) = memory.hold(*ring) {
                for held in rings.iter().take(index) {
                    memory.release(*held);
                }
                return Err(error);
            }
        }
        self.held = Some(rings);
        Ok(())
    }

    /// Gives the rings back, as the queue is forgotten.
    pub(crate) fn abandon<M: GuestMemory>(mut self, memory: &M) {
        self.ready = false;
        self.give_back(memory);
    }

    /// Gives the rings back that the driver has stopped using, or made others of.
    pub(crate) fn give_back<M: GuestMemory>(&mut self, memory: &M) {
        let in_use = self.ready.then(|| self.rings());
        if let Some(rings) = self.held.take_if(|held| in_use != Some(*held)) {
            for ring in rings {
                memory.release(ring);
            }
        }
    }

    /// Checks what the driver set up and starts from the rings' beginning.
    pub(crate) fn enable<P: StatePage>(
        &mut self,
        event_idx: bool,
        indirect: bool,
        record: &QueueRecord<'_, P>,
    ) -> Result<(), QueueError> {
        self.check()?;
        record.clear_progress();
        let flag = |set, bit| if set { bit } else { 0 };
        let agreed = flag(event_idx, ready::EVENT_IDX) | flag(indirect, ready::INDIRECT);
        record.store(layout::queue::READY, ready::READY | agreed);
        *self = Self {
            size: self.size,
            descriptors: self.descriptors,
            driver: self.driver,
            device: self.device,
            ready: true,
            epoch: self.epoch.wrapping_add(1),
            event_idx,
            indirect,
            held: self.held,
            ..Self::default()
        };
        Ok(())
    }

    /// Stops it; requests that were taken are forgotten.
    pub(crate) fn disable<P: StatePage>(&mut self, record: &QueueRecord<'_, P>) {
        record.store(layout::queue::READY, 0);
        self.ready = false;
        self.epoch = self.epoch.wrapping_add(1);
    }

    /// Becomes what a predecessor's was, before [`Self::recover`].
    ///
    /// # Errors
    /// It is said to be ready and can't have been.
    pub(crate) fn restore(saved: &SavedQueue) -> Result<Self, QueueError> {
        let queue = Self {
            size: saved.size,
            descriptors: saved.descriptors,
            driver: saved.driver,
            device: saved.device,
            ready: saved.ready,
            event_idx: saved.event_idx,
            indirect: saved.indirect,
            ..Self::default()
        };
        if queue.ready {
            queue.check()?;
        }
        Ok(queue)
    }

    /// Finds out how far the predecessor of a running device got with queue `index`. How many requests are to be run again.
    pub(crate) fn recover<M: GuestMemory, P: StatePage>(
        &mut self,
        index: u16,
        saved: &SavedQueue,
        memory: &M,
        record: &QueueRecord<'_, P>,
    ) -> Result<u32, StateError> {
        let unreadable = |error: MemoryError| StateError::Queue {
            queue: index,
            error: error.into(),
        };
        self.hold(memory).map_err(unreadable)?;
        let used = memory
            .load_acquire_u16(GuestAddress(self.device + 2))
            .map_err(unreadable)?;
        let mut taken = saved.taken;
        if let Some((head, number)) = saved.intent {
            if taken.contains(head) {
                if used == number.wrapping_add(1) {
                    record.taken(taken.set(head, false));
                } else if used != number {
                    return Err(StateError::UsedIndex {
                        queue: index,
                        found: used,
                    });
                }
            }
            record.end_completion();
        }
        let available = memory
            .load_acquire_u16(GuestAddress(self.driver + 2))
            .map_err(unreadable)?;
        let mut next = saved.next_available;
        if taken.count() == u32::from(next.wrapping_sub(used)) + 1 {
            // The last bit was set, and the index after it not yet stored: if that is so, the request there is taken.
            let head = self.available_head(memory, next).map_err(unreadable)?;
            if available != next && taken.contains(head) {
                next = next.wrapping_add(1);
                record.next_available(next);
            }
        }
        let distance = next.wrapping_sub(used);
        if taken.count() != u32::from(distance) {
            return Err(StateError::InWork {
                queue: index,
                heads: taken.count(),
                distance,
            });
        }
        if u32::from(available.wrapping_sub(next)) > self.size {
            return Err(StateError::Queue {
                queue: index,
                error: QueueError::AvailableIndex(available),
            });
        }
        self.next_available = next;
        self.next_used = used;
        self.taken = taken;
        self.again = taken;
        Ok(taken.count())
    }

    /// Forgets all that the driver wrote.
    pub(crate) fn reset<P: StatePage>(&mut self, record: &QueueRecord<'_, P>) {
        record.clear();
        *self = Self {
            epoch: self.epoch.wrapping_add(1),
            held: self.held,
            ..Self::default()
        };
    }

    /// The driver rang: look into the ring again.
    pub(crate) fn notify(&mut self) {
        self.armed = false;
    }

    /// Whether there may be something to take.
    pub(crate) fn may_have_work(&self) -> bool {
        self.ready && (!self.armed || self.again.count() != 0)
    }

    fn mask(&self) -> u16 {
        // At most QUEUE_SIZE_MAX and a power of two: `enable` checked.
        (self.size as u16).wrapping_sub(1)
    }

    /// Takes the next request, or asks the driver for a notification and returns false. Never misses one that became
    /// available in between.
    pub(crate) fn take<M: GuestMemory, P: StatePage>(
        &mut self,
        memory: &M,
        into: &mut Chain,
        record: &QueueRecord<'_, P>,
    ) -> Result<bool, QueueError> {
        if !self.may_have_work() {
            return Ok(false);
        }
        self.hold(memory)?;
        if let Some(head) = self.again.first() {
            self.walk(memory, into, head)?;
            self.again.set(head, false);
            return Ok(true);
        }
        if self.pop(memory, into, record)? {
            if !self.event_idx && !self.suppressed {
                memory.store_release_u16(GuestAddress(self.device), NO_NOTIFY)?;
                self.suppressed = true;
            }
            return Ok(true);
        }
        if self.event_idx {
            let avail_event = self.device + 4 + 8 * u64::from(self.size);
            memory.store_release_u16(GuestAddress(avail_event), self.next_available)?;
        } else {
            memory.store_release_u16(GuestAddress(self.device), 0)?;
            self.suppressed = false;
        }
        memory.fence();
        let found = self.pop(memory, into, record)?;
        self.armed = !found;
        Ok(found)
    }

    fn available_head<M: GuestMemory>(&self, memory: &M, index: u16) -> Result<u16, MemoryError> {
        let slot = u64::from(index & self.mask());
        let mut head = [0; 2];
        memory.read(GuestAddress(self.driver + 4 + 2 * slot), &mut head)?;
        Ok(u16::from_le_bytes(head))
    }

    fn walk<M: GuestMemory>(&self, memory: &M, into: &mut Chain, head: u16) -> Result<(), QueueError> {
        let table = GuestAddress(self.descriptors);
        into.walk(memory, table, self.size as u16, head, self.indirect)?;
        Ok(())
    }

    fn pop<M: GuestMemory, P: StatePage>(
        &mut self,
        memory: &M,
        into: &mut Chain,
        record: &QueueRecord<'_, P>,
    ) -> Result<bool, QueueError> {
        let available = memory.load_acquire_u16(GuestAddress(self.driver + 2))?;
        let waiting = available.wrapping_sub(self.next_available);
        if waiting == 0 {
            return Ok(false);
        }
        if u32::from(waiting) > self.size {
            return Err(QueueError::AvailableIndex(available));
        }
        let head = self.available_head(memory, self.next_available)?;
        if self.taken.contains(head) {
            return Err(QueueError::HeadInUse(head));
        }
        self.walk(memory, into, head)?;
        record.taken(self.taken.set(head, true));
        self.next_available = self.next_available.wrapping_add(1);
        record.next_available(self.next_available);
        Ok(true)
    }

    /// Gives a request back to the driver, with the number of bytes written.
    pub(crate) fn push<M: GuestMemory, P: StatePage>(
        &mut self,
        memory: &M,
        head: u16,
        written: u32,
        record: &QueueRecord<'_, P>,
    ) -> Result<(), QueueError> {
        record.begin_completion(head, self.next_used);
        let slot = u64::from(self.next_used & self.mask());
        let element = u64::from(head) | u64::from(written) << 32;
        memory.write(GuestAddress(self.device + 4 + 8 * slot), &element.to_le_bytes())?;
        self.next_used = self.next_used.wrapping_add(1);
        memory.store_release_u16(GuestAddress(self.device + 2), self.next_used)?;
        record.taken(self.taken.set(head, false));
        record.end_completion();
        Ok(())
    }

    /// Whether the driver wants an interrupt for what was pushed since the last call (section 2.7.7.2).
    pub(crate) fn wants_interrupt<M: GuestMemory>(&mut self, memory: &M) -> Result<bool, QueueError> {
        let old = self.signalled.replace(self.next_used);
        if old == Some(self.next_used) {
            return Ok(false);
        }
        memory.fence();
        if !self.event_idx {
            return Ok(memory.load_acquire_u16(GuestAddress(self.driver))? & NO_INTERRUPT == 0);
        }
        let Some(old) = old else { return Ok(true) };
        let used_event = memory.load_acquire_u16(GuestAddress(self.driver + 4 + 2 * u64::from(self.size)))?;
        let passed = self.next_used.wrapping_sub(used_event).wrapping_sub(1);
        Ok(passed < self.next_used.wrapping_sub(old))
    }
}
