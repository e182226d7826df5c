//! A guest that uses a VirtIO disk as any guest would, with a driver that knows nothing of who serves it.
//!
//! The disk must hold the pattern: each aligned 8-byte little-endian word is its byte offset XOR [`PATTERN`]. The guest
//! reads all of it and checks it, writes the bitwise complement of the pattern into the second half, flushes, reads all
//! back and checks again. So afterwards every word of the first half still is `offset ^ PATTERN` and every word of the
//! second half (from sector `capacity / 2` on) is `!(offset ^ PATTERN)`. A read-only disk is only read. It ends with the
//! line `demo: disk verified`, or says what it found and where.
//!
//! The boot argument `rounds=N` makes it write, flush and check N times.
#![no_std]
#![no_main]

extern crate alloc;

use core::ops::Range;
use core::ptr::NonNull;

use alloc::vec;
use alloc::vec::Vec;
use guest_runtime::device_tree::Interrupt;
use guest_runtime::gic::Gic;
use guest_runtime::virtio::IdentityHal;
use guest_runtime::{device_tree, println, psci, wait_for_interrupt};
use virtio_drivers::device::blk::{BlkReq, BlkResp, SECTOR_SIZE, VirtIOBlk};
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceType, Transport};

guest_runtime::entry!(main);

/// "Portunus" in ASCII, first letter in the highest byte.
const PATTERN: u64 = 0x506f_7274_756e_7573;
/// Sectors of one request.
const REQUEST: usize = 128;

type Disk = VirtIOBlk<IdentityHal, MmioTransport<'static>>;

/// A disk whose requests sleep until its interrupt.
struct SleepyDisk {
    disk: Disk,
    gic: Gic,
    interrupt: Interrupt,
}

impl SleepyDisk {
    /// Sleeps until a request has ended. Interrupts stay masked at the CPU: a pending one still ends WFI, and nothing
    /// can happen unnoticed between the look at the ring and the sleep.
    fn wait(&mut self) -> u16 {
        loop {
            if let Some(token) = self.disk.peek_used() {
                return token;
            }
            wait_for_interrupt();
            while let Some(acknowledged) = self.gic.acknowledge() {
                assert_eq!(
                    acknowledged.intid, self.interrupt.intid,
                    "an interrupt that was not enabled"
                );
                self.disk.ack_interrupt();
                self.gic.end(acknowledged);
            }
        }
    }

    fn read(&mut self, sector: usize, into: &mut [u8]) -> virtio_drivers::Result {
        let (mut request, mut response) = (BlkReq::default(), BlkResp::default());
        // SAFETY: the buffers stay here and untouched until the request is complete.
        let token = unsafe { self.disk.read_blocks_nb(sector, &mut request, into, &mut response) }?;
        assert_eq!(self.wait(), token, "another request than the only one has ended");
        // SAFETY: the same buffers.
        unsafe { self.disk.complete_read_blocks(token, &request, into, &mut response) }
    }

    fn write(&mut self, sector: usize, from: &[u8]) -> virtio_drivers::Result {
        let (mut request, mut response) = (BlkReq::default(), BlkResp::default());
        // SAFETY: the buffers stay here and untouched until the request is complete.
        let token = unsafe { self.disk.write_blocks_nb(sector, &mut request, from, &mut response) }?;
        assert_eq!(self.wait(), token, "another request than the only one has ended");
        // SAFETY: the same buffers.
        unsafe { self.disk.complete_write_blocks(token, &request, from, &mut response) }
    }
}

/// The word that belongs at byte `offset`.
fn expected(offset: usize, inverted_from: usize) -> u64 {
    let word = offset as u64 ^ PATTERN;
    if offset >= inverted_from { !word } else { word }
}

