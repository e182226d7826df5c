//! Calls with many entries: each entry is done as in a call of its own, whichever way it goes, and an interrupt or a bad
//! entry between two of them changes nothing of that.

use std::rc::Rc;

use portunus::abi::HypercallError;
use portunus::abi::grant::{self, CopyEnd, GrantCopy, GrantStatus, MapGrantRef, UnmapGrantRef};
use portunus::abi::hypercall::{GRANT_TABLE_OP, HVC_IMMEDIATE};
use portunus::fakes::Operation;
use portunus::hypervisor::Quick;
use portunus::ids::PAGE_SIZE;
use portunus::stage2::PageUse;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::grants::{B0, GENERAL, HOST_READ, OKAY, READ, S0, SELF, SPARE, WINDOW, WRITE, granting};
use crate::sim::Sim;
use crate::world::{BACKEND, EMPTY_GFN, GUEST, Options, RAM, RAM_SIZE, SCRATCH, STRANGER};

const HOST: u32 = grant::MAP_HOST;
/// More than one execution handles, and no multiple of it.
const MANY: u32 = 75;
/// The first entry that is granted, and the first frame.
const FIRST: u32 = 8;

/// The guest grants [`MANY`] frames to the backend, each for writing; what a frame holds says which it is.
fn granted() -> Rc<Sim> {
    let sim = granting(&Options::default());
    for index in 0..MANY {
        let gfn = SPARE + u64::from(index);
        sim.grant(GUEST, FIRST + index, WRITE, BACKEND, gfn);
        sim.put(GUEST, gfn << 12, &[index as u8 + 1; 64]);
    }
    sim.run_until(B0);
    sim
}

fn map_of(index: u32) -> MapGrantRef {
    MapGrantRef {
        host_addr: (WINDOW + u64::from(index)) << 12,
        flags: HOST,
        reference: FIRST + index,
        dom: GUEST.0,
        status: -77,
        ..Default::default()
    }
}

fn unmap_of(index: u32, handle: u32) -> UnmapGrantRef {
    UnmapGrantRef {
        host_addr: (WINDOW + u64::from(index)) << 12,
        handle,
        status: -77,
        ..Default::default()
    }
}

/// 64 bytes of a granted frame to a place of its own in the caller's [`SPARE`].
fn copy_of(index: u32) -> GrantCopy {
    GrantCopy {
        source: CopyEnd {
            frame: (FIRST + index).into(),
            domid: GUEST.0,
            ..Default::default()
        },
        dest: CopyEnd {
            frame: SPARE + u64::from(index / 64),
            domid: SELF,
            offset: (index % 64 * 64) as u16,
            ..Default::default()
        },
        len: 64,
        flags: grant::COPY_SOURCE_REFERENCE,
        status: -77,
        ..Default::default()
    }
}

/// A call of the backend's with these entries at `at`: its result, and the entries afterwards.
fn call<T: IntoBytes + FromBytes + Immutable>(sim: &Sim, operation: u64, at: u64, entries: &[T]) -> (i64, Vec<T>) {
    let place = |index: usize| at + (index * size_of::<T>()) as u64;
    for (index, entry) in entries.iter().enumerate() {
        sim.put(BACKEND, place(index), entry);
    }
    let arguments = [operation, at, entries.len() as u64];
    let result = sim.hypercall(B0, GRANT_TABLE_OP, &arguments).expect("it runs");
    (
        result,
        (0..entries.len()).map(|index| sim.get(BACKEND, place(index))).collect(),
    )
}

/// How many translations were dropped, and how often.
fn drops(sim: &Sim) -> usize {
    let is_drop = |operation: &&Operation| {
        matches!(
            operation,
            Operation::InvalidateAll { .. } | Operation::InvalidatePage { .. }
        )
    };
    sim.take_log().iter().filter(is_drop).count()
}

