//! The state page of an accelerated disk: whose it is while servers come and go.

use std::rc::Rc;

use portunus::abi::HypercallError;
use portunus::abi::dm_op::{self, StatePage};
use portunus::abi::memory::{self, AcquireResource};
use portunus::ids::{DomainId, Ipa, Pa, VcpuId};

use crate::backend::PAGES;
use crate::guest::{refused, vcpu};
use crate::sim::Sim;
use crate::world::{BACKEND, DISK, GUEST, Options, SCRATCH};

const B0: VcpuId = vcpu(BACKEND, 0);

fn world() -> Rc<Sim> {
    Sim::new(&Options {
        disk: "portunus,accel;",
        ..Options::default()
    })
}

fn map_state_page(sim: &Sim, id: u16, gfn: u64) -> i64 {
    let page = StatePage {
        id,
        address: DISK,
        ..Default::default()
    };
    let (result, page) = sim.dm_op(B0, dm_op::VENDOR_STATE_PAGE, page);
    assert_eq!((result, page.frame), (0, 0x1000));
    let list = SCRATCH + 0x1000;
    sim.put(BACKEND, list, &gfn);
    let request = AcquireResource {
        domid: GUEST.0,
        id: id.into(),
        nr_frames: 1,
        frame: page.frame,
        frame_list: list,
        ..Default::default()
    };
    sim.memory_op(B0, memory::ACQUIRE_RESOURCE, request).0
}

fn free_frames(sim: &Sim, domain: DomainId) -> u64 {
    sim.domain(domain).memory.lock().pool.free_frames()
}

fn mapped(sim: &Sim, gfn: u64) -> Option<Pa> {
    let memory = sim.domain(BACKEND).memory.lock();
    memory
        .stage2
        .lookup(sim.machine(), Ipa(gfn << 12))
        .map(|mapping| mapping.pa.page())
}

#[test]
fn a_successor_finds_what_its_predecessor_left_and_nothing_leaks() {
    let sim = world();
    let mut figures = Vec::new();
    let mut frames = Vec::new();
    for turn in 0_u64..3 {
        let server = sim.serve(B0);
        assert_eq!(map_state_page(&sim, server.id, PAGES + 8), 0);
        let at = (PAGES + 8) << 12;
        assert_eq!(sim.get::<u64>(BACKEND, at + 64), turn, "what the last one left");
        sim.put(BACKEND, at + 64, &(turn + 1));
        frames.extend(mapped(&sim, PAGES + 8));
        assert_eq!(sim.destroy_server(B0, server.id), 0);
        for gfn in [PAGES, PAGES + 1, PAGES + 8] {
            assert_eq!(sim.remove(B0, gfn), 0);
        }
        figures.push((free_frames(&sim, GUEST), free_frames(&sim, BACKEND)));
    }
    assert!(figures.windows(2).all(|pair| pair[0] == pair[1]), "{figures:?}");
    assert!(frames.windows(2).all(|pair| pair[0] == pair[1]), "{frames:?}");

    let memory = sim.domain(GUEST).memory.lock();
    assert!(memory.pool.is_used(frames[0]), "it is the target's");
    let ram = &sim.domain(GUEST).ram;
    assert!(
        !ram.iter()
            .any(|range| range.start <= frames[0] && frames[0].0 < range.end())
    );
    drop(memory);
    sim.domain(GUEST).servers.lock().clear_state_pages(sim.machine());
    assert_eq!(sim.machine().peek(frames[0], 4096), [0; 4096]);
}

#[test]
fn a_page_that_a_destroyed_server_left_mapped_goes_when_it_is_unmapped_and_stays_the_devices() {
    let sim = world();
    let before = free_frames(&sim, GUEST);
    let first = sim.create_server(B0).expect("a server");
    assert_eq!(map_state_page(&sim, first, PAGES), 0);
    assert_eq!(sim.destroy_server(B0, first), 0);
    let second = sim.create_server(B0).expect("a server");
    assert_eq!(map_state_page(&sim, second, PAGES + 1), 0);
    assert_eq!(mapped(&sim, PAGES), mapped(&sim, PAGES + 1));
    assert_eq!(sim.remove(B0, PAGES), 0);
    assert_eq!(sim.remove(B0, PAGES + 1), 0);
    assert_eq!(sim.destroy_server(B0, second), 0);
    assert_eq!(free_frames(&sim, GUEST), before);
    assert_eq!(
        sim.acquire(B0, second, PAGES, 1),
        refused(HypercallError::Invalid),
        "nothing without a server"
    );
}

#[test]
fn a_disk_that_is_not_accelerated_has_none() {
    let sim = Sim::new(&Options::default());
    let id = sim.create_server(B0).expect("a server");
    let page = StatePage {
        id,
        address: DISK,
        ..Default::default()
    };
    let (result, page) = sim.dm_op(B0, dm_op::VENDOR_STATE_PAGE, page);
    assert_eq!((result, page.frame), (refused(HypercallError::NotSupported), 0));
}
