//! Who sleeps and who wakes: WFI, SCHEDOP_block and poll, timers, events, PSCI, and the moments in between.

use portunus::abi::{evtchn, hypercall, sched};
use portunus::cpu::{Cpu, El1Register};
use portunus::ids::{DomainId, IntId, VcpuId};

use crate::guest::{exception, vcpu};
use crate::sim::{Moment, Sim};
use crate::world::{BACKEND, DISK, EMPTY_GFN, GUEST, MS, Options, RAM, SCRATCH, STRANGER};

const G0: VcpuId = vcpu(GUEST, 0);
const G1: VcpuId = vcpu(GUEST, 1);
const B0: VcpuId = vcpu(BACKEND, 0);
const S0: VcpuId = vcpu(STRANGER, 0);

/// Where domains put their shared page.
const SHARED: u64 = (EMPTY_GFN + 0x20) << 12;
const UPCALL: u32 = 31;

const CPU_OFF: u64 = 0x8400_0002;
const CPU_ON: u64 = 0xc400_0003;
const AFFINITY_INFO: u64 = 0xc400_0004;
const SYSTEM_OFF: u64 = 0x8400_0008;
const SYSTEM_RESET: u64 = 0x8400_0009;
const CPU_SUSPEND: u64 = 0xc400_0001;

/// Two domains with a static channel between them: port 10 of the guest, port 11 of the backend.
fn connected() -> Options {
    Options {
        channels: [
            "chan0: ec0 { compatible = \"xen,evtchn-v1\"; xen,evtchn = <10 &chan1>; };",
            "chan1: ec0 { compatible = \"xen,evtchn-v1\"; xen,evtchn = <11 &chan0>; };",
        ],
        ..Options::default()
    }
}

/// The guest's vCPU 0 hears upcalls, and has taken what there was.
fn listen(sim: &Sim, vcpu: VcpuId) {
    sim.enable_interrupts(vcpu);
    assert_eq!(sim.map_shared_info(vcpu, SHARED >> 12), 0);
    sim.take_events(vcpu, SHARED);
    while sim.take_interrupt(vcpu).is_some() {}
}

fn set_timer(sim: &Sim, vcpu: VcpuId, control: u64, at: u64) {
    sim.with(vcpu, |context| {
        context.cpu.write_el1(El1Register::CntvCvalEl0, at);
        context.cpu.write_el1(El1Register::CntvCtlEl0, control);
    });
}

fn block(sim: &Sim, vcpu: VcpuId) {
    sim.hypercall(vcpu, hypercall::SCHED_OP, &[sched::BLOCK, 0]);
}

fn poll(sim: &Sim, vcpu: VcpuId, ports: &[u32], timeout: u64) -> Option<i64> {
    sim.put(vcpu.domain, SCRATCH + 0x800, ports);
    let request = sched::Poll {
        ports: SCRATCH + 0x800,
        nr_ports: ports.len() as u32,
        pad: 0,
        timeout,
    };
    sim.put(vcpu.domain, SCRATCH, &request);
    sim.hypercall(vcpu, hypercall::SCHED_OP, &[sched::POLL, SCRATCH])
}

fn mask(sim: &Sim, domain: DomainId, port: u32) {
    sim.put(domain, SHARED + 560 + u64::from(port / 64) * 8, &(1_u64 << (port % 64)));
}

