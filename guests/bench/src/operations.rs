//! The operations that are measured: each returns the ticks of one.

use core::arch::asm;

use guest_runtime::events::Events;
use guest_runtime::gic::Gic;
use guest_runtime::{hypercall, timer, wait_for_interrupt};
use portunus::abi::evtchn::{self, Port};
use portunus::abi::hypercall::{EVENT_CHANNEL_OP, XEN_VERSION};
use portunus::abi::version::VERSION;

use crate::vectors;

/// A hypercall that does not exist.
const UNKNOWN: u64 = 63;
/// PSCI_VERSION (DEN0022, 5.1.1).
const PSCI_VERSION: u64 = 0x8400_0000;
/// GICv2's register for SGIs.
const GICD_SGIR: usize = 0xf00;
/// The first register that makes interrupts pending.
const GICD_ISPENDR: usize = 0x200;
/// From now to a timer's deadline: more than it takes to set it and to get to the wait.
const LEAD: u64 = 20_000;

/// Jumps by which a reader of an execution log finds where an operation begins.
macro_rules! begin_mark {
    () => {
        "b 62f\n 61: b 63f\n 62: b 61b\n 63:"
    };
}

/// Where it ends; an operation that ends in a handler ends there ([`vectors`]).
macro_rules! end_mark {
    () => {
        "b 73f\n 71: b 74f\n 72: b 71b\n 73: b 72b\n 74:"
    };
}

/// Counter reads around instructions; x9 is the first and x10 the second.
macro_rules! measure {
    ($($instruction:literal),*; $($operands:tt)*) => {{
        let (start, end): (u64, u64);
        // SAFETY: each use says why.
        unsafe {
            asm!(
                begin_mark!(),
                "isb", "mrs x9, cntvct_el0",
                $($instruction,)*
                "isb", "mrs x10, cntvct_el0",
                end_mark!(),
                out("x9") start, out("x10") end, $($operands)*
            );
        }
        end - start
    }};
}

/// Counter reads around instructions that end in a handler of [`vectors`], which reads the second.
macro_rules! measure_to_handler {
    ($($instruction:literal),*; $($operands:tt)*) => {{
        vectors::with(|| {
            let (start, end): (u64, u64);
            // SAFETY: each use says why. The handlers change x10 and x11 alone; interrupts are masked again after it.
            unsafe {
                asm!(
                    "mov x10, xzr", "msr daifclr, #2",
                    begin_mark!(),
                    "isb", "mrs x9, cntvct_el0",
                    $($instruction,)*
                    "2: cbz x10, 2b",
                    "msr daifset, #2",
                    out("x9") start, out("x10") end, out("x11") _, $($operands)*
                );
            }
            (start, end)
        })
    }};
}

pub(crate) use {begin_mark, end_mark, measure};

/// Nothing.
pub(crate) fn empty() -> u64 {
    measure!(; options(nostack))
}

/// XENVER_version.
pub(crate) fn null_hypercall() -> u64 {
    // This call touches no memory.
    measure!("hvc #0xea1"; inout("x0") VERSION => _, inout("x1") 0u64 => _, inout("x16") XEN_VERSION => _, options(nostack))
}

/// A hypercall that is refused by its number.
pub(crate) fn unknown_hypercall() -> u64 {
    // As above.
    measure!("hvc #0xea1"; inout("x0") 0u64 => _, inout("x16") UNKNOWN => _, options(nostack))
}

/// PSCI_VERSION.
pub(crate) fn psci_version() -> u64 {
    // SMCCC: x0 to x17 may change.
    measure!(
        "hvc #0";
        inout("x0") PSCI_VERSION => _, out("x1") _, out("x2") _, out("x3") _, out("x4") _, out("x5") _, out("x6") _,
        out("x7") _, out("x8") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _, out("x16") _,
        out("x17") _, options(nostack)
    )
}

/// A load from a 32-bit device register.
pub(crate) fn read(register: u64) -> u64 {
    // Reading it has no effect that Rust knows of.
    measure!("ldr {value:w}, [{register}]"; value = out(reg) _, register = in(reg) register, options(nostack))
}

/// A store to a 32-bit device register.
pub(crate) fn write(register: u64, value: u32) -> u64 {
    // The callers write what changes nothing.
    measure!("str {value:w}, [{register}]"; value = in(reg) value, register = in(reg) register, options(nostack))
}

/// What a 32-bit device register holds.
pub(crate) fn load(register: u64) -> u64 {
    let value: u64;
    // SAFETY: reading it has no effect that Rust knows of.
    unsafe { asm!("ldr {0:w}, [{1}]", out(reg) value, in(reg) register, options(nostack)) };
    value
}

/// Writes a 32-bit device register.
pub(crate) fn store(register: u64, value: u32) {
    // SAFETY: the callers write to devices, which have no effect that Rust knows of.
    unsafe { asm!("str {0:w}, [{1}]", in(reg) value, in(reg) register, options(nostack)) };
}

/// A read of an ID register, which traps.
pub(crate) fn id_register() -> u64 {
    measure!("mrs {value}, id_aa64pfr0_el1"; value = out(reg) _, options(nostack))
}

