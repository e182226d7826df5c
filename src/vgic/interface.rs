//! Between the queues and a loaded vCPU's list registers.
//!
//! A flush first reads everything back into the queues, then chooses anew: active interrupts first, innermost first, since
//! the guest can end only what a list register holds; then pending ones by urgency. An interrupt that stays keeps its list
//! register, which is written only if its value differs.
//!
//! A vCPU that is unloaded is [parked](Vgic::park), with what its list registers hold as it is.

mod flush;
mod line;
mod park;
mod read_back;
mod word;

pub use word::{Cleared, KnownLine, Line};

use super::Vgic;
use super::irq::Slot;
use super::list_register::{Backing, ListRegister, LrState, PriorityMask, VirtualInterface};
use crate::ids::VcpuSet;
use crate::trace::Kind;

/// List registers that an implementation can have.
const MAX_LIST_REGISTERS: usize = 16;

/// Where it is known what the list registers of a vCPU hold.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u8)]
enum Known {
    /// Nowhere: it has none.
    Nowhere,
    /// In its pCPU's list registers, which may have changed since they were written.
    Registers,
    /// In the queues: they were read back since the last flush.
    Queues,
    /// In [`VcpuInterface::contents`]; it is unloaded.
    Parked,
    /// In [`VcpuInterface::contents`]; it is loaded and does not run.
    Resting,
}

/// One vCPU's view of its list registers. The first four are looked at together.
#[derive(Debug)]
#[repr(C)]
pub(super) struct VcpuInterface {
    /// The list registers do not show everything.
    pub(super) dirty: bool,
    known: Known,
    /// Interrupts that are pending, or active, were left over by the last flush.
    overflow: bool,
    /// More than pending interrupts is to be brought into them: a flush must read back and choose anew. Then `dirty` too.
    pub(super) reorder: bool,
    /// The maintenance interrupt for "no pending" is asked for; then `overflow` too.
    no_pending: bool,
    /// List registers whose interrupt has news, a bit each. If there are any, `dirty` too.
    pub(super) news: u16,
    /// What the guest let through when its list registers were last given up or it waited for an interrupt.
    mask: PriorityMask,
    /// List registers that there are, a bit each.
    existing: u16,
    /// Those in use.
    used: u16,
    /// Of those, the ones that may be for more than an interrupt that software alone is behind and whose end nobody awaits.
    special: u16,
    /// While the vCPU is parked: of those in use, the ones that the guest has emptied.
    ended: u16,
    /// While it is parked: those that were filled since.
    untold: u16,
    /// The interrupt in each list register in use.
    slots: [Slot; MAX_LIST_REGISTERS],
    /// What each list register in use was written with, or contained when it was read back or parked.
    contents: [ListRegister; MAX_LIST_REGISTERS],
    /// PPIs whose physical interrupt this vCPU's pCPU must deactivate.
    deactivate: u32,
    /// Interrupts that were put into list registers to be taken.
    pub(super) injected: u64,
    /// vCPUs that want to read state which this one's list registers hold.
    pub(super) observers: VcpuSet,
    /// vCPUs that have read back since this one asked for it.
    pub(super) observed: VcpuSet,
}

/// A list register's index, in arrays of as many as there can be.
const fn at(index: u32) -> usize {
    index as usize % MAX_LIST_REGISTERS
}

/// The bits of a set, lowest first.
fn bits(mut set: u16) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let index = (set != 0).then(|| set.trailing_zeros())?;
        set &= set - 1;
        Some(index)
    })
}

/// The list registers that there are, a bit each.
#[inline]
fn existing<V: VirtualInterface>(interface: &V) -> u16 {
    (u32::MAX >> (32 - interface.list_registers().clamp(1, MAX_LIST_REGISTERS))) as u16
}

impl VcpuInterface {
    pub(super) const fn new() -> Self {
        Self {
            dirty: true,
            reorder: true,
            news: 0,
            known: Known::Nowhere,
            overflow: false,
            no_pending: false,
            mask: PriorityMask {
                threshold: 0,
                group0: false,
                group1: false,
            },
            existing: 0,
            used: 0,
            special: 0,
            ended: 0,
            untold: 0,
            slots: [Slot::NONE; MAX_LIST_REGISTERS],
            contents: [ListRegister::FREE; MAX_LIST_REGISTERS],
            deactivate: 0,
            injected: 0,
            observers: VcpuSet::EMPTY,
            observed: VcpuSet::EMPTY,
        }
    }

    /// The list registers are as the last flush left them, and something did not fit.
    pub(super) const fn overflows(&self) -> bool {
        self.is_loaded() && self.overflow && !self.dirty
    }

    /// The list registers are in use as the last flush left them, and nothing waits for one.
    #[inline(always)]
    pub(super) const fn shows_everything(&self) -> bool {
        let flags = [
            self.dirty as u8,
            self.known as u8,
            self.overflow as u8,
            self.reorder as u8,
        ];
        u32::from_le_bytes(flags) == u32::from_le_bytes([0, Known::Registers as u8, 0, 0])
    }

