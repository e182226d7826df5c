//! What hostile guests try with grants: entries that change, handles that are used twice, limits, and the places where Xen
//! went wrong.

use portunus::abi::grant::{self, GrantCopy, GrantEntry, GrantStatus, UnmapGrantRef};
use portunus::abi::{hypercall, memory};
use portunus::fakes::{Interference, Random};
use portunus::ids::DomainId;
use portunus::stage2::PageUse;

use crate::grants::{
    B0, G0, GENERAL, HOST_READ, OKAY, READ, READING, S0, SELF, SPARE, WINDOW, WRITE, WRITING, granting,
};
use crate::guest::vcpu;
use crate::sim::Moment;
use crate::world::{BACKEND, EMPTY_GFN, GUEST, Options, SCRATCH, STRANGER};

const HOST: u32 = grant::MAP_HOST;

#[test]
fn an_entry_that_changes_while_it_is_mapped_changes_nothing_that_is() {
    let sim = granting(&Options::default());
    sim.grant(GUEST, 9, WRITE, BACKEND, SPARE);
    let first = sim.map_one(B0, GUEST, 9, HOST_READ, WINDOW).expect("a handle");
    // The guest takes it back, grants it to another, and names another frame.
    for (flags, to, gfn) in [(0, BACKEND, SPARE), (WRITE, STRANGER, SPARE + 1), (2, DomainId(0), 0)] {
        sim.grant(GUEST, 9, flags, to, gfn);
        let again = sim
            .map_one(B0, GUEST, 9, HOST_READ, WINDOW + 1)
            .expect("it is pinned for reading");
        assert_eq!(sim.pa(BACKEND, (WINDOW + 1) << 12), sim.pa(GUEST, SPARE << 12));
        assert_eq!(
            sim.map_one(B0, GUEST, 9, HOST, WINDOW + 2),
            Err(GENERAL),
            "nobody writes yet"
        );
        assert_eq!(
            sim.map_one(S0, GUEST, 9, HOST_READ, WINDOW),
            Err(GENERAL),
            "it is another's yet"
        );
        assert_eq!(sim.unmap_one(B0, again, WINDOW + 1), OKAY);
    }
    sim.grant(GUEST, 9, WRITE, STRANGER, SPARE + 1);
    assert_eq!(sim.unmap_one(B0, first, WINDOW), OKAY);
    assert_eq!(
        sim.map_one(B0, GUEST, 9, HOST_READ, WINDOW),
        Err(GENERAL),
        "it was taken back"
    );
    let other = sim
        .map_one(S0, GUEST, 9, HOST, WINDOW)
        .expect("it is the stranger's now");
    assert_eq!(sim.pa(STRANGER, WINDOW << 12), sim.pa(GUEST, (SPARE + 1) << 12));
    assert_eq!(sim.unmap_one(S0, other, WINDOW), OKAY);
    assert_eq!(sim.entry_flags(GUEST, 9), WRITE);
}

#[test]
fn writing_and_reading_are_counted_apart() {
    let sim = granting(&Options::default());
    sim.grant(GUEST, 9, WRITE, BACKEND, SPARE);
    let reader = sim.map_one(B0, GUEST, 9, HOST_READ, WINDOW).expect("a handle");
    assert_eq!(sim.entry_flags(GUEST, 9), WRITE | READING);
    let writer = sim.map_one(B0, GUEST, 9, HOST, WINDOW + 1).expect("a handle");
    let second = sim.map_one(B0, GUEST, 9, HOST, WINDOW + 2).expect("a handle");
    assert_eq!(sim.entry_flags(GUEST, 9), WRITE | READING | WRITING);
    assert_eq!(sim.unmap_one(B0, writer, WINDOW), GENERAL, "that page is the reader's");
    assert_eq!(sim.unmap_one(B0, reader, WINDOW + 1), GENERAL, "and that the writer's");
    assert_eq!(sim.unmap_one(B0, writer, WINDOW + 1), OKAY);
    assert_eq!(
        sim.entry_flags(GUEST, 9),
        WRITE | READING | WRITING,
        "the second writes yet"
    );
    assert_eq!(sim.unmap_one(B0, second, WINDOW + 2), OKAY);
    assert_eq!(sim.entry_flags(GUEST, 9), WRITE | READING);
    assert_eq!(sim.unmap_one(B0, reader, WINDOW), OKAY);
    assert_eq!(sim.entry_flags(GUEST, 9), WRITE);
}

