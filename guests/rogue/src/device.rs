//! A virtio disk by its registers (VIRTIO 1.3, sections 4.2.2, 2.7 and 5.2), with nothing in between that checks anything.

use core::alloc::Layout;
use core::ops::Range;
use core::ptr;
use core::sync::atomic::{Ordering, fence};

use guest_runtime::dma::Reach;
use guest_runtime::mmio::Registers;
use guest_runtime::{granting, timer};

use crate::fail;

pub(crate) const PAGE: u64 = 4096;
const SIZE: u16 = 8;
/// Marks an address as a grant.
pub(crate) const GRANTED: u64 = 1 << 63;

mod register {
    pub(super) const DEVICE_FEATURES: usize = 0x10;
    pub(super) const DEVICE_FEATURES_SEL: usize = 0x14;
    pub(super) const DRIVER_FEATURES: usize = 0x20;
    pub(super) const DRIVER_FEATURES_SEL: usize = 0x24;
    pub(super) const QUEUE_SEL: usize = 0x30;
    pub(super) const QUEUE_NUM: usize = 0x38;
    pub(super) const QUEUE_READY: usize = 0x44;
    pub(super) const QUEUE_NOTIFY: usize = 0x50;
    pub(super) const INTERRUPT_STATUS: usize = 0x60;
    pub(super) const INTERRUPT_ACK: usize = 0x64;
    pub(super) const STATUS: usize = 0x70;
    pub(super) const RINGS: [usize; 3] = [0x80, 0x90, 0xa0];
}

const DRIVER_OK: u32 = 1 | 2 | 4 | 8;
const NEEDS_RESET: u32 = 0x40;
/// VIRTIO_F_VERSION_1 and VIRTIO_F_ACCESS_PLATFORM, bits 32 and 33.
const FEATURES_HIGH: u32 = 0b11;

/// How long a device may take, in microseconds.
const PATIENCE: u64 = 5_000_000;

/// What became of a request.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// It ended with this status.
    Status(u8),
    /// The device needs a reset.
    NeedsReset,
    /// Neither.
    Nothing,
}

/// Pages of the driver's that the device may reach, one behind the other.
pub(crate) const RING: u64 = 0;
pub(crate) const HEADER: u64 = 3;
pub(crate) const DATA: u64 = 4;
pub(crate) const SPARE: u64 = 5;
const PAGES: u64 = 6;
/// In the header's page.
pub(crate) const STATUS_AT: u64 = 64;

/// A request: where its parts are for the device.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Request {
    pub(crate) header: u64,
    pub(crate) data: u64,
    pub(crate) length: u32,
    pub(crate) status: u64,
    pub(crate) is_write: bool,
}

pub(crate) struct Device {
    registers: Registers,
    pub(crate) reach: Reach,
    /// The pages that it may reach: where they are, and their first one's address for the device.
    pub(crate) pages: u64,
    pub(crate) address: u64,
    offered: u16,
}

/// Fresh pages of RAM that no device may reach.
pub(crate) fn private_pages(count: u64) -> u64 {
    let layout = Layout::from_size_align((count * PAGE) as usize, PAGE as usize);
    let Ok(layout) = layout else {
        fail(format_args!("{count} pages"))
    };
    // SAFETY: not of size 0.
    let pages = unsafe { alloc::alloc::alloc_zeroed(layout) };
    if pages.is_null() {
        fail(format_args!("no memory for {count} pages"));
    }
    pages as u64
}

pub(crate) fn put<T: Copy>(at: u64, value: T) {
    // SAFETY: pages of this driver's that are used as bytes only, by it and by devices.
    unsafe { ptr::write_volatile(at as *mut T, value) };
}

pub(crate) fn get<T: Copy>(at: u64) -> T {
    // SAFETY: as `put`; only numbers are read.
    unsafe { ptr::read_volatile(at as *const T) }
}

impl Device {
    pub(crate) fn new(at: Range<u64>, reach: Reach) -> Self {
        let (pages, address) = match &reach {
            Reach::All => {
                let pages = private_pages(PAGES);
                (pages, pages)
            }
            Reach::Grants(backend) => {
                let pages = private_pages(PAGES);
                let first = granting::grant(*backend, pages / PAGE, PAGES as u32, false);
                (pages, GRANTED | u64::from(first) << 12)
            }
            // At its end, so that what follows is outside.
            Reach::Window(window) => (window.end - PAGES * PAGE, window.end - PAGES * PAGE),
        };
        Self {
            // SAFETY: the device tree names virtio-mmio registers there.
            registers: unsafe { Registers::new(at.start as usize) },
            reach,
            pages,
            address,
            offered: 0,
        }
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self.reach {
            Reach::All => "all",
            Reach::Grants(_) => "grants",
            Reach::Window(_) => "window",
        }
    }

    pub(crate) fn rings(&self) -> [u64; 3] {
        [0, 1, 2].map(|ring| self.address + (RING + ring) * PAGE)
    }

