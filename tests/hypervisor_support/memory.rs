//! Guests that change their physical maps: who has which frame at every moment.

use portunus::abi::{HypercallError, evtchn, hypercall, memory, vcpu as vcpu_abi};
use portunus::domain::Domain;
use portunus::evtchn::Channel;
use portunus::fakes::{Operation, translation_order};
use portunus::ids::{DomainId, EventPort, Ipa, Pa, VcpuId};

use crate::announcements::give_back_heard;
use crate::backend::PAGES;
use crate::guest::{refused, vcpu};
use crate::sim::{Moment, Sim};
use crate::world::{BACKEND, EMPTY_GFN, GUEST, Options, RAM, SCRATCH};

const G0: VcpuId = vcpu(GUEST, 0);
const B0: VcpuId = vcpu(BACKEND, 0);
const B1: VcpuId = vcpu(BACKEND, 1);
/// Frames of RAM that hold nothing.
const SPARE: u64 = (RAM >> 12) + 0x300;

fn is_ram_of(sim: &Sim, domain: DomainId, frame: Pa) -> bool {
    let ranges = &sim.domain(domain).ram;
    ranges.iter().any(|range| range.start <= frame && frame.0 < range.end())
}

#[test]
fn what_the_hypervisor_writes_into_a_page_that_left_the_map_misleads_nobody() {
    let sim = Sim::new(&Options::default());
    let info = vcpu_abi::RegisterVcpuInfo {
        mfn: SPARE + 1,
        ..Default::default()
    };
    sim.put(GUEST, SCRATCH, &info);
    let call = [vcpu_abi::REGISTER_VCPU_INFO, 0, SCRATCH];
    assert_eq!(sim.hypercall(G0, hypercall::VCPU_OP, &call), Some(0));
    let (result, ipi) = sim.events(G0, evtchn::BIND_IPI, evtchn::BindIpi::default());
    assert_eq!(result, 0);
    sim.put(GUEST, (SPARE + 1) << 12, &[0_u64; 2]);
    let gfns = [SPARE, SPARE + 1, SPARE + 2];
    assert_eq!(sim.reservation(G0, memory::DECREASE_RESERVATION, &gfns), 3);
    assert_eq!(sim.send(G0, ipi.port), 0);

    assert_eq!(sim.reservation(G0, memory::POPULATE_PHYSMAP, &gfns), 3);
    let mut frames = gfns.map(|gfn| sim.pa(GUEST, gfn << 12));
    assert!(frames.iter().all(|frame| is_ram_of(&sim, GUEST, *frame)), "{frames:?}");
    frames.sort();
    assert!(frames[0] != frames[1] && frames[1] != frames[2], "{frames:?}");
}

/// Frames and ports that a domain has in use.
fn account(sim: &Sim) -> Vec<(DomainId, u64, usize)> {
    let one = |domain: &Domain| {
        let events = domain.events.lock();
        let ports = (1..2000).filter(|port| {
            events
                .port(EventPort(*port))
                .is_some_and(|port| port.channel != Channel::Free)
        });
        (domain.id, domain.memory.lock().pool.free_frames(), ports.count())
    };
    sim.hypervisor.domains().map(one).collect()
}

fn power_on(sim: &Sim, by: VcpuId, index: u64) {
    assert_eq!(sim.psci(by, &[0xc400_0003, index, RAM, 0]), Some(0));
}

#[test]
fn a_page_of_a_server_that_is_destroyed_during_its_mapping_is_not_mapped() {
    for count in [1, 2] {
        let sim = Sim::new(&Options::default());
        power_on(&sim, B0, 1);
        let id = sim.create_server(B0).expect("a server");
        let before = sim.domain(GUEST).memory.lock().pool.free_frames();
        let other = sim.clone();
        sim.at(B0, Moment::Translate(SCRATCH + 0x1000), move || {
            // The other vCPU of the backend has structures of its own.
            let kept: [[u8; 4096]; 2] = [SCRATCH, SCRATCH + 0x1000].map(|at| other.get(BACKEND, at));
            assert_eq!(other.destroy_server(B1, id), 0);
            // The guest's pool hands the frames out again, for tables.
            for gib in 0..4 {
                assert_eq!(other.map_shared_info(G0, gib << 18), 0);
                assert_eq!(other.remove(G0, gib << 18), 0);
            }
            other.put(BACKEND, SCRATCH, &kept[0]);
            other.put(BACKEND, SCRATCH + 0x1000, &kept[1]);
        });
        assert_eq!(
            sim.acquire(B0, id, PAGES, count),
            refused(HypercallError::Invalid),
            "{count} pages"
        );
        for page in 0..2 {
            let memory = sim.domain(BACKEND).memory.lock();
            assert_eq!(memory.stage2.lookup(sim.machine(), Ipa((PAGES + page) << 12)), None);
        }
        assert!(
            sim.domain(GUEST).memory.lock().pool.free_frames() < before + 2,
            "tables were made"
        );
    }
}

