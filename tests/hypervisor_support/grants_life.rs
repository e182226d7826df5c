//! Grants whose granter or mapper ends: nothing is lost, and nobody reaches a life that did not grant to him.

use portunus::abi::control;
use portunus::abi::grant;
use portunus::abi::memory;
use portunus::ids::DomainId;
use portunus::stage2::PageUse;

use crate::grants::{B0, G0, OKAY, READING, S0, SELF, SPARE, WINDOW, WRITE, WRITING, granting};
use crate::restarts::{SYSTEM_OFF, SYSTEM_RESET, accounts, is_new, is_up, lives, restarts};
use crate::sim::Sim;
use crate::world::{BACKEND, EMPTY_GFN, GUEST, Options, STRANGER};

const HOST: u32 = grant::MAP_HOST;

/// Maps and unmaps once at [`WINDOW`], so that tables for it are there.
fn warm(sim: &Sim) {
    sim.grant(GUEST, 8, WRITE, BACKEND, SPARE);
    let handle = sim.map_one(B0, GUEST, 8, HOST, WINDOW).expect("a handle");
    assert_eq!(sim.unmap_one(B0, handle, WINDOW), OKAY);
    sim.grant(GUEST, 8, 0, DomainId(0), 0);
}

fn references_of(sim: &Sim, domain: DomainId) -> u64 {
    let ranges = &sim.domain(domain).ram;
    ranges.iter().map(|range| sim.hypervisor.references_to(*range)).sum()
}

#[test]
fn a_granter_that_starts_again_has_its_pages_for_itself_and_the_mapper_gives_its_handles_back() {
    let sim = granting(&lives());
    warm(&sim);
    sim.run_until(G0);
    let before = accounts(&sim);
    for reference in 8..12 {
        sim.grant(GUEST, reference, WRITE, BACKEND, SPARE + u64::from(reference));
    }
    let handles: Vec<u32> = (8..12)
        .map(|reference| {
            sim.map_one(B0, GUEST, reference, HOST, WINDOW + u64::from(reference))
                .expect("a handle")
        })
        .collect();
    assert_eq!(references_of(&sim, GUEST), 4);
    // One of them before.
    assert_eq!(sim.unmap_one(B0, handles[3], WINDOW + 11), OKAY);
    sim.run_until(G0);
    sim.psci(G0, &[SYSTEM_RESET]);
    is_new(&sim, G0);
    assert_eq!(restarts(&sim, GUEST), 1);
    assert_eq!(references_of(&sim, GUEST), 0, "nobody reaches the new life's pages");
    for reference in 8..12 {
        assert_eq!(sim.page_use(BACKEND, WINDOW + reference), None);
    }
    // The new life grants the same entries again.
    assert_eq!(sim.map_table(G0, 0), 0);
    assert_eq!(sim.entry_flags(GUEST, 8), 0, "its table is empty");
    for reference in 8..12 {
        sim.grant(GUEST, reference, WRITE, BACKEND, SPARE + u64::from(reference));
    }
    let new = sim.map_one(B0, GUEST, 8, HOST, WINDOW + 8).expect("a handle");
    for (handle, reference) in handles[..3].iter().zip(8..) {
        if reference != 8 {
            assert_eq!(
                sim.unmap_one(B0, *handle, WINDOW + reference),
                OKAY,
                "a handle of the old life"
            );
        }
    }
    assert_eq!(sim.entry_flags(GUEST, 8), WRITE | READING | WRITING);
    assert_eq!(sim.unmap_one(B0, new, WINDOW + 8), OKAY);
    assert_eq!(sim.entry_flags(GUEST, 8), WRITE);
    assert_eq!(sim.unmap_one(B0, handles[0], WINDOW + 8), OKAY);
    assert_eq!(sim.domain(BACKEND).memory.lock().maptrack.in_use(), 0);
    assert_eq!(sim.domain(GUEST).grants.lock().handles(), 0);
    sim.run_until(G0);
    sim.psci(G0, &[SYSTEM_RESET]);
    is_new(&sim, G0);
    let after = accounts(&sim);
    assert_eq!(after[1], before[1], "the backend has what it had");
    assert_eq!(after[0].references, 0);
}

