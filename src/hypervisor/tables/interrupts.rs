//! A domain's interrupts.

use core::fmt::{self, Write};

use super::text::{Line, Name, write_ranges};
use super::{Place, Step};
use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::hypervisor::visits::Snapshot;
use crate::ids::IntId;
use crate::machine::Machine;
use crate::vgic::list_register::LrState;
use crate::vgic::{InterruptLook, Version, Waits};

/// Interrupts that one look passes over.
const INTERRUPTS: u32 = 256;
/// List registers in a line.
const IN_A_LINE: usize = 4;

/// Parts of the report: of the domain, of each vCPU, of the domain again.
const CONTROLLER: u8 = 0;
const VISIT: u8 = 1;
const LISTED: u8 = 2;
const ENABLED: u8 = 3;
const PRIVATE: u8 = 4;
const NEXT_VCPU: u8 = 5;
const SHARED_ENABLED: u8 = 6;
const SHARED: u8 = 7;

impl<M: Machine> Hypervisor<M> {
    /// `i`
    pub(super) fn interrupt_line(&self, domain: &Domain, place: &mut Place, line: &mut Line) -> Step {
        let vcpu = place.vcpu;
        match place.part {
            CONTROLLER => {
                place.next_part();
                let _ = write_controller(line, domain);
                Step::Line
            }
            VISIT => {
                let Some(target) = domain.vcpus.get(usize::from(vcpu)) else {
                    place.part = SHARED_ENABLED;
                    return Step::Further;
                };
                match self.fetch_snapshot(target, place, line) {
                    Ok(()) => place.next_part(),
                    Err(Step::Line) => {
                        place.part = ENABLED;
                        Step::Line
                    }
                    Err(step) => step,
                }
            }
            LISTED => {
                let first = place.row as usize;
                place.row += IN_A_LINE as u32;
                let listed = place
                    .snapshot
                    .as_ref()
                    .and_then(|snapshot| listed(line, vcpu, snapshot, first));
                listed.unwrap_or_else(|| place.next_part())
            }
            ENABLED => {
                place.next_part();
                let overflows = domain.vgic.lock().overflows(vcpu);
                let waits = if overflows {
                    "more wait than list registers hold; "
                } else {
                    ""
                };
                let _ = write!(line, "  vCPU {vcpu}: {waits}enabled");
                let vgic = domain.vgic.lock();
                let enabled = |number| vgic.look_at(vcpu, IntId(number)).is_some_and(|look| look.enabled);
                write_ranges(line, 0..IntId::FIRST_SPI, enabled);
                Step::Line
            }
            PRIVATE => self.due(domain, place, 0..IntId::FIRST_SPI, line),
            NEXT_VCPU => {
                *place = Place {
                    vcpu: vcpu + 1,
                    part: VISIT,
                    ..Place::default()
                };
                Step::Further
            }
            SHARED_ENABLED => {
                place.next_part();
                line.push("  SPIs: enabled");
                let vgic = domain.vgic.lock();
                let enabled = |number| vgic.look_at(0, IntId(number)).is_some_and(|look| look.enabled);
                write_ranges(line, IntId::FIRST_SPI..IntId::SPI_LIMIT, enabled);
                Step::Line
            }
            SHARED => self.due(domain, place, IntId::FIRST_SPI..IntId::SPI_LIMIT, line),
            _ => Step::Done,
        }
    }

    /// The next row of those that are pending or active, or physical.
    fn due(&self, domain: &Domain, place: &mut Place, numbers: core::ops::Range<u32>, line: &mut Line) -> Step {
        let first = numbers.start.max(place.row);
        let last = first.saturating_add(INTERRUPTS).min(numbers.end);
        if first >= numbers.end {
            return place.end_rows(line);
        }
        let vgic = domain.vgic.lock();
        let mut rows = (first..last)
            .filter_map(|number| vgic.look_at(place.vcpu, IntId(number)))
            .filter(|look| look.is_due() || (look.physical.is_some() && look.interrupt.is_spi()));
        let found = if place.has_room() {
            rows.next()
        } else {
            place.hidden += rows.count() as u32;
            None
        };
        drop(vgic);
        let Some(look) = found else {
            place.row = last;
            return Step::Further;
        };
        place.row = look.interrupt.0 + 1;
        place.shown += 1;
        let _ = write_interrupt(line, &look);
        Step::Line
    }
}

fn write_controller(line: &mut Line, domain: &Domain) -> fmt::Result {
    let vgic = domain.vgic.lock();
    let (config, look) = (vgic.config(), vgic.look());
    drop(vgic);
    let version = match config.version {
        Version::V2 => "GICv2",
        Version::V3 => "GICv3",
    };
    let on = |group| if group { "on" } else { "off" };
    write!(
        line,
        "{}: {version} with {} SPIs, group 0 {}, group 1 {}; by INTID",
        Name(&domain.name, domain.id),
        config.spis,
        on(look.group0),
        on(look.group1)
    )
}

/// Some list registers as the guest has them; `None`: there are no more.
fn listed(line: &mut Line, vcpu: u8, snapshot: &Snapshot, first: usize) -> Option<Step> {
    let registers = snapshot.list_registers.get(first..).filter(|left| !left.is_empty())?;
    write!(line, "  vCPU {vcpu}: list registers").ok()?;
    for (index, (number, register)) in registers.iter().take(IN_A_LINE).enumerate() {
        let state = match register.state {
            LrState::Inactive => "free",
            LrState::Pending => "pending",
            LrState::Active => "active",
            LrState::PendingAndActive => "both",
        };
        let comma = if index == 0 { "" } else { "," };
        write!(line, "{comma} {number}: {} {state}", register.interrupt.0).ok()?;
    }
    Some(Step::Line)
}

fn write_interrupt(line: &mut Line, look: &InterruptLook) -> fmt::Result {
    let state = match (look.pending, look.active) {
        (true, true) => "both",
        (true, false) => "pending",
        (false, true) => "active",
        (false, false) => "idle",
    };
    let mut place = heapless::String::<24>::new();
    match look.waits {
        Waits::Nowhere => {}
        Waits::Queued(vcpu) => write!(place, "queue of vCPU {vcpu}")?,
        Waits::Listed { vcpu, register } => write!(place, "LR {register} of vCPU {vcpu}")?,
    }
    let mut target = heapless::String::<16>::new();
    match look.target {
        Some(vcpu) => write!(target, "to vCPU {vcpu}")?,
        None => write!(target, "to nobody")?,
    }
    let trigger = match (look.edge, look.line) {
        (true, _) => "edge",
        (false, true) => "level high",
        (false, false) => "level low",
    };
    let enabled = if look.enabled { "" } else { " disabled" };
    let physical = if look.physical.is_some() { " physical" } else { "" };
    write!(
        line,
        "  {:>4}  {state:<7}  {place:<15}  {target}  {trigger:<10}  priority {:02x}{enabled}{physical}",
        look.interrupt.0, look.priority
    )
}
