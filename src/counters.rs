//! What is counted while the machine runs.
//!
//! Counting costs a few instructions and takes no lock: a vCPU's [`VcpuCounters`] are written by its own pCPU alone, a
//! server's [`Latencies`] under the lock of its target's servers, which is held then anyway. Nothing is ever reset while a
//! domain lives, restarts included; sums and percentiles are made when somebody reads, for reports ([`crate::domain::report`], [`crate::ioreq::report`]).

mod latency;

use core::sync::atomic::{AtomicU64, Ordering};

pub use latency::Latencies;

/// Why a vCPU left its guest.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
#[repr(usize)]
pub enum Exit {
    /// A register of its interrupt controller.
    InterruptController,
    /// A register of its UART.
    Uart,
    /// A register of another device of the hypervisor's own.
    Device,
    /// An address that a server answers, or is to.
    Server,
    /// An address that is nobody's.
    Unclaimed,
    /// Another data abort: on memory, or refused.
    Memory,
    /// An instruction abort.
    Instruction,
    /// A hypercall.
    Hypercall,
    /// A call of firmware (PSCI, SMCCC).
    Firmware,
    /// WFI or WFE.
    Wait,
    /// A system register.
    SystemRegister,
    /// A physical interrupt.
    Interrupt,
    /// Everything else.
    Other,
}

impl Exit {
    /// How many kinds there are.
    pub const COUNT: usize = 13;
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] = [
        Self::InterruptController,
        Self::Uart,
        Self::Device,
        Self::Server,
        Self::Unclaimed,
        Self::Memory,
        Self::Instruction,
        Self::Hypercall,
        Self::Firmware,
        Self::Wait,
        Self::SystemRegister,
        Self::Interrupt,
        Self::Other,
    ];

    /// A short name, for tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InterruptController => "gic",
            Self::Uart => "uart",
            Self::Device => "device",
            Self::Server => "server",
            Self::Unclaimed => "unclaimed",
            Self::Memory => "memory",
            Self::Instruction => "instruction",
            Self::Hypercall => "hypercall",
            Self::Firmware => "firmware",
            Self::Wait => "wait",
            Self::SystemRegister => "sysreg",
            Self::Interrupt => "interrupt",
            Self::Other => "other",
        }
    }
}

/// A number that one pCPU increments and any may read: a load, an addition, a store.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more. To be called on the one pCPU that writes it.
    #[inline]
    pub fn count(&self) {
        let more = self.0.load(Ordering::Relaxed).wrapping_add(1);
        self.0.store(more, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a vCPU's own pCPU counts of it.
#[derive(Debug, Default)]
pub struct VcpuCounters {
    exits: [Counter; Exit::COUNT],
}

impl VcpuCounters {
    /// The vCPU left its guest.
    #[inline]
    pub fn exit(&self, exit: Exit) {
        // The index is always in range.
        if let Some(counter) = self.exits.get(exit as usize) {
            counter.count();
        }
    }

    /// How often it left its guest, by [`Exit`].
    pub fn exits(&self) -> [u64; Exit::COUNT] {
        core::array::from_fn(|index| self.exits.get(index).map_or(0, Counter::get))
    }
}
