//! Registers, features, status, reset.

use portunus_virtio::block::{BlockDevice, Feature};
use portunus_virtio::feature::RingFeature;
use portunus_virtio::mmio::{MmioDevice, register as r, status};

use crate::simulator::{
    ALL_DRIVER_FEATURES, Desc, Device, Driver, RAM, Ram, Rings, SCRATCH, VecDisk, WRITE, negotiate, numbered_disk,
    offered, read32, set_up_queue, write32,
};

fn device() -> Device<VecDisk> {
    MmioDevice::new(BlockDevice::new(numbered_disk(64), 2))
}

#[test]
fn identity_registers_and_what_does_not_exist() {
    let mut device = device();
    for (offset, expected) in [
        (r::MAGIC_VALUE, 0x7472_6976),
        (r::VERSION, 2),
        (r::DEVICE_ID, 2),
        (r::STATUS, 0),
        (r::QUEUE_NUM_MAX, 256),
        (r::QUEUE_READY, 0),
        (r::INTERRUPT_STATUS, 0),
        (r::CONFIG_GENERATION, 0),
        (r::SHM_LEN_LOW, !0),
        (r::SHM_LEN_HIGH, !0),
        (r::SHM_BASE_LOW, !0),
        (r::SHM_BASE_HIGH, !0),
        (r::QUEUE_RESET, 0),
        (0x0f0, 0),
        (0x1fc, 0),
    ] {
        assert_eq!(read32(&mut device, offset), expected, "register {offset:#x}");
    }
    assert_eq!(device.read(r::MAGIC_VALUE, 1), 0, "registers are 32 bits wide");
    assert_eq!(device.read(r::MAGIC_VALUE, 8), 0, "registers are 32 bits wide");
    device.write(r::STATUS, 1, 1);
    assert_eq!(read32(&mut device, r::STATUS), 0, "a narrow write changes nothing");
    write32(&mut device, r::QUEUE_SEL, 2);
    assert_eq!(read32(&mut device, r::QUEUE_NUM_MAX), 0, "a queue that is not there");
    write32(&mut device, r::QUEUE_SEL, u32::MAX);
    assert_eq!(read32(&mut device, r::QUEUE_NUM_MAX), 0);
    write32(&mut device, r::DEVICE_FEATURES_SEL, 2);
    assert_eq!(read32(&mut device, r::DEVICE_FEATURES), 0, "no features above bit 63");
}

#[test]
fn configuration_space_in_every_size() {
    let mut device = device();
    assert_eq!(device.read(0x100, 8), 64, "capacity");
    assert_eq!(device.read(0x100, 1), 64);
    assert_eq!(device.read(0x10c, 4), 254, "seg_max");
    assert_eq!(device.read(0x114, 4), 512, "blk_size");
    assert_eq!(device.read(0x122, 2), 2, "num_queues");
    assert_eq!(device.read(0x138, 1), 1, "write_zeroes_may_unmap");
    assert_eq!(device.read(0x1ff, 8), 0, "past the end");
    assert_eq!(device.read(u64::MAX, 8), 0, "past everything");
    write32(&mut device, 0x100, 7);
    assert_eq!(device.read(0x100, 8), 64, "read-only");
}

#[test]
fn a_limit_of_requests_is_kept_by_size_and_number_of_buffers() {
    assert_eq!(device().read(0x108, 4), 0, "size_max");
    assert_eq!(offered(&mut device()) & Feature::SIZE_MAX.bits(), 0);
    for (limit, size, buffers) in [
        (0, 4096, 1),
        (4095, 4096, 1),
        (8192, 4096, 2),
        (256 << 10, 4096, 64),
        (1 << 20, 4096, 254),
        (2 << 20, 8192, 254),
        (256 << 20, 1_056_768, 254),
        (u64::MAX, 1 << 30, 254),
    ] {
        let block = BlockDevice::new(numbered_disk(64), 2).with_request_limit(limit);
        let mut device = MmioDevice::new(block);
        assert_ne!(offered(&mut device) & Feature::SIZE_MAX.bits(), 0);
        let told = (device.read(0x108, 4), device.read(0x10c, 4));
        assert_eq!(told, (size, buffers), "limit {limit}");
        assert!(size * buffers <= limit.max(4096), "limit {limit}");
        assert_eq!(device.read(0x114, 4), 512, "blk_size is as it was");
    }
}

#[test]
fn features_that_may_be_accepted() {
    let all = offered(&mut device());
    let wanted = Feature::SEG_MAX | Feature::FLUSH | Feature::MQ | Feature::DISCARD | Feature::WRITE_ZEROES;
    assert_eq!(all & wanted.bits(), wanted.bits());
    assert_eq!(all & Feature::RO.bits(), 0);
    assert_eq!(all & RingFeature::all().bits(), RingFeature::all().bits());

    let version_1 = RingFeature::VERSION_1.bits();
    for (features, accepted) in [
        (version_1, true),
        (all, true),
        (ALL_DRIVER_FEATURES, true),
        (0, false),
        (RingFeature::INDIRECT_DESC.bits(), false),
        (version_1 | 1 << 34, false),
        (version_1 | 1 << 63, false),
        (version_1 | Feature::RO.bits(), false),
    ] {
        let status = negotiate(&mut device(), features);
        assert_eq!(status & status::FEATURES_OK != 0, accepted, "features {features:#x}");
    }
}

