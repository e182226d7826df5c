//! The backend: serves the device of each guest, checks the order of what comes, and does to itself what the writer asks for.

mod served;

use alloc::vec::Vec;

use dtoolkit::Node;
use guest_runtime::device_tree::{self, property_u32};
use guest_runtime::events::Events;
use guest_runtime::gic::Gic;
use guest_runtime::window::Window;
use guest_runtime::{println, wait_for_interrupt};

use served::Served;

pub(crate) fn run() {
    let gic = Gic::init();
    let events = Events::init().expect("a domain that serves has event channels");
    gic.enable(events.upcall, false);
    let mut window = Window::from_device_tree().expect("a domain that serves has room for pages");

    let mut all: Vec<Served> = Vec::new();
    device_tree::each_compatible("portunus,serves-v1", |node| {
        for device in node.children() {
            let guest = property_u32(device, "guest").expect("a device has a guest") as u16;
            let registers = device_tree::reg(device, 0).expect("a device has registers");
            let interrupt = device_tree::interrupt(device, 0).expect("a device has an interrupt");
            all.push(Served::new(guest, registers.start, interrupt.intid, &mut window));
        }
    });
    println!("backend: serves {} devices", all.len());

    loop {
        while let Some(acknowledged) = gic.acknowledge() {
            gic.end(acknowledged);
        }
        events.take(|port| {
            // An event of a server that is gone is nobody's.
            if let Some(served) = all.iter_mut().find(|served| served.has(port)) {
                served.event(port);
            }
        });
        if !events.is_pending() {
            wait_for_interrupt();
        }
    }
}
