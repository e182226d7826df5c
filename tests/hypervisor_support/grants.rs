//! Grants between the three domains, by their hypercalls: who reaches which page, and what everybody sees of it.

use std::rc::Rc;

use portunus::abi::grant::{self, GrantCopy, GrantEntry, GrantStatus, MapGrantRef, UnmapGrantRef};
use portunus::abi::{HypercallError, hypercall, memory};
use portunus::fakes::Operation;
use portunus::ids::{DomainId, Ipa, VcpuId};
use portunus::stage2::PageUse;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::guest::vcpu;
use crate::sim::Sim;
use crate::world::{BACKEND, EMPTY_GFN, GUEST, Options, RAM, SCRATCH, STRANGER};

pub(crate) const G0: VcpuId = vcpu(GUEST, 0);
pub(crate) const B0: VcpuId = vcpu(BACKEND, 0);
pub(crate) const S0: VcpuId = vcpu(STRANGER, 0);
/// Frames of RAM that hold nothing.
pub(crate) const SPARE: u64 = (RAM >> 12) + 0x300;
/// Where domains map what they are granted.
pub(crate) const WINDOW: u64 = 0x9_0000;
pub(crate) const SELF: u16 = DomainId::SELF.0;

pub(crate) const OKAY: GrantStatus = GrantStatus::Okay;
pub(crate) const GENERAL: GrantStatus = GrantStatus::GeneralError;

pub(crate) const READ: u16 = GrantEntry::PERMIT_ACCESS | GrantEntry::READ_ONLY;
pub(crate) const WRITE: u16 = GrantEntry::PERMIT_ACCESS;
pub(crate) const READING: u16 = GrantEntry::READING;
pub(crate) const WRITING: u16 = GrantEntry::WRITING;
const HOST: u32 = grant::MAP_HOST;
pub(crate) const HOST_READ: u32 = grant::MAP_HOST | grant::MAP_READ_ONLY;

impl Sim {
    pub(crate) fn grant_op<T>(&self, vcpu: VcpuId, operation: u64, entries: &[T]) -> (i64, Vec<T>)
    where
        T: IntoBytes + FromBytes + FromZeros + Immutable,
    {
        self.run_until(vcpu);
        for (index, entry) in entries.iter().enumerate() {
            self.put(vcpu.domain, SCRATCH + (index * size_of::<T>()) as u64, entry);
        }
        let call = [operation, SCRATCH, entries.len() as u64];
        let result = self.hypercall(vcpu, hypercall::GRANT_TABLE_OP, &call).expect("it runs");
        let after = (0..entries.len()).map(|index| self.get(vcpu.domain, SCRATCH + (index * size_of::<T>()) as u64));
        (result, after.collect())
    }

    /// The domain maps frame `index` of its table at guest frame [`EMPTY_GFN`] + `index`.
    pub(crate) fn map_table(&self, vcpu: VcpuId, index: u64) -> i64 {
        self.run_until(vcpu);
        let request = memory::AddToPhysmap {
            domid: SELF,
            space: memory::SPACE_GRANT_TABLE,
            idx: index,
            gpfn: EMPTY_GFN + index % 4096,
            ..Default::default()
        };
        self.with_structure(vcpu, hypercall::MEMORY_OP, memory::ADD_TO_PHYSMAP, request)
            .0
    }

    /// Writes an entry of the table of `domain`, which has mapped it.
    pub(crate) fn grant(&self, domain: DomainId, reference: u32, flags: u16, to: DomainId, gfn: u64) {
        let entry = GrantEntry {
            flags,
            domid: to.0,
            frame: gfn as u32,
        };
        self.put(domain, (EMPTY_GFN << 12) + u64::from(reference) * 8, &entry);
    }

    pub(crate) fn entry_flags(&self, domain: DomainId, reference: u32) -> u16 {
        self.get::<GrantEntry>(domain, (EMPTY_GFN << 12) + u64::from(reference) * 8)
            .flags
    }

