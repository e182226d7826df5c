//! Long calls in bounded pieces, and calls at random.

use crate::host::{Action, BACKEND, FakeHost, GUEST, VA};
use portunus::abi::hypercall::MulticallEntry;
use portunus::abi::{HypercallError, evtchn, hypercall, memory, sched};
use portunus::hypercall::Outcome;
use portunus::ids::DomainId;

use crate::calls::{OK, SELF};

#[test]
fn a_reset_of_many_ports_goes_in_pieces() {
    let mut host = FakeHost::new(GUEST);
    for _ in 0..40 {
        host.events(GUEST).bind_ipi(0).unwrap();
    }
    host.put(VA, &evtchn::Reset { dom: SELF });
    let arguments = [evtchn::RESET, VA, 0, 0, 0];
    assert_eq!(
        host.call(hypercall::EVENT_CHANNEL_OP, &arguments),
        Outcome::Continue(arguments)
    );
    assert_eq!(host.call(hypercall::EVENT_CHANNEL_OP, &arguments), OK);
    assert_eq!(host.events(GUEST).next_open(portunus::ids::EventPort(1)), None);
}

#[test]
fn foreign_pages_are_mapped_in_bounded_pieces_with_an_error_each() {
    let mut host = FakeHost::new(BACKEND);
    let size = 150u16;
    let batch = memory::AddToPhysmapBatch {
        domid: SELF,
        space: 4,
        size,
        foreign_domid: GUEST.0,
        idxs: VA + 0x1000,
        gpfns: VA + 0x2000,
        errs: VA + 0x3000,
    };
    host.put(VA, &batch);
    for index in 0..u64::from(size) {
        let source = if index % 50 == 7 {
            u64::MAX >> 12
        } else {
            0x40000 + index
        };
        host.put(VA + 0x1000 + index * 8, &source);
        host.put(VA + 0x2000 + index * 8, &(0x100 + index));
        host.put(VA + 0x3000 + index * 4, &0x5555i32);
    }
    let first = host.call(hypercall::MEMORY_OP, &[memory::ADD_TO_PHYSMAP_BATCH, VA]);
    assert_eq!(first, Outcome::Continue([23 | 64 << 6, VA, 0, 0, 0]));
    assert!(host.actions.len() <= 64, "{}", host.actions.len());
    let (last, resumed) = host.call_to_end(hypercall::MEMORY_OP, &[23 | 64 << 6, VA]);
    assert_eq!((last, resumed), (OK, 1));
    let mapped: Vec<_> = (0..150)
        .filter(|index| index % 50 != 7)
        .map(|index| Action::Foreign(GUEST, 0x40000 + index, 0x100 + index))
        .collect();
    assert_eq!(host.actions, mapped);
    for index in 0..150 {
        let expected = if index % 50 == 7 { -22 } else { 0 };
        assert_eq!(host.get::<i32>(VA + 0x3000 + index * 4), expected, "entry {index}");
    }
    host.put(VA, &memory::AddToPhysmapBatch { size: 0, ..batch });
    assert_eq!(host.call(hypercall::MEMORY_OP, &[23, VA]), OK, "nothing to do");
}

#[test]
fn a_balloon_moves_single_pages_and_counts_them() {
    let mut host = FakeHost::new(GUEST);
    for index in 0..100 {
        host.put(VA + 0x1000 + index * 8, &(0x100 + index));
    }
    let request = memory::MemoryReservation {
        extent_start: VA + 0x1000,
        nr_extents: 100,
        domid: SELF,
        ..Default::default()
    };
    host.put(VA, &request);
    assert_eq!(
        host.call_to_end(hypercall::MEMORY_OP, &[1, VA]),
        (Outcome::Return(100), 1)
    );
    assert_eq!(host.actions.len(), 100);
    host.put(VA + 0x1000 + 70 * 8, &u64::MAX);
    assert_eq!(
        host.call_to_end(hypercall::MEMORY_OP, &[6, VA]),
        (Outcome::Return(70), 1),
        "as many as it could"
    );
    host.put(
        VA,
        &memory::MemoryReservation {
            extent_order: 5,
            ..request
        },
    );
    assert_eq!(
        host.call(hypercall::MEMORY_OP, &[1, VA]),
        Outcome::Return(0),
        "no blocks"
    );
    for nr_extents in [u64::MAX, u64::MAX >> 6, 1 << 60] {
        host.put(
            VA,
            &memory::MemoryReservation {
                nr_extents,
                extent_start: u64::MAX - 7,
                ..request
            },
        );
        assert_eq!(
            host.call(hypercall::MEMORY_OP, &[1, VA]),
            Outcome::Return(0),
            "{nr_extents:#x}"
        );
    }
    host.put(VA, &request);
    assert_eq!(
        host.call(hypercall::MEMORY_OP, &[1 | 200 << 6, VA]),
        Outcome::Return(100),
        "more done than there is"
    );
}

