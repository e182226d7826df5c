//! A guest that restarts while its disk reads into its memory.
//!
//! Each life but the last starts 16 large reads and resets the machine before any has ended. Each later life sees first
//! that all its RAM but image, device tree and ramdisk is zero, and sees it again after `watch-ms`, when an old read would
//! have landed. The lines `reboot: image HASH` of all lives must be the same. The first life writes the pattern that the reads
//! bring; the last one reads it back. It ends with `reboot: nothing old landed in N lives`, or says what it found and where.
//!
//! Boot arguments: `lives=N`, and `no-disk-later` for a backend that does not survive the first restart.
#![no_std]
#![no_main]

extern crate alloc;

mod memory;

use alloc::vec;
use alloc::vec::Vec;

use guest_runtime::device_tree::{self, device_tree, property_u32};
use guest_runtime::disk::{Disk, SECTOR_SIZE};
use guest_runtime::gic::Gic;
use guest_runtime::{println, psci, timer};
use virtio_drivers::device::blk::{BlkReq, BlkResp};

use memory::Used;

guest_runtime::entry!(main);

/// Reads beside each other: as many as the driver's queue holds.
const READS: usize = 16;
/// Bytes of each.
const SIZE: usize = 512 << 10;
const SECTORS: usize = SIZE / SECTOR_SIZE;
/// Where the seed of the life before is kept.
const SEED_SECTOR: usize = READS * SECTORS;
/// What is in every byte of memory that a life leaves behind.
const LEFT: u8 = 0x5a;

fn fail(what: core::fmt::Arguments<'_>) -> ! {
    println!("reboot: FAILED: {what}");
    psci::system_off()
}

fn main() -> ! {
    let life = restarts();
    let lives = device_tree::boot_number("lives").unwrap_or(2);
    let used = Used::read();
    // Nothing is allocated before memory was looked at.
    let first_look = memory::check_zero(&used);
    println!(
        "reboot: image {:016x} and ramdisk {:016x}",
        memory::hash(guest_runtime::constants()),
        memory::hash(memory::ramdisk())
    );
    println!("reboot: life {life} begins");
    expect_zero(life, "at once", first_look);
    let gic = Gic::init();
    if life > 0 {
        timer::sleep(&gic, device_tree::boot_number("watch-ms").unwrap_or(4000) * 1000);
        expect_zero(life, "later", memory::check_zero(&used));
        if device_tree::boot_arguments().any(|word| word == "no-disk-later") {
            end(lives);
        }
    }
    let mut disk = match Disk::open(gic) {
        Ok(Some(disk)) => disk,
        Ok(None) => fail(format_args!("no disk")),
        Err(error) => fail(format_args!("opening the disk: {error}")),
    };
    if life == 0 {
        write_pattern(&mut disk);
    }
    exchange_seeds(&mut disk, life);
    if u64::from(life) + 1 == lives {
        verify_pattern(&mut disk, &gic);
        end(lives);
    }
    reset_in_flight(&mut disk, &gic)
}

fn end(lives: u64) -> ! {
    println!("reboot: nothing old landed in {lives} lives");
    psci::system_off()
}

/// How often this domain was restarted.
fn restarts() -> u32 {
    let chosen = device_tree().find_node("/chosen");
    match chosen.and_then(|node| property_u32(node, "portunus,restarts")) {
        Some(restarts) => restarts,
        None => fail(format_args!(
            "the tree does not say how often this domain was restarted"
        )),
    }
}

fn expect_zero(life: u32, when: &str, look: Result<u64, memory::Dirt>) {
    match look {
        Ok(pages) => println!("reboot: life {life}: {pages} pages are zero {when}"),
        Err(memory::Dirt { address, value }) => {
            fail(format_args!("life {life}: {address:#x} holds {value:#018x} {when}"))
        }
    }
}