/// Maps, copies and unmaps everything by entries at `at`; whatever the ways are, this is what is seen.
fn map_copy_unmap(sim: &Sim, at: u64) {
    let maps: Vec<MapGrantRef> = (0..MANY).map(map_of).collect();
    let (result, mapped) = call(sim, grant::MAP_GRANT_REF, at, &maps);
    assert_eq!(result, 0);
    for (index, (asked, told)) in (0..).zip(maps.iter().zip(&mapped)) {
        let expected = MapGrantRef {
            status: 0,
            handle: told.handle,
            dev_bus_addr: asked.host_addr,
            ..*asked
        };
        assert_eq!(told.as_bytes(), expected.as_bytes(), "{index}");
        assert_eq!(
            sim.page_use(BACKEND, WINDOW + index),
            Some(PageUse::Granted { writable: true })
        );
        assert_eq!(sim.pa(BACKEND, asked.host_addr), sim.pa(GUEST, (SPARE + index) << 12));
    }
    let copies: Vec<GrantCopy> = (0..MANY).map(copy_of).collect();
    let (result, copied) = call(sim, grant::COPY, at, &copies);
    assert_eq!(result, 0);
    for (index, (asked, told)) in (0..).zip(copies.iter().zip(&copied)) {
        assert_eq!(told.as_bytes(), GrantCopy { status: 0, ..*asked }.as_bytes(), "{index}");
        let there = (asked.dest.frame << 12) + u64::from(asked.dest.offset);
        assert_eq!(sim.get::<[u8; 64]>(BACKEND, there), [index as u8 + 1; 64], "{index}");
    }
    let unmaps: Vec<UnmapGrantRef> = (0..)
        .zip(&mapped)
        .map(|(index, map)| unmap_of(index, map.handle))
        .collect();
    let (result, unmapped) = call(sim, grant::UNMAP_GRANT_REF, at, &unmaps);
    assert_eq!(result, 0);
    for (index, (asked, told)) in (0..).zip(unmaps.iter().zip(&unmapped)) {
        assert_eq!(
            told.as_bytes(),
            UnmapGrantRef { status: 0, ..*asked }.as_bytes(),
            "{index}"
        );
        assert_eq!(sim.page_use(BACKEND, WINDOW + index), None);
        assert_eq!(sim.entry_flags(GUEST, FIRST + index as u32), WRITE);
    }
    assert_eq!(sim.domain(BACKEND).memory.lock().maptrack.in_use(), 0);
    assert_eq!(sim.domain(GUEST).grants.lock().handles(), 0);
}

#[test]
fn a_batch_does_what_as_many_calls_do_wherever_its_entries_are() {
    // In one page, across two, with an entry in both, and not aligned as the straight way wants it.
    for at in [
        SCRATCH,
        SCRATCH + PAGE_SIZE - 512,
        SCRATCH + PAGE_SIZE - 24,
        SCRATCH + 8,
        SCRATCH + 4,
    ] {
        for slow in [false, true] {
            let sim = granted();
            if slow {
                sim.be_slow();
            }
            map_copy_unmap(&sim, at);
            // With the tables that the first maps have made.
            map_copy_unmap(&sim, at);
        }
    }
}

#[test]
fn a_batch_that_is_interrupted_goes_on_with_the_next_entry_and_does_none_twice() {
    let sim = granted();
    map_copy_unmap(&sim, SCRATCH);
    sim.with(B0, |context| context.cpu.fake.is_interrupted = true);
    map_copy_unmap(&sim, SCRATCH + PAGE_SIZE - 24);

    let maps: Vec<MapGrantRef> = (0..MANY).map(map_of).collect();
    for (index, entry) in (0..).zip(&maps) {
        sim.put(BACKEND, SCRATCH + index * 32, entry);
    }
    let pc = sim.pc(B0);
    sim.set_x(B0, 16, GRANT_TABLE_OP);
    for (register, value) in (0..).zip([grant::MAP_GRANT_REF, SCRATCH, MANY.into(), 3, 4]) {
        sim.set_x(B0, register, value);
    }
    let mut handles = Vec::new();
    for index in 0..u64::from(MANY) {
        assert_eq!(sim.pc(B0), pc, "its HVC is still to be executed");
        let registers: Vec<u64> = (0..5).map(|register| sim.x(B0, register)).collect();
        let left = u64::from(MANY) - index;
        assert_eq!(registers, [grant::MAP_GRANT_REF, SCRATCH + index * 32, left, 3, 4]);
        sim.execute_hvc(B0, HVC_IMMEDIATE);
        let done: MapGrantRef = sim.get(BACKEND, SCRATCH + index * 32);
        assert_eq!(done.status, 0);
        handles.push(done.handle);
        if left > 1 {
            let next: MapGrantRef = sim.get(BACKEND, SCRATCH + (index + 1) * 32);
            assert_eq!(next.status, -77, "the next one was not begun");
        }
    }
    assert_eq!((sim.pc(B0), sim.x(B0, 0)), (pc + 4, 0));
    handles.sort_unstable();
    handles.dedup();
    assert_eq!(handles.len(), MANY as usize);
}

