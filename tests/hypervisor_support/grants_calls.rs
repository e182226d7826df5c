//! Calls at grants that are no calls, and those about the table itself.

use portunus::abi::grant::{self, GrantEntry, GrantStatus};
use portunus::abi::{HypercallError, hypercall};

use crate::grants::{B0, G0, GENERAL, OKAY, READ, SELF, SPARE, WINDOW, WRITE, granting};
use crate::world::{BACKEND, EMPTY_GFN, GUEST, Options, SCRATCH, STRANGER};

const HOST: u32 = grant::MAP_HOST;

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
