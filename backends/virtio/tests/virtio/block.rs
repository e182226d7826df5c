//! The block device: every request type, limits, errors, pieces, reset with work in flight.

use std::cell::RefCell;

use portunus_virtio::block::Feature;
use portunus_virtio::disk::{RamDisk, disk_id};
use portunus_virtio::mmio::{register as r, status};

use crate::simulator::{
    ALL_DRIVER_FEATURES, Driver, RAM, RAM_SIZE, SCRATCH, Slow, SlowDisk, numbered_disk, offered, write32,
};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

const DATA: u64 = SCRATCH + 0x1_0000;

fn features() -> u64 {
    ALL_DRIVER_FEATURES | (Feature::FLUSH | Feature::DISCARD | Feature::WRITE_ZEROES | Feature::MQ).bits()
}

/// Name, type, sector, buffers; status and used length.
type Case = (&'static str, u32, u64, Vec<(u64, u32, bool)>, (u8, u32));

fn range(sector: u64, sectors: u32, flags: u32) -> [u8; 16] {
    (u128::from(sector) | u128::from(sectors) << 64 | u128::from(flags) << 96).to_le_bytes()
}

#[test]
fn status_of_every_kind_of_request() {
    let data = |length| vec![(DATA, length, true)];
    let given = |length| vec![(DATA, length, false)];
    let hole = RAM + RAM_SIZE as u64 - 256;
    // 64 sectors.
    let cases: Vec<Case> = vec![
        ("read", IN, 5, data(1024), (OK, 1025)),
        ("read the last sector", IN, 63, data(512), (OK, 513)),
        ("read nothing", IN, 5, vec![], (OK, 1)),
        ("read past the end", IN, 63, data(1024), (IOERR, 0)),
        ("read far past the end", IN, u64::MAX, data(512), (IOERR, 0)),
        ("read at the end", IN, 64, data(512), (IOERR, 0)),
        ("read part of a sector", IN, 5, data(511), (IOERR, 0)),
        ("read into a hole", IN, 5, vec![(hole, 512, true)], (IOERR, 0)),
        ("write", OUT, 7, given(1024), (OK, 1)),
        ("write past the end", OUT, 63, given(1024), (IOERR, 0)),
        ("write part of a sector", OUT, 5, given(700), (IOERR, 0)),
        ("write from a hole", OUT, 5, vec![(hole, 512, false)], (IOERR, 0)),
        ("flush", FLUSH, 0, vec![], (OK, 1)),
        ("flush with a sector", FLUSH, 99, vec![], (OK, 1)),
        ("get id", GET_ID, 0, data(20), (OK, 21)),
        ("discard nothing", DISCARD, 0, vec![], (IOERR, 0)),
        ("discard half a range", DISCARD, 0, given(8), (IOERR, 0)),
        ("discard seventeen ranges", DISCARD, 0, given(17 * 16), (IOERR, 0)),
        ("legacy SCSI", 2, 0, vec![], (UNSUPP, 0)),
        ("secure erase", 14, 0, given(16), (UNSUPP, 0)),
        ("no such type", u32::MAX, 0, data(512), (UNSUPP, 0)),
    ];
    for (name, kind, sector, buffers, expected) in cases {
        let mut driver = Driver::start(numbered_disk(64), 1, features());
        assert_eq!(driver.request(kind, sector, &buffers), expected, "{name}");
        assert!(!driver.needs_reset(), "{name}");
        assert_eq!(driver.request(FLUSH, 0, &[]), (OK, 1), "{name}: the device goes on");
    }
}

#[test]
fn what_is_written_is_on_the_disk_and_nothing_beside_it() {
    let mut driver = Driver::start(numbered_disk(64), 1, features());
    driver.ram.put(DATA, &[0xa5; 1536]);
    let pieces = [(DATA, 100, false), (DATA + 100, 412, false), (DATA + 600, 1024, false)];
    driver.ram.put(DATA + 600, &[0x5a; 1024]);
    assert_eq!(driver.request(OUT, 10, &pieces), (OK, 1));
    let contents = driver.device.model().disk().contents();
    assert_eq!(contents[9 * 512..10 * 512], [9; 512]);
    assert_eq!(contents[10 * 512..11 * 512], [0xa5; 512]);
    assert_eq!(contents[11 * 512..13 * 512], [0x5a; 1024]);
    assert_eq!(contents[13 * 512..14 * 512], [13; 512]);
}

#[test]
fn a_request_of_four_mebibytes_in_pieces() {
    let sectors = 4 << 11;
    let mut driver = Driver::start(numbered_disk(sectors), 1, features());
    assert_eq!(driver.request(IN, 0, &[(DATA, 4 << 20, true)]), (OK, (4 << 20) + 1));
    assert_eq!(driver.ram.get(DATA, 4 << 20), driver.device.model().disk().contents());
}

#[test]
fn discards_and_zeroes() {
    for (name, kind, ranges, expected) in [
        ("discard", DISCARD, vec![range(3, 2, 0)], OK),
        ("two discards", DISCARD, vec![range(3, 1, 0), range(4, 1, 0)], OK),
        ("write zeroes", WRITE_ZEROES, vec![range(3, 2, 0)], OK),
        ("write zeroes, unmap", WRITE_ZEROES, vec![range(3, 2, 1)], OK),
        ("an empty range", DISCARD, vec![range(3, 0, 0)], OK),
        ("discard with unmap", DISCARD, vec![range(3, 2, 1)], UNSUPP),
        ("unknown flag", WRITE_ZEROES, vec![range(3, 2, 2)], UNSUPP),
        ("past the end", DISCARD, vec![range(63, 2, 0)], IOERR),
        ("wraps", WRITE_ZEROES, vec![range(u64::MAX, 2, 0)], IOERR),
        (
            "second past the end",
            DISCARD,
            vec![range(3, 2, 0), range(64, 1, 0)],
            IOERR,
        ),
    ] {
        let mut driver = Driver::start(numbered_disk(64), 1, features());
        let bytes = ranges.concat();
        driver.ram.put(DATA, &bytes);
        let (status, _) = driver.request(kind, 0, &[(DATA, bytes.len() as u32, false)]);
        assert_eq!(status, expected, "{name}");
        let contents = driver.device.model().disk().contents();
        if expected == OK && !name.contains("empty") {
            assert_eq!(contents[3 * 512..5 * 512], [0; 1024], "{name}");
        }
        assert_eq!(contents[2 * 512..3 * 512], [2; 512], "{name}");
        assert_eq!(contents[5 * 512..6 * 512], [5; 512], "{name}");
    }
}

#[test]
fn a_read_only_disk_says_so_and_refuses_writes() {
    let slow = RefCell::new(SlowDisk::new(64));
    slow.borrow_mut().read_only = true;
    let mut driver = Driver::start(Slow::new(&slow), 1, ALL_DRIVER_FEATURES | Feature::RO.bits());
    let all = offered(&mut driver.device);
    assert_eq!(
        all & (Feature::RO | Feature::DISCARD | Feature::WRITE_ZEROES).bits(),
        Feature::RO.bits()
    );
    for (kind, expected) in [(OUT, IOERR), (DISCARD, UNSUPP), (WRITE_ZEROES, UNSUPP)] {
        driver.ram.put(DATA, &range(0, 1, 0));
        let length = if kind == OUT { 512 } else { 16 };
        assert_eq!(driver.request(kind, 0, &[(DATA, length, false)]).0, expected);
    }
    assert_eq!(slow.borrow().log, Vec::<String>::new(), "the disk was never asked");
}

#[test]
fn the_name_is_cut_to_twenty_bytes() {
    let id = disk_id("a name of more than twenty bytes");
    let mut driver = Driver::start(RamDisk::new(vec![0; 512], id), 1, 0);
    assert_eq!(driver.request(GET_ID, 0, &[(DATA, 20, true)]), (OK, 21));
    assert_eq!(driver.ram.get(DATA, 20), b"a name of more than ");
}

#[test]
fn without_flush_each_write_is_made_durable_before_it_is_answered() {
    let slow = RefCell::new(SlowDisk::new(64));
    let mut driver = Driver::start(Slow::new(&slow), 1, 0);
    driver.ram.put(SCRATCH, &u128::from(OUT).to_le_bytes());
    driver.submit(
        0,
        0,
        &[(SCRATCH, 16, false), (DATA, 512, false), (SCRATCH + 16, 1, true)],
    );
    driver.work();
    slow.borrow_mut().end_all();
    driver.work();
    assert_eq!(slow.borrow().log, ["write 0 512", "flush"]);
    assert_eq!(driver.rings[0].used(&driver.ram), 0);
    slow.borrow_mut().end_all();
    driver.work();
    assert_eq!(driver.rings[0].used(&driver.ram), 1);
}

#[test]
fn pieces_run_beside_each_other_and_end_in_any_order() {
    let slow = RefCell::new(SlowDisk::new(256));
    let mut driver = Driver::start(Slow::new(&slow), 1, features());
    driver.ram.put(SCRATCH, &u128::from(IN).to_le_bytes());
    driver.submit(
        0,
        0,
        &[(SCRATCH, 16, false), (DATA, 24 * 1024, true), (SCRATCH + 16, 1, true)],
    );
    driver.work();
    assert_eq!(slow.borrow().log.len(), 4, "as many as the disk takes");
    for _ in 0..2 {
        assert_eq!(driver.rings[0].used(&driver.ram), 0);
        slow.borrow_mut().end_all();
        driver.work();
    }
    assert_eq!(slow.borrow().log.len(), 6);
    assert_eq!(driver.rings[0].used_element(&driver.ram, 0), (0, 24 * 1024 + 1));
    assert_eq!(
        driver.ram.get(DATA, 24 * 1024),
        slow.borrow().inner.contents()[..24 * 1024]
    );
}

#[test]
fn an_error_in_one_piece_is_an_error_of_the_request() {
    let slow = RefCell::new(SlowDisk::new(256));
    let mut driver = Driver::start(Slow::new(&slow), 1, features());
    slow.borrow_mut().fail_next = true;
    driver.ram.put(SCRATCH, &u128::from(IN).to_le_bytes());
    driver.submit(
        0,
        0,
        &[(SCRATCH, 16, false), (DATA, 12 * 1024, true), (SCRATCH + 16, 1, true)],
    );
    driver.work();
    slow.borrow_mut().end_all();
    driver.work();
    assert_eq!(driver.ram.get(SCRATCH + 16, 1), [IOERR]);
    assert_eq!(driver.rings[0].used_element(&driver.ram, 0), (0, 0));
}

#[test]
fn after_a_reset_nothing_is_answered_and_nothing_taken_until_old_work_has_ended() {
    let slow = RefCell::new(SlowDisk::new(256));
    let mut driver = Driver::start(Slow::new(&slow), 1, features());
    driver.ram.put(SCRATCH, &u128::from(IN).to_le_bytes());
    driver.submit(
        0,
        0,
        &[(SCRATCH, 16, false), (DATA, 8192, true), (SCRATCH + 16, 1, true)],
    );
    driver.work();
    write32(&mut driver.device, r::STATUS, 0);
    let before = driver.ram.get(DATA, 8192);

    // The same driver starts anew and asks at once.
    let wanted = features() & offered(&mut driver.device);
    crate::simulator::negotiate(&mut driver.device, wanted);
    let rings = driver.rings[0];
    crate::simulator::set_up_queue(&mut driver.device, &driver.ram, 0, rings);
    write32(&mut driver.device, r::STATUS, 0xf);
    driver.submit(
        0,
        0,
        &[(SCRATCH, 16, false), (DATA + 8192, 512, true), (SCRATCH + 16, 1, true)],
    );
    driver.work();
    assert_eq!(slow.borrow().log.len(), 2, "old work is still running");
    slow.borrow_mut().end_all();
    driver.work();
    assert_eq!(driver.ram.get(DATA, 8192), before, "the old read goes nowhere");
    assert_eq!(rings.used(&driver.ram), 0);
    assert_eq!(slow.borrow().log.len(), 3);
    slow.borrow_mut().end_all();
    driver.work();
    assert_eq!(rings.used(&driver.ram), 1);
    assert_eq!(driver.status() & status::DEVICE_NEEDS_RESET, 0);
}

#[test]
fn a_queue_that_was_disabled_gets_no_answers() {
    let slow = RefCell::new(SlowDisk::new(256));
    let mut driver = Driver::start(Slow::new(&slow), 1, features());
    driver.ram.put(SCRATCH, &u128::from(IN).to_le_bytes());
    driver.submit(
        0,
        0,
        &[(SCRATCH, 16, false), (DATA, 512, true), (SCRATCH + 16, 1, true)],
    );
    driver.work();
    write32(&mut driver.device, r::QUEUE_READY, 0);
    write32(&mut driver.device, r::QUEUE_READY, 1);
    slow.borrow_mut().end_all();
    driver.device.process(&driver.ram);
    assert_eq!(driver.rings[0].used(&driver.ram), 0);
}

#[test]
fn several_queues_share_one_disk() {
    let mut driver = Driver::start(numbered_disk(64), 4, features());
    for queue in 0..4_u64 {
        let header = SCRATCH + 64 * queue;
        driver
            .ram
            .put(header, &(u128::from(IN) | u128::from(queue + 1) << 64).to_le_bytes());
        let data = DATA + 512 * queue;
        driver.submit(
            queue as usize,
            0,
            &[(header, 16, false), (data, 512, true), (header + 16, 1, true)],
        );
    }
    driver.work();
    for queue in 0..4 {
        assert_eq!(driver.rings[queue].used(&driver.ram), 1);
        assert_eq!(driver.ram.get(DATA + 512 * queue as u64, 512), [queue as u8 + 1; 512]);
    }
}

#[test]
fn more_requests_than_the_device_holds_wait_in_the_ring() {
    let slow = RefCell::new(SlowDisk::new(256));
    let mut driver = Driver::start(Slow::new(&slow), 1, features());
    driver.ram.put(SCRATCH, &u128::from(IN).to_le_bytes());
    for request in 0..20_u16 {
        let status = SCRATCH + 0x100 + u64::from(request);
        let data = DATA + 512 * u64::from(request);
        driver.submit(
            0,
            3 * request,
            &[(SCRATCH, 16, false), (data, 512, true), (status, 1, true)],
        );
    }
    for _ in 0..20 {
        driver.work();
        slow.borrow_mut().end_all();
    }
    driver.work();
    assert_eq!(driver.rings[0].used(&driver.ram), 20);
    assert_eq!(slow.borrow().log.len(), 20);
}
