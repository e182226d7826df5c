//! The serving loop over a hypervisor that is a list.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use portunus_virtio::accel::{Acceleration, NoAcceleration, RegisterPage, View, Withdrawn};
use portunus_virtio::block::BlockDevice;
use portunus_virtio::chain::Chain;
use portunus_virtio::mmio::{MmioDevice, REGION_SIZE, register as r};
use portunus_virtio::queue::QueueError;
use portunus_virtio::shim::{Access, Doorbell, GuestIndex, MemoryIndex, Operation, ServedDevice, Shim, serve};
use portunus_virtio::state::NoPage;

use crate::simulator::{Ram, VecDisk, numbered_disk};

struct ListShim {
    ram: Ram,
    accesses: VecDeque<Access>,
    answers: Vec<u64>,
    interrupts: Vec<(GuestIndex, u32)>,
    faults: Vec<(GuestIndex, u64)>,
}

impl Shim for ListShim {
    type Memory = Ram;
    type Token = ();
    type Acceleration = NoAcceleration;

    fn memory(&self, _: MemoryIndex) -> &Ram {
        &self.ram
    }
    fn next_access(&mut self) -> Option<(Access, ())> {
        self.accesses.pop_front().map(|access| (access, ()))
    }
    fn answer(&mut self, (): (), value: u64) {
        self.answers.push(value);
    }
    fn raise_interrupt(&mut self, guest: GuestIndex, intid: u32) {
        self.interrupts.push((guest, intid));
    }
    fn report_fault(&mut self, guest: GuestIndex, base: u64, _: QueueError) {
        self.faults.push((guest, base));
    }
}

#[test]
fn accesses_go_to_the_device_of_their_guest() {
    let device = |guest, base, intid, sectors| ServedDevice {
        guest: GuestIndex(guest),
        memory: MemoryIndex(0),
        registers: base..base + REGION_SIZE,
        intid,
        device: MmioDevice::new(BlockDevice::new(numbered_disk(sectors), 1)),
        view: View::Asked,
    };
    let mut devices = [
        device(0, 0x200_0000, 33, 10),
        device(0, 0x200_0200, 34, 20),
        device(1, 0x200_0000, 33, 30),
    ];
    let read = |guest, address, size| Access {
        guest: GuestIndex(guest),
        address,
        size,
        operation: Operation::Read,
    };
    let write = |guest, address, value| Access {
        guest: GuestIndex(guest),
        address,
        size: 4,
        operation: Operation::Write(value),
    };
    let mut shim = ListShim {
        ram: Ram::new(),
        accesses: VecDeque::from([
            read(0, 0x200_0100, 4),
            read(0, 0x200_0300, 4),
            read(1, 0x200_0100, 4),
            read(1, 0x200_0300, 4),
            read(0, 0x200_01fe, 4),
            read(0, 0x1ff_ffff, 1),
            write(1, 0x200_0000 + r::STATUS, 1),
            read(1, 0x200_0000 + r::STATUS, 4),
            read(0, 0x200_0000 + r::STATUS, 4),
            // A queue of three entries.
            write(0, 0x200_0200 + r::QUEUE_NUM, 3),
            write(0, 0x200_0200 + r::QUEUE_READY, 1),
        ]),
        answers: Vec::new(),
        interrupts: Vec::new(),
        faults: Vec::new(),
    };
    assert!(serve(&mut shim, &mut devices));
    let ones = u64::MAX;
    assert_eq!(shim.answers, [10, 20, 30, ones, ones, ones, ones, 1, 0, ones, ones]);
    assert_eq!(shim.faults, [(GuestIndex(0), 0x200_0200)]);
    assert_eq!(shim.interrupts, [], "before DRIVER_OK the driver finds out by Status");
    assert!(!serve(&mut shim, &mut devices), "then there is nothing to do");
}

/// A page that the test sees.
#[derive(Default)]
struct Frames {
    frames: [Vec<u32>; 2],
    shown: usize,
    /// The driver sees the page.
    is_shown: bool,
    word: u32,
    updates: Vec<(u32, u32)>,
    withdrawn: bool,
}

