//! A guest whose disk is served by a backend that dies all the time, and that must not notice.
//!
//! It writes, flushes, reads and compares, with several requests in work at once, and resets the device now and then. No
//! request may fail, and the device may never ask for a reset. It measures the longest request.
//!
//! With the boot argument `lives=N` it goes on until the disk's name says that the backend is in a later life than its
//! N-th. With `nonsense` the second disk is one whose state the backend spoils before it dies: that disk, and no other,
//! must ask for a reset, and serve after one.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec;
use alloc::vec::Vec;

use guest_runtime::disk::{BlkReq, BlkResp, Disk, SECTOR_SIZE};
use guest_runtime::gic::Gic;
use guest_runtime::mmio::Registers;
use guest_runtime::{device_tree, println, psci, timer};

guest_runtime::entry!(main);

/// Sectors of one request; as many are one place on the disk.
const REQUEST: usize = 8;
/// Requests beside each other.
const TOGETHER: usize = 4;
/// Rounds between two resets of the device.
const ROUNDS: u64 = 5;
/// Rounds with a disk after the other one needed a reset.
const ROUNDS_AFTER: u64 = 50;

const STATUS: usize = 0x70;
const INTERRUPT_STATUS: usize = 0x60;
const NEEDS_RESET: u32 = 64;
const CONFIGURATION: u32 = 2;
/// Microseconds in which the interrupt must have come.
const INTERRUPT_LIMIT: u64 = 5_000_000;

/// What place `place` holds after it was written in `round`: every word differs from every other that ever was there.
fn contents(place: usize, round: u64) -> Vec<u8> {
    let word = |offset: usize| {
        let seed = round << 32 | (place * REQUEST * SECTOR_SIZE + offset) as u64;
        seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()
    };
    (0..REQUEST * SECTOR_SIZE).step_by(8).flat_map(word).collect()
}

/// A request in work.
struct InWork {
    token: u16,
    request: BlkReq,
    response: BlkResp,
    data: Vec<u8>,
}

/// The load, and what it found.
struct Load {
    disk: Option<Disk>,
    gic: Gic,
    /// The round in which each place was written last.
    written: Vec<u64>,
    round: u64,
    longest: u64,
}

impl Load {
    fn new(gic: Gic) -> Self {
        let mut load = Self {
            disk: None,
            gic,
            written: Vec::new(),
            round: 0,
            longest: 0,
        };
        let sectors = load.disk().driver.capacity() as usize;
        load.written = vec![0; sectors / REQUEST];
        load
    }

    fn disk(&mut self) -> &mut Disk {
        let gic = self.gic;
        self.disk.get_or_insert_with(|| match Disk::open(gic) {
            Ok(Some(disk)) => disk,
            Ok(None) => fail(format_args!("no block device")),
            Err(error) => fail(format_args!("opening the disk: {error}")),
        })
    }

    /// Measures what `action` does.
    fn timed<T>(&mut self, what: &str, action: impl FnOnce(&mut Disk) -> virtio_drivers::Result<T>) -> T {
        let start = timer::now();
        let result = action(self.disk());
        self.longest = self.longest.max(timer::now() - start);
        match result {
            Ok(value) => value,
            Err(error) => fail(format_args!("{what}: {error}")),
        }
    }

    /// Writes some places at once, flushes, reads them and others at once, and compares.
    fn round(&mut self) {
        self.round += 1;
        let round = self.round;
        let places = self.written.len();
        let first = (round as usize * TOGETHER) % places;
        let chosen = (0..TOGETHER).map(|index| (first + index) % places);
        let writes: Vec<_> = chosen.map(|place| (place, contents(place, round))).collect();
        self.timed("writing", |disk| together(disk, true, writes));
        for index in 0..TOGETHER {
            self.written[(first + index) % places] = round;
        }
        self.timed("flushing", |disk| disk.driver.flush());
        let far = (first * 7 + 3) % places;
        let chosen = [first, far, (first + TOGETHER - 1) % places];
        let reads = chosen.map(|place| (place, vec![0; REQUEST * SECTOR_SIZE])).into();
        let read = self.timed("reading", |disk| together(disk, false, reads));
        for (place, bytes) in read {
            self.compare(place, &bytes);
        }
        let base = self.disk().base;
        if status(base) & NEEDS_RESET != 0 {
            fail(format_args!("the disk needs a reset"));
        }
        if round.is_multiple_of(ROUNDS) {
            // What is next opens it anew: a reset, features, queues.
            self.disk = None;
        }
    }

    fn compare(&self, place: usize, bytes: &[u8]) {
        let round = self.written[place];
        if round != 0 && bytes != contents(place, round) {
            fail(format_args!("place {place} does not hold what round {round} wrote"));
        }
    }

    /// Compares every place that was written.
    fn verify(&mut self) {
        for place in 0..self.written.len() {
            if self.written[place] != 0 {
                let mut bytes = vec![0; REQUEST * SECTOR_SIZE];
                self.timed("reading all", |disk| disk.read(place * REQUEST, &mut bytes));
                self.compare(place, &bytes);
            }
        }
    }

    fn longest_ms(&self) -> u64 {
        self.longest * 1000 / timer::frequency()
    }
}

