//! Renesas SCIF, as in R-Car SoCs. What is known of its registers, and from where: `boards/rcar-h3/registers.md`.

use portunus::console::SerialPort;
use portunus::registers::DeviceRegisters;
use tock_registers::{LocalRegisterCopy, register_bitfields};

const SCSCR: usize = 0x08;
const SCFTDR: usize = 0x0c;
const SCFSR: usize = 0x10;
const SCFRDR: usize = 0x14;
const SCFCR: usize = 0x18;
const SCFDR: usize = 0x1c;
const SCLSR: usize = 0x24;

/// Bytes that each FIFO holds.
const FIFO: u16 = 16;

register_bitfields![u16,
    /// SCSCR. Who clocks the unit (the lowest bits) is the firmware's choice.
    Control [
        CKE OFFSET(0) NUMBITS(2) [], RE OFFSET(4) NUMBITS(1) [], TE OFFSET(5) NUMBITS(1) [], RIE OFFSET(6) NUMBITS(1) [],
        TIE OFFSET(7) NUMBITS(1) []
    ],
    /// SCFSR: what has happened; a 0 clears what was read as 1.
    Status [
        DR OFFSET(0) NUMBITS(1) [], RDF OFFSET(1) NUMBITS(1) [], BRK OFFSET(4) NUMBITS(1) [], TDFE OFFSET(5) NUMBITS(1) [],
        ER OFFSET(7) NUMBITS(1) []
    ],
    /// SCFDR: bytes in the FIFOs.
    Filled [R OFFSET(0) NUMBITS(5) [], T OFFSET(8) NUMBITS(5) []],
    /// SCLSR.
    Line [ORER OFFSET(0) NUMBITS(1) []],
];

/// The driver.
#[derive(Debug)]
pub struct Scif<R>(R);

impl<R: DeviceRegisters> Scif<R> {
    /// What device trees call it.
    pub const COMPATIBLE: &'static [&'static str] = &["renesas,scif"];

    /// Takes the port and enables both directions, without interrupts; each received byte can raise one later.
    pub fn open(registers: R) -> Self {
        // Triggers of one byte received and of eight to send, and no flow control by modem lines.
        registers.write_u16(SCFCR, 0);
        let port = Self(registers);
        port.control(false, false);
        port
    }

    fn control(&self, receive: bool, transmit: bool) {
        let clock = LocalRegisterCopy::<u16, Control::Register>::new(self.0.read_u16(SCSCR)).read(Control::CKE);
        let on = Control::CKE.val(clock) + Control::RE::SET + Control::TE::SET;
        let interrupts = Control::RIE.val(receive.into()) + Control::TIE.val(transmit.into());
        self.0.write_u16(SCSCR, (on + interrupts).into());
    }

    fn filled(&self) -> LocalRegisterCopy<u16, Filled::Register> {
        LocalRegisterCopy::new(self.0.read_u16(SCFDR))
    }
}

impl<R: DeviceRegisters + Sync> SerialPort for Scif<R> {
    fn try_send(&self, byte: u8) -> bool {
        let room = self.filled().read(Filled::T) < FIFO;
        if room {
            self.0.write_u8(SCFTDR, byte);
        }
        room
    }

    fn try_receive(&self) -> Option<u8> {
        (self.filled().read(Filled::R) > 0).then(|| self.0.read_u8(SCFRDR))
    }

    fn set_interrupts(&self, receive: bool, transmit: bool) {
        self.control(receive, transmit);
    }

    /// While bytes wait, RDF comes back: then the next interrupt, after they were taken, clears it.
    fn clear_interrupts(&self) {
        let seen = self.0.read_u16(SCFSR);
        let flags = Status::DR::SET + Status::RDF::SET + Status::BRK::SET + Status::TDFE::SET + Status::ER::SET;
        let flags: u16 = flags.into();
        self.0.write_u16(SCFSR, seen & !flags);
        let line = LocalRegisterCopy::<u16, Line::Register>::new(self.0.read_u16(SCLSR));
        if line.is_set(Line::ORER) {
            self.0.write_u16(SCLSR, 0);
        }
    }
}
