//! The life of a request, from the guest's LDR to the register that it loads, and everything that can come between.

use portunus::abi::ioreq::State;
use portunus::abi::{HypercallError, dm_op, evtchn, hypercall, sched};
use portunus::cpu::El1Register;
use portunus::ids::{DomainId, VcpuId};

use crate::backend::{PAGES, Server};
use crate::guest::{TRANSLATION, data_abort, refused, vcpu};
use crate::sim::{Moment, Sim};
use crate::world::{BACKEND, DISK, DISK_INTERRUPT, EMPTY_GFN, GUEST, MS, Options, RAM, SCRATCH, STRANGER};

const G0: VcpuId = vcpu(GUEST, 0);
const G1: VcpuId = vcpu(GUEST, 1);
const B0: VcpuId = vcpu(BACKEND, 0);
const B1: VcpuId = vcpu(BACKEND, 1);
const S0: VcpuId = vcpu(STRANGER, 0);
const VECTORS: u64 = RAM + 0x10_0000;
/// Where the backend has its shared page.
const SHARED: u64 = (EMPTY_GFN + 0x20) << 12;

fn with_disk(disk: &'static str) -> Options {
    Options {
        disk,
        ..Options::default()
    }
}

/// The guest reads the register at offset 8 of its disk into x1.
fn ask(sim: &Sim, guest: VcpuId) {
    sim.set_x(guest, 1, 0x1111_2222_3333_4444);
    assert_eq!(sim.load_from(guest, DISK + 8, 2, 1), None, "answered at once");
    assert!(!sim.runs(guest));
}

/// What the guest's read ended with.
#[derive(Debug, PartialEq)]
enum Outcome {
    Waits,
    Loaded(u64),
    Aborted,
}

use Outcome::{Aborted, Loaded, Waits};

const ONES: Outcome = Loaded(0xffff_ffff);

fn outcome(sim: &Sim, guest: VcpuId) -> Outcome {
    let at = sim.with(guest, |context| context.state.frame.clone());
    if !sim.runs(guest) {
        Waits
    } else if at.pc == VECTORS + 0x200 {
        assert_eq!(sim.el1(guest, El1Register::EsrEl1), 0x25 << 26 | 1 << 25 | 0x10);
        assert_eq!(sim.el1(guest, El1Register::FarEl1), DISK + 8);
        Aborted
    } else {
        Loaded(at.x[1])
    }
}

fn set_vectors(sim: &Sim) {
    sim.with(G0, |context| {
        portunus::cpu::Cpu::write_el1(&mut context.cpu.fake, El1Register::VbarEl1, VECTORS);
    });
}

#[test]
fn a_load_blocks_its_vcpu_until_the_backend_has_answered_through_its_page() {
    let sim = Sim::new(&Options::default());
    let server = sim.serve(B0);
    let pc = sim.pc(G0);
    ask(&sim, G0);
    let slot = sim.slot(BACKEND, &server, 0);
    assert_eq!(
        (slot.state(), slot.addr, slot.size, slot.count),
        (State::READY, DISK + 8, 4, 1)
    );
    assert!(slot.is_read() && !slot.data_is_pointer());
    assert_eq!(sim.pc(G0), pc);
    // The backend says that it works on it, even several times and backwards.
    for state in [State::INPROCESS, State::READY, State::INPROCESS] {
        sim.set_slot(BACKEND, &server, 0, state, 7);
        assert_eq!(sim.send(B0, server.ports[0]), 0);
        assert_eq!(outcome(&sim, G0), Waits);
    }
    sim.answer(B0, &server, 0, 0xdddd_dddd_0000_1234);
    assert_eq!(
        outcome(&sim, G0),
        Loaded(0x1234),
        "the width of the access masks the answer"
    );
    assert_eq!(sim.pc(G0), pc + 4);
    assert_eq!(sim.slot(BACKEND, &server, 0).state(), State::NONE);
    // A store goes the same way.
    assert!(!sim.store_to(G0, DISK + 0x30, 1, 0xabcd_ef01));
    let slot = sim.slot(BACKEND, &server, 0);
    assert_eq!(
        (slot.addr, slot.size, slot.data, slot.is_read()),
        (DISK + 0x30, 2, 0xef01, false)
    );
    sim.answer(B0, &server, 0, 0);
    assert!(sim.runs(G0));
    assert_eq!(sim.pc(G0), pc + 8);
    // An event without a request changes nothing.
    assert_eq!(sim.send(B0, server.ports[0]), 0);
    assert_eq!(sim.pc(G0), pc + 8);
}

