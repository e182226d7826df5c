//! Cadence UART, as in Xilinx Zynq and Zynq UltraScale+ (UG1085, chapter "UART Controllers"; UG1087, module UART).

use portunus::console::SerialPort;
use portunus::registers::DeviceRegisters;
use tock_registers::{LocalRegisterCopy, register_bitfields};

const CONTROL: usize = 0x00;
const INTERRUPT_ENABLE: usize = 0x08;
const INTERRUPT_DISABLE: usize = 0x0c;
const INTERRUPT_STATUS: usize = 0x14;
const RECEIVER_TRIGGER: usize = 0x20;
const CHANNEL_STATUS: usize = 0x2c;
const FIFO: usize = 0x30;

register_bitfields![u32,
    Control [
        RXRES OFFSET(0) NUMBITS(1), TXRES OFFSET(1) NUMBITS(1), RXEN OFFSET(2) NUMBITS(1), RXDIS OFFSET(3) NUMBITS(1),
        TXEN OFFSET(4) NUMBITS(1), TXDIS OFFSET(5) NUMBITS(1)
    ],
    /// The same bits enable, disable, tell of and acknowledge interrupts.
    Interrupts [RTRIG OFFSET(0) NUMBITS(1), TEMPTY OFFSET(3) NUMBITS(1), ALL OFFSET(0) NUMBITS(13)],
    Status [REMPTY OFFSET(1) NUMBITS(1), TFUL OFFSET(4) NUMBITS(1)],
];

/// The driver.
#[derive(Debug)]
pub struct Cadence<R>(R);

impl<R: DeviceRegisters> Cadence<R> {
    /// What device trees call it.
    pub const COMPATIBLE: &'static [&'static str] = &["cdns,uart-r1p12", "cdns,uart-r1p8", "xlnx,xuartps"];

    /// Takes the port and enables both directions, without interrupts; each received byte can raise one later.
    pub fn open(registers: R) -> Self {
        registers.write_u32(INTERRUPT_DISABLE, Interrupts::ALL::SET.into());
        registers.write_u32(CONTROL, (Control::RXEN::SET + Control::TXEN::SET).into());
        registers.write_u32(RECEIVER_TRIGGER, 1);
        Self(registers)
    }

    fn status(&self) -> LocalRegisterCopy<u32, Status::Register> {
        LocalRegisterCopy::new(self.0.read_u32(CHANNEL_STATUS))
    }
}

impl<R: DeviceRegisters + Sync> SerialPort for Cadence<R> {
    fn try_send(&self, byte: u8) -> bool {
        let room = !self.status().is_set(Status::TFUL);
        if room {
            self.0.write_u32(FIFO, u32::from(byte));
        }
        room
    }

    fn try_receive(&self) -> Option<u8> {
        (!self.status().is_set(Status::REMPTY)).then(|| self.0.read_u32(FIFO) as u8)
    }

    fn set_interrupts(&self, receive: bool, transmit: bool) {
        for (bit, wanted) in [(Interrupts::RTRIG::SET, receive), (Interrupts::TEMPTY::SET, transmit)] {
            let register = if wanted { INTERRUPT_ENABLE } else { INTERRUPT_DISABLE };
            self.0.write_u32(register, bit.into());
        }
    }

    fn clear_interrupts(&self) {
        self.0.write_u32(INTERRUPT_STATUS, Interrupts::ALL::SET.into());
    }
}
