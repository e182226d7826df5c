//! A domain's event channels.

use core::fmt::{self, Write};

use super::text::{Line, Name};
use super::{Place, Step};
use crate::domain::Domain;
use crate::evtchn::{Channel, Consumer, Found, PortLook};
use crate::hypervisor::Hypervisor;
use crate::ids::EventPort;
use crate::machine::Machine;

/// Ports that one look passes over.
const PORTS: u32 = 256;

impl<M: Machine> Hypervisor<M> {
    /// `e`
    pub(super) fn event_line(&self, domain: &Domain, place: &mut Place, line: &mut Line) -> Step {
        match place.part {
            0 => {
                place.next_part();
                let _ = self.write_channels(line, domain);
                Step::Line
            }
            1 => {
                let from = EventPort(place.row);
                let events = domain.events.lock();
                let found = events.look(from, PORTS, &self.machine);
                let more = if place.has_room() {
                    0
                } else {
                    events.count_used(from, PORTS)
                };
                drop(events);
                match found {
                    Found::End => place.end_rows(line),
                    _ if !place.has_room() => {
                        place.hidden += more;
                        place.row = from.0.saturating_add(PORTS);
                        Step::Further
                    }
                    Found::Further(port) => {
                        place.row = port.0;
                        Step::Further
                    }
                    Found::Port(look) => {
                        place.shown += 1;
                        place.row = look.port.0.saturating_add(1);
                        let _ = self.write_port(line, &look);
                        Step::Line
                    }
                }
            }
            _ => Step::Done,
        }
    }

    fn write_channels(&self, line: &mut Line, domain: &Domain) -> fmt::Result {
        let events = domain.events.lock();
        let (used, highest) = (events.in_use().0, events.highest_port());
        let mut told = heapless::Vec::<u8, { crate::ids::MAX_VCPUS }>::new();
        for vcpu in &domain.vcpus {
            if events.has_upcall(vcpu.id.index, &self.machine) {
                let _ = told.push(vcpu.id.index);
            }
        }
        drop(events);
        let name = Name(&domain.name, domain.id);
        write!(line, "{name}: {used} of {} ports; vCPUs told of events:", highest.0)?;
        if told.is_empty() {
            line.write_str(" none")?;
        }
        told.iter().try_for_each(|vcpu| write!(line, " {vcpu}"))
    }

    fn write_port(&self, line: &mut Line, look: &PortLook) -> fmt::Result {
        write!(line, "  port {:>4}  ", look.port.0)?;
        let mut peer = heapless::String::<40>::new();
        match look.entry.channel {
            Channel::Free => write!(peer, "free")?,
            Channel::Unbound { remote } => write!(peer, "unbound, for {}", self.name_of(remote))?,
            Channel::Interdomain { remote, port } => write!(peer, "to {} port {}", self.name_of(remote), port.0)?,
            Channel::Virq { virq } => write!(peer, "VIRQ {virq}")?,
            Channel::Ipi => write!(peer, "between vCPUs")?,
            Channel::Console => write!(peer, "PV console")?,
        }
        write!(line, "{peer:<34}")?;
        match look.entry.consumer {
            Some(Consumer::Request { server, vcpu }) => {
                write!(line, "  vCPU {vcpu}'s requests to server {}", server.0)
            }
            Some(Consumer::Buffered { server }) => write!(line, "  server {}'s buffered page", server.0),
            Some(Consumer::Doorbell { server }) => write!(line, "  doorbell of server {}", server.0),
            None => {
                let pending = if look.pending { "  pending" } else { "" };
                let masked = if look.masked { "  masked" } else { "" };
                write!(line, "  vCPU {}{pending}{masked}", look.entry.vcpu)
            }
        }
    }
}