    /// Resets the device, and drives it with these rings. `false`: it did not take them.
    pub(crate) fn start(&mut self, rings: [u64; 3]) -> bool {
        let registers = self.registers;
        registers.write(register::STATUS, 0);
        let start = timer::now();
        while registers.read(register::STATUS) != 0 {
            if timer::now() - start > timer::ticks(PATIENCE) {
                fail(format_args!("{}: no end of a reset", self.kind()));
            }
            guest_runtime::let_others_run();
        }
        for ring in 0..3 {
            for word in 0..PAGE / 8 {
                put(self.pages + (RING + ring) * PAGE + word * 8, 0_u64);
            }
        }
        self.offered = 0;
        registers.write(register::STATUS, 1 | 2);
        registers.write(register::DEVICE_FEATURES_SEL, 1);
        let offered = registers.read(register::DEVICE_FEATURES);
        for (select, features) in [(0, 0), (1, offered & FEATURES_HIGH)] {
            registers.write(register::DRIVER_FEATURES_SEL, select);
            registers.write(register::DRIVER_FEATURES, features);
        }
        registers.write(register::STATUS, 1 | 2 | 8);
        registers.write(register::QUEUE_SEL, 0);
        registers.write(register::QUEUE_NUM, SIZE.into());
        for (at, ring) in register::RINGS.into_iter().zip(rings) {
            registers.write(at, ring as u32);
            registers.write(at + 4, (ring >> 32) as u32);
        }
        registers.write(register::QUEUE_READY, 1);
        registers.write(register::STATUS, DRIVER_OK);
        registers.read(register::STATUS) & NEEDS_RESET == 0
    }

    /// A request of whose parts all are where they should be.
    pub(crate) fn good(&self, is_write: bool) -> Request {
        Request {
            header: self.address + HEADER * PAGE,
            data: self.address + DATA * PAGE,
            length: 512,
            status: self.address + HEADER * PAGE + STATUS_AT,
            is_write,
        }
    }

    /// Gives the device a request for `sector`.
    pub(crate) fn offer(&mut self, request: &Request, sector: u64) {
        let header = self.pages + HEADER * PAGE;
        put(header, u32::from(request.is_write));
        put(header + 4, 0_u32);
        put(header + 8, sector);
        put(header + STATUS_AT, 0xff_u8);
        let data_flags = if request.is_write { 1 } else { 1 | 2 };
        let chain = [
            (request.header, 16, 1_u16, 1_u16),
            (request.data, request.length, data_flags, 2),
            (request.status, 1, 2, 0),
        ];
        for (index, (address, length, flags, next)) in (0..).zip(chain) {
            let at = self.pages + RING * PAGE + index * 16;
            put(at, address);
            put(at + 8, length);
            put(at + 12, flags);
            put(at + 14, next);
        }
        let available = self.pages + (RING + 1) * PAGE;
        put(available + 4 + u64::from(self.offered % SIZE) * 2, 0_u16);
        fence(Ordering::SeqCst);
        self.offered = self.offered.wrapping_add(1);
        put(available + 2, self.offered);
        fence(Ordering::SeqCst);
        self.registers.write(register::QUEUE_NOTIFY, 0);
    }

    /// Waits for the end of what was offered.
    pub(crate) fn outcome(&mut self, microseconds: u64) -> Outcome {
        let start = timer::now();
        loop {
            if self.registers.read(register::STATUS) & NEEDS_RESET != 0 {
                return Outcome::NeedsReset;
            }
            fence(Ordering::SeqCst);
            if get::<u16>(self.pages + (RING + 2) * PAGE + 2) == self.offered {
                let pending = self.registers.read(register::INTERRUPT_STATUS);
                self.registers.write(register::INTERRUPT_ACK, pending);
                fence(Ordering::SeqCst);
                return Outcome::Status(get(self.pages + HEADER * PAGE + STATUS_AT));
            }
            if timer::now() - start > timer::ticks(microseconds) {
                return Outcome::Nothing;
            }
            guest_runtime::let_others_run();
        }
    }

    /// Writes what belongs to `number` to a sector and reads it back, with a queue as it should be.
    pub(crate) fn must_work(&mut self, number: u64, after: &str) {
        if !self.start(self.rings()) {
            fail(format_args!("{}: after {after}: a reset does not heal", self.kind()));
        }
        let sector = number % 64;
        let data = self.pages + DATA * PAGE;
        let word = |index: u64| (number << 16 | index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for is_write in [true, false] {
            for index in 0..64 {
                put(data + index * 8, if is_write { word(index) } else { 0 });
            }
            self.offer(&self.good(is_write), sector);
            match self.outcome(PATIENCE) {
                Outcome::Status(0) => {}
                outcome => fail(format_args!(
                    "{}: after {after}: a good request: {outcome:?}",
                    self.kind()
                )),
            }
        }
        if let Some(index) = (0..64).find(|index| get::<u64>(data + index * 8) != word(*index)) {
            fail(format_args!(
                "{}: after {after}: word {index} of sector {sector} is another",
                self.kind()
            ));
        }
    }
}
