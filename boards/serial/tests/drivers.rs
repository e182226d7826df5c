//! Drivers of serial ports on models that check every access: register, width, direction, reserved bits, order.

#[path = "support/model.rs"]
mod model;

use model::Access::{Read, Write};
use model::{Access, Model, View};
use portunus::console::SerialPort;
use portunus_serial::{Cadence, Pl011};

/// What differs between the ports of these tests.
struct Port {
    name: &'static str,
    rules: &'static str,
    open: fn(View) -> Box<dyn SerialPort>,
    /// The accesses that take the port.
    opened: &'static [Access],
    /// The register that tells of the FIFOs: where, with nothing received, with no room.
    status: (usize, u32, u32),
    fifo: usize,
    /// The accesses that choose interrupts: none, of receiving, of both.
    interrupts: [&'static [Access]; 3],
    cleared: Access,
}

const PORTS: [Port; 2] = [
    Port {
        name: "PL011",
        rules: include_str!("../registers/pl011.md"),
        open: |registers| Box::new(Pl011::open(registers)),
        opened: &[Write(0x38, 0), Write(0x2c, 0x70), Write(0x30, 0x301)],
        status: (0x18, 1 << 4, 1 << 5),
        fifo: 0,
        interrupts: [&[Write(0x38, 0)], &[Write(0x38, 0x50)], &[Write(0x38, 0x70)]],
        cleared: Write(0x44, 0x70),
    },
    Port {
        name: "Cadence UART",
        rules: include_str!("../registers/cadence.md"),
        open: |registers| Box::new(Cadence::open(registers)),
        opened: &[Write(0x0c, 0x1fff), Write(0x00, 0x14), Write(0x20, 1)],
        status: (0x2c, 1 << 1, 1 << 4),
        fifo: 0x30,
        interrupts: [
            &[Write(0x0c, 1), Write(0x0c, 8)],
            &[Write(0x08, 1), Write(0x0c, 8)],
            &[Write(0x08, 1), Write(0x08, 8)],
        ],
        cleared: Write(0x14, 0x1fff),
    },
];

/// Calls `test` with each port, opened.
fn each(test: impl Fn(&Port, &'static Model, Box<dyn SerialPort>)) {
    for port in &PORTS {
        let model: &'static Model = Box::leak(Box::new(Model::new(port.rules)));
        let driver = (port.open)(View(model));
        assert_eq!(model.accesses(), port.opened, "{}", port.name);
        test(port, model, driver);
    }
}

#[test]
fn a_byte_is_sent_only_where_there_is_room() {
    each(|port, model, driver| {
        let (status, _, full) = port.status;
        assert!(driver.try_send(b'A'), "{}", port.name);
        assert_eq!(
            model.accesses(),
            [Read(status), Write(port.fifo, 0x41)],
            "{}",
            port.name
        );
        model.set(status, full);
        assert!(!driver.try_send(b'B'), "{}", port.name);
        assert_eq!(model.accesses(), [Read(status)], "{}", port.name);
    });
}

#[test]
fn a_byte_is_taken_only_where_one_was_received() {
    each(|port, model, driver| {
        let (status, empty, _) = port.status;
        model.set(status, empty);
        assert_eq!(driver.try_receive(), None, "{}", port.name);
        assert_eq!(model.accesses(), [Read(status)], "{}", port.name);
        model.set(status, 0);
        // A driver takes the byte, whatever the port says of the line beside it.
        model.set(port.fifo, 0xf41);
        assert_eq!(driver.try_receive(), Some(b'A'), "{}", port.name);
        assert_eq!(model.accesses(), [Read(status), Read(port.fifo)], "{}", port.name);
    });
}

#[test]
fn interrupts_are_chosen_and_acknowledged() {
    each(|port, model, driver| {
        for (index, (receive, transmit)) in [(false, false), (true, false), (true, true)].into_iter().enumerate() {
            driver.set_interrupts(receive, transmit);
            assert_eq!(model.accesses(), port.interrupts[index], "{}", port.name);
        }
        driver.clear_interrupts();
        assert_eq!(model.accesses(), [port.cleared], "{}", port.name);
    });
}

#[test]
#[should_panic(expected = "sets reserved bits")]
fn a_model_notices_reserved_bits() {
    let model = Model::new(PORTS[0].rules);
    portunus::registers::DeviceRegisters::write_u32(&View(Box::leak(Box::new(model))), 0x30, 1 << 4);
}
