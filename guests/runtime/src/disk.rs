//! A VirtIO disk whose requests sleep until its interrupt, driven by a driver that knows nothing of who serves it.

use core::ops::Range;
use core::ptr::NonNull;

use virtio_drivers::Hal;
use virtio_drivers::device::blk::VirtIOBlk;
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};

use crate::device_tree::Interrupt;
use crate::dma::Reach;
use crate::gic::Gic;
use crate::mmio::Registers;
use crate::virtio::{IdentityHal, each_mmio_node};
use crate::wait_for_interrupt;

pub use virtio_drivers::device::blk::{BlkReq, BlkResp, SECTOR_SIZE};

/// The registers that say what a device is, and what they say of a disk (VIRTIO 1.3, sections 4.2.2 and 5).
const MAGIC_VALUE: usize = 0;
const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const DEVICE_ID: usize = 8;
const BLOCK: u32 = 2;

/// A disk of one vCPU, whose driver makes memory reachable by `H`.
pub struct Disk<H: Hal = IdentityHal> {
    /// The driver.
    pub driver: VirtIOBlk<H, MmioTransport<'static>>,
    /// Where its registers are.
    pub base: u64,
    /// All of them.
    pub registers: Range<u64>,
    /// Its interrupt.
    pub interrupt: Interrupt,
    gic: Gic,
}

/// A block device that nobody drives yet.
#[derive(Clone, Debug)]
pub struct Found {
    /// All of its registers.
    pub registers: Range<u64>,
    /// Its interrupt.
    pub interrupt: Interrupt,
    /// What it may reach.
    pub reach: Reach,
}

impl Found {
    /// The block device of the device tree that has `before` others before it.
    pub fn nth(before: usize) -> Option<Self> {
        let mut found = None;
        let mut before = before;
        each_mmio_node(|registers, interrupt, node| {
            // SAFETY: the device tree names virtio-mmio registers there; reading what it is changes nothing.
            let identity = unsafe { Registers::new(registers.start as usize) };
            // No transport is made of another device: its end would reset it.
            if found.is_some() || identity.read(MAGIC_VALUE) != MAGIC || identity.read(DEVICE_ID) != BLOCK {
                return;
            }
            if before != 0 {
                before -= 1;
                return;
            }
            let reach = Reach::of(node);
            found = Some(Self {
                registers,
                interrupt,
                reach,
            });
        });
        found
    }
}

impl Disk {
    /// The first block device of the device tree; `None`: there is none. Its interrupt is enabled.
    ///
    /// # Errors
    /// The driver's.
    pub fn open(gic: Gic) -> virtio_drivers::Result<Option<Self>> {
        Self::open_nth(gic, 0)
    }

    /// As [`Self::open`], the block device that has `before` others before it. An interrupt of each wakes the vCPU; who waits
    /// for one disk does not expect another's, so only one of several may sleep.
    ///
    /// # Errors
    /// The driver's.
    pub fn open_nth(gic: Gic, before: usize) -> virtio_drivers::Result<Option<Self>> {
        Found::nth(before).map(|found| Self::start(gic, found)).transpose()
    }
}

impl<H: Hal> Disk<H> {
    /// Drives a device. `H` is right for what it may reach, and set up.
    ///
    /// # Errors
    /// The driver's.
    pub fn start(gic: Gic, found: Found) -> virtio_drivers::Result<Self> {
        let Found {
            registers, interrupt, ..
        } = found;
        let header = NonNull::new(registers.start as *mut VirtIOHeader).ok_or(virtio_drivers::Error::InvalidParam)?;
        let size = (registers.end - registers.start) as usize;
        // SAFETY: the device tree names virtio-mmio registers there, and nobody else in this guest uses them.
        let transport = unsafe { MmioTransport::new(header, size) };
        let transport = transport.map_err(|_| virtio_drivers::Error::InvalidParam)?;
        gic.enable(interrupt.intid, interrupt.edge);
        Ok(Self {
            driver: VirtIOBlk::new(transport)?,
            base: registers.start,
            registers,
            interrupt,
            gic,
        })
    }

    /// Sleeps until a request has ended; its token. Interrupts stay masked at the CPU: a pending one still ends WFI, and nothing
    /// can happen unnoticed between the look at the ring and the sleep.
    pub fn wait(&mut self) -> u16 {
        loop {
            if let Some(token) = self.driver.peek_used() {
                return token;
            }
            wait_for_interrupt();
            while let Some(acknowledged) = self.gic.acknowledge() {
                assert_eq!(
                    acknowledged.intid, self.interrupt.intid,
                    "an interrupt that was not enabled"
                );
                self.driver.ack_interrupt();
                self.gic.end(acknowledged);
            }
        }
    }

    /// Reads whole sectors.
    ///
    /// # Errors
    /// The device's or the driver's.
    pub fn read(&mut self, sector: usize, into: &mut [u8]) -> virtio_drivers::Result {
        let (mut request, mut response) = (BlkReq::default(), BlkResp::default());
        // SAFETY: the buffers stay here and untouched until the request is complete.
        let token = unsafe { self.driver.read_blocks_nb(sector, &mut request, into, &mut response) }?;
        assert_eq!(self.wait(), token, "another request than the only one has ended");
        // SAFETY: the same buffers.
        unsafe { self.driver.complete_read_blocks(token, &request, into, &mut response) }
    }

    /// Writes whole sectors.
    ///
    /// # Errors
    /// The device's or the driver's.
    pub fn write(&mut self, sector: usize, from: &[u8]) -> virtio_drivers::Result {
        let (mut request, mut response) = (BlkReq::default(), BlkResp::default());
        // SAFETY: the buffers stay here and untouched until the request is complete.
        let token = unsafe { self.driver.write_blocks_nb(sector, &mut request, from, &mut response) }?;
        assert_eq!(self.wait(), token, "another request than the only one has ended");
        // SAFETY: the same buffers.
        unsafe { self.driver.complete_write_blocks(token, &request, from, &mut response) }
    }
}
