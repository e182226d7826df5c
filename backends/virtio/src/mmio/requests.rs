//! The queues of a device as its model sees them.

use super::MAX_QUEUES;
use crate::chain::{Chain, TransferError};
use crate::device::Requests;
use crate::grants::AddressCounts;
use crate::memory::GuestMemory;
use crate::queue::{Queue, QueueError};
use crate::state::StatePage;
use crate::state::record::Record;

/// The queues of one device while its model runs.
pub(super) struct MmioRequests<'a, M, P> {
    pub(super) queues: &'a mut [Queue; MAX_QUEUES],
    pub(super) record: &'a Record<P>,
    pub(super) memory: &'a M,
    pub(super) running: bool,
    pub(super) used: bool,
    pub(super) addresses: &'a mut AddressCounts,
    /// `Some`: the device needs a reset, and perhaps why.
    pub(super) failure: Option<Option<QueueError>>,
}

impl<M: GuestMemory, P: StatePage> MmioRequests<'_, M, P> {
    fn broken(&mut self, error: Option<QueueError>) {
        self.running = false;
        self.failure.get_or_insert(error);
    }
}

impl<M: GuestMemory, P: StatePage> Requests for MmioRequests<'_, M, P> {
    type Request = Chain;

    fn take(&mut self, queue: u16, into: &mut Chain) -> bool {
        if !self.running {
            return false;
        }
        let index = queue;
        let Some(queue) = self.queues.get_mut(usize::from(index)) else {
            return false;
        };
        match queue.take(self.memory, into, &self.record.queue(index.into())) {
            Ok(taken) => {
                into.queue = index;
                into.epoch = queue.epoch();
                if taken {
                    self.addresses.add_all(into.addresses);
                }
                taken
            }
            Err(error) => {
                self.broken(Some(error));
                false
            }
        }
    }
    fn readable(&self, request: &Chain) -> u32 {
        request.readable()
    }
    fn writable(&self, request: &Chain) -> u32 {
        request.writable()
    }
    fn read(&self, request: &Chain, offset: u32, into: &mut [u8]) -> Result<(), TransferError> {
        request.read(self.memory, offset, into)
    }
    fn write(&self, request: &Chain, parts: &[(u32, &[u8])]) -> Result<(), TransferError> {
        request.write(self.memory, parts)
    }
    fn complete(&mut self, request: &Chain, written: u32) {
        let Some(queue) = self.queues.get_mut(usize::from(request.queue)) else {
            return;
        };
        if !self.running || !queue.is_ready() || queue.epoch() != request.epoch {
            return;
        }
        let record = self.record.queue(request.queue.into());
        match queue.push(self.memory, request.head, written, &record) {
            Ok(()) => self.used = true,
            Err(error) => self.broken(Some(error)),
        }
    }
    fn fail(&mut self) {
        self.broken(None);
    }
}
