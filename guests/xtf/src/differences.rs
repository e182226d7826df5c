//! Rows in which Xen answers otherwise, by design, and why. What is not here must be the same.

use portunus::abi::HypercallError;

use crate::case::Expected;

/// What Xen does.
#[derive(Copy, Clone, Debug)]
pub(crate) enum Otherwise {
    /// It returns this.
    Returns(Expected),
    /// It returns this, or the same: that depends on its version or its build.
    Perhaps(Expected),
    /// It has nothing of the kind, or the row would do harm there.
    Skipped,
}

/// Call, operation, row, what Xen does, why. `*` stands for any name, and at the end of one for any end.
type Difference = (&'static str, &'static str, &'static str, Otherwise, &'static str);

const READ_ONLY: &str = "structure in memory that may only be read";
const RESULT_LOST: &str = "it acts before it finds that the result can't be written";
const NEWER: &str = "these operations came with Xen 4.18";
const RESUMED: &str = "as if it were resumed";
const OTHER_STRUCTURE: &str = "it looks at the structure before it refuses the call";
const NO_SERVERS: &str = "serving domains are an option of its build that distributions leave out";
const FIFO: &str = "it has event channels of the FIFO kind, and guests are told so by errors of their own";
const ANY_REASON: &str = "a domain may end with any reason";
const BUILDER: &str = "who builds a domain writes that, and it does not where it builds domains itself";
const BUSY_LATER: &str = "it was EINVAL before Xen 4.18";
const UNTOLD: &str = "it writes there without telling whether it could";
const PRIVILEGED: &str = "it is there for privileged domains, and looks at the structure first";
const OPTION: &str = "it is an option of its build";
const NO_FEATURE: &str = "of the calls that there are it names none but workarounds";
const CONTINUED: &str = "operation 14 goes on with a reset there";