#[derive(Clone)]
struct TestPage(Rc<RefCell<Frames>>);

impl TestPage {
    fn new() -> Self {
        let frames = [vec![0; 1024], vec![0; 1024]];
        Self(Rc::new(RefCell::new(Frames {
            frames,
            ..Frames::default()
        })))
    }
    fn shows(&self, offset: u64) -> u32 {
        let frames = self.0.borrow();
        frames.frames[frames.shown][offset as usize / 4]
    }
}

impl Acceleration for TestPage {
    fn load(&self, frame: usize, offset: usize) -> u32 {
        let frames = self.0.borrow();
        assert!(!frames.withdrawn, "a load from a frame that says nothing any more");
        frames.frames[frame][offset / 4]
    }
    fn store(&mut self, frame: usize, offset: usize, word: u32) {
        let mut frames = self.0.borrow_mut();
        assert!(!frames.withdrawn, "a store to a frame that is gone");
        frames.frames[frame][offset / 4] = word;
    }
    fn update(&mut self, clear: u32, set: u32) -> Result<(), Withdrawn> {
        let mut frames = self.0.borrow_mut();
        if frames.withdrawn {
            return Err(Withdrawn);
        }
        if (clear, set) != (0, 0) {
            frames.updates.push((clear, set));
        }
        let shown = frames.shown;
        frames.word = frames.word & !clear | set;
        frames.frames[shown][r::INTERRUPT_STATUS as usize / 4] = frames.word;
        Ok(())
    }
    fn replace(&mut self) -> Result<(), Withdrawn> {
        let mut frames = self.0.borrow_mut();
        if frames.withdrawn {
            return Err(Withdrawn);
        }
        frames.shown ^= 1;
        frames.is_shown = true;
        let (shown, word) = (frames.shown, frames.word);
        frames.frames[shown][r::INTERRUPT_STATUS as usize / 4] = word;
        Ok(())
    }
}

/// Tells what the page shows when each access is answered.
struct PageShim {
    ram: Ram,
    page: TestPage,
    doorbells: VecDeque<Doorbell>,
    accesses: VecDeque<Access>,
    /// The answer, Status and QueueReady.
    answers: Vec<(u64, u32, u32)>,
    interrupts: usize,
    withdrawals: usize,
    /// A page that was withdrawn may be attached again.
    attachable: bool,
    attempts: usize,
}

impl PageShim {
    fn new() -> Self {
        Self {
            ram: Ram::new(),
            page: TestPage::new(),
            doorbells: VecDeque::new(),
            accesses: VecDeque::new(),
            answers: Vec::new(),
            interrupts: 0,
            withdrawals: 0,
            attachable: false,
            attempts: 0,
        }
    }
}

impl Shim for PageShim {
    type Memory = Ram;
    type Token = ();
    type Acceleration = TestPage;

    fn memory(&self, _: MemoryIndex) -> &Ram {
        &self.ram
    }
    fn next_access(&mut self) -> Option<(Access, ())> {
        self.accesses.pop_front().map(|access| (access, ()))
    }
    fn answer(&mut self, (): (), value: u64) {
        self.answers
            .push((value, self.page.shows(r::STATUS), self.page.shows(r::QUEUE_READY)));
    }
    fn next_doorbell(&mut self) -> Option<Doorbell> {
        self.doorbells.pop_front()
    }
    fn raise_interrupt(&mut self, _: GuestIndex, _: u32) {
        self.interrupts += 1;
    }
    fn report_fault(&mut self, _: GuestIndex, _: u64, _: QueueError) {}
    fn report_withdrawn(&mut self, _: GuestIndex, _: u64) {
        self.withdrawals += 1;
    }
    fn show_again(&mut self, guest: GuestIndex, base: u64) -> Option<TestPage> {
        assert_eq!((guest, base), (GuestIndex(0), BASE));
        self.attempts += 1;
        self.attachable.then(|| {
            self.page = TestPage::new();
            self.page.clone()
        })
    }
}

