//! What is counted is what happened.

use portunus::abi::memory;
use portunus::counters::Exit;
use portunus::domain::report::{DomainCounters, VcpuActivity};
use portunus::ids::{DomainId, ServerId, Ticks, VcpuId};
use portunus::ioreq::Stage;
use portunus::sched::Wait;

use crate::backend::PAGES;
use crate::guest::{exception, instruction_abort, vcpu};
use crate::sim::Sim;
use crate::world::{BACKEND, DISK, DISTRIBUTOR, GUEST, MS, Options, RAM, RAM_PAGES, UART};

const G0: VcpuId = vcpu(GUEST, 0);
const B0: VcpuId = vcpu(BACKEND, 0);
const NOWHERE: u64 = 0x3900_0000;

fn exits(sim: &Sim, vcpu: VcpuId) -> [u64; Exit::COUNT] {
    sim.hypervisor.vcpu_report(vcpu).expect("a vCPU").exits
}

#[test]
fn every_kind_of_exit_is_counted_once() {
    let sim = Sim::new(&Options::default());
    let server = sim.serve(B0);
    type Act<'a> = &'a dyn Fn();
    let act: [(Exit, Act<'_>); 12] = [
        (Exit::InterruptController, &|| {
            sim.load_from(G0, DISTRIBUTOR + 4, 2, 1);
        }),
        (Exit::Uart, &|| {
            sim.load_from(G0, UART + 0x18, 2, 1);
        }),
        (Exit::Server, &|| {
            sim.load_from(G0, DISK + 8, 2, 1);
            sim.answer(B0, &server, 0, 1);
        }),
        (Exit::Unclaimed, &|| {
            sim.load_from(G0, NOWHERE, 2, 1);
        }),
        (Exit::Memory, &|| {
            // A fault on a page that is mapped by now.
            sim.trap(G0, crate::guest::data_abort(crate::guest::S1PTW | 7, RAM));
        }),
        (Exit::Instruction, &|| sim.trap(G0, instruction_abort(7, RAM))),
        (Exit::Hypercall, &|| {
            sim.hypercall(G0, 63, &[]);
        }),
        (Exit::Firmware, &|| {
            sim.psci(G0, &[0x8400_0000]);
        }),
        (Exit::Firmware, &|| sim.trap(G0, exception(0x17, 0))),
        (Exit::Wait, &|| sim.trap(G0, exception(0x01, 1))),
        // ID_AA64PFR0_EL1 into x1.
        (Exit::SystemRegister, &|| {
            sim.trap(G0, exception(0x18, 0x30_0000 | 0x8 | 1 << 5 | 1))
        }),
        (Exit::Other, &|| sim.trap(G0, exception(0x07, 0))),
    ];
    for (exit, act) in act {
        let before = exits(&sim, G0);
        act();
        let mut expected = before;
        expected[exit as usize] += 1;
        assert_eq!(exits(&sim, G0), expected, "{exit:?}");
        assert!(sim.runs(G0), "after {exit:?}");
    }
    let before = exits(&sim, G0);
    sim.with(G0, |context| context.state.count(Exit::Interrupt));
    assert_eq!(
        exits(&sim, G0)[Exit::Interrupt as usize],
        before[Exit::Interrupt as usize] + 1
    );
}

#[test]
fn a_server_is_counted_by_its_answers_and_how_long_they_took() {
    let sim = Sim::new(&Options::default());
    let server = sim.serve(B0);
    let report = || {
        sim.hypervisor
            .server_report(GUEST, ServerId(server.id))
            .expect("a server")
    };
    let fresh = report();
    assert_eq!((fresh.owner, fresh.stage, fresh.ranges), (BACKEND, Stage::Enabled, 1));
    assert_eq!((fresh.answered, fresh.in_flight, fresh.longest), (0, 0, Ticks(0)));
    for delay in [1, 2, 3, 4, 5, 6, 7, 8, 9, 100] {
        assert_eq!(sim.load_from(G0, DISK + 8, 2, 1), None);
        assert_eq!(report().in_flight, 1);
        sim.advance(delay * MS);
        sim.answer(B0, &server, 0, 1);
    }
    let served = report();
    assert_eq!(
        (served.answered, served.in_flight, served.failed, served.posted),
        (10, 0, 0, 0)
    );
    assert_eq!(served.longest, Ticks(100 * MS));
    assert!((5 * MS..=6 * MS + MS / 2).contains(&served.median.0), "{served:?}");
    assert_eq!(served.percentile_99, Ticks(100 * MS));
    let vcpu = sim.hypervisor.vcpu_report(G0).expect("a vCPU");
    assert_eq!(vcpu.server_wait, Ticks(145 * MS));
    // One that is taken away.
    assert_eq!(sim.load_from(G0, DISK + 8, 2, 1), None);
    sim.set_enabled(B0, server.id, false);
    let disabled = report();
    assert_eq!(
        (disabled.stage, disabled.in_flight, disabled.failed),
        (Stage::Disabled, 0, 1)
    );
    assert_eq!(disabled.answered, 10);
    // Another one in its place begins anew.
    assert_eq!(sim.destroy_server(B0, server.id), 0);
    assert_eq!(sim.hypervisor.server_report(GUEST, ServerId(server.id)), None);
    assert_eq!(sim.create_server(B0), Ok(server.id));
    assert_eq!((report().answered, report().failed, report().longest), (0, 0, Ticks(0)));
}

#[test]
fn a_vcpu_that_waits_says_for_what_and_since_when() {
    let sim = Sim::new(&Options::default());
    let look = || sim.hypervisor.vcpu_report(G0).expect("a vCPU");
    assert_eq!((look().activity, look().request), (VcpuActivity::Running, None));
    assert_eq!(sim.load_from(G0, DISK + 8, 2, 1), None);
    sim.advance(3 * MS);
    let waits = look();
    assert_eq!(
        (waits.activity, waits.since),
        (VcpuActivity::Waiting(Wait::Request), Ticks(3 * MS))
    );
    let request = waits.request.expect("a request");
    assert_eq!(
        (request.address.0, request.server),
        (DISK + 8, None),
        "nobody serves it"
    );
    let server = sim.serve(B0);
    assert_eq!(look().request.expect("a request").server, Some(ServerId(server.id)));
    sim.answer(B0, &server, 0, 1);
    assert_eq!(
        (look().activity, look().server_wait),
        (VcpuActivity::Running, Ticks(3 * MS))
    );
    sim.wfi(G0);
    assert_eq!(look().activity, VcpuActivity::Waiting(Wait::Event));
    let off = sim.hypervisor.vcpu_report(vcpu(GUEST, 1)).expect("a vCPU");
    assert_eq!(off.activity, VcpuActivity::Waiting(Wait::Power));
    assert_eq!(sim.hypervisor.vcpu_report(vcpu(GUEST, 2)), None);
    assert_eq!(sim.hypervisor.vcpu_report(vcpu(DomainId(9), 0)), None);
}

#[test]
fn interrupts_that_a_vcpu_is_given_are_counted() {
    let sim = Sim::new(&Options::default());
    sim.enable_interrupts(G0);
    let given = || sim.hypervisor.vcpu_report(G0).expect("a vCPU").interrupts;
    let before = given();
    for round in 1..=5 {
        // GICD_ISPENDR of PPI 20.
        let frame = crate::world::REDISTRIBUTOR + 0x1_0000;
        assert!(sim.store_to(G0, frame + 0x200, 2, 1 << 20));
        assert_eq!(sim.take_interrupt(G0), Some(20));
        assert_eq!(given(), before + round);
    }
}

#[test]
fn what_can_leak_comes_back_to_where_it_was() {
    let sim = Sim::new(&Options::default());
    let look = |id| sim.hypervisor.domain_counters(id).expect("a domain");
    // Tables that the backend needs stay.
    assert_eq!(sim.map_foreign(B0, GUEST, &[(RAM >> 12, PAGES + 4)]).0, 0);
    assert_eq!(sim.remove(B0, PAGES + 4), 0);
    let (guest, backend) = (look(GUEST), look(BACKEND));
    assert_eq!(
        (
            guest.ram_pages,
            guest.foreign_pages,
            guest.references,
            guest.event_channels
        ),
        (RAM_PAGES, 0, 0, 0)
    );

    let server = sim.serve(B0);
    let pages: Vec<(u64, u64)> = (0..3).map(|page| ((RAM >> 12) + page, PAGES + 4 + page)).collect();
    assert_eq!(sim.map_foreign(B0, GUEST, &pages).0, 0);
    // One of them again, over another.
    assert_eq!(sim.map_foreign(B0, GUEST, &[(RAM >> 12, PAGES + 5)]).0, 0);
    let expected = DomainCounters {
        pool_used: guest.pool_used + 2,
        references: 2 + 3,
        attached_ports: 3,
        ..guest
    };
    assert_eq!(
        look(GUEST),
        expected,
        "two pages of the server, a port for each vCPU and one more"
    );
    let expected = DomainCounters {
        foreign_pages: 2 + 3,
        event_channels: 2,
        ..backend
    };
    assert_eq!(look(BACKEND), expected);

    assert_eq!(sim.destroy_server(B0, server.id), 0);
    for port in &server.ports {
        assert_eq!(sim.close(B0, *port), 0);
    }
    for gfn in [PAGES, PAGES + 1, PAGES + 4, PAGES + 5, PAGES + 6] {
        assert_eq!(sim.remove(B0, gfn), 0);
    }
    assert_eq!((look(GUEST), look(BACKEND)), (guest, backend));

    // RAM that is taken out and put back does not count as anybody's.
    let gfn = (RAM >> 12) + 0x300;
    let before = look(GUEST);
    assert_eq!(sim.reservation(G0, memory::DECREASE_RESERVATION, &[gfn]), 1);
    assert_eq!(sim.reservation(G0, memory::POPULATE_PHYSMAP, &[gfn]), 1);
    let after = look(GUEST);
    assert_eq!(
        (after.foreign_pages, after.references),
        (before.foreign_pages, before.references)
    );
}

#[test]
fn what_was_counted_before_a_restart_still_counts() {
    let sim = Sim::new(&Options {
        stranger: "portunus,control;",
        ..Options::default()
    });
    sim.enable_interrupts(G0);
    let frame = crate::world::REDISTRIBUTOR + 0x1_0000;
    assert!(sim.store_to(G0, frame + 0x200, 2, 1 << 20));
    sim.wfi(G0);
    let look = || sim.hypervisor.vcpu_report(G0).expect("a vCPU");
    let before = look();
    assert!(before.interrupts > 0);
    let action = portunus::abi::control::Action::on(GUEST.0);
    let restart = portunus::abi::control::RESTART;
    let stranger = vcpu(crate::world::STRANGER, 0);
    let (result, _) = sim.with_structure(stranger, portunus::abi::hypercall::CONTROL, restart, action);
    assert_eq!(result, 0);
    for _ in 0..10_000 {
        sim.advance(MS);
        if sim.runs(G0) {
            break;
        }
    }
    assert!(sim.runs(G0), "it is up again");
    let after = look();
    assert_eq!((after.interrupts, after.exits), (before.interrupts, before.exits));
    assert!(after.run_time >= before.run_time);
}
