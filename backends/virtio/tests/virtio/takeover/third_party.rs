//! The unmodified `virtio-drivers` crate over backends that die: it sees a disk and nothing else.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use portunus_virtio::block::BlockDevice;
use portunus_virtio::chain::Chain;
use portunus_virtio::disk::{Completion, Disk, Gather, RamDisk, StartError, Tag, disk_id};
use portunus_virtio::memory::{GuestAddress, GuestMemory, MemoryError};
use portunus_virtio::mmio::MmioDevice;
use portunus_virtio::state::{Resumption, StatePage, layout};
use virtio_drivers::device::blk::VirtIOBlk;

use super::Random;
use super::world::Fate;
use crate::third_party::{HostHal, OwnMemory, RegisterAccess, Registers};

/// What outlives the backends.
struct Shared {
    fate: Fate,
    page: RefCell<Vec<u32>>,
    disk: RefCell<RamDisk<Vec<u8>>>,
    /// Requests that were run again.
    again: Cell<u32>,
}

struct Page(Rc<Shared>);

impl StatePage for Page {
    fn load(&self, offset: usize) -> u32 {
        self.0.page.borrow()[offset / 4]
    }
    fn store(&self, offset: usize, word: u32) {
        self.0.fate.step();
        self.0.page.borrow_mut()[offset / 4] = word;
    }
}

struct Memory<'a>(&'a Shared);

impl GuestMemory for Memory<'_> {
    fn read(&self, at: GuestAddress, into: &mut [u8]) -> Result<(), MemoryError> {
        OwnMemory.read(at, into)
    }
    fn write(&self, at: GuestAddress, from: &[u8]) -> Result<(), MemoryError> {
        self.0.fate.step();
        OwnMemory.write(at, from)
    }
    fn load_acquire_u16(&self, at: GuestAddress) -> Result<u16, MemoryError> {
        OwnMemory.load_acquire_u16(at)
    }
    fn store_release_u16(&self, at: GuestAddress, value: u16) -> Result<(), MemoryError> {
        self.0.fate.step();
        OwnMemory.store_release_u16(at, value)
    }
}

/// The disk as one backend has it: what had ended and was not seen is lost with it.
struct SharedDisk {
    shared: Rc<Shared>,
    ended: Vec<(Tag, Vec<u8>)>,
    last: Vec<u8>,
}

impl SharedDisk {
    fn run(&mut self, start: impl FnOnce(&mut RamDisk<Vec<u8>>) -> Result<(), StartError>) -> Result<(), StartError> {
        self.shared.fate.step();
        let mut disk = self.shared.disk.borrow_mut();
        start(&mut disk)?;
        while let Some(Completion { tag, result }) = disk.poll() {
            self.ended
                .push((tag, result.expect("a RAM disk has no errors").to_vec()));
        }
        Ok(())
    }
}

impl Disk for SharedDisk {
    fn sectors(&self) -> u64 {
        self.shared.disk.borrow().sectors()
    }
    fn id(&self) -> [u8; 20] {
        disk_id("disk0")
    }
    fn max_transfer(&self) -> u32 {
        2048
    }
    fn read(&mut self, tag: Tag, sector: u64, length: u32) -> Result<(), StartError> {
        self.run(|disk| disk.read(tag, sector, length))
    }
    fn write(&mut self, tag: Tag, sector: u64, length: u32, gather: Gather<'_>) -> Result<(), StartError> {
        self.run(|disk| disk.write(tag, sector, length, gather))
    }
    fn flush(&mut self, tag: Tag) -> Result<(), StartError> {
        self.run(|disk| disk.flush(tag))
    }
    fn poll(&mut self) -> Option<Completion<'_>> {
        let (tag, bytes) = self.ended.pop()?;
        self.last = bytes;
        Some(Completion {
            tag,
            result: Ok(&self.last),
        })
    }
}

type Device = MmioDevice<BlockDevice<SharedDisk, Chain>, Page>;

/// Backends, one after the other.
struct Backends {
    shared: Rc<Shared>,
    device: Option<Device>,
}

impl Backends {
    /// Lets one backend after the other try it, until one lives to tell.
    fn with<T>(&mut self, mut what: impl FnMut(&Shared, &mut Device) -> T) -> T {
        loop {
            let shared = self.shared.clone();
            let device = &mut self.device;
            let done = shared.fate.live(|| {
                let device = device.get_or_insert_with(|| {
                    let disk = SharedDisk {
                        shared: shared.clone(),
                        ended: Vec::new(),
                        last: Vec::new(),
                    };
                    let block = BlockDevice::new(disk, 1);
                    let (device, resumption) = MmioDevice::resume(block, Page(shared.clone()), &Memory(&shared));
                    match resumption {
                        Resumption::Fresh => {}
                        Resumption::Continued { requests } => shared.again.set(shared.again.get() + requests),
                        Resumption::Refused(error) => panic!("{error}"),
                    }
                    device
                });
                let done = what(&shared, device);
                shared.fate.step();
                done
            });
            match done {
                Some(done) => return done,
                None => self.device = None,
            }
        }
    }
}

impl RegisterAccess for Backends {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        self.with(|_, device| device.read(offset, size))
    }
    fn write(&mut self, offset: u64, value: u32) {
        self.with(|_, device| device.write(offset, 4, value.into()));
    }
    fn run(&mut self) {
        self.with(|shared, device| while device.has_work() && device.process(&Memory(shared)) {});
    }
}

#[test]
fn virtio_drivers_notices_no_death() {
    let (mut deaths, mut again) = (0, 0);
    for seed in 1..=40 {
        let random = &mut Random(seed * 0x5555_1234_5677);
        let contents: Vec<u8> = (0..64 * 512).map(|offset| (offset / 512) as u8).collect();
        let shared = Rc::new(Shared {
            fate: Fate::new((0..400).map(|_| 1 + random.below(40 + 8 * seed))),
            page: RefCell::new(vec![0; layout::SIZE / 4]),
            disk: RefCell::new(RamDisk::new(contents, disk_id("disk0"))),
            again: Cell::new(0),
        });
        let backends = Backends {
            shared: shared.clone(),
            device: None,
        };
        let registers = Registers::over(backends);
        let mut disk = VirtIOBlk::<HostHal, _>::new(registers.clone()).unwrap();
        assert_eq!(disk.capacity(), 64);
        for turn in 0..60_u8 {
            let sector = usize::from(turn % 60);
            let written = vec![turn; 4 * 512];
            disk.write_blocks(sector, &written).unwrap();
            disk.flush().unwrap();
            let mut read = vec![0; 4 * 512];
            disk.read_blocks(sector, &mut read).unwrap();
            assert_eq!(read, written, "seed {seed}, turn {turn}");
        }
        let mut id = [0; 20];
        let length = disk.device_id(&mut id).unwrap();
        assert_eq!(&id[..length], b"disk0");
        deaths += shared.fate.deaths.get();
        again += shared.again.get();
    }
    println!("{deaths} deaths, {again} requests run again");
    assert!(deaths > 1_000 && again > 100, "{deaths} {again}");
}
