//! What control domains and the console show of a domain: values, taken at one moment each.
//!
//! Times are ticks of the system counter.

use super::life::Phase;
use crate::counters::Exit;
use crate::ids::{DomainId, PcpuId, Ticks};
use crate::ioreq::report::RequestReport;
use crate::sched::Wait;

/// A domain.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct DomainReport {
    /// Its number.
    pub id: DomainId,
    /// What it does.
    pub state: Phase,
    /// It is held until somebody lets it go on.
    pub paused: bool,
    /// It is held, and some vCPU has not left its guest yet.
    pub leaving: bool,
    /// How often it was restarted since power-on.
    pub restarts: u32,
    /// Its vCPUs.
    pub vcpus: u8,
    /// Those that are on.
    pub online_vcpus: u8,
    /// The servers of its devices, a bit for each id in use.
    pub servers: u8,
    /// It serves devices of others.
    pub serves: bool,
    /// How long its vCPUs ran, together.
    pub run_time: Ticks,
    /// What it has.
    pub counters: DomainCounters,
}

/// What a domain has of things that can leak.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct DomainCounters {
    /// Pages of RAM.
    pub ram_pages: u64,
    /// Frames of its pool.
    pub pool_frames: u64,
    /// Those in use: stage-2 tables, shared_info, pages of servers.
    pub pool_used: u64,
    /// Pages of others that it maps.
    pub foreign_pages: u64,
    /// References that others hold to its frames.
    pub references: u64,
    /// The guest's event-channel ports in use.
    pub event_channels: u32,
    /// Ports that the hypervisor uses in the guest's name: those of its servers.
    pub attached_ports: u32,
}

/// What a vCPU does.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum VcpuActivity {
    /// It runs.
    Running,
    /// It could run, and others do.
    Runnable,
    /// It waits.
    Waiting(Wait),
}

/// A vCPU.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct VcpuReport {
    /// The pCPU that it is pinned to.
    pub pcpu: PcpuId,
    /// What it does.
    pub activity: VcpuActivity,
    /// It is held.
    pub held: bool,
    /// How long it does or waits already.
    pub since: Ticks,
    /// The access that waits for a server.
    pub request: Option<RequestReport>,
    /// How long it ran.
    pub run_time: Ticks,
    /// How long it waited for servers.
    pub server_wait: Ticks,
    /// Interrupts that were put into its list registers.
    pub interrupts: u64,
    /// How often it left its guest, by [`Exit`].
    pub exits: [u64; Exit::COUNT],
}
