//! A domain's IOREQ servers, and the requests that its vCPUs wait for.

use core::fmt::{self, Write};

use super::text::{Access, Line, Name, Time, write_ranges};
use super::{Place, Step};
use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::hypervisor::clock::CoreClock;
use crate::ids::{ServerId, Ticks};
use crate::ioreq::request::Pending;
use crate::ioreq::{Clock, Request, ServerLook};
use crate::machine::Machine;

/// Parts of the report.
const SERVER: u8 = 1;
const COUNTERS: u8 = 2;
const RANGES: u8 = 3;
const REQUESTS: u8 = 4;

impl<M: Machine> Hypervisor<M> {
    /// `s`
    pub(super) fn server_line(&self, domain: &Domain, place: &mut Place, line: &mut Line) -> Step {
        match place.part {
            0 => {
                place.next_part();
                let first = domain.servers.lock().look(ServerId(0));
                let name = Name(&domain.name, domain.id);
                let _ = match first {
                    Some(_) => write!(line, "{name} is served by"),
                    None => write!(line, "{name} has no server"),
                };
                Step::Line
            }
            SERVER => {
                let look = domain.servers.lock().look(ServerId(place.row as u16));
                let Some(look) = look else {
                    place.part = REQUESTS;
                    place.row = 0;
                    return Step::Further;
                };
                // The row is the server's number while its ranges are shown.
                place.row = look.id.0.into();
                place.part = COUNTERS;
                place.shown = 0;
                let _ = self.write_server(line, &look);
                Step::Line
            }
            COUNTERS => {
                place.part = RANGES;
                line.push("    ");
                self.write_server_counters(line, domain, ServerId(place.row as u16));
                Step::Line
            }
            RANGES => {
                let id = ServerId(place.row as u16);
                let servers = domain.servers.lock();
                let mut ranges = servers.ranges(id).skip(place.shown as usize);
                let (range, left) = (ranges.next(), ranges.count());
                drop(servers);
                let Some(range) = range else {
                    place.part = SERVER;
                    place.row += 1;
                    return Step::Further;
                };
                place.shown += 1;
                let _ = write!(line, "    {:#x} to {:#x}", range.start(), range.end());
                if place.shown >= RANGES_SHOWN && left > 0 {
                    let _ = write!(line, ", and {left} more ranges");
                    place.part = SERVER;
                    place.row += 1;
                }
                Step::Line
            }
            _ => {
                let vcpu = place.vcpu;
                if usize::from(vcpu) >= domain.vcpus.len() {
                    return Step::Done;
                }
                place.vcpu += 1;
                let servers = domain.servers.lock();
                let request = servers.request(vcpu);
                let owner = match request {
                    Request::InFlight { server, .. } => servers.owner_of(server),
                    _ => None,
                };
                drop(servers);
                let now = self.machine.now();
                let mut part = Line::new();
                let age = match (request, owner) {
                    (
                        Request::InFlight {
                            pending,
                            server,
                            posted,
                            ..
                        },
                        Some(owner),
                    ) => {
                        let _ = write!(part, "server {} ({}) has it for", server.0, self.name_of(owner));
                        let ran = CoreClock::new(self).runnable(owner).0.saturating_sub(posted.0);
                        Some((pending, ran, pending.policy.timeout))
                    }
                    (Request::Waiting { pending, since, .. }, _) => {
                        let _ = match self.backend_of(domain.id, pending.access.ipa) {
                            Some((id, _)) => write!(part, "waits for {} to attach for", self.name_of(id)),
                            None => write!(part, "waits for a server for"),
                        };
                        let waited = now.0.saturating_sub(since.0);
                        Some((pending, waited, pending.policy.attach_timeout))
                    }
                    _ => None,
                };
                let Some((pending, age, limit)) = age else {
                    return Step::Further;
                };
                let _ = self.write_request(line, vcpu, &pending, &part, (Ticks(age), limit));
                Step::Line
            }
        }
    }

    fn write_server(&self, line: &mut Line, look: &ServerLook) -> fmt::Result {
        let name = Name(self.domain_name(look.owner).unwrap_or_default(), look.owner);
        write!(
            line,
            "  server {} of {name}: {}, ports bound of vCPUs",
            look.id.0,
            look.stage.name()
        )?;
        write_ranges(line, 0..8, |vcpu| look.bound.contains(vcpu as u8));
        if !look.stale.is_empty() {
            line.write_str(", stale:")?;
            write_ranges(line, 0..8, |vcpu| look.stale.contains(vcpu as u8));
        }
        Ok(())
    }

    fn write_request(
        &self,
        line: &mut Line,
        vcpu: u8,
        pending: &Pending,
        whom: &Line,
        (age, limit): (Ticks, Option<Ticks>),
    ) -> fmt::Result {
        write!(line, "  vCPU {vcpu}: {whom} {}", Time(self.nanoseconds(age)))?;
        if let Some(limit) = limit {
            write!(line, " of {}", Time(self.nanoseconds(limit)))?;
        }
        write!(line, ": {}", Access(pending.access))
    }
}

/// Ranges of one server that are shown.
const RANGES_SHOWN: u32 = 8;
