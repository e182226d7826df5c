//! What a device is given, by what it may reach, and what must come of it.

use guest_runtime::dma::Reach;
use guest_runtime::hypercall::memory;
use guest_runtime::random::Random;
use guest_runtime::{granting, timer};

use crate::device::{DATA, Device, GRANTED, HEADER, Outcome, PAGE, Request, SPARE, STATUS_AT, get, private_pages, put};
use crate::fail;

/// What is in pages that the device must not touch.
const CANARY: u64 = 0x00c0_ffee_00c0_ffee;
/// How long a refused request is waited for, in microseconds.
const PATIENCE: u64 = 5_000_000;
/// Grants that are taken back at some moment of a request.
const RACES: u64 = 40;
/// How often a page is given up.
const GIVEN_UP: u64 = 4;
/// A domain that the device's backend is not: the first of the manifest.
const SOMEBODY_ELSE: u16 = 1;

fn fill(pages: u64, count: u64) {
    for word in 0..count * PAGE / 8 {
        put(pages + word * 8, CANARY);
    }
}

fn check(pages: u64, count: u64, device: &Device, what: &str) {
    for word in 0..count * PAGE / 8 {
        let found: u64 = get(pages + word * 8);
        if found != CANARY {
            fail(format_args!(
                "{}: {what}: a page that is not the device's holds {found:#x}",
                device.kind()
            ));
        }
    }
}

struct Abuses<'a> {
    device: &'a mut Device,
    refused: u64,
    number: u64,
    /// Two pages that the device must not touch.
    bait: u64,
}

