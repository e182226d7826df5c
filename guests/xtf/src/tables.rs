//! The tables, a file for each hypercall.

mod control;
mod dm_op;
mod event_channel_op;
mod firmware;
mod grant_table_op;
mod memory_op;
mod peers;
mod range_kinds;
mod sched_op;
mod small;
mod xen_version;

use portunus::abi::memory::AddToPhysmapBatch;

use crate::case::Case;
use crate::suite::Suite;
use crate::world::World;

/// Whether a batch has told that error, or 0, of its one entry.
fn entry_is<const ERROR: i32>(_: &Case<AddToPhysmapBatch>, world: &mut World) -> bool {
    world.list_half(4) as i32 == ERROR
}

/// What a domain tries by itself, while others do the same.
pub(crate) fn local(suite: &mut Suite) {
    xen_version::run(suite);
    event_channel_op::run(suite);
    memory_op::run(suite);
    grant_table_op::run(suite);
    sched_op::run(suite);
    small::run(suite);
    firmware::run(suite);
    control::of_itself(suite);
}

/// What a domain can do with another one's objects, which [`host`] lets it.
pub(crate) fn guest(suite: &mut Suite) {
    peers::run(suite);
}

/// Lets the other domain do that.
pub(crate) fn host(suite: &mut Suite) {
    peers::host(&suite.world);
}

/// What a domain may do that serves another's devices.
pub(crate) fn serving(suite: &mut Suite) {
    dm_op::run(suite);
    range_kinds::run(suite);
    peers::served_ports(suite);
    control::of_another(suite);
}
