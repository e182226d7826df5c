//! The VirtIO library's shim over Xen's IOREQ interface.

use alloc::vec::Vec;
use core::ops::Range;

use guest_runtime::hypercall::dm;
use guest_runtime::println;
use guest_runtime::server::ConnectError;
use portunus::abi::ioreq::{Ioreq, TYPE_COPY, TYPE_INVALIDATE};
use portunus_virtio::queue::QueueError;
use portunus_virtio::shim::{Access, GuestIndex, Operation, Shim};

use crate::fate;
use crate::guest::Guest;
use crate::guest_memory::GuestRam;
use crate::trouble::Hearing;

/// A vCPU of a guest that may have a request.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Slot {
    guest: usize,
    vcpu: usize,
}

/// All guests.
#[derive(Debug)]
pub(crate) struct XenShim {
    guests: Vec<Guest>,
    /// By local port: whose slot it announces.
    ports: Vec<Option<Slot>>,
    /// By guest: a bit for each vCPU whose slot is to be looked at.
    announced: Vec<u128>,
    hearing: Hearing,
}

impl XenShim {
    /// No guests yet. With `deaf` it does not hear a reset of a running device.
    pub(crate) fn new(deaf: bool) -> Self {
        Self {
            guests: Vec::new(),
            ports: Vec::new(),
            announced: Vec::new(),
            hearing: Hearing::new(deaf),
        }
    }

    /// How many guests are connected.
    pub(crate) fn guests(&self) -> usize {
        self.guests.len()
    }
    /// The guest with this domain number.
    pub(crate) fn find(&self, domain: u16) -> Option<usize> {
        self.guests.iter().position(|guest| guest.server.domain == domain)
    }
    /// Adds a guest. Requests that it made before are looked at first.
    pub(crate) fn add(&mut self, guest: Guest) -> Result<usize, ConnectError> {
        let index = self.guests.len();
        for (vcpu, port) in guest.server.ports.iter().enumerate() {
            let port = *port as usize;
            if self.ports.len() <= port {
                self.ports.resize(port + 1, None);
            }
            self.ports[port] = Some(Slot { guest: index, vcpu });
        }
        let vcpus = guest.server.ports.len() as u32;
        self.announced
            .push(u128::MAX.checked_shr(u128::BITS.saturating_sub(vcpus)).unwrap_or(0));
        self.guests.push(guest);
        Ok(index)
    }
    /// The server and the memory of a guest.
    pub(crate) fn guest(&self, index: usize) -> &Guest {
        &self.guests[index]
    }
    /// Takes over a device's registers.
    pub(crate) fn claim(&self, index: usize, registers: Range<u64>) -> Result<(), ConnectError> {
        self.guests[index].server.claim(&registers)
    }
    /// A port has an event. It may mean nothing: only the slot says.
    pub(crate) fn on_event(&mut self, port: u32) {
        if let Some(&Some(Slot { guest, vcpu })) = self.ports.get(port as usize) {
            self.announced[guest] |= 1 << vcpu;
        }
    }

    fn next_announced(&mut self) -> Option<Slot> {
        let (guest, announced) = self.announced.iter_mut().enumerate().find(|(_, bits)| **bits != 0)?;
        let vcpu = announced.trailing_zeros() as usize;
        *announced &= *announced - 1;
        Some(Slot { guest, vcpu })
    }
}

/// The access that a request asks for; `None` for what no device answers.
fn access(guest: usize, request: &Ioreq) -> Option<Access> {
    let plain = request.kind == TYPE_COPY && request.count == 1 && !request.data_is_pointer();
    let size = u8::try_from(request.size)
        .ok()
        .filter(|size| matches!(size, 1 | 2 | 4 | 8));
    Some(Access {
        guest: GuestIndex(guest),
        address: request.addr,
        size: size.filter(|_| plain)?,
        operation: if request.is_read() {
            Operation::Read
        } else {
            Operation::Write(request.data)
        },
    })
}

impl Shim for XenShim {
    type Memory = GuestRam;
    type Token = Slot;

    fn memory(&self, guest: GuestIndex) -> &GuestRam {
        &self.guests[guest.0].ram
    }

    fn next_access(&mut self) -> Option<(Access, Slot)> {
        while let Some(slot) = self.next_announced() {
            let guest = &self.guests[slot.guest];
            let Some(request) = guest.server.take(slot.vcpu) else {
                continue;
            };
            if let Some(access) = access(slot.guest, &request) {
                if self.hearing.misses(&access) {
                    continue;
                }
                return Some((access, slot));
            }
            if request.kind == TYPE_INVALIDATE {
                guest.ram.invalidate();
            }
            guest.server.answer(slot.vcpu, !0);
        }
        None
    }

    fn answer(&mut self, slot: Slot, value: u64) {
        fate::step();
        self.guests[slot.guest].server.answer(slot.vcpu, value);
    }

    fn raise_interrupt(&mut self, guest: GuestIndex, intid: u32) {
        fate::step();
        let domain = self.guests[guest.0].server.domain;
        if let Err(error) = dm::set_irq_level(domain, intid, true) {
            println!("backend: interrupt {intid} of domain {domain}: {error}");
        }
    }

    fn report_fault(&mut self, guest: GuestIndex, base: u64, fault: QueueError) {
        let domain = self.guests[guest.0].server.domain;
        println!("backend: device {base:#x} of domain {domain} needs a reset: {fault}");
    }
}
