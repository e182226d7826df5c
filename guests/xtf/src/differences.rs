//! Rows in which Xen answers otherwise, by design, and why. What is not here must be the same.

use portunus::abi::HypercallError;

use crate::case::Expected;

/// What Xen does.
#[derive(Copy, Clone, Debug)]
pub(crate) enum Otherwise {
    /// It returns this.
    Returns(Expected),
    /// It has nothing of the kind, or the row would do harm there.
    Skipped,
}

/// Call, operation, row, what Xen does, why. `*` stands for every operation or row.
type Difference = (&'static str, &'static str, &'static str, Otherwise, &'static str);

const READ_ONLY: &str = "structure in memory that may only be read";
const RESULT_LOST: &str = "it acts before it finds that the result can't be written";
const NEWER: &str = "these operations came with Xen 4.18";
const RESUMED: &str = "as if it were resumed";
const PER_ENTRY: &str = "each entry has that error, and the call none";
const OTHER_STRUCTURE: &str = "it looks at the structure before it refuses the call";
const NO_SERVERS: &str = "serving domains are an option of its build that distributions leave out";
const FIFO: &str = "it has event channels of the FIFO kind, and guests are told so by errors of their own";
const CONTINUED: &str = "operation 14 goes on with a reset there";

const DIFFERENCES: &[Difference] = &[
    (
        "xen_version",
        "platform_parameters",
        "there is no virt_start",
        Otherwise::Skipped,
        "it tells where it is mapped itself",
    ),
    (
        "xen_version",
        "build_id",
        "*",
        Otherwise::Returns(Expected::Error(HypercallError::NotPermitted)),
        "it keeps its build id from guests",
    ),
    ("xen_version", "extraversion2", "*", Otherwise::Skipped, NEWER),
    ("xen_version", "capabilities2", "*", Otherwise::Skipped, NEWER),
    ("xen_version", "changeset2", "*", Otherwise::Skipped, NEWER),
    ("xen_version", "commandline2", "*", Otherwise::Skipped, NEWER),
    (
        "event_channel_op",
        "alloc_unbound",
        "for another domain: what connects domains is in the manifest",
        Otherwise::Skipped,
        "any domain may offer any other a port",
    ),
    (
        "event_channel_op",
        "alloc_unbound",
        "for a domain that the manifest does not name",
        Otherwise::Skipped,
        "it does not look whether there is such a domain",
    ),
    (
        "event_channel_op",
        "bind_virq",
        "the console's",
        Otherwise::Skipped,
        "whoever comes first has a global VIRQ",
    ),
    (
        "event_channel_op",
        "bind_interdomain",
        READ_ONLY,
        Otherwise::Skipped,
        RESULT_LOST,
    ),
    (
        "event_channel_op",
        "bind_virq",
        READ_ONLY,
        Otherwise::Skipped,
        RESULT_LOST,
    ),
    ("event_channel_op", "status", READ_ONLY, Otherwise::Skipped, RESULT_LOST),
    (
        "event_channel_op",
        "alloc_unbound",
        READ_ONLY,
        Otherwise::Skipped,
        RESULT_LOST,
    ),
    (
        "event_channel_op",
        "bind_ipi",
        READ_ONLY,
        Otherwise::Skipped,
        RESULT_LOST,
    ),
    (
        "event_channel_op",
        "bind_pirq",
        "*",
        Otherwise::Skipped,
        "it has physical interrupts as event channels",
    ),
    ("event_channel_op", "init_control", "*", Otherwise::Skipped, FIFO),
    ("event_channel_op", "expand_array", "*", Otherwise::Skipped, FIFO),
    ("event_channel_op", "set_priority", "*", Otherwise::Skipped, FIFO),
    ("event_channel_op", "others", "zeroes", Otherwise::Skipped, CONTINUED),
    ("event_channel_op", "others", "ones", Otherwise::Skipped, CONTINUED),
    (
        "event_channel_op",
        "others",
        "no structure",
        Otherwise::Skipped,
        CONTINUED,
    ),
    (
        "memory_op",
        "populate_physmap",
        "it holds nothing",
        Otherwise::Skipped,
        "a page that a domain gave up comes back to it as it was",
    ),
    (
        "memory_op",
        "populate_physmap",
        "a frame beyond all",
        Otherwise::Skipped,
        "the page is lost there",
    ),
    (
        "memory_op",
        "add_to_physmap",
        RESUMED,
        Otherwise::Skipped,
        "the count is not looked at",
    ),
    (
        "memory_op",
        "add_to_physmap_batch",
        "its own memory as another's",
        Otherwise::Skipped,
        PER_ENTRY,
    ),
    (
        "memory_op",
        "add_to_physmap_batch",
        "memory of a domain that the manifest does not open",
        Otherwise::Skipped,
        PER_ENTRY,
    ),
    (
        "memory_op",
        "add_to_physmap_batch",
        "memory of a domain that does not exist",
        Otherwise::Skipped,
        PER_ENTRY,
    ),
    (
        "memory_op",
        "increase_reservation",
        "*",
        Otherwise::Skipped,
        "it is there for guests that are not translated",
    ),
    (
        "memory_op",
        "maximum_ram_page",
        "*",
        Otherwise::Skipped,
        "it tells every guest how much memory the machine has",
    ),
    ("memory_op", "exchange", "*", Otherwise::Skipped, OTHER_STRUCTURE),
    ("memory_op", "claim_pages", "*", Otherwise::Skipped, OTHER_STRUCTURE),
    ("memory_op", "get_vnumainfo", "*", Otherwise::Skipped, OTHER_STRUCTURE),
    ("memory_op", "acquire_resource", "*", Otherwise::Skipped, NO_SERVERS),
    ("dm_op", "*", "*", Otherwise::Skipped, NO_SERVERS),
];

/// What Xen does in this row, if it is something else, and why.
pub(crate) fn find(call: &str, operation: &str, row: &str) -> Option<(Otherwise, &'static str)> {
    let is = |pattern: &str, name: &str| pattern == "*" || pattern == name;
    let found = DIFFERENCES
        .iter()
        .find(|difference| difference.0 == call && is(difference.1, operation) && is(difference.2, row));
    found.map(|difference| (difference.3, difference.4))
}