#[test]
fn an_entry_that_is_refused_says_so_and_those_around_it_are_done() {
    for slow in [false, true] {
        let sim = granted();
        if slow {
            sim.be_slow();
        }
        sim.grant(GUEST, FIRST + 5, READ, BACKEND, SPARE + 5);
        let mut maps: Vec<MapGrantRef> = (0..MANY).map(map_of).collect();
        maps[3].reference = 9999;
        maps[5].flags = HOST_READ;
        maps[7].dom = 77;
        maps[9].flags = 0;
        maps[11].dom = BACKEND.0;
        // Twice the same: the second is another pin of it, at another place.
        maps[13].reference = maps[12].reference;
        let (result, mapped) = call(&sim, grant::MAP_GRANT_REF, SCRATCH, &maps);
        assert_eq!(result, 0);
        let refused: Vec<(usize, i16)> = (0..).zip(&mapped).map(|(index, entry)| (index, entry.status)).collect();
        let refused: Vec<(usize, i16)> = refused.into_iter().filter(|(_, status)| *status != 0).collect();
        let expected = [
            (3, GrantStatus::BadReference),
            (7, GrantStatus::BadDomain),
            (9, GrantStatus::BadReference),
            (11, GENERAL),
        ];
        assert_eq!(
            refused,
            expected.map(|(index, status)| (index, status.code())),
            "slow {slow}"
        );
        assert_eq!(
            sim.page_use(BACKEND, WINDOW + 5),
            Some(PageUse::Granted { writable: false })
        );
        let reference = maps[12].reference;
        assert_eq!(
            sim.domain(GUEST).grants.lock().pins(sim.machine(), reference),
            Some((0, 2))
        );

        let mut copies: Vec<GrantCopy> = (0..MANY).map(copy_of).collect();
        copies[0].len = 0;
        copies[1].len = 4097;
        copies[2].dest.domid = GUEST.0;
        copies[3].source.frame = 9999;
        copies[4].dest.frame = EMPTY_GFN;
        // A pinned entry is copied of as well, in the other direction.
        copies[12] = GrantCopy {
            source: copies[12].dest,
            dest: copies[12].source,
            flags: grant::COPY_DESTINATION_REFERENCE,
            ..copies[12]
        };
        let (result, copied) = call(&sim, grant::COPY, SCRATCH, &copies);
        assert_eq!(result, 0);
        let statuses: Vec<i16> = copied.iter().map(|entry| entry.status).collect();
        let expected = [
            OKAY,
            GrantStatus::BadCopyArgument,
            GrantStatus::PermissionDenied,
            GrantStatus::BadReference,
            GrantStatus::BadPage,
        ];
        assert_eq!(statuses[..5], expected.map(GrantStatus::code), "slow {slow}");
        assert!(statuses[5..].iter().all(|status| *status == 0), "slow {slow}");

        let mut unmaps: Vec<UnmapGrantRef> = (0..)
            .zip(&mapped)
            .map(|(index, map)| unmap_of(index, map.handle))
            .collect();
        unmaps[1] = unmaps[0];
        unmaps[2].host_addr += 1 << 20;
        unmaps[3].handle = u32::MAX;
        unmaps[6].host_addr = 0;
        unmaps[7].handle = 4000;
        for refused in [9, 11] {
            unmaps[refused].handle = 9999;
        }
        let (result, unmapped) = call(&sim, grant::UNMAP_GRANT_REF, SCRATCH, &unmaps);
        assert_eq!(result, 0);
        let refused: Vec<(usize, i16)> = (0..)
            .zip(&unmapped)
            .map(|(index, entry)| (index, entry.status))
            .collect();
        let refused: Vec<(usize, i16)> = refused.into_iter().filter(|(_, status)| *status != 0).collect();
        let expected = [
            (1, GrantStatus::BadHandle),
            (2, GENERAL),
            (3, GrantStatus::BadHandle),
            (7, GrantStatus::BadHandle),
            (9, GrantStatus::BadHandle),
            (11, GrantStatus::BadHandle),
        ];
        assert_eq!(
            refused,
            expected.map(|(index, status)| (index, status.code())),
            "slow {slow}"
        );
        // Handles 1, 2 and 6, whose addresses were another's, nowhere or none.
        assert_eq!(sim.domain(BACKEND).memory.lock().maptrack.in_use(), 3);
    }
}

