//! control: what a domain that the manifest allows may read of others, and do to them while they run.
//!
//! Portunus' own hypercall: x0 = operation, x1 -> its structure. Every structure begins with the interface version that the
//! caller was built for; with another one than [`INTERFACE_VERSION`] the call is EINVAL and the first word says which it is.
//! Padding is zero. Times are ticks of the system counter, whose frequency [`Domain::frequency`] gives.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// [`Version`]: asks for the interface version. Anybody may.
pub const VERSION: u64 = 0;
/// [`Domain`]: a domain.
pub const DOMAIN: u64 = 1;
/// [`Domain`]: the domain with the lowest number, from the one given on, that the caller may read.
pub const NEXT_DOMAIN: u64 = 2;
/// [`Vcpu`]: a vCPU of a domain.
pub const VCPU: u64 = 3;
/// [`Server`]: a server of a domain's devices.
pub const SERVER: u64 = 4;
/// [`Action`]: holds a domain.
pub const PAUSE: u64 = 5;
/// [`Action`]: lets it go on.
pub const UNPAUSE: u64 = 6;
/// [`Action`]: restarts a domain in place, or one that has stopped.
pub const RESTART: u64 = 7;
/// [`Action`]: stops a domain for a reason.
pub const SHUTDOWN: u64 = 8;

/// The version that the hypervisor speaks.
pub const INTERFACE_VERSION: u32 = 1;
/// Bytes of a domain's name that are given.
pub const NAME_SIZE: usize = 64;
/// Numbers of exits in [`Vcpu::exits`].
pub const EXITS: usize = 16;
/// Ranges that one call gives.
pub const RANGES: usize = 8;

/// The interface version.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Version {
    /// IN: the caller's; OUT: the hypervisor's.
    pub version: u32,
    /// Zero.
    pub pad: u32,
}

/// A domain.
#[derive(Copy, Clone, Debug, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Domain {
    /// [`INTERFACE_VERSION`].
    pub version: u32,
    /// IN: its number, or the first to look at; OUT: its number.
    pub domain: u16,
    /// Zero.
    pub pad: u16,
    /// OUT: `STATE_*`.
    pub state: u32,
    /// OUT: `FLAG_*`.
    pub flags: u32,
    /// OUT: why it stopped or restarts (`SHUTDOWN_*` of sched_op), or [`Self::NO_REASON`].
    pub reason: u32,
    /// OUT: how often it was restarted since power-on.
    pub restarts: u32,
    /// OUT: its vCPUs.
    pub vcpus: u32,
    /// OUT: those that are on.
    pub online_vcpus: u32,
    /// OUT: the servers of its devices, a bit for each id in use.
    pub servers: u32,
    /// OUT: zero.
    pub reserved: u32,
    /// OUT: its event-channel ports in use.
    pub event_channels: u32,
    /// OUT: ports that the hypervisor uses in its name, for its servers.
    pub attached_ports: u32,
    /// OUT: pages of RAM.
    pub ram_pages: u64,
    /// OUT: frames of its pool.
    pub pool_frames: u64,
    /// OUT: those in use.
    pub pool_used: u64,
    /// OUT: pages of others that it maps.
    pub foreign_pages: u64,
    /// OUT: references that others hold to its frames.
    pub references: u64,
    /// OUT: how long its vCPUs ran, together.
    pub run_time: u64,
    /// OUT: the time since power-on.
    pub now: u64,
    /// OUT: ticks in a second.
    pub frequency: u64,
    /// OUT: its name in the manifest, cut to 64 bytes; the rest is zero.
    pub name: [u8; NAME_SIZE],
}

impl Domain {
    /// It runs, or could.
    pub const STATE_RUNNING: u32 = 0;
    /// It is being stopped.
    pub const STATE_STOPPING: u32 = 1;
    /// It is being restarted.
    pub const STATE_RESTARTING: u32 = 2;
    /// It has stopped. Everything but its number and its RAM is released.
    pub const STATE_STOPPED: u32 = 3;

