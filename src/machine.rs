//! What the core asks of the machine from any pCPU, whatever vCPU is loaded there.

use crate::ids::{IntId, Ipa, PcpuId, Ticks, VcpuId, Vmid};
use crate::memory::PhysicalMemory;
use crate::trace;

/// The machine under the core. `arch` implements it; tests use a recording fake.
pub trait Machine: PhysicalMemory {
    /// The system counter now.
    fn now(&self) -> Ticks;
    /// Makes `pcpu` leave its guest soon and come through [`crate::hypervisor::Hypervisor::schedule`] and
    /// [`crate::hypervisor::Hypervisor::enter`] again. Costs nothing when `pcpu` is the caller's own.
    fn kick(&self, pcpu: PcpuId);

    /// Makes stores to stage-2 tables visible to the table walker (DSB ISHST).
    fn publish_tables(&self);
    /// Waits until every store that was made before is complete, for whoever looks (DSB SY).
    fn complete_stores(&self);

    /// Drops the translations of one page of `vmid`, and the stage-1 entries made from them, on every pCPU, and waits
    /// (TLBI IPAS2E1IS, DSB, TLBI VMALLE1IS, DSB, ISB, with that VMID's VTTBR loaded).
    fn invalidate_page(&self, vmid: Vmid, root: crate::ids::Pa, page: Ipa);
    /// Drops every translation of `vmid` on every pCPU, and waits.
    fn invalidate_all(&self, vmid: Vmid, root: crate::ids::Pa);

    /// Enables or disables a physical SPI that a passed-through device owns.
    fn enable_interrupt(&self, interrupt: IntId, enabled: bool);
    /// Sets the trigger of a physical SPI: edge or level.
    fn configure_interrupt(&self, interrupt: IntId, edge: bool);
    /// Routes a physical SPI to a pCPU.
    fn route_interrupt(&self, interrupt: IntId, pcpu: PcpuId);

    /// Makes a physical SPI disabled, inactive and not pending.
    fn reset_interrupt(&self, interrupt: IntId);

    /// Reads a 32-bit register of a passed-through device whose pages the hypervisor maps for that: one that the manifest
    /// says how to bring to rest (`portunus,quiesce`).
    fn read_device(&self, at: crate::ids::Pa) -> u32;
    /// Writes such a register.
    fn write_device(&self, at: crate::ids::Pa, value: u32);

    /// Which pCPU the caller runs on.
    fn current_pcpu(&self) -> PcpuId;

    /// Records an event in the caller's ring: about ten instructions. `argument` is what `kind` says.
    fn trace(&self, kind: trace::Kind, vcpu: VcpuId, argument: u32);
    /// As [`Self::trace`], where `vcpu` is known to be the one that is loaded there.
    #[inline]
    fn trace_loaded(&self, kind: trace::Kind, vcpu: VcpuId, argument: u32) {
        self.trace(kind, vcpu, argument);
    }
    /// Event number `back` of the ring of `pcpu`, counted from its newest, which is 0; `None`: there is none, or it is being
    /// overwritten.
    fn traced(&self, pcpu: PcpuId, back: usize) -> Option<trace::Event>;

    /// How many bytes [`Self::console_write`] takes now.
    fn console_room(&self) -> usize;
    /// Appends to the physical console, without waiting: bytes that do not fit are reported by the count accepted.
    fn console_write(&self, bytes: &[u8]) -> usize;
}
