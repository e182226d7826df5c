//! A domain that serves VirtIO disks to other domains, without an operating system.
//!
//! What it serves stands in `/portunus` of its own device tree. For each guest it makes one IOREQ server, for each device
//! a virtio-mmio block device over a RAM disk or over a disk that is passed through to this domain. One loop on one vCPU
//! does all the work and sleeps when there is none; interrupts are never taken as exceptions, they only end the sleep.
//!
//! A device that can't be served is reported and left out; the others are served.
//!
//! A device's requests reach what the manifest opens of their guest: all of its memory, a window, or what it grants.
//!
//! What is typed at its console it answers: `c` with counters, `t` by trying what the manifest does not open. After `d`
//! it does not hear that pages left a guest's map, and keeps what it has mapped, until `h`.
//!
//! A device that the manifest accelerates has a state page, and the backend goes on from what a predecessor left there. Its
//! guest is shown its registers, rings doorbells and acknowledges interrupts without waiting, as far as the hypervisor can.
//!
//! Boot arguments, for tests:
//! - `delay-ms=N` makes it wait before it does anything, unless somebody types: its guests then wait for it;
//! - `disk-delay-ms=N` makes each read of a disk last so long;
//! - `map-from=BYTES` makes it map granted buffers of so many bytes and more, instead of letting the hypervisor copy them;
//! - `deaf` makes it ignore a driver that resets its running device; `slow-reset-ms=N` makes it take that long, once;
//! - `lives=N`, `nonsense=DEVICE` and `nonsense-at=N` let it crash at steps of its work ([`fate`]).
#![no_std]
#![no_main]

extern crate alloc;

mod acceleration;
mod asked;
mod config;
mod device_memory;
mod fate;
mod grants;
mod guest_memory;
mod real_disk;
mod shim;
mod state_page;
mod trouble;

use alloc::boxed::Box;
use alloc::vec::Vec;

use guest_runtime::events::Events;
use guest_runtime::gic::Gic;
use guest_runtime::server::Server;
use guest_runtime::window::{CHUNK, Window};
use guest_runtime::{console, device_tree, println, psci, timer, wait_for_interrupt};
use portunus_virtio::accel::{RegisterPage, View};
use portunus_virtio::block::BlockDevice;
use portunus_virtio::chain::Chain;
use portunus_virtio::disk::{Disk, RamDisk};
use portunus_virtio::mmio::MmioDevice;
use portunus_virtio::shim::{Doorbell, GuestIndex, ServedDevice, serve};
use portunus_virtio::state::Resumption;

use acceleration::{ShownPage, attach_doorbells};
use config::{MemoryAccess, ServedConfig, Source};
use real_disk::{DiskInterrupt, RealDisk};
use shim::XenShim;
use state_page::{DevicePages, MappedPage};
use trouble::SlowDisk;

guest_runtime::entry!(main);

/// What part of a window one request may take.
const WINDOW_SHARE: u64 = 4;

/// The model holds the requests in work, tens of KiB, so it stays where it was made.
type Device = ServedDevice<&'static mut BlockDevice<&'static mut dyn Disk, Chain>, Option<MappedPage>, ShownPage>;

fn main() -> ! {
    println!("backend: hello");
    let gic = Gic::init();
    if let Some(delay) = device_tree::boot_number("delay-ms") {
        println!("backend: sleeps for {delay} ms");
        console::read_byte_until(
            &gic,
            timer::now().saturating_add(timer::ticks(delay.saturating_mul(1000))),
        );
        println!("backend: awake");
    }
    let events = match Events::init() {
        Ok(events) => events,
        Err(error) => fail("registering for events", &error),
    };
    gic.enable(events.upcall, false);

    let mut window = match Window::from_device_tree() {
        Some(window) => window,
        None => fail(
            "looking for room for others' memory",
            &"/hypervisor names no extended region",
        ),
    };
    fate::begin();
    let mut pages = DevicePages::default();
    let mut interrupts = Vec::new();
    let deaf = device_tree::boot_arguments().any(|word| word == "deaf");
    let mut shim = XenShim::new(deaf);
    let mut devices: Vec<Device> = Vec::new();
    let mut configs = Vec::new();
    for config in config::read() {
        match start(&config, &gic, &mut window, &mut pages, &mut shim, &mut interrupts) {
            Ok(device) => {
                devices.push(device);
                configs.push(config);
            }
            Err(error) => println!(
                "backend: can't serve {} to guest \"{}\": {error}",
                config.name, config.guest_name
            ),
        }
    }
    shim.enable();
    println!("backend: {} devices, {} guests", devices.len(), shim.guests());
    let alarm = disk_delay().map(|_| timer::intid());
    if let Some(intid) = alarm {
        gic.enable(intid, false);
    }
    let spare = window.take(CHUNK);
    let typed = console::listen();
    if let Some(typed) = typed {
        gic.enable(typed.intid, typed.edge);
    }

    loop {
        while let Some(acknowledged) = gic.acknowledge() {
            if acknowledged.intid == events.upcall {
                events.take(|port| shim.on_event(port));
            } else if let Some(interrupt) = interrupts
                .iter()
                .find(|of: &&DiskInterrupt| of.intid == acknowledged.intid)
            {
                interrupt.acknowledge();
            } else if Some(acknowledged.intid) == alarm {
                timer::stop();
            } else if typed.is_some_and(|typed| typed.intid == acknowledged.intid) {
                asked::answer(&configs, &devices, &mut shim, spare.ok());
            }
            gic.end(acknowledged);
        }
        events.take(|port| shim.on_event(port));
        trouble::forget_alarm();
        if !serve(&mut shim, &mut devices) && !events.is_pending() {
            if alarm.is_some() {
                trouble::set_alarm();
            }
            wait_for_interrupt();
        }
    }
}

