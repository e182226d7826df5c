//! What a hypervisor must give, and the loop that serves devices with it.

use core::ops::Range;

use crate::accel::{Acceleration, NoAcceleration, View};
use crate::chain::Chain;
use crate::device::DeviceModel;
use crate::memory::GuestMemory;
use crate::mmio::{MmioDevice, register};
use crate::state::{NoPage, StatePage};

/// One guest among those that are served: an index that the shim gives out.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct GuestIndex(pub usize);

/// The memory of one device's requests: an index that the shim gives out.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct MemoryIndex(pub usize);

/// What a guest's vCPU does to a device's registers while it waits for the answer.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Access {
    /// Whose.
    pub guest: GuestIndex,
    /// Guest-physical address of the first byte.
    pub address: u64,
    /// 1, 2, 4 or 8 bytes.
    pub size: u8,
    /// What it does.
    pub operation: Operation,
}

/// Load or store.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Operation {
    /// A load.
    Read,
    /// A store of this value.
    Write(u64),
}

/// A doorbell that rang: the driver wrote to QueueNotify and does not wait.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Doorbell {
    /// Whose.
    pub guest: GuestIndex,
    /// Guest-physical address of the device's registers.
    pub base: u64,
    /// The queue.
    pub queue: u16,
}

/// All that differs between hypervisors.
pub trait Shim {
    /// How the memory of a device's requests is reached.
    type Memory: GuestMemory;
    /// Names an access until it is answered.
    type Token;
    /// How a device's registers are shown to its driver; [`NoAcceleration`] where they can't be.
    type Acceleration: Acceleration;

    /// That memory, mapped now or on first use.
    fn memory(&self, index: MemoryIndex) -> &Self::Memory;
    /// An access that waits, if there is one. Each is told of once.
    fn next_access(&mut self) -> Option<(Access, Self::Token)>;
    /// Lets the vCPU go on; a read gets `value`.
    fn answer(&mut self, token: Self::Token, value: u64);
    /// A doorbell that rang since the last call, if there is one. Many writes may be one.
    fn next_doorbell(&mut self) -> Option<Doorbell> {
        None
    }
    /// Makes the guest's interrupt `intid` pending.
    fn raise_interrupt(&mut self, guest: GuestIndex, intid: u32);
    /// A device needs a reset: for the log.
    fn report_fault(&mut self, guest: GuestIndex, base: u64, fault: crate::queue::QueueError);
    /// A device's registers are not shown to its driver any more: for the log.
    fn report_withdrawn(&mut self, guest: GuestIndex, base: u64) {
        let _ = (guest, base);
    }
    /// A page for a device whose registers are not shown any more, which its driver is not shown before
    /// [`Acceleration::replace`]; `None`: not now.
    fn show_again(&mut self, guest: GuestIndex, base: u64) -> Option<Self::Acceleration> {
        let _ = (guest, base);
        None
    }
}

/// A device and its place in a guest.
#[derive(Debug)]
pub struct ServedDevice<D, P = NoPage, A = NoAcceleration> {
    /// The guest that sees it.
    pub guest: GuestIndex,
    /// What of that guest's memory its requests may name.
    pub memory: MemoryIndex,
    /// Guest-physical addresses of its registers.
    pub registers: Range<u64>,
    /// Its interrupt there.
    pub intid: u32,
    /// The device.
    pub device: MmioDevice<D, P>,
    /// How the driver reads its registers.
    pub view: View<A>,
}

impl<D: DeviceModel<Request = Chain>, P: StatePage, A: Acceleration> ServedDevice<D, P, A> {
    fn offset(&self, access: &Access) -> Option<u64> {
        let end = access.address.checked_add(access.size.into())?;
        let inside = self.guest == access.guest && self.registers.start <= access.address && end <= self.registers.end;
        inside.then_some(access.address.wrapping_sub(self.registers.start))
    }

    /// Does what an access asks for, but for the answer: the driver's view of the registers is as it is to be after it.
    fn access<S: Shim<Acceleration = A>>(&mut self, offset: u64, access: &Access, shim: &mut S) -> Option<u64> {
        match access.operation {
            Operation::Read if offset == register::INTERRUPT_STATUS && access.size == 4 => {
                let was_shown = self.view.is_shown();
                let word = self.view.interrupt_status(&mut self.device);
                self.report(was_shown, shim);
                Some(word.into())
            }
            Operation::Read => Some(self.device.read(offset, access.size)),
            Operation::Write(value) => {
                self.device.write(offset, access.size, value);
                self.device.give_back(shim.memory(self.memory));
                if self.view.is_shown() {
                    self.settle(shim);
                }
                None
            }
        }
    }

    fn report<S: Shim<Acceleration = A>>(&self, was_shown: bool, shim: &mut S) {
        if was_shown && !self.view.is_shown() {
            shim.report_withdrawn(self.guest, self.registers.start);
        }
    }

    /// Accesses were answered, this device's or another's.
    fn confirm<S: Shim<Acceleration = A>>(&mut self, shim: &mut S) {
        let (guest, base, was_shown) = (self.guest, self.registers.start, self.view.is_shown());
        self.view.confirm(&mut self.device, || {
            if was_shown {
                shim.report_withdrawn(guest, base);
            }
            shim.show_again(guest, base)
        });
    }

    /// The driver sees what has changed, and is interrupted if it is to be: whether it was.
    fn settle<S: Shim<Acceleration = A>>(&mut self, shim: &mut S) -> bool {
        let was_shown = self.view.is_shown();
        let told = self.view.settle(&mut self.device);
        if self.view.is_shown() {
            return told;
        }
        self.report(was_shown, shim);
        let interrupts = self.device.take_interrupt();
        if interrupts {
            shim.raise_interrupt(self.guest, self.intid);
        }
        interrupts
    }
}

/// Answers every access that waits, looks for what doorbells announce, goes on with every device's requests and raises the
/// interrupts that follow. False when there was nothing to do: the caller may sleep until something happens.
///
/// An access is answered before the work that it causes is begun, so no vCPU waits for a disk. One that hits no device
/// reads as ones.
pub fn serve<S: Shim, D: DeviceModel<Request = Chain>, P: StatePage>(
    shim: &mut S,
    devices: &mut [ServedDevice<D, P, S::Acceleration>],
) -> bool {
    let mut progress = false;
    while let Some(doorbell) = shim.next_doorbell() {
        progress = true;
        let mut rings = devices
            .iter_mut()
            .filter(|served| (served.guest, served.registers.start) == (doorbell.guest, doorbell.base));
        if let Some(served) = rings.next() {
            served.device.notify(doorbell.queue.into());
        }
    }
    let mut answered = false;
    while let Some((access, token)) = shim.next_access() {
        answered = true;
        let hit = devices
            .iter_mut()
            .find_map(|served| served.offset(&access).map(|offset| (served, offset)));
        let value = hit.and_then(|(served, offset)| served.access(offset, &access, shim));
        shim.answer(token, value.unwrap_or(!0));
    }
    progress |= answered;
    for served in devices {
        if answered {
            served.confirm(shim);
        }
        served.device.look_at_configuration();
        if served.device.has_work() {
            progress |= served.device.process(shim.memory(served.memory));
        }
        if let Some(fault) = served.device.take_fault() {
            shim.report_fault(served.guest, served.registers.start, fault);
        }
        progress |= served.settle(shim);
    }
    progress
}
