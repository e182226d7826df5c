//! Drivers of serial ports on models that check every access: register, width, direction, reserved bits, order.

#[path = "support/model.rs"]
mod model;

use model::Access::{Read, Write};
use model::{Access, Model, View};
use portunus::console::SerialPort;
use portunus_serial::{Cadence, Pl011, Scif};

/// What differs between the ports of these tests.
struct Port {
    name: &'static str,
    rules: &'static str,
    open: fn(View) -> Box<dyn SerialPort>,
    /// The accesses that take the port.
    opened: &'static [Access],
    /// The register that tells of the FIFOs: where; with nothing received, with a byte received, with no room.
    status: (usize, [u32; 3]),
    /// Where bytes are taken, and where they are sent.
    fifos: [usize; 2],
    /// The accesses that choose interrupts: none, of receiving, of both.
    interrupts: [&'static [Access]; 3],
    cleared: &'static [Access],
}

const PORTS: [Port; 3] = [
    Port {
        name: "PL011",
        rules: include_str!("../registers/pl011.md"),
        open: |registers| Box::new(Pl011::open(registers)),
        opened: &[Write(0x38, 0), Write(0x2c, 0x70), Write(0x30, 0x301)],
        status: (0x18, [1 << 4, 0, 1 << 5]),
        fifos: [0, 0],
        interrupts: [&[Write(0x38, 0)], &[Write(0x38, 0x50)], &[Write(0x38, 0x70)]],
        cleared: &[Write(0x44, 0x70)],
    },
    Port {
        name: "Cadence UART",
        rules: include_str!("../registers/cadence.md"),
        open: |registers| Box::new(Cadence::open(registers)),
        opened: &[Write(0x0c, 0x1fff), Write(0x00, 0x14), Write(0x20, 1)],
        status: (0x2c, [1 << 1, 0, 1 << 4]),
        fifos: [0x30, 0x30],
        interrupts: [
            &[Write(0x0c, 1), Write(0x0c, 8)],
            &[Write(0x08, 1), Write(0x0c, 8)],
            &[Write(0x08, 1), Write(0x08, 8)],
        ],
        cleared: &[Write(0x14, 0x1fff)],
    },
    Port {
        name: "SCIF",
        rules: include_str!("../../rcar-h3/registers.md"),
        open: |registers| Box::new(Scif::open(registers)),
        opened: &[Write(0x18, 0), Read(0x08), Write(0x08, 0x30)],
        status: (0x1c, [0, 1, 16 << 8]),
        fifos: [0x14, 0x0c],
        interrupts: [
            &[Read(0x08), Write(0x08, 0x30)],
            &[Read(0x08), Write(0x08, 0x70)],
            &[Read(0x08), Write(0x08, 0xf0)],
        ],
        cleared: &[Read(0x10), Write(0x10, 0), Read(0x24)],
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
        let (status, [.., full]) = port.status;
        let [_, fifo] = port.fifos;
        assert!(driver.try_send(b'A'), "{}", port.name);
        assert_eq!(model.accesses(), [Read(status), Write(fifo, 0x41)], "{}", port.name);
        model.set(status, full);
        assert!(!driver.try_send(b'B'), "{}", port.name);
        assert_eq!(model.accesses(), [Read(status)], "{}", port.name);
    });
}

#[test]
fn a_byte_is_taken_only_where_one_was_received() {
    each(|port, model, driver| {
        let (status, [empty, received, _]) = port.status;
        let [fifo, _] = port.fifos;
        model.set(status, empty);
        assert_eq!(driver.try_receive(), None, "{}", port.name);
        assert_eq!(model.accesses(), [Read(status)], "{}", port.name);
        model.set(status, received);
        // A driver takes the byte, whatever the port says of the line beside it.
        model.set(fifo, 0xf41);
        assert_eq!(driver.try_receive(), Some(b'A'), "{}", port.name);
        assert_eq!(model.accesses(), [Read(status), Read(fifo)], "{}", port.name);
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
        assert_eq!(model.accesses(), port.cleared, "{}", port.name);
    });
}

#[test]
fn a_scif_loses_no_flag_that_it_has_not_seen_and_recovers_from_an_overrun() {
    let model: &'static Model = Box::leak(Box::new(Model::new(include_str!("../../rcar-h3/registers.md"))));
    let driver = Scif::open(View(model));
    model.accesses();
    // RDF, TDFE, TEND and counts of errors; the line's overrun.
    model.set(0x10, 0x1162);
    model.set(0x24, 1);
    driver.clear_interrupts();
    assert_eq!(
        model.accesses(),
        [Read(0x10), Write(0x10, 0x1140), Read(0x24), Write(0x24, 0)]
    );
    // What firmware chose as the clock stays.
    model.set(0x08, 0x3a);
    driver.set_interrupts(true, false);
    assert_eq!(model.accesses(), [Read(0x08), Write(0x08, 0x72)]);
}

#[test]
#[should_panic(expected = "sets reserved bits")]
fn a_model_notices_reserved_bits() {
    let model = Model::new(PORTS[0].rules);
    portunus::registers::DeviceRegisters::write_u32(&View(Box::leak(Box::new(model))), 0x30, 1 << 4);
}