    pub(crate) fn map_one(
        &self,
        vcpu: VcpuId,
        from: DomainId,
        reference: u32,
        flags: u32,
        gfn: u64,
    ) -> Result<u32, GrantStatus> {
        let request = MapGrantRef {
            host_addr: gfn << 12,
            flags,
            reference,
            dom: from.0,
            ..Default::default()
        };
        let (result, after) = self.grant_op(vcpu, grant::MAP_GRANT_REF, &[request]);
        assert_eq!(result, 0);
        if after[0].status == 0 {
            assert_eq!(after[0].dev_bus_addr, gfn << 12);
            return Ok(after[0].handle);
        }
        Err(status(after[0].status))
    }

    pub(crate) fn unmap_one(&self, vcpu: VcpuId, handle: u32, gfn: u64) -> GrantStatus {
        let request = UnmapGrantRef {
            host_addr: gfn << 12,
            handle,
            ..Default::default()
        };
        let (result, after) = self.grant_op(vcpu, grant::UNMAP_GRANT_REF, &[request]);
        assert_eq!(result, 0);
        status(after[0].status)
    }

    pub(crate) fn copy_one(&self, vcpu: VcpuId, request: GrantCopy) -> GrantStatus {
        let (result, after) = self.grant_op(vcpu, grant::COPY, &[request]);
        assert_eq!(result, 0);
        status(after[0].status)
    }

    pub(crate) fn page_use(&self, domain: DomainId, gfn: u64) -> Option<PageUse> {
        let memory = self.domain(domain).memory.lock();
        memory
            .stage2
            .lookup(self.machine(), Ipa(gfn << 12))
            .map(|found| found.page_use)
    }
}

pub(crate) fn status(code: i16) -> GrantStatus {
    let all = [
        GrantStatus::Okay,
        GrantStatus::GeneralError,
        GrantStatus::BadDomain,
        GrantStatus::BadReference,
        GrantStatus::BadHandle,
        GrantStatus::BadVirtualAddress,
        GrantStatus::BadDeviceAddress,
        GrantStatus::NoDeviceSpace,
        GrantStatus::PermissionDenied,
        GrantStatus::BadPage,
        GrantStatus::BadCopyArgument,
        GrantStatus::AddressTooBig,
        GrantStatus::Again,
        GrantStatus::NoSpace,
    ];
    all.into_iter()
        .find(|status| status.code() == code)
        .expect("no positive status, and none unknown")
}

/// The guest has its table in its map; all domains run.
pub(crate) fn granting(options: &Options) -> Rc<Sim> {
    let sim = Sim::new(options);
    for vcpu in [G0, B0] {
        assert_eq!(sim.map_table(vcpu, 0), 0);
    }
    sim
}

#[test]
fn a_granted_page_is_mapped_seen_in_use_and_given_back() {
    let sim = granting(&Options::default());
    sim.grant(GUEST, 9, WRITE, BACKEND, SPARE);
    sim.put(GUEST, SPARE << 12, &0x1234_5678_u64);
    let handle = sim.map_one(B0, GUEST, 9, HOST, WINDOW).expect("a handle");
    assert_eq!(sim.entry_flags(GUEST, 9), WRITE | READING | WRITING);
    assert_eq!(sim.page_use(BACKEND, WINDOW), Some(PageUse::Granted { writable: true }));
    assert_eq!(sim.pa(BACKEND, WINDOW << 12), sim.pa(GUEST, SPARE << 12));
    assert_eq!(sim.get::<u64>(BACKEND, WINDOW << 12), 0x1234_5678);
    assert_eq!(sim.unmap_one(B0, handle, WINDOW), OKAY);
    assert_eq!(sim.entry_flags(GUEST, 9), WRITE);
    assert_eq!(sim.page_use(BACKEND, WINDOW), None);
    assert_eq!(sim.unmap_one(B0, handle, WINDOW), GrantStatus::BadHandle);
}

#[test]
fn a_page_granted_for_reading_is_mapped_for_reading() {
    let sim = granting(&Options::default());
    sim.grant(GUEST, 9, READ, BACKEND, SPARE);
    assert_eq!(sim.map_one(B0, GUEST, 9, HOST, WINDOW), Err(GENERAL));
    assert_eq!(sim.entry_flags(GUEST, 9), READ);
    let handle = sim.map_one(B0, GUEST, 9, HOST_READ, WINDOW).expect("a handle");
    assert_eq!(
        sim.page_use(BACKEND, WINDOW),
        Some(PageUse::Granted { writable: false })
    );
    assert_eq!(sim.entry_flags(GUEST, 9), READ | READING);
    assert_eq!(sim.unmap_one(B0, handle, WINDOW), OKAY);
    assert_eq!(sim.entry_flags(GUEST, 9), READ);
}

