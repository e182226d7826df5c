//! A backend that serves the hostile guest, and uses what that permits for everything that it does not.

use alloc::vec::Vec;
use core::ops::Range;

use dtoolkit::Node;
use guest_runtime::device_tree::{each_compatible, property_u32, reg};
use guest_runtime::hypercall::{self, dm, memory};
use guest_runtime::server::{ConnectError, Server};
use guest_runtime::window::Window;
use guest_runtime::{println, timer, wait_for_interrupt};
use portunus::abi::ioreq::State;

use crate::calls::{Inventor, OTHERS, refuse_pointer};
use crate::{Attacker, CHANNEL};

const PAGE: u64 = 4096;

/// What it serves, and with what.
struct Traitor {
    guest: u16,
    devices: Vec<Range<u64>>,
    server: Server,
    /// Where memory of the guest is mapped.
    mapped: u64,
}

/// How often a server is made anew that was lost before it was ready.
const TRIES: usize = 100;

/// Makes a server whose page is at `address`, the only one of the guest.
fn connect(guest: u16, devices: &[Range<u64>], address: u64) -> Result<Server, ConnectError> {
    let mut tries = 0;
    loop {
        // What random calls created, or was lost.
        for id in 0..8 {
            let _ = dm::destroy_ioreq_server(guest, id);
        }
        let server = Server::connect_at(guest, address).and_then(|server| {
            for device in devices {
                server.claim(device)?;
            }
            Ok(server)
        });
        tries += 1;
        match server {
            // The guest asks at once, and its devices' time limits are short: a host that is busy can be too slow.
            Err(ConnectError::Hypercall(..)) if tries < TRIES => {}
            server => return server,
        }
    }
}

/// Pages of the guest that are mapped at once.
const MAPPED: u64 = 64;

impl Traitor {
    fn new() -> Result<Self, ConnectError> {
        let mut window = Window::from_device_tree().expect("a backend has room for others' memory");
        let mut guest = 0;
        let mut devices = Vec::new();
        each_compatible("portunus,serves-v1", |node| {
            for device in node.children() {
                let number = property_u32(device, "guest").expect("a device has a guest");
                guest = u16::try_from(number).expect("a domain number");
                devices.push(reg(device, 0).expect("a device has registers"));
            }
        });
        let server = connect(guest, &devices, window.take(PAGE)?)?;
        let mapped = window.take(MAPPED * PAGE)?;
        Ok(Self {
            guest,
            devices,
            server,
            mapped,
        })
    }

    /// Treats each request that is there in one of many ways, of which one is right.
    fn serve(&mut self, attacker: &mut Attacker) {
        let random = &mut attacker.random;
        for vcpu in 0..self.server.ports.len() {
            if self.server.take(vcpu).is_none() {
                continue;
            }
            match random.below(8) {
                0 => self.server.scribble(|| random.next()),
                1 => {
                    self.server.scribble(|| random.next());
                    self.server.tell(vcpu, State(random.below(16) as u8));
                }
                2 => self.server.tell(vcpu, State::NONE),
                3 => self.server.tell(vcpu, State::READY),
                4 => {}
                _ => self.server.answer(vcpu, random.next()),
            }
        }
        if random.below(16) == 0 {
            self.server.scribble(|| random.next());
        }
        let port = self.server.ports[random.below(self.server.ports.len() as u64) as usize];
        let _ = hypercall::send(port);
    }

    /// Begins anew: what it wrote into its page may have cost it its server.
    fn start_again(&mut self, attacker: &mut Attacker) {
        let _ = self.server.destroy();
        match connect(self.guest, &self.devices, self.server.address()) {
            Ok(server) => self.server = server,
            Err(error) => attacker.fail(format_args!("starting again: {error}")),
        }
    }

    /// Maps what there is and what there is not of its guest, and of others.
    fn map(&mut self, attacker: &mut Attacker) {
        let random = &mut attacker.random;
        let from: [u64; 8] = core::array::from_fn(|_| match random.below(4) {
            0 => random.next(),
            1 => random.below(1 << 28),
            _ => 0x4_0000 + random.below(0x2000),
        });
        let to: [u64; 8] = core::array::from_fn(|_| self.mapped / PAGE + random.below(MAPPED));
        let mut errors = [0; 8];
        for domain in [self.guest].into_iter().chain(OTHERS) {
            // SAFETY: only the window changes, which nobody uses.
            let result = unsafe { memory::map_foreign(domain, &from, &to, &mut errors) };
            if result.is_err() || domain != self.guest && errors.contains(&0) {
                attacker.fail(format_args!(
                    "mapping memory of domain {domain}: {result:?}, {errors:?}"
                ));
            }
        }
        for (to, error) in to.iter().zip(errors) {
            let unmaps = attacker.random.below(2) == 0;
            if unmaps {
                // SAFETY: only the window changes.
                let _ = unsafe { memory::remove(*to) };
            } else if error == 0
                && let Err((call, result)) = refuse_pointer(to * PAGE, false)
            {
                attacker.fail(format_args!("{call} with a pointer to another's memory: {result:?}"));
            }
        }
    }
}

/// Serves until the machine ends.
pub(crate) fn run(mut attacker: Attacker) -> ! {
    let mut traitor = match Traitor::new() {
        Ok(traitor) => traitor,
        Err(error) => {
            attacker.fail(format_args!("connecting: {error}"));
            guest_runtime::psci::system_off()
        }
    };
    println!("traitor: serves {} devices", traitor.devices.len());
    let ground = attacker.ground.clone();
    let inventor = Inventor { ground: &ground };
    for turn in 1u64.. {
        traitor.serve(&mut attacker);
        let _ = hypercall::send(CHANNEL);
        timer::set_deadline(timer::now() + timer::ticks(50));
        if let Err((number, result)) = inventor.attack(&mut attacker.random) {
            attacker.fail(format_args!("hypercall {number} gave {result:#x}"));
        }
        if turn.is_multiple_of(64) {
            traitor.map(&mut attacker);
        }
        if turn.is_multiple_of(256) {
            traitor.start_again(&mut attacker);
        }
        if turn == 4096 {
            println!("traitor: {turn} turns survived");
        }
        // Until a request comes, or the timer: others share this pCPU.
        if !attacker.events.is_pending() {
            wait_for_interrupt();
        }
        attacker.events.take(drop);
        attacker.end_interrupts();
    }
    guest_runtime::psci::system_off()
}
