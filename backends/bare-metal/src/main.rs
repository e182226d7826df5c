//! A domain that serves VirtIO disks to other domains, without an operating system.
//!
//! What it serves stands in `/portunus` of its own device tree. For each guest it makes one IOREQ server, for each device
//! a virtio-mmio block device over a RAM disk or over a disk that is passed through to this domain. One loop on one vCPU
//! does all the work and sleeps when there is none; interrupts are never taken as exceptions, they only end the sleep.
//!
//! A device that can't be served is reported and left out; the others are served.
//!
//! A device that the manifest accelerates has a state page: the backend goes on from what a predecessor left there.
//!
//! Boot arguments, for tests:
//! - `delay-ms=N` makes it wait before it does anything: its guests then wait for it;
//! - `disk-delay-ms=N` makes each read of a disk last so long;
//! - `deaf` makes it ignore a driver that resets its running device;
//! - `lives=N`, `nonsense=DEVICE` and `nonsense-at=N` let it crash at steps of its work ([`fate`]).
#![no_std]
#![no_main]

extern crate alloc;

mod config;
mod fate;
mod guest;
mod guest_memory;
mod real_disk;
mod shim;
mod state_page;
mod trouble;

use alloc::boxed::Box;
use alloc::vec::Vec;

use guest_runtime::events::Events;
use guest_runtime::gic::Gic;
use guest_runtime::window::Window;
use guest_runtime::{device_tree, println, psci, timer, wait_for_interrupt};
use portunus_virtio::block::BlockDevice;
use portunus_virtio::chain::Chain;
use portunus_virtio::disk::{Disk, RamDisk};
use portunus_virtio::mmio::MmioDevice;
use portunus_virtio::shim::{GuestIndex, ServedDevice, serve};
use portunus_virtio::state::Resumption;

use config::{ServedConfig, Source};
use guest::Guest;
use real_disk::{DiskInterrupt, RealDisk};
use shim::XenShim;
use state_page::{MappedPage, StatePages};
use trouble::SlowDisk;

guest_runtime::entry!(main);

/// The model holds the requests in work, tens of KiB, so it stays where it was made.
type Device = ServedDevice<&'static mut BlockDevice<&'static mut dyn Disk, Chain>, Option<MappedPage>>;

fn main() -> ! {
    println!("backend: hello");
    let gic = Gic::init();
    if let Some(delay) = device_tree::boot_number("delay-ms") {
        println!("backend: sleeps for {delay} ms");
        timer::sleep(&gic, delay * 1000);
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
    let mut state_pages = StatePages::default();
    let mut interrupts = Vec::new();
    let deaf = device_tree::boot_arguments().any(|word| word == "deaf");
    let mut shim = XenShim::new(deaf);
    let mut devices: Vec<Device> = Vec::new();
    for config in config::read() {
        match start(&config, &gic, &mut window, &mut state_pages, &mut shim, &mut interrupts) {
            Ok(device) => devices.push(device),
            Err(error) => println!(
                "backend: can't serve {} to guest \"{}\": {error}",
                config.name, config.guest_name
            ),
        }
    }
    println!("backend: {} devices, {} guests", devices.len(), shim.guests());
    let alarm = disk_delay().map(|_| timer::intid());
    if let Some(intid) = alarm {
        gic.enable(intid, false);
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

/// Opens a device's storage, connects to its guest if that is not done yet, and claims its registers.
fn start(
    config: &ServedConfig,
    gic: &Gic,
    window: &mut Window,
    state_pages: &mut StatePages,
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
    let block = if config.read_only {
        BlockDevice::read_only(disk, queues)
    } else {
        BlockDevice::new(disk, queues)
    };

    let index = match shim.find(config.guest) {
        Some(index) => index,
        None => shim.add(Guest::connect(config, window)?)?,
    };
    let guest = shim.guest(index);
    let page = match config.accel {
        true => state_pages.map(&guest.server, config, window)?,
        false => None,
    };
    let (device, resumption) = MmioDevice::resume(Box::leak(Box::new(block)), page, &guest.ram);
    shim.claim(index, config.registers.clone())?;
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
    Ok(ServedDevice {
        guest: GuestIndex(index),
        base: config.registers.start,
        intid: config.intid,
        device,
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
