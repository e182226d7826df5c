//! What other hypervisors got wrong in event channels and memory operations, tried on this one (docs/security.md).

use portunus::abi::HypercallError::{self, Invalid, NoSpace};
use portunus::abi::shared_info::SharedInfo;
use portunus::abi::{evtchn, hypercall, memory};
use portunus::fakes::Random;
use portunus::ids::{DomainId, EventPort, VcpuId};

use crate::guest::{refused, vcpu};
use crate::restarts::account;
use crate::sim::Sim;
use crate::world::{BACKEND, EMPTY_GFN, GUEST, Options, RAM, RAM_PAGES, SCRATCH};

const G0: VcpuId = vcpu(GUEST, 0);
const G1: VcpuId = vcpu(GUEST, 1);
const B0: VcpuId = vcpu(BACKEND, 0);
const SELF: u16 = DomainId::SELF.0;
const SHARED: u64 = (EMPTY_GFN + 0x20) << 12;
const UPCALL: u32 = 31;
const HIGHEST: u32 = 1023;
/// A frame of RAM that holds nothing.
const SPARE: u64 = (RAM >> 12) + 0x300;

fn connected() -> Options {
    Options {
        channels: [
            "chan0: ec0 { compatible = \"xen,evtchn-v1\"; xen,evtchn = <10 &chan1>; };",
            "chan1: ec0 { compatible = \"xen,evtchn-v1\"; xen,evtchn = <11 &chan0>; };",
        ],
        ..Options::default()
    }
}

/// Uses every port of the guest that is free; how many there were.
fn use_up(sim: &Sim) -> u32 {
    let mut count = 0;
    while sim.events(G0, evtchn::BIND_IPI, evtchn::BindIpi::default()).0 == 0 {
        count += 1;
        assert!(count <= HIGHEST);
    }
    count
}

#[test]
fn without_a_free_port_nothing_is_half_bound() {
    let sim = Sim::new(&connected());
    let own = evtchn::AllocUnbound {
        dom: SELF,
        remote_dom: SELF,
        port: 0,
    };
    let (result, waits) = sim.events(G0, evtchn::ALLOC_UNBOUND, own);
    assert_eq!((result, waits.port), (0, 1));
    assert_eq!(use_up(&sim), HIGHEST - 2);
    let full = account(&sim, sim.domain(GUEST)).ports;
    assert_eq!(full.0, HIGHEST);
    let virq = evtchn::BindVirq {
        virq: evtchn::VIRQ_ARGO,
        ..Default::default()
    };
    let no_space = refused(NoSpace);
    for _ in 0..3 {
        assert_eq!(sim.bind(G0, GUEST, 1), Err(no_space));
        assert_eq!(sim.events(G0, evtchn::BIND_VIRQ, virq).0, no_space);
        assert_eq!(sim.events(G0, evtchn::ALLOC_UNBOUND, own).0, no_space);
        assert_eq!(account(&sim, sim.domain(GUEST)).ports, full);
    }
    // A server of the guest's has ports of another range.
    sim.serve(B0);
    // With a port free again each of them works as if it had never failed.
    for round in 0..3 {
        assert_eq!(sim.close(G0, HIGHEST), 0);
        let port = match round {
            0 => sim.bind(G0, GUEST, 1).expect("that end still waits"),
            1 => sim.events(G0, evtchn::BIND_VIRQ, virq).1.port,
            _ => sim.events(G0, evtchn::ALLOC_UNBOUND, own).1.port,
        };
        assert_eq!(port, HIGHEST);
    }
}

#[test]
fn ports_begin_at_one_and_end_where_they_end() {
    let sim = Sim::new(&connected());
    use_up(&sim);
    for port in [0, HIGHEST + 1, 4095, 4096, 1 << 17, u32::MAX] {
        let request = evtchn::Port { port };
        for operation in [evtchn::SEND, evtchn::CLOSE, evtchn::UNMASK] {
            assert_eq!(
                sim.events(G0, operation, request).0,
                refused(Invalid),
                "{operation} of port {port}"
            );
        }
        let bind = evtchn::BindVcpu { port, vcpu: 0 };
        assert_eq!(sim.events(G0, evtchn::BIND_VCPU, bind).0, refused(Invalid));
        assert_eq!(sim.bind(B0, GUEST, port), Err(refused(Invalid)));
    }
    for port in [1, HIGHEST] {
        assert_eq!(sim.send(G0, port), 0);
        assert_eq!(sim.close(G0, port), 0);
        assert_eq!(sim.close(G0, port), refused(Invalid), "it is free");
        assert_eq!(sim.send(G0, port), refused(Invalid));
    }
}

