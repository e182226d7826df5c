//! The tables, a file for each hypercall.

mod event_channel_op;
mod memory_op;
mod xen_version;

use crate::suite::Suite;

/// What a domain tries by itself, while others do the same.
pub(crate) fn local(suite: &mut Suite) {
    xen_version::run(suite);
    event_channel_op::run(suite);
    memory_op::run(suite);
}