/// Opens a device's storage, connects to its guest if that is not done yet, and claims its registers. The guest's accesses
/// come once all servers are enabled.
fn start(
    config: &ServedConfig,
    gic: &Gic,
    window: &mut Window,
    pages: &mut DevicePages,
    shim: &mut XenShim,
    interrupts: &mut Vec<DiskInterrupt>,
) -> Result<Device, Box<dyn core::error::Error>> {
    config.check()?;
    let mut disk = open(config, gic, interrupts)?;
    if let Some(milliseconds) = disk_delay() {
        disk = Box::leak(Box::new(SlowDisk::new(disk, milliseconds)));
    }
    let sectors = disk.sectors();
    let queues = config.queues;
    let mut block = if config.read_only {
        BlockDevice::read_only(disk, queues)
    } else {
        BlockDevice::new(disk, queues)
    };
    if config.memory_access == MemoryAccess::Window {
        // Beside the rings there must be room for a request, in whatever pieces its driver has left.
        let window: u64 = config.guest_memory.iter().map(|part| part.end - part.start).sum();
        block = block.with_request_limit(window / WINDOW_SHARE);
    }

    let index = match shim.find(config.guest) {
        Some(index) => index,
        None => shim.add(Server::create(config.guest, window)?),
    };
    let memory = shim.add_memory(index, config, window)?;
    let server = shim.server(index);
    let state = match config.accel {
        true => pages.map_state_page(server, config, window)?,
        false => None,
    };
    let (mut device, resumption) = MmioDevice::resume(Box::leak(Box::new(block)), state, shim.device_memory(memory));
    shim.claim(index, config.registers.clone())?;
    let mut view = View::Asked;
    let mut doorbells = Vec::new();
    if config.accel {
        doorbells = attach_doorbells(server, config)?;
        if let Some(shown) = ShownPage::attach(server, config, pages, window)? {
            view = View::Shown(RegisterPage::new(shown, &mut device)?);
            shim.add_page(shown);
        }
    }
    match resumption {
        Resumption::Fresh => {}
        Resumption::Continued { requests } => println!("{}: goes on, {requests} requests run again", config.name),
        Resumption::Refused(error) => println!("{}: needs a reset: {error}", config.name),
    }
    println!(
        "serving {} to guest \"{}\": {} KiB of {}",
        config.name,
        config.guest_name,
        sectors / 2,
        config.source
    );
    if config.accel {
        let shown = if view.is_shown() { "shown" } else { "not shown" };
        println!(
            "{}: its registers are {shown}, {} doorbells",
            config.name,
            doorbells.len()
        );
    }
    let (guest, base) = (GuestIndex(index), config.registers.start);
    for (port, queue) in doorbells {
        shim.add_doorbell(port, Doorbell { guest, base, queue });
    }
    Ok(ServedDevice {
        guest,
        memory,
        registers: config.registers.clone(),
        intid: config.intid,
        device,
        view,
    })
}

/// How much longer reads of disks are to take, in milliseconds.
fn disk_delay() -> Option<u64> {
    device_tree::boot_number("disk-delay-ms")
}

fn open(
    config: &ServedConfig,
    gic: &Gic,
    interrupts: &mut Vec<DiskInterrupt>,
) -> Result<&'static mut dyn Disk, Box<dyn core::error::Error>> {
    match config.source {
        Source::Ram { mib } => {
            let bytes = (mib as usize) << 20;
            let mut storage = Vec::new();
            storage.try_reserve_exact(bytes)?;
            storage.extend(core::iter::repeat_n(0, bytes));
            Ok(Box::leak(Box::new(RamDisk::new(storage, fate::disk_id(config.name)))))
        }
        Source::Device { path } => {
            let (disk, interrupt) = RealDisk::open(path, fate::disk_id(config.name))?;
            gic.enable(interrupt.intid, interrupt.edge);
            interrupts.push(interrupt);
            Ok(Box::leak(Box::new(disk)))
        }
    }
}

fn fail(what: &str, error: &dyn core::fmt::Display) -> ! {
    println!("backend: FAILED: {what}: {error}");
    psci::system_off()
}
