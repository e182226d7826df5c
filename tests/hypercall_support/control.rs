//! The control hypercall: what it reads, what it asks for, what it refuses.

use portunus::abi::HypercallError::{self, BadPointer, Busy, Invalid, NoDomain, NoEntry, NotPermitted, NotSupported};
use portunus::abi::control::{self as abi, Action, Domain, Server, Vcpu, Version};
use portunus::abi::hypercall::CONTROL;
use portunus::abi::sched::ShutdownReason;
use portunus::domain::life::Phase;
use portunus::domain::report::{DomainCounters, DomainReport, VcpuActivity, VcpuReport};
use portunus::hypercall::control::Ranges;
use portunus::hypercall::{Direction, Outcome, Supervisor};
use portunus::ids::{DomainId, Ipa, PcpuId, ServerId, Ticks, VcpuId};
use portunus::ioreq::report::{RequestReport, ServerReport};
use portunus::ioreq::{Range, Stage};
use portunus::sched::Wait;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::errors::{NOBODY, SELF, refused};
use crate::host::{Action as Asked, BACKEND, FakeHost, GUEST, READ_ONLY, SECOND_BACKEND, STRANGER, UNMAPPED, VA};

const OK: Outcome = Outcome::Return(0);
const NAME: &str = "a-name-that-is-longer-than-any-that-a-node-of-a-device-tree-can-have";

impl Supervisor for FakeHost {
    fn time(&self) -> (Ticks, u64) {
        (Ticks(123), 1000)
    }
    fn name(&self, domain: DomainId) -> Option<&str> {
        Some(if domain == GUEST { NAME } else { "other" })
    }
    fn domain_report(&self, id: DomainId) -> Option<DomainReport> {
        (1..=4).contains(&id.0).then_some(DomainReport {
            id,
            state: self.shutdown.map_or(Phase::Running, Phase::Stopped),
            paused: self.paused,
            leaving: self.dying,
            restarts: 3,
            vcpus: 2,
            online_vcpus: 1,
            servers: 0b101,
            serves: id == BACKEND,
            run_time: Ticks(77),
            counters: DomainCounters {
                ram_pages: 1,
                pool_frames: 2,
                pool_used: 3,
                foreign_pages: 4,
                references: 5,
                event_channels: 6,
                attached_ports: 7,
            },
        })
    }
    fn vcpu_report(&self, vcpu: VcpuId) -> Option<VcpuReport> {
        let activities = [
            VcpuActivity::Running,
            VcpuActivity::Runnable,
            VcpuActivity::Waiting(Wait::Event),
            VcpuActivity::Waiting(Wait::Request),
            VcpuActivity::Waiting(Wait::Power),
        ];
        let activity = *activities.get(usize::from(vcpu.index))?;
        Some(VcpuReport {
            pcpu: PcpuId(3),
            activity,
            held: vcpu.index == 1,
            since: Ticks(10),
            request: (activity == VcpuActivity::Waiting(Wait::Request)).then_some(RequestReport {
                address: Ipa(0x0200_0008),
                server: Some(ServerId(6)),
            }),
            run_time: Ticks(20),
            server_wait: Ticks(30),
            interrupts: 40,
            exits: core::array::from_fn(|kind| kind as u64 + 1),
        })
    }
    fn server_report(&self, _: DomainId, server: ServerId) -> Option<ServerReport> {
        let stages = [
            Stage::Disabled,
            Stage::Enabled,
            Stage::Suspended,
            Stage::Closing,
            Stage::Tombstone,
        ];
        Some(ServerReport {
            owner: BACKEND,
            stage: *stages.get(usize::from(server.0))?,
            ranges: 19,
            in_flight: 1,
            answered: 2,
            failed: 3,
            posted: 4,
            median: Ticks(5),
            percentile_99: Ticks(6),
            longest: Ticks(7),
        })
    }
    fn server_ranges(&self, _: DomainId, _: ServerId, first: u32, into: &mut Ranges) {
        for number in (u64::from(first)..19).take(abi::RANGES) {
            into.push(Range::new(number * 16, number * 16 + 7).unwrap()).unwrap();
        }
    }
    fn direct(&mut self, domain: DomainId, direction: Direction) -> Result<(), HypercallError> {
        if self.dying {
            return Err(Busy);
        }
        self.actions.push(Asked::Direct(domain, direction));
        Ok(())
    }
}