#[test]
fn two_vcpus_wait_for_two_answers_that_come_in_the_other_order() {
    let sim = Sim::new(&Options::default());
    let server = sim.serve(B0);
    assert_eq!(sim.psci(G0, &[0xc400_0003, 1, RAM + 0x1000, 0]), Some(0));
    ask(&sim, G0);
    ask(&sim, G1);
    sim.answer(B0, &server, 1, 11);
    assert_eq!((outcome(&sim, G0), outcome(&sim, G1)), (Waits, Loaded(11)));
    ask(&sim, G1);
    sim.answer(B0, &server, 0, 10);
    assert_eq!((outcome(&sim, G0), outcome(&sim, G1)), (Loaded(10), Waits));
    sim.answer(B0, &server, 1, 12);
    assert_eq!(outcome(&sim, G1), Loaded(12));
}

#[test]
fn a_backend_has_only_the_time_that_the_manifest_gives_it() {
    let cases = [
        ("on-failure = \"ones\";", ONES),
        ("on-failure = \"abort\";", Aborted),
        // It waits on for an answer that may come late.
        ("", Waits),
    ];
    for (index, (policy, after)) in cases.into_iter().enumerate() {
        let disks = [
            "timeout-ms = <250>; on-failure = \"ones\";",
            "timeout-ms = <250>; on-failure = \"abort\";",
            "timeout-ms = <250>; attach-timeout-ms = <0>;",
        ];
        let sim = Sim::new(&with_disk(disks[index]));
        set_vectors(&sim);
        let server = sim.serve(B0);
        ask(&sim, G0);
        sim.advance(249 * MS);
        assert_eq!(outcome(&sim, G0), Waits, "{policy}");
        sim.advance(MS);
        assert_eq!(outcome(&sim, G0), after, "{policy}");
        if after == Waits {
            sim.advance(100_000 * MS);
            assert_eq!(outcome(&sim, G0), Waits, "for ever");
            sim.answer(B0, &server, 0, 42);
            assert_eq!(outcome(&sim, G0), Loaded(42), "a late answer is one");
            ask(&sim, G0);
            sim.answer(B0, &server, 0, 43);
            assert_eq!(outcome(&sim, G0), Loaded(43), "the server is trusted again");
        } else {
            // The server is no more; the next access waits for another.
            ask(&sim, G0);
            let next = sim.serve_at(B0, PAGES + 2);
            sim.answer(B0, &next, 0, 44);
            assert_eq!(outcome(&sim, G0), Loaded(44));
        }
    }
}

#[test]
fn time_in_which_the_backend_gets_no_processor_does_not_count() {
    // The stranger runs on the backend's pCPU, too.
    let sim = Sim::new(&Options {
        disk: "timeout-ms = <10>; on-failure = \"ones\";",
        pcpus: [0, 1, 2, 2, 2],
        ..Options::default()
    });
    sim.run_until(B0);
    sim.serve(B0);
    // Nobody is asked on pCPU 2 while the stranger computes: its slice goes on for ever.
    sim.run_until(S0);
    ask(&sim, G0);
    let mut backend_ran = 0;
    let mut total = 0;
    while outcome(&sim, G0) == Waits {
        backend_ran += u64::from(sim.runs(B0));
        total += 1;
        sim.advance(MS / 2);
        assert!(total < 1000, "for ever");
    }
    assert_eq!(outcome(&sim, G0), ONES);
    assert!(total > 30, "{total} half milliseconds in all");
    assert!(
        (18..=22).contains(&backend_ran),
        "the backend computed for {backend_ran} half milliseconds"
    );
}

