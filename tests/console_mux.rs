//! The shared console: whole lines with names, prompts, focus, and lines never mixed.

use heapless::Vec as Array;
use portunus::access::{AccessWidth, Direction};
use portunus::console::keys::{KEYS, Topic};
use portunus::console::mux::{Colour, Console, InputEffect, LineChange, PortId, TooManyPorts};
use portunus::ids::{DomainId, MAX_DOMAINS, Ticks};

/// Ticks a second in these tests: a short pause is 20, a long one 500.
const FREQUENCY: u64 = 1000;
const CTRL_A: u8 = 1;

struct Terminal {
    console: Console,
    now: u64,
    ports: Vec<PortId>,
}

fn terminal(names: &[&str]) -> Terminal {
    let mut console = Console::new(FREQUENCY, Colour::Never);
    let ports = names
        .iter()
        .enumerate()
        .map(|(index, name)| console.add(DomainId(index as u16 + 1), name).unwrap())
        .collect();
    Terminal { console, now: 0, ports }
}

impl Terminal {
    fn send(&mut self, port: usize, text: &str) {
        for byte in text.bytes() {
            let write = Direction::Write(u64::from(byte));
            self.console
                .access(self.ports[port], 0, AccessWidth::Word, write)
                .unwrap();
        }
    }
    fn read(&mut self, port: usize, offset: u64) -> u64 {
        let access = self
            .console
            .access(self.ports[port], offset, AccessWidth::Word, Direction::Read);
        access.unwrap().value
    }
    /// What is shown at this time, through a buffer of `size` bytes.
    fn shown_by(&mut self, size: usize) -> String {
        let mut text = Vec::new();
        let mut out = vec![0; size];
        let mut lines = Array::new();
        loop {
            let count = self.console.drain(Ticks(self.now), &mut out, &mut lines);
            lines.clear();
            if count == 0 {
                return String::from_utf8(text).unwrap();
            }
            text.extend(&out[..count]);
        }
    }
    fn shown(&mut self) -> String {
        self.shown_by(64)
    }
    fn wait(&mut self, ticks: u64) {
        self.now += ticks;
    }
    fn move_focus(&mut self) -> InputEffect {
        [CTRL_A; 3].map(|byte| self.console.input(byte))[2]
    }
}

#[test]
fn whole_lines_are_shown_behind_their_names_at_once() {
    let mut terminal = terminal(&["one", "two"]);
    terminal.send(0, "hello\r\n");
    terminal.send(1, "bare newline\nand blank\n\n");
    terminal.console.print(b"booted\n");
    let text = terminal.shown();
    assert_eq!(
        text,
        "[one] hello\r\n[two] bare newline\r\n[portunus] booted\r\n[two] and blank\r\n[two] \r\n"
    );
}

#[test]
fn the_size_of_the_buffer_does_not_matter() {
    let mut texts = Vec::new();
    for size in [1, 2, 3, 7, 64, 4096] {
        let mut terminal = terminal(&["one", "two"]);
        terminal.send(0, "a\r\nb\r\n$ ");
        terminal.send(1, &"x".repeat(1000));
        terminal.send(1, "\n");
        let first = terminal.shown_by(size);
        terminal.wait(20);
        texts.push(first + &terminal.shown_by(size));
    }
    assert!(texts.iter().all(|text| *text == texts[0]), "{texts:#?}");
    assert!(texts[0].ends_with("[one] $ "), "{}", texts[0]);
}

#[test]
fn the_prompt_in_focus_is_shown_after_a_short_pause_and_its_echo_at_once() {
    let mut terminal = terminal(&["one", "two"]);
    terminal.send(0, "/ # ");
    assert_eq!(terminal.shown(), "");
    assert_eq!(terminal.console.deadline(), Some(Ticks(20)));
    terminal.wait(19);
    assert_eq!(terminal.shown(), "");
    terminal.wait(1);
    assert_eq!(terminal.shown(), "[one] / # ");
    assert_eq!(terminal.console.deadline(), None);
    for (sent, expected) in [("l", "l"), ("s", "s"), ("\r\n", "\r\n"), ("bin\r\n", "[one] bin\r\n")] {
        terminal.send(0, sent);
        assert_eq!(terminal.shown(), expected);
    }
}

