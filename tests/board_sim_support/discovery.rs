//! What the board's device tree says, and what the board's code makes of it.

use portunus::ids::IntId;
use portunus::manifest::discovery::{self, Console, Interrupts};
use portunus::manifest::host::{Conduit, Gic, Psci};
use portunus::manifest::tree::{Interrupt, Trigger};
use portunus::manifest::{Manifest, Tree};
use portunus::range::PaRange;

use crate::board::{BLOB, CLUSTERS, GIB, MIB, SCIF2, add, changed, discover, host, trees};
use crate::domains::{DOMAINS, PARTIAL, Partial};
use crate::source;

#[test]
fn the_machine_is_what_the_tree_says() {
    for (name, blob) in trees() {
        let host = host(&blob);
        assert_eq!(
            host.memory,
            [
                PaRange::new(0x4800_0000, 896 * MIB),
                PaRange::new(0x5_0000_0000, GIB),
                PaRange::new(0x6_0000_0000, GIB),
                PaRange::new(0x7_0000_0000, GIB),
            ],
            "{name}"
        );
        let mpidrs: Vec<u64> = host.cpus.iter().map(|cpu| cpu.mpidr).collect();
        assert_eq!(mpidrs, CLUSTERS, "{name}");
        assert_eq!(
            host.psci,
            Some(Psci {
                conduit: Conduit::Smc,
                is_1_0: true
            }),
            "{name}"
        );
        let Gic::V2(gic) = &host.gic else {
            panic!("{name}: {:?}", host.gic)
        };
        let blocks = [
            gic.distributor,
            gic.cpu_interface,
            gic.hypervisor_interface,
            gic.virtual_cpu_interface,
        ];
        let expected = [
            (0xf101_0000, 0x1000),
            (0xf102_0000, 0x2_0000),
            (0xf104_0000, 0x2_0000),
            (0xf106_0000, 0x2_0000),
        ];
        assert_eq!(blocks, expected.map(|(at, size)| PaRange::new(at, size)), "{name}");
        let timer = [
            host.timer.secure_physical,
            host.timer.physical,
            host.timer.virtual_,
            host.timer.hypervisor,
        ];
        let low = |id| Interrupt {
            id: IntId(id),
            trigger: Trigger::LevelLow,
        };
        assert_eq!(timer, [29, 30, 27, 26].map(low), "{name}");
        assert_eq!(host.timer.frequency, None, "{name}: CNTFRQ_EL0 is the firmware's");
        let uart = host.uart.expect("a console");
        assert_eq!(uart.path, "/soc/serial@e6e88000", "{name}");
        assert_eq!(uart.registers, PaRange::new(SCIF2, 0x40), "{name}");
        assert_eq!(uart.interrupt.map(|interrupt| interrupt.id), Some(IntId(196)), "{name}");
        assert_eq!(uart.options, "115200n8", "{name}");
        let window = PaRange::new(0x3800_0000, 0x800_0000);
        assert!(host.devices.iter().any(|range| range.contains(window)), "{name}");
    }
}

#[test]
fn the_board_maps_its_console_its_controller_and_what_firmware_leaves() {
    for (name, blob) in trees() {
        let found = discover(&host(&blob));
        assert_eq!(found.conduit, Some(Conduit::Smc), "{name}");
        let console = Console {
            driver: 0,
            registers: SCIF2,
        };
        assert_eq!(found.console, Some(console), "{name}");
        let devices = [
            (0xf101_0000, 0x1000),
            (0xf102_0000, 0x2_0000),
            (0xf104_0000, 0x2_0000),
            (SCIF2, 0x1000),
        ];
        assert_eq!(
            found.devices,
            devices.map(|(at, size)| PaRange::new(at, size)),
            "{name}: GICV is the guests'"
        );
        assert_eq!(
            found.interrupts,
            Interrupts {
                hypervisor_timer: IntId(26),
                virtual_timer: IntId(27),
                maintenance: IntId(25),
                console: Some(IntId(196)),
            },
            "{name}"
        );
        let secure = PaRange::new(0x4000_0000, 0x800_0000);
        assert!(found.ram.iter().all(|part| !part.overlaps(secure)), "{name}");
        assert_eq!(found.ram[0], PaRange::new(BLOB, 0x1_3000), "{name}: the device tree");
        assert_eq!(found.ram.len(), 5, "{name}: {:?}", found.ram);
    }
}

