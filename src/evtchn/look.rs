//! What a person is shown of a domain's event channels.

use super::port::{Channel, Port};
use super::{EventChannels, Poller};
use crate::ids::EventPort;
use crate::memory::PhysicalMemory;

/// One port.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct PortLook {
    /// Its number.
    pub port: EventPort,
    /// What it is connected to.
    pub entry: Port,
    /// An event that the guest has not taken. Attached ports have none.
    pub pending: bool,
    /// The guest does not want to hear of events.
    pub masked: bool,
}

/// What was found among some ports.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Found {
    /// A port that is in use.
    Port(PortLook),
    /// None so far: go on from here.
    Further(EventPort),
    /// None to the end.
    End,
}

impl EventChannels {
    /// The first port in use from `from` on, among `most` at the most.
    pub fn look<M: PhysicalMemory + ?Sized>(&self, from: EventPort, most: u32, memory: &M) -> Found {
        let first = from.0.max(1) as usize;
        let Some(ports) = self.ports.get(first..).filter(|ports| !ports.is_empty()) else {
            return Found::End;
        };
        let used = |(_, entry): &(u32, &Port)| entry.channel != Channel::Free;
        let Some((number, entry)) = (first as u32..).zip(ports).take(most as usize).find(used) else {
            return Found::Further(EventPort((first as u32).saturating_add(most)));
        };
        let port = EventPort(number);
        let (pending, masked) = match entry.consumer {
            Some(_) => (false, false),
            None => self.state(port, memory),
        };
        Found::Port(PortLook {
            port,
            entry: *entry,
            pending,
            masked,
        })
    }

    /// How many of `most` ports from `from` on are in use.
    pub fn count_used(&self, from: EventPort, most: u32) -> u32 {
        let ports = self.ports.iter().skip(from.0 as usize).take(most as usize);
        ports.filter(|entry| entry.channel != Channel::Free).count() as u32
    }

    /// The guest's highest port.
    pub fn highest_port(&self) -> EventPort {
        EventPort(self.limits.highest)
    }

    /// What a vCPU in SCHEDOP_poll waits for.
    pub fn poller(&self, vcpu: u8) -> Poller {
        self.pollers.get(usize::from(vcpu)).copied().unwrap_or_default()
    }
}
