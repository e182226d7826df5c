//! sched_op: x0 = operation, x1 -> its structure (Xen public `sched.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Lets others run.
pub const YIELD: u64 = 0;
/// Sleeps until an event.
pub const BLOCK: u64 = 1;
/// [`Shutdown`]: stops the caller's domain.
pub const SHUTDOWN: u64 = 2;
/// [`Poll`]: sleeps until one of some ports has an event.
pub const POLL: u64 = 3;
/// Stops another domain.
pub const REMOTE_SHUTDOWN: u64 = 4;
/// [`Shutdown`]: records a reason.
pub const SHUTDOWN_CODE: u64 = 5;
/// [`Watchdog`]: sets one of the domain's watchdogs.
pub const WATCHDOG: u64 = 6;
/// Overrides pinning; hardware domain only.
pub const PIN_OVERRIDE: u64 = 7;

/// Ports that one poll may name.
pub const MAX_POLL_PORTS: u32 = 128;

/// Why a domain stops (`sched_shutdown`).
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Shutdown {
    /// A [`ShutdownReason`].
    pub reason: u32,
}

/// Waits for events (`sched_poll`).
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Poll {
    /// -> u32 each: the ports.
    pub ports: u64,
    /// How many.
    pub nr_ports: u32,
    /// Padding.
    pub pad: u32,
    /// Give up at this system time in nanoseconds; 0: never.
    pub timeout: u64,
}

/// A watchdog (`sched_watchdog`).
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Watchdog {
    /// Which, from 1 on; 0: a new one, whose number is the result.
    pub id: u32,
    /// Seconds; 0: the watchdog ends.
    pub timeout: u32,
}

/// Watchdogs of a domain.
pub const WATCHDOGS: u32 = 2;

/// Why a domain stopped (SHUTDOWN_*).
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
#[repr(u32)]
pub enum ShutdownReason {
    /// It turned itself off.
    Poweroff = 0,
    /// It wants to start again.
    Reboot = 1,
    /// It saved itself.
    Suspend = 2,
    /// It crashed.
    Crash = 3,
    /// Its watchdog was not fed.
    Watchdog = 4,
    /// It wants to start again and keep its memory.
    SoftReset = 5,
}

impl ShutdownReason {
    /// The reason with this number.
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Poweroff,
            1 => Self::Reboot,
            2 => Self::Suspend,
            3 => Self::Crash,
            4 => Self::Watchdog,
            5 => Self::SoftReset,
            _ => return None,
        })
    }
}

const _: () = {
    assert!(size_of::<Shutdown>() == 4);
    assert!(size_of::<Poll>() == 24);
    assert!(size_of::<Watchdog>() == 8);
};
