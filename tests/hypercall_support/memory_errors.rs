//! What memory_op refuses.

use crate::host::{self, BACKEND, FakeHost, GUEST, MAXIMUM_GFN, READ_ONLY, STRANGER, UNMAPPED, VA};
use portunus::abi::HypercallError::{
    AccessDenied, BadPointer, Domain, IllegalSequence, Invalid, NoDomain, NoEntry, NotImplemented, NotPermitted,
    NotSupported,
};
use portunus::abi::{hypercall, memory};

use crate::errors::{NOBODY, SELF, create, refused};

#[test]
fn memory_op_refuses_what_is_not_the_callers() {
    let mut host = FakeHost::new(BACKEND);
    let id = create(&mut host);
    macro_rules! row {
        ($what:expr, $op:expr, $payload:expr, $expected:expr) => {
            host.put(VA, &$payload);
            refused(&mut host, $what, hypercall::MEMORY_OP, &[$op, VA], $expected);
        };
    }
    let add = memory::AddToPhysmap {
        domid: SELF,
        gpfn: 5,
        ..Default::default()
    };
    let op = memory::ADD_TO_PHYSMAP;
    row!(
        "another's map",
        op,
        memory::AddToPhysmap { domid: 1, ..add },
        NotPermitted
    );
    row!("index 1", op, memory::AddToPhysmap { idx: 1, ..add }, Invalid);
    row!(
        "beyond the map",
        op,
        memory::AddToPhysmap {
            gpfn: MAXIMUM_GFN,
            ..add
        },
        Invalid
    );
    row!("resumed", op | 1 << 6, add, Invalid);
    let spaces = [
        (1, Invalid),
        (2, NotImplemented),
        (3, NotImplemented),
        (4, NotImplemented),
        (5, AccessDenied),
    ];
    for (space, expected) in spaces
        .into_iter()
        .chain([(6, NotImplemented), (u32::MAX, NotImplemented)])
    {
        row!(
            &format!("space {space}"),
            op,
            memory::AddToPhysmap { space, ..add },
            expected
        );
    }
    let remove = memory::RemoveFromPhysmap {
        domid: SELF,
        pad: [0; 3],
        gpfn: MAXIMUM_GFN,
    };
    row!("nothing there", memory::REMOVE_FROM_PHYSMAP, remove, NoEntry);
    row!(
        "another's",
        memory::REMOVE_FROM_PHYSMAP,
        memory::RemoveFromPhysmap { domid: 1, ..remove },
        NotPermitted
    );
    row!("resumed", memory::REMOVE_FROM_PHYSMAP | 1 << 6, remove, Invalid);

    let batch = memory::AddToPhysmapBatch {
        domid: SELF,
        space: 4,
        size: 2,
        foreign_domid: GUEST.0,
        idxs: VA + 0x100,
        gpfns: VA + 0x200,
        errs: VA + 0x300,
    };
    let op = memory::ADD_TO_PHYSMAP_BATCH;
    row!(
        "another's map",
        op,
        memory::AddToPhysmapBatch { domid: 1, ..batch },
        NotPermitted
    );
    row!("more done than there is", op | 3 << 6, batch, IllegalSequence);
    row!("all done before", op | 2 << 6, batch, IllegalSequence);
    row!("as much done as can be", op | 0xffff << 6, batch, IllegalSequence);
    row!("more done than can be", op | 0x1_0000 << 6, batch, Domain);
    row!("very much done", u64::MAX << 6 | op, batch, Domain);
    row!(
        "another's map for device memory",
        op,
        memory::AddToPhysmapBatch {
            domid: 1,
            space: 5,
            ..batch
        },
        AccessDenied
    );
    row!(
        "device memory",
        op,
        memory::AddToPhysmapBatch {
            space: 5,
            size: 0,
            ..batch
        },
        AccessDenied
    );
    row!(
        "x86 space of nobody",
        op,
        memory::AddToPhysmapBatch {
            domid: NOBODY[1],
            space: 3,
            ..batch
        },
        NotSupported
    );
    row!(
        "x86 space",
        op,
        memory::AddToPhysmapBatch { space: 3, ..batch },
        NotSupported
    );
    row!(
        "indices fault",
        op,
        memory::AddToPhysmapBatch {
            idxs: UNMAPPED,
            ..batch
        },
        BadPointer
    );
    row!(
        "frames fault",
        op,
        memory::AddToPhysmapBatch {
            gpfns: u64::MAX - 8,
            ..batch
        },
        BadPointer
    );
    row!(
        "errors read-only",
        op,
        memory::AddToPhysmapBatch {
            errs: READ_ONLY,
            ..batch
        },
        BadPointer
    );
    host.put(VA + 0x200, &u64::MAX);
    row!("an invalid frame", op, batch, Invalid);

    let acquire = memory::AcquireResource {
        domid: GUEST.0,
        id: id.into(),
        nr_frames: 1,
        frame: 1,
        frame_list: VA + 0x100,
        ..Default::default()
    };
    let op = memory::ACQUIRE_RESOURCE;
    row!(
        "pad, before the domain",
        op,
        memory::AcquireResource {
            pad: 1,
            domid: SELF,
            ..acquire
        },
        Invalid
    );
    row!(
        "itself",
        op,
        memory::AcquireResource { domid: SELF, ..acquire },
        NotPermitted
    );
    row!(
        "a stranger's",
        op,
        memory::AcquireResource {
            domid: STRANGER.0,
            ..acquire
        },
        NotPermitted
    );
    row!(
        "grant table",
        op,
        memory::AcquireResource { kind: 1, ..acquire },
        Invalid
    );
    row!(
        "unknown kind",
        op,
        memory::AcquireResource {
            kind: 0xffff,
            ..acquire
        },
        Invalid
    );
    row!(
        "no such server",
        op,
        memory::AcquireResource { id: 7, ..acquire },
        Invalid
    );
    row!(
        "no such id",
        op,
        memory::AcquireResource {
            id: 0x1_0000,
            ..acquire
        },
        Invalid
    );
    row!("frame 2", op, memory::AcquireResource { frame: 2, ..acquire }, Invalid);
    row!(
        "frames 1 and 2",
        op,
        memory::AcquireResource {
            nr_frames: 2,
            ..acquire
        },
        Invalid
    );
    row!(
        "frame 2^32",
        op,
        memory::AcquireResource {
            frame: 1 << 32,
            ..acquire
        },
        Invalid
    );
    row!(
        "frame 2^64 - 1",
        op,
        memory::AcquireResource {
            frame: u64::MAX,
            nr_frames: 2,
            ..acquire
        },
        Invalid
    );
    row!(
        "4 G frames",
        op,
        memory::AcquireResource {
            nr_frames: u32::MAX,
            ..acquire
        },
        Invalid
    );
    row!(
        "list faults",
        op,
        memory::AcquireResource {
            frame_list: UNMAPPED,
            ..acquire
        },
        BadPointer
    );
    row!(
        "frames without a list",
        op,
        memory::AcquireResource {
            frame_list: 0,
            ..acquire
        },
        Invalid
    );
    row!("resumed", op | 1 << 6, acquire, Invalid);
    host.put(VA + 0x100, &u64::MAX);
    row!("beyond the map", op, acquire, Invalid);
    for nobody in NOBODY {
        row!(
            "nobody",
            op,
            memory::AcquireResource {
                domid: nobody,
                ..acquire
            },
            NoDomain
        );
        row!(
            "nobody",
            memory::ADD_TO_PHYSMAP,
            memory::AddToPhysmap { domid: nobody, ..add },
            NoDomain
        );
        row!("nobody", memory::MAXIMUM_GPFN, nobody, NoDomain);
    }
    row!(
        "a stranger's size",
        memory::CURRENT_RESERVATION,
        STRANGER.0,
        NotPermitted
    );
    row!("resumed", memory::MAXIMUM_RESERVATION | 1 << 6, SELF, Invalid);
    host.caller.domain = host::SECOND_BACKEND;
    host.put(VA + 0x100, &5u64);
    row!("another's server", memory::ACQUIRE_RESOURCE, acquire, NotPermitted);
}