#[test]
fn a_reset_goes_on_whatever_others_do_between_its_pieces() {
    for times in [1, 2, 5, 20] {
        let end = |domain: &str, peer: &str, port: u32| {
            let (own, its) = (format!("{domain}{port}"), format!("{peer}{port}"));
            format!("{own}: ec{port} {{ compatible = \"xen,evtchn-v1\"; xen,evtchn = <{port} &{its}>; }};")
        };
        let ends = |domain, peer| (100..140).map(|port| end(domain, peer, port)).collect::<String>();
        let sim = Sim::new(&Options {
            channels: [ends("g", "b").leak(), ends("b", "g").leak()],
            ..Options::default()
        });
        assert_eq!(use_up(&sim), HIGHEST - 40);
        sim.put(GUEST, SCRATCH, &evtchn::Reset { dom: SELF });
        sim.set_x(G0, 16, hypercall::EVENT_CHANNEL_OP);
        sim.set_x(G0, 0, evtchn::RESET);
        sim.set_x(G0, 1, SCRATCH);
        let pc = sim.pc(G0);
        let mut pieces = 0;
        while sim.pc(G0) == pc {
            // The peer sends on all its ends and closes one; the guest has a new port.
            for end in 100..140 {
                assert!([0, refused(Invalid)].contains(&sim.send(B0, end)));
            }
            if pieces < times {
                assert_eq!(sim.close(B0, 100 + pieces), 0);
            }
            if pieces == 3 {
                assert!(sim.domain(GUEST).events.lock().bind_ipi(0).is_ok());
            }
            pieces += 1;
            sim.execute_hvc(G0, 0xea1);
            assert!(pieces < 100);
        }
        assert_eq!((sim.pc(G0), sim.x(G0, 0)), (pc + 4, 0));
        assert!(pieces > 25, "{pieces} pieces");
        assert_eq!(account(&sim, sim.domain(GUEST)).ports.0, 0);
        // The peer's ends that are left wait for the guest, and lead nowhere.
        for end in 100 + times..140 {
            assert_eq!(sim.send(B0, end), 0);
        }
        assert_eq!(account(&sim, sim.domain(BACKEND)).ports.0, 40 - times);
        assert_eq!(use_up(&sim), HIGHEST);
    }
}

#[test]
fn a_static_channel_that_a_guest_closes_is_its_own_loss() {
    let sim = Sim::new(&connected());
    assert_eq!(sim.close(G0, 10), 0);
    assert_eq!(sim.close(G0, 10), refused(Invalid));
    assert_eq!(sim.send(B0, 11), 0, "nobody hears it");
    let page = sim.domain(GUEST).events.lock().shared_info();
    let pending = sim.machine().peek(page, size_of::<SharedInfo>());
    assert!(pending[48..560].iter().all(|byte| *byte == 0), "no bit is set");
    // What the guest has there next hears nothing of the old one.
    while sim.events(G0, evtchn::BIND_IPI, evtchn::BindIpi::default()).1.port < 10 {}
    assert_eq!(sim.send(B0, 11), 0);
    let pending = sim.machine().peek(page, size_of::<SharedInfo>());
    assert!(pending[48..560].iter().all(|byte| *byte == 0), "no bit is set");
}