/// Reads sectors `range` and compares each word.
fn verify(disk: &mut SleepyDisk, range: Range<usize>, inverted_from: usize) {
    let mut buffer = vec![0; REQUEST * SECTOR_SIZE];
    for sector in range.clone().step_by(REQUEST) {
        let sectors = REQUEST.min(range.end - sector);
        let bytes = &mut buffer[..sectors * SECTOR_SIZE];
        if let Err(error) = disk.read(sector, bytes) {
            fail(format_args!("reading {sectors} sectors at {sector}: {error}"));
        }
        let start = sector * SECTOR_SIZE;
        for (offset, word) in (start..).step_by(8).zip(bytes.chunks_exact(8)) {
            let found = u64::from_le_bytes(word.try_into().expect("8 bytes"));
            let expected = expected(offset, inverted_from);
            if found != expected {
                fail(format_args!(
                    "byte {offset:#x} holds {found:#018x}, not {expected:#018x}"
                ));
            }
        }
    }
}

/// Writes the complement of the pattern to sectors `range`, and flushes.
fn rewrite(disk: &mut SleepyDisk, range: Range<usize>) {
    for sector in range.clone().step_by(REQUEST) {
        let count = REQUEST.min(range.end - sector);
        let words = (sector * SECTOR_SIZE..(sector + count) * SECTOR_SIZE).step_by(8);
        let bytes: Vec<u8> = words.flat_map(|offset| expected(offset, 0).to_le_bytes()).collect();
        if let Err(error) = disk.write(sector, &bytes) {
            fail(format_args!("writing {count} sectors at {sector}: {error}"));
        }
    }
    println!("demo: second half written");
    if let Err(error) = disk.disk.flush() {
        fail(format_args!("flushing: {error}"));
    }
    println!("demo: flushed");
}

fn fail(what: core::fmt::Arguments<'_>) -> ! {
    println!("demo: FAILED: {what}");
    psci::system_off()
}

fn open(gic: Gic) -> Option<SleepyDisk> {
    let mut found = None;
    guest_runtime::virtio::each_mmio(|registers, interrupt| {
        let header = NonNull::new(registers.start as *mut VirtIOHeader);
        let (Some(header), None) = (header, &found) else { return };
        let size = (registers.end - registers.start) as usize;
        // SAFETY: the device tree names virtio-mmio registers there, and nobody else in this guest uses them.
        let transport = unsafe { MmioTransport::new(header, size) };
        // A transport without a device says so by device ID 0: not an error.
        let Ok(transport) = transport else { return };
        if transport.device_type() != DeviceType::Block {
            return;
        }
        println!(
            "demo: block device at {:#x}, interrupt {}",
            registers.start, interrupt.intid
        );
        gic.enable(interrupt.intid, interrupt.edge);
        match VirtIOBlk::new(transport) {
            Ok(disk) => found = Some(SleepyDisk { disk, gic, interrupt }),
            Err(error) => fail(format_args!("opening the disk: {error}")),
        }
    });
    found
}

fn main() -> ! {
    println!("demo: hello");
    let Some(mut disk) = open(Gic::init()) else {
        fail(format_args!("no block device"))
    };
    let sectors = disk.disk.capacity() as usize;
    let read_only = disk.disk.readonly();
    let mut id = [0; 20];
    let length = disk.disk.device_id(&mut id).unwrap_or(0);
    println!(
        "demo: {} KiB, {}, id \"{}\"",
        sectors / 2,
        if read_only { "read-only" } else { "writable" },
        core::str::from_utf8(&id[..length]).unwrap_or("?")
    );

    verify(&mut disk, 0..sectors, usize::MAX);
    println!("demo: pattern read and verified");
    if !read_only {
        let half = sectors / 2;
        let rounds = device_tree::boot_number("rounds").unwrap_or(1);
        for round in 1..=rounds {
            if rounds > 1 {
                println!("demo: round {round} of {rounds}");
            }
            rewrite(&mut disk, half..sectors);
            verify(&mut disk, 0..sectors, half * SECTOR_SIZE);
            println!("demo: read back");
        }
    }
    println!("demo: disk verified");
    psci::system_off()
}
