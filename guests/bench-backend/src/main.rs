//! A domain that answers: each request of a guest that it serves with a constant, each event with an event.
//!
//! It does nothing else, so that what the other side measures is the hypervisor's work as far as possible. With the boot
//! argument `ranges=N` it serves N ranges of a few bytes each instead of a whole device, from 8 on by all servers that there
//! may be.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;

use dtoolkit::Node;
use guest_runtime::device_tree::{self, property_u32};
use guest_runtime::events::Events;
use guest_runtime::gic::Gic;
use guest_runtime::server::Server;
use guest_runtime::window::Window;
use guest_runtime::{hypercall, println, wait_for_interrupt};

use portunus::abi::dm_op::MAX_SERVERS;

guest_runtime::entry!(main);

/// Bytes of a range where many are served, and from one to the next.
const RANGE: u64 = 8;
const RANGE_STRIDE: u64 = 16;
/// What every register reads as.
const ANSWER: u64 = 0x5678_1234;

fn main() -> ! {
    println!("backend: hello");
    let gic = Gic::init();
    let events = Events::init().expect("a domain that serves has event channels");
    gic.enable(events.upcall, false);
    let mut window = Window::from_device_tree().expect("a domain that serves has room for pages");

    let mut servers: Vec<Server> = Vec::new();
    device_tree::each_compatible("portunus,serves-v1", |node| {
        for device in node.children() {
            let guest = property_u32(device, "guest").expect("a device has a guest") as u16;
            let registers = device_tree::reg(device, 0).expect("a device has registers");
            let ranges = device_tree::boot_number("ranges").unwrap_or(0);
            let wanted = if ranges < MAX_SERVERS as u64 { 1 } else { MAX_SERVERS };
            while servers.iter().filter(|server| server.domain == guest).count() < wanted {
                servers.push(Server::connect(guest, &mut window).expect("the guest can be served"));
            }
            let own = servers.iter().filter(|server| server.domain == guest);
            if ranges == 0 {
                for server in own.take(1) {
                    server.claim(&registers).expect("the registers are free");
                }
            } else {
                for (index, server) in (0..ranges).zip(own.cycle()) {
                    let start = registers.start + index * RANGE_STRIDE;
                    server.claim(&(start..start + RANGE)).expect("the range is free");
                }
            }
        }
    });
    println!("backend: {} guests", servers.len());

    let serve = |port: u32| {
        let slot = servers
            .iter()
            .find_map(|server| Some((server, server.ports.iter().position(|own| *own == port)?)));
        match slot {
            Some((server, vcpu)) => {
                if server.take(vcpu).is_some() {
                    server.answer(vcpu, ANSWER);
                }
            }
            None => {
                // A channel whose other end is not there answers to nobody.
                let _ = hypercall::send(port);
            }
        }
    };
    loop {
        while let Some(acknowledged) = gic.acknowledge() {
            gic.end(acknowledged);
        }
        events.take(serve);
        if !events.is_pending() {
            wait_for_interrupt();
        }
    }
}
