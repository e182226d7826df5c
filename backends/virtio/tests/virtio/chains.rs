//! Rings and chains, honest and hostile; notifications and interrupts.

use portunus_virtio::feature::RingFeature;
use portunus_virtio::mmio::register as r;

use crate::simulator::{
    ALL_DRIVER_FEATURES, Desc, Driver, INDIRECT, NEXT, RAM, RAM_SIZE, SCRATCH, VecDisk, WRITE, numbered_disk, read32,
    write32,
};

const TABLE: u64 = SCRATCH + 0x1000;

fn start(features: u64) -> Driver<VecDisk> {
    let driver = Driver::start(numbered_disk(64), 1, features);
    driver.ram.put(SCRATCH, &0_u128.to_le_bytes());
    driver
}

fn header() -> Desc {
    Desc {
        address: SCRATCH,
        length: 16,
        flags: NEXT,
        next: 1,
    }
}
fn table(entries: u32) -> Desc {
    Desc {
        address: TABLE,
        length: 16 * entries,
        flags: INDIRECT,
        next: 0,
    }
}

type Setup = fn(&Driver<VecDisk>);

#[test]
fn hostile_rings_end_in_device_needs_reset_and_nothing_else() {
    let cases: &[(&str, Setup)] = &[
        ("a loop of two", |d| {
            d.rings[0].put(&d.ram, 0, header());
            d.rings[0].put(
                &d.ram,
                1,
                Desc {
                    address: SCRATCH,
                    length: 16,
                    flags: NEXT,
                    next: 0,
                },
            );
        }),
        ("a loop of one empty buffer", |d| {
            d.rings[0].put(
                &d.ram,
                0,
                Desc {
                    address: SCRATCH,
                    length: 0,
                    flags: NEXT,
                    next: 0,
                },
            );
        }),
        ("next beyond the table", |d| {
            d.rings[0].put(&d.ram, 0, Desc { next: 64, ..header() });
        }),
        ("an indirect table that is not a multiple of 16", |d| {
            d.rings[0].put(&d.ram, 0, Desc { length: 17, ..table(1) });
        }),
        ("an empty indirect table", |d| d.rings[0].put(&d.ram, 0, table(0))),
        ("an indirect table of 4 GiB", |d| {
            d.rings[0].put(
                &d.ram,
                0,
                Desc {
                    length: !15,
                    ..table(1)
                },
            );
        }),
        ("an indirect table round the end of memory", |d| {
            d.rings[0].put(
                &d.ram,
                0,
                Desc {
                    address: !15,
                    ..table(4)
                },
            );
        }),
        ("an indirect table outside RAM", |d| {
            d.rings[0].put(
                &d.ram,
                0,
                Desc {
                    address: 0x1000,
                    ..table(4)
                },
            );
        }),
        ("indirect in indirect", |d| {
            d.rings[0].put(&d.ram, 0, table(2));
            d.ram.put(TABLE, &table(1).bytes());
        }),
        ("indirect with next", |d| {
            d.rings[0].put(
                &d.ram,
                0,
                Desc {
                    flags: INDIRECT | NEXT,
                    next: 1,
                    ..table(1)
                },
            );
        }),
        ("next beyond the indirect table", |d| {
            d.rings[0].put(&d.ram, 0, table(2));
            d.ram.put(TABLE, &Desc { next: 2, ..header() }.bytes());
        }),
        ("a loop in an indirect table", |d| {
            d.rings[0].put(&d.ram, 0, table(2));
            d.ram.put(TABLE, &Desc { next: 0, ..header() }.bytes());
        }),
        ("a buffer round the end of the address space", |d| {
            d.rings[0].put(
                &d.ram,
                0,
                Desc {
                    address: u64::MAX - 4,
                    ..header()
                },
            );
        }),
        ("lengths that add up to 4 GiB", |d| {
            d.rings[0].put(&d.ram, 0, header());
            d.rings[0].put(
                &d.ram,
                1,
                Desc {
                    address: RAM,
                    length: u32::MAX - 15,
                    flags: WRITE,
                    next: 0,
                },
            );
        }),
        ("readable after writable", |d| {
            d.rings[0].put(
                &d.ram,
                0,
                Desc {
                    flags: NEXT | WRITE,
                    ..header()
                },
            );
            d.rings[0].put(
                &d.ram,
                1,
                Desc {
                    address: SCRATCH,
                    length: 16,
                    flags: 0,
                    next: 0,
                },
            );
        }),
        ("no room for a status", |d| {
            d.rings[0].put(&d.ram, 0, Desc { flags: 0, ..header() })
        }),
        ("half a header", |d| {
            d.rings[0].put(&d.ram, 0, Desc { length: 15, ..header() });
            d.rings[0].put(
                &d.ram,
                1,
                Desc {
                    address: SCRATCH + 16,
                    length: 1,
                    flags: WRITE,
                    next: 0,
                },
            );
        }),
        ("a header outside RAM", |d| {
            d.rings[0].put(
                &d.ram,
                0,
                Desc {
                    address: RAM + RAM_SIZE as u64 - 8,
                    ..header()
                },
            );
            d.rings[0].put(
                &d.ram,
                1,
                Desc {
                    address: SCRATCH + 16,
                    length: 1,
                    flags: WRITE,
                    next: 0,
                },
            );
        }),
        ("a status outside RAM", |d| {
            d.rings[0].put(&d.ram, 0, header());
            d.rings[0].put(
                &d.ram,
                1,
                Desc {
                    address: 8,
                    length: 1,
                    flags: WRITE,
                    next: 0,
                },
            );
        }),
        ("a head beyond the table", |d| d.ram.put_u16(d.rings[0].driver + 4, 64)),
        ("the available index jumps", |d| {
            d.ram.put_u16(d.rings[0].driver + 2, 64)
        }),
        ("the available index goes back", |d| {
            d.ram.put_u16(d.rings[0].driver + 2, u16::MAX - 1)
        }),
    ];
    for (name, set_up) in cases {
        let mut driver = start(ALL_DRIVER_FEATURES);
        set_up(&driver);
        driver.rings[0].offer(&driver.ram, driver.ram.u16(driver.rings[0].driver + 4).min(64));
        driver.notify(0);
        driver.work();
        assert!(driver.needs_reset(), "{name}");
        assert_eq!(driver.rings[0].used(&driver.ram), 0, "{name}: nothing was answered");
        assert_eq!(
            read32(&mut driver.device, r::INTERRUPT_STATUS),
            2,
            "{name}: the driver is told"
        );
        assert!(driver.device.take_interrupt(), "{name}");
        driver.notify(0);
        driver.work();
        assert_eq!(driver.rings[0].used(&driver.ram), 0, "{name}: nothing more is taken");
        write32(&mut driver.device, r::STATUS, 0);
        assert!(!driver.needs_reset(), "{name}: a reset heals");
    }
}

