//! A device that goes on from its state page.

use super::{INTERRUPT_CONFIG, INTERRUPT_USED, MmioDevice, status};
use crate::chain::Chain;
use crate::device::DeviceModel;
use crate::feature::RingFeature;
use crate::memory::GuestMemory;
use crate::queue::Queue;
use crate::state::layout::offset as word;
use crate::state::saved::{self, Identity, Saved};
use crate::state::{Resumption, StateError, StatePage};

impl<D: DeviceModel<Request = Chain>, P: StatePage> MmioDevice<D, P> {
    /// The device as the page says that a predecessor left it: as after power-on if it says nothing; in need of a reset if
    /// what it says can't be.
    ///
    /// To be called before the device's addresses are taken over. Register accesses that the predecessor left unanswered
    /// must be passed on before [`Self::process`] is called: they come again, and what they do, they do once. Then
    /// [`Self::process`] runs again what was taken and not completed, and interrupts the driver, as an interrupt may have
    /// been lost.
    pub fn resume<M: GuestMemory>(model: D, page: P, memory: &M) -> (Self, Resumption) {
        let mut device = Self::power_on(model, page);
        if memory.is_far() {
            device.ring_features.remove(RingFeature::INDIRECT_DESC);
        }
        let identity = Identity {
            device_id: device.model.device_id(),
            features: device.features(),
            queues: device.queue_count(),
        };
        let resumption = match saved::read(&device.record.0, identity) {
            Ok(None) => {
                device.begin_page();
                Resumption::Fresh
            }
            Ok(Some(saved)) => match device.restore(&saved, memory) {
                Ok(requests) => Resumption::Continued { requests },
                Err(error) => device.refuse(error, memory),
            },
            Err(error) => device.refuse(error, memory),
        };
        (device, resumption)
    }

    fn restore<M: GuestMemory>(&mut self, saved: &Saved, memory: &M) -> Result<u32, StateError> {
        for (index, (queue, saved)) in (0_u16..).zip(self.queues.iter_mut().zip(&saved.queues)) {
            *queue = Queue::restore(saved).map_err(|error| StateError::Queue { queue: index, error })?;
        }
        self.status = saved.status;
        self.inherit_interrupt(saved.interrupt_status);
        self.config_generation = saved.config_generation;
        self.device_features_sel = saved.device_features_sel;
        self.driver_features_sel = saved.driver_features_sel;
        self.driver_features = saved.driver_features;
        self.queue_sel = saved.queue_sel;
        if self.status & status::DRIVER_OK != 0 && !self.model.outlives_backend() {
            return Err(StateError::ContentsLost);
        }
        let mut requests = 0;
        for (index, (queue, saved)) in self.queues.iter_mut().zip(&saved.queues).enumerate() {
            let record = self.record.queue(index);
            if !saved.ready || self.status & status::DEVICE_NEEDS_RESET != 0 {
                continue;
            }
            if self.status & status::DRIVER_OK != 0 {
                requests += queue.recover(index as u16, saved, memory, &record)?;
            } else {
                // Nothing is taken before the driver is ready: this is the rest of a reset that was not finished.
                record.clear_progress();
            }
        }
        if self.status & status::DRIVER_OK != 0 {
            self.model.activate(self.driver_features);
        }
        self.inherit_configuration();
        self.resumed = true;
        Ok(requests)
    }

    /// The page is nonsense: this device alone needs a reset.
    fn refuse<M: GuestMemory>(&mut self, error: StateError, memory: &M) -> Resumption {
        let driver_bits = self.record.0.load(word::STATUS) & status::ALL;
        self.forget_registers();
        for queue in &mut self.queues {
            core::mem::take(queue).abandon(memory);
        }
        self.status = driver_bits | status::DEVICE_NEEDS_RESET;
        self.begin_page();
        self.resumed = true;
        Resumption::Refused(error)
    }

    /// Begins a page that says nothing, or nonsense, with the status and nothing else.
    fn begin_page(&self) {
        self.record.store(word::STATUS, self.status);
        self.record.clear_but(word::STATUS);
        self.store_header();
    }

    /// Tells the driver what a predecessor may not have told.
    pub(super) fn announce(&mut self) {
        self.tell_of_configuration();
        if self.status & status::DEVICE_NEEDS_RESET != 0 {
            self.set_interrupt(INTERRUPT_CONFIG);
        }
        if self.status & status::DRIVER_OK != 0 {
            self.set_interrupt(INTERRUPT_USED);
        }
    }
}
