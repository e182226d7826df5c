//! Storage under a block device: requests start, run beside each other, and are collected when done.

use heapless::Deque;

/// Bytes in a sector, whatever the disk's own block size (VIRTIO 1.3, section 5.2).
pub const SECTOR_SIZE: u64 = 512;

/// The caller's name for a request to a disk.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Tag(pub u64);

/// The disk could not do it.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the disk reports an error")]
pub struct DiskError;

/// Why a request did not start.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StartError {
    /// As many as can be are running: try again after a completion.
    #[error("the disk is busy")]
    Busy,
    /// It never will.
    #[error("the disk refuses the request")]
    Refused,
}

/// A request that has ended.
#[derive(Debug)]
pub struct Completion<'a> {
    /// The name it was started with.
    pub tag: Tag,
    /// Of a read: the bytes; else empty.
    pub result: Result<&'a [u8], DiskError>,
}

/// Fills the disk's buffer with the bytes to write; false when they can't be had.
pub type Gather<'a> = &'a mut dyn FnMut(&mut [u8]) -> bool;

/// A disk. Callers keep each request within [`Self::sectors`] and [`Self::max_transfer`]; lengths are whole sectors.
pub trait Disk {
    /// Its size, which may change.
    fn sectors(&self) -> u64;
    /// Whether writes are refused.
    fn is_read_only(&self) -> bool {
        false
    }
    /// Whether what is written is still there when the backend has died and another one opens the disk.
    fn outlives_backend(&self) -> bool {
        true
    }
    /// Its name, padded with zeros.
    fn id(&self) -> [u8; 20];
    /// Bytes that one read or write may have: at least one sector.
    fn max_transfer(&self) -> u32;
    /// Whether [`Self::discard`] does something.
    fn can_discard(&self) -> bool {
        false
    }
    /// Starts to read `length` bytes.
    fn read(&mut self, tag: Tag, sector: u64, length: u32) -> Result<(), StartError>;
    /// Starts to write `length` bytes, which `gather` puts into the disk's own buffer before the call returns;
    /// [`StartError::Refused`] if it can't.
    fn write(&mut self, tag: Tag, sector: u64, length: u32, gather: Gather<'_>) -> Result<(), StartError>;
    /// Starts to make all writes that were completed durable.
    fn flush(&mut self, tag: Tag) -> Result<(), StartError>;
    /// Starts to forget `length` bytes, which may be more than [`Self::max_transfer`].
    fn discard(&mut self, tag: Tag, sector: u64, length: u64) -> Result<(), StartError> {
        let _ = (tag, sector, length);
        Err(StartError::Refused)
    }
    /// Starts to write zeros.
    fn write_zeroes(&mut self, tag: Tag, sector: u64, length: u32) -> Result<(), StartError> {
        self.write(tag, sector, length, &mut |buffer| {
            buffer.fill(0);
            true
        })
    }
    /// One request that has ended, in any order.
    fn poll(&mut self) -> Option<Completion<'_>>;
}

impl<D: Disk + ?Sized> Disk for &mut D {
    fn sectors(&self) -> u64 {
        (**self).sectors()
    }
    fn is_read_only(&self) -> bool {
        (**self).is_read_only()
    }
    fn outlives_backend(&self) -> bool {
        (**self).outlives_backend()
    }
    fn id(&self) -> [u8; 20] {
        (**self).id()
    }
    fn max_transfer(&self) -> u32 {
        (**self).max_transfer()
    }
    fn can_discard(&self) -> bool {
        (**self).can_discard()
    }
    fn read(&mut self, tag: Tag, sector: u64, length: u32) -> Result<(), StartError> {
        (**self).read(tag, sector, length)
    }
    fn write(&mut self, tag: Tag, sector: u64, length: u32, gather: Gather<'_>) -> Result<(), StartError> {
        (**self).write(tag, sector, length, gather)
    }
    fn flush(&mut self, tag: Tag) -> Result<(), StartError> {
        (**self).flush(tag)
    }
    fn discard(&mut self, tag: Tag, sector: u64, length: u64) -> Result<(), StartError> {
        (**self).discard(tag, sector, length)
    }
    fn write_zeroes(&mut self, tag: Tag, sector: u64, length: u32) -> Result<(), StartError> {
        (**self).write_zeroes(tag, sector, length)
    }
    fn poll(&mut self) -> Option<Completion<'_>> {
        (**self).poll()
    }
}

