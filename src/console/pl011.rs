//! A PL011 (r1p5), as Linux's `arm,pl011` and `arm,sbsa-uart` drivers both use it (Arm DDI 0183G, PL011 technical
//! reference manual; Arm DEN0029, SBSA, appendix B).
//!
//! The transmit FIFO is the domain's output buffer: FR.TXFF says that it is full, FR.BUSY that something in it has not
//! been taken yet, so a guest that prints faster than the console waits in its own driver. The line is infinitely
//! fast as long as the buffer is at most half full: the transmit interrupt is then raised by every character, as if
//! the FIFO had at once drained through its trigger level; above that, when it does. A receive timeout takes no time:
//! RTRIS stands while anything is unread. CR is reset to "all enabled", because an SBSA UART has none, and gates only
//! the loopback; baud rate and parity are stored and have no effect.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU16, Ordering};

use super::ring::ByteRing;
use crate::access::{AccessWidth, Direction};
use crate::primecell::{self, BadAccess, PERIPH_ID0};

/// Bytes that a domain can have sent and nobody taken.
pub const TRANSMIT_CAPACITY: usize = 16 * 1024;
/// Bytes that can be typed ahead.
pub const RECEIVE_CAPACITY: usize = 1024;

const DR: u64 = 0x000;
const RSR_ECR: u64 = 0x004;
const FR: u64 = 0x018;
const ILPR: u64 = 0x020;
const IBRD: u64 = 0x024;
const FBRD: u64 = 0x028;
const LCR_H: u64 = 0x02c;
const CR: u64 = 0x030;
const IFLS: u64 = 0x034;
const IMSC: u64 = 0x038;
const RIS: u64 = 0x03c;
const MIS: u64 = 0x040;
const ICR: u64 = 0x044;
const DMACR: u64 = 0x048;

