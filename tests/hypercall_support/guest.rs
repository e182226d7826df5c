//! What a guest asks for itself: parameters, assistance, its console, its reservation. Good, boundary and bad.

use portunus::abi::HypercallError::{BadPointer, Invalid, NotImplemented, NotPermitted, NotSupported};
use portunus::abi::console_io::{READ, WRITE};
use portunus::abi::hvm_op::{self, GET_PARAM, Parameter, SET_PARAM};
use portunus::abi::hypercall::{CONSOLE_IO, HVM_OP, MEMORY_OP, MulticallEntry, VM_ASSIST};
use portunus::abi::{hypercall, memory, vcpu};
use portunus::domain::runstate::RunstateArea;
use portunus::hypercall::{Host, Outcome};
use portunus::ids::{DomainId, Pa};
use portunus::memory::PhysicalMemory;

use crate::calls::OK;
use crate::errors::{SELF, refused};
use crate::host::{Action, BACKEND, FakeHost, GUEST, MAXIMUM_GFN, READ_ONLY, STRANGER, UNMAPPED, VA};

fn parameter(host: &mut FakeHost, index: u32) -> u64 {
    let request = Parameter {
        domid: SELF,
        pad: 0,
        index,
        value: 0x5555,
    };
    host.put(VA, &request);
    assert_eq!(host.call(HVM_OP, &[GET_PARAM, VA]), OK, "parameter {index}");
    let answer: Parameter = host.get(VA);
    let value = answer.value;
    assert_eq!(answer, Parameter { value, ..request }, "the rest is left alone");
    value
}

#[test]
fn parameters_say_where_the_console_is_and_that_there_is_no_xenstore() {
    let upcall = 2 << 56 | 1 << 9 | 31;
    for (caller, page, port) in [(GUEST, 0x39000, 1), (BACKEND, 0, 0)] {
        let mut host = FakeHost::new(caller);
        let rows = [
            (hvm_op::PARAM_CALLBACK_IRQ, upcall),
            (hvm_op::PARAM_STORE_PFN, 0),
            (hvm_op::PARAM_STORE_EVTCHN, 0),
            (hvm_op::PARAM_CONSOLE_PFN, page),
            (hvm_op::PARAM_CONSOLE_EVTCHN, port),
        ];
        for (index, value) in rows {
            assert_eq!(parameter(&mut host, index), value, "parameter {index}");
        }
        for index in 0..64 {
            let known = rows.iter().any(|(known, _)| *known == index);
            for operation in [SET_PARAM, GET_PARAM] {
                let expected = if known { NotPermitted } else { Invalid };
                if known && operation == GET_PARAM {
                    continue;
                }
                host.put(
                    VA,
                    &Parameter {
                        domid: SELF,
                        pad: 0,
                        index,
                        value: 1,
                    },
                );
                let what = format!("operation {operation} of parameter {index}");
                refused(&mut host, &what, HVM_OP, &[operation, VA], expected);
            }
        }
    }
}

#[test]
fn vm_assist_turns_the_mark_of_runstate_on_and_off_and_nothing_else() {
    let mut host = FakeHost::new(GUEST);
    let kind = vcpu::ASSIST_RUNSTATE_UPDATE_FLAG;
    for (command, marked) in [(vcpu::ASSIST_ENABLE, true), (vcpu::ASSIST_DISABLE, false)] {
        assert_eq!(host.call(VM_ASSIST, &[command, kind]), OK);
        assert_eq!(host.actions, [Action::MarkRunstate(marked)]);
        host.actions.clear();
        // Xen's arguments have 32 bits.
        assert_eq!(host.call(VM_ASSIST, &[command | 1 << 32, kind | 1 << 40]), OK);
        host.actions.clear();
    }
    for command in [0, 1, 2, u64::from(u32::MAX)] {
        for kind in [0, 1, 2, 3, 4, 6, 63, 64, u64::from(u32::MAX)] {
            let what = format!("type {kind}");
            refused(&mut host, &what, VM_ASSIST, &[command, kind], Invalid);
        }
    }
    for command in [2, 3, u64::from(u32::MAX)] {
        refused(
            &mut host,
            "no such command",
            VM_ASSIST,
            &[command, kind],
            NotImplemented,
        );
    }
}

