//! Domains that another one pauses, lets go on and stops, and what their peers notice of it: nothing.

use portunus::abi::HypercallError;
use portunus::abi::control::{self, Action, Domain, Server, Vcpu};
use portunus::abi::hypercall::CONTROL;
use portunus::cpu::{Cpu, El1Register};
use portunus::ids::{DomainId, PcpuId, VcpuId};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::guest::{refused, vcpu};
use crate::sim::Sim;
use crate::world::{BACKEND, DISK, EMPTY_GFN, GUEST, MS, Options, RAM, RAM_PAGES, STRANGER};

const G0: VcpuId = vcpu(GUEST, 0);
const G1: VcpuId = vcpu(GUEST, 1);
const B0: VcpuId = vcpu(BACKEND, 0);
const S0: VcpuId = vcpu(STRANGER, 0);
const SHARED: u64 = (EMPTY_GFN + 0x20) << 12;
const CPU_ON: u64 = 0xc400_0003;

/// The stranger controls the other two.
fn controlled() -> Options {
    Options {
        stranger: "portunus,control;",
        channels: [
            "chan0: ec0 { compatible = \"xen,evtchn-v1\"; xen,evtchn = <10 &chan1>; };",
            "chan1: ec0 { compatible = \"xen,evtchn-v1\"; xen,evtchn = <11 &chan0>; };",
        ],
        ..Options::default()
    }
}

impl Sim {
    fn control<T: IntoBytes + FromBytes + Immutable>(&self, caller: VcpuId, operation: u64, value: T) -> (i64, T) {
        self.with_structure(caller, CONTROL, operation, value)
    }

    pub(crate) fn act(&self, caller: VcpuId, operation: u64, target: DomainId) -> i64 {
        self.control(caller, operation, Action::on(target.0)).0
    }

    fn look(&self, target: DomainId) -> Domain {
        let (result, domain) = self.control(S0, control::DOMAIN, Domain::ask(target.0));
        assert_eq!(result, 0);
        domain
    }

    fn look_at_vcpu(&self, target: VcpuId) -> Vcpu {
        let ask = Vcpu::ask(target.domain.0, target.index.into());
        let (result, vcpu) = self.control(S0, control::VCPU, ask);
        assert_eq!(result, 0);
        vcpu
    }
}

#[test]
fn the_list_is_of_all_domains_and_says_what_they_are() {
    let sim = Sim::new(&controlled());
    let mut found = Vec::new();
    let mut next = 0;
    while let (0, domain) = sim.control(S0, control::NEXT_DOMAIN, Domain::ask(next)) {
        assert_eq!(domain.state, Domain::STATE_RUNNING);
        assert_eq!((domain.flags, domain.reason), (flags(domain.domain), Domain::NO_REASON));
        assert_eq!((domain.ram_pages, domain.frequency), (RAM_PAGES, 1000 * MS));
        assert!(domain.pool_used > 0 && domain.pool_used < domain.pool_frames);
        found.push((
            domain.domain,
            domain.name().to_string(),
            domain.vcpus,
            domain.online_vcpus,
        ));
        next = domain.domain + 1;
    }
    let expected = [(1, "guest", 2, 1), (2, "dm", 2, 1), (3, "stranger", 1, 1)];
    let expected = expected.map(|(id, name, vcpus, online)| (id, name.to_string(), vcpus, online));
    assert_eq!(found, expected);
}

fn flags(domain: u16) -> u32 {
    if domain == BACKEND.0 { Domain::FLAG_SERVES } else { 0 }
}

#[test]
fn a_domain_that_is_paused_stops_on_all_its_pcpus_and_goes_on_where_it_was() {
    let sim = Sim::new(&controlled());
    assert_eq!(sim.psci(G0, &[CPU_ON, 1, RAM + 0x1000, 0]), Some(0));
    let before = (sim.pc(G0), sim.pc(G1));
    for _ in 0..2 {
        assert_eq!(sim.act(S0, control::PAUSE, GUEST), 0, "twice is as good as once");
        assert!(!sim.runs(G0) && !sim.runs(G1));
        assert_eq!(sim.look(GUEST).flags, Domain::FLAG_PAUSED);
        let held = sim.look_at_vcpu(G1);
        assert_eq!(
            (held.state, held.flags, held.pcpu),
            (Vcpu::STATE_RUNNABLE, Vcpu::FLAG_HELD, 1)
        );
    }
    let ran = sim.look_at_vcpu(G0).run_time;
    sim.advance(50 * MS);
    assert!(!sim.runs(G0) && !sim.runs(G1));
    assert_eq!(sim.look_at_vcpu(G0).run_time, ran);
    for _ in 0..2 {
        assert_eq!(sim.act(S0, control::UNPAUSE, GUEST), 0);
        assert!(sim.runs(G0) && sim.runs(G1));
        assert_eq!(sim.look(GUEST).flags, 0);
    }
    assert_eq!((sim.pc(G0), sim.pc(G1)), before);
}