#[test]
fn a_servers_frames_and_ports_come_back_in_whatever_order_it_ends() {
    let sim = Sim::new(&Options::default());
    // Tables for the window stay.
    assert_eq!(sim.map_shared_info(B0, PAGES), 0);
    assert_eq!(sim.remove(B0, PAGES), 0);
    let before = account(&sim);
    for order in 0..6 {
        let server = sim.serve(B0);
        let unmap = || (0..2).for_each(|page| assert_eq!(sim.remove(B0, PAGES + page), 0));
        let close = || server.ports.iter().for_each(|port| assert_eq!(sim.close(B0, *port), 0));
        let destroy = || assert_eq!(sim.destroy_server(B0, server.id), 0);
        let steps: [&dyn Fn(); 3] = match order {
            0 => [&unmap, &close, &destroy],
            1 => [&unmap, &destroy, &close],
            2 => [&close, &unmap, &destroy],
            3 => [&close, &destroy, &unmap],
            4 => [&destroy, &unmap, &close],
            _ => [&destroy, &close, &unmap],
        };
        steps.into_iter().for_each(|step| step());
        assert_eq!(account(&sim), before, "order {order}");
    }
}

#[test]
fn shared_info_over_ram_parks_the_page_and_is_in_one_place_at_a_time() {
    let sim = Sim::new(&Options::default());
    let before = account(&sim);
    let shared = sim.domain(GUEST).events.lock().shared_info();
    let ram = sim.pa(GUEST, SPARE << 12);
    sim.put(GUEST, SPARE << 12, b"secret");
    assert_eq!(sim.map_shared_info(G0, SPARE), 0);
    assert_eq!(sim.pa(GUEST, SPARE << 12), shared);
    assert_eq!(sim.map_shared_info(G0, SPARE), 0, "it is there already");
    assert_eq!(sim.map_shared_info(G0, SPARE + 1), refused(HypercallError::Busy));
    assert_eq!(
        sim.reservation(G0, memory::DECREASE_RESERVATION, &[SPARE]),
        0,
        "it is no RAM"
    );
    // RAM in its place: the page is in nobody's map then.
    assert_eq!(sim.reservation(G0, memory::POPULATE_PHYSMAP, &[SPARE]), 1);
    assert_eq!(sim.pa(GUEST, SPARE << 12), ram, "the page that was parked");
    assert_eq!(sim.get::<[u8; 6]>(GUEST, SPARE << 12), [0; 6]);
    assert_eq!(sim.map_shared_info(G0, SPARE + 1), 0);
    assert_eq!(sim.remove(G0, SPARE + 1), 0);
    assert_eq!(sim.remove(G0, SPARE + 1), refused(HypercallError::NoEntry));
    assert_eq!(
        sim.reservation(G0, memory::POPULATE_PHYSMAP, &[SPARE + 1, SPARE + 2]),
        1
    );
    // One block of RAM became pages.
    assert_eq!(account(&sim)[1..], before[1..]);
    assert_eq!(account(&sim)[0].1 + 1, before[0].1);
}

#[test]
fn a_page_that_another_domain_maps_is_handed_out_again_only_when_that_one_let_go() {
    let sim = Sim::new(&Options::default());
    let frames = [0, 1, 2].map(|index| sim.pa(GUEST, (SPARE + index) << 12));
    let gfns = [SPARE, SPARE + 1, SPARE + 2];
    let window = EMPTY_GFN + 0x10;
    // The second place is given twice: the last one stays. The third is the backend's own RAM.
    let pages = [
        (gfns[0], window),
        (gfns[1], window + 1),
        (gfns[2], window + 1),
        (gfns[2], SPARE),
    ];
    assert_eq!(sim.map_foreign(B0, GUEST, &pages), (0, vec![0; 4]));
    assert_eq!(sim.pa(BACKEND, window << 12), frames[0]);
    assert_eq!(sim.pa(BACKEND, (window + 1) << 12), frames[2]);
    assert_eq!(sim.pa(BACKEND, SPARE << 12), frames[2]);
    sim.put(BACKEND, window << 12, b"written by the backend");

    assert_eq!(sim.reservation(G0, memory::DECREASE_RESERVATION, &gfns), 3);
    assert_eq!(
        sim.map_foreign(B0, GUEST, &[(gfns[0], window + 2)]).1,
        [-22],
        "the guest has it no more"
    );
    assert_eq!(
        sim.reservation(G0, memory::POPULATE_PHYSMAP, &gfns),
        1,
        "the others are mapped still"
    );
    assert_eq!(sim.pa(GUEST, gfns[0] << 12), frames[1]);
    assert_eq!(sim.remove(B0, window + 1), 0);
    assert_eq!(
        sim.reservation(G0, memory::POPULATE_PHYSMAP, &gfns[1..]),
        0,
        "mapped a second time"
    );
    assert_eq!(sim.remove(B0, SPARE), 0);
    assert_eq!(sim.reservation(G0, memory::POPULATE_PHYSMAP, &gfns[1..]), 1);
    assert_eq!(sim.pa(GUEST, gfns[1] << 12), frames[2]);
    // Another page in its place gives the reference back too.
    assert_eq!(sim.map_foreign(B0, GUEST, &[(gfns[0], window)]), (0, vec![0]));
    assert_eq!(sim.reservation(G0, memory::POPULATE_PHYSMAP, &gfns[2..]), 1);
    assert_eq!(sim.pa(GUEST, gfns[2] << 12), frames[0]);
    assert_eq!(sim.get::<[u8; 8]>(GUEST, gfns[2] << 12), [0; 8], "zeroed");
    // The backend's own page was parked when the guest's took its place.
    assert_eq!(sim.reservation(B0, memory::POPULATE_PHYSMAP, &[SPARE, SPARE + 1]), 1);
}

