//! Operations at sizes that the boot arguments give: `ranges=N` (and `doorbells=N` (that the backend serves), `ports=N`. How many SPIs and how
//! many other domains there are is the manifest's.

use guest_runtime::{device_tree, hypercall, timer};

use portunus::abi::dm_op::MAX_SERVERS;

use crate::operations::Machine;
use crate::row::{is_wanted, row, unavailable};
use crate::{RANGE_STRIDE, grants, posts, served};

/// The lowest SPI.
const FIRST_SPI: u32 = 32;
/// INTIDs from here on are not SPIs.
const SPECIAL: u32 = 1020;

/// Prints the row that is wanted.
pub(crate) fn measure(machine: &Machine) {
    let size = |name| device_tree::boot_number(name).map_or(1, |size| size.max(1));
    if is_wanted("ioreq_sync_same_cpu") {
        served("ioreq_sync_same_cpu", (size("ranges") - 1) * RANGE_STRIDE);
    }
    if is_wanted("spi_self") {
        spi(machine);
    }
    if is_wanted("doorbell_write") {
        posts::one_of_many(size("doorbells"), MAX_SERVERS as u64);
    }
    if is_wanted("event_self") {
        event(machine, size("ports") as usize);
    }
    if is_wanted("grant_map") || is_wanted("grant_unmap") || is_wanted("grant_copy_64") {
        // The backend, which grants, is known by its answer to have begun.
        served("ioreq_sync_same_cpu", 0);
        grants::measure();
    }
    row("timer_wfi", || machine.timer_wfi());
}

/// The highest SPI, with all others enabled and none but it pending.
fn spi(machine: &Machine) {
    // The distributor says how many there are in steps of 32; one that it has not does not stay enabled.
    let top = machine.gic.interrupts().min(SPECIAL);
    let enabled = |intid: u32| {
        machine.gic.enable(intid, true);
        let register = 0x100 + 4 * (intid as usize / 32);
        machine.gic.distributor().read(register) >> (intid % 32) & 1 != 0
    };
    let mut highest = None;
    for intid in (FIRST_SPI..top).filter(|intid| *intid != timer::intid()) {
        if enabled(intid) {
            highest = Some(intid);
        }
    }
    match highest {
        Some(intid) => row("spi_self", || machine.spi_self(intid)),
        None => unavailable("spi_self", "the manifest gives this domain no SPIs"),
    }
}

/// The highest port, with all below it in use.
fn event(machine: &Machine, ports: usize) {
    let others = (1..ports).all(|_| hypercall::alloc_unbound(hypercall::DOMID_SELF).is_ok());
    let port = hypercall::bind_ipi().and_then(|port| hypercall::unmask(port).map(|()| port));
    match port {
        Ok(port) if others => {
            machine.drain();
            row("event_self", || machine.event_self(port));
        }
        _ => unavailable("event_self", "this domain has not so many event channels"),
    }
}
