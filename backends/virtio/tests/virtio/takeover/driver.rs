//! A driver that does not know that its device's backend dies: it sets queues up, has several requests in work, sleeps
//! until it is interrupted, and checks every answer.

use std::collections::BTreeMap;

use portunus_virtio::accel::View;
use portunus_virtio::block::Feature;
use portunus_virtio::feature::RingFeature;
use portunus_virtio::mmio::{register as r, status};
use portunus_virtio::state::{Resumption, layout};

use super::hypervisor::{Shown, Work};
use super::world::{Backend, Device, Memory, RAM, SECTORS, World};
use crate::simulator::{Desc, INDIRECT, NEXT, WRITE};

/// Entries of each queue: few, so that the rings wrap.
pub(crate) const QUEUE_SIZE: u16 = 16;
/// Bytes of a queue's rings, and of what one slot of a queue needs.
const QUEUE_STRIDE: u64 = 0x1_0000;
const SLOTS: u64 = 0x1000;
const SLOT_STRIDE: u64 = 0x1000;

/// What differs between runs.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Options {
    pub(crate) queues: u16,
    pub(crate) event_idx: bool,
    pub(crate) indirect: bool,
    /// Registers are shown to it, and it rings and acknowledges without waiting.
    pub(crate) accelerated: bool,
}

#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Read,
    Write(u8),
    Flush,
}

#[derive(Copy, Clone, Debug)]
pub(crate) struct Request {
    pub(crate) kind: Kind,
    pub(crate) sector: usize,
    pub(crate) sectors: usize,
}

/// A driver's side of a queue.
#[derive(Clone, Debug, Default)]
struct DriverQueue {
    available: u16,
    last_used: u16,
    /// The available index when the device was last considered for a notification.
    notified: u16,
    in_work: BTreeMap<u16, Request>,
    /// A slot that was used last: the next request gets another.
    turn: u16,
}

/// The driver's own state; cloned with the world, to begin runs in the middle of a life.
#[derive(Clone, Debug)]
pub(crate) struct Driver {
    pub(crate) options: Options,
    queues: Vec<DriverQueue>,
    /// What each sector is full of, where that is known.
    expected: Vec<Option<u8>>,
    /// The interrupt is pending.
    interrupt: bool,
    /// As it was read last.
    pub(crate) capacity: u64,
    pub(crate) submitted: usize,
    pub(crate) completed: usize,
    /// Requests that a reset ended.
    pub(crate) dropped: usize,
}

/// The driver at work, over backends that come and go.
pub(crate) struct Run<'a> {
    world: &'a World,
    backend: Option<Backend<'a>>,
    pub(crate) driver: Driver,
    /// Requests that successors ran again.
    pub(crate) again: u32,
}

impl Driver {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            options,
            queues: vec![DriverQueue::default(); options.queues.into()],
            expected: (0..SECTORS).map(|sector| Some(sector as u8)).collect(),
            interrupt: false,
            capacity: 0,
            submitted: 0,
            completed: 0,
            dropped: 0,
        }
    }

    /// Somebody may have written anything to the disk.
    pub(crate) fn forget_the_disk(&mut self) {
        self.expected.fill(None);
    }

    /// Slots that one queue has: each takes three descriptors, or one of an indirect table.
    pub(crate) fn slots(&self) -> u16 {
        if self.options.indirect { 6 } else { QUEUE_SIZE / 3 }
    }
    fn head(&self, slot: u16) -> u16 {
        if self.options.indirect { slot } else { 3 * slot }
    }
    pub(crate) fn has_room(&self, queue: usize) -> bool {
        self.queues[queue].in_work.len() < self.slots().into()
    }
    /// Whether a request in work has some of these sectors.
    pub(crate) fn touches(&self, sector: usize, sectors: usize) -> bool {
        let in_work = self.queues.iter().flat_map(|queue| queue.in_work.values());
        let mut overlaps =
            in_work.map(|other| sector < other.sector + other.sectors && other.sector < sector + sectors);
        overlaps.any(|overlaps| overlaps)
    }
}

struct Rings {
    descriptors: u64,
    driver: u64,
    device: u64,
}

fn rings(queue: usize) -> Rings {
    let base = RAM + queue as u64 * QUEUE_STRIDE;
    Rings {
        descriptors: base,
        driver: base + 0x400,
        device: base + 0x800,
    }
}

fn slot_at(queue: usize, slot: u16) -> u64 {
    RAM + queue as u64 * QUEUE_STRIDE + SLOTS + u64::from(slot) * SLOT_STRIDE
}

impl<'a> Run<'a> {
    pub(crate) fn new(world: &'a World, driver: Driver) -> Self {
        // Whoever was there is gone.
        world.hypervisor.withdraw();
        Self {
            world,
            backend: None,
            driver,
            again: 0,
        }
    }