#[test]
fn what_the_mapper_may_not_do_with_a_granted_page() {
    let sim = granting(&Options::default());
    sim.grant(GUEST, 9, WRITE, BACKEND, SPARE);
    let handle = sim.map_one(B0, GUEST, 9, HOST, WINDOW).expect("a handle");
    let remove = memory::RemoveFromPhysmap {
        domid: SELF,
        gpfn: WINDOW,
        ..Default::default()
    };
    sim.run_until(B0);
    let (result, _) = sim.with_structure(B0, hypercall::MEMORY_OP, memory::REMOVE_FROM_PHYSMAP, remove);
    assert_eq!(
        result,
        -(HypercallError::NoEntry as i64),
        "only its handle takes it out"
    );
    assert_eq!(sim.unmap_one(B0, handle, WINDOW + 1), GENERAL, "it is not there");
    assert_eq!(sim.unmap_one(B0, handle, SPARE), GENERAL, "that is RAM");
    assert_eq!(sim.unmap_one(B0, handle + 1, WINDOW), GrantStatus::BadHandle);
    assert_eq!(sim.unmap_one(B0, u32::MAX, WINDOW), GrantStatus::BadHandle);
    assert_eq!(sim.unmap_one(B0, handle, u64::MAX >> 12), GENERAL);
    assert_eq!(sim.unmap_one(B0, handle, 0), OKAY, "nothing is asked for");
    assert_eq!(sim.entry_flags(GUEST, 9), WRITE | READING | WRITING);
    // To grant it on.
    sim.grant(BACKEND, 9, WRITE, STRANGER, WINDOW);
    assert_eq!(sim.map_one(S0, BACKEND, 9, HOST, WINDOW), Err(GrantStatus::BadPage));
    assert_eq!(sim.entry_flags(BACKEND, 9), WRITE);
    assert_eq!(sim.unmap_one(B0, handle, WINDOW), OKAY);
}

#[test]
fn maps_that_are_refused_change_nothing() {
    let sim = granting(&Options::default());
    sim.grant(GUEST, 9, WRITE, BACKEND, SPARE);
    sim.grant(GUEST, 10, WRITE, STRANGER, SPARE);
    sim.grant(GUEST, 11, WRITE, BACKEND, 0x7_0000);
    sim.grant(GUEST, 12, 2, BACKEND, SPARE);
    sim.grant(GUEST, 13, 3, BACKEND, SPARE);
    sim.grant(GUEST, 14, 0, BACKEND, SPARE);
    sim.grant(GUEST, 15, WRITE | 1 << 8, BACKEND, SPARE);
    sim.grant(GUEST, 16, WRITE | 1 << 5, BACKEND, SPARE);
    sim.grant(GUEST, 17, WRITE, BACKEND, EMPTY_GFN);
    sim.grant(GUEST, 18, WRITE, BACKEND, 0xffff_ffff);
    let rows = [
        ("no kind of mapping", GUEST.0, 9, 0, GrantStatus::BadReference),
        ("only for reading", GUEST.0, 9, 4, GrantStatus::BadReference),
        ("for a device", GUEST.0, 9, HOST | 1, GENERAL),
        ("for user space", GUEST.0, 9, HOST | 8, GENERAL),
        ("at a page-table entry", GUEST.0, 9, HOST | 16, GENERAL),
        ("of nobody", 99, 9, HOST, GrantStatus::BadDomain),
        ("of number 0", 0, 9, HOST, GrantStatus::BadDomain),
        ("of oneself by no number", SELF, 9, HOST, GrantStatus::BadDomain),
        ("beyond the table", GUEST.0, 512, HOST, GrantStatus::BadReference),
        (
            "far beyond the table",
            GUEST.0,
            u32::MAX,
            HOST,
            GrantStatus::BadReference,
        ),
        ("to somebody else", GUEST.0, 10, HOST, GENERAL),
        ("of a frame that is none", GUEST.0, 11, HOST, GrantStatus::BadPage),
        ("to be transferred", GUEST.0, 12, HOST, GENERAL),
        ("of version 2", GUEST.0, 13, HOST, GENERAL),
        ("none", GUEST.0, 14, HOST, GENERAL),
        ("of a part of a page", GUEST.0, 15, HOST, GENERAL),
        ("with a memory type", GUEST.0, 16, HOST, GENERAL),
        ("of the grant table itself", GUEST.0, 17, HOST, GrantStatus::BadPage),
        ("of a frame beyond the map", GUEST.0, 18, HOST, GrantStatus::BadPage),
    ];
    let frames = |sim: &Sim| sim.domain(BACKEND).memory.lock().pool.free_frames();
    for (name, domain, reference, flags, expected) in rows {
        let before: [u8; 4096] = sim.get(GUEST, EMPTY_GFN << 12);
        let free = frames(&sim);
        let answer = sim.map_one(B0, DomainId(domain), reference, flags, WINDOW);
        assert_eq!(answer, Err(expected), "{name}");
        assert_eq!(sim.get::<[u8; 4096]>(GUEST, EMPTY_GFN << 12), before, "{name}");
        assert_eq!(sim.page_use(BACKEND, WINDOW), None, "{name}");
        assert_eq!(sim.domain(BACKEND).memory.lock().maptrack.in_use(), 0, "{name}");
        assert!(free <= frames(&sim) + 4, "{name}");
    }
    // Where nothing can be mapped.
    for gfn in [1 << 28, 1 << 36, u64::MAX >> 12] {
        assert_eq!(sim.map_one(B0, GUEST, 9, HOST, gfn), Err(GENERAL), "{gfn:#x}");
        assert_eq!(sim.entry_flags(GUEST, 9), WRITE);
    }
}

