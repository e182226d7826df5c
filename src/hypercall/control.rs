//! control: reads and directs other domains while they run.
//!
//! Checks in this order: operation, pointer, version, padding, domain, right, the operation's own. A caller may read
//! itself; everything else needs the manifest's `portunus,control` over that domain.

use super::buffers::{read_for_update, write_value};
use super::host::{Host, Right};
use crate::abi::HypercallError;
use crate::abi::control as abi;
use crate::abi::sched::ShutdownReason;
use crate::domain::life::Phase;
use crate::domain::report::{DomainReport, VcpuActivity, VcpuReport};
use crate::ids::{DomainId, MAX_DOMAINS, ServerId, Ticks, VcpuId};
use crate::ioreq::report::ServerReport;
use crate::ioreq::{Range, Stage};
use crate::sched::Wait;

/// Something to do to another domain.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Direction {
    /// Hold it.
    Pause,
    /// Let it go on.
    Unpause,
    /// Restart it in place.
    Restart,
    /// Stop it.
    ShutDown(ShutdownReason),
}

/// Ranges of a server: as many as one call gives.
pub type Ranges = heapless::Vec<Range, { abi::RANGES }>;

/// What the control hypercall asks of the hypervisor. Rights are decided before.
pub trait Supervisor {
    /// The time since power-on, and ticks in a second.
    fn time(&self) -> (Ticks, u64);
    /// A domain's name in the manifest.
    fn name(&self, domain: DomainId) -> Option<&str>;
    /// A domain.
    fn domain_report(&self, domain: DomainId) -> Option<DomainReport>;
    /// A vCPU.
    fn vcpu_report(&self, vcpu: VcpuId) -> Option<VcpuReport>;
    /// A server of a domain's devices.
    fn server_report(&self, domain: DomainId, server: ServerId) -> Option<ServerReport>;
    /// Appends ranges of a server from number `first` on, as many as there is room for.
    fn server_ranges(&self, domain: DomainId, server: ServerId, first: u32, into: &mut Ranges);
    /// Does something to a domain that exists and is not the caller's.
    ///
    /// # Errors
    /// EBUSY: it is being stopped or restarted; EINVAL: it has stopped, and that can't be done then.
    fn direct(&mut self, domain: DomainId, direction: Direction) -> Result<(), HypercallError>;
}

pub(super) fn run<H: Host>(host: &mut H, operation: u64, pointer: u64) -> Result<u64, HypercallError> {
    if operation > abi::SHUTDOWN {
        return Err(HypercallError::NotSupported);
    }
    // The rest of another version's structure may be anything.
    let version: u32 = read_for_update(host, pointer)?;
    if version != abi::INTERFACE_VERSION {
        write_value(host, pointer, &abi::INTERFACE_VERSION)?;
        return Err(HypercallError::Invalid);
    }
    match operation {
        abi::VERSION => {
            let request: abi::Version = read_for_update(host, pointer)?;
            check(request.pad == 0)?;
        }
        abi::DOMAIN | abi::NEXT_DOMAIN => {
            let request: abi::Domain = read_for_update(host, pointer)?;
            check(request.pad == 0)?;
            let answer = match operation {
                abi::DOMAIN => domain(host, &readable(host, request.domain)?),
                _ => domain(host, &next_readable(host, request.domain)?),
            };
            write_value(host, pointer, &answer)?;
        }
        abi::VCPU => {
            let request: abi::Vcpu = read_for_update(host, pointer)?;
            let of = readable(host, request.domain)?.id;
            let index = u8::try_from(request.vcpu).map_err(|_| HypercallError::NoEntry)?;
            let report = host.vcpu_report(VcpuId { domain: of, index });
            let answer = vcpu(&request, of, &report.ok_or(HypercallError::NoEntry)?);
            write_value(host, pointer, &answer)?;
        }
        abi::SERVER => {
            let request: abi::Server = read_for_update(host, pointer)?;
            let of = readable(host, request.domain)?.id;
            let report = host.server_report(of, ServerId(request.server));
            let answer = server(host, &request, of, &report.ok_or(HypercallError::NoEntry)?);
            write_value(host, pointer, &answer)?;
        }
        _ => {
            let request: abi::Action = read_for_update(host, pointer)?;
            act(host, operation, &request)?;
        }
    }
    Ok(0)
}

fn check(valid: bool) -> Result<(), HypercallError> {
    if valid { Ok(()) } else { Err(HypercallError::Invalid) }
}

/// The domain that `id` names, for a caller that may read it.
fn readable<H: Host>(host: &H, id: u16) -> Result<DomainReport, HypercallError> {
    let caller = host.caller().domain;
    let id = if DomainId(id) == DomainId::SELF {
        caller
    } else {
        DomainId(id)
    };
    let report = host.domain_report(id).ok_or(HypercallError::NoDomain)?;
    if may_read(host, id) {
        Ok(report)
    } else {
        Err(HypercallError::NotPermitted)
    }
}

/// The first domain from number `from` on that the caller may read.
fn next_readable<H: Host>(host: &H, from: u16) -> Result<DomainReport, HypercallError> {
    (from..=MAX_DOMAINS as u16)
        .map(DomainId)
        .filter(|id| may_read(host, *id))
        .find_map(|id| host.domain_report(id))
        .ok_or(HypercallError::NoDomain)
}

