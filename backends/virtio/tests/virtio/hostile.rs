//! A driver that writes nonsense: the device never panics, always comes to rest, and works again after a reset.

use portunus_virtio::block::BlockDevice;
use portunus_virtio::mmio::{MmioDevice, register as r};

use crate::simulator::{
    ALL_DRIVER_FEATURES, Desc, Driver, INDIRECT, NEXT, RAM, RAM_SIZE, SCRATCH, WRITE, numbered_disk, read32, write32,
};

/// The generator SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
    fn address(&mut self) -> u64 {
        match self.below(8) {
            0 => self.next(),
            1 => RAM + RAM_SIZE as u64 - self.below(32),
            2 => u64::MAX - self.below(4096),
            3 => RAM + self.below(0x1_0000),
            _ => SCRATCH + self.below(0x1_0000),
        }
    }
    fn descriptor(&mut self) -> Desc {
        let flags = self.of(&[0, NEXT, WRITE, NEXT | WRITE, INDIRECT, NEXT | INDIRECT, 0xffff]);
        Desc {
            address: self.address(),
            length: self.of(&[0, 1, 15, 16, 17, 32, 512, 513, 4096, 65536, u32::MAX]),
            flags,
            next: self.below(80) as u16,
        }
    }
}

#[test]
fn nonsense_in_rings_and_headers() {
    for seed in 0..1_000 {
        let mut random = Random(seed);
        let features = random.of(&[0, ALL_DRIVER_FEATURES, u64::MAX]);
        let mut driver = Driver::start(numbered_disk(64), 2, features);
        for queue in 0..2 {
            let rings = driver.rings[queue];
            for index in 0..64 {
                let mut descriptor = random.descriptor();
                if index < 8 && random.below(2) == 0 {
                    // A likely start of a chain, so that more than the first check is reached.
                    descriptor = Desc {
                        address: SCRATCH + 64 * index,
                        length: 16,
                        flags: NEXT,
                        next: 8 + index as u16,
                    };
                    let header = u128::from(random.of(&[0_u32, 1, 4, 8, 11, 13])) | u128::from(random.below(80)) << 64;
                    driver.ram.put(SCRATCH + 64 * index, &header.to_le_bytes());
                }
                rings.put(&driver.ram, index as u16, descriptor);
            }
            for entry in 0..64 {
                let head = if random.below(16) == 0 {
                    random.next() as u16
                } else {
                    random.below(8) as u16
                };
                driver.ram.put_u16(rings.driver + 4 + 2 * entry, head);
            }
            driver.ram.put_u16(rings.driver + 2, random.below(66) as u16);
            driver.notify(queue as u32);
        }
        driver.work();
        if random.below(2) == 0 {
            driver.notify(0);
            driver.work();
        }

        write32(&mut driver.device, r::STATUS, 0);
        assert!(!driver.device.has_work(), "seed {seed}: nothing is left after a reset");
        let mut again = Driver::bring_up(driver.device, 2, ALL_DRIVER_FEATURES);
        assert_eq!(again.request(4, 0, &[]), (0, 1), "seed {seed}: a reset heals");
    }
}

#[test]
fn nonsense_in_registers() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let driver = Driver::start(numbered_disk(64), 2, ALL_DRIVER_FEATURES);
        let (mut device, ram) = (driver.device, driver.ram);
        for _ in 0..300 {
            let offset = match random.below(4) {
                0 => random.next(),
                _ => 4 * random.below(0x80),
            };
            let size = random.of(&[1, 2, 4, 4, 4, 4, 8]);
            if random.below(2) == 0 {
                device.read(offset, size);
            } else {
                let value = match random.below(4) {
                    0 => random.next(),
                    1 => random.address(),
                    _ => random.below(16),
                };
                device.write(offset, size, value);
            }
            for _ in 0..100 {
                if !(device.has_work() && device.process(&ram)) {
                    break;
                }
            }
        }
        write32(&mut device, r::STATUS, 0);
        assert_eq!(read32(&mut device, r::STATUS), 0, "seed {seed}");
    }
    let mut device = MmioDevice::new(BlockDevice::new(numbered_disk(1), 1));
    for size in 0..=u8::MAX {
        device.read(r::CONFIG, size);
        device.write(r::CONFIG, size, 0);
    }
}
