//! Consoles without a UART: the rings of a PV console under every index that a guest can write, and console_io.

use heapless::Vec as Array;
use portunus::abi::console::{IN_SIZE, Interface, OUT_SIZE};
use portunus::console::mux::{Colour, Console, InputEffect, PortId};
use portunus::console::stream::{BURST, INPUT_CAPACITY, OUTPUT_CAPACITY};
use portunus::fakes::FakeMachine;
use portunus::ids::{DomainId, MAX_DOMAINS, Pa, Ticks};
use portunus::memory::PhysicalMemory;

const PAGE: Pa = Pa(0x4000_1000);
const DOMAIN: DomainId = DomainId(1);

struct Guest {
    console: Console,
    port: PortId,
    machine: FakeMachine,
}

fn guest() -> Guest {
    let machine = FakeMachine::with_memory(Pa(0x4000_0000), 0x3000);
    machine.zero(Pa(0x4000_0000), 0x3000);
    let mut console = Console::new(1000, Colour::Never);
    let port = console.add_stream(DOMAIN, "pv", Some(PAGE)).unwrap();
    Guest { console, port, machine }
}

impl Guest {
    fn word(&self, offset: u64) -> u32 {
        self.machine.load_u32(Pa(PAGE.0 + offset))
    }
    fn set(&self, offset: u64, value: u32) {
        self.machine.store_u32(Pa(PAGE.0 + offset), value);
    }
    /// Sends what there is room for, as Linux does; how much.
    fn send(&self, text: &[u8]) -> usize {
        let (consumed, produced) = (
            self.word(Interface::OUT_CONS_OFFSET),
            self.word(Interface::OUT_PROD_OFFSET),
        );
        let room = (OUT_SIZE - produced.wrapping_sub(consumed)) as usize;
        let sent = text.len().min(room);
        for (byte, index) in text[..sent].iter().zip(0..) {
            let at = produced.wrapping_add(index) % OUT_SIZE;
            self.machine
                .store_u8(Pa(PAGE.0 + Interface::OUT_OFFSET + u64::from(at)), *byte);
        }
        self.set(Interface::OUT_PROD_OFFSET, produced.wrapping_add(sent as u32));
        sent
    }
    /// Takes what was typed.
    fn typed(&self) -> Vec<u8> {
        let (consumed, produced) = (
            self.word(Interface::IN_CONS_OFFSET),
            self.word(Interface::IN_PROD_OFFSET),
        );
        let count = produced.wrapping_sub(consumed);
        assert!(count <= IN_SIZE);
        let bytes = (0..count).map(|index| {
            let at = u64::from(consumed.wrapping_add(index) % IN_SIZE);
            self.machine.load_u8(Pa(PAGE.0 + Interface::IN_OFFSET + at))
        });
        let bytes = bytes.collect();
        self.set(Interface::IN_CONS_OFFSET, produced);
        bytes
    }
    /// The guest has sent an event. Whether it is told of something.
    fn ring(&mut self) -> bool {
        self.console.ring(self.port);
        self.exchange()
    }
    fn exchange(&mut self) -> bool {
        let mut told = Array::new();
        self.console.exchange(&self.machine, &mut told);
        assert!(told.len() <= 1 && told.iter().all(|domain| *domain == DOMAIN));
        !told.is_empty()
    }
    fn shown(&mut self) -> String {
        let mut text = Vec::new();
        let mut out = [0; 100];
        let mut lines = Array::<_, MAX_DOMAINS>::new();
        loop {
            let count = self.console.drain(Ticks(0), &mut out, &mut lines);
            if count == 0 {
                return String::from_utf8(text).unwrap();
            }
            text.extend(&out[..count]);
        }
    }
    fn type_in(&mut self, bytes: &[u8]) {
        for byte in bytes {
            assert_eq!(self.console.input(*byte), InputEffect::None);
        }
    }
}

#[test]
fn what_the_guest_puts_into_its_ring_is_shown_and_it_is_told_that_there_is_room() {
    let mut guest = guest();
    assert!(!guest.exchange(), "nobody has said anything");
    assert_eq!(guest.send(b"hello\r\n"), 7);
    assert!(guest.ring());
    assert_eq!(guest.word(Interface::OUT_CONS_OFFSET), 7);
    assert_eq!(guest.shown(), "[pv] hello\r\n");
    assert!(!guest.ring(), "there is nothing new");
}