#[test]
fn a_marked_account_is_never_read_half_changed() {
    let mut host = FakeHost::new(GUEST);
    let info = vcpu::RunstateInfo {
        state: 2,
        pad: 0,
        state_entry_time: 0x1234,
        time: [1, 2, 3, 4],
    };
    // Wherever a page ends in it.
    for offset in (4096 - 48..=4096).step_by(8) {
        for marked in [false, true] {
            let area = RunstateArea::at(VA + offset, |address| host.pin_address(address))
                .unwrap()
                .marked(marked);
            let at = Pa(0x8010_0000 + 0x20_0000 + offset);
            host.machine.memory(|memory| memory.zero(Pa(0x8030_0000), 0x3000));
            area.publish(&host.machine, &info);
            assert_eq!(host.machine.load_u32(at), 2, "at {offset}");
            assert_eq!(
                host.machine.load_u64(Pa(at.0 + 8)),
                0x1234,
                "the mark is gone, at {offset}"
            );
            for index in 0..4 {
                assert_eq!(host.machine.load_u64(Pa(at.0 + 16 + index * 8)), index + 1);
            }
        }
    }
}

#[test]
fn console_io_writes_all_waiting_in_the_guests_own_time() {
    let mut host = FakeHost::new(GUEST);
    let text: Vec<u8> = (0..1500).map(|index| b'a' + (index % 26) as u8).collect();
    host.put(VA, text.as_slice());
    host.console_room = 700;
    let first = host.call(CONSOLE_IO, &[WRITE, 1500, VA]);
    assert_eq!(first, Outcome::Continue([WRITE, 1500 - 512, VA + 512, 0, 0]));
    let second = host.call(CONSOLE_IO, &[WRITE, 1500 - 512, VA + 512]);
    assert_eq!(second, Outcome::Continue([WRITE, 800, VA + 700, 0, 0]), "it is full");
    let again = host.call(CONSOLE_IO, &[WRITE, 800, VA + 700]);
    assert_eq!(again, Outcome::Continue([WRITE, 800, VA + 700, 0, 0]), "it still is");
    host.console_room = usize::MAX;
    assert_eq!(host.call_to_end(CONSOLE_IO, &[WRITE, 800, VA + 700]).0, OK);
    let mut written = Vec::<u8>::new();
    for action in &host.actions {
        let Action::Console(bytes) = action else {
            panic!("{action:?}")
        };
        assert!(bytes.len() <= 64);
        written.extend(bytes);
    }
    assert_eq!(written, text);
    assert_eq!(host.call(CONSOLE_IO, &[WRITE, 0, UNMAPPED]), OK, "nothing to write");
}

#[test]
fn console_io_reads_what_was_typed_and_takes_nothing_that_it_cannot_hand_over() {
    let mut host = FakeHost::new(GUEST);
    host.typed = (0..100).collect();
    assert_eq!(host.call(CONSOLE_IO, &[READ, 10, VA]), Outcome::Return(10));
    assert_eq!(host.get::<[u8; 12]>(VA), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0]);
    for pointer in [READ_ONLY, READ_ONLY - 1, UNMAPPED, u64::MAX] {
        refused(&mut host, "a bad buffer", CONSOLE_IO, &[READ, 8, pointer], BadPointer);
        assert_eq!(host.typed.len(), 90);
    }
    assert_eq!(
        host.call(CONSOLE_IO, &[READ, u64::from(u32::MAX), VA]),
        Outcome::Return(64)
    );
    assert_eq!(host.call(CONSOLE_IO, &[READ, 1 << 32 | 64, VA]), Outcome::Return(26));
    assert_eq!(host.call(CONSOLE_IO, &[READ, 64, VA]), OK, "nothing is left");
    assert_eq!(host.call(CONSOLE_IO, &[READ, 0, VA]), OK);
    // Who may not read, and who has no console at all.
    let mut backend = FakeHost::new(BACKEND);
    refused(&mut backend, "read", CONSOLE_IO, &[READ, 8, VA], NotPermitted);
    let mut stranger = FakeHost::new(STRANGER);
    for operation in [READ, WRITE] {
        refused(
            &mut stranger,
            "no console",
            CONSOLE_IO,
            &[operation, 8, VA],
            NotPermitted,
        );
    }
}