#[test]
fn another_domains_line_breaks_the_prompt_which_is_shown_again() {
    let mut terminal = terminal(&["one", "two"]);
    terminal.send(0, "/ # ls");
    assert_eq!(terminal.shown(), "");
    terminal.wait(20);
    assert_eq!(terminal.shown(), "[one] / # ls");
    terminal.send(1, "tick\ntock\n");
    assert_eq!(terminal.shown(), "\r\n[two] tick\r\n[two] tock\r\n[one] / # ls");
    terminal.send(0, " -l\r\n");
    assert_eq!(terminal.shown(), " -l\r\n");
}

#[test]
fn a_guest_that_returns_to_the_start_of_its_line_gets_there_behind_its_name() {
    let mut terminal = terminal(&["one", "two"]);
    terminal.send(0, "/ # ");
    terminal.shown();
    terminal.wait(20);
    assert_eq!(terminal.shown(), "[one] / # ");
    // A return alone moves nothing; what follows it decides.
    terminal.send(0, "\r");
    assert_eq!(terminal.shown(), "");
    terminal.send(0, "/ # ls");
    assert_eq!(terminal.shown(), "\r[one] / # ls");
    terminal.send(0, " -l\r\r\n");
    assert_eq!(terminal.shown(), " -l\r\n");
    // What is overwritten before it was shown is shown all the same.
    terminal.send(1, "10 %\r20 %\r\n\rdone\n");
    assert_eq!(terminal.shown(), "[two] 10 %\r[two] 20 %\r\n[two] done\r\n");
    // A line between leaves each on a line of its own.
    terminal.send(0, "a\rb");
    terminal.shown();
    terminal.wait(20);
    terminal.shown();
    terminal.send(1, "tick\n");
    terminal.send(0, "\rc\n");
    let shown = terminal.shown();
    assert!(
        shown.contains("\r\n[two] tick\r\n") && shown.ends_with("c\r\n"),
        "{shown:?}"
    );
}

#[test]
fn an_unfinished_line_elsewhere_waits_long_and_is_shown_once() {
    let mut terminal = terminal(&["one", "two"]);
    terminal.send(0, "$ ");
    terminal.send(1, "login: ");
    assert_eq!(terminal.shown(), "");
    terminal.wait(20);
    assert_eq!(terminal.shown(), "[one] $ ");
    assert_eq!(terminal.console.deadline(), Some(Ticks(500)));
    terminal.wait(480);
    assert_eq!(terminal.shown(), "\r\n[two] login: \r\n[one] $ ");
    assert_eq!(terminal.console.deadline(), None);
    terminal.wait(10_000);
    assert_eq!(terminal.shown(), "");
    // Its end shows the line whole.
    terminal.send(1, "root\n");
    assert_eq!(terminal.shown(), "\r\n[two] login: root\r\n[one] $ ");
}

#[test]
fn a_line_longer_than_the_room_is_shown_in_pieces_without_a_break() {
    let mut terminal = terminal(&["one", "two"]);
    let long = "0123456789".repeat(60);
    terminal.send(0, &long);
    terminal.send(0, "\r\n");
    assert_eq!(terminal.shown(), format!("[one] {long}\r\n"));
    // Exactly the room, then its end.
    let exact = "y".repeat(256);
    terminal.send(1, &exact);
    assert_eq!(terminal.shown(), format!("[two] {exact}"));
    terminal.send(1, "\r\n");
    assert_eq!(terminal.shown(), "\r\n");
    // A piece that is broken goes on behind its name.
    terminal.send(1, &exact);
    assert_eq!(terminal.shown(), format!("[two] {exact}"));
    terminal.send(0, "z\n");
    terminal.send(1, "end\n");
    assert_eq!(terminal.shown(), "\r\n[one] z\r\n[two] end\r\n");
}

