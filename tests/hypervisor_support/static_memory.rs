//! Domains that share memory from the start, at run time: what one writes the other reads, and it is nobody's own.

use portunus::abi::{HypercallError, evtchn, hypercall, memory};
use portunus::ids::VcpuId;
use portunus::stage2::PageUse;

use crate::guest::{refused, vcpu};
use crate::restarts::{SYSTEM_RESET, accounts, is_new};
use crate::sim::Sim;
use crate::world::{ALWAYS_UP, BACKEND, EMPTY_GFN, GUEST, Options, RAM, STRANGER};

const G0: VcpuId = vcpu(GUEST, 0);
const B0: VcpuId = vcpu(BACKEND, 0);
const S0: VcpuId = vcpu(STRANGER, 0);
/// Where the guest and the backend see the region.
const GUESTS: u64 = 0x6000_0000;
const BACKENDS: u64 = 0x7000_0000;

fn sim() -> std::rc::Rc<Sim> {
    Sim::new(&Options {
        channels: [
            "shm { compatible = \"xen,domain-shared-memory-v1\"; xen,shm-id = \"a\"; \
             xen,shared-mem = <0 0x60000000 0 0x4000>; };",
            "shm { compatible = \"xen,domain-shared-memory-v1\"; xen,shm-id = \"a\"; \
             xen,shared-mem = <0 0x70000000 0 0x4000>; };",
        ],
        lifecycle: ALWAYS_UP,
        ..Options::default()
    })
}

#[test]
fn what_one_writes_the_other_reads_and_a_third_has_none_of_it() {
    let sim = sim();
    sim.put(GUEST, GUESTS + 0x3ff8, b"from one");
    assert_eq!(&sim.get::<[u8; 8]>(BACKEND, BACKENDS + 0x3ff8), b"from one");
    let stranger = sim.domain(STRANGER).memory.lock();
    let frame = sim.pa(GUEST, GUESTS);
    let has = |region: &portunus::stage2::Region| region.pa.0 < frame.0 + 0x4000 && frame.0 < region.pa.0 + region.size;
    assert!(!stranger.stage2.regions(sim.machine()).iter().any(has));
}

#[test]
fn nobody_grants_maps_parks_or_passes_what_is_not_its_own() {
    let sim = sim();
    let before = accounts(&sim);
    let (guests, backends) = (GUESTS >> 12, BACKENDS >> 12);
    // The backend may map all RAM of the guest, and this is none; a stranger may map nothing.
    assert_eq!(sim.map_foreign(B0, GUEST, &[(guests, EMPTY_GFN)]), (0, vec![-22]));
    assert_eq!(sim.map_foreign(S0, GUEST, &[(guests, EMPTY_GFN)]), (0, vec![-1]));
    assert_eq!(sim.reservation(G0, memory::DECREASE_RESERVATION, &[guests]), 0);
    assert_eq!(sim.reservation(B0, memory::DECREASE_RESERVATION, &[backends]), 0);
    // As Xen, which takes buffers of hypercalls from a domain's own pages alone.
    let result = sim.hypercall(G0, hypercall::EVENT_CHANNEL_OP, &[evtchn::SEND, GUESTS]);
    assert_eq!(result, Some(refused(HypercallError::BadPointer)));
    assert_eq!(
        accounts(&sim)
            .iter()
            .map(|account| account.references)
            .collect::<Vec<_>>(),
        before.iter().map(|account| account.references).collect::<Vec<_>>()
    );
    assert_eq!(sim.pa(GUEST, GUESTS), sim.pa(BACKEND, BACKENDS));
}

#[test]
fn a_domain_may_take_it_out_of_its_map_and_has_it_again_after_a_restart() {
    let sim = sim();
    let frame = sim.pa(GUEST, GUESTS);
    sim.put(BACKEND, BACKENDS, b"kept");
    assert_eq!(sim.remove(G0, GUESTS >> 12), 0);
    assert_eq!(sim.remove(G0, GUESTS >> 12), refused(HypercallError::NoEntry));
    assert_eq!(
        sim.map_shared_info(G0, (GUESTS >> 12) + 1),
        0,
        "another page in its place"
    );
    assert_eq!(sim.pa(BACKEND, BACKENDS), frame);

    sim.psci(G0, &[SYSTEM_RESET]);
    is_new(&sim, G0);
    for page in 0..4 {
        let at = GUESTS + page * 0x1000;
        assert_eq!(sim.pa(GUEST, at).0, frame.0 + page * 0x1000);
        let memory = sim.domain(GUEST).memory.lock();
        let mapping = memory
            .stage2
            .lookup(sim.machine(), portunus::ids::Ipa(at))
            .expect("mapped");
        assert_eq!(mapping.page_use, PageUse::Common);
    }
    assert_eq!(
        &sim.get::<[u8; 4]>(GUEST, GUESTS),
        b"kept",
        "it is not the guest's to lose"
    );
    assert_eq!(accounts(&sim).iter().map(|account| account.references).sum::<u64>(), 0);
    assert_eq!(sim.get::<u64>(GUEST, RAM + 0x20_0000), 0, "its own RAM is new");
}