#[test]
fn the_reservation_is_what_the_domain_has_and_what_it_may_have() {
    let mut host = FakeHost::new(BACKEND);
    for domain in [SELF, BACKEND.0, GUEST.0] {
        host.put(VA, &domain);
        let rows = [
            (memory::CURRENT_RESERVATION, 0x10000 - 0x123),
            (memory::MAXIMUM_RESERVATION, 0x10000),
            (memory::MAXIMUM_GPFN, MAXIMUM_GFN - 1),
        ];
        for (operation, value) in rows {
            assert_eq!(host.call(MEMORY_OP, &[operation, VA]), Outcome::Return(value));
            refused(
                &mut host,
                "with entries done",
                MEMORY_OP,
                &[operation | 1 << 6, VA],
                Invalid,
            );
        }
    }
    host.put(VA, &STRANGER.0);
    refused(
        &mut host,
        "a stranger's",
        MEMORY_OP,
        &[memory::MAXIMUM_GPFN, VA],
        NotPermitted,
    );
    for (operation, error) in [
        (memory::EXCHANGE, NotSupported),
        (memory::GET_VNUMAINFO, NotSupported),
        (memory::CLAIM_PAGES, NotPermitted),
    ] {
        refused(&mut host, "what Xen refuses too", MEMORY_OP, &[operation, VA], error);
    }
}

fn extents(host: &mut FakeHost, first: &[u64], order: u32) -> memory::MemoryReservation {
    for (gfn, index) in first.iter().zip(0..) {
        host.put(VA + 0x1000 + index * 8, gfn);
    }
    let request = memory::MemoryReservation {
        extent_start: VA + 0x1000,
        nr_extents: first.len() as u64,
        extent_order: order,
        mem_flags: 0,
        domid: SELF,
        ..Default::default()
    };
    host.put(VA, &request);
    request
}

#[test]
fn extents_of_up_to_64_kib_move_page_by_page() {
    for order in 0..=4 {
        let mut host = FakeHost::new(GUEST);
        let pages = 1 << order;
        extents(&mut host, &[0x1000, 0x2000], order);
        for operation in [memory::DECREASE_RESERVATION, memory::POPULATE_PHYSMAP] {
            host.actions.clear();
            assert_eq!(host.call(MEMORY_OP, &[operation, VA]), Outcome::Return(2));
            let moved = (0x1000..0x1000 + pages).chain(0x2000..0x2000 + pages);
            let moved: Vec<Action> = match operation {
                memory::DECREASE_RESERVATION => moved.map(Action::Park).collect(),
                _ => moved.map(Action::Populate).collect(),
            };
            assert_eq!(host.actions, moved, "order {order}");
        }
    }
    for order in [5, 9, 18, 31, 32, 63, 64, u32::MAX] {
        let mut host = FakeHost::new(GUEST);
        extents(&mut host, &[0x1000], order);
        for operation in [memory::DECREASE_RESERVATION, memory::POPULATE_PHYSMAP] {
            assert_eq!(host.call(MEMORY_OP, &[operation, VA]), OK, "none of order {order}");
        }
        assert_eq!(host.actions, []);
    }
}