#[test]
fn the_entries_before_one_that_is_nowhere_are_done() {
    for slow in [false, true] {
        let sim = granted();
        if slow {
            sim.be_slow();
        }
        let end = RAM + RAM_SIZE;
        for (index, count) in [(0, 3_u32), (3, 40)] {
            let at = end - u64::from(count) * 32;
            for offset in 0..count {
                sim.put(BACKEND, at + u64::from(offset) * 32, &map_of((index + offset) % MANY));
            }
            let arguments = [grant::MAP_GRANT_REF, at, u64::from(count) + 1];
            let result = sim.hypercall(B0, GRANT_TABLE_OP, &arguments);
            assert_eq!(result, Some(-(HypercallError::BadPointer as i64)));
            for offset in 0..count {
                let entry: MapGrantRef = sim.get(BACKEND, at + u64::from(offset) * 32);
                assert_eq!(entry.status, 0, "{offset} of {count}, slow {slow}");
            }
        }
        // An entry half of which is there is not begun.
        sim.put(
            BACKEND,
            end - 16,
            &[(WINDOW + 60) << 12, u64::from(FIRST + 60) << 32 | u64::from(HOST)],
        );
        let result = sim.hypercall(B0, GRANT_TABLE_OP, &[grant::MAP_GRANT_REF, end - 16, 2]);
        assert_eq!(result, Some(-(HypercallError::BadPointer as i64)));
        assert_eq!(sim.page_use(BACKEND, WINDOW + 60), None);
        for pointer in [u64::MAX - 63, u64::MAX - 7, 0] {
            let result = sim.hypercall(B0, GRANT_TABLE_OP, &[grant::COPY, pointer, 1 << 20]);
            assert_eq!(result, Some(-(HypercallError::BadPointer as i64)), "{pointer:#x}");
        }
    }
}

#[test]
fn unmaps_of_what_two_domains_grant_are_done_in_one_call_and_drop_translations_once_for_each() {
    let sim = granted();
    assert_eq!(sim.map_table(S0, 0), 0);
    sim.run_until(B0);
    sim.grant(STRANGER, FIRST, WRITE, BACKEND, SPARE);
    sim.grant(STRANGER, FIRST + 1, WRITE, BACKEND, SPARE + 1);
    let mut maps: Vec<MapGrantRef> = (0..8).map(map_of).collect();
    for (index, reference) in [(4, FIRST), (5, FIRST + 1)] {
        (maps[index].dom, maps[index].reference) = (STRANGER.0, reference);
    }
    let (_, mapped) = call(&sim, grant::MAP_GRANT_REF, SCRATCH, &maps);
    assert!(mapped.iter().all(|entry| entry.status == 0));
    let unmaps: Vec<UnmapGrantRef> = (0..)
        .zip(&mapped)
        .map(|(index, map)| unmap_of(index, map.handle))
        .collect();
    sim.take_log();
    let (result, unmapped) = call(&sim, grant::UNMAP_GRANT_REF, SCRATCH, &unmaps);
    assert_eq!(result, 0);
    assert!(unmapped.iter().all(|entry| entry.status == 0));
    assert_eq!(drops(&sim), 3);
    for (domain, reference) in [
        (GUEST, FIRST),
        (STRANGER, FIRST),
        (STRANGER, FIRST + 1),
        (GUEST, FIRST + 7),
    ] {
        assert_eq!(sim.entry_flags(domain, reference), WRITE);
    }
}

#[test]
fn a_batch_that_somebody_else_has_a_lock_of_changes_nothing_without_it() {
    let sim = granted();
    map_copy_unmap(&sim, SCRATCH);
    let copies: Vec<GrantCopy> = (0..4).map(copy_of).collect();
    for (index, entry) in (0..).zip(&copies) {
        sim.put(BACKEND, SCRATCH + index * 40, entry);
    }
    let quick = || {
        for (register, value) in (0..).zip([grant::COPY, SCRATCH, 4]) {
            sim.set_x(B0, register, value);
        }
        sim.with(B0, |context| {
            let at = sim.hypervisor.locate(B0).expect("it exists");
            sim.hypervisor.on_grant_call(at, &mut context.cpu, &mut context.state)
        })
    };
    for domain in [BACKEND, GUEST] {
        let memory = sim.domain(domain).memory.lock();
        assert_eq!(quick(), Quick::No);
        drop(memory);
    }
    let table = sim.domain(GUEST).grants.lock();
    assert_eq!(quick(), Quick::No);
    drop(table);
    for index in 0..4 {
        assert_eq!(sim.get::<GrantCopy>(BACKEND, SCRATCH + index * 40).status, -77);
    }
    assert_eq!([sim.x(B0, 1), sim.x(B0, 2)], [SCRATCH, 4]);
    assert_eq!(quick(), Quick::Done);
}