#[test]
fn what_is_typed_goes_into_the_ring_and_the_guest_is_told() {
    let mut guest = guest();
    guest.type_in(b"ls\r");
    assert_eq!(guest.console.focus(), Some(DOMAIN));
    assert!(guest.exchange());
    assert_eq!(guest.typed(), b"ls\r");
    assert!(!guest.ring());
}

#[test]
fn indices_run_freely_and_wrap() {
    for start in [0, 1, OUT_SIZE - 3, u32::MAX - 2, u32::MAX] {
        let mut guest = guest();
        guest.set(Interface::OUT_CONS_OFFSET, start);
        guest.set(Interface::OUT_PROD_OFFSET, start);
        guest.set(Interface::IN_CONS_OFFSET, start);
        guest.set(Interface::IN_PROD_OFFSET, start);
        guest.send(b"over the end\n");
        guest.type_in(b"likewise");
        assert!(guest.ring());
        assert_eq!(guest.shown(), "[pv] over the end\r\n", "from {start:#x}");
        assert_eq!(guest.word(Interface::OUT_CONS_OFFSET), start.wrapping_add(13));
        assert_eq!(guest.typed(), b"likewise", "from {start:#x}");
    }
}

#[test]
fn a_burst_is_all_that_is_moved_at_once() {
    let mut guest = guest();
    let lines = "0123456789abcde\n".repeat(128);
    assert_eq!(guest.send(lines.as_bytes()), OUT_SIZE as usize);
    for moved in 1..=OUT_SIZE / BURST as u32 {
        assert!(guest.console.is_due() || moved == 1);
        assert!(if moved == 1 { guest.ring() } else { guest.exchange() });
        assert_eq!(guest.word(Interface::OUT_CONS_OFFSET), moved * BURST as u32);
    }
    assert!(!guest.console.is_due());
    assert_eq!(guest.shown().matches("0123456789abcde\r\n").count(), 128);
}

#[test]
fn a_terminal_that_is_full_keeps_bytes_in_the_ring_and_none_is_lost() {
    let mut guest = guest();
    let line = b"a line of the guest\n";
    let mut sent = Vec::<u8>::new();
    loop {
        let next: Vec<u8> = line
            .iter()
            .copied()
            .cycle()
            .skip(sent.len() % line.len())
            .take(100)
            .collect();
        let count = guest.send(&next);
        sent.extend(&next[..count]);
        let told = guest.ring();
        if count == 0 {
            assert!(!told, "there is no room yet");
            break;
        }
    }
    // The end of a line can be in the hands of the terminal already.
    assert!(sent.len() >= OUTPUT_CAPACITY + OUT_SIZE as usize);
    let mut text = guest.shown();
    while guest.exchange() {
        text.push_str(&guest.shown());
    }
    text.push_str(&guest.shown());
    let whole = sent.len() / line.len();
    assert_eq!(text.matches("[pv] a line of the guest\r\n").count(), whole);
}

#[test]
fn what_is_typed_ahead_waits_until_the_guest_has_made_room() {
    let mut guest = guest();
    let typed: Vec<u8> = (0..IN_SIZE as usize + 500)
        .map(|index| b'a' + (index % 26) as u8)
        .collect();
    let mut seen = Vec::new();
    for piece in typed.chunks(64) {
        guest.type_in(piece);
        guest.exchange();
    }
    assert!(!guest.console.is_due(), "nobody polls a guest that does not read");
    loop {
        let piece = guest.typed();
        if piece.is_empty() {
            break;
        }
        seen.extend(piece);
        // It says that it has taken something.
        guest.ring();
    }
    assert_eq!(seen, typed);
    // More than all buffers hold is lost from the end.
    guest.type_in(&vec![b'x'; INPUT_CAPACITY + 1]);
    let mut seen = 0;
    while guest.exchange() || guest.ring() {
        seen += guest.typed().len();
    }
    assert_eq!(seen, INPUT_CAPACITY);
}