#[test]
fn the_focus_moves_with_three_ctrl_a_and_is_told() {
    let mut terminal = terminal(&["one", "two"]);
    assert_eq!(terminal.console.focus(), Some(DomainId(1)));
    terminal.send(1, "two$ ");
    terminal.wait(20);
    assert_eq!(terminal.shown(), "");
    assert_eq!(terminal.move_focus(), InputEffect::Focus(DomainId(2)));
    assert_eq!(
        terminal.shown(),
        "[portunus] input goes to two (Ctrl-a three times: the next)\r\n"
    );
    terminal.wait(20);
    assert_eq!(terminal.shown(), "[two] two$ ");
    assert_eq!(terminal.move_focus(), InputEffect::Focus(DomainId(1)));
    assert_eq!(terminal.console.focus(), Some(DomainId(1)));
}

#[test]
fn typed_characters_reach_the_domain_in_focus_alone() {
    let mut terminal = terminal(&["one", "two"]);
    assert_eq!(
        terminal.console.input(b'x'),
        InputEffect::None,
        "its interrupt is masked"
    );
    assert_eq!(terminal.move_focus(), InputEffect::Focus(DomainId(2)));
    terminal.console.input(b'y');
    assert_eq!(terminal.read(0, 0), u64::from(b'x'));
    assert_eq!(terminal.read(0, 0x18) & 1 << 4, 1 << 4);
    assert_eq!(terminal.read(1, 0), u64::from(b'y'));
    assert_eq!(terminal.read(1, 0x18) & 1 << 4, 1 << 4);
}

#[test]
fn ctrl_a_is_the_consoles_or_reaches_the_guest_with_what_follows() {
    let none = InputEffect::None;
    let report = |topic, domain: Option<u16>| InputEffect::Show {
        topic,
        domain: domain.map(DomainId),
    };
    let table: &[(&str, &[u8], InputEffect, &[u8])] = &[
        ("quit", b"\x01q", InputEffect::Quit, b""),
        ("the keys", b"\x01?", report(Topic::Keys, None), b""),
        ("every domain", b"\x01l", report(Topic::Domains, None), b""),
        ("every vCPU", b"\x01r", report(Topic::Vcpus, None), b""),
        ("registers here", b"\x01d", report(Topic::Registers, Some(1)), b""),
        ("registers everywhere", b"\x01D", report(Topic::Registers, None), b""),
        ("interrupts here", b"\x01i", report(Topic::Interrupts, Some(1)), b""),
        ("interrupts everywhere", b"\x01I", report(Topic::Interrupts, None), b""),
        ("servers here", b"\x01s", report(Topic::Servers, Some(1)), b""),
        ("servers everywhere", b"\x01S", report(Topic::Servers, None), b""),
        ("channels here", b"\x01e", report(Topic::Events, Some(1)), b""),
        ("channels everywhere", b"\x01E", report(Topic::Events, None), b""),
        ("counters here", b"\x01c", report(Topic::Counters, Some(1)), b""),
        ("counters everywhere", b"\x01C", report(Topic::Counters, None), b""),
        ("last events here", b"\x01t", report(Topic::Trace, Some(1)), b""),
        ("last events everywhere", b"\x01T", report(Topic::Trace, None), b""),
        ("no capital of what is about all anyway", b"\x01L", none, b"\x01L"),
        ("a report's key alone", b"e", none, b"e"),
        ("focus", b"\x01\x01\x01", InputEffect::Focus(DomainId(1)), b""),
        ("start of line, then a letter", b"\x01x", none, b"\x01x"),
        ("two, then q: the guest's Ctrl-a q", b"\x01\x01q", none, b"\x01q"),
        ("two, then e: the guest's Ctrl-a e", b"\x01\x01e", none, b"\x01e"),
        ("q alone", b"q", none, b"q"),
        (
            "after the focus moved, counting starts anew",
            b"\x01\x01\x01\x01q",
            InputEffect::Quit,
            b"",
        ),
    ];
    for (text, typed, effect, delivered) in table {
        let mut terminal = terminal(&["only"]);
        let last = typed.iter().map(|byte| terminal.console.input(*byte)).last();
        assert_eq!(last, Some(*effect), "{text}");
        let mut received = Vec::new();
        while terminal.read(0, 0x18) & 1 << 4 == 0 {
            received.push(terminal.read(0, 0) as u8);
        }
        assert_eq!(received, *delivered, "{text}");
    }
}

