//! A passed-through virtio-blk device, driven with the queue and the transport of the `virtio-drivers` crate.
//!
//! That crate's own block driver can flush only by spinning until all is done; here every request, flushes too, starts
//! and ends beside the others. Data goes through buffers of this domain: the device sees no memory of a guest.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::error::Error;
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering, fence};

use bitflags::bitflags;
use guest_runtime::mmio::Registers;
use guest_runtime::virtio::{IdentityHal, each_mmio};
use portunus_virtio::disk::{Completion, Disk, DiskError, Gather, SECTOR_SIZE, StartError, Tag};
use portunus_virtio::mmio::{INTERRUPT_CONFIG, register};
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceType, Transport};

use crate::fate;

/// Bytes of one request: large enough that a request's fixed cost is small, small enough that copying one buffer
/// overlaps with the disk's work on the others.
const BUFFER_SIZE: usize = 256 << 10;
/// Requests beside each other.
const REQUESTS: usize = 4;
/// Three descriptors a request.
const QUEUE_SIZE: usize = 16;
const QUEUE: u16 = 0;

const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const STATUS_OK: u8 = 0;

/// How often the size is read until it is the same before and after.
const CAPACITY_TRIES: u32 = 16;

bitflags! {
    #[derive(Copy, Clone, Debug)]
    struct Feature: u64 {
        const RO = 1 << 5;
        const FLUSH = 1 << 9;
        const EVENT_IDX = 1 << 29;
        const VERSION_1 = 1 << 32;
        const ACCESS_PLATFORM = 1 << 33;
    }
}

/// The interrupt of a disk.
#[derive(Copy, Clone, Debug)]
pub(crate) struct DiskInterrupt {
    pub(crate) intid: u32,
    pub(crate) edge: bool,
    registers: Registers,
    /// What the disk reports as its size.
    sectors: &'static AtomicU64,
}

impl DiskInterrupt {
    /// Tells the device that its interrupt was seen; what it announces is found in its ring, or is a new size.
    pub(crate) fn acknowledge(&self) {
        let status = self.registers.read(register::INTERRUPT_STATUS as usize);
        self.registers.write(register::INTERRUPT_ACK as usize, status);
        if status & INTERRUPT_CONFIG != 0
            && let Some(sectors) = self.capacity()
        {
            self.sectors.store(sectors, Ordering::Relaxed);
        }
    }

    /// The size, whole; `None`: it changes all the time, so another interrupt comes.
    fn capacity(&self) -> Option<u64> {
        let read = |offset| self.registers.read(offset as usize);
        (0..CAPACITY_TRIES).find_map(|_| {
            let generation = read(register::CONFIG_GENERATION);
            let (low, high) = (read(register::CONFIG), read(register::CONFIG + 4));
            let whole = read(register::CONFIG_GENERATION) == generation;
            whole.then_some(u64::from(low) | u64::from(high) << 32)
        })
    }
}

/// Why a disk can't be used.
#[derive(Clone, Debug)]
pub(crate) enum OpenError {
    /// No passed-through device has that path's address.
    NotPassedThrough,
    /// It is no block device, or there is none behind the transport.
    NotADisk,
    /// Its driver gave up.
    Driver(virtio_drivers::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPassedThrough => f.write_str("its source is not passed through to this domain"),
            Self::NotADisk => f.write_str("its source is no virtio-blk device"),
            Self::Driver(error) => write!(f, "its source does not start: {error}"),
        }
    }
}

impl Error for OpenError {}

#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Kind {
    Read,
    Write,
    Flush,
}

#[derive(Copy, Clone, Debug)]
struct Running {
    token: u16,
    tag: Tag,
    kind: Kind,
    length: usize,
}

/// What one request needs while the device works on it: it neither moves nor is touched.
struct Transfer {
    header: [u8; 16],
    status: [u8; 1],
    data: Vec<u8>,
    running: Option<Running>,
}

/// A disk.
pub(crate) struct RealDisk {
    transport: MmioTransport<'static>,
    queue: VirtQueue<IdentityHal, QUEUE_SIZE>,
    transfers: [Box<Transfer>; REQUESTS],
    /// Changed by the interrupt.
    sectors: &'static AtomicU64,
    features: Feature,
    id: [u8; 20],
    /// A flush of a disk that has none: ended at once.
    flushed: Option<Tag>,
}

/// The number after the last `@` of a path in a device tree.
fn unit_address(path: &str) -> Option<u64> {
    u64::from_str_radix(path.rsplit_once('@')?.1, 16).ok()
}

impl RealDisk {
    /// The disk with this path in the machine's device tree: a direct-mapped domain sees it at the same address.
    pub(crate) fn open(path: &str, id: [u8; 20]) -> Result<(Self, DiskInterrupt), OpenError> {
        let address = unit_address(path).ok_or(OpenError::NotPassedThrough)?;
        let mut found = None;
        each_mmio(|registers, interrupt| {
            if registers.start == address {
                found = Some((registers, interrupt));
            }
        });
        let (range, interrupt) = found.ok_or(OpenError::NotPassedThrough)?;
        // SAFETY: the device tree names virtio-mmio registers there.
        let registers = unsafe { Registers::new(range.start as usize) };
        let disk = Self::start(range, id)?;
        let interrupt = DiskInterrupt {
            intid: interrupt.intid,
            edge: interrupt.edge,
            registers,
            sectors: disk.sectors,
        };
        Ok((disk, interrupt))
    }

