//! A guest that uses a VirtIO disk as any guest would, with a driver that knows nothing of who serves it.
//!
//! The disk must hold the pattern: each aligned 8-byte little-endian word is its byte offset XOR [`PATTERN`]. The guest
//! reads all of it and checks it, writes the bitwise complement of the pattern into the second half, flushes, reads all
//! back and checks again. So afterwards every word of the first half still is `offset ^ PATTERN` and every word of the
//! second half (from sector `capacity / 2` on) is `!(offset ^ PATTERN)`. A read-only disk is only read. It ends with the
//! line `demo: disk verified`, or says what it found and where.
//!
//! The boot argument `fill=1` makes it write the pattern to the whole disk first, for a disk that begins empty, and
//! `rounds=N` makes it write, flush and check N times.
#![no_std]
#![no_main]

extern crate alloc;

use core::ops::Range;

use alloc::vec;
use alloc::vec::Vec;
use guest_runtime::disk::{Disk, SECTOR_SIZE};
use guest_runtime::gic::Gic;
use guest_runtime::{device_tree, println, psci};

guest_runtime::entry!(main);

/// "Portunus" in ASCII, first letter in the highest byte.
const PATTERN: u64 = 0x506f_7274_756e_7573;
/// Sectors of one request.
const REQUEST: usize = 128;

/// The word that belongs at byte `offset`.
fn expected(offset: usize, inverted_from: usize) -> u64 {
    let word = offset as u64 ^ PATTERN;
    if offset >= inverted_from { !word } else { word }
}

/// Reads sectors `range` and compares each word.
fn verify(disk: &mut Disk, range: Range<usize>, inverted_from: usize) {
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

/// Writes to sectors `range` the words that belong there.
fn write(disk: &mut Disk, range: Range<usize>, inverted_from: usize) {
    for sector in range.clone().step_by(REQUEST) {
        let count = REQUEST.min(range.end - sector);
        let offsets = (sector * SECTOR_SIZE..(sector + count) * SECTOR_SIZE).step_by(8);
        let words = offsets.flat_map(|offset| expected(offset, inverted_from).to_le_bytes());
        let bytes: Vec<u8> = words.collect();
        if let Err(error) = disk.write(sector, &bytes) {
            fail(format_args!("writing {count} sectors at {sector}: {error}"));
        }
    }
}

/// Writes the complement of the pattern to sectors `range`, and flushes.
fn rewrite(disk: &mut Disk, range: Range<usize>) {
    write(disk, range, 0);
    println!("demo: second half written");
    if let Err(error) = disk.driver.flush() {
        fail(format_args!("flushing: {error}"));
    }
    println!("demo: flushed");
}

fn fail(what: core::fmt::Arguments<'_>) -> ! {
    println!("demo: FAILED: {what}");
    psci::system_off()
}

fn main() -> ! {
    println!("demo: hello");
    let mut disk = match Disk::open(Gic::init()) {
        Ok(Some(disk)) => disk,
        Ok(None) => fail(format_args!("no block device")),
        Err(error) => fail(format_args!("opening the disk: {error}")),
    };
    println!(
        "demo: block device at {:#x}, interrupt {}",
        disk.base, disk.interrupt.intid
    );
    let sectors = disk.driver.capacity() as usize;
    let read_only = disk.driver.readonly();
    let mut id = [0; 20];
    let length = disk.driver.device_id(&mut id).unwrap_or(0);
    println!(
        "demo: {} KiB, {}, id \"{}\"",
        sectors / 2,
        if read_only { "read-only" } else { "writable" },
        core::str::from_utf8(&id[..length]).unwrap_or("?")
    );

    if device_tree::boot_number("fill").is_some_and(|fill| fill != 0) {
        write(&mut disk, 0..sectors, usize::MAX);
        println!("demo: pattern written");
    }
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
