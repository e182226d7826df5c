//! The block device (VIRTIO 1.3, section 5.2) over any [`Disk`].
//!
//! A request is cut into pieces that the disk takes; pieces of one request and of several run beside each other. Data
//! moves once, between the guest's buffers and the disk's. A request is answered when its last piece ended; after a
//! reset nothing is answered and nothing new is taken until what the disk still does has ended, so that an old write
//! can't land on a new one.

mod format;

use crate::device::{DeviceModel, Requests};
use crate::disk::{Disk, SECTOR_SIZE, StartError, Tag};

pub use format::{Feature, MAX_RANGES, RequestType, SEG_MAX, Status};
use format::{Header, Range};

/// Requests of one device that are in work at a time; more wait in their queues.
pub const REQUESTS: usize = 16;

/// A block device.
#[derive(Debug)]
pub struct BlockDevice<D, R> {
    disk: D,
    queues: u16,
    /// The capacity that `config` tells.
    sectors: u64,
    config: [u8; format::CONFIG_SIZE],
    features: Feature,
    /// The driver takes part in flushing; else each write is made durable before it is answered.
    driver_flushes: bool,
    slots: [Slot<R>; REQUESTS],
    /// The queue to look into first, so that none starves.
    next_queue: u16,
}

#[derive(Debug, Default)]
struct Slot<R> {
    state: State,
    request: R,
    kind: Kind,
    status: Status,
    /// What is left to start of the current range.
    sector: u64,
    left: u64,
    /// Bytes of data that were started: where the next piece's data is in the request.
    started: u32,
    /// Ranges of a discard or write-zeroes request that were begun, and how many there are.
    range: u16,
    ranges: u16,
    /// A flush is to follow the last piece.
    flush: bool,
    /// The status is written.
    answered: bool,
    /// Pieces that the disk works on.
    outstanding: u32,
}

#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
enum State {
    #[default]
    Free,
    Active,
    /// The driver reset the device; only the disk still works on it.
    Abandoned,
}

#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
enum Kind {
    #[default]
    Read,
    Write,
    Discard,
    WriteZeroes,
    Flush,
    GetId,
    Unsupported,
}

fn tag(slot: usize, offset: u32) -> Tag {
    Tag(slot as u64 | u64::from(offset) << 16)
}

fn from_tag(tag: Tag) -> (usize, u32) {
    ((tag.0 & 0xffff) as usize, (tag.0 >> 16) as u32)
}

impl<D: Disk, R: Default> BlockDevice<D, R> {
    /// A device of `queues` queues (at least one) over `disk`, read-only if the disk is.
    pub fn new(disk: D, queues: u16) -> Self {
        let read_only = disk.is_read_only();
        Self::with_access(disk, queues, read_only)
    }

    /// As [`Self::new`], read-only whatever the disk is.
    pub fn read_only(disk: D, queues: u16) -> Self {
        Self::with_access(disk, queues, true)
    }

    fn with_access(disk: D, queues: u16, read_only: bool) -> Self {
        let queues = queues.clamp(1, crate::mmio::MAX_QUEUES as u16);
        let mut features = Feature::SEG_MAX | Feature::BLK_SIZE | Feature::FLUSH | Feature::TOPOLOGY | Feature::MQ;
        if read_only {
            features |= Feature::RO;
        } else {
            features |= Feature::WRITE_ZEROES;
            if disk.can_discard() {
                features |= Feature::DISCARD;
            }
        }
        let sectors = disk.sectors();
        Self {
            sectors,
            config: format::config(sectors, queues, features),
            disk,
            queues,
            features,
            driver_flushes: false,
            slots: core::array::from_fn(|_| Slot::default()),
            next_queue: 0,
        }
    }

    /// The same, whose driver makes requests of at most `bytes` of data, but of a page at least: for drivers that copy requests
    /// through little memory, and wait for ever for room for one that is larger.
    #[must_use]
    pub fn with_request_limit(mut self, bytes: u64) -> Self {
        self.features |= Feature::SIZE_MAX;
        format::limit(&mut self.config, format::limits(bytes));
        self
    }

