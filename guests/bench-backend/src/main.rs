//! A domain that answers: each request of a guest that it serves with a constant, each event with an event.
//!
//! It does nothing else, so that what the other side measures is the hypervisor's work as far as possible. A device with
//! `portunus,accel` is served by kinds that spare a wait ([`posts`]). With the boot argument `ranges=N` it serves N ranges
//! of a few bytes each instead of a whole device, with `doorbells=N` so many doorbells; from 8 on by all servers that there
//! may be. With `grants=N` it grants a page to the guest, by N entries and by as many
//! more as a call handles at a time.
#![no_std]
#![no_main]

extern crate alloc;

mod grants;
mod posts;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;

use dtoolkit::Node;
use guest_runtime::device_tree::{self, property_u32};
use guest_runtime::events::Events;
use guest_runtime::gic::Gic;
use guest_runtime::server::Server;
use guest_runtime::window::Window;
use guest_runtime::{hypercall, println, wait_for_interrupt};
use portunus::abi::dm_op::MAX_SERVERS;
use portunus::abi::ioreq::Ioreq;

use grants::{FIRST, Grants};
use posts::Posts;

guest_runtime::entry!(main);

/// The port that the manifest connects with another domain, if it does.
const PEER_PORT: u32 = 10;
/// Bytes of a range where many are served, and from one to the next.
const RANGE: u64 = 8;
const RANGE_STRIDE: u64 = 16;
/// From one server's registers to the next one's where there are many doorbells.
const DOORBELL_STRIDE: u64 = 0x100;
/// What every register reads as.
const ANSWER: u64 = 0x5678_1234;
/// But this one (offset), which says what [`Posts`] has.
const KINDS: u64 = 0x10;

/// Everybody that is served.
struct Served {
    servers: Vec<Server>,
    posts: Option<Posts>,
    /// The address of [`KINDS`].
    kinds: u64,
}

impl Served {
    /// Serves `registers` of a guest's device.
    fn add(&mut self, guest: u16, registers: &Range<u64>, accel: Option<u32>, window: &mut Window) {
        let number = |name| device_tree::boot_number(name).unwrap_or(0);
        let (ranges, doorbells) = (number("ranges"), number("doorbells"));
        let many = ranges.max(doorbells) >= MAX_SERVERS as u64;
        let wanted = if many { MAX_SERVERS } else { 1 };
        while self.servers.iter().filter(|server| server.domain == guest).count() < wanted {
            self.servers
                .push(Server::connect(guest, window).expect("the guest can be served"));
        }
        let own: Vec<&Server> = self.servers.iter().filter(|server| server.domain == guest).collect();
        if doorbells != 0 {
            posts::many(&own, registers, doorbells);
        } else if ranges != 0 {
            for (index, server) in (0..ranges).zip(own.iter().cycle()) {
                let start = registers.start + index * RANGE_STRIDE;
                server.claim(&(start..start + RANGE)).expect("the range is free");
            }
        } else if let Some(server) = own.first() {
            server.claim(registers).expect("the registers are free");
            match accel {
                Some(intid) => self.posts = Some(Posts::attach(server, registers, intid)),
                None => self.kinds = registers.start + KINDS,
            }
        }
    }

    /// What a request is answered with.
    fn answer(&self, domain: u16, request: &Ioreq) -> u64 {
        match &self.posts {
            Some(posts) if posts.contains(domain, request.addr) => posts.settle(request.data as u32),
            Some(posts) if request.addr == self.kinds => return posts.kinds,
            _ => {}
        }
        ANSWER
    }

    /// An event has come. A write is answered when everything else is done: what it returns is the slot.
    fn serve(&self, port: u32) -> Option<(&Server, usize, Ioreq)> {
        let slot = self
            .servers
            .iter()
            .find_map(|server| Some((server, server.ports.iter().position(|own| *own == port)?)));
        match slot {
            Some((server, vcpu)) => {
                let request = server.take(vcpu)?;
                if !request.is_read() {
                    return Some((server, vcpu, request));
                }
                server.answer(vcpu, self.answer(server.domain, &request));
            }
            None if port == PEER_PORT => {
                // A channel whose other end is not there answers to nobody.
                let _ = hypercall::send(port);
            }
            None => {}
        }
        None
    }
}

/// Entries that one execution of a call handles.
const BATCH: u32 = 32;

/// Grants the guest that is served a page, by so many entries and [`BATCH`] more.
fn grant(served: &Served, count: u64) -> Option<Grants> {
    let guest = served.servers.first()?.domain;
    let count = u32::try_from(count).ok()?.max(1) + BATCH;
    let page = Box::leak(Box::new(Page([0x5a; 4096])));
    let frame = &raw mut *page as u64 / 4096;
    let mut grants = Grants::init(FIRST + count).expect("there is a grant table");
    for index in 0..count {
        // SAFETY: the page is leaked, and nobody else here uses it.
        unsafe { grants.grant(FIRST + index, guest, frame, true) }.expect("the entry is there");
    }
    Some(grants)
}

/// What is granted.
#[repr(align(4096))]
struct Page(#[allow(dead_code)] [u8; 4096]);

fn main() -> ! {
    println!("backend: hello");
    let gic = Gic::init();
    let events = Events::init().expect("a domain that serves has event channels");
    gic.enable(events.upcall, false);
    let mut window = Window::from_device_tree().expect("a domain that serves has room for pages");

    let mut served = Served {
        servers: Vec::new(),
        posts: None,
        kinds: 0,
    };
    device_tree::each_compatible("portunus,serves-v1", |node| {
        for device in node.children() {
            let guest = property_u32(device, "guest").expect("a device has a guest") as u16;
            let registers = device_tree::reg(device, 0).expect("a device has registers");
            let interrupt = device_tree::interrupt(device, 0).expect("a device has an interrupt");
            let accel = device.property("accel").map(|_| interrupt.intid);
            served.add(guest, &registers, accel, &mut window);
        }
    });
    let _grants = device_tree::boot_number("grants").and_then(|count| grant(&served, count));
    println!("backend: {} servers", served.servers.len());

    loop {
        while let Some(acknowledged) = gic.acknowledge() {
            gic.end(acknowledged);
        }
        let mut write = None;
        events.take(|port| write = served.serve(port).or(write));
        if let Some((server, vcpu, request)) = write {
            server.answer(vcpu, served.answer(server.domain, &request));
        }
        if !events.is_pending() {
            wait_for_interrupt();
        }
    }
}