#[test]
fn an_event_is_heard_once_by_the_vcpu_that_its_port_names_whatever_it_named_before() {
    let sim = Sim::new(&connected());
    sim.enable_interrupts(G0);
    assert_eq!(sim.map_shared_info(G0, SHARED >> 12), 0);
    assert_eq!(sim.psci(G0, &[0xc400_0003, 1, RAM, 0]), Some(0));
    sim.enable_interrupts(G1);
    let info = portunus::abi::vcpu::RegisterVcpuInfo {
        mfn: SPARE,
        ..Default::default()
    };
    sim.put(GUEST, SCRATCH, &info);
    assert_eq!(sim.hypercall(G0, hypercall::VCPU_OP, &[10, 1, SCRATCH]), Some(0));
    sim.take_events(G0, SHARED);
    let clear = |at: u64| sim.put(GUEST, at, &[0_u64; 2]);
    for vcpu in [G0, G1] {
        while sim.take_interrupt(vcpu).is_some() {}
    }
    clear(SPARE << 12);
    let mut random = Random::new(0x5eed);
    for round in 0..500 {
        let mut named = 0;
        for _ in 0..=random.below(8) {
            named = random.below(2) as u32;
            let bind = evtchn::BindVcpu { port: 10, vcpu: named };
            assert_eq!(sim.events(G0, evtchn::BIND_VCPU, bind).0, 0);
        }
        let sends = 1 + random.below(3);
        (0..sends).for_each(|_| assert_eq!(sim.send(B0, 11), 0));
        let heard = [G0, G1].map(|vcpu| {
            let mut count = 0;
            while sim.take_interrupt(vcpu).is_some_and(|interrupt| interrupt == UPCALL) {
                count += 1;
            }
            count
        });
        let mut expected = [0, 0];
        expected[named as usize] = 1;
        assert_eq!(heard, expected, "round {round}");
        // The handler of either vCPU takes it.
        clear(if named == 0 { SHARED } else { SPARE << 12 });
        sim.put(GUEST, SHARED + SharedInfo::PENDING_OFFSET, &0_u64);
    }
}

#[test]
fn no_count_order_or_pointer_of_a_reservation_overflows() {
    let sim = Sim::new(&Options::default());
    let before = account(&sim, sim.domain(GUEST));
    let list = SCRATCH + 0x1000;
    sim.put(GUEST, list, &[u64::MAX; 512]);
    let numbers = [
        0,
        1,
        63,
        64,
        65,
        1 << 20,
        1 << 32,
        1 << 52,
        1 << 56,
        1 << 57,
        1 << 58,
        1 << 63,
        u64::MAX,
    ];
    for operation in [memory::DECREASE_RESERVATION, memory::POPULATE_PHYSMAP] {
        for nr_extents in numbers {
            for extent_start in [list, 0, list + 1, u64::MAX, u64::MAX - 7, 1 << 63] {
                for extent_order in [0, 4, 5, 52, 63, 64, u32::MAX] {
                    for start in [0, 1, 64, (1 << 57) - 1, (1 << 58) - 1] {
                        let request = memory::MemoryReservation {
                            extent_start,
                            nr_extents,
                            extent_order,
                            // NUMA nodes and address widths are ignored, whatever they say.
                            mem_flags: u32::MAX,
                            domid: SELF,
                            ..Default::default()
                        };
                        let done = sim.memory_op(G0, operation | start << 6, request).0 as u64;
                        assert!(
                            done == start.min(nr_extents),
                            "{operation}: {done} of {nr_extents} from {start}, order {extent_order}"
                        );
                    }
                }
            }
        }
    }
    assert_eq!(account(&sim, sim.domain(GUEST)), before);
}

#[test]
fn a_domain_never_has_more_than_it_was_given() {
    let sim = Sim::new(&Options::default());
    let reservation = |operation| {
        sim.put(GUEST, SCRATCH, &SELF);
        sim.hypercall(G0, hypercall::MEMORY_OP, &[operation, SCRATCH])
            .expect("an answer") as u64
    };
    let gfns: Vec<u64> = (SPARE..SPARE + 100).collect();
    for taken in [1, 7, 100] {
        assert_eq!(
            sim.reservation(G0, memory::DECREASE_RESERVATION, &gfns[..taken]),
            taken as i64
        );
        assert_eq!(reservation(memory::CURRENT_RESERVATION), RAM_PAGES - taken as u64);
        assert_eq!(reservation(memory::MAXIMUM_RESERVATION), RAM_PAGES);
        // What is not there any more can't be given up, and a failure in the middle counts what was before it.
        assert_eq!(sim.reservation(G0, memory::DECREASE_RESERVATION, &gfns[..taken]), 0);
        let twice: Vec<u64> = [&gfns[..taken], &gfns[..taken]].concat();
        assert_eq!(sim.reservation(G0, memory::POPULATE_PHYSMAP, &twice), taken as i64);
        assert_eq!(reservation(memory::CURRENT_RESERVATION), RAM_PAGES);
        assert_eq!(sim.reservation(G0, memory::POPULATE_PHYSMAP, &gfns[..1]), 0);
    }
}

