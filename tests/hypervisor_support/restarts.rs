//! Domains that end and start again: what they find, what others keep, what nobody keeps.

use std::rc::Rc;

use portunus::abi::sched::ShutdownReason;
use portunus::abi::{evtchn, hypercall, ioreq, memory, sched};
use portunus::cpu::{Cpu, El1Register};
use portunus::domain::Domain;
use portunus::domain::life::Phase;
use portunus::fakes::Operation;
use portunus::hypervisor::lifecycle::RestartCause;
use portunus::ids::{DomainId, EventPort, IntId, PAGE_SIZE, VcpuId};
use portunus::machine::Machine;
use portunus::range::PaRange;
use portunus::stage2::Region;

use crate::announcements::give_back_heard;
use crate::backend::Server;
use crate::guest::{exception, vcpu};
use crate::sim::Sim;
use crate::world::{ALWAYS_UP, BACKEND, DISK, EMPTY_GFN, GUEST, MS, Options, RAM, SCRATCH, STRANGER, UART};

pub(crate) const G0: VcpuId = vcpu(GUEST, 0);
pub(crate) const G1: VcpuId = vcpu(GUEST, 1);
pub(crate) const B0: VcpuId = vcpu(BACKEND, 0);
const S0: VcpuId = vcpu(STRANGER, 0);

const CPU_OFF: u64 = 0x8400_0002;
const CPU_ON: u64 = 0xc400_0003;
const CPU_SUSPEND: u64 = 0xc400_0001;
pub(crate) const SYSTEM_OFF: u64 = 0x8400_0008;
pub(crate) const SYSTEM_RESET: u64 = 0x8400_0009;
/// Where the second vCPU begins.
const SECOND: u64 = RAM + 0x1000;
/// Status of the disk.
const STATUS: u64 = DISK + 0x70;
/// A frame of RAM that holds nothing.
pub(crate) const SPARE: u64 = (RAM >> 12) + 0x300;

pub(crate) fn lives() -> Options {
    Options {
        lifecycle: ALWAYS_UP,
        ..Options::default()
    }
}

/// What a domain has, and what others have of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Account {
    pub(crate) domain: DomainId,
    pub(crate) free_frames: u64,
    pub(crate) ports: (u32, u32),
    pub(crate) references: u64,
    pub(crate) map: Vec<Region>,
}

pub(crate) fn account(sim: &Sim, domain: &Domain) -> Account {
    let ports = domain.events.lock().in_use();
    let memory = domain.memory.lock();
    let ranges = domain.ram.iter().copied().chain([memory.pool.range()]);
    Account {
        domain: domain.id,
        free_frames: memory.pool.free_frames(),
        ports,
        references: ranges.map(|range| references(sim, range)).sum(),
        map: memory.stage2.regions(sim.machine()),
    }
}

/// References to the frames of a range.
pub(crate) fn references(sim: &Sim, range: PaRange) -> u64 {
    sim.hypervisor.references_to(range)
}

pub(crate) fn accounts(sim: &Sim) -> Vec<Account> {
    sim.hypervisor.domains().map(|domain| account(sim, domain)).collect()
}

pub(crate) fn restarts(sim: &Sim, domain: DomainId) -> u32 {
    sim.domain(domain).restarts.load(std::sync::atomic::Ordering::Relaxed)
}

pub(crate) fn phase(sim: &Sim, domain: DomainId) -> Phase {
    sim.domain(domain).life.phase()
}

pub(crate) fn is_up(sim: &Sim, domain: DomainId) -> bool {
    phase(sim, domain) == Phase::Running
}

/// The vCPU is at its first instruction, as after power-on.
pub(crate) fn is_new(sim: &Sim, vcpu: VcpuId) {
    sim.run_until(vcpu);
    let domain = sim.domain(vcpu.domain);
    let frame = sim.with(vcpu, |context| context.state.frame.clone());
    assert_eq!((frame.pc, frame.pstate), (domain.entry.0, 0x3c5));
    assert_eq!((frame.read(0), frame.read(1)), (domain.device_tree.0, 0));
    assert_eq!(sim.el1(vcpu, El1Register::SctlrEl1), 0x30d0_0800);
    assert_eq!(sim.el1(vcpu, El1Register::CntvCtlEl0), 0);
    assert_eq!(sim.el1(vcpu, El1Register::VbarEl1), 0);
    assert_eq!(sim.take_interrupt(vcpu), None);
}