    fn start(range: Range<u64>, id: [u8; 20]) -> Result<Self, OpenError> {
        let header = NonNull::new(range.start as *mut VirtIOHeader).ok_or(OpenError::NotADisk)?;
        // SAFETY: the device tree names the registers, and only this driver and the interrupt's acknowledge use them.
        let transport = unsafe { MmioTransport::new(header, (range.end - range.start) as usize) };
        let mut transport = transport.map_err(|_| OpenError::NotADisk)?;
        if transport.device_type() != DeviceType::Block {
            return Err(OpenError::NotADisk);
        }
        let features = transport.begin_init(Feature::all());
        let capacity = transport.read_consistent(|| {
            let low: u32 = transport.read_config_space(0)?;
            let high: u32 = transport.read_config_space(4)?;
            Ok(u64::from(low) | u64::from(high) << 32)
        });
        let sectors = capacity.map_err(OpenError::Driver)?;
        let event_idx = features.contains(Feature::EVENT_IDX);
        let queue = VirtQueue::new(&mut transport, QUEUE, false, event_idx).map_err(OpenError::Driver)?;
        transport.finish_init();
        let transfers = core::array::from_fn(|_| {
            Box::new(Transfer {
                header: [0; 16],
                status: [0],
                data: vec![0; BUFFER_SIZE],
                running: None,
            })
        });
        Ok(Self {
            transport,
            queue,
            transfers,
            sectors: Box::leak(Box::new(AtomicU64::new(sectors))),
            features,
            id,
            flushed: None,
        })
    }

    fn begin(
        &mut self,
        tag: Tag,
        kind: Kind,
        sector: u64,
        length: u32,
        gather: Option<Gather<'_>>,
    ) -> Result<(), StartError> {
        let length = length as usize;
        let free = self.transfers.iter_mut().find(|transfer| transfer.running.is_none());
        let transfer = &mut **free.ok_or(StartError::Busy)?;
        let data = transfer.data.get_mut(..length).ok_or(StartError::Refused)?;
        if gather.is_some_and(|gather| !gather(data)) {
            return Err(StartError::Refused);
        }
        fate::step();
        let number = match kind {
            Kind::Read => TYPE_IN,
            Kind::Write => TYPE_OUT,
            Kind::Flush => TYPE_FLUSH,
        };
        transfer.header = (u128::from(number) | u128::from(sector) << 64).to_le_bytes();
        transfer.status = [!STATUS_OK];
        let (header, status) = (&transfer.header[..], &mut transfer.status[..]);
        // SAFETY: the buffers are boxed, live as long as the queue, and are not touched until `poll` has popped them.
        let token = unsafe {
            match kind {
                Kind::Read => self.queue.add(&[header], &mut [data, status]),
                Kind::Write => self.queue.add(&[header, data], &mut [status]),
                Kind::Flush => self.queue.add(&[header], &mut [status]),
            }
        };
        let token = token.map_err(|_| StartError::Busy)?;
        transfer.running = Some(Running {
            token,
            tag,
            kind,
            length,
        });
        if self.queue.should_notify() {
            self.transport.notify(QUEUE);
        }
        Ok(())
    }

    /// The head of the next chain that the device has used.
    fn next_used(&self) -> Option<u16> {
        self.queue.peek_used().or_else(|| {
            // The last pop asked for an interrupt from there on; a chain that was used before the device saw that has
            // none. Look once more after the request is visible.
            fence(Ordering::SeqCst);
            self.queue.peek_used()
        })
    }
}

impl Disk for RealDisk {
    fn sectors(&self) -> u64 {
        self.sectors.load(Ordering::Relaxed)
    }
    fn is_read_only(&self) -> bool {
        self.features.contains(Feature::RO)
    }
    fn id(&self) -> [u8; 20] {
        self.id
    }
    fn max_transfer(&self) -> u32 {
        BUFFER_SIZE as u32
    }
    fn read(&mut self, tag: Tag, sector: u64, length: u32) -> Result<(), StartError> {
        self.begin(tag, Kind::Read, sector, length, None)
    }
    fn write(&mut self, tag: Tag, sector: u64, length: u32, gather: Gather<'_>) -> Result<(), StartError> {
        self.begin(tag, Kind::Write, sector, length, Some(gather))
    }
    fn flush(&mut self, tag: Tag) -> Result<(), StartError> {
        if self.features.contains(Feature::FLUSH) {
            return self.begin(tag, Kind::Flush, 0, 0, None);
        }
        if self.flushed.is_some() {
            return Err(StartError::Busy);
        }
        self.flushed = Some(tag);
        Ok(())
    }
    fn poll(&mut self) -> Option<Completion<'_>> {
        if let Some(tag) = self.flushed.take() {
            return Some(Completion { tag, result: Ok(&[]) });
        }
        let token = self.next_used()?;
        let is_it = |transfer: &&mut Box<Transfer>| transfer.running.is_some_and(|running| running.token == token);
        let transfer = &mut **self.transfers.iter_mut().find(is_it)?;
        let Running { tag, kind, length, .. } = transfer.running.take()?;
        let data = transfer.data.get_mut(..length)?;
        let (header, status) = (&transfer.header[..], &mut transfer.status[..]);
        // SAFETY: the same buffers as `begin` added under this token.
        let popped = unsafe {
            match kind {
                Kind::Read => self.queue.pop_used(token, &[header], &mut [data, status]),
                Kind::Write => self.queue.pop_used(token, &[header, data], &mut [status]),
                Kind::Flush => self.queue.pop_used(token, &[header], &mut [status]),
            }
        };
        let succeeded = popped.is_ok() && transfer.status == [STATUS_OK];
        let read = if kind == Kind::Read { length } else { 0 };
        let bytes = transfer.data.get(..read).filter(|_| succeeded);
        Some(Completion {
            tag,
            result: bytes.ok_or(DiskError),
        })
    }
}

const _: () = assert!((BUFFER_SIZE as u64).is_multiple_of(SECTOR_SIZE) && 3 * REQUESTS <= QUEUE_SIZE);