impl Abuses<'_> {
    /// A request that must be refused, by its status or by the device's, and a good one after it.
    fn request(&mut self, what: &str, request: Request) {
        fill(self.bait, 2);
        self.device.offer(&request, 1);
        match self.device.outcome(PATIENCE) {
            Outcome::Status(1) | Outcome::NeedsReset => {}
            outcome => fail(format_args!("{}: {what}: {outcome:?}", self.device.kind())),
        }
        self.survived(what);
    }

    fn survived(&mut self, what: &str) {
        check(self.bait, 2, self.device, what);
        self.refused += 1;
        self.number += 1;
        self.device.must_work(self.number, what);
    }

    /// The same address in each place of a request.
    fn everywhere(&mut self, what: &str, address: u64, writes_too: bool) {
        let good = self.device.good(false);
        self.request(what, Request { data: address, ..good });
        if writes_too {
            self.request(
                what,
                Request {
                    data: address,
                    ..self.device.good(true)
                },
            );
            self.request(
                what,
                Request {
                    header: address,
                    ..good
                },
            );
        }
        self.request(
            what,
            Request {
                status: address,
                ..good
            },
        );
    }

    /// The same address as each ring of a queue that must not be read, or not be written.
    fn rings(&mut self, what: &str, address: u64, readable: bool) {
        for ring in if readable { 2..3 } else { 0..3 } {
            fill(self.bait, 2);
            let mut rings = self.device.rings();
            rings[ring] = address;
            if self.device.start(rings) {
                self.device.offer(&self.device.good(false), 1);
                match self.device.outcome(PATIENCE / 5) {
                    Outcome::NeedsReset | Outcome::Nothing => {}
                    outcome => fail(format_args!(
                        "{}: {what} as ring {ring}: {outcome:?}",
                        self.device.kind()
                    )),
                }
            }
            self.survived(what);
        }
    }

    fn anywhere(&mut self) {
        for (what, address) in [
            ("nothing", 0),
            ("beyond all RAM", 0x7f_ffff_f000),
            ("the last bytes that there are", u64::MAX - 255),
            ("a number that wraps", GRANTED - 8),
        ] {
            self.everywhere(what, address, true);
            self.rings(what, address & !0xf, false);
        }
    }

    /// A page that the device used, and that this driver gives up: the backend lets go of it before the call returns, so it is
    /// there for the driver again at once.
    fn give_up(&mut self) {
        let page = self.device.pages + SPARE * PAGE;
        for _ in 0..GIVEN_UP {
            let good = self.device.good(false);
            let request = Request {
                data: self.device.address + SPARE * PAGE,
                length: PAGE as u32,
                ..good
            };
            self.device.offer(&request, 1);
            if self.device.outcome(PATIENCE) != Outcome::Status(0) {
                fail(format_args!("{}: a page before it is given up", self.device.kind()));
            }
            // SAFETY: nothing else is in that page, which is not looked at while it is away.
            if unsafe { memory::give_up(page / PAGE) } != Ok(true) {
                fail(format_args!("{}: a page is not given up", self.device.kind()));
            }
            self.request("a page that was given up", request);
            if memory::take_back(page / PAGE) != Ok(true) {
                fail(format_args!(
                    "{}: a page that was given up is mapped yet",
                    self.device.kind()
                ));
            }
            if (0..PAGE / 8).any(|word| get::<u64>(page + word * 8) != 0) {
                fail(format_args!("{}: a page comes back full", self.device.kind()));
            }
        }
    }

    fn window(&mut self, end: u64) {
        self.everywhere("RAM beside the window", self.bait, true);
        self.rings("RAM beside the window", self.bait, false);
        self.everywhere("the window's end", end, true);
        let good = self.device.good(false);
        for (what, before) in [("across the window's end", 256), ("the last byte and more", 1)] {
            self.request(
                what,
                Request {
                    data: end - before,
                    ..good
                },
            );
        }
        // As a grant it is none, and there are none.
        self.everywhere("an address of the window with bit 63", good.data | GRANTED, true);
    }

    fn grants(&mut self, backend: u16) {
        let good = self.device.good(false);
        self.everywhere("RAM by its address", self.bait, true);
        self.rings("RAM by its address", self.bait, false);
        let plain = self.device.pages + DATA * PAGE;
        self.everywhere("a page that is granted, without bit 63", plain, true);
        let by = |reference: u32| GRANTED | u64::from(reference) << 12;
        for (what, reference) in [
            ("what is not granted", 400),
            ("a reference of the toolstack's", 0),
            ("a reference beyond the table", 513),
            ("a reference far beyond the table", u32::MAX),
        ] {
            self.everywhere(what, by(reference), true);
            self.rings(what, by(reference), false);
        }
        self.everywhere("a reference of more than 32 bits", GRANTED | 1 << 44 | 9 << 12, true);
        let frame = self.bait / PAGE;
        let read_only = granting::grant(backend, frame, 2, true);
        self.everywhere("a page for reading", by(read_only), false);
        self.rings("a page for reading", by(read_only), true);
        self.end(read_only, 2, "a page for reading");
        let other = granting::grant(SOMEBODY_ELSE, frame, 2, false);
        self.everywhere("a page that is granted to another", by(other), true);
        self.rings("a page that is granted to another", by(other), false);
        self.end(other, 2, "a page that is granted to another");
        // The first page may be written, the next one is not granted.
        let one = granting::grant(backend, frame, 1, false);
        self.device.offer(
            &Request {
                data: by(one) + 3584,
                length: 1024,
                ..good
            },
            1,
        );
        match self.device.outcome(PATIENCE) {
            Outcome::Status(1) | Outcome::NeedsReset => {}
            outcome => fail(format_args!("beyond a granted page: {outcome:?}")),
        }
        fill(self.bait, 1);
        self.survived("beyond a granted page");
        self.end(one, 1, "beyond a granted page");
        self.status_in_a_page_for_reading(backend);
        self.races(backend);
    }

    /// The device has given it back.
    fn end(&self, reference: u32, pages: u32, what: &str) {
        let start = timer::now();
        while !granting::end(reference, pages) {
            if timer::now() - start > timer::ticks(PATIENCE) {
                fail(format_args!("{what} stays mapped"));
            }
            guest_runtime::let_others_run();
        }
    }

    /// The driver's own pages, granted once more for less: the data arrives and the status cannot.
    fn status_in_a_page_for_reading(&mut self, backend: u16) {
        let frame = self.device.pages / PAGE + HEADER;
        let read_only = granting::grant(backend, frame, 1, true);
        let status = GRANTED | u64::from(read_only) << 12 | STATUS_AT;
        let good = self.device.good(false);
        self.device.offer(&Request { status, ..good }, 1);
        match self.device.outcome(PATIENCE) {
            // It was not written.
            Outcome::Status(0xff) | Outcome::NeedsReset => {}
            outcome => fail(format_args!("a status in a page for reading: {outcome:?}")),
        }
        fill(self.bait, 2);
        self.survived("a status in a page for reading");
        self.end(read_only, 1, "a status in a page for reading");
    }

    /// Grants that end at any moment of a request. When one has ended, the page is this driver's alone.
    fn races(&mut self, backend: u16) {
        let mut random = Random::new(self.number);
        let (mut late, mut early) = (0, 0);
        for _ in 0..RACES {
            fill(self.bait, 2);
            let reference = granting::grant(backend, self.bait / PAGE, 1, false);
            let data = GRANTED | u64::from(reference) << 12;
            let request = Request {
                data,
                length: 4096,
                ..self.device.good(false)
            };
            self.device.offer(&request, 1);
            // Emulated CPUs may take turns of a tenth of a second.
            let most = random.choose(&[60, 4000, 200_000]);
            timer::spin(random.below(most));
            self.end(reference, 1, "a grant that ends");
            fill(self.bait, 2);
            match self.device.outcome(PATIENCE) {
                Outcome::Status(0) => late += 1,
                Outcome::Status(1) | Outcome::NeedsReset => early += 1,
                outcome => fail(format_args!("a grant that ends while it is used: {outcome:?}")),
            }
            self.survived("a grant that ends while it is used");
        }
        guest_runtime::println!("rogue: grants that end: {early} before they were used, {late} after");
    }
}

/// Everything that the device must not reach; how much that was.
pub(crate) fn run(device: &mut Device, round: u64) -> u64 {
    let reach = device.reach.clone();
    let mut abuses = Abuses {
        bait: private_pages(2),
        device,
        refused: 0,
        number: round << 10,
    };
    abuses.device.must_work(abuses.number, "nothing");
    abuses.anywhere();
    match reach {
        Reach::All => abuses.give_up(),
        Reach::Window(window) => {
            abuses.window(window.end);
            abuses.give_up();
        }
        Reach::Grants(backend) => abuses.grants(backend),
    }
    abuses.refused
}