/// The first vCPU starts the second one, which may run before this returns.
pub(crate) fn second(sim: &Sim) {
    sim.run_until(G0);
    sim.psci(G0, &[CPU_ON, 1, SECOND, 0]);
    assert_eq!(sim.x(G0, 0), 0);
    sim.run_until(G1);
}

fn wait(sim: &Sim, vcpu: VcpuId) {
    sim.run_until(vcpu);
    sim.wfi(vcpu);
}

fn turn_off(sim: &Sim, vcpu: VcpuId) {
    sim.run_until(vcpu);
    sim.psci(vcpu, &[CPU_OFF]);
}

/// The vCPU's domain crashes.
pub(crate) fn crash(sim: &Sim, vcpu: VcpuId) {
    sim.run_until(vcpu);
    sim.put(vcpu.domain, SCRATCH, &sched::Shutdown { reason: 3 });
    for (register, value) in [(0, sched::SHUTDOWN), (1, SCRATCH), (16, hypercall::SCHED_OP)] {
        sim.set_x(vcpu, register, value);
    }
    sim.with(vcpu, |context| context.state.frame.pc += 4);
    sim.trap(vcpu, exception(0x16, hypercall::HVC_IMMEDIATE.into()));
}

fn poll(sim: &Sim, vcpu: VcpuId) {
    let port = sim.events(vcpu, evtchn::BIND_IPI, evtchn::BindIpi::default()).1.port;
    sim.put(vcpu.domain, SCRATCH + 0x800, &port);
    let request = sched::Poll {
        ports: SCRATCH + 0x800,
        nr_ports: 1,
        ..Default::default()
    };
    sim.put(vcpu.domain, SCRATCH, &request);
    sim.hypercall(vcpu, hypercall::SCHED_OP, &[sched::POLL, SCRATCH]);
}

/// Brings the guest's vCPUs into a state; the one that can still ask for a restart.
type State = fn(&Rc<Sim>) -> VcpuId;