#[test]
fn what_was_at_the_place_of_a_map_is_gone_with_its_translations() {
    let sim = granting(&Options::default());
    sim.grant(GUEST, 9, WRITE, BACKEND, SPARE);
    sim.grant(GUEST, 10, WRITE, BACKEND, SPARE + 1);
    sim.take_log();
    let first = sim.map_one(B0, GUEST, 9, HOST, WINDOW).expect("a handle");
    let is_drop = |operation: &Operation| {
        matches!(
            operation,
            Operation::InvalidatePage { .. } | Operation::InvalidateAll { .. }
        )
    };
    assert_eq!(sim.take_log().iter().filter(|operation| is_drop(operation)).count(), 0);
    let second = sim.map_one(B0, GUEST, 10, HOST, WINDOW).expect("a handle");
    assert_eq!(sim.take_log().iter().filter(|operation| is_drop(operation)).count(), 1);
    assert_eq!(sim.pa(BACKEND, WINDOW << 12), sim.pa(GUEST, (SPARE + 1) << 12));
    assert_eq!(sim.unmap_one(B0, first, WINDOW), GENERAL, "it is not there any more");
    assert_eq!(sim.unmap_one(B0, second, WINDOW), OKAY);
    assert_eq!(
        (sim.entry_flags(GUEST, 9), sim.entry_flags(GUEST, 10)),
        (WRITE | READING | WRITING, WRITE)
    );
    let held: u64 = sim
        .domain(GUEST)
        .ram
        .iter()
        .map(|range| sim.hypervisor.references_to(*range))
        .sum();
    assert_eq!(held, 0);
}

#[test]
fn a_batch_of_unmaps_drops_translations_once_before_anything_is_given_back() {
    let sim = granting(&Options::default());
    let mut handles = Vec::new();
    for index in 0..32 {
        sim.grant(GUEST, 8 + index, WRITE, BACKEND, SPARE + u64::from(index));
        handles.push(
            sim.map_one(B0, GUEST, 8 + index, HOST, WINDOW + u64::from(index))
                .expect("a handle"),
        );
    }
    let requests: Vec<UnmapGrantRef> = (0..)
        .zip(&handles)
        .map(|(index, handle)| UnmapGrantRef {
            host_addr: (WINDOW + index) << 12,
            handle: *handle,
            ..Default::default()
        })
        .collect();
    let table = sim.pa(GUEST, EMPTY_GFN << 12);
    sim.take_log();
    let (result, after) = sim.grant_op(B0, grant::UNMAP_GRANT_REF, &requests);
    assert_eq!(result, 0);
    assert!(after.iter().all(|entry| entry.status == 0));
    let log = sim.take_log();
    let drops: Vec<usize> = log
        .iter()
        .enumerate()
        .filter(|(_, operation)| {
            matches!(
                operation,
                Operation::InvalidateAll { .. } | Operation::InvalidatePage { .. }
            )
        })
        .map(|(index, _)| index)
        .collect();
    assert_eq!(drops.len(), 1);
    let first = log
        .iter()
        .position(|operation| matches!(operation, Operation::Exchanged { at, .. } if at.page() == table));
    assert!(
        first.expect("flags are cleared") > drops[0],
        "flags are cleared after that"
    );
    assert!((8..40).all(|reference| sim.entry_flags(GUEST, reference) == WRITE));
}