#[test]
fn driver_ok_needs_features_ok() {
    let mut device = device();
    negotiate(&mut device, 0);
    write32(&mut device, r::STATUS, 0xf);
    assert_eq!(read32(&mut device, r::STATUS), status::ACKNOWLEDGE | status::DRIVER);
}

#[test]
fn features_are_fixed_after_features_ok() {
    let mut driver = Driver::start(numbered_disk(4), 1, 0);
    write32(&mut driver.device, r::DRIVER_FEATURES_SEL, 0);
    write32(&mut driver.device, r::DRIVER_FEATURES, !0);
    assert_eq!(
        driver.request(4, 0, &[]),
        (0, 1),
        "still without the features it did not accept"
    );
    assert!(!driver.needs_reset());
}

#[test]
fn writing_zero_to_status_resets_everything() {
    let mut driver = Driver::start(numbered_disk(4), 1, ALL_DRIVER_FEATURES);
    driver.request(0, 0, &[(SCRATCH + 512, 512, true)]);
    assert_eq!(read32(&mut driver.device, r::INTERRUPT_STATUS), 1);
    write32(&mut driver.device, r::STATUS, 0);
    for (register, expected) in [(r::STATUS, 0), (r::INTERRUPT_STATUS, 0), (r::QUEUE_READY, 0)] {
        assert_eq!(read32(&mut driver.device, register), expected);
    }
    assert!(!driver.device.take_interrupt());
    driver.rings[0].offer(&driver.ram, 0);
    driver.notify(0);
    driver.work();
    assert_eq!(
        driver.rings[0].used(&driver.ram),
        1,
        "nothing is taken from a queue that is not set up"
    );
}

#[test]
fn nothing_is_taken_before_driver_ok_and_nothing_is_missed_after() {
    let ram = Ram::new();
    let mut device = device();
    negotiate(&mut device, ALL_DRIVER_FEATURES);
    let rings = Rings::at(RAM, 8);
    set_up_queue(&mut device, &ram, 0, rings);
    ram.put(SCRATCH, &4_u128.to_le_bytes());
    rings.put(
        &ram,
        0,
        Desc {
            address: SCRATCH,
            length: 16,
            flags: 1,
            next: 1,
        },
    );
    rings.put(
        &ram,
        1,
        Desc {
            address: SCRATCH + 16,
            length: 1,
            flags: WRITE,
            next: 0,
        },
    );
    rings.offer(&ram, 0);
    write32(&mut device, r::QUEUE_NOTIFY, 0);
    device.process(&ram);
    assert_eq!(rings.used(&ram), 0);
    write32(&mut device, r::STATUS, 0xf);
    assert!(device.has_work());
    device.process(&ram);
    assert_eq!(rings.used(&ram), 1);
}

#[test]
fn queues_that_may_not_be_enabled() {
    let good = Rings::at(RAM, 8);
    for (name, size, rings) in [
        ("size 0", 0, good),
        ("size 3", 3, good),
        ("size 512", 512, good),
        ("size 2^31", 1 << 31, good),
        (
            "descriptors not aligned to 16",
            8,
            Rings {
                descriptors: RAM + 8,
                ..good
            },
        ),
        (
            "available ring not aligned to 2",
            8,
            Rings {
                driver: RAM + 1,
                ..good
            },
        ),
        (
            "used ring not aligned to 4",
            8,
            Rings {
                device: RAM + 2,
                ..good
            },
        ),
        (
            "descriptors round the end",
            8,
            Rings {
                descriptors: !0xf,
                ..good
            },
        ),
        ("used ring round the end", 8, Rings { device: !0x3, ..good }),
    ] {
        let mut device = device();
        negotiate(&mut device, ALL_DRIVER_FEATURES);
        write32(&mut device, r::QUEUE_NUM, size);
        for (low, value) in [
            (r::QUEUE_DESC_LOW, rings.descriptors),
            (r::QUEUE_DRIVER_LOW, rings.driver),
            (r::QUEUE_DEVICE_LOW, rings.device),
        ] {
            write32(&mut device, low, value as u32);
            write32(&mut device, low + 4, (value >> 32) as u32);
        }
        write32(&mut device, r::QUEUE_READY, 1);
        assert_eq!(read32(&mut device, r::QUEUE_READY), 0, "{name}");
        assert_ne!(read32(&mut device, r::STATUS) & status::DEVICE_NEEDS_RESET, 0, "{name}");
        assert!(device.take_fault().is_some(), "{name}");
        write32(&mut device, r::STATUS, 0);
        assert_eq!(read32(&mut device, r::STATUS), 0, "{name}: a reset heals");
    }
}

#[test]
fn a_ready_queue_can_not_be_changed() {
    let mut driver = Driver::start(numbered_disk(4), 1, 0);
    write32(&mut driver.device, r::QUEUE_SEL, 0);
    write32(&mut driver.device, r::QUEUE_NUM, 4);
    write32(&mut driver.device, r::QUEUE_DESC_LOW, 0);
    assert_eq!(driver.request(4, 0, &[]), (0, 1));
}

#[test]
fn a_configuration_change_is_announced_with_a_new_generation() {
    let mut driver = Driver::start(numbered_disk(4), 1, 0);
    driver.device.configuration_changed();
    assert_eq!(read32(&mut driver.device, r::CONFIG_GENERATION), 1);
    assert_eq!(read32(&mut driver.device, r::INTERRUPT_STATUS), 2);
    assert!(driver.device.take_interrupt());
    write32(&mut driver.device, r::INTERRUPT_ACK, 2);
    assert_eq!(read32(&mut driver.device, r::INTERRUPT_STATUS), 0);
}
