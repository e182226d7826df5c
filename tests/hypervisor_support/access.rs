//! Foreign mappings under each kind of access that a manifest can give.

use portunus::abi::HypercallError;
use portunus::ids::VcpuId;

use crate::guest::{refused, vcpu};
use crate::sim::Sim;
use crate::world::{BACKEND, EMPTY_GFN, GUEST, Options, RAM, RAM_SIZE};

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
fn with_grants_or_nothing_a_foreign_mapping_is_refused_as_a_whole() {
    for disk in [
        "portunus,memory-access = \"grants\";",
        "portunus,memory-access = \"none\";",
    ] {
        let sim = sim(disk);
        let (result, errors) = sim.map_foreign(B0, GUEST, &[(RAM >> 12, EMPTY_GFN)]);
        assert_eq!(result, refused(HypercallError::NotPermitted), "{disk}");
        assert_eq!(errors, [1], "nothing was written: {disk}");
        assert_eq!(sim.domain(BACKEND).memory.lock().stage2.foreign_pages(), 0);
        // The device is served all the same.
        sim.serve(B0);
    }
}
