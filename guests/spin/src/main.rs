//! A guest that spins on its second vCPU and times reads of its disk on the first.
//!
//! With both vCPUs and the disk's backend on one pCPU, a read is only quick if whoever is waited for runs before whoever
//! spins. Times are the guest's own, from the request to its data; the spinning vCPU must get on meanwhile.
#![no_std]
#![no_main]

extern crate alloc;

use core::sync::atomic::{AtomicU64, Ordering};

use alloc::vec;
use alloc::vec::Vec;
use guest_runtime::disk::{Disk, SECTOR_SIZE};
use guest_runtime::gic::Gic;
use guest_runtime::{println, psci, smp, timer};

guest_runtime::entry!(main);

/// Reads that are timed.
const READS: usize = 500;
/// Bytes of each.
const READ: usize = 4096;
/// The median that is too much, in nanoseconds.
const LIMIT: u64 = 500_000;

/// When the spinning vCPU was last seen, and for how many ticks it has run: gaps longer than [`GAP`] are not counted.
static RAN: AtomicU64 = AtomicU64::new(0);
/// Ticks of a gap in which somebody else ran.
const GAP: u64 = 300;

extern "C" fn spin(_: u64) -> ! {
    let mut last = timer::now();
    loop {
        let now = timer::now();
        if now - last < GAP {
            RAN.fetch_add(now - last, Ordering::Relaxed);
        }
        last = now;
    }
}

fn fail(what: core::fmt::Arguments<'_>) -> ! {
    println!("spin: FAILED: {what}");
    psci::system_off()
}

fn main() -> ! {
    println!("spin: hello");
    let mut disk = match Disk::open(Gic::init()) {
        Ok(Some(disk)) => disk,
        Ok(None) => fail(format_args!("no block device")),
        Err(error) => fail(format_args!("opening the disk: {error}")),
    };
    let mut others = Vec::new();
    smp::each_vcpu(|mpidr| others.push(mpidr));
    others.retain(|mpidr| *mpidr != smp::mpidr());
    for mpidr in &others {
        if let Err(error) = smp::start(*mpidr, spin, 0) {
            fail(format_args!("starting vCPU {mpidr:#x}: {error:?}"));
        }
    }
    if others.is_empty() {
        fail(format_args!("no second vCPU to spin on"));
    }
    // The other one is at it before the first read.
    timer::spin(5_000);

    let sectors = disk.driver.capacity() as usize;
    let mut buffer = vec![0; READ];
    let begin = timer::now();
    let before = RAN.load(Ordering::Relaxed);
    let mut times: Vec<u64> = (0..READS)
        .map(|index| {
            let sector = index * 997 * (READ / SECTOR_SIZE) % sectors;
            let start = timer::now();
            if let Err(error) = disk.read(sector, &mut buffer) {
                fail(format_args!("reading at sector {sector}: {error}"));
            }
            timer::now() - start
        })
        .collect();
    let spun = RAN.load(Ordering::Relaxed) - before;
    let all = timer::now() - begin;
    times.sort_unstable();
    let nanoseconds = |percent: usize| {
        let ticks = times[(READS - 1) * percent / 100];
        (u128::from(ticks) * 1_000_000_000 / u128::from(timer::frequency())) as u64
    };
    println!(
        "spin: {READS} reads of {READ} bytes: min {} ns, median {} ns, p90 {} ns, max {} ns",
        nanoseconds(0),
        nanoseconds(50),
        nanoseconds(90),
        nanoseconds(100)
    );
    println!("spin: the other vCPU ran {} % of the time", spun * 100 / all);
    if nanoseconds(50) >= LIMIT {
        fail(format_args!("a median of {LIMIT} ns or more"));
    }
    println!("spin: quick enough");
    psci::system_off()
}
