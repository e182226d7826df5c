//! What hostile guests try with grants: entries that change, handles that are used twice, limits, and the places where Xen
//! went wrong.

use portunus::abi::grant::{self, GrantCopy, GrantEntry, GrantStatus, UnmapGrantRef};
use portunus::abi::{HypercallError, hypercall, memory};
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
fn calls_that_are_no_calls() {
    let sim = granting(&Options::default());
    sim.run_until(B0);
    let call = |operation: u64, pointer: u64, count: u64| {
        sim.hypercall(B0, hypercall::GRANT_TABLE_OP, &[operation, pointer, count])
            .expect("it runs")
    };
    let error = |error: HypercallError| -(error as i64);
    for operation in 0..16 {
        assert_eq!(
            call(operation, SCRATCH, 1 << 31),
            error(HypercallError::Invalid),
            "{operation}"
        );
        assert_eq!(
            call(operation, SCRATCH, u32::MAX.into()),
            error(HypercallError::Invalid),
            "{operation}"
        );
        if operation != grant::CACHE_FLUSH {
            assert_eq!(
                call(operation | 1 << 12, SCRATCH, 1),
                error(HypercallError::Invalid),
                "{operation}"
            );
        }
    }
    for operation in [grant::DUMP_TABLE, 13, 14, 0xfff] {
        assert_eq!(
            call(operation, SCRATCH, 1),
            error(HypercallError::NotImplemented),
            "{operation}"
        );
    }
    let batched = [0, 1, 5, 7, 11];
    for operation in batched {
        assert_eq!(call(operation, SCRATCH, 0), 0, "{operation}");
        for pointer in [0, 1 << 40, u64::MAX - 3, EMPTY_GFN << 12] {
            let count = 1_000_000;
            assert_eq!(
                call(operation, pointer, count),
                error(HypercallError::BadPointer),
                "{operation} {pointer:#x}"
            );
        }
    }
    for operation in [grant::SETUP_TABLE, grant::QUERY_SIZE, grant::GET_STATUS_FRAMES] {
        for count in [0, 2] {
            assert_eq!(
                call(operation, SCRATCH, count),
                error(HypercallError::Invalid),
                "{operation}"
            );
        }
    }
    // Many entries that run into the end of memory: those before it are answered.
    let end = crate::world::RAM + crate::world::RAM_SIZE;
    let entries = 100;
    assert_eq!(
        call(0, end - entries * 32, entries + 1),
        error(HypercallError::BadPointer)
    );
    for index in 0..entries {
        let entry: grant::MapGrantRef = sim.get(BACKEND, end - (entries - index) * 32);
        assert_eq!(entry.status, GrantStatus::BadReference.code(), "{index}");
    }
}

#[test]
fn versions_and_what_only_version_2_has() {
    let sim = granting(&Options::default());
    let rows = [
        (1, 0, 1),
        (2, HypercallError::NotImplemented as i64, 1),
        (0, HypercallError::Invalid as i64, 1),
        (3, HypercallError::Invalid as i64, 1),
    ];
    for (version, error, after) in rows {
        let (result, entries) = sim.grant_op(G0, grant::SET_VERSION, &[grant::Version { version }]);
        assert_eq!((result, entries[0].version), (-error, after), "{version}");
    }
    let whose = [
        (SELF, 0),
        (GUEST.0, 0),
        (BACKEND.0, HypercallError::NotPermitted as i64),
        (99, HypercallError::NoDomain as i64),
    ];
    for (dom, error) in whose {
        let (result, after) = sim.grant_op(
            G0,
            grant::GET_VERSION,
            &[grant::GetVersion {
                dom,
                ..Default::default()
            }],
        );
        assert_eq!(result, -error, "{dom}");
        assert_eq!(after[0].version, u32::from(error == 0));
    }
    let status = |nr_frames, dom| {
        let request = grant::GetStatusFrames {
            nr_frames,
            dom,
            frame_list: 1,
            ..Default::default()
        };
        let (result, after) = sim.grant_op(G0, grant::GET_STATUS_FRAMES, &[request]);
        assert_eq!(result, 0);
        after[0].status
    };
    assert_eq!(
        (status(0, SELF), status(1, SELF), status(u32::MAX, SELF)),
        (0, GENERAL.code(), GENERAL.code())
    );
    assert_eq!(status(0, 99), GrantStatus::BadDomain.code());
    assert_eq!(status(0, BACKEND.0), GrantStatus::PermissionDenied.code());
    let (result, after) = sim.grant_op(G0, grant::TRANSFER, &[grant::Transfer::default(); 40]);
    assert_eq!(result, -(HypercallError::NotSupported as i64));
    assert!(after.iter().all(|entry| entry.status == 0));
    let (_, after) = sim.grant_op(
        G0,
        grant::QUERY_SIZE,
        &[grant::QuerySize {
            dom: BACKEND.0,
            ..Default::default()
        }],
    );
    assert_eq!(
        (after[0].status, after[0].nr_frames),
        (GrantStatus::PermissionDenied.code(), 0)
    );
}

