//! Arm PrimeCell UART (PL011, DDI 0183): polled transmission, receive and transmit interrupts.
//!
//! The line's speed is the firmware's business. No function waits.

use crate::console::SerialPort;
use core::sync::atomic::{AtomicUsize, Ordering};

const DR: usize = 0x00;
const FR: usize = 0x18;
const LCR_H: usize = 0x2c;
const CR: usize = 0x30;
const IMSC: usize = 0x38;
const ICR: usize = 0x44;

const FR_RXFE: u32 = 1 << 4;
const FR_TXFF: u32 = 1 << 5;
const LCR_H_FEN: u32 = 1 << 4;
const LCR_H_8_BITS: u32 = 3 << 5;
const CR_UARTEN: u32 = 1;
const CR_TXE: u32 = 1 << 8;
const CR_RXE: u32 = 1 << 9;
const INTERRUPT_RX: u32 = 1 << 4;
const INTERRUPT_TX: u32 = 1 << 5;
const INTERRUPT_RT: u32 = 1 << 6;

/// The driver of the machine's console.
#[derive(Debug)]
pub struct Pl011 {
    base: AtomicUsize,
}

static PORT: Pl011 = Pl011 {
    base: AtomicUsize::new(0),
};

impl Pl011 {
    /// Takes the port whose registers are at `base`, which the device tree names, and enables both directions.
    pub fn open(base: usize) -> &'static dyn SerialPort {
        PORT.base.store(base, Ordering::Relaxed);
        PORT.write(IMSC, 0);
        PORT.write(LCR_H, LCR_H_FEN | LCR_H_8_BITS);
        PORT.write(CR, CR_UARTEN | CR_TXE | CR_RXE);
        &PORT
    }

    fn read(&self, offset: usize) -> u32 {
        let register = (self.base.load(Ordering::Relaxed) + offset) as *const u32;
        // SAFETY: `open` was given the port's registers, mapped as Device memory for the hypervisor's life.
        unsafe { register.read_volatile() }
    }

    fn write(&self, offset: usize, value: u32) {
        let register = (self.base.load(Ordering::Relaxed) + offset) as *mut u32;
        // SAFETY: as `read`.
        unsafe { register.write_volatile(value) }
    }
}

impl SerialPort for Pl011 {
    fn try_send(&self, byte: u8) -> bool {
        let room = self.read(FR) & FR_TXFF == 0;
        if room {
            self.write(DR, u32::from(byte));
        }
        room
    }

    fn try_receive(&self) -> Option<u8> {
        (self.read(FR) & FR_RXFE == 0).then(|| (self.read(DR) & 0xff) as u8)
    }

    fn set_interrupts(&self, receive: bool, transmit: bool) {
        let receive = if receive { INTERRUPT_RX | INTERRUPT_RT } else { 0 };
        let transmit = if transmit { INTERRUPT_TX } else { 0 };
        self.write(IMSC, receive | transmit);
    }

    fn clear_interrupts(&self) {
        self.write(ICR, INTERRUPT_RX | INTERRUPT_RT | INTERRUPT_TX);
    }
}
