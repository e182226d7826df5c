//! The VirtIO library's shim over Xen's IOREQ interface.

use alloc::vec::Vec;
use core::ops::Range;

use guest_runtime::hypercall::dm;
use guest_runtime::println;
use guest_runtime::server::{ConnectError, Server};
use guest_runtime::window::{NoRoom, Window};
use portunus::abi::ioreq::{Ioreq, TYPE_COPY, TYPE_INVALIDATE};
use portunus_virtio::queue::QueueError;
use portunus_virtio::shim::{Access, Doorbell, GuestIndex, MemoryIndex, Operation, Shim};

use crate::acceleration::ShownPage;
use crate::config::{MemoryAccess, ServedConfig};
use crate::device_memory::DeviceMemory;
use crate::fate;
use crate::trouble::Hearing;

/// A vCPU of a guest that may have a request.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Slot {
    guest: usize,
    vcpu: usize,
}

/// What an event on a port means.
#[derive(Copy, Clone, Debug)]
enum Port {
    Request(Slot),
    /// The index of a doorbell.
    Doorbell(usize),
}

#[derive(Copy, Clone, Debug)]
struct Bell {
    doorbell: Doorbell,
    rung: bool,
}

#[derive(Debug)]
struct OwnedMemory {
    guest: usize,
    access: MemoryAccess,
    memory: DeviceMemory,
}

/// All guests.
#[derive(Debug)]
pub(crate) struct XenShim {
    guests: Vec<Server>,
    memories: Vec<OwnedMemory>,
    /// By local port.
    ports: Vec<Option<Port>>,
    bells: Vec<Bell>,
    /// Indices of the bells that rang: there is room for all.
    rung: Vec<usize>,
    /// By guest: a bit for each vCPU whose slot is to be looked at.
    announced: Vec<u128>,
    /// Pages that can be shown.
    pages: Vec<ShownPage>,
    hearing: Hearing,
    /// Slots that say that pages left a guest's map, which this backend does not hear yet; `None` if it hears at once.
    unheard: Option<Vec<Slot>>,
    /// How often a guest's map lost pages.
    changes: u64,
}

impl XenShim {
    /// No guests yet. With `deaf` it does not hear a reset of a running device.
    pub(crate) fn new(deaf: bool) -> Self {
        Self {
            guests: Vec::new(),
            memories: Vec::new(),
            ports: Vec::new(),
            bells: Vec::new(),
            rung: Vec::new(),
            announced: Vec::new(),
            pages: Vec::new(),
            hearing: Hearing::new(deaf),
            unheard: None,
            changes: 0,
        }
    }

    /// How often it was told that pages left a guest's map.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// From now on it does not hear that pages left a guest's map, and keeps what it has mapped.
    pub(crate) fn ignore_changes(&mut self) {
        self.unheard.get_or_insert_default();
    }

    /// Hears what it did not, and from now on hears at once.
    pub(crate) fn hear_changes(&mut self) {
        for slot in self.unheard.take().into_iter().flatten() {
            self.let_go(slot);
        }
    }

    /// Pages left the map of a guest, one of whose vCPUs waits: nothing of its memory stays mapped.
    fn let_go(&self, slot: Slot) {
        let memories = self.memories.iter().filter(|owned| owned.guest == slot.guest);
        memories.for_each(|owned| owned.memory.invalidate());
        self.guests[slot.guest].answer(slot.vcpu, !0);
    }

