//! What an entry says while it is in use counts for nobody, and requests at the edges of what they may name.

use portunus::abi::grant::{self, CopyEnd, GrantCopy, GrantStatus, MapGrantRef, UnmapGrantRef};
use portunus::stage2::PageUse;

use crate::grants::{B0, GENERAL, HOST_READ, OKAY, READ, READING, S0, SELF, SPARE, WINDOW, WRITE, WRITING, granting};
use crate::world::{BACKEND, GUEST, Options, STRANGER};

const HOST: u32 = grant::MAP_HOST;

/// A copy of 8 bytes out of the entry, or into it, from or to the caller's [`SPARE`].
fn copy_of(reference: u64, writes: bool) -> GrantCopy {
    let theirs = CopyEnd {
        frame: reference,
        domid: GUEST.0,
        ..Default::default()
    };
    let ours = CopyEnd {
        frame: SPARE,
        domid: SELF,
        ..Default::default()
    };
    GrantCopy {
        source: if writes { ours } else { theirs },
        dest: if writes { theirs } else { ours },
        len: 8,
        flags: if writes {
            grant::COPY_DESTINATION_REFERENCE
        } else {
            grant::COPY_SOURCE_REFERENCE
        },
        ..Default::default()
    }
}

#[test]
fn a_page_that_was_granted_for_reading_is_not_written_by_an_entry_that_names_another_meanwhile() {
    for slow in [false, true] {
        let sim = granting(&Options::default());
        if slow {
            sim.be_slow();
        }
        sim.put(GUEST, SPARE << 12, &0x1111_u64);
        sim.put(GUEST, (SPARE + 1) << 12, &0x2222_u64);
        sim.put(BACKEND, SPARE << 12, &0x9999_u64);
        sim.grant(GUEST, 9, READ, BACKEND, SPARE);
        let handle = sim.map_one(B0, GUEST, 9, HOST_READ, WINDOW).expect("a handle");
        // For writing, but another page.
        sim.grant(GUEST, 9, WRITE | READING, BACKEND, SPARE + 1);
        assert_eq!(sim.map_one(B0, GUEST, 9, HOST, WINDOW + 1), Err(GENERAL), "slow {slow}");
        assert_eq!(
            sim.entry_flags(GUEST, 9),
            WRITE | READING,
            "it is not announced as written"
        );
        assert_eq!(sim.copy_one(B0, copy_of(9, true)), GENERAL, "slow {slow}");
        assert_eq!(sim.entry_flags(GUEST, 9), WRITE | READING);
        assert_eq!(sim.get::<u64>(GUEST, SPARE << 12), 0x1111);
        assert_eq!(sim.get::<u64>(GUEST, (SPARE + 1) << 12), 0x2222);
        // For reading it is the page that is pinned, of the one who pinned it.
        assert_eq!(sim.copy_one(B0, copy_of(9, false)), OKAY);
        assert_eq!(sim.get::<u64>(BACKEND, SPARE << 12), 0x1111);
        assert_eq!(sim.copy_one(S0, copy_of(9, false)), GENERAL);
        // No frame at all, a frame that is no RAM, nothing granted, to another.
        for (flags, to, gfn) in [
            (WRITE, BACKEND, 0xffff_ffff),
            (WRITE, BACKEND, 0x7_0000),
            (READ, BACKEND, SPARE),
            (0, BACKEND, SPARE),
            (WRITE, STRANGER, SPARE),
        ] {
            sim.grant(GUEST, 9, flags | READING, to, gfn);
            assert_eq!(sim.copy_one(B0, copy_of(9, true)), GENERAL, "{flags:#x} {gfn:#x}");
            assert_eq!(sim.map_one(B0, GUEST, 9, HOST, WINDOW + 1), Err(GENERAL));
            assert_eq!(sim.entry_flags(GUEST, 9), flags | READING);
            assert_eq!(sim.copy_one(B0, copy_of(9, false)), OKAY, "it is pinned for that");
        }
        // The same page, for writing now.
        sim.grant(GUEST, 9, WRITE | READING, BACKEND, SPARE);
        assert_eq!(sim.copy_one(B0, copy_of(9, true)), OKAY);
        assert_eq!(sim.entry_flags(GUEST, 9), WRITE | READING);
        let writing = sim.map_one(B0, GUEST, 9, HOST, WINDOW + 1).expect("a handle");
        assert_eq!(sim.entry_flags(GUEST, 9), WRITE | READING | WRITING);
        assert_eq!(sim.unmap_one(B0, handle, WINDOW), OKAY);
        assert_eq!(sim.unmap_one(B0, writing, WINDOW + 1), OKAY);
        assert_eq!(sim.entry_flags(GUEST, 9), WRITE);
    }
}

