//! What outlives a backend: the guest's memory, the state page, the disk; and the backend that dies before any step.
//!
//! A step is a store to the guest's memory or to a page, a write to the disk, an answer, an interrupt, an order to the
//! hypervisor. The clock that
//! counts them says before which the backend dies; then it is gone, with all that it had in its own memory.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use portunus_virtio::accel::{RegisterPage, View};
use portunus_virtio::block::BlockDevice;
use portunus_virtio::chain::Chain;
use portunus_virtio::disk::{Completion, Disk, Gather, StartError, Tag, disk_id};
use portunus_virtio::memory::{GuestAddress, GuestMemory, MemoryError};
use portunus_virtio::mmio::MmioDevice;
use portunus_virtio::state::{Resumption, StatePage, layout};

use super::hypervisor::{Hypervisor, Shown};

pub(crate) const RAM: u64 = 0x4000_0000;
pub(crate) const RAM_SIZE: usize = 192 << 10;
pub(crate) const SECTORS: usize = 64;

/// How a backend ends.
struct Death;

/// The clock of steps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fate {
    /// Steps since the backend began, and in all.
    life: Cell<u64>,
    pub(crate) total: Cell<u64>,
    /// Of each life, before which step it ends; the one after the last never does.
    lives: RefCell<VecDeque<u64>>,
    pub(crate) deaths: Cell<u64>,
}

impl Fate {
    pub(crate) fn new(lives: impl IntoIterator<Item = u64>) -> Self {
        Self {
            lives: RefCell::new(lives.into_iter().collect()),
            ..Self::default()
        }
    }
    pub(crate) fn step(&self) {
        self.total.set(self.total.get() + 1);
        self.life.set(self.life.get() + 1);
        if self.lives.borrow().front() == Some(&self.life.get()) {
            self.lives.borrow_mut().pop_front();
            resume_unwind(Box::new(Death));
        }
    }
    /// Runs a backend; `None`: it died.
    pub(crate) fn live<T>(&self, backend: impl FnOnce() -> T) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(backend)) {
            Ok(value) => Some(value),
            Err(cause) if cause.is::<Death>() => {
                self.life.set(0);
                self.deaths.set(self.deaths.get() + 1);
                None
            }
            Err(cause) => resume_unwind(cause),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) fate: Fate,
    pub(crate) bytes: RefCell<Vec<u8>>,
    pub(crate) page: RefCell<Vec<u32>>,
    pub(crate) disk: RefCell<Vec<u8>>,
    /// What the disk has of it; more is not there.
    pub(crate) sectors: Cell<usize>,
    pub(crate) hypervisor: Hypervisor,
    /// What is no RAM reads as zeros: for drivers that name rings anywhere, and never use them.
    pub(crate) zeros_everywhere: bool,
}

pub(crate) type Device<'a> = MmioDevice<BlockDevice<MortalDisk<'a>, Chain>, Page<'a>>;

/// A backend, and what the driver reads without it.
pub(crate) struct Backend<'a> {
    pub(crate) device: Device<'a>,
    pub(crate) view: View<Shown<'a>>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            fate: Fate::default(),
            bytes: RefCell::new(vec![0; RAM_SIZE]),
            page: RefCell::new(vec![0; layout::SIZE / 4]),
            zeros_everywhere: false,
            sectors: Cell::new(SECTORS),
            hypervisor: Hypervisor::default(),
            disk: RefCell::new(
                (0..SECTORS)
                    .map(|sector| [sector as u8; 512])
                    .collect::<Vec<_>>()
                    .concat(),
            ),
        }
    }
    /// A new backend.
    pub(crate) fn resume(&self, queues: u16) -> (Device<'_>, Resumption) {
        let disk = MortalDisk {
            world: self,
            running: Vec::new(),
            last: Vec::new(),
        };
        MmioDevice::resume(BlockDevice::new(disk, queues), Page(self), &Memory(self))
    }

    /// A new backend that shows its registers if `accelerated`, as it is when it is enabled.
    pub(crate) fn serve(&self, queues: u16, accelerated: bool) -> (Backend<'_>, Resumption) {
        let (mut device, resumption) = self.resume(queues);
        let view = if accelerated {
            self.hypervisor.attach();
            View::Shown(RegisterPage::new(Shown(self), &mut device).expect("the page is there"))
        } else {
            View::Asked
        };
        self.fate.step();
        self.hypervisor.enable();
        (Backend { device, view }, resumption)
    }

    fn range(at: GuestAddress, length: usize) -> Result<std::ops::Range<usize>, MemoryError> {
        let start = at.0.checked_sub(RAM).ok_or(MemoryError(at))?;
        let end = start.checked_add(length as u64).ok_or(MemoryError(at))?;
        if end > RAM_SIZE as u64 {
            return Err(MemoryError(at));
        }
        Ok(start as usize..end as usize)
    }
    pub(crate) fn get(&self, at: u64, length: usize) -> Vec<u8> {
        self.bytes.borrow()[Self::range(GuestAddress(at), length).unwrap()].to_vec()
    }
    pub(crate) fn put(&self, at: u64, bytes: &[u8]) {
        self.bytes.borrow_mut()[Self::range(GuestAddress(at), bytes.len()).unwrap()].copy_from_slice(bytes);
    }
    pub(crate) fn u16(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.get(at, 2).try_into().unwrap())
    }
    pub(crate) fn put_u16(&self, at: u64, value: u16) {
        self.put(at, &value.to_le_bytes());
    }
}