const BASE: u64 = 0x200_1000;

type PageDevice = ServedDevice<BlockDevice<VecDisk, Chain>, NoPage, TestPage>;

/// A device in a page of its own, and a shim with what the driver does to its registers.
fn page_device(shim: &mut PageShim, writes: &[(u64, u32)]) -> [PageDevice; 1] {
    let mut device = MmioDevice::new(BlockDevice::new(numbered_disk(8), 2));
    let view = View::Shown(RegisterPage::new(shim.page.clone(), &mut device).expect("a page"));
    push_writes(shim, writes);
    [ServedDevice {
        guest: GuestIndex(0),
        memory: MemoryIndex(0),
        registers: BASE..BASE + 0x1000,
        intid: 33,
        device,
        view,
    }]
}

fn push_writes(shim: &mut PageShim, writes: &[(u64, u32)]) {
    shim.accesses.extend(writes.iter().map(|(offset, value)| Access {
        guest: GuestIndex(0),
        address: BASE + offset,
        size: 4,
        operation: Operation::Write((*value).into()),
    }));
}

/// Up to a queue of a size that can't be, at which the device needs a reset.
const UP: [(u64, u32); 8] = [
    (r::STATUS, 1),
    (r::STATUS, 3),
    (r::DRIVER_FEATURES_SEL, 1),
    (r::DRIVER_FEATURES, 1),
    (r::STATUS, 0xb),
    (r::STATUS, 0xf),
    (r::QUEUE_NUM, 3),
    (r::QUEUE_READY, 1),
];

#[test]
fn a_page_says_what_a_register_would_before_the_driver_sees_it() {
    let mut shim = PageShim::new();
    let [mut served] = page_device(&mut shim, &[]);
    for offset in (0..0x1000).step_by(4) {
        let register = served.device.read(offset, 4) as u32;
        assert_eq!(shim.page.shows(offset), register, "{offset:#x}");
    }
    assert_eq!(shim.page.shows(r::MAGIC_VALUE), 0x7472_6976);
    assert_eq!(shim.page.shows(r::CONFIG), 8);
}

#[test]
fn a_write_is_published_before_it_is_answered() {
    let mut shim = PageShim::new();
    let mut devices = page_device(&mut shim, &UP);
    serve(&mut shim, &mut devices);
    let statuses: Vec<u32> = shim.answers.iter().map(|(_, status, _)| *status).collect();
    assert_eq!(statuses, [1, 3, 3, 3, 0xb, 0xf, 0xf, 0x4f]);
    assert_eq!(
        shim.page.shows(r::INTERRUPT_STATUS),
        2,
        "the driver is told of the fault"
    );
    assert_eq!(shim.interrupts, 0, "by the word alone");
    push_writes(&mut shim, &[(r::STATUS, 0)]);
    serve(&mut shim, &mut devices);
    assert_eq!(shim.answers.last(), Some(&(u64::MAX, 0, 0)));
    assert_eq!(shim.page.0.borrow().updates, [(0, 2), (!0, 0)], "a reset clears all");
    push_writes(&mut shim, &[(r::QUEUE_NUM, 4), (r::QUEUE_READY, 1), (r::QUEUE_SEL, 1)]);
    serve(&mut shim, &mut devices);
    let ready: Vec<u32> = shim.answers[9..].iter().map(|(_, _, ready)| *ready).collect();
    assert_eq!(ready, [0, 1, 0], "a selector too");
}

#[test]
fn a_doorbell_rings_its_queue_and_a_wrong_one_nothing() {
    let mut shim = PageShim::new();
    let mut devices = page_device(&mut shim, &[]);
    let bell = |guest, base, queue| Doorbell {
        guest: GuestIndex(guest),
        base,
        queue,
    };
    shim.doorbells.extend([
        bell(1, BASE, 0),
        bell(0, BASE + 0x1000, 0),
        bell(0, BASE, 7),
        bell(0, BASE, u16::MAX),
        bell(0, BASE, 1),
    ]);
    assert!(serve(&mut shim, &mut devices));
    assert!(!serve(&mut shim, &mut devices));
}

