//! A domain that serves what tests of a guest need, over IOREQ: memory that traps, and interrupts on request.
//!
//! `portunus,type` of a device says what it is:
//!
//! - [`device::MEMORY`]: all of its range is little-endian memory that begins as zeroes, any access of 1, 2, 4 or 8 bytes works;
//! - [`device::SOURCE`]: a register file ([`device::source`]) that raises interrupts.
//!
//! Before every answer it fills all FP and SIMD registers with its own values, so that a guest whose registers are not
//! kept apart notices.
#![no_std]
#![no_main]

extern crate alloc;

mod device;
mod vectors;

use alloc::vec::Vec;

use device::Device;
use dtoolkit::Node;
use guest_runtime::device_tree::{self, property_u32};
use guest_runtime::events::Events;
use guest_runtime::gic::Gic;
use guest_runtime::server::Server;
use guest_runtime::window::Window;
use guest_runtime::{println, psci, wait_for_interrupt};
use portunus::abi::ioreq::TYPE_COPY;

guest_runtime::entry!(main);

fn main() -> ! {
    let gic = Gic::init();
    let events = match Events::init() {
        Ok(events) => events,
        Err(error) => fail("registering for events", &error),
    };
    gic.enable(events.upcall, false);
    let Some(mut window) = Window::from_device_tree() else {
        fail(
            "looking for room for others' memory",
            &"/hypervisor names no extended region",
        )
    };
    let (servers, mut devices) = connect(&mut window);
    println!("scratch: {} devices, {} guests", devices.len(), servers.len());
    loop {
        while let Some(acknowledged) = gic.acknowledge() {
            gic.end(acknowledged);
        }
        events.take(|_| {});
        // Which port rang does not matter: there are few slots, and only they say what is asked.
        let mut worked = false;
        for server in &servers {
            for vcpu in 0..server.ports.len() {
                worked |= answer(server, vcpu, &mut devices);
            }
        }
        for device in &mut devices {
            worked |= device.work();
        }
        if !worked && !events.is_pending() {
            wait_for_interrupt();
        }
    }
}

/// Makes a server for each guest and claims each device's range.
fn connect(window: &mut Window) -> (Vec<Server>, Vec<Device>) {
    let (mut servers, mut devices) = (Vec::<Server>::new(), Vec::new());
    device_tree::each_compatible("portunus,serves-v1", |node| {
        for node in node.children() {
            let (Some(device), Some(guest)) = (Device::from_node(node), property_u32(node, "guest")) else {
                fail(node.name(), &"lacks a property")
            };
            let domain = guest as u16;
            if !servers.iter().any(|server| server.domain == domain) {
                match Server::connect(domain, window) {
                    Ok(server) => servers.push(server),
                    Err(error) => fail("connecting", &error),
                }
            }
            for server in servers.iter().filter(|server| server.domain == domain) {
                if let Err(error) = server.claim(&device.range) {
                    fail(node.name(), &error);
                }
            }
            devices.push(device);
        }
    });
    (servers, devices)
}

/// Answers a vCPU's request; returns whether there was one.
fn answer(server: &Server, vcpu: usize, devices: &mut [Device]) -> bool {
    let Some(request) = server.take(vcpu) else { return false };
    vectors::scribble();
    let span = request.addr..request.addr.saturating_add(request.size.into());
    let first = devices.iter().position(|device| {
        device.domain == server.domain && device.range.start <= span.start && span.end <= device.range.end
    });
    let known = request.kind == TYPE_COPY && request.count == 1 && !request.data_is_pointer();
    let value = match first.filter(|_| known) {
        // What follows a device belongs to the same guest as far as its registers go on.
        Some(first) if request.is_read() => devices[first].read(span),
        Some(first) => {
            device::write(&mut devices[first..], span, request.data);
            0
        }
        None => !0,
    };
    server.answer(vcpu, value);
    true
}

fn fail(what: &str, error: &dyn core::fmt::Display) -> ! {
    println!("scratch: FAILED: {what}: {error}");
    psci::system_off()
}
