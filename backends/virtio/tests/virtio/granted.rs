//! A driver that grants its memory page by page, as Linux does with Xen's grant DMA, and one that abuses it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};

use portunus_virtio::accel::{NoAcceleration, View};
use portunus_virtio::block::BlockDevice;
use portunus_virtio::chain::MAX_DESCRIPTORS;
use portunus_virtio::grants::{
    AddressCounts, BATCH, GrantError, GrantMemory, GrantReference, GrantedBytes, GrantedPages, GrantedPart, Granter,
    PAGE_SIZE,
};
use portunus_virtio::memory::{GuestAddress, GuestMemory, MemoryError, Part, Piece};
use portunus_virtio::mmio::{MmioDevice, REGION_SIZE, register as r, status};
use portunus_virtio::queue::QueueError;
use portunus_virtio::shim::{Access, GuestIndex, MemoryIndex, Operation, ServedDevice, Shim, serve};

use crate::simulator::{ALL_DRIVER_FEATURES, Desc, INDIRECT, NEXT, VecDisk, WRITE, negotiate, numbered_disk};

/// Bit 63 and a reference.
fn granted(reference: u32, offset: u64) -> u64 {
    1 << 63 | u64::from(reference) << 12 | offset
}

/// What the guest says of a page, and how often it is mapped.
#[derive(Default)]
struct Grant {
    page: usize,
    revoked: bool,
    read_only: bool,
    mapped: u32,
}

/// A guest of a few pages, its grants, and the hypervisor that looks after them.
struct Guest {
    pages: RefCell<Vec<[u8; PAGE_SIZE]>>,
    grants: RefCell<BTreeMap<u32, Grant>>,
    calls: RefCell<Vec<&'static str>>,
    /// The guest ends the grant of this reference as soon as it is mapped.
    revokes: Cell<Option<u32>>,
    /// Room for mapped pages.
    room: Cell<usize>,
}

const PAGES: usize = 160;

impl Guest {
    fn new() -> Self {
        Self {
            pages: RefCell::new(vec![[0; PAGE_SIZE]; PAGES]),
            grants: RefCell::default(),
            calls: RefCell::default(),
            revokes: Cell::new(None),
            room: Cell::new(PAGES),
        }
    }
    /// Grants page `page` under `reference`.
    fn grant(&self, reference: u32, page: usize, read_only: bool) {
        let grant = Grant {
            page,
            read_only,
            ..Grant::default()
        };
        self.grants.borrow_mut().insert(reference, grant);
    }
    /// Ends a grant as Linux does: false if it is still mapped, which makes it give its device up.
    fn end(&self, reference: u32) -> bool {
        let mut grants = self.grants.borrow_mut();
        let grant = grants.get_mut(&reference).expect("granted");
        grant.revoked = true;
        grant.mapped == 0
    }
    fn mapped(&self) -> u32 {
        self.grants.borrow().values().map(|grant| grant.mapped).sum()
    }
    fn put(&self, page: usize, offset: usize, bytes: &[u8]) {
        self.pages.borrow_mut()[page][offset..][..bytes.len()].copy_from_slice(bytes);
    }
    fn get(&self, page: usize, offset: usize, length: usize) -> Vec<u8> {
        self.pages.borrow()[page][offset..][..length].to_vec()
    }
    fn page_for(&self, reference: GrantReference, write: bool) -> Result<usize, GrantError> {
        let grants = self.grants.borrow();
        let grant = grants.get(&reference.0).ok_or(GrantError(reference))?;
        if grant.revoked || (write && grant.read_only) {
            return Err(GrantError(reference));
        }
        Ok(grant.page)
    }
}

/// Mapped pages: the guest's pages, and the references they were mapped by.
struct Pages<'a> {
    guest: &'a Guest,
    pages: Vec<usize>,
    references: Vec<u32>,
    writable: bool,
}

impl Pages<'_> {
    fn page(&self, offset: usize, length: usize) -> usize {
        assert!(offset % PAGE_SIZE + length <= PAGE_SIZE || self.pages.len() > 1);
        self.pages[offset / PAGE_SIZE]
    }
    fn bytes(&self, offset: usize, length: usize) -> Vec<u8> {
        (offset..offset + length)
            .map(|at| self.guest.get(self.page(at, 1), at % PAGE_SIZE, 1)[0])
            .collect()
    }
}