#[test]
fn a_page_that_does_not_exist_is_refused_and_changes_nothing() {
    let sim = Sim::new(&Options::default());
    let beyond = sim.domain(GUEST).memory.lock().stage2.geometry().ipa_end() >> 12;
    let id = sim.create_server(B0).expect("a server");
    let before = account(&sim);
    assert_eq!(sim.reservation(G0, memory::DECREASE_RESERVATION, &[SPARE]), 1);
    for gfn in [
        beyond,
        beyond + 1,
        1 << 40,
        1 << 52,
        u64::MAX >> 12,
        u64::MAX - 1,
        u64::MAX,
    ] {
        let invalid = refused(HypercallError::Invalid);
        assert_eq!(sim.map_shared_info(G0, gfn), invalid, "{gfn:#x}");
        assert_eq!(sim.remove(G0, gfn), refused(HypercallError::NoEntry), "{gfn:#x}");
        assert_eq!(sim.reservation(G0, memory::DECREASE_RESERVATION, &[gfn]), 0, "{gfn:#x}");
        assert_eq!(sim.reservation(G0, memory::POPULATE_PHYSMAP, &[gfn]), 0, "{gfn:#x}");
        assert_eq!(sim.acquire(B0, id, gfn, 1), invalid, "{gfn:#x}");
        assert_eq!(
            sim.map_foreign(B0, GUEST, &[(gfn, EMPTY_GFN)]),
            (0, vec![-22]),
            "{gfn:#x}"
        );
        if gfn != u64::MAX {
            assert_eq!(
                sim.map_foreign(B0, GUEST, &[(SPARE + 1, gfn)]),
                (0, vec![-22]),
                "{gfn:#x}"
            );
        }
        let info = vcpu_abi::RegisterVcpuInfo {
            mfn: gfn,
            ..Default::default()
        };
        sim.put(GUEST, SCRATCH, &info);
        let call = [vcpu_abi::REGISTER_VCPU_INFO, 0, SCRATCH];
        assert_eq!(sim.hypercall(G0, hypercall::VCPU_OP, &call), Some(invalid), "{gfn:#x}");
    }
    assert_eq!(sim.remove(G0, EMPTY_GFN), refused(HypercallError::NoEntry));
    assert_eq!(
        sim.reservation(G0, memory::POPULATE_PHYSMAP, &[SPARE, SPARE]),
        1,
        "it was kept through all that"
    );
    let after = account(&sim);
    // Only the block that held the page became pages; the window's tables were made.
    assert!(
        after[0].1 + 1 >= before[0].1 && after[1].1 + 2 >= before[1].1,
        "{before:?} {after:?}"
    );
    // No reference was left behind: every page that was named can be given away and taken back.
    assert_eq!(sim.reservation(G0, memory::DECREASE_RESERVATION, &[SPARE + 1]), 1);
    assert_eq!(sim.reservation(G0, memory::POPULATE_PHYSMAP, &[SPARE + 1]), 1);
}

#[test]
fn every_change_of_a_map_is_broken_published_and_dropped_in_order() {
    let sim = Sim::new(&Options::default());
    let server = sim.serve(B0);
    let window = EMPTY_GFN + 0x10;
    let pages: Vec<(u64, u64)> = (0..100).map(|page| (SPARE + page % 7, window + page % 50)).collect();
    assert_eq!(sim.map_foreign(B0, GUEST, &pages).0, 0);
    assert_eq!(sim.map_shared_info(G0, SPARE + 7), 0);
    let gfns: Vec<u64> = (SPARE..SPARE + 7).chain(SPARE + 8..SPARE + 90).collect();
    assert_eq!(give_back_heard(&sim, &server, &gfns), 89);
    for page in 0..50 {
        assert_eq!(sim.remove(B0, window + page), 0);
    }
    assert_eq!(sim.reservation(G0, memory::POPULATE_PHYSMAP, &gfns), 89);
    assert_eq!(sim.destroy_server(B0, server.id), 0);
    let log = sim.take_log();
    for domain in sim.hypervisor.domains() {
        let pool = domain.memory.lock().pool.range();
        assert_eq!(
            translation_order::check(&log, (pool.start, pool.size)),
            Ok(()),
            "{}",
            domain.name
        );
    }
    // Frames were given back only after every pCPU had forgotten them.
    assert!(
        log.iter()
            .any(|operation| matches!(operation, Operation::InvalidatePage { .. }))
    );
}