    /// It is held.
    pub const FLAG_PAUSED: u32 = 1;
    /// It is held, and some vCPU has not left its guest yet.
    pub const FLAG_LEAVING: u32 = 2;
    /// It serves devices of others.
    pub const FLAG_SERVES: u32 = 4;

    /// [`Self::reason`] of a domain that runs.
    pub const NO_REASON: u32 = u32::MAX;

    /// A question about `domain`.
    pub const fn ask(domain: u16) -> Self {
        Self {
            version: INTERFACE_VERSION,
            domain,
            pad: 0,
            state: 0,
            flags: 0,
            reason: 0,
            restarts: 0,
            vcpus: 0,
            online_vcpus: 0,
            servers: 0,
            reserved: 0,
            event_channels: 0,
            attached_ports: 0,
            ram_pages: 0,
            pool_frames: 0,
            pool_used: 0,
            foreign_pages: 0,
            references: 0,
            run_time: 0,
            now: 0,
            frequency: 0,
            name: [0; NAME_SIZE],
        }
    }

    /// [`Self::name`] as text, up to what is none.
    pub fn name(&self) -> &str {
        let end = self.name.iter().position(|byte| *byte == 0).unwrap_or(NAME_SIZE);
        let bytes = self.name.get(..end).unwrap_or_default();
        match core::str::from_utf8(bytes) {
            Ok(name) => name,
            Err(error) => {
                let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
                core::str::from_utf8(valid).unwrap_or_default()
            }
        }
    }
}

/// A vCPU.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Vcpu {
    /// [`INTERFACE_VERSION`].
    pub version: u32,
    /// IN: the domain.
    pub domain: u16,
    /// IN: the vCPU.
    pub vcpu: u16,
    /// OUT: `STATE_*`.
    pub state: u32,
    /// OUT: `FLAG_*`.
    pub flags: u32,
    /// OUT: the pCPU that it is pinned to.
    pub pcpu: u32,
    /// OUT: the server that works on its access, or [`Self::NO_SERVER`].
    pub server: u32,
    /// OUT: the address of that access; 0 in every other state than [`Self::STATE_WAITS_SERVER`].
    pub address: u64,
    /// OUT: how long it has been in its state.
    pub since: u64,
    /// OUT: how long it ran.
    pub run_time: u64,
    /// OUT: how long it waited for servers.
    pub server_wait: u64,
    /// OUT: interrupts that it was given.
    pub interrupts: u64,
    /// OUT: how often it left its guest, by kind (`EXIT_*`).
    pub exits: [u64; EXITS],
}

impl Vcpu {
    /// It is off.
    pub const STATE_OFF: u32 = 0;
    /// It runs.
    pub const STATE_RUNNING: u32 = 1;
    /// It could run, and does not.
    pub const STATE_RUNNABLE: u32 = 2;
    /// It waits for an interrupt or an event.
    pub const STATE_WAITS_EVENT: u32 = 3;
    /// An access of it waits for a server.
    pub const STATE_WAITS_SERVER: u32 = 4;

    /// It is held.
    pub const FLAG_HELD: u32 = 1;

    /// No server takes its access.
    pub const NO_SERVER: u32 = u32::MAX;

    /// A register of its interrupt controller.
    pub const EXIT_INTERRUPT_CONTROLLER: usize = 0;
    /// A register of its UART.
    pub const EXIT_UART: usize = 1;
    /// A register of another device of the hypervisor's own.
    pub const EXIT_DEVICE: usize = 2;
    /// An address that a server answers, or is to.
    pub const EXIT_SERVER: usize = 3;
    /// An address that is nobody's.
    pub const EXIT_UNCLAIMED: usize = 4;
    /// Another data abort: on memory, or refused.
    pub const EXIT_MEMORY: usize = 5;
    /// An instruction abort.
    pub const EXIT_INSTRUCTION: usize = 6;
    /// A hypercall.
    pub const EXIT_HYPERCALL: usize = 7;
    /// A call of firmware.
    pub const EXIT_FIRMWARE: usize = 8;
    /// WFI or WFE.
    pub const EXIT_WAIT: usize = 9;
    /// A system register.
    pub const EXIT_SYSTEM_REGISTER: usize = 10;
    /// A physical interrupt.
    pub const EXIT_INTERRUPT: usize = 11;
    /// Everything else.
    pub const EXIT_OTHER: usize = 12;