fn may_read<H: Host>(host: &H, id: DomainId) -> bool {
    id == host.caller().domain || host.permits(Right::Control { target: id })
}

fn act<H: Host>(host: &mut H, operation: u64, request: &abi::Action) -> Result<(), HypercallError> {
    check(request.pad == 0 && request.pad2 == 0)?;
    let id = DomainId(request.domain);
    check(id != DomainId::SELF && id != host.caller().domain)?;
    readable(host, request.domain)?;
    let direction = match (operation, request.reason) {
        (abi::PAUSE, 0) => Direction::Pause,
        (abi::UNPAUSE, 0) => Direction::Unpause,
        (abi::RESTART, 0) => Direction::Restart,
        (abi::SHUTDOWN, abi::Action::POWEROFF) => Direction::ShutDown(ShutdownReason::Poweroff),
        (abi::SHUTDOWN, abi::Action::CRASH) => Direction::ShutDown(ShutdownReason::Crash),
        _ => return Err(HypercallError::Invalid),
    };
    host.direct(id, direction)
}

fn domain<H: Host>(host: &H, report: &DomainReport) -> abi::Domain {
    let state = match report.state {
        Phase::Running => abi::Domain::STATE_RUNNING,
        Phase::Stopping(_) => abi::Domain::STATE_STOPPING,
        Phase::Restarting(_) => abi::Domain::STATE_RESTARTING,
        Phase::Stopped(_) => abi::Domain::STATE_STOPPED,
    };
    let reason = report.state.reason();
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    let (now, frequency) = host.time();
    let mut answer = abi::Domain {
        state,
        flags: flag(report.paused, abi::Domain::FLAG_PAUSED)
            | flag(report.leaving, abi::Domain::FLAG_LEAVING)
            | flag(report.serves, abi::Domain::FLAG_SERVES),
        reason: reason.map_or(abi::Domain::NO_REASON, |reason| reason as u32),
        restarts: report.restarts,
        vcpus: report.vcpus.into(),
        online_vcpus: report.online_vcpus.into(),
        servers: report.servers.into(),
        event_channels: report.counters.event_channels,
        attached_ports: report.counters.attached_ports,
        ram_pages: report.counters.ram_pages,
        pool_frames: report.counters.pool_frames,
        pool_used: report.counters.pool_used,
        foreign_pages: report.counters.foreign_pages,
        references: report.counters.references,
        run_time: report.run_time.0,
        now: now.0,
        frequency,
        ..abi::Domain::ask(report.id.0)
    };
    let name = host.name(report.id).unwrap_or_default();
    for (to, from) in answer.name.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    answer
}

fn vcpu(request: &abi::Vcpu, of: DomainId, report: &VcpuReport) -> abi::Vcpu {
    let mut answer = abi::Vcpu {
        state: match report.activity {
            VcpuActivity::Running => abi::Vcpu::STATE_RUNNING,
            VcpuActivity::Runnable => abi::Vcpu::STATE_RUNNABLE,
            VcpuActivity::Waiting(Wait::Event) => abi::Vcpu::STATE_WAITS_EVENT,
            VcpuActivity::Waiting(Wait::Request) => abi::Vcpu::STATE_WAITS_SERVER,
            VcpuActivity::Waiting(Wait::Power) => abi::Vcpu::STATE_OFF,
        },
        flags: if report.held { abi::Vcpu::FLAG_HELD } else { 0 },
        pcpu: report.pcpu.0.into(),
        server: abi::Vcpu::NO_SERVER,
        since: report.since.0,
        run_time: report.run_time.0,
        server_wait: report.server_wait.0,
        interrupts: report.interrupts,
        ..abi::Vcpu::ask(of.0, request.vcpu)
    };
    if let Some(request) = report.request {
        answer.address = request.address.0;
        answer.server = request.server.map_or(abi::Vcpu::NO_SERVER, |server| server.0.into());
    }
    for (to, from) in answer.exits.iter_mut().zip(report.exits) {
        *to = from;
    }
    answer
}

fn server<H: Host>(host: &H, request: &abi::Server, of: DomainId, report: &ServerReport) -> abi::Server {
    let mut answer = abi::Server {
        ranges: report.ranges,
        owner: report.owner.0,
        stage: match report.stage {
            Stage::Disabled => abi::Server::STAGE_DISABLED,
            Stage::Enabled => abi::Server::STAGE_ENABLED,
            Stage::Suspended => abi::Server::STAGE_SUSPENDED,
            Stage::Closing => abi::Server::STAGE_CLOSING,
            Stage::Tombstone => abi::Server::STAGE_TOMBSTONE,
        },
        in_flight: report.in_flight,
        answered: report.answered,
        failed: report.failed,
        posted: report.posted,
        median: report.median.0,
        percentile_99: report.percentile_99.0,
        longest: report.longest.0,
        ..abi::Server::ask(of.0, request.server, request.first_range)
    };
    let mut ranges = Ranges::new();
    host.server_ranges(of, ServerId(request.server), request.first_range, &mut ranges);
    for (to, from) in answer.range.iter_mut().zip(&ranges) {
        *to = abi::Range {
            start: from.start(),
            end: from.end(),
        };
    }
    answer
}