    /// The disk under it.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// Takes what the disk has ended; false if nothing had.
    fn collect<Q: Requests<Request = R>>(&mut self, requests: &mut Q) -> bool {
        let mut progress = false;
        while let Some(completion) = self.disk.poll() {
            let (index, offset) = from_tag(completion.tag);
            let Some(slot) = self.slots.get_mut(index) else {
                continue;
            };
            progress = true;
            slot.outstanding = slot.outstanding.saturating_sub(1);
            match slot.state {
                State::Free => {}
                State::Abandoned if slot.outstanding == 0 => slot.state = State::Free,
                State::Abandoned => {}
                State::Active => match completion.result {
                    Ok(data) if slot.kind == Kind::Read => {
                        // With the last piece goes the status, at once: more copies may cost more hypercalls.
                        let last = slot.outstanding == 0 && slot.left == 0 && slot.status == Status::Ok;
                        let end = requests.writable(&slot.request).saturating_sub(1);
                        let parts = [(offset, data), (end, &[Status::Ok as u8][..])];
                        let parts = if last { &parts[..] } else { &parts[..1] };
                        match requests.write(&slot.request, parts) {
                            Ok(()) => slot.answered = last,
                            Err(_) => slot.status = Status::IoError,
                        }
                    }
                    Ok(_) => {}
                    Err(_) => slot.status = Status::IoError,
                },
            }
        }
        progress
    }

    /// Starts as much of a request as the disk takes; answers it when nothing is left.
    fn advance<Q: Requests<Request = R>>(&mut self, index: usize, requests: &mut Q) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        if slot.state != State::Active {
            return;
        }
        while slot.status == Status::Ok {
            if slot.left == 0 {
                if slot.range == slot.ranges {
                    break;
                }
                slot.begin_range(&self.disk, requests);
                continue;
            }
            match slot.start_piece(index, &mut self.disk, requests) {
                Ok(()) => slot.outstanding += 1,
                Err(StartError::Busy) => return,
                Err(StartError::Refused) => slot.status = Status::IoError,
            }
        }
        if slot.outstanding != 0 {
            return;
        }
        if slot.flush && slot.status == Status::Ok {
            match self.disk.flush(tag(index, 0)) {
                Ok(()) => {
                    slot.flush = false;
                    slot.outstanding = 1;
                    return;
                }
                Err(StartError::Busy) => return,
                Err(StartError::Refused) => slot.status = Status::IoError,
            }
        }
        slot.answer(&self.disk, requests);
    }

    /// Takes requests out of the queues while there is room; false if it took none.
    fn admit<Q: Requests<Request = R>>(&mut self, requests: &mut Q) -> bool {
        let mut progress = false;
        if self.slots.iter().any(|slot| slot.state == State::Abandoned) {
            return progress;
        }
        let mut idle = 0;
        for _ in 0..REQUESTS + usize::from(self.queues) {
            let free = self
                .slots
                .iter_mut()
                .enumerate()
                .find(|(_, slot)| slot.state == State::Free);
            let Some((index, slot)) = free.filter(|_| idle < self.queues) else {
                break;
            };
            let queue = self.next_queue;
            self.next_queue = (queue + 1) % self.queues;
            if !requests.take(queue, &mut slot.request) {
                idle += 1;
                continue;
            }
            idle = 0;
            progress = true;
            if slot.begin(&self.disk, self.features, self.driver_flushes, requests) {
                self.advance(index, requests);
            }
        }
        progress
    }
}