#[test]
fn every_other_cpu_is_started_whichever_booted_and_affinities_mean_places_in_the_tree() {
    for (name, blob) in trees() {
        for boot in [0, 0x100] {
            let mut host = host(&blob);
            let mut started = Vec::new();
            discovery::start_others(&mut host.cpus, boot, |mpidr, pcpu| {
                let runs = mpidr != 2;
                started.push((mpidr, pcpu));
                runs
            });
            let others: Vec<u64> = CLUSTERS.into_iter().filter(|mpidr| *mpidr != boot).collect();
            assert_eq!(
                started.iter().map(|(mpidr, _)| *mpidr).collect::<Vec<_>>(),
                others,
                "{name}"
            );
            // Numbers have no gaps though CPU 2 does not start: whoever comes next is asked to run under the same one.
            let numbers: Vec<_> = host.cpus.iter().map(|cpu| cpu.pcpu.map(|pcpu| pcpu.0)).collect();
            let expected = match boot {
                0 => [Some(0), Some(1), None, Some(2), Some(3), Some(4), Some(5), Some(6)],
                _ => [Some(1), Some(2), None, Some(3), Some(0), Some(4), Some(5), Some(6)],
            };
            assert_eq!(numbers, expected, "{name}");
            for (list, found) in [
                ("4", Ok(vec![expected[4]])),
                ("0,2-3", Ok(vec![expected[0], expected[3]])),
                ("2", Err(())),
            ] {
                let vcpu = format!(
                    "cpus = <2>; vcpu0 {{ compatible = \"xen,vcpu\"; id = <0>; hard-affinity = \"{list}\"; }};"
                );
                let text = DOMAINS.replacen("cpus = <2>;", &vcpu, 1);
                let changed = changed(&blob, |tree| add(tree, "/chosen", &text));
                let modules = Partial(source::compile(PARTIAL));
                let parsed = Manifest::parse(&Tree::new(&changed).expect("a tree"), &host, &modules);
                match (parsed, found) {
                    (Ok(manifest), Ok(found)) => {
                        let affinity = manifest.domains[0].vcpus[0].expect("an affinity");
                        let mut found: Vec<_> = found.into_iter().flatten().collect();
                        found.sort_unstable();
                        assert_eq!(
                            affinity.iter().map(|pcpu| pcpu.0).collect::<Vec<_>>(),
                            found,
                            "{name}: {list}"
                        );
                    }
                    (Err(error), Err(())) => assert_eq!(
                        error.to_string(),
                        "/chosen/big/vcpu0: hard-affinity: names no CPU that runs: 2",
                        "{name}"
                    ),
                    (parsed, _) => panic!("{name}: {list}: {parsed:?}"),
                }
            }
        }
    }
}

#[test]
fn memory_that_firmware_keeps_inside_a_bank_is_not_mapped() {
    // As Renesas' firmware does for its buffers of compressed video, where it is told to keep some.
    let kept = "reserved-memory { #address-cells = <2>; #size-cells = <2>; ranges;
        lossy@54000000 { reg = <0 0x54000000 0 0x3000000>; no-map; };
        other@70000800 { reg = <0 0x70000800 0 0x800>; };
        pool { size = <0 0x1000000>; }; };";
    for (name, blob) in trees() {
        let blob = changed(&blob, |tree| {
            // Trees of other boards of the SoC may have such a node.
            tree.root.remove_child("reserved-memory");
            add(tree, "/", kept);
        });
        let found = discover(&host(&blob));
        assert_eq!(
            found.ram[1..],
            [
                PaRange::new(0x4800_0000, 0x0c00_0000),
                PaRange::new(0x5700_0000, 0x1900_0000),
                PaRange::new(0x7000_1000, 0x0fff_f000),
                PaRange::new(0x5_0000_0000, GIB),
                PaRange::new(0x6_0000_0000, GIB),
                PaRange::new(0x7_0000_0000, GIB),
            ],
            "{name}"
        );
    }
}
