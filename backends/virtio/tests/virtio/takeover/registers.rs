//! Register writes that come twice: whatever a driver writes, and wherever backends die meanwhile, the registers read as
//! those of a device whose backend never died.

use portunus_virtio::block::BlockDevice;
use portunus_virtio::chain::Chain;
use portunus_virtio::disk::{RamDisk, disk_id};
use portunus_virtio::mmio::{MmioDevice, register as r};

use super::Random;
use super::driver::{Driver, Options, Run};
use super::world::{Fate, RAM, SECTORS, World};

const READABLE: [u64; 9] = [
    r::DEVICE_ID,
    r::DEVICE_FEATURES,
    r::QUEUE_NUM_MAX,
    r::QUEUE_READY,
    r::INTERRUPT_STATUS,
    r::STATUS,
    r::CONFIG_GENERATION,
    r::CONFIG,
    r::CONFIG + 0x20,
];

/// Registers, and values that mean something to them.
const WRITABLE: [(u64, &[u32]); 15] = [
    (r::STATUS, &[0, 1, 3, 0xb, 0xf, 0xf, 0xf, 0x80, 0x40, !0]),
    (r::DEVICE_FEATURES_SEL, &[0, 1, 2, !0]),
    (r::DRIVER_FEATURES_SEL, &[0, 1, 1, 2, !0]),
    (r::DRIVER_FEATURES, &[0, 1, 1, 0x200, 0x3000_0000, !0]),
    (r::QUEUE_SEL, &[0, 1, 2, 7, 8, !0]),
    (r::QUEUE_NUM, &[0, 1, 8, 8, 16, 7, 256, 512, !0]),
    (r::QUEUE_READY, &[0, 1, 1, 1, 2, !0]),
    (r::QUEUE_NOTIFY, &[0, 1, 9, !0]),
    (r::INTERRUPT_ACK, &[0, 1, 2, 3, !0]),
    (r::QUEUE_DESC_LOW, &[RAM as u32, RAM as u32 + 8, RAM as u32 + 0x1000]),
    (r::QUEUE_DESC_HIGH, &[0, 0, 0, !0]),
    (
        r::QUEUE_DRIVER_LOW,
        &[RAM as u32 + 0x2000, RAM as u32 + 1, RAM as u32 + 0x2002],
    ),
    (r::QUEUE_DRIVER_HIGH, &[0]),
    (
        r::QUEUE_DEVICE_LOW,
        &[RAM as u32 + 0x4000, RAM as u32 + 2, RAM as u32 + 0x4004],
    ),
    (r::QUEUE_DEVICE_HIGH, &[0]),
];

#[test]
fn every_register_write_can_come_twice() {
    registers(false);
}

#[test]
fn every_register_that_is_shown_is_right_after_each_write() {
    registers(true);
}

fn registers(accelerated: bool) {
    let options = Options {
        queues: 2,
        event_idx: true,
        indirect: true,
        accelerated,
    };
    let (mut deaths, mut running, mut ready) = (0, 0, 0);
    for seed in 1..=60 {
        let random = &mut Random(seed * 0x1234_5677);
        let mut world = World::new();
        world.zeros_everywhere = true;
        world.fate = Fate::new((0..200).map(|_| 1 + random.below(90)));
        let mut run = Run::new(&world, Driver::new(options));
        let disk = RamDisk::new(vec![0; SECTORS * 512], disk_id("mortal"));
        let mut ideal = MmioDevice::new(BlockDevice::<_, Chain>::new(disk, 2));
        // What of the two disks differs is no register.
        let offers = ideal.read(r::DEVICE_FEATURES, 4);
        let difference = offers ^ u64::from(run.read(r::DEVICE_FEATURES));
        for turn in 0..300 {
            let (register, values) = WRITABLE[random.below(WRITABLE.len() as u64) as usize];
            let value = values[random.below(values.len() as u64) as usize];
            ideal.write(register, 4, value.into());
            run.write(register, value);
            for register in READABLE {
                let mask = if register == r::DEVICE_FEATURES {
                    !difference
                } else {
                    !0
                };
                let (found, ideal) = (u64::from(run.read(register)) & mask, ideal.read(register, 4) & mask);
                let right = if accelerated && register == r::INTERRUPT_STATUS {
                    // A successor repeats what may have been acknowledged.
                    found & ideal == ideal
                } else {
                    found == ideal
                };
                assert!(
                    right,
                    "register {register:#x}, seed {seed}, turn {turn}: {found:#x}, not {ideal:#x}"
                );
            }
            running += usize::from(ideal.status() & 0x44 == 4);
            ready += usize::from(ideal.read(r::QUEUE_READY, 4) == 1);
        }
        deaths += world.fate.deaths.get();
    }
    println!("{deaths} deaths");
    assert!(
        deaths > 1_500 && running > 300 && ready > 500,
        "{deaths} {running} {ready}"
    );
}