const STATES: [(&str, State); 15] = [
    ("alone", |_| G0),
    ("with a second one that runs", |sim| {
        second(sim);
        G0
    }),
    ("by the second one, while the first runs", |sim| {
        second(sim);
        G1
    }),
    ("while the second waits for an interrupt", |sim| {
        second(sim);
        wait(sim, G1);
        G0
    }),
    ("while the first waits for an interrupt", |sim| {
        second(sim);
        wait(sim, G0);
        G1
    }),
    ("while the first sleeps until its timer", |sim| {
        second(sim);
        sim.with(G0, |context| {
            context.cpu.write_el1(El1Register::CntvCvalEl0, 1 << 40);
            context.cpu.write_el1(El1Register::CntvCtlEl0, 1);
        });
        sim.run_until(G0);
        assert_eq!(sim.psci(G0, &[CPU_SUSPEND, 0, RAM, 0]), None);
        G1
    }),
    ("while the second polls", |sim| {
        second(sim);
        poll(sim, G1);
        assert!(!sim.runs(G1));
        G0
    }),
    ("while the second blocks", |sim| {
        second(sim);
        sim.run_until(G1);
        sim.hypercall(G1, hypercall::SCHED_OP, &[sched::BLOCK, 0]);
        G0
    }),
    ("while the first waits for a server that is not there", |sim| {
        second(sim);
        sim.run_until(G0);
        assert_eq!(sim.load_from(G0, DISK, 2, 1), None);
        G1
    }),
    ("after the second turned off", |sim| {
        second(sim);
        turn_off(sim, G1);
        G0
    }),
    ("after the first turned off", |sim| {
        second(sim);
        turn_off(sim, G0);
        G1
    }),
    ("while the second was asked to start and has not", |sim| {
        // Nobody is told: the trap is all that happens.
        let registers = [CPU_ON, 1, SECOND, 0];
        for (register, value) in (0..).zip(registers) {
            sim.set_x(G0, register, value);
        }
        sim.with(G0, |context| context.state.frame.pc += 4);
        sim.trap_only(G0, exception(0x16, 0));
        G0
    }),
    ("with an interrupt active and one pending", |sim| {
        sim.enable_interrupts(G0);
        assert!(sim.store_to(G0, crate::world::DISTRIBUTOR + 0xf00, 2, 0) || sim.runs(G0));
        let frame = crate::world::REDISTRIBUTOR + 0x1_0000;
        assert!(sim.store_to(G0, frame + 0x200, 2, 3));
        let active = sim.with(G0, |context| context.cpu.virtual_interface().acknowledge());
        assert!(active.is_some());
        G0
    }),
    ("with the virtual timer's interrupt active", |sim| {
        sim.enable_interrupts(G0);
        sim.with(G0, |context| {
            context.cpu.write_el1(El1Register::CntvCvalEl0, 0);
            context.cpu.write_el1(El1Register::CntvCtlEl0, 1);
        });
        sim.advance(1);
        let active = sim.with(G0, |context| context.cpu.virtual_interface().acknowledge());
        assert_eq!(active, Some(IntId(27)));
        G0
    }),
    ("with pages of its map moved, lost and shared", |sim| {
        assert_eq!(sim.map_shared_info(G0, SPARE), 0);
        let gfns = [SPARE + 1, SPARE + 2, SPARE + 3];
        assert_eq!(sim.reservation(G0, memory::DECREASE_RESERVATION, &gfns), 3);
        assert_eq!(
            sim.reservation(G0, memory::POPULATE_PHYSMAP, &[EMPTY_GFN, EMPTY_GFN + 0x200]),
            2
        );
        G0
    }),
];

/// The backend answers the write with which the disk is reset.
pub(crate) fn answer_reset(sim: &Sim, server: &Server) {
    for _ in 0..20 {
        if sim.slot(BACKEND, server, 0).addr == STATUS {
            break;
        }
        sim.advance(MS);
    }
    let slot = sim.slot(BACKEND, server, 0);
    assert_eq!((slot.addr, slot.data, slot.size), (STATUS, 0, 4));
    assert_eq!(
        (slot.state(), slot.flags & ioreq::Ioreq::READ),
        (ioreq::State::READY, 0)
    );
    sim.run_until(B0);
    sim.answer(B0, server, 0, 0);
}

#[test]
fn a_guest_starts_again_from_every_state_of_its_vcpus() {
    // Each vCPU alone on its pCPU, two on one, and all on one.
    for pcpus in [[0, 1, 2, 3, 4], [0, 0, 1, 2, 3], [0, 0, 0, 0, 0]] {
        for (state, bring) in STATES {
            let sim = Sim::new(&Options { pcpus, ..lives() });
            sim.run_until(G0);
            let before = accounts(&sim);
            let by = bring(&sim);
            sim.put(GUEST, SPARE << 12 | 8, b"old life");
            sim.run_until(by);
            sim.psci(by, &[SYSTEM_RESET]);
            is_new(&sim, G0);
            assert_eq!(restarts(&sim, GUEST), 1, "{state}");
            assert_eq!(accounts(&sim), before, "{state}");
            assert_eq!(sim.get::<[u8; 8]>(GUEST, SPARE << 12 | 8), [0; 8], "{state}");
            let offset = sim.el1(G0, El1Register::CntvoffEl2);
            assert!(
                offset > 0 && offset <= sim.machine().now().0,
                "{state}: its counter began"
            );
            // The second vCPU is off, and starts as the first time.
            assert_eq!(sim.psci(G0, &[0xc400_0004, 1, 0, 0]), Some(1), "{state}");
            second(&sim);
            sim.run_until(G1);
            assert_eq!(sim.pc(G1), SECOND, "{state}");
            // Interrupts work.
            sim.run_until(G0);
            sim.enable_interrupts(G0);
            let frame = crate::world::REDISTRIBUTOR + 0x1_0000;
            assert!(sim.store_to(G0, frame + 0x200, 2, 1 << 5), "{state}");
            assert_eq!(sim.take_interrupt(G0), Some(5), "{state}");
        }
    }
}