#[test]
fn the_last_page_of_a_map_is_a_place_and_the_one_behind_it_is_none() {
    let sim = granting(&Options::default());
    sim.grant(GUEST, 9, WRITE, BACKEND, SPARE);
    let end = sim.domain(BACKEND).memory.lock().stage2.geometry().ipa_end() >> 12;
    let handle = sim.map_one(B0, GUEST, 9, HOST, end - 1).expect("a handle");
    assert_eq!(
        sim.page_use(BACKEND, end - 1),
        Some(PageUse::Granted { writable: true })
    );
    assert_eq!(sim.unmap_one(B0, handle, end), GENERAL);
    assert_eq!(sim.unmap_one(B0, handle, end - 1), OKAY);
    assert_eq!(sim.map_one(B0, GUEST, 9, HOST, end), Err(GENERAL));
    assert_eq!(sim.domain(BACKEND).memory.lock().maptrack.in_use(), 0);
    assert_eq!(sim.entry_flags(GUEST, 9), WRITE);
}

#[test]
fn bits_of_an_address_below_a_page_and_a_bus_address_that_is_wrong_change_nothing() {
    let sim = granting(&Options::default());
    sim.grant(GUEST, 9, WRITE, BACKEND, SPARE);
    let request = MapGrantRef {
        host_addr: WINDOW << 12 | 0xabc,
        flags: HOST,
        reference: 9,
        dom: GUEST.0,
        ..Default::default()
    };
    let (result, mapped) = sim.grant_op(B0, grant::MAP_GRANT_REF, &[request]);
    assert_eq!((result, mapped[0].status), (0, 0));
    // It tells nothing of the machine.
    assert_eq!(mapped[0].dev_bus_addr, WINDOW << 12);
    assert_eq!(sim.pa(BACKEND, WINDOW << 12), sim.pa(GUEST, SPARE << 12));
    let request = UnmapGrantRef {
        host_addr: WINDOW << 12 | 0xdef,
        dev_bus_addr: 0x1234_5678_9abc,
        handle: mapped[0].handle,
        ..Default::default()
    };
    let (result, unmapped) = sim.grant_op(B0, grant::UNMAP_GRANT_REF, &[request]);
    assert_eq!((result, unmapped[0].status), (0, 0));
    assert_eq!(unmapped[0].dev_bus_addr, request.dev_bus_addr);
    assert_eq!(sim.page_use(BACKEND, WINDOW), None);
    assert_eq!(sim.entry_flags(GUEST, 9), WRITE);
}

#[test]
fn two_maps_of_one_call_at_one_place_leave_the_second_there_and_both_handles() {
    for slow in [false, true] {
        let sim = granting(&Options::default());
        if slow {
            sim.be_slow();
        }
        for index in 0..4 {
            sim.grant(GUEST, 9 + index, WRITE, BACKEND, SPARE + u64::from(index));
        }
        let place = |index: u32| WINDOW + u64::from(index / 2 * 2);
        let request = |index| MapGrantRef {
            host_addr: place(index) << 12,
            flags: HOST,
            reference: 9 + index,
            dom: GUEST.0,
            ..Default::default()
        };
        let (result, mapped) = sim.grant_op(B0, grant::MAP_GRANT_REF, &[0, 1, 2, 3].map(request));
        assert_eq!(result, 0);
        assert!(mapped.iter().all(|entry| entry.status == 0));
        for index in [1, 3] {
            assert_eq!(
                sim.pa(BACKEND, place(index) << 12),
                sim.pa(GUEST, (SPARE + u64::from(index)) << 12)
            );
        }
        let unmap = |index: u32| UnmapGrantRef {
            host_addr: place(index) << 12,
            handle: mapped[index as usize].handle,
            ..Default::default()
        };
        let (result, unmapped) = sim.grant_op(B0, grant::UNMAP_GRANT_REF, &[0, 1, 2, 3].map(unmap));
        assert_eq!(result, 0);
        let statuses: Vec<i16> = unmapped.iter().map(|entry| entry.status).collect();
        let expected = [GENERAL, OKAY, GENERAL, OKAY].map(GrantStatus::code);
        assert_eq!(statuses, expected, "a page that is over another's is not that one's");
        for (index, flags) in [
            (0, WRITE | READING | WRITING),
            (1, WRITE),
            (2, WRITE | READING | WRITING),
            (3, WRITE),
        ] {
            assert_eq!(sim.entry_flags(GUEST, 9 + index), flags);
        }
        assert_eq!(sim.domain(BACKEND).memory.lock().maptrack.in_use(), 2);
    }
}