#[test]
fn an_entry_is_pinned_128_times_of_each_kind_and_no_more() {
    let sim = granting(&Options::default());
    sim.grant(GUEST, 9, WRITE, BACKEND, SPARE);
    let mut handles = Vec::new();
    for flags in [HOST, HOST_READ] {
        for _ in 0..128 {
            let gfn = WINDOW + handles.len() as u64;
            handles.push((sim.map_one(B0, GUEST, 9, flags, gfn).expect("a handle"), gfn));
        }
        assert_eq!(sim.map_one(B0, GUEST, 9, flags, WINDOW + 0x1000), Err(GENERAL));
    }
    let mut numbers: Vec<u32> = handles.iter().map(|(handle, _)| *handle).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 256, "each has its own");
    for (handle, gfn) in handles {
        assert_eq!(sim.unmap_one(B0, handle, gfn), OKAY);
    }
    assert_eq!(sim.entry_flags(GUEST, 9), WRITE);
    assert_eq!(sim.domain(GUEST).grants.lock().pins(sim.machine(), 9), Some((0, 0)));
}

#[test]
fn a_handle_is_given_back_once_by_whoever_is_first() {
    let sim = granting(&Options::default());
    for (same_batch, both_vcpus) in [(true, false), (false, true)] {
        sim.grant(GUEST, 9, WRITE, BACKEND, SPARE);
        sim.grant(GUEST, 10, WRITE, BACKEND, SPARE + 1);
        let handle = sim.map_one(B0, GUEST, 9, HOST, WINDOW).expect("a handle");
        let other = sim.map_one(B0, GUEST, 10, HOST, WINDOW + 1).expect("a handle");
        let request = UnmapGrantRef {
            host_addr: WINDOW << 12,
            handle,
            ..Default::default()
        };
        if same_batch {
            let (result, after) = sim.grant_op(B0, grant::UNMAP_GRANT_REF, &[request, request, request]);
            assert_eq!(result, 0);
            let statuses: Vec<i16> = after.iter().map(|entry| entry.status).collect();
            let bad = GrantStatus::BadHandle.code();
            assert_eq!(statuses, [0, bad, bad]);
        }
        if both_vcpus {
            sim.psci(B0, &[0xc400_0003, 1, crate::world::RAM, 0]);
            let b1 = vcpu(BACKEND, 1);
            sim.run_until(b1);
            let second = sim.clone();
            // The second vCPU is done between the first one's look at its argument and what it does.
            sim.at(B0, Moment::Translate(SCRATCH), move || {
                second.put(BACKEND, SCRATCH + 0x1000, &request);
                let call = [grant::UNMAP_GRANT_REF, SCRATCH + 0x1000, 1];
                assert_eq!(second.hypercall(b1, hypercall::GRANT_TABLE_OP, &call), Some(0));
                assert_eq!(second.get::<UnmapGrantRef>(BACKEND, SCRATCH + 0x1000).status, 0);
            });
            assert_eq!(sim.unmap_one(B0, handle, WINDOW), GrantStatus::BadHandle);
        }
        assert_eq!(
            (sim.entry_flags(GUEST, 9), sim.entry_flags(GUEST, 10)),
            (WRITE, WRITE | READING | WRITING)
        );
        assert_eq!(sim.unmap_one(B0, other, WINDOW + 1), OKAY);
        assert_eq!(sim.domain(BACKEND).memory.lock().maptrack.in_use(), 0);
    }
}