impl<R> Slot<R> {
    /// Reads the header and finds out what to do. False: not even an error can be answered.
    fn begin<D: Disk, Q: Requests<Request = R>>(
        &mut self,
        disk: &D,
        features: Feature,
        driver_flushes: bool,
        requests: &mut Q,
    ) -> bool {
        let mut header = [0; Header::SIZE];
        let readable = requests.readable(&self.request);
        let writable = requests.writable(&self.request);
        if writable == 0 || requests.read(&self.request, 0, &mut header).is_err() {
            requests.fail();
            return false;
        }
        let header = Header::from_bytes(header);
        // The header before and the status after the data are no data.
        let given = u64::from(readable) - Header::SIZE as u64;
        let wanted = u64::from(writable) - 1;

        self.state = State::Active;
        self.status = Status::Ok;
        self.kind = Kind::Unsupported;
        (self.sector, self.left, self.started) = (header.sector, 0, 0);
        (self.range, self.ranges) = (0, 0);
        self.flush = false;
        self.answered = false;
        self.outstanding = 0;

        let data = match RequestType::from_number(header.kind) {
            Some(RequestType::In) => {
                self.kind = Kind::Read;
                wanted
            }
            Some(RequestType::Out) => {
                self.kind = Kind::Write;
                given
            }
            Some(RequestType::Flush) => {
                self.kind = Kind::Flush;
                self.flush = true;
                0
            }
            Some(RequestType::GetId) => {
                self.kind = Kind::GetId;
                0
            }
            Some(RequestType::Discard) if features.contains(Feature::DISCARD) => {
                self.begin_ranges(Kind::Discard, given);
                0
            }
            Some(RequestType::WriteZeroes) if features.contains(Feature::WRITE_ZEROES) => {
                self.begin_ranges(Kind::WriteZeroes, given);
                0
            }
            _ => {
                self.status = Status::Unsupported;
                0
            }
        };
        if matches!(self.kind, Kind::Write | Kind::Discard | Kind::WriteZeroes) {
            self.flush = !driver_flushes;
            if features.contains(Feature::RO) {
                self.status = Status::IoError;
            }
        }
        if data % SECTOR_SIZE != 0 || !fits(disk, header.sector, data / SECTOR_SIZE) {
            if matches!(self.kind, Kind::Read | Kind::Write) {
                self.status = Status::IoError;
            }
        } else {
            self.left = data;
        }
        true
    }

    fn begin_ranges(&mut self, kind: Kind, given: u64) {
        let ranges = given / Range::SIZE as u64;
        if !given.is_multiple_of(Range::SIZE as u64) || ranges == 0 || ranges > u64::from(MAX_RANGES) {
            self.status = Status::IoError;
            return;
        }
        self.kind = kind;
        self.ranges = ranges as u16;
    }

    /// Reads and checks the next range of a discard or write-zeroes request, once.
    fn begin_range<D: Disk, Q: Requests<Request = R>>(&mut self, disk: &D, requests: &Q) {
        let mut bytes = [0; Range::SIZE];
        let offset = (Header::SIZE + Range::SIZE * usize::from(self.range)) as u32;
        if requests.read(&self.request, offset, &mut bytes).is_err() {
            self.status = Status::IoError;
            return;
        }
        let range = Range::from_bytes(bytes);
        let allowed = if self.kind == Kind::WriteZeroes {
            Range::UNMAP
        } else {
            0
        };
        self.range += 1;
        if range.flags & !allowed != 0 {
            self.status = Status::Unsupported;
        } else if !fits(disk, range.sector, range.sectors.into()) {
            self.status = Status::IoError;
        } else {
            self.sector = range.sector;
            self.left = u64::from(range.sectors) * SECTOR_SIZE;
        }
    }

