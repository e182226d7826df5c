//! The PL011 as guests use it: its registers, and a driver that works as Linux's amba-pl011 does.

use std::collections::VecDeque;

use portunus::access::{AccessWidth, Direction};
use portunus::console::pl011::{Pl011, RECEIVE_CAPACITY, TRANSMIT_CAPACITY};
use portunus::primecell::BadAccess;

const DR: u64 = 0x000;
const RSR: u64 = 0x004;
const FR: u64 = 0x018;
const IBRD: u64 = 0x024;
const FBRD: u64 = 0x028;
const LCR_H: u64 = 0x02c;
const CR: u64 = 0x030;
const IFLS: u64 = 0x034;
const IMSC: u64 = 0x038;
const RIS: u64 = 0x03c;
const MIS: u64 = 0x040;
const ICR: u64 = 0x044;

const BUSY: u64 = 1 << 3;
const RXFE: u64 = 1 << 4;
const TXFF: u64 = 1 << 5;
const RXFF: u64 = 1 << 6;
const TXFE: u64 = 1 << 7;
const RX: u64 = 1 << 4;
const TX: u64 = 1 << 5;
const RT: u64 = 1 << 6;
const OE: u64 = 1 << 10;
const FEN: u64 = 1 << 4;

fn read(uart: &mut Pl011, offset: u64) -> u64 {
    uart.access(offset, AccessWidth::Word, Direction::Read).unwrap()
}
fn write(uart: &mut Pl011, offset: u64, value: u64) {
    uart.access(offset, AccessWidth::Word, Direction::Write(value)).unwrap();
}
fn take_all(uart: &mut Pl011) -> Vec<u8> {
    core::iter::from_fn(|| uart.take()).collect()
}

#[test]
fn registers_have_their_reset_values_and_keep_what_they_can() {
    // (register, after reset, written, read then)
    let table = [
        ("FR: nothing sent, nothing received, modem lines up", FR, 0x97, 0, 0x97),
        ("RSR", RSR, 0, 0xff, 0),
        ("ILPR", 0x20, 0, 0x1ff, 0xff),
        ("IBRD", IBRD, 0, 0x1_2345, 0x2345),
        ("FBRD", FBRD, 0, 0xff, 0x3f),
        ("LCR_H", LCR_H, 0, 0x170, 0x70),
        ("CR: enabled, as an SBSA UART is", CR, 0x301, 0xcf01, 0xcf01),
        ("IFLS", IFLS, 0x12, 0xff, 0x3f),
        ("IMSC", IMSC, 0, 0xffff, 0x7ff),
        ("RIS is read-only", RIS, 0, 0x7ff, 0),
        ("MIS is read-only", MIS, 0, 0x7ff, 0),
        ("ICR is write-only", ICR, 0, 0, 0),
        ("DMACR", 0x48, 0, 0xff, 7),
        ("reserved", 0x08, 0, 0xff, 0),
        ("reserved, far up", 0xfdc, 0, 0xff, 0),
    ];
    for (text, register, reset, written, after) in table {
        let mut uart = Pl011::default();
        assert_eq!(read(&mut uart, register), reset, "{text}");
        write(&mut uart, register, written);
        assert_eq!(read(&mut uart, register), after, "{text}, after a write");
        assert!(!uart.line());
    }
}

#[test]
fn the_identification_is_an_arm_pl011_r1p5() {
    let mut uart = Pl011::default();
    let identification: Vec<u64> = (0..8).map(|index| read(&mut uart, 0xfe0 + 4 * index)).collect();
    assert_eq!(identification, [0x11, 0x10, 0x34, 0x00, 0x0d, 0xf0, 0x05, 0xb1]);
    // Linux's amba bus reads it so: part 0x011, designer 0x41, revision 3 (FIFOs of 32).
    let number = identification[..4].iter().rev().fold(0, |id, byte| id << 8 | byte);
    assert_eq!(number & 0x000f_ffff, 0x0004_1011);
    assert_eq!(number >> 20 & 0xf, 3);
}