/// UARTPeriphID0 to 3 (PL011 r1p5, Arm), UARTPCellID0 to 3.
const IDENTIFICATION: [u8; 8] = [0x11, 0x10, 0x34, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

const FR_CTS: u16 = 1 << 0;
const FR_DSR: u16 = 1 << 1;
const FR_DCD: u16 = 1 << 2;
const FR_BUSY: u16 = 1 << 3;
const FR_RXFE: u16 = 1 << 4;
const FR_TXFF: u16 = 1 << 5;
const FR_RXFF: u16 = 1 << 6;
const FR_TXFE: u16 = 1 << 7;

const INT_RX: u16 = 1 << 4;
const INT_TX: u16 = 1 << 5;
const INT_RT: u16 = 1 << 6;
const INT_OE: u16 = 1 << 10;
const INT_ALL: u16 = 0x7ff;

const RSR_OE: u16 = 1 << 3;
const LCR_FEN: u16 = 1 << 4;
const CR_LBE: u16 = 1 << 7;
/// UARTEN, TXE, RXE.
const CR_ENABLED: u16 = 0x301;
/// Both triggers at half.
const IFLS_RESET: u16 = 0x12;
/// What RX trigger levels count in: a FIFO of 32.
const FIFO_DEPTH: usize = 32;

/// The flag register as its guest may read it while nothing that it sent waits: drivers read it before every character,
/// and need no lock for it.
#[derive(Clone, Debug)]
pub struct IdleFlags(Arc<AtomicU16>);

impl IdleFlags {
    /// Something waits to be taken. CTS, DSR and DCD are always set, so this is no value of the register.
    const BUSY: u16 = 0;

    /// What a load reads; `None`: another register, or something waits.
    #[inline]
    pub fn read(&self, offset: u64, width: AccessWidth) -> Option<u64> {
        if offset != FR || width == AccessWidth::Doubleword {
            return None;
        }
        let flags = self.0.load(Ordering::Relaxed);
        (flags != Self::BUSY).then(|| u64::from(flags) & width.mask())
    }
}

/// The register machine.
#[derive(Debug)]
pub struct Pl011 {
    transmit: ByteRing,
    receive: ByteRing,
    raw_interrupts: u16,
    interrupt_mask: u16,
    control: u16,
    line_control: u16,
    trigger_levels: u16,
    receive_status: u16,
    integer_baud: u16,
    fractional_baud: u16,
    low_power: u16,
    dma_control: u16,
    /// The last character that it sent ended no line.
    inside_line: bool,
    idle_flags: IdleFlags,
}

impl Default for Pl011 {
    fn default() -> Self {
        let uart = Self {
            transmit: ByteRing::new(TRANSMIT_CAPACITY),
            receive: ByteRing::new(RECEIVE_CAPACITY),
            raw_interrupts: 0,
            interrupt_mask: 0,
            control: CR_ENABLED,
            line_control: 0,
            trigger_levels: IFLS_RESET,
            receive_status: 0,
            integer_baud: 0,
            fractional_baud: 0,
            low_power: 0,
            dma_control: 0,
            inside_line: false,
            idle_flags: IdleFlags(Arc::default()),
        };
        uart.publish();
        uart
    }
}

impl Pl011 {
    /// The registers are as after a reset, and what was typed is forgotten. What the guest has sent is still to be taken,
    /// and is followed by the end of its line.
    pub fn reset(&mut self) {
        self.raw_interrupts = 0;
        self.interrupt_mask = 0;
        self.control = CR_ENABLED;
        self.line_control = 0;
        self.trigger_levels = IFLS_RESET;
        self.receive_status = 0;
        self.integer_baud = 0;
        self.fractional_baud = 0;
        self.low_power = 0;
        self.dma_control = 0;
        self.receive.clear();
        if core::mem::take(&mut self.inside_line) {
            self.transmit.push(b'\n');
        }
        self.publish();
    }

    /// The flag register for readers without a lock.
    pub fn idle_flags(&self) -> IdleFlags {
        self.idle_flags.clone()
    }

    /// To be called after every change of what the flag register shows.
    fn publish(&self) {
        let flags = if self.transmit.is_empty() {
            self.flags()
        } else {
            IdleFlags::BUSY
        };
        self.idle_flags.0.store(flags, Ordering::Relaxed);
    }

    /// Performs one access of the guest; a store returns 0. The interrupt line may change.
    ///
    /// # Errors
    /// [`BadAccess`]; nothing changes.
    pub fn access(&mut self, offset: u64, width: AccessWidth, direction: Direction) -> Result<u64, BadAccess> {
        let (register, lane) = primecell::register_and_lane(offset, width)?;
        let value = match direction {
            // The upper bytes of a register can be read by themselves, but only a read of its first byte has effects.
            Direction::Read if lane == 0 => u64::from(self.read(register)) & width.mask(),
            Direction::Read if register == DR => 0,
            Direction::Read => u64::from(self.read(register)) >> (8 * lane) & width.mask(),
            Direction::Write(value) if lane == 0 => {
                self.write(register, value as u16 & width.mask() as u16);
                0
            }
            Direction::Write(_) => 0,
        };
        self.publish();
        Ok(value)
    }

    /// The level of the interrupt line.
    pub fn line(&self) -> bool {
        self.raw_interrupts & self.interrupt_mask != 0
    }

    /// A character arrives. Whether there was room; if not, it is lost and the overrun is shown.
    pub fn receive(&mut self, byte: u8) -> bool {
        if !self.receive.push(byte) {
            self.receive_status |= RSR_OE;
            self.raw_interrupts |= INT_OE;
            self.publish();
            return false;
        }
        self.raw_interrupts |= INT_RT;
        if self.receive.len() >= self.receive_trigger() {
            self.raw_interrupts |= INT_RX;
        }
        self.publish();
        true
    }

    /// Sends characters that the guest did not write to the data register; how many there was room for.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let sent = bytes.iter().take_while(|byte| self.transmit.push(**byte)).count();
        if let Some(last) = bytes.get(..sent).and_then(|sent| sent.last()) {
            self.inside_line = *last != b'\n';
        }
        self.publish();
        sent
    }

    /// Takes the oldest character that the guest sent.
    pub fn take(&mut self) -> Option<u8> {
        let byte = self.transmit.pop()?;
        if self.transmit.is_empty() {
            self.publish();
        }
        if self.transmit.len() == self.transmit_trigger() {
            self.raw_interrupts |= INT_TX;
        }
        Some(byte)
    }

    /// Whether anything that the guest sent waits to be taken.
    pub fn has_output(&self) -> bool {
        !self.transmit.is_empty()
    }

    fn transmit_trigger(&self) -> usize {
        self.transmit.capacity() / 2
    }

    fn receive_trigger(&self) -> usize {
        if self.line_control & LCR_FEN == 0 {
            return 1;
        }
        match self.trigger_levels >> 3 & 7 {
            0 => FIFO_DEPTH / 8,
            1 => FIFO_DEPTH / 4,
            2 => FIFO_DEPTH / 2,
            3 => FIFO_DEPTH * 3 / 4,
            _ => FIFO_DEPTH * 7 / 8,
        }
    }

    fn flags(&self) -> u16 {
        let when = |condition: bool, flag: u16| if condition { flag } else { 0 };
        FR_CTS
            | FR_DSR
            | FR_DCD
            | when(!self.transmit.is_empty(), FR_BUSY)
            | when(self.transmit.is_empty(), FR_TXFE)
            | when(self.transmit.is_full(), FR_TXFF)
            | when(self.receive.is_empty(), FR_RXFE)
            | when(self.receive.is_full(), FR_RXFF)
    }

    fn read(&mut self, register: u64) -> u16 {
        match register {
            DR => self.read_character(),
            RSR_ECR => self.receive_status,
            FR => self.flags(),
            ILPR => self.low_power,
            IBRD => self.integer_baud,
            FBRD => self.fractional_baud,
            LCR_H => self.line_control,
            CR => self.control,
            IFLS => self.trigger_levels,
            IMSC => self.interrupt_mask,
            RIS => self.raw_interrupts,
            MIS => self.raw_interrupts & self.interrupt_mask,
            DMACR => self.dma_control,
            PERIPH_ID0.. => primecell::identification(IDENTIFICATION, register).into(),
            _ => 0,
        }
    }

    fn write(&mut self, register: u64, value: u16) {
        match register {
            DR => self.send(value as u8),
            RSR_ECR => self.receive_status = 0,
            ILPR => self.low_power = value & 0xff,
            IBRD => self.integer_baud = value,
            FBRD => self.fractional_baud = value & 0x3f,
            LCR_H => self.line_control = value & 0xff,
            CR => self.control = value,
            IFLS => self.trigger_levels = value & 0x3f,
            IMSC => self.interrupt_mask = value & INT_ALL,
            ICR => {
                self.raw_interrupts &= !value;
                if !self.receive.is_empty() {
                    self.raw_interrupts |= INT_RT;
                }
            }
            DMACR => self.dma_control = value & 0b111,
            _ => {}
        }
    }

    fn read_character(&mut self) -> u16 {
        let byte = self.receive.pop().unwrap_or(0);
        if self.receive.len() < self.receive_trigger() {
            self.raw_interrupts &= !INT_RX;
        }
        if self.receive.is_empty() {
            self.raw_interrupts &= !INT_RT;
        }
        u16::from(byte)
    }

    fn send(&mut self, byte: u8) {
        if self.control & CR_LBE != 0 {
            self.receive(byte);
            self.raw_interrupts |= INT_TX;
            return;
        }
        // A character for a full FIFO is lost, as in hardware.
        if self.transmit.push(byte) {
            self.inside_line = byte != b'\n';
        }
        if self.transmit.len() <= self.transmit_trigger() {
            self.raw_interrupts |= INT_TX;
        } else {
            self.raw_interrupts &= !INT_TX;
        }
    }
}