#[test]
fn an_event_is_an_upcall_in_the_list_registers_of_the_vcpu_that_the_port_names() {
    let sim = Sim::new(&connected());
    listen(&sim, G0);
    listen(&sim, B0);
    assert_eq!(sim.send(B0, 11), 0);
    let upcall = sim.with(G0, |context| context.cpu.fake.interface().find(IntId(UPCALL)));
    assert!(upcall.is_some(), "while the vCPU runs");
    assert_eq!(sim.take_interrupt(G0), Some(UPCALL));
    assert_eq!(sim.take_events(G0, SHARED), [10]);
    // A second event before the first is taken is the same one.
    assert_eq!((sim.send(B0, 11), sim.send(B0, 11)), (0, 0));
    assert_eq!((sim.take_interrupt(G0), sim.take_interrupt(G0)), (Some(UPCALL), None));
    assert_eq!(sim.take_events(G0, SHARED), [10]);
    // The other direction, to a vCPU that sleeps.
    sim.wfi(B0);
    assert!(!sim.runs(B0));
    assert_eq!(sim.send(G0, 10), 0);
    assert!(sim.runs(B0));
    assert_eq!(sim.take_interrupt(B0), Some(UPCALL));
    assert_eq!(sim.take_events(B0, SHARED), [11]);
    // A masked port is only pending; unmasking it tells.
    mask(&sim, GUEST, 10);
    assert_eq!(sim.send(B0, 11), 0);
    assert_eq!(sim.take_interrupt(G0), None);
    assert_eq!(sim.events(G0, evtchn::UNMASK, evtchn::Port { port: 10 }).0, 0);
    assert_eq!(sim.take_interrupt(G0), Some(UPCALL));
    assert_eq!(sim.take_events(G0, SHARED), [10]);
    // To vCPU 1, which has no place for its news yet, nothing comes.
    let bind = evtchn::BindVcpu { port: 10, vcpu: 1 };
    assert_eq!(sim.events(G0, evtchn::BIND_VCPU, bind).0, 0);
    assert_eq!(sim.send(B0, 11), 0);
    assert_eq!(sim.take_interrupt(G0), None);
}

#[test]
fn a_vcpu_with_something_to_do_does_not_sleep() {
    let sim = Sim::new(&connected());
    listen(&sim, G0);
    assert_eq!(sim.send(B0, 11), 0);
    sim.wfi(G0);
    assert!(sim.runs(G0), "an upcall is pending");
    block(&sim, G0);
    assert!(sim.runs(G0));
    // Interrupts off in the CPU do not matter to WFI; those that the distributor holds back do.
    assert_eq!(sim.take_interrupt(G0), Some(UPCALL));
    block(&sim, G0);
    assert!(sim.runs(G0), "news not taken");
    sim.take_events(G0, SHARED);
    block(&sim, G0);
    assert!(!sim.runs(G0));
    assert_eq!(sim.deadline(0), None);
}

#[test]
fn block_takes_the_mask_of_interrupts_away_and_nothing_else_and_the_other_waits_keep_it() {
    const MASKED: u64 = 1 << 7;
    // Condition flags, each of D, A and F, and SSBS beside it.
    for kept in [5, 0x345, 0xf000_0305, 0x1145] {
        for before in [kept, kept | MASKED] {
            for sleeps in [false, true] {
                let sim = Sim::new(&connected());
                listen(&sim, G0);
                sim.enable_interrupts(G0);
                if !sleeps {
                    assert_eq!(sim.send(B0, 11), 0);
                }
                let pstate = || sim.with(G0, |context| context.state.frame.pstate);
                sim.with(G0, |context| context.state.frame.pstate = before);
                sim.wfi(G0);
                if sleeps {
                    assert_eq!(sim.send(B0, 11), 0);
                    assert_eq!(sim.take_interrupt(G0), Some(UPCALL));
                    sim.take_events(G0, SHARED);
                }
                sim.hypercall(G0, hypercall::SCHED_OP, &[sched::YIELD, 0]);
                assert_eq!(pstate(), before, "WFI and yield");
                block(&sim, G0);
                assert_eq!(sim.runs(G0), !sleeps);
                if sleeps {
                    assert_eq!(sim.send(B0, 11), 0);
                }
                assert!(sim.runs(G0));
                assert_eq!(pstate(), kept, "{before:#x}, sleeps: {sleeps}");
            }
        }
    }
}