    /// How many guests are connected.
    pub(crate) fn guests(&self) -> usize {
        self.guests.len()
    }
    /// The guest with this domain number.
    pub(crate) fn find(&self, domain: u16) -> Option<usize> {
        self.guests.iter().position(|server| server.domain == domain)
    }
    /// Adds a guest.
    pub(crate) fn add(&mut self, server: Server) -> usize {
        self.guests.push(server);
        self.announced.push(0);
        self.guests.len() - 1
    }
    fn listen(&mut self, local: u32, to: Port) {
        let local = local as usize;
        if self.ports.len() <= local {
            self.ports.resize(local + 1, None);
        }
        self.ports[local] = Some(to);
    }
    /// A doorbell rings at a local port.
    pub(crate) fn add_doorbell(&mut self, local: u32, doorbell: Doorbell) {
        self.listen(local, Port::Doorbell(self.bells.len()));
        self.bells.push(Bell { doorbell, rung: false });
        self.rung.reserve(self.bells.len());
    }
    /// A page that is to be shown again whenever it was withdrawn.
    pub(crate) fn add_page(&mut self, page: ShownPage) {
        self.pages.push(page);
    }
    /// Lets every guest's server get requests. Those that were made before are looked at first.
    pub(crate) fn enable(&mut self) {
        for index in 0..self.guests.len() {
            let server = &mut self.guests[index];
            if let Err(error) = server.enable() {
                println!("backend: can't serve domain {}: {error}", server.domain);
                continue;
            }
            let ports = server.ports.clone();
            for (vcpu, port) in ports.iter().enumerate() {
                self.listen(*port, Port::Request(Slot { guest: index, vcpu }));
            }
            let none = u128::BITS.saturating_sub(ports.len() as u32);
            self.announced[index] = u128::MAX.checked_shr(none).unwrap_or(0);
        }
    }
    /// The server of a guest.
    pub(crate) fn server(&self, index: usize) -> &Server {
        &self.guests[index]
    }
    /// Memory of a guest for one of its devices. Those that may reach all of it share it.
    pub(crate) fn add_memory(
        &mut self,
        guest: usize,
        config: &ServedConfig,
        window: &mut Window,
    ) -> Result<MemoryIndex, NoRoom> {
        let access = config.memory_access;
        let whole = |owned: &OwnedMemory| owned.guest == guest && owned.access == MemoryAccess::All;
        if access == MemoryAccess::All
            && let Some(index) = self.memories.iter().position(whole)
        {
            return Ok(MemoryIndex(index));
        }
        let memory = DeviceMemory::new(config, window)?;
        self.memories.push(OwnedMemory { guest, access, memory });
        Ok(MemoryIndex(self.memories.len() - 1))
    }
    /// That memory.
    pub(crate) fn device_memory(&self, index: MemoryIndex) -> &DeviceMemory {
        &self.memories[index.0].memory
    }
    /// Takes over a device's registers.
    pub(crate) fn claim(&self, index: usize, registers: Range<u64>) -> Result<(), ConnectError> {
        self.guests[index].claim(&registers)
    }
    /// A port has an event. It may mean nothing: only the slot, or the queue, says.
    pub(crate) fn on_event(&mut self, port: u32) {
        match self.ports.get(port as usize) {
            Some(Some(Port::Request(Slot { guest, vcpu }))) => self.announced[*guest] |= 1 << vcpu,
            Some(Some(Port::Doorbell(index))) if !core::mem::replace(&mut self.bells[*index].rung, true) => {
                self.rung.push(*index);
            }
            _ => {}
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
    type Memory = DeviceMemory;
    type Token = Slot;
    type Acceleration = ShownPage;

    fn memory(&self, index: MemoryIndex) -> &DeviceMemory {
        self.device_memory(index)
    }

    fn next_access(&mut self) -> Option<(Access, Slot)> {
        while let Some(slot) = self.next_announced() {
            let server = &self.guests[slot.guest];
            let Some(request) = server.take(slot.vcpu) else {
                continue;
            };
            if let Some(access) = access(slot.guest, &request) {
                if self.hearing.misses(&access) {
                    continue;
                }
                return Some((access, slot));
            }
            if request.kind != TYPE_INVALIDATE {
                server.answer(slot.vcpu, !0);
                continue;
            }
            self.changes += 1;
            match &mut self.unheard {
                Some(unheard) => unheard.push(slot),
                None => self.let_go(slot),
            }
        }
        None
    }

    fn answer(&mut self, slot: Slot, value: u64) {
        fate::step();
        self.guests[slot.guest].answer(slot.vcpu, value);
    }

    fn next_doorbell(&mut self) -> Option<Doorbell> {
        let bell = &mut self.bells[self.rung.pop()?];
        bell.rung = false;
        Some(bell.doorbell)
    }

    fn raise_interrupt(&mut self, guest: GuestIndex, intid: u32) {
        fate::step();
        let domain = self.guests[guest.0].domain;
        if let Err(error) = dm::set_irq_level(domain, intid, true) {
            println!("backend: interrupt {intid} of domain {domain}: {error}");
        }
    }

    fn report_fault(&mut self, guest: GuestIndex, base: u64, fault: QueueError) {
        let domain = self.guests[guest.0].domain;
        println!("backend: device {base:#x} of domain {domain} needs a reset: {fault}");
    }

    fn report_withdrawn(&mut self, guest: GuestIndex, base: u64) {
        let domain = self.guests[guest.0].domain;
        println!("backend: device {base:#x} of domain {domain} is not shown to it any more");
    }

    fn show_again(&mut self, guest: GuestIndex, base: u64) -> Option<ShownPage> {
        let domain = self.guests[guest.0].domain;
        let page = self
            .pages
            .iter()
            .find(|page| (page.domain, page.base) == (domain, base))?;
        match page.attach_again() {
            Ok(page) => {
                println!("backend: device {base:#x} of domain {domain} is shown to it again");
                Some(page)
            }
            Err(error) => {
                println!("backend: device {base:#x} of domain {domain} can't be shown to it: {error}");
                None
            }
        }
    }
}