#[test]
fn a_copy_goes_either_way_and_leaves_no_trace_in_the_table() {
    let sim = granting(&Options::default());
    sim.grant(GUEST, 9, WRITE, BACKEND, SPARE);
    sim.grant(GUEST, 10, READ, BACKEND, SPARE + 1);
    sim.put(GUEST, (SPARE + 1) << 12, &[0x11_u8; 4096]);
    let end = |frame: u64, domid: u16, offset| grant::CopyEnd {
        frame,
        domid,
        offset,
        pad: 0,
    };
    let from = |reference: u64, len| GrantCopy {
        source: end(reference, GUEST.0, 16),
        dest: end(SPARE, SELF, 32),
        len,
        flags: grant::COPY_SOURCE_REFERENCE,
        ..Default::default()
    };
    sim.put(BACKEND, SPARE << 12, &[0x77_u8; 4096]);
    assert_eq!(sim.copy_one(B0, from(10, 64)), OKAY);
    let page: [u8; 4096] = sim.get(BACKEND, SPARE << 12);
    assert!(page[..32].iter().chain(&page[96..]).all(|byte| *byte == 0x77));
    assert!(page[32..96].iter().all(|byte| *byte == 0x11));
    let to = |reference: u64, len| GrantCopy {
        source: end(SPARE, SELF, 0),
        dest: end(reference, GUEST.0, 0),
        len,
        flags: grant::COPY_DESTINATION_REFERENCE,
        ..Default::default()
    };
    assert_eq!(sim.copy_one(B0, to(9, 4096)), OKAY);
    assert_eq!(sim.get::<[u8; 4096]>(GUEST, SPARE << 12), page);
    assert_eq!(sim.copy_one(B0, to(10, 4096)), GENERAL, "it may be read");
    let both = GrantCopy {
        source: end(10, GUEST.0, 0),
        dest: end(9, GUEST.0, 0),
        len: 4096,
        flags: grant::COPY_SOURCE_REFERENCE | grant::COPY_DESTINATION_REFERENCE,
        ..Default::default()
    };
    assert_eq!(sim.copy_one(B0, both), OKAY);
    assert_eq!(sim.get::<[u8; 4096]>(GUEST, SPARE << 12), [0x11; 4096]);
    let own = GrantCopy {
        source: end(SPARE, SELF, 0),
        dest: end(SPARE + 1, SELF, 0),
        len: 4096,
        ..Default::default()
    };
    assert_eq!(sim.copy_one(B0, own), OKAY);
    assert_eq!((sim.entry_flags(GUEST, 9), sim.entry_flags(GUEST, 10)), (WRITE, READ));

    let rows = [
        ("too long", from(10, 4096), GrantStatus::BadCopyArgument),
        (
            "nothing, of another's frame",
            GrantCopy {
                flags: 0,
                ..from(9999, 0)
            },
            GrantStatus::PermissionDenied,
        ),
        ("nothing, of no grant", from(600, 0), GrantStatus::BadReference),
        ("nothing, of a free entry", from(11, 0), GENERAL),
        (
            "nothing, of a page's end",
            GrantCopy {
                source: end(10, GUEST.0, 4096),
                ..from(10, 0)
            },
            OKAY,
        ),
        (
            "nothing, of what is behind a page",
            GrantCopy {
                source: end(10, GUEST.0, 4097),
                ..from(10, 0)
            },
            GrantStatus::BadCopyArgument,
        ),
        ("of no grant", from(600, 8), GrantStatus::BadReference),
        (
            "of nobody",
            GrantCopy {
                source: end(10, 99, 0),
                ..from(10, 8)
            },
            GrantStatus::BadDomain,
        ),
        (
            "another's frame",
            GrantCopy {
                flags: 0,
                ..from(10, 8)
            },
            GrantStatus::PermissionDenied,
        ),
        (
            "one's own frame by one's number",
            GrantCopy {
                dest: end(SPARE, BACKEND.0, 0),
                ..from(10, 8)
            },
            GrantStatus::PermissionDenied,
        ),
        (
            "to what is no RAM",
            GrantCopy {
                dest: end(EMPTY_GFN, SELF, 0),
                ..from(10, 8)
            },
            GrantStatus::BadPage,
        ),
        (
            "to nowhere",
            GrantCopy {
                dest: end(u64::MAX, SELF, 0),
                ..from(10, 8)
            },
            GrantStatus::BadPage,
        ),
        (
            "at the end",
            GrantCopy {
                dest: end(SPARE, SELF, 4095),
                ..from(10, 2)
            },
            GrantStatus::BadCopyArgument,
        ),
        (
            "far beyond",
            GrantCopy {
                dest: end(SPARE, SELF, u16::MAX),
                ..from(10, u16::MAX)
            },
            GrantStatus::BadCopyArgument,
        ),
    ];
    for (name, request, expected) in rows {
        assert_eq!(sim.copy_one(B0, request), expected, "{name}");
        assert_eq!(
            (sim.entry_flags(GUEST, 9), sim.entry_flags(GUEST, 10)),
            (WRITE, READ),
            "{name}"
        );
    }
}

