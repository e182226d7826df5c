//! One request as the driver described it: a chain of descriptors, walked once, checked, and kept as a list.
//!
//! The list is all that remains of the descriptors: the guest may rewrite them afterwards and changes nothing. Device
//! models use a [`Chain`] as an opaque value; only [`crate::mmio`] turns offsets into addresses.

use heapless::Vec;

use crate::grants::AddressCounts;
use crate::memory::{GuestAddress, GuestMemory, MemoryError, Part, Piece};

/// Descriptors that one chain may have, those of its indirect table included. A driver that respects the block device's
/// `seg_max` needs no more.
pub const MAX_DESCRIPTORS: usize = 256;

/// Bytes in one descriptor.
pub(crate) const DESCRIPTOR_SIZE: u64 = 16;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Why a chain is not one that a driver may make (VIRTIO 1.3, section 2.7.5).
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ChainError {
    /// A descriptor's index is outside its table.
    #[error("descriptor {0} is outside its table")]
    Index(u16),
    /// More than [`MAX_DESCRIPTORS`], which is also what a loop looks like.
    #[error("a chain of more than {MAX_DESCRIPTORS} descriptors, or a loop")]
    TooLong,
    /// An indirect descriptor without the feature, in an indirect table, or with a next one.
    #[error("descriptor {0} may not be indirect")]
    Indirect(u16),
    /// An indirect table that is empty, too large, or no whole number of descriptors long.
    #[error("an indirect table of {0} bytes")]
    TableLength(u32),
    /// A buffer wraps round the end of the address space.
    #[error("a buffer of {length} bytes at {:#x}", .address.0)]
    Range {
        /// Its first byte.
        address: GuestAddress,
        /// Its length in bytes.
        length: u32,
    },
    /// The buffers add up to 4 GiB or more.
    #[error("the buffers of a chain add up to 4 GiB or more")]
    TotalLength,
    /// A buffer for the device to read after one for it to write.
    #[error("descriptor {0} is readable and follows a writable one")]
    Order(u16),
    /// A descriptor can't be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

#[derive(Copy, Clone, Debug)]
struct Segment {
    address: u64,
    length: u32,
    /// Offset of its first byte among the bytes of its direction.
    start: u32,
}

/// A checked chain: the driver's bytes to read, then the bytes to write.
#[derive(Debug, Default)]
pub struct Chain {
    pub(crate) queue: u16,
    pub(crate) head: u16,
    pub(crate) epoch: u32,
    /// Of the walk.
    pub(crate) addresses: AddressCounts,
    readable: u32,
    writable: u32,
    readable_segments: usize,
    segments: Vec<Segment, MAX_DESCRIPTORS>,
}

struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    const SIZE: usize = DESCRIPTOR_SIZE as usize;

    fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let raw = u128::from_le_bytes(bytes);
        Self {
            address: raw as u64,
            length: (raw >> 64) as u32,
            flags: (raw >> 96) as u16,
            next: (raw >> 112) as u16,
        }
    }
}

/// Descriptors of an indirect table that are read at a time: such a table lies among the request's buffers, where each
/// access may cost a hypercall.
const AHEAD: usize = 16;

/// A table of descriptors in the guest's memory.
struct Table {
    address: u64,
    size: u16,
    ahead: Option<Ahead>,
}

/// What was read of an indirect table.
struct Ahead {
    first: u16,
    descriptors: Vec<[u8; Descriptor::SIZE], AHEAD>,
}

impl Table {
    fn read<M: GuestMemory>(&mut self, memory: &M, index: u16) -> Result<Descriptor, ChainError> {
        if index >= self.size {
            return Err(ChainError::Index(index));
        }
        let at = GuestAddress(self.address.wrapping_add(u64::from(index) * DESCRIPTOR_SIZE));
        let Some(ahead) = &mut self.ahead else {
            let mut bytes = [0; Descriptor::SIZE];
            memory.read(at, &mut bytes)?;
            return Ok(Descriptor::from_bytes(bytes));
        };
        let there = |ahead: &Ahead| {
            let place = index.checked_sub(ahead.first)?;
            ahead.descriptors.get(usize::from(place)).copied()
        };
        let bytes = match there(ahead) {
            Some(bytes) => bytes,
            None => {
                ahead.first = index;
                ahead.descriptors.clear();
                let count = usize::from(self.size - index).min(AHEAD);
                // Never more than there is room for.
                let _ = ahead.descriptors.resize(count, [0; Descriptor::SIZE]);
                memory.read(at, ahead.descriptors.as_flattened_mut())?;
                there(ahead).ok_or(ChainError::Index(index))?
            }
        };
        Ok(Descriptor::from_bytes(bytes))
    }
}

impl Chain {
    /// Bytes that the device may read.
    pub fn readable(&self) -> u32 {
        self.readable
    }
    /// Bytes that the device may write.
    pub fn writable(&self) -> u32 {
        self.writable
    }