#[test]
fn a_page_that_was_withdrawn_is_not_written_and_the_driver_is_told_otherwise() {
    let mut shim = PageShim::new();
    let mut devices = page_device(&mut shim, &UP[..6]);
    serve(&mut shim, &mut devices);
    assert_eq!((shim.withdrawals, shim.interrupts), (0, 0));
    shim.page.0.borrow_mut().withdrawn = true;
    push_writes(&mut shim, &UP[6..]);
    serve(&mut shim, &mut devices);
    assert_eq!((shim.withdrawals, shim.interrupts), (1, 1));
    assert_eq!(shim.page.shows(r::STATUS), 0xf);
    push_read(&mut shim, r::INTERRUPT_STATUS);
    serve(&mut shim, &mut devices);
    assert_eq!(shim.answers.last().map(|(value, ..)| *value), Some(2));
}

fn push_read(shim: &mut PageShim, offset: u64) {
    shim.accesses.push_back(Access {
        guest: GuestIndex(0),
        address: BASE + offset,
        size: 4,
        operation: Operation::Read,
    });
}

#[test]
fn a_driver_that_asks_for_a_word_that_was_withdrawn_is_answered_by_the_device() {
    let mut shim = PageShim::new();
    let mut devices = page_device(&mut shim, &UP);
    serve(&mut shim, &mut devices);
    assert_eq!(shim.page.shows(r::INTERRUPT_STATUS), 2);
    shim.page.0.borrow_mut().withdrawn = true;
    push_read(&mut shim, r::INTERRUPT_STATUS);
    serve(&mut shim, &mut devices);
    assert_eq!(shim.answers.last().map(|(value, ..)| *value), Some(2));
    assert_eq!((shim.withdrawals, shim.interrupts, shim.attempts), (1, 1, 1));
}

#[test]
fn an_interrupt_that_went_with_the_page_comes_again_though_nothing_else_is_to_do() {
    let mut shim = PageShim::new();
    let mut devices = page_device(&mut shim, &UP);
    serve(&mut shim, &mut devices);
    shim.page.0.borrow_mut().withdrawn = true;
    // Another vCPU's access took too long.
    push_read(&mut shim, r::MAGIC_VALUE);
    assert!(serve(&mut shim, &mut devices));
    assert_eq!((shim.withdrawals, shim.interrupts), (1, 1));
    push_read(&mut shim, r::MAGIC_VALUE);
    serve(&mut shim, &mut devices);
    assert_eq!((shim.withdrawals, shim.interrupts, shim.attempts), (1, 1, 2), "once");
}

#[test]
fn a_page_is_shown_again_when_it_is_filled_and_the_word_says_what_is_pending() {
    let mut shim = PageShim::new();
    let mut devices = page_device(&mut shim, &UP);
    serve(&mut shim, &mut devices);
    shim.page.0.borrow_mut().withdrawn = true;
    shim.attachable = true;
    push_writes(&mut shim, &[(r::QUEUE_SEL, 1)]);
    serve(&mut shim, &mut devices);
    assert_eq!((shim.withdrawals, shim.interrupts, shim.attempts), (1, 1, 1));
    {
        let frames = shim.page.0.borrow();
        assert!(frames.is_shown && frames.shown == 1);
        assert_eq!(frames.updates, [(!0, 2)], "the new word, and by it the interrupt");
    }
    let [served] = &mut devices;
    for offset in (0..0x1000).step_by(4) {
        let register = served.device.read(offset, 4) as u32;
        assert_eq!(shim.page.shows(offset), register, "{offset:#x}");
    }
    // From then on it is as it was.
    push_writes(&mut shim, &[(r::STATUS, 0), (r::STATUS, 1)]);
    serve(&mut shim, &mut devices);
    assert_eq!(
        (shim.page.shows(r::STATUS), shim.page.shows(r::INTERRUPT_STATUS)),
        (1, 0)
    );
    assert_eq!((shim.withdrawals, shim.interrupts, shim.attempts), (1, 1, 1));
}