#[test]
fn a_multicall_runs_each_entry_in_bounded_pieces() {
    let mut host = FakeHost::new(BACKEND);
    let entry = |op, args: [u64; 6]| MulticallEntry {
        op,
        result: 0x5555,
        args,
    };
    for index in 0..20 {
        host.put(
            VA + 0x400 + index * 64,
            &entry(hypercall::XEN_VERSION, [0, 0, 0, 0, 0, 9]),
        );
    }
    host.put(VA + 0x400 + 3 * 64, &entry(99, [0; 6]));
    host.put(
        VA + 0x400 + 4 * 64,
        &entry(hypercall::MULTICALL, [VA + 0x400, 1, 0, 0, 0, 0]),
    );
    host.put(
        VA + 0x400 + 5 * 64,
        &entry(hypercall::SCHED_OP, [sched::BLOCK, 0, 0, 0, 0, 0]),
    );
    host.put(
        VA + 0x400 + 6 * 64,
        &entry(hypercall::SCHED_OP, [sched::YIELD, 0, 0, 0, 0, 0]),
    );
    assert_eq!(host.call_to_end(hypercall::MULTICALL, &[VA + 0x400, 20]), (OK, 2));
    for index in 0..20 {
        let expected = match index {
            3 | 5 => HypercallError::NotImplemented.register(),
            4 => HypercallError::Invalid.register(),
            6 => 0,
            _ => 4 << 16 | 20,
        };
        assert_eq!(
            host.get::<MulticallEntry>(VA + 0x400 + index * 64).result,
            expected,
            "entry {index}"
        );
    }
    assert_eq!(host.call(hypercall::MULTICALL, &[VA, 0]), OK);
}

#[test]
fn a_long_call_inside_a_multicall_is_resumed_where_it_stopped() {
    let mut host = FakeHost::new(BACKEND);
    let batch = memory::AddToPhysmapBatch {
        domid: SELF,
        space: 4,
        size: 100,
        foreign_domid: GUEST.0,
        idxs: VA + 0x1000,
        gpfns: VA + 0x2000,
        errs: VA + 0x3000,
    };
    host.put(VA, &batch);
    let first = MulticallEntry {
        op: hypercall::XEN_VERSION,
        ..Default::default()
    };
    let second = MulticallEntry {
        op: hypercall::MEMORY_OP,
        result: 0x5555,
        args: [23, VA, 0, 0, 0, 0],
    };
    host.put(VA + 0x400, &[first, second, first]);
    let outcome = host.call(hypercall::MULTICALL, &[VA + 0x400, 3]);
    assert_eq!(outcome, Outcome::Continue([VA + 0x440, 2, 0, 0, 0]));
    assert_eq!(host.get::<MulticallEntry>(VA + 0x440).args[0], 23 | 64 << 6);
    assert_eq!(host.call(hypercall::MULTICALL, &[VA + 0x440, 2]), OK);
    assert_eq!(host.actions.len(), 100);
    assert_eq!(host.get::<MulticallEntry>(VA + 0x440).result, 0);
    assert_eq!(host.get::<MulticallEntry>(VA + 0x480).result, 4 << 16 | 20);
}

#[test]
fn console_output_goes_out_in_bounded_pieces() {
    let mut host = FakeHost::new(GUEST);
    let text: Vec<u8> = (0..1300).map(|index| b'a' + (index % 26) as u8).collect();
    host.put(VA, text.as_slice());
    assert_eq!(
        host.call(hypercall::CONSOLE_IO, &[0, 1300, VA]),
        Outcome::Continue([0, 788, VA + 512, 0, 0])
    );
    assert_eq!(host.call_to_end(hypercall::CONSOLE_IO, &[0, 788, VA + 512]), (OK, 1));
    let written: Vec<u8> = host
        .actions
        .iter()
        .flat_map(|action| match action {
            Action::Console(bytes) => bytes.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(written, text);
    assert_eq!(host.call(hypercall::CONSOLE_IO, &[1, 10, VA]), OK, "no input");
    assert_eq!(host.call(hypercall::CONSOLE_IO, &[0, 0, 0]), OK, "nothing to write");
}

/// Numbers, arguments and structures at random: whatever comes, every call ends, in few reads of guest memory.
#[test]
fn random_calls_end_and_stay_bounded() {
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let numbers = [12, 13, 17, 18, 21, 24, 29, 32, 34, 36, 41];
    let mut host = FakeHost::new(BACKEND);
    for _ in 0..30_000 {
        if random() % 4 == 0 {
            host.caller.domain = DomainId(1 + (random() % 4) as u16);
        }
        for _ in 0..8 {
            let at = VA + random() % 0x180 / 2 * 2;
            let value = match random() % 4 {
                0 => random(),
                1 => random() % 8,
                2 => VA + random() % 0x200,
                _ => u64::from(SELF),
            };
            host.put(at, &value);
        }
        let mut argument = || match random() % 4 {
            0 => random() % 32,
            1 => random(),
            _ => VA + random() % 0x180,
        };
        let arguments = [argument(), argument(), argument(), argument(), argument()];
        let small = [random() % 32, arguments[1], arguments[2], arguments[3], arguments[4]];
        let number = numbers[(random() % numbers.len() as u64) as usize];
        host.reads = 0;
        host.actions.clear();
        let _ = host.call(number, if random() % 8 == 0 { &arguments } else { &small });
        assert!(
            host.reads <= 8 * 200 && host.actions.len() <= 8 * 128,
            "{number} {small:x?}: {} reads",
            host.reads
        );
    }
}
