//! A backend domain that answers one guest's register reads until it is told to die, with the read that told it in
//! flight. The library beside it says what its devices are and which deaths there are.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;
use core::ops::Range;

use dtoolkit::Node;
use guest_mortal::{ALIVE, Death, LIFE, REBIRTH_AFTER, REBORN};
use guest_runtime::device_tree::{each_compatible, property_u32, reg};
use guest_runtime::events::Events;
use guest_runtime::gic::Gic;
use guest_runtime::server::{ConnectError, Server};
use guest_runtime::window::Window;
use guest_runtime::{hypercall, println, psci, timer, wait_for_interrupt};
use portunus::abi::ioreq::{Ioreq, State};
use portunus::abi::sched::ShutdownReason;

guest_runtime::entry!(main);

const PAGE: u64 = 4096;

/// One device, by its registers in the guest.
struct Device {
    registers: Range<u64>,
    /// Deaths died already, for its sake: their offsets.
    died: Vec<u64>,
    /// Its guest waits for the backend's end.
    doomed: bool,
}

impl Device {
    /// What a read gives; the death that it brings instead.
    fn read(&mut self, request: &Ioreq) -> Result<u32, Death> {
        let offset = request.addr - self.registers.start;
        let Some(death) = Death::at(offset) else {
            return Ok(if offset == LIFE { ALIVE } else { 0 });
        };
        if self.died.contains(&offset) {
            return Ok(REBORN);
        }
        self.died.push(offset);
        Err(death)
    }
}

struct Backend {
    guest: u16,
    devices: Vec<Device>,
    server: Server,
    gic: Gic,
}

/// Makes a server whose page is at `address`.
fn connect(guest: u16, devices: &[Device], address: u64) -> Result<Server, ConnectError> {
    let server = Server::connect_at(guest, address)?;
    for device in devices {
        server.claim(&device.registers)?;
    }
    Ok(server)
}

impl Backend {
    fn new(gic: Gic) -> Result<Self, ConnectError> {
        let mut window = Window::from_device_tree().expect("a backend has room for others' memory");
        let mut guest = 0;
        let mut devices = Vec::new();
        each_compatible("portunus,serves-v1", |node| {
            for device in node.children() {
                let number = property_u32(device, "guest").expect("a device has a guest");
                guest = u16::try_from(number).expect("a domain number");
                devices.push(Device {
                    registers: reg(device, 0).expect("a device has registers"),
                    died: Vec::new(),
                    doomed: false,
                });
            }
        });
        let server = connect(guest, &devices, window.take(PAGE)?)?;
        Ok(Self {
            guest,
            devices,
            server,
            gic,
        })
    }

    /// Looks at every slot.
    fn serve(&mut self) {
        for vcpu in 0..self.server.ports.len() {
            let Some(request) = self.server.take(vcpu) else {
                continue;
            };
            let device = self
                .devices
                .iter_mut()
                .find(|device| device.registers.contains(&request.addr));
            match device.map(|device| device.read(&request)) {
                Some(Ok(value)) => self.server.answer(vcpu, value.into()),
                Some(Err(death)) => self.die(death, vcpu, request.addr),
                None => self.server.answer(vcpu, !0),
            }
        }
    }

    fn die(&mut self, death: Death, vcpu: usize, address: u64) {
        if !death.is_survived() {
            let mut devices = self.devices.iter_mut();
            let device = devices.find(|device| device.registers.contains(&address));
            device.expect("its request was taken").doomed = true;
            if !self.devices.iter().all(|device| device.doomed) {
                return;
            }
        }
        match death {
            Death::PowerOff => psci::system_off(),
            Death::Exception => {
                // SAFETY: raises an exception, for which there is no handler.
                unsafe { core::arch::asm!("udf #0") };
            }
            Death::Spin => loop {
                core::hint::spin_loop();
            },
            Death::BadState => {
                // 7 is no state; 0 is none that a server may set.
                for state in [7, 0] {
                    self.server.tell(vcpu, State(state));
                }
                self.rise();
            }
            Death::Destroy => self.rise(),
        }
    }

    /// Ends what is left of the server, and makes a new one a little later.
    fn rise(&mut self) {
        if let Err(error) = self.server.destroy() {
            fail(&error);
        }
        timer::sleep(&self.gic, REBIRTH_AFTER);
        match connect(self.guest, &self.devices, self.server.address()) {
            Ok(server) => self.server = server,
            Err(error) => fail(&error),
        }
    }
}

/// What an operating system does when it can't go on.
fn crash(_: &mut guest_runtime::exceptions::ExceptionFrame) -> guest_runtime::exceptions::Handled {
    // If that is refused, the runtime reports the exception and powers off.
    let _ = hypercall::shutdown(ShutdownReason::Crash);
    guest_runtime::exceptions::Handled::No
}

fn fail(error: &dyn core::fmt::Display) -> ! {
    println!("mortal: FAILED: {error}");
    psci::system_off()
}

fn main() -> ! {
    guest_runtime::exceptions::set_synchronous_handler(crash);
    let gic = Gic::init();
    let events = Events::init().unwrap_or_else(|error| fail(&error));
    gic.enable(events.upcall, false);
    let mut backend = Backend::new(gic).unwrap_or_else(|error| fail(&error));
    loop {
        while let Some(acknowledged) = gic.acknowledge() {
            gic.end(acknowledged);
        }
        // The slots say what there is to do; the events only end the sleep.
        events.take(drop);
        backend.serve();
        if !events.is_pending() {
            wait_for_interrupt();
        }
    }
}