#[test]
fn a_thousand_lives_leak_nothing() {
    let sim = Sim::new(&lives());
    sim.forget_log();
    let server = sim.serve(B0);
    let (result, errors) = sim.map_foreign(B0, GUEST, &[(SPARE, EMPTY_GFN + 0x10), (SPARE + 1, EMPTY_GFN + 0x11)]);
    assert_eq!((result, errors), (0, vec![0, 0]));
    let before = accounts(&sim);
    for life in 1..=1000 {
        assert_eq!(sim.map_shared_info(G0, EMPTY_GFN + life % 7 * 0x4_0000), 0);
        sim.events(G0, evtchn::BIND_IPI, evtchn::BindIpi::default());
        assert_eq!(
            give_back_heard(&sim, &server, &[SPARE, SPARE + life % 5]),
            2 - i64::from(life % 5 == 0)
        );
        sim.psci(G0, &[SYSTEM_RESET]);
        answer_reset(&sim, &server);
        assert_eq!(u64::from(restarts(&sim, GUEST)), life);
        if life % 100 == 1 {
            assert_eq!(accounts(&sim), before, "life {life}");
        }
    }
    assert_eq!(accounts(&sim), before);
    is_new(&sim, G0);
    // The same of the domain that serves: its server's pages and ports are the guest's again.
    for life in 1..=200 {
        sim.psci(B0, &[SYSTEM_RESET]);
        assert_eq!(restarts(&sim, BACKEND), life);
        sim.serve(B0);
        let _ = sim.map_foreign(B0, GUEST, &[(SPARE, EMPTY_GFN + 0x10), (SPARE + 1, EMPTY_GFN + 0x11)]);
        if life % 50 == 0 {
            assert_eq!(accounts(&sim), before, "life {life}");
        }
    }
}

#[test]
fn domains_that_end_at_once_wait_for_nobody() {
    let sim = Sim::new(&lives());
    sim.serve(B0);
    let before = sim.domain(STRANGER).life.phase();
    sim.direct(|hypervisor| {
        for domain in [GUEST, BACKEND] {
            hypervisor.shut_down(sim.domain(domain), ShutdownReason::Reboot);
        }
    });
    for vcpu in [G0, B0] {
        is_new(&sim, vcpu);
    }
    assert_eq!((restarts(&sim, GUEST), restarts(&sim, BACKEND)), (1, 1));
    assert_eq!(phase(&sim, STRANGER), before);
}

#[test]
fn what_is_asked_of_a_domain_that_ends_already() {
    let order = |sim: &Rc<Sim>, order: &str| {
        sim.direct(|hypervisor| {
            let guest = hypervisor.domain(GUEST).expect("a guest");
            match order {
                "restart" => hypervisor.restart(guest, RestartCause::Control).expect("no devices"),
                "stop" => hypervisor.stop(guest, ShutdownReason::Poweroff),
                _ => hypervisor.shut_down(guest, ShutdownReason::Crash),
            }
        });
    };
    // Orders while the disk's server has not answered; how often it was restarted, and whether it is up.
    let cases: [(&[&str], u32, bool); 8] = [
        (&["restart", "restart"], 1, true),
        (&["restart", "crash"], 1, true),
        (&["restart", "stop"], 0, false),
        (&["stop", "restart"], 1, true),
        (&["stop", "stop"], 0, false),
        (&["stop", "crash"], 0, false),
        (&["stop", "restart", "stop"], 0, false),
        (&["restart", "stop", "restart"], 1, true),
    ];
    for (orders, count, up) in cases {
        let sim = Sim::new(&lives());
        let server = sim.serve(B0);
        for name in orders {
            order(&sim, name);
            assert!(!sim.runs(G0), "{orders:?}");
        }
        answer_reset(&sim, &server);
        assert_eq!((restarts(&sim, GUEST), is_up(&sim, GUEST)), (count, up), "{orders:?}");
        if up {
            is_new(&sim, G0);
        } else {
            assert!(matches!(phase(&sim, GUEST), Phase::Stopped(_)), "{orders:?}");
            assert!(!sim.hypervisor.is_finished(), "the stranger runs");
            // Down, it can be started.
            order(&sim, "restart");
            answer_reset(&sim, &server);
            is_new(&sim, G0);
            assert_eq!(restarts(&sim, GUEST), count + 1, "{orders:?}");
        }
    }
}