#[test]
fn every_key_has_its_topic_and_no_two_are_the_same() {
    let bytes = KEYS.iter().flat_map(|key| {
        let capital = key.one.then(|| key.byte.to_ascii_uppercase());
        [Some(key.byte), capital].into_iter().flatten()
    });
    let mut bytes: Vec<u8> = bytes.chain([b'q', CTRL_A]).collect();
    let count = bytes.len();
    bytes.sort_unstable();
    bytes.dedup();
    assert_eq!(bytes.len(), count);
    for topic in Topic::ALL {
        assert_eq!(KEYS.iter().filter(|key| key.topic == topic).count(), 1, "{topic:?}");
    }
}

#[test]
fn unfinished_lines_wait_while_they_are_held_back_and_whole_ones_do_not() {
    let mut terminal = terminal(&["one", "two"]);
    terminal.send(0, "$ ");
    terminal.console.hold_back(true);
    terminal.shown();
    terminal.wait(1000);
    assert_eq!((terminal.shown(), terminal.console.deadline()), (String::new(), None));
    terminal.send(1, "whole\n");
    assert_eq!(terminal.shown(), "[two] whole\r\n");
    terminal.console.hold_back(false);
    assert!(
        terminal
            .console
            .deadline()
            .is_some_and(|due| due <= Ticks(terminal.now))
    );
    assert_eq!(terminal.shown(), "[one] $ ");
}

#[test]
fn what_a_guest_prints_is_no_key() {
    let mut terminal = terminal(&["one"]);
    terminal.send(0, "\x01q\x01?\x01D\n");
    assert_eq!(terminal.shown(), "[one] \x01q\x01?\x01D\r\n");
    assert_eq!(terminal.console.backlog(), 0);
    // Nor does it begin one that a person ends.
    terminal.send(0, "\x01");
    assert_eq!(terminal.console.input(b'q'), InputEffect::None);
    assert_eq!(terminal.read(0, 0), u64::from(b'q'));
}

#[test]
fn a_name_sends_nothing_to_the_terminal_but_itself() {
    let mut terminal = terminal(&["a\x1b[2Jb\r\n\u{e9}"]);
    terminal.send(0, "x\n");
    assert_eq!(terminal.shown(), "[a.[2Jb....] x\r\n");
}

#[test]
fn interrupt_lines_are_told_when_they_change_and_only_then() {
    let mut terminal = terminal(&["one"]);
    let up = LineChange {
        domain: DomainId(1),
        asserted: true,
    };
    let down = LineChange { asserted: false, ..up };
    let port = terminal.ports[0];
    let mut word = |offset, direction| {
        let access = terminal.console.access(port, offset, AccessWidth::Word, direction);
        access.unwrap().line
    };
    assert_eq!(word(0x38, Direction::Write(1 << 6 | 1 << 5)), None);
    assert_eq!(word(0, Direction::Write(1)), Some(up), "transmit");
    assert_eq!(word(0, Direction::Write(1)), None);
    assert_eq!(word(0x44, Direction::Write(1 << 5)), Some(down));
    assert_eq!(terminal.console.input(b'x'), InputEffect::Line(up));
    assert_eq!(terminal.console.input(b'y'), InputEffect::None);
    let mut word = |offset, direction| {
        let access = terminal.console.access(port, offset, AccessWidth::Word, direction);
        access.unwrap().line
    };
    assert_eq!(word(0, Direction::Read), None);
    assert_eq!(word(0, Direction::Read), Some(down));
}

