//! Arm PrimeCell UART (PL011, DDI 0183).

use portunus::console::SerialPort;
use portunus::registers::DeviceRegisters;
use tock_registers::{LocalRegisterCopy, register_bitfields};

const DR: usize = 0x00;
const FR: usize = 0x18;
const LCR_H: usize = 0x2c;
const CR: usize = 0x30;
const IMSC: usize = 0x38;
const ICR: usize = 0x44;

register_bitfields![u32,
    Flags [RXFE OFFSET(4) NUMBITS(1), TXFF OFFSET(5) NUMBITS(1)],
    LineControl [FEN OFFSET(4) NUMBITS(1) [], WLEN OFFSET(5) NUMBITS(2) [Eight = 3]],
    Control [UARTEN OFFSET(0) NUMBITS(1), TXE OFFSET(8) NUMBITS(1), RXE OFFSET(9) NUMBITS(1)],
    Interrupts [RX OFFSET(4) NUMBITS(1), TX OFFSET(5) NUMBITS(1), RT OFFSET(6) NUMBITS(1)],
];

/// The driver.
#[derive(Debug)]
pub struct Pl011<R>(R);

impl<R: DeviceRegisters> Pl011<R> {
    /// What device trees call it.
    pub const COMPATIBLE: &'static [&'static str] = &["arm,pl011"];

    /// Takes the port and enables both directions, without interrupts.
    pub fn open(registers: R) -> Self {
        registers.write_u32(IMSC, 0);
        registers.write_u32(LCR_H, (LineControl::FEN::SET + LineControl::WLEN::Eight).into());
        let on = Control::UARTEN::SET + Control::TXE::SET + Control::RXE::SET;
        registers.write_u32(CR, on.into());
        Self(registers)
    }

    fn flags(&self) -> LocalRegisterCopy<u32, Flags::Register> {
        LocalRegisterCopy::new(self.0.read_u32(FR))
    }
}

impl<R: DeviceRegisters + Sync> SerialPort for Pl011<R> {
    fn try_send(&self, byte: u8) -> bool {
        let room = !self.flags().is_set(Flags::TXFF);
        if room {
            self.0.write_u32(DR, u32::from(byte));
        }
        room
    }

    fn try_receive(&self) -> Option<u8> {
        // Bits above the byte tell of errors on the line.
        (!self.flags().is_set(Flags::RXFE)).then(|| self.0.read_u32(DR) as u8)
    }

    fn set_interrupts(&self, receive: bool, transmit: bool) {
        let (receive, transmit) = (u32::from(receive), u32::from(transmit));
        let wanted = Interrupts::RX.val(receive) + Interrupts::RT.val(receive) + Interrupts::TX.val(transmit);
        self.0.write_u32(IMSC, wanted.into());
    }

    fn clear_interrupts(&self) {
        let all = Interrupts::RX::SET + Interrupts::RT::SET + Interrupts::TX::SET;
        self.0.write_u32(ICR, all.into());
    }
}
