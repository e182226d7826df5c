//! Registers that the driver reads without a trap, where the hypervisor can show it a page that the backend fills.
//!
//! The page is a copy: whatever a register would read as stands there. Two things keep it right:
//! * writes to all registers but QueueNotify and InterruptACK still come as accesses that wait, and what they change is
//!   published before they are answered;
//! * InterruptStatus is not the backend's. The hypervisor has its true word, clears bits as the driver acknowledges them
//!   without asking, and changes it otherwise by [`Acceleration::update`] alone; the interrupt's line follows the word.
//!
//! A change of the configuration space is more than one word, so it is prepared in a second frame, which then takes the
//! first one's place ([`Acceleration::replace`]): a driver reads the old configuration or the new one.
//!
//! Of each change the state page is told first, then the page is published, then the word is updated; so a successor knows
//! at least what the driver has seen, and at most repeats an interrupt. Nothing is said to the driver when the backend
//! dies, no failure bit is named: the page goes with the backend, accesses wait for the successor, it finishes what was
//! begun and interrupts the driver. DEVICE_NEEDS_RESET would have a driver give up requests that are still to be answered.

use crate::chain::Chain;
use crate::device::DeviceModel;
use crate::mmio::{InterruptChange, MmioDevice, register};
use crate::state::StatePage;

/// Bytes of the page that are registers; the others are zero.
const PUBLISHED: usize = 0x200;

/// The registers that accesses change, but for InterruptStatus.
const VARIABLE: [u64; 4] = [
    register::DEVICE_FEATURES,
    register::QUEUE_NUM_MAX,
    register::QUEUE_READY,
    register::STATUS,
];

/// The hypervisor shows the page no more, as it did not get answers in time: the device goes on without.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the register page was withdrawn")]
pub struct Withdrawn;

/// What a hypervisor does for one device.
///
/// The page has two frames of words of 32 bits, number 0 and 1; number 0 is shown first. `offset` is a multiple of 4 below
/// the size of a page. A store is a release.
pub trait Acceleration {
    /// The word at `offset` of frame `frame`.
    fn load(&self, frame: usize, offset: usize) -> u32;
    /// Stores a word. Never that of InterruptStatus.
    fn store(&mut self, frame: usize, offset: usize, word: u32);
    /// Clears bits of InterruptStatus, then sets bits. The interrupt's line is whether any is set; those that are set
    /// interrupt an edge-triggered driver again.
    ///
    /// # Errors
    /// There is no page any more.
    fn update(&mut self, clear: u32, set: u32) -> Result<(), Withdrawn>;
    /// Shows the other frame.
    ///
    /// # Errors
    /// There is no page any more.
    fn replace(&mut self) -> Result<(), Withdrawn>;
}

/// No acceleration.
#[derive(Copy, Clone, Debug)]
pub enum NoAcceleration {}

impl Acceleration for NoAcceleration {
    fn load(&self, _: usize, _: usize) -> u32 {
        match *self {}
    }
    fn store(&mut self, _: usize, _: usize, _: u32) {
        match *self {}
    }
    fn update(&mut self, _: u32, _: u32) -> Result<(), Withdrawn> {
        match *self {}
    }
    fn replace(&mut self) -> Result<(), Withdrawn> {
        match *self {}
    }
}

/// A register page and what is in it.
#[derive(Debug)]
pub struct RegisterPage<A> {
    page: A,
    /// Which frame is shown.
    shown: usize,
    /// What the [`VARIABLE`] registers say there.
    variable: [u32; VARIABLE.len()],
    config_generation: u32,
}

impl<A: Acceleration> RegisterPage<A> {
    /// Fills the page. The driver must not be shown it before this returns.
    ///
    /// # Errors
    /// There is no page.
    pub fn new<D: DeviceModel<Request = Chain>, P: StatePage>(
        page: A,
        device: &mut MmioDevice<D, P>,
    ) -> Result<Self, Withdrawn> {
        let mut this = Self {
            page,
            shown: 0,
            variable: [0; VARIABLE.len()],
            config_generation: 0,
        };
        this.fill(0, device);
        this.settle(device)?;
        Ok(this)
    }

    fn fill<D: DeviceModel<Request = Chain>, P: StatePage>(&mut self, frame: usize, device: &mut MmioDevice<D, P>) {
        for offset in (0..PUBLISHED).step_by(4) {
            if offset as u64 == register::INTERRUPT_STATUS {
                continue;
            }
            let word = device.read(offset as u64, 4) as u32;
            if self.page.load(frame, offset) != word {
                self.page.store(frame, offset, word);
            }
        }
        self.variable = VARIABLE.map(|register| device.read(register, 4) as u32);
        self.config_generation = device.read(register::CONFIG_GENERATION, 4) as u32;
    }

    /// Publishes what has changed in `device`, and passes its interrupt on: to be called before an access is answered, and
    /// after its requests were processed. Whether the interrupt was raised.
    ///
    /// # Errors
    /// There is no page any more: what was not published is still pending in `device`.
    pub fn settle<D: DeviceModel<Request = Chain>, P: StatePage>(
        &mut self,
        device: &mut MmioDevice<D, P>,
    ) -> Result<bool, Withdrawn> {
        if device.read(register::CONFIG_GENERATION, 4) as u32 != self.config_generation {
            // An update of nothing asks whether the frames are still there.
            self.page.update(0, 0)?;
            let other = self.shown ^ 1;
            self.fill(other, device);
            self.page.replace()?;
            self.shown = other;
        }
        let variable = VARIABLE.map(|register| device.read(register, 4) as u32);
        if variable != self.variable {
            self.page.update(0, 0)?;
            for (register, (new, old)) in VARIABLE.into_iter().zip(variable.into_iter().zip(self.variable)) {
                if new != old {
                    self.page.store(self.shown, register as usize, new);
                }
            }
            self.variable = variable;
        }
        let InterruptChange { clear, set } = device.interrupt_change();
        if clear != 0 || set != 0 {
            self.page.update(clear, set)?;
            device.interrupt_changed();
        } else if device.has_unseen_change() {
            device.acknowledged(!self.interrupt_status());
        }
        Ok(set != 0)
    }

    /// InterruptStatus, as the driver sees it.
    pub fn interrupt_status(&self) -> u32 {
        self.page.load(self.shown, register::INTERRUPT_STATUS as usize)
    }
}