#[test]
fn narrow_accesses_work_and_impossible_ones_are_refused() {
    let mut uart = Pl011::default();
    uart.access(DR, AccessWidth::Byte, Direction::Write(u64::from(b'A')))
        .unwrap();
    uart.access(DR, AccessWidth::Halfword, Direction::Write(0x4142))
        .unwrap();
    assert_eq!(take_all(&mut uart), b"AB");
    assert!(uart.receive(b'x'));
    assert_eq!(
        uart.access(DR + 1, AccessWidth::Byte, Direction::Read),
        Ok(0),
        "the status byte alone takes no character"
    );
    assert_eq!(uart.access(DR, AccessWidth::Byte, Direction::Read), Ok(u64::from(b'x')));
    assert_eq!(uart.access(CR + 1, AccessWidth::Byte, Direction::Read), Ok(3));
    for (offset, width) in [
        (0x1000, AccessWidth::Byte),
        (u64::MAX, AccessWidth::Byte),
        (0, AccessWidth::Doubleword),
        (1, AccessWidth::Halfword),
        (0x1a, AccessWidth::Word),
    ] {
        let shape = Err(BadAccess::Shape { offset, width });
        assert_eq!(uart.access(offset, width, Direction::Read), shape);
        assert_eq!(uart.access(offset, width, Direction::Write(1)), shape);
    }
}

#[test]
fn a_full_buffer_says_so_and_loses_only_what_is_sent_regardless() {
    let mut uart = Pl011::default();
    for index in 0..TRANSMIT_CAPACITY {
        assert_eq!(read(&mut uart, FR) & TXFF, 0, "after {index}");
        write(&mut uart, DR, u64::from(b'a') + index as u64 % 26);
    }
    assert_eq!(read(&mut uart, FR) & (TXFF | BUSY | TXFE), TXFF | BUSY);
    write(&mut uart, DR, u64::from(b'!'));
    assert_eq!(uart.take(), Some(b'a'));
    assert_eq!(read(&mut uart, FR) & (TXFF | BUSY | TXFE), BUSY);
    let rest = take_all(&mut uart);
    assert_eq!(rest.len(), TRANSMIT_CAPACITY - 1);
    assert!(!rest.contains(&b'!'));
    assert_eq!(read(&mut uart, FR) & (TXFF | BUSY | TXFE), TXFE);
    assert!(!uart.has_output());
}

#[test]
fn the_transmit_interrupt_comes_with_each_character_until_half_and_again_below_it() {
    let mut uart = Pl011::default();
    write(&mut uart, IMSC, TX);
    assert!(!uart.line(), "nothing was sent");
    write(&mut uart, DR, 1);
    assert!(uart.line());
    write(&mut uart, ICR, TX);
    assert!(!uart.line());
    for _ in 1..TRANSMIT_CAPACITY / 2 {
        write(&mut uart, DR, 2);
    }
    assert!(uart.line(), "at half");
    write(&mut uart, DR, 3);
    assert!(!uart.line(), "above half");
    assert_eq!(uart.take(), Some(1));
    assert!(uart.line(), "back at half");
    write(&mut uart, ICR, TX);
    uart.take();
    assert!(!uart.line(), "below half there is no transition");
}

#[test]
fn received_characters_raise_timeout_and_trigger_and_reading_lowers_them() {
    let mut uart = Pl011::default();
    write(&mut uart, LCR_H, FEN);
    // (IFLS, trigger level)
    for (levels, trigger) in [(0 << 3, 4), (1 << 3, 8), (2 << 3, 16), (3 << 3, 24), (4 << 3, 28)] {
        write(&mut uart, IFLS, levels);
        for count in 1..=trigger {
            assert!(uart.receive(count));
            let expected = if count < trigger { RT } else { RT | RX };
            assert_eq!(read(&mut uart, RIS), expected, "{count} of {trigger}");
        }
        assert_eq!(read(&mut uart, DR), 1);
        assert_eq!(read(&mut uart, RIS), RT);
        for count in 2..=trigger {
            assert_eq!(read(&mut uart, RIS), RT);
            assert_eq!(read(&mut uart, DR), u64::from(count));
        }
        assert_eq!(read(&mut uart, RIS), 0);
        assert_eq!(read(&mut uart, FR) & RXFE, RXFE);
    }
    assert_eq!(read(&mut uart, DR), 0, "an empty FIFO");
}

#[test]
fn clearing_the_timeout_with_characters_unread_does_not_lose_it() {
    let mut uart = Pl011::default();
    assert!(uart.receive(b'x'));
    write(&mut uart, ICR, 0x7ff);
    write(&mut uart, IMSC, RX | RT);
    assert!(uart.line());
}

#[test]
fn without_fifos_one_character_triggers() {
    let mut uart = Pl011::default();
    assert!(uart.receive(b'x'));
    assert_eq!(read(&mut uart, RIS), RT | RX);
}

