//! The last events of vCPUs, as the rings of their pCPUs have them.

use core::fmt::Write;

use super::text::{Line, Time};
use super::{Place, Step};
use crate::domain::Domain;
use crate::domain::vcpu::Vcpu;
use crate::hypervisor::Hypervisor;
use crate::ids::Ticks;
use crate::machine::Machine;
use crate::trace::{Event, Kind};

/// Events of a vCPU that are shown.
const SHOWN: usize = 16;
/// Events of a ring that are looked at for them.
const LOOKED_AT: usize = 1024;

/// Events of one vCPU, newest first, as they were at one time.
#[derive(Debug, Default)]
pub(super) struct Tail {
    at: Ticks,
    events: heapless::Vec<Event, SHOWN>,
}

impl<M: Machine> Hypervisor<M> {
    /// `t`
    pub(super) fn trace_line(&self, domain: &Domain, place: &mut Place, line: &mut Line) -> Step {
        let Some(vcpu) = domain.vcpus.get(usize::from(place.vcpu)) else {
            return Step::Done;
        };
        if place.part == 0 {
            place.next_part();
            place.tail = self.tail(vcpu);
            place.row = place.tail.events.len() as u32;
            let _ = self.write_vcpu(line, domain, vcpu);
            return Step::Line;
        }
        let Some(row) = place.row.checked_sub(1) else {
            return place.next_vcpu();
        };
        place.row = row;
        let Some(event) = place.tail.events.get(row as usize) else {
            return Step::Further;
        };
        let ago = place.tail.at.0.saturating_sub(event.time);
        let _ = write!(line, "  {:>9} ago  {event}", Time(self.nanoseconds(Ticks(ago))));
        Step::Line
    }

    fn tail(&self, vcpu: &Vcpu) -> Tail {
        let mut tail = Tail {
            at: self.machine.now(),
            ..Tail::default()
        };
        let events = (0..LOOKED_AT).map_while(|back| self.machine.traced(vcpu.pcpu, back));
        // A pCPU that sleeps and wakes for itself does so with the vCPU loaded.
        let own = |event: &Event| event.vcpu == Some(vcpu.id) && !matches!(event.kind, Kind::Idle | Kind::Interrupt);
        for event in events.filter(own) {
            if tail.events.push(event).is_err() {
                break;
            }
        }
        tail
    }
}