impl GrantedPages for Pages<'_> {
    fn read(&self, offset: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.bytes(offset, into.len()));
    }
    fn write(&self, offset: usize, from: &[u8]) {
        assert!(self.writable, "a write to what was mapped for reading");
        for (at, byte) in (offset..).zip(from) {
            self.guest.put(self.page(at, 1), at % PAGE_SIZE, &[*byte]);
        }
    }
    fn load_acquire_u16(&self, offset: usize) -> u16 {
        assert_eq!(offset % 2, 0);
        u16::from_le_bytes(self.bytes(offset, 2).try_into().unwrap())
    }
    fn store_release_u16(&self, offset: usize, value: u16) {
        assert_eq!(offset % 2, 0);
        self.write(offset, &value.to_le_bytes());
    }
}

impl<'a> Granter for &'a Guest {
    type Pages = Pages<'a>;

    fn map_from(&self) -> usize {
        3 * PAGE_SIZE
    }
    fn map(&self, references: &[GrantReference], writable: bool) -> Result<Pages<'a>, GrantError> {
        self.calls.borrow_mut().push("map");
        assert!(references.len() <= BATCH);
        let pages = references.iter().map(|reference| self.page_for(*reference, writable));
        let pages = pages.collect::<Result<Vec<_>, _>>()?;
        let Some(room) = self.room.get().checked_sub(pages.len()) else {
            return Err(GrantError(references[0]));
        };
        self.room.set(room);
        for reference in references {
            self.grants.borrow_mut().get_mut(&reference.0).unwrap().mapped += 1;
            if self.revokes.get() == Some(reference.0) {
                assert!(!self.end(reference.0), "it is mapped now");
            }
        }
        Ok(Pages {
            guest: self,
            pages,
            references: references.iter().map(|reference| reference.0).collect(),
            writable,
        })
    }
    fn unmap(&self, pages: Pages<'a>) {
        self.calls.borrow_mut().push("unmap");
        self.room.set(self.room.get() + pages.pages.len());
        for reference in pages.references {
            let mut grants = self.grants.borrow_mut();
            let grant = grants.get_mut(&reference).expect("an entry stays while it is mapped");
            grant.mapped = grant.mapped.checked_sub(1).expect("unmapped once");
        }
    }
    fn copy_from(&self, from: &[GrantedBytes], into: &mut [u8]) -> Result<(), GrantError> {
        self.calls.borrow_mut().push("copy from");
        assert!(from.len() <= BATCH);
        let mut into = into;
        for bytes in from {
            let (offset, length) = (usize::from(bytes.offset), usize::from(bytes.length));
            assert!(length != 0 && offset + length <= PAGE_SIZE);
            let (part, rest) = into.split_at_mut(length);
            part.copy_from_slice(&self.get(self.page_for(bytes.reference, false)?, offset, length));
            into = rest;
        }
        assert_eq!(into.len(), 0);
        Ok(())
    }
    fn copy_to(&self, parts: &[GrantedPart<'_>]) -> Result<(), GrantError> {
        self.calls.borrow_mut().push("copy to");
        assert!(parts.len() <= BATCH);
        for GrantedPart { to, bytes } in parts {
            let (offset, length) = (usize::from(to.offset), usize::from(to.length));
            assert!(length != 0 && offset + length <= PAGE_SIZE && bytes.len() == length);
            self.put(self.page_for(to.reference, true)?, offset, bytes);
        }
        Ok(())
    }
}

fn memory(guest: &Guest) -> GrantMemory<&Guest> {
    GrantMemory::new(guest)
}

fn at(reference: u32, offset: u64) -> GuestAddress {
    GuestAddress(granted(reference, offset))
}

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

const BASE: u64 = 0x200_0000;

/// A hypervisor with one guest that waits for every register access.
struct GrantShim<'a> {
    memory: GrantMemory<&'a Guest>,
    accesses: VecDeque<Access>,
    /// How many rings were held when each was answered.
    held: Vec<usize>,
    faults: Vec<QueueError>,
}

impl<'a> Shim for GrantShim<'a> {
    type Memory = GrantMemory<&'a Guest>;
    type Token = ();
    type Acceleration = NoAcceleration;

    fn memory(&self, index: MemoryIndex) -> &Self::Memory {
        assert_eq!(index, MemoryIndex(3));
        &self.memory
    }
    fn next_access(&mut self) -> Option<(Access, ())> {
        self.accesses.pop_front().map(|access| (access, ()))
    }
    fn answer(&mut self, (): (), _: u64) {
        self.held.push(self.memory.held());
    }
    fn raise_interrupt(&mut self, _: GuestIndex, _: u32) {}
    fn report_fault(&mut self, _: GuestIndex, _: u64, fault: QueueError) {
        self.faults.push(fault);
    }
}

type Device = ServedDevice<BlockDevice<VecDisk, portunus_virtio::chain::Chain>>;

