//! A backend as guests must survive it, for tests: slow, or deaf or slow to hear a reset. Boot arguments ask for it.

use core::sync::atomic::{AtomicU64, Ordering};

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use guest_runtime::{device_tree, println, timer};
use portunus_virtio::disk::{Completion, Disk, Gather, StartError, Tag};
use portunus_virtio::mmio::{REGION_SIZE, register, status};
use portunus_virtio::shim::{Access, Operation};

/// When the first of all slow disks has something; `u64::MAX`: none has.
static NEXT: AtomicU64 = AtomicU64::new(u64::MAX);

/// Forgets what slow disks said; they say it again when they are polled.
pub(crate) fn forget_alarm() {
    NEXT.store(u64::MAX, Ordering::Relaxed);
}

/// Lets the timer fire when a slow disk has something.
pub(crate) fn set_alarm() {
    match NEXT.load(Ordering::Relaxed) {
        u64::MAX => timer::stop(),
        at => timer::set_deadline(at),
    }
}

/// A disk whose reads take longer than it does: each ends no sooner than a fixed time after its start.
pub(crate) struct SlowDisk {
    disk: &'static mut dyn Disk,
    delay: u64,
    /// When each request that was started may end. Those of the disk below end in any order.
    due: VecDeque<u64>,
}

impl SlowDisk {
    /// `disk` with a delay in milliseconds.
    pub(crate) fn new(disk: &'static mut dyn Disk, milliseconds: u64) -> Self {
        Self {
            disk,
            delay: timer::ticks(milliseconds * 1000),
            due: VecDeque::new(),
        }
    }

    fn started(&mut self, delay: u64) {
        self.due.push_back(timer::now() + delay);
    }
}

impl Disk for SlowDisk {
    fn sectors(&self) -> u64 {
        self.disk.sectors()
    }
    fn is_read_only(&self) -> bool {
        self.disk.is_read_only()
    }
    fn outlives_backend(&self) -> bool {
        self.disk.outlives_backend()
    }
    fn id(&self) -> [u8; 20] {
        self.disk.id()
    }
    fn max_transfer(&self) -> u32 {
        self.disk.max_transfer()
    }
    fn read(&mut self, tag: Tag, sector: u64, length: u32) -> Result<(), StartError> {
        self.disk.read(tag, sector, length)?;
        self.started(self.delay);
        Ok(())
    }
    fn write(&mut self, tag: Tag, sector: u64, length: u32, gather: Gather<'_>) -> Result<(), StartError> {
        self.disk.write(tag, sector, length, gather)?;
        self.started(0);
        Ok(())
    }
    fn flush(&mut self, tag: Tag) -> Result<(), StartError> {
        self.disk.flush(tag)?;
        self.started(0);
        Ok(())
    }
    fn poll(&mut self) -> Option<Completion<'_>> {
        let due = *self.due.front()?;
        if timer::now() < due {
            NEXT.fetch_min(due, Ordering::Relaxed);
            return None;
        }
        let completion = self.disk.poll()?;
        self.due.pop_front();
        Some(completion)
    }
}

/// Whether this backend listens when a driver resets its running device.
#[derive(Debug)]
pub(crate) struct Hearing {
    deaf: bool,
    /// How long it takes to hear that the first time, in milliseconds.
    slow: Option<u64>,
    /// Registers of devices that their drivers have running.
    running: Vec<u64>,
}

impl Hearing {
    /// A deaf one hears no reset of a running device: it neither answers nor stops. The boot argument `slow-reset-ms=N` makes
    /// it hear late.
    pub(crate) fn new(deaf: bool) -> Self {
        Self {
            deaf,
            slow: device_tree::boot_number("slow-reset-ms"),
            running: Vec::new(),
        }
    }

    /// Whether `access` is not heard.
    pub(crate) fn misses(&mut self, access: &Access) -> bool {
        let base = access.address - access.address % REGION_SIZE;
        if !self.deaf && self.slow.is_none() || access.address - base != register::STATUS {
            return false;
        }
        match access.operation {
            Operation::Write(0) if self.running.contains(&base) => {
                if self.deaf {
                    println!("backend: does not hear the reset");
                } else if let Some(milliseconds) = self.slow.take() {
                    println!("backend: hears the reset after {milliseconds} ms");
                    let end = timer::now() + timer::ticks(milliseconds * 1000);
                    while timer::now() < end {}
                }
                self.deaf
            }
            Operation::Write(value) => {
                self.running.retain(|running| *running != base);
                if value & u64::from(status::DRIVER_OK) != 0 {
                    self.running.push(base);
                }
                false
            }
            Operation::Read => false,
        }
    }
}
