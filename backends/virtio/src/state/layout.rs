//! Where what is in a state page: offsets in bytes, every word 32 bits, little-endian. Words that have no name are zero.

use crate::mmio::MAX_QUEUES;
use crate::queue::QUEUE_SIZE_MAX;

/// Bytes in a state page.
pub const SIZE: usize = 4096;
/// [`offset::MAGIC`]: "PTst". Zero: nothing is known of the device.
pub const MAGIC: u32 = u32::from_le_bytes(*b"PTst");
/// [`offset::VERSION`]
pub const VERSION: u32 = 1;

/// Words of the configuration space that are kept.
pub const CONFIGURATION_WORDS: usize = 16;

/// The device's own words.
pub mod offset {
    /// [`super::MAGIC`]; the last word that is stored when a page is begun.
    pub const MAGIC: usize = 0x000;
    /// [`super::VERSION`]
    pub const VERSION: usize = 0x004;
    /// The VirtIO device ID.
    pub const DEVICE_ID: usize = 0x008;
    /// Status.
    pub const STATUS: usize = 0x00c;
    /// InterruptStatus.
    pub const INTERRUPT_STATUS: usize = 0x010;
    /// ConfigGeneration.
    pub const CONFIG_GENERATION: usize = 0x014;
    /// DeviceFeaturesSel.
    pub const DEVICE_FEATURES_SEL: usize = 0x018;
    /// DriverFeaturesSel.
    pub const DRIVER_FEATURES_SEL: usize = 0x01c;
    /// DriverFeatures, the low half; the high half follows.
    pub const DRIVER_FEATURES: usize = 0x020;
    /// QueueSel.
    pub const QUEUE_SEL: usize = 0x028;
    /// The start of the configuration space, as the driver was told of it.
    pub const CONFIGURATION: usize = 0x040;
    /// Queue 0; the others follow, [`super::queue::STRIDE`] apart.
    pub const QUEUES: usize = 0x100;
}

/// The words of a queue, from its start.
pub mod queue {
    /// Bytes from one queue to the next.
    pub const STRIDE: usize = 0x80;
    /// QueueNum.
    pub const SIZE: usize = 0x00;
    /// [`READY`](ready::READY) and what was agreed when the queue became so.
    pub const READY: usize = 0x04;
    /// QueueDesc, the low half; the high half follows.
    pub const DESCRIPTORS: usize = 0x08;
    /// QueueDriver.
    pub const DRIVER: usize = 0x10;
    /// QueueDevice.
    pub const DEVICE: usize = 0x18;
    /// The index in the available ring of the next request to take, modulo 2^16.
    pub const NEXT_AVAILABLE: usize = 0x20;
    /// See [`intent`]; 0: none.
    pub const INTENT: usize = 0x24;
    /// Heads that were taken and not completed: bit n % 32 of word n / 32.
    pub const TAKEN: usize = 0x40;
    /// Words of [`TAKEN`].
    pub const TAKEN_WORDS: usize = 8;

    /// Bits of [`READY`].
    pub mod ready {
        /// The queue is enabled.
        pub const READY: u32 = 1;
        /// With used_event and avail_event.
        pub const EVENT_IDX: u32 = 2;
        /// With indirect descriptors.
        pub const INDIRECT: u32 = 4;
    }

    /// The completion that is under way: bits 15:0 the used index that it gets, 24:16 the head, 31 set.
    pub mod intent {
        /// There is one.
        pub const VALID: u32 = 1 << 31;
        /// Where the head is.
        pub const HEAD_SHIFT: u32 = 16;
        /// The head's bits.
        pub const HEAD: u32 = 0x1ff;
    }
}

const _: () = {
    assert!(offset::CONFIGURATION + 4 * CONFIGURATION_WORDS <= offset::QUEUES);
    assert!(offset::QUEUES + MAX_QUEUES * queue::STRIDE <= SIZE);
    assert!(queue::TAKEN + 4 * queue::TAKEN_WORDS <= queue::STRIDE);
    assert!(32 * queue::TAKEN_WORDS == QUEUE_SIZE_MAX as usize);
};