/// A load from `address`, where nothing is, up to the handler of the abort.
pub(crate) fn abort(address: u64) -> u64 {
    // The handler skips the load.
    let (start, end) = measure_to_handler!("ldr {value:w}, [{address}]"; value = out(reg) _, address = in(reg) address, options(nostack));
    end - start
}

/// Everything that `operation` does.
pub(crate) fn between_marks(operation: impl FnOnce()) -> u64 {
    let (start, end): (u64, u64);
    // SAFETY: reads a counter.
    unsafe { asm!(begin_mark!(), "isb", "mrs {}, cntvct_el0", out(reg) start, options(nostack)) };
    operation();
    // SAFETY: as above.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", end_mark!(), out(reg) end, options(nostack)) };
    end - start
}

/// What operations with interrupts need.
pub(crate) struct Machine {
    pub(crate) gic: Gic,
    pub(crate) events: Option<Events>,
}

impl Machine {
    /// Acknowledges and ends all interrupts, and takes all events.
    pub(crate) fn drain(&self) {
        timer::stop();
        while let Some(acknowledged) = self.gic.acknowledge() {
            self.gic.end(acknowledged);
        }
        if let Some(events) = &self.events {
            events.take(|_| {});
        }
    }

    /// Sleeps until an event has come, and takes it.
    pub(crate) fn wait_for_event(&self) {
        while self.events.as_ref().is_some_and(|events| !events.is_pending()) {
            wait_for_interrupt();
        }
        self.drain();
    }

    /// An SGI to this vCPU, up to its handler. The value is in a register that calls may change, as compilers have it: of
    /// others the hypervisor saves more.
    pub(crate) fn sgi_self(&self, number: u32) -> u64 {
        let (start, end) = match self.gic {
            // The target list of affinity 0.0.0: this vCPU is number 0.
            Gic::V3(_) => measure_to_handler!(
                "msr icc_sgi1r_el1, x2";
                in("x2") 1 | u64::from(number) << 24, options(nostack)
            ),
            // Target list filter 2: to the sender.
            Gic::V2(_) => measure_to_handler!(
                "str w2, [x3]";
                in("w2") 2 << 24 | number,
                in("x3") self.gic.distributor().base() + GICD_SGIR, options(nostack)
            ),
        };
        self.drain();
        end - start
    }

    /// An SPI that this vCPU makes pending, up to its handler.
    pub(crate) fn spi_self(&self, intid: u32) -> u64 {
        // The register of the distributor that makes interrupts pending; zeroes in it change nothing.
        let (start, end) = measure_to_handler!(
            "str {value:w}, [{register}]";
            value = in(reg) 1_u32 << (intid % 32),
            register = in(reg) self.gic.distributor().base() + GICD_ISPENDR + 4 * (intid as usize / 32), options(nostack)
        );
        self.drain();
        end - start
    }

    /// From the virtual timer's deadline to its handler, while this vCPU spins.
    pub(crate) fn timer_spin(&self) -> u64 {
        let deadline = timer::now() + LEAD;
        timer::set_deadline(deadline);
        // Only waits.
        let (_, end) = measure_to_handler!("nop"; options(nostack));
        self.drain();
        end - deadline
    }

    /// From the virtual timer's deadline to its handler, while this vCPU sleeps.
    pub(crate) fn timer_wfi(&self) -> u64 {
        let deadline = timer::now() + LEAD;
        timer::set_deadline(deadline);
        // Only waits.
        let (_, end) = measure_to_handler!("3: wfi", "cbz x10, 3b"; options(nostack));
        self.drain();
        end - deadline
    }

    /// An event that this domain sends to itself, up to the upcall's handler.
    pub(crate) fn event_self(&self, port: u32) -> u64 {
        let argument = Port { port };
        // The call reads the structure, which is here.
        let (start, end) = measure_to_handler!(
            "hvc #0xea1";
            inout("x0") evtchn::SEND => _, inout("x1") &raw const argument => _, inout("x16") EVENT_CHANNEL_OP => _,
            options(nostack)
        );
        self.drain();
        end - start
    }

    /// An event that this domain sends to itself while the last one is still pending.
    pub(crate) fn event_pending(&self, port: u32) -> u64 {
        let argument = Port { port };
        // Interrupts are masked, so nobody takes it.
        let _ = hypercall::send(port);
        // The call reads the structure, which is here.
        let ticks = measure!(
            "hvc #0xea1";
            inout("x0") evtchn::SEND => _, inout("x1") &raw const argument => _, inout("x16") EVENT_CHANNEL_OP => _,
            options(nostack)
        );
        self.drain();
        ticks
    }

    /// An event to another domain, up to the handler of the one that it sends back.
    pub(crate) fn ping_pong(&self, port: u32) -> u64 {
        let argument = Port { port };
        // The call reads the structure, which is here; then this vCPU sleeps, so that the other one runs.
        let (start, end) = measure_to_handler!(
            "hvc #0xea1", "3: wfi", "cbz x10, 3b";
            inout("x0") evtchn::SEND => _, inout("x1") &raw const argument => _, inout("x16") EVENT_CHANNEL_OP => _,
            options(nostack)
        );
        self.drain();
        end - start
    }
}