#[test]
fn a_wake_up_at_any_moment_before_the_sleep_is_not_lost() {
    // Where the core is, for the vCPU that goes to sleep, when the event comes.
    let moments = [
        Moment::Translate(SCRATCH),
        Moment::Read(El1Register::CntvCtlEl0),
        Moment::Read(El1Register::CntvCvalEl0),
    ];
    for moment in moments {
        for (name, masked) in [
            ("poll", true),
            ("poll of a port that is not masked", false),
            ("block", false),
        ] {
            let sim = Sim::new(&connected());
            listen(&sim, G0);
            // It looks at its timer on the way; that fires in an hour.
            set_timer(&sim, G0, 1, 3600 * 1000 * MS);
            if masked {
                mask(&sim, GUEST, 10);
            }
            let other = sim.clone();
            sim.at(G0, moment, move || assert_eq!(other.send(B0, 11), 0));
            if name == "block" {
                if moment == Moment::Translate(SCRATCH) {
                    continue;
                }
                block(&sim, G0);
            } else {
                poll(&sim, G0, &[10], 0);
            }
            assert!(sim.runs(G0), "{name}: sleeps with an event that came at {moment:?}");
        }
    }
}

#[test]
fn polling_ends_with_an_event_or_with_time() {
    let sim = Sim::new(&connected());
    listen(&sim, G0);
    mask(&sim, GUEST, 10);
    assert_eq!(poll(&sim, G0, &[10], 0), None);
    assert!(!sim.runs(G0));
    sim.advance(1000 * MS);
    assert!(!sim.runs(G0));
    assert_eq!(sim.send(B0, 11), 0);
    assert!(sim.runs(G0));
    assert_eq!(sim.x(G0, 0), 0);
    assert_eq!(poll(&sim, G0, &[10], 0), Some(0), "it is pending still");
    sim.put(GUEST, SHARED + 48, &0_u64);
    // System time is nanoseconds since boot; the counter runs at 1 MHz.
    let now = 1_000_000_000;
    assert_eq!(poll(&sim, G0, &[10], now + 5_000_000), None);
    sim.advance(4999);
    assert!(!sim.runs(G0));
    sim.advance(1);
    assert!(sim.runs(G0));
    assert_eq!(poll(&sim, G0, &[10], now), Some(0), "a time that has passed");
    // So does an interrupt; afterwards the port wakes nobody.
    set_timer(&sim, G0, 1, now / 1000 + 2 * 5000);
    assert_eq!(poll(&sim, G0, &[10], 0), None);
    sim.advance(5000);
    assert!(sim.runs(G0));
    set_timer(&sim, G0, 0, 0);
    assert_eq!(sim.take_interrupt(G0), Some(27));
    sim.wfi(G0);
    assert_eq!(sim.send(B0, 11), 0);
    assert!(!sim.runs(G0), "the port is masked, and it does not poll");
}

#[test]
fn polling_no_port_waits_for_any_event() {
    let sim = Sim::new(&connected());
    listen(&sim, G0);
    mask(&sim, GUEST, 10);
    assert_eq!(poll(&sim, G0, &[], 0), None);
    assert!(!sim.runs(G0));
    assert_eq!(sim.send(B0, 11), 0);
    assert!(sim.runs(G0));
}

#[test]
fn a_timer_wakes_its_vcpu_and_is_an_interrupt_then() {
    let sim = Sim::new(&connected());
    listen(&sim, G0);
    let now = sim.machine_now();
    set_timer(&sim, G0, 1, now + 700);
    sim.wfi(G0);
    assert!(!sim.runs(G0));
    sim.advance(699);
    assert!(!sim.runs(G0));
    sim.advance(1);
    assert!(sim.runs(G0));
    assert_eq!(sim.take_interrupt(G0), Some(27));
    // A masked timer wakes nobody, nor does one that is off.
    for control in [0, 2, 3] {
        set_timer(&sim, G0, control, now + 1000);
        sim.wfi(G0);
        assert!(!sim.runs(G0), "{control}");
        assert_eq!(sim.deadline(0), None, "{control}");
        assert_eq!(sim.send(B0, 11), 0);
        assert!(sim.runs(G0), "{control}");
        assert_eq!(sim.take_interrupt(G0), Some(UPCALL));
        sim.take_events(G0, SHARED);
    }
    // A timer that has fired keeps WFI from sleeping.
    set_timer(&sim, G0, 1, now);
    sim.advance(1);
    sim.wfi(G0);
    assert!(sim.runs(G0));
}

impl Sim {
    fn machine_now(&self) -> u64 {
        use portunus::machine::Machine;
        self.machine().now().0
    }
}

