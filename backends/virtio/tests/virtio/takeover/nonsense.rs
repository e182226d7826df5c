//! State pages that no honest backend left: the device goes on or needs a reset; nothing else happens, and after a reset
//! it serves as ever.

use portunus_virtio::block::BlockDevice;
use portunus_virtio::chain::Chain;
use portunus_virtio::disk::{RamDisk, disk_id};
use portunus_virtio::mmio::{MmioDevice, register as r, status};
use portunus_virtio::state::{Resumption, StateError, layout};

use super::driver::{Driver, Options, Run};
use super::world::{Memory, Page, RAM, RAM_SIZE, World};
use super::{Random, options, traffic};

/// How many devices went on, and how many were refused.
#[derive(Default)]
struct Outcomes {
    fresh: usize,
    continued: usize,
    refused: usize,
}

/// Resumes from what is in the world, lets the device work, then resets it and uses it.
fn resume(world: &World, options: Options, outcomes: &mut Outcomes) {
    let (mut device, resumption) = world.resume(options.queues);
    match resumption {
        Resumption::Fresh => outcomes.fresh += 1,
        Resumption::Continued { .. } => outcomes.continued += 1,
        Resumption::Refused(_) => outcomes.refused += 1,
    }
    let refused = matches!(resumption, Resumption::Refused(_));
    for _ in 0..2_000 {
        if !(device.has_work() && device.process(&Memory(world))) {
            break;
        }
    }
    if refused {
        assert_ne!(device.status() & status::DEVICE_NEEDS_RESET, 0);
        assert!(device.take_interrupt(), "the driver is told");
        assert_ne!(device.read(r::INTERRUPT_STATUS, 4) & 2, 0);
        let (again, _) = world.resume(options.queues);
        assert_ne!(
            again.status() & status::DEVICE_NEEDS_RESET,
            0,
            "a successor does not forget"
        );
    }
    let mut driver = Driver::new(options);
    driver.forget_the_disk();
    let mut run = Run::over(world, driver, device);
    run.set_up();
    traffic(&mut run, &mut Random(5), 3);
    run.wait();
    assert_eq!(run.driver.completed, 3);
}

/// A word that may be believed.
fn word(random: &mut Random) -> u32 {
    match random.below(6) {
        0 => 0,
        1 => random.below(16) as u32,
        2 => 1 << random.below(32),
        3 => (RAM + (random.below(RAM_SIZE as u64) & !15)) as u32,
        4 => 16,
        _ => random.below(1 << 32) as u32,
    }
}

#[test]
fn pages_full_of_nonsense() {
    let mut outcomes = Outcomes::default();
    let random = &mut Random(0xbad);
    for turn in 0..1_500 {
        let world = World::new();
        for byte in world.bytes.borrow_mut().iter_mut().step_by(3).take(0x3000) {
            *byte = random.below(256) as u8;
        }
        for place in world.page.borrow_mut().iter_mut() {
            *place = word(random);
        }
        let set = |offset: usize, word| world.page.borrow_mut()[offset / 4] = word;
        if turn % 8 != 0 {
            set(layout::offset::MAGIC, layout::MAGIC);
            set(layout::offset::VERSION, layout::VERSION);
            set(layout::offset::DEVICE_ID, 2);
        }
        if turn % 2 != 0 {
            // A device that seems to run.
            set(layout::offset::STATUS, 0xf);
            set(layout::offset::INTERRUPT_STATUS, random.below(4) as u32);
            set(layout::offset::DRIVER_FEATURES, 0x3000_0000);
            set(layout::offset::DRIVER_FEATURES + 4, 1);
            for queue in 0..8 {
                let at = layout::offset::QUEUES + queue * layout::queue::STRIDE;
                let ready = queue < 2 && random.below(3) != 0;
                set(
                    at + layout::queue::READY,
                    if ready { 1 + 2 * random.below(4) as u32 } else { 0 },
                );
                set(at + layout::queue::SIZE, 16);
                for address in [layout::queue::DESCRIPTORS, layout::queue::DRIVER, layout::queue::DEVICE] {
                    set(at + address, (RAM + 16 * random.below(0x500)) as u32);
                    set(at + address + 4, 0);
                }
                set(at + layout::queue::NEXT_AVAILABLE, random.below(1 << 16) as u32);
                let intent = 1 << 31 | (random.below(20) << 16 | random.below(1 << 16)) as u32;
                set(
                    at + layout::queue::INTENT,
                    if random.below(2) == 0 { 0 } else { intent },
                );
                for number in 0..8 {
                    let heads = if number == 0 { random.below(1 << 17) as u32 } else { 0 };
                    set(at + layout::queue::TAKEN + 4 * number, heads);
                }
            }
        }
        resume(&world, options().nth(turn % 12).unwrap(), &mut outcomes);
    }
    assert!(outcomes.refused > 1_000, "{}", outcomes.refused);
}