#[test]
fn a_guest_that_keeps_writing_its_entry_keeps_nobody_busy() {
    let sim = granting(&Options::default());
    sim.grant(GUEST, 9, WRITE, BACKEND, SPARE);
    let entry = sim.pa(GUEST, (EMPTY_GFN << 12) + 9 * 8);
    // The exclusive access never succeeds.
    sim.machine().set_adversary(move |_, access| {
        if access.at == entry && access.kind == portunus::fakes::SharedAccessKind::CompareExchange {
            Interference::Contend
        } else {
            Interference::None
        }
    });
    assert_eq!(sim.map_one(B0, GUEST, 9, HOST, WINDOW), Err(GENERAL));
    sim.machine().dismiss_adversary();
    assert_eq!(sim.domain(GUEST).grants.lock().pins(sim.machine(), 9), Some((0, 0)));
    assert_eq!(sim.domain(BACKEND).memory.lock().maptrack.in_use(), 0);
    let handle = sim.map_one(B0, GUEST, 9, HOST, WINDOW).expect("a handle");
    // Each attempt finds another frame number.
    let mut number = 0_u64;
    sim.machine().set_adversary(move |memory, access| {
        if access.at == entry {
            number += 1;
            memory.write(
                entry,
                &(u64::from(WRITE) | u64::from(BACKEND.0) << 16 | (SPARE + number % 7) << 32).to_le_bytes(),
            );
        }
        Interference::None
    });
    assert_eq!(sim.unmap_one(B0, handle, WINDOW), OKAY, "the mapper does not suffer");
    sim.machine().dismiss_adversary();
    assert_eq!(sim.domain(GUEST).grants.lock().handles(), 0);
}

#[test]
fn the_frame_is_that_of_the_entry_that_was_announced() {
    let sim = granting(&Options::default());
    sim.grant(GUEST, 9, WRITE, BACKEND, SPARE);
    let entry = sim.pa(GUEST, (EMPTY_GFN << 12) + 9 * 8);
    let mut looks = 0;
    // Between the look and the exchange the guest names another frame; after the exchange a third.
    sim.machine().set_adversary(move |memory, access| {
        if access.at == entry {
            looks += 1;
            let gfn = if looks == 2 { SPARE + 1 } else { SPARE + 2 };
            if looks == 2 || looks > 3 {
                memory.write(pa_of_frame(entry), &(gfn as u32).to_le_bytes());
            }
        }
        Interference::None
    });
    let handle = sim.map_one(B0, GUEST, 9, HOST, WINDOW).expect("a handle");
    sim.machine().dismiss_adversary();
    assert_eq!(sim.pa(BACKEND, WINDOW << 12), sim.pa(GUEST, (SPARE + 1) << 12));
    assert_eq!(sim.unmap_one(B0, handle, WINDOW), OKAY);
}

fn pa_of_frame(entry: portunus::ids::Pa) -> portunus::ids::Pa {
    portunus::ids::Pa(entry.0 + 4)
}

#[test]
fn one_may_grant_to_oneself_and_two_to_each_other() {
    let sim = granting(&Options::default());
    sim.grant(GUEST, 9, WRITE, GUEST, SPARE);
    let own = sim.map_one(G0, GUEST, 9, HOST, WINDOW).expect("a handle");
    assert_eq!(sim.page_use(GUEST, WINDOW), Some(PageUse::Granted { writable: true }));
    sim.grant(GUEST, 10, WRITE, BACKEND, SPARE + 1);
    sim.grant(BACKEND, 10, WRITE, GUEST, SPARE + 1);
    let there = sim.map_one(B0, GUEST, 10, HOST, WINDOW).expect("a handle");
    let here = sim.map_one(G0, BACKEND, 10, HOST, WINDOW + 1).expect("a handle");
    // A page that one has of another is not one's own to give.
    sim.grant(GUEST, 11, WRITE, BACKEND, WINDOW + 1);
    assert_eq!(sim.map_one(B0, GUEST, 11, HOST, WINDOW + 1), Err(GrantStatus::BadPage));
    for (vcpu, handle, gfn) in [(G0, own, WINDOW), (B0, there, WINDOW), (G0, here, WINDOW + 1)] {
        assert_eq!(sim.unmap_one(vcpu, handle, gfn), OKAY);
    }
    assert_eq!((sim.entry_flags(GUEST, 9), sim.entry_flags(GUEST, 10)), (WRITE, WRITE));
}

