//! What block requests and the block configuration space look like (VIRTIO 1.3, section 5.2).

use bitflags::bitflags;

bitflags! {
    /// Feature bits of the block device (section 5.2.3).
    #[derive(Copy, Clone, Debug, Eq, PartialEq)]
    pub struct Feature: u64 {
        /// `size_max` is valid.
        const SIZE_MAX = 1 << 1;
        /// `seg_max` is valid.
        const SEG_MAX = 1 << 2;
        /// The disk is read-only.
        const RO = 1 << 5;
        /// `blk_size` is valid.
        const BLK_SIZE = 1 << 6;
        /// Flush requests.
        const FLUSH = 1 << 9;
        /// The topology fields are valid.
        const TOPOLOGY = 1 << 10;
        /// `num_queues` is valid.
        const MQ = 1 << 12;
        /// Discard requests.
        const DISCARD = 1 << 13;
        /// Write-zeroes requests.
        const WRITE_ZEROES = 1 << 14;
    }
}

/// Data buffers that one request may have: with header and status a chain of the queue's size.
pub const SEG_MAX: u32 = crate::queue::QUEUE_SIZE_MAX as u32 - 2;
/// The least bytes that a data buffer may be limited to: what drivers have by pages.
const LEAST_SIZE_MAX: u64 = 4096;

/// How long a data buffer may be, and how many of them a request may have, so that it has `bytes` of data at most; room for
/// one buffer of a page is always left.
pub(super) fn limits(bytes: u64) -> (u32, u32) {
    let size = bytes / u64::from(SEG_MAX) / LEAST_SIZE_MAX * LEAST_SIZE_MAX;
    let size = size.clamp(LEAST_SIZE_MAX, 1 << 30);
    let segments = (bytes / size).clamp(1, SEG_MAX.into());
    (size as u32, segments as u32)
}

/// Ranges that one discard or write-zeroes request may have.
pub const MAX_RANGES: u16 = 16;
/// Sectors that one such range should have at most.
const MAX_RANGE_SECTORS: u32 = 1 << 16;

/// What a request asks for (section 5.2.6).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum RequestType {
    /// Read.
    In = 0,
    /// Write.
    Out = 1,
    /// Make durable.
    Flush = 4,
    /// Tell the disk's name.
    GetId = 8,
    /// Forget ranges.
    Discard = 11,
    /// Set ranges to zero.
    WriteZeroes = 13,
}

impl RequestType {
    pub(super) fn from_number(number: u32) -> Option<Self> {
        use RequestType::{Discard, Flush, GetId, In, Out, WriteZeroes};
        [In, Out, Flush, GetId, Discard, WriteZeroes]
            .into_iter()
            .find(|kind| *kind as u32 == number)
    }
}

/// How a request ended.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[repr(u8)]
pub enum Status {
    /// VIRTIO_BLK_S_OK
    #[default]
    Ok = 0,
    /// VIRTIO_BLK_S_IOERR
    IoError = 1,
    /// VIRTIO_BLK_S_UNSUPP
    Unsupported = 2,
}

/// The first bytes of a request: type, reserved, sector.
pub(super) struct Header {
    pub(super) kind: u32,
    pub(super) sector: u64,
}

impl Header {
    pub(super) const SIZE: usize = 16;

    pub(super) fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let raw = u128::from_le_bytes(bytes);
        Self {
            kind: raw as u32,
            sector: (raw >> 64) as u64,
        }
    }
}

/// A range of a discard or write-zeroes request: sector, count, flags.
pub(super) struct Range {
    pub(super) sector: u64,
    pub(super) sectors: u32,
    pub(super) flags: u32,
}

impl Range {
    pub(super) const SIZE: usize = 16;
    /// Write zeroes: the sectors may be unmapped.
    pub(super) const UNMAP: u32 = 1;

    pub(super) fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let raw = u128::from_le_bytes(bytes);
        Self {
            sector: raw as u64,
            sectors: (raw >> 64) as u32,
            flags: (raw >> 96) as u32,
        }
    }
}

/// Bytes of `struct virtio_blk_config` up to `write_zeroes_may_unmap`, padded.
pub(super) const CONFIG_SIZE: usize = 60;

/// Puts such limits into the configuration space.
pub(super) fn limit(config: &mut [u8; CONFIG_SIZE], (size, segments): (u32, u32)) {
    config[8..12].copy_from_slice(&size.to_le_bytes());
    config[12..16].copy_from_slice(&segments.to_le_bytes());
}

/// The configuration space (section 5.2.4).
pub(super) fn config(sectors: u64, queues: u16, features: Feature) -> [u8; CONFIG_SIZE] {
    let mut config = [0; CONFIG_SIZE];
    let mut put = |offset: usize, bytes: &[u8]| {
        if let Some(field) = config.get_mut(offset..offset + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    };
    put(0, &sectors.to_le_bytes());
    put(12, &SEG_MAX.to_le_bytes());
    put(20, &(crate::disk::SECTOR_SIZE as u32).to_le_bytes());
    // Topology: 8 sectors (4 KiB) a physical block, aligned at 0; at least one block, best 1 MiB at a time.
    put(24, &[3, 0]);
    put(26, &8_u16.to_le_bytes());
    put(28, &2048_u32.to_le_bytes());
    put(34, &queues.to_le_bytes());
    if features.contains(Feature::DISCARD) {
        put(36, &MAX_RANGE_SECTORS.to_le_bytes());
        put(40, &u32::from(MAX_RANGES).to_le_bytes());
        put(44, &8_u32.to_le_bytes());
    }
    if features.contains(Feature::WRITE_ZEROES) {
        put(48, &MAX_RANGE_SECTORS.to_le_bytes());
        put(52, &u32::from(MAX_RANGES).to_le_bytes());
        put(56, &[1]);
    }
    config
}
