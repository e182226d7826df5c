//! The PL031 that guests see: registers by the reference manual, its one interrupt, and accesses that mean harm.

use portunus::access::{AccessWidth, Direction};
use portunus::primecell::BadAccess;
use portunus::rtc::pl031::Pl031;

const RTCDR: u64 = 0x000;
const RTCMR: u64 = 0x004;
const RTCLR: u64 = 0x008;
const RTCCR: u64 = 0x00c;
const RTCIMSC: u64 = 0x010;
const RTCRIS: u64 = 0x014;
const RTCMIS: u64 = 0x018;
const RTCICR: u64 = 0x01c;

const NOW: u64 = 1_700_000_000;
const ROUND: u64 = 1 << 32;

fn read(clock: &mut Pl031, register: u64, now: u64) -> u64 {
    clock
        .access(register, AccessWidth::Word, Direction::Read, now)
        .expect("a register")
}

fn write(clock: &mut Pl031, register: u64, value: u64, now: u64) {
    let result = clock.access(register, AccessWidth::Word, Direction::Write(value), now);
    assert_eq!(result, Ok(0));
}

#[test]
fn after_reset_it_shows_the_wall_clock_and_runs() {
    let mut clock = Pl031::new(NOW);
    let rows = [
        (RTCDR, NOW),
        (RTCMR, 0),
        (RTCLR, 0),
        (RTCCR, 1),
        (RTCIMSC, 0),
        (RTCRIS, 0),
        (RTCMIS, 0),
        (RTCICR, 0),
        (0x020, 0),
        (0xfdc, 0),
    ];
    for (register, value) in rows {
        assert_eq!(read(&mut clock, register, NOW), value, "{register:#x}");
    }
    assert_eq!(read(&mut clock, RTCDR, NOW + 77), NOW + 77);
    assert_eq!((clock.line(), clock.alarm()), (false, None));
}

#[test]
fn linux_recognises_it() {
    let mut clock = Pl031::new(NOW);
    let byte = |clock: &mut Pl031, index: u64| read(clock, 0xfe0 + 4 * index, NOW) << (8 * (index % 4));
    let peripheral: u64 = (0..4).map(|index| byte(&mut clock, index)).sum();
    let cell: u64 = (4..8).map(|index| byte(&mut clock, index)).sum();
    // The driver's table: 0x00041031 under the mask 0x000fffff.
    assert_eq!((peripheral & 0xf_ffff, cell), (0x0004_1031, 0xb105_f00d));
}

#[test]
fn a_guest_sets_its_own_time() {
    let mut clock = Pl031::new(NOW);
    for (time, now) in [(12, NOW), (0, NOW + 5), (u64::from(u32::MAX), NOW + 9)] {
        write(&mut clock, RTCLR, time, now);
        assert_eq!(read(&mut clock, RTCLR, now + 1), time);
        assert_eq!(read(&mut clock, RTCDR, now), time);
        assert_eq!(read(&mut clock, RTCDR, now + 1), (time + 1) % ROUND, "of 32 bits");
        assert_eq!(read(&mut clock, RTCCR, now), 1);
    }
    // It is not stopped, either.
    write(&mut clock, RTCCR, 0, NOW + 10);
    assert_eq!(read(&mut clock, RTCCR, NOW + 10), 1);
}

#[test]
fn the_interrupt_comes_at_the_match_and_stays_until_it_is_cleared() {
    let mut clock = Pl031::new(NOW);
    write(&mut clock, RTCMR, NOW + 3, NOW);
    assert_eq!(clock.alarm(), None, "nobody waits for it");
    write(&mut clock, RTCIMSC, 1, NOW);
    assert_eq!(clock.alarm(), Some(NOW + 3));
    clock.advance(NOW + 2);
    assert!(!clock.line());
    clock.advance(NOW + 3);
    assert!(clock.line());
    assert_eq!(clock.alarm(), None, "it is up");
    assert_eq!(
        (read(&mut clock, RTCRIS, NOW + 4), read(&mut clock, RTCMIS, NOW + 4)),
        (1, 1)
    );
    write(&mut clock, RTCICR, 0, NOW + 4);
    assert!(clock.line(), "clearing takes a one");
    write(&mut clock, RTCIMSC, 0, NOW + 4);
    assert!(!clock.line(), "masked");
    assert_eq!(
        (read(&mut clock, RTCRIS, NOW + 4), read(&mut clock, RTCMIS, NOW + 4)),
        (1, 0)
    );
    write(&mut clock, RTCIMSC, 1, NOW + 4);
    assert!(clock.line());
    write(&mut clock, RTCICR, 1, NOW + 4);
    assert!(!clock.line());
    // The same match comes again when the counter has come round.
    assert_eq!(clock.alarm(), Some(NOW + 3 + ROUND));
}