/// A driver whose rings are pages 0 to 2 under references 20 to 22, and whose buffers are at reference 40 and above.
struct Driver<'a> {
    guest: &'a Guest,
    shim: GrantShim<'a>,
    devices: [Device; 1],
    available: u16,
}

const SIZE: u16 = 256;
const RINGS: u32 = 20;
const BUFFERS: u32 = 40;

impl<'a> Driver<'a> {
    fn start(guest: &'a Guest) -> Self {
        let mut device = MmioDevice::new(BlockDevice::new(numbered_disk(2048), 1));
        assert_ne!(negotiate(&mut device, ALL_DRIVER_FEATURES) & status::FEATURES_OK, 0);
        let served = ServedDevice {
            guest: GuestIndex(0),
            memory: MemoryIndex(3),
            registers: BASE..BASE + REGION_SIZE,
            intid: 33,
            device,
            view: View::Asked,
        };
        let mut driver = Self {
            guest,
            shim: GrantShim {
                memory: memory(guest),
                accesses: VecDeque::new(),
                held: Vec::new(),
                faults: Vec::new(),
            },
            devices: [served],
            available: 0,
        };
        driver.set_up_queue();
        for reference in BUFFERS..BUFFERS + 100 {
            guest.grant(reference, reference as usize, false);
        }
        driver
    }
    fn set_up_queue(&mut self) {
        for ring in 0..3 {
            self.guest.grant(RINGS + ring, ring as usize, false);
        }
        self.set_up_granted_queue();
    }
    fn set_up_granted_queue(&mut self) {
        for ring in 0..3 {
            self.guest.put(ring, 0, &[0; PAGE_SIZE]);
        }
        self.available = 0;
        self.write(r::QUEUE_NUM, SIZE.into());
        for (register, reference) in [r::QUEUE_DESC_LOW, r::QUEUE_DRIVER_LOW, r::QUEUE_DEVICE_LOW]
            .into_iter()
            .zip(RINGS..)
        {
            let address = granted(reference, 0);
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
        self.write(r::QUEUE_READY, 1);
        self.write(r::STATUS, 0xf);
    }
    /// A register write, and all the work that follows.
    fn write(&mut self, offset: u64, value: u32) {
        self.shim.accesses.push_back(Access {
            guest: GuestIndex(0),
            address: BASE + offset,
            size: 4,
            operation: Operation::Write(value.into()),
        });
        for _ in 0..10_000 {
            if !serve(&mut self.shim, &mut self.devices) {
                return;
            }
        }
        panic!("the device never rests");
    }
    fn status(&self) -> u32 {
        self.devices[0].device.status()
    }
    fn used(&self) -> u16 {
        u16::from_le_bytes(self.guest.get(2, 2, 2).try_into().unwrap())
    }
    fn put_descriptors(&self, page: usize, descriptors: &[Desc]) {
        for (index, descriptor) in descriptors.iter().enumerate() {
            self.guest.put(page, 16 * index, &descriptor.bytes());
        }
    }
    /// Offers head 0 and rings.
    fn offer(&mut self) {
        self.guest.put(1, 4 + 2 * usize::from(self.available % SIZE), &[0, 0]);
        self.available += 1;
        self.guest.put(1, 2, &self.available.to_le_bytes());
        self.write(r::QUEUE_NOTIFY, 0);
    }
    /// A read of `sectors` at sector 1 into the buffers' pages from [`BUFFERS`] + 1 on; header and status are at
    /// [`BUFFERS`]. Whether it was answered, and how.
    fn read(&mut self, sectors: u32, indirect: bool) -> Option<u8> {
        let header = 1_u128 << 64;
        self.guest.put(BUFFERS as usize, 0, &header.to_le_bytes());
        self.guest.put(BUFFERS as usize, 16, &[0xff]);
        let desc = |address, length, flags, next| Desc {
            address,
            length,
            flags,
            next,
        };
        let descriptors = [
            desc(granted(BUFFERS, 0), 16, NEXT, 1),
            desc(granted(BUFFERS + 1, 0), sectors * 512, NEXT | WRITE, 2),
            desc(granted(BUFFERS, 16), 1, WRITE, 0),
        ];
        if indirect {
            let table = BUFFERS as usize + 99;
            self.put_descriptors(table, &descriptors);
            self.put_descriptors(0, &[desc(granted(BUFFERS + 99, 0), 48, INDIRECT, 0)]);
        } else {
            self.put_descriptors(0, &descriptors);
        }
        let before = self.used();
        self.offer();
        (self.used() != before).then(|| self.guest.get(BUFFERS as usize, 16, 1)[0])
    }
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