#[test]
fn no_index_does_harm_and_nothing_else_is_touched() {
    let hostile = [
        0,
        1,
        255,
        1023,
        1024,
        1025,
        2047,
        2048,
        2049,
        1 << 31,
        u32::MAX - 1024,
        u32::MAX,
    ];
    for first in hostile {
        for second in hostile {
            let mut guest = guest();
            guest.set(Interface::OUT_CONS_OFFSET, first);
            guest.set(Interface::OUT_PROD_OFFSET, second);
            guest.set(Interface::IN_CONS_OFFSET, second);
            guest.set(Interface::IN_PROD_OFFSET, first);
            guest.type_in(b"typed");
            for _ in 0..20 {
                guest.ring();
            }
            let what = format!("{first:#x}, {second:#x}");
            let waiting = second.wrapping_sub(first);
            let taken = guest.word(Interface::OUT_CONS_OFFSET).wrapping_sub(first);
            assert_eq!(taken, if waiting > OUT_SIZE { 0 } else { waiting }, "{what}");
            assert_eq!(guest.word(Interface::OUT_PROD_OFFSET), second, "{what}");
            let room = IN_SIZE.saturating_sub(first.wrapping_sub(second));
            let given = guest.word(Interface::IN_PROD_OFFSET).wrapping_sub(first);
            assert_eq!(given, room.min(5), "{what}");
            assert_eq!(guest.word(Interface::IN_CONS_OFFSET), second, "{what}");
            // The pages before and behind it, and the rest of its own.
            for at in (0x4000_0000..0x4000_1000).chain(0x4000_1000 + 3088..0x4000_3000) {
                assert_eq!(guest.machine.load_u8(Pa(at)), 0, "{what}: {at:#x}");
            }
            guest.shown();
        }
    }
}

#[test]
fn a_guest_that_never_stops_sending_costs_a_burst_each_time() {
    let mut guest = guest();
    // The index moves on as fast as it is followed.
    for round in 1..100 {
        guest.set(
            Interface::OUT_PROD_OFFSET,
            guest.word(Interface::OUT_CONS_OFFSET) + OUT_SIZE,
        );
        guest.ring();
        assert!(guest.word(Interface::OUT_CONS_OFFSET) <= round * BURST as u32);
    }
}

#[test]
fn a_restart_forgets_what_was_typed_and_ends_the_line_that_was_begun() {
    let mut guest = guest();
    guest.send(b"half a li");
    guest.ring();
    guest.type_in(b"typed");
    assert_eq!(guest.console.reset(guest.port), None);
    guest.machine.zero(PAGE, 4096);
    assert!(!guest.exchange());
    assert_eq!(guest.typed(), b"");
    guest.send(b"new\n");
    guest.ring();
    assert_eq!(guest.shown(), "[pv] half a li\r\n[pv] new\r\n");
}

#[test]
fn console_io_writes_what_there_is_room_for_and_reads_what_was_typed() {
    let mut console = Console::new(1000, Colour::Never);
    let port = console.add_stream(DOMAIN, "plain", None).unwrap();
    let machine = FakeMachine::with_memory(Pa(0x4000_0000), 0x1000);
    assert_eq!(console.write(port, b"text\n"), 5);
    assert_eq!(console.write(port, &[b'x'; OUTPUT_CAPACITY]), OUTPUT_CAPACITY - 5);
    assert_eq!(console.write(port, b"y"), 0);
    for byte in b"typed" {
        console.input(*byte);
    }
    let mut told = Array::new();
    console.exchange(&machine, &mut told);
    assert_eq!(told, [DOMAIN], "VIRQ_CONSOLE");
    told.clear();
    console.exchange(&machine, &mut told);
    assert!(told.is_empty());
    let mut bytes = [0; 3];
    assert_eq!(console.read(port, &mut bytes), 3);
    assert_eq!(&bytes, b"typ");
    assert_eq!(console.read(port, &mut bytes), 2);
    assert_eq!(&bytes[..2], b"ed");
    assert_eq!(console.read(port, &mut bytes), 0);
}

#[test]
fn what_belongs_to_a_uart_or_a_ring_is_not_read_by_hypercall() {
    let mut console = Console::new(1000, Colour::Never);
    let uart = console.add(DomainId(1), "uart").unwrap();
    console.input(b'x');
    assert_eq!(console.read(uart, &mut [0; 8]), 0);
    assert_eq!(console.write(uart, b"hello\n"), 6);
    let mut guest = guest();
    guest.type_in(b"x");
    assert_eq!(guest.console.read(guest.port, &mut [0; 8]), 0);
    assert_eq!(guest.console.write(guest.port, b"hello\n"), 6);
    assert_eq!(guest.shown(), "[pv] hello\r\n");
}