#[test]
fn what_is_typed_beyond_the_buffer_is_lost_and_counted_as_overrun() {
    let mut uart = Pl011::default();
    for _ in 0..RECEIVE_CAPACITY {
        assert!(uart.receive(b'x'));
    }
    assert_eq!(read(&mut uart, FR) & (RXFF | RXFE), RXFF);
    assert!(!uart.receive(b'y'));
    assert_eq!(read(&mut uart, RIS) & OE, OE);
    assert_eq!(read(&mut uart, RSR), 8);
    write(&mut uart, RSR, 0);
    write(&mut uart, ICR, OE);
    assert_eq!((read(&mut uart, RSR), read(&mut uart, RIS) & OE), (0, 0));
}

#[test]
fn loopback_returns_what_is_sent() {
    let mut uart = Pl011::default();
    write(&mut uart, CR, 0x301 | 1 << 7);
    write(&mut uart, DR, u64::from(b'z'));
    assert!(!uart.has_output());
    assert_eq!(read(&mut uart, FR) & BUSY, 0);
    assert_eq!(read(&mut uart, DR), u64::from(b'z'));
}

/// Transmit and receive paths of a driver shaped like Linux's: PIO, half a FIFO of 32 for each interrupt.
struct Driver {
    to_send: VecDeque<u8>,
    received: Vec<u8>,
    mask: u64,
}

impl Driver {
    fn start(uart: &mut Pl011) -> Self {
        write(uart, ICR, 0x7f0);
        write(uart, IFLS, 0x12);
        write(uart, LCR_H, 0x70);
        write(uart, CR, 0xb01);
        write(uart, ICR, RT | RX);
        for _ in 0..64 {
            if read(uart, FR) & RXFE != 0 {
                break;
            }
            read(uart, DR);
        }
        write(uart, IMSC, RT | RX);
        Self {
            to_send: VecDeque::new(),
            received: Vec::new(),
            mask: RT | RX,
        }
    }
    fn transmit(&mut self, uart: &mut Pl011, from_interrupt: bool) -> bool {
        for count in 0.. {
            if from_interrupt && count == 16 || !from_interrupt && read(uart, FR) & TXFF != 0 {
                break;
            }
            let Some(byte) = self.to_send.pop_front() else { break };
            write(uart, DR, u64::from(byte));
        }
        if self.to_send.is_empty() {
            self.mask &= !TX;
            write(uart, IMSC, self.mask);
            return false;
        }
        true
    }
    fn send(&mut self, uart: &mut Pl011, bytes: &[u8]) {
        self.to_send.extend(bytes);
        if self.mask & TX == 0 && self.transmit(uart, false) {
            self.mask |= TX;
            write(uart, IMSC, self.mask);
        }
    }
    fn interrupt(&mut self, uart: &mut Pl011) {
        for _ in 0..256 {
            let status = read(uart, MIS);
            if status == 0 {
                return;
            }
            write(uart, ICR, status & !(TX | RT | RX));
            if status & (RT | RX) != 0 {
                for _ in 0..256 {
                    if read(uart, FR) & RXFE != 0 {
                        break;
                    }
                    self.received.push(read(uart, DR) as u8);
                }
            }
            if status & TX != 0 {
                self.transmit(uart, true);
            }
        }
    }
}

#[test]
fn a_driver_like_linux_sends_and_receives_everything_in_order() {
    let mut uart = Pl011::default();
    let mut driver = Driver::start(&mut uart);
    let text: Vec<u8> = (0..100_000_u32).map(|index| (index % 251) as u8).collect();
    let (mut sent, mut shown, mut typed) = (0, Vec::new(), Vec::new());
    let mut state = 11_u64;
    let mut rounds = 0;
    while shown.len() < text.len() {
        rounds += 1;
        assert!(rounds < 100_000, "the driver stalled after {} bytes", shown.len());
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let random = (state >> 33) as usize;
        match random % 4 {
            0 if sent < text.len() => {
                let end = text.len().min(sent + random / 4 % 9000);
                driver.send(&mut uart, &text[sent..end]);
                sent = end;
            }
            1 => {
                let byte = random as u8;
                if uart.receive(byte) {
                    typed.push(byte);
                }
            }
            2 => shown.extend((0..random / 4 % 5000).map_while(|_| uart.take())),
            _ => {
                while uart.line() {
                    driver.interrupt(&mut uart);
                }
            }
        }
    }
    driver.interrupt(&mut uart);
    assert_eq!(shown, text);
    assert_eq!(driver.received, typed);
    assert!(!uart.line());
}

#[test]
fn what_was_typed_before_the_driver_started_wakes_it() {
    let mut uart = Pl011::default();
    for _ in 0..200 {
        assert!(uart.receive(b'x'));
    }
    let mut driver = Driver::start(&mut uart);
    assert!(uart.line());
    driver.interrupt(&mut uart);
    assert_eq!(driver.received.len(), 200 - 64);
}