#[test]
fn a_table_tells_its_size_and_grows_as_far_as_the_manifest_says() {
    let options = Options {
        guest: "max_grant_frames = <40>;",
        ..Options::default()
    };
    let sim = granting(&options);
    let size = |sim: &Sim| {
        let (result, after) = sim.grant_op(
            G0,
            grant::QUERY_SIZE,
            &[grant::QuerySize {
                dom: SELF,
                ..Default::default()
            }],
        );
        assert_eq!((result, after[0].status), (0, 0));
        (after[0].nr_frames, after[0].max_nr_frames)
    };
    assert_eq!(size(&sim), (1, 40));
    // As Linux does: the last one first, so that the table grows once.
    for index in (1..40).rev() {
        assert_eq!(sim.map_table(G0, index), 0);
        assert_eq!(size(&sim), (40, 40));
    }
    assert_eq!(sim.map_table(G0, 40), -(HypercallError::Invalid as i64));
    assert_eq!(
        sim.map_table(G0, 1 << 31),
        -(HypercallError::Invalid as i64),
        "a status frame"
    );
    assert_eq!(sim.map_table(G0, u64::MAX), -(HypercallError::Invalid as i64));
    assert_eq!(sim.map_table(G0, 7), 0, "it is there already");
    let setup = grant::SetupTable {
        dom: SELF,
        nr_frames: 40,
        frame_list: SCRATCH + 0x800,
        ..Default::default()
    };
    let (result, after) = sim.grant_op(G0, grant::SETUP_TABLE, &[setup]);
    assert_eq!((result, after[0].status), (0, 0));
    for index in 0..40 {
        assert_eq!(sim.get::<u64>(GUEST, SCRATCH + 0x800 + index * 8), EMPTY_GFN + index);
    }
    let too_big = grant::SetupTable { nr_frames: 41, ..setup };
    assert_eq!(
        sim.grant_op(G0, grant::SETUP_TABLE, &[too_big]).1[0].status,
        GENERAL.code()
    );
    // The last entry works.
    let last = 40 * 512 - 1;
    sim.put(
        GUEST,
        ((EMPTY_GFN + 39) << 12) + 511 * 8,
        &GrantEntry {
            flags: WRITE,
            domid: BACKEND.0,
            frame: SPARE as u32,
        },
    );
    assert!(sim.map_one(B0, GUEST, last, HOST, WINDOW).is_ok());
    assert_eq!(
        sim.map_one(B0, GUEST, last + 1, HOST, WINDOW),
        Err(GrantStatus::BadReference)
    );
}