#[test]
fn a_domain_that_may_have_no_handles_maps_nothing_but_copies() {
    let options = Options {
        channels: ["", "max_maptrack_frames = <0>;"],
        ..Options::default()
    };
    let sim = granting(&options);
    sim.grant(GUEST, 9, WRITE, BACKEND, SPARE);
    assert_eq!(sim.map_one(B0, GUEST, 9, HOST, WINDOW), Err(GrantStatus::NoSpace));
    assert_eq!(sim.entry_flags(GUEST, 9), WRITE);
    let copy = GrantCopy {
        source: grant::CopyEnd {
            frame: 9,
            domid: GUEST.0,
            ..Default::default()
        },
        dest: grant::CopyEnd {
            frame: SPARE,
            domid: SELF,
            ..Default::default()
        },
        len: 4096,
        flags: grant::COPY_SOURCE_REFERENCE,
        ..Default::default()
    };
    assert_eq!(sim.copy_one(B0, copy), OKAY);
}

#[test]
fn handles_run_out_for_the_mapper_alone_and_come_back() {
    let options = Options {
        channels: ["", "max_maptrack_frames = <1>;"],
        ..Options::default()
    };
    let sim = granting(&options);
    sim.forget_log();
    for reference in 8..16 {
        sim.grant(GUEST, reference, WRITE, BACKEND, SPARE);
    }
    sim.grant(GUEST, 16, WRITE, STRANGER, SPARE);
    let mut handles = Vec::new();
    for number in 0..256_u32 {
        let gfn = WINDOW + u64::from(number);
        handles.push((
            sim.map_one(B0, GUEST, 8 + number % 8, HOST, gfn).expect("a handle"),
            gfn,
        ));
    }
    assert_eq!(
        sim.map_one(B0, GUEST, 8, HOST, WINDOW + 0x1000),
        Err(GrantStatus::NoSpace)
    );
    assert!(sim.map_one(S0, GUEST, 16, HOST, WINDOW).is_ok());
    for (handle, gfn) in handles.iter().step_by(3) {
        assert_eq!(sim.unmap_one(B0, *handle, *gfn), OKAY);
    }
    for index in 0..handles.len().div_ceil(3) {
        assert!(
            sim.map_one(B0, GUEST, 8, HOST, WINDOW + 0x1000 + index as u64).is_ok(),
            "{index}"
        );
    }
    assert_eq!(
        sim.map_one(B0, GUEST, 8, HOST, WINDOW + 0x2000),
        Err(GrantStatus::NoSpace)
    );
}

#[test]
fn a_page_given_up_while_it_is_mapped_is_nobody_elses_before_it_is_unmapped() {
    let sim = granting(&Options::default());
    sim.grant(GUEST, 9, WRITE, BACKEND, SPARE);
    let frame = sim.pa(GUEST, SPARE << 12);
    let handle = sim.map_one(B0, GUEST, 9, HOST, WINDOW).expect("a handle");
    sim.run_until(G0);
    assert_eq!(sim.reservation(G0, memory::DECREASE_RESERVATION, &[SPARE]), 1);
    assert_eq!(
        sim.reservation(G0, memory::POPULATE_PHYSMAP, &[SPARE]),
        0,
        "it is mapped yet"
    );
    assert_eq!(
        sim.map_one(B0, GUEST, 9, HOST, WINDOW + 1),
        Err(GENERAL),
        "and no more is"
    );
    assert_eq!(sim.pa(BACKEND, WINDOW << 12), frame);
    assert_eq!(sim.unmap_one(B0, handle, WINDOW), OKAY);
    sim.run_until(G0);
    assert_eq!(sim.reservation(G0, memory::POPULATE_PHYSMAP, &[SPARE]), 1);
    assert_eq!(sim.pa(GUEST, SPARE << 12), frame);
    assert_eq!(sim.entry_flags(GUEST, 9), WRITE);
}