#[test]
fn indirect_without_the_feature_is_refused() {
    let mut driver = start(RingFeature::EVENT_IDX.bits());
    driver.rings[0].put(&driver.ram, 0, table(2));
    driver.rings[0].offer(&driver.ram, 0);
    driver.notify(0);
    driver.work();
    assert!(driver.needs_reset());
}

#[test]
fn rings_that_are_not_in_ram_need_a_reset() {
    for hole in [0x80 << 20, 0x1000] {
        let mut driver = start(0);
        write32(&mut driver.device, r::QUEUE_READY, 0);
        write32(&mut driver.device, r::QUEUE_DRIVER_LOW, hole);
        write32(&mut driver.device, r::QUEUE_READY, 1);
        driver.notify(0);
        driver.work();
        assert!(driver.needs_reset());
        assert!(driver.ram.refused.get() > 0);
    }
}

#[test]
fn a_read_through_an_indirect_table_after_a_direct_header() {
    let mut driver = start(ALL_DRIVER_FEATURES);
    driver.ram.put(SCRATCH, &(3_u128 << 64).to_le_bytes());
    driver.rings[0].put(&driver.ram, 5, Desc { next: 9, ..header() });
    // The write flag on an indirect descriptor means nothing.
    driver.rings[0].put(
        &driver.ram,
        9,
        Desc {
            flags: INDIRECT | WRITE,
            ..table(3)
        },
    );
    let entries = [
        Desc {
            address: SCRATCH + 512,
            length: 500,
            flags: NEXT | WRITE,
            next: 2,
        },
        Desc {
            address: SCRATCH + 16,
            length: 1,
            flags: WRITE,
            next: 0,
        },
        Desc {
            address: SCRATCH + 4096 - 6,
            length: 12,
            flags: NEXT | WRITE,
            next: 1,
        },
    ];
    for (index, entry) in entries.iter().enumerate() {
        driver.ram.put(TABLE + 16 * index as u64, &entry.bytes());
    }
    driver.rings[0].offer(&driver.ram, 5);
    driver.notify(0);
    driver.work();
    assert_eq!(driver.rings[0].used_element(&driver.ram, 0), (5, 513));
    assert_eq!(driver.ram.get(SCRATCH + 512, 500), [3; 500]);
    assert_eq!(driver.ram.get(SCRATCH + 4096 - 6, 12), [3; 12]);
    assert_eq!(driver.ram.get(SCRATCH + 16, 1), [0]);
}

