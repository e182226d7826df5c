//! What was counted of a domain's vCPUs and of its servers.

use core::fmt::Write;

use super::text::{Line, Name, Time};
use super::{Place, Step};
use crate::counters::Exit;
use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::ids::{ServerId, VcpuId};
use crate::machine::Machine;

/// Kinds of exits in a line.
const IN_A_LINE: usize = 5;

/// Parts of the table: of each vCPU, of each server.
const VCPU: u8 = 0;
const EXITS: u8 = 1;

impl<M: Machine> Hypervisor<M> {
    /// `c`
    pub(super) fn counter_line(&self, domain: &Domain, place: &mut Place, line: &mut Line) -> Step {
        let id = VcpuId {
            domain: domain.id,
            index: place.vcpu,
        };
        match place.part {
            VCPU => {
                let Some(report) = self.vcpu_report(id) else {
                    place.part = EXITS + 1;
                    return Step::Further;
                };
                place.next_part();
                let name = Name(&domain.name, domain.id);
                let _ = write!(
                    line,
                    "{name} vCPU {}: ran {}, waited for servers {}, {} interrupts, {} exits",
                    id.index,
                    Time(self.nanoseconds(report.run_time)),
                    Time(self.nanoseconds(report.server_wait)),
                    report.interrupts,
                    report
                        .exits
                        .iter()
                        .fold(0, |sum: u64, count| sum.saturating_add(*count)),
                );
                Step::Line
            }
            EXITS => {
                let Some(report) = self.vcpu_report(id) else {
                    return place.next_vcpu();
                };
                let counts = Exit::ALL.into_iter().zip(report.exits).skip(place.row as usize);
                for (exit, count) in counts.filter(|(_, count)| *count > 0).take(IN_A_LINE) {
                    let _ = write!(line, "  {} {count}", exit.name());
                    place.row = exit as u32 + 1;
                }
                if line.is_empty() {
                    return place.next_vcpu();
                }
                Step::Line
            }
            _ => {
                let found = domain.servers.lock().look(ServerId(place.row as u16));
                let Some(look) = found else { return Step::Done };
                place.row = u32::from(look.id.0) + 1;
                let _ = write!(line, "  server {}:", look.id.0);
                self.write_server_counters(line, domain, look.id);
                Step::Line
            }
        }
    }

    /// What was counted of a server.
    pub(super) fn write_server_counters(&self, line: &mut Line, domain: &Domain, server: ServerId) {
        let Some(report) = self.server_report(domain.id, server) else {
            return;
        };
        let _ = write!(
            line,
            " {} answers, {} failed, {} posted",
            report.answered, report.failed, report.posted
        );
        if report.answered > 0 {
            let time = |ticks| Time(self.nanoseconds(ticks));
            let _ = write!(
                line,
                "; half in {}, 99 % in {}, all in {}",
                time(report.median),
                time(report.percentile_99),
                time(report.longest)
            );
        }
    }
}