#[test]
fn a_granter_that_stops_leaves_its_pages_to_the_mapper_until_it_unmaps() {
    let sim = granting(&Options::default());
    warm(&sim);
    sim.grant(GUEST, 8, WRITE, BACKEND, SPARE);
    sim.put(GUEST, SPARE << 12, b"last words");
    let handle = sim.map_one(B0, GUEST, 8, HOST, WINDOW).expect("a handle");
    sim.run_until(G0);
    sim.psci(G0, &[SYSTEM_OFF]);
    assert!(!is_up(&sim, GUEST));
    assert_eq!(sim.page_use(BACKEND, WINDOW), Some(PageUse::Granted { writable: true }));
    assert_eq!(&sim.get::<[u8; 10]>(BACKEND, WINDOW << 12), b"last words");
    assert_eq!(references_of(&sim, GUEST), 1);
    assert!(
        sim.map_one(B0, GUEST, 8, HOST, WINDOW + 1).is_err(),
        "it grants nothing any more"
    );
    let copy = grant::GrantCopy {
        source: grant::CopyEnd {
            frame: 8,
            domid: GUEST.0,
            ..Default::default()
        },
        dest: grant::CopyEnd {
            frame: SPARE,
            domid: SELF,
            ..Default::default()
        },
        len: 8,
        flags: grant::COPY_SOURCE_REFERENCE,
        ..Default::default()
    };
    assert_ne!(sim.copy_one(B0, copy), OKAY);
    assert_eq!(sim.unmap_one(B0, handle, WINDOW), OKAY);
    assert_eq!(references_of(&sim, GUEST), 0);
    assert_eq!(sim.unmap_one(B0, handle, WINDOW), grant::GrantStatus::BadHandle);
}

#[test]
fn a_mapper_that_ends_gives_everything_back() {
    let options = Options {
        guest: "max_grant_frames = <4>;",
        ..lives()
    };
    let sim = granting(&options);
    for index in 1..4 {
        assert_eq!(sim.map_table(G0, index), 0);
    }
    sim.forget_log();
    sim.run_until(B0);
    let fresh = |sim: &Sim| accounts(sim).swap_remove(1);
    sim.psci(B0, &[SYSTEM_RESET]);
    is_new(&sim, B0);
    let before = fresh(&sim);
    // Some pages more than once, some for reading, some over each other.
    for reference in 8..2048_u32 {
        sim.grant(GUEST, reference, WRITE, BACKEND, SPARE + u64::from(reference % 97));
        let flags = if reference % 3 == 0 {
            HOST | grant::MAP_READ_ONLY
        } else {
            HOST
        };
        let gfn = WINDOW + u64::from(reference % 1500);
        sim.map_one(B0, GUEST, reference, flags, gfn).expect("a handle");
    }
    // Its own, too, and to others.
    assert_eq!(sim.map_table(B0, 0), 0);
    sim.grant(BACKEND, 8, WRITE, BACKEND, SPARE);
    sim.grant(BACKEND, 9, WRITE, STRANGER, SPARE + 1);
    sim.map_one(B0, BACKEND, 8, HOST, WINDOW).expect("a handle");
    let handle = sim.map_one(S0, BACKEND, 9, HOST, WINDOW).expect("a handle");
    assert_eq!(sim.domain(BACKEND).memory.lock().maptrack.in_use(), 2041);
    sim.run_until(B0);
    sim.psci(B0, &[SYSTEM_RESET]);
    is_new(&sim, B0);
    assert_eq!(restarts(&sim, BACKEND), 2);
    for reference in 8..2048_u32 {
        assert_eq!(sim.entry_flags(GUEST, reference), WRITE, "{reference}");
    }
    assert_eq!(references_of(&sim, GUEST), 0);
    assert_eq!(sim.domain(GUEST).grants.lock().handles(), 0);
    assert_eq!(sim.domain(BACKEND).memory.lock().maptrack.in_use(), 0);
    assert_eq!(sim.unmap_one(S0, handle, WINDOW), OKAY);
    assert_eq!(sim.domain(BACKEND).grants.lock().handles(), 0);
    assert_eq!(fresh(&sim), before);
}