#[test]
fn two_hundred_and_fifty_six_descriptors_and_no_more() {
    for (count, fits) in [(256_u64, true), (257, false)] {
        let mut driver = start(ALL_DRIVER_FEATURES);
        driver.rings[0].put(&driver.ram, 0, table(count as u32));
        for index in 0..count {
            // Buffers two bytes apart: none continues another. 254 x 2 bytes are no whole sector.
            let (address, length) = match index {
                0 => (SCRATCH, 16),
                _ if index + 1 == count => (SCRATCH + 16, 1),
                _ => (SCRATCH + 0x4000 + 4 * index, 2),
            };
            let last = index + 1 == count;
            let flags = if index == 0 { 0 } else { WRITE } | if last { 0 } else { NEXT };
            let entry = Desc {
                address,
                length,
                flags,
                next: index as u16 + 1,
            };
            driver.ram.put(TABLE + 16 * index, &entry.bytes());
        }
        driver.rings[0].offer(&driver.ram, 0);
        driver.notify(0);
        driver.work();
        assert_eq!(driver.needs_reset(), !fits, "{count} descriptors");
        assert_eq!(
            driver.rings[0].used(&driver.ram),
            u16::from(fits),
            "{count} descriptors"
        );
    }
}

#[test]
fn indices_wrap_round_and_rings_are_reused() {
    for features in [0, RingFeature::EVENT_IDX.bits()] {
        let mut driver = start(features);
        for turn in 0..70_000_u32 {
            driver.rings[0].set_used_event(&driver.ram, turn as u16);
            assert_eq!(driver.request(4, 0, &[]), (0, 1), "turn {turn}");
            assert!(driver.device.take_interrupt(), "turn {turn}");
        }
    }
}

#[test]
fn event_index_asks_for_the_next_notification_and_interrupts_only_when_wanted() {
    let mut driver = start(RingFeature::EVENT_IDX.bits());
    driver.rings[0].set_used_event(&driver.ram, 2);
    let mut interrupts = Vec::new();
    for turn in 0..5_u16 {
        driver.request(4, 0, &[]);
        interrupts.push(driver.device.take_interrupt());
        assert_eq!(driver.rings[0].avail_event(&driver.ram), turn + 1);
    }
    // The first is always announced; then the one that passes used_event.
    assert_eq!(interrupts, [true, false, true, false, false]);
}

#[test]
fn flags_suppress_interrupts_and_notifications_without_event_index() {
    let mut driver = start(0);
    driver.ram.put_u16(driver.rings[0].driver, 1);
    driver.request(4, 0, &[]);
    assert!(!driver.device.take_interrupt());
    driver.ram.put_u16(driver.rings[0].driver, 0);
    driver.request(4, 0, &[]);
    assert!(driver.device.take_interrupt());
    assert_eq!(
        driver.ram.u16(driver.rings[0].device),
        0,
        "an idle device wants notifications"
    );
}

#[test]
fn a_notification_of_a_queue_that_is_not_there_is_ignored() {
    let mut driver = start(0);
    for queue in [1, 7, 8, u32::MAX] {
        driver.notify(queue);
        driver.work();
    }
    assert!(!driver.needs_reset());
    assert_eq!(driver.request(4, 0, &[]), (0, 1));
}