    fn start_piece<D: Disk, Q: Requests<Request = R>>(
        &mut self,
        index: usize,
        disk: &mut D,
        requests: &Q,
    ) -> Result<(), StartError> {
        let whole_sectors = disk.max_transfer() & !(SECTOR_SIZE as u32 - 1);
        let largest = u64::from(whole_sectors.max(SECTOR_SIZE as u32));
        let length = if self.kind == Kind::Discard {
            self.left
        } else {
            self.left.min(largest)
        };
        let tag = tag(index, self.started);
        match self.kind {
            Kind::Read => disk.read(tag, self.sector, length as u32)?,
            Kind::Write => {
                let offset = Header::SIZE as u32 + self.started;
                let request = &self.request;
                disk.write(tag, self.sector, length as u32, &mut |buffer| {
                    requests.read(request, offset, buffer).is_ok()
                })?;
            }
            Kind::WriteZeroes => disk.write_zeroes(tag, self.sector, length as u32)?,
            Kind::Discard => disk.discard(tag, self.sector, length)?,
            Kind::Flush | Kind::GetId | Kind::Unsupported => return Err(StartError::Refused),
        }
        self.left -= length;
        self.sector += length / SECTOR_SIZE;
        if matches!(self.kind, Kind::Read | Kind::Write) {
            self.started += length as u32;
        }
        Ok(())
    }

    fn answer<D: Disk, Q: Requests<Request = R>>(&mut self, disk: &D, requests: &mut Q) {
        self.state = State::Free;
        let end = requests.writable(&self.request).saturating_sub(1);
        let mut written = match self.kind {
            Kind::Read => self.started,
            _ => 0,
        };
        if self.kind == Kind::GetId && self.status == Status::Ok {
            let id = disk.id();
            let length = id.len().min(end as usize);
            match requests.write(&self.request, &[(0, id.get(..length).unwrap_or_default())]) {
                Ok(()) => written = length as u32,
                Err(_) => self.status = Status::IoError,
            }
        }
        if !self.answered && requests.write(&self.request, &[(end, &[self.status as u8])]).is_err() {
            requests.fail();
            return;
        }
        // The length vouches for every byte up to it, so the status counts only when all before it was written.
        let all = self.status == Status::Ok && written == end;
        requests.complete(&self.request, if all { written + 1 } else { 0 });
    }
}

fn fits<D: Disk>(disk: &D, sector: u64, sectors: u64) -> bool {
    sector.checked_add(sectors).is_some_and(|end| end <= disk.sectors())
}

impl<D: Disk, R: Default> DeviceModel for BlockDevice<D, R> {
    type Request = R;

    fn device_id(&self) -> u32 {
        2
    }
    fn features(&self) -> u64 {
        self.features.bits()
    }
    fn queues(&self) -> u16 {
        self.queues
    }
    fn read_config(&self, offset: usize, into: &mut [u8]) {
        into.fill(0);
        let bytes = self.config.get(offset..).unwrap_or_default();
        for (to, from) in into.iter_mut().zip(bytes) {
            *to = *from;
        }
    }
    fn take_configuration_change(&mut self) -> bool {
        let sectors = self.disk.sectors();
        if sectors == self.sectors {
            return false;
        }
        self.sectors = sectors;
        self.config = format::config(sectors, self.queues, self.features);
        true
    }
    fn outlives_backend(&self) -> bool {
        self.disk.outlives_backend()
    }
    fn activate(&mut self, features: u64) {
        self.driver_flushes = Feature::from_bits_truncate(features).contains(Feature::FLUSH);
    }
    fn reset(&mut self) {
        for slot in self.slots.iter_mut().filter(|slot| slot.state != State::Free) {
            slot.state = if slot.outstanding == 0 {
                State::Free
            } else {
                State::Abandoned
            };
        }
        self.driver_flushes = false;
    }
    fn process<Q: Requests<Request = R>>(&mut self, requests: &mut Q) -> bool {
        let mut progress = self.collect(requests);
        for index in 0..REQUESTS {
            self.advance(index, requests);
        }
        progress |= self.admit(requests);
        // What a disk ends at once is answered in the same pass.
        if progress && self.collect(requests) {
            for index in 0..REQUESTS {
                self.advance(index, requests);
            }
        }
        progress
    }
    fn is_busy(&self) -> bool {
        self.slots.iter().any(|slot| slot.state != State::Free)
    }
}
