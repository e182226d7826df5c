//! The story that the trace tells of a request, an interrupt, and what a guest may not do.

use portunus::cpu::Cpu;
use portunus::ids::{IntId, PcpuId, ServerId, VcpuId};
use portunus::machine::Machine;
use portunus::trace::{Denial, Event, Kind, served};

use crate::backend::PAGES;
use crate::guest::vcpu;
use crate::shadow_server::{INTERRUPT_ACK, world as shown};
use crate::sim::Sim;
use crate::world::{BACKEND, DISK, DISK_INTERRUPT, GUEST, MS, Options, STRANGER};

const G0: VcpuId = vcpu(GUEST, 0);
const B0: VcpuId = vcpu(BACKEND, 0);
const S0: VcpuId = vcpu(STRANGER, 0);

/// The events since the last look: pCPU, vCPU, kind, argument.
fn story(sim: &Sim) -> Vec<(PcpuId, VcpuId, Kind, u32)> {
    let events = sim.machine().take_trace();
    let told = |(pcpu, event): (PcpuId, Event)| (pcpu, event.vcpu.unwrap(), event.kind, event.argument);
    events.into_iter().map(told).collect()
}

#[test]
fn a_request_is_posted_where_the_guest_runs_answered_where_the_backend_runs_and_taken() {
    let sim = Sim::new(&Options::default());
    let server = sim.serve(B0);
    let (guest, backend) = (sim.pcpu_of(G0), sim.pcpu_of(B0));
    assert_ne!(guest, backend);
    let denied = story(&sim).into_iter().find(|(_, _, kind, _)| *kind == Kind::Denied);
    assert_eq!(denied, None, "who may serve asks for nothing that is denied");
    assert_eq!(sim.load_from(G0, DISK + 8, 2, 1), None);
    let by = served(BACKEND, ServerId(server.id));
    assert_eq!(story(&sim), [(guest, G0, Kind::Posted, by)]);
    sim.answer(B0, &server, 0, 5);
    assert_eq!(
        story(&sim),
        [(backend, G0, Kind::Answered, by), (guest, G0, Kind::Taken, 0)]
    );
}

#[test]
fn a_request_that_waits_for_a_server_is_told_with_its_page_and_posted_when_one_comes() {
    let sim = Sim::new(&Options::default());
    story(&sim);
    assert_eq!(sim.load_from(G0, DISK + 8, 2, 1), None);
    assert_eq!(story(&sim), [(sim.pcpu_of(G0), G0, Kind::Absent, (DISK >> 12) as u32)]);
    let server = sim.serve(B0);
    let posted = (sim.pcpu_of(B0), G0, Kind::Posted, served(BACKEND, ServerId(server.id)));
    assert!(story(&sim).contains(&posted));
}

#[test]
fn a_server_that_fails_is_told_and_its_guest_takes_what_the_policy_says() {
    for (disk, taken) in [
        ("timeout-ms = <10>; on-failure = \"ones\";", 0),
        ("timeout-ms = <10>; on-failure = \"abort\";", 1),
    ] {
        let sim = Sim::new(&Options {
            disk,
            ..Options::default()
        });
        let server = sim.serve(B0);
        assert_eq!(sim.load_from(G0, DISK + 8, 2, 1), None);
        story(&sim);
        sim.advance(11 * MS);
        let told = story(&sim);
        let kinds: Vec<Kind> = told
            .iter()
            .filter(|(_, vcpu, ..)| *vcpu == G0)
            .map(|(_, _, kind, _)| *kind)
            .collect();
        let mut wanted = vec![Kind::Failed, Kind::Taken];
        if taken == 1 {
            wanted.push(Kind::Denied);
        }
        assert_eq!(kinds, wanted, "{disk}");
        assert!(told.contains(&(sim.pcpu_of(G0), G0, Kind::Failed, served(BACKEND, ServerId(server.id)))));
        assert!(told.contains(&(sim.pcpu_of(G0), G0, Kind::Taken, taken)));
    }
}

#[test]
fn an_interrupt_is_told_when_it_is_given_acknowledged_in_its_device_and_ended() {
    let sim = shown();
    let server = sim.serve_shown(PAGES);
    let pcpu = sim.pcpu_of(G0);
    sim.run_until(G0);
    story(&sim);
    assert_eq!(sim.change_word(server.id, 0, 1), 0);
    let interrupt = IntId(DISK_INTERRUPT);
    let taken = sim.with(G0, |context| context.cpu.virtual_interface().acknowledge());
    assert_eq!(taken, Some(interrupt));
    story(&sim);
    assert!(sim.store_to_shown(G0, DISK + INTERRUPT_ACK, 2, 1));
    assert_eq!(story(&sim), [(pcpu, G0, Kind::Acknowledged, DISK_INTERRUPT)]);
    sim.with(G0, |context| context.cpu.virtual_interface().end(interrupt));
    sim.maintain(G0);
    // What a virtual interface tells goes into the same ring on a machine.
    let told = sim.with(G0, |context| context.cpu.virtual_interface().trace.clone());
    assert_eq!(told, [(Kind::Injected, interrupt), (Kind::Ended, interrupt)]);
}

#[test]
fn what_a_domain_may_not_do_is_told_with_whom_it_wanted_it_of() {
    let sim = Sim::new(&Options::default());
    story(&sim);
    assert!(sim.create_server(S0).is_err());
    let denied = (sim.pcpu_of(S0), S0, Kind::Denied, Denial::Policy.argument(Some(GUEST)));
    assert_eq!(story(&sim), [denied]);
}

#[test]
fn the_last_events_of_a_vcpu_are_shown_oldest_first() {
    let sim = Sim::new(&Options::default());
    let server = sim.serve(B0);
    assert_eq!(sim.load_from(G0, DISK + 8, 2, 1), None);
    sim.answer(B0, &server, 0, 5);
    sim.advance(3 * MS);
    sim.machine().trace(Kind::Idle, G0, 0);
    sim.machine().trace(Kind::Injected, G0, 27);
    sim.shown();
    sim.type_in(b"\x01T");
    for _ in 0..200 {
        sim.advance(MS);
    }
    let shown = sim.shown();
    let guest = shown.find("guest vCPU 0 on pCPU").expect(&shown);
    let rest = &shown[guest..];
    assert!(!rest.contains("idle"), "{rest}");
    let places: Vec<Option<usize>> = [
        "ago  d1v0 request posted d2 server 0",
        "ago  d1v0 answer taken",
        "ago  d1v0 injected 27",
        "vCPU 1 on pCPU",
        "dm vCPU 0 on pCPU",
    ]
    .iter()
    .map(|text| rest.find(text))
    .collect();
    assert!(
        places.iter().all(Option::is_some) && places.is_sorted(),
        "{places:?} in {rest}"
    );
}