#[test]
fn nonsense_in_the_slot_counts_twice_in_a_row() {
    for (disk, after) in [
        ("on-failure = \"ones\";", ONES),
        ("on-failure = \"abort\";", Aborted),
        ("attach-timeout-ms = <100>;", Waits),
    ] {
        for state in [State::NONE, State(4), State(0xf)] {
            let sim = Sim::new(&with_disk(disk));
            set_vectors(&sim);
            let server = sim.serve(B0);
            let tell = |state| {
                sim.set_slot(BACKEND, &server, 0, state, 1);
                assert_eq!(sim.send(B0, server.ports[0]), 0);
            };
            ask(&sim, G0);
            tell(state);
            assert_eq!(outcome(&sim, G0), Waits, "{disk} {state:?}");
            tell(State::INPROCESS);
            tell(state);
            assert_eq!(outcome(&sim, G0), Waits, "{disk} {state:?} not in a row");
            tell(state);
            assert_eq!(outcome(&sim, G0), after, "{disk} {state:?}");
            if after == Waits {
                sim.advance(100 * MS);
                assert_eq!(outcome(&sim, G0), ONES, "nobody came");
            }
        }
    }
}

#[test]
fn a_guest_waits_for_a_server_that_comes_late_or_never() {
    for (disk, after) in [
        ("", ONES),
        ("on-failure = \"ones\";", ONES),
        ("on-failure = \"abort\";", Aborted),
    ] {
        let sim = Sim::new(&with_disk(disk));
        set_vectors(&sim);
        ask(&sim, G0);
        sim.advance(4000 * MS);
        let server = sim.serve(B0);
        assert_eq!(sim.slot(BACKEND, &server, 0).state(), State::READY, "{disk}");
        sim.answer(B0, &server, 0, 5);
        assert_eq!(outcome(&sim, G0), Loaded(5), "{disk}");

        let sim = Sim::new(&with_disk(disk));
        set_vectors(&sim);
        ask(&sim, G0);
        assert!(sim.deadline(0).is_some(), "{disk}");
        sim.advance(1000 * MS * 60 * 60);
        assert_eq!(outcome(&sim, G0), after, "{disk}");
    }
    let sim = Sim::new(&with_disk("attach-timeout-ms = <0>;"));
    ask(&sim, G0);
    sim.advance(1000 * MS * 60 * 60 * 24);
    assert_eq!(outcome(&sim, G0), Waits, "no limit");
}

/// What makes a server stop serving while it has a request.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Destroyed,
    Disabled,
    Unmapped,
    PortClosed,
    PortsClosed,
    Reset,
    Shutdown,
    PowerOff,
    Crash,
}

fn lose(sim: &Sim, server: &Server, loss: Loss) {
    match loss {
        Loss::Destroyed => assert_eq!(sim.destroy_server(B0, server.id), 0),
        Loss::Disabled => assert_eq!(sim.set_enabled(B0, server.id, false), 0),
        Loss::Unmapped => {
            let range = dm_op::IoRange {
                id: server.id,
                kind: dm_op::IoRange::MEMORY,
                start: DISK,
                end: DISK + 0x1ff,
                ..Default::default()
            };
            assert_eq!(sim.dm_op(B0, dm_op::UNMAP_IO_RANGE_FROM_IOREQ_SERVER, range).0, 0);
        }
        Loss::PortClosed => assert_eq!(sim.close(B0, server.ports[1]), 0),
        Loss::PortsClosed => server.ports.iter().for_each(|port| assert_eq!(sim.close(B0, *port), 0)),
        Loss::Reset => {
            let reset = evtchn::Reset { dom: DomainId::SELF.0 };
            assert_eq!(sim.events(B0, evtchn::RESET, reset).0, 0);
        }
        Loss::Shutdown => sim.shutdown(B0, 0),
        Loss::PowerOff => {
            sim.psci(B0, &[0x8400_0008]);
        }
        Loss::Crash => sim.shutdown(B0, 3),
    }
}