#[test]
fn until_it_has_left_its_pcpu_a_paused_domain_is_shown_as_leaving() {
    let sim = Sim::new(&controlled());
    let domain = sim.domain(GUEST);
    // From another pCPU than the guest's.
    sim.machine().set_pcpu(PcpuId(4));
    assert_eq!(sim.hypervisor.pause(domain), Ok(()));
    let report = |id| sim.hypervisor.domain_report(id).expect("a domain");
    assert!(
        report(GUEST).paused && report(GUEST).leaving,
        "no kick has come through yet"
    );
    // Any call from another pCPU lets kicks come through.
    sim.look(GUEST);
    assert!(report(GUEST).paused && !report(GUEST).leaving);
    assert!(!report(STRANGER).paused && !report(STRANGER).leaving);
}

#[test]
fn events_and_timers_of_a_paused_domain_wait_for_it() {
    let sim = Sim::new(&controlled());
    sim.enable_interrupts(G0);
    assert_eq!(sim.map_shared_info(G0, SHARED >> 12), 0);
    sim.take_events(G0, SHARED);
    while sim.take_interrupt(G0).is_some() {}
    let due = sim.with(G0, |context| {
        let now = portunus::machine::Machine::now(sim.machine()).0;
        let due = now - context.cpu.read_el1(El1Register::CntvoffEl2) + 5 * MS;
        context.cpu.write_el1(El1Register::CntvCvalEl0, due);
        context.cpu.write_el1(El1Register::CntvCtlEl0, 1);
        due
    });
    sim.wfi(G0);
    assert!(due > 0 && !sim.runs(G0));
    assert_eq!(sim.act(S0, control::PAUSE, GUEST), 0);
    assert_eq!(sim.send(B0, 11), 0, "its peer notices nothing");
    sim.advance(20 * MS);
    assert!(!sim.runs(G0));
    assert_eq!(
        sim.look_at_vcpu(G0).state,
        Vcpu::STATE_RUNNABLE,
        "the event ended its wait"
    );
    assert_eq!(sim.act(S0, control::UNPAUSE, GUEST), 0);
    assert!(sim.runs(G0));
    let mut taken: Vec<u32> = core::iter::from_fn(|| sim.take_interrupt(G0)).collect();
    taken.sort_unstable();
    assert_eq!(taken, [27, 31], "the timer and the upcall");
    assert_eq!(sim.take_events(G0, SHARED), [10]);
}

#[test]
fn an_answer_to_a_paused_guest_is_kept_for_it() {
    let sim = Sim::new(&controlled());
    let server = sim.serve(B0);
    assert_eq!(sim.load_from(G0, DISK + 8, 2, 1), None);
    assert_eq!(sim.act(S0, control::PAUSE, GUEST), 0);
    let waits = sim.look_at_vcpu(G0);
    assert_eq!(
        (waits.state, waits.address, waits.server),
        (Vcpu::STATE_WAITS_SERVER, DISK + 8, u32::from(server.id))
    );
    sim.answer(B0, &server, 0, 0x1234);
    sim.advance(100_000 * MS);
    assert!(!sim.runs(G0));
    assert_eq!(sim.act(S0, control::UNPAUSE, GUEST), 0);
    assert!(sim.runs(G0));
    assert_eq!(sim.x(G0, 1), 0x1234);
}

#[test]
fn a_paused_backend_is_not_late() {
    let options = Options {
        disk: "timeout-ms = <50>; on-failure = \"ones\";",
        ..controlled()
    };
    let sim = Sim::new(&options);
    let server = sim.serve(B0);
    assert_eq!(sim.load_from(G0, DISK + 8, 2, 1), None);
    sim.advance(30 * MS);
    assert_eq!(sim.act(S0, control::PAUSE, BACKEND), 0);
    for _ in 0..1000 {
        sim.advance(MS);
    }
    assert!(!sim.runs(G0), "its clock stands");
    assert_eq!(sim.act(S0, control::UNPAUSE, BACKEND), 0);
    sim.advance(10 * MS);
    assert!(!sim.runs(G0), "it has ten milliseconds more");
    sim.answer(B0, &server, 0, 0x77);
    assert_eq!((sim.runs(G0), sim.x(G0, 1)), (true, 0x77));
    // The limit itself still holds.
    assert_eq!(sim.load_from(G0, DISK + 8, 2, 1), None);
    for _ in 0..60 {
        sim.advance(MS);
    }
    assert_eq!((sim.runs(G0), sim.x(G0, 1)), (true, 0xffff_ffff));
}