    /// As [`Self::new`], over a backend that lives already.
    pub(crate) fn over(world: &'a World, driver: Driver, device: Device<'a>) -> Self {
        Self {
            backend: Some(Backend {
                device,
                view: View::Asked,
            }),
            ..Self::new(world, driver)
        }
    }

    /// The backend that lives, or the next one.
    fn backend(&mut self) -> &mut Backend<'a> {
        while self.backend.is_none() {
            let Options {
                queues, accelerated, ..
            } = self.driver.options;
            let Some((backend, resumption)) = self.world.fate.live(|| self.world.serve(queues, accelerated)) else {
                self.world.hypervisor.withdraw();
                continue;
            };
            match resumption {
                Resumption::Fresh => {}
                Resumption::Continued { requests } => self.again += requests,
                Resumption::Refused(error) => panic!("refused: {error}"),
            }
            self.backend = Some(backend);
        }
        self.backend.as_mut().unwrap()
    }

    /// The backend is gone.
    pub(crate) fn bury(&mut self) {
        self.backend = None;
        self.world.hypervisor.withdraw();
    }

    /// A register access: the hypervisor does it, or it goes to one backend after the other until one answers it.
    fn access(&mut self, offset: u64, value: Option<u32>) -> u32 {
        let world = self.world;
        let hypervisor = &world.hypervisor;
        match value {
            None => {
                if let Some(word) = hypervisor.read(offset) {
                    return word;
                }
            }
            Some(value) => {
                if hypervisor.write(offset, value) {
                    return 0;
                }
            }
        }
        hypervisor.waits.set(hypervisor.waits.get() + 1);
        loop {
            let fate = &world.fate;
            let backend = self.backend();
            let answer = fate.live(|| {
                let Backend { device, view } = &mut *backend;
                hypervisor.is_slow_before(Work::Begin);
                let answer = match value {
                    Some(value) => {
                        device.write(offset, 4, value.into());
                        hypervisor.is_slow_before(Work::Publish);
                        view.settle(device);
                        0
                    }
                    None if offset == r::INTERRUPT_STATUS => view.interrupt_status(device),
                    None => device.read(offset, 4) as u32,
                };
                hypervisor.is_slow_before(Work::Answer);
                fate.step();
                answer
            });
            let Some(answer) = answer else {
                self.bury();
                continue;
            };
            let confirmed = fate.live(|| {
                let Backend { device, view } = &mut *backend;
                view.confirm(device, || hypervisor.attach_again().then_some(Shown(world)));
            });
            if confirmed.is_none() {
                self.bury();
            }
            return answer;
        }
    }
    pub(crate) fn read(&mut self, offset: u64) -> u32 {
        self.access(offset, None)
    }
    pub(crate) fn write(&mut self, offset: u64, value: u32) {
        self.access(offset, Some(value));
    }

    /// Lets the rings' indices be about to wrap, as after many requests. Nothing is in work.
    pub(crate) fn age(&mut self, index: u16) {
        self.bury();
        for (number, queue) in self.driver.queues.iter_mut().enumerate() {
            assert!(queue.in_work.is_empty());
            (queue.available, queue.last_used, queue.notified) = (index, index, index);
            let at = rings(number);
            let size = u64::from(QUEUE_SIZE);
            for word in [
                at.driver + 2,
                at.device + 2,
                at.driver + 4 + 2 * size,
                at.device + 4 + 8 * size,
            ] {
                self.world.put_u16(word, index);
            }
            let words = layout::offset::QUEUES + number * layout::queue::STRIDE;
            self.world.page.borrow_mut()[(words + layout::queue::NEXT_AVAILABLE) / 4] = index.into();
        }
    }

    /// Lets the device go on, at most `turns` times; whether it is idle.
    pub(crate) fn work(&mut self, turns: usize) -> bool {
        let world = self.world;
        let mut left = turns;
        let mut interrupted = false;
        let idle = loop {
            if left == 0 {
                break false;
            }
            let backend = self.backend();
            let went = world.fate.live(|| {
                while left > 0 {
                    left -= 1;
                    for queue in world.hypervisor.take_rung() {
                        backend.device.notify(queue);
                    }
                    let Backend { device, view } = &mut *backend;
                    device.look_at_configuration();
                    let progress = device.has_work() && device.process(&Memory(world));
                    view.settle(device);
                    if !view.is_shown() && device.take_interrupt() {
                        world.fate.step();
                        interrupted = true;
                    }
                    if !progress {
                        return true;
                    }
                }
                false
            });
            match went {
                Some(idle) => break idle,
                None => {
                    self.bury();
                    // What a death undid is to be done again.
                    left += 2;
                }
            }
        };
        self.driver.interrupt |= interrupted;
        idle && !world.hypervisor.is_rung()
    }

    /// Reset, features, queues, DRIVER_OK; requests in work are given up.
    pub(crate) fn set_up(&mut self) {
        self.write(r::STATUS, 0);
        assert_eq!(self.read(r::STATUS), 0);
        for queue in &mut self.driver.queues {
            self.driver.dropped += queue.in_work.len();
            for request in queue.in_work.values() {
                if matches!(request.kind, Kind::Write(_)) {
                    // It may have been done or not.
                    self.driver.expected[request.sector..request.sector + request.sectors].fill(None);
                }
            }
            *queue = DriverQueue::default();
        }
        let mut up = status::ACKNOWLEDGE;
        self.write(r::STATUS, up);
        up |= status::DRIVER;
        self.write(r::STATUS, up);
        self.write(r::DEVICE_FEATURES_SEL, 1);
        let high = self.read(r::DEVICE_FEATURES);
        self.write(r::DEVICE_FEATURES_SEL, 0);
        let offered = u64::from(self.read(r::DEVICE_FEATURES)) | u64::from(high) << 32;
        let mut wanted = RingFeature::VERSION_1.bits() | Feature::FLUSH.bits();
        if self.driver.options.event_idx {
            wanted |= RingFeature::EVENT_IDX.bits();
        }
        if self.driver.options.indirect {
            wanted |= RingFeature::INDIRECT_DESC.bits();
        }
        assert_eq!(offered & wanted, wanted);
        for half in 0..2 {
            self.write(r::DRIVER_FEATURES_SEL, half);
            self.write(r::DRIVER_FEATURES, (wanted >> (32 * half)) as u32);
        }
        up |= status::FEATURES_OK;
        self.write(r::STATUS, up);
        assert_eq!(self.read(r::STATUS), up);
        for queue in 0..self.driver.options.queues {
            let at = rings(queue.into());
            self.world.put(at.descriptors, &[0; 0xc00]);
            self.write(r::QUEUE_SEL, queue.into());
            assert_eq!(self.read(r::QUEUE_READY), 0);
            assert_eq!(self.read(r::QUEUE_NUM_MAX), 256);
            self.write(r::QUEUE_NUM, QUEUE_SIZE.into());
            for (register, address) in [
                (r::QUEUE_DESC_LOW, at.descriptors),
                (r::QUEUE_DRIVER_LOW, at.driver),
                (r::QUEUE_DEVICE_LOW, at.device),
            ] {
                self.write(register, address as u32);
                self.write(register + 4, (address >> 32) as u32);
            }
            self.write(r::QUEUE_READY, 1);
            assert_eq!(self.read(r::QUEUE_READY), 1);
        }
        self.driver.capacity = self.read_capacity();
        up |= status::DRIVER_OK;
        self.write(r::STATUS, up);
        assert_eq!(self.read(r::STATUS), up);
    }

    /// Reads the capacity as a driver does, which reads again if the configuration changes meanwhile.
    pub(crate) fn read_capacity(&mut self) -> u64 {
        loop {
            let generation = self.read(r::CONFIG_GENERATION);
            let low = self.read(r::CONFIG);
            let high = self.read(r::CONFIG + 4);
            if self.read(r::CONFIG_GENERATION) == generation {
                return u64::from(low) | u64::from(high) << 32;
            }
        }
    }

    /// Puts a request into a queue that has room; the device is not told.
    pub(crate) fn submit(&mut self, queue: usize, request: Request) {
        let world = self.world;
        self.driver.submitted += 1;
        let slots = self.driver.slots();
        let turn = self.driver.queues[queue].turn;
        let free = (0..slots).map(|slot| (turn + slot) % slots);
        let slot = free
            .into_iter()
            .find(|slot| !self.driver.queues[queue].in_work.contains_key(&self.driver.head(*slot)))
            .expect("room");
        let head = self.driver.head(slot);
        let at = slot_at(queue, slot);
        let length = (request.sectors * 512) as u32;
        let (kind, data): (u32, Option<u16>) = match request.kind {
            Kind::Read => {
                world.put(at + 0x200, &vec![0xee; length as usize]);
                (0, Some(WRITE))
            }
            Kind::Write(pattern) => {
                world.put(at + 0x200, &vec![pattern; length as usize]);
                (1, Some(0))
            }
            Kind::Flush => (4, None),
        };
        world.put(at, &(u128::from(kind) | (request.sector as u128) << 64).to_le_bytes());
        world.put(at + 16, &[0xff]);
        let mut buffers = vec![(at, 16, 0)];
        buffers.extend(data.map(|flags| (at + 0x200, length, flags)));
        buffers.push((at + 16, 1, WRITE));
        let at_rings = rings(queue);
        let (table, first) = if self.driver.options.indirect {
            let descriptor = Desc {
                address: at + 0x100,
                length: 16 * buffers.len() as u32,
                flags: INDIRECT,
                next: 0,
            };
            world.put(at_rings.descriptors + 16 * u64::from(head), &descriptor.bytes());
            (at + 0x100, 0)
        } else {
            (at_rings.descriptors, head)
        };
        let last = buffers.len() - 1;
        for (index, (address, length, flags)) in buffers.into_iter().enumerate() {
            let number = first + index as u16;
            let descriptor = Desc {
                address,
                length,
                flags: flags | if index == last { 0 } else { NEXT },
                next: number + 1,
            };
            world.put(table + 16 * u64::from(number), &descriptor.bytes());
        }
        let own = &mut self.driver.queues[queue];
        own.turn = slot + 1;
        own.in_work.insert(head, request);
        world.put_u16(at_rings.driver + 4 + 2 * u64::from(own.available % QUEUE_SIZE), head);
        own.available = own.available.wrapping_add(1);
        world.put_u16(at_rings.driver + 2, own.available);
    }

    /// Rings, if the device wants it.
    pub(crate) fn notify(&mut self, queue: usize) {
        let at = rings(queue);
        let own = &mut self.driver.queues[queue];
        let (old, new) = (own.notified, own.available);
        own.notified = new;
        let wanted = if self.driver.options.event_idx {
            let event = self.world.u16(at.device + 4 + 8 * u64::from(QUEUE_SIZE));
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            self.world.u16(at.device) & 1 == 0
        };
        if wanted {
            self.write(r::QUEUE_NOTIFY, queue as u32);
        }
    }

    /// Takes an interrupt, if one is pending: false if not.
    pub(crate) fn take_interrupt(&mut self) -> bool {
        let edge = std::mem::take(&mut self.driver.interrupt);
        if !edge && !self.world.hypervisor.line() {
            return false;
        }
        let cause = self.read(r::INTERRUPT_STATUS);
        self.write(r::INTERRUPT_ACK, cause);
        if cause & 2 != 0 {
            self.driver.capacity = self.read_capacity();
        }
        for queue in 0..self.driver.queues.len() {
            let at = rings(queue);
            loop {
                while self.world.u16(at.device + 2) != self.driver.queues[queue].last_used {
                    self.collect(queue);
                }
                // An interrupt for the next one; then one more look.
                let last_used = self.driver.queues[queue].last_used;
                self.world.put_u16(at.driver + 4 + 2 * u64::from(QUEUE_SIZE), last_used);
                if self.world.u16(at.device + 2) == last_used {
                    break;
                }
            }
        }
        true
    }

    /// Takes one used element and checks everything about it.
    fn collect(&mut self, queue: usize) {
        let at = rings(queue);
        let own = &mut self.driver.queues[queue];
        let element = self
            .world
            .get(at.device + 4 + 8 * u64::from(own.last_used % QUEUE_SIZE), 8);
        own.last_used = own.last_used.wrapping_add(1);
        let head = u32::from_le_bytes(element[..4].try_into().unwrap()) as u16;
        let written = u32::from_le_bytes(element[4..].try_into().unwrap());
        let request = own.in_work.remove(&head);
        let request = request.unwrap_or_else(|| panic!("head {head} of queue {queue} was not in work"));
        let slot = if self.driver.options.indirect { head } else { head / 3 };
        let data = slot_at(queue, slot);
        assert_eq!(self.world.get(data + 16, 1), [0], "{request:?} succeeded");
        let sectors = request.sector..request.sector + request.sectors;
        let on_disk = self.world.disk.borrow()[sectors.start * 512..sectors.end * 512].to_vec();
        match request.kind {
            Kind::Read => {
                assert_eq!(written, request.sectors as u32 * 512 + 1);
                assert_eq!(self.world.get(data + 0x200, on_disk.len()), on_disk, "{request:?}");
                for (expected, bytes) in self.driver.expected[sectors].iter().zip(on_disk.chunks(512)) {
                    assert!(expected.is_none_or(|expected| bytes == [expected; 512]), "{request:?}");
                }
            }
            Kind::Write(pattern) => {
                assert_eq!(written, 1);
                assert!(on_disk.iter().all(|byte| *byte == pattern), "{request:?}");
                self.driver.expected[sectors].fill(Some(pattern));
            }
            Kind::Flush => assert_eq!(written, 1),
        }
        self.driver.completed += 1;
    }

    /// Sleeps until all is answered. A device that is idle while the driver sleeps has lost an interrupt.
    pub(crate) fn wait(&mut self) {
        loop {
            let idle = self.work(1);
            if self.take_interrupt() {
                continue;
            }
            let in_work: usize = self.driver.queues.iter().map(|queue| queue.in_work.len()).sum();
            if in_work == 0 {
                return;
            }
            assert!(!idle, "{in_work} requests and no interrupt");
        }
    }
}
