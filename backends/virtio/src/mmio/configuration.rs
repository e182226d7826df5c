//! The configuration space as the driver was told of it.

use super::{INTERRUPT_CONFIG, MmioDevice, status};
use crate::chain::Chain;
use crate::device::DeviceModel;
use crate::state::StatePage;
use crate::state::layout::{self, offset as word};

impl<D: DeviceModel<Request = Chain>, P: StatePage> MmioDevice<D, P> {
    /// Finds out whether the model's configuration space has changed; then the driver is told.
    pub fn look_at_configuration(&mut self) {
        if self.model.take_configuration_change() {
            self.configuration_changed();
        }
    }

    /// The configuration space changed: the driver is told.
    pub fn configuration_changed(&mut self) {
        // The interrupt first: if no more than that is stored, the driver looks once too often.
        if self.status & status::DRIVER_OK != 0 {
            self.set_interrupt(INTERRUPT_CONFIG);
        }
        self.begin_generation();
        self.store_configuration();
    }

    /// The configuration space changed while nobody served the device: it is another generation at once, but the driver is
    /// told only by [`Self::tell_of_configuration`], as what it acknowledges until then is an older interrupt.
    pub(super) fn inherit_configuration(&mut self) {
        self.untold = self.configuration_differs();
        if self.untold {
            self.begin_generation();
        }
    }
    /// Tells the driver what changed before this backend began.
    pub(super) fn tell_of_configuration(&mut self) {
        if core::mem::take(&mut self.untold) {
            if self.status & status::DRIVER_OK != 0 {
                self.set_interrupt(INTERRUPT_CONFIG);
            }
            self.store_configuration();
        }
    }

    fn begin_generation(&mut self) {
        self.config_generation = self.config_generation.wrapping_add(1);
        self.record.store(word::CONFIG_GENERATION, self.config_generation);
    }

    /// Word `number` of the configuration space, as far as a state page keeps it.
    fn configuration_word(&self, number: usize) -> u32 {
        let mut bytes = [0; 4];
        self.model.read_config(4 * number, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Whether the page says that the driver was told of another configuration space.
    fn configuration_differs(&self) -> bool {
        let mut words = 0..layout::CONFIGURATION_WORDS;
        words.any(|number| self.record.0.load(word::CONFIGURATION + 4 * number) != self.configuration_word(number))
    }

    fn store_configuration(&self) {
        for number in 0..layout::CONFIGURATION_WORDS {
            self.record
                .store_changed(word::CONFIGURATION + 4 * number, self.configuration_word(number));
        }
    }

    /// Stores what a page has before a driver writes anything; from then on it is valid.
    pub(super) fn store_header(&self) {
        self.record
            .store_changed(word::CONFIG_GENERATION, self.config_generation);
        self.store_configuration();
        self.record.header(self.model.device_id());
    }
}
