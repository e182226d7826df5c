//! A driver that grants its memory page by page, as Linux does with Xen's grant DMA, and one that abuses it.

mod driver;
mod guest;

use portunus_virtio::chain::MAX_DESCRIPTORS;
use portunus_virtio::grants::{AddressCounts, PAGE_SIZE};
use portunus_virtio::memory::{GuestAddress, GuestMemory, MemoryError, Part, Piece};
use portunus_virtio::mmio::{register as r, status};
use portunus_virtio::queue::QueueError;

use crate::simulator::{ALL_DRIVER_FEATURES, Desc, INDIRECT, NEXT, WRITE, negotiate};
use driver::{BUFFERS, Driver, RINGS, SIZE};
use guest::{Guest, at, granted, memory};

#[test]
fn what_is_small_is_copied_and_what_is_large_is_mapped_and_given_back_each_by_one_call() {
    let guest = Guest::new();
    for (reference, page) in (100..).zip(1..=70) {
        guest.grant(reference, page, false);
        guest.put(page, 0, &[page as u8; PAGE_SIZE]);
    }
    let memory = memory(&guest);
    for (length, calls) in [
        (1, vec!["copy from"]),
        (4096, vec!["copy from"]),
        (3 * PAGE_SIZE - 1, vec!["copy from"]),
        (3 * PAGE_SIZE, vec!["map", "unmap"]),
        (64 * PAGE_SIZE, vec!["map", "unmap"]),
        (65 * PAGE_SIZE, vec!["map", "unmap", "map", "unmap"]),
    ] {
        let mut bytes = vec![0; length];
        memory.read(at(100, 0), &mut bytes).expect("granted");
        let right = (0..length).map(|place| 1 + (place / PAGE_SIZE) as u8);
        assert!(right.eq(bytes.iter().copied()), "{length} bytes");
        assert_eq!(guest.calls.take(), calls, "{length} bytes");
    }
    assert_eq!(guest.mapped(), 0);
}