#[test]
fn a_reservation_that_is_refused_says_how_much_was_done() {
    let operations = [memory::DECREASE_RESERVATION, memory::POPULATE_PHYSMAP];
    for (operation, done) in operations
        .into_iter()
        .flat_map(|operation| [(operation, 0), (operation, 3)])
    {
        let mut host = FakeHost::new(GUEST);
        let command = operation | done << 6;
        for nowhere in [0, u64::MAX - 7] {
            assert_eq!(host.call(MEMORY_OP, &[command, nowhere]), Outcome::Return(done));
        }
        for domid in [2, 1000, u16::MAX] {
            let request = extents(&mut host, &[0x1000, 0x2000, 0x3000, 0x4000], 0);
            host.put(VA, &memory::MemoryReservation { domid, ..request });
            assert_eq!(
                host.call(MEMORY_OP, &[command, VA]),
                Outcome::Return(done),
                "of {domid}"
            );
        }
        assert_eq!(host.actions, []);
    }
}

#[test]
fn an_extent_beyond_the_map_is_populated_whole_or_not_at_all() {
    let mut host = FakeHost::new(GUEST);
    extents(&mut host, &[0x1000, MAXIMUM_GFN - 2, 0x3000], 2);
    assert_eq!(
        host.call(MEMORY_OP, &[memory::POPULATE_PHYSMAP, VA]),
        Outcome::Return(1)
    );
    let undone = [MAXIMUM_GFN - 2, MAXIMUM_GFN - 1];
    let expected: Vec<Action> = (0x1000..0x1004)
        .map(Action::Populate)
        .chain(undone.map(Action::Populate))
        .chain(undone.map(Action::Park))
        .collect();
    assert_eq!(host.actions, expected);
    for gfn in [u64::MAX, u64::MAX - 3, 1 << 52] {
        let mut host = FakeHost::new(GUEST);
        extents(&mut host, &[gfn], 2);
        for operation in [memory::DECREASE_RESERVATION, memory::POPULATE_PHYSMAP] {
            assert_eq!(host.call(MEMORY_OP, &[operation, VA]), OK);
        }
        assert_eq!(host.actions, []);
    }
}

#[test]
fn many_long_extents_go_in_pieces_of_64_pages() {
    let mut host = FakeHost::new(GUEST);
    let first: Vec<u64> = (0..10).map(|index| 0x1000 + index * 16).collect();
    extents(&mut host, &first, 4);
    let operation = memory::DECREASE_RESERVATION;
    let resumed = host.call(MEMORY_OP, &[operation, VA]);
    assert_eq!(resumed, Outcome::Continue([operation | 4 << 6, VA, 0, 0, 0]));
    assert_eq!(host.actions.len(), 64);
    let (last, resumed) = host.call_to_end(MEMORY_OP, &[operation | 4 << 6, VA]);
    assert_eq!((last, resumed), (Outcome::Return(10), 1));
    assert_eq!(host.actions.len(), 160);
    // A count that a guest makes up: what is beyond the end was never there.
    for done in [10, 11, 1 << 50] {
        let outcome = host.call(MEMORY_OP, &[operation | done << 6, VA]);
        assert_eq!(outcome, Outcome::Return(10));
    }
}

#[test]
fn a_multicall_has_what_a_guest_asks_for_itself() {
    let mut host = FakeHost::new(GUEST);
    let entry = |op, args: [u64; 2]| MulticallEntry {
        op,
        result: 0x77,
        args: [args[0], args[1], 0, 0, 0, 0],
    };
    host.put(
        VA,
        &[
            entry(VM_ASSIST, [0, 5]),
            entry(VM_ASSIST, [0, 6]),
            entry(hypercall::XEN_VERSION, [0, 0]),
        ],
    );
    assert_eq!(host.call(hypercall::MULTICALL, &[VA, 3]), OK);
    let results: Vec<u64> = (0..3)
        .map(|index| host.get::<MulticallEntry>(VA + index * 64).result)
        .collect();
    assert_eq!(results, [0, Invalid.register(), 4 << 16 | 20]);
    assert_eq!(host.actions, [Action::MarkRunstate(true)]);
    assert_ne!(DomainId::SELF, GUEST);
}
