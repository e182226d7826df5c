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
//!
//! A backend that lives loses its page, too, when an access waited too long for it ([`Withdrawn`]); what was pending is not
//! asserted any more. It finds out when it asks ([`View::confirm`]), which it does after each answer; then it interrupts
//! once more, the driver asks for every register, and the page is shown again as soon as the hypervisor lets it.

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

/// The hypervisor shows the page no more, as it did not get answers in time.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the register page was withdrawn")]
pub struct Withdrawn;

/// What a hypervisor does for one device.
///
/// The page has two frames of words of 32 bits, number 0 and 1; number 0 is shown first. `offset` is a multiple of 4 below
/// the size of a page. A store is a release. After the page was withdrawn loads and stores still work, on memory that nobody
/// else sees.
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
        let mut this = Self::of(page);
        this.fill(0, device);
        this.settle(device)?;
        Ok(this)
    }

    /// Fills a page that the driver is not shown before it is replaced, and shows it. The driver has asked the device until now.
    fn again<D: DeviceModel<Request = Chain>, P: StatePage>(
        page: A,
        device: &mut MmioDevice<D, P>,
    ) -> Result<Self, Withdrawn> {
        let mut this = Self::of(page);
        this.fill(1, device);
        device.hand_over_interrupt();
        this.settle_interrupt(device)?;
        this.page.replace()?;
        this.shown = 1;
        Ok(this)
    }

    const fn of(page: A) -> Self {
        Self {
            page,
            shown: 0,
            variable: [0; VARIABLE.len()],
            config_generation: 0,
        }
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
        self.settle_interrupt(device)
    }

    fn settle_interrupt<D: DeviceModel<Request = Chain>, P: StatePage>(
        &mut self,
        device: &mut MmioDevice<D, P>,
    ) -> Result<bool, Withdrawn> {
        let InterruptChange { clear, set } = device.interrupt_change();
        if clear != 0 || set != 0 {
            self.page.update(clear, set)?;
            device.interrupt_changed();
        } else if device.has_unseen_change() {
            device.acknowledged(!self.interrupt_status()?);
        }
        Ok(set != 0)
    }

    /// InterruptStatus, as the driver sees it.
    ///
    /// # Errors
    /// The driver does not see it there any more.
    pub fn interrupt_status(&mut self) -> Result<u32, Withdrawn> {
        self.page.update(0, 0)?;
        Ok(self.page.load(self.shown, register::INTERRUPT_STATUS as usize))
    }
}

/// How the driver reads a device's registers.
#[derive(Debug)]
pub enum View<A> {
    /// By accesses that wait.
    Asked,
    /// In a page.
    Shown(RegisterPage<A>),
    /// By accesses, since the page was withdrawn.
    Withdrawn,
}

impl<A: Acceleration> View<A> {
    /// Whether it is a page.
    pub const fn is_shown(&self) -> bool {
        matches!(self, Self::Shown(_))
    }

    /// The driver sees what has changed. With a page its interrupt is told there, otherwise it is for the caller to raise
    /// ([`MmioDevice::take_interrupt`]). Whether it was told.
    pub fn settle<D: DeviceModel<Request = Chain>, P: StatePage>(&mut self, device: &mut MmioDevice<D, P>) -> bool {
        let Self::Shown(page) = self else { return false };
        page.settle(device).unwrap_or_else(|Withdrawn| {
            self.withdraw(device);
            false
        })
    }

    /// What the driver reads of InterruptStatus when it asks.
    pub fn interrupt_status<D: DeviceModel<Request = Chain>, P: StatePage>(
        &mut self,
        device: &mut MmioDevice<D, P>,
    ) -> u32 {
        if let Self::Shown(page) = self {
            match page.interrupt_status() {
                Ok(word) => return word,
                Err(Withdrawn) => self.withdraw(device),
            }
        }
        device.read(register::INTERRUPT_STATUS, 4) as u32
    }

    /// Finds out whether the page is still shown, and has it shown again by `attach` if not, which makes a page that the
    /// driver is not shown before it is replaced. To be called when accesses were answered: a page is withdrawn only from
    /// who is waited for.
    pub fn confirm<D: DeviceModel<Request = Chain>, P: StatePage>(
        &mut self,
        device: &mut MmioDevice<D, P>,
        attach: impl FnOnce() -> Option<A>,
    ) {
        if let Self::Shown(page) = self
            && page.page.update(0, 0).is_err()
        {
            self.withdraw(device);
        }
        if let Self::Withdrawn = self
            && let Some(page) = attach()
        {
            match RegisterPage::again(page, device) {
                Ok(page) => *self = Self::Shown(page),
                Err(Withdrawn) => device.repeat_interrupt(),
            }
        }
    }

    fn withdraw<D: DeviceModel<Request = Chain>, P: StatePage>(&mut self, device: &mut MmioDevice<D, P>) {
        *self = Self::Withdrawn;
        device.repeat_interrupt();
    }
}
