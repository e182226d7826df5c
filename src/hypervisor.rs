//! The whole core behind a handful of entry points: one a kind of exception, and two around running a vCPU.
//!
//! `arch` owns the vCPUs' register files; each is touched by the pCPU that it is pinned to and by no other. What other
//! pCPUs want of a vCPU is left in its domain's shared state and looked at in [`Hypervisor::enter`].

use crate::cpu::Cpu;
use crate::ids::{DomainId, IntId, Pa, PcpuId, Ticks, VcpuId, Vmid};
use crate::machine::Machine;
use crate::trap::registers::GuestFrame;
pub use crate::trap::syndrome::Syndrome;

/// A vCPU's state that only its pCPU touches.
#[derive(Debug)]
pub struct VcpuState {
    /// Whose.
    pub id: VcpuId,
    /// Its general registers while it does not run.
    pub frame: GuestFrame,
}

/// What `arch` must load besides the register file to run a vCPU; constant for the vCPU's life.
#[derive(Copy, Clone, Debug)]
pub struct VcpuConstants {
    /// The tag of its translations.
    pub vmid: Vmid,
    /// Root of its domain's stage 2 (level 1, concatenated where [`crate::stage2`] says so).
    pub stage2_root: Pa,
    /// VTCR_EL2, without the bits that are RES1.
    pub vtcr: u64,
    /// VMPIDR_EL2.
    pub vmpidr: u64,
    /// CNTVOFF_EL2.
    pub virtual_offset: u64,
    /// The pCPU that it is pinned to.
    pub pcpu: PcpuId,
}

/// What a pCPU does next.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Schedule {
    /// The vCPU to run; `None`: wait for an interrupt.
    pub run: Option<VcpuId>,
    /// When to come back at the latest (CNTHP_CVAL_EL2); `None`: never by time.
    pub deadline: Option<Ticks>,
}

/// What [`Hypervisor::enter`] found.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Entry {
    /// Run the guest now.
    Run,
    /// It still waits for something, or stopped: ask [`Hypervisor::schedule`] again.
    Blocked,
}

/// Who a physical SPI was for.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Claim {
    /// A guest: it stays active until the guest deactivates it (EOImode 1: `arch` only dropped the priority).
    Guest,
    /// Nobody: `arch` deactivates it and counts it.
    Nobody,
}

/// The hypervisor: every domain, every table, a lock for each.
#[derive(Debug)]
pub struct Hypervisor<M: Machine> {
    machine: M,
}

impl<M: Machine> Hypervisor<M> {
    /// The machine under it.
    pub fn machine(&self) -> &M {
        &self.machine
    }
    /// Every vCPU that exists, in no particular order: `arch` makes a register file for each at boot.
    pub fn vcpus(&self) -> impl Iterator<Item = VcpuId> {
        core::iter::empty()
    }
    /// A vCPU's constants; `None` if there is no such vCPU.
    pub fn constants(&self, _vcpu: VcpuId) -> Option<VcpuConstants> {
        None
    }
    /// A vCPU's state before its first instruction.
    pub fn initial_state(&self, id: VcpuId) -> VcpuState {
        VcpuState {
            id,
            frame: GuestFrame::default(),
        }
    }

    /// A synchronous exception from the loaded vCPU. Afterwards `arch` goes through [`Self::must_schedule`] /
    /// [`Self::schedule`] and [`Self::enter`] before it returns to any guest.
    pub fn on_trap<C: Cpu>(&self, _cpu: &mut C, _vcpu: &mut VcpuState, _syndrome: Syndrome) {}
    /// The loaded vCPU's virtual timer fired (physical PPI 27); the physical interrupt stays active.
    pub fn on_virtual_timer<C: Cpu>(&self, _cpu: &mut C, _vcpu: &mut VcpuState) {}
    /// The virtual CPU interface asked for maintenance.
    pub fn on_maintenance<C: Cpu>(&self, _cpu: &mut C, _vcpu: &mut VcpuState) {}
    /// A physical SPI was acknowledged on `pcpu`.
    pub fn on_interrupt(&self, _pcpu: PcpuId, _interrupt: IntId) -> Claim {
        Claim::Nobody
    }
    /// Bytes typed at the physical console.
    pub fn on_console_input(&self, _bytes: &[u8]) {}
    /// An SError that the running guest caused.
    pub fn on_system_error<C: Cpu>(&self, _cpu: &mut C, _vcpu: &mut VcpuState, _syndrome: Syndrome) {}

    /// Whether `pcpu` must call [`Self::schedule`] before it goes back to the vCPU that it has loaded: one load.
    pub fn must_schedule(&self, _pcpu: PcpuId) -> bool {
        true
    }
    /// Decides what `pcpu` runs from `now` on.
    pub fn schedule(&self, _pcpu: PcpuId, _now: Ticks) -> Schedule {
        Schedule {
            run: None,
            deadline: None,
        }
    }
    /// Last step before a guest runs: finishes an access that was answered, applies a start request, moves pending
    /// interrupts into list registers.
    pub fn enter<C: Cpu>(&self, _cpu: &mut C, _vcpu: &mut VcpuState) -> Entry {
        Entry::Blocked
    }
    /// First step when a vCPU is unloaded: takes what the list registers and timers say into the vCPU's state.
    /// Afterwards no list register is in use.
    pub fn leave<C: Cpu>(&self, _cpu: &mut C, _vcpu: &mut VcpuState) {}
    /// The name of a domain, for messages.
    pub fn domain_name(&self, _domain: DomainId) -> Option<&str> {
        None
    }
}