#[test]
fn when_the_match_comes() {
    // (what, match, time set before or none, when it comes)
    let rows = [
        ("the present second", NOW, None, NOW),
        ("the next", NOW + 1, None, NOW + 1),
        ("the last second is a round away", NOW - 1, None, NOW - 1 + ROUND),
        ("zero", 0, None, ROUND),
        ("the largest", u64::from(u32::MAX), None, ROUND - 1),
        ("by the guest's own time", 1005, Some(1000), NOW + 5),
        ("across the end of the counter", 4, Some(ROUND - 1), NOW + 5),
        ("before the guest's own time", 999, Some(1000), NOW + ROUND - 1),
    ];
    for (what, matched, set, expected) in rows {
        let mut clock = Pl031::new(NOW);
        write(&mut clock, RTCIMSC, 1, NOW);
        if let Some(time) = set {
            write(&mut clock, RTCLR, time, NOW);
        }
        write(&mut clock, RTCMR, matched, NOW);
        if expected == NOW {
            assert!(clock.line(), "{what}");
            continue;
        }
        assert_eq!((clock.line(), clock.alarm()), (false, Some(expected)), "{what}");
        clock.advance(expected - 1);
        assert!(!clock.line(), "{what}");
        clock.advance(expected);
        assert!(clock.line(), "{what}");
    }
    // The time moves under a match that is set already.
    let mut clock = Pl031::new(NOW);
    write(&mut clock, RTCMR, 500, NOW);
    write(&mut clock, RTCLR, 490, NOW);
    write(&mut clock, RTCIMSC, 1, NOW);
    assert_eq!(clock.alarm(), Some(NOW + 10));
    write(&mut clock, RTCLR, 500, NOW);
    assert!(clock.line());
}

#[test]
fn a_match_that_nobody_looked_at_is_one_match() {
    let mut clock = Pl031::new(NOW);
    write(&mut clock, RTCMR, NOW + 1, NOW);
    let much_later = NOW + 5 * ROUND + 17;
    assert_eq!(read(&mut clock, RTCRIS, much_later), 1);
    write(&mut clock, RTCICR, 1, much_later);
    assert_eq!(read(&mut clock, RTCRIS, much_later), 0);
    write(&mut clock, RTCIMSC, 1, much_later);
    assert_eq!(clock.alarm(), Some(NOW + 1 + 6 * ROUND));
    // At the end of all times nothing overflows.
    for now in [u64::MAX - 1, u64::MAX, u64::MAX] {
        clock.advance(now);
        write(&mut clock, RTCICR, 1, now);
        write(&mut clock, RTCMR, 7, now);
        write(&mut clock, RTCLR, 3, now);
        read(&mut clock, RTCDR, now);
    }
}

#[test]
fn parts_of_registers_can_be_read_and_only_whole_ones_written() {
    let mut clock = Pl031::new(0x1234_5678);
    let now = 0x1234_5678;
    let rows = [
        (RTCDR, AccessWidth::Byte, 0x78),
        (RTCDR + 1, AccessWidth::Byte, 0x56),
        (RTCDR + 3, AccessWidth::Byte, 0x12),
        (RTCDR, AccessWidth::Halfword, 0x5678),
        (RTCDR + 2, AccessWidth::Halfword, 0x1234),
    ];
    for (offset, width, value) in rows {
        assert_eq!(clock.access(offset, width, Direction::Read, now), Ok(value));
    }
    assert_eq!(
        clock.access(RTCLR + 2, AccessWidth::Halfword, Direction::Write(9), now),
        Ok(0)
    );
    assert_eq!(read(&mut clock, RTCDR, now), now, "nothing happened");
    assert_eq!(
        clock.access(RTCMR, AccessWidth::Byte, Direction::Write(0xfff), now),
        Ok(0)
    );
    assert_eq!(read(&mut clock, RTCMR, now), 0xff, "a byte is all there was");
    write(&mut clock, RTCMR, u64::MAX, now);
    assert_eq!(read(&mut clock, RTCMR, now), 0xffff_ffff);
}

#[test]
fn accesses_that_no_pl031_answers_change_nothing() {
    let mut clock = Pl031::new(NOW);
    let before = clock.clone();
    for (offset, width) in [
        (0x1000, AccessWidth::Word),
        (0x1000, AccessWidth::Byte),
        (u64::MAX, AccessWidth::Byte),
        (u64::MAX - 3, AccessWidth::Word),
        (RTCLR + 1, AccessWidth::Word),
        (RTCLR + 2, AccessWidth::Word),
        (RTCLR + 1, AccessWidth::Halfword),
        (RTCLR, AccessWidth::Doubleword),
    ] {
        for direction in [Direction::Read, Direction::Write(5)] {
            let result = clock.access(offset, width, direction, NOW + 1);
            assert_eq!(result, Err(BadAccess::Shape { offset, width }));
        }
    }
    assert_eq!(clock, before);
    // Registers that can only be read, or are not there.
    for register in [RTCDR, RTCRIS, RTCMIS, 0x020, 0x500, 0xfe0, 0xffc] {
        write(&mut clock, register, u64::MAX, NOW);
    }
    assert_eq!(clock, before);
}