    /// A question about `vcpu` of `domain`.
    pub fn ask(domain: u16, vcpu: u16) -> Self {
        Self {
            version: INTERFACE_VERSION,
            domain,
            vcpu,
            ..Self::default()
        }
    }
}

/// A server of a domain's devices.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Server {
    /// [`INTERFACE_VERSION`].
    pub version: u32,
    /// IN: the domain whose devices it serves.
    pub domain: u16,
    /// IN: its id.
    pub server: u16,
    /// IN: the first of its ranges to give.
    pub first_range: u32,
    /// OUT: how many it has.
    pub ranges: u32,
    /// OUT: the domain that it belongs to.
    pub owner: u16,
    /// OUT: zero.
    pub reserved: u16,
    /// OUT: `STAGE_*`.
    pub stage: u32,
    /// OUT: requests that it has now.
    pub in_flight: u32,
    /// OUT: zero.
    pub reserved2: u32,
    /// OUT: requests that it answered.
    pub answered: u64,
    /// OUT: requests that were taken from it without an answer.
    pub failed: u64,
    /// OUT: writes that were posted to it.
    pub posted: u64,
    /// OUT: what half of its answers did not exceed, from the request to the answer.
    pub median: u64,
    /// OUT: what 99 in a hundred did not exceed.
    pub percentile_99: u64,
    /// OUT: the longest.
    pub longest: u64,
    /// OUT: its ranges from number [`Self::first_range`] on; those that it has not are zero.
    pub range: [Range; RANGES],
}

/// Addresses that a server answers.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Range {
    /// The first.
    pub start: u64,
    /// The last, inclusive.
    pub end: u64,
}

impl Server {
    /// It gets no requests, by its own wish.
    pub const STAGE_DISABLED: u32 = 0;
    /// It gets requests.
    pub const STAGE_ENABLED: u32 = 1;
    /// It was too slow, or wrote nonsense, and gets none until it answers.
    pub const STAGE_SUSPENDED: u32 = 2;
    /// It has closed a port and gets none.
    pub const STAGE_CLOSING: u32 = 3;
    /// Only its id is left.
    pub const STAGE_TOMBSTONE: u32 = 4;

    /// A question about server `server` of `domain`, with its ranges from `first_range` on.
    pub fn ask(domain: u16, server: u16, first_range: u32) -> Self {
        Self {
            version: INTERFACE_VERSION,
            domain,
            server,
            first_range,
            ..Self::default()
        }
    }
}

/// What is to be done to a domain.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Action {
    /// [`INTERFACE_VERSION`].
    pub version: u32,
    /// The domain.
    pub domain: u16,
    /// Zero.
    pub pad: u16,
    /// Of [`SHUTDOWN`]: why it stops, [`Self::POWEROFF`] or [`Self::CRASH`]. Else zero.
    pub reason: u32,
    /// Zero.
    pub pad2: u32,
}

impl Action {
    /// As if the domain had turned itself off.
    pub const POWEROFF: u32 = 0;
    /// As if it had crashed: what follows is what the manifest says.
    pub const CRASH: u32 = 3;

    /// Something to do to `domain`.
    pub fn on(domain: u16) -> Self {
        Self {
            version: INTERFACE_VERSION,
            domain,
            ..Self::default()
        }
    }
}

const _: () = {
    assert!(size_of::<Version>() == 8);
    assert!(size_of::<Domain>() == 176);
    assert!(size_of::<Vcpu>() == 192);
    assert!(size_of::<Server>() == 208);
    assert!(size_of::<Action>() == 16);
};