#[test]
fn a_stopped_domain_has_given_everything_back_and_a_restarting_one_keeps_the_machine_on() {
    let sim = Sim::new(&lives());
    let guest = account(&sim, sim.domain(GUEST));
    sim.serve(B0);
    assert_eq!(sim.map_foreign(B0, GUEST, &[(SPARE, EMPTY_GFN + 0x10)]).0, 0);
    sim.psci(B0, &[SYSTEM_OFF]);
    assert!(matches!(phase(&sim, BACKEND), Phase::Stopped(ShutdownReason::Poweroff)));
    assert_eq!(account(&sim, sim.domain(GUEST)), guest);
    let server = {
        sim.direct(|hypervisor| hypervisor.restart(sim.domain(BACKEND), RestartCause::Control))
            .expect("no devices");
        is_new(&sim, B0);
        sim.serve(B0)
    };
    sim.psci(G0, &[SYSTEM_RESET]);
    sim.psci(S0, &[SYSTEM_OFF]);
    assert!(!sim.hypervisor.is_finished(), "the guest restarts");
    answer_reset(&sim, &server);
    is_new(&sim, G0);
    sim.psci(G0, &[SYSTEM_OFF]);
    assert!(sim.hypervisor.is_finished());
}

#[test]
fn a_static_channel_is_connected_in_every_life_and_others_are_closed() {
    let sim = Sim::new(&Options {
        channels: [
            "chan0: ec0 { compatible = \"xen,evtchn-v1\"; xen,evtchn = <10 &chan1>; };",
            "chan1: ec0 { compatible = \"xen,evtchn-v1\"; xen,evtchn = <11 &chan0>; };",
        ],
        ..lives()
    });
    let shared = (EMPTY_GFN + 0x20) << 12;
    let connected = |sim: &Sim| {
        let port = |domain, port| *sim.domain(domain).events.lock().port(EventPort(port)).expect("a port");
        (port(GUEST, 10).channel, port(BACKEND, 11).channel)
    };
    let before = connected(&sim);
    for (by, other) in [(G0, B0), (B0, G0), (G0, B0)] {
        sim.psci(by, &[SYSTEM_RESET]);
        is_new(&sim, by);
        assert_eq!(connected(&sim), before);
        sim.run_until(other);
    }
    for vcpu in [G0, B0] {
        sim.enable_interrupts(vcpu);
        assert_eq!(sim.map_shared_info(vcpu, shared >> 12), 0);
        sim.take_events(vcpu, shared);
        while sim.take_interrupt(vcpu).is_some() {}
    }
    assert_eq!(sim.send(G0, 10), 0);
    assert_eq!(sim.take_events(B0, shared), [11]);
    assert_eq!(sim.send(B0, 11), 0);
    assert_eq!(sim.take_events(G0, shared), [10]);
    // A peer that closed its end finds the channel open when it wants it again.
    assert_eq!(sim.close(B0, 11), 0);
    sim.psci(G0, &[SYSTEM_RESET]);
    is_new(&sim, G0);
    assert_eq!(sim.bind(B0, GUEST, 10), Ok(1));
}

