//! What a hypervisor must give, and the loop that serves devices with it.

use crate::chain::Chain;
use crate::device::DeviceModel;
use crate::memory::GuestMemory;
use crate::mmio::{MmioDevice, REGION_SIZE};
use crate::state::{NoPage, StatePage};

/// One guest among those that are served: an index that the shim gives out.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct GuestIndex(pub usize);

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

/// All that differs between hypervisors.
pub trait Shim {
    /// How a guest's memory is reached.
    type Memory: GuestMemory;
    /// Names an access until it is answered.
    type Token;

    /// The memory of `guest`, mapped now or on first use.
    fn memory(&self, guest: GuestIndex) -> &Self::Memory;
    /// An access that waits, if there is one. Each is told of once.
    fn next_access(&mut self) -> Option<(Access, Self::Token)>;
    /// Lets the vCPU go on; a read gets `value`.
    fn answer(&mut self, token: Self::Token, value: u64);
    /// Makes the guest's interrupt `intid` pending.
    fn raise_interrupt(&mut self, guest: GuestIndex, intid: u32);
    /// A device needs a reset: for the log.
    fn report_fault(&mut self, guest: GuestIndex, base: u64, fault: crate::queue::QueueError);
}

/// A device and its place in a guest.
#[derive(Debug)]
pub struct ServedDevice<D, P = NoPage> {
    /// The guest that sees it.
    pub guest: GuestIndex,
    /// Guest-physical address of its registers.
    pub base: u64,
    /// Its interrupt there.
    pub intid: u32,
    /// The device.
    pub device: MmioDevice<D, P>,
}

impl<D, P> ServedDevice<D, P> {
    fn offset(&self, access: &Access) -> Option<u64> {
        let offset = access.address.checked_sub(self.base)?;
        let inside = self.guest == access.guest && offset + u64::from(access.size) <= REGION_SIZE;
        inside.then_some(offset)
    }
}

/// Answers every access that waits, goes on with every device's requests and raises the interrupts that follow. False
/// when there was nothing to do: the caller may sleep until something happens.
///
/// An access is answered before the work that it causes is begun, so no vCPU waits for a disk. One that hits no device
/// reads as ones.
pub fn serve<S: Shim, D: DeviceModel<Request = Chain>, P: StatePage>(
    shim: &mut S,
    devices: &mut [ServedDevice<D, P>],
) -> bool {
    let mut progress = false;
    while let Some((access, token)) = shim.next_access() {
        progress = true;
        let mut value = !0;
        let hit = devices
            .iter_mut()
            .find_map(|served| served.offset(&access).map(|offset| (served, offset)));
        if let Some((served, offset)) = hit {
            match access.operation {
                Operation::Read => value = served.device.read(offset, access.size),
                Operation::Write(value) => served.device.write(offset, access.size, value),
            }
        }
        shim.answer(token, value);
    }
    for served in devices {
        if served.device.has_work() {
            progress |= served.device.process(shim.memory(served.guest));
        }
        if let Some(fault) = served.device.take_fault() {
            shim.report_fault(served.guest, served.base, fault);
        }
        if served.device.take_interrupt() {
            progress = true;
            shim.raise_interrupt(served.guest, served.intid);
        }
    }
    progress
}
