//! Registers of vCPUs, whatever they do.

use core::fmt::{self, Write};

use super::text::{Line, Name, Time};
use super::{Place, Step};
use crate::cpu::El1Register;
use crate::domain::Domain;
use crate::domain::vcpu::Vcpu;
use crate::hypervisor::Hypervisor;
use crate::hypervisor::visits::Snapshot;
use crate::machine::Machine;
use crate::sched::Wait;
use crate::trap::registers::GuestMode;

/// Three a line.
const EL1: [[(&str, El1Register); 3]; 3] = [
    [
        ("SP_EL0", El1Register::SpEl0),
        ("SP_EL1", El1Register::SpEl1),
        ("VBAR_EL1", El1Register::VbarEl1),
    ],
    [
        ("ELR_EL1", El1Register::ElrEl1),
        ("SPSR_EL1", El1Register::SpsrEl1),
        ("ESR_EL1", El1Register::EsrEl1),
    ],
    [
        ("FAR_EL1", El1Register::FarEl1),
        ("SCTLR_EL1", El1Register::SctlrEl1),
        ("CNTV_CTL", El1Register::CntvCtlEl0),
    ],
];
/// General registers in a line.
const IN_A_LINE: u32 = 4;

impl<M: Machine> Hypervisor<M> {
    /// `d`
    pub(super) fn register_line(&self, domain: &Domain, place: &mut Place, line: &mut Line) -> Step {
        let Some(vcpu) = domain.vcpus.get(usize::from(place.vcpu)) else {
            return Step::Done;
        };
        match place.part {
            0 => {
                place.next_part();
                let _ = self.write_vcpu(line, domain, vcpu);
                Step::Line
            }
            1 => match self.fetch_snapshot(vcpu, place, line) {
                Ok(()) => place.next_part(),
                Err(Step::Line) => {
                    place.next_vcpu();
                    Step::Line
                }
                Err(step) => step,
            },
            _ => {
                let row = place.row;
                place.row += 1;
                let written = place
                    .snapshot
                    .as_ref()
                    .and_then(|snapshot| registers(line, snapshot, row));
                written.unwrap_or_else(|| place.next_vcpu())
            }
        }
    }

    /// Whose, where, and what it does.
    pub(super) fn write_vcpu(&self, line: &mut Line, domain: &Domain, vcpu: &Vcpu) -> fmt::Result {
        let name = Name(&domain.name, domain.id);
        write!(line, "{name} vCPU {} on pCPU {}", vcpu.id.index, vcpu.pcpu.0)?;
        let Some(view) = self.view(vcpu) else { return Ok(()) };
        let doing = self.doing(domain, vcpu, &view);
        write!(line, ", {doing} {}", Time(self.nanoseconds(view.since)))?;
        if view.waits.is_some_and(|wait| wait != Wait::Power) {
            line.write_str(" for ")?;
            self.write_wait(line, domain, vcpu, &view)?;
        }
        Ok(())
    }
}

/// A line of a vCPU's registers; `None`: that was all.
fn registers(line: &mut Line, snapshot: &Snapshot, row: u32) -> Option<Step> {
    let frame = &snapshot.frame;
    if frame.pc == 0 && frame.pstate == 0 {
        // It never had a first instruction.
        if row > 0 {
            return None;
        }
        line.push("  was never on");
        return Some(Step::Line);
    }
    if row == 0 {
        let mode = match frame.mode() {
            GuestMode::El0Aarch32 => "EL0, AArch32",
            GuestMode::El0 => "EL0",
            GuestMode::El1t => "EL1t",
            GuestMode::El1h => "EL1h",
        };
        write!(
            line,
            "  PC        {:016x}  PSTATE    {:08x} ({mode}",
            frame.pc, frame.pstate
        )
        .ok()?;
        for (bit, mask) in [(9, " D"), (8, " A"), (7, " I"), (6, " F")] {
            if frame.pstate >> bit & 1 != 0 {
                line.push(mask);
            }
        }
        line.push(")");
        return Some(Step::Line);
    }
    if let Some(three) = EL1.get(row as usize - 1) {
        for (name, register) in three {
            write!(line, "  {name:<9} {:016x}", snapshot.el1(*register)).ok()?;
        }
        return Some(Step::Line);
    }
    let first = (row - 1 - EL1.len() as u32) * IN_A_LINE;
    let general = frame.x.iter().enumerate().skip(first as usize).take(IN_A_LINE as usize);
    for (number, value) in general {
        let column = if number as u32 == first { "  " } else { " " };
        let mut name = heapless::String::<4>::new();
        write!(name, "x{number}").ok()?;
        write!(line, "{column}{name:<3} {value:016x}").ok()?;
    }
    (!line.is_empty()).then_some(Step::Line)
}