#[test]
fn a_map_over_anything_of_ones_own_harms_oneself_alone() {
    let sim = granting(&Options::default());
    sim.grant(GUEST, 9, WRITE, BACKEND, SPARE);
    assert_eq!(sim.map_shared_info(B0, EMPTY_GFN + 0x20), 0);
    // Over its table, shared_info and RAM.
    for gfn in [EMPTY_GFN, EMPTY_GFN + 0x20, SPARE] {
        let handle = sim.map_one(B0, GUEST, 9, HOST, gfn).expect("a handle");
        assert_eq!(sim.page_use(BACKEND, gfn), Some(PageUse::Granted { writable: true }));
        assert_eq!(sim.unmap_one(B0, handle, gfn), OKAY);
        assert_eq!(sim.page_use(BACKEND, gfn), None);
    }
    // They can be mapped again.
    assert_eq!(sim.map_table(B0, 0), 0);
    assert_eq!(sim.map_shared_info(B0, EMPTY_GFN + 0x20), 0);
    sim.run_until(B0);
    assert_eq!(sim.reservation(B0, memory::POPULATE_PHYSMAP, &[SPARE]), 1);
}

#[test]
fn whatever_two_domains_map_copy_revoke_and_unmap_the_model_agrees() {
    let sim = granting(&Options::default());
    sim.forget_log();
    let mut random = Random::new(42);
    // What is mapped: handle, reference, place, for writing, frame.
    let mut live: Vec<(u32, u32, u64, bool, u64)> = Vec::new();
    for step in 0..6_000 {
        let reference = 8 + random.below(12) as u32;
        let pins: Vec<bool> = live.iter().filter(|one| one.1 == reference).map(|one| one.3).collect();
        match random.below(5) {
            0 => {
                // The guest grants, takes back, or names another frame: all but the hypervisor's bits.
                let busy = sim.entry_flags(GUEST, reference) & (READING | WRITING);
                let flags = [0, READ, WRITE][random.below(3) as usize];
                sim.grant(GUEST, reference, flags | busy, BACKEND, SPARE + random.below(9));
            }
            1 | 2 => {
                let entry: GrantEntry = sim.get(GUEST, (EMPTY_GFN << 12) + u64::from(reference) * 8);
                let writes = random.below(2) == 1;
                let gfn = WINDOW + random.below(64);
                let announced = pins.contains(&writes) || !writes && !pins.is_empty();
                let grants = entry.flags & 3 == WRITE && !(writes && entry.flags & READ == READ);
                let pinned = live.iter().find(|one| one.1 == reference).map(|one| one.4);
                // The first to write what others read writes the page that they read.
                let grants = grants && pinned.is_none_or(|frame| frame == u64::from(entry.frame));
                let flags = if writes { HOST } else { HOST_READ };
                let result = sim.map_one(B0, GUEST, reference, flags, gfn);
                assert_eq!(result.is_ok(), announced || grants, "step {step}");
                if let Ok(handle) = result {
                    let frame = pinned.unwrap_or(entry.frame.into());
                    assert_eq!(sim.pa(BACKEND, gfn << 12), sim.pa(GUEST, frame << 12), "step {step}");
                    // What was there has lost its place.
                    for one in &mut live {
                        if one.2 == gfn {
                            one.2 = 0x7_0000;
                        }
                    }
                    live.push((handle, reference, gfn, writes, frame));
                }
            }
            _ if live.is_empty() => {}
            _ => {
                let index = random.below(live.len() as u64) as usize;
                let (handle, _, gfn, ..) = live[index];
                if gfn == 0x7_0000 {
                    // Its page is gone; it stays until the domain ends.
                    assert_eq!(sim.unmap_one(B0, handle, gfn), GENERAL, "step {step}");
                } else {
                    assert_eq!(sim.unmap_one(B0, handle, gfn), OKAY, "step {step}");
                    live.remove(index);
                }
            }
        }
        let expected = live
            .iter()
            .filter(|one| one.1 == reference)
            .fold(0, |bits, one| bits | READING | if one.3 { WRITING } else { 0 });
        assert_eq!(
            sim.entry_flags(GUEST, reference) & (READING | WRITING),
            expected,
            "step {step}"
        );
        let mapped = live.iter().filter(|one| one.2 != 0x7_0000).count() as u64;
        if step % 64 == 0 {
            let ranges = &sim.domain(GUEST).ram;
            let held: u64 = ranges.iter().map(|range| sim.hypervisor.references_to(*range)).sum();
            assert_eq!(held, mapped, "step {step}");
            assert_eq!(sim.domain(BACKEND).memory.lock().maptrack.in_use() as usize, live.len());
        }
        if live.len() > 200 {
            sim.run_until(B0);
            break;
        }
    }
}