/// A name for [`Disk::id`]: the first 20 bytes of `name`.
pub fn disk_id(name: &str) -> [u8; 20] {
    let mut id = [0; 20];
    for (to, from) in id.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    id
}

const RAM_DISK_REQUESTS: usize = 32;

/// A disk in memory: every request has ended as soon as it was started, and data is copied once.
#[derive(Debug)]
pub struct RamDisk<S> {
    storage: S,
    sectors: u64,
    id: [u8; 20],
    /// What ended: the tag, and of a read the place of its bytes.
    ended: Deque<(Tag, usize, usize), RAM_DISK_REQUESTS>,
}

impl<S: AsRef<[u8]> + AsMut<[u8]>> RamDisk<S> {
    /// A disk whose sectors are `storage`; a part of a sector at its end is not used.
    pub fn new(storage: S, id: [u8; 20]) -> Self {
        let sectors = storage.as_ref().len() as u64 / SECTOR_SIZE;
        Self {
            storage,
            sectors,
            id,
            ended: Deque::new(),
        }
    }

    /// The bytes.
    pub fn contents(&self) -> &[u8] {
        self.storage.as_ref()
    }

    fn range(&mut self, sector: u64, length: u64) -> Result<&mut [u8], StartError> {
        if self.ended.is_full() {
            return Err(StartError::Busy);
        }
        let start = sector
            .checked_mul(SECTOR_SIZE)
            .and_then(|start| usize::try_from(start).ok());
        let length = usize::try_from(length).ok();
        let end = start.zip(length).and_then(|(start, length)| start.checked_add(length));
        start
            .zip(end)
            .and_then(|(start, end)| self.storage.as_mut().get_mut(start..end))
            .ok_or(StartError::Refused)
    }

    fn end(&mut self, tag: Tag, start: usize, length: usize) -> Result<(), StartError> {
        self.ended.push_back((tag, start, length)).map_err(|_| StartError::Busy)
    }
}

impl<S: AsRef<[u8]> + AsMut<[u8]>> Disk for RamDisk<S> {
    fn sectors(&self) -> u64 {
        self.sectors
    }
    fn outlives_backend(&self) -> bool {
        false
    }
    fn id(&self) -> [u8; 20] {
        self.id
    }
    fn max_transfer(&self) -> u32 {
        1 << 20
    }
    fn can_discard(&self) -> bool {
        true
    }
    fn read(&mut self, tag: Tag, sector: u64, length: u32) -> Result<(), StartError> {
        self.range(sector, length.into())?;
        self.end(tag, (sector * SECTOR_SIZE) as usize, length as usize)
    }
    fn write(&mut self, tag: Tag, sector: u64, length: u32, gather: Gather<'_>) -> Result<(), StartError> {
        if !gather(self.range(sector, length.into())?) {
            return Err(StartError::Refused);
        }
        self.end(tag, 0, 0)
    }
    fn flush(&mut self, tag: Tag) -> Result<(), StartError> {
        self.end(tag, 0, 0)
    }
    fn discard(&mut self, tag: Tag, sector: u64, length: u64) -> Result<(), StartError> {
        self.range(sector, length)?.fill(0);
        self.end(tag, 0, 0)
    }
    fn poll(&mut self) -> Option<Completion<'_>> {
        let (tag, start, length) = self.ended.pop_front()?;
        let bytes = self.storage.as_ref().get(start..start + length);
        Some(Completion {
            tag,
            result: bytes.ok_or(DiskError),
        })
    }
}