#[test]
fn a_crash_loop_ends_at_its_limit_and_says_so() {
    let sim = Sim::new(&Options {
        guest: "portunus,on-crash = \"restart\"; portunus,restart-limit = <3 10>;",
        lifecycle: "",
        ..Options::default()
    });
    for _ in 0..3 {
        crash(&sim, G0);
    }
    is_new(&sim, G0);
    sim.advance(9_000 * MS);
    crash(&sim, G0);
    sim.advance(1000 * MS);
    assert!(matches!(phase(&sim, GUEST), Phase::Stopped(ShutdownReason::Crash)));
    for _ in 0..20 {
        sim.console_ready();
        sim.advance(MS);
    }
    let shown = sim.shown();
    assert!(shown.contains("[portunus] guest is up again (restart 3): "), "{shown}");
    let last = "[portunus] guest stays down: restarted 3 times in 10 s (last: crash)\r\n";
    assert!(shown.contains(last), "{shown}");
    // Who may start it does, whatever the limit.
    sim.direct(|hypervisor| hypervisor.restart(sim.domain(GUEST), RestartCause::Control))
        .expect("no devices");
    is_new(&sim, G0);
    // The old ones are forgotten in time.
    sim.advance(11_000 * MS);
    crash(&sim, G0);
    is_new(&sim, G0);
}

#[test]
fn a_guest_that_does_nothing_but_restart_leaves_its_neighbours_their_share() {
    let sim = Sim::new(&Options {
        pcpus: [0, 1, 2, 3, 0],
        ..lives()
    });
    sim.forget_log();
    let ran = |sim: &Sim, vcpu| sim.hypervisor.vcpu_report(vcpu).expect("a vCPU").run_time.0;
    let (start, stranger) = (sim.machine().now().0, ran(&sim, S0));
    while sim.machine().now().0 < start + 400 * MS {
        if sim.runs(G0) {
            sim.psci(G0, &[SYSTEM_RESET]);
        } else {
            sim.advance(MS / 10);
        }
    }
    assert!(restarts(&sim, GUEST) > 10);
    let share = (ran(&sim, S0) - stranger) * 100 / (sim.machine().now().0 - start);
    assert!((45..=60).contains(&share), "{share} percent");
}

#[test]
fn its_uart_is_reset_and_its_last_words_are_shown_on_a_line_of_their_own() {
    let sim = Sim::new(&lives());
    sim.enable_interrupts(G0);
    // It wants to be told of what is typed.
    assert!(sim.store_to(G0, UART + 0x38, 2, 0x50));
    for byte in b"the end" {
        assert!(sim.store_to(G0, UART, 0, u64::from(*byte)));
    }
    sim.type_in(b"x");
    assert_ne!(sim.load_from(G0, UART + 0x40, 2, 1), Some(0));
    sim.psci(G0, &[SYSTEM_RESET]);
    is_new(&sim, G0);
    assert_eq!(sim.load_from(G0, UART + 0x40, 2, 1), Some(0));
    assert_eq!(sim.load_from(G0, UART + 0x38, 2, 1), Some(0));
    for byte in b"a new one\n" {
        assert!(sim.store_to(G0, UART, 0, u64::from(*byte)));
    }
    sim.advance(1000 * MS);
    let shown = sim.shown();
    assert!(shown.contains("[guest] the end\r\n"), "{shown}");
    assert!(shown.contains("[guest] a new one\r\n"), "{shown}");
}

#[test]
fn nothing_of_a_life_is_written_before_the_last_vcpu_has_left_it() {
    let sim = Sim::new(&lives());
    second(&sim);
    sim.take_log();
    // vCPU 1 runs on another pCPU, which notices nothing yet.
    sim.set_x(G0, 0, SYSTEM_RESET);
    sim.with(G0, |context| context.state.frame.pc += 4);
    sim.trap_only(G0, exception(0x16, 0));
    let ram = sim.domain(GUEST).ram.clone();
    let writes = |log: &[Operation]| {
        log.iter().any(|operation| match operation {
            Operation::Zero { at, .. } | Operation::Write { at, .. } => ram
                .iter()
                .any(|range| range.contains(PaRange::new(at.0 & !(PAGE_SIZE - 1), PAGE_SIZE))),
            _ => false,
        })
    };
    assert!(!writes(&sim.take_log()));
    assert!(!is_up(&sim, GUEST));
    sim.settle();
    is_new(&sim, G0);
    assert!(writes(&sim.take_log()));
}