    /// It is unloaded, and a load brings everything into the list registers that there is.
    #[inline(always)]
    pub(super) const fn is_parked_quietly(&self) -> bool {
        let flags = [
            self.dirty as u8,
            self.known as u8,
            self.overflow as u8,
            self.reorder as u8,
        ];
        u32::from_le_bytes(flags) == u32::from_le_bytes([0, Known::Parked as u8, 0, 0])
    }

    /// What list register `index` was written with, if that was a pending interrupt with this behind it, whose end the
    /// guest has come to.
    #[inline(always)]
    pub(super) fn ended_pending<V: VirtualInterface>(
        &self,
        index: u8,
        backing: Backing,
        interface: &V,
    ) -> Option<(usize, ListRegister)> {
        let index = at(index.into());
        let content = self.contents[index];
        let same = content.state == LrState::Pending && content.backing == backing;
        (same && interface.free() >> index & 1 != 0).then_some((index, content))
    }

    /// A list register that was not in use.
    #[inline(always)]
    pub(super) fn unused(&self) -> Option<u8> {
        let free = self.existing & !self.used;
        (free != 0).then(|| free.trailing_zeros() as u8)
    }

    /// The list registers show everything, and the guest has ended all that they held.
    #[inline(always)]
    pub(super) fn shows_nothing<V: VirtualInterface>(&self, interface: &V) -> bool {
        self.shows_everything() && self.used & !interface.free() == 0
    }

    /// That list register, if the guest has ended what it held and it may be written at once.
    #[inline(always)]
    pub(super) fn ended<V: VirtualInterface>(&self, index: u8, interface: &V) -> Option<u8> {
        let free = interface.free() >> (index % 16) & 1 != 0;
        (free && !self.contents[at(index.into())].asks_for_maintenance()).then_some(index)
    }

    /// Writes a list register that the hardware has free.
    #[inline(always)]
    pub(super) fn hold<V: VirtualInterface>(
        &mut self,
        index: u8,
        slot: Slot,
        register: ListRegister,
        interface: &mut V,
    ) {
        let index = at(index.into());
        interface.write(index, Some(register));
        if register.state.is_pending() {
            interface.trace(Kind::Injected, register.interrupt);
            self.injected += 1;
        }
        self.keep(index, slot, register);
    }

    /// What a list register holds from now on.
    #[inline(always)]
    fn keep(&mut self, index: usize, slot: Slot, register: ListRegister) {
        let bit = 1 << index;
        self.slots[index] = slot;
        self.contents[index] = register;
        self.used |= bit;
        self.special = self.special & !bit | u16::from(!register.is_plain()) << index;
    }

    /// The hardware knows more than the queues.
    #[inline(always)]
    pub(super) const fn runs_ahead(&self) -> bool {
        matches!(self.known, Known::Registers)
    }

    /// The list registers of some pCPU are this vCPU's.
    const fn is_loaded(&self) -> bool {
        matches!(self.known, Known::Registers | Known::Queues | Known::Resting)
    }

    /// Its list registers are as the vCPU left them, and in nobody's way.
    #[inline(always)]
    pub(super) const fn is_parked(&self) -> bool {
        matches!(self.known, Known::Parked | Known::Resting)
    }
}

impl Vgic {
    /// Reads the loaded vCPU's list registers back: after an exit that needs their state, or at a maintenance interrupt.
    /// It must [`Self::flush`] before it runs on. Returns other vCPUs that got an interrupt by it.
    pub fn sync<V: VirtualInterface>(&mut self, vcpu: u8, interface: &mut V) -> VcpuSet {
        self.read_back(vcpu, interface);
        self.take_others(vcpu)
    }

    /// The loaded vCPU wants to wait for an interrupt: reads its list registers back, if they hold anything that has not
    /// ended, and remembers what the guest lets through, so that [`Self::has_deliverable`] is exact until something comes
    /// or it runs on.
    pub fn wait<V: VirtualInterface>(&mut self, vcpu: u8, interface: &mut V) -> VcpuSet {
        let Some(cpu) = self.cpu_mut(vcpu) else {
            return VcpuSet::EMPTY;
        };
        cpu.interface.mask = interface.mask();
        let used = cpu.interface.used;
        if cpu.interface.shows_everything() && (used == 0 || used & !interface.free() == 0) {
            return VcpuSet::EMPTY;
        }
        self.read_back(vcpu, interface);
        self.take_others(vcpu)
    }

    /// Whether an interrupt would wake a vCPU that waits ([`Self::wait`]) or has given its list registers up
    /// ([`Self::unload`]): pending, enabled, its group enabled in the distributor and by the guest, and more urgent than
    /// the guest's mask.
    pub fn has_deliverable(&self, vcpu: u8) -> bool {
        self.cpu(vcpu).is_some_and(|cpu| {
            let [group0_queue, group1_queue] = &cpu.pending;
            [(group0_queue, false), (group1_queue, true)]
                .into_iter()
                .any(|(queue, group1)| {
                    !queue.is_empty()
                        && self.groups.has(group1)
                        && cpu.interface.mask.accepts(queue.best_level().saturating_mul(8), group1)
                })
        })
    }

    /// Whom the operation concerned besides the vCPU whose list registers are at hand.
    fn take_others(&mut self, vcpu: u8) -> VcpuSet {
        VcpuSet(self.take_kick().0 & !VcpuSet::only(vcpu).0)
    }
}
