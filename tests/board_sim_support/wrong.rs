//! What is wrong in a device tree, or unusual, and what is said or done then.

use dtoolkit::model::DeviceTree;
use portunus::manifest::discovery::{Console, Discovery};
use portunus::manifest::{Host, Tree};
use portunus::range::PaRange;

use crate::board::{BLOB, SCIF2, add, changed, drivers, host, trees};

#[test]
fn banks_that_a_loader_repeats_are_one_and_banks_that_cross_are_refused() {
    let all = |tree: &mut DeviceTree, cells: &str| {
        tree.root.remove_child("memory@48000000");
        add(
            tree,
            "/",
            &format!("memory@48000000 {{ device_type = \"memory\"; reg = <{cells}>; }};"),
        );
    };
    for (name, blob) in trees() {
        // U-Boot writes every bank into the first node and leaves the others as they are.
        let repeated = "0 0x48000000 0 0x38000000 5 0 0 0x40000000 6 0 0 0x40000000 7 0 0 0x40000000";
        let repeated = changed(&blob, |tree| all(tree, repeated));
        assert_eq!(host(&repeated).memory, host(&blob).memory, "{name}");
        let crossing = changed(&blob, |tree| {
            all(tree, "0 0x48000000 0 0x38000000 4 0xf0000000 0 0x20000000")
        });
        let error = Host::parse(&Tree::new(&crossing).expect("a tree")).expect_err(&name);
        assert!(error.to_string().contains("reg: takes 0x"), "{name}: {error}");
        let onto = changed(&blob, |tree| {
            all(tree, "0 0x48000000 0 0x38000000 0 0xf0000000 0 0x2000000")
        });
        let place = PaRange::new(BLOB, 0x1_0000);
        let error = Discovery::new(&host(&onto), &drivers(), SCIF2, place).expect_err(&name);
        assert_eq!(
            error.to_string(),
            "/: memory: takes 0xf0000000..0xf2000000, which belongs to the device at 0xf1010000..0xf1011000",
            "{name}"
        );
    }
}

/// Names of drivers; number and address of the console that is found with them.
type DriversAndConsole<'a> = (&'a [&'a [&'a str]], Option<(usize, u64)>);

#[test]
fn a_console_without_a_driver_leaves_the_boards_own() {
    for (name, blob) in trees() {
        let mut host = host(&blob);
        let [scif, pl011, cadence] = drivers();
        let rows: [DriversAndConsole<'_>; 4] = [
            (&[scif], Some((0, SCIF2))),
            (&[pl011, scif], Some((1, SCIF2))),
            (&[pl011, cadence], Some((0, 0xe6e6_8000))),
            (&[], None),
        ];
        for (drivers, expected) in rows {
            let found = Console::best(host.uart.as_ref(), drivers, 0xe6e6_8000);
            let found = found.map(|console| (console.driver, console.registers));
            assert_eq!(found, expected, "{name}: {drivers:?}");
        }
        host.uart = None;
        let own = Console::best(None, &[scif], SCIF2).expect("the board's own");
        assert_eq!((own.driver, own.page()), (0, PaRange::new(SCIF2, 0x1000)), "{name}");
    }
}
