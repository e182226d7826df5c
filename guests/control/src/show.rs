//! Tables of what was read.

use alloc::format;
use alloc::string::{String, ToString};

use guest_runtime::hypercall::control;
use guest_runtime::{println, timer};
use portunus::abi::control::{Domain, RANGES, Server, Vcpu};

use crate::failure::Failure;

/// By `Vcpu::EXIT_*`.
const EXITS: [&str; 13] = [
    "interrupt controller",
    "UART",
    "other device",
    "server",
    "nobody's address",
    "memory",
    "instruction fetch",
    "hypercall",
    "firmware",
    "WFI",
    "system register",
    "interrupt",
    "other",
];

fn microseconds(ticks: u64) -> u64 {
    (u128::from(ticks) * 1_000_000 / u128::from(timer::frequency())) as u64
}

/// A time for people.
fn time(ticks: u64) -> String {
    let us = microseconds(ticks);
    match us {
        0..10_000 => format!("{us} us"),
        10_000..10_000_000 => format!("{} ms", us / 1000),
        _ => format!("{} s", us / 1_000_000),
    }
}

fn state(domain: &Domain) -> String {
    let reason = match domain.reason {
        0 => "powered off",
        1 => "reboot",
        2 => "suspended",
        3 => "crashed",
        4 => "watchdog",
        5 => "soft reset",
        _ => "",
    };
    let state = match domain.state {
        Domain::STATE_RUNNING if domain.flags & Domain::FLAG_LEAVING != 0 => "pausing",
        Domain::STATE_RUNNING if domain.flags & Domain::FLAG_PAUSED != 0 => "paused",
        Domain::STATE_RUNNING => "running",
        Domain::STATE_STOPPING => "stopping",
        Domain::STATE_RESTARTING => "restarting",
        Domain::STATE_STOPPED => "stopped",
        _ => "?",
    };
    if reason.is_empty() {
        state.to_string()
    } else {
        format!("{state} ({reason})")
    }
}

/// All domains, a line each.
pub(crate) fn list() {
    println!(
        "{:>3} {:<16} {:<22} {:>5} {:>8} {:>8} {:>10}",
        "id", "name", "state", "vCPUs", "restarts", "RAM/KiB", "run time"
    );
    for domain in control::domains() {
        println!(
            "{:>3} {:<16} {:<22} {:>5} {:>8} {:>8} {:>10}",
            domain.domain,
            domain.name(),
            state(&domain),
            format!("{}/{}", domain.online_vcpus, domain.vcpus),
            domain.restarts,
            domain.ram_pages * 4,
            time(domain.run_time)
        );
    }
}

/// One domain.
pub(crate) fn info(domain: &Domain) {
    println!("domain {}: {}", domain.domain, domain.name());
    println!("  state               {}", state(domain));
    println!("  restarts            {}", domain.restarts);
    println!("  vCPUs on            {} of {}", domain.online_vcpus, domain.vcpus);
    println!(
        "  run time            {} of {}",
        time(domain.run_time),
        time(domain.now)
    );
    println!("  RAM                 {} pages", domain.ram_pages);
    println!(
        "  pool                {} of {} frames",
        domain.pool_used, domain.pool_frames
    );
    println!("  maps of others      {} pages", domain.foreign_pages);
    println!("  others refer to     {} of its frames", domain.references);
    println!("  event channels      {}", domain.event_channels);
    println!("  ports of servers    {}", domain.attached_ports);
    println!("  its devices have    {} servers", domain.servers.count_ones());
    if domain.flags & Domain::FLAG_SERVES != 0 {
        println!("  it serves devices of others");
    }
}

fn refused(domain: &Domain, what: &str) -> impl FnOnce(portunus::abi::HypercallError) -> Failure {
    let what = format!("{what} of {}", domain.name());
    |error| Failure::Refused(what, error)
}

/// The vCPUs of one domain.
pub(crate) fn vcpus(domain: &Domain) -> Result<(), Failure> {
    for index in 0..domain.vcpus as u16 {
        let vcpu = control::vcpu(domain.domain, index).map_err(refused(domain, "a vCPU"))?;
        let held = if vcpu.flags & Vcpu::FLAG_HELD != 0 {
            ", held"
        } else {
            ""
        };
        let doing = match vcpu.state {
            Vcpu::STATE_OFF => "off".to_string(),
            Vcpu::STATE_RUNNING => "runs".to_string(),
            Vcpu::STATE_RUNNABLE => "could run".to_string(),
            Vcpu::STATE_WAITS_EVENT => "waits for an interrupt or event".to_string(),
            Vcpu::STATE_WAITS_SERVER if vcpu.server == Vcpu::NO_SERVER => {
                format!("waits for somebody to serve {:#x}", vcpu.address)
            }
            Vcpu::STATE_WAITS_SERVER => format!("waits for server {} at {:#x}", vcpu.server, vcpu.address),
            _ => "?".to_string(),
        };
        println!(
            "vCPU {index} on CPU {}: {doing}, for {}{held}",
            vcpu.pcpu,
            time(vcpu.since)
        );
        println!(
            "  ran {}, waited {} for servers, was given {} interrupts",
            time(vcpu.run_time),
            time(vcpu.server_wait),
            vcpu.interrupts
        );
        let mut exits = String::new();
        for (name, count) in EXITS.iter().zip(vcpu.exits).filter(|(_, count)| *count != 0) {
            exits += &format!(" {name} {count},");
        }
        if !exits.is_empty() {
            println!("  left its guest for:{}", exits.trim_end_matches(','));
        }
    }
    Ok(())
}

/// The servers of one domain's devices.
pub(crate) fn servers(domain: &Domain) -> Result<(), Failure> {
    if domain.servers == 0 {
        println!("no servers");
    }
    for id in (0..16).filter(|id| domain.servers >> id & 1 != 0) {
        let read = |first| control::server(domain.domain, id, first).map_err(refused(domain, "a server"));
        let server = read(0)?;
        let stage = match server.stage {
            Server::STAGE_DISABLED => "disabled",
            Server::STAGE_ENABLED => "enabled",
            Server::STAGE_SUSPENDED => "too slow: gets no requests",
            Server::STAGE_CLOSING => "closing",
            Server::STAGE_TOMBSTONE => "gone",
            _ => "?",
        };
        println!("server {id} of domain {}: {stage}", server.owner);
        println!(
            "  {} answered, {} in flight, {} failed, {} posted",
            server.answered, server.in_flight, server.failed, server.posted
        );
        println!(
            "  latency: median {}, 99 % {}, longest {}",
            time(server.median),
            time(server.percentile_99),
            time(server.longest)
        );
        let mut first = 0;
        let mut page = server;
        while first < server.ranges {
            let left = (server.ranges - first).min(RANGES as u32);
            for range in &page.range[..left as usize] {
                println!("  {:#x} to {:#x}", range.start, range.end);
            }
            first += left;
            if first < server.ranges {
                page = read(first)?;
            }
        }
    }
    Ok(())
}
