//! What one vCPU does to the device, and how often it did.

use core::sync::atomic::{AtomicU32, Ordering, fence};

use guest_runtime::mmio::Registers;

use crate::device::{ACK, BELL, CONTROL, COUNTER_STRIDE, COUNTERS, Command, POST4, POST8, SEEN, SYNC, VCPUS, of_vcpu};

const WORDS: usize = COUNTER_STRIDE / 4;

#[repr(C, align(4096))]
struct Page([[AtomicU32; WORDS]; 4096 / COUNTER_STRIDE]);

const _: () = assert!(VCPUS <= 4096 / COUNTER_STRIDE);

/// How often each vCPU rang: the backend reads it.
static RINGS: Page = Page([const { [const { AtomicU32::new(0) }; WORDS] }; 4096 / COUNTER_STRIDE]);

/// One vCPU.
pub(super) struct Vcpu {
    device: Registers,
    /// Its number.
    pub(super) index: usize,
    posted: u32,
    /// How often it rang.
    pub(super) rings: u32,
}

impl Vcpu {
    /// The device is at `base`.
    pub(super) fn new(base: u64, index: usize) -> Self {
        Self {
            // SAFETY: the device tree names device registers there.
            device: unsafe { Registers::new(base as usize) },
            index,
            posted: 0,
            rings: 0,
        }
    }

    fn register(&self, register: u64) -> usize {
        of_vcpu(register, self.index) as usize
    }

    /// Tells the backend where the counters are.
    pub(super) fn tell_counters(&self) {
        self.device.write_u64(COUNTERS as usize, &raw const RINGS as u64);
    }

    /// A write that is posted.
    pub(super) fn post(&mut self, long: bool) {
        self.posted += 1;
        if long {
            let value = u64::from(!self.posted) << 32 | u64::from(self.posted);
            self.device.write_u64(self.register(POST8), value);
        } else {
            self.device.write(self.register(POST4), self.posted);
        }
    }

    /// Counts, and rings.
    pub(super) fn ring(&mut self) {
        self.rings += 1;
        RINGS.0[self.index][0].store(self.rings, Ordering::Release);
        // The backend must see the counter once it has the event.
        fence(Ordering::SeqCst);
        self.device.write(self.register(BELL), self.rings);
    }

    /// A write that waits until the backend has seen all that was posted before.
    pub(super) fn request(&self) {
        self.device.write(self.register(SYNC), self.posted);
    }

    /// Asks the backend for something.
    pub(super) fn command(&self, command: Command, argument: u32) {
        self.device.write(CONTROL as usize, command.value(argument));
    }

    /// A word that the backend shows.
    pub(super) fn word(&self, offset: u64) -> u32 {
        self.device.read(offset as usize)
    }

    /// How many of this vCPU's rings the backend has seen.
    pub(super) fn seen(&self) -> u32 {
        self.word(SEEN + 4 * self.index as u64)
    }

    /// Clears bits of the interrupt.
    pub(super) fn acknowledge(&self, bits: u32) {
        self.device.write(ACK as usize, bits);
    }
}