#[test]
fn pieces_of_a_request_are_one_call_and_may_cross_pages() {
    let guest = Guest::new();
    for reference in 5..9 {
        guest.grant(reference, reference as usize, false);
    }
    let memory = memory(&guest);
    let piece = |reference, offset, length| Piece {
        address: at(reference, offset),
        length,
    };
    // The end of page 5 and the beginning of page 6; then the middle of page 8.
    let pieces = [piece(5, 4090, 16), piece(8, 100, 5)];
    let bytes: Vec<u8> = (1..=21).collect();
    let parts = [(at(5, 4090), &bytes[..16]), (at(8, 100), &bytes[16..])];
    let parts = parts.map(|(to, bytes)| Part { to, bytes });
    memory.scatter(parts.into_iter()).expect("granted");
    assert_eq!(guest.calls.take(), ["copy to"]);
    assert_eq!(guest.get(5, 4090, 6), [1, 2, 3, 4, 5, 6]);
    assert_eq!(guest.get(6, 0, 10), [7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
    assert_eq!(guest.get(8, 100, 5), [17, 18, 19, 20, 21]);
    let mut back = [0; 21];
    memory.gather(pieces.into_iter(), &mut back).expect("granted");
    assert_eq!(back.as_slice(), bytes);
    assert_eq!(guest.calls.take(), ["copy from"]);
}

#[test]
fn an_address_that_is_no_grant_is_no_memory() {
    let guest = Guest::new();
    guest.grant(7, 1, false);
    guest.grant(u32::MAX, 2, false);
    guest.grant(0, 3, false);
    let memory = memory(&guest);
    let mut bytes = [0; 16];
    for address in [
        0,
        0x4000_0000,
        7 << 12,
        // A reference of more than 32 bits.
        1 << 63 | 1 << 44,
        u64::MAX - 15,
        // Nobody granted it.
        granted(8, 0),
    ] {
        let error = memory.read(GuestAddress(address), &mut bytes);
        assert!(error.is_err(), "{address:#x}");
        assert!(memory.write(GuestAddress(address), &bytes).is_err(), "{address:#x}");
        assert!(memory.load_acquire_u16(GuestAddress(address)).is_err(), "{address:#x}");
    }
    // Beyond the last reference is nothing, not reference 0.
    assert!(memory.read(at(u32::MAX, 4080), &mut bytes).is_ok());
    assert!(memory.read(at(u32::MAX, 4081), &mut bytes).is_err());
    assert!(
        memory.read(at(7, 4081), &mut bytes).is_err(),
        "reference 8 is not granted"
    );
}

#[test]
fn a_page_for_reading_is_not_written_and_a_revoked_one_not_used_again() {
    let guest = Guest::new();
    for reference in 10..14 {
        guest.grant(reference, reference as usize, reference == 11);
    }
    let memory = memory(&guest);
    let mut large = vec![0; 4 * PAGE_SIZE];
    assert!(memory.read(at(10, 0), &mut large).is_ok());
    assert_eq!(memory.write(at(10, 0), &large), Err(MemoryError(at(11, 0))), "mapped");
    assert_eq!(memory.write(at(11, 8), &[1]), Err(MemoryError(at(11, 0))), "copied");
    assert_eq!(guest.mapped(), 0, "nothing stays mapped after an error");
    // The guest takes a page back while it is mapped: this copy ends, the next does not begin.
    guest.revokes.set(Some(12));
    assert!(memory.read(at(10, 0), &mut large).is_ok());
    assert!(memory.read(at(10, 0), &mut large).is_err());
    assert!(memory.read(at(12, 0), &mut large[..1]).is_err());
    assert_eq!(guest.mapped(), 0);
    guest.room.set(3);
    guest.grant(12, 12, false);
    assert!(memory.read(at(10, 0), &mut large).is_err(), "no room");
    assert_eq!(guest.mapped(), 0);
}

#[test]
fn rings_stay_mapped_and_nothing_of_a_request_is_when_it_is_answered() {
    let guest = Guest::new();
    let mut driver = Driver::start(&guest);
    for (sectors, indirect) in [(1, false), (8, false), (8, true), (256, false), (600, true)] {
        assert_eq!(driver.read(sectors, indirect), Some(0), "{sectors} sectors");
        assert_eq!(guest.mapped(), 3, "the three rings");
        for page in 0..sectors as usize / 8 {
            let sector = 1 + 8 * page;
            assert_eq!(guest.get(BUFFERS as usize + 1 + page, 0, 1), [sector as u8]);
        }
        let buffers = BUFFERS..BUFFERS + 100;
        for reference in buffers.clone() {
            assert!(guest.end(reference), "the guest ends its grants without an error");
            guest.grant(reference, reference as usize, false);
        }
    }
    let AddressCounts { descriptors, granted } = driver.devices[0].device.addresses();
    assert_eq!(
        (descriptors, granted),
        (17, 17),
        "three a request, and one for each table"
    );
}

#[test]
fn a_request_of_a_page_costs_one_copy_for_each_direction_and_one_for_a_table() {
    let guest = Guest::new();
    let mut driver = Driver::start(&guest);
    driver.read(8, false);
    guest.calls.take();
    driver.read(8, false);
    assert_eq!(guest.calls.take(), ["copy from", "copy to"]);
    driver.read(8, true);
    assert_eq!(guest.calls.take(), ["copy from", "copy from", "copy to"]);
}

#[test]
fn rings_are_given_back_before_a_reset_or_a_stop_is_answered() {
    for (register, value) in [(r::STATUS, 0), (r::QUEUE_READY, 0)] {
        let guest = Guest::new();
        let mut driver = Driver::start(&guest);
        driver.read(8, false);
        assert_eq!(driver.shim.memory.held(), 3);
        driver.write(register, value);
        assert_eq!(driver.shim.held.last(), Some(&0), "when the write was answered");
        for ring in RINGS..RINGS + 3 {
            assert!(guest.end(ring), "the guest ends its grants without an error");
        }
        if register == r::STATUS {
            negotiate(&mut driver.devices[0].device, ALL_DRIVER_FEATURES);
        }
        driver.set_up_queue();
        assert_eq!(driver.read(8, false), Some(0), "it goes on with other rings");
    }
}

#[test]
fn a_driver_that_abuses_its_grants_harms_its_own_device_only() {
    type Abuse = fn(&Guest);
    let needs_reset = None;
    let io_error = Some(1);
    let cases: [(&str, Abuse, Option<u8>); 4] = [
        (
            "a buffer that nobody granted",
            |guest| assert!(guest.end(BUFFERS + 3)),
            io_error,
        ),
        (
            "a header that nobody granted",
            |guest| assert!(guest.end(BUFFERS)),
            needs_reset,
        ),
        (
            "a read into a page for reading",
            |guest| guest.grant(BUFFERS + 2, 42, true),
            io_error,
        ),
        (
            "a buffer that is revoked while it is mapped",
            |guest| guest.revokes.set(Some(BUFFERS + 1)),
            Some(0),
        ),
    ];
    for (what, abuse, answer) in cases {
        let guest = Guest::new();
        let mut driver = Driver::start(&guest);
        abuse(&guest);
        assert_eq!(driver.read(256, false), answer, "{what}");
        let broken = driver.status() & status::DEVICE_NEEDS_RESET != 0;
        assert_eq!(broken, answer.is_none(), "{what}");
        assert_eq!(
            driver.shim.faults.len(),
            usize::from(broken && !what.contains("header")),
            "{what}"
        );
        driver.write(r::STATUS, 0);
        assert_eq!(guest.mapped(), 0, "{what}: nothing stays mapped after a reset");
        guest.revokes.set(None);
        for reference in BUFFERS..BUFFERS + 100 {
            guest.grant(reference, reference as usize, false);
        }
        negotiate(&mut driver.devices[0].device, ALL_DRIVER_FEATURES);
        driver.set_up_queue();
        assert_eq!(driver.read(256, false), Some(0), "{what}: a reset heals");
    }
}

#[test]
fn rings_that_are_not_granted_for_what_they_are_make_the_device_need_a_reset() {
    for (ring, read_only) in [(0, None), (1, None), (2, None), (2, Some(true))] {
        let guest = Guest::new();
        let mut driver = Driver::start(&guest);
        driver.write(r::STATUS, 0);
        negotiate(&mut driver.devices[0].device, ALL_DRIVER_FEATURES);
        for ring in 0..3 {
            guest.grant(RINGS + ring, ring as usize, false);
        }
        match read_only {
            Some(read_only) => guest.grant(RINGS + ring, ring as usize, read_only),
            None => assert!(guest.end(RINGS + ring)),
        }
        driver.set_up_granted_queue();
        assert_eq!(
            driver.shim.faults,
            [QueueError::Memory(MemoryError(at(RINGS + ring, 0)))]
        );
        assert_ne!(driver.status() & status::DEVICE_NEEDS_RESET, 0);
        assert_eq!(guest.mapped(), 0, "all or none of them is mapped");
    }
    // For reading is all that the driver's own rings need.
    let guest = Guest::new();
    let mut driver = Driver::start(&guest);
    driver.write(r::STATUS, 0);
    negotiate(&mut driver.devices[0].device, ALL_DRIVER_FEATURES);
    for ring in 0..3 {
        guest.grant(RINGS + ring, ring as usize, ring != 2);
    }
    driver.set_up_granted_queue();
    assert_eq!(driver.read(8, false), Some(0));
}

#[test]
fn a_chain_that_is_too_long_maps_nothing_and_ends() {
    let guest = Guest::new();
    let mut driver = Driver::start(&guest);
    // A loop through the whole table.
    let loops: Vec<Desc> = (0..SIZE)
        .map(|index| Desc {
            address: granted(BUFFERS, 0),
            length: 1,
            flags: NEXT,
            next: (index + 1) % SIZE,
        })
        .collect();
    driver.put_descriptors(0, &loops);
    driver.offer();
    assert_ne!(driver.status() & status::DEVICE_NEEDS_RESET, 0);
    assert_eq!(guest.mapped(), 3, "the rings, until the driver resets the device");
    let seen = driver.devices[0].device.addresses();
    assert_eq!(seen, AddressCounts::default(), "what was not taken is not counted");
    assert!(usize::from(SIZE) >= MAX_DESCRIPTORS);
    driver.write(r::STATUS, 0);
    assert_eq!(guest.mapped(), 0);
}

#[test]
fn an_indirect_table_that_jumps_about_is_read_where_it_says() {
    let guest = Guest::new();
    let mut driver = Driver::start(&guest);
    let header = 1_u128 << 64;
    guest.put(BUFFERS as usize, 0, &header.to_le_bytes());
    let table = BUFFERS as usize + 99;
    // Header at 0, data at 200, status at 3: none of them is read with another.
    for (index, address, length, flags, next) in [
        (0, granted(BUFFERS, 0), 16, NEXT, 200),
        (200, granted(BUFFERS + 1, 0), 512, NEXT | WRITE, 3),
        (3, granted(BUFFERS, 16), 1, WRITE, 0),
    ] {
        let descriptor = Desc {
            address,
            length,
            flags,
            next,
        };
        guest.put(table, 16 * index, &descriptor.bytes());
    }
    driver.put_descriptors(
        0,
        &[Desc {
            address: granted(BUFFERS + 99, 0),
            length: 4096,
            flags: INDIRECT,
            next: 0,
        }],
    );
    guest.put(BUFFERS as usize, 16, &[0xff]);
    driver.offer();
    assert_eq!(guest.get(BUFFERS as usize, 16, 1), [0]);
    assert_eq!(guest.get(BUFFERS as usize + 1, 0, 2), [1, 1]);
}