#[test]
fn many_lives_of_both_leak_nothing() {
    let sim = granting(&lives());
    sim.forget_log();
    warm(&sim);
    sim.run_until(G0);
    sim.psci(G0, &[SYSTEM_RESET]);
    sim.psci(B0, &[SYSTEM_RESET]);
    is_new(&sim, G0);
    is_new(&sim, B0);
    let before = accounts(&sim);
    for life in 0..60_u32 {
        for vcpu in [G0, B0] {
            for index in 0..4 {
                assert_eq!(sim.map_table(vcpu, index), 0);
            }
        }
        // Each maps the other's.
        for reference in 8..8 + life % 40 {
            sim.grant(GUEST, reference, WRITE, BACKEND, SPARE + u64::from(reference));
            sim.grant(BACKEND, reference, WRITE, GUEST, SPARE + u64::from(reference));
            sim.map_one(B0, GUEST, reference, HOST, WINDOW + u64::from(reference))
                .expect("a handle");
            sim.map_one(G0, BACKEND, reference, HOST, WINDOW + u64::from(reference))
                .expect("a handle");
        }
        let order = if life % 2 == 0 { [G0, B0] } else { [B0, G0] };
        for vcpu in order {
            sim.run_until(vcpu);
            sim.psci(vcpu, &[SYSTEM_RESET]);
            is_new(&sim, vcpu);
        }
        assert_eq!(accounts(&sim), before, "life {life}");
        assert_eq!(sim.domain(GUEST).grants.lock().handles(), 0);
        assert_eq!(sim.domain(BACKEND).grants.lock().handles(), 0);
    }
}

#[test]
fn a_frame_of_a_table_that_another_domain_maps_is_not_used_again_before_it_unmaps() {
    let sim = granting(&lives());
    sim.forget_log();
    let acquire = |sim: &Sim, frame, gfn: u64| {
        sim.run_until(B0);
        let list = crate::world::SCRATCH + 0x800;
        sim.put(BACKEND, list, &gfn);
        let request = memory::AcquireResource {
            domid: GUEST.0,
            kind: memory::RESOURCE_GRANT_TABLE,
            nr_frames: 1,
            frame,
            frame_list: list,
            ..Default::default()
        };
        sim.with_structure(
            B0,
            portunus::abi::hypercall::MEMORY_OP,
            memory::ACQUIRE_RESOURCE,
            request,
        )
        .0
    };
    assert_eq!(acquire(&sim, 0, WINDOW), 0);
    assert_eq!(acquire(&sim, 5, WINDOW + 1), 0, "the table grows");
    assert_eq!(
        acquire(&sim, 64, WINDOW + 2),
        -(portunus::abi::HypercallError::Invalid as i64)
    );
    assert_eq!(sim.domain(GUEST).grants.lock().frames(), 6);
    assert_eq!(sim.pa(BACKEND, WINDOW << 12), sim.pa(GUEST, EMPTY_GFN << 12));
    let frame = sim.pa(BACKEND, (WINDOW + 1) << 12);
    sim.run_until(G0);
    sim.psci(G0, &[SYSTEM_RESET]);
    is_new(&sim, G0);
    assert_eq!(sim.domain(GUEST).grants.lock().frames(), 1);
    assert!(sim.domain(GUEST).memory.lock().pool.is_used(frame));
    let remove = memory::RemoveFromPhysmap {
        domid: SELF,
        gpfn: WINDOW + 1,
        ..Default::default()
    };
    sim.run_until(B0);
    let (result, _) = sim.with_structure(
        B0,
        portunus::abi::hypercall::MEMORY_OP,
        memory::REMOVE_FROM_PHYSMAP,
        remove,
    );
    assert_eq!(result, 0);
    assert!(!sim.domain(GUEST).memory.lock().pool.is_used(frame));
}

#[test]
fn a_handle_given_back_for_another_place_leaves_no_page_to_the_mapper_in_the_granters_next_life() {
    let options = Options {
        stranger: "portunus,control;",
        ..Options::default()
    };
    let sim = granting(&options);
    sim.grant(GUEST, 8, WRITE, BACKEND, SPARE);
    sim.grant(GUEST, 9, WRITE, BACKEND, SPARE + 1);
    let handle = sim.map_one(B0, GUEST, 8, HOST, WINDOW).expect("a handle");
    let other = sim.map_one(B0, GUEST, 9, HOST, WINDOW + 1).expect("a handle");
    sim.run_until(G0);
    sim.psci(G0, &[SYSTEM_OFF]);
    assert!(!is_up(&sim, GUEST));
    // Its page is elsewhere, and stays there.
    assert_eq!(sim.unmap_one(B0, handle, WINDOW + 5), OKAY);
    assert_eq!(sim.page_use(BACKEND, WINDOW), Some(PageUse::Granted { writable: true }));
    assert_eq!(sim.unmap_one(B0, other, WINDOW + 1), OKAY);
    assert_eq!(sim.domain(GUEST).grants.lock().handles(), 0);
    assert_eq!(sim.act(S0, control::RESTART, GUEST), 0);
    is_new(&sim, G0);
    assert_eq!(sim.page_use(BACKEND, WINDOW), None);
    assert_eq!(references_of(&sim, GUEST), 0);
}
