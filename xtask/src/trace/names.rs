//! What events are called, for people.

use portunus::abi::{evtchn, hypercall, sched};
use portunus::trace::{Event, Kind};

/// ESR_EL2.EC of WFI and WFE.
const WAIT: u32 = 0x01;

/// The class of a trap.
fn class(event: &Event) -> u32 {
    event.argument >> 26
}

/// A hypercall's number and operation.
pub(super) fn call(event: &Event) -> (u64, u64) {
    (u64::from(event.argument & 0xffff), u64::from(event.argument >> 16))
}

/// Whether the vCPU wants to sleep by this.
pub(super) fn is_wait(event: &Event) -> bool {
    match event.kind {
        Kind::Trap => class(event) == WAIT,
        Kind::Hypercall => {
            let (number, operation) = call(event);
            number == hypercall::SCHED_OP && [sched::BLOCK, sched::POLL].contains(&operation)
        }
        _ => false,
    }
}

/// The event in a few words.
pub(super) fn name(event: &Event) -> String {
    match event.kind {
        Kind::Trap => trap(event),
        Kind::Hypercall => hypercall_name(event),
        Kind::Firmware => firmware(event.argument),
        Kind::Interrupt => format!("interrupt {}", interrupt(event.argument)),
        Kind::Injected => format!("gets {}", interrupt(event.argument)),
        Kind::Ended => format!("ended {}", interrupt(event.argument)),
        Kind::Acknowledged => format!("acknowledged {}", interrupt(event.argument)),
        Kind::Denied => format!("denied: {}", denial(event.argument)),
        kind => kind.name().into(),
    }
}

/// An interrupt by its place in the architecture.
pub(super) fn interrupt(number: u32) -> String {
    match number {
        0..16 => format!("SGI {number}"),
        16..32 => format!("PPI {}", number - 16),
        32..1020 => format!("SPI {}", number - 32),
        _ => format!("INTID {number}"),
    }
}

fn denial(argument: u32) -> &'static str {
    match argument & 0xffff {
        1 => "no right",
        2 => "abort",
        3 => "undefined instruction",
        _ => "unknown",
    }
}

fn trap(event: &Event) -> String {
    let iss = event.argument & 0x1ff_ffff;
    match class(event) {
        WAIT => ["WFI", "WFE", "WFIT", "WFET"][iss as usize & 3].into(),
        0x07 => "first use of FP".into(),
        0x18 if iss & 1 != 0 => "system register read".into(),
        0x18 => "system register write".into(),
        0x20 => "instruction abort".into(),
        0x24 if iss & 1 << 6 != 0 => "device write".into(),
        0x24 => "device read".into(),
        class => format!("trap, class {class:#04x}"),
    }
}

fn hypercall_name(event: &Event) -> String {
    let (number, operation) = call(event);
    let known = match number {
        hypercall::EVENT_CHANNEL_OP if operation == evtchn::SEND => "event send",
        hypercall::EVENT_CHANNEL_OP => "event_channel_op",
        hypercall::SCHED_OP => match operation {
            sched::YIELD => "yield",
            sched::BLOCK => "block",
            sched::POLL => "poll",
            sched::SHUTDOWN => "shutdown",
            _ => "sched_op",
        },
        hypercall::DM_OP => "dm_op",
        hypercall::MEMORY_OP => "memory_op",
        hypercall::XEN_VERSION => "xen_version",
        hypercall::CONSOLE_IO => "console_io",
        hypercall::GRANT_TABLE_OP => "grant_table_op",
        hypercall::VCPU_OP => "vcpu_op",
        hypercall::HVM_OP => "hvm_op",
        hypercall::PHYSDEV_OP => "physdev_op",
        hypercall::ARGO_OP => "argo_op",
        _ => return format!("hypercall {number}"),
    };
    known.into()
}

fn firmware(function: u32) -> String {
    let known = match function & !(1 << 30) {
        0x8400_0000 => "PSCI_VERSION",
        0x8400_0001 => "CPU_SUSPEND",
        0x8400_0002 => "CPU_OFF",
        0x8400_0003 => "CPU_ON",
        0x8400_0004 => "AFFINITY_INFO",
        0x8400_0008 => "SYSTEM_OFF",
        0x8400_0009 => "SYSTEM_RESET",
        0x8400_000a => "PSCI_FEATURES",
        0x8000_0000 => "SMCCC_VERSION",
        _ => return format!("firmware call {function:#x}"),
    };
    known.into()
}