#[test]
fn pages_and_rings_with_a_few_wrong_words() {
    let mut outcomes = Outcomes::default();
    let random = &mut Random(0xdead);
    for turn in 0..800 {
        let options = options().nth(turn % 12).unwrap();
        let world = World::new();
        let mut run = Run::new(&world, Driver::new(options));
        run.set_up();
        traffic(&mut run, random, 6);
        drop(run);
        for _ in 0..=random.below(3) {
            if random.below(2) == 0 {
                let queues = (layout::offset::QUEUES + usize::from(options.queues) * layout::queue::STRIDE) / 4;
                world.page.borrow_mut()[random.below(queues as u64) as usize] = word(random);
            } else {
                let at = RAM + (random.below(0xa00) & !1);
                world.put_u16(at, word(random) as u16);
            }
        }
        resume(&world, options, &mut outcomes);
    }
    let Outcomes {
        fresh,
        continued,
        refused,
    } = outcomes;
    println!("{fresh} fresh, {continued} went on, {refused} refused");
    assert!(continued > 100 && refused > 100, "{continued} {refused}");
}

#[test]
fn another_kind_of_device_or_format_is_refused() {
    for (offset, wrong) in [
        (layout::offset::MAGIC, 1),
        (layout::offset::VERSION, 0),
        (layout::offset::VERSION, 2),
        (layout::offset::DEVICE_ID, 1),
        (layout::offset::STATUS, 0x10),
        (layout::offset::STATUS, 4),
        (layout::offset::INTERRUPT_STATUS, 4),
        (layout::offset::DRIVER_FEATURES, 1 << 5),
        (layout::offset::DRIVER_FEATURES + 4, 0),
        (layout::offset::QUEUES + layout::queue::SIZE, 17),
        (layout::offset::QUEUES + layout::queue::SIZE, 512),
        (layout::offset::QUEUES + layout::queue::READY, 8),
        (layout::offset::QUEUES + layout::queue::DESCRIPTORS, 8),
        (layout::offset::QUEUES + layout::queue::DRIVER + 4, 1),
        (layout::offset::QUEUES + layout::queue::NEXT_AVAILABLE, 0x1_0000),
        (layout::offset::QUEUES + layout::queue::NEXT_AVAILABLE, 1),
        (layout::offset::QUEUES + layout::queue::INTENT, 1),
        (layout::offset::QUEUES + layout::queue::INTENT, 1 << 31 | 16 << 16),
        (layout::offset::QUEUES + layout::queue::TAKEN, 1),
        (layout::offset::QUEUES + layout::queue::TAKEN, 1 << 16),
        (layout::offset::QUEUES + layout::queue::TAKEN + 28, 1 << 31),
        (layout::offset::QUEUES + layout::queue::STRIDE + layout::queue::READY, 1),
    ] {
        let options = options().nth(3).unwrap();
        let world = World::new();
        Run::new(&world, Driver::new(options)).set_up();
        assert_eq!(world.resume(1).1, Resumption::Continued { requests: 0 });
        world.page.borrow_mut()[offset / 4] = wrong;
        let mut outcomes = Outcomes::default();
        resume(&world, options, &mut outcomes);
        assert_eq!(outcomes.refused, 1, "{wrong:#x} at {offset:#x}");
    }
}

#[test]
fn a_disk_that_died_with_its_backend_needs_a_reset_once_it_was_used() {
    let options = options().nth(7).unwrap();
    let world = World::new();
    let resume = || {
        let disk = RamDisk::new(vec![0; 64 * 512], disk_id("mortal"));
        let block = BlockDevice::<_, Chain>::new(disk, 2);
        MmioDevice::resume(block, Page(&world), &Memory(&world))
    };
    let (mut device, _) = resume();
    device.write(r::STATUS, 4, 1);
    let (device, resumption) = resume();
    assert_eq!(
        (device.status(), resumption),
        (1, Resumption::Continued { requests: 0 })
    );
    Run::new(&world, Driver::new(options)).set_up();
    let (device, resumption) = resume();
    assert_eq!(resumption, Resumption::Refused(StateError::ContentsLost));
    assert_ne!(device.status() & status::DEVICE_NEEDS_RESET, 0);
}

#[test]
fn a_page_that_the_hypervisor_zeroed_for_a_guest_that_starts_anew_is_begun_again() {
    let options = options().nth(7).unwrap();
    let world = World::new();
    let mut run = Run::new(&world, Driver::new(options));
    run.set_up();
    run.write(r::STATUS, 0);
    world.page.borrow_mut().fill(0);
    run.driver = Driver::new(options);
    run.set_up();
    traffic(&mut run, &mut Random(5), 3);
    run.wait();
    assert!(matches!(world.resume(2).1, Resumption::Continued { .. }));
    world.page.borrow_mut().fill(0);
    let (device, resumption) = world.resume(2);
    assert_eq!((device.status(), resumption), (0, Resumption::Fresh));
}