/// The guest's memory as the backend reaches it.
pub(crate) struct Memory<'a>(pub(crate) &'a World);

impl GuestMemory for Memory<'_> {
    fn read(&self, at: GuestAddress, into: &mut [u8]) -> Result<(), MemoryError> {
        match World::range(at, into.len()) {
            Ok(range) => into.copy_from_slice(&self.0.bytes.borrow()[range]),
            Err(_) if self.0.zeros_everywhere => into.fill(0),
            Err(error) => return Err(error),
        }
        Ok(())
    }
    fn write(&self, at: GuestAddress, from: &[u8]) -> Result<(), MemoryError> {
        World::range(at, from.len())?;
        // More than a word is not written at once.
        for (index, part) in from.chunks(from.len().div_ceil(2).max(4)).enumerate() {
            self.0.fate.step();
            let offset = (index * from.len().div_ceil(2).max(4)) as u64;
            self.0.put(at.0 + offset, part);
        }
        Ok(())
    }
    fn load_acquire_u16(&self, at: GuestAddress) -> Result<u16, MemoryError> {
        assert_eq!(at.0 % 2, 0, "words are aligned");
        let mut bytes = [0; 2];
        self.read(at, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }
    fn store_release_u16(&self, at: GuestAddress, value: u16) -> Result<(), MemoryError> {
        assert_eq!(at.0 % 2, 0, "words are aligned");
        World::range(at, 2)?;
        self.0.fate.step();
        self.0.put_u16(at.0, value);
        Ok(())
    }
}

/// The state page as the backend reaches it.
pub(crate) struct Page<'a>(pub(crate) &'a World);

impl StatePage for Page<'_> {
    fn load(&self, offset: usize) -> u32 {
        assert_eq!(offset % 4, 0);
        self.0.page.borrow()[offset / 4]
    }
    fn store(&self, offset: usize, word: u32) {
        assert_eq!(offset % 4, 0);
        self.0.fate.step();
        self.0.page.borrow_mut()[offset / 4] = word;
    }
}

enum Running {
    Read(usize, usize),
    Write(usize, Vec<u8>),
    Flush,
}

/// A disk that outlives its driver; what the driver had not seen end is lost. Requests end last first.
pub(crate) struct MortalDisk<'a> {
    world: &'a World,
    running: Vec<(Tag, Running)>,
    last: Vec<u8>,
}

impl MortalDisk<'_> {
    fn begin(&mut self, tag: Tag, what: Running) -> Result<(), StartError> {
        if self.running.len() == 3 {
            return Err(StartError::Busy);
        }
        self.running.push((tag, what));
        Ok(())
    }
}

impl Disk for MortalDisk<'_> {
    fn sectors(&self) -> u64 {
        self.world.sectors.get() as u64
    }
    fn id(&self) -> [u8; 20] {
        disk_id("mortal")
    }
    fn max_transfer(&self) -> u32 {
        1024
    }
    fn read(&mut self, tag: Tag, sector: u64, length: u32) -> Result<(), StartError> {
        self.begin(tag, Running::Read(sector as usize * 512, length as usize))
    }
    fn write(&mut self, tag: Tag, sector: u64, length: u32, gather: Gather<'_>) -> Result<(), StartError> {
        let mut bytes = vec![0; length as usize];
        if !gather(&mut bytes) {
            return Err(StartError::Refused);
        }
        self.begin(tag, Running::Write(sector as usize * 512, bytes))
    }
    fn flush(&mut self, tag: Tag) -> Result<(), StartError> {
        self.begin(tag, Running::Flush)
    }
    fn poll(&mut self) -> Option<Completion<'_>> {
        let (tag, what) = self.running.pop()?;
        self.last.clear();
        match what {
            Running::Read(at, length) => self.last.extend(&self.world.disk.borrow()[at..at + length]),
            Running::Write(at, bytes) => {
                self.world.fate.step();
                self.world.disk.borrow_mut()[at..at + bytes.len()].copy_from_slice(&bytes);
            }
            Running::Flush => {}
        }
        Some(Completion {
            tag,
            result: Ok(&self.last),
        })
    }
}