fn ask<T: IntoBytes + FromBytes + FromZeros + Immutable>(host: &mut FakeHost, operation: u64, structure: T) -> T {
    host.put(VA, &structure);
    assert_eq!(host.call(CONTROL, &[operation, VA]), OK, "operation {operation}");
    host.get(VA)
}

#[test]
fn the_version_is_anybodys_to_ask_for() {
    for caller in [GUEST, BACKEND, STRANGER] {
        let mut host = FakeHost::new(caller);
        let version = Version { version: 1, pad: 0 };
        assert_eq!(ask(&mut host, abi::VERSION, version), version);
    }
}

#[test]
fn a_domain_is_what_its_report_says() {
    let mut host = FakeHost::new(BACKEND);
    let answer = ask(&mut host, abi::DOMAIN, Domain::ask(GUEST.0));
    let mut name = [0; abi::NAME_SIZE];
    name.copy_from_slice(&NAME.as_bytes()[..abi::NAME_SIZE]);
    let expected = Domain {
        version: 1,
        domain: GUEST.0,
        pad: 0,
        state: Domain::STATE_RUNNING,
        flags: 0,
        reason: Domain::NO_REASON,
        restarts: 3,
        vcpus: 2,
        online_vcpus: 1,
        servers: 5,
        reserved: 0,
        event_channels: 6,
        attached_ports: 7,
        ram_pages: 1,
        pool_frames: 2,
        pool_used: 3,
        foreign_pages: 4,
        references: 5,
        run_time: 77,
        now: 123,
        frequency: 1000,
        name,
    };
    assert_eq!(answer, expected);
    assert_eq!(answer.name(), &NAME[..abi::NAME_SIZE]);
    (host.paused, host.dying) = (true, true);
    host.shutdown = Some(ShutdownReason::Crash);
    let answer = ask(&mut host, abi::DOMAIN, Domain::ask(GUEST.0));
    assert_eq!(answer.flags, Domain::FLAG_PAUSED | Domain::FLAG_LEAVING);
    assert_eq!((answer.state, answer.reason), (Domain::STATE_STOPPED, 3));
    let own = ask(&mut host, abi::DOMAIN, Domain::ask(SELF));
    assert_eq!((own.domain, own.name()), (BACKEND.0, "other"));
    assert_ne!(own.flags & Domain::FLAG_SERVES, 0);
}

#[test]
fn the_list_has_the_caller_itself_and_whom_it_controls() {
    for (caller, listed) in [(BACKEND, vec![1, 2]), (STRANGER, vec![3]), (SECOND_BACKEND, vec![4])] {
        let mut host = FakeHost::new(caller);
        let mut found = Vec::new();
        let mut next = 0;
        loop {
            host.put(VA, &Domain::ask(next));
            if host.call(CONTROL, &[abi::NEXT_DOMAIN, VA]) != OK {
                break;
            }
            let domain: Domain = host.get(VA);
            found.push(domain.domain);
            next = domain.domain + 1;
        }
        assert_eq!(found, listed);
        for from in [next, 17, 18, SELF, u16::MAX] {
            host.put(VA, &Domain::ask(from));
            refused(&mut host, "beyond the last", CONTROL, &[abi::NEXT_DOMAIN, VA], NoDomain);
        }
    }
}

#[test]
fn a_vcpu_is_what_its_report_says() {
    let mut host = FakeHost::new(BACKEND);
    let states = [
        Vcpu::STATE_RUNNING,
        Vcpu::STATE_RUNNABLE,
        Vcpu::STATE_WAITS_EVENT,
        Vcpu::STATE_WAITS_SERVER,
        Vcpu::STATE_OFF,
    ];
    for (index, state) in (0..).zip(states) {
        let waits = state == Vcpu::STATE_WAITS_SERVER;
        let expected = Vcpu {
            version: 1,
            domain: GUEST.0,
            vcpu: index,
            state,
            flags: if index == 1 { Vcpu::FLAG_HELD } else { 0 },
            pcpu: 3,
            server: if waits { 6 } else { Vcpu::NO_SERVER },
            address: if waits { 0x0200_0008 } else { 0 },
            since: 10,
            run_time: 20,
            server_wait: 30,
            interrupts: 40,
            exits: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 0, 0, 0],
        };
        assert_eq!(ask(&mut host, abi::VCPU, Vcpu::ask(GUEST.0, index)), expected);
    }
    for index in [5, 8, 256, 257, u16::MAX] {
        host.put(VA, &Vcpu::ask(GUEST.0, index));
        refused(&mut host, "no such vCPU", CONTROL, &[abi::VCPU, VA], NoEntry);
    }
}