/// The word at byte `offset` of the disk: never zero.
fn pattern(offset: usize) -> u64 {
    (offset as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

fn bytes(read: usize) -> impl Iterator<Item = [u8; 8]> {
    (read * SIZE..(read + 1) * SIZE)
        .step_by(8)
        .map(|offset| pattern(offset).to_le_bytes())
}

fn write_pattern(disk: &mut Disk) {
    for index in 0..READS {
        let data: Vec<u8> = bytes(index).flatten().collect();
        if let Err(error) = disk.write(index * SECTORS, &data) {
            fail(format_args!("writing at sector {}: {error}", index * SECTORS));
        }
    }
}

fn verify_pattern(disk: &mut Disk, gic: &Gic) {
    let mut reads = Reads::start(disk, gic);
    for _ in 0..READS {
        let token = disk.wait();
        let Some(read) = reads.all.iter_mut().find(|read| read.token == token) else {
            fail(format_args!("a request ended that nobody started"));
        };
        // SAFETY: the same buffers as were given to the driver under this token.
        let ended = unsafe {
            disk.driver
                .complete_read_blocks(token, &read.request, &mut read.buffer, &mut read.response)
        };
        if let Err(error) = ended {
            fail(format_args!("reading: {error}"));
        }
    }
    for (index, read) in reads.all.iter().enumerate() {
        if !read.buffer.as_chunks::<8>().0.iter().copied().eq(bytes(index)) {
            fail(format_args!(
                "the disk holds something else at sector {}",
                index * SECTORS
            ));
        }
    }
    println!("reboot: the disk holds what the first life wrote");
}

/// A read under way; nothing of it moves.
struct Read {
    request: BlkReq,
    response: BlkResp,
    buffer: Vec<u8>,
    token: u16,
}

/// One read for each part of the disk that has the pattern.
struct Reads {
    all: Vec<Read>,
}

impl Reads {
    fn start(disk: &mut Disk, gic: &Gic) -> Self {
        // Ends the interrupt of a request that was over before it came.
        timer::sleep(gic, 1000);
        let read = |_| Read {
            request: BlkReq::default(),
            response: BlkResp::default(),
            buffer: vec![LEFT; SIZE],
            token: 0,
        };
        let mut all: Vec<Read> = (0..READS).map(read).collect();
        for (index, read) in all.iter_mut().enumerate() {
            // SAFETY: all of it stays where it is, untouched, until the read has ended or the domain is no more.
            let started = unsafe {
                disk.driver
                    .read_blocks_nb(index * SECTORS, &mut read.request, &mut read.buffer, &mut read.response)
            };
            match started {
                Ok(token) => read.token = token,
                Err(error) => fail(format_args!("starting read {index}: {error}")),
            }
        }
        Self { all }
    }
}

/// Sees that this life's seeds are not those of the life before, and leaves them to the next.
fn exchange_seeds(disk: &mut Disk, life: u32) {
    let chosen = device_tree().find_node("/chosen");
    let mut seeds = [0; SECTOR_SIZE];
    for (name, at) in [("kaslr-seed", 0), ("rng-seed", 8)] {
        let Some(property) = chosen.and_then(|node| dtoolkit::Node::property(&node, name)) else {
            fail(format_args!("no {name}"));
        };
        let value = dtoolkit::Property::value(&property);
        seeds[at..at + value.len()].copy_from_slice(value);
    }
    if life > 0 {
        let mut before = [0; SECTOR_SIZE];
        if let Err(error) = disk.read(SEED_SECTOR, &mut before) {
            fail(format_args!("reading the seeds of the life before: {error}"));
        }
        if before[..8] == seeds[..8] || before[8..40] == seeds[8..40] {
            fail(format_args!("the same seeds as in the life before"));
        }
    }
    if let Err(error) = disk.write(SEED_SECTOR, &seeds) {
        fail(format_args!("writing the seeds: {error}"));
    }
    println!("reboot: seeds of its own");
}

/// Starts the reads, sees that none ends, and restarts.
fn reset_in_flight(disk: &mut Disk, gic: &Gic) -> ! {
    let left = vec![LEFT; 8 << 20];
    let reads = Reads::start(disk, gic);
    // The backend has taken them by then, and none is over.
    timer::sleep(gic, 200_000);
    let untouched = |read: &Read| read.buffer.iter().all(|byte| *byte == LEFT);
    if disk.driver.peek_used().is_some() || !reads.all.iter().all(untouched) {
        fail(format_args!("a read ended before the restart"));
    }
    println!("reboot: {READS} reads of {} KiB are outstanding", SIZE >> 10);
    core::hint::black_box((&left, &reads.all));
    psci::system_reset()
}