/// Reads or writes places, all at once; gives them back.
fn together(
    disk: &mut Disk,
    write: bool,
    places: Vec<(usize, Vec<u8>)>,
) -> virtio_drivers::Result<Vec<(usize, Vec<u8>)>> {
    let mut numbers = Vec::new();
    let mut in_work: Vec<InWork> = Vec::new();
    for (place, data) in places {
        numbers.push(place);
        in_work.push(InWork {
            token: 0,
            request: BlkReq::default(),
            response: BlkResp::default(),
            data,
        });
    }
    for (place, work) in numbers.iter().zip(&mut in_work) {
        let InWork {
            request,
            response,
            data,
            ..
        } = work;
        // SAFETY: the buffers stay in `in_work`, which does not move, until the request is complete.
        work.token = unsafe {
            if write {
                disk.driver.write_blocks_nb(place * REQUEST, request, data, response)
            } else {
                disk.driver.read_blocks_nb(place * REQUEST, request, data, response)
            }
        }?;
    }
    for _ in 0..in_work.len() {
        let token = disk.wait();
        let work = in_work.iter_mut().find(|work| work.token == token);
        let Some(work) = work else {
            fail(format_args!("token {token} ended, and was not in work"));
        };
        let InWork {
            request,
            response,
            data,
            ..
        } = work;
        // SAFETY: the same buffers.
        unsafe {
            if write {
                disk.driver.complete_write_blocks(token, request, data, response)?;
            } else {
                disk.driver.complete_read_blocks(token, request, data, response)?;
            }
        }
        // Tokens are used again.
        work.token = u16::MAX;
    }
    Ok(numbers
        .into_iter()
        .zip(in_work.into_iter().map(|work| work.data))
        .collect())
}

fn status(base: u64) -> u32 {
    // SAFETY: the device tree names virtio-mmio registers there; reading Status changes nothing.
    unsafe { Registers::new(base as usize) }.read(STATUS)
}

fn fail(what: core::fmt::Arguments<'_>) -> ! {
    println!("takeover: FAILED: {what}");
    psci::system_off()
}

/// The backend's life, as the disk's name tells it.
fn life(load: &mut Load) -> u64 {
    let mut id = [0; 20];
    let length = load.timed("asking for the name", |disk| disk.driver.device_id(&mut id));
    let name = core::str::from_utf8(&id[..length]).unwrap_or("?");
    match name.strip_prefix("life ").and_then(|life| life.parse().ok()) {
        Some(life) => life,
        None => fail(format_args!("the disk is named \"{name}\"")),
    }
}

fn live_through(lives: u64) {
    let mut load = Load::new(Gic::init());
    println!("takeover: begins");
    loop {
        load.round();
        if life(&mut load) > lives {
            break;
        }
    }
    load.verify();
    println!(
        "takeover: {lives} deaths, {} rounds, no error, no reset; longest wait {} ms",
        load.round,
        load.longest_ms()
    );
}

/// Opens the disk whose state will be spoiled.
fn open_victim(gic: Gic) -> Disk {
    let victim = match Disk::open_nth(gic, 1) {
        Ok(Some(disk)) => disk,
        Ok(None) => fail(format_args!("no second disk")),
        Err(error) => fail(format_args!("opening the second disk: {error}")),
    };
    // It is polled; its interrupt would wake who waits for the other.
    gic.disable(victim.interrupt.intid);
    victim
}

/// Writes and reads a place.
fn use_victim(victim: &mut Disk) {
    let written = contents(0, 1);
    let mut read = vec![0; written.len()];
    let result = victim.driver.write_blocks(0, &written);
    let result = result.and_then(|()| victim.driver.read_blocks(0, &mut read));
    if result.is_err() || read != written {
        fail(format_args!("the second disk: {result:?}"));
    }
}

fn survive_nonsense() {
    let gic = Gic::init();
    let mut load = Load::new(gic);
    let mut victim = open_victim(gic);
    use_victim(&mut victim);
    println!("takeover: both disks work");
    while status(victim.base) & NEEDS_RESET == 0 {
        load.round();
    }
    // The device says so first, and interrupts then.
    let limit = timer::now() + timer::ticks(INTERRUPT_LIMIT);
    // SAFETY: as for `status`.
    while unsafe { Registers::new(victim.base as usize) }.read(INTERRUPT_STATUS) & CONFIGURATION == 0 {
        if timer::now() > limit {
            fail(format_args!("no configuration interrupt"));
        }
        load.round();
    }
    println!("takeover: the second disk needs a reset");
    for _ in 0..ROUNDS_AFTER {
        load.round();
    }
    load.verify();
    drop(victim);
    use_victim(&mut open_victim(gic));
    println!(
        "takeover: the first disk went on, the second works after a reset; longest wait {} ms",
        load.longest_ms()
    );
}

fn main() -> ! {
    if device_tree::boot_arguments().any(|word| word == "nonsense") {
        survive_nonsense();
    } else {
        let Some(lives) = device_tree::boot_number("lives") else {
            fail(format_args!("neither lives=N nor nonsense"));
        };
        live_through(lives);
    }
    println!("takeover: done");
    psci::system_off()
}