    /// Walks the chain that starts at `head` of the table of `size` descriptors at `table`, and keeps what it finds.
    pub(crate) fn walk<M: GuestMemory>(
        &mut self,
        memory: &M,
        table: GuestAddress,
        size: u16,
        head: u16,
        indirect_allowed: bool,
    ) -> Result<(), ChainError> {
        self.segments.clear();
        self.readable_segments = 0;
        self.readable = 0;
        self.writable = 0;
        self.head = head;
        self.addresses = AddressCounts::default();

        let mut table = Table {
            address: table.0,
            size,
            ahead: None,
        };
        let mut index = head;
        for _ in 0..=MAX_DESCRIPTORS {
            let descriptor = table.read(memory, index)?;
            self.addresses.add(descriptor.address);
            if descriptor.flags & INDIRECT != 0 {
                if table.ahead.is_some() || !indirect_allowed || descriptor.flags & NEXT != 0 {
                    return Err(ChainError::Indirect(index));
                }
                let length = u64::from(descriptor.length);
                let entries = length / DESCRIPTOR_SIZE;
                if length % DESCRIPTOR_SIZE != 0 || entries == 0 || entries > MAX_DESCRIPTORS as u64 {
                    return Err(ChainError::TableLength(descriptor.length));
                }
                if descriptor.address.checked_add(length).is_none() {
                    return Err(ChainError::Range {
                        address: GuestAddress(descriptor.address),
                        length: descriptor.length,
                    });
                }
                let nothing = Ahead {
                    first: 0,
                    descriptors: Vec::new(),
                };
                table = Table {
                    address: descriptor.address,
                    size: entries as u16,
                    ahead: Some(nothing),
                };
                index = 0;
                continue;
            }
            self.append(index, &descriptor)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next;
        }
        Err(ChainError::TooLong)
    }

    fn append(&mut self, index: u16, descriptor: &Descriptor) -> Result<(), ChainError> {
        let &Descriptor { address, length, .. } = descriptor;
        if address.checked_add(u64::from(length)).is_none() {
            return Err(ChainError::Range {
                address: GuestAddress(address),
                length,
            });
        }
        let writable = descriptor.flags & WRITE != 0;
        if !writable && self.segments.len() > self.readable_segments {
            return Err(ChainError::Order(index));
        }
        let total = self.readable.checked_add(self.writable);
        if total.and_then(|total| total.checked_add(length)).is_none() {
            return Err(ChainError::TotalLength);
        }
        let start = if writable { self.writable } else { self.readable };
        if length != 0 && !self.extend_last(writable, address, length) {
            let segment = Segment { address, length, start };
            self.segments.push(segment).map_err(|_| ChainError::TooLong)?;
            if !writable {
                self.readable_segments = self.segments.len();
            }
        }
        if writable {
            self.writable = start + length;
        } else {
            self.readable = start + length;
        }
        Ok(())
    }

    /// Makes the last buffer longer if the new one, of the same direction, continues it.
    fn extend_last(&mut self, writable: bool, address: u64, length: u32) -> bool {
        let last_is_writable = self.segments.len() > self.readable_segments;
        match self.segments.last_mut() {
            Some(last) if last_is_writable == writable && last.address + u64::from(last.length) == address => {
                last.length += length;
                true
            }
            _ => false,
        }
    }

    /// Where `length` bytes at `offset` are.
    fn pieces(segments: &[Segment], offset: u32, length: usize) -> impl Iterator<Item = Piece> {
        let first = segments
            .partition_point(|segment| segment.start <= offset)
            .saturating_sub(1);
        let mut left = length;
        let segments = segments.get(first..).unwrap_or_default().iter();
        segments.map_while(move |segment| {
            let skip = offset.saturating_sub(segment.start);
            let here = (segment.length.saturating_sub(skip) as usize).min(left);
            left -= here;
            (here != 0).then_some(Piece {
                address: GuestAddress(segment.address + u64::from(skip)),
                length: here,
            })
        })
    }

    /// Copies out of the readable bytes, from `offset` on; all of it or an error.
    pub(crate) fn read<M: GuestMemory>(&self, memory: &M, offset: u32, into: &mut [u8]) -> Result<(), TransferError> {
        within(offset, into.len(), self.readable)?;
        let segments = self.segments.get(..self.readable_segments).unwrap_or_default();
        memory.gather(Self::pieces(segments, offset, into.len()), into)?;
        Ok(())
    }

    /// Copies each of `parts` into the writable bytes, from its offset on; all of it or an error.
    pub(crate) fn write<M: GuestMemory>(&self, memory: &M, parts: &[(u32, &[u8])]) -> Result<(), TransferError> {
        for (offset, bytes) in parts {
            within(*offset, bytes.len(), self.writable)?;
        }
        let segments = self.segments.get(self.readable_segments..).unwrap_or_default();
        memory.scatter(parts.iter().flat_map(|(offset, bytes)| {
            let mut rest = *bytes;
            Self::pieces(segments, *offset, bytes.len()).map_while(move |piece| {
                let (bytes, after) = rest.split_at_checked(piece.length)?;
                rest = after;
                Some(Part {
                    to: piece.address,
                    bytes,
                })
            })
        }))?;
        Ok(())
    }
}

fn within(offset: u32, length: usize, limit: u32) -> Result<(), TransferError> {
    let end = usize::try_from(offset)
        .ok()
        .and_then(|offset| offset.checked_add(length));
    if end.is_some_and(|end| end <= limit as usize) {
        Ok(())
    } else {
        Err(TransferError::Bounds { offset, length })
    }
}

/// Why bytes of a request did not move.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TransferError {
    /// The request is not that long.
    #[error("{length} bytes at {offset} are outside the request")]
    Bounds {
        /// The first byte asked for.
        offset: u32,
        /// How many.
        length: usize,
    },
    /// The guest named memory that it does not have.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}
