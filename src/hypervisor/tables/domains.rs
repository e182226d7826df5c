//! Every domain in a line, every vCPU in a line.

use core::fmt::{self, Write};

use super::text::{Line, Name, Time};
use super::{Place, Step};
use crate::abi::sched::ShutdownReason;
use crate::domain::Domain;
use crate::domain::life::Phase;
use crate::domain::report::DomainReport;
use crate::domain::vcpu::{Power, Vcpu};
use crate::evtchn::Poller;
use crate::hypervisor::Hypervisor;
use crate::ids::{DomainId, PAGE_SIZE, Ticks};
use crate::ioreq::Request;
use crate::machine::Machine;
use crate::sched::{SlotReport, Wait};

pub(super) const TITLE: &str = " id name             state       vCPUs    MiB    frames   maps   refs ports restarts";
pub(super) const VCPU_TITLE: &str = "pCPU  vCPU                does       for  has run  and waits for";

impl<M: Machine> Hypervisor<M> {
    /// `l`
    pub(super) fn domain_line(&self, domain: &Domain, place: &mut Place, line: &mut Line) -> Step {
        if place.part > 0 {
            return Step::Done;
        }
        place.next_part();
        let Some(report) = self.domain_report(domain.id) else {
            return Step::Done;
        };
        let counters = report.counters;
        let mut vcpus = heapless::String::<8>::new();
        let mut frames = heapless::String::<24>::new();
        let _ = write!(vcpus, "{}/{}", report.online_vcpus, report.vcpus);
        let _ = write!(frames, "{}/{}", counters.pool_used, counters.pool_frames);
        let _ = write!(
            line,
            "{:>3} {:<16} {:<11} {vcpus:>5} {:>6} {frames:>9} {:>6} {:>6} {:>5} {:>8}",
            domain.id.0,
            Name(&domain.name, domain.id),
            state(&report),
            counters.ram_pages / (1024 * 1024 / PAGE_SIZE),
            counters.foreign_pages,
            counters.references,
            counters.event_channels,
            report.restarts,
        );
        Step::Line
    }

    /// `r`
    pub(super) fn vcpu_line(&self, domain: &Domain, place: &mut Place, line: &mut Line) -> Step {
        let Some(vcpu) = domain.vcpus.get(usize::from(place.vcpu)) else {
            return Step::Done;
        };
        place.vcpu += 1;
        let Some(view) = self.view(vcpu) else {
            return Step::Further;
        };
        let _ = write!(
            line,
            "{:>4}  {:<16} {}  {:<7} {:>9} {:>9}",
            vcpu.pcpu.0,
            Name(&domain.name, domain.id),
            vcpu.id.index,
            self.doing(domain, vcpu, &view),
            Time(self.nanoseconds(view.since)),
            Time(self.nanoseconds(view.ran)),
        );
        if view.waits.is_some_and(|wait| wait != Wait::Power) {
            line.push("  ");
            let _ = self.write_wait(line, domain, vcpu, &view);
        }
        Step::Line
    }

    /// The name of a domain, which need not exist.
    pub(super) fn name_of(&self, domain: DomainId) -> Name<'_> {
        Name(self.domain_name(domain).unwrap_or_default(), domain)
    }

    pub(super) fn view(&self, vcpu: &Vcpu) -> Option<SlotReport> {
        self.pcpu(vcpu.pcpu)?
            .queue
            .lock()
            .settled()
            .report(vcpu.slot, self.machine.now())
    }

    /// What a vCPU does, in a word.
    pub(super) fn doing(&self, domain: &Domain, vcpu: &Vcpu, view: &SlotReport) -> &'static str {
        match view.waits {
            Some(Wait::Power) if domain.is_stopped() => "stopped",
            Some(Wait::Power) if matches!(*vcpu.power.lock(), Power::Starting { .. }) => "starts",
            Some(Wait::Power) => "off",
            _ if view.held => "held",
            Some(Wait::Event | Wait::Request) => "waits",
            None if view.is_current => "runs",
            None => "ready",
        }
    }

    /// What a vCPU waits for, if anything.
    pub(super) fn write_wait(&self, line: &mut Line, domain: &Domain, vcpu: &Vcpu, view: &SlotReport) -> fmt::Result {
        match view.waits {
            Some(Wait::Event) => {
                let poller = domain.events.lock().poller(vcpu.id.index);
                match poller {
                    Poller::None => write!(line, "an interrupt")?,
                    Poller::One(port) => write!(line, "an event of port {}", port.0)?,
                    Poller::Any => write!(line, "events of some ports")?,
                }
                match view.deadline {
                    Some(deadline) => {
                        let left = deadline.0.saturating_sub(self.machine.now().0);
                        write!(line, ", {} at most", Time(self.nanoseconds(Ticks(left))))
                    }
                    None => Ok(()),
                }
            }
            Some(Wait::Request) => {
                let servers = domain.servers.lock();
                let request = servers.request(vcpu.id.index);
                let owner = match request {
                    Request::InFlight { server, .. } => servers.owner_of(server),
                    _ => None,
                };
                drop(servers);
                match request {
                    Request::InFlight { server, .. } => {
                        write!(line, "server {}", server.0)?;
                        match owner {
                            Some(owner) => write!(line, " ({})", self.name_of(owner)),
                            None => Ok(()),
                        }
                    }
                    Request::Waiting { pending, .. } => match self.backend_of(domain.id, pending.access.ipa) {
                        Some((id, _)) => write!(line, "{} to attach", self.name_of(id)),
                        None => write!(line, "a server"),
                    },
                    Request::Idle | Request::Finished { .. } => write!(line, "its turn: the answer is there"),
                }
            }
            Some(Wait::Power) | None => Ok(()),
        }
    }
}

/// What a domain does, or why it does nothing any more.
fn state(report: &DomainReport) -> &'static str {
    match report.state {
        Phase::Running if report.paused => "paused",
        Phase::Running => "runs",
        Phase::Stopping(_) => "stops",
        Phase::Restarting(_) => "restarts",
        Phase::Stopped(ShutdownReason::Poweroff) => "powered off",
        Phase::Stopped(ShutdownReason::Reboot | ShutdownReason::SoftReset) => "rebooted",
        Phase::Stopped(ShutdownReason::Suspend) => "suspended",
        Phase::Stopped(ShutdownReason::Crash) => "crashed",
        Phase::Stopped(ShutdownReason::Watchdog) => "watchdog",
    }
}
