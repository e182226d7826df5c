//! Foreign mappings under each kind of access that a manifest can give.

use portunus::abi::memory;
use portunus::ids::VcpuId;

use crate::guest::vcpu;
use crate::restarts::{SYSTEM_RESET, is_new};
use crate::sim::Sim;
use crate::world::{ALWAYS_UP, BACKEND, EMPTY_GFN, GUEST, Options, RAM, RAM_SIZE};

const B0: VcpuId = vcpu(BACKEND, 0);
/// The window's first frame.
const WINDOW: u64 = (RAM + RAM_SIZE - (1 << 20)) >> 12;
const EPERM: i32 = -1;

fn sim(disk: &'static str) -> std::rc::Rc<Sim> {
    Sim::new(&Options {
        disk,
        ..Options::default()
    })
}

#[test]
fn a_window_is_mapped_and_the_pages_beside_it_are_refused_one_by_one() {
    let sim = sim("portunus,memory-access = \"window\"; portunus,window-size = <1>;");
    let last = WINDOW + 255;
    let pages = [
        (WINDOW, EMPTY_GFN),
        (WINDOW - 1, EMPTY_GFN + 1),
        (last, EMPTY_GFN + 2),
        (last + 1, EMPTY_GFN + 3),
        (RAM >> 12, EMPTY_GFN + 4),
        (0, EMPTY_GFN + 5),
        (u64::MAX >> 12, EMPTY_GFN + 6),
    ];
    let free = |sim: &Sim| sim.domain(BACKEND).memory.lock().stage2.foreign_pages();
    assert_eq!(
        sim.map_foreign(B0, GUEST, &pages),
        (0, vec![0, EPERM, 0, EPERM, EPERM, EPERM, EPERM])
    );
    assert_eq!(free(&sim), 2);
    assert_eq!(sim.pa(BACKEND, EMPTY_GFN << 12), sim.pa(GUEST, WINDOW << 12));
    assert_eq!(sim.pa(BACKEND, (EMPTY_GFN + 2) << 12), sim.pa(GUEST, last << 12));
    // A refused page leaves no reference behind.
    let ram = sim.domain(GUEST).ram.clone();
    let references: u64 = ram.iter().map(|range| sim.hypervisor.references_to(*range)).sum();
    assert_eq!(references, 2);
}

#[test]
fn a_frame_beyond_the_address_space_is_no_page_of_a_window() {
    let sim = sim("portunus,memory-access = \"window\"; portunus,window-size = <1>;");
    for gfn in [u64::MAX, 1 << 52] {
        assert_eq!(
            sim.map_foreign(B0, GUEST, &[(gfn, EMPTY_GFN)]),
            (0, vec![-22]),
            "{gfn:#x}"
        );
    }
}

#[test]
fn with_grants_or_nothing_no_foreign_page_is_mapped() {
    for disk in [
        "portunus,memory-access = \"grants\";",
        "portunus,memory-access = \"none\";",
    ] {
        let sim = sim(disk);
        let pages = [(RAM >> 12, EMPTY_GFN), (u64::MAX, EMPTY_GFN + 1)];
        assert_eq!(sim.map_foreign(B0, GUEST, &pages), (0, vec![EPERM; 2]), "{disk}");
        assert_eq!(sim.domain(BACKEND).memory.lock().stage2.foreign_pages(), 0);
        // The device is served all the same.
        sim.serve(B0);
    }
}

#[test]
fn a_quota_bounds_what_a_backend_has_mapped_at_once_and_hurts_nobody_else() {
    const ENOSPC: i32 = -28;
    let sim = sim("portunus,map-quota = <3>;");
    let ram = RAM >> 12;
    let pages: Vec<(u64, u64)> = (0..5).map(|page| (ram + page, EMPTY_GFN + page)).collect();
    assert_eq!(sim.map_foreign(B0, GUEST, &pages), (0, vec![0, 0, 0, ENOSPC, ENOSPC]));
    assert_eq!(sim.domain(BACKEND).memory.lock().stage2.foreign_pages(), 3);
    // In place of another it is one more while both are there, so the old one is to go first.
    assert_eq!(sim.map_foreign(B0, GUEST, &[(ram + 3, EMPTY_GFN)]), (0, vec![ENOSPC]));
    assert_eq!(sim.pa(BACKEND, EMPTY_GFN << 12), sim.pa(GUEST, RAM), "as it was");
    assert_eq!(sim.remove(B0, EMPTY_GFN), 0);
    assert_eq!(sim.map_foreign(B0, GUEST, &[(ram + 3, EMPTY_GFN)]), (0, vec![0]));
    // Pages of its servers are no RAM of the guest, and the guest does with its own as ever.
    sim.serve(B0);
    let spare = ram + 0x300;
    let gfns: Vec<u64> = (spare..spare + 8).collect();
    assert_eq!(sim.reservation(vcpu(GUEST, 0), memory::DECREASE_RESERVATION, &gfns), 8);
    assert_eq!(sim.reservation(vcpu(GUEST, 0), memory::POPULATE_PHYSMAP, &gfns), 8);
}

#[test]
fn a_quota_that_was_used_up_is_there_again_after_the_backend_has_restarted() {
    let sim = Sim::new(&Options {
        disk: "portunus,map-quota = <2>;",
        lifecycle: ALWAYS_UP,
        ..Options::default()
    });
    let pages = [(RAM >> 12, EMPTY_GFN), ((RAM >> 12) + 1, EMPTY_GFN + 1)];
    for _ in 0..3 {
        assert_eq!(sim.map_foreign(B0, GUEST, &pages), (0, vec![0, 0]));
        assert_eq!(
            sim.map_foreign(B0, GUEST, &[(RAM >> 12, EMPTY_GFN + 2)]),
            (0, vec![-28])
        );
        sim.psci(B0, &[SYSTEM_RESET]);
        is_new(&sim, B0);
    }
}