#[test]
fn a_server_lost_with_a_request_ends_it_by_the_devices_policy() {
    let losses = [
        Loss::Destroyed,
        Loss::Disabled,
        Loss::Unmapped,
        Loss::PortClosed,
        Loss::PortsClosed,
        Loss::Reset,
        Loss::Shutdown,
        Loss::PowerOff,
        Loss::Crash,
    ];
    for loss in losses {
        for (disk, after) in [
            ("on-failure = \"ones\";", ONES),
            ("on-failure = \"abort\";", Aborted),
            ("attach-timeout-ms = <1000>;", Waits),
        ] {
            let sim = Sim::new(&with_disk(disk));
            set_vectors(&sim);
            let server = sim.serve(B0);
            ask(&sim, G0);
            lose(&sim, &server, loss);
            assert_eq!(outcome(&sim, G0), after, "{loss:?} {disk}");
            let gone = matches!(loss, Loss::Shutdown | Loss::PowerOff | Loss::Crash);
            if after != Waits {
                continue;
            }
            if gone {
                sim.advance(1000 * MS);
                assert_eq!(outcome(&sim, G0), ONES, "{loss:?}: nobody else serves");
            } else {
                let next = sim.serve_at(B0, PAGES + 2);
                sim.answer(B0, &next, 0, 77);
                assert_eq!(outcome(&sim, G0), Loaded(77), "{loss:?}: the next server");
            }
        }
    }
}

#[test]
fn a_server_enabled_again_answers_again() {
    let sim = Sim::new(&Options::default());
    let server = sim.serve(B0);
    ask(&sim, G0);
    lose(&sim, &server, Loss::Disabled);
    assert_eq!(sim.set_enabled(B0, server.id, true), 0);
    assert_eq!(sim.slot(BACKEND, &server, 0).state(), State::READY, "it is asked again");
    sim.answer(B0, &server, 0, 3);
    assert_eq!(outcome(&sim, G0), Loaded(3));
}

#[test]
fn a_guest_that_stops_takes_its_request_along() {
    let sim = Sim::new(&Options::default());
    let server = sim.serve(B0);
    assert_eq!(sim.psci(G0, &[0xc400_0003, 1, RAM + 0x1000, 0]), Some(0));
    ask(&sim, G0);
    sim.psci(G1, &[0x8400_0008]);
    assert!(sim.domain(GUEST).is_stopped());
    sim.answer(B0, &server, 0, 1);
    assert!(!sim.runs(G0) && !sim.runs(G1));
    assert!(!sim.hypervisor.is_finished(), "the stranger runs");
}

#[test]
fn nobody_but_the_backend_serves_and_nothing_but_the_disk() {
    let sim = Sim::new(&Options::default());
    for other in [S0, G0] {
        let refusal = sim.create_server(other);
        assert_eq!(refusal, Err(refused(HypercallError::NotPermitted)), "{other:?}");
    }
    let id = sim.create_server(B0).expect("a server");
    for (start, end) in [
        (DISK, DISK + 0x200),
        (DISK - 1, DISK),
        (0, u64::MAX),
        (EMPTY_GFN << 12, EMPTY_GFN << 12),
    ] {
        let result = sim.map_range(B0, id, start, end);
        assert_eq!(result, refused(HypercallError::NotPermitted), "{start:#x}");
    }
    let level = |irq, level| dm_op::SetIrqLevel {
        irq,
        level,
        pad: [0; 3],
    };
    assert_eq!(sim.dm_op(B0, dm_op::SET_IRQ_LEVEL, level(DISK_INTERRUPT, 1)).0, 0);
    let refusal = sim.dm_op(B0, dm_op::SET_IRQ_LEVEL, level(DISK_INTERRUPT + 1, 1)).0;
    assert_eq!(refusal, refused(HypercallError::NotPermitted));
}