#[test]
fn a_server_is_what_its_report_says_with_its_ranges_a_few_at_a_time() {
    let mut host = FakeHost::new(BACKEND);
    for id in 0..5 {
        let answer = ask(&mut host, abi::SERVER, Server::ask(GUEST.0, id, 16));
        let mut range = [abi::Range::default(); abi::RANGES];
        for (range, start) in range.iter_mut().zip([256, 272, 288]) {
            *range = abi::Range { start, end: start + 7 };
        }
        let expected = Server {
            version: 1,
            domain: GUEST.0,
            server: id,
            first_range: 16,
            ranges: 19,
            owner: BACKEND.0,
            stage: id.into(),
            in_flight: 1,
            answered: 2,
            failed: 3,
            posted: 4,
            median: 5,
            percentile_99: 6,
            longest: 7,
            range,
            ..Server::default()
        };
        assert_eq!(answer, expected);
    }
    let all = |host: &mut FakeHost, first| ask(host, abi::SERVER, Server::ask(GUEST.0, 0, first)).range;
    assert_eq!(
        all(&mut host, 0).map(|range| range.start),
        [0, 16, 32, 48, 64, 80, 96, 112]
    );
    for first in [19, 20, u32::MAX] {
        assert_eq!(all(&mut host, first), [abi::Range::default(); abi::RANGES]);
    }
    for id in [5, 8, u16::MAX] {
        host.put(VA, &Server::ask(GUEST.0, id, 0));
        refused(&mut host, "no such server", CONTROL, &[abi::SERVER, VA], NoEntry);
    }
}

/// Every operation on a domain.
fn operations(domain: u16) -> Vec<(u64, Vec<u8>)> {
    let mut all = vec![
        (abi::DOMAIN, Domain::ask(domain).as_bytes().to_vec()),
        (abi::VCPU, Vcpu::ask(domain, 0).as_bytes().to_vec()),
        (abi::SERVER, Server::ask(domain, 0, 0).as_bytes().to_vec()),
    ];
    let action = Action::on(domain).as_bytes().to_vec();
    all.extend([abi::PAUSE, abi::UNPAUSE, abi::RESTART, abi::SHUTDOWN].map(|operation| (operation, action.clone())));
    all
}

#[test]
fn what_is_to_be_done_is_asked_of_the_hypervisor() {
    let crash = Action {
        reason: Action::CRASH,
        ..Action::on(GUEST.0)
    };
    for (operation, action, wanted) in [
        (abi::PAUSE, Action::on(GUEST.0), Direction::Pause),
        (abi::UNPAUSE, Action::on(GUEST.0), Direction::Unpause),
        (abi::RESTART, Action::on(GUEST.0), Direction::Restart),
        (
            abi::SHUTDOWN,
            Action::on(GUEST.0),
            Direction::ShutDown(ShutdownReason::Poweroff),
        ),
        (abi::SHUTDOWN, crash, Direction::ShutDown(ShutdownReason::Crash)),
    ] {
        let mut host = FakeHost::new(BACKEND);
        assert_eq!(ask(&mut host, operation, action), action, "it is only read");
        assert_eq!(host.actions, [Asked::Direct(GUEST, wanted)]);
        host.dying = true;
        refused(&mut host, "what it refuses", CONTROL, &[operation, VA], Busy);
    }
}

#[test]
fn without_the_right_every_operation_is_refused() {
    for caller in [STRANGER, SECOND_BACKEND, GUEST] {
        let mut host = FakeHost::new(caller);
        for target in [GUEST, BACKEND, STRANGER, SECOND_BACKEND]
            .into_iter()
            .filter(|id| *id != caller)
        {
            for (operation, structure) in operations(target.0) {
                host.put(VA, structure.as_slice());
                let what = format!("operation {operation} of {caller:?} on {target:?}");
                refused(&mut host, &what, CONTROL, &[operation, VA], NotPermitted);
            }
        }
    }
}

#[test]
fn unknown_domains_and_the_caller_itself_are_refused() {
    let mut host = FakeHost::new(BACKEND);
    for nobody in NOBODY {
        for (operation, structure) in operations(nobody) {
            host.put(VA, structure.as_slice());
            let what = format!("operation {operation} on {nobody:#x}");
            refused(&mut host, &what, CONTROL, &[operation, VA], NoDomain);
        }
    }
    for own in [SELF, BACKEND.0] {
        for (operation, structure) in operations(own) {
            host.put(VA, structure.as_slice());
            if operation >= abi::PAUSE {
                let what = format!("operation {operation} on itself");
                refused(&mut host, &what, CONTROL, &[operation, VA], Invalid);
            } else {
                assert_eq!(host.call(CONTROL, &[operation, VA]), OK, "it may read itself");
            }
        }
    }
}