#[test]
fn pausing_a_backend_that_shares_its_pcpu_with_its_guest_leaves_the_pcpu_to_others() {
    let options = Options {
        pcpus: [0, 0, 0, 1, 0],
        ..controlled()
    };
    let sim = Sim::new(&options);
    sim.run_until(B0);
    sim.serve(B0);
    sim.run_until(S0);
    assert_eq!(sim.act(S0, control::PAUSE, BACKEND), 0);
    sim.run_until(G0);
    assert_eq!(
        sim.load_from(G0, DISK + 8, 2, 1),
        None,
        "nothing is handed to the backend"
    );
    sim.run_until(S0);
    for _ in 0..20 {
        sim.advance(MS);
        assert!(sim.runs(S0), "it has the pCPU to itself");
    }
    assert_eq!(sim.act(S0, control::UNPAUSE, BACKEND), 0);
    sim.run_until(B0);
}

#[test]
fn a_domain_that_is_stopped_while_it_is_paused_leaves() {
    let sim = Sim::new(&controlled());
    assert_eq!(sim.psci(G0, &[CPU_ON, 1, RAM + 0x1000, 0]), Some(0));
    sim.serve(B0);
    assert_eq!(sim.load_from(G1, DISK + 8, 2, 1), None);
    assert_eq!(sim.act(S0, control::PAUSE, GUEST), 0);
    let crash = Action {
        reason: Action::CRASH,
        ..Action::on(GUEST.0)
    };
    assert_eq!(sim.control(S0, control::SHUTDOWN, crash).0, 0);
    assert_eq!(
        sim.look(GUEST).state,
        Domain::STATE_STOPPING,
        "its disk's server is slow"
    );
    assert_eq!(sim.act(S0, control::SHUTDOWN, GUEST), refused(HypercallError::Busy));
    sim.advance(6000 * MS);
    let stopped = sim.look(GUEST);
    assert_eq!(
        (stopped.state, stopped.reason, stopped.flags),
        (Domain::STATE_STOPPED, 3, 0)
    );
    for index in 0..2 {
        assert_eq!(sim.look_at_vcpu(vcpu(GUEST, index)).state, Vcpu::STATE_OFF);
    }
    assert_eq!(stopped.online_vcpus, 0);
    for operation in [control::PAUSE, control::SHUTDOWN] {
        assert_eq!(
            sim.act(S0, operation, GUEST),
            refused(HypercallError::Invalid),
            "{operation}"
        );
    }
    assert_eq!(sim.act(S0, control::UNPAUSE, GUEST), 0);
    assert_eq!(
        sim.look(GUEST),
        Domain {
            now: sim.look(GUEST).now,
            ..stopped
        },
        "nothing changed"
    );
}

#[test]
fn a_domain_without_the_right_changes_nothing_and_learns_nothing() {
    let sim = Sim::new(&controlled());
    let before = [GUEST, BACKEND, STRANGER].map(|id| sim.domain(id).is_stopped());
    for target in [BACKEND, STRANGER] {
        for operation in control::PAUSE..=control::SHUTDOWN {
            assert_eq!(sim.act(G0, operation, target), refused(HypercallError::NotPermitted));
        }
        let ask = Domain::ask(target.0);
        let (result, answer) = sim.control(G0, control::DOMAIN, ask);
        assert_eq!((result, answer), (refused(HypercallError::NotPermitted), ask));
        let ask = Server::ask(target.0, 0, 0);
        let (result, answer) = sim.control(G0, control::SERVER, ask);
        assert_eq!((result, answer), (refused(HypercallError::NotPermitted), ask));
    }
    for operation in control::PAUSE..=control::SHUTDOWN {
        assert_eq!(
            sim.act(S0, operation, STRANGER),
            refused(HypercallError::Invalid),
            "itself"
        );
    }
    assert_eq!(before, [GUEST, BACKEND, STRANGER].map(|id| sim.domain(id).is_stopped()));
    assert!(sim.runs(G0) && sim.runs(B0) && sim.runs(S0));
    let (_, own) = sim.control(G0, control::NEXT_DOMAIN, Domain::ask(0));
    assert_eq!((own.domain, own.flags), (GUEST.0, 0));
    let beyond = sim.control(G0, control::NEXT_DOMAIN, Domain::ask(2)).0;
    assert_eq!(beyond, refused(HypercallError::NoDomain));
}

#[test]
fn structures_in_memory_that_is_no_ram_of_the_caller_fault_and_nothing_is_done() {
    let sim = Sim::new(&controlled());
    let end_of_ram = RAM + RAM_PAGES * 4096;
    for at in [0, DISK, end_of_ram, end_of_ram - 8, SHARED, u64::MAX] {
        for operation in [control::DOMAIN, control::PAUSE, control::SHUTDOWN] {
            if at == end_of_ram - 8 {
                sim.put(STRANGER, at, &[1_u32, u32::from(GUEST.0)]);
            }
            let result = sim.hypercall(S0, CONTROL, &[operation, at]);
            assert_eq!(
                result,
                Some(refused(HypercallError::BadPointer)),
                "{operation} at {at:#x}"
            );
        }
    }
    assert!(sim.runs(G0));
}
