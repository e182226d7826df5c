//! A domain that answers: each request of a guest that it serves with a constant, each event with an event.
//!
//! It does nothing else, so that what the other side measures is the hypervisor's work as far as possible.
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

guest_runtime::entry!(main);

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
            if servers.iter().all(|server| server.domain != guest) {
                servers.push(Server::connect(guest, &mut window).expect("the guest can be served"));
            }
            let server = servers.iter().find(|server| server.domain == guest);
            server
                .expect("it was just connected")
                .claim(&registers)
                .expect("the registers are free");
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