#[test]
fn a_vcpu_starts_where_it_is_told_and_can_be_stopped_and_started_again() {
    let sim = Sim::new(&Options::default());
    let info = |sim: &Sim| sim.psci(G0, &[AFFINITY_INFO, 1, 0]);
    assert_eq!(info(&sim), Some(1), "off");
    for bad in [RAM - 4096, 0, 1 << 40, u64::MAX] {
        assert_eq!(sim.psci(G0, &[CPU_ON, 1, bad, 0]), Some(-9), "{bad:#x}");
    }
    assert_eq!(sim.psci(G0, &[CPU_ON, 2, RAM, 0]), Some(-2), "no such vCPU");
    assert_eq!(sim.psci(G0, &[CPU_ON, 0, RAM, 0]), Some(-4), "itself");
    for round in 0..3_u64 {
        assert_eq!(
            sim.psci(G0, &[CPU_ON, 1, RAM + 0x2000 + round * 4, 0x55 + round]),
            Some(0)
        );
        assert!(sim.runs(G1));
        assert_eq!((sim.pc(G1), sim.x(G1, 0)), (RAM + 0x2000 + round * 4, 0x55 + round));
        assert_eq!(sim.with(G1, |context| context.state.frame.pstate), 0x3c5);
        assert_eq!(sim.el1(G1, El1Register::SctlrEl1) & 1, 0, "MMU off");
        assert_eq!(info(&sim), Some(0), "on");
        assert_eq!(sim.psci(G0, &[CPU_ON, 1, RAM, 0]), Some(-4), "already on");
        set_timer(&sim, G1, 1, u64::MAX / 2);
        sim.psci(G1, &[CPU_OFF]);
        assert!(!sim.runs(G1));
        assert_eq!(sim.deadline(1), None);
        assert_eq!(info(&sim), Some(1));
    }
}

#[test]
fn a_vcpu_that_is_on_its_way_says_so_and_is_started_once() {
    // Both vCPUs of the guest on one pCPU: the second can't run before the first lets it.
    let sim = Sim::new(&Options {
        pcpus: [0, 0, 2, 3, 4],
        ..Options::default()
    });
    assert_eq!(sim.psci(G0, &[CPU_ON, 1, RAM + 0x2000, 1]), Some(0));
    if !sim.runs(G1) && sim.runs(G0) {
        assert_eq!(sim.psci(G0, &[AFFINITY_INFO, 1, 0]), Some(2), "on its way");
        assert_eq!(sim.psci(G0, &[CPU_ON, 1, RAM + 0x3000, 2]), Some(-5));
    }
    sim.run_until(G1);
    assert_eq!((sim.pc(G1), sim.x(G1, 0)), (RAM + 0x2000, 1));
}

/// MSR of a register of the EL1 physical timer: CNTP_CVAL_EL0 (2), CNTP_CTL_EL0 (1), CNTP_TVAL_EL0 (0).
fn write_physical_timer(sim: &Sim, vcpu: VcpuId, op2: u64, value: u64) {
    sim.set_x(vcpu, 1, value);
    let syndrome = 3 << 20 | op2 << 17 | 3 << 14 | 14 << 10 | 1 << 5 | 2 << 1;
    sim.trap(vcpu, exception(0x18, syndrome));
}

#[test]
fn a_physical_timer_whose_time_comes_while_its_vcpu_goes_to_sleep_wakes_it() {
    for wfi in [true, false] {
        for late in [0, 1, MS] {
            let sim = Sim::new(&Options::default());
            sim.enable_interrupts(G0);
            write_physical_timer(&sim, G0, 0, MS);
            write_physical_timer(&sim, G0, 1, 1);
            // The guest executes its instruction first, and the hypervisor has masked interrupts when the time comes.
            sim.set_stuck(0, true);
            sim.advance(MS + late);
            if wfi {
                sim.wfi(G0);
            } else {
                block(&sim, G0);
            }
            sim.set_stuck(0, false);
            sim.advance(0);
            assert!(sim.runs(G0), "WFI: {wfi}, {late} ticks late");
            assert_eq!(sim.take_interrupt(G0), Some(30), "WFI: {wfi}, {late} ticks late");
        }
    }
}