#[test]
fn entries_are_exchanged_when_nobody_uses_them() {
    let sim = granting(&Options::default());
    sim.grant(GUEST, 9, WRITE, BACKEND, SPARE);
    sim.grant(GUEST, 10, READ, STRANGER, SPARE + 1);
    let swap = |one, other| {
        let request = grant::SwapGrantRef {
            ref_a: one,
            ref_b: other,
            ..Default::default()
        };
        let (result, after) = sim.grant_op(G0, grant::SWAP_GRANT_REF, &[request]);
        assert_eq!(result, 0);
        after[0].status
    };
    assert_eq!(swap(9, 10), 0);
    let entry: GrantEntry = sim.get(GUEST, (EMPTY_GFN << 12) + 10 * 8);
    assert_eq!(
        (entry.flags, entry.domid, u64::from(entry.frame)),
        (WRITE, BACKEND.0, SPARE)
    );
    let handle = sim.map_one(B0, GUEST, 10, HOST, WINDOW).expect("a handle");
    assert_eq!(swap(9, 10), GrantStatus::Again.code());
    assert_eq!(swap(10, 11), GrantStatus::Again.code());
    assert_eq!(swap(9, 9), 0);
    for beyond in [512, u32::MAX] {
        assert_eq!(swap(9, beyond), GrantStatus::BadReference.code());
        assert_eq!(swap(beyond, 9), GrantStatus::BadReference.code());
        assert_eq!(swap(beyond, beyond), GrantStatus::BadReference.code());
    }
    assert_eq!(sim.unmap_one(B0, handle, WINDOW), OKAY);
}