#[test]
fn what_fails_holds_no_lock() {
    let sim = Sim::new(&Options::default());
    let request = |space: u32, idx: u64, gpfn: u64, domid: u16| memory::AddToPhysmap {
        domid,
        size: 0,
        space,
        idx,
        gpfn,
    };
    assert_eq!(sim.map_shared_info(G0, SPARE), 0);
    let bad = [
        request(0, 1, SPARE + 1, SELF),
        request(0, 0, SPARE + 1, SELF),
        request(0, 0, u64::MAX, SELF),
        request(1, u64::MAX, SPARE + 1, SELF),
        request(1, 0, u64::MAX, SELF),
        request(2, 0, SPARE + 1, SELF),
        request(3, 0, SPARE + 1, SELF),
        request(4, 0, SPARE + 1, SELF),
        request(5, 0, SPARE + 1, SELF),
        request(6, 0, SPARE + 1, SELF),
        request(u32::MAX, 0, SPARE + 1, SELF),
        request(0, 0, SPARE + 1, BACKEND.0),
        request(0, 0, SPARE + 1, 0x7ff4),
    ];
    for (index, bad) in bad.into_iter().enumerate() {
        let before = account(&sim, sim.domain(GUEST));
        let (result, _) = sim.memory_op(G0, memory::ADD_TO_PHYSMAP, bad);
        assert!(result < 0, "row {index}");
        assert_eq!(account(&sim, sim.domain(GUEST)), before, "row {index}");
        // Each of these takes the lock that the refused one took.
        assert_eq!(sim.reservation(G0, memory::DECREASE_RESERVATION, &[SPARE + 2]), 1);
        assert_eq!(sim.reservation(G0, memory::POPULATE_PHYSMAP, &[SPARE + 2]), 1);
        assert_eq!(sim.map_foreign(B0, GUEST, &[(SPARE + 2, EMPTY_GFN)]), (0, vec![0]));
        assert_eq!(sim.remove(B0, EMPTY_GFN), 0);
    }
}

#[test]
fn the_arrays_of_a_batch_may_lie_anywhere_and_wrap_nowhere() {
    let sim = Sim::new(&Options::default());
    let good = SCRATCH + 0x1000;
    sim.put(BACKEND, good, &[SPARE; 512]);
    let before = account(&sim, sim.domain(BACKEND));
    let fault = refused(HypercallError::BadPointer);
    for bad in [0, 8, u64::MAX, u64::MAX - 7, u64::MAX - 8 * 64, 1 << 63, 1 << 48] {
        for which in 0..3 {
            let mut arrays = [good, good + 0x1000, good + 0x2000];
            sim.put(BACKEND, arrays[1], &[EMPTY_GFN; 512]);
            arrays[which] = bad;
            for size in [1, 64, 200, u16::MAX] {
                let request = memory::AddToPhysmapBatch {
                    domid: SELF,
                    space: memory::SPACE_GMFN_FOREIGN as u16,
                    size,
                    foreign_domid: GUEST.0,
                    idxs: arrays[0],
                    gpfns: arrays[1],
                    errs: arrays[2],
                };
                let (result, _) = sim.memory_op(B0, memory::ADD_TO_PHYSMAP_BATCH, request);
                assert_eq!(result, fault, "array {which} at {bad:#x}, {size} entries");
            }
        }
    }
    assert_eq!(account(&sim, sim.domain(BACKEND)).references, before.references);
    assert_eq!(
        sim.domain(GUEST).events.lock().port(EventPort(0)).map(|port| port.vcpu),
        Some(0)
    );
}