#[test]
fn draining_a_full_buffer_raises_the_transmit_interrupt_once() {
    let mut terminal = terminal(&["one"]);
    let port = terminal.ports[0];
    let imsc = Direction::Write(1 << 5);
    terminal.console.access(port, 0x38, AccessWidth::Word, imsc).unwrap();
    let lines = "0123456789abcde\n".repeat(1024);
    terminal.send(0, &lines);
    assert_eq!(terminal.read(0, 0x18) & 1 << 5, 1 << 5, "full");
    let mut changes = Vec::new();
    let mut out = [0; 512];
    let mut array = Array::new();
    let mut shown = 0;
    loop {
        let count = terminal.console.drain(Ticks(0), &mut out, &mut array);
        changes.extend(array.iter().copied());
        array.clear();
        if count == 0 {
            break;
        }
        shown += count;
    }
    // A name and a carriage return for each line.
    assert_eq!(shown, lines.len() + 1024 * ("[one] ".len() + 1));
    assert_eq!(
        changes,
        [LineChange {
            domain: DomainId(1),
            asserted: true
        }]
    );
}

#[test]
fn colours_come_only_when_asked_for() {
    let mut console = Console::new(FREQUENCY, Colour::Ansi);
    let port = console.add(DomainId(1), "one").unwrap();
    for byte in b"hi\n" {
        let write = Direction::Write(u64::from(*byte));
        console.access(port, 0, AccessWidth::Byte, write).unwrap();
    }
    let mut out = [0; 64];
    let count = console.drain(Ticks(0), &mut out, &mut Array::new());
    assert_eq!(&out[..count], b"\x1b[36m[one]\x1b[0m hi\r\n");
}

#[test]
fn no_more_consoles_than_domains_and_long_names_are_cut() {
    let mut console = Console::new(FREQUENCY, Colour::Never);
    let name = "n".repeat(100);
    for index in 0..MAX_DOMAINS {
        assert!(console.add(DomainId(index as u16), &name).is_ok());
    }
    assert_eq!(console.add(DomainId(99), "late"), Err(TooManyPorts(DomainId(99))));
}

/// Random senders, times and buffer sizes: what the terminal shows, cut into its lines, has each domain's lines in
/// order and whole, and none that nobody sent.
#[test]
fn every_line_appears_whole_and_in_order_whatever_the_interleaving() {
    let names = ["alpha", "beta", "gamma"];
    let mut state = 5_u64;
    let mut random = move |limit: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % limit
    };
    for _ in 0..30 {
        let mut terminal = terminal(&names);
        let mut sent = [const { Vec::<String>::new() }; 3];
        let mut partial = [const { String::new() }; 3];
        let mut shown = String::new();
        for step in 0..400 {
            let port = random(3) as usize;
            match random(5) {
                0..=2 => {
                    let piece = format!("{step}.");
                    terminal.send(port, &piece);
                    partial[port] += &piece;
                }
                3 => {
                    terminal.send(port, "\r\n");
                    sent[port].push(std::mem::take(&mut partial[port]));
                }
                _ => terminal.wait(random(600)),
            }
            if random(3) == 0 {
                shown += &terminal.shown_by(1 + random(40) as usize);
            }
            if random(50) == 0 {
                terminal.move_focus();
            }
        }
        terminal.send(0, "end\r\n");
        terminal.send(1, "end\r\n");
        terminal.send(2, "end\r\n");
        shown += &terminal.shown();
        let shown: Vec<&str> = shown.split("\r\n").collect();
        for (port, name) in names.iter().enumerate() {
            let prefix = format!("[{name}] ");
            let mut mine = shown.iter().filter_map(|line| line.strip_prefix(&prefix));
            for line in &sent[port] {
                // A line that was broken appears in part before it appears whole.
                let found = mine.by_ref().find(|candidate| *candidate == line.as_str());
                assert!(found.is_some(), "{name} sent {line:?}");
            }
        }
        for line in shown.iter().filter(|line| !line.is_empty()) {
            let owners = names.iter().chain(&["portunus"]);
            let marks = owners.filter(|name| line.contains(&format!("[{name}] "))).count();
            assert_eq!(marks, 1, "{line:?}");
        }
    }
}