#[test]
fn an_answer_that_comes_before_its_vcpu_sleeps_is_not_lost() {
    // The guest and the backend are on pCPUs of their own, and the answer comes while the guest's pCPU is in EL2.
    let sim = Sim::new(&Options::default());
    let server = sim.serve(B0);
    assert_eq!(sim.psci(G0, &[0xc400_0003, 1, RAM + 0x1000, 0]), Some(0));
    ask(&sim, G1);
    // LDP W1, W2, [X3]: two requests; the second is made when the first is answered.
    sim.put(GUEST, sim.pc(G0), &0x2940_0861_u32);
    sim.set_x(G0, 3, DISK + 8);
    let pc = sim.pc(G0);
    sim.trap_only(G0, data_abort(TRANSLATION, DISK + 8));
    sim.answer(B0, &server, 0, 1);
    sim.answer(B0, &server, 0, 2);
    assert_eq!((sim.pc(G0), sim.x(G0, 1), sim.x(G0, 2)), (pc + 4, 1, 2));
}

#[test]
fn the_backend_on_the_guests_pcpu_runs_next_and_the_guest_after_its_answer() {
    let sim = Sim::new(&Options {
        pcpus: [0, 1, 0, 3, 0],
        ..Options::default()
    });
    sim.run_until(B0);
    let server = sim.serve(B0);
    // The backend sleeps until it is told; the guest and the stranger take turns.
    sim.enable_interrupts(B0);
    assert_eq!(sim.map_shared_info(B0, SHARED >> 12), 0);
    sim.take_events(B0, SHARED);
    sim.take_interrupt(B0);
    assert_eq!(sim.hypercall(B0, hypercall::SCHED_OP, &[sched::BLOCK, 0]), None);
    for _ in 0..20 {
        sim.run_until(G0);
        sim.load_from(G0, DISK + 8, 2, 1);
        assert!(
            sim.runs(B0),
            "the stranger has waited longer, but the guest's time pays for the backend"
        );
        sim.set_slot(BACKEND, &server, 0, State::IORESP_READY, 9);
        sim.put(BACKEND, SCRATCH, &server.ports[0]);
        let sent = sim.hypercall(B0, hypercall::EVENT_CHANNEL_OP, &[evtchn::SEND, SCRATCH]);
        assert_eq!(sent, None, "the answer ends the loan at once");
        assert!(sim.runs(G0));
        // The backend waits again when it comes to its turn.
        sim.run_until(B0);
        assert_eq!(sim.take_interrupt(B0), Some(31));
        assert_eq!(sim.take_events(B0, SHARED), server.ports[..1]);
        sim.hypercall(B0, hypercall::SCHED_OP, &[sched::BLOCK, 0]);
    }
}

#[test]
fn a_server_destroyed_while_the_guest_asks_leaves_nobody_waiting_for_it() {
    let sim = Sim::new(&with_disk("on-failure = \"ones\";"));
    let server = sim.serve(B0);
    assert_eq!(sim.psci(B0, &[0xc400_0003, 1, RAM, 0]), Some(0));
    let other = sim.clone();
    let id = server.id;
    // Between the guest's abort and the request.
    sim.at(G0, Moment::Translate(sim.pc(G0) & !0xfff), move || {
        assert_eq!(other.destroy_server(B1, id), 0);
    });
    sim.put(GUEST, sim.pc(G0), &0x2940_0861_u32);
    sim.set_x(G0, 3, DISK + 8);
    sim.trap(G0, data_abort(TRANSLATION, DISK + 8));
    assert_eq!(outcome(&sim, G0), Waits, "for a server to come");
    for _half in 0..2 {
        sim.advance(1000 * MS * 60);
    }
    assert_eq!(outcome(&sim, G0), ONES);
}