#[test]
fn a_physical_timer_fires_in_time_whatever_its_vcpu_waited_for_before() {
    type Way = (&'static str, fn(&Sim));
    let told = |sim: &Sim| {
        sim.wfi(G0);
        assert!(!sim.runs(G0));
        assert_eq!(sim.send(B0, 11), 0);
        assert!(sim.runs(G0), "the event ends the wait");
    };
    let preempted = |sim: &Sim| {
        sim.wfi(G0);
        sim.advance(MS);
        assert_eq!(sim.send(B0, 11), 0);
        sim.advance(MS);
    };
    let answered = |sim: &Sim| {
        let server = sim.serve(B0);
        assert_eq!(sim.load_from(G0, DISK + 8, 2, 1), None);
        assert!(!sim.runs(G0));
        sim.answer(B0, &server, 0, 7);
        assert_eq!(sim.x(G0, 1), 7);
    };
    let waits: [Way; 4] = [
        ("nothing", |_| ()),
        ("a server", answered),
        ("an event", told),
        ("an event, for a time", preempted),
    ];
    for (what, wait) in waits {
        let sim = Sim::new(&connected());
        listen(&sim, G0);
        write_physical_timer(&sim, G0, 0, 10 * MS);
        write_physical_timer(&sim, G0, 1, 1);
        wait(&sim);
        while sim.take_interrupt(G0).is_some() {}
        // From here on the guest traps no more.
        sim.advance(11 * MS);
        assert_eq!(sim.take_interrupt(G0), Some(30), "it waited for {what}");
    }
}

#[test]
fn a_vcpu_that_starts_again_has_a_quiet_physical_timer() {
    let sim = Sim::new(&Options::default());
    assert_eq!(sim.psci(G0, &[CPU_ON, 1, RAM, 0]), Some(0));
    sim.enable_interrupts(G1);
    // Its interrupt is asserted.
    write_physical_timer(&sim, G1, 2, 0);
    write_physical_timer(&sim, G1, 1, 1);
    assert!(
        sim.with(G1, |context| context.cpu.fake.interface().find(IntId(30)))
            .is_some()
    );
    sim.psci(G1, &[CPU_OFF]);
    assert_eq!(sim.psci(G0, &[CPU_ON, 1, RAM, 0]), Some(0));
    assert_eq!(sim.take_interrupt(G1), None, "the line fell with the timer");
}

#[test]
fn the_last_guest_that_stops_ends_the_run() {
    for (how, call) in [("SYSTEM_OFF", SYSTEM_OFF), ("SYSTEM_RESET", SYSTEM_RESET)] {
        let sim = Sim::new(&Options::default());
        assert_eq!(sim.psci(G0, &[CPU_ON, 1, RAM, 0]), Some(0));
        sim.psci(G1, &[call]);
        assert!(!sim.runs(G0) && !sim.runs(G1), "{how} stops all vCPUs");
        assert!(sim.domain(GUEST).is_stopped() && !sim.hypervisor.is_finished());
        assert!(sim.runs(B0) && sim.runs(S0));
        sim.advance(1000 * MS);
        assert!(!sim.runs(G0) && !sim.runs(G1));
        sim.shutdown(S0, 0);
        assert!(sim.hypervisor.is_finished(), "{how}");
    }
    // A vCPU that sleeps, and one that was only asked to start, stop too.
    let sim = Sim::new(&Options::default());
    assert_eq!(sim.psci(G0, &[CPU_ON, 1, RAM, 0]), Some(0));
    sim.wfi(G1);
    sim.psci(G0, &[SYSTEM_OFF]);
    sim.type_in(b"x");
    assert!(!sim.runs(G1));
}

#[test]
fn suspending_is_waiting_for_an_interrupt() {
    let sim = Sim::new(&connected());
    listen(&sim, G0);
    assert_eq!(sim.psci(G0, &[CPU_SUSPEND, 0, RAM, 0]), None);
    assert_eq!(sim.send(B0, 11), 0);
    assert!(sim.runs(G0));
    assert_eq!(sim.x(G0, 0), 0);
}
