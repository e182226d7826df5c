//! What a hypervisor does for an accelerated device, as far as driver and backend see it: a page of two frames that goes
//! with its backend, the true word of InterruptStatus, a level that is whether the word is not zero, doorbells.

use std::cell::{Cell, RefCell};

use portunus_virtio::accel::{Acceleration, Withdrawn};
use portunus_virtio::mmio::register as r;

use super::world::World;

/// What a backend is about to do for a driver that waits.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Work {
    Begin,
    Publish,
    Answer,
}

/// What the hypervisor has for the device.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hypervisor {
    /// A backend has attached the page.
    attached: Cell<bool>,
    /// It is shown when it is replaced.
    after_replace: Cell<bool>,
    /// At which of the driver's waits the backend is too slow, before which of its steps, and how many attempts to attach
    /// the page again the hypervisor refuses then.
    pub(crate) slow: Cell<Option<(u64, Work)>>,
    pub(crate) refuses: Cell<u32>,
    pub(crate) withdrawals: Cell<u32>,
    /// The driver is shown it.
    shown: Cell<bool>,
    frames: RefCell<[Vec<u32>; 2]>,
    current: Cell<usize>,
    word: Cell<u32>,
    /// A bit for each queue whose doorbell rang and was not looked at.
    rung: Cell<u32>,
    /// How often the driver waited for the backend.
    pub(crate) waits: Cell<u64>,
    pub(crate) rings: Cell<u64>,
    pub(crate) acknowledgements: Cell<u64>,
}

impl Hypervisor {
    /// A backend attaches the page: it is zero and not shown yet.
    pub(crate) fn attach(&self) {
        assert!(!self.shown.get(), "its predecessor's page went with it");
        self.attached.set(true);
        *self.frames.borrow_mut() = [vec![0; 1024], vec![0; 1024]];
        self.current.set(0);
        self.word.set(0);
    }
    /// The backend is enabled: now the driver is shown what it attached.
    pub(crate) fn enable(&self) {
        self.shown.set(self.attached.get());
    }
    /// The backend is dead: the page goes, the line falls, nobody hears what rang.
    pub(crate) fn withdraw(&self) {
        self.after_replace.set(false);
        self.attached.set(false);
        self.shown.set(false);
        self.word.set(0);
        self.rung.set(0);
    }

    /// The driver has waited too long, if it is to be so now: the page goes and the line falls, but the backend lives.
    pub(crate) fn is_slow_before(&self, work: Work) {
        if self.slow.get() == Some((self.waits.get(), work)) && self.attached.get() {
            self.slow.set(None);
            self.withdrawals.set(self.withdrawals.get() + 1);
            self.attached.set(false);
            self.shown.set(false);
            self.word.set(0);
        }
    }
    /// A backend that lives attaches the page again, which is not shown before it is replaced: false if it may not.
    pub(crate) fn attach_again(&self) -> bool {
        if self.refuses.get() > 0 {
            self.refuses.set(self.refuses.get() - 1);
            return false;
        }
        self.attach();
        self.after_replace.set(true);
        true
    }

    /// The driver reads; `None`: it must wait for the backend.
    pub(crate) fn read(&self, offset: u64) -> Option<u32> {
        let frames = self.frames.borrow();
        self.shown
            .get()
            .then(|| frames[self.current.get()][offset as usize / 4])
    }
    /// The driver writes; false: it must wait for the backend.
    pub(crate) fn write(&self, offset: u64, value: u32) -> bool {
        match offset {
            r::QUEUE_NOTIFY if self.shown.get() => {
                self.rung.set(self.rung.get() | 1_u32.checked_shl(value).unwrap_or(0));
                self.rings.set(self.rings.get() + 1);
                true
            }
            r::INTERRUPT_ACK if self.shown.get() => {
                self.change(value, 0);
                self.acknowledgements.set(self.acknowledgements.get() + 1);
                true
            }
            _ => false,
        }
    }
    /// The level of the interrupt.
    pub(crate) fn line(&self) -> bool {
        self.word.get() != 0
    }
    /// The backend looks which doorbells rang.
    pub(crate) fn take_rung(&self) -> impl Iterator<Item = u32> {
        let rung = self.rung.take();
        (0..32).filter(move |queue| rung & 1 << queue != 0)
    }
    /// Whether one did.
    pub(crate) fn is_rung(&self) -> bool {
        self.rung.get() != 0
    }

    fn change(&self, clear: u32, set: u32) {
        self.word.set(self.word.get() & !clear | set);
        self.publish();
    }
    fn publish(&self) {
        self.frames.borrow_mut()[self.current.get()][r::INTERRUPT_STATUS as usize / 4] = self.word.get();
    }
}

/// The page as its backend has it.
pub(crate) struct Shown<'a>(pub(crate) &'a World);

impl Shown<'_> {
    fn alive(&self) -> Result<&Hypervisor, Withdrawn> {
        let hypervisor = &self.0.hypervisor;
        hypervisor.attached.get().then_some(hypervisor).ok_or(Withdrawn)
    }
}

impl Acceleration for Shown<'_> {
    fn load(&self, frame: usize, offset: usize) -> u32 {
        self.0.hypervisor.frames.borrow()[frame][offset / 4]
    }
    fn store(&mut self, frame: usize, offset: usize, word: u32) {
        assert!(offset.is_multiple_of(4) && offset as u64 != r::INTERRUPT_STATUS);
        self.0.fate.step();
        // What was withdrawn is seen by nobody.
        let Ok(hypervisor) = self.alive() else { return };
        assert!(
            frame != hypervisor.current.get() || offset as u64 != r::CONFIG || !hypervisor.shown.get(),
            "a configuration is not changed where the driver reads it"
        );
        hypervisor.frames.borrow_mut()[frame][offset / 4] = word;
    }
    fn update(&mut self, clear: u32, set: u32) -> Result<(), Withdrawn> {
        self.0.fate.step();
        self.alive()?.change(clear, set);
        Ok(())
    }
    fn replace(&mut self) -> Result<(), Withdrawn> {
        self.0.fate.step();
        let hypervisor = self.alive()?;
        hypervisor.current.set(hypervisor.current.get() ^ 1);
        hypervisor.publish();
        if hypervisor.after_replace.take() {
            hypervisor.shown.set(true);
        }
        Ok(())
    }
}
