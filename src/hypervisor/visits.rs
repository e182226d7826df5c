//! Looking at the registers of a vCPU on any pCPU, whatever it does: its own pCPU loads it once and copies them.
//!
//! What the vCPU waits for and how its time is counted stay as they were. A pCPU that never comes is no harm: whoever
//! asked looks for the answer as long as it likes, and an answer that comes too late is dropped.

use heapless::Vec as Array;

use crate::cpu::{Cpu, El1Register};
use crate::domain::vcpu::{Attention, Vcpu};
use crate::hypervisor::{Hypervisor, VcpuState};
use crate::ids::{Ticks, VcpuId};
use crate::machine::Machine;
use crate::trap::registers::GuestFrame;
use crate::vgic::list_register::{ListRegister, VirtualInterface};

/// EL1 registers that a snapshot has.
pub(crate) const SNAPSHOT_REGISTERS: [El1Register; 10] = [
    El1Register::SpEl0,
    El1Register::SpEl1,
    El1Register::ElrEl1,
    El1Register::SpsrEl1,
    El1Register::EsrEl1,
    El1Register::FarEl1,
    El1Register::SctlrEl1,
    El1Register::VbarEl1,
    El1Register::CntvCtlEl0,
    El1Register::CntvCvalEl0,
];

/// A vCPU's registers at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// x0 to x30, PC, PSTATE.
    pub(crate) frame: GuestFrame,
    /// By [`SNAPSHOT_REGISTERS`].
    el1: [u64; SNAPSHOT_REGISTERS.len()],
    /// The list registers in use, with their numbers.
    pub(crate) list_registers: Array<(u8, ListRegister), 16>,
}

impl Snapshot {
    fn of<C: Cpu>(cpu: &mut C, state: &VcpuState) -> Self {
        let mut list_registers = Array::new();
        let interface = cpu.virtual_interface();
        for index in 0..interface.list_registers().min(list_registers.capacity()) {
            if let Some(register) = interface.read(index) {
                // As many as there can be.
                let _ = list_registers.push((index as u8, register));
            }
        }
        Self {
            frame: state.frame.clone(),
            el1: SNAPSHOT_REGISTERS.map(|register| cpu.read_el1(register)),
            list_registers,
        }
    }

    /// A register of [`SNAPSHOT_REGISTERS`].
    pub(crate) fn el1(&self, register: El1Register) -> u64 {
        let values = SNAPSHOT_REGISTERS.iter().zip(self.el1);
        values
            .filter(|(name, _)| **name == register)
            .map(|(_, value)| value)
            .next()
            .unwrap_or(0)
    }
}

/// Whose registers are wanted, and what was found.
#[derive(Debug, Default)]
pub(crate) struct Visit {
    wanted: Option<(VcpuId, Ticks)>,
    found: Option<Snapshot>,
}

impl<M: Machine> Hypervisor<M> {
    /// Asks for the registers of `vcpu`; what was asked for before is forgotten.
    pub(crate) fn ask_for_snapshot(&self, vcpu: &Vcpu) {
        *self.visit.lock() = Visit {
            wanted: Some((vcpu.id, self.machine.now())),
            found: None,
        };
        self.visit(vcpu, Attention::Snapshot);
    }

    /// What was asked for, once; `Err`: it is not there yet, and since when it is waited for.
    pub(crate) fn snapshot_of(&self, vcpu: VcpuId) -> Result<Snapshot, Option<Ticks>> {
        let mut visit = self.visit.lock();
        match visit.wanted {
            Some((wanted, since)) if wanted == vcpu => {
                let found = visit.found.take().ok_or(Some(since))?;
                visit.wanted = None;
                Ok(found)
            }
            _ => Err(None),
        }
    }

    /// Nobody waits for an answer any more.
    pub(crate) fn forget_snapshot(&self) {
        *self.visit.lock() = Visit::default();
    }

    /// Copies the registers of the loaded vCPU for whoever wants them. Whether it was to run anyway.
    #[cold]
    #[inline(never)]
    pub(crate) fn take_snapshot<C: Cpu>(&self, cpu: &mut C, vcpu: &Vcpu, state: &VcpuState) -> bool {
        let goes_on = self
            .pcpu(vcpu.pcpu)
            .is_some_and(|pcpu| pcpu.queue.lock().settled().end_visit(vcpu.slot));
        let snapshot = Snapshot::of(cpu, state);
        let mut visit = self.visit.lock();
        if visit.wanted.is_some_and(|(wanted, _)| wanted == vcpu.id) {
            visit.found = Some(snapshot);
        }
        goes_on
    }
}