#[test]
fn a_table_that_is_told_of_shows_nothing_of_the_hypervisors_memory() {
    let sim = granting(&Options::default());
    let list = SCRATCH + 0x800;
    sim.put(GUEST, list, &[0xee_u8; 64]);
    let setup = grant::SetupTable {
        dom: SELF,
        nr_frames: 3,
        frame_list: list,
        ..Default::default()
    };
    let (result, after) = sim.grant_op(G0, grant::SETUP_TABLE, &[setup]);
    assert_eq!((result, after[0].status), (0, 0));
    let places: [u64; 4] = sim.get(GUEST, list);
    assert_eq!(places, [EMPTY_GFN, u64::MAX, u64::MAX, 0xeeee_eeee_eeee_eeee]);
    // A new frame is empty.
    assert_eq!(sim.map_table(G0, 2), 0);
    assert_eq!(sim.get::<[u8; 4096]>(GUEST, (EMPTY_GFN + 2) << 12), [0; 4096]);
    let bad = grant::SetupTable {
        frame_list: 1 << 40,
        ..setup
    };
    assert_eq!(
        sim.grant_op(G0, grant::SETUP_TABLE, &[bad]).0,
        -(HypercallError::BadPointer as i64)
    );
    // A guest whose pool is used up grows no more, and goes on.
    let taken = std::iter::from_fn(|| sim.domain(GUEST).memory.lock().pool.allocate(sim.machine()).ok()).count();
    assert!(taken > 100);
    let more = grant::SetupTable { nr_frames: 9, ..setup };
    assert_eq!(
        sim.grant_op(G0, grant::SETUP_TABLE, &[more]).1[0].status,
        GENERAL.code()
    );
    sim.grant(GUEST, 9, WRITE, BACKEND, SPARE);
    assert!(sim.map_one(B0, GUEST, 9, HOST, WINDOW).is_ok());
    sim.grant(BACKEND, 9, WRITE, GUEST, SPARE);
    assert_eq!(sim.map_one(G0, BACKEND, 9, HOST, WINDOW), Err(GrantStatus::NoSpace));
    assert_eq!(sim.entry_flags(BACKEND, 9), WRITE);
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

#[test]
fn caches_are_cleaned_of_pages_that_one_has_and_no_others() {
    let sim = granting(&Options::default());
    sim.grant(GUEST, 9, WRITE, BACKEND, SPARE);
    sim.map_one(B0, GUEST, 9, HOST, WINDOW).expect("a handle");
    let flush = grant::CacheFlush {
        dev_bus_addr: WINDOW << 12,
        offset: 64,
        length: 128,
        op: grant::CACHE_CLEAN,
    };
    let own = grant::CacheFlush {
        dev_bus_addr: SPARE << 12,
        op: 3,
        ..flush
    };
    let all: [grant::CacheFlush; 100] = std::array::from_fn(|index| if index % 2 == 0 { flush } else { own });
    sim.take_log();
    assert_eq!(sim.grant_op(B0, grant::CACHE_FLUSH, &all).0, 0);
    let granted = sim.pa(GUEST, SPARE << 12).0;
    let cleaned: Vec<(u64, u64)> = sim
        .take_log()
        .into_iter()
        .filter_map(|operation| match operation {
            portunus::fakes::Operation::CleanToCoherency { at, length } => Some((at.0, length)),
            _ => None,
        })
        .collect();
    assert_eq!(cleaned.len(), 100);
    assert_eq!(cleaned[0], (granted + 64, 128));
    assert_eq!(cleaned[1], (sim.pa(BACKEND, SPARE << 12).0 + 64, 128));
    let rows = [
        (
            "nothing",
            grant::CacheFlush {
                length: 0,
                dev_bus_addr: u64::MAX,
                ..flush
            },
            0,
        ),
        (
            "nothing to do",
            grant::CacheFlush {
                op: 0,
                dev_bus_addr: u64::MAX,
                ..flush
            },
            0,
        ),
        (
            "by reference",
            grant::CacheFlush {
                op: 1 << 31 | 1,
                ..flush
            },
            22,
        ),
        ("an unknown operation", grant::CacheFlush { op: 4, ..flush }, 22),
        ("across the page", grant::CacheFlush { offset: 4000, ..flush }, 22),
        (
            "beyond the page",
            grant::CacheFlush {
                offset: 4096,
                length: 0,
                ..flush
            },
            22,
        ),
        (
            "far beyond",
            grant::CacheFlush {
                offset: u16::MAX,
                length: u16::MAX,
                ..flush
            },
            22,
        ),
        (
            "no page",
            grant::CacheFlush {
                dev_bus_addr: (WINDOW + 1) << 12,
                ..flush
            },
            22,
        ),
        (
            "beyond the map",
            grant::CacheFlush {
                dev_bus_addr: u64::MAX,
                ..flush
            },
            22,
        ),
        (
            "its table",
            grant::CacheFlush {
                dev_bus_addr: EMPTY_GFN << 12,
                ..flush
            },
            1,
        ),
    ];
    for (name, request, error) in rows {
        assert_eq!(sim.grant_op(B0, grant::CACHE_FLUSH, &[request]).0, -error, "{name}");
    }
    // A cursor of one's own making.
    sim.put(BACKEND, SCRATCH, &grant::CacheFlush { length: 0, ..flush });
    let call = [grant::CACHE_FLUSH | 7 << 12, SCRATCH, 1];
    let result = sim.hypercall(B0, hypercall::GRANT_TABLE_OP, &call);
    assert_eq!(result, Some(-(HypercallError::IllegalSequence as i64)));
}

#[test]
fn caches_are_cleaned_by_machine_address_where_that_is_what_a_domain_knows() {
    let options = Options {
        stranger: "direct-map;",
        ..Options::default()
    };
    let sim = granting(&options);
    sim.forget_log();
    // Many handles, so that the search goes on and on.
    for reference in 8..20 {
        sim.grant(GUEST, reference, WRITE, STRANGER, SPARE + u64::from(reference));
    }
    let map = |reference, gfn: u64| {
        let request = grant::MapGrantRef {
            host_addr: gfn << 12,
            flags: HOST,
            reference,
            dom: GUEST.0,
            ..Default::default()
        };
        let after = sim.grant_op(S0, grant::MAP_GRANT_REF, &[request]).1[0];
        assert_eq!(after.status, 0);
        after.dev_bus_addr
    };
    for number in 0..600 {
        map(8 + number % 5, WINDOW + u64::from(number));
    }
    let bus = map(19, WINDOW + 600);
    assert_eq!(bus, sim.pa(GUEST, (SPARE + 19) << 12).0, "the machine's address");
    let flush = |address| {
        let request = grant::CacheFlush {
            dev_bus_addr: address,
            offset: 0,
            length: 4095,
            op: 2,
        };
        sim.grant_op(S0, grant::CACHE_FLUSH, &[request]).0
    };
    assert_eq!(flush(bus), 0);
    assert_eq!(flush(sim.pa(GUEST, (SPARE + 18) << 12).0), -1, "granted, not mapped");
    assert_eq!(flush(sim.pa(BACKEND, SPARE << 12).0), -1, "another's");
    assert_eq!(flush(0), -22, "no RAM");
    let own = sim.domain(STRANGER).ram[0].start.0;
    assert_eq!(flush(own), 0);
}