#[test]
fn unknown_operations_are_not_supported_whatever_their_pointer() {
    let mut host = FakeHost::new(BACKEND);
    for operation in [abi::SHUTDOWN + 1, 100, 1 << 32, 1 << 32 | abi::PAUSE, u64::MAX] {
        for pointer in [VA, 0, UNMAPPED] {
            let what = format!("operation {operation:#x}");
            refused(&mut host, &what, CONTROL, &[operation, pointer], NotSupported);
        }
    }
}

#[test]
fn another_version_is_refused_and_told_which_one_there_is() {
    for version in [0, 2, u32::MAX] {
        for operation in abi::VERSION..=abi::SHUTDOWN {
            let mut host = FakeHost::new(BACKEND);
            host.memory.fill(0xa5);
            host.put(VA, &version);
            let before = host.snapshot();
            assert_eq!(
                host.call(CONTROL, &[operation, VA]),
                Outcome::Return(Invalid.register())
            );
            assert_eq!(host.get::<u32>(VA), abi::INTERFACE_VERSION);
            host.put(VA, &version);
            assert!(before == host.snapshot(), "operation {operation} did more than that");
            // Even at the very end of what can be written.
            host.put(READ_ONLY - 4, &version);
            let outcome = host.call(CONTROL, &[operation, READ_ONLY - 4]);
            assert_eq!(outcome, Outcome::Return(Invalid.register()));
            assert_eq!(host.get::<u32>(READ_ONLY - 4), abi::INTERFACE_VERSION);
        }
    }
}

#[test]
fn padding_and_reasons_that_are_not_zero_are_refused() {
    let mut host = FakeHost::new(BACKEND);
    host.put(VA, &Version { version: 1, pad: 1 });
    refused(&mut host, "version", CONTROL, &[abi::VERSION, VA], Invalid);
    host.put(
        VA,
        &Domain {
            pad: 1,
            ..Domain::ask(GUEST.0)
        },
    );
    refused(&mut host, "domain", CONTROL, &[abi::DOMAIN, VA], Invalid);
    refused(&mut host, "next domain", CONTROL, &[abi::NEXT_DOMAIN, VA], Invalid);
    let good = Action::on(GUEST.0);
    for operation in abi::PAUSE..=abi::SHUTDOWN {
        for action in [
            Action { pad: 1, ..good },
            Action { pad2: 1, ..good },
            Action { reason: 1, ..good },
        ] {
            host.put(VA, &action);
            let what = format!("operation {operation} with {action:?}");
            refused(&mut host, &what, CONTROL, &[operation, VA], Invalid);
        }
    }
    for reason in [1, 2, 4, 5, 6, u32::MAX] {
        host.put(VA, &Action { reason, ..good });
        refused(&mut host, "no such reason", CONTROL, &[abi::SHUTDOWN, VA], Invalid);
    }
    for operation in [abi::PAUSE, abi::UNPAUSE, abi::RESTART] {
        host.put(
            VA,
            &Action {
                reason: Action::CRASH,
                ..good
            },
        );
        refused(&mut host, "a reason for nothing", CONTROL, &[operation, VA], Invalid);
    }
}

#[test]
fn bad_buffers_fault_and_nothing_is_done() {
    for (operation, structure) in operations(GUEST.0) {
        let mut host = FakeHost::new(BACKEND);
        let length = structure.len() as u64;
        for pointer in [0, 1, UNMAPPED, UNMAPPED - 1, VA - 1, u64::MAX, u64::MAX - 3] {
            let what = format!("operation {operation} at {pointer:#x}");
            refused(&mut host, &what, CONTROL, &[operation, pointer], BadPointer);
        }
        host.put(READ_ONLY, structure.as_slice());
        refused(&mut host, "read-only", CONTROL, &[operation, READ_ONLY], BadPointer);
        // Its end, and no more, is in memory that can't be written.
        for short in [1, 4, length - 4] {
            let at = READ_ONLY - length + short;
            host.put(at, structure.as_slice());
            let what = format!("operation {operation} with {short} bytes read-only");
            refused(&mut host, &what, CONTROL, &[operation, at], BadPointer);
        }
    }
}
