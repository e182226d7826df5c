//! Feature bits that belong to the transport and the rings (VIRTIO 1.3, section 6).

use bitflags::bitflags;

bitflags! {
    /// What this library offers besides a device's own bits.
    #[derive(Copy, Clone, Debug, Eq, PartialEq)]
    pub struct RingFeature: u64 {
        /// VIRTIO_F_INDIRECT_DESC: a descriptor may point to a table of descriptors.
        const INDIRECT_DESC = 1 << 28;
        /// VIRTIO_F_EVENT_IDX: used_event and avail_event say when to notify.
        const EVENT_IDX = 1 << 29;
        /// VIRTIO_F_VERSION_1: not a legacy driver. Demanded.
        const VERSION_1 = 1 << 32;
        /// VIRTIO_F_ACCESS_PLATFORM: the driver uses its platform's DMA addresses.
        const ACCESS_PLATFORM = 1 << 33;
    }
}