/// What an SMCCC call answers that there is none of, in 64 bits.
const NOT_SUPPORTED: Expected = Expected::Value(u64::MAX);
const NO_VCPU: &str = "a vCPU that there is none of is off";
const VENDORS: &str = "it answers for the hypervisor service alone";

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
        "its own memory as another's*",
        Otherwise::Skipped,
        "older versions tell EINVAL of such an entry",
    ),
    (
        "memory_op",
        "add_to_physmap_batch",
        "the first page of another's RAM",
        Otherwise::Skipped,
        NO_SERVERS,
    ),
    (
        "memory_op",
        "add_to_physmap_batch",
        "what is no RAM fails by itself",
        Otherwise::Skipped,
        NO_SERVERS,
    ),
    (
        "memory_op",
        "add_to_physmap_batch",
        "the last frame fails by itself",
        Otherwise::Skipped,
        NO_SERVERS,
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
    (
        "grant_table_op",
        "unmap_grant_ref",
        "another address",
        Otherwise::Skipped,
        "it takes the caller's word for the address, where no RAM is",
    ),
    (
        "grant_table_op",
        "get_version",
        READ_ONLY,
        Otherwise::Skipped,
        RESULT_LOST,
    ),
    (
        "sched_op",
        "block",
        "an event is pending: it comes back",
        Otherwise::Skipped,
        "it sleeps although an event is pending if the interrupt controller does not deliver the upcall",
    ),
    (
        "sched_op",
        "watchdog",
        "a third",
        Otherwise::Returns(Expected::Value(HypercallError::NoSpace.register() & 0xffff_ffff)),
        "the result of this call has 32 bits there, that of an error, too",
    ),
    (
        "sched_op",
        "shutdown",
        "the first reason that there is not",
        Otherwise::Skipped,
        ANY_REASON,
    ),
    (
        "sched_op",
        "shutdown",
        "the last number of a reason",
        Otherwise::Skipped,
        ANY_REASON,
    ),
    (
        "sched_op",
        "shutdown_code",
        "the first reason that there is not",
        Otherwise::Returns(Expected::Value(0)),
        ANY_REASON,
    ),
    (
        "sched_op",
        "shutdown_code",
        "the last number of a reason",
        Otherwise::Returns(Expected::Value(0)),
        ANY_REASON,
    ),
    ("hvm_op", "get_param", READ_ONLY, Otherwise::Skipped, RESULT_LOST),
    (
        "hvm_op",
        "get_param",
        "the upcall is a PPI",
        Otherwise::Skipped,
        BUILDER,
    ),
    ("hvm_op", "get_param", "by its own number", Otherwise::Skipped, BUILDER),
    (
        "hvm_op",
        "get_param",
        "what padding and answer held before",
        Otherwise::Skipped,
        BUILDER,
    ),
    (
        "vcpu_op",
        "register_vcpu_info",
        "a second time",
        Otherwise::Perhaps(Expected::Error(HypercallError::Invalid)),
        BUSY_LATER,
    ),
    (
        "vcpu_op",
        "register_vcpu_info",
        "vCPU 0 a second time",
        Otherwise::Perhaps(Expected::Error(HypercallError::Invalid)),
        BUSY_LATER,
    ),
    (
        "vcpu_op",
        "register_runstate_memory_area",
        "no multiple of 8",
        Otherwise::Skipped,
        "it writes to any address",
    ),
    (
        "vcpu_op",
        "register_runstate_memory_area",
        "in a device",
        Otherwise::Returns(Expected::Value(0)),
        UNTOLD,
    ),
    (
        "vcpu_op",
        "register_runstate_memory_area",
        "where stage 2 has nothing",
        Otherwise::Returns(Expected::Value(0)),
        UNTOLD,
    ),
    (
        "vcpu_op",
        "register_runstate_memory_area",
        "in memory that may only be read",
        Otherwise::Returns(Expected::Value(0)),
        UNTOLD,
    ),
    (
        "console_io",
        "read",
        "*",
        Otherwise::Returns(Expected::Value(0)),
        "every domain that it builds itself has the console",
    ),
    (
        "others",
        "platform_op",
        "*",
        Otherwise::Returns(Expected::Error(HypercallError::BadPointer)),
        PRIVILEGED,
    ),
    (
        "others",
        "sysctl",
        "*",
        Otherwise::Returns(Expected::Error(HypercallError::BadPointer)),
        PRIVILEGED,
    ),
    (
        "others",
        "argo_op",
        "*",
        Otherwise::Perhaps(Expected::Error(HypercallError::NotImplemented)),
        OPTION,
    ),
    (
        "others",
        "hypfs_op",
        "*",
        Otherwise::Perhaps(Expected::Error(HypercallError::NotPermitted)),
        OPTION,
    ),
    (
        "HVC #0",
        "SMCCC_ARCH_FEATURES",
        "SMCCC_VERSION is there",
        Otherwise::Returns(NOT_SUPPORTED),
        NO_FEATURE,
    ),
    (
        "SMC #0",
        "SMCCC_ARCH_FEATURES",
        "SMCCC_VERSION is there",
        Otherwise::Returns(NOT_SUPPORTED),
        NO_FEATURE,
    ),
    (
        "HVC #0",
        "AFFINITY_INFO",
        "a vCPU that it does not have",
        Otherwise::Returns(Expected::Value(1)),
        NO_VCPU,
    ),
    (
        "SMC #0",
        "AFFINITY_INFO",
        "a vCPU that it does not have",
        Otherwise::Returns(Expected::Value(1)),
        NO_VCPU,
    ),
    (
        "HVC #0",
        "hypervisor service",
        "as that of a vendor: *",
        Otherwise::Skipped,
        VENDORS,
    ),
    (
        "SMC #0",
        "hypervisor service",
        "as that of a vendor: *",
        Otherwise::Skipped,
        VENDORS,
    ),
    (
        "event_channel_op",
        "bind_interdomain",
        "a port of another domain",
        Otherwise::Returns(Expected::Error(HypercallError::Invalid)),
        "whoever makes a port says who may bind it, and nobody else",
    ),
    ("event_channel_op", "*", "served: *", Otherwise::Skipped, NO_SERVERS),
    ("control", "*", "*", Otherwise::Skipped, "that call is Portunus' own"),
    ("dm_op", "*", "*", Otherwise::Skipped, NO_SERVERS),
];

/// How many differences there are.
pub(crate) const COUNT: usize = DIFFERENCES.len();

/// What Xen does in this row, if it is something else, and why; and which difference that is.
pub(crate) fn find(call: &str, operation: &str, row: &str) -> Option<(usize, Otherwise, &'static str)> {
    let is = |pattern: &str, name: &str| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    };
    let found = DIFFERENCES
        .iter()
        .enumerate()
        .find(|(_, difference)| difference.0 == call && is(difference.1, operation) && is(difference.2, row));
    found.map(|(index, difference)| (index, difference.3, difference.4))
}

/// Call, operation and row of a difference.
pub(crate) fn names(index: usize) -> [&'static str; 3] {
    let (call, operation, row, ..) = DIFFERENCES[index];
    [call, operation, row]
}
